//! The built-in study: two small base models grown on the spot, fine-tuned on made-up facts, and compared.

use std::path::{Path, PathBuf};

use ferrotune_core::{GenerationLimits, LanguageModel as _, digest};
use ferrotune_data::{SplitSizes, Tokenizer};
use ferrotune_nn::{Dense, Frozen, checkpoint::write_whole};
use ferrotune_trainer::{Finished, LogRow, Resume, TrainingConfig};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    AutoCausalLm, BaseConfig, Compute, DataConfig, Error, LoadOptions, MeasureConfig, Result, ScoredModel,
    demo::{self, Family, World, recipe},
    device_name, grow, kind_name,
    study::{AdapterConfig, Interaction, ModelConfig, ModelTemplate, RouterAuxLoss, Study},
    weights_digest,
};

/// Writes the built-in data into `folder`, grows both base models there, checks that they know what they were told,
/// and returns the study of them.
///
/// One thread is used unless `compute` asks for more. `embedder` is the folder of a sentence encoder, for semantic similarity.
/// With [`Resume::Newest`] a base that an earlier process grew there in the same way is not grown again.
///
/// # Errors
/// [`Error::Recall`] if a base model does not recall the facts: fine-tuning it would show nothing. What growing gives.
pub fn builtin(
    folder: &Path,
    compute: &Compute,
    embedder: Option<&Path>,
    resume: Resume,
    interaction: &mut dyn Interaction,
) -> Result<Study> {
    // Matrices of this size are done before a second thread has woken up: on two busy cores, two threads took five
    // times as long as one (November 2026).
    let compute = &Compute { threads: compute.threads.or(Some(1)), ..compute.clone() };
    let world = World::new(recipe::WORLD_SEED);
    let files = demo::write(folder, recipe::WORLD_SEED)?;
    let pages = world.pages();
    let mut models = Vec::new();
    for (family, model) in Family::ALL.into_iter().zip(&files.models) {
        let name = match family {
            Family::Llama => "LLaMA",
            Family::Mixtral => "Mixtral",
        };
        let training = TrainingConfig {
            epochs: recipe::GROWING.epochs,
            batch_size: recipe::GROWING.batch_size,
            learning_rate: recipe::GROWING.learning_rate,
            warmup_ratio: recipe::GROWING.warmup_ratio,
            seed: recipe::WORLD_SEED,
            ..TrainingConfig::default()
        };
        let of = digest_of_growing(model, &files.growing, &training, compute)?;
        if resume == Resume::Newest && Grown::is_there(model, &of)? {
            interaction.say(&format!("{name}: the base model was grown before"));
        } else {
            interaction
                .say(&format!("{name}: growing the base model on {} pages of statements", pages.len()));
            let grown = grow(model, &pages, &training, compute, interaction.listener())?;
            let recall = recall(model, &world, compute)?;
            interaction.say(&format!(
                "{name}: grown in {:.0} s to a loss of {:.3}; it completes {:.1} % of the facts",
                grown.summary.train_runtime_seconds,
                last_loss(&grown),
                100.0 * recall
            ));
            if recall < recipe::LOWEST_RECALL {
                return Err(Error::Recall {
                    model: name.to_owned(),
                    found: recall,
                    expected: recipe::LOWEST_RECALL,
                });
            }
            Grown { of, weights_sha256: weights_digest(model)? }.write(model)?;
        }
        models.push(ModelConfig {
            name: name.to_owned(),
            path: model.clone(),
            origin: Some(format!(
                "grown on the spot by the same trainer, all weights trainable, on {} pages of plain statements without \
                 any question",
                pages.len()
            )),
            template: ModelTemplate::Study,
        });
    }
    let recipe::Adapter { rank, alpha, dropout, target_modules } = recipe::ADAPTER;
    let base = BaseConfig::default();
    Ok(Study {
        title: "LLaMA and Mixtral before and after instruction tuning".to_owned(),
        description: "The built-in study: two small models that know made-up facts from plain statements are taught to \
                      answer questions, and asked about facts whose answers stand in no fine-tuning record."
            .to_owned(),
        seeds: recipe::SEEDS.to_vec(),
        compute: compute.clone(),
        quantize: None,
        block_size: base.block_size,
        double_quant: base.double_quant,
        data: DataConfig {
            train: vec![files.train],
            validation: vec![files.validation],
            test: vec![files.test],
            split: SplitSizes::Fractions { train: 1.0, validation: 0.0, test: 0.0 },
            max_seq_length: demo::MAX_POSITION_EMBEDDINGS,
            ..DataConfig::default()
        },
        adapter: AdapterConfig {
            rank,
            alpha,
            dropout,
            target_modules: target_modules.map(str::to_owned).to_vec(),
            ..AdapterConfig::default()
        },
        router_aux_loss: RouterAuxLoss::Off,
        training: TrainingConfig {
            epochs: recipe::FINE_TUNING.epochs,
            batch_size: recipe::FINE_TUNING.batch_size,
            learning_rate: recipe::FINE_TUNING.learning_rate,
            warmup_ratio: recipe::FINE_TUNING.warmup_ratio,
            save_total_limit: Some(1),
            ..TrainingConfig::default()
        },
        evaluation: MeasureConfig {
            max_new_tokens: recipe::MAX_NEW_TOKENS,
            embedder: embedder.map(Path::to_owned),
            ..MeasureConfig::default()
        },
        models,
    })
}

