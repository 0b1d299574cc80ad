//! One linear map with LoRA: how it starts, what it adds, how it is differentiated and rounded.

use ferrotune_adapters::{Bias, Init, Lora, LoraAdapter, LoraConfig, TargetModules};
use ferrotune_nn::{
    Dense, Dims, Pass, Projection, ProjectionBuilder, Role, Site, WeightSource, WeightSpec, Weights,
    seam::Recompute, weights::Initialized,
};
use ferrotune_torch::backward;
use tch::{Device, Kind, Tensor};

use crate::support::{Model, alone, ids, largest, logits, shake};

fn all_linear() -> LoraConfig {
    LoraConfig { target_modules: TargetModules::AllLinear, ..LoraConfig::default() }
}

#[test]
fn zero_initialised_lora_equals_base() {
    let _alone = alone();
    let named = |names: &[&str]| TargetModules::list(names.iter().copied());
    let cases = [
        ("llama-gqa", all_linear()),
        ("llama-gqa", LoraConfig { use_rslora: true, init_lora_weights: Init::Gaussian, ..all_linear() }),
        ("llama-gqa", LoraConfig { lora_dropout: 0.3, lora_bias: true, ..all_linear() }),
        ("llama-bias", LoraConfig { bias: Bias::All, ..all_linear() }),
        ("llama-gqa", LoraConfig { use_dora: true, ..all_linear() }),
        ("mixtral", LoraConfig { use_dora: true, ..all_linear() }),
        (
            "llama-bias",
            LoraConfig {
                bias: Bias::LoraOnly,
                modules_to_save: vec![
                    "lm_head".into(),
                    "norm".into(),
                    "embed_tokens".into(),
                    "up_proj".into(),
                ],
                ..all_linear()
            },
        ),
        ("mixtral", LoraConfig { target_modules: named(&["w1", "w2", "w3", "gate"]), ..all_linear() }),
        ("mixtral", LoraConfig { modules_to_save: vec!["gate".into(), "w2".into()], ..all_linear() }),
        (
            "mixtral",
            LoraConfig {
                target_modules: named(&[]),
                target_parameters: vec!["gate_up_proj".into(), "down_proj".into(), "gate.weight".into()],
                ..LoraConfig::default()
            },
        ),
    ];
    for (name, config) in cases {
        let model = Model::open(name);
        let (adapted, adapter) = model.fresh(config.clone());
        let base = logits(&*model.base(), &ids(), &Pass::eval());
        for pass in [Pass::eval(), Pass::train()] {
            assert_eq!(largest(&logits(&*adapted, &ids(), &pass), &base), 0.0, "{name} {config:?}");
        }
        shake(&adapter, 1);
        assert!(largest(&logits(&*adapted, &ids(), &Pass::eval()), &base) > 1e-3, "{name} {config:?}");
    }
}

#[test]
fn dropout_acts_in_training_and_never_in_evaluation() {
    let _alone = alone();
    let model = Model::open("mixtral");
    let (plain, adapter) = model.fresh(all_linear());
    shake(&adapter, 2);
    let mut weights = adapter.weights().unwrap();
    let expected = logits(&*plain, &ids(), &Pass::eval());
    weights = with_dropout(&weights, 0.4);
    let (dropping, _) = model.read(&weights);
    assert_eq!(largest(&logits(&*dropping, &ids(), &Pass::eval()), &expected), 0.0);
    tch::manual_seed(3);
    let first = logits(&*dropping, &ids(), &Pass::train());
    let second = logits(&*dropping, &ids(), &Pass::train());
    assert!(largest(&first, &expected) > 1e-3);
    assert!(largest(&first, &second) > 1e-3, "each pass drops its own elements");
    tch::manual_seed(3);
    assert_eq!(largest(&logits(&*dropping, &ids(), &Pass::train()), &first), 0.0, "the seed decides");
}

fn with_dropout(
    weights: &ferrotune_adapters::AdapterWeights,
    dropout: f64,
) -> ferrotune_adapters::AdapterWeights {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    weights.save(&path).unwrap();
    let file = path.join("adapter_config.json");
    let mut config = crate::support::json(&file);
    config["lora_dropout"] = dropout.into();
    std::fs::write(&file, config.to_string()).unwrap();
    ferrotune_adapters::AdapterWeights::open(&path).unwrap()
}

pub(crate) fn named<'a>(adapter: &'a LoraAdapter, suffix: &str) -> &'a Tensor {
    &adapter.parameters().iter().find(|trained| trained.name.ends_with(suffix)).unwrap().tensor
}

