//! `evaluate` with a judge, and with vectors from a server.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Output,
    thread,
};

use serde_json::{Value, json};

use crate::{
    documented::check,
    evaluate::{EVALUATE, PAIRS, value_of},
    place::Place,
};

fn reply(sample: u8, text: &str) -> Value {
    json!({ "sample": sample.to_string(), "purpose": "gpt4_score", "text": text })
}

fn write_replies(place: &Place, replies: &[Value]) {
    place.write("pairs.jsonl", PAIRS);
    let lines: Vec<String> = replies.iter().map(|reply| format!("{reply}\n")).collect();
    place.write("replies.jsonl", lines.concat());
}

/// What was printed, and said.
fn printed(output: &Output) -> (Value, String) {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().expect("a last line");
    (serde_json::from_str(last).expect("JSON"), String::from_utf8_lossy(&output.stderr).into_owned())
}

const JUDGED: &str =
    "evaluate --pairs pairs.jsonl --device cpu --metrics gpt4_score --judge-replies replies.jsonl";

#[test]
fn a_judges_failures_and_what_it_costs_are_counted_and_said() {
    let place = Place::new();
    write_replies(
        &place,
        &[
            reply(1, "{\"reason\": \"right\", \"score\": 9}"),
            reply(2, "I would say it is wrong."),
            reply(2, "As I said."),
            reply(3, "{\"reason\": \"right\", \"score\": 10}"),
            reply(9, "Nobody asks about it."),
        ],
    );
    let dry = place.run(&format!("{JUDGED} --dry-run --judge-prompt-price 10 --judge-reply-price 30"));
    let (found, said) = printed(&dry);
    let estimate = &found["estimate"];
    assert_eq!((&estimate["calls"], &estimate["calls_at_most"]), (&json!(3), &json!(6)), "{found}");
    assert!(estimate["cost_at_most"].as_f64().is_some_and(|cost| cost > 0.0), "{found}");
    assert_eq!(found["metrics"], json!([]));
    assert!(
        said.contains(
            "3 questions if every reply can be used (fewer where one comes up again) and 6 at most"
        ),
        "{said}"
    );

    let output = place.run(&format!("{JUDGED} --on-failure skip --samples judged.jsonl"));
    let (found, said) = printed(&output);
    assert!(output.status.success(), "{said}");
    let score = value_of(&found, "gpt4_score");
    assert_eq!((&score["value"], &score["n_failed"]), (&json!(9.5), &json!(1)));
    assert_eq!(score["params"]["questions"], "shown");
    let usage = &found["judge"];
    assert_eq!((&usage["calls"], &usage["unusable"]), (&json!(4), &json!(2)), "within the estimate");
    assert!(said.contains("n 2, 1 failed"), "{said}");
    assert_eq!(found["unused_replies"], json!(["`gpt4_score` about sample `9`"]), "{said}");
    assert!(
        said.contains("1 recorded replies were not asked for, the first `gpt4_score` about sample `9`"),
        "{said}"
    );
    assert!(said.contains("4 questions asked") && said.contains("2 replies could not be used"), "{said}");
    let samples = fs::read_to_string(place.path("judged.jsonl")).expect("samples");
    assert!(samples.contains("As I said."), "the judge's words stay: {samples}");
}

#[test]
fn a_metric_that_fails_on_every_sample_is_a_failure_whose_samples_are_kept() {
    let place = Place::new();
    write_replies(&place, &[reply(1, "Good."), reply(2, "Bad."), reply(3, "Good.")]);
    let line = JUDGED.replace("gpt4_score", "gpt4_score,exact_match");
    let output = place.run(&format!("{line} --on-failure skip --samples judged.jsonl"));
    let (found, said) = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("error: no value for `gpt4_score`: all 3 samples failed, the first with"),
        "{said}"
    );
    assert_eq!(value_of(&found, "gpt4_score")["n_failed"], 3);
    assert_eq!(value_of(&found, "exact_match")["n_scored"], 3, "what else was measured is there");
    assert_eq!(fs::read_to_string(place.path("judged.jsonl")).expect("samples").lines().count(), 6);
}

