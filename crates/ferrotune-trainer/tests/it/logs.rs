//! The logs that the crate's listeners write, read back by a reader of their own.

use std::{fs, path::Path};

use ferrotune_core::BoxError;
use ferrotune_trainer::{
    Dataset, Event, Existing, Listener, LogRow, Resume, Trainer, TrainingConfig,
    listeners::{JsonLog, Progress, TensorBoard},
    prepare_output,
};
use serde_json::{Value, json};

use crate::tiny::{Tiny, Twist, alone, in_order, samples, settings};

/// CRC-32C bit by bit, from its polynomial (reflected), masked as record files mask it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The fields of a protobuf message: number, and the bytes of its value (a number's in little-endian).
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                let value = varint(&mut bytes);
                found.push((key >> 3, value.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            wire => panic!("wire type {wire}"),
        };
        found.push((key >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}

fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let mut at = 0;
    let mut records = Vec::new();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        assert_eq!(word(at + 8), masked_crc(&bytes[at..at + 8]), "checksum of a length");
        let data = &bytes[at + 12..at + 12 + length];
        assert_eq!(word(at + 12 + length), masked_crc(data), "checksum of a record");
        records.push(data.to_vec());
        at += length + 16;
    }
    records
}

/// All scalars of the event files in a folder: step, tag, bits of the value.
pub(crate) fn scalars(folder: &Path) -> Vec<(u64, String, u32)> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let records = records(&file);
        let version = fields(&records[0]).into_iter().find(|(number, _)| *number == 3).unwrap().1;
        assert_eq!(version, b"brain.Event:2");
        for record in &records[1..] {
            let event = fields(record);
            let step = event.iter().find(|(number, _)| *number == 2).unwrap();
            let step = u64::from_le_bytes(step.1.clone().try_into().unwrap());
            let summary = &event.iter().find(|(number, _)| *number == 5).unwrap().1;
            for (_, value) in fields(summary) {
                let value = fields(&value);
                let tag = String::from_utf8(value[0].1.clone()).unwrap();
                found.push((step, tag, u32::from_le_bytes(value[1].1.clone().try_into().unwrap())));
            }
        }
    }
    found
}

/// The published check value of CRC-32C: without it the reader above could agree with a wrong writer.
#[test]
fn the_checksum_is_the_published_one() {
    let crc = masked_crc(b"123456789").wrapping_sub(0xa282_ead8).rotate_left(15);
    assert_eq!(crc, 0xe306_9283);
}

#[test]
fn logs_hold_what_the_history_holds() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (model, parameters) = Tiny::new(Twist::Auxiliary(0.1));
    let (samples, plan) = (samples(12), in_order(12, 2));
    let (validation, held_out) = (crate::tiny::samples(3), in_order(3, 2));
    let mut log = JsonLog::new(&folder.path().join("log.jsonl"));
    let mut board = TensorBoard::new(&folder.path().join("runs"));
    let mut progress = Progress::new();
    let config = TrainingConfig { logging_steps: 2, eval_steps: Some(3), ..settings() };
    let finished = Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan))
        .unwrap()
        .with_validation(Dataset::new(&validation, &held_out))
        .unwrap()
        .with_listener(&mut log)
        .with_listener(&mut board)
        .with_listener(&mut progress)
        .run(Resume::No)
        .unwrap();

    let (mut lines, mut values) = (Vec::new(), Vec::new());
    for row in &finished.state.log_history {
        match row {
            LogRow::Training(row) => {
                lines.push(json!({"event": "train", "step": row.step, "epoch": row.epoch, "loss": row.loss,
                    "auxiliary_loss": row.auxiliary_loss, "grad_norm": row.grad_norm,
                    "learning_rate": row.learning_rate}));
                values.extend(
                    [
                        ("train/loss", row.loss),
                        ("train/grad_norm", row.grad_norm),
                        ("train/learning_rate", row.learning_rate),
                        ("train/epoch", row.epoch),
                        ("train/auxiliary_loss", row.auxiliary_loss.unwrap()),
                    ]
                    .map(|(tag, value)| (row.step, tag.to_owned(), (value as f32).to_bits())),
                );
            }
            LogRow::Evaluation(row) => {
                lines.push(
                    json!({"event": "eval", "step": row.step, "epoch": row.epoch, "loss": row.eval_loss,
                    "perplexity": row.eval_loss.exp()}),
                );
                values.extend(
                    [("eval/loss", row.eval_loss), ("eval/perplexity", row.eval_loss.exp())]
                        .map(|(tag, value)| (row.step, tag.to_owned(), (value as f32).to_bits())),
                );
            }
            _ => {}
        }
    }
    assert_eq!(lines.iter().filter(|line| line["event"] == "train").count(), 3);
    let text = fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    let written: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written, lines);
    assert_eq!(scalars(&folder.path().join("runs")), values);
}

#[test]
fn a_run_that_begins_anew_writes_its_logs_in_place_of_any() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let (model, parameters) = Tiny::new(Twist::None);
        let (samples, plan) = (samples(4), in_order(4, 2));
        let mut log = JsonLog::new(&folder.path().join("log.jsonl"));
        let mut board = TensorBoard::new(&folder.path().join("runs"));
        Trainer::new(settings(), &model, &parameters, Dataset::new(&samples, &plan))?
            .with_listener(&mut log)
            .with_listener(&mut board)
            .run(Resume::No)
    };
    run().unwrap();
    let (log, runs) = (folder.path().join("log.jsonl"), folder.path().join("runs"));
    let (lines, values) = (fs::read(&log).unwrap(), scalars(&runs));
    fs::write(runs.join("events.out.tfevents.0000000001.other"), "of a former run").unwrap();
    for former in ["not json\n".into(), vec![0xff; 3], lines[..lines.len() - 7].to_vec(), lines.clone()] {
        fs::write(&log, former).unwrap();
        run().unwrap();
        assert_eq!(fs::read(&log).unwrap(), lines);
        assert_eq!(scalars(&runs), values);
        assert_eq!(fs::read_dir(&runs).unwrap().count(), 1, "no events of a former run");
    }
}

#[test]
fn a_run_that_fails_before_its_first_row_leaves_no_log() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (model, parameters) = Tiny::new(Twist::None);
    let (samples, plan) = (samples(4), in_order(4, 2));
    let mut log = JsonLog::new(&folder.path().join("log.jsonl"));
    let mut board = TensorBoard::new(&folder.path().join("runs"));
    struct Refuses;
    impl Listener for Refuses {
        fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
            if matches!(event, Event::Stepped(_)) { Err("no further".into()) } else { Ok(()) }
        }
    }
    Trainer::new(settings(), &model, &parameters, Dataset::new(&samples, &plan))
        .unwrap()
        .with_output(folder.path())
        .with_listener(&mut log)
        .with_listener(&mut board)
        .with_listener(&mut Refuses)
        .run(Resume::No)
        .unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(prepare_output(folder.path(), Existing::Refuse).unwrap(), Resume::No);
}
