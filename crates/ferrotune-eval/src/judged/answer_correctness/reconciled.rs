//! Our own rules: what is classified is what was submitted, each statement once.

use serde::Deserialize;

use super::{Counts, expected_bytes, with_question};
use crate::{
    Failure, FailureKind, Pair,
    judge::{Interview, Plan, Planned, Question, ReplyFormat, Stop, judge_reply},
    judged::{prompt::Prompt, reply::read_object},
};

const ANSWER: Prompt = Prompt {
    purpose: "answer_statements",
    before: "Break an answer to a question down into statements: short, complete sentences that each claim one thing and can \
be understood without the others. Use names instead of pronouns. Keep to what the answer claims, right or wrong: add nothing, \
leave nothing out, repeat nothing. If it claims nothing at all, there are no statements.",
    after: "Reply with one JSON object and nothing else:\n{\"statements\": [\"…\", \"…\"]}",
    format: ReplyFormat::JsonObject,
};

const REFERENCE: Prompt = Prompt { purpose: "reference_statements", ..ANSWER };

const CLASSES: Prompt = Prompt {
    purpose: "statement_classes",
    before: "Two numbered lists of statements follow, taken from an answer to a question and from the reference answer, which \
is right. Decide for every statement of the answer whether the statements of the reference support it, directly or by plain \
consequence. Decide for every statement of the reference whether the statements of the answer say the same.",
    after: "Reply with one JSON object and nothing else. It has an entry for every number of both lists, each exactly once, \
with the reason before the verdict:\n{\"answer\": [{\"number\": 1, \"reason\": \"…\", \"supported\": true}, …], \
\"reference\": [{\"number\": 1, \"reason\": \"…\", \"said\": false}, …]}",
    format: ReplyFormat::JsonObject,
};

pub(super) const PROMPTS: [Prompt; 3] = [ANSWER, REFERENCE, CLASSES];

#[derive(Deserialize)]
struct Statements {
    statements: Vec<String>,
}

#[derive(Deserialize)]
struct Classes {
    answer: Vec<AnswerClass>,
    reference: Vec<ReferenceClass>,
}

#[derive(Deserialize)]
struct AnswerClass {
    number: usize,
    #[serde(rename = "reason")]
    _reason: String,
    supported: bool,
}

#[derive(Deserialize)]
struct ReferenceClass {
    number: usize,
    #[serde(rename = "reason")]
    _reason: String,
    said: bool,
}

/// The statements of both texts that are in both, or in one only.
pub(super) fn count(interview: &Interview<'_>, pair: &Pair, reference: &str) -> Result<Counts, Stop> {
    if reference.trim().is_empty() {
        let detail = "the reference is empty".to_owned();
        return Err(Failure { kind: FailureKind::EmptyText, detail }.into());
    }
    let answer = if pair.prediction.trim().is_empty() {
        Vec::new()
    } else {
        interview.ask_for(&question(&ANSWER, pair, &pair.prediction), read_statements)?
    };
    let truth = interview.ask_for(&question(&REFERENCE, pair, reference), read_statements)?;
    if truth.is_empty() {
        return Err(judge_reply("the judge found no statement in the reference").into());
    }
    if answer.is_empty() {
        return Ok(Counts { tp: 0, fp: 0, fn_: truth.len() });
    }
    interview.ask_for(&classes(pair, &answer, &truth), |reply| read_classes(reply, answer.len(), truth.len()))
}

/// Plans the questions that [`count`] would ask; the last one depends on the replies to the others.
pub(super) fn plan(plan: &mut Plan<'_>, pair: &Pair, reference: &str) -> Option<()> {
    let reasks = plan.reasks();
    if reference.trim().is_empty() {
        return None;
    }
    let mut statements = |prompt: &Prompt, text: &str| {
        plan.settle(reasks, |interview| interview.ask_for(&question(prompt, pair, text), read_statements))
    };
    let answer = if pair.prediction.trim().is_empty() {
        Planned::Known(Vec::new())
    } else {
        statements(&ANSWER, &pair.prediction)?
    };
    match (answer, statements(&REFERENCE, reference)?) {
        (_, Planned::Known(truth)) if truth.is_empty() => None,
        (Planned::Known(answer), _) if answer.is_empty() => Some(()),
        (Planned::Known(answer), Planned::Known(truth)) => {
            let question = classes(pair, &answer, &truth);
            let read = |reply: &str| read_classes(reply, answer.len(), truth.len());
            plan.settle(reasks, |interview| interview.ask_for(&question, read)).map(|_| ())
        }
        _ => {
            plan.expect(expected_bytes(&CLASSES, &[&pair.prediction, reference]), reasks);
            Some(())
        }
    }
}

