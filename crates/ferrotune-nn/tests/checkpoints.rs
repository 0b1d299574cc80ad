//! Folders and files that contradict themselves are refused with the tensor; none is read by the order of its parts.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]

use std::{fs, path::Path};

use ferrotune_nn::{
    Encoded, Error, Result, Role, WeightSource, WeightSpec, Weights,
    checkpoint::{Checkpoint, CheckpointWriter, write_file},
    weights::{Alias, Layouts},
};
use serde_json::json;
use tch::{Device, Kind, Tensor};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn write(folder: &Path, file: &str, tensors: &[(&str, &Tensor)]) {
    let tensors = tensors.iter().map(|&(name, tensor)| (name.to_owned(), tensor));
    write_file(&folder.join(file), tensors, &[]).unwrap();
}

fn index(folder: &Path, places: &serde_json::Value) {
    fs::write(folder.join(INDEX), json!({ "weight_map": places }).to_string()).unwrap();
}

fn refused(folder: &Path) -> String {
    Checkpoint::open(folder).unwrap_err().to_string()
}

fn ramp(from: i64, to: i64) -> Tensor {
    Tensor::arange_start(from, to, (tch::Kind::Float, tch::Device::Cpu))
}

fn spec(name: &str, alias: Option<Alias>) -> WeightSpec {
    WeightSpec { name: name.to_owned(), role: Role::Expert, shape: vec![1, 2], alias }
}

#[test]
fn an_index_that_contradicts_its_shards_is_refused_by_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "one.safetensors", &[("a", &ramp(0, 2)), ("b", &ramp(0, 2))]);
    write(folder, "two.safetensors", &[("b", &ramp(2, 4))]);

    // Both shards hold `b`: which counts must not depend on their order.
    index(folder, &json!({ "a": "one.safetensors", "b": "two.safetensors" }));
    let message = refused(folder);
    assert!(
        message.contains("tensor `b` is placed in `two.safetensors`, and `one.safetensors` holds it too"),
        "{message}"
    );

    index(folder, &json!({ "a": "two.safetensors" }));
    let message = refused(folder);
    assert!(message.contains("tensor `a` is placed in `two.safetensors`, which lacks it"), "{message}");

    index(folder, &json!({ "a": "one.safetensors" }));
    assert_eq!(Checkpoint::open(folder).unwrap().names(), ["a", "b"]);

    write(folder, "three.safetensors", &[("b", &ramp(4, 6)), ("c", &ramp(0, 2))]);
    index(folder, &json!({ "a": "one.safetensors", "c": "three.safetensors" }));
    let message = refused(folder);
    assert!(
        message.contains("tensor `b` is placed nowhere, and `three.safetensors` and another hold it"),
        "{message}"
    );

    for outside in ["../one.safetensors", "/one.safetensors", "sub/one.safetensors", "..", ""] {
        index(folder, &json!({ "a": outside }));
        let message = refused(folder);
        assert!(message.contains("expected the name of a file beside the index"), "{outside}: {message}");
    }

    fs::write(folder.join(INDEX), "{}").unwrap();
    assert!(matches!(Checkpoint::open(folder), Err(Error::Json { .. })));
}

#[test]
fn the_single_file_wins_over_an_index_that_was_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "old.safetensors", &[("a", &ramp(0, 2))]);
    index(folder, &json!({ "a": "old.safetensors" }));
    write(folder, SINGLE, &[("a", &ramp(5, 7))]);
    assert_eq!(Checkpoint::open(folder).unwrap().read("a").unwrap(), ramp(5, 7));
}

#[test]
fn rows_that_a_tensor_lacks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        SINGLE,
        &[("a", &ramp(0, 6).view([3, 2])), ("b", &ramp(6, 8)), ("s", &Tensor::from(1.0f32))],
    );
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.read_rows("a", 1..3).unwrap(), ramp(2, 6).view([2, 2]));
    // The bytes behind `a` are those of `b`.
    for (name, rows) in [("a", 2..4), ("a", -1..1), ("s", 0..1)] {
        let message = checkpoint.read_rows(name, rows).unwrap_err().to_string();
        assert!(message.contains(&format!("`{name}`")), "{message}");
    }
}

#[test]
fn rows_of_one_of_several_stacked_matrices_are_read_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), SINGLE, &[("a", &ramp(0, 24).view([2, 4, 3])), ("b", &ramp(0, 6).view([2, 3]))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.read_stacked("a", 1, 2..4).unwrap(), ramp(18, 24).view([2, 3]));
    for (name, index, rows) in [("a", 2, 0..1), ("a", -1, 0..1), ("a", 0, 3..5), ("b", 0, 0..1)] {
        let message = checkpoint.read_stacked(name, index, rows).unwrap_err().to_string();
        assert!(message.contains(&format!("`{name}` with shape")), "{message}");
    }
}

