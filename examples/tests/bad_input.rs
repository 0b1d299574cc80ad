//! What a user gets for bad input: the table in `docs/errors.md`, row by row, from the built examples.
//!
//! Each row names a bad input and the message. The cases here make the input, run the example in a folder of its own,
//! and hold its message against the row, in which `…` stands for what differs between machines. Every failure must also
//! leave the folder as it was.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

const TABLE: &str = include_str!("../../docs/errors.md");

/// A folder with a model, data, texts and an adapter that are good; a case then spoils one thing.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/ferrotune/tests/golden");
        copy(&golden.join("models/llama-gqa"), &place.path("model"));
        copy(&golden.join("adapters/llama-attention"), &place.path("adapter"));
        copy(&golden.join("models/mixtral"), &place.path("mixtral"));
        place.json("model/tokenizer.json", &tokenizer());
        place.json("model/tokenizer_config.json", &json!({ "bos_token": "<s>", "eos_token": "</s>" }));
        let record =
            |number: i32| json!({ "instruction": "add one", "input": format!("{number}"), "output": "a b" });
        place.json("data.json", &(0..20).map(record).collect());
        place.json("ids.json", &json!([[1, 5, 6, 7], [1, 8]]));
        place.write(
            "texts.jsonl",
            "{\"id\": \"first\", \"text\": \"a b\"}\n{\"prompt\": \"a\", \"response\": \" b\"}\n",
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, contents).expect("a written file");
    }

    fn json(&self, name: &str, value: &Value) {
        self.write(name, value.to_string());
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("a removed file");
    }

    /// Changes fields of a JSON file.
    fn edit(&self, name: &str, fields: Value) {
        let mut value: Value =
            serde_json::from_slice(&fs::read(self.path(name)).expect("a file")).expect("JSON");
        for (field, new) in fields.as_object().expect("an object") {
            value[field] = new.clone();
        }
        self.json(name, &value);
    }

    /// Rewrites the header of a safetensors file; the data stay.
    fn edit_header(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let bytes = fs::read(self.path(name)).expect("a file");
        let (length, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
        let mut header: Value = serde_json::from_slice(&rest[..length]).expect("JSON");
        change(&mut header);
        let header = header.to_string().into_bytes();
        self.write(name, [&(header.len() as u64).to_le_bytes()[..], &header, &rest[length..]].concat());
    }

    /// Every file below, with its contents.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    walk(&path, into);
                    into.insert(path, Vec::new());
                } else {
                    let bytes = fs::read(&path).expect("a file");
                    into.insert(path, bytes);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.folder.path(), &mut found);
        found
    }

    /// Runs a built example here. Cargo builds them with this test, two folders above it.
    fn run(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let name = words.next().expect("an example's name");
        let target = std::env::current_exe().expect("this test's path");
        let example =
            target.parent().and_then(Path::parent).expect("the target folder").join("examples").join(name);
        assert!(
            example.is_file(),
            "{} is not built: run `cargo test -p ferrotune-examples`",
            example.display()
        );
        Command::new(example)
            .args(words)
            .current_dir(self.folder.path())
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .output()
            .expect("an example that starts")
    }

    fn succeed(&self, line: &str) -> Value {
        let output = self.run(line);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON in the last line")
    }
}

/// A vocabulary of whole words that fits the golden models' 96 ids.
fn tokenizer() -> Value {
    let words = "<unk> <s> </s> INST Below is an instruction that describes a task Write response appropriately \
                 completes the request add one b [ ] . / 1 2 3 4 5 6 7 8 9 0";
    let vocabulary: Value =
        words.split_whitespace().zip(0..).map(|(word, id)| (word.to_owned(), json!(id))).collect();
    let special = |id: i32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "decoder": null, "pre_tokenizer": { "type": "Whitespace" },
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).unwrap_or_else(|problem| panic!("{}: {problem}", from.display())) {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copied file");
        }
    }
}

