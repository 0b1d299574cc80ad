//! The same records out of every container, compression and format.

use std::io::Write as _;

use ferrotune_data::{Format, Place, Preamble, Record, Strictness, read_file, read_files};
use serde::Deserialize;

use crate::inputs::{file, golden, golden_json};

const ALPACA: &str = r#"[
  {"instruction": "Name a prime.", "input": "", "output": "Seven."},
  {"instruction": "Add.", "input": "3 and 4", "output": "\"7\", in words:\nseven"},

  {"instruction": "Say é.", "output": "é"}
]"#;

const JSONL: &str = concat!(
    "{\"instruction\": \"Name a prime.\", \"input\": \"\", \"output\": \"Seven.\"}\r\n",
    "\n",
    "{\"instruction\": \"Add.\", \"input\": \"3 and 4\", \"output\": \"\\\"7\\\", in words:\\nseven\"}\n",
    "{\"instruction\": \"Say é.\", \"input\": null, \"output\": \"é\"}",
);

const CSV: &str = "instruction,input,output\nName a prime.,,Seven.\nAdd.,3 and 4,\"\"\"7\"\", in words:\nseven\"\nSay é.,,é\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn turns(records: &[Record]) -> Vec<(&str, &str)> {
    records
        .iter()
        .flat_map(|record| &record.turns)
        .map(|turn| (turn.request.as_str(), turn.response.as_str()))
        .collect()
}

fn check_alpaca(name: &str, bytes: &[u8], places: [u64; 3]) {
    let (_folder, path) = file(name, bytes);
    for format in [Format::Auto, Format::Alpaca] {
        let (records, report) = read_file(&path, format, Strictness::Strict).unwrap();
        assert_eq!(
            turns(&records),
            [("Name a prime.", "Seven."), ("Add.\n3 and 4", "\"7\", in words:\nseven"), ("Say é.", "é")],
            "{name}"
        );
        assert_eq!((report.read, report.kept, report.dropped), (3, 3, 0));
        assert_eq!(report.format, Format::Alpaca);
        assert_eq!(report.sha256, ferrotune_core::digest::of_bytes(bytes));
        let found: Vec<_> = records.iter().map(|record| record.origin.place).collect();
        let is_array = name.contains(".json") && !name.contains(".jsonl");
        let place = |(record, line)| {
            if is_array { Place::Element { record, line } } else { Place::Line(line) }
        };
        let expected: Vec<_> = (1..).zip(places).map(place).collect();
        assert_eq!(found, expected, "{name}");
        assert!(records.iter().all(|record| *record.origin.file == *path));
    }
}

#[test]
fn every_text_container_and_compression_gives_the_same_records() {
    let tsv = CSV.replace(',', "\t").replace("\"\"7\"\"\t", "\"\"7\"\",");
    let with_mark = format!("\u{feff}{ALPACA}");
    for (extension, content, places) in [
        ("json", ALPACA, [2, 3, 5]),
        ("json", &with_mark, [2, 3, 5]),
        ("jsonl", JSONL, [1, 3, 4]),
        ("ndjson", JSONL, [1, 3, 4]),
        ("csv", CSV, [2, 3, 5]),
        ("tsv", &tsv, [2, 3, 5]),
    ] {
        check_alpaca(&format!("a.{extension}"), content.as_bytes(), places);
        check_alpaca(&format!("a.{extension}.gz"), &gzip(content.as_bytes()), places);
        check_alpaca(&format!("a.{extension}.zst"), &zstd(content.as_bytes()), places);
        // Both compressions may be several members one after the other.
        let (head, tail) = content.as_bytes().split_at(40);
        check_alpaca(&format!("b.{extension}.gz"), &[gzip(head), gzip(tail)].concat(), places);
        check_alpaca(&format!("b.{extension}.zst"), &[zstd(head), zstd(tail)].concat(), places);
    }
}

#[derive(Deserialize)]
struct Pair {
    request: String,
    response: String,
}

