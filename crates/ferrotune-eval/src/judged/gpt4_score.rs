use std::{fmt, sync::Arc};

use regex::Regex;
use serde::Deserialize;
use serde_json::Number;

use super::{
    prompt::Prompt,
    reply::{quoted, read_object},
};
use crate::{
    Error, Measurement, Metric, Pair, Result,
    judge::{Estimate, Interview, Judging, Question, ReplyFormat, Stop, Verdict, judge_reply},
};

const PROMPT: Prompt = Prompt {
    purpose: "gpt4_score",
    before: "Grade an answer to a question from 1 to 10. Compare it with the reference answer, which is right; if there \
are several, each of them is. 10 is as correct and as helpful as the reference or better, 1 is wrong or useless. Correctness \
comes first, then helpfulness and completeness; neither length nor style can replace them.",
    after: "Reply with one JSON object and nothing else. First give the reason: every mistake and every omission of the \
answer, in a few sentences. Then give the score, an integer from 1 to 10:\n{\"reason\": \"…\", \"score\": …}",
    format: ReplyFormat::JsonObject,
};

const FASTCHAT_PROMPT: Prompt = Prompt {
    purpose: "gpt4_score_fastchat",
    before: "Judge the quality of an assistant's answer to a question: above all its correctness and its helpfulness. First \
compare it with the reference answer and point out its mistakes. Begin with a short explanation, and be as objective as you \
can.",
    after: "After the explanation, rate the answer from 1 to 10, strictly in this form: [[rating]], for example: Rating: \
[[5]]",
    format: ReplyFormat::Text,
};

/// A judge's grade from 1 to 10, with the reference before its eyes.
///
/// The judge gives its reason first and then an integer, as JSON; `[[n]]` is understood too, if the reply has no brace and
/// all such marks agree. A grade that is out of range, fractional, or not there is a failure: it is counted, and never
/// clamped or averaged. The value is the mean over the samples that have a grade.
///
/// Where no pair has an instruction, answers are graded by their references alone, and the parameter `questions` of the record
/// is `none`; where some have one and some have none, that is an error.
#[derive(Clone, Debug)]
pub struct Gpt4Score {
    judging: Arc<Judging>,
    marks: Regex,
}

impl Gpt4Score {
    /// Grades by this judge.
    ///
    /// # Errors
    /// None; a constructor that compiles a pattern passes its error on.
    pub fn new(judging: Arc<Judging>) -> Result<Self> {
        Ok(Self { judging, marks: pattern(r"\[\[([^\[\]]*)\]\]")? })
    }

    /// What the judge is asked, without the material; records hold its digest.
    #[must_use]
    pub fn prompts() -> Vec<String> {
        vec![PROMPT.text()]
    }

    fn grade(&self, interview: &Interview<'_>, pair: &Pair) -> Result<u8, Stop> {
        interview.ask_for(&question(&PROMPT, pair), |reply| self.read(reply))
    }

    fn read(&self, reply: &str) -> Result<u8, String> {
        #[derive(Deserialize)]
        struct Reply {
            #[serde(rename = "reason")]
            _reason: String,
            score: Number,
        }
        // Marks inside an object that is broken or cut off may be quotations.
        if reply.contains('{') {
            return grade(&read_object::<Reply>(reply)?.score.to_string());
        }
        let mut marks: Vec<&str> =
            self.marks.captures_iter(reply).filter_map(|c| c.get(1)).map(|m| m.as_str().trim()).collect();
        marks.dedup();
        match marks.as_slice() {
            [] => Err("it holds neither a JSON object nor a [[score]]".to_owned()),
            [mark] => grade(mark),
            _ => Err("it holds several different scores".to_owned()),
        }
    }
}