/// The message that the table gives for an input.
fn documented(input: &str) -> &'static str {
    let row =
        TABLE.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(input)?.strip_prefix(" | "));
    row.and_then(|row| row.strip_suffix(" |"))
        .unwrap_or_else(|| panic!("docs/errors.md has no row `{input}`"))
}

/// Whether the pieces of `pattern` between `…` stand in `text` in their order, from its beginning to its end.
fn matches(text: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = "";
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        (rest, last) = (&rest[at + piece.len()..], piece);
    }
    rest.is_empty() || (pattern.contains('…') && last.is_empty())
}

/// Spoils a good place, runs an example there, and holds its failure against the table.
fn check(input: &str, spoil: impl FnOnce(&Place), line: &str) {
    let place = Place::new();
    spoil(&place);
    let before = place.contents();
    let output = place.run(line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{input}: {errors}");
    let status = output.status.code();
    assert!(matches!(status, Some(1 | 2)), "{input}: status {status:?}: {errors}");
    assert!(output.stdout.is_empty(), "{input}: a failure prints no result");
    let begin = errors.find("error: ").unwrap_or_else(|| panic!("{input}: no error in {errors}"));
    // A usage error goes on with hints; the message is its first paragraph.
    let message = errors[begin + "error: ".len()..].split("\n\n").next().unwrap_or_default().trim_end();
    assert!(
        matches(message, documented(input)),
        "{input}:\n  found:    {message}\n  expected: {}",
        documented(input)
    );
    let after = place.contents();
    let changed: Vec<_> =
        after.iter().filter(|&(path, bytes)| before.get(path) != Some(bytes)).map(|(path, _)| path).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "{input}: left behind {changed:?}");
}

const SCORE: &str = "score --model model --ids ids.json --device cpu";
const FINETUNE: &str = "finetune --model model --data data.json --output out --rank 2 --max-steps 2 --max-seq-length 64 --device cpu";

/// [`FINETUNE`] with more flags; of a flag given twice clap complains, so these replace.
fn finetune(more: &str) -> String {
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
fn good_input_goes_the_whole_way() {
    let place = Place::new();
    let summary = place.succeed(&finetune("--learning-rate 1e-2"));
    assert_eq!(summary["steps"], 2);
    for key in ["train_loss", "eval_loss", "tokens_per_second", "total_parameters", "peak_rss_bytes"] {
        assert!(summary[key].is_number(), "{key} in {summary}");
    }
    for file in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "trainer_state.json",
        "summary.json",
        "log.jsonl",
        "runs",
    ] {
        assert!(place.path("out").join(file).exists(), "{file}");
    }
    place.succeed("merge --model model --adapter out --output merged --device cpu");
    let base = place.succeed("score --model model --texts texts.jsonl --device cpu");
    let adapted = place.succeed("score --model model --adapter out --texts texts.jsonl --device cpu");
    let merged =
        place.succeed("score --model merged --texts texts.jsonl --device cpu --logits logits.safetensors");
    let loss = |scores: &Value| scores["loss"].as_f64().expect("a loss");
    /// Merging rounds once to 32 bits.
    const ROUNDING: f64 = 1e-5;
    assert!((loss(&adapted) - loss(&merged)).abs() < ROUNDING, "{adapted} {merged}");
    assert!(
        (loss(&adapted) - loss(&base)).abs() > 10.0 * ROUNDING,
        "two steps change the loss: {adapted} {base}"
    );
    assert_eq!(base["rows"][0]["id"], "first");
    let four = place.succeed("quantize --model model --double-quant --output four --device cpu");
    assert!(four["bytes_after"].as_u64() < four["bytes_before"].as_u64(), "{four}");
    assert!((0.05..0.15).contains(&four["relative_error"].as_f64().expect("an error")), "{four}");
    let quantized = place.succeed("score --model four --texts texts.jsonl --device cpu");
    let line = "merge --model model --adapter out --quantized-base nf4 --output onto --device cpu";
    assert!(
        place.succeed(line)["base"].as_str().expect("words").contains("dequantize(quantize(weights)), NF4")
    );
    let onto = place.succeed("score --model onto --texts texts.jsonl --device cpu");
    let on_four = place.succeed("score --model four --adapter out --texts texts.jsonl --device cpu");
    assert!((loss(&onto) - loss(&on_four)).abs() < ROUNDING, "{onto} {on_four}");
    assert!((loss(&quantized) - loss(&base)).abs() > ROUNDING, "{quantized} {base}");
    place.succeed("generate --model merged --prompt add --max-new-tokens 5 --device cpu");
    place.succeed("upcycle --model model --experts 2 --top-k 1 --output grown --device cpu");
    let grown = place.succeed("score --model grown --texts texts.jsonl --device cpu");
    assert!((loss(&grown) - loss(&base)).abs() < ROUNDING, "{grown} {base}");
}

