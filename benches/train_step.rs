//! What a LoRA training step costs, as ratios to the forward pass of the same model in the same run.
//!
//! ```sh
//! cargo bench --bench train_step
//! ```
//!
//! Every way of training is timed in turn, round after round, and the median over rounds is printed, so that a noisy
//! machine disturbs all of them alike.

use std::time::Instant;

use ferrotune::{
    Adapted, AutoCausalLm, LoadOptions, Start, adapt,
    adapters::{LoraConfig, TargetModules},
    nn::{
        CausalLm, Dense, Parameters, Pass, Tokens, Trainable,
        checkpoint::CheckpointWriter,
        loss::{Labelled, causal_lm_loss},
        seam::Recompute,
        weights::Initialized,
    },
    tch::{self, Device, Kind, Tensor},
    torch::{AdamW, backward, flops, fused_adamw},
};
use serde_json::{Map, Value, json};

const BATCH: i64 = 2;
const SEQUENCE: i64 = 128;
const ROUNDS: usize = 7;

type AnyError = Box<dyn std::error::Error>;

/// One way to spend a step.
struct Contender {
    name: &'static str,
    model: Box<dyn CausalLm>,
    parameters: Parameters,
    pass: Pass,
    /// Moments and counts of steps.
    state: [Vec<Tensor>; 3],
    seconds: Vec<f64>,
    flops: u64,
}

impl Contender {
    fn new(name: &'static str, model: Box<dyn CausalLm>, parameters: Parameters, pass: Pass) -> Self {
        let moments = || parameters.iter().map(|trained| trained.tensor.zeros_like()).collect();
        let steps = parameters.iter().map(|_| Tensor::zeros([], (Kind::Float, Device::Cpu))).collect();
        let state = [moments(), moments(), steps];
        Self { name, model, parameters, pass, state, seconds: Vec::new(), flops: 0 }
    }

    fn step(&self, ids: &Tensor, supervised: &Tensor) -> Result<(), AnyError> {
        let batch = Labelled { tokens: Tokens::full(ids), supervised };
        if self.parameters.is_empty() {
            tch::no_grad(|| causal_lm_loss(self.model.as_ref(), &batch, &self.pass))?;
            return Ok(());
        }
        let loss = causal_lm_loss(self.model.as_ref(), &batch, &self.pass)?;
        backward(&[(&(loss.negative_log_likelihood / loss.supervised_tokens as f64), None)])?;
        let leaves: Vec<Tensor> =
            self.parameters.iter().map(|trained| trained.tensor.shallow_clone()).collect();
        let gradients: Vec<Tensor> = leaves.iter().map(Tensor::grad).collect();
        let [first, second, steps] = &self.state;
        fused_adamw(&leaves, &gradients, first, second, steps, &AdamW { lr: 1e-4, ..AdamW::default() })?;
        leaves.into_iter().for_each(|mut leaf| leaf.zero_grad());
        Ok(())
    }
}

fn main() -> Result<(), AnyError> {
    tch::set_num_threads(2);
    for (family, fields) in
        [("LLaMA", config("llama", json!({}))), ("Mixtral", config("mixtral", experts(4)))]
    {
        compare(family, fields)?;
    }
    Ok(())
}

fn config(model_type: &str, own: Value) -> Map<String, Value> {
    let common = json!({
        "model_type": model_type, "vocab_size": 8000, "hidden_size": 384, "intermediate_size": 1024,
        "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    });
    [common, own].into_iter().filter_map(|part| part.as_object().cloned()).flatten().collect()
}

fn experts(count: i64) -> Value {
    json!({ "num_local_experts": count, "num_experts_per_tok": 2, "intermediate_size": 512 })
}

fn compare(family: &str, fields: Map<String, Value>) -> Result<(), AnyError> {
    let folder = std::env::temp_dir().join(format!("ferrotune-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("config.json"), Value::Object(fields).to_string())?;
    let open = AutoCausalLm::open(&folder)?;
    let options = LoadOptions::new(Device::Cpu, Kind::Float);
    let mut fresh = Trainable::new();
    let full = open.load_from(&Initialized::new(&open.weights(), 0.02), &options, &mut fresh)?;
    let weights = fresh.finish();
    let mut writer = CheckpointWriter::new(&folder);
    weights.iter().try_for_each(|trained| writer.push(&trained.name, &trained.tensor))?;
    writer.finish()?;

    let adapted = |targets: TargetModules| -> Result<(Box<dyn CausalLm>, Parameters), AnyError> {
        let lora = LoraConfig { r: 16, lora_alpha: 16.0, target_modules: targets, ..LoraConfig::default() };
        let Adapted { model, adapter } = adapt(&open, Start::New(&lora), Dense, &options)?;
        Ok((model, adapter.parameters().clone()))
    };
    let (attention, attention_parameters) = adapted(TargetModules::list(["q_proj", "v_proj"]))?;
    let (linear, linear_parameters) = adapted(TargetModules::AllLinear)?;
    let (again, again_parameters) = adapted(TargetModules::AllLinear)?;
    let (forward, _) = adapted(TargetModules::list(["q_proj"]))?;
    let recomputing = Pass::train().with_recompute(Recompute::Blocks);
    let mut contenders = [
        Contender::new("forward, no gradients", forward, Parameters::default(), Pass::eval()),
        Contender::new("LoRA on q_proj, v_proj", attention, attention_parameters, Pass::train()),
        Contender::new("LoRA on all linear maps", linear, linear_parameters, Pass::train()),
        Contender::new("the same, blocks recomputed", again, again_parameters, recomputing),
        Contender::new("all weights", full, weights, Pass::train()),
    ];
    let ids = Tensor::randint(8000, [BATCH, SEQUENCE], (Kind::Int64, Device::Cpu));
    let supervised = Tensor::ones([BATCH, SEQUENCE], (Kind::Bool, Device::Cpu));
    for contender in &mut contenders {
        let (done, count) = flops::count(|| contender.step(&ids, &supervised))?;
        done?;
        contender.flops = count;
    }
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            let start = Instant::now();
            contender.step(&ids, &supervised)?;
            contender.seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let (all, active) = open.parameters();
    println!(
        "{family}: {all} weights, {active} crossed by a token; {BATCH} x {SEQUENCE} tokens, f32, 2 threads"
    );
    println!("{:<30} {:>14} {:>10} {:>10} {:>14}", "", "trainable", "time", "products", "tokens/s");
    let (time, products) = (median(&contenders[0].seconds), contenders[0].flops as f64);
    for contender in &contenders {
        let seconds = median(&contender.seconds);
        println!(
            "{:<30} {:>14} {:>9.2}x {:>9.2}x {:>14.0}",
            contender.name,
            contender.parameters.elements(),
            seconds / time,
            contender.flops as f64 / products,
            (BATCH * SEQUENCE) as f64 / seconds
        );
    }
    println!();
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
