//! Adapters that begin with a part of the base: PEFT's factors, the sum that stays the weight, and files for any base.

use std::path::Path;

use ferrotune_adapters::{
    AdapterWeights, Adapters, BlockSize, Error, Init, Lora, LoraAdapter, LoraConfig, MergeBase, MergeOptions,
    Nf4, Quantization, QuantizedTensor, TargetModules, merge,
};
use ferrotune_nn::{
    CausalLm, Dense, Dims, Pass, Projection, ProjectionBuilder, Role, Site, Storage, WeightSource as _,
    Weights,
    checkpoint::{Checkpoint, CheckpointWriter, write_file},
};
use ferrotune_torch::backward;
use tch::{Device, Kind, Tensor};

use crate::{
    merging::merge_into,
    projections::named,
    support::{Kept, LOGITS, Model, alone, golden, ids, largest, logits, norm_relative, shake},
};

/// Decompositions of one library on one machine, in 32 bits; another order of the same sums elsewhere.
const FACTORS: f64 = 2e-5;
/// A weight, less a product, plus the product.
const SUM: f64 = 1e-6;

const PATH: &str = "layers.0.q_proj";

/// One linear map without bias, whose weight is `weight`.
fn single(weight: &Tensor, config: LoraConfig, storage: impl Storage) -> (Box<dyn Projection>, LoraAdapter) {
    let source = Kept::new([(format!("{PATH}.weight"), weight.shallow_clone())]);
    let config = LoraConfig { target_modules: TargetModules::list(["q_proj"]), ..config };
    let mut lora = Lora::new(config, storage).unwrap();
    let (out, width) = weight.size2().unwrap();
    let site = Site::new(Role::Attention, Dims::new(out, width));
    let at = Weights::new(&source, Device::Cpu, Kind::Float);
    let projection = lora.projection(&site, &at.at(PATH)).unwrap();
    (projection, lora.finish().unwrap())
}

/// The matrix that a projection applies.
fn matrix(projection: &dyn Projection, width: i64) -> Tensor {
    tch::no_grad(|| {
        projection.forward(&Tensor::eye(width, (Kind::Float, Device::Cpu)), &Pass::eval()).unwrap().tr()
    })
}

fn plain_nf4() -> Nf4 {
    let settings = Quantization { double_quantization: false, ..Quantization::default() };
    assert_eq!(settings.block_size, BlockSize::default());
    Nf4::new(settings)
}

