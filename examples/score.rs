//! Log-likelihoods of texts under a model.

mod cli;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use ferrotune::{
    Error, ScoredModel,
    core::Tokenize,
    nn::{self, CausalLm, Pass, Tokens},
    tch::{self, Device, Kind, Tensor},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Prints the log-likelihood of texts or ids under a model.
///
/// A text is scored as BOS and its tokens: every token after BOS counts, and no EOS is added. With `prompt` and
/// `response` both are tokenized in one piece, without a template, and the tokens that cover a byte of the response
/// count. A row of ids is taken as it is: every id after the first counts. Logarithms are natural ones; `loss` is the
/// mean over all counted tokens.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Scoring")]
struct Flags {
    /// PEFT folder of an adapter to put on the model
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    other: cli::OtherBase,
    /// JSON Lines, each with `text`, or with `prompt` and `response`; an `id` is printed with its row
    #[arg(long, value_name = "FILE", required_unless_present = "ids", conflicts_with = "ids")]
    texts: Option<PathBuf>,
    /// JSON, a list of lists of token ids
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Also write `logits`, [rows, longest row, vocabulary] in 32 bits, rows padded on the right with zeros
    #[arg(long, value_name = "FILE.safetensors")]
    logits: Option<PathBuf>,
    /// Replace the file of logits if it is there
    #[arg(long, requires = "logits")]
    force: bool,
    /// Ids in a batch, padding included
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    batch_tokens: u64,
    #[command(flatten)]
    common: cli::Common,
    #[command(flatten)]
    base: cli::BaseFlags,
}

/// The last line of standard output.
#[derive(Debug, Serialize)]
struct Scores {
    rows: Vec<Row>,
    tokens: usize,
    loss: f64,
    #[serde(with = "ferrotune::core::extended")]
    perplexity: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    id: Value,
    tokens: usize,
    log_likelihood: f64,
}

/// What is scored: ids, and which of them count.
#[derive(Debug)]
struct Request {
    id: Value,
    ids: Vec<u32>,
    scored: Vec<bool>,
}

#[derive(Debug, Deserialize)]
struct Text {
    id: Option<Value>,
    text: Option<String>,
    prompt: Option<String>,
    response: Option<String>,
}

fn main() -> ExitCode {
    cli::run(score)
}

fn score(flags: Flags) -> cli::Result<Scores> {
    if let Some(logits) = &flags.logits {
        let read =
            [Some(&flags.common.model), flags.adapter.as_ref(), flags.texts.as_ref(), flags.ids.as_ref()];
        let read: Vec<&Path> = read.into_iter().flatten().map(PathBuf::as_path).collect();
        cli::refuse_to_write_over(logits, &read, "--logits", flags.force)?;
    }
    let (folder, model) = flags.common.load(&flags.base, flags.adapter.as_deref(), flags.other)?;
    let requests = match (&flags.texts, &flags.ids) {
        (Some(texts), _) => read_texts(texts, &cli::tokenizer(&folder)?)?,
        (None, Some(ids)) => read_ids(ids)?,
        (None, None) => Vec::new(),
    };
    check(&requests, model.as_ref())?;
    let rows: Vec<_> = requests.iter().map(|request| (request.ids.clone(), request.scored.clone())).collect();
    let likelihoods = ScoredModel::new(model.as_ref(), &())
        .with_batch_tokens(usize::try_from(flags.batch_tokens)?)
        .score_ids(&rows)?;
    let tokens: usize = likelihoods.iter().map(|likelihood| likelihood.tokens).sum();
    if tokens == 0 {
        return Err("there is no token to score; each row needs at least one after its first id".into());
    }
    let unusable = requests.iter().zip(&likelihoods).find(|(_, found)| !found.log_likelihood.is_finite());
    if let Some((request, found)) = unusable {
        return Err(format!(
            "the log-likelihood of row {} is {}, expected a finite number; the weights are damaged, or too large for this \
             precision (try --dtype f32)",
            request.id, found.log_likelihood
        )
        .into());
    }
    if let Some(path) = &flags.logits {
        nn::checkpoint::write_file(path, [("logits".to_owned(), &logits(model.as_ref(), &requests)?)], &[])?;
    }
    let loss = -likelihoods.iter().map(|likelihood| likelihood.log_likelihood).sum::<f64>() / tokens as f64;
    let row = |(request, likelihood): (Request, &ferrotune::core::Likelihood)| Row {
        id: request.id,
        tokens: likelihood.tokens,
        log_likelihood: likelihood.log_likelihood,
    };
    Ok(Scores {
        rows: requests.into_iter().zip(&likelihoods).map(row).collect(),
        tokens,
        loss,
        perplexity: loss.exp(),
    })
}

fn read_texts(path: &PathBuf, tokenizer: &impl Tokenize) -> cli::Result<Vec<Request>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let bos = tokenizer.special().bos.ok_or(ferrotune::data::Error::MissingSpecialToken { role: "bos" })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let place = || format!("line {} of `{}`", index + 1, path.display());
            let row: Text =
                serde_json::from_str(line).map_err(|problem| format!("{}: {problem}", place()))?;
            let (context, scored) = match (row.text, row.prompt, row.response) {
                (Some(text), None, None) => (String::new(), text),
                (None, Some(prompt), Some(response)) => (prompt, response),
                _ => return Err(format!("{} needs either `text` or `prompt` and `response`", place()).into()),
            };
            let encoding = tokenizer.encode(&format!("{context}{scored}"))?;
            let counts = encoding.offsets.iter().map(|bytes| bytes.end > context.len());
            Ok(Request {
                id: row.id.unwrap_or_else(|| index.into()),
                ids: [bos].into_iter().chain(encoding.ids.iter().copied()).collect(),
                scored: [false].into_iter().chain(counts).collect(),
            })
        })
        .collect()
}

