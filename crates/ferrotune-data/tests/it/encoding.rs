//! Supervision by offsets, truncation, filtering, and how a prompt alone relates to its record.

use ferrotune_core::{Sample, Tokenize};
use ferrotune_data::{
    Encoded, Error, Limits, Record, Tokenizer, Turn, encode, encode_prompt, encode_text, template,
};
use proptest::prelude::*;
use serde::Deserialize;

use crate::inputs::{byte_level, golden_json, sentencepiece};

#[derive(Deserialize)]
struct Pair {
    request: String,
    response: String,
}

fn pairs() -> Vec<Pair> {
    golden_json("pairs.json")
}

fn kept(record: &Record, tokenizer: &Tokenizer, limits: &Limits) -> Sample {
    match encode(record, tokenizer, limits).unwrap() {
        Encoded::Kept(sample) => sample,
        other => panic!("{other:?}"),
    }
}

fn roomy() -> Limits {
    Limits { max_seq_length: 100_000, max_request_tokens: 100_000 }
}

/// The record's ids must be BOS, the ids of the one rendered text, EOS; and what is supervised must decode to
/// the response, or where a token straddles the boundary to a text that ends with it.
fn check(tokenizer: &Tokenizer, request: &str, response: &str) {
    let record = Record::new(request, response, 1);
    let sample = kept(&record, tokenizer, &roomy());
    let special = tokenizer.special();
    let segment = &template::render(&record).segments[0];
    let encoding = tokenizer.encode(&segment.text).unwrap();
    let end = sample.ids.len() - 1;
    assert_eq!(Some(sample.ids[0]), special.bos);
    assert_eq!(Some(sample.ids[end]), special.eos);
    assert_eq!(sample.ids[1..end], encoding.ids);
    assert!(!sample.supervised[0] && sample.supervised[end] && !sample.truncated);

    let mut covered = vec![false; segment.text.len()];
    for (range, &supervised) in encoding.offsets.iter().zip(&sample.supervised[1..end]) {
        if supervised {
            covered[range.clone()].fill(true);
        } else {
            assert!(
                range.end <= segment.response.start || range.is_empty(),
                "a response byte is not supervised"
            );
        }
    }
    assert!(covered[segment.response.clone()].iter().all(|&is| is));
    // Supervision is one run: once the response has begun it does not stop before EOS.
    let first = sample.supervised.iter().position(|&is| is).unwrap();
    assert!(sample.supervised[first..].iter().all(|&is| is));
    // At most one token reaches back into the prompt.
    let straddling = encoding
        .offsets
        .iter()
        .filter(|range| range.start < segment.response.start && range.end > segment.response.start);
    assert!(straddling.count() <= 1);
}

#[test]
fn supervised_tokens_cover_exactly_the_response_and_eos() {
    for tokenizer in [sentencepiece(), byte_level()] {
        for pair in pairs() {
            check(&tokenizer, &pair.request, &pair.response);
        }
    }
}

#[test]
fn a_conversation_ends_every_answer_with_eos_and_begins_once() {
    let tokenizer = sentencepiece();
    let mut record = Record::new("Hi.", "Hello.", 1);
    record.turns.push(Turn { request: "Name a colour.".into(), response: "Blue.".into() });
    let sample = kept(&record, &tokenizer, &roomy());
    assert_eq!(sample.ids.iter().filter(|&&id| id == 1).count(), 1);
    let ends: Vec<usize> = (0..sample.len()).filter(|&at| sample.ids[at] == 2).collect();
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[1], sample.len() - 1);
    assert!(ends.iter().all(|&end| sample.supervised[end]));
    let learnt = |range: std::ops::Range<usize>| {
        let ids: Vec<u32> = range.filter(|&at| sample.supervised[at]).map(|at| sample.ids[at]).collect();
        tokenizer.decode(&ids).unwrap()
    };
    assert_eq!(learnt(0..ends[0]), "Hello.");
    assert_eq!(learnt(ends[0] + 1..ends[1]), "Blue.");
    // The history of a prompt is the record up to its last answer.
    let prompt = encode_prompt(&record, &tokenizer).unwrap();
    assert_eq!(prompt, sample.ids[..prompt.len()]);
    assert!(!sample.supervised[prompt.len() - 1] && sample.supervised[prompt.len()]);
}

#[test]
fn a_prompt_is_a_prefix_of_its_record_where_no_piece_holds_a_line_break() {
    let tokenizer = sentencepiece();
    for pair in pairs() {
        let record = Record::new(pair.request, pair.response, 1);
        let sample = kept(&record, &tokenizer, &roomy());
        let prompt = encode_prompt(&record, &tokenizer).unwrap();
        assert_eq!(prompt, sample.ids[..prompt.len()]);
        assert_eq!(sample.supervised.iter().position(|&is| is), Some(prompt.len()));
    }
}

