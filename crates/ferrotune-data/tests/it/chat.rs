//! Chat templates against transformers, and folders that have none or a broken one.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use ferrotune_core::{Message, PromptTemplate as _, Role, Tokenize as _};
use ferrotune_data::{
    ChatTemplate, Encoded, Error, GenerationPrompt, Limits, Record, StudyTemplate, Template, Tokenizer, Turn,
};
use serde_json::{Value, json};

use crate::inputs::{golden_json, sentencepiece, shared};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/chat/chat.json")).unwrap()
}

fn conversation(value: &Value) -> Vec<Message> {
    let role = |name: &str| match name {
        "system" => Role::System,
        "user" => Role::User,
        _ => Role::Assistant,
    };
    let message = |turn: &Value| Message::new(role(turn[0].as_str().unwrap()), turn[1].as_str().unwrap());
    value.as_array().unwrap().iter().map(message).collect()
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let golden = golden();
    let special: BTreeMap<String, String> = serde_json::from_value(golden["special"].clone()).unwrap();
    for (name, case) in golden["templates"].as_object().unwrap() {
        let template = ChatTemplate::new(case["source"].as_str().unwrap(), special.clone()).unwrap();
        for (index, turns) in golden["conversations"].as_array().unwrap().iter().enumerate() {
            let messages = conversation(turns);
            let ways = [GenerationPrompt::Omitted, GenerationPrompt::Added];
            for (way, expected) in ways.into_iter().zip(case["texts"][index].as_array().unwrap()) {
                let found = template.render(&messages, way);
                match expected.as_str() {
                    Some(expected) => {
                        assert_eq!(found.unwrap(), expected, "{name}, conversation {index}, {way:?}")
                    }
                    None => {
                        let error = found.unwrap_err();
                        assert!(
                            matches!(error, Error::ChatTemplate { .. }),
                            "{name}, conversation {index}: {error}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_a_template_says_is_passed_on() {
    let source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}";
    let template = ChatTemplate::new(source, BTreeMap::new()).unwrap();
    let error = template.prompt(&[Message::new(Role::System, "s")]).unwrap_err().to_string();
    assert!(error.contains("no system here"), "{error}");
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

#[test]
fn a_folder_may_have_a_template_in_either_place_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(ChatTemplate::open(path).unwrap().is_none());
    write(path, "tokenizer_config.json", &json!({"bos_token": "<s>", "chat_template": null}).to_string());
    assert!(ChatTemplate::open(path).unwrap().is_none());

    let ask = || ChatTemplate::open(path).unwrap().unwrap().prompt(&[Message::new(Role::User, "u")]).unwrap();
    let config =
        json!({"bos_token": {"content": "<s>", "special": true}, "chat_template": "A{{ bos_token }}"});
    write(path, "tokenizer_config.json", &config.to_string());
    assert_eq!(ask(), "A<s>");
    let named = json!([{"name": "tools", "template": "no"}, {"name": "default", "template": "B{{ messages[0].content }}"}]);
    write(path, "tokenizer_config.json", &json!({"chat_template": named}).to_string());
    assert_eq!(ask(), "Bu");
    write(path, "special_tokens_map.json", &json!({"eos_token": "</s>"}).to_string());
    write(path, "chat_template.jinja", "C{{ eos_token }}\n");
    assert_eq!(ask(), "C</s>");
}

#[test]
fn broken_templates_are_errors_and_loops_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "tokenizer_config.json", &json!({"chat_template": 3}).to_string());
    assert!(matches!(ChatTemplate::open(path), Err(Error::TokenizerFile { .. })));
    write(path, "tokenizer_config.json", &json!({"chat_template": []}).to_string());
    let error = ChatTemplate::open(path).unwrap_err().to_string();
    assert!(error.contains("without one named `default`"), "{error}");
    write(path, "chat_template.jinja", "{% for m in messages %}");
    let error = ChatTemplate::open(path).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja` fails"), "{error}");

    let endless =
        "{% for a in range(10000) %}{% for b in range(10000) %}{% set c = a + b %}{% endfor %}{% endfor %}";
    let template = ChatTemplate::new(endless, BTreeMap::new()).unwrap();
    assert!(template.prompt(&[]).is_err());
    let unknown = ChatTemplate::new("{{ messages.nonsense() }}", BTreeMap::new()).unwrap();
    assert!(unknown.prompt(&[]).is_err());
}

#[test]
fn the_time_of_a_template_is_this_machines() {
    let template = ChatTemplate::new("{{ strftime_now('%Y') }}", BTreeMap::new()).unwrap();
    let year: u32 = template.prompt(&[]).unwrap().parse().unwrap();
    assert!(year >= 2024);
    let wrong = ChatTemplate::new("{{ strftime_now('%Q') }}", BTreeMap::new()).unwrap();
    assert!(wrong.prompt(&[]).is_err());
}

#[test]
fn templates_with_another_text_or_other_tokens_have_another_fingerprint() {
    let of = |source, bos: &str| {
        let special = [("bos_token".to_owned(), bos.to_owned())].into();
        ChatTemplate::new(source, special).unwrap().fingerprint().to_owned()
    };
    assert_eq!(of("a", "<s>"), of("a", "<s>"));
    assert_ne!(of("a", "<s>"), of("b", "<s>"));
    assert_ne!(of("a", "<s>"), of("a", "<t>"));
}

#[test]
fn the_study_s_template_takes_one_request() {
    let text = StudyTemplate.prompt(&[Message::new(Role::User, "Name a prime.")]).unwrap();
    assert_eq!(text, ferrotune_data::template::prompt("Name a prime."));
    let messages = [Message::new(Role::System, "s"), Message::new(Role::User, "u")];
    assert!(StudyTemplate.prompt(&messages).is_err());
}

#[test]
fn spelt_special_tokens_are_ids_in_markup_and_text_elsewhere() {
    let Some(data) = shared("ids of markup") else { return };
    let tokenizer = Tokenizer::from_folder(&data.join("tinystories-656k")).unwrap();
    for case in golden()["markup"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case[1].clone()).unwrap();
        assert_eq!(tokenizer.encode_markup(text).unwrap().ids, expected, "{text}");
        let ids = tokenizer.encode(text).unwrap().ids;
        assert!(ids.iter().all(|id| *id > 2), "{text}: {ids:?}");
    }
}

/// The special tokens of the LLaMA-shaped tokenizer.
fn special() -> BTreeMap<String, String> {
    [("bos_token", "<s>"), ("eos_token", "</s>")]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into()
}

fn chat(source: &str) -> Template {
    Template::Chat(Arc::new(ChatTemplate::new(source, special()).unwrap()))
}

fn record(turns: &[[&str; 2]]) -> Record {
    let turn =
        |[request, response]: &[&str; 2]| Turn { request: (*request).into(), response: (*response).into() };
    Record { turns: turns.iter().map(turn).collect(), ..Record::new("", "", 1) }
}

/// The ids and the text that is learnt, turns parted by a bar.
fn learnt(template: &Template, record: &Record) -> (Vec<u32>, String) {
    let tokenizer = sentencepiece();
    let Encoded::Kept(sample) = template.encode(record, &tokenizer, &Limits::default()).unwrap() else {
        panic!("left out")
    };
    let mut text = String::new();
    let mut turn = Vec::new();
    for (place, &id) in sample.ids.iter().enumerate() {
        if sample.supervised[place] {
            turn.push(id);
        }
        if !turn.is_empty() && !sample.supervised.get(place + 1).copied().unwrap_or(false) {
            let end = if turn.last() == tokenizer.special().eos.as_ref() { "</s>" } else { "" };
            text.push_str(&format!("{}{end}|", tokenizer.decode(&turn).unwrap()));
            turn.clear();
        }
    }
    (sample.ids, text)
}

#[test]
fn records_become_the_ids_that_transformers_marks_as_the_models() {
    let golden: Value = golden_json("chat/encode.json");
    let tokenizer = sentencepiece();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template = chat(golden["templates"][name].as_str().unwrap());
        let turns: Vec<[String; 2]> = serde_json::from_value(case["turns"].clone()).unwrap();
        let turns: Vec<[&str; 2]> = turns.iter().map(|[a, b]| [a.as_str(), b.as_str()]).collect();
        let record = record(&turns);
        let Encoded::Kept(sample) = template.encode(&record, &tokenizer, &Limits::default()).unwrap() else {
            panic!("{name}: left out")
        };
        assert_eq!(json!(sample.ids), case["ids"], "{name}");
        let mask: Vec<u8> = sample.supervised.iter().map(|&is| u8::from(is)).collect();
        assert_eq!(json!(mask), case["mask"], "{name}");
        assert_eq!(json!(template.encode_prompt(&record, &tokenizer).unwrap()), case["prompt"], "{name}");
    }
}

#[test]
fn answers_are_learnt_with_what_ends_them() {
    let two = record(&[["One?", "Yes."], ["Two?", "No."]]);
    let chatml = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]\n{% endfor %}\
                  {% if add_generation_prompt %}[assistant]{% endif %}";
    let (ids, text) = learnt(&chat(chatml), &two);
    assert_eq!(text, "Yes.[end]|No.[end]|");
    // BOS stands before a text whose template writes none, and nothing after the last turn's end.
    assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1);
    assert_eq!(ids[0], 1);
    let spelling = format!("{{{{ bos_token }}}}{chatml}");
    assert_eq!(learnt(&chat(&spelling), &two), (ids, text));
    // A template that ends no turn leaves the end to EOS.
    let bare = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}\
                {% if add_generation_prompt %}assistant: {% endif %}";
    let (ids, text) = learnt(&chat(bare), &record(&[["One?", " Yes. "]]));
    assert_eq!((text.as_str(), ids.last()), ("Yes.</s>|", Some(&2)));
}

#[test]
fn a_system_message_reaches_every_template() {
    let turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}";
    let refusing = format!(
        "{{% if messages[0].role == 'system' %}}{{{{ raise_exception('none') }}}}{{% endif %}}{turns}"
    );
    let dropping = turns.replace("messages %}", "messages if m.role != 'system' %}");
    let mut record = record(&[["Why?", "So."]]);
    record.system = Some("Be brief.".to_owned());
    let tokenizer = sentencepiece();
    for (source, expected) in [
        (turns, "<system>Be brief.</system><user>Why?</user>"),
        (&refusing, "<user>Be brief.\n\nWhy?</user>"),
        (&dropping, "<user>Be brief.\n\nWhy?</user>"),
    ] {
        let ids = chat(source).encode_prompt(&record, &tokenizer).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), expected);
    }
}

#[test]
fn a_template_whose_turns_cannot_be_told_apart_is_refused() {
    let counting = "{{ messages | length }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let refused = chat(counting).encode(&record(&[["Why?", "So."]]), &sentencepiece(), &Limits::default());
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("turns cannot be told"), "{message}");
}

#[test]
fn long_conversations_lose_their_end_and_long_requests_are_left_out() {
    let template = chat("{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}");
    let (tokenizer, record) = (sentencepiece(), record(&[["Why is that so?", "It is so because it is."]]));
    let encode = |max_seq_length, max_request_tokens| {
        template.encode(&record, &tokenizer, &Limits { max_seq_length, max_request_tokens }).unwrap()
    };
    let Encoded::Kept(whole) = encode(1000, 1000) else { panic!("left out") };
    let Encoded::Kept(cut) = encode(whole.ids.len() - 3, 1000) else { panic!("left out") };
    assert!(cut.truncated && !whole.truncated && whole.ids.starts_with(&cut.ids));
    assert_eq!(encode(3, 1000), Encoded::NothingSupervised);
    let tokens = tokenizer.encode("Why is that so?").unwrap().ids.len();
    assert_eq!(encode(1000, tokens), Encoded::RequestTooLong(tokens));
}
