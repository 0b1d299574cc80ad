//! The rules of ragas, version by version.
//!
//! *Source*: `_answer_correctness.py` of v0.1.7, v0.1.9 and 0.4.3, `collections/answer_correctness/metric.py` of 0.4.3, and
//! the output parsers beside them.

use serde_json::Value;

use super::{
    Counts, Factuality, expected_bytes,
    langchain::{self, Escape},
    sentences::sentences,
    with_question,
};
use crate::{
    Failure, Pair,
    judge::{Conversation, Interview, Plan, Planned, Question, ReplyFormat, Stop, judge_reply},
    judged::{prompt::Prompt, reply::quoted},
};

/// What 0.1.x and 0.4 allow before they give up.
const REPAIRS_01: u32 = 1;
const REPAIRS_04: u32 = 3;

const CLASSIFICATION_017: Prompt = Prompt {
    purpose: "ragas_classification",
    before: "Compare an answer to a question with the ground truth, statement by statement. Put each statement into exactly \
one list: TP for a statement that is in both, FP for a statement of the answer that is not in the ground truth, FN for a \
statement of the ground truth that the answer lacks. Compare only what is there, without interpretation.",
    after: "Reply with JSON and nothing else:\n{\"TP\": [\"statement\", …], \"FP\": [\"statement\", …], \"FN\": \
[\"statement\", …]}",
    format: ReplyFormat::JsonObject,
};

const ANSWER_019: Prompt = Prompt {
    purpose: "ragas_answer_statements",
    before: "The numbered sentences of an answer to a question follow. Break each of them down into one or more statements \
that can be understood without the others, with names instead of pronouns.",
    after: "Reply with JSON and nothing else, one entry per sentence:\n[{\"sentence_index\": 0, \"simpler_statements\": \
[\"statement\", …]}, …]",
    format: ReplyFormat::Text,
};

const TRUTH_019: Prompt = Prompt { purpose: "ragas_truth_statements", ..ANSWER_019 };

const ANSWER_04: Prompt = Prompt {
    purpose: "ragas_answer_statements",
    before: "Break an answer to a question down into statements, sentence by sentence. Each statement can be understood \
without the others, with names instead of pronouns.",
    after: "Reply with JSON and nothing else:\n{\"statements\": [\"statement\", …]}",
    format: ReplyFormat::JsonObject,
};

const TRUTH_04: Prompt = Prompt { purpose: "ragas_truth_statements", ..ANSWER_04 };

const CLASSIFICATION: Prompt = Prompt {
    purpose: "ragas_classification",
    before: "Statements of an answer to a question and of the ground truth follow. Put each statement into exactly one list, \
with a reason: TP for a statement of the answer that statements of the ground truth directly support, FP for a statement of \
the answer that they do not, FN for a statement of the ground truth that the answer lacks.",
    after: "Reply with JSON and nothing else:\n{\"TP\": [{\"statement\": \"…\", \"reason\": \"…\"}, …], \"FP\": [{\"statement\": \
\"…\", \"reason\": \"…\"}, …], \"FN\": [{\"statement\": \"…\", \"reason\": \"…\"}, …]}",
    format: ReplyFormat::JsonObject,
};

pub(super) const PROMPTS_017: [Prompt; 1] = [CLASSIFICATION_017];
pub(super) const PROMPTS_019: [Prompt; 3] = [ANSWER_019, TRUTH_019, CLASSIFICATION];
pub(super) const PROMPTS_04: [Prompt; 3] = [ANSWER_04, TRUTH_04, CLASSIFICATION];

const REPAIR_01: &str = "That completion does not satisfy the constraints of the prompt. Reply with one that does, and \
nothing else.";
const REPAIR_04: &str = "That output does not satisfy the constraints of the prompt. Repair it, and reply with the repaired \
output as a string in JSON and nothing else:\n{\"text\": \"…\"}";

pub(super) fn count_017(interview: &Interview<'_>, pair: &Pair, reference: &str) -> Result<Factuality, Stop> {
    let question = classification_017(pair, reference);
    let counts = ask_01(interview, &question, |reply| counts_of(reply, is_string_of_pydantic_1))?;
    counts.map(Factuality::Counted).ok_or_else(|| nan("classification").into())
}

pub(super) fn count_019(interview: &Interview<'_>, pair: &Pair, reference: &str) -> Result<Factuality, Stop> {
    let answer = statements_019(interview, &ANSWER_019, pair, &pair.prediction)?;
    let truth = statements_019(interview, &TRUTH_019, pair, reference)?;
    compare_019(interview, pair, &answer, &truth)
}