#[test]
fn flags_in_a_file_are_the_same_flags() {
    let place = Place::new();
    place.write("run/flags.toml", "model = '../model'\ndata = ['../data.json']\noutput = 'out'\nrank = 3\nmax-steps = 1\nmax-seq-length = 64\nuse-rslora = true\n");
    place.succeed("finetune --config run/flags.toml --rank 2 --device cpu");
    let config = fs::read(place.path("run/out/adapter_config.json")).expect("an adapter beside the file");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!((&config["r"], &config["use_rslora"]), (&json!(2), &json!(true)), "the command line wins");
}

#[test]
fn bad_model_folders_are_refused_as_documented() {
    check("the model folder does not exist", |_| {}, "score --model missing --ids ids.json");
    check(
        "a model folder with `.bin` weights only",
        |place| {
            place.remove("model/model.safetensors");
            place.write("model/pytorch_model.bin", "pickle");
        },
        SCORE,
    );
    check("a model folder without `config.json`", |place| place.remove("model/config.json"), SCORE);
    check("a model folder without weights", |place| place.remove("model/model.safetensors"), SCORE);
    check(
        "a model folder with `tokenizer.model` only",
        |place| {
            place.remove("model/tokenizer.json");
            place.write("model/tokenizer.model", "pieces");
        },
        "score --model model --texts texts.jsonl --device cpu",
    );
    check(
        "an unknown `model_type`",
        |place| place.edit("model/config.json", json!({ "model_type": "gpt2" })),
        SCORE,
    );
    check(
        "an option that is not implemented",
        |place| place.edit("model/config.json", json!({ "hidden_act": "gelu" })),
        SCORE,
    );
    check(
        "a checkpoint in another quantized format",
        |place| {
            place.edit("model/config.json", json!({ "quantization_config": { "quant_method": "gptq" } }));
        },
        SCORE,
    );
    check(
        "a configuration of 4-bit weights beside dense ones",
        |place| place.edit("model/config.json", json!({ "quantization_config": { "load_in_4bit": true } })),
        SCORE,
    );
    check("a `config.json` that is not JSON", |place| place.write("model/config.json", "{"), SCORE);
    check(
        "weights cut short",
        |place| {
            let bytes = fs::read(place.path("model/model.safetensors")).expect("weights");
            place.write("model/model.safetensors", &bytes[..bytes.len() - 100]);
        },
        SCORE,
    );
    check(
        "a tensor of another shape",
        |place| place.edit("model/config.json", json!({ "intermediate_size": 100 })),
        SCORE,
    );
    check(
        "a missing tensor",
        |place| place.edit("model/config.json", json!({ "num_hidden_layers": 3 })),
        SCORE,
    );
    check(
        "a tensor that the model has no place for",
        |place| place.edit("model/config.json", json!({ "num_hidden_layers": 1 })),
        SCORE,
    );
    check(
        "a tensor of another type",
        |place| {
            place.edit_header("model/model.safetensors", |header| {
                header["model.norm.weight"]["dtype"] = json!("I32");
            });
        },
        SCORE,
    );
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
    check(
        "a text longer than the model's positions",
        |place| place.json("texts.jsonl", &json!({ "id": "long", "text": "a ".repeat(200) })),
        "score --model model --texts texts.jsonl --device cpu",
    );
    check(
        "a prompt longer than the model's positions",
        |place| place.edit("model/config.json", json!({ "max_position_embeddings": 4 })),
        "generate --model model --prompt a/b/a/b/a --device cpu",
    );
    check("an id outside the vocabulary", |place| place.json("ids.json", &json!([[1, 96]])), SCORE);
    check(
        "a texts line without a text",
        |place| place.json("texts.jsonl", &json!({ "id": 1 })),
        "score --model model --texts texts.jsonl --device cpu",
    );
}

