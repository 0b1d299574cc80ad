//! `generate`: prompts and sampling.

use serde_json::json;

use crate::{documented::check, finetune::finetune, place::Place};

#[test]
fn prompts_and_settings_are_refused_as_documented() {
    check(
        "a prompt longer than the model's positions",
        |place| place.edit("model/config.json", json!({ "max_position_embeddings": 4 })),
        "generate --model model --prompt a/b/a/b/a --device cpu",
    );
    check(
        "a negative temperature",
        |_| {},
        "generate --model model --prompt a --temperature -1 --device cpu",
    );
    check(
        "a chat template that a checkpoint lacks",
        |_| {},
        "generate --model model --prompt a --chat --template chat --device cpu",
    );
    check(
        "a template for plain text",
        |_| {},
        "generate --model model --prompt a --template chat --device cpu",
    );
    check("a draw that is not drawn", |_| {}, "generate --model model --prompt a --top-p 0.5 --device cpu");
    check(
        "double quantization of a base that is to be dense",
        |_| {},
        "generate --model model --prompt a --quantize none --double-quant false --device cpu",
    );
}

/// A checkpoint's own template, in words that the place's tokenizer has.
const CHAT: &str = "{% for m in messages %}{% if m.role == 'user' %}[ {{ m.content }} /{% else %} \
                    {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";

#[test]
fn what_was_trained_in_a_checkpoints_own_template_answers_in_it() {
    let place = Place::new();
    place.write("model/chat_template.jinja", CHAT);
    let train = "--learning-rate 1e-2 --rank 8 --target-modules all-linear --max-steps 30";
    let chat = place.succeed(&finetune(&format!("{train} --template chat")));
    let study = place.succeed(&finetune("--output study"));
    assert_eq!(chat["template"]["name"], "the checkpoint's own chat template");
    assert_eq!(study["template"]["name"], "the study's, instruction-v1");
    // BOS, `[ add one N /`, and what is learnt: `a b` and EOS.
    let tokens = |summary: &serde_json::Value| summary["data"][0]["tokens"].as_u64();
    assert_eq!(tokens(&chat), Some(20 * 9));
    assert!(tokens(&study) > tokens(&chat), "{study}");
    let answer = |template: &str| {
        let line = "generate --model model --adapter out --chat --prompt add --max-new-tokens 5 --device cpu";
        place.succeed(&format!("{line} --template {template}"))["continuations"].clone()
    };
    let learnt = json!([{ "text": " a b", "tokens": 2, "ended": true }]);
    assert_eq!(answer("chat"), learnt);
    assert_ne!(answer("study"), learnt, "another template is another question");
    check(
        "resuming in another template",
        |place| {
            place.write("model/chat_template.jinja", CHAT);
            place.succeed(&finetune("--template chat"));
        },
        &finetune("--resume"),
    );
}

#[test]
fn of_several_adapters_the_active_one_acts_as_it_would_alone() {
    let place = Place::new();
    place.succeed(&finetune("--learning-rate 1 --output run/out"));
    let generate = |more: &str| {
        place.succeed(&format!("generate --model model --prompt add --max-new-tokens 12 --device cpu {more}"))
    };
    let several = "--adapter given=adapter --adapter trained=run/out --active";
    let texts: Vec<_> = [("given", "adapter"), ("trained", "run/out")]
        .map(|(name, folder)| {
            let (alone, among) =
                (generate(&format!("--adapter {folder}")), generate(&format!("{several} {name}")));
            assert_eq!((&among["text"], &among["adapter"]), (&alone["text"], &json!(name)));
            assert_eq!(alone["adapter"], folder);
            alone["text"].clone()
        })
        .into();
    assert!(texts[0] != texts[1] && !texts.contains(&generate("")["text"]), "{texts:?}");
    assert_eq!(generate("--adapter run/out --active run/out")["text"], texts[1], "a folder is a name too");
    // Folders in a file are relative to it.
    place
        .write("run/flags.toml", "adapter = { given = '../adapter', trained = 'out' }\nactive = 'trained'\n");
    assert_eq!(generate("--config run/flags.toml")["text"], texts[1]);
}

#[test]
fn which_of_several_adapters_acts_must_be_said() {
    let line = "generate --model model --prompt add --device cpu";
    check(
        "several adapters and no word which acts",
        |_| {},
        &format!("{line} --adapter first=adapter --adapter adapter"),
    );
    check(
        "an adapter that is to act and is not given",
        |_| {},
        &format!("{line} --adapter first=adapter --adapter second=adapter --active third"),
    );
    check(
        "several adapters of which one has no name",
        |_| {},
        &format!("{line} --adapter first=adapter --adapter adapter --active first"),
    );
}
