//! LoRA on experts: derivatives, subsets, and what it costs.

use ferrotune_adapters::{Lora, LoraConfig, TargetModules};
use ferrotune_mixtral::{AuxiliaryLoss, Config, Mixtral};
use ferrotune_nn::{
    CausalLm, Dense, Gradient, GroupedSite, Part, Pass, ProjectionBuilder, Role, RowGroups, Tokens,
    WeightSpec, Weights, config::ConfigFile, weights::Initialized,
};
use ferrotune_torch::{backward, flops};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::{
    projections::check_gradients,
    support::{alone, shake},
};

const EXPERTS: i64 = 4;

pub(crate) fn site() -> GroupedSite {
    let part = |name| Part { name, out_features: 3 };
    GroupedSite {
        experts: EXPERTS,
        in_features: 5,
        parts: vec![part("w1"), part("w3")],
        stacked_name: "mlp.experts.gate_up_proj",
    }
}

pub(crate) fn source() -> Initialized {
    let specs: Vec<WeightSpec> = (0..EXPERTS)
        .flat_map(|expert| ["w1", "w3"].map(|part| format!("layers.0.moe.experts.{expert}.{part}.weight")))
        .map(|name| WeightSpec { name, role: Role::Expert, shape: vec![3, 5], alias: None })
        .collect();
    Initialized::new(&specs, 0.5)
}

