//! A model folder with an adapter, built together.

use std::path::Path;

use ferrotune_adapters::{AdapterWeights, Adapters, Lora, LoraAdapter, LoraConfig, NamedAdapters, Untied};
use ferrotune_nn::{CausalLm, ProjectionBuilder, Storage};

use crate::{AutoCausalLm, Error, LoadOptions, Result, base_record, base_record::check_against};

/// Where an adapter's values come from.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Fresh values, from libtorch's default generator on the CPU.
    New(&'a LoraConfig),
    /// The values of an adapter that was read.
    From(&'a AdapterWeights),
    /// An interrupted run that began with these settings, from an adapter that it saved. Where the adapter took a part out
    /// of the base when it began, the base becomes what it was.
    Resumed(&'a LoraConfig, &'a AdapterWeights),
}

/// A model with several adapters in it, one of which acts.
#[derive(Debug)]
pub struct AdaptedBySeveral {
    /// The model.
    pub model: Box<dyn CausalLm>,
    /// The adapters, and the switch between them.
    pub adapters: NamedAdapters,
}

/// A model with an adapter in it.
#[derive(Debug)]
pub struct Adapted {
    /// The model.
    pub model: Box<dyn CausalLm>,
    /// The adapter.
    pub adapter: LoraAdapter,
}

/// Builds the model of `folder` with an adapter over base weights in `storage`.
///
/// Where the adapter trains the head or the embedding of a tied model, the model is built untied, as PEFT does. One that took a part out
/// of its base when it began takes it out again, unless the folder is in 4 bits already: then it goes onto those. The adapter remembers
/// the base.
///
/// # Errors
/// What reading and building give; an adapter that matches nothing, or was made for another base ([`check_base`](crate::check_base)), by
/// name.
pub fn adapt(
    folder: &AutoCausalLm,
    start: Start<'_>,
    storage: impl Storage,
    options: &LoadOptions,
) -> Result<Adapted> {
    let mut known = None;
    if let Start::From(weights) | Start::Resumed(_, weights) = start {
        check_against(folder, weights, &mut known)?;
    }
    let plain;
    let start = match start {
        Start::From(weights) if folder.quantization().is_some() => {
            plain = weights.plain();
            Start::From(&plain)
        }
        other => other,
    };
    let (config, mut builder) = match start {
        Start::New(config) => (config, Lora::new(config.clone(), storage)?),
        Start::From(weights) => (weights.config(), Lora::load(weights, storage)?),
        Start::Resumed(config, weights) => (config, Lora::resume(config.clone(), weights, storage)?),
    };
    let model = build(folder, &[config], options, &mut builder)?;
    let mut adapter = builder.finish()?;
    adapter.record_base(known.map_or_else(|| base_record(folder), Ok)?);
    if matches!(start, Start::From(_)) {
        adapter.name_base(folder.folder().display().to_string());
    }
    Ok(Adapted { model, adapter })
}

/// Builds the model of `folder` with several adapters, by name, over one base in `storage`; the first acts until another is activated.
///
/// # Errors
/// As [`adapt`], for each adapter; names that are empty, taken or no folder's.
pub fn adapt_by_several<'a>(
    folder: &AutoCausalLm,
    adapters: impl IntoIterator<Item = (&'a str, &'a AdapterWeights)>,
    storage: impl Storage,
    options: &LoadOptions,
) -> Result<AdaptedBySeveral> {
    let mut builder = Adapters::new(storage);
    let (mut configs, mut known) = (Vec::new(), None);
    for (name, weights) in adapters {
        check_against(folder, weights, &mut known)?;
        builder = builder.with_adapter(name, weights)?;
        configs.push(weights.config());
    }
    let model = build(folder, &configs, options, &mut builder)?;
    let mut adapters = builder.finish()?;
    adapters.record_base(&known.map_or_else(|| base_record(folder), Ok)?);
    Ok(AdaptedBySeveral { model, adapters })
}

/// The model of `folder`, untied where one of the configurations asks for it.
fn build(
    folder: &AutoCausalLm,
    configs: &[&LoraConfig],
    options: &LoadOptions,
    builder: &mut dyn ProjectionBuilder,
) -> Result<Box<dyn CausalLm>> {
    let checkpoint = folder.open_weights()?;
    let mut own_head = None;
    for config in configs {
        own_head = own_head.or(untied(folder, config)?);
    }
    match own_head {
        None => folder.load_from(&checkpoint, options, builder),
        Some(untied) => {
            let source = Untied::new(&checkpoint, &untied.weights())?;
            untied.load_from(&source, options, builder)
        }
    }
}

/// The untied form of a tied model whose head or embedding this configuration trains.
pub(crate) fn untied(folder: &AutoCausalLm, config: &LoraConfig) -> Result<Option<AutoCausalLm>> {
    let untied = folder.untied()?;
    match untied {
        Some(untied) if config.unties(&untied.weights())? => Ok(Some(untied)),
        _ => Ok(None),
    }
}

/// What makes a folder of weights a model: the tokenizer and how to generate.
const COMPANIONS: [&str; 7] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Copies the tokenizer's files and `generation_config.json` that a model folder has.
///
/// # Errors
/// [`Error::Io`] with the file that could not be copied.
pub fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        let source = from.join(name);
        if source.is_file() {
            std::fs::copy(&source, to.join(name))
                .map_err(|problem| Error::Io { path: source, source: problem })?;
        }
    }
    Ok(())
}
