//! Base models grown from nothing: fresh weights, all of them trainable, on plain text.
//!
//! The same trainer that fine-tunes does it; only the builder is another one. The built-in study grows its two small
//! base models this way, so that it needs no download.

use std::path::Path;

use ferrotune_core::Sample;
use ferrotune_data::{Tokenizer, encode_text};
use ferrotune_mixtral::AuxiliaryLoss;
use ferrotune_nn::{Trainable, checkpoint::CheckpointWriter, weights::Initialized};
use ferrotune_trainer::{Dataset, Finished, Listener, Resume, Trainer, TrainingConfig};
use tch::Device;

use crate::{Architecture, AutoCausalLm, Compute, LoadOptions, Result};

/// Trains a model from fresh weights on `texts`, each one sequence, in the given order, and writes
/// `model.safetensors` into its folder, which holds `config.json` and the tokenizer.
///
/// The configuration's `initializer_range` and the training seed decide the fresh weights.
///
/// # Errors
/// What encoding, training and writing give. The folder has weights only if all went well.
pub fn grow(
    folder: &Path,
    texts: &[String],
    training: &TrainingConfig,
    compute: &Compute,
    listener: Option<&mut dyn Listener>,
) -> Result<Finished> {
    let (device, kind) = compute.resolve()?;
    let open = AutoCausalLm::open(folder)?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let positions = open.max_positions() as usize;
    let samples: Vec<Sample> =
        texts.iter().map(|text| encode_text(text, &tokenizer, positions)).collect::<Result<_, _>>()?;
    let deviation = match open.architecture() {
        Architecture::Llama2(config) => config.initializer_range,
        Architecture::Mixtral(config) => config.initializer_range,
    };
    ferrotune_torch::generator::seed(Device::Cpu, training.seed)?;
    let source = Initialized::new(&open.weights(), deviation);
    let mut builder = Trainable::new();
    let options = LoadOptions { auxiliary_loss: AuxiliaryLoss::default(), ..LoadOptions::new(device, kind) };
    let model = open.load_from(&source, &options, &mut builder)?;
    let parameters = builder.finish();
    let rows: Vec<usize> = (0..samples.len()).collect();
    let batches: Vec<Vec<usize>> = rows.chunks(training.batch_size.max(1)).map(<[usize]>::to_vec).collect();
    let plan = move |_epoch: u64| Ok(batches.clone());
    let mut trainer =
        Trainer::new(training.clone(), model.as_ref(), &parameters, Dataset::new(&samples, &plan))?;
    if let Some(listener) = listener {
        trainer = trainer.with_listener(listener);
    }
    let finished = trainer.run(Resume::No)?;
    let mut writer = CheckpointWriter::new(folder);
    for trained in &parameters {
        writer.push(&trained.name, &trained.tensor)?;
    }
    writer.finish()?;
    Ok(finished)
}