#[test]
fn where_pieces_hold_line_breaks_the_straddling_token_is_learnt() {
    let tokenizer = byte_level();
    let record = Record::new("Begin with a line break.", "\nafter", 1);
    let segment = &template::render(&record).segments[0];
    let sample = kept(&record, &tokenizer, &roomy());
    let prompt = encode_prompt(&record, &tokenizer).unwrap();
    assert_ne!(prompt, sample.ids[..prompt.len()], "this tokenizer should merge across the boundary");
    let encoding = tokenizer.encode(&segment.text).unwrap();
    let start = segment.response.start;
    let straddling =
        encoding.offsets.iter().position(|range| range.start < start && range.end > start).unwrap();
    assert!(sample.supervised[straddling + 1]);
    assert!(!sample.supervised[straddling]);
    // Joining separately tokenized parts would have given other ids: pitfall 18.
    let parts: Vec<u32> =
        prompt[1..].iter().copied().chain(tokenizer.encode("\nafter").unwrap().ids).collect();
    assert_ne!(parts, encoding.ids);
}

#[test]
fn a_long_record_keeps_its_start_and_loses_eos() {
    let tokenizer = sentencepiece();
    let record = Record::new("Name a prime.", "Seven is a prime, and eleven is one too.", 1);
    let whole = kept(&record, &tokenizer, &roomy());
    let prompt = encode_prompt(&record, &tokenizer).unwrap().len();
    for max_seq_length in prompt + 1..whole.len() {
        let cut = kept(&record, &tokenizer, &Limits { max_seq_length, ..roomy() });
        assert!(cut.truncated);
        assert_eq!(cut.ids, whole.ids[..max_seq_length]);
        assert_eq!(cut.supervised, whole.supervised[..max_seq_length]);
        assert!(!cut.ids.contains(&2));
    }
    let exact = kept(&record, &tokenizer, &Limits { max_seq_length: whole.len(), ..roomy() });
    assert_eq!(exact, whole);
    for max_seq_length in 2..=prompt {
        let outcome = encode(&record, &tokenizer, &Limits { max_seq_length, ..roomy() }).unwrap();
        assert_eq!(outcome, Encoded::NothingSupervised);
    }
}

#[test]
fn the_length_filter_counts_the_tokens_of_the_request_alone() {
    let tokenizer = sentencepiece();
    // Requests of digits: this tokenizer splits digits, so a request of n digits has n tokens, and the space
    // before it belongs to no digit. The first line follows a line break, so no word mark precedes it.
    let record = Record::new("1".repeat(20), "Done.", 1);
    let with =
        |max_request_tokens| encode(&record, &tokenizer, &Limits { max_request_tokens, ..roomy() }).unwrap();
    assert_eq!(with(20), Encoded::RequestTooLong(20));
    assert!(matches!(with(21), Encoded::Kept(_)));
}

#[test]
fn a_plain_text_is_learnt_whole() {
    let tokenizer = sentencepiece();
    let text = "The kettle sings.";
    let sample = encode_text(text, &tokenizer, 1024).unwrap();
    assert_eq!((sample.ids[0], *sample.ids.last().unwrap()), (1, 2));
    assert_eq!(sample.ids[1..sample.len() - 1], tokenizer.encode(text).unwrap().ids);
    assert_eq!(sample.supervised_tokens(), sample.len() - 1);
    let cut = encode_text(text, &tokenizer, 4).unwrap();
    assert!(cut.truncated && cut.ids == sample.ids[..4]);
}

#[test]
fn a_tokenizer_without_eos_and_limits_without_room_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = crate::inputs::golden("sentencepiece/tokenizer.json");
    std::fs::copy(source, folder.path().join("tokenizer.json")).unwrap();
    let bare = Tokenizer::from_folder(folder.path()).unwrap();
    let record = Record::new("a", "b", 1);
    let refused = encode(&record, &bare, &roomy()).unwrap_err();
    assert!(matches!(refused, Error::MissingSpecialToken { role: "bos" }), "{refused}");
    let refused = encode(&record, &sentencepiece(), &Limits { max_seq_length: 1, ..roomy() }).unwrap_err();
    assert!(refused.to_string().starts_with("max_seq_length is 1, expected at least 2"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_response_is_supervised_to_the_byte(request in "\\PC{1,30}", response in "[ \n\ta-zA-Z0-9é東🦀</s>\\[\\]]{1,40}") {
        for tokenizer in [sentencepiece(), byte_level()] {
            check(&tokenizer, &request, &response);
        }
    }

    #[test]
    fn truncation_keeps_a_prefix(request in "\\PC{1,30}", response in "\\PC{1,60}", max_seq_length in 2usize..300) {
        let tokenizer = sentencepiece();
        let record = Record::new(request, response, 1);
        let whole = kept(&record, &tokenizer, &roomy());
        match encode(&record, &tokenizer, &Limits { max_seq_length, ..roomy() }).unwrap() {
            Encoded::Kept(cut) => {
                prop_assert_eq!(cut.truncated, whole.len() > max_seq_length);
                prop_assert!(cut.len() <= max_seq_length);
                prop_assert_eq!(&cut.ids[..], &whole.ids[..cut.len()]);
                prop_assert_eq!(&cut.supervised[..], &whole.supervised[..cut.len()]);
                prop_assert!(cut.supervised_tokens() > 0);
            }
            Encoded::NothingSupervised => {
                prop_assert!(whole.supervised[1..max_seq_length.min(whole.len())].iter().all(|&is| !is));
            }
            Encoded::RequestTooLong(tokens) => prop_assert!(false, "request of {} tokens", tokens),
        }
    }
}