/// More than a piece, and not a whole number of them.
#[test]
fn a_large_tensor_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let large = ramp(0, 3 * (1 << 18) + 5);
    write(folder.path(), SINGLE, &[("a", &ramp(0, 2)), ("large", &large)]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.read("large").unwrap(), large);
    assert_eq!(checkpoint.read_rows("large", 7..600_000).unwrap(), ramp(7, 600_000));
}

#[test]
fn a_weight_in_both_layouts_must_have_one_value() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let slice = |index| Some(Alias { name: "stacked".to_owned(), slice: Some((index, 0..1)) });
    let specs = [spec("0.w", slice(0)), spec("1.w", slice(1))];
    let stacked = ramp(0, 4).view([2, 1, 2]);

    write(folder, SINGLE, &[("stacked", &stacked), ("1.w", &ramp(2, 4).view([1, 2]))]);
    let checkpoint = Checkpoint::open(folder).unwrap();
    let layouts = Layouts::new(&checkpoint, &specs, &[]).unwrap();
    assert_eq!(layouts.read("1.w").unwrap(), ramp(2, 4).view([1, 2]));

    for other in [ramp(7, 9).view([1, 2]), ramp(2, 5).view([1, 3])] {
        write(folder, SINGLE, &[("stacked", &stacked), ("1.w", &other)]);
        let checkpoint = Checkpoint::open(folder).unwrap();
        let message = Layouts::new(&checkpoint, &specs, &[]).unwrap_err().to_string();
        assert!(message.contains("as `1.w` and as `stacked`, and they differ"), "{message}");
    }
}

#[test]
fn whole_numbers_are_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), SINGLE, &[("w", &Tensor::from_slice(&[1i64, 2]).view([1, 2]))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let specs = [spec("w", None)];
    let message = Layouts::new(&checkpoint, &specs, &[]).unwrap().read("w").unwrap_err().to_string();
    assert!(
        message.contains("`w`") && message.contains("is stored as I64, expected F32, F16 or BF16"),
        "{message}"
    );
}

#[test]
fn weights_that_are_no_numbers_are_named_with_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let read = |weight: &Tensor| {
        write(folder.path(), SINGLE, &[("w", weight)]);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let specs = [WeightSpec { shape: weight.size(), ..spec("w", None) }];
        Layouts::new(&checkpoint, &specs, &[]).unwrap().read("w")
    };
    // Rows that are looked at one by one, several together, and a vector.
    for shape in [vec![3, 700_000], vec![2_000, 700], vec![1_500_000]] {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let sound = Tensor::ones(&shape, (kind, Device::Cpu));
            assert!(read(&sound).is_ok(), "{shape:?}");
            for (index, value, word) in
                [(1_300_003, f64::NAN, "NaN"), (7, f64::INFINITY, "inf"), (0, f64::NEG_INFINITY, "-inf")]
            {
                let weight = sound.copy();
                let _ = weight.view([-1]).narrow(0, index, 1).fill_(value);
                // A later one is not the first.
                let _ = weight.view([-1]).narrow(0, weight.numel() as i64 - 1, 1).fill_(f64::NAN);
                let message = read(&weight).unwrap_err().to_string();
                assert!(
                    message.contains("`w`") && message.contains(&format!("has {word} at index {index},")),
                    "{shape:?}: {message}"
                );
            }
            // Entries of both signs without an end have a sum that is no number.
            let weight = sound.copy();
            let _ = weight.view([-1]).narrow(0, 3, 1).fill_(f64::INFINITY);
            let _ = weight.view([-1]).narrow(0, 5, 1).fill_(f64::NEG_INFINITY);
            assert!(read(&weight).unwrap_err().to_string().contains("inf at index 3,"));
        }
    }
    // Large numbers are numbers, though their sum is none.
    assert!(read(&Tensor::full([2, 8], f64::from(f32::MAX), (Kind::Float, Device::Cpu))).is_ok());
}

/// A source that stores every weight as codes: `[1, 2]` for two whole numbers.
struct Codes;

impl WeightSource for Codes {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        (name == "other.weight").then(|| vec![1, 2])
    }

    fn read(&self, _: &str) -> Result<Tensor> {
        Ok(ramp(0, 2).view([1, 2]))
    }

    fn encoded(&self, name: &str) -> Result<Option<Encoded>> {
        assert_eq!(name, "other.weight", "asked for by the name that the source has");
        let codes = Tensor::from_slice(&[0u8, 1]);
        Ok(Some(Encoded { shape: vec![1, 2], codes, beside: [("scale".to_owned(), ramp(1, 2))].into() }))
    }

    fn names(&self) -> Vec<String> {
        vec!["other.weight".to_owned()]
    }

    fn place(&self) -> String {
        "codes".to_owned()
    }
}