#[test]
fn fresh_factors_have_the_documented_distributions() {
    let _alone = alone();
    let model = Model::open("llama-gqa");
    let start = |init: Init| {
        tch::manual_seed(11);
        model.fresh(LoraConfig { r: 16, init_lora_weights: init, ..LoraConfig::default() }).1
    };
    let largest_of = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
    // Kaiming with a = √5 is uniform within √(6 / (6 · 64)) = 1/8; of 1024 values the largest comes near.
    let adapter = start(Init::Default);
    let (a, b) = (named(&adapter, "q_proj.lora_A"), named(&adapter, "q_proj.lora_B"));
    assert!((0.12..=0.125).contains(&largest_of(a)), "{}", largest_of(a));
    assert_eq!(largest_of(b), 0.0);
    assert_eq!((a.size(), b.size()), (vec![16, 64], vec![64, 16]));
    let again = start(Init::Default);
    assert_eq!(largest(named(&again, "q_proj.lora_A"), a), 0.0, "the seed decides");
    let next = named(&adapter, "v_proj.lora_A");
    assert!(largest(next, a) > 0.1, "sites draw in turn");
    // Normal with standard deviation 1/16: 1024 values estimate it within 10 %.
    let gaussian = start(Init::Gaussian);
    let deviation = named(&gaussian, "q_proj.lora_A").std(false).double_value(&[]);
    assert!((deviation * 16.0 - 1.0).abs() < 0.1, "{deviation}");
    assert_eq!(largest_of(named(&gaussian, "q_proj.lora_B")), 0.0);
    let random = start(Init::Random);
    let b = largest_of(named(&random, "q_proj.lora_B"));
    assert!((0.24..=0.25).contains(&b), "uniform within 1/√16: {b}");
}

/// A linear map `[out, in]` with bias, in the given type.
pub(crate) fn single(
    config: LoraConfig,
    dims: Dims,
    kind: Kind,
    factors: Kind,
) -> (Box<dyn Projection>, LoraAdapter, Tensor) {
    let spec = |leaf: &str, shape: &[i64]| WeightSpec {
        name: format!("layers.0.q_proj.{leaf}"),
        role: Role::Attention,
        shape: shape.to_vec(),
        alias: None,
    };
    let source = Initialized::new(&[spec("weight", &dims.shape()), spec("bias", &[dims.out_features])], 0.5);
    let fixed = Fixed(&source, std::sync::Mutex::default());
    let root = Weights::new(&fixed, Device::Cpu, kind);
    let config = LoraConfig { target_modules: TargetModules::list(["q_proj"]), ..config };
    let mut lora = Lora::new(config, Dense).unwrap().with_kind(factors);
    let site = Site::new(Role::Attention, dims).with_bias(true);
    let projection = lora.projection(&site, &root.at("layers.0.q_proj")).unwrap();
    let weight = fixed.read("layers.0.q_proj.weight").unwrap().to_kind(kind);
    (projection, lora.finish().unwrap(), weight)
}

/// Fresh weights that stay what they were when they were first read.
struct Fixed<'s>(&'s Initialized, std::sync::Mutex<std::collections::BTreeMap<String, Tensor>>);

impl WeightSource for Fixed<'_> {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.0.shape(name)
    }

    fn read(&self, name: &str) -> ferrotune_nn::Result<Tensor> {
        let mut read = self.1.lock().unwrap();
        if !read.contains_key(name) {
            read.insert(name.to_owned(), self.0.read(name)?);
        }
        Ok(read[name].shallow_clone())
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn place(&self) -> String {
        self.0.place()
    }
}

/// Central differences in 64 bits with this step are right to about its square.
const STEP: f64 = 1e-5;
const DIFFERENCES: f64 = 1e-8;

