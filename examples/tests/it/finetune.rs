//! `finetune`: data, settings, and folders that hold a run.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    documented::check,
    place::{Place, copy},
};

pub(crate) const FINETUNE: &str = "finetune --model model --data data.json --output out --rank 2 --max-steps 2 --max-seq-length 64 --device cpu";

/// [`FINETUNE`] with more flags; of a flag given twice clap complains, so these replace.
pub(crate) fn finetune(more: &str) -> String {
    let mut line = FINETUNE.to_owned();
    for flag in more.split(" --").map(|flag| flag.trim_start_matches("--")) {
        let (name, _) = flag.split_once(' ').unwrap_or((flag, ""));
        if let Some(start) = line.find(&format!("--{name} ")) {
            let rest = &line[start + 2..];
            let end = rest.find(" --").map_or(line.len(), |end| start + 2 + end);
            line.replace_range(start..end, "");
        }
        line.push_str(&format!(" --{flag}"));
    }
    line
}

#[test]
fn flags_in_a_file_are_the_same_flags() {
    let place = Place::new();
    place.write("run/flags.toml", "model = '../model'\ndata = ['../data.json']\noutput = 'out'\nrank = 3\nmax-steps = 1\nmax-seq-length = 64\nuse-rslora = true\nquantize = 'nf4'\ndouble-quant = false\n");
    place.succeed("finetune --config run/flags.toml --rank 2 --device cpu");
    let config = fs::read(place.path("run/out/adapter_config.json")).expect("an adapter beside the file");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!((&config["r"], &config["use_rslora"]), (&json!(2), &json!(true)), "the command line wins");
}

#[test]
fn a_word_of_yes_or_no_may_stand_alone_in_a_line_and_is_one_in_a_file() {
    let place = Place::new();
    let bytes = |line: &str| place.succeed(line)["bytes_after"].as_u64().expect("bytes");
    let plain = bytes("quantize --model model --output plain --double-quant false");
    let nested = bytes("quantize --model model --double-quant --output alone");
    assert_ne!(nested, plain);
    assert_eq!(bytes("quantize --model model --output usual"), nested, "as everywhere else");
    place.write("flags.toml", "double-quant = true\n");
    assert_eq!(bytes("quantize --model model --config flags.toml --output file"), nested);
}

#[test]
fn bad_data_is_refused_as_documented() {
    check("a missing data file", |_| {}, &finetune("--data none.json"));
    check("an empty data file", |place| place.write("data.json", ""), FINETUNE);
    check("a data file without records", |place| place.json("data.json", &json!([])), FINETUNE);
    check("a data file of another kind", |_| {}, &finetune("--data model/config.json"));
    check(
        "a data file whose name says nothing",
        |place| place.write("data.txt", "a"),
        &finetune("--data data.txt"),
    );
    check(
        "a bad line in a JSONL file with `--strict`",
        |place| {
            let good = r#"{"instruction": "add one", "output": "b"}"#;
            place.write("data.jsonl", format!("{good}\n{{\"instruction\": \n{good}\n"));
        },
        &finetune("--data data.jsonl --strict"),
    );
    check(
        "only bad records",
        |place| place.json("data.json", &json!([{ "instruction": "add one", "output": "" }])),
        FINETUNE,
    );
    check("records that truncation empties", |_| {}, &finetune("--max-seq-length 8"));
}

#[test]
fn a_first_loss_that_is_no_number_leaves_nothing_in_the_way_of_the_next_try() {
    check("a first loss that is no number", |place| place.fill_row("lm_head.weight", "b", 3e38), FINETUNE);
}

#[test]
fn bad_settings_are_refused_as_documented() {
    check("a learning rate that is not a number", |_| {}, &finetune("--learning-rate NaN"));
    check("a rank of 0", |_| {}, &finetune("--rank 0"));
    check("a dropout above 1", |_| {}, &finetune("--dropout 1.5"));
    check("a chat template that a checkpoint lacks", |_| {}, &finetune("--template chat"));
    check("a batch size of 0", |_| {}, &finetune("--batch-size 0"));
    check("an evaluation fraction of 1", |_| {}, &finetune("--eval-fraction 1"));
    check("a target that matches nothing", |_| {}, &finetune("--target-modules q_prj"));
    check("an unknown flag", |_| {}, &finetune("--lora-rank 8"));
    check(
        "a block size that the 4-bit format does not have",
        |_| {},
        &finetune("--quantize nf4 --block-size 48"),
    );
    check("a block size for a base that is not quantized", |_| {}, &finetune("--block-size 32"));
    check("a module that is to be saved and adapted", |_| {}, &finetune("--modules-to-save q_proj"));
    check(
        "a module that is targeted and excluded",
        |_| {},
        &finetune("--target-modules q_proj,v_proj --exclude-modules v_proj"),
    );
    check("a memory limit that the run does not fit into", |_| {}, &finetune("--memory-limit 1MB"));
    check("an amount of memory in no unit", |_| {}, &finetune("--memory-limit 24gallons"));
    check("a word that a flag does not know", |_| {}, &finetune("--scheduler step"));
    check(
        "a wrong type in the file of flags",
        |place| place.write("flags.toml", "strict = 'yes'\n"),
        "finetune --config flags.toml",
    );
    check(
        "a file of flags that is not TOML",
        |place| place.write("flags.toml", "rank 8\n"),
        "finetune --config flags.toml",
    );
    check("`--resume` with `--force`", |_| {}, &finetune("--resume --force"));
}