fn read_ids(path: &PathBuf) -> cli::Result<Vec<Request>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let rows: Vec<Vec<u32>> = serde_json::from_str(&text)
        .map_err(|problem| format!("`{}` is not a list of lists of token ids: {problem}", path.display()))?;
    let request = |(index, ids): (usize, Vec<u32>)| Request {
        id: index.into(),
        scored: (0..ids.len()).map(|position| position > 0).collect(),
        ids,
    };
    Ok(rows.into_iter().enumerate().map(request).collect())
}

/// Refuses rows that the model cannot read, by their id.
fn check(requests: &[Request], model: &dyn CausalLm) -> cli::Result<()> {
    let (positions, vocabulary) = (model.max_positions(), model.vocabulary_size());
    for Request { id, ids, .. } in requests {
        if ids.len() as i64 > positions {
            let what = format!("row {id}");
            return Err(Error::TextTooLong { what, found: ids.len(), limit: positions }.into());
        }
        if let Some(&found) = ids.iter().find(|&&id| i64::from(id) >= vocabulary) {
            let unknown = nn::Error::UnknownToken { found: found.into(), limit: vocabulary };
            return Err(format!("row {id}: {unknown}").into());
        }
    }
    Ok(())
}

/// Row by row, so that no other row's length changes a rounding.
fn logits(model: &dyn CausalLm, requests: &[Request]) -> cli::Result<Tensor> {
    let longest = requests.iter().map(|request| request.ids.len()).max().unwrap_or(0) as i64;
    let shape = [requests.len() as i64, longest, model.vocabulary_size()];
    let all = Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?;
    for (row, Request { ids, .. }) in (0..).zip(requests).filter(|(_, request)| !request.ids.is_empty()) {
        let ids: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
        let input = Tensor::from_slice(&ids).f_unsqueeze(0)?.f_to_device(model.device())?; // [1, t]
        let pass = Pass::eval();
        let scores = tch::no_grad(|| -> nn::Result<Tensor> {
            let hidden = model.hidden(&Tokens::full(&input), None, &pass)?;
            model.logits(&hidden.states, &pass) // [1, t, vocabulary]
        })?;
        all.f_select(0, row)?.f_narrow(0, 0, ids.len() as i64)?.f_copy_(&scores.f_squeeze_dim(0)?)?;
    }
    Ok(all)
}
