//! What a run would ask, against what it asks; and replies that cannot be used, kept and asked for again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ferrotune_eval::{
    Error, Measurement, Metric, OnFailure, Pair,
    judge::{
        Judge, JudgeError, JudgeIdentity, JudgeReply, JudgeRequest, Judging, JudgingOptions, Price,
        ReplyCache,
    },
    judged::{AnswerCorrectness, CorrectnessConfig, CorrectnessRules, FastChatScore, Gpt4Score},
};
use serde_json::json;

/// Answers every question well, but for the first few replies to it, which are prose.
#[derive(Debug, Default)]
struct Stubborn {
    prose: u32,
    asked: Mutex<BTreeMap<(String, String), u32>>,
    prompt_tokens: Mutex<u64>,
}

impl Stubborn {
    fn new(prose: u32) -> Arc<Self> {
        Arc::new(Self { prose, ..Self::default() })
    }

    fn asked(&self) -> u32 {
        self.asked.lock().unwrap().values().sum()
    }
}

impl Judge for Stubborn {
    fn identity(&self) -> JudgeIdentity {
        JudgeIdentity { name: "stubborn".to_owned(), ..JudgeIdentity::default() }
    }

    fn ask(&self, request: &JudgeRequest) -> Result<JudgeReply, JudgeError> {
        *self.prompt_tokens.lock().unwrap() += request.approximate_tokens();
        let mut asked = self.asked.lock().unwrap();
        let times = asked.entry((request.sample.clone(), request.purpose.clone())).or_default();
        *times += 1;
        if *times <= self.prose {
            return Ok(JudgeReply::new("I would rather talk about it."));
        }
        let entry = json!({"statement": "s", "reason": "r"});
        let good = match request.purpose.as_str() {
            "gpt4_score" => json!({"reason": "r", "score": 7}),
            "gpt4_score_fastchat" => return Ok(JudgeReply::new("[[7]]")),
            "answer_statements" | "reference_statements" => json!({"statements": ["s"]}),
            "statement_classes" => json!({
                "answer": [{"number": 1, "reason": "r", "supported": true}],
                "reference": [{"number": 1, "reason": "r", "said": true}],
            }),
            "ragas_answer_statements" | "ragas_truth_statements"
                if request.messages[0].content.contains("SENTENCES") =>
            {
                json!([{"sentence_index": 0, "simpler_statements": ["s"]}])
            }
            "ragas_answer_statements" | "ragas_truth_statements" => json!({"statements": ["s"]}),
            _ if request.messages[0].content.contains("[\"statement\", …]") => {
                json!({"TP": ["s"], "FP": [], "FN": []})
            }
            _ => json!({"TP": [entry], "FP": [], "FN": []}),
        };
        // The third repair of ragas 0.4 is one of a repair's repair, each in a string of its own.
        let depth = request.messages.len() / 2;
        let is_04 = request.messages.iter().any(|turn| turn.content.contains("Repair it"));
        let depth = if is_04 { depth } else { 0 };
        let good = (0..depth).fold(good, |inner, _| json!({"text": inner.to_string()}));
        Ok(JudgeReply::new(good.to_string()))
    }
}

fn options() -> JudgingOptions {
    let price = Some(Price { prompt_per_million: 10.0, completion_per_million: 30.0 });
    JudgingOptions { on_failure: OnFailure::Skip, price, max_tokens: 64, ..JudgingOptions::default() }
}

fn judging(judge: &Arc<Stubborn>, cache: &Arc<ReplyCache>, options: JudgingOptions) -> Arc<Judging> {
    Judging::new(Arc::clone(judge) as Arc<dyn Judge>, Arc::clone(cache), options).unwrap()
}

fn pairs(n: usize) -> Vec<Pair> {
    let pair = |i: usize| Pair {
        instruction: Some("Q?".to_owned()),
        ..Pair::new(i.to_string(), "An answer.", "A truth.")
    };
    (0..n).map(pair).collect()
}

type Make = fn(Arc<Judging>) -> Box<dyn Metric>;

fn correctness(judging: Arc<Judging>, rules: CorrectnessRules) -> Box<dyn Metric> {
    let config = CorrectnessConfig { rules, weights: [1.0, 0.0], ..CorrectnessConfig::default() };
    Box::new(AnswerCorrectness::new(judging, None, config).unwrap())
}

/// Each with how many questions a sample has, and how often each is put at most.
const METRICS: [(&str, u32, u32, Make); 7] = [
    ("gpt4_score", 1, 2, |judging| Box::new(Gpt4Score::new(judging).unwrap())),
    ("gpt4_score_fastchat", 1, 1, |judging| Box::new(FastChatScore::new(judging).unwrap())),
    ("reconciled", 3, 2, |judging| correctness(judging, CorrectnessRules::Reconciled)),
    ("0.1.7", 1, 2, |judging| correctness(judging, CorrectnessRules::Ragas017)),
    ("0.1.9", 3, 2, |judging| correctness(judging, CorrectnessRules::Ragas019)),
    ("0.4 legacy", 3, 4, |judging| correctness(judging, CorrectnessRules::Ragas04Legacy)),
    ("0.4 collections", 3, 4, |judging| correctness(judging, CorrectnessRules::Ragas04Collections)),
];

