//! The operations that `Work` counts are those that libtorch executed, and the plan's names are the models'.

use std::collections::BTreeSet;

use ferrotune::{
    AutoCausalLm, FitConfig, LoadOptions, MemoryPlan, Work,
    adapters::{Lora, LoraConfig, TargetModules},
    nn::{
        Dense, Pass, Tokens, Trainable,
        loss::{Labelled, causal_lm_loss},
        seam::Recompute,
        weights::Initialized,
    },
    tch::{Device, Kind, Tensor},
    torch::{backward, flops},
};
use serde_json::{Value, json};

/// The last position of a row predicts nothing, so the head runs on 63 of 64 tokens; the first block's input needs no
/// gradient. All else is equal.
const TOLERANCE: f64 = 0.03;

const BATCH: i64 = 2;
const SEQUENCE: i64 = 64;

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 200, "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "tie_word_embeddings": false,
    })
}

fn mixtral() -> Value {
    json!({
        "model_type": "mixtral", "vocab_size": 200, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
        "num_experts_per_tok": 2, "max_position_embeddings": 128, "tie_word_embeddings": true,
    })
}

fn open(config: &Value) -> AutoCausalLm {
    AutoCausalLm::from_fields("a configuration", config.as_object().unwrap().clone()).unwrap()
}

/// `None` trains all weights.
fn run(adapter: Option<LoraConfig>, recompute: Recompute) -> FitConfig {
    FitConfig {
        adapter,
        quantization: None,
        kind: Kind::Float,
        device: Device::Cpu,
        batch_size: BATCH as u64,
        sequence_length: SEQUENCE as u64,
        recompute,
    }
}

fn lora(target_modules: TargetModules) -> Option<LoraConfig> {
    Some(LoraConfig { r: 16, target_modules, ..LoraConfig::default() })
}

/// Operations that libtorch executed for a token of one training step.
fn executed(model: &AutoCausalLm, config: &FitConfig) -> f64 {
    let source = Initialized::new(&model.weights(), 0.02);
    let options = LoadOptions::new(Device::Cpu, Kind::Float);
    let built = match &config.adapter {
        None => model.load_from(&source, &options, &mut Trainable::new()).unwrap(),
        Some(adapter) => {
            let mut builder = Lora::new(adapter.clone(), Dense).unwrap();
            model.load_from(&source, &options, &mut builder).unwrap()
        }
    };
    let ids = Tensor::arange(BATCH * SEQUENCE, (Kind::Int64, Device::Cpu)).view([BATCH, SEQUENCE]);
    let supervised = Tensor::ones([BATCH, SEQUENCE], (Kind::Bool, Device::Cpu));
    let labelled = Labelled { tokens: Tokens::full(&ids), supervised: &supervised };
    let pass = Pass::train().with_recompute(config.recompute);
    let step = || {
        let loss = causal_lm_loss(built.as_ref(), &labelled, &pass).unwrap().negative_log_likelihood;
        backward(&[(&loss, None)]).unwrap();
    };
    flops::count(step).unwrap().1 as f64 / (BATCH * SEQUENCE) as f64
}

#[test]
fn counted_operations_are_those_that_ran() {
    let attention = || TargetModules::list(["q_proj", "v_proj"]);
    for (name, config, adapter, recompute) in [
        ("attention", llama(), lora(attention()), Recompute::Nothing),
        ("recomputed", llama(), lora(TargetModules::AllLinear), Recompute::Blocks),
        ("experts", mixtral(), lora(TargetModules::AllLinear), Recompute::Nothing),
        ("everything", llama(), None, Recompute::Nothing),
    ] {
        let (model, config) = (open(&config), run(adapter, recompute));
        let counted = Work::new(&model, &config).unwrap().total() as f64;
        let ratio = counted / executed(&model, &config);
        println!("{name}: {ratio:.4} of what ran");
        assert!((ratio - 1.0).abs() < TOLERANCE, "{name}: {counted} operations are {ratio} of what ran");
    }
}

#[test]
fn hours_follow_from_operations_tokens_and_rate() {
    let work = Work { forward: 2_000_000_000, backward: 4_000_000_000 };
    // 6e9 operations a token, 6e6 tokens, 1e13 a second: 3,600 seconds.
    assert_eq!(work.hours(6e6, 1e13), 1.0);
}

#[test]
fn what_a_plan_calls_projections_are_weights_of_the_model() {
    for config in [llama(), mixtral()] {
        let model = open(&config);
        let weights: BTreeSet<String> = model.weights().into_iter().map(|spec| spec.name).collect();
        let plans = model.block_plans();
        assert_eq!(plans.len(), 8);
        let read: Vec<&String> = plans
            .iter()
            .flat_map(|plan| &plan.inputs)
            .flat_map(|input| input.readers.iter().flatten())
            .collect();
        for name in &read {
            assert!(weights.contains(*name), "{name}");
        }
        let matrices =
            weights.iter().filter(|name| name.ends_with("_proj.weight") || name.contains(".experts."));
        assert_eq!(read.len(), matrices.count());
    }
}

#[test]
fn a_plan_that_needs_more_than_the_limit_is_refused_with_its_parts() {
    let (model, config) = (open(&llama()), run(lora(TargetModules::AllLinear), Recompute::Nothing));
    let plan = MemoryPlan::new(&model, &config).unwrap();
    plan.check(plan.total()).unwrap();
    let refusal = plan.check(plan.total() - 1).unwrap_err().to_string();
    for part in ["program ", "weights ", "activations ", "logits ", "adapters "] {
        assert!(refusal.contains(part), "{refusal}");
    }
}
