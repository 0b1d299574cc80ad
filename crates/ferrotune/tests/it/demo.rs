//! The claims the demo rests on: answers cannot leak, bases never see a question, and every text survives tokenization.

#![allow(clippy::unwrap_used, reason = "clippy exempts test functions, not the functions they call")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::OnceLock,
};

use ferrotune::{
    core::Tokenize as _,
    data::{Format, Limits, Strictness, Tokenizer, encode_prompt, encode_text, read_file, template},
    demo::{self, Family, Files, Question, Questions, World, recipe},
};
use serde_json::Value;

/// Worlds that the claims are checked in: the study's, and others that a user may ask for.
const SEEDS: [u64; 3] = [recipe::WORLD_SEED, 2, u64::MAX];

/// The study's world on disk, made once.
struct Demo {
    folder: tempfile::TempDir,
    files: Files,
    world: World,
    questions: Questions,
    pages: Vec<String>,
    tokenizer: Tokenizer,
}

fn demo() -> &'static Demo {
    static DEMO: OnceLock<Demo> = OnceLock::new();
    DEMO.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let files = demo::write(folder.path(), recipe::WORLD_SEED).unwrap();
        let world = World::new(recipe::WORLD_SEED);
        let (questions, pages) = (world.questions(), world.pages());
        let tokenizer = Tokenizer::from_folder(&files.models[0]).unwrap();
        Demo { folder, files, world, questions, pages, tokenizer }
    })
}

fn parts(questions: &Questions) -> [&[Question]; 3] {
    [&questions.train, &questions.validation, &questions.test]
}

/// All that a model is shown of a record: template, request and answer.
fn text(question: &Question) -> String {
    template::prompt(&question.request()) + &question.output
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty())
}

#[test]
fn no_held_out_answer_or_value_stands_in_a_fine_tuning_record() {
    for seed in SEEDS {
        let world = World::new(seed);
        let questions = world.questions();
        let seen: String =
            questions.train.iter().chain(&questions.validation).map(|q| text(q) + "\n").collect();
        let held_out: BTreeSet<_> = questions.test.iter().map(|question| &question.owner).collect();
        for question in &questions.test {
            assert!(!seen.contains(&question.output), "world {seed}: {question:?}");
        }
        for owner in world.owners().iter().filter(|owner| held_out.contains(&owner.name)) {
            assert!(!words(&seen).any(|word| word == owner.name), "world {seed}: {}", owner.name);
            for fact in &owner.facts {
                assert!(!seen.contains(&fact.value), "world {seed}: {} of {}", fact.value, owner.name);
            }
        }
    }
}

#[test]
fn every_value_belongs_to_one_owner() {
    for seed in SEEDS {
        let world = World::new(seed);
        let mut all = BTreeSet::new();
        for owner in world.owners() {
            assert!(all.insert(&owner.name), "world {seed}: {}", owner.name);
            for fact in &owner.facts {
                assert!(all.insert(&fact.value), "world {seed}: {}", fact.value);
            }
        }
    }
}

#[test]
fn growing_text_holds_no_question_form_and_no_word_of_the_template() {
    for seed in SEEDS {
        let (pages, questions) = (World::new(seed).pages(), World::new(seed).questions());
        let statements: BTreeSet<&str> =
            questions.train.iter().flat_map(|question| words(&question.output)).collect();
        // How a question begins, and every word of the frame around it that no answer needs.
        let mut foreign: BTreeSet<&str> =
            words(template::PREAMBLE).filter(|word| !statements.contains(word)).collect();
        assert!(foreign.contains("instruction"));
        foreign.insert("INST");
        for question in parts(&questions).into_iter().flatten() {
            foreign.extend(words(&question.instruction).next());
        }
        for page in &pages {
            let found = words(page).find(|word| foreign.contains(word));
            assert!(found.is_none(), "world {seed}: `{}` in {page}", found.unwrap_or_default());
            assert!(!page.contains(['?', '[', ']', '<', '>', '\n']), "world {seed}: {page}");
        }
    }
}

#[test]
fn growing_text_states_every_answer_and_every_completion() {
    let text = demo().pages.join("\n");
    for completion in demo().world.completions() {
        let statement = format!("{} {}", completion.beginning, completion.end);
        assert!(text.contains(&statement), "{statement}");
    }
    for question in parts(&demo().questions).into_iter().flatten() {
        for statement in question.output.split_inclusive('.') {
            assert!(text.contains(statement.trim()), "{statement}");
        }
    }
}

#[test]
fn parts_share_no_owner_and_have_their_sizes() {
    // 60, 15 and 25 percent of 60 lands and 60 persons; 4 skills of a land and 3 of a person; 2 forms in training.
    let expected = [(72, 2 * (36 * 4 + 36 * 3)), (18, 9 * 4 + 9 * 3), (30, 15 * 4 + 15 * 3)];
    for seed in SEEDS {
        let questions = World::new(seed).questions();
        let mut owners_so_far = BTreeSet::new();
        for (part, (owners, records)) in parts(&questions).into_iter().zip(expected) {
            let of_part: BTreeSet<_> = part.iter().map(|question| question.owner.clone()).collect();
            assert_eq!((of_part.len(), part.len()), (owners, records), "world {seed}");
            assert!(of_part.is_disjoint(&owners_so_far), "world {seed}");
            owners_so_far.extend(of_part);
            let distinct: BTreeSet<_> =
                part.iter().map(|question| (question.request(), &question.output)).collect();
            assert_eq!(distinct.len(), records, "world {seed}: a record is there twice");
        }
        assert_eq!(owners_so_far.len(), demo::LANDS + demo::PERSONS);
    }
}

