//! The table of bad inputs: every row is a file and the message that it gets.

use ferrotune_data::{Error, Format, LISTED_REJECTIONS, Strictness, read_file};

use proptest::prelude::*;

use crate::inputs::{file, golden};

const GOOD: &str = r#"{"instruction": "a", "input": "", "output": "b"}"#;

/// A bad record beside a good one is dropped with this message, and refused with it when strict.
fn check_record(name: &str, content: &[u8], message: &str, kind: &str) {
    let (_folder, path) = file(name, content);
    let (records, report) = read_file(&path, Format::Auto, Strictness::Lenient)
        .unwrap_or_else(|problem| panic!("{name} for {message:?}: {problem}"));
    assert_eq!(records.len(), 1, "{message}");
    assert_eq!((report.read, report.kept, report.dropped), (2, 1, 1), "{message}");
    assert_eq!(report.rejections[0].to_string(), message);
    assert_eq!(report.dropped_by_reason.get(kind), Some(&1), "{message}: {:?}", report.dropped_by_reason);
    let written = serde_json::to_value(&report).unwrap();
    assert_eq!(written["rejections"][0]["reason"]["kind"], kind);

    let refused = read_file(&path, Format::Auto, Strictness::Strict).unwrap_err();
    assert!(matches!(refused, Error::BadRecord { .. }));
    let expected = format!("bad record in `{}`, {message}; mend it", path.display());
    assert!(refused.to_string().starts_with(&expected), "{refused}");
}