#[test]
fn an_estimate_bounds_what_is_asked_from_both_sides() {
    for (name, questions, times, make) in METRICS {
        // Every question is put as often as it may, and the last reply can be used; and each at once.
        for prose in [times - 1, 0] {
            let (judge, cache) = (Stubborn::new(prose), Arc::new(ReplyCache::in_memory()));
            let judging = judging(&judge, &cache, options());
            let metric = make(Arc::clone(&judging));
            let estimate = metric.estimate(&pairs(2));
            assert_eq!(judge.asked(), 0, "{name}: an estimate asks nothing");
            let (least, most) = (u64::from(2 * questions), u64::from(2 * questions * times));
            assert_eq!((estimate.calls, estimate.calls_at_most), (least, most), "{name}");
            let found = metric.measure(&pairs(2)).unwrap().remove(0);
            assert_eq!(found.scored(), 2, "{name}: {:?}", found.samples);
            let expected = if prose == 0 { least } else { most };
            assert_eq!(u64::from(judge.asked()), expected, "{name}, {prose} replies of prose");
            let prompt_tokens = *judge.prompt_tokens.lock().unwrap();
            assert!(prompt_tokens <= estimate.prompt_tokens_at_most, "{name}: {prompt_tokens}, {estimate:?}");
            assert_eq!(estimate.completion_tokens_at_most, 64 * most, "{name}");
            let cost = (estimate.prompt_tokens_at_most as f64 * 10.0 + 64.0 * most as f64 * 30.0) / 1e6;
            assert!((estimate.cost_at_most.unwrap() - cost).abs() < 1e-12, "{name}");
            assert_eq!(judging.usage().unusable, u64::from(prose * 2 * questions), "{name}");
            let again = metric.estimate(&pairs(2));
            assert_eq!((again.calls, again.calls_at_most), (0, 0), "{name}: everything is known");
            assert_eq!(again.cached, expected, "{name}");
        }
    }
}

#[test]
fn an_estimate_counts_the_rest_of_a_conversation_that_the_cache_begins() {
    let (judge, cache) = (Stubborn::new(1), Arc::new(ReplyCache::in_memory()));
    let options = |reasks| JudgingOptions { reasks, ..options() };
    let first = Gpt4Score::new(judging(&judge, &cache, options(0))).unwrap();
    assert_eq!(first.measure(&pairs(1)).unwrap()[0].scored(), 0);
    let failed = first.estimate(&pairs(1));
    assert_eq!((failed.calls, failed.calls_at_most, failed.cached), (0, 0, 1), "the sample fails again");
    let second = Gpt4Score::new(judging(&judge, &cache, options(3))).unwrap();
    let estimate = second.estimate(&pairs(1));
    assert_eq!((estimate.calls, estimate.calls_at_most, estimate.cached), (1, 3, 1));
    assert_eq!(second.measure(&pairs(1)).unwrap()[0].scored(), 1);
    assert_eq!(judge.asked(), 2);
}

/// Each judge is asked through one cache, as by runs one after the other.
fn run(
    judge: &Arc<Stubborn>,
    cache: &Arc<ReplyCache>,
    options: JudgingOptions,
    make: Make,
) -> (Measurement, u32) {
    let before = judge.asked();
    let found = make(judging(judge, cache, options)).measure(&pairs(3)).unwrap().remove(0);
    (found, judge.asked() - before)
}

#[test]
fn replies_that_cannot_be_used_are_asked_for_again_only_on_demand() {
    let retry = || JudgingOptions { retry_unusable: true, ..options() };
    for (name, questions, times, make) in METRICS {
        let (judge, cache) = (Stubborn::new(times), Arc::new(ReplyCache::in_memory()));
        let (failed, asked) = run(&judge, &cache, options(), make);
        if name == "0.1.9" {
            // There what cannot be parsed is taken for no statements, and is no failure.
            assert_eq!((failed.scored(), asked), (3, 3 * 2 * times), "{name}");
        } else {
            assert_eq!((failed.scored(), asked), (0, 3 * times), "{name}");
        }
        let (same, asked) = run(&judge, &cache, options(), make);
        assert_eq!(
            (same.samples, asked),
            (failed.samples, 0),
            "{name}: a run that is repeated costs nothing"
        );

        // What is asked again goes through; of the rest, each question is new once.
        let mut runs = 0;
        let scored = loop {
            let (found, asked) = run(&judge, &cache, retry(), make);
            runs += 1;
            if asked == 0 || runs > 9 {
                break found;
            }
        };
        assert_eq!((scored.scored(), scored.params["retry_unusable"] == true), (3, true), "{name}");
        let good = 3 * questions;
        let prose = 3 * times * questions;
        assert_eq!(judge.asked(), good + prose, "{name}: no reply that can be used is asked for twice");
        let (kept, asked) = run(&judge, &cache, options(), make);
        assert_eq!((kept.samples, asked), (scored.samples, 0), "{name}: what came of it stays");
    }
}

#[test]
fn a_judge_sees_the_questions_of_all_samples_or_of_none() {
    for (name, .., make) in METRICS {
        let judging = || judging(&Stubborn::new(0), &Arc::new(ReplyCache::in_memory()), options());
        let questions =
            |pairs: &[Pair]| make(judging()).measure(pairs).map(|found| found[0].params["questions"].clone());
        assert_eq!(questions(&pairs(2)).unwrap(), "shown", "{name}");
        let mut mixed = pairs(3);
        mixed[1].instruction = None;
        let error = questions(&mixed).unwrap_err();
        assert!(
            matches!(&error, Error::SomeInstructions { with, without } if with == "0" && without == "1"),
            "{error}"
        );
        mixed.iter_mut().for_each(|pair| pair.instruction = None);
        assert_eq!(questions(&mixed).unwrap(), "none", "{name}");
    }
}