fn question(prompt: &Prompt, pair: &Pair, text: &str) -> Question {
    prompt.ask(&with_question(pair, &[("ANSWER", text)]))
}

fn classes(pair: &Pair, answer: &[String], truth: &[String]) -> Question {
    let (answer, truth) = (numbered(answer), numbered(truth));
    CLASSES.ask(&with_question(
        pair,
        &[("STATEMENTS OF THE ANSWER", &answer), ("STATEMENTS OF THE REFERENCE", &truth)],
    ))
}

fn numbered(statements: &[String]) -> String {
    statements.iter().enumerate().map(|(i, s)| format!("{}. {s}", i + 1)).collect::<Vec<_>>().join("\n")
}

/// The statements of a reply, each on one line, so that none can pass for two numbers of a list.
fn read_statements(reply: &str) -> Result<Vec<String>, String> {
    let Statements { statements } = read_object(reply)?;
    statements
        .iter()
        .enumerate()
        .map(|(i, statement)| {
            let line = statement.split_whitespace().collect::<Vec<_>>().join(" ");
            if line.is_empty() { Err(format!("statement {} is empty", i + 1)) } else { Ok(line) }
        })
        .collect()
}

fn read_classes(reply: &str, answer: usize, truth: usize) -> Result<Counts, String> {
    let classes: Classes = read_object(reply)?;
    let of_answer: Vec<(usize, bool)> = classes.answer.iter().map(|c| (c.number, c.supported)).collect();
    let of_truth: Vec<(usize, bool)> = classes.reference.iter().map(|c| (c.number, c.said)).collect();
    let supported = reconcile("answer", answer, &of_answer)?;
    let said = reconcile("reference", truth, &of_truth)?;
    let tp = supported.iter().filter(|&&s| s).count();
    Ok(Counts { tp, fp: answer - tp, fn_: said.iter().filter(|&&s| !s).count() })
}

/// The verdicts in order of the statements, if every number from 1 to `submitted` has exactly one.
fn reconcile(side: &str, submitted: usize, verdicts: &[(usize, bool)]) -> Result<Vec<bool>, String> {
    let mut found: Vec<Option<bool>> = vec![None; submitted];
    for &(number, verdict) in verdicts {
        let slot = number.checked_sub(1).and_then(|i| found.get_mut(i)).ok_or_else(|| {
            format!("statement {number} of the {side} was never submitted, there are {submitted}")
        })?;
        if slot.replace(verdict).is_some() {
            return Err(format!("statement {number} of the {side} is classified twice"));
        }
    }
    let missing = found.iter().position(Option::is_none);
    match missing {
        Some(i) => Err(format!("statement {} of the {side} is not classified", i + 1)),
        None => Ok(found.into_iter().flatten().collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Accepted are exactly the permutations of the submitted numbers.
        #[test]
        fn only_permutations_reconcile(
            submitted in 0_usize..6,
            verdicts in proptest::collection::vec((0_usize..8, any::<bool>()), 0..7),
        ) {
            let mut numbers: Vec<usize> = verdicts.iter().map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            let is_permutation = numbers == (1..=submitted).collect::<Vec<_>>();
            prop_assert_eq!(reconcile("answer", submitted, &verdicts).is_ok(), is_permutation);
        }

        #[test]
        fn every_permutation_reconciles_to_the_same_verdicts(
            verdicts in proptest::collection::vec(any::<bool>(), 0..8).prop_flat_map(|verdicts| {
                let order: Vec<usize> = (0..verdicts.len()).collect();
                (Just(verdicts), Just(order).prop_shuffle())
            }),
        ) {
            let (verdicts, order) = verdicts;
            let shuffled: Vec<(usize, bool)> = order.iter().map(|&i| (i + 1, verdicts[i])).collect();
            prop_assert_eq!(reconcile("answer", verdicts.len(), &shuffled), Ok(verdicts));
        }
    }

    #[test]
    fn statements_stay_on_their_line() {
        let reply = r#"{"statements": ["One\n2. is not two", " b  c "]}"#;
        assert_eq!(read_statements(reply).unwrap(), ["One 2. is not two", "b c"]);
        assert!(read_statements(r#"{"statements": ["a", " \n"]}"#).is_err());
        assert!(read_statements(r#"{"statements": ["a", 2]}"#).is_err());
        assert!(read_statements(r#"["a"]"#).is_err());
    }
}
