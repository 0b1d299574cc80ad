//! Mixtral checkpoints grown from dense ones (Komatsuzaki et al., 2022, "Sparse upcycling").
//!
//! Each expert starts as the dense MLP. Whatever the router chooses, its weights add up to 1, so the grown model gives
//! the dense model's logits until it is trained.

use std::path::Path;

use ferrotune_adapters::bitsandbytes::QuantizationConfig;
use ferrotune_nn::{
    Role, WeightSource as _,
    checkpoint::{CheckpointWriter, write_whole},
    decoder::IGNORED_TENSORS,
    weights::Layouts,
};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::{Architecture, AutoCausalLm, Error, Result};

/// How a mixture of experts is grown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Upcycle {
    /// Experts in each block.
    pub experts: i64,
    /// Experts that a token is sent to.
    pub top_k: i64,
    /// Seeds the router's weights, normal with the configuration's `initializer_range`.
    pub seed: u64,
}

/// Writes `config.json` and weights of a Mixtral grown from the LLaMA or Mistral model in `dense` into the existing
/// folder `output`; tensors keep their stored types. Returns the number of weights written.
///
/// # Errors
/// [`Error::Upcycle`] for a model that is not dense, has biases (Mixtral has none) or for senseless numbers of experts;
/// what reading and writing give.
pub fn upcycle(dense: &AutoCausalLm, plan: &Upcycle, output: &Path) -> Result<u64> {
    let refuse =
        |reason: &str| Error::Upcycle { folder: dense.folder().to_owned(), reason: reason.to_owned() };
    let Architecture::Llama2(config) = dense.architecture() else {
        return Err(refuse("it is a mixture already"));
    };
    if config.attention_bias || config.mlp_bias {
        return Err(refuse("its projections have biases, and Mixtral's have none"));
    }
    if plan.top_k < 1 || plan.experts < plan.top_k {
        return Err(refuse("top_k must be at least 1 and at most the number of experts"));
    }
    let fields = grown_config(dense, config, plan);
    let grown = AutoCausalLm::from_fields("the grown model", fields.clone())?;
    let checkpoint = dense.open_weights()?;
    let source = Layouts::new(&checkpoint, &dense.weights(), IGNORED_TENSORS)?;
    let mut writer = CheckpointWriter::new(output);
    let mut written = 0;
    ferrotune_torch::generator::seed(Device::Cpu, plan.seed)?;
    for spec in grown.weights() {
        let tensor = match spec.role {
            Role::Router => {
                let fresh = Tensor::f_empty(&spec.shape, (Kind::Float, Device::Cpu))?;
                fresh
                    .shallow_clone()
                    .f_normal_(0.0, config.initializer_range)?
                    .f_to_kind(router_kind(&source)?)?
            }
            Role::Expert => source.read(&dense_name(&spec.name))?,
            _ => source.read(&spec.name)?,
        };
        if tensor.size() != spec.shape {
            let (name, place) = (spec.name, source.place());
            let (found, expected) = (tensor.size(), spec.shape);
            return Err(ferrotune_nn::Error::WrongShape { name, place, found, expected }.into());
        }
        written += tensor.numel() as u64;
        writer.push(&spec.name, &tensor)?;
    }
    writer.finish()?;
    write_whole(&output.join("config.json"), format!("{:#}\n", Value::Object(fields)).as_bytes())?;
    Ok(written)
}

/// The router is stored like the embedding, so that the file has one type.
fn router_kind(source: &Layouts<'_>) -> Result<Kind> {
    Ok(source.read_rows("model.embed_tokens.weight", 0..1)?.kind())
}

/// The dense matrix that an expert's matrix starts as: `w1` is the gate, `w3` the way up, `w2` the way down.
fn dense_name(expert: &str) -> String {
    let (block, rest) = expert.split_once(".block_sparse_moe.experts.").unwrap_or((expert, ""));
    let dense = match rest.split('.').nth(1) {
        Some("w1") => "gate_proj",
        Some("w2") => "down_proj",
        _ => "up_proj",
    };
    format!("{block}.mlp.{dense}.weight")
}

fn grown_config(
    dense: &AutoCausalLm,
    config: &ferrotune_llama2::Config,
    plan: &Upcycle,
) -> Map<String, Value> {
    let mut fields = dense.config_file().fields().clone();
    for dropped in
        [QuantizationConfig::FIELD, "mlp_bias", "attention_bias", "pretraining_tp", "_name_or_path"]
    {
        fields.shift_remove(dropped);
    }
    fields.insert("architectures".to_owned(), json!(["MixtralForCausalLM"]));
    fields.insert("model_type".to_owned(), json!("mixtral"));
    fields.insert("num_local_experts".to_owned(), json!(plan.experts));
    fields.insert("num_experts_per_tok".to_owned(), json!(plan.top_k));
    fields.entry("router_aux_loss_coef").or_insert(json!(0.001));
    // Fields whose defaults differ between the families are written out.
    fields.insert("rms_norm_eps".to_owned(), json!(config.rms_norm_eps));
    fields.insert("num_key_value_heads".to_owned(), json!(config.num_key_value_heads));
    fields.insert("sliding_window".to_owned(), json!(config.sliding_window));
    fields.insert("tie_word_embeddings".to_owned(), json!(config.tie_word_embeddings));
    match fields.get_mut("rope_parameters") {
        Some(Value::Object(rope)) => drop(rope.insert("rope_theta".to_owned(), json!(config.rope.theta))),
        _ => drop(fields.insert("rope_theta".to_owned(), json!(config.rope.theta))),
    }
    fields
}
