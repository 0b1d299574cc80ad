//! Merging onto what an adapter was trained over: the merged model gives the logits of adapter and base.

use std::{fs, path::Path};

use ferrotune::{
    Adapted, AutoCausalLm, LoadOptions, Start, adapt,
    adapters::{
        AdapterWeights, BlockSize, Codebook, Lora, LoraConfig, MergeBase, MergeOptions, Nf4, Quantization,
        TargetModules,
    },
    merge, merge_base,
    nn::{CausalLm, Dense, Frozen, Pass, Storage, Tokens, WeightSource as _, weights::Layouts},
    quantize,
};
use tch::{Device, Kind, Tensor, no_grad};

use crate::golden::{self, relative_to_largest};

/// What the issue promises for merged logits in 32 bits.
const MERGED: f64 = 1e-5;

fn options() -> LoadOptions {
    LoadOptions::new(Device::Cpu, Kind::Float)
}

fn ids() -> Tensor {
    Tensor::from_slice(&(0..24i64).map(|place| (7 * place * place + 13 * place) % 90 + 3).collect::<Vec<_>>())
        .view([2, 12])
}

fn logits(model: &dyn CausalLm) -> Tensor {
    let states = model.hidden(&Tokens::full(&ids()), None, &Pass::eval()).unwrap().states;
    model.logits(&states, &Pass::eval()).unwrap().detach()
}

/// An adapter for a model whose values are far from zero and the same each time.
fn adapter(folder: &AutoCausalLm, seed: i64, config: LoraConfig) -> AdapterWeights {
    let mut lora = Lora::new(config, Dense).unwrap();
    folder.load(&options(), &mut lora).unwrap();
    let fresh = lora.finish().unwrap().weights().unwrap();
    let value = |tensor: &Tensor, number: i64| {
        let ramp = Tensor::arange(tensor.numel() as i64, (Kind::Float, Device::Cpu)).view(&tensor.size()[..]);
        let wave = (ramp * 1.7 + (seed * 31 + number * 7) as f64).sin();
        if tensor.dim() == 1 { tensor * (wave * 0.1 + 1.0) } else { wave * 0.15 }
    };
    let tensors =
        fresh.tensors().iter().zip(0..).map(|((name, tensor), number)| (name.clone(), value(tensor, number)));
    AdapterWeights::new(fresh.config().clone(), tensors.collect()).unwrap()
}

fn adapted(folder: &AutoCausalLm, adapter: &AdapterWeights, storage: impl Storage) -> Tensor {
    logits(&*adapt(folder, Start::From(adapter), storage, &options()).unwrap().model)
}

fn merged(
    folder: &AutoCausalLm,
    adapters: &[&AdapterWeights],
    how: &MergeOptions,
) -> (Tensor, tempfile::TempDir) {
    let output = tempfile::tempdir().unwrap();
    merge(folder, adapters, how, output.path()).unwrap();
    let model = AutoCausalLm::open(output.path()).unwrap();
    assert!(model.quantization().is_none(), "what comes out is dense");
    (logits(&*model.load(&options(), &mut Frozen::new(Dense)).unwrap()), output)
}

fn settings(codebook: Codebook, size: usize, double_quantization: bool) -> Quantization {
    Quantization { codebook, block_size: BlockSize::new(size).unwrap(), double_quantization }
}

fn configs(sparse: bool) -> Vec<LoraConfig> {
    let base = LoraConfig { r: 4, lora_alpha: 8.0, ..LoraConfig::default() };
    let all = LoraConfig { target_modules: TargetModules::AllLinear, ..base.clone() };
    let mut configs = vec![base.clone(), all.clone(), LoraConfig { use_dora: true, ..all.clone() }];
    if sparse {
        configs.push(LoraConfig {
            target_parameters: vec!["gate_up_proj".into(), "down_proj".into()],
            ..base.clone()
        });
        configs.push(LoraConfig { modules_to_save: vec!["gate".into()], ..base });
    }
    configs
}

