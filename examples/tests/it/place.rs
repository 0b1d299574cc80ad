//! A folder of its own in which a test runs the built examples.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

/// A folder with a model, data, texts and an adapter that are good; a case then spoils one thing.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A folder with nothing in it.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn new() -> Self {
        let place = Self::empty();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/ferrotune/tests/golden");
        copy(&golden.join("models/llama-gqa"), &place.path("model"));
        copy(&golden.join("adapters/llama-attention"), &place.path("adapter"));
        copy(&golden.join("models/mixtral"), &place.path("mixtral"));
        place.tokenizer("model");
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, contents).expect("a written file");
    }

    pub(crate) fn json(&self, name: &str, value: &Value) {
        self.write(name, value.to_string());
    }

    /// Makes a link of which nothing is known but its text.
    pub(crate) fn link(&self, name: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.path(name)).expect("a link");
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("a removed file");
    }

    /// Gives a model folder its tokenizer.
    pub(crate) fn tokenizer(&self, model: &str) {
        self.json(&format!("{model}/tokenizer.json"), &tokenizer());
        let special = json!({ "bos_token": "<s>", "eos_token": "</s>" });
        self.json(&format!("{model}/tokenizer_config.json"), &special);
    }

    /// Changes fields of a JSON file.
    pub(crate) fn edit(&self, name: &str, fields: Value) {
        let mut value: Value =
            serde_json::from_slice(&fs::read(self.path(name)).expect("a file")).expect("JSON");
        for (field, new) in fields.as_object().expect("an object") {
            value[field] = new.clone();
        }
        self.json(name, &value);
    }

    /// A model like `model` in everything but the signs of its weights, in `other`.
    pub(crate) fn other_model(&self) {
        copy(&self.path("model"), &self.path("other"));
        let mut bytes = fs::read(self.path("model/model.safetensors")).expect("a file");
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        bytes[8 + header..].chunks_mut(4).for_each(|number| number[3] ^= 0x80);
        self.write("other/model.safetensors", bytes);
    }

    /// Rewrites the header of a safetensors file; the data stay.
    pub(crate) fn edit_header(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let bytes = fs::read(self.path(name)).expect("a file");
        let (length, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
        let mut header: Value = serde_json::from_slice(&rest[..length]).expect("JSON");
        change(&mut header);
        let header = header.to_string().into_bytes();
        self.write(name, [&(header.len() as u64).to_le_bytes()[..], &header, &rest[length..]].concat());
    }

    /// Makes each number of the model's vector of a word `value`.
    pub(crate) fn fill_embedding(&self, word: &str, value: f32) {
        self.fill_row("model.embed_tokens.weight", word, value);
    }

    /// Makes each number of a word's row in a tensor of the model `value`.
    pub(crate) fn fill_row(&self, tensor: &str, word: &str, value: f32) {
        let id = tokenizer()["model"]["vocab"][word].as_u64().expect("a word of the vocabulary") as usize;
        self.change_numbers(tensor, |row, number| if row == id { value } else { number });
    }

    /// Makes each number of one of the model's matrices what `change` makes of its row and value.
    pub(crate) fn change_numbers(&self, name: &str, change: impl Fn(usize, f32) -> f32) {
        let mut bytes = fs::read(self.path("model/model.safetensors")).expect("a file");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        let tensor = &header[name];
        let number = |value: &Value| value.as_u64().expect("a number") as usize;
        let (begin, end) = (number(&tensor["data_offsets"][0]), number(&tensor["data_offsets"][1]));
        let row = (end - begin) / number(&tensor["shape"][0]);
        for (index, row) in bytes[8 + length + begin..8 + length + end].chunks_mut(row).enumerate() {
            for place in row.chunks_mut(4) {
                let number = f32::from_le_bytes(place.try_into().expect("4 bytes"));
                place.copy_from_slice(&change(index, number).to_le_bytes());
            }
        }
        self.write("model/model.safetensors", bytes);
    }

    /// Every file below, with its contents.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if let Ok(target) = fs::read_link(&path) {
                    into.insert(path, target.into_os_string().into_encoded_bytes());
                } else if path.is_dir() {
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

    /// Runs a built example here.
    pub(crate) fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("an example that starts")
    }

    /// A built example, to be run here. Cargo builds them with this test, two folders above it.
    pub(crate) fn command(&self, line: &str) -> Command {
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
        let mut command = Command::new(example);
        command
            .args(words)
            .current_dir(self.folder.path())
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE");
        command
    }

    pub(crate) fn succeed(&self, line: &str) -> Value {
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

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).unwrap_or_else(|problem| panic!("{}: {problem}", from.display())) {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copied file");
        }
    }
}