/// Says in a model's folder that its weights were grown, from what, and which these are.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grown {
    of: String,
    weights_sha256: String,
}

const GROWN: &str = "grown.json";

impl Grown {
    fn is_there(model: &Path, of: &str) -> Result<bool> {
        let path = model.join(GROWN);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            text => text.map_err(|source| Error::Io { path, source })?,
        };
        // What is no such record was not written by a growing that succeeded.
        let found: Option<Self> = serde_json::from_str(&text).ok();
        Ok(found == Some(Self { of: of.to_owned(), weights_sha256: weights_digest(model)? }))
    }

    fn write(&self, model: &Path) -> Result<()> {
        let path = model.join(GROWN);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Io { path: path.clone(), source: error.into() })?;
        Ok(write_whole(&path, &text)?)
    }
}

/// The digest of everything that grown weights depend on.
fn digest_of_growing(
    model: &Path,
    pages: &Path,
    training: &TrainingConfig,
    compute: &Compute,
) -> Result<String> {
    let (device, kind) = compute.resolve()?;
    let file = |path: PathBuf| digest::of_file(&path).map_err(|source| Error::Io { path, source });
    let inputs = json!([
        [env!("CARGO_PKG_VERSION"), ferrotune_torch::version::runtime().to_string()],
        [device_name(device), kind_name(kind), tch::get_num_threads()],
        [file(pages.to_owned())?, file(model.join("config.json"))?, file(model.join("tokenizer.json"))?],
        training,
    ]);
    Ok(digest::of_bytes(inputs.to_string().as_bytes()))
}

/// The training loss of the last steps.
fn last_loss(grown: &Finished) -> f64 {
    let rows = grown.state.log_history.iter().rev();
    let last =
        rows.filter_map(|row| if let LogRow::Training(row) = row { Some(row.loss) } else { None }).next();
    last.unwrap_or(grown.summary.train_loss)
}

/// The part of the facts that a grown model completes word for word.
fn recall(folder: &Path, world: &World, compute: &Compute) -> Result<f64> {
    let (device, kind) = compute.resolve()?;
    let model = AutoCausalLm::open(folder)?.load(&LoadOptions::new(device, kind), &mut Frozen::new(Dense))?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let completions = world.completions();
    let prompts: Vec<String> = completions.iter().map(|completion| completion.beginning.clone()).collect();
    let limits = GenerationLimits {
        max_new_tokens: recipe::MAX_NEW_TOKENS,
        stop: Vec::new(),
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
    };
    let answers = ScoredModel::new(model.as_ref(), &tokenizer)
        .generate(&prompts, &limits)
        .map_err(|source| Error::Decode { source })?;
    let right = answers
        .iter()
        .zip(&completions)
        .filter(|(answer, completion)| answer.text.trim_start().starts_with(&completion.end))
        .count();
    Ok(right as f64 / completions.len() as f64)
}