#[test]
fn what_a_judge_was_paid_for_outlives_the_failure_that_ends_the_run() {
    let place = Place::new();
    write_replies(
        &place,
        &[reply(1, "{\"reason\": \"right\", \"score\": 9}"), reply(2, "Hm."), reply(2, "Hm!")],
    );
    for (more, file) in [("", "replies-1.jsonl"), (" --samples mine.jsonl", "mine.jsonl")] {
        let output = place.run(&format!("{JUDGED}{more}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
        assert!(said.contains("judge: 3 questions asked"), "{said}");
        assert!(said.contains(&format!("; what was scored before is in `{file}`")), "{said}");
        let kept = fs::read_to_string(place.path(file)).expect("the samples");
        let lines: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["score"], &lines[1]["failure"]["kind"]), (&json!(9.0), &json!("judge_reply")));
        assert_eq!(lines[2]["failure"]["kind"], "not_measured");
    }
    place.run(&format!("{JUDGED} --judge-cache cache.jsonl"));
    assert!(!place.path("replies-2.jsonl").exists(), "the cache has it");
}

#[test]
fn a_cache_answers_again_and_unusable_replies_only_on_demand() {
    let place = Place::new();
    let good = "{\"reason\": \"right\", \"score\": 9}";
    write_replies(
        &place,
        &[reply(1, good), reply(2, "Hm."), reply(2, "Hm!"), reply(2, good), reply(3, good)],
    );
    let line = format!("{JUDGED} --on-failure skip --judge-cache cache.jsonl");
    let run = |more: &str| {
        let (found, _) = printed(&place.run(&format!("{line}{more}")));
        (value_of(&found, "gpt4_score")["n_failed"].clone(), found["judge"]["calls"].clone())
    };
    assert_eq!(run(""), (json!(1), json!(4)));
    assert_eq!(run(""), (json!(1), json!(0)), "nothing is asked twice");
    // A judge that repeats a file begins anew with each run: its first two replies about sample 2 are prose once more.
    assert_eq!(run(" --judge-retry-unusable"), (json!(1), json!(2)));
    assert_eq!(run(""), (json!(1), json!(0)));
}

/// The model of the place with a chat template, which reads 128 tokens and has not learnt to judge.
#[test]
fn a_model_of_this_machine_judges_through_its_chat_template() {
    let place = Place::new();
    place.write("pairs.jsonl", PAIRS);
    let line = format!("{EVALUATE} --metrics gpt4_score --judge-local model --judge-max-tokens 8");
    let refused = place.run(&line);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("which has no chat template"), "{said}");

    let template = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}";
    place.edit("model/tokenizer_config.json", json!({ "chat_template": template }));
    let output = place.run(&format!("{line} --on-failure skip"));
    let (found, said) = printed(&output);
    let score = value_of(&found, "gpt4_score");
    assert_eq!(score["n_failed"], 3, "{said}");
    let judge = &score["judge"];
    assert_eq!(judge["name"], "model");
    for param in ["weights_sha256", "tokenizer_sha", "template_sha"] {
        assert_eq!(judge["params"][param].as_str().map(str::len), Some(64), "{param} in {judge}");
    }
    assert_eq!(
        (&judge["params"]["system_message"], &judge["params"]["dtype"]),
        (&json!("own turn"), &json!("f32"))
    );
    assert!(
        score["not_measured"].as_str().is_some_and(|why| why.contains("its context is too short")),
        "{score}"
    );
}