#[test]
fn outputs_are_never_overwritten_or_half_written() {
    check("a run in the output folder", |place| drop(place.succeed(FINETUNE)), FINETUNE);
    check(
        "a further training into its own adapter",
        |_| {},
        "finetune --model model --data data.json --adapter adapter --output adapter --force --device cpu",
    );
    check(
        "an output folder that cannot be made",
        |place| place.write("file", ""),
        &finetune("--output file/out"),
    );
    check(
        "resuming where there is an adapter and no checkpoint",
        |_| {},
        &finetune("--output adapter --resume"),
    );
    check(
        "resuming with another setting",
        |place| drop(place.succeed(FINETUNE)),
        &finetune("--resume --learning-rate 1e-3"),
    );
    check(
        "resuming with another adapter",
        |place| drop(place.succeed(FINETUNE)),
        &finetune("--resume --rank 4"),
    );
    check(
        "resuming on other data",
        |place| {
            place.succeed(FINETUNE);
            place.json(
                "data.json",
                &(0..20).map(|_| json!({ "instruction": "add", "output": "b" })).collect(),
            );
        },
        &finetune("--resume"),
    );
}

#[test]
fn force_replaces_a_run_and_keeps_what_is_not_its_own() {
    let place = Place::new();
    place.succeed(FINETUNE);
    place.write("out/notes.txt", "mine");
    place.write("out/log.jsonl", "not a log of ours\n");
    let summary = place.succeed(&finetune("--force --max-steps 1"));
    assert_eq!(summary["steps"], 1);
    assert!(place.path("out/notes.txt").is_file() && !place.path("out/checkpoint-2").exists());
    let log = fs::read_to_string(place.path("out/log.jsonl")).expect("a log");
    assert!(!log.contains("\"step\":2"), "{log}");
}

#[test]
fn what_peft_cannot_read_is_said_before_training_and_nothing_else_is() {
    for (flags, expected) in [
        ("--target-modules w1", Some("`gate_up_proj` has matrices that are not adapted")),
        ("--target-modules w1,w2,w3 --use-dora", Some("(DoRA)")),
        ("--target-modules w1,w2,w3 --alpha-pattern w2=64", Some("`convert` with `--to flat`")),
        ("--target-modules w1,w2,w3 --rank-pattern w2=8", Some("`convert` with `--to flat`")),
        ("--target-modules w1,w2,w3 --alpha-pattern w3=64", Some("of other ranks or scalings")),
        ("--target-modules w1,w2,w3 --rank-pattern w3=8", Some("of other ranks or scalings")),
        ("--target-modules q_proj,w1,w2,w3 --alpha-pattern q_proj=64", None),
        ("--target-modules w1,w2,w3", None),
        ("--target-parameters gate_up_proj,down_proj", None),
        ("--target-modules q_proj --use-dora", None),
    ] {
        let place = Place::new();
        place.tokenizer("mixtral");
        let output = place.run(&finetune(&format!("--model mixtral {flags}")));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{flags}: {said}");
        let found = said.lines().find(|line| line.starts_with("PEFT will not read what is saved"));
        match expected {
            Some(reason) => assert!(found.is_some_and(|line| line.contains(reason)), "{flags}: {said}"),
            None => assert_eq!(found, None, "{flags}"),
        }
    }
    let place = Place::new();
    place.tokenizer("mixtral");
    place.succeed(&finetune("--model mixtral --target-parameters gate_up_proj,down_proj"));
    let config = fs::read_to_string(place.path("out/adapter_config.json")).expect("a configuration");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["target_parameters"], json!(["down_proj", "gate_up_proj"]));
}

#[test]
fn a_head_or_an_embedding_that_is_tied_may_train_and_is_untied_for_it() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/ferrotune/tests/golden");
    for module in ["lm_head", "embed_tokens"] {
        let place = Place::new();
        copy(&golden.join("models/llama-tied"), &place.path("model"));
        place.tokenizer("model");
        place.succeed(&finetune(&format!("--modules-to-save {module}")));
    }
}
