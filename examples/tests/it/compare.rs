//! `compare` with a study's file: what it would ask, what it asks, and what it refuses.

use std::{fs, path::Path, process::Stdio, thread, time::Duration};

use ferrotune::study::StudyResults;
use serde_json::{Value, json};

use crate::{documented::check, place::Place};

const COMPARE: &str = "compare --config study.toml --output out";

/// A study of the place's model that takes a step, with what stands in `evaluation`.
fn study(place: &Place, evaluation: &str) {
    place.write(
        "study.toml",
        format!(
            "title = \"A step\"\nseeds = [1]\ncompute = {{ device = \"cpu\", threads = 1 }}\ndata = {{ files = [\"data.json\"] }}\n\
             adapter = {{ rank = 2 }}\ntraining = {{ max_steps = 1 }}\n[[models]]\nname = \"Tiny\"\npath = \"model\"\n\
             [evaluation]\nmax_new_tokens = 2\n{evaluation}\n"
        ),
    );
}

#[test]
fn a_dry_run_says_what_the_study_then_asks() {
    let place = Place::new();
    // Two of twenty records are held out. What they are called stands in the samples of a study without a judge.
    study(&place, "metrics = \"exact_match\"");
    place.succeed("compare --config study.toml --output unjudged");
    let lines = fs::read_to_string(place.path("unjudged/tiny/base/samples.jsonl")).expect("samples");
    let id = |line: &str| {
        serde_json::from_str::<Value>(line).expect("JSON")["id"].as_str().expect("an id").to_owned()
    };
    let ids: Vec<String> = lines.lines().map(id).collect();
    assert_eq!(ids.len(), 2, "{lines}");
    let reply = |id: &str| {
        json!({"sample": id, "purpose": "gpt4_score", "text": "{\"reason\": \"so\", \"score\": 3}"})
            .to_string()
    };
    let replies: Vec<String> = ids.iter().flat_map(|id| [reply(id), reply(id)]).collect();
    place.write("replies.jsonl", replies.join("\n"));
    let judge = "[evaluation.judge]\nreplies = \"replies.jsonl\"\nprompt_price = 10.0\nreply_price = 30.0\n";
    study(&place, &format!("metrics = \"exact_match,gpt4_score\"\n{judge}"));

    let dry = place.succeed(&format!("{COMPARE} --dry-run"));
    assert!(!place.path("out").exists(), "a dry run writes nothing");
    let estimate = &dry["estimate"];
    assert_eq!((&estimate["evaluations"], &estimate["records"]), (&json!(2), &json!(2)), "{dry}");
    assert_eq!((&estimate["judge"]["calls"], &estimate["judge"]["calls_at_most"]), (&json!(4), &json!(8)));

    let output = place.run(COMPARE);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    for line in ["Tiny, base: 2 of 2 answers\n", "Tiny, seed 1: gpt4_score: 2 of 2 answers judged"] {
        assert!(said.contains(line), "`{line}` is missing in {said}");
    }
    let results: Value =
        serde_json::from_slice(&fs::read(place.path("out/results.json")).expect("results")).expect("JSON");
    let usage = &results["judge"]["usage"];
    let asked = usage["calls"].as_u64().zip(usage["cached"].as_u64()).map(|(calls, cached)| calls + cached);
    assert_eq!(asked, Some(4), "{usage}");
    for state in ["base", "seed-1"] {
        assert!(place.path(&format!("out/tiny/{state}/samples.jsonl")).is_file(), "{state}");
    }
}

/// `results.json` without what depends on the clock and the process.
fn timeless(results: &Path) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                let of_the_clock = |name: &str| {
                    name.ends_with("seconds")
                        || name.ends_with("per_second")
                        || ["wall_s", "finished", "peak_rss_bytes"].contains(&name)
                };
                fields.retain(|name, _| !of_the_clock(name));
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut found: Value = serde_json::from_slice(&fs::read(results).expect("results")).expect("JSON");
    found.as_object_mut().expect("an object").remove("summary");
    strip(&mut found);
    found
}

