//! The template against a second writing of it, and every kind of record it must render.

use ferrotune_data::{Preamble, Record, Turn, template};
use serde::Deserialize;

use crate::inputs::golden_json;

#[derive(Deserialize)]
struct Pair {
    request: String,
    response: String,
    text: String,
    prompt: String,
}

#[test]
fn every_pair_renders_as_the_second_writing_of_the_template() {
    let pairs: Vec<Pair> = golden_json("pairs.json");
    assert_eq!(pairs.len(), 10);
    for pair in pairs {
        let record = Record::new(&pair.request, &pair.response, 1);
        let rendered = template::render(&record);
        let [segment] = rendered.segments.as_slice() else {
            panic!("one turn, {} segments", rendered.segments.len())
        };
        assert_eq!(segment.text, pair.text);
        assert_eq!(segment.text[segment.request.clone()], pair.request);
        assert_eq!(segment.text[segment.response.clone()], pair.response);
        assert_eq!(segment.response.start, pair.prompt.len());
        assert_eq!(template::prompt(&pair.request), pair.prompt);
        let prompt = template::render_prompt(&record);
        assert_eq!(prompt.segments[0].text, pair.prompt);
        assert!(prompt.segments[0].response.is_empty());
    }
}

#[test]
fn an_unstrippable_prompt_goes_in_without_the_preamble() {
    let mut record = Record::new("### Question: why?", "So.", 1);
    record.preamble = Preamble::Omitted;
    assert_eq!(template::render(&record).segments[0].text, "[INST] ### Question: why? [/INST]\n\nSo.");
}

#[test]
fn a_conversation_has_one_segment_a_turn_and_the_preamble_once() {
    let mut record = Record::new("Hi.", "Hello.", 1);
    record.turns.push(Turn { request: "Name a colour.".into(), response: "Blue.".into() });
    let texts: Vec<String> =
        template::render(&record).segments.into_iter().map(|segment| segment.text).collect();
    assert_eq!(
        texts,
        [
            format!("[INST] {}\n\nHi. [/INST]\n\nHello.", template::PREAMBLE),
            "[INST] Name a colour. [/INST]\n\nBlue.".to_owned(),
        ]
    );
    let prompt = template::render_prompt(&record).segments;
    assert_eq!(prompt[0].text, texts[0]);
    assert_eq!(prompt[1].text, "[INST] Name a colour. [/INST]\n\n");
}

#[test]
fn a_system_message_takes_the_preambles_place() {
    let mut record = Record::new("Name a prime.", "Seven.", 1);
    record.system = Some("Be brief.".into());
    assert_eq!(
        template::render(&record).segments[0].text,
        "[INST] Be brief.\n\nName a prime. [/INST]\n\nSeven."
    );
}