#[test]
fn bad_json_records_are_dropped_with_line_and_reason() {
    let rows: &[(&str, &str, &str)] = &[
        ("{", "malformed JSON, EOF while parsing an object at column 1", "malformed_json"),
        (
            r#"{"instruction": "a" "output": "b"}"#,
            "malformed JSON, expected `,` or `}` at column 21",
            "malformed_json",
        ),
        ("7", "expected a JSON object, found a number", "not_an_object"),
        (r#"["a"]"#, "expected a JSON object, found an array", "not_an_object"),
        (r#"{"instruction": "a"}"#, "field `output` is missing", "missing_field"),
        (r#"{"output": "a"}"#, "field `instruction` is missing", "missing_field"),
        (r#"{"instruction": "a", "output": null}"#, "field `output` is missing", "missing_field"),
        (
            r#"{"instruction": "a", "output": 7}"#,
            "field `output` is a number, expected a string",
            "wrong_type",
        ),
        (
            r#"{"instruction": ["a"], "output": "b"}"#,
            "field `instruction` is an array, expected a string",
            "wrong_type",
        ),
        (
            r#"{"instruction": "a", "input": {}, "output": "b"}"#,
            "field `input` is an object, expected a string",
            "wrong_type",
        ),
        (r#"{"instruction": "a", "output": " \n"}"#, "field `output` is empty", "empty_field"),
        (r#"{"instruction": "", "output": "b"}"#, "field `instruction` is empty", "empty_field"),
    ];
    for (line, message, kind) in rows {
        check_record("a.jsonl", format!("{GOOD}\n{line}\n").as_bytes(), &format!("line 2: {message}"), kind);
        // A first line that is an array is taken for a file with another name, covered below.
        if !line.starts_with('[') {
            check_record(
                "a.jsonl",
                format!("{line}\n{GOOD}").as_bytes(),
                &format!("line 1: {message}"),
                kind,
            );
        }
        // In an array a malformed element is a structural fault, covered below.
        if *kind != "malformed_json" {
            let array = format!("[\n{GOOD},\n\n{line}]");
            check_record("a.json", array.as_bytes(), &format!("record 2 in line 4: {message}"), kind);
            // Of a file in one line the line says nothing.
            let array = format!("[{GOOD},{line}]");
            check_record("a.json", array.as_bytes(), &format!("record 2 in line 1: {message}"), kind);
        }
    }
    let message = "the text is not valid UTF-8";
    let bad: &[u8] = b"{\"instruction\": \"a\", \"output\": \"\xff\xc3\"}";
    let lines = [GOOD.as_bytes(), b"\n", bad].concat();
    check_record("a.jsonl", &lines, &format!("line 2: {message}"), "invalid_utf8");
    let array = [&b"["[..], GOOD.as_bytes(), b",\n", bad, b"]"].concat();
    check_record("a.json", &array, &format!("record 2 in line 2: {message}"), "invalid_utf8");
    let array = [&b"["[..], bad, b",\n", GOOD.as_bytes(), b"]"].concat();
    check_record("a.json", &array, &format!("record 1 in line 1: {message}"), "invalid_utf8");
}

#[test]
fn bad_delimited_rows_are_dropped_with_line_and_reason() {
    let header = "instruction,input,output\n";
    for (rows, message, kind) in [
        ("a,,b\na,b\n", "line 3: the row has 2 fields, expected 3 as in the header", "ragged_row"),
        ("a,b,c,d\na,,b\n", "line 2: the row has 4 fields, expected 3 as in the header", "ragged_row"),
        ("\"x\ny\",,b\na,,\n", "line 4: field `output` is empty", "empty_field"),
        ("\n\n,,b\na,,b\n", "line 4: field `instruction` is empty", "empty_field"),
    ] {
        check_record("a.csv", format!("{header}{rows}").as_bytes(), message, kind);
        let tabs = format!("{header}{rows}").replace(',', "\t");
        check_record("a.tsv", tabs.as_bytes(), message, kind);
    }
    let bytes = [header.as_bytes(), b"a,,b\na,\xff,b\n"].concat();
    check_record("a.csv", &bytes, "line 3: the text is not valid UTF-8", "invalid_utf8");
}

#[test]
fn bad_conversations_are_dropped_with_the_message_that_breaks_them() {
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let user = r#"{"role": "user", "content": "a"}"#;
    let assistant = r#"{"role": "assistant", "content": "b"}"#;
    let system = r#"{"role": "system", "content": "s"}"#;
    let out_of_order = "the conversation is out of order,";
    let rows = [
        (String::new(), format!("{out_of_order} it has no messages"), "conversation"),
        (
            user.to_owned(),
            format!("{out_of_order} it does not end with an assistant message"),
            "conversation",
        ),
        (
            system.to_owned(),
            format!("{out_of_order} it does not end with an assistant message"),
            "conversation",
        ),
        (
            assistant.to_owned(),
            format!("{out_of_order} messages[0] has role assistant, expected user"),
            "conversation",
        ),
        (
            format!("{user},{user},{assistant}"),
            format!("{out_of_order} messages[1] has role user, expected assistant"),
            "conversation",
        ),
        (
            format!("{user},{assistant},{system}"),
            format!("{out_of_order} messages[2] has role system, expected user"),
            "conversation",
        ),
        (
            r#"{"role": "tool", "content": "a"}"#.to_owned(),
            format!(
                "{out_of_order} messages[0] has the unknown role `tool`, expected system, user or assistant"
            ),
            "conversation",
        ),
        ("7".to_owned(), "field `messages[0]` is a number, expected an object".to_owned(), "wrong_type"),
        (
            r#"{"role": "user"}"#.to_owned(),
            "field `messages[0].content` is missing".to_owned(),
            "missing_field",
        ),
        (
            format!(r#"{user},{{"role": "assistant", "content": ""}}"#),
            "field `messages[1].content` is empty".to_owned(),
            "empty_field",
        ),
        (
            r#"{"role": "user", "content": [7]}"#.to_owned(),
            "field `messages[0].content` is an array, expected a string".to_owned(),
            "wrong_type",
        ),
    ];
    for (messages, message, kind) in rows {
        let content = format!("{good}\n{{\"messages\": [{messages}]}}\n");
        check_record("a.jsonl", content.as_bytes(), &format!("line 2: {message}"), kind);
    }
    let content = format!("{good}\n{{\"messages\": 7}}\n");
    let message = "line 2: field `messages` is a number, expected an array of messages";
    check_record("a.jsonl", content.as_bytes(), message, "wrong_type");
}

/// The whole file is refused with a message that names it and holds every part.
fn check_file(name: &str, content: &[u8], format: Format, parts: &[&str]) {
    let (_folder, path) = file(name, content);
    let refused = match read_file(&path, format, Strictness::Lenient) {
        Err(refused) => refused.to_string(),
        Ok((records, _)) => panic!("{name} gave {} records, expected {parts:?}", records.len()),
    };
    assert!(refused.contains(&path.display().to_string()), "{refused}");
    for part in parts {
        assert!(refused.contains(part), "{name}: {refused}");
    }
    assert!(!refused.ends_with('.') && refused.starts_with(|first: char| !first.is_uppercase()), "{refused}");
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_refused() {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
    let rows: &[(&str, &[u8], &[&str])] = &[
        ("a.txt", b"x", &["cannot tell the kind", ".jsonl", ".parquet"]),
        ("noextension", b"x", &["cannot tell the kind"]),
        ("a.json", b"", &["no record in", "empty"]),
        ("a.json", b"[]", &["no record in"]),
        ("a.jsonl", b"\n\n", &["no record in"]),
        ("a.csv", b"instruction,output\n", &["no record in"]),
        ("a.json", &gzip, &["named as JSON", "holds gzip data", "add .gz"]),
        ("a.jsonl", b"PAR1....", &["named as JSON Lines", "holds Parquet data", ".parquet"]),
        ("a.json.gz", b"[]", &["named as gzip", "does not begin as one"]),
        ("a.csv.zst", &gzip, &["named as zstd", "holds gzip data"]),
        ("a.parquet", b"instruction,output\na,b\n", &["named as Parquet", "does not begin as one"]),
        ("a.parquet", lfs, &["named as Parquet", "Git LFS pointer", "git lfs pull"]),
        ("a.jsonl", lfs, &["Git LFS pointer"]),
        ("a.json", b"<!DOCTYPE html><html>", &["web page"]),
        ("a.json", b"\xff\xfe[\0]\0", &["UTF-16"]),
        ("a.json", GOOD.as_bytes(), &["begins with an object", ".jsonl"]),
        ("a.json", b"instruction,output", &["does not begin with `[`"]),
        ("a.jsonl", b"[{}]", &["begins with an array", ".json"]),
        ("a.csv", b"[{}]", &["begins like JSON"]),
    ];
    for (name, content, parts) in rows {
        check_file(name, content, Format::Auto, parts);
    }
}

#[test]
fn a_damaged_file_is_refused_at_the_place_of_the_damage() {
    let cut = format!("[\n{GOOD},\n{{\"instruction\": \"a");
    check_file("a.json", cut.as_bytes(), Format::Auto, &["damaged at line 3", "EOF while parsing", "repair"]);
    let missing_comma = format!("[\n{GOOD}\n{GOOD}]");
    check_file("a.json", missing_comma.as_bytes(), Format::Auto, &["damaged at line 3, column 1"]);
    check_file("a.json", b"[1] x", Format::Auto, &["damaged at line 1", "trailing characters"]);
    check_file("a.csv", b"output,output\na,b\n", Format::Auto, &["header", "`output` appears twice"]);
    check_file("a.csv", b"\xff,output\na,b\n", Format::Auto, &["header", "not valid UTF-8"]);
    let parquet = std::fs::read(golden("instruct_snappy.parquet")).unwrap();
    check_file("a.parquet", &parquet[..parquet.len() - 100], Format::Auto, &["damaged at its metadata"]);
    check_file("a.parquet", &parquet[..10], Format::Auto, &["damaged at its metadata"]);
    check_file("a.json.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3], Format::Auto, &["cannot read"]);
    let mut zstd = zstd::encode_all(GOOD.as_bytes(), 3).unwrap();
    zstd.truncate(zstd.len() - 5);
    check_file("a.jsonl.zst", &zstd, Format::Auto, &["cannot read"]);
    let missing =
        read_file(std::path::Path::new("absent.json"), Format::Auto, Strictness::Lenient).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read `absent.json`"), "{missing}");
}

#[test]
fn a_changed_byte_in_a_parquet_file_is_an_error_or_another_value_but_no_panic() {
    let good = std::fs::read(golden("instruct_none.parquet")).unwrap();
    let (_folder, path) = file("a.parquet", &good);
    let mut refused = 0;
    // Every seventh byte meets headers, levels, values and the metadata; all of them take a minute.
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        refused += usize::from(read_file(&path, Format::Auto, Strictness::Lenient).is_err());
    }
    assert!(refused > 20, "{refused} of {} changes were noticed", good.len() / 7);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_an_error_or_records_but_no_panic(
        extension in r"json|jsonl|csv|tsv|parquet|json\.gz|csv\.zst",
        // Pieces of real files between noise reach further than noise alone.
        pieces in prop::collection::vec(
            prop_oneof![
                Just(GOOD.as_bytes().to_vec()),
                Just(b"instruction,output\n".to_vec()),
                Just(b"messages\n".to_vec()),
                Just(b"[{\"messages\": [{\"role\": \"user\"".to_vec()),
                "[\\[\\]{},:\"\\\\\n\t a]{1,5}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..6),
            ],
            0..8,
        ),
    ) {
        let (_folder, path) = file(&format!("a.{extension}"), &pieces.concat());
        if let Ok((records, report)) = read_file(&path, Format::Auto, Strictness::Lenient) {
            prop_assert_eq!(records.len() as u64, report.kept);
            prop_assert_eq!(report.read, report.kept + report.dropped);
            prop_assert!(records.iter().all(|record| !record.turns.is_empty()));
        }
    }
}

#[test]
fn columns_that_fit_no_format_or_several_are_refused() {
    let check = |name: &str, content: &str, format, parts: &[&str]| {
        check_file(name, content.as_bytes(), format, parts)
    };
    check(
        "a.csv",
        "question,answer\na,b\n",
        Format::Auto,
        &["no known record format", "question, answer", "messages"],
    );
    check("a.jsonl", r#"{"text": "a"}"#, Format::Auto, &["no known record format", "columns are text"]);
    check("a.jsonl", "{}", Format::Auto, &["columns are none"]);
    check(
        "a.csv",
        "instruction,output,prompt,response\na,b,c,d\n",
        Format::Auto,
        &["several formats (alpaca, instruct-v3)", "--format"],
    );
    check(
        "a.csv",
        "prompt,response\na,b\n",
        Format::Alpaca,
        &["lacks column `instruction`", "prompt, response"],
    );
    check("a.jsonl", "x\ny\n", Format::Auto, &["2 of 2 were dropped", "line 1: malformed JSON"]);
    check(
        "a.jsonl",
        r#"{"prompt": "a"}"#,
        Format::InstructV3,
        &["1 of 1", "line 1: field `response` is missing"],
    );
    let numbers = std::fs::read(golden("alpaca_numbers.parquet")).unwrap();
    check_file("a.parquet", &numbers, Format::Auto, &["column `output`", "INT64", "expected text"]);
}

#[test]
fn rejections_are_all_counted_and_the_first_are_listed() {
    let dropped = LISTED_REJECTIONS + 5;
    let content = format!("{GOOD}\n{}", "{}\n".repeat(dropped));
    let (_folder, path) = file("a.jsonl", content.as_bytes());
    let (_, report) = read_file(&path, Format::Auto, Strictness::Lenient).unwrap();
    assert_eq!(report.dropped, dropped as u64);
    assert_eq!(report.dropped_by_reason["missing_field"], dropped as u64);
    assert_eq!(report.rejections.len(), LISTED_REJECTIONS);
}
