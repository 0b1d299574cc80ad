//! What a checkpoint holds beyond the export, and how a run is put back into the state it was in.
//!
//! | file | contents |
//! |---|---|
//! | `trainer_state.json` | counters and loss history, as transformers writes them |
//! | `run.json` | format, position, settings, what identifies samples and tensors |
//! | `run.safetensors` | `parameter.NAME`, `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME` for each trainable tensor, and `generator.DEVICE` with the bytes of each random number generator |
//! | anything else | what the caller's export wrote: the adapter |
//!
//! The folder appears under its name only when all of it is on disk.

use std::{collections::BTreeMap, path::Path};

use ferrotune_nn::{
    Parameters, WeightSource as _,
    checkpoint::{self as tensor_file, Checkpoint},
};
use ferrotune_torch::{generator, with_grad};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{
    Error, Result, TrainerState, TrainingConfig, gradients,
    optimizer::{Moments, Optimizer},
    output::TRAINER_STATE,
};

const FORMAT: u32 = 1;
const RUN: &str = "run.json";
const TENSORS: &str = "run.safetensors";

/// Everything that changes while a run goes on, tensors, generators and history apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// Optimizer steps done.
    pub(crate) step: u64,
    /// The epoch that the next window is taken from, counted from 0.
    pub(crate) epoch: u64,
    /// Micro-batches of that epoch that were read.
    pub(crate) batch: usize,
    /// Samples read.
    pub(crate) samples: u64,
    /// Tokens read, padding excluded.
    pub(crate) tokens: u64,
    /// Supervised tokens read.
    pub(crate) supervised_tokens: u64,
    /// Sum of all steps' losses.
    pub(crate) loss: f64,
    /// Sum of the negative log-likelihoods of all supervised tokens read.
    pub(crate) negative_log_likelihood: f64,
    /// Sums since the last row of the loss history.
    pub(crate) since_log: Accumulated,
    /// Seconds that the run took so far, all of its processes together.
    pub(crate) seconds: f64,
    /// The part of them spent in optimizer steps.
    pub(crate) step_seconds: f64,
}

/// Sums over steps that no row of the loss history covers yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Accumulated {
    pub(crate) steps: u64,
    pub(crate) loss: f64,
    pub(crate) negative_log_likelihood: f64,
    pub(crate) supervised_tokens: u64,
    pub(crate) auxiliary_loss: Option<f64>,
}

/// What must be the same for a resumed run to be the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fingerprint {
    pub(crate) config: TrainingConfig,
    pub(crate) samples: String,
    pub(crate) validation: Option<String>,
    pub(crate) parameters: Vec<TensorPrint>,
    pub(crate) identity: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorPrint {
    name: String,
    shape: Vec<i64>,
    kind: String,
}

impl TensorPrint {
    pub(crate) fn all(parameters: &Parameters) -> Vec<Self> {
        let print = |trained: &ferrotune_nn::Trained| Self {
            name: trained.name.clone(),
            shape: trained.tensor.size(),
            kind: format!("{:?}", trained.tensor.kind()),
        };
        parameters.iter().map(print).collect()
    }
}

/// The contents of `run.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    format: u32,
    position: Position,
    /// Digest of the batches of the position's epoch.
    plan: String,
    fingerprint: Fingerprint,
}

/// What a checkpoint says beside its tensors.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) position: &'a Position,
    /// Digest of the batches of the position's epoch.
    pub(crate) plan: &'a str,
    pub(crate) fingerprint: &'a Fingerprint,
    pub(crate) state: &'a TrainerState,
}

/// Writes a checkpoint's own files into `folder`.
pub(crate) fn write(
    folder: &Path,
    contents: &Contents<'_>,
    parameters: &Parameters,
    optimizer: &Optimizer,
    device: Device,
) -> Result<()> {
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    };
    write(TRAINER_STATE, contents.state.to_json()?)?;
    let run = Run {
        format: FORMAT,
        position: contents.position.clone(),
        plan: contents.plan.to_owned(),
        fingerprint: contents.fingerprint.clone(),
    };
    let path = folder.join(RUN);
    write(RUN, serde_json::to_string_pretty(&run).map_err(|source| Error::Json { path, source })?)?;

    let mut tensors = Vec::with_capacity(4 * parameters.len() + 2);
    for (trained, moments) in parameters.iter().zip(&optimizer.moments) {
        for (part, tensor) in parts(&trained.tensor, moments) {
            tensors.push((format!("{part}.{}", trained.name), tensor.shallow_clone()));
        }
    }
    for (name, device) in generators(device) {
        tensors.push((name, Tensor::from_slice(&generator::state(device)?)));
    }
    let format = FORMAT.to_string();
    tensor_file::write_file(
        &folder.join(TENSORS),
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor)),
        &[("format", &format)],
    )?;
    Ok(())
}

/// A checkpoint that was found to belong to the present run.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) position: Position,
    pub(crate) state: TrainerState,
}

