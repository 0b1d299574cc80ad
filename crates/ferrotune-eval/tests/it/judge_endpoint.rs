//! The endpoint under every fault that a server or a line can have.

use std::{
    collections::BTreeMap,
    sync::{Arc, Barrier, Mutex},
    time::Duration,
};

use ferrotune_core::Embedder as _;
use ferrotune_eval::{
    Error, Failure, FailureKind, Metric, OnFailure, Outcome, Pair, Run, SampleLine, evaluate,
    evaluate_until_failure,
    judge::{
        ApiKey, ChatEndpoint, ChatOptions, Clock, EmbeddingsEndpoint, EndpointOptions, JsonMode, Judge as _,
        Judging, JudgingOptions, Limits, Price, ReplyCache, TokenLimitField,
    },
    judged::Gpt4Score,
    sample_lines,
    similarity::SemanticSimilarity,
    statistics::Bootstrap,
};
use serde_json::{Value, json};

use crate::judge_server::{Act, ManualClock, Seen, Server, completion};

const GOOD: &str = r#"{"reason": "right", "score": 8}"#;

fn chat(server: &Server, options: &EndpointOptions) -> ChatEndpoint {
    ChatEndpoint::new(options, Some(ApiKey::new("sk-secret"))).unwrap().with_clock(server.clock())
}

fn judging(judge: ChatEndpoint, cache: &Arc<ReplyCache>, on_failure: OnFailure) -> Arc<Judging> {
    let price = Some(Price { prompt_per_million: 10.0, completion_per_million: 30.0 });
    let options = JudgingOptions { on_failure, price, ..JudgingOptions::default() };
    Judging::new(Arc::new(judge), Arc::clone(cache), options).unwrap()
}

/// Their answers are `item 0.`, `item 1.`, …
fn pairs(n: usize) -> Vec<Pair> {
    (0..n).map(|i| Pair::new(format!("id{i}"), format!("item {i}."), "reference")).collect()
}

fn in_memory() -> Arc<ReplyCache> {
    Arc::new(ReplyCache::in_memory())
}

/// The error that comes of judging them, whatever the policy on failures.
fn refusal(judging: Arc<Judging>, pairs: &[Pair]) -> Error {
    let found = Gpt4Score::new(judging).unwrap().measure(pairs).unwrap().remove(0);
    assert_eq!(found.value(), None, "what was not finished has no value");
    found.checked(OnFailure::Skip).unwrap_err()
}