#[test]
fn an_encoding_comes_through_another_name_and_not_through_a_slice() {
    let whole = Alias { name: "other.weight".to_owned(), slice: None };
    let encoded = |alias: Alias| {
        let specs = [spec("module.weight", Some(alias))];
        let layouts = Layouts::new(&Codes, &specs, &[]).unwrap();
        let weights = Weights::new(&layouts, tch::Device::Cpu, tch::Kind::Float).at("module");
        assert!(weights.encoded("weight", &[2, 2]).is_err(), "the decoded shape is checked");
        weights.encoded("weight", &[1, 2]).unwrap()
    };
    let found = encoded(whole.clone()).unwrap();
    assert_eq!(found.codes, Tensor::from_slice(&[0u8, 1]));
    assert_eq!(found.beside["scale"], ramp(1, 2));
    assert!(encoded(Alias { slice: Some((0, 0..1)), ..whole }).is_none());
}

/// Where a tensor's bytes begin in a safetensors file, from its header.
fn place_of(file: &Path, name: &str) -> u64 {
    let bytes = fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length as usize]).unwrap();
    8 + length + header[name]["data_offsets"][0].as_u64().unwrap()
}

#[test]
fn tensors_of_all_widths_come_back_from_aligned_places_and_what_belongs_together_stays_together() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let codes = |length: i64| ramp(0, length).to_kind(Kind::Uint8);
    let tensors = [
        ("a.codes", codes(3)),
        ("a.scales", ramp(0, 5)),
        ("b.codes", codes(7)),
        ("b.halves", ramp(0, 3).to_kind(Kind::BFloat16)),
        ("c.whole", Tensor::arange(2, (Kind::Int64, tch::Device::Cpu))),
        ("c.scalar", Tensor::from(1.5f32)),
        ("d.view", ramp(0, 6).view([2, 3]).tr()),
        ("e.none", ramp(0, 0)),
    ];
    let mut writer = CheckpointWriter::new(folder);
    for (name, tensor) in &tensors {
        writer.push(name, tensor).unwrap();
    }
    assert_eq!(writer.total_bytes(), 3 + 20 + 7 + 6 + 16 + 4 + 24);
    writer.finish().unwrap();
    let read = Checkpoint::open(folder).unwrap();
    for (name, tensor) in &tensors {
        let found = read.read(name).unwrap();
        assert!(found.kind() == tensor.kind() && found == *tensor, "{name}");
        let width = tensor.kind().elt_size_in_bytes() as u64;
        assert_eq!(place_of(&folder.join(SINGLE), name) % width, 0, "{name}");
    }
    assert_eq!(read.read_bytes("b.codes", 2..5).unwrap(), [2, 3, 4]);
    assert_eq!(read.stored_bytes("b.halves"), Some(6));
    assert!(read.read_bytes("b.codes", 2..8).unwrap_err().to_string().contains("`b.codes`"));
    // Three groups of 23 bytes in shards of 30: the index names three files, and no group is torn.
    let mut writer = CheckpointWriter::with_shard_bytes(folder, 30);
    for group in ["x", "y", "z"] {
        let (first, second) = (format!("{group}.codes"), format!("{group}.scales"));
        writer.push_all(&[(&first, &tensors[0].1), (&second, &tensors[1].1)]).unwrap();
    }
    writer.finish().unwrap();
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let shard = |number: i32| format!("model-0000{number}-of-00003.safetensors");
    assert_eq!(files, [shard(1), shard(2), shard(3), INDEX.to_owned()], "and nothing that waited is left");
    let index: serde_json::Value = serde_json::from_slice(&fs::read(folder.join(INDEX)).unwrap()).unwrap();
    for group in ["x", "y", "z"] {
        let places = &index["weight_map"];
        assert_eq!(places[format!("{group}.codes")], places[format!("{group}.scales")]);
    }
    assert!(Checkpoint::open(folder).unwrap().read("z.scales").unwrap() == tensors[1].1);
}

#[test]
fn shards_of_two_models_are_never_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let writer = |from: i64| {
        let mut writer = CheckpointWriter::with_shard_bytes(folder, 8);
        writer.push("a", &ramp(from, from + 2)).unwrap();
        writer.push("b", &ramp(from, from + 2)).unwrap();
        writer
    };
    writer(0).finish().unwrap();
    assert!(folder.join(INDEX).is_file());
    // The second shard is still to be written when this folder stands in its temporary place.
    let second = writer(5);
    fs::create_dir(folder.join("model-00002.part.safetensors")).unwrap();
    assert!(matches!(second.finish(), Err(Error::Io { .. })));
    assert_eq!(Checkpoint::open(folder).map(|old| old.read("a").unwrap()).unwrap(), ramp(0, 2));
    fs::remove_dir(folder.join("model-00002.part.safetensors")).unwrap();
    // Here it is written and cannot take its final place, when the first one has.
    fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    fs::create_dir(folder.join("model-00002-of-00002.safetensors")).unwrap();
    assert!(matches!(writer(5).finish(), Err(Error::Io { .. })));
    assert!(matches!(Checkpoint::open(folder), Err(Error::NoWeights { .. })));
}
