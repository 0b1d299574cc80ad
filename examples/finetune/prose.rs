//! What `finetune` says of its data and its model before it trains.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use ferrotune::{
    AutoCausalLm, BaseConfig, Instructions, MemoryPlan,
    data::{Counts, Format, Prepared},
    device_name, kind_name,
    tch::{Device, Kind},
};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli;

/// What became of the records of one file.
#[derive(Debug, Serialize)]
pub(crate) struct FileCounts {
    path: PathBuf,
    sha256: String,
    format: Format,
    read: u64,
    dropped: u64,
    dropped_by_reason: BTreeMap<String, u64>,
    /// Places of the first dropped records, with the reasons.
    first_dropped: Vec<String>,
    /// Kept prompts whose frame could not be stripped.
    unstripped_prompts: u64,
    #[serde(flatten)]
    encoded: Counts,
    #[serde(skip)]
    limits: [usize; 2],
}

/// How many dropped records of a file are named one by one.
const NAMED: usize = 5;

pub(crate) fn file_counts(instructions: &Instructions, encoding: &Prepared) -> Vec<FileCounts> {
    let limits = encoding.report.limits;
    let counts = |report: &ferrotune::data::FileReport| FileCounts {
        path: report.path.clone(),
        sha256: report.sha256.clone(),
        format: report.format,
        read: report.read,
        dropped: report.dropped,
        dropped_by_reason: report.dropped_by_reason.clone(),
        first_dropped: report.rejections.iter().take(NAMED).map(ToString::to_string).collect(),
        unstripped_prompts: report.unstripped_prompts,
        encoded: encoding.report.files.get(&report.path).copied().unwrap_or_default(),
        limits: [limits.max_seq_length, limits.max_request_tokens],
    };
    instructions.reports.iter().map(counts).collect()
}

impl fmt::Display for FileCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [longest, longest_request] = self.limits;
        let Counts {
            kept, truncated, request_too_long, nothing_supervised, tokens, supervised_tokens, ..
        } = self.encoded;
        write!(
            f,
            "{} ({}): {} records read, {kept} kept with {tokens} tokens ({supervised_tokens} supervised); {} dropped as \
             bad, {request_too_long} left out for a request of {longest_request} tokens or more, {nothing_supervised} with \
             nothing to learn; {truncated} truncated at {longest} tokens",
            self.path.display(),
            self.format,
            self.read,
            self.dropped
        )?;
        if self.unstripped_prompts > 0 {
            write!(f, "; {} with a frame that could not be stripped", self.unstripped_prompts)?;
        }
        for place in &self.first_dropped {
            write!(f, "\n  dropped {place}")?;
        }
        match self.dropped.saturating_sub(self.first_dropped.len() as u64) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

pub(crate) fn tokenization_bar(records: usize) -> cli::Result<ProgressBar> {
    let style = ProgressStyle::with_template(
        "{bar:30} {pos}/{len} records tokenized [{elapsed_precise} < {eta_precise}]",
    )?;
    Ok(ProgressBar::new(records as u64).with_style(style))
}

pub(crate) fn say_model(
    model: &AutoCausalLm,
    base: &BaseConfig,
    plan: &MemoryPlan,
    device: Device,
    kind: Kind,
) {
    let (parameters, active) = model.parameters();
    let experts = if active < parameters { format!(" ({active} active for a token)") } else { String::new() };
    cli::say(&format!(
        "loading {parameters} weights{experts}, {}: {}, computing in {} on {}; training will take about {}",
        base.describe(),
        HumanBytes(plan.weights + plan.scales),
        kind_name(kind),
        device_name(device),
        HumanBytes(plan.total()),
    ));
}