/// A fault by name, and how often a question meets it before it is answered well.
fn script(fault: &str, nth: usize) -> Act {
    let then_good = |first: Act| if nth == 0 { first } else { Act::says(GOOD) };
    match fault {
        "good" => Act::says(GOOD),
        "prose" => Act::says("A fine answer, I would give it a nine."),
        "prose_once" => then_good(Act::says("A fine answer.")),
        "truncated" => Act::says(r#"{"reason": "it is right", "sco"#),
        "too_high" => Act::says(r#"{"reason": "beyond words", "score": 11}"#),
        "too_low" => Act::says(r#"{"reason": "no", "score": 0}"#),
        "fractional" => Act::says(r#"{"reason": "nearly", "score": 7.5}"#),
        "cut" => Act::Reply { status: 200, headers: String::new(), body: completion(GOOD, "length") },
        "busy" => then_good(Act::with_header(429, "slow down", "Retry-After: 20")),
        "busy_until" => {
            then_good(Act::with_header(429, "slow down", "Retry-After: Sun, 09 Sep 2001 01:46:45 GMT"))
        }
        "busy_for_ever" => Act::status(429, "slow down"),
        "busy_for_hours" => Act::with_header(429, "slow down", "Retry-After: 7200"),
        "down" => Act::status(500, "oops"),
        "down_once" => then_good(Act::status(500, "oops")),
        "unavailable_once" => then_good(Act::status(503, "overloaded")),
        "reset" => Act::Reset,
        "reset_once" => then_good(Act::Reset),
        "too_long" => then_good(Act::Length { promised: 5000, body: completion(GOOD, "stop") }),
        "too_short" => then_good(Act::Length { promised: 40, body: completion(GOOD, "stop") }),
        "html" => then_good(Act::Reply {
            status: 200,
            headers: String::new(),
            body: "<html>gateway</html>".to_owned(),
        }),
        "no_choices" => then_good(Act::Reply {
            status: 200,
            headers: String::new(),
            body: r#"{"choices": []}"#.to_owned(),
        }),
        "bad_request" => Act::status(400, "the prompt is too long"),
        other => panic!("{other}"),
    }
}

/// Fault, requests that the server sees, and the failure if it is one.
///
/// With three attempts and one reask, a fault that never ends costs three requests, and a reply that cannot be understood
/// two.
const FAULTS: &[(&str, usize, Option<FailureKind>)] = &[
    ("good", 1, None),
    ("prose", 2, Some(FailureKind::JudgeReply)),
    ("prose_once", 2, None),
    ("truncated", 2, Some(FailureKind::JudgeReply)),
    ("too_high", 2, Some(FailureKind::JudgeReply)),
    ("too_low", 2, Some(FailureKind::JudgeReply)),
    ("fractional", 2, Some(FailureKind::JudgeReply)),
    ("cut", 2, Some(FailureKind::JudgeReply)),
    ("busy", 2, None),
    ("busy_until", 2, None),
    ("busy_for_ever", 3, Some(FailureKind::JudgeUnavailable)),
    ("busy_for_hours", 1, Some(FailureKind::JudgeUnavailable)),
    ("down", 3, Some(FailureKind::JudgeUnavailable)),
    ("down_once", 2, None),
    ("unavailable_once", 2, None),
    ("reset", 3, Some(FailureKind::JudgeUnavailable)),
    ("reset_once", 2, None),
    ("too_long", 2, None),
    ("too_short", 2, None),
    ("html", 2, None),
    ("no_choices", 2, None),
    ("bad_request", 1, Some(FailureKind::JudgeUnavailable)),
];

/// A server that does to each sample what its answer says, and how often it was asked about each.
fn faulty_server() -> (Server, Arc<Mutex<BTreeMap<String, usize>>>) {
    let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let counts = Arc::clone(&asked);
    let server = Server::new(move |seen| {
        let prompt = seen.prompt();
        let fault = prompt.split("fault:").nth(1).unwrap().split('.').next().unwrap().to_owned();
        let mut counts = counts.lock().unwrap();
        let nth = counts.entry(fault.clone()).or_default();
        *nth += 1;
        script(&fault, *nth - 1)
    });
    (server, asked)
}

#[test]
fn every_fault_ends_in_a_score_or_a_counted_failure() {
    let faults = FAULTS;
    for concurrency in [1, 4] {
        let (server, asked) = faulty_server();
        let mut options = server.options();
        options.limits.concurrency = concurrency;
        let cache = in_memory();
        let judging = judging(chat(&server, &options), &cache, OnFailure::Skip);
        let pairs: Vec<Pair> =
            faults.iter().map(|(fault, ..)| Pair::new(*fault, format!("fault:{fault}."), "r")).collect();
        let metric = Gpt4Score::new(Arc::clone(&judging)).unwrap();
        let measurement = metric.measure(&pairs).unwrap().remove(0);

        for ((fault, requests, failure), sample) in faults.iter().zip(&measurement.samples) {
            assert_eq!(sample.id, *fault, "results stand at their sample");
            match (failure, &sample.score) {
                (None, Ok(score)) => assert_eq!(*score, 8.0, "{fault}"),
                (Some(kind), Err(Failure { kind: found, .. })) => assert_eq!(found, kind, "{fault}"),
                (_, found) => panic!("{fault}: {found:?}"),
            }
            assert_eq!(asked.lock().unwrap()[*fault], *requests, "requests for {fault}");
        }
        let transcripts = &measurement.judged.as_ref().unwrap().transcripts;
        for ((fault, requests, failure), transcript) in faults.iter().zip(transcripts) {
            assert_eq!(transcript.attempts as usize, *requests, "{fault}");
            assert_eq!(transcript.raw.is_none(), *failure == Some(FailureKind::JudgeUnavailable), "{fault}");
        }
        let failures = faults.iter().filter(|(.., failure)| failure.is_some()).count();
        assert_eq!(measurement.scored(), faults.len() - failures);
        assert_eq!(server.requests(), faults.iter().map(|(_, requests, _)| requests).sum::<usize>());

        let usage = judging.usage();
        let not_understood =
            faults.iter().filter(|f| f.2 == Some(FailureKind::JudgeReply) || f.0 == "prose_once").count();
        assert_eq!(usage.calls as usize, faults.len() + not_understood);
        assert_eq!(usage.retries as usize, server.requests() - usage.calls as usize);
        let unanswered = faults.iter().filter(|f| f.2 == Some(FailureKind::JudgeUnavailable)).count();
        assert_eq!(usage.unanswered as usize, unanswered);
        let replies = usage.calls - usage.unanswered;
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (100 * replies, 10 * replies));
        let cost = replies as f64 * (100.0 * 10.0 + 10.0 * 30.0) / 1e6;
        assert!((usage.cost.unwrap() - cost).abs() < 1e-12);
        assert_eq!(cache.len() as u64, replies);

        let record =
            evaluate(&[Arc::new(metric)], &pairs, &Run::default(), &Bootstrap::default(), OnFailure::Skip)
                .unwrap()
                .records
                .remove(0);
        assert_eq!((record.n_total, record.n_failed, record.value), (faults.len(), failures, Some(8.0)));
    }
}

#[test]
fn a_stalled_connection_is_given_up_and_the_question_put_again() {
    // A machine that is busy looks like a server that stalls, so where one attempt is to succeed it has time.
    for (stalls, seconds, attempts) in [(usize::MAX, 0.5, 3), (1, 5.0, 2)] {
        let server = Server::new(move |seen| if seen.number < stalls { Act::Stall } else { Act::says(GOOD) });
        let options =
            EndpointOptions { request_timeout: Duration::from_secs_f64(seconds), ..server.options() };
        let judging = judging(chat(&server, &options), &in_memory(), OnFailure::Skip);
        let found = Gpt4Score::new(Arc::clone(&judging)).unwrap().measure(&pairs(1)).unwrap().remove(0);
        assert_eq!(found.judged.as_ref().unwrap().transcripts[0].attempts, attempts);
        match &found.samples[0].score {
            Ok(score) => assert_eq!((*score, stalls), (8.0, 1)),
            Err(failure) => {
                assert_eq!((failure.kind, stalls), (FailureKind::JudgeUnavailable, usize::MAX), "{failure}");
            }
        }
    }
}

#[test]
fn with_the_policy_error_the_first_failure_ends_the_run() {
    let server = Server::new(|seen| if seen.number == 2 { Act::says("prose") } else { Act::says(GOOD) });
    let mut judging_options = JudgingOptions { reasks: 0, ..JudgingOptions::default() };
    judging_options.on_failure = OnFailure::Error;
    let judge = Arc::new(chat(&server, &server.options()));
    let judging = Judging::new(judge, in_memory(), judging_options).unwrap();
    let metric: Arc<dyn Metric> = Arc::new(Gpt4Score::new(judging).unwrap());
    // The second one is never asked.
    let metrics = [Arc::clone(&metric), metric];
    let (run, bootstrap) = (Run::default(), Bootstrap::default());
    let (found, failure) = evaluate_until_failure(&metrics, &pairs(10), &run, &bootstrap, OnFailure::Error);
    match failure.unwrap() {
        Error::SampleFailed { id, failure, .. } => {
            assert_eq!((id.as_str(), failure.kind), ("id2", FailureKind::JudgeReply));
            assert!(failure.detail.contains("`prose`"), "{failure}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(server.requests(), 3, "nothing is spent after it");
    let [measurement] = &found.measurements[..] else { panic!("{} measurements", found.measurements.len()) };
    assert_eq!((measurement.samples.len(), measurement.scored()), (10, 2), "what was paid for is there");
    let not_asked = measurement.samples[3].score.as_ref().unwrap_err();
    assert_eq!(not_asked.kind, FailureKind::NotMeasured);
    assert_eq!(measurement.judged.as_ref().unwrap().transcripts[2].raw.as_deref(), Some("prose"));
}

#[test]
fn replies_that_are_billed_and_hold_nothing_are_paid_for() {
    let empty = json!({"choices": [{"message": {"content": null}}], "usage": {"prompt_tokens": 100, "completion_tokens": 20}});
    let server = Server::new(move |seen: &Seen| match seen.number {
        0 => Act::Reply { status: 200, headers: String::new(), body: empty.to_string() },
        1 => Act::says(GOOD),
        _ => Act::Reply { status: 200, headers: String::new(), body: empty.to_string() },
    });
    let judging = judging(chat(&server, &server.options()), &in_memory(), OnFailure::Skip);
    let found = Gpt4Score::new(Arc::clone(&judging)).unwrap().measure(&pairs(2)).unwrap().remove(0);
    assert_eq!(found.scored(), 1);
    // One wasted and one good reply (100 + 10), then three wasted ones.
    let usage = judging.usage();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (100 + 100 + 300, 20 + 10 + 60));
    let cost = (500.0 * 10.0 + 90.0 * 30.0) / 1e6;
    assert!((usage.cost.unwrap() - cost).abs() < 1e-12, "{usage:?}");
    assert_eq!(found.judged.unwrap().usage.prompt_tokens, 500);

    let short = json!({"data": [{"index": 0, "embedding": [1.0]}], "usage": {"total_tokens": 7}}).to_string();
    let server =
        Server::new(move |_| Act::Reply { status: 200, headers: String::new(), body: short.clone() });
    let encoder = EmbeddingsEndpoint::new(&server.options(), None, in_memory(), 8).unwrap();
    let encoder = encoder.with_clock(server.clock());
    encoder.embed(&["a", "b"]).unwrap_err();
    assert_eq!(encoder.usage().prompt_tokens, 3 * 7, "three attempts");
}

#[test]
fn a_server_that_nobody_runs_ends_the_run_whatever_the_policy() {
    // A port that nobody is given by chance, unlike one that was free a moment ago.
    let nobody = "http://127.0.0.1:1/v1";
    let clock = Arc::new(ManualClock::default());
    let judge = ChatEndpoint::new(&EndpointOptions::new(nobody, "m"), None).unwrap();
    let judge = judge.with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    let judging = judging(judge, &in_memory(), OnFailure::Skip);
    let error = refusal(judging, &pairs(5));
    assert!(matches!(&error, Error::JudgeRefused { judged: 0, samples: 5, .. }), "{error}");
    assert!(error.to_string().contains("nobody was reached in 6 attempts, check the address"), "{error}");
    // Five back-offs of one question, which four threads may wait through at the same time.
    assert!(clock.now() < Duration::from_secs(4 * 31), "{:?}", clock.now());
}

#[test]
fn a_refusal_stops_the_run_at_once_and_shows_no_key() {
    for (status, body, advice) in [
        (401, json!({"error": {"message": "bad key sk-secret"}}), "the API key was not accepted"),
        (403, json!({"error": "sk-secret may not"}), "the API key was not accepted"),
        (404, json!({"message": "no such model"}), "check the address and the name of the model"),
        (429, json!({"error": {"message": "pay", "code": "insufficient_quota"}}), "HTTP 429: pay"),
        (308, json!({}), "redirections are not followed"),
    ] {
        let text = body.to_string();
        let server = Server::new(move |_| Act::Reply { status, headers: String::new(), body: text.clone() });
        let judging = judging(chat(&server, &server.options()), &in_memory(), OnFailure::Skip);
        let error = refusal(judging, &pairs(5));
        assert!(matches!(error, Error::JudgeRefused { judged: 0, samples: 5, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(advice) && !text.contains("sk-secret"), "{text}");
        assert_eq!(server.requests(), 1, "HTTP {status}");
    }
}

#[test]
fn after_a_refusal_no_thread_asks_again() {
    let barrier = Barrier::new(3);
    let server = Server::new(move |_| {
        barrier.wait();
        Act::status(401, "no")
    });
    let mut options = server.options();
    options.limits.concurrency = 3;
    let judging = judging(chat(&server, &options), &in_memory(), OnFailure::Skip);
    refusal(judging, &pairs(30));
    assert_eq!(server.requests(), 3);
}

#[test]
fn samples_judged_before_a_refusal_are_kept_and_have_no_mean() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.jsonl");
    let (run, bootstrap) = (Run::default(), Bootstrap::default());
    for (cache, advice) in [
        (in_memory(), "with a file as its cache the same run goes on where it ended".to_owned()),
        (Arc::new(ReplyCache::open(&path).unwrap()), format!("its replies are in `{}`", path.display())),
    ] {
        // Two repetitions: the first sample has both, the second only one, which was paid for too.
        let price = Some(Price { prompt_per_million: 10.0, completion_per_million: 30.0 });
        let options =
            JudgingOptions { repeats: 2, on_failure: OnFailure::Skip, price, ..JudgingOptions::default() };
        let expires =
            |seen: &Seen| if seen.number < 3 { Act::says(GOOD) } else { Act::status(401, "expired") };
        let server = Server::new(expires);
        let judging = Judging::new(Arc::new(chat(&server, &server.options())), cache, options).unwrap();
        let metric: Arc<dyn Metric> = Arc::new(Gpt4Score::new(judging).unwrap());
        let metrics = [Arc::clone(&metric), metric];
        let (found, failure) = evaluate_until_failure(&metrics, &pairs(4), &run, &bootstrap, OnFailure::Skip);
        let error = failure.unwrap();
        assert!(matches!(error, Error::JudgeRefused { judged: 1, samples: 4, .. }), "{error}");
        assert!(error.to_string().contains(&advice), "{error}");
        assert_eq!(server.requests(), 4, "nothing is asked after it");

        let [record] = &found.records[..] else { panic!("{} records", found.records.len()) };
        assert_eq!((record.value, record.ci95, record.n_scored, record.n_failed), (None, None, 1, 3));
        let reason = record.not_measured.as_deref().unwrap();
        assert!(reason.contains("the judge refused to answer after 1 of 4 samples"), "{reason}");
        assert_eq!(record.judge_usage.unwrap().prompt_tokens, 300, "three replies were paid for");
        let lines = sample_lines(&pairs(4), &found.measurements).unwrap();
        let outcome = |line: &SampleLine| match &line.outcome {
            Outcome::Score(score) => Ok(*score),
            Outcome::Failure(failure) => Err(failure.kind),
        };
        let unmeasured = Err(FailureKind::NotMeasured);
        let outcomes: Vec<_> = lines.iter().map(outcome).collect();
        assert_eq!(outcomes, [Ok(8.0), unmeasured, unmeasured, unmeasured]);
        assert_eq!(lines[1].raw_judge.as_deref(), Some(GOOD));
    }
}

#[test]
fn what_was_measured_before_an_encoder_fails_is_handed_back() {
    let (judge, vectors) = (Server::new(|_| Act::says(GOOD)), Server::new(|_| Act::status(401, "expired")));
    let judging = judging(chat(&judge, &judge.options()), &in_memory(), OnFailure::Skip);
    let encoder = EmbeddingsEndpoint::new(&vectors.options(), None, in_memory(), 8).unwrap();
    let metrics: [Arc<dyn Metric>; 2] = [
        Arc::new(Gpt4Score::new(judging).unwrap()),
        Arc::new(SemanticSimilarity::new(Arc::new(encoder.with_clock(vectors.clock())))),
    ];
    let (run, bootstrap) = (Run::default(), Bootstrap::default());
    let (found, failure) = evaluate_until_failure(&metrics, &pairs(3), &run, &bootstrap, OnFailure::Skip);
    assert!(matches!(failure, Some(Error::Encoder { .. })), "{failure:?}");
    assert_eq!((found.measurements.len(), found.records[0].value), (1, Some(8.0)));
}

#[test]
fn replies_of_another_server_are_not_taken() {
    let cache = in_memory();
    for score in [4, 5] {
        let reply = json!({"reason": "so", "score": score}).to_string();
        let server = Server::new(move |_| Act::says(&reply));
        let judging = judging(chat(&server, &server.options()), &cache, OnFailure::Error);
        let measurement = Gpt4Score::new(judging).unwrap().measure(&pairs(2)).unwrap().remove(0);
        assert_eq!((measurement.value(), server.requests()), (Some(f64::from(score)), 2));
    }
}

#[test]
fn an_interrupted_run_resumes_without_asking_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replies.jsonl");
    let key_expires_after = Arc::new(Mutex::new(7_usize));
    let left = Arc::clone(&key_expires_after);
    let server = Server::new(move |seen| {
        let mut left = left.lock().unwrap();
        if *left == 0 {
            return Act::status(401, "expired");
        }
        *left -= 1;
        let number: u32 =
            seen.prompt().split("item ").nth(1).unwrap().split('.').next().unwrap().parse().unwrap();
        Act::says(&json!({"reason": "so", "score": 1 + number % 10}).to_string())
    });
    let run = |pairs: &[Pair]| {
        let cache = Arc::new(ReplyCache::open(&path).unwrap());
        let judging = judging(chat(&server, &server.options()), &cache, OnFailure::Skip);
        let before = server.requests();
        let found = Gpt4Score::new(Arc::clone(&judging)).unwrap().measure(pairs).unwrap().remove(0);
        let result = found.checked(OnFailure::Skip);
        (result, server.requests() - before, judging.usage())
    };
    let pairs = pairs(20);
    assert!(run(&pairs).0.is_err());
    *key_expires_after.lock().unwrap() = usize::MAX;
    // What a crash in the middle of a write leaves behind.
    let whole = std::fs::read_to_string(&path).unwrap();
    assert_eq!(whole.lines().count(), 7);
    std::fs::write(&path, format!("{whole}{}", &whole[..100])).unwrap();
    let (result, requests, usage) = run(&pairs);
    let resumed = result.unwrap();
    assert_eq!((requests, usage.calls, usage.cached), (13, 13, 7));
    let mut reversed = pairs.clone();
    reversed.reverse();
    let (result, requests, usage) = run(&reversed);
    assert_eq!((requests, usage.calls, usage.cached), (0, 0, 20));
    assert_eq!(usage.cost, Some(0.0), "a cache costs nothing");
    let again = result.unwrap();
    assert_eq!(again.value(), resumed.value());
    for (sample, other) in resumed.samples.iter().zip(again.samples.iter().rev()) {
        assert_eq!(sample, other);
    }
    // Scores by id: the server grades by the number in the answer.
    for (i, sample) in resumed.samples.iter().enumerate() {
        assert_eq!(sample.score, Ok(f64::from(1 + i as u32 % 10)));
    }
}

#[test]
fn requests_stay_within_the_limit_of_a_minute() {
    let server = Server::new(|_| Act::says(GOOD));
    let mut options = server.options();
    options.limits.requests_per_minute = Some(6);
    let judging = judging(chat(&server, &options), &in_memory(), OnFailure::Error);
    Gpt4Score::new(judging).unwrap().measure(&pairs(27)).unwrap();
    let arrivals = server.arrivals();
    assert_eq!(arrivals.len(), 27);
    for (i, start) in arrivals.iter().enumerate() {
        let within = arrivals[i..].iter().filter(|at| **at < *start + Duration::from_secs(60)).count();
        assert!(within <= 6, "{within} requests in the minute from {start:?}");
    }
    assert_eq!(arrivals[26], Duration::from_secs(240), "and are no slower than that");
}

#[test]
fn a_retry_after_is_waited_for_by_all_and_a_back_off_grows() {
    let server = Server::new(|seen| match seen.number {
        0 => Act::with_header(429, "slow down", "Retry-After: 17"),
        2 | 3 => Act::status(500, "oops"),
        _ => Act::says(GOOD),
    });
    let judging = judging(chat(&server, &server.options()), &in_memory(), OnFailure::Error);
    Gpt4Score::new(judging).unwrap().measure(&pairs(3)).unwrap();
    let at: Vec<f64> = server.arrivals().iter().map(Duration::as_secs_f64).collect();
    assert_eq!(at[..3], [0.0, 17.0, 17.0]);
    let (first, second) = (at[3] - at[2], at[4] - at[3]);
    assert!((0.5..=1.0).contains(&first) && (1.0..=2.0).contains(&second), "{first} {second}");
}

#[test]
fn as_many_requests_as_allowed_are_under_way_and_never_more() {
    // Nobody is answered until three ask: with less concurrency the requests would run into their time-out.
    let barrier = Barrier::new(3);
    let server = Server::new(move |_| {
        barrier.wait();
        Act::says(GOOD)
    });
    let mut options = server.options();
    options.limits.concurrency = 3;
    let judging = judging(chat(&server, &options), &in_memory(), OnFailure::Error);
    Gpt4Score::new(judging).unwrap().measure(&pairs(24)).unwrap();
    assert_eq!((server.requests(), server.most_under_way()), (24, 3));
}

#[test]
fn the_server_gets_what_compatible_servers_expect() {
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen_bodies = Arc::clone(&bodies);
    let server = Server::new(move |seen: &Seen| {
        assert_eq!(seen.path, "/v1/chat/completions");
        assert_eq!(seen.authorization.as_deref(), Some("Bearer sk-secret"));
        seen_bodies.lock().unwrap().push(seen.body.clone());
        Act::says(GOOD)
    });
    for options in [
        ChatOptions::default(),
        ChatOptions { json_mode: JsonMode::Leave, token_limit_field: TokenLimitField::MaxCompletionTokens },
    ] {
        let judge = chat(&server, &server.options()).with_options(options);
        let judging = judging(judge, &in_memory(), OnFailure::Error);
        let measurement = Gpt4Score::new(judging).unwrap().measure(&pairs(1)).unwrap().remove(0);
        let judged = measurement.judged.unwrap();
        assert_eq!(judged.info.name, "scripted");
        assert_eq!(judged.info.params["answered_as"], json!(["scripted-0613"]));
        assert_eq!(judged.info.params["answered_from"], "Sun, 09 Sep 2001 01:46:40 GMT");
        assert_eq!((judged.transcripts[0].raw.as_deref(), judged.transcripts[0].attempts), (Some(GOOD), 1));
    }
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies[0]["model"], "scripted");
    assert_eq!(bodies[0]["temperature"], 0.0);
    assert_eq!(bodies[0]["max_tokens"], 2048);
    assert_eq!(bodies[0]["response_format"], json!({"type": "json_object"}));
    let roles: Vec<&str> =
        bodies[0]["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user"]);
    assert_eq!((&bodies[1]["max_completion_tokens"], bodies[1].get("max_tokens")), (&json!(2048), None));
    assert_eq!(bodies[1].get("response_format"), None);
}

#[test]
fn keys_come_from_the_environment_and_are_never_shown() {
    // Cargo sets the first of these for the tests it runs.
    let key = ApiKey::from_environment("CARGO_PKG_NAME").unwrap();
    assert_eq!(key, ApiKey::new("ferrotune-eval"));
    assert_eq!(format!("{key:?}"), "ApiKey(..)");
    let error = ApiKey::from_environment("FERROTUNE_NO_SUCH_VARIABLE").unwrap_err();
    assert!(error.to_string().contains("`FERROTUNE_NO_SUCH_VARIABLE`"), "{error}");
    let judge = ChatEndpoint::new(&EndpointOptions::new("http://127.0.0.1:1/v1", "m"), Some(key)).unwrap();
    assert!(!format!("{judge:?}").contains("ferrotune-eval"));
}

#[test]
fn addresses_that_are_none_or_hold_a_password_are_refused() {
    for url in ["", "api.openai.com/v1", "ftp://host/v1", "https://user:pass@host/v1", "http://", "a b"] {
        let error = ChatEndpoint::new(&EndpointOptions::new(url, "m"), None).unwrap_err();
        assert!(matches!(error, Error::Setting { option: "url", .. }), "{url}: {error}");
        assert!(!error.to_string().contains("pass@"), "{error}");
    }
}

#[test]
fn the_path_is_added_once_and_before_a_query() {
    for (suffix, expected) in [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/chat/completions/", "/v1/chat/completions"),
        ("/?api-version=1", "/v1/chat/completions?api-version=1"),
        ("/chat/completions?api-version=1", "/v1/chat/completions?api-version=1"),
    ] {
        let server =
            Server::new(
                move |seen: &Seen| {
                    if seen.path == expected { Act::says(GOOD) } else { Act::status(404, &seen.path) }
                },
            );
        let mut options = server.options();
        options.url.push_str(suffix);
        let judge = chat(&server, &options);
        assert!(!format!("{:?}", judge.identity()).contains("api-version"));
        let judging = judging(judge, &in_memory(), OnFailure::Error);
        assert_eq!(
            Gpt4Score::new(judging).unwrap().measure(&pairs(1)).unwrap()[0].value(),
            Some(8.0),
            "{suffix}"
        );
    }
}

#[test]
fn embeddings_are_batched_cached_and_put_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vectors.jsonl");
    let server = Server::new(|seen| {
        assert_eq!(seen.path, "/v1/embeddings");
        let texts = seen.body["input"].as_array().unwrap();
        if seen.number == 0 {
            return Act::status(503, "loading");
        }
        // Backwards, as a server may that works in parallel.
        let data: Vec<Value> = texts
            .iter()
            .enumerate()
            .rev()
            .map(|(index, text)| json!({"index": index, "embedding": [text.as_str().unwrap().len(), 0.1]}))
            .collect();
        let body = json!({"data": data, "usage": {"total_tokens": 5}}).to_string();
        Act::Reply { status: 200, headers: String::new(), body }
    });
    let texts = ["a", "bb", "ccc", "dddd", "eeeee"];
    let expected: Vec<Vec<f32>> = texts.iter().map(|text| vec![text.len() as f32, 0.1]).collect();
    for requests in [4, 4] {
        let cache = Arc::new(ReplyCache::open(&path).unwrap());
        let encoder =
            EmbeddingsEndpoint::new(&server.options(), None, cache, 2).unwrap().with_clock(server.clock());
        let price = Price { prompt_per_million: 1e6, completion_per_million: 0.0 };
        let encoder = encoder.with_price(price);
        let estimate = encoder.estimate(texts.iter().chain(&texts).copied());
        // Five texts of at most five bytes, in batches of two, or each alone after its batch was refused.
        let (least, most, tokens) = if server.requests() == 0 { (3, 8, 6) } else { (0, 0, 0) };
        assert_eq!((estimate.calls, estimate.calls_at_most, estimate.prompt_tokens), (least, most, tokens));
        assert_eq!(
            (estimate.cached, estimate.cost_at_most),
            (if most == 0 { 5 } else { 0 }, Some(tokens as f64))
        );
        assert_eq!(encoder.embed(&texts).unwrap(), expected);
        assert_eq!(encoder.dimension(), 2);
        let usage = encoder.usage();
        let first = usage.cached == 0;
        assert_eq!(
            (usage.calls, usage.retries, usage.prompt_tokens),
            if first { (3, 1, 15) } else { (0, 0, 0) }
        );
        assert_eq!(usage.cost, Some(if first { 15.0 } else { 0.0 }));
        assert_eq!(server.requests(), requests, "one fault, three batches, and then the cache");
    }
}

#[test]
fn malformed_embeddings_are_errors() {
    for data in [
        json!({"data": [{"index": 0, "embedding": [1.0]}]}),
        json!({"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]}),
        json!({"data": [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}]}),
        json!({"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}]}),
        json!({"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": ["x"]}]}),
        json!({"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": []}]}),
        json!({"embeddings": [[1.0], [2.0]]}),
    ] {
        let body = data.to_string();
        let server =
            Server::new(move |_| Act::Reply { status: 200, headers: String::new(), body: body.clone() });
        let encoder = EmbeddingsEndpoint::new(&server.options(), None, in_memory(), 8).unwrap();
        let encoder = encoder.with_clock(server.clock());
        let error = encoder.embed(&["a", "b"]).unwrap_err().to_string();
        assert!(error.contains("no list of 2 embeddings"), "{error}");
    }
}

#[test]
fn limits_that_forbid_everything_are_refused() {
    let server = Server::new(|_| Act::says(GOOD));
    let limits = Limits { concurrency: 0, ..Limits::default() };
    let options = EndpointOptions { limits, ..server.options() };
    assert!(matches!(ChatEndpoint::new(&options, None).unwrap_err(), Error::Setting { .. }));
    let mut options = server.options();
    options.limits.tokens_per_minute = Some(100);
    let judging = judging(chat(&server, &options), &in_memory(), OnFailure::Skip);
    let measurement = Gpt4Score::new(judging).unwrap().measure(&pairs(1)).unwrap().remove(0);
    let failure = measurement.samples[0].score.clone().unwrap_err();
    assert!(failure.detail.contains("more than the limit of a minute"), "{failure}");
    assert_eq!(server.requests(), 0);
}

#[test]
fn what_a_judge_is_told_about_its_reply_quotes_nothing_of_it() {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let messages = Arc::clone(&told);
    let server = Server::new(move |seen| {
        let last = seen.body["messages"].as_array().unwrap().last().unwrap().clone();
        messages.lock().unwrap().push(last["content"].as_str().unwrap().to_owned());
        match seen.number % 4 {
            0 => Act::says(r#"{"reason": "", "score": "OBEY"}"#),
            1 => Act::says(GOOD),
            2 => Act::says("OBEY [[OBEY]]"),
            _ => Act::says("[[8]]"),
        }
    });
    let judging = judging(chat(&server, &server.options()), &in_memory(), OnFailure::Error);
    Gpt4Score::new(judging).unwrap().measure(&pairs(2)).unwrap();
    let told = told.lock().unwrap();
    assert!(told[1].contains("not of the right form: invalid type: string"), "{}", told[1]);
    assert!(told[3].contains("no integer from 1 to 10"), "{}", told[3]);
    assert!(told.iter().all(|message| !message.contains("OBEY")), "{told:?}");
}
