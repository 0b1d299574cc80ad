//! Text that continues a prompt.

mod cli;

use std::{path::Path, process::ExitCode, time::Instant};

use clap::Parser;
use cli::NamedFolder;
use ferrotune::{
    AdaptedBySeveral, AutoCausalLm, Error, LoadOptions, adapt_by_several,
    core::Tokenize,
    data::Record,
    nn::CausalLm,
    nn::generate::{Continued, Sampling, generate as continue_prompts},
    study::ModelTemplate,
};
use serde::Serialize;

/// Continues a prompt, greedily unless a temperature is given.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Generation")]
struct Flags {
    /// PEFT folder of an adapter to put on the model; repeatable, each with a name then
    #[arg(long, value_name = "[NAME=]DIR", value_parser = NamedFolder::parse)]
    adapter: Vec<NamedFolder>,
    /// The name of the adapter that acts, where there are several
    #[arg(long, value_name = "NAME", requires = "adapter")]
    active: Option<String>,
    #[command(flatten)]
    other: cli::OtherBase,
    /// What the model reads after BOS
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Puts the prompt into a template, as a request to be answered
    #[arg(long)]
    chat: bool,
    /// Which template that is: the study's, which `finetune` uses unless told otherwise, or the checkpoint's own
    #[arg(long, default_value = "study", requires = "chat", value_parser = cli::words(&cli::TEMPLATES))]
    template: ModelTemplate,
    /// The most tokens to generate; fewer where EOS comes or the model's positions end
    #[arg(long, default_value_t = 256)]
    max_new_tokens: u32,
    /// 0 takes the most probable token; above 0 divides the logits before drawing
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Draws only from the most probable tokens whose probabilities add up to this
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Draws only from this many most probable tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Divides the positive logits of tokens that occurred, and multiplies the negative ones
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// Number of continuations
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    num: u32,
    #[command(flatten)]
    common: cli::Common,
    #[command(flatten)]
    base: cli::BaseFlags,
}

/// The last line of standard output; `text` and `tokens` are the first continuation's.
#[derive(Debug, Serialize)]
struct Generated {
    text: String,
    tokens: usize,
    tokens_per_second: f64,
    /// The adapter that acted: its name, or the folder of one without.
    adapter: Option<String>,
    continuations: Vec<Continuation>,
}

#[derive(Clone, Debug, Serialize)]
struct Continuation {
    text: String,
    tokens: usize,
    /// Whether EOS came, rather than a limit.
    ended: bool,
}

fn main() -> ExitCode {
    cli::run(generate)
}

fn generate(flags: Flags) -> cli::Result<Generated> {
    if flags.temperature == 0.0 {
        let idle = [("top-p", flags.top_p != 1.0), ("top-k", flags.top_k != 0)];
        if let Some((name, _)) = idle.into_iter().find(|(_, given)| *given) {
            return Err(format!(
                "`--{name}` says what is drawn from, and nothing is drawn at temperature 0; leave it out, or give a --temperature"
            )
            .into());
        }
    }
    let (folder, model, adapter) = load(&flags)?;
    let tokenizer = cli::tokenizer(&folder)?;
    let prompt = prompt(&flags, folder.folder(), &tokenizer)?;
    if prompt.len() as i64 >= model.max_positions() {
        let (what, limit) = ("the prompt".to_owned(), model.max_positions());
        return Err(Error::TextTooLong { what, found: prompt.len(), limit }.into());
    }
    let sampling = Sampling {
        temperature: flags.temperature,
        top_p: flags.top_p,
        top_k: flags.top_k.into(),
        repetition_penalty: flags.repetition_penalty,
        max_new_tokens: flags.max_new_tokens.into(),
        eos: tokenizer.special().ends().map(i64::from).collect(),
        seed: flags.common.compute.seed,
    };
    let rows = vec![prompt.iter().map(|&id| id.into()).collect(); flags.num as usize];
    let start = Instant::now();
    let continued = continue_prompts(model.as_ref(), &rows, &sampling)?;
    let seconds = cli::seconds_since(start);
    let continuations = continued
        .into_iter()
        .map(|Continued { ids, ended }| {
            let text = text_after(&prompt, &ids, &tokenizer)?;
            Ok(Continuation { text, tokens: ids.len(), ended })
        })
        .collect::<cli::Result<Vec<_>>>()?;
    for continuation in &continuations {
        cli::say(&continuation.text);
    }
    let all: usize = continuations.iter().map(|continuation| continuation.tokens).sum();
    let Continuation { text, tokens, .. } = continuations[0].clone();
    Ok(Generated { text, tokens, tokens_per_second: all as f64 / seconds, adapter, continuations })
}