/// The statements of each sentence. What could not be parsed is taken for none.
fn statements_019(
    interview: &Interview<'_>,
    prompt: &Prompt,
    pair: &Pair,
    text: &str,
) -> Result<Vec<Vec<String>>, Stop> {
    let found = ask_01(interview, &sentences_019(prompt, pair, text), statements_of_019)?;
    Ok(found.unwrap_or_default())
}

fn compare_019(
    interview: &Interview<'_>,
    pair: &Pair,
    answer: &[Vec<String>],
    truth: &[Vec<String>],
) -> Result<Factuality, Stop> {
    if answer.is_empty() && truth.is_empty() {
        return Ok(Factuality::NothingToCompare);
    }
    let question = classification(pair, &answer.concat(), &truth.concat());
    let counts = ask_01(interview, &question, |reply| counts_of(reply, is_dict_of_pydantic_1))?;
    counts.map(Factuality::Counted).ok_or_else(|| nan("classification").into())
}

/// The two classes of 0.4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class04 {
    Legacy,
    Collections,
}

pub(super) fn count_04(
    class: Class04,
    interview: &Interview<'_>,
    pair: &Pair,
    reference: &str,
) -> Result<Factuality, Stop> {
    let answer = statements_04(interview, &ANSWER_04, pair, &pair.prediction)?;
    let truth = statements_04(interview, &TRUTH_04, pair, reference)?;
    compare_04(class, interview, pair, &answer, &truth)
}

fn statements_04(
    interview: &Interview<'_>,
    prompt: &Prompt,
    pair: &Pair,
    text: &str,
) -> Result<Vec<String>, Stop> {
    let found = ask_04(interview, &text_question(prompt, pair, text), strings_in("statements"))?;
    found.ok_or_else(|| nan(prompt.purpose).into())
}

fn compare_04(
    class: Class04,
    interview: &Interview<'_>,
    pair: &Pair,
    answer: &[String],
    truth: &[String],
) -> Result<Factuality, Stop> {
    let (no_answer, no_truth) = (answer.is_empty(), truth.is_empty());
    let is_perfect = match class {
        Class04::Legacy => no_answer && no_truth,
        Class04::Collections => no_answer || no_truth,
    };
    if is_perfect {
        return Ok(Factuality::NothingToCompare);
    }
    let question = classification(pair, answer, truth);
    let counts = ask_04(interview, &question, |reply| counts_of(reply, is_reasoned_statement))?;
    counts.map(Factuality::Counted).ok_or_else(|| nan("classification").into())
}

pub(super) fn plan_017(plan: &mut Plan<'_>, pair: &Pair, reference: &str) -> Option<()> {
    plan.settle(REPAIRS_01, |interview| count_017(interview, pair, reference)).map(|_| ())
}

pub(super) fn plan_019(plan: &mut Plan<'_>, pair: &Pair, reference: &str) -> Option<()> {
    let mut statements =
        |prompt, text| plan.settle(REPAIRS_01, |interview| statements_019(interview, prompt, pair, text));
    let (answer, truth) = (statements(&ANSWER_019, &pair.prediction)?, statements(&TRUTH_019, reference)?);
    plan_comparison(plan, REPAIRS_01, (pair, reference), (answer, truth), |interview, answer, truth| {
        compare_019(interview, pair, &answer, &truth)
    })
}

pub(super) fn plan_04(class: Class04, plan: &mut Plan<'_>, pair: &Pair, reference: &str) -> Option<()> {
    let mut statements =
        |prompt, text| plan.settle(REPAIRS_04, |interview| statements_04(interview, prompt, pair, text));
    let (answer, truth) = (statements(&ANSWER_04, &pair.prediction)?, statements(&TRUTH_04, reference)?);
    plan_comparison(plan, REPAIRS_04, (pair, reference), (answer, truth), |interview, answer, truth| {
        compare_04(class, interview, pair, &answer, &truth)
    })
}

