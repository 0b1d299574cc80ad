//! Merged checkpoints against PEFT's and against the model with the adapter in it.

use std::path::Path;

use ferrotune_adapters::{
    AdapterWeights, Bias, Error, LoraConfig, MergeOptions, Merged, TargetModules, merge, unmerge,
};
use ferrotune_nn::{
    Pass, WeightSource,
    checkpoint::{Checkpoint, CheckpointWriter},
};
use tch::{Kind, Tensor};

use crate::support::{LOGITS, Model, alone, golden, ids, json, largest, logits, norm_relative, shake};

/// One product and one sum in 32 bits.
const MERGED: f64 = 1e-6;

pub(crate) fn merge_into(model: &Model, weights: &AdapterWeights, folder: &Path) -> Merged {
    let mut writer = CheckpointWriter::new(folder);
    let options = MergeOptions::default();
    let merged =
        model.with_source(|source| merge(source, &model.specs(), &[weights], &options, &mut writer)).unwrap();
    writer.finish().unwrap();
    merged
}

fn unmerge_into(model: &Model, weights: &AdapterWeights, folder: &Path) -> Result<Merged, Error> {
    let mut writer = CheckpointWriter::new(folder);
    let merged = model.with_source(|source| unmerge(source, &model.specs(), weights, &mut writer))?;
    writer.finish().unwrap();
    Ok(merged)
}

/// A tensor by the name of transformers 5, stacked from one matrix per expert where it has to be.
fn by_either_name(source: &Checkpoint, name: &str) -> Tensor {
    if source.shape(name).is_some() {
        return source.read(name).unwrap();
    }
    let (layer, stacked) = name.split_once(".mlp.experts.").unwrap();
    let parts: &[&str] = if stacked == "down_proj" { &["w2"] } else { &["w1", "w3"] };
    let expert = |expert: i64| {
        let part = |part: &&str| {
            source.read(&format!("{layer}.block_sparse_moe.experts.{expert}.{part}.weight")).unwrap()
        };
        Tensor::cat(&parts.iter().map(part).collect::<Vec<_>>(), 0)
    };
    Tensor::stack(&(0..4).map(expert).collect::<Vec<_>>(), 0)
}

