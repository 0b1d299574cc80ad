//! What files with another shape than the published ones get.

use std::{fs, io::Write as _, path::Path};

use ferrotune_core::digest;
use ferrotune_eval::{
    Error,
    task::{
        TaskSettings, open_task,
        table::{Header, read_table},
    },
};
use serde_json::json;

use super::{any_rows, write};

/// Opens a task that cannot be opened.
#[track_caller]
fn refused(name: &str, path: &Path, settings: &TaskSettings, expected: &str) {
    let error = open_task(name, path, settings).unwrap_err();
    assert!(matches!(error, Error::TaskData { .. }), "{error:?}");
    assert!(error.to_string().contains(expected), "{error}\nlacks {expected:?}");
}

fn published() -> TaskSettings {
    TaskSettings { shots: Some(0), ..TaskSettings::default() }
}

#[test]
fn wrong_columns_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "gpqa.csv", "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2\nq,a,b,c\n");
    let expected = "column `Incorrect Answer 3` is missing; expected Question, Correct Answer";
    refused("gpqa", &path.join("gpqa.csv"), &any_rows(), expected);
    write(path, "test.jsonl", "{\"question\": \"q\", \"solution\": \"#### 1\"}\n");
    refused("gsm8k", path, &published(), "column `answer` is missing");
    write(path, "mgsm_en.tsv", "What?\t3\nWhy?\t4\textra\n");
    refused(
        "mgsm",
        &path.join("mgsm_en.tsv"),
        &any_rows(),
        "line 2 has 3 columns, expected 2 (question, answer)",
    );
    write(path, "mmlu.csv", "Question,A,B,C,D,Answer\nq,a,b,c,d,A\n");
    refused("mmlu", &path.join("mmlu.csv"), &any_rows(), "column `Subject` is missing");
    write(path, "m/test/anatomy_test.csv", "\"q\nr\",a,b,c,d,E\n");
    let m = path.join("m");
    refused(
        "mmlu",
        &m,
        &any_rows(),
        "line 1, column `answer` is \"E\", expected one of the letters A, B, C and D",
    );
}

#[test]
fn cells_that_cannot_be_meant_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "mgsm_de.tsv", "Was?\t3\nWie?\t4.5\n");
    let expected = "line 2, column `answer` is \"4.5\", expected a whole number";
    refused("mgsm", &path.join("mgsm_de.tsv"), &any_rows(), expected);
    write(path, "test.jsonl", "{\"question\": \"q\", \"answer\": \"It is 3.\"}\n");
    refused(
        "gsm8k",
        path,
        &TaskSettings { shots: Some(0), ..any_rows() },
        "a solution that ends with `#### ` and a number",
    );
    let row = json!({"question": "q", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 4});
    write(path, "mmlu.jsonl", &row.to_string());
    let expected = "column `answer` is 4, expected the place of the right choice, 0 to 3";
    refused("mmlu", &path.join("mmlu.jsonl"), &any_rows(), expected);
    let row = json!({"question": "q", "subject": "anatomy", "choices": ["a", "b"], "answer": 1});
    write(path, "mmlu.jsonl", &row.to_string());
    refused("mmlu", &path.join("mmlu.jsonl"), &any_rows(), "expected four choices");
}

#[test]
fn another_number_of_rows_is_refused_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "test.jsonl", "{\"question\": \"q\", \"answer\": \"#### 1\"}\n");
    let expected = "test has 1 rows, the published data has 1319; to score a part of it";
    refused("gsm8k", path, &published(), expected);
    assert_eq!(open_task("gsm8k", path, &TaskSettings { shots: Some(0), ..any_rows() }).unwrap().len(), 1);
    write(path, "mgsm_en.tsv", "What?\t3\n");
    refused(
        "mgsm",
        &path.join("mgsm_en.tsv"),
        &published(),
        "language `en` has 1 rows, the published data has 250",
    );
    write(
        path,
        "gpqa.csv",
        "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\nq,a,b,c,d\n",
    );
    refused("gpqa", &path.join("gpqa.csv"), &published(), "the published data has 448 or 546 or 198");
    write(path, "test/algebra/1.json", r#"{"problem": "p", "solution": "\\boxed{1}"}"#);
    refused("math", path, &published(), "test has 1 rows, the published data has 5000 or 500");
}

