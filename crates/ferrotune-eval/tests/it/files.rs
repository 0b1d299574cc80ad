use std::{fs, io::Write as _, path::PathBuf};

use ferrotune_eval::{
    Error, Existing, LineProblem, OnFailure, Outcome, Pair, Registry, Run, evaluate, mean_of_lines,
    read_pairs, read_samples, rescorable_pairs, sample_lines, statistics::Bootstrap, write_samples,
};
use tempfile::TempDir;

fn folder_with(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn good_pairs_are_read_in_order() {
    let (_folder, path) = folder_with(
        "pairs.jsonl",
        concat!(
            "\u{feff}{\"id\": 7, \"prediction\": \"\", \"reference\": \"x\", \"extra\": [1]}\n",
            "\n",
            "{\"id\": \"b\", \"instruction\": \"Say y\", \"prediction\": \"y\", \"references\": [\"y\", \"Y\"]}\r\n",
            "{\"id\": \"c\", \"instruction\": null, \"prediction\": \"z\", \"reference\": \"z\", \"references\": null}",
        ),
    );
    let file = read_pairs(&path, OnFailure::Error).unwrap();
    assert_eq!(file.pairs.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["7", "b", "c"]);
    assert_eq!(file.pairs[1].instruction.as_deref(), Some("Say y"));
    assert_eq!(file.pairs[1].references, ["y", "Y"]);
    assert!(file.rejected.is_empty());
}

#[test]
fn every_bad_record_gets_its_own_message_with_file_and_line() {
    let good = r#"{"id": "ok", "prediction": "x", "reference": "x"}"#;
    for (bad, message) in [
        (r#"{"id": "#, "not JSON: EOF"),
        (r#"["a"]"#, "field `the record` is a list, expected an object"),
        (r#"{"prediction": "x", "reference": "x"}"#, "field `id` is missing"),
        (
            r#"{"id": 1.5, "prediction": "x", "reference": "x"}"#,
            "field `id` is a fractional number, expected a string or an integer",
        ),
        (r#"{"id": null, "prediction": "x", "reference": "x"}"#, "field `id` is null"),
        (r#"{"id": "ok", "prediction": "x", "reference": "x"}"#, "id `ok` was used before, on line 1"),
        (r#"{"id": 1, "reference": "x"}"#, "field `prediction` is missing"),
        (
            r#"{"id": 1, "prediction": null, "reference": "x"}"#,
            "field `prediction` is null, expected a string",
        ),
        (
            r#"{"id": 1, "prediction": ["x"], "reference": "x"}"#,
            "field `prediction` is a list, expected a string",
        ),
        (r#"{"id": 1, "prediction": "x"}"#, "field `reference` is missing"),
        (
            r#"{"id": 1, "prediction": "x", "reference": 3}"#,
            "field `reference` is an integer, expected a string",
        ),
        (
            r#"{"id": 1, "prediction": "x", "reference": ["x"]}"#,
            "field `reference` is a list, expected a string",
        ),
        (
            r#"{"id": 1, "prediction": "x", "references": "x"}"#,
            "field `references` is a string, expected a list of strings",
        ),
        (
            r#"{"id": 1, "prediction": "x", "references": ["x", null]}"#,
            "field `references[1]` is null, expected a string",
        ),
        (r#"{"id": 1, "prediction": "x", "references": []}"#, "field `references` is an empty list"),
        (r#"{"id": 1, "prediction": "x", "reference": " "}"#, "reference 0 is empty"),
        (
            r#"{"id": 1, "prediction": "x", "prediction": "y", "reference": "x"}"#,
            "field `prediction` occurs twice in one object",
        ),
        (r#"{"id": 1, "prediction": "x", "references": ["x", ""]}"#, "reference 1 is empty"),
        (r#"{"id": 1, "prediction": "x", "reference": "x", "references": ["x"]}"#, "both present"),
        (
            r#"{"id": 1, "instruction": 5, "prediction": "x", "reference": "x"}"#,
            "field `instruction` is an integer",
        ),
    ] {
        let (_folder, path) = folder_with("pairs.jsonl", &format!("{good}\n\n{bad}\n"));
        let error = read_pairs(&path, OnFailure::Error).unwrap_err().to_string();
        assert!(error.contains("pairs.jsonl` line 3: "), "{error}");
        assert!(error.contains(message), "{bad} gave {error:?}, expected {message:?}");
        let file = read_pairs(&path, OnFailure::Skip).unwrap();
        assert_eq!((file.pairs.len(), file.rejected.len(), file.rejected[0].line), (1, 1, 3), "{bad}");
    }
}

#[test]
fn empty_and_absent_files_are_errors() {
    let (folder, path) = folder_with("pairs.jsonl", "\n \n");
    assert!(matches!(read_pairs(&path, OnFailure::Skip).unwrap_err(), Error::NoRecords { .. }));
    let absent = folder.path().join("absent.jsonl");
    assert!(matches!(read_pairs(&absent, OnFailure::Error).unwrap_err(), Error::Read { .. }));
}

#[test]
fn a_line_that_is_not_utf_8_is_one_bad_line() {
    let (_folder, path) = folder_with("pairs.jsonl", "");
    let good = br#"{"id": 1, "prediction": "x", "reference": "x"}"#;
    fs::write(
        &path,
        [good.as_slice(), b"\n{\"id\": \"\xff\"}\r\n", &good.map(|b| if b == b'1' { b'2' } else { b })]
            .concat(),
    )
    .unwrap();
    let error = read_pairs(&path, OnFailure::Error).unwrap_err().to_string();
    assert!(error.ends_with("pairs.jsonl` line 2: not UTF-8: byte 9 begins no character"), "{error}");
    let file = read_pairs(&path, OnFailure::Skip).unwrap();
    assert_eq!((file.pairs.len(), file.rejected.len(), file.rejected[0].line), (2, 1, 2));
}

#[test]
fn compressed_pairs_are_read_by_the_same_rules() {
    let text = "\u{feff}{\"id\": 1, \"prediction\": \"x\", \"reference\": \"x\"}\n\nprose\n";
    let folder = tempfile::tempdir().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    for (name, bytes) in [
        ("pairs.jsonl", text.as_bytes().to_vec()),
        ("pairs.jsonl.gz", gzip.clone()),
        ("pairs.jsonl.zst", zstd::encode_all(text.as_bytes(), 0).unwrap()),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let file = read_pairs(&path, OnFailure::Skip).unwrap();
        assert_eq!((file.pairs[0].id.as_str(), file.rejected[0].line), ("1", 3), "{name}");
        assert_eq!(file.sha256, ferrotune_core::digest::of_bytes(&bytes), "{name}: what lies on the disk");
    }
    let path = folder.path().join("cut.jsonl.gz");
    fs::write(&path, &gzip[..gzip.len() - 9]).unwrap();
    assert!(matches!(read_pairs(&path, OnFailure::Skip).unwrap_err(), Error::Read { .. }));
}

#[test]
fn references_of_all_records_in_each_are_refused_as_transposed() {
    let record = |id: usize, references: &str| {
        format!("{{\"id\": {id}, \"prediction\": \"x\", \"references\": {references}}}\n")
    };
    let all = r#"["a", "b", "c"]"#;
    let (_folder, path) = folder_with("pairs.jsonl", &(0..3).map(|id| record(id, all)).collect::<String>());
    let error = read_pairs(&path, OnFailure::Error).unwrap_err();
    assert!(matches!(error, Error::TransposedReferences { records: 3, .. }), "{error}");
    assert!(error.to_string().contains("the references look transposed"), "{error}");
    // A line that is rejected for another reason does not hide it.
    let lines = format!(
        "{}{}",
        (0..3).map(|id| record(id, all)).collect::<String>().replacen("\"x\"", "null", 1),
        ""
    );
    let (_folder, path) = folder_with("pairs.jsonl", &lines);
    let error = read_pairs(&path, OnFailure::Skip).unwrap_err();
    assert!(matches!(error, Error::TransposedReferences { records: 3, .. }), "{error}");
    // Two records, or another number of references than records, may share them.
    for records in [2, 4] {
        let (_folder, path) =
            folder_with("pairs.jsonl", &(0..records).map(|id| record(id, all)).collect::<String>());
        assert_eq!(read_pairs(&path, OnFailure::Error).unwrap().pairs.len(), records);
    }
}

fn example_pairs() -> Vec<Pair> {
    vec![
        Pair { instruction: Some("Where?".to_owned()), ..Pair::new("1", "On the mat.", "on a mat") },
        Pair::new("2", "naïve 日本語", "naive"),
        Pair { references: vec!["x".to_owned(), "y z".to_owned()], ..Pair::new("3", "y z w v u", "") },
    ]
}

#[test]
fn scoring_a_written_file_again_gives_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let pairs = example_pairs();
    let metrics = Registry::with_text_metrics().unwrap().resolve("bleu,rouge,squad_em,token_f1").unwrap();
    let run = |pairs: &[Pair]| {
        evaluate(&metrics, pairs, &Run::default(), &Bootstrap::default(), OnFailure::Error).unwrap()
    };
    let first = run(&pairs);
    write_samples(&path, &sample_lines(&pairs, &first.measurements).unwrap(), Existing::Refuse).unwrap();
    let again = rescorable_pairs(&path).unwrap();
    assert_eq!(again, pairs);
    for (a, b) in first.records.iter().zip(&run(&again).records) {
        assert_eq!((&a.metric, a.value, a.ci95), (&b.metric, b.value, b.ci95));
    }
    let lines = read_samples(&path).unwrap();
    assert_eq!(lines.len(), pairs.len() * first.measurements.len());
    let f1 = first.records.iter().find(|r| r.metric == "token_f1").unwrap();
    assert_eq!(mean_of_lines("token_f1", &f1.variant, &lines).value(), f1.value);
}

#[test]
fn failures_are_written_and_read_as_failures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let pairs = example_pairs();
    let metrics = Registry::with_text_metrics().unwrap().resolve("semantic_similarity").unwrap();
    let measurements = metrics[0].measure(&pairs).unwrap();
    write_samples(&path, &sample_lines(&pairs, &measurements).unwrap(), Existing::Refuse).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(r#""failure":{"kind":"not_measured","detail":"no sentence encoder was given"}"#),
        "{text}"
    );
    assert!(!text.contains("score"), "{text}");
    assert!(read_samples(&path).unwrap().iter().all(|line| matches!(line.outcome, Outcome::Failure(_))));
}

#[test]
fn nothing_is_overwritten_unless_allowed_and_nothing_half_written_is_left() {
    let (folder, path) = folder_with("samples.jsonl", "precious");
    assert!(matches!(write_samples(&path, &[], Existing::Refuse).unwrap_err(), Error::Exists { .. }));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    write_samples(&path, &[], Existing::Replace).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("no/such/folder/samples.jsonl");
    assert!(matches!(write_samples(&nowhere, &[], Existing::Refuse).unwrap_err(), Error::Write { .. }));
}

#[test]
fn lines_that_disagree_about_a_sample_are_refused() {
    let line = |prediction: &str| {
        format!(
            r#"{{"id":"1","metric":"m{prediction}","reference":["r"],"prediction":"{prediction}","score":1.0}}"#
        )
    };
    let (_folder, path) = folder_with("samples.jsonl", &format!("{}\n{}\n", line("a"), line("b")));
    match rescorable_pairs(&path).unwrap_err() {
        Error::Line {
            line: 2,
            problem: LineProblem::Disagreement { id, field: "prediction", first_line: 1 },
            ..
        } => {
            assert_eq!(id, "1");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn lines_that_are_no_samples_are_refused_with_file_and_line() {
    let good = r#"{"id":"1","metric":"m","reference":["r"],"prediction":"p","score":1.0}"#;
    for (bad, message) in [
        ("{", "not JSON"),
        (r#"{"id":"1"}"#, "not a sample: missing field `metric`"),
        (r#"{"id":"1","metric":"m","reference":["r"],"prediction":"p"}"#, "not a sample"),
        (good, "id `1` with metric `m` was used before, on line 1"),
        (r#"{"id":"1","metric":"m","reference":["r"],"prediction":"p","score":"1"}"#, "not a sample"),
    ] {
        let (_folder, path) = folder_with("samples.jsonl", &format!("{good}\n{bad}\n"));
        let error = read_samples(&path).unwrap_err().to_string();
        assert!(error.contains("samples.jsonl` line 2: ") && error.contains(message), "{error}");
    }
}