#[test]
fn a_study_whose_process_is_killed_goes_on_with_resume_and_gives_the_same_results() {
    let place = Place::new();
    place.tokenizer("mixtral");
    let benchmark = json!({"question": "add one", "answer": "a\n#### 1"});
    place.write("gsm8k.jsonl", format!("{benchmark}\n"));
    study(
        &place,
        "metrics = \"perplexity,exact_match,bleu\"\n[[evaluation.tasks]]\nname = \"gsm8k\"\ndata = \"gsm8k.jsonl\"\n\
         any_row_count = true\nshots = 0\nmax_new_tokens = 2\n[[models]]\nname = \"Mixture\"\npath = \"mixtral\"\n",
    );
    let text = fs::read_to_string(place.path("study.toml")).expect("a study");
    place.write("study.toml", text.replace("max_steps = 1", "max_steps = 6, save_steps = 1"));
    place.succeed("compare --config study.toml --output whole");
    let expected = timeless(&place.path("whole/results.json"));
    // In training, between two runs, in the middle of a measurement, and when the report is written.
    for moment in [
        "tiny/seed-1/checkpoint-3",
        "tiny/seed-1/adapter/adapter_model.safetensors",
        "mixture/base/likelihoods.jsonl",
        "mixture/seed-1/samples.jsonl",
        ".results.json.partial",
    ] {
        let output = format!("killed-{}", moment.replace(['/', '.'], "-"));
        let line = format!("compare --config study.toml --output {output}");
        let mut child =
            place.command(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process");
        let folder = place.path(&output);
        let report = folder.join("results.json");
        // The moment of the report is short, and over when it is there.
        let has_come = || folder.join(moment).exists() || report.exists();
        while !has_come() && child.try_wait().expect("a child").is_none() {
            thread::sleep(Duration::from_micros(200));
        }
        child.kill().expect("SIGKILL"); // does nothing to one that has ended
        child.wait().expect("an end");
        assert!(folder.join("study.json").is_file() && has_come(), "{moment}");
        let again = place.run(&line);
        let said = String::from_utf8_lossy(&again.stderr);
        assert!(
            !again.status.success() && said.contains("holds a study; go on with it with --resume"),
            "{said}"
        );
        place.succeed(&format!("{line} --resume"));
        assert_eq!(timeless(&report), expected, "killed at {moment}");
        let names =
            fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(
            names,
            ["mixture", "report.html", "report.md", "results.json", "study.json", "tiny"],
            "nothing half-written stays"
        );
    }
}

#[test]
fn another_study_is_not_gone_on_with() {
    let begun = |place: &Place| {
        study(place, "metrics = \"exact_match\"");
        place.succeed(COMPARE);
    };
    let resume = format!("{COMPARE} --resume");
    check(
        "resuming a study with another setting",
        |place| {
            begun(place);
            study(place, "metrics = \"exact_match,bleu\"");
        },
        &resume,
    );
    check(
        "resuming a study with another model",
        |place| {
            begun(place);
            place.fill_embedding("add", 1.0);
        },
        &resume,
    );
    check(
        "resuming where no study was begun",
        |place| {
            begun(place);
            place.remove("out/study.json");
        },
        &resume,
    );
    check("resuming a study and beginning it anew", begun, &format!("{resume} --force"));
}

#[test]
fn a_benchmark_in_two_variants_has_a_value_for_each() {
    let place = Place::new();
    place.write("gsm8k.jsonl", "{\"question\": \"add 1 2\", \"answer\": \"1 2 3\\n#### 3\"}\n");
    let task = |variant: &str| {
        format!(
            "[[evaluation.tasks]]\nname = \"gsm8k:{variant}\"\ndata = \"gsm8k.jsonl\"\nshots = 0\nany_row_count = true\n\
             max_new_tokens = 2\n"
        )
    };
    study(&place, &format!("metrics = \"exact_match\"\n{}{}", task("lm-eval"), task("lm-eval-cot-zeroshot")));
    let printed = place.succeed(COMPARE);
    let benchmarks = printed["tables"]["Tiny"]["base_benchmarks"].as_object().expect("benchmarks");
    let own = benchmarks.keys().filter(|name| name.starts_with("gsm8k: ")).count();
    assert_eq!(own, 2, "{benchmarks:?}");
}

#[test]
fn studies_that_cannot_be_run_are_refused_before_anything_is_written() {
    let case = |input: &str, evaluation: &str| {
        check(
            input,
            |place| {
                study(place, evaluation);
                place.write("problems.jsonl", "{}");
            },
            COMPARE,
        );
    };
    check(
        "a study into a folder that holds something",
        |place| {
            study(place, "metrics = \"exact_match\"");
            place.write("out/notes.txt", "mine");
        },
        COMPARE,
    );
    case("a study with an unknown key", "metric = \"bleu\"");
    case("a study with an unknown metric", "metrics = \"blue\"");
    case("a study's judge that is not named", "metrics = \"gpt4_score\"\n[evaluation.judge]\n");
    case(
        "a study's judge without its address",
        "metrics = \"gpt4_score\"\n[evaluation.judge]\nmodel = \"j\"",
    );
    case(
        "a study's judge that no metric asks",
        "metrics = \"bleu\"\n[evaluation.judge]\nreplies = \"r.jsonl\"",
    );
    case(
        "a study's benchmark that is unknown",
        "[[evaluation.tasks]]\nname = \"gsm9k\"\ndata = \"data.json\"",
    );
    case("a study's benchmark without data", "[[evaluation.tasks]]\nname = \"gsm8k\"");
    case(
        "a study's HumanEval without leave to run code",
        "[[evaluation.tasks]]\nname = \"humaneval\"\ndata = \"problems.jsonl\"",
    );
    case(
        "a study's model without the chat template it is to use",
        "[[models]]\nname = \"Chat\"\npath = \"model\"\ntemplate = \"chat\"",
    );
}

/// Logits of thousands: where they are wrong, a loss beyond 709 has an infinite exponential.
#[test]
fn an_infinite_perplexity_is_a_word_in_every_file() {
    let place = Place::new();
    place.change_numbers("lm_head.weight", |_, number| 1e5 * number);
    study(&place, "metrics = \"perplexity\"");
    let found = place.succeed(COMPARE);
    assert_eq!(found["tables"]["Tiny"]["base"]["perplexity"], "inf", "{found}");
    let read = |name: &str| fs::read_to_string(place.path(name)).expect("a file");
    let results: StudyResults = serde_json::from_str(&read("out/results.json")).expect("results");
    assert_eq!(results.models[0].base[0].value, Some(f64::INFINITY));
    assert!(read("out/report.md").contains("infinite"));
}