#[test]
fn missing_subjects_and_languages_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "test/anatomy_test.csv", "q,a,b,c,d,A\n");
    write(path, "test/virology_test.csv", "q,a,b,c,d,A\n");
    refused("mmlu", path, &published(), "of MMLU's 57 subjects abstract_algebra, astronomy, ");
    let settings = |part: &str| TaskSettings { parts: vec![part.to_owned()], ..published() };
    refused("mmlu", path, &settings("astronomy"), "`astronomy` is missing");
    assert_eq!(open_task("mmlu", path, &settings("anatomy")).unwrap().len(), 1);
    refused("mmlu", path, &settings("astrology"), "of the subjects asked for `astrology` is missing");
    write(path, "mgsm_en.tsv", "What?\t3\n");
    refused(
        "mgsm",
        path,
        &published(),
        "of MGSM's 11 languages bn, de, es, fr, ja, ru, sw, te, th, zh are missing",
    );
    refused("mgsm", path, &TaskSettings { parts: vec!["de".to_owned()], ..any_rows() }, "`de` is missing");
}

#[test]
fn lines_are_counted_whatever_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test/anatomy_test.csv");
    for end in ["\n", "\r\n"] {
        let check = |lines: &[&str], expected: &str| {
            write(folder.path(), "test/anatomy_test.csv", &(lines.join(end) + end));
            refused("mmlu", folder.path(), &any_rows(), expected);
        };
        let good = "q,a,b,c,d,A";
        check(&["q,a,b,c,d,E", good], "line 1, column `answer` is \"E\"");
        check(&[good, good, "q,a,b,c,d,E"], "line 3, column `answer` is \"E\"");
        check(&[good, "", "\"q", "r\",a,b,c,d,A", "q,a,b"], "line 5 has 3 columns");
        let bytes = [good, "\u{1}", good].join(end).replace('\u{1}', "q,a,b,c,d,\u{1}").into_bytes();
        let bytes: Vec<u8> = bytes.into_iter().map(|byte| if byte == 1 { 0xff } else { byte }).collect();
        fs::write(&path, bytes).unwrap();
        refused("mmlu", folder.path(), &any_rows(), "line 2: invalid utf-8");
    }
}

#[test]
fn ids_are_used_once() {
    let folder = tempfile::tempdir().unwrap();
    let header =
        "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n";
    write(folder.path(), "gpqa.csv", &format!("{header}r1,q,a,b,c,d\nr2,q,a,b,c,d\nr1,q,a,b,c,d\n"));
    let expected = "line 4 has the id `r1` of line 2; results are keyed by id";
    refused("gpqa", &folder.path().join("gpqa.csv"), &any_rows(), expected);
}

#[test]
fn examples_that_are_not_there_are_missed_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "test.jsonl", "{\"question\": \"q\", \"answer\": \"#### 1\"}\n");
    refused("gsm8k", path, &any_rows(), "5 examples are asked for and 0 are there; put train beside test");
    write(path, "train.jsonl", "{\"question\": \"q\", \"answer\": \"#### 1\"}\n");
    refused("gsm8k", path, &any_rows(), "5 examples are asked for and 1 are there");
    write(path, "test/anatomy_test.csv", "q,a,b,c,d,A\n");
    refused("mmlu", path, &any_rows(), "5 examples are asked for and 0 are there; put dev beside test");
    write(path, "mgsm_en.tsv", "What?\t3\n");
    let settings = TaskSettings { shots: Some(8), ..any_rows() };
    refused("mgsm", path, &settings, "8 examples are asked for and 0 are there in mgsm_en_train");
}

#[test]
fn files_of_the_wrong_kind_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "a.txt", "q");
    refused("gpqa", &path.join("a.txt"), &any_rows(), "the name does not say how to read it");
    write(path, "a.parquet", "PAR1 is not enough");
    refused("gpqa", &path.join("a.parquet"), &any_rows(), "its metadata");
    write(path, "a.jsonl", "{\"Question\": \n");
    refused("gpqa", &path.join("a.jsonl"), &any_rows(), "line 1");
    write(path, "b.jsonl", "\n\n");
    refused("gpqa", &path.join("b.jsonl"), &any_rows(), "it holds no documents");
    write(path, "a.csv", "Question\0");
    refused("gpqa", &path.join("a.csv"), &any_rows(), "binary data or UTF-16");
    refused(
        "math",
        &path.join("nowhere"),
        &any_rows(),
        "expected a folder with test/<subject>/<number>.json",
    );
}

#[test]
fn a_digest_is_of_the_bytes_of_the_file_packed_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let text = "{\"question\": \"q\", \"answer\": \"#### 1\"}\n";
    let plain = folder.path().join("test.jsonl");
    fs::write(&plain, text).unwrap();
    let packed = folder.path().join("test.jsonl.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    fs::write(&packed, encoder.finish().unwrap()).unwrap();
    let parquet = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/tasks/data/mmlu-hub/all/test-00000-of-00001.parquet");
    for path in [&plain, &packed, &parquet] {
        let table = read_table("a task", path, Header::FirstRow).unwrap();
        assert_eq!(table.sha256, digest::of_bytes(&fs::read(path).unwrap()), "{}", path.display());
    }
}
