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
    check("a draw that is not drawn", |_| {}, "generate --model model --prompt a --top-p 0.5 --device cpu");
    check(
        "double quantization of a base that is to be dense",
        |_| {},
        "generate --model model --prompt a --quantize none --double-quant false --device cpu",
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