struct Golden(Checkpoint, &'static str);

impl Golden {
    fn open(case: &'static str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/initializations.safetensors");
        Self(Checkpoint::open_file(&path).unwrap(), case)
    }

    fn read(&self, what: &str) -> Tensor {
        self.0.read(&format!("{}.{what}", self.1)).unwrap()
    }

    /// `s·BA`.
    fn product(&self) -> Tensor {
        self.read("lora_B").matmul(&self.read("lora_A")) * self.read("scaling").double_value(&[])
    }
}

fn factors(adapter: &LoraAdapter) -> (Tensor, Tensor) {
    (named(adapter, "lora_A").detach(), named(adapter, "lora_B").detach())
}

#[test]
fn products_and_what_is_left_of_the_base_equal_pefts() {
    let _alone = alone();
    for (case, alpha, use_rslora, init) in [
        ("pissa-wide", 6.0, false, "pissa"),
        ("pissa-tall", 6.0, false, "pissa"),
        ("pissa-rslora", 5.0, true, "pissa"),
        ("pissa_niter_8-wide", 6.0, false, "pissa_niter_8"),
        ("pissa_niter_8-tall", 6.0, false, "pissa_niter_8"),
        ("olora-wide", 6.0, false, "olora"),
        ("olora-tall", 6.0, false, "olora"),
    ] {
        tch::manual_seed(61);
        let golden = Golden::open(case);
        let weight = golden.read("weight");
        let config = LoraConfig {
            r: 4,
            lora_alpha: alpha,
            use_rslora,
            init_lora_weights: init.parse().unwrap(),
            ..LoraConfig::default()
        };
        let (projection, adapter) = single(&weight, config, Dense);
        let (a, b) = factors(&adapter);
        let product = b.matmul(&a) * golden.read("scaling").double_value(&[]);
        let whole = matrix(&*projection, weight.size()[1]);
        let distances = [
            largest(&product, &golden.product()),
            largest(&(&whole - &product), &golden.read("base")),
            largest(&whole, &weight),
        ];
        println!("{case}: product, base, sum {distances:?}");
        assert!(
            distances[0] < FACTORS && distances[1] < FACTORS && distances[2] < SUM,
            "{case} {distances:?}"
        );
        if init == "olora" {
            // Columns of Q and rows of R are determined up to a common sign.
            for (found, expected, dim) in [(&a, golden.read("lora_A"), 1), (&b, golden.read("lora_B"), 0)] {
                let sign = (found * &expected).sum_dim_intlist(dim, true, Kind::Float).sign();
                assert!(largest(&(found * sign), &expected) < FACTORS, "{case}");
            }
        }
    }
}

/// PEFT leaves the scaling out of LoftQ's factors, so its product is BA; here it is s·BA.
#[test]
fn loftq_makes_up_for_what_quantizing_loses_as_pefts_does() {
    let _alone = alone();
    for (case, iterations, alpha) in [("loftq-1", 1, 8.0), ("loftq-5", 5, 8.0), ("loftq-5", 5, 24.0)] {
        let golden = Golden::open(case);
        let weight = golden.read("weight");
        let config = LoraConfig {
            r: 8,
            lora_alpha: alpha,
            init_lora_weights: Init::Loftq { iterations },
            ..LoraConfig::default()
        };
        let (projection, adapter) = single(&weight, config, plain_nf4());
        let (a, b) = factors(&adapter);
        let product = b.matmul(&a) * (alpha / 8.0);
        let whole = matrix(&*projection, weight.size()[1]);
        let base = &whole - &product;
        let (product, base) = (largest(&product, &golden.product()), largest(&base, &golden.read("base")));
        let norm = |tensor: &Tensor| tensor.norm().double_value(&[]);
        let settings = Quantization { double_quantization: false, ..Quantization::default() };
        let rounded = QuantizedTensor::quantize(&weight, &settings).unwrap().dequantize(Kind::Float).unwrap();
        let (with, without) = (norm(&(&weight - whole)), norm(&(&weight - rounded)));
        println!(
            "{case} alpha {alpha}: product {product:.1e}, base {base:.1e}, error {with:.4} of {without:.4}"
        );
        assert!(product < FACTORS && base < FACTORS, "{case}: {product} {base}");
        assert!(with < 0.8 * without, "{case}: {with} {without}");
    }
}

fn inits() -> Vec<(&'static str, LoraConfig)> {
    let all = |init: &str| LoraConfig {
        r: 3,
        lora_alpha: 4.0,
        target_modules: TargetModules::AllLinear,
        init_lora_weights: init.parse().unwrap(),
        ..LoraConfig::default()
    };
    let patterns = |config: LoraConfig| LoraConfig {
        rank_pattern: vec![(r".*\.0\..*\.(q_proj|w1)".into(), 5)],
        alpha_pattern: vec![(r".*\.1\..*\.(v_proj|w2)".into(), 7.0)],
        ..config
    };
    vec![
        ("llama-gqa", patterns(all("pissa"))),
        ("llama-bias", LoraConfig { use_rslora: true, ..patterns(all("olora")) }),
        ("llama-gqa", LoraConfig { use_dora: true, ..all("pissa_niter_4") }),
        ("mixtral", patterns(all("pissa"))),
        ("mixtral", LoraConfig { use_dora: true, use_rslora: true, ..all("olora") }),
        ("llama-bf16", all("pissa")),
    ]
}

#[test]
fn a_model_starts_as_its_base_and_its_file_fits_that_base_anywhere() {
    let _alone = alone();
    for (seed, (name, config)) in (62..).zip(inits()) {
        let what = format!("{name} {}", config.init_lora_weights);
        let model = Model::open(name);
        tch::manual_seed(seed);
        let (adapted, adapter) = model.fresh(config.clone());
        let of = |model: &dyn CausalLm| logits(model, &ids(), &Pass::eval());
        let start = largest(&of(&*adapted), &of(&*model.base()));
        shake(&adapter, seed);
        let trained = of(&*adapted);
        let weights = adapter.weights().unwrap();
        assert_eq!(weights.config().init_lora_weights, Init::Default);
        assert_eq!(weights.config().r, 2 * config.r);
        let folder = tempfile::tempdir().unwrap();
        weights.save(&folder.path().join("adapter")).unwrap();
        let read = AdapterWeights::open(&folder.path().join("adapter")).unwrap();
        // Read again it is what was trained, bit for bit, and is saved again as it was.
        let (again, same) = model.read(&read);
        assert_eq!(largest(&of(&*again), &trained), 0.0, "{what}");
        assert_eq!(same.config(), adapter.config());
        let same = same.weights().unwrap();
        assert_eq!(same.config().to_fields(), weights.config().to_fields());
        for (key, tensor) in weights.tensors() {
            assert_eq!(largest(&same.tensors()[key], tensor), 0.0, "{key}");
        }
        // As PEFT reads it.
        let (again, plain) = model.read(&read.plain());
        assert_eq!(plain.weights().unwrap().config().to_fields(), weights.config().to_fields());
        let anywhere = largest(&of(&*again), &trained);
        let merged = folder.path().join("merged");
        std::fs::create_dir(&merged).unwrap();
        merge_into(&model, &read, &merged);
        let merged = Model::with_config(&golden().join("models").join(name), &merged);
        let merged = largest(&of(&*merged.base()), &trained);
        println!("{what}: at first {start:.1e}, on the base as it is {anywhere:.1e}, merged {merged:.1e}");
        // A checkpoint in 16 bits rounds what is merged into it.
        let stored = if name == "llama-bf16" { 2e-2 } else { LOGITS };
        assert!(start.max(anywhere) < LOGITS && merged < stored, "{what}: {start} {anywhere} {merged}");
    }
}

fn built<S: Storage>(
    model: &Model,
    lora: ferrotune_adapters::Result<Lora<S>>,
) -> (Box<dyn CausalLm>, LoraAdapter) {
    let mut lora = lora.unwrap();
    let built = model.load(&mut lora);
    (built, lora.finish().unwrap())
}

/// Over NF4 the base is what is left of the weight, quantized: the start is nearer to the model than quantizing alone.
#[test]
fn over_a_quantized_base_the_start_is_nearer_to_the_weights() {
    let _alone = alone();
    let settings = Quantization { block_size: BlockSize::new(32).unwrap(), ..Quantization::default() };
    for init in ["pissa", "loftq", "loftq_iter_4"] {
        let config = LoraConfig {
            r: 16,
            lora_alpha: 8.0,
            target_modules: TargetModules::AllLinear,
            init_lora_weights: init.parse().unwrap(),
            ..LoraConfig::default()
        };
        let model = Model::open("llama-gqa");
        let (adapted, _) = built(&model, Lora::new(config.clone(), Nf4::new(settings)));
        let plain = LoraConfig { init_lora_weights: Init::Default, ..config };
        let (rounded, _) = built(&model, Lora::new(plain, Nf4::new(settings)));
        let exact = logits(&*model.base(), &ids(), &Pass::eval());
        let of = |model: &dyn CausalLm| norm_relative(&logits(model, &ids(), &Pass::eval()), &exact);
        let (with, without) = (of(&*adapted), of(&*rounded));
        println!("{init}: {with:.3} of the logits against {without:.3}");
        assert!(with < 0.8 * without, "{init}: {with} {without}");
    }
}

/// Builds `config` anew and from what it saved, and compares everything bit for bit.
fn check_resumed<S: Storage>(name: &str, config: &LoraConfig, storage: impl Fn() -> S) {
    let model = Model::open(name);
    tch::manual_seed(63);
    let (first, adapter) = built(&model, Lora::new(config.clone(), storage()));
    shake(&adapter, 64);
    let saved = adapter.weights().unwrap();
    tch::manual_seed(65); // nothing of it may hang on chance
    let (second, resumed) = built(&model, Lora::resume(config.clone(), &saved, storage()));
    for (found, expected) in resumed.parameters().iter().zip(adapter.parameters()) {
        assert_eq!(found.name, expected.name);
        assert_eq!(largest(&found.tensor, &expected.tensor), 0.0, "{name} {}", found.name);
    }
    let run = |model: &dyn CausalLm, adapter: &LoraAdapter| {
        let value = logits(model, &ids(), &Pass::train());
        backward(&[(&value.square().mean(Kind::Float), None)]).unwrap();
        (value, adapter.gradients().unwrap())
    };
    let ((found, found_gradients), (expected, gradients)) = (run(&*second, &resumed), run(&*first, &adapter));
    assert_eq!(largest(&found, &expected), 0.0, "{name} {}", config.init_lora_weights);
    for (key, gradient) in &gradients {
        assert_eq!(largest(&found_gradients[key], gradient), 0.0, "{key}");
    }
    let again = resumed.weights().unwrap();
    for (key, tensor) in saved.tensors() {
        assert_eq!(largest(&again.tensors()[key], tensor), 0.0, "{key}");
    }
}

/// What an interrupted run saves is enough to go on with: factors and base are the same numbers, bit for bit.
#[test]
fn a_resumed_run_has_the_same_base_and_the_same_factors_bit_for_bit() {
    let _alone = alone();
    for (name, config) in inits() {
        check_resumed(name, &config, || Dense);
    }
    for init in ["pissa", "loftq", "loftq_iter_3"] {
        // The head stays dense, and is saved with the rank of all others.
        let config = LoraConfig {
            target_modules: TargetModules::list(["q_proj", "up_proj", "lm_head"]),
            init_lora_weights: init.parse().unwrap(),
            ..LoraConfig::default()
        };
        check_resumed("llama-gqa", &config, Nf4::default);
    }
}

/// Half of the widest gap of NF4's table, between -1 and -0.6961928: the most by which a weight moves, in units of its block's scale.
const NF4_HALF_GAP: f64 = 0.5 * (1.0 - 0.696_192_8);

/// As a plain adapter, which is how PEFT reads it, what was saved goes onto Q(W), and what was trained stood on Q(W - sB₀A₀). The two
/// models differ by [Q(W - sB₀A₀) + sB₀A₀ - W] - [Q(W) - W], two roundings, each within half a gap times its scale. Where nothing was
/// taken out of the base there is no difference, and none where the reader takes it out again.
#[test]
fn what_is_read_again_over_nf4_is_what_was_trained_and_read_as_a_plain_adapter_two_roundings_off() {
    let _alone = alone();
    tch::manual_seed(71);
    let weight = Tensor::randn([96, 64], (Kind::Float, Device::Cpu));
    for (seed, init) in (72..).zip(["true", "gaussian", "loftq", "pissa", "olora", "loftq_iter_3"]) {
        let config = LoraConfig {
            r: 4,
            lora_alpha: 6.0,
            init_lora_weights: init.parse().unwrap(),
            ..LoraConfig::default()
        };
        let (projection, adapter) = single(&weight, config.clone(), plain_nf4());
        shake(&adapter, seed);
        let trained = matrix(&*projection, 64);
        let saved = adapter.weights().unwrap();
        let source = Kept::new([(format!("{PATH}.weight"), weight.shallow_clone())]);
        let read = |weights: &AdapterWeights| {
            let mut lora = Lora::load(weights, plain_nf4()).unwrap();
            let site = Site::new(Role::Attention, Dims::new(96, 64));
            let at = Weights::new(&source, Device::Cpu, Kind::Float);
            let again = matrix(&*lora.projection(&site, &at.at(PATH)).unwrap(), 64);
            lora.finish().unwrap();
            again
        };
        assert_eq!(largest(&read(&saved), &trained), 0.0, "{init}");
        let apart = (read(&saved.plain()) - &trained).abs().max().double_value(&[]);
        if saved.config().r == config.r {
            println!("{init}: {apart:.1e}");
            assert!(apart < SUM, "{init}: {apart}");
            continue;
        }
        // The second halves of the saved factors: A₀, and B₀ with its sign turned.
        let half = |leaf: &str, dim| {
            let (_, tensor) = saved.tensors().iter().find(|(name, _)| name.contains(leaf)).unwrap();
            tensor.narrow(dim, config.r, config.r)
        };
        let rest =
            &weight + half("lora_B", 1).matmul(&half("lora_A", 0)) * (config.lora_alpha / config.r as f64);
        let bound = NF4_HALF_GAP * (rest.abs().max() + weight.abs().max()).double_value(&[]);
        println!(
            "{init}: {apart:.3}, bound {bound:.3}, weights up to {:.3}",
            weight.abs().max().double_value(&[])
        );
        assert!(SUM < apart && apart < bound, "{init}: {apart} {bound}");
    }
}

/// The same of whole models, by their loss, and of what a merge onto the quantized base makes of them. As a plain adapter what was saved
/// loses over a dense base what was trained lost, over NF4 too where nothing was taken out of the base. Elsewhere two roundings lie
/// between them, so to first order they are no further apart than twice what quantizing the base does to it.
#[test]
fn the_loss_of_what_is_read_again_is_that_of_what_was_trained() {
    let _alone = alone();
    let model = Model::open("llama-gqa");
    let loss = |logits: &Tensor| {
        let (predicted, next) =
            (logits.narrow(1, 0, 11).reshape([22, -1]), ids().narrow(1, 1, 11).reshape([22]));
        predicted.cross_entropy_for_logits(&next).double_value(&[])
    };
    let of = |model: &dyn CausalLm| logits(model, &ids(), &Pass::eval());
    let base = of(&*model.base());
    let (rounded, _) = built(&model, Lora::new(LoraConfig::default(), Nf4::default()));
    let rounding = (loss(&of(&*rounded)) - loss(&base)).abs().max(norm_relative(&of(&*rounded), &base));
    for (seed, init) in (82..).zip(["true", "loftq", "pissa", "olora"]) {
        let config = LoraConfig {
            target_modules: TargetModules::AllLinear,
            init_lora_weights: init.parse().unwrap(),
            ..LoraConfig::default()
        };
        for name in ["dense", "NF4"] {
            if init == "loftq" && name == "dense" {
                continue; // nothing is lost that it could make up for
            }
            tch::manual_seed(seed);
            let storage = || -> Box<dyn Storage> {
                if name == "dense" { Box::new(Dense) } else { Box::new(Nf4::default()) }
            };
            let (trained, adapter) = built(&model, Lora::new(config.clone(), storage()));
            shake(&adapter, seed);
            let saved = adapter.weights().unwrap();
            let trained = of(&*trained);
            let (again, _) = built(&model, Lora::load(&saved, storage()));
            assert_eq!(largest(&of(&*again), &trained), 0.0, "{init} over {name}");
            if name == "NF4" {
                let folder = tempfile::tempdir().unwrap();
                let mut writer = CheckpointWriter::new(folder.path());
                let options = MergeOptions {
                    base: MergeBase::Quantized(Quantization::default()),
                    ..MergeOptions::default()
                };
                model
                    .with_source(|source| merge(source, &model.specs(), &[&saved], &options, &mut writer))
                    .unwrap();
                writer.finish().unwrap();
                let merged = Model::with_config(&golden().join("models/llama-gqa"), folder.path());
                let merged = largest(&of(&*merged.base()), &trained);
                assert!(merged < LOGITS, "{init} merged: {merged}");
            }
            let (again, _) = built(&model, Lora::load(&saved.plain(), storage()));
            let again = of(&*again);
            let exact = name == "dense" || saved.config().r == config.r;
            let apart = (loss(&again) - loss(&trained)).abs();
            println!(
                "{init} over {name}: losses {:.5} and {:.5}, {apart:.1e} apart",
                loss(&trained),
                loss(&again)
            );
            let bound = if exact { LOGITS } else { 2.0 * rounding };
            assert!(apart < bound, "{init} over {name}: {apart} against {bound}");
        }
    }
}

/// Several adapters have one base, which loses nothing to any of them.
#[test]
fn beside_others_it_goes_onto_the_base_as_it_is() {
    let _alone = alone();
    let model = Model::open("llama-gqa");
    tch::manual_seed(91);
    let config = LoraConfig { init_lora_weights: "olora".parse().unwrap(), ..LoraConfig::default() };
    let (_, adapter) = built(&model, Lora::new(config, Nf4::default()));
    shake(&adapter, 92);
    let saved = adapter.weights().unwrap();
    let of = |model: &dyn CausalLm| logits(model, &ids(), &Pass::eval());
    let (plain, _) = built(&model, Lora::load(&saved.plain(), Nf4::default()));
    let mut several = Adapters::new(Nf4::default()).with_adapter("one", &saved).unwrap();
    let one = model.load(&mut several);
    several.finish().unwrap();
    assert_eq!(largest(&of(&*one), &of(&*plain)), 0.0);
}

#[test]
fn what_a_file_says_of_its_beginning_must_fit_its_settings() {
    let _alone = alone();
    let config = LoraConfig {
        use_rslora: true,
        rank_pattern: vec![("q_proj".into(), 5)],
        alpha_pattern: vec![("v_proj".into(), 3.0)],
        init_lora_weights: Init::Loftq { iterations: 3 },
        ..LoraConfig::default()
    };
    let (_, adapter) = built(&Model::open("llama-gqa"), Lora::new(config, Nf4::default()));
    let (folder, weights) = (tempfile::tempdir().unwrap(), adapter.weights().unwrap());
    weights.save(folder.path()).unwrap();
    let read = AdapterWeights::open(folder.path()).unwrap();
    assert_eq!(
        read.trained().to_fields(),
        adapter.config().to_fields(),
        "alphas and iterations to the last digit"
    );
    assert_eq!((read.plain().trained(), read.config().r), (read.config(), 16));
    let path = folder.path().join("adapter_model.safetensors");
    for (text, expected) in [
        ("pissa", "a JSON object"),
        (r#"{"r": 8, "init_lora_weights": true}"#, "changes the base"),
        (r#"{"r": 7, "init_lora_weights": "pissa"}"#, "as they were saved"),
        (r#"{"r": "8", "init_lora_weights": "pissa"}"#, "an integer"),
    ] {
        let tensors = weights.tensors().iter().map(|(name, tensor)| (name.clone(), tensor));
        write_file(&path, tensors, &[("ferrotune_began", text)]).unwrap();
        let message = AdapterWeights::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("adapter_model.safetensors"), "{message}");
    }
}

#[test]
fn fresh_values_hang_on_the_seed_alone() {
    let _alone = alone();
    let model = Model::open("llama-gqa");
    let config = LoraConfig { init_lora_weights: "pissa_niter_1".parse().unwrap(), ..LoraConfig::default() };
    let start = |seed: i64| {
        tch::manual_seed(seed);
        model.fresh(config.clone()).1.weights().unwrap()
    };
    let (one, again, other) = (start(66), start(66), start(67));
    for (key, tensor) in one.tensors() {
        assert_eq!(largest(&again.tensors()[key], tensor), 0.0, "{key}");
    }
    assert!(one.tensors().iter().any(|(key, tensor)| largest(&other.tensors()[key], tensor) > 0.0));
}

#[test]
fn what_cannot_begin_so_says_why() {
    let _alone = alone();
    let start = |init: &str| LoraConfig { init_lora_weights: init.parse().unwrap(), ..LoraConfig::default() };
    let refused = |config: LoraConfig| {
        let model = Model::open("mixtral");
        let mut lora = match Lora::new(config, Dense) {
            Ok(lora) => lora,
            Err(error) => return error.to_string(),
        };
        match model.try_load(Kind::Float, &mut lora) {
            Ok(_) => lora.finish().unwrap_err().to_string(),
            Err(error) => format!("{error}: {}", std::error::Error::source(&error).unwrap()),
        }
    };
    for (config, expected) in [
        (LoraConfig { r: 33, ..start("pissa") }, vec!["q_proj", "33", "32 singular values", "pissa"]),
        (LoraConfig { r: 17, ..start("olora") }, vec!["v_proj", "17", "16 singular values"]),
        (start("loftq"), vec!["loftq", "no matrix that is adapted is quantized"]),
        (LoraConfig { lora_alpha: 0.0, ..start("pissa") }, vec!["lora_alpha", "above 0"]),
        (start("loftq_iter_0"), vec!["loftq_iter", "above 0"]),
        (
            LoraConfig { target_parameters: vec!["gate_up_proj".into()], ..start("olora") },
            vec!["init_lora_weights", "target_parameters"],
        ),
    ] {
        let message = refused(config);
        assert!(expected.iter().all(|text| message.contains(text)), "{message}");
    }
    let broken = Tensor::ones([8, 8], (Kind::Float, Device::Cpu));
    let _ = broken.get(2).get(3).fill_(f64::NAN);
    let source = Kept::new([(format!("{PATH}.weight"), broken)]);
    let mut lora = Lora::new(LoraConfig { r: 2, ..start("pissa") }, Dense).unwrap();
    let site = Site::new(Role::Attention, Dims::new(8, 8));
    let error =
        lora.projection(&site, &Weights::new(&source, Device::Cpu, Kind::Float).at(PATH)).unwrap_err();
    let message = std::error::Error::source(&error).unwrap().to_string();
    assert!(message.contains("`layers.0.q_proj.weight`") && message.contains("index 19"), "{message}");

    let message = "pissa_niter_x".parse::<Init>().unwrap_err().to_string();
    assert!(message.contains("pissa_niter_x") && message.contains("pissa_niter_N"), "{message}");

    // A run goes on with the settings that it began with.
    let (_, adapter) = Model::open("llama-gqa").fresh(start("pissa"));
    let error = Lora::resume(LoraConfig { r: 4, ..start("pissa") }, &adapter.weights().unwrap(), Dense);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("`r`") && message.contains("a run of rank 4 saves"), "{message}");

    // An adapter of PEFT's that fits a changed base goes onto a base of its own only.
    let raw = AdapterWeights::open(&golden().join("adapters/llama-pissa")).unwrap();
    let error = Adapters::new(Dense).with_adapter("one", &raw).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("alone"), "{error}");
    assert!(Adapters::new(Dense).with_new("one", start("pissa")).is_err());
    let (model, folder) = (Model::open("llama-gqa"), tempfile::tempdir().unwrap());
    let mut writer = CheckpointWriter::new(folder.path());
    let error = model
        .with_source(|source| merge(source, &model.specs(), &[&raw], &MergeOptions::default(), &mut writer))
        .unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    // Once it was in a model, it is a plain one.
    let (adapted, adapter) = model.read(&raw);
    let plain = adapter.weights().unwrap();
    let merged = tempfile::tempdir().unwrap();
    merge_into(&model, &plain, merged.path());
    let merged = Model::with_config(&golden().join("models/llama-gqa"), merged.path());
    let of = |model: &dyn CausalLm| logits(model, &ids(), &Pass::eval());
    assert!(largest(&of(&*merged.base()), &of(&*adapted)) < LOGITS);
}
