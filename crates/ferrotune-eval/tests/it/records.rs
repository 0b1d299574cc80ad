use ferrotune_eval::{
    Dataset, Error, Failure, FailureKind, Measurement, Metric, Model, OnFailure, Pair, Record, Run,
    SampleScore, Tally, Unavailable, exact_match::RawExactMatch, statistics::Bootstrap,
};
use serde_json::{Value, json};

fn run() -> Run {
    Run {
        run_id: "r1".to_owned(),
        model: Some(Model { base_sha: "b".to_owned(), adapter_sha: None, dtype: "f32".to_owned() }),
        tokenizer_sha: Some("t".to_owned()),
        dataset: Dataset { path_name: "pairs.jsonl".to_owned(), sha256: "d".to_owned(), n_rows: 3 },
        template_sha: None,
        seed: 42,
    }
}

fn sample(id: &str, score: Result<f64, Failure>) -> SampleScore {
    SampleScore { id: id.to_owned(), extracted: None, score }
}

fn failure() -> Failure {
    Failure { kind: FailureKind::ZeroNorm, detail: "no direction".to_owned() }
}

#[test]
fn a_record_has_the_agreed_fields() {
    let samples = vec![sample("1", Ok(1.0)), sample("2", Ok(0.5)), sample("3", Err(failure()))];
    let measurement = Measurement::of_mean("m", "v", samples).with_param("k", 1);
    let record = Record::new(&run(), &measurement, &Bootstrap::default(), 0.25).unwrap();
    let value = serde_json::to_value(&record).unwrap();
    for (field, expected) in [
        ("run_id", json!("r1")),
        ("metric", json!("m")),
        ("variant", json!("v")),
        ("model", json!({"base_sha": "b", "dtype": "f32"})),
        ("tokenizer_sha", json!("t")),
        ("dataset", json!({"path_name": "pairs.jsonl", "sha256": "d", "n_rows": 3})),
        ("params", json!({"k": 1})),
        ("seed", json!(42)),
        ("n_total", json!(3)),
        ("n_scored", json!(2)),
        ("n_failed", json!(1)),
        ("value", json!(0.75)),
        ("wall_s", json!(0.25)),
    ] {
        assert_eq!(value[field], expected, "{field}");
    }
    assert!(value["ci95"][0].as_f64() <= Some(0.75) && value["ci95"][1].as_f64() >= Some(0.75));
    assert!(value["ci_method"].as_str().unwrap().contains("seed 0"));
    assert_eq!(serde_json::from_value::<Record>(value).unwrap(), record);
}

#[test]
fn what_was_not_measured_has_a_reason_and_no_number() {
    let pairs = [Pair::new("1", "a", "b")];
    let unavailable = Unavailable { metric: "m".to_owned(), reason: "no encoder".to_owned() };
    let all_failed = Measurement::of_mean("m", "v", vec![sample("1", Err(failure()))]);
    let nothing = Measurement::of_mean("m", "v", Vec::new());
    for (measurement, reason) in [
        (unavailable.measure(&pairs).unwrap().remove(0), "no encoder"),
        (all_failed, "all 1 samples failed, the first with zero norm: no direction"),
        (nothing, "there are no samples"),
    ] {
        let record = Record::new(&run(), &measurement, &Bootstrap::default(), 0.0).unwrap();
        let value = serde_json::to_value(&record).unwrap();
        assert_eq!(value["not_measured"], reason);
        assert_eq!(value.get("value"), None);
        assert_eq!(value["n_scored"], 0);
        assert_eq!(serde_json::from_value::<Record>(value).unwrap(), record);
    }
}

#[test]
fn infinite_values_survive_json() {
    let rows = ndarray::arr2(&[[710.0, 1.0], [1.0, 1.0]]);
    let tally = Tally::new(rows, |sums| (2.0 * sums[0] / sums[1]).exp());
    let samples = vec![sample("1", Ok(1.0)), sample("2", Ok(1.0))];
    let measurement = Measurement::of_tally("m", "v", samples, tally);
    let record = Record::new(&run(), &measurement, &Bootstrap::default(), 0.0).unwrap();
    let value: Value = serde_json::to_value(&record).unwrap();
    assert_eq!(value["value"], "inf");
    assert_eq!(serde_json::from_value::<Record>(value).unwrap().value, Some(f64::INFINITY));
}

/// `scipy.stats.binomtest(10, 10).proportion_ci(method="wilson")` is 0.7224672001371109 to 1; a bootstrap would say that
/// ten right answers of ten leave no doubt.
#[test]
fn shares_of_successes_get_wilsons_interval() {
    let pairs: Vec<Pair> = (0..10).map(|i| Pair::new(i.to_string(), "a", "a")).collect();
    let measurement = RawExactMatch::default().measure(&pairs).unwrap().remove(0);
    let record = Record::new(&run(), &measurement, &Bootstrap::default(), 0.0).unwrap();
    crate::assert_close(record.ci95.unwrap()[0], 0.7224672001371109, "low");
    assert_eq!((record.ci95.unwrap()[1], record.stderr), (1.0, Some(0.0)));
    assert!(record.ci_method.starts_with("wilson"), "{}", record.ci_method);
}

#[test]
fn a_single_sample_has_no_interval() {
    let measurement = Measurement::of_mean("m", "v", vec![sample("1", Ok(1.0))]);
    let record = Record::new(&run(), &measurement, &Bootstrap::default(), 0.0).unwrap();
    assert_eq!((record.value, record.ci95, record.stderr), (Some(1.0), None, None));
    assert!(record.ci_method.starts_with("none"), "{}", record.ci_method);
}

#[test]
fn samples_that_are_all_alike_have_no_interval() {
    // 0.1 + 0.1 + … is rounded, so that the ends are not the same to the last bit.
    for score in [0.0, 0.1, 100.0] {
        let samples = (0..7).map(|i| sample(&i.to_string(), Ok(score))).collect();
        let measurement = Measurement::of_mean("m", "v", samples);
        let record = Record::new(&run(), &measurement, &Bootstrap::default(), 0.0).unwrap();
        assert_eq!((record.ci95, record.stderr), (None, None), "{score}");
        assert_eq!(
            record.ci_method,
            "none: every resample gives the same value, which says nothing about other samples"
        );
    }
}

#[test]
fn failures_stop_or_are_counted_as_the_user_chose() {
    let samples = || vec![sample("1", Ok(1.0)), sample("2", Err(failure()))];
    let measurement = || Measurement::of_mean("m", "v", samples());
    match measurement().checked(OnFailure::Error).unwrap_err() {
        Error::SampleFailed { metric, id, .. } => assert_eq!((metric.as_str(), id.as_str()), ("m", "2")),
        other => panic!("{other}"),
    }
    assert_eq!(measurement().checked(OnFailure::Skip).unwrap().value(), Some(1.0));
}