/// Which of the adapters acts.
fn active(flags: &Flags) -> cli::Result<Option<&NamedFolder>> {
    let labels = || flags.adapter.iter().map(NamedFolder::label).collect::<Vec<_>>().join(", ");
    match (flags.adapter.as_slice(), &flags.active) {
        ([], _) => Ok(None),
        ([single], None) => Ok(Some(single)),
        (several, None) => {
            let count = several.len();
            Err(format!("{count} adapters are given ({}); say with --active which one acts", labels()).into())
        }
        (named, Some(name)) => match named.iter().find(|other| other.label() == *name) {
            None => Err(format!("no adapter is named `{name}`, there are: {}", labels()).into()),
            found => Ok(found),
        },
    }
}

/// The model, and what acts on it.
fn load(flags: &Flags) -> cli::Result<(AutoCausalLm, Box<dyn CausalLm>, Option<String>)> {
    let active = active(flags)?;
    let label = active.map(NamedFolder::label);
    if let [] | [_] = flags.adapter.as_slice() {
        let folder = active.map(|adapter| adapter.folder.as_path());
        let (folder, model) = flags.common.load(&flags.base, folder, flags.other)?;
        return Ok((folder, model, label));
    }
    let (device, kind) = flags.common.compute.resolve()?;
    let folder = AutoCausalLm::open(&flags.common.model)?;
    let mut adapters = Vec::new();
    for NamedFolder { name, folder: adapter } in &flags.adapter {
        let name = name.as_deref().ok_or_else(|| {
            format!(
                "the adapter `{}` has no name; with several, each is given as NAME=DIR",
                adapter.display()
            )
        })?;
        adapters.push((name, flags.other.open(adapter, &folder)?));
    }
    let (storage, census) = flags.base.config()?.storage(&folder)?;
    let adapters = adapters.iter().map(|(name, weights)| (*name, weights));
    let AdaptedBySeveral { model, adapters } =
        adapt_by_several(&folder, adapters, storage, &LoadOptions::new(device, kind))?;
    adapters.switch().activate(label.as_deref().unwrap_or_default())?;
    cli::say_census(&census);
    Ok((folder, model, label))
}

fn prompt(flags: &Flags, folder: &Path, tokenizer: &impl Tokenize) -> cli::Result<Vec<u32>> {
    if flags.chat {
        let request = Record::new(flags.prompt.clone(), "", 0);
        return Ok(flags.template.open(folder)?.encode_prompt(&request, tokenizer)?);
    }
    let bos = tokenizer.special().bos.ok_or(ferrotune::data::Error::MissingSpecialToken { role: "bos" })?;
    Ok([bos].into_iter().chain(tokenizer.encode(&flags.prompt)?.ids).collect())
}

/// The text of new ids as it reads behind the prompt: decoded alone, they would lose a space in front.
fn text_after(prompt: &[u32], new: &[i64], tokenizer: &impl Tokenize) -> cli::Result<String> {
    let decode = |ids: &[u32]| -> cli::Result<String> {
        Ok(tokenizer.decode(ids).map_err(|source| Error::Decode { source })?)
    };
    let new: Vec<u32> = new.iter().map(|&id| id as u32).collect();
    let whole = decode(&[prompt, &new].concat())?;
    Ok(match whole.strip_prefix(&decode(prompt)?) {
        Some(text) => text.to_owned(),
        None => decode(&new)?,
    })
}