#[test]
fn merged_logits_equal_the_adapter_over_the_quantized_base() {
    let llama = golden::folder().join("models/llama-gqa");
    let mixtral = crate::quantized::plain("mixtral-nf4-stacked", Kind::BFloat16);
    for (place, sparse, settings) in [
        (llama.as_path(), false, Quantization::default()),
        (llama.as_path(), false, settings(Codebook::Fp4, 32, false)),
        (mixtral.path(), true, Quantization::default()),
    ] {
        let folder = AutoCausalLm::open(place).unwrap();
        let how = MergeOptions { base: MergeBase::Quantized(settings), kind: Some(Kind::Float) };
        for (seed, config) in (60..).zip(configs(sparse)) {
            let adapter = adapter(&folder, seed, config.clone());
            let expected = adapted(&folder, &adapter, Nf4::new(settings));
            let (found, _) = merged(&folder, &[&adapter], &how);
            let distance = relative_to_largest(&found, &expected);
            let onto_dense = relative_to_largest(
                &merged(&folder, &[&adapter], &MergeOptions { base: MergeBase::AsStored, ..how }).0,
                &expected,
            );
            println!(
                "{} {:?}: {distance:.1e}, onto W {onto_dense:.1e}",
                place.display(),
                config.target_modules
            );
            assert!(distance < MERGED, "{config:?}: {distance:e}");
            assert!(onto_dense > 100.0 * MERGED, "the base makes a difference: {onto_dense:e}");
        }
    }
}

#[test]
fn a_folder_in_four_bits_is_its_own_base() {
    for name in ["llama-nf4", "mixtral-nf4-stacked"] {
        let folder = AutoCausalLm::open(&golden::folder().join("quantized").join(name)).unwrap();
        let adapter = adapter(&folder, 70, configs(false).remove(1));
        let expected = adapted(&folder, &adapter, Dense);
        let (found, output) = merged(&folder, &[&adapter], &MergeOptions::default());
        let distance = relative_to_largest(&found, &expected);
        println!("{name}: {distance:.1e}");
        assert!(distance < MERGED, "{name}: {distance:e}");
        let card = fs::read_to_string(output.path().join("README.md")).unwrap();
        assert!(
            card.contains("the folder's 4-bit weights, dequantized") && card.contains("rank 4"),
            "{card}"
        );
    }
}

#[test]
fn several_adapters_add_up_in_32_bits_and_are_rounded_once() {
    let folder = AutoCausalLm::open(&golden::folder().join("models/llama-bf16")).unwrap();
    let (first, second) =
        (adapter(&folder, 80, configs(false).remove(0)), adapter(&folder, 81, configs(false).remove(1)));
    let read = |place: &Path, name: &str| {
        let folder = AutoCausalLm::open(place).unwrap();
        let weights = folder.open_weights().unwrap();
        Layouts::new(&weights, &folder.weights(), &[]).unwrap().read(name).unwrap()
    };
    let single = MergeOptions { kind: Some(Kind::Float), ..MergeOptions::default() };
    let (_, one) = merged(&folder, &[&first], &single);
    let (_, other) = merged(&folder, &[&second], &single);
    let (_, both) = merged(&folder, &[&first, &second], &MergeOptions::default());
    for spec in folder.weights() {
        let base = read(folder.folder(), &spec.name);
        let wide = |tensor: &Tensor| tensor.to_kind(Kind::Double);
        let delta = |place: &Path| wide(&read(place, &spec.name)) - wide(&base);
        let sum = wide(&base) + delta(one.path()) + delta(other.path());
        let found = read(both.path(), &spec.name);
        assert_eq!(found.kind(), Kind::BFloat16);
        // The sum in 32 bits may fall on the other side of a tie; adding and rounding one after the other would make
        // another number of every fourth.
        let differ = found.not_equal_tensor(&sum.to_kind(Kind::BFloat16)).sum(Kind::Int64).int64_value(&[]);
        assert!(differ * 500 <= found.numel() as i64, "{}: {differ} of {}", spec.name, found.numel());
    }
    let message = {
        let saved = LoraConfig { modules_to_save: vec!["lm_head".into()], ..configs(false).remove(0) };
        let (a, b) = (adapter(&folder, 82, saved.clone()), adapter(&folder, 83, saved));
        let output = tempfile::tempdir().unwrap();
        merge(&folder, &[&a, &b], &MergeOptions::default(), output.path()).unwrap_err().to_string()
    };
    assert!(message.contains("`lm_head.weight` is replaced by two"), "{message}");
}