#[test]
fn merged_checkpoints_equal_pefts() {
    let _alone = alone();
    let facts = json(&golden().join("training/training.json"));
    for (name, model) in [
        ("llama-attention", "llama-gqa"),
        ("llama-patterns", "llama-bias"),
        ("llama-lora-bias-mergeable", "llama-bias"),
        ("mixtral-flat", "mixtral"),
        ("mixtral-per-expert", "mixtral"),
        ("mixtral-flat", "mixtral-fused"),
        ("llama-dora", "llama-bias"),
        ("mixtral-per-expert-dora", "mixtral"),
    ] {
        assert!(facts["merged"][name].is_object(), "{name}");
        let weights = AdapterWeights::open(&golden().join("adapters").join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let merged = merge_into(&Model::open(model), &weights, folder.path());
        let expected = Checkpoint::open_file(&golden().join(format!("merged/{name}.safetensors"))).unwrap();
        let found = Checkpoint::open(folder.path()).unwrap();
        let mut worst = 0.0f64;
        for tensor in expected.names() {
            let distance = norm_relative(&by_either_name(&found, &tensor), &expected.read(&tensor).unwrap());
            worst = worst.max(distance);
            assert!(distance < MERGED, "{name}: {tensor} {distance}");
        }
        println!("{name} on {model}: {worst:.1e} {merged:?}");
    }
}

fn options() -> Vec<(&'static str, LoraConfig)> {
    let base = LoraConfig { r: 3, lora_alpha: 7.0, ..LoraConfig::default() };
    let with = |names: &[&str]| LoraConfig {
        target_modules: TargetModules::list(names.iter().copied()),
        ..base.clone()
    };
    let all = LoraConfig { target_modules: TargetModules::AllLinear, ..base.clone() };
    vec![
        ("llama-gqa", all.clone()),
        ("llama-gqa", LoraConfig { use_rslora: true, lora_dropout: 0.2, ..all.clone() }),
        ("llama-gqa", with(&["lm_head", "q_proj"])),
        ("llama-bias", LoraConfig { lora_bias: true, ..all.clone() }),
        ("llama-bias", LoraConfig { bias: Bias::All, ..with(&["q_proj"]) }),
        (
            "llama-bias",
            LoraConfig { bias: Bias::LoraOnly, lora_bias: true, ..with(&["q_proj", "down_proj"]) },
        ),
        (
            "llama-bias",
            LoraConfig {
                modules_to_save: vec![
                    "lm_head".into(),
                    "embed_tokens".into(),
                    "input_layernorm".into(),
                    "mlp".into(),
                ],
                ..with(&["v_proj"])
            },
        ),
        (
            "llama-gqa",
            LoraConfig {
                rank_pattern: vec![("q_proj".into(), 5)],
                alpha_pattern: vec![(r"layers\.1\..*".into(), 2.5)],
                layers_to_transform: vec![1],
                ..with(&["q_proj", "o_proj"])
            },
        ),
        ("llama-bias", LoraConfig { use_dora: true, use_rslora: true, bias: Bias::LoraOnly, ..all.clone() }),
        ("mixtral", LoraConfig { target_modules: TargetModules::AllLinear, ..base.clone() }),
        ("mixtral", LoraConfig { use_dora: true, target_modules: TargetModules::AllLinear, ..base.clone() }),
        ("mixtral", with(&["gate", "w2"])),
        (
            "mixtral",
            LoraConfig {
                target_modules: TargetModules::parse(r".*\.experts\.([02]\.w[13]|1\.w2)|.*\.gate"),
                rank_pattern: vec![(r"experts\.2\.w\d".into(), 2)],
                modules_to_save: vec!["norm".into()],
                ..base.clone()
            },
        ),
        (
            "mixtral",
            LoraConfig { modules_to_save: vec!["w3".into(), "gate".into()], ..with(&["w1", "q_proj"]) },
        ),
        (
            "mixtral",
            LoraConfig {
                target_parameters: vec![
                    "mlp.experts.gate_up_proj".into(),
                    "down_proj".into(),
                    "gate.weight".into(),
                ],
                ..with(&["k_proj"])
            },
        ),
        // A stacked parameter and single matrices of it at once.
        ("mixtral", LoraConfig { target_parameters: vec!["gate_up_proj".into()], ..with(&["w1", "w2"]) }),
    ]
}

#[test]
fn merged_equals_forward_for_every_option_and_unmerged_equals_the_base() {
    let _alone = alone();
    for (seed, (name, config)) in (40..).zip(options()) {
        let model = Model::open(name);
        let (adapted, adapter) = model.fresh(config.clone());
        shake(&adapter, seed);
        let expected = logits(&*adapted, &ids(), &Pass::eval());
        let base = logits(&*model.base(), &ids(), &Pass::eval());
        assert!(largest(&base, &expected) > 1e-3, "{config:?}");
        let weights = adapter.weights().unwrap();
        let (merged, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let counts = merge_into(&model, &weights, merged.path());
        let merged_model = Model::with_config(&golden().join("models").join(name), merged.path());
        let distance = largest(&logits(&*merged_model.base(), &ids(), &Pass::eval()), &expected);
        assert!(distance < LOGITS, "{config:?}: {distance}");
        match unmerge_into(&merged_model, &weights, back.path()) {
            Ok(_) => {
                assert_eq!(counts.replaced, 0);
                let original = Model::open(name);
                let found = Checkpoint::open(back.path()).unwrap();
                for spec in model.specs() {
                    let expected = original.with_source(|source| source.read(&spec.name)).unwrap();
                    let distance = norm_relative(&found.read(&spec.name).unwrap(), &expected);
                    assert!(distance < MERGED, "{} {distance}", spec.name);
                }
            }
            Err(Error::Replaced { .. }) => assert!(counts.replaced > 0),
            Err(Error::Scaled { .. }) => assert!(config.use_dora),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_tied_model_gets_a_head_of_its_own() {
    let _alone = alone();
    for saved in ["lm_head", "embed_tokens"] {
        let config = LoraConfig { modules_to_save: vec![saved.into()], ..LoraConfig::default() };
        assert!(Model::open("llama-tied").tied());
        let untied = Model::open("llama-tied").untied();
        assert!(config.unties(&untied.specs()).unwrap());
        assert!(!LoraConfig::default().unties(&untied.specs()).unwrap());
        let (adapted, adapter) = untied.fresh(config);
        let base = Model::open("llama-tied").base();
        assert_eq!(
            largest(&logits(&*adapted, &ids(), &Pass::eval()), &logits(&*base, &ids(), &Pass::eval())),
            0.0
        );
        shake(&adapter, 60);
        let expected = logits(&*adapted, &ids(), &Pass::eval());
        let folder = tempfile::tempdir().unwrap();
        merge_into(&untied, &adapter.weights().unwrap(), folder.path());
        let merged = Model::with_config(&golden().join("models/llama-tied"), folder.path()).untied();
        let found = Checkpoint::open(folder.path()).unwrap();
        let head = found.read("lm_head.weight").unwrap();
        assert!(largest(&head, &found.read("model.embed_tokens.weight").unwrap()) > 0.1, "they parted");
        assert!(largest(&logits(&*merged.base(), &ids(), &Pass::eval()), &expected) < LOGITS);
    }
}

#[test]
fn a_16_bit_base_is_rounded_once() {
    let _alone = alone();
    let model = Model::open("llama-bf16");
    let (_, adapter) = model.fresh(LoraConfig { r: 4, lora_alpha: 8.0, ..LoraConfig::default() });
    shake(&adapter, 61);
    let weights = adapter.weights().unwrap();
    let folder = tempfile::tempdir().unwrap();
    merge_into(&model, &weights, folder.path());
    let found = Checkpoint::open(folder.path()).unwrap();
    let path = "model.layers.1.self_attn.q_proj";
    let factor = |leaf: &str| &weights.tensors()[&format!("base_model.model.{path}.{leaf}.weight")];
    let name = format!("{path}.weight");
    let base = model.with_source(|source| source.read(&name)).unwrap();
    assert_eq!(base.kind(), Kind::BFloat16);
    let expected = base.to_kind(Kind::Float) + factor("lora_B").matmul(factor("lora_A")) * 2.0;
    let found = found.read(&name).unwrap();
    assert_eq!(found.kind(), Kind::BFloat16);
    assert_eq!(largest(&found, &expected.to_kind(Kind::BFloat16)), 0.0);
}

/// Pitfall of the stacked layout: A is expert-major and B rank-major. The expected numbers are written out by index.
#[test]
fn stacked_factors_are_read_expert_major_in_a_and_rank_major_in_b() {
    let _alone = alone();
    let name = "mixtral-flat";
    let weights = AdapterWeights::open(&golden().join("adapters").join(name)).unwrap();
    let (experts, rank, scaling) = (4usize, 2usize, 2.0);
    let read = |key: &str| -> (Vec<f64>, usize) {
        let tensor = &weights.tensors()[&format!("base_model.model.model.layers.1.mlp.experts.{key}.weight")];
        (Vec::try_from(tensor.to_kind(Kind::Double).view(-1)).unwrap(), tensor.size()[1] as usize)
    };
    let ((a, width), (b, columns)) = (read("lora_A"), read("lora_B")); // of down_proj
    assert_eq!(columns, rank * experts);
    let folder = tempfile::tempdir().unwrap();
    let model = Model::open("mixtral");
    merge_into(&model, &weights, folder.path());
    let merged = Checkpoint::open(folder.path()).unwrap();
    for expert in 0..experts {
        let tensor = format!("model.layers.1.block_sparse_moe.experts.{expert}.w2.weight");
        let base = model.with_source(|source| source.read(&tensor)).unwrap();
        let added = merged.read(&tensor).unwrap().to_kind(Kind::Double) - base.to_kind(Kind::Double);
        let expected: Vec<f64> = (0..added.size()[0] as usize)
            .flat_map(|out| (0..width).map(move |input| (out, input)))
            .map(|(out, input)| {
                let term = |r: usize| {
                    b[out * columns + r * experts + expert] * a[(expert * rank + r) * width + input]
                };
                scaling * (0..rank).map(term).sum::<f64>()
            })
            .collect();
        let expected = Tensor::from_slice(&expected).view_as(&added);
        // The difference of two 32-bit weights near 0.1 carries their rounding.
        assert!(largest(&added, &expected) < 1e-5, "expert {expert}");
    }
}
