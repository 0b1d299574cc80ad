//! The families' own tokenizers on real records, against SentencePiece: our texts id by id, the rest by
//! digest.

use std::{collections::BTreeMap, path::Path};

use ferrotune_core::{Tokenize as _, digest};
use ferrotune_data::{
    Encoded, Format, Limits, Record, Split, Strictness, Template, Tokenizer, encode, encode_prompt, prepare,
    read_file,
};
use serde::Deserialize;

use crate::inputs::{golden_json, shared};

#[derive(Deserialize)]
struct Family {
    own: Vec<Vec<u32>>,
    alpaca: Sum,
    templated: Sum,
    prompts: Sum,
    code: Sum,
}

#[derive(Deserialize)]
struct Sum {
    texts: usize,
    tokens: usize,
    sha256: String,
    supervised: Option<usize>,
}

impl Sum {
    fn check(&self, what: &str, ids: &[Vec<u32>]) {
        assert_eq!(ids.len(), self.texts, "{what}");
        assert_eq!(ids.iter().map(Vec::len).sum::<usize>(), self.tokens, "{what}");
        let lines: String = ids
            .iter()
            .map(|ids| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n")
            .collect();
        assert_eq!(digest::of_bytes(lines.as_bytes()), self.sha256, "{what}");
    }
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

#[derive(Deserialize)]
struct Problem {
    prompt: String,
    canonical_solution: String,
}

fn roomy() -> Limits {
    Limits { max_seq_length: 1 << 20, max_request_tokens: 1 << 20 }
}

fn sampled(records: &[Record], tokenizer: &Tokenizer) -> (Vec<Vec<u32>>, usize) {
    let samples = records.iter().map(|record| match encode(record, tokenizer, &roomy()).unwrap() {
        Encoded::Kept(sample) => sample,
        other => panic!("{}: {other:?}", record.origin),
    });
    let samples: Vec<_> = samples.collect();
    let supervised = samples.iter().map(|sample| sample.supervised_tokens()).sum();
    (samples.into_iter().map(|sample| sample.ids).collect(), supervised)
}

fn code_snippets(path: &Path) -> Vec<String> {
    let file = flate2::read::MultiGzDecoder::new(std::fs::File::open(path).unwrap());
    serde_json::Deserializer::from_reader(file)
        .into_iter::<Problem>()
        .map(|problem| problem.unwrap())
        .map(|problem| problem.prompt + &problem.canonical_solution)
        .collect()
}

#[test]
fn ids_of_both_families_equal_sentencepiece_on_alpaca_and_code() {
    let families: BTreeMap<String, Family> = golden_json("real_tokenizers.json");
    let own: Vec<Text> = golden_json("sentencepiece.json");
    let Some(shared) = shared("ids of both families equal SentencePiece") else { return };
    let (records, _) = read_file(&shared.join("alpaca-999.json"), Format::Auto, Strictness::Strict).unwrap();
    let snippets = code_snippets(&shared.join("HumanEval.jsonl.gz"));
    assert_eq!(families.len(), 2);
    for (name, family) in families {
        let tokenizer = Tokenizer::from_folder(&shared.join("tokenizers").join(&name)).unwrap();
        let ids = |text: &str| tokenizer.encode(text).unwrap().ids;
        assert_eq!(own.len(), family.own.len());
        for (Text { text }, expected) in own.iter().zip(&family.own) {
            assert_eq!(&ids(text), expected, "{name} on {text:?}");
        }
        let turns = records.iter().map(|record| &record.turns[0]);
        let texts: Vec<_> = turns.flat_map(|turn| [ids(&turn.request), ids(&turn.response)]).collect();
        family.alpaca.check(&format!("{name} on Alpaca"), &texts);
        let code: Vec<_> = snippets.iter().map(|text| ids(text)).collect();
        family.code.check(&format!("{name} on code"), &code);
        let (samples, supervised) = sampled(&records, &tokenizer);
        family.templated.check(&format!("{name} through the template"), &samples);
        assert_eq!(Some(supervised), family.templated.supervised, "{name}");
        assert!(samples.iter().all(|ids| ids.iter().filter(|&&id| id == 1).count() == 1), "BOS once");
        let prompts: Vec<_> =
            records.iter().map(|record| encode_prompt(record, &tokenizer).unwrap()).collect();
        family.prompts.check(&format!("{name} prompts"), &prompts);
    }
}

#[test]
fn instruct_v3_gives_the_samples_of_the_alpaca_records_it_was_made_from() {
    let Some(shared) = shared("instruct-v3 against its sources") else { return };
    let read = |name| read_file(&shared.join(name), Format::Auto, Strictness::Strict).unwrap();
    let (alpaca, _) = read("alpaca-999.json");
    let (framed, report) = read("instruct-v3-schema.parquet");
    assert_eq!((report.kept, report.dropped, report.unstripped_prompts), (2318, 0, 0));
    let from_alpaca: Vec<_> =
        framed.iter().filter(|record| record.source.as_deref() == Some("alpaca")).collect();
    assert_eq!(from_alpaca.len(), alpaca.len());
    for (framed, alpaca) in from_alpaca.into_iter().zip(&alpaca) {
        assert_eq!(framed.turns, alpaca.turns, "{} and {}", framed.origin, alpaca.origin);
    }
}

#[test]
fn the_trained_checkpoints_tokenizer_serves_a_whole_run() {
    let Some(shared) = shared("tinystories-656k on Alpaca") else { return };
    let tokenizer = Tokenizer::from_folder(&shared.join("tinystories-656k")).unwrap();
    assert_eq!((tokenizer.special().bos, tokenizer.special().eos), (Some(1), Some(2)));
    assert_eq!(tokenizer.vocabulary_size(), 2048);
    let (records, _) = read_file(&shared.join("alpaca-999.json"), Format::Auto, Strictness::Strict).unwrap();
    let limits = Limits { max_seq_length: 512, ..Limits::default() };
    let prepared = prepare(&records, &tokenizer, &Template::Study, &limits, None, &|_| {}).unwrap();
    let counts = prepared.report.total;
    assert_eq!(counts.kept + counts.request_too_long + counts.nothing_supervised, 999);
    assert!(counts.truncated > 0 && prepared.lengths().iter().all(|&length| length <= 512));
    eprintln!("tinystories-656k on alpaca-999 at 512: {counts:?}");
}

/// 2,318 records of instruct-v3's schema that were made of 999 of Alpaca and 1,319 of GSM8K: every Alpaca record of the one
/// file stands in the other.
#[test]
fn a_merged_collection_is_not_measured_on_what_it_was_merged_from() {
    let Some(data) = shared("a_merged_collection_is_not_measured_on_what_it_was_merged_from") else { return };
    let (alpaca, merged) = (data.join("alpaca-999.json"), data.join("instruct-v3-schema.parquet"));
    let (mut records, _) = read_file(&alpaca, Format::Auto, Strictness::Strict).unwrap();
    let trained = records.len();
    records.extend(read_file(&merged, Format::Auto, Strictness::Strict).unwrap().0);
    let mut split =
        Split { train: (0..trained).collect(), test: (trained..records.len()).collect(), ..Split::default() };
    assert_eq!((trained, split.set_repeats_aside(&records)), (999, 999));
    assert_eq!(split.test.len(), 1319);
}