/// The last question, which is not known before the statements of both texts are.
fn plan_comparison<S>(
    plan: &mut Plan<'_>,
    repairs: u32,
    (pair, reference): (&Pair, &str),
    statements: (Planned<S>, Planned<S>),
    compare: impl FnOnce(&Interview<'_>, S, S) -> Result<Factuality, Stop>,
) -> Option<()> {
    match statements {
        (Planned::Known(answer), Planned::Known(truth)) => {
            plan.settle(repairs, |interview| compare(interview, answer, truth)).map(|_| ())
        }
        _ => {
            plan.expect(expected_bytes(&CLASSIFICATION, &[&pair.prediction, reference]), repairs);
            Some(())
        }
    }
}

fn classification_017(pair: &Pair, reference: &str) -> Question {
    let pieces = [("ANSWER", pair.prediction.as_str()), ("GROUND TRUTH", reference)];
    CLASSIFICATION_017.ask(&with_question(pair, &pieces))
}

fn text_question(prompt: &Prompt, pair: &Pair, text: &str) -> Question {
    prompt.ask(&with_question(pair, &[("ANSWER", text)]))
}

/// Only the sentences that end in a full stop are numbered, each with the space behind it.
fn sentences_019(prompt: &Prompt, pair: &Pair, text: &str) -> Question {
    let kept = sentences(text).into_iter().filter(|sentence| sentence.trim().ends_with('.'));
    let numbered: Vec<String> = kept.enumerate().map(|(i, sentence)| format!("{i}:{sentence}")).collect();
    let numbered = numbered.join("\n");
    prompt.ask(&with_question(pair, &[("ANSWER", text), ("SENTENCES", &numbered)]))
}

fn classification(pair: &Pair, answer: &[String], truth: &[String]) -> Question {
    let list = |statements: &[String]| Value::from(statements.to_vec()).to_string();
    let (answer, truth) = (list(answer), list(truth));
    CLASSIFICATION.ask(&with_question(pair, &[("ANSWER", &answer), ("GROUND TRUTH", &truth)]))
}

/// A row that ragas calls NaN.
fn nan(what: &str) -> Failure {
    judge_reply(format!(
        "the reply to {what} could not be parsed, repairs included; ragas gives such a row NaN"
    ))
}

/// Asks, parses, and asks for a repair as often as ragas 0.1 does; `None` if nothing could be parsed.
fn ask_01<T>(
    interview: &Interview<'_>,
    question: &Question,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, Stop> {
    let found = interview.converse(question, |conversation| {
        let mut reply = conversation.ask(question)?.text;
        for repairs_left in (0..=REPAIRS_01).rev() {
            if let Some(value) = langchain::parse(&reply, Escape::Kept).as_ref().and_then(&read) {
                return Ok(Ok(value));
            }
            conversation.count_unusable();
            tracing::debug!(reply = quoted(&reply), "not parsed by the rules of ragas 0.1");
            if repairs_left > 0 {
                // The prompt and the bad completion are sent back.
                reply = conversation.ask(&question.continued(&reply, REPAIR_01.to_owned()))?.text;
            }
        }
        Ok(Err(()))
    })?;
    Ok(found.ok())
}

/// The same by the rules of 0.4: a repair is itself a reply of a schema, with repairs of its own, and the text in it is
/// parsed once.
fn ask_04<T>(
    interview: &Interview<'_>,
    question: &Question,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, Stop> {
    let found = interview.converse(question, |conversation| {
        let reply = conversation.ask(question)?.text;
        if let Some(value) = parse_04(&reply).as_ref().and_then(&read) {
            return Ok(Ok(value));
        }
        conversation.count_unusable();
        let repaired = repair_04(conversation, question, &reply, REPAIRS_04)?;
        let repaired = repaired.and_then(|text| langchain::parse(&text, Escape::Removed));
        Ok(repaired.as_ref().and_then(&read).ok_or(()))
    })?;
    Ok(found.ok())
}

/// The repaired text, if the judge gives one within so many attempts.
fn repair_04(
    conversation: &Conversation<'_>,
    question: &Question,
    reply: &str,
    attempts: u32,
) -> Result<Option<String>, Stop> {
    if attempts == 0 {
        return Ok(None);
    }
    let question = question.continued(reply, REPAIR_04.to_owned());
    let reply = conversation.ask(&question)?.text;
    let text = |value: &Value| value.get("text")?.as_str().map(str::to_owned);
    if let Some(text) = parse_04(&reply).as_ref().and_then(text) {
        return Ok(Some(text));
    }
    conversation.count_unusable();
    let repaired = repair_04(conversation, &question, &reply, attempts - 1)?;
    Ok(repaired.and_then(|repaired| langchain::parse(&repaired, Escape::Removed)).as_ref().and_then(text))
}

fn parse_04(reply: &str) -> Option<Value> {
    langchain::parse(langchain::first_block(reply), Escape::Removed)
}

/// The lengths of the three lists, if all are there and hold what they must.
fn counts_of(reply: &Value, is_entry: fn(&Value) -> bool) -> Option<Counts> {
    let length = |list: &str| {
        let list = reply.get(list)?.as_array()?;
        list.iter().all(is_entry).then_some(list.len())
    };
    Some(Counts { tp: length("TP")?, fp: length("FP")?, fn_: length("FN")? })
}

/// `List[Statements]` of 0.1.9, as pydantic 1 reads it: the statements of each sentence.
fn statements_of_019(reply: &Value) -> Option<Vec<Vec<String>>> {
    let list = match reply {
        Value::Object(object) if object.len() == 1 => object.get("__root__")?,
        other => other,
    };
    list.as_array()?
        .iter()
        .map(|entry| {
            let index = entry.get("sentence_index")?;
            let is_integer = match index {
                Value::Number(_) | Value::Bool(_) => true,
                Value::String(text) => text.trim().parse::<i64>().is_ok(),
                _ => false,
            };
            let statements = entry.get("simpler_statements")?.as_array()?;
            let statements: Option<Vec<String>> = statements.iter().map(string_of_pydantic_1).collect();
            statements.filter(|_| is_integer)
        })
        .collect()
}

fn strings_in(field: &'static str) -> impl Fn(&Value) -> Option<Vec<String>> {
    move |reply| {
        let list = reply.get(field)?.as_array()?;
        list.iter().map(|entry| entry.as_str().map(str::to_owned)).collect()
    }
}

/// pydantic 1 makes strings of numbers and truth values.
fn string_of_pydantic_1(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn is_string_of_pydantic_1(value: &Value) -> bool {
    string_of_pydantic_1(value).is_some()
}

/// pydantic 1 makes dictionaries of whatever Python's `dict` takes; of JSON that is an object, or something empty.
fn is_dict_of_pydantic_1(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn is_reasoned_statement(value: &Value) -> bool {
    ["statement", "reason"].iter().all(|field| value.get(field).is_some_and(Value::is_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(reply: &str) -> Option<(usize, usize, usize)> {
        let value = langchain::parse(reply, Escape::Kept)?;
        counts_of(&value, is_dict_of_pydantic_1).map(|c| (c.tp, c.fp, c.fn_))
    }

    /// The parser's behaviour as the reference states it for 0.1.9; the golden files have it for many more replies.
    #[test]
    fn replies_are_parsed_as_leniently_as_in_0_1_9() {
        let entry = r#"{"statement": "s", "reason": "r"}"#;
        let bare = format!(r#"{{"TP": [{entry}], "FP": [], "FN": [{entry}, {entry}]}}"#);
        let cut = format!(r#"{{"TP": [{entry}], "FP": [], "FN":["#);
        for (reply, expected) in [
            (bare.clone(), Some((1, 0, 2))),
            (format!("```json\n{bare}\n```"), Some((1, 0, 2))),
            (format!("Here it is:\n```json\n{bare}\n```"), Some((1, 0, 2))),
            (cut, Some((1, 0, 0))),
            (bare.replace("\"TP\"", "\"note\": 1, \"TP\""), Some((1, 0, 2))),
            (bare.replace("\"FN\"", "\"fn\""), None),
            (bare.replace('"', "'"), None),
            (r#"{"TP": ["a"], "FP": [], "FN": []}"#.to_owned(), None),
            ("prose".to_owned(), None),
        ] {
            assert_eq!(counts(&reply), expected, "{reply}");
        }
        let strings = r#"{"TP": ["a"], "FP": [], "FN": [1]}"#;
        let value = langchain::parse(strings, Escape::Kept).unwrap();
        assert!(counts_of(&value, is_string_of_pydantic_1).is_some(), "0.1.7 asks for strings");
    }

    #[test]
    fn the_first_block_of_0_4_3_is_fooled_by_braces_in_strings() {
        for (reply, block) in [
            (r#"{"a": "}"}"#, r#"{"a": "}"#),
            ("so: {\"a\": {}} and {}", "{\"a\": {}}"),
            ("[x] ```json\n{\"a\": 1}\n```", "{\"a\": 1}"),
            ("{\"a\": 1", "{\"a\": 1"),
            ("no block", "no block"),
        ] {
            assert_eq!(langchain::first_block(reply), block);
        }
    }
}