#[test]
fn the_base_is_named_in_words() {
    let dense = AutoCausalLm::open(&golden::folder().join("models/llama-gqa")).unwrap();
    assert_eq!(merge_base(&dense, MergeBase::AsStored), "the weights as they are stored");
    assert_eq!(
        merge_base(&dense, MergeBase::Quantized(Quantization::default())),
        "dequantize(quantize(weights)), NF4 in blocks of 64 with double quantization"
    );
    // Nothing of a checkpoint that cannot be quantized is left where a model should be.
    let mixtral = AutoCausalLm::open(&golden::folder().join("models/mixtral")).unwrap();
    let adapter = adapter(&mixtral, 90, configs(false).remove(0));
    let how = MergeOptions { base: MergeBase::Quantized(Quantization::default()), kind: None };
    let output = tempfile::tempdir().unwrap();
    let message = merge(&mixtral, &[&adapter], &how, output.path()).unwrap_err().to_string();
    assert!(message.contains("experts.0.w1.weight") && message.contains("rows of 32 weights"), "{message}");
    assert_eq!(fs::read_dir(output.path()).unwrap().count(), 0);
}

/// What a training run over NF4 saves of an adapter that took a part out of its base is the trained model again, wherever the weights
/// are to be had; where only their 4 bits are, it goes onto those.
#[test]
fn an_adapter_that_began_with_a_part_of_its_base_gets_that_base_back_unless_it_is_in_4_bits() {
    let base = AutoCausalLm::open(&golden::folder().join("models/llama-gqa")).unwrap();
    let settings = Quantization::default();
    let config = LoraConfig {
        target_modules: TargetModules::AllLinear,
        init_lora_weights: "olora".parse().unwrap(),
        ..LoraConfig::default()
    };
    let Adapted { model, adapter } =
        adapt(&base, Start::New(&config), Nf4::new(settings), &options()).unwrap();
    for (number, trained) in adapter.parameters().iter().enumerate() {
        let mut tensor = trained.tensor.shallow_clone();
        let ramp = Tensor::arange(tensor.numel() as i64, (Kind::Float, Device::Cpu)).view(&tensor.size()[..]);
        let _ = no_grad(|| tensor.g_add_(&((ramp * 1.7 + number as f64).sin() * 0.1)));
    }
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path()).unwrap();
    let saved = AdapterWeights::open(folder.path()).unwrap();
    let trained = logits(&*model);
    assert_eq!(relative_to_largest(&adapted(&base, &saved, Nf4::new(settings)), &trained), 0.0);
    let plain = adapted(&base, &saved.plain(), Nf4::new(settings));
    assert!(relative_to_largest(&plain, &trained) > 1e-3, "two roundings");
    let how = MergeOptions { base: MergeBase::Quantized(settings), ..MergeOptions::default() };
    let (found, place) = merged(&base, &[&saved], &how);
    assert!(relative_to_largest(&found, &trained) < MERGED);
    let card = |folder: &Path| fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card(place.path()).contains("taken out before the base was quantized"), "{}", card(place.path()));

    let output = tempfile::tempdir().unwrap();
    quantize(&base, &settings, None, output.path()).unwrap();
    let in_4_bits = AutoCausalLm::open(output.path()).unwrap();
    assert_eq!(relative_to_largest(&adapted(&in_4_bits, &saved, Nf4::as_stored()), &plain), 0.0);
    let (found, place) = merged(&in_4_bits, &[&saved], &how);
    assert!(relative_to_largest(&found, &plain) < MERGED);
    assert!(!card(place.path()).contains("taken out"), "{}", card(place.path()));
}