#[test]
fn bad_settings_are_refused_as_documented() {
    check("a learning rate that is not a number", |_| {}, &finetune("--learning-rate NaN"));
    check("a rank of 0", |_| {}, &finetune("--rank 0"));
    check("a dropout above 1", |_| {}, &finetune("--dropout 1.5"));
    check("a batch size of 0", |_| {}, &finetune("--batch-size 0"));
    check("an evaluation fraction of 1", |_| {}, &finetune("--eval-fraction 1"));
    check("a target that matches nothing", |_| {}, &finetune("--target-modules q_prj"));
    check(
        "a negative temperature",
        |_| {},
        "generate --model model --prompt a --temperature -1 --device cpu",
    );
    check(
        "more experts for a token than there are",
        |_| {},
        "upcycle --model model --experts 2 --top-k 3 --output out --device cpu",
    );
    check("upcycling a mixture", |_| {}, "upcycle --model mixtral --experts 2 --output out --device cpu");
    check("an unknown device", |_| {}, "score --model model --ids ids.json --device gpu");
    check("an unknown flag", |_| {}, &finetune("--lora-rank 8"));
    check(
        "a block size that the 4-bit format does not have",
        |_| {},
        &finetune("--quantize nf4 --block-size 48"),
    );
    check("a memory limit that the run does not fit into", |_| {}, &finetune("--memory-limit 1MB"));
    check("an amount of memory in no unit", |_| {}, &finetune("--memory-limit 24gallons"));
    check("a word that a flag does not know", |_| {}, &finetune("--scheduler step"));
    check(
        "an unknown key in the file of flags",
        |place| place.write("flags.toml", "rang = 8\n"),
        "score --config flags.toml",
    );
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
fn cuda_is_refused_where_it_is_not() {
    if ferrotune::torch::cuda::is_available() {
        eprintln!("skipped: this machine has a CUDA device");
        return;
    }
    check("`--device cuda` without CUDA", |_| {}, "score --model model --ids ids.json --device cuda");
    check(
        "a block size that the format lacks",
        |_| {},
        "quantize --model model --block-size 48 --output out --device cpu",
    );
    check(
        "quantizing experts whose rows are no whole blocks",
        |_| {},
        "quantize --model mixtral --output out --device cpu",
    );
}

#[test]
fn bad_adapters_are_refused_as_documented() {
    let merge = "merge --model model --adapter adapter --output out --device cpu";
    let score = "score --model model --adapter adapter --ids ids.json --device cpu";
    check("an adapter folder without an adapter", |place| place.remove("adapter/adapter_config.json"), score);
    check(
        "an adapter with `.bin` weights only",
        |place| {
            place.remove("adapter/adapter_model.safetensors");
            place.write("adapter/adapter_model.bin", "pickle");
        },
        merge,
    );
    check(
        "an adapter for another base",
        |place| place.edit("model/config.json", json!({})),
        "score --model mixtral --adapter adapter --ids ids.json --device cpu",
    );
    check(
        "merging an adapter for another base",
        |_| {},
        "merge --model mixtral --adapter adapter --output out --device cpu",
    );
    check(
        "an adapter of another kind",
        |place| place.edit("adapter/adapter_config.json", json!({ "peft_type": "IA3" })),
        score,
    );
    check(
        "an adapter with an option that is not implemented",
        |place| place.edit("adapter/adapter_config.json", json!({ "use_qalora": true })),
        score,
    );
    check("LoftQ over a base that is not quantized", |_| {}, &finetune("--init loftq"));
    check(
        "an adapter of another rank than its file says",
        |place| place.edit("adapter/adapter_config.json", json!({ "r": 8 })),
        score,
    );
}

#[test]
fn outputs_are_never_overwritten_or_half_written() {
    let used = |place: &Place| place.write("out/notes.txt", "mine");
    check("a run in the output folder", |place| drop(place.succeed(FINETUNE)), FINETUNE);
    check(
        "a merge into a folder that holds something",
        used,
        "merge --model model --adapter adapter --output out --device cpu",
    );
    check(
        "a merge into its own model",
        |_| {},
        "merge --model model --adapter adapter --output model --force --device cpu",
    );
    check(
        "a forced merge over a folder of something else",
        |place| place.write("photos/a.jpg", "x"),
        "merge --model model --adapter adapter --output photos --force --device cpu",
    );
    check(
        "a merge into a folder that holds its model",
        |_| {},
        "merge --model model --adapter adapter --output . --force --device cpu",
    );
    check(
        "a merge into a file",
        |_| {},
        "merge --model model --adapter adapter --output data.json --force --device cpu",
    );
    check(
        "a mixture grown into a folder that holds the dense model",
        |_| {},
        "upcycle --model model --output . --force --device cpu",
    );
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
    let summary = place.succeed(&finetune("--force --max-steps 1"));
    assert_eq!(summary["steps"], 1);
    assert!(place.path("out/notes.txt").is_file() && !place.path("out/checkpoint-2").exists());
    let log = fs::read_to_string(place.path("out/log.jsonl")).expect("a log");
    assert!(!log.contains("\"step\":2"), "{log}");
}

/// Three answers, the second one wrong.
const PAIRS: &str = concat!(
    "{\"id\": 1, \"instruction\": \"Capital of France?\", \"prediction\": \"Paris it is\", \"reference\": \"It is Paris\"}\n",
    "{\"id\": 2, \"instruction\": \"And of Italy?\", \"prediction\": \"Milan\", \"reference\": \"Rome\"}\n",
    "{\"id\": 3, \"instruction\": \"And of Spain?\", \"prediction\": \"Madrid\", \"references\": [\"Madrid\", \"madrid\"]}\n",
);

const EVALUATE: &str = "evaluate --pairs pairs.jsonl --device cpu";

fn value_of<'r>(found: &'r Value, metric: &str) -> &'r Value {
    let records = found["metrics"].as_array().expect("a list of records");
    records
        .iter()
        .find(|record| record["metric"] == metric)
        .unwrap_or_else(|| panic!("no {metric} in {found}"))
}