/// Puts the tensors, the moments and the generators back into the state of a checkpoint.
///
/// `plan` gives the digest of an epoch's batches. Everything is compared before anything is changed.
///
/// # Errors
/// [`Error::OtherRun`] for the first thing that differs, [`Error::CheckpointFormat`], and what reading gives.
pub(crate) fn restore(
    folder: &Path,
    fingerprint: &Fingerprint,
    plan: impl FnOnce(u64) -> Result<String>,
    parameters: &Parameters,
    optimizer: &Optimizer,
    device: Device,
) -> Result<Loaded> {
    let path = folder.join(RUN);
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let json = |source| Error::Json { path: path.clone(), source };
    let format = serde_json::from_str::<Format>(&text).map_err(json)?.format;
    if format != FORMAT {
        return Err(Error::CheckpointFormat {
            checkpoint: folder.to_owned(),
            found: format,
            expected: FORMAT,
        });
    }
    let run: Run = serde_json::from_str(&text).map_err(json)?;
    let other = |(what, found, expected): (String, String, String)| Error::OtherRun {
        checkpoint: folder.to_owned(),
        what,
        found,
        expected,
    };
    if let Some(difference) = run.fingerprint.difference(fingerprint).map_err(json)? {
        return Err(other(difference));
    }
    let digest = plan(run.position.epoch)?;
    if run.plan != digest {
        let what = format!("the batch plan of epoch {}", run.position.epoch);
        return Err(other((what, run.plan, digest)));
    }
    let state = TrainerState::load(&folder.join(TRAINER_STATE))?;

    let tensors = Checkpoint::open_file(&folder.join(TENSORS))?;
    let mut copies = Vec::with_capacity(4 * parameters.len());
    for (trained, moments) in parameters.iter().zip(&optimizer.moments) {
        for (part, target) in parts(&trained.tensor, moments) {
            let stored = tensors.read(&format!("{part}.{}", trained.name))?;
            if stored.size() != target.size() {
                return Err(ferrotune_nn::Error::WrongShape {
                    name: format!("{part}.{}", trained.name),
                    place: tensors.place(),
                    found: stored.size(),
                    expected: target.size(),
                }
                .into());
            }
            copies.push((target.shallow_clone(), stored));
        }
    }
    let states = generators(device)
        .map(|(name, device)| Ok((device, Vec::<u8>::try_from(&tensors.read(&name)?)?)))
        .collect::<Result<Vec<_>>>()?;

    with_grad(false, || copies.iter_mut().try_for_each(|(target, stored)| target.f_copy_(stored)))?;
    // A tensor that has taken a step has had a gradient, which the interrupted run kept as zeros.
    for (trained, moments) in parameters.iter().zip(&optimizer.moments) {
        if moments.steps.f_double_value(&[0])? > 0.0 {
            gradients::define(&trained.tensor)?;
        }
    }
    for (device, state) in states {
        generator::set_state(device, &state)?;
    }
    Ok(Loaded { position: run.position, state })
}

/// Read first, because another format may have other fields.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Settings that do not change what is computed.
const FREE_SETTINGS: [&str; 2] = ["save_steps", "save_total_limit"];

impl Fingerprint {
    /// What differs from `now`: its name, the value here, the value there.
    fn difference(&self, now: &Self) -> serde_json::Result<Option<(String, String, String)>> {
        let fields = |config: &TrainingConfig| serde_json::to_value(config);
        let (then_config, now_config) = (fields(&self.config)?, fields(&now.config)?);
        for (setting, value) in now_config.as_object().into_iter().flatten() {
            let then = &then_config[setting];
            if then != value && !FREE_SETTINGS.contains(&setting.as_str()) {
                return Ok(Some((format!("setting `{setting}`"), then.to_string(), value.to_string())));
            }
        }
        let absent = || "absent".to_owned();
        for key in self.identity.keys().chain(now.identity.keys()) {
            let (then, value) = (self.identity.get(key), now.identity.get(key));
            if then != value {
                let text = |value: Option<&String>| value.cloned().unwrap_or_else(absent);
                return Ok(Some((key.clone(), text(then), text(value))));
            }
        }
        let length = self.parameters.len().max(now.parameters.len());
        for index in 0..length {
            let (then, value) = (self.parameters.get(index), now.parameters.get(index));
            if then != value {
                let text = |print: Option<&TensorPrint>| {
                    print.map_or_else(absent, |print| {
                        format!("`{}` {:?} {}", print.name, print.shape, print.kind)
                    })
                };
                return Ok(Some((format!("trainable tensor {index}"), text(then), text(value))));
            }
        }
        if self.samples != now.samples {
            let what = "the digest of the training samples".to_owned();
            return Ok(Some((what, self.samples.clone(), now.samples.clone())));
        }
        if self.validation != now.validation {
            let text = |digest: &Option<String>| digest.clone().unwrap_or_else(absent);
            let what = "the digest of the validation samples".to_owned();
            return Ok(Some((what, text(&self.validation), text(&now.validation))));
        }
        Ok(None)
    }
}

fn parts<'t>(parameter: &'t Tensor, moments: &'t Moments) -> [(&'static str, &'t Tensor); 4] {
    [
        ("parameter", parameter),
        ("exp_avg", &moments.exp_avg),
        ("exp_avg_sq", &moments.exp_avg_sq),
        ("step", &moments.steps),
    ]
}

/// The generators that training draws from: the device's, and the CPU's beside it.
fn generators(device: Device) -> impl Iterator<Item = (String, Device)> {
    let named = |device| match device {
        Device::Cuda(index) => (format!("generator.cuda:{index}"), device),
        other => (format!("generator.{other:?}").to_lowercase(), other),
    };
    let devices = if device == Device::Cpu { vec![device] } else { vec![Device::Cpu, device] };
    devices.into_iter().map(named)
}

/// Size of the tensors of a checkpoint: each trainable tensor and its two moments.
pub(crate) fn tensor_bytes(parameters: &Parameters) -> u64 {
    let bytes = |kind: Kind| kind.elt_size_in_bytes() as u64;
    parameters.iter().map(|trained| 3 * trained.tensor.numel() as u64 * bytes(trained.tensor.kind())).sum()
}