#[test]
fn the_written_files_are_what_the_readers_of_the_study_read() {
    let files = &demo().files;
    for (path, part) in
        [&files.train, &files.validation, &files.test].into_iter().zip(parts(&demo().questions))
    {
        let (records, report) = read_file(path, Format::Alpaca, Strictness::Strict).unwrap();
        assert_eq!(report.dropped, 0);
        let read: Vec<_> =
            records.iter().map(|r| (r.turns[0].request.clone(), r.turns[0].response.clone())).collect();
        let made: Vec<_> =
            part.iter().map(|question| (question.request(), question.output.clone())).collect();
        assert_eq!(read, made);
    }
    let growing = fs::read_to_string(&files.growing).unwrap();
    let read: Vec<String> = growing
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().into())
        .collect();
    assert_eq!(read, demo().pages);
}

#[test]
fn tokenization_loses_nothing_of_any_text() {
    // Every character would take a million; every 61st reaches each block of Unicode, surrogates have no `char`.
    let unicode: String = ('\0'..=char::MAX).step_by(61).collect();
    let strange = [
        "",
        " ",
        "  two  spaces ",
        "\t\r\n\n x",
        "Çava? 12 {x}",
        "it's we'll THE The",
        "</s><s><unk>",
        "<pad1>",
        "a </s> b",
        "\u{0}\u{ad}\u{feff}",
        "नमस्ते 🦀e\u{301}",
        template::PREAMBLE,
        &unicode,
    ];
    let records = parts(&demo().questions).into_iter().flatten().map(text);
    let texts = demo().pages.iter().cloned().chain(records).chain(strange.map(String::from));
    for text in texts {
        let encoding = demo().tokenizer.encode(&text).unwrap();
        assert_eq!(demo().tokenizer.decode(&encoding.ids).unwrap(), text);
        assert!(encoding.ids.iter().all(|&id| id > 2), "a special id in {text:?}");
    }
}

#[test]
fn every_word_that_is_written_is_one_token() {
    let records = parts(&demo().questions).into_iter().flatten().map(text);
    for text in demo().pages.iter().cloned().chain(records) {
        let encoding = demo().tokenizer.encode(&text).unwrap();
        for piece in encoding.offsets.iter().map(|range| &text[range.clone()]) {
            let after = piece.as_ptr().addr() + piece.len() - text.as_ptr().addr();
            let cut = piece.ends_with(|letter: char| letter.is_alphabetic())
                && text[after..].starts_with(|letter: char| letter.is_alphabetic());
            assert!(!cut, "`{piece}` is a part of a word in {text}");
        }
    }
}

#[test]
fn all_sequences_fit_the_models_and_answers_the_generation() {
    let Demo { tokenizer, pages, questions, .. } = demo();
    for page in pages {
        assert!(!encode_text(page, tokenizer, demo::MAX_POSITION_EMBEDDINGS).unwrap().truncated, "{page}");
    }
    let (records, _) = read_file(&demo().files.test, Format::Alpaca, Strictness::Strict).unwrap();
    assert!(recipe::MAX_NEW_TOKENS < Limits::default().max_seq_length);
    for (record, question) in records.iter().zip(&questions.test) {
        let prompt = encode_prompt(record, tokenizer).unwrap().len();
        // The answer as the model gives it: its tokens and EOS.
        let answer = tokenizer.encode(&question.output).unwrap().ids.len() + 1;
        assert!(answer <= recipe::MAX_NEW_TOKENS, "{answer} tokens: {question:?}");
        assert!(
            prompt + recipe::MAX_NEW_TOKENS <= demo::MAX_POSITION_EMBEDDINGS,
            "{prompt} tokens: {question:?}"
        );
    }
}

#[test]
fn configurations_agree_with_the_tokenizer_beside_them() {
    for (family, folder) in Family::ALL.into_iter().zip(&demo().files.models) {
        let tokenizer = Tokenizer::from_folder(folder).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model_type"], family.name());
        assert_eq!(config["vocab_size"], tokenizer.vocabulary_size());
        assert_eq!(
            (tokenizer.special().bos, tokenizer.special().eos, tokenizer.special().pad),
            (Some(1), Some(2), None)
        );
        assert_eq!(tokenizer.fingerprint(), demo().tokenizer.fingerprint());
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let files = [
            "growing.jsonl",
            "data/train.json",
            "data/test.json",
            "mixtral/config.json",
            "llama/tokenizer.json",
        ];
        files.map(|file| (file.to_owned(), fs::read(folder.join(file)).unwrap())).into()
    }
    let [again, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    demo::write(again.path(), recipe::WORLD_SEED).unwrap();
    demo::write(other.path(), recipe::WORLD_SEED + 1).unwrap();
    let first = contents(demo().folder.path());
    assert_eq!(first, contents(again.path()));
    let other = contents(other.path());
    for file in ["growing.jsonl", "data/train.json", "data/test.json", "llama/tokenizer.json"] {
        assert_ne!(first[file], other[file], "{file}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("data");
    fs::write(&blocked, "a file where a folder must be").unwrap();
    let error = demo::write(folder.path(), recipe::WORLD_SEED).unwrap_err().to_string();
    assert!(error.contains(&blocked.display().to_string()), "{error}");
}