#[test]
fn pairs_are_measured_scored_again_and_compared() {
    let place = Place::new();
    place.write("pairs.jsonl", PAIRS);
    let found =
        place.succeed(&format!("{EVALUATE} --metrics exact_match,rouge1,bleu --samples samples.jsonl"));
    let exact = value_of(&found, "exact_match");
    assert_eq!((&exact["value"], &exact["n_scored"]), (&json!(1.0 / 3.0), &json!(3)));
    assert_eq!(exact["dataset"]["path_name"], "pairs.jsonl");
    let again =
        place.succeed("evaluate --rescore samples.jsonl --metrics exact_match,rouge1,bleu --device cpu");
    for metric in ["exact_match", "rouge1", "bleu"] {
        for field in ["value", "ci95", "stderr", "n_scored"] {
            assert_eq!(value_of(&found, metric)[field], value_of(&again, metric)[field], "{metric}, {field}");
        }
    }
    place.write("base.jsonl", PAIRS.replace("Madrid\", \"references", "Lisbon\", \"references"));
    let compared = place.succeed(&format!("{EVALUATE} --metrics exact_match,rouge1 --baseline base.jsonl"));
    let comparison = &compared["comparisons"][0];
    assert_eq!((&comparison["metric"], &comparison["first"]), (&json!("exact_match"), &json!(0.0)));
    // One sample differs, and exchanging it or not gives a difference as large.
    assert_eq!((&comparison["p_value"], &comparison["p_holm"]), (&json!(1.0), &json!(1.0)));
    assert_eq!(compared["comparisons"].as_array().map(Vec::len), Some(2));
    let limited = place.succeed(&format!("{EVALUATE} --metrics exact_match --limit 1"));
    assert_eq!(value_of(&limited, "exact_match")["params"]["limit"], 1);
}