/// Serves so many requests; `answer` gets the number of each, counted from 0, and its body, and gives a status and a body.
fn server(
    requests: usize,
    answer: impl Fn(usize, &Value) -> (u16, Value) + Send + 'static,
) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let serve = move || {
        for number in 0..requests {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            let body = loop {
                let mut chunk = [0; 4096];
                let count = stream.read(&mut chunk).expect("a request");
                request.extend(&chunk[..count]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.to_lowercase();
                let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                if length.and_then(|length| length.trim().parse().ok()) == Some(body.len()) {
                    break serde_json::from_str::<Value>(body).expect("JSON");
                }
            };
            let (status, reply) = answer(number, &body);
            let reply = reply.to_string();
            let length = reply.len();
            let head = format!(
                "HTTP/1.1 {status} Scripted\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            stream.write_all((head + &reply).as_bytes()).expect("a reply that is read");
        }
    };
    (address, thread::spawn(serve))
}

/// The vector of each text is its length and 1.
fn vectors(_: usize, body: &Value) -> (u16, Value) {
    let texts = body["input"].as_array().expect("texts");
    let data: Vec<Value> = (texts.iter().enumerate())
        .map(|(index, text)| json!({ "index": index, "embedding": [text.as_str().map(str::len), 1] }))
        .collect();
    (200, json!({ "data": data, "usage": { "total_tokens": 5 * texts.len() } }))
}

#[test]
fn what_was_judged_before_a_refusal_is_kept_and_a_cache_goes_on_from_there() {
    let place = Place::new();
    place.write("pairs.jsonl", PAIRS);
    let good = || {
        let text = "{\"reason\": \"right\", \"score\": 9}";
        (200, json!({ "choices": [{ "message": { "content": text }, "finish_reason": "stop" }] }))
    };
    let expired = || (401, json!({ "error": { "message": "expired" } }));
    for (cache, kept_in, lines, answers) in
        [("", "replies-1.jsonl", 3, 2), (" --judge-cache cache.jsonl", "cache.jsonl", 1, 4)]
    {
        let (address, judge) = server(answers, move |number, _| if number == 1 { expired() } else { good() });
        // Samples that nobody judged are no failures to be skipped.
        let line = format!(
            "{EVALUATE} --metrics gpt4_score --judge-url {address} --judge-model m --judge-concurrency 1 --on-failure skip{cache}"
        );
        let output = place.run(&line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
        assert!(said.contains("judge `m` refused to answer after 1 of 3 samples: "), "{said}");
        assert!(said.contains(&format!("in `{kept_in}`")), "{said}");
        let kept = fs::read_to_string(place.path(kept_in)).expect("what was judged");
        assert_eq!(kept.lines().count(), lines, "{kept}");
        if !cache.is_empty() {
            assert_eq!(value_of(&place.succeed(&line), "gpt4_score")["value"], 9.0);
        }
        judge.join().expect("a server that was asked as often as it answers");
    }
}

#[test]
fn vectors_of_a_server_are_counted_and_paid_for() {
    let place = Place::new();
    place.write("pairs.jsonl", PAIRS);
    let (address, server) = server(1, vectors);
    let line = format!(
        "{EVALUATE} --metrics semantic_similarity,ragas_answer_semantic_similarity --judge-cache vectors.jsonl \
         --embeddings-url {address} --embeddings-model m --embeddings-price 100000"
    );
    let estimate = &place.succeed(&format!("{line} --dry-run"))["embeddings_estimate"];
    assert_eq!((&estimate["calls"], &estimate["cached"]), (&json!(1), &json!(0)), "{estimate}");
    let found = place.succeed(&line);
    server.join().expect("a server that was asked once");
    // Six different texts for both metrics: Madrid is prediction and reference, and the other reference is `madrid`.
    let usage = &found["embeddings"];
    assert_eq!(
        (&usage["calls"], &usage["prompt_tokens"], &usage["cached"]),
        (&json!(1), &json!(30), &json!(6))
    );
    assert!(usage["cost"].as_f64().is_some_and(|cost| (cost - 3.0).abs() < 1e-12), "{usage}");
    let estimate = &place.succeed(&format!("{line} --dry-run"))["embeddings_estimate"];
    assert_eq!((&estimate["calls"], &estimate["cached"]), (&json!(0), &json!(6)), "{estimate}");
}

#[test]
fn bad_judges_are_refused_as_documented() {
    let good = |place: &Place| write_replies(place, &[reply(1, "Good."), reply(1, "Good.")]);
    check("a judged metric without a judge", good, &format!("{EVALUATE} --metrics gpt4_score"));
    check(
        "a key that is not there",
        good,
        &format!(
            "{EVALUATE} --metrics gpt4_score --judge-url http://127.0.0.1:9/v1 --judge-model m --judge-key-env NO_SUCH_KEY"
        ),
    );
    check("a judge that answers with prose", good, JUDGED);
    let over_the_cache = format!("{JUDGED} --judge-cache new.jsonl --samples new.jsonl");
    check("samples over a cache to be written", good, &over_the_cache);
    check("samples in a folder that is not there", good, &format!("{JUDGED} --samples none/s.jsonl"));
    check("samples over a folder", good, &format!("{JUDGED} --samples model --force"));
    check("a cache in a folder that is not there", good, &format!("{JUDGED} --judge-cache none/cache.jsonl"));
    check(
        "some samples without an instruction for a judge",
        |place| {
            good(place);
            place.write("pairs.jsonl", PAIRS.replace("\"instruction\": \"And of Italy?\", ", ""));
        },
        JUDGED,
    );
    check("a judge that no metric asks", good, &JUDGED.replace("gpt4_score", "bleu"));
    check("a server's setting for recorded replies", good, &format!("{JUDGED} --judge-timeout 5"));
    check("an estimate of metrics that ask nobody", good, &format!("{EVALUATE} --dry-run"));
    check("a base model as judge", good, &format!("{EVALUATE} --metrics gpt4_score --judge-local model"));
    check("a judge's temperature that is none", good, &format!("{JUDGED} --judge-temperature warm"));
}