/// Compares the gradients of `Σ weights · value()` with central differences, element by element.
pub(crate) fn check_gradients(leaves: &[(String, Tensor)], value: impl Fn() -> Tensor) {
    let weights = Tensor::randn(value().size(), (Kind::Double, Device::Cpu));
    let loss = || (value() * &weights).sum(Kind::Double);
    backward(&[(&loss(), None)]).unwrap();
    for (name, leaf) in leaves {
        let gradient = leaf.grad().view(-1);
        let flat = leaf.detach().view(-1);
        let scale = gradient.abs().max().double_value(&[]);
        assert!(scale > 0.0, "{name}");
        for element in 0..flat.size()[0] {
            let mut place = flat.select(0, element);
            let here = place.double_value(&[]);
            let mut at = |x: f64| {
                let _ = place.fill_(x);
                loss().double_value(&[])
            };
            let expected = (at(here + STEP) - at(here - STEP)) / (2.0 * STEP);
            at(here);
            let found = gradient.double_value(&[element]);
            assert!(
                (found - expected).abs() < DIFFERENCES * scale.max(1.0),
                "{name}[{element}]: {found} {expected}"
            );
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let _alone = alone();
    tch::manual_seed(5);
    for config in [
        LoraConfig { r: 3, lora_alpha: 5.0, ..LoraConfig::default() },
        LoraConfig { r: 2, use_rslora: true, lora_bias: true, bias: Bias::LoraOnly, ..LoraConfig::default() },
    ] {
        let (projection, adapter, _) = single(config, Dims::new(5, 4), Kind::Double, Kind::Double);
        shake(&adapter, 6);
        let x = Tensor::randn([2, 3, 4], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let mut leaves: Vec<(String, Tensor)> = adapter
            .parameters()
            .iter()
            .map(|trained| (trained.name.clone(), trained.tensor.shallow_clone()))
            .collect();
        leaves.push(("x".into(), x.shallow_clone()));
        check_gradients(&leaves, || projection.forward(&x, &Pass::train()).unwrap());
    }
}

#[test]
fn under_16_bit_models_the_sum_is_rounded_once() {
    let _alone = alone();
    tch::manual_seed(7);
    let config = LoraConfig { r: 4, lora_alpha: 8.0, ..LoraConfig::default() };
    let (projection, adapter, weight) = single(config, Dims::new(24, 16), Kind::BFloat16, Kind::Float);
    shake(&adapter, 8);
    for trained in adapter.parameters() {
        assert_eq!(trained.tensor.kind(), Kind::Float);
    }
    let x = Tensor::randn([6, 16], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
    let found = projection.forward(&x, &Pass::eval()).unwrap();
    let base = x.linear::<Tensor>(&weight, None).to_kind(Kind::Float); // its bias is zero
    let (a, b) = (named(&adapter, "lora_A"), named(&adapter, "lora_B"));
    let added = x.to_kind(Kind::Float).matmul(&a.tr()).matmul(&b.tr()) * 2.0;
    let expected = (base + added).to_kind(Kind::BFloat16);
    assert_eq!(found.kind(), Kind::BFloat16);
    assert_eq!(largest(&found, &expected), 0.0);
}

#[test]
fn what_trains_is_named_counted_and_in_the_order_of_the_model() {
    let _alone = alone();
    let config = LoraConfig {
        r: 4,
        target_modules: TargetModules::list(["q_proj", "v_proj"]),
        modules_to_save: vec!["model.norm".into()],
        bias: Bias::LoraOnly,
        ..LoraConfig::default()
    };
    let (_, adapter) = Model::open("llama-bias").fresh(config);
    let names: Vec<&str> = adapter.parameters().iter().map(|trained| trained.name.as_str()).collect();
    let layer = |layer: usize| {
        ["q_proj", "v_proj"].into_iter().flat_map(move |name| {
            ["bias", "lora_A", "lora_B"].map(|leaf| format!("model.layers.{layer}.self_attn.{name}.{leaf}"))
        })
    };
    let expected: Vec<String> = layer(0).chain(layer(1)).chain(["model.norm.weight".to_owned()]).collect();
    assert_eq!(names, expected);
    // Per layer: q 32 + 4 · 32 + 32 · 4, v 16 + 4 · 32 + 16 · 4; the norm has 32.
    assert_eq!(adapter.parameters().elements(), 2 * (288 + 208) + 32);
    let exempt = |name: &str| name.ends_with("bias") || name.contains("norm");
    for trained in adapter.parameters() {
        let expected =
            if exempt(&trained.name) { ferrotune_nn::Decay::Exempt } else { ferrotune_nn::Decay::Applies };
        assert_eq!(trained.decay, expected, "{}", trained.name);
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradients_also_under_dropout() {
    let _alone = alone();
    for name in ["llama-gqa", "mixtral"] {
        let (model, adapter) = Model::open(name).fresh(LoraConfig { lora_dropout: 0.3, ..all_linear() });
        shake(&adapter, 12);
        let gradients = |pass: Pass| {
            adapter.parameters().iter().for_each(|trained| trained.tensor.shallow_clone().zero_grad());
            tch::manual_seed(13);
            backward(&[(&logits(&*model, &ids(), &pass).square().mean(Kind::Float), None)]).unwrap();
            adapter.gradients().unwrap()
        };
        let expected = gradients(Pass::train());
        let found = gradients(Pass::train().with_recompute(Recompute::Blocks));
        assert_eq!(found.len(), expected.len());
        for (key, gradient) in &expected {
            assert_eq!(largest(&found[key], gradient), 0.0, "{key}");
        }
    }
}