impl Metric for Gpt4Score {
    fn outputs(&self) -> Vec<String> {
        vec!["gpt4_score".to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let verdicts = self.judging.judge_all(pairs, |interview, pair| {
            let score = self.grade(interview, pair)?;
            Ok(Verdict { score: f64::from(score), extracted: score.to_string() })
        })?;
        let variant = "integer 1 to 10 with reference, ferrotune 1";
        Ok(vec![verdicts.into_measurement(&self.judging, "gpt4_score", variant, &Self::prompts())])
    }

    fn estimate(&self, pairs: &[Pair]) -> Estimate {
        self.judging.plan(pairs, |plan, pair| {
            plan.settle(plan.reasks(), |interview| self.grade(interview, pair)).map(|_| ())
        })
    }
}

/// A judge's rating, read by the rules of FastChat's LLM judge.
///
/// The first `[[number]]` counts, or else the first `[number]`. Fractions are allowed and there is no range; a reply without
/// either is worth -1 there and left out of the mean, which is a failure here; a number with a leading zero ends FastChat's
/// run and is a failure here too. The prompt is our own and asks for the same form.
///
/// *Source*: `fastchat/llm_judge/common.py`, `run_judge_single`, at 0e6d3e4b.
#[derive(Clone)]
pub struct FastChatScore {
    judging: Arc<Judging>,
    rating: Regex,
    backup: Regex,
}

impl FastChatScore {
    /// Rates by this judge.
    ///
    /// # Errors
    /// None; a constructor that compiles a pattern passes its error on.
    pub fn new(judging: Arc<Judging>) -> Result<Self> {
        Ok(Self { judging, rating: pattern(r"\[\[(\d+\.?\d*)\]\]")?, backup: pattern(r"\[(\d+\.?\d*)\]")? })
    }

    /// What the judge is asked, without the material; records hold its digest.
    #[must_use]
    pub fn prompts() -> Vec<String> {
        vec![FASTCHAT_PROMPT.text()]
    }

    fn rate(&self, interview: &Interview<'_>, pair: &Pair) -> Result<f64, Stop> {
        let question = question(&FASTCHAT_PROMPT, pair);
        let rating = interview.converse(&question, |conversation| {
            let rating = self.read(&conversation.ask(&question)?.text);
            Ok(rating.inspect_err(|_| conversation.count_unusable()))
        })?;
        Ok(rating.map_err(judge_reply)?)
    }

    fn read(&self, reply: &str) -> Result<f64, String> {
        let found = self.rating.captures(reply).or_else(|| self.backup.captures(reply));
        let Some(literal) = found.and_then(|c| c.get(1)).map(|m| m.as_str()) else {
            return Err(format!("FastChat gives -1 to a reply without [[rating]]: {}", quoted(reply)));
        };
        python_number(literal)
            .ok_or_else(|| format!("`{literal}` is no number in Python, where FastChat stops"))
    }
}

impl fmt::Debug for FastChatScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastChatScore").field("judging", &self.judging).finish_non_exhaustive()
    }
}

impl Metric for FastChatScore {
    fn outputs(&self) -> Vec<String> {
        vec!["gpt4_score_fastchat".to_owned()]
    }

    fn measure(&self, pairs: &[Pair]) -> Result<Vec<Measurement>> {
        let metric = "gpt4_score_fastchat";
        let verdicts = self.judging.judge_all(pairs, |interview, pair| {
            let score = self.rate(interview, pair)?;
            Ok(Verdict { score, extracted: score.to_string() })
        })?;
        let variant = "FastChat single-answer rules, own prompt 1";
        Ok(vec![verdicts.into_measurement(&self.judging, metric, variant, &Self::prompts())])
    }

    fn estimate(&self, pairs: &[Pair]) -> Estimate {
        self.judging
            .plan(pairs, |plan, pair| plan.settle(0, |interview| self.rate(interview, pair)).map(|_| ()))
    }
}

fn question(prompt: &Prompt, pair: &Pair) -> Question {
    let mut pieces = Vec::new();
    pieces.extend(pair.instruction.as_deref().map(|question| ("QUESTION", question)));
    pieces.extend(pair.references.iter().map(|reference| ("REFERENCE ANSWER", reference.as_str())));
    pieces.push(("ANSWER TO BE GRADED", pair.prediction.as_str()));
    prompt.ask(&pieces)
}

/// An integer from 1 to 10, written as JSON writes one; `8.0` is one too.
fn grade(literal: &str) -> Result<u8, String> {
    let digits = literal.strip_suffix(".0").unwrap_or(literal);
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    match digits.parse::<u8>() {
        Ok(score @ 1..=10) if !leading_zero && !digits.starts_with('+') => Ok(score),
        _ => Err("the score is no integer from 1 to 10".to_owned()),
    }
}

/// The number that `ast.literal_eval` makes of digits with or without a point: an integer must not begin with a zero
/// unless it is zero, and digits other than ASCII's are none.
fn python_number(literal: &str) -> Option<f64> {
    let is_integer = !literal.contains('.');
    let leading_zero = literal.starts_with('0') && literal.bytes().any(|byte| byte != b'0');
    if !literal.is_ascii() || (is_integer && leading_zero) { None } else { literal.parse().ok() }
}

fn pattern(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|source| Error::Pattern { pattern: pattern.to_owned(), source })
}