#[test]
fn gradients_equal_finite_differences_also_where_an_expert_is_idle_or_not_adapted() {
    let _alone = alone();
    let all = LoraConfig { r: 2, target_modules: TargetModules::list(["w1", "w3"]), ..LoraConfig::default() };
    let some = LoraConfig {
        target_modules: TargetModules::parse(r".*\.experts\.([03]\.w1|[13]\.w3)"),
        rank_pattern: vec![(r"experts\.3\.w1".into(), 1)],
        ..all.clone()
    };
    let flat = LoraConfig {
        target_modules: TargetModules::list::<String>([]),
        target_parameters: vec!["gate_up_proj".into()],
        ..all.clone()
    };
    for (config, stacks) in [(all, 2), (some, 3), (flat, 1)] {
        tch::manual_seed(21);
        let source = source();
        let root = Weights::new(&source, Device::Cpu, Kind::Double).at("layers.0.moe.experts");
        let mut lora = Lora::new(config, Dense).unwrap().with_kind(Kind::Double);
        let group = lora.grouped(&site(), &root).unwrap();
        let adapter = lora.finish().unwrap();
        assert_eq!(adapter.parameters().len(), 2 * stacks);
        shake(&adapter, 22);
        let groups = RowGroups::from_counts(&Tensor::from_slice(&[2i64, 3, 0, 1])).unwrap(); // expert 2 is idle
        let x = Tensor::randn([6, 5], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let mut leaves: Vec<(String, Tensor)> = adapter
            .parameters()
            .iter()
            .map(|trained| (trained.name.clone(), trained.tensor.shallow_clone()))
            .collect();
        leaves.push(("x".into(), x.shallow_clone()));
        check_gradients(&leaves, || group.forward(&x, &groups, &Pass::train()).unwrap());
    }
}

#[test]
fn an_expert_without_rows_gets_a_zero_gradient_and_not_none() {
    let _alone = alone();
    tch::manual_seed(23);
    let source = source();
    let root = Weights::new(&source, Device::Cpu, Kind::Float).at("layers.0.moe.experts");
    // Only an idle expert is adapted.
    let target_modules = TargetModules::parse(r".*\.experts\.2\.w1");
    let mut lora = Lora::new(LoraConfig { target_modules, ..LoraConfig::default() }, Dense).unwrap();
    let group = lora.grouped(&site(), &root).unwrap();
    let adapter = lora.finish().unwrap();
    let groups = RowGroups::from_counts(&Tensor::from_slice(&[2i64, 3, 0, 1])).unwrap();
    let x = Tensor::randn([6, 5], (Kind::Float, Device::Cpu));
    backward(&[(&group.forward(&x, &groups, &Pass::train()).unwrap().sum(Kind::Float), None)]).unwrap();
    let gradients = adapter.gradients().unwrap();
    assert_eq!(gradients.len(), 2);
    assert!(gradients.values().all(|gradient| gradient.abs().max().double_value(&[]) == 0.0));
}

/// Operations of a training step of a one-layer Mixtral with LoRA on all linear maps.
fn operations(experts: i64, config: &LoraConfig) -> u64 {
    let fields = json!({
        "model_type": "mixtral", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": experts,
        "num_experts_per_tok": 2, "max_position_embeddings": 128, "rope_theta": 10000.0, "hidden_act": "silu",
    });
    let file = ConfigFile::from_fields("a test", fields.as_object().unwrap().clone());
    let model_config = Config::read(&file).unwrap();
    tch::manual_seed(24);
    let source = Initialized::new(&model_config.weights(), 0.05);
    let mut lora = Lora::new(config.clone(), Dense).unwrap();
    let model = Mixtral::load(model_config, AuxiliaryLoss::Off, &source, Device::Cpu, Kind::Float, &mut lora)
        .unwrap();
    lora.finish().unwrap();
    let ids = Tensor::arange(128, (Kind::Int64, Device::Cpu)).remainder(61).view([2, 64]);
    let step = || {
        let states = model.hidden(&Tokens::full(&ids), None, &Pass::train()).unwrap().states;
        let loss = model.logits(&states, &Pass::train()).unwrap().square().mean(Kind::Float);
        backward(&[(&loss, None)]).unwrap();
    };
    flops::count(step).unwrap().1
}

/// The promise of the issue; the router alone grows with the experts.
const COST: f64 = 0.05;

#[test]
fn doubling_the_experts_at_fixed_top_k_costs_under_5_percent() {
    let _alone = alone();
    let per_expert = LoraConfig { target_modules: TargetModules::AllLinear, ..LoraConfig::default() };
    let flat = LoraConfig {
        target_parameters: vec!["gate_up_proj".into(), "down_proj".into()],
        ..LoraConfig::default()
    };
    for config in [per_expert, flat] {
        let (once, twice) = (operations(8, &config), operations(16, &config));
        let growth = twice as f64 / once as f64 - 1.0;
        println!("8 experts {once}, 16 experts {twice}: {:+.2} %", 100.0 * growth);
        assert!(growth.abs() < COST, "{growth}");
        assert!(once > 0);
    }
}

#[test]
fn experts_that_are_built_alone_need_a_gradient_only_when_a_row_reaches_them() {
    let _alone = alone();
    let source = source();
    let root = Weights::new(&source, Device::Cpu, Kind::Float).at("layers.0.moe.experts");
    let config = LoraConfig {
        target_modules: TargetModules::list(["w1"]),
        modules_to_save: vec!["0.w3".into()],
        ..LoraConfig::default()
    };
    let mut lora = Lora::new(config, Dense).unwrap();
    let group = lora.grouped(&site(), &root).unwrap();
    let adapter = lora.finish().unwrap();
    let groups = RowGroups::from_counts(&Tensor::from_slice(&[2i64, 3, 0, 1])).unwrap();
    let x = Tensor::randn([6, 5], (Kind::Float, Device::Cpu));
    backward(&[(&group.forward(&x, &groups, &Pass::train()).unwrap().sum(Kind::Float), None)]).unwrap();
    assert_eq!(adapter.parameters().len(), 2 * EXPERTS as usize + 1);
    for trained in adapter.parameters() {
        assert_eq!(trained.gradient, Gradient::WhenRouted, "{}", trained.name);
        assert_eq!(trained.tensor.grad().defined(), !trained.name.contains("experts.2"), "{}", trained.name);
    }
}