#[test]
fn instruct_v3_parquet_is_read_in_every_compression_and_its_frames_are_stripped() {
    let pairs: Vec<Pair> = golden_json("pairs.json");
    for compression in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"] {
        let path = golden(&format!("instruct_{compression}.parquet"));
        let (records, report) = read_file(&path, Format::Auto, Strictness::Lenient).unwrap();
        assert_eq!((report.format, report.read, report.kept), (Format::InstructV3, 10, 9), "{compression}");
        assert_eq!(report.unstripped_prompts, 1);
        assert_eq!(report.rejections[0].to_string(), "row 4: field `response` is missing");
        let rows = records.iter().map(|record| match record.origin.place {
            Place::Row(row) => row as usize - 1,
            _ => panic!("a Parquet file has rows"),
        });
        for (row, record) in rows.zip(&records) {
            let turn = &record.turns[0];
            assert_eq!(record.source.as_deref(), Some("own"));
            assert_eq!(turn.response, pairs[row].response);
            if row == 4 {
                assert_eq!(record.preamble, Preamble::Omitted);
                assert_eq!(turn.request, "no frame around this");
            } else {
                assert_eq!(record.preamble, Preamble::Added);
                assert_eq!(turn.request, pairs[row].request.trim());
            }
        }
    }
}

#[test]
fn a_compressed_parquet_file_is_unpacked_first() {
    let plain = golden("instruct_snappy.parquet");
    let (expected, _) = read_file(&plain, Format::Auto, Strictness::Lenient).unwrap();
    let bytes = std::fs::read(plain).unwrap();
    for (name, bytes) in [("a.parquet.gz", gzip(&bytes)), ("a.parquet.zst", zstd(&bytes))] {
        let (_folder, path) = file(name, &bytes);
        let (records, _) = read_file(&path, Format::Auto, Strictness::Lenient).unwrap();
        assert_eq!(turns(&records), turns(&expected));
    }
}

#[test]
fn conversations_are_read_from_parquet_and_json_lines() {
    let (records, report) =
        read_file(&golden("messages.parquet"), Format::Auto, Strictness::Lenient).unwrap();
    assert_eq!((report.format, report.kept, report.dropped), (Format::Messages, 3, 3));
    assert_eq!(records[0].system.as_deref(), Some("Be brief."));
    assert_eq!(
        turns(&records),
        [("Name a prime.", "Seven."), ("Hi.", "Hello."), ("Name a colour.", "Blue."), ("Last.", "Row.")]
    );
    let places: Vec<_> = records.iter().map(|record| record.origin.place).collect();
    assert_eq!(places, [Place::Row(1), Place::Row(2), Place::Row(6)]);

    let lines =
        r#"{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}"#;
    let (_folder, path) = file("chat.jsonl", lines.as_bytes());
    let (records, _) = read_file(&path, Format::Auto, Strictness::Strict).unwrap();
    assert_eq!(turns(&records), [("Hi.", "Hello.")]);
    let cell = "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}, {\"\"role\"\": \
                \"\"assistant\"\", \"\"content\"\": \"\"b\"\"}]\"\n";
    let (_folder, path) = file("chat.csv", cell.as_bytes());
    let (records, _) = read_file(&path, Format::Auto, Strictness::Strict).unwrap();
    assert_eq!(turns(&records), [("a", "b")]);
}

#[test]
fn a_cell_that_is_not_utf8_spoils_its_own_row_only() {
    let (records, report) =
        read_file(&golden("alpaca_invalid_utf8.parquet"), Format::Auto, Strictness::Lenient).unwrap();
    assert_eq!(turns(&records), [("a", "Seven."), ("c", "Nine.")]);
    assert_eq!(report.rejections[0].to_string(), "row 2: the text is not valid UTF-8");
}

#[test]
fn files_of_several_formats_mix_and_each_keeps_its_report() {
    let (_folder, json) = file("a.json", ALPACA.as_bytes());
    let paths = [json, golden("messages.parquet"), golden("instruct_zstd.parquet")];
    let (records, reports) = read_files(&paths, Format::Auto, Strictness::Lenient).unwrap();
    assert_eq!(records.len(), 3 + 3 + 9);
    let formats: Vec<_> = reports.iter().map(|report| report.format).collect();
    assert_eq!(formats, [Format::Alpaca, Format::Messages, Format::InstructV3]);
    assert_eq!(reports.iter().map(|report| report.kept).sum::<u64>(), 15);
}

#[test]
fn format_names_read_back() {
    for format in [Format::Auto, Format::Alpaca, Format::InstructV3, Format::Messages] {
        assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
    }
    let refused = "sharegpt".parse::<Format>().unwrap_err();
    assert_eq!(refused.to_string(), "format is `sharegpt`, expected auto, alpaca, instruct-v3 or messages");
}