#[test]
fn what_cannot_be_used_is_counted_where_the_user_says_so() {
    let place = Place::new();
    place.write(
        "pairs.jsonl",
        format!("{PAIRS}{{\"id\": 4, \"prediction\": \"x\", \"reference\": \" \"}}\nprose\n"),
    );
    let found = place.succeed(&format!("{EVALUATE} --metrics exact_match --on-failure skip"));
    assert_eq!(value_of(&found, "exact_match")["n_total"], 3);
    assert_eq!((&found["rejected"][0]["line"], &found["rejected"][1]["line"]), (&json!(4), &json!(5)));
    place.write("pairs.jsonl", PAIRS);
    let reply = |sample: u8, text: &str| json!({ "sample": sample.to_string(), "purpose": "gpt4_score", "text": text });
    let replies = [
        reply(1, "{\"reason\": \"right\", \"score\": 9}"),
        reply(2, "I would say it is wrong."),
        reply(2, "As I said."),
        reply(3, "{\"reason\": \"right\", \"score\": 10}"),
    ];
    place.write("replies.jsonl", replies.map(|reply| reply.to_string() + "\n").concat());
    let line = format!("{EVALUATE} --metrics gpt4_score --judge-replies replies.jsonl");
    let judged = place.succeed(&format!("{line} --on-failure skip --samples judged.jsonl"));
    let score = value_of(&judged, "gpt4_score");
    assert_eq!(
        (&score["value"], &score["n_failed"], &judged["judge"]["calls"]),
        (&json!(9.5), &json!(1), &json!(4))
    );
    let samples = fs::read_to_string(place.path("judged.jsonl")).expect("samples");
    assert!(samples.contains("As I said."), "the judge's words stay: {samples}");
    let estimate = place.succeed(&format!("{line} --dry-run --judge-prompt-price 10 --judge-reply-price 30"));
    assert_eq!((&estimate["estimate"]["calls"], &estimate["metrics"]), (&json!(3), &json!([])));
    assert!(estimate["estimate"]["cost_at_most"].as_f64().is_some_and(|cost| cost > 0.0), "{estimate}");
}

/// Two questions of a benchmark in the true schema.
const QUESTIONS: &str = concat!(
    "{\"question\": \"add 1 2\", \"answer\": \"1 2 3\\n#### 3\"}\n",
    "{\"question\": \"add 2 2\", \"answer\": \"2 2 4\\n#### 4\"}\n",
);

const TASK: &str = "evaluate --model model --task gsm8k:lm-eval-cot-zeroshot --data gsm8k.jsonl --any-row-count --max-new-tokens 4 --chat none --device cpu";

#[test]
fn a_model_is_asked_and_its_replies_are_scored_again() {
    let place = Place::new();
    place.write("gsm8k.jsonl", QUESTIONS);
    let found = place.succeed(&format!("{TASK} --samples samples.jsonl"));
    let record = &found["metrics"][0];
    assert_eq!((&record["value"], &record["n_total"]), (&json!(0.0), &json!(2)), "{found}");
    for field in ["model", "tokenizer_sha", "dataset", "ci95"] {
        assert!(!record[field].is_null(), "{field} in {record}");
    }
    let again = TASK.replace("--model model ", "--rescore samples.jsonl ").replace("--chat none ", "");
    let again = place.succeed(&again);
    assert_eq!(again["metrics"][0]["value"], record["value"]);
}

#[test]
fn bad_pairs_are_refused_as_documented() {
    let shared = "[\"a\", \"b\", \"c\"]";
    let record = |id: u8| format!("{{\"id\": {id}, \"prediction\": \"a\", \"references\": {shared}}}\n");
    check(
        "transposed references",
        |place| place.write("pairs.jsonl", [1, 2, 3].map(record).concat()),
        EVALUATE,
    );
    let second = |line: &'static str| {
        move |place: &Place| place.write("pairs.jsonl", format!("{}{line}\n", record(1)))
    };
    check("an empty reference", second("{\"id\": 2, \"prediction\": \"a\", \"reference\": \" \"}"), EVALUATE);
    check("a repeated id", second("{\"id\": \"1\", \"prediction\": \"a\", \"reference\": \"a\"}"), EVALUATE);
    check("a pair without a prediction", second("{\"id\": 2, \"reference\": \"a\"}"), EVALUATE);
    check("a pair that is not JSON", second("id 2"), EVALUATE);
    check(
        "pairs that are all unusable",
        |place| place.write("pairs.jsonl", "{\"id\": 1}\n"),
        &format!("{EVALUATE} --on-failure skip"),
    );
    let good = |place: &Place| place.write("pairs.jsonl", PAIRS);
    check("an unknown metric", good, &format!("{EVALUATE} --metrics bleu,blue"));
    check("a metric without its encoder", good, &format!("{EVALUATE} --metrics semantic_similarity"));
    check("a judged metric without a judge", good, &format!("{EVALUATE} --metrics gpt4_score"));
    check(
        "a key that is not there",
        good,
        &format!(
            "{EVALUATE} --metrics gpt4_score --judge-url http://127.0.0.1:9/v1 --judge-model m --judge-key-env NO_SUCH_KEY"
        ),
    );
    check(
        "a judge that answers with prose",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            let reply = json!({ "sample": "1", "purpose": "gpt4_score", "text": "Good." }).to_string();
            place.write("replies.jsonl", format!("{reply}\n{reply}\n"));
        },
        &format!("{EVALUATE} --metrics gpt4_score --judge-replies replies.jsonl"),
    );
    check(
        "a baseline that answers other questions",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("base.jsonl", PAIRS.replace("Rome", "Roma"));
        },
        &format!("{EVALUATE} --baseline base.jsonl"),
    );
    check(
        "a baseline without a common id",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("base.jsonl", PAIRS.replace("\"id\": ", "\"id\": 1"));
        },
        &format!("{EVALUATE} --baseline base.jsonl"),
    );
    check(
        "a samples file that is there",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("samples.jsonl", "mine");
        },
        &format!("{EVALUATE} --samples samples.jsonl"),
    );
    check("samples over the pairs", good, &format!("{EVALUATE} --samples pairs.jsonl --force"));
    check("a file to score again that is none", good, "evaluate --rescore pairs.jsonl --device cpu");
    check("a WordNet folder that is none", good, &format!("{EVALUATE} --wordnet model"));
    check(
        "a table of paraphrases without tabs",
        |place| {
            place.write("pairs.jsonl", PAIRS);
            place.write("phrases.tsv", "kicked the bucket = died\n");
        },
        &format!("{EVALUATE} --metrics meteor_corrected --paraphrases phrases.tsv"),
    );
    check("nothing to evaluate", |_| {}, "evaluate --metrics bleu");
}

#[test]
fn bad_benchmarks_are_refused_as_documented() {
    let good = |place: &Place| place.write("gsm8k.jsonl", QUESTIONS);
    check("an unknown benchmark", good, &TASK.replace("gsm8k:lm-eval-cot-zeroshot", "gsm9k"));
    check("an unknown variant of a benchmark", good, &TASK.replace("lm-eval-cot-zeroshot", "simple"));
    check("a benchmark with another number of rows", good, &TASK.replace("--any-row-count ", ""));
    check(
        "a benchmark with other columns",
        |place| place.write("gsm8k.jsonl", QUESTIONS.replace("question", "problem")),
        TASK,
    );
    check(
        "code of a model without leave to run it",
        |place| place.write("HumanEval.jsonl", "{}\n"),
        "evaluate --model model --task humaneval --data HumanEval.jsonl --device cpu",
    );
    check("a benchmark without a model", good, &TASK.replace("--model model ", ""));
}
