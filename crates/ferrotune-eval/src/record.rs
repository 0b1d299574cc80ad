//! The result record: one metric, everything needed to know what the number means.

use ferrotune_core::extended;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Evidence, Measurement, Result, Tally,
    judge::JudgeUsage,
    statistics::{Bootstrap, clustered_stderr, clustered_wilson_interval, mean_stderr, wilson_interval},
};

/// The version of this crate, which every record carries: metrics change only with it.
pub const IMPLEMENTATION_VERSION: &str = concat!("ferrotune-eval ", env!("CARGO_PKG_VERSION"));

/// The 97.5 % quantile of the normal distribution.
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// What was evaluated, on what and under which settings; the same for all metrics of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Names the run among others.
    pub run_id: String,
    /// The model; `None` when scoring a file of predictions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// Hash of the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_sha: Option<String>,
    /// The data.
    pub dataset: Dataset,
    /// Hash of the prompt template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_sha: Option<String>,
    /// Seeds everything random in the run.
    pub seed: u64,
}

/// The model that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Hash of the base weights.
    pub base_sha: String,
    /// Hash of the adapter, if one was on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_sha: Option<String>,
    /// The arithmetic, such as `bf16` or `nf4`.
    pub dtype: String,
}

/// The data that was scored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// What the file is called; not a path of this machine.
    pub path_name: String,
    /// Hash of its bytes.
    pub sha256: String,
    /// Number of records used.
    pub n_rows: usize,
}

/// Who judged, for judged metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeInfo {
    /// The judge's name and date or hash.
    pub name: String,
    /// Temperature and the like.
    pub params: Map<String, Value>,
    /// Hash of the prompts: their fixed texts, which the metrics give out, joined by line feeds.
    pub prompt_sha: String,
}

/// The result of one metric.
///
/// Exactly one of `value` and `not_measured` is present: a metric that could not be measured says why, and never
/// carries a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was evaluated.
    #[serde(flatten)]
    pub run: Run,
    /// The metric's name.
    pub metric: String,
    /// Which of its definitions.
    pub variant: String,
    /// What computed it, see [`IMPLEMENTATION_VERSION`].
    pub implementation_version: String,
    /// Settings that change the value.
    pub params: Map<String, Value>,
    /// Who judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeInfo>,
    /// What judging did cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge_usage: Option<JudgeUsage>,
    /// Samples there are.
    pub n_total: usize,
    /// Samples the value is over.
    pub n_scored: usize,
    /// Samples that were left out of the value.
    pub n_failed: usize,
    /// The value; an infinite one is written as a string ([`extended`]).
    #[serde(default, with = "extended::option", skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Why there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_measured: Option<String>,
    /// Standard error of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// 95 % interval of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    /// How standard error and interval were made, or why there are none.
    pub ci_method: String,
    /// Wall-clock seconds that scoring took.
    pub wall_s: f64,
    /// Tokens read by a model or judge for this metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_in: Option<u64>,
    /// Tokens written by a model or judge for this metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_out: Option<u64>,
}

impl Record {
    /// The record of a measurement, with its 95 % interval: Wilson's for a share of successes, else a bootstrap.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if the bootstrap's settings are out of range.
    pub fn new(run: &Run, measurement: &Measurement, bootstrap: &Bootstrap, wall_s: f64) -> Result<Self> {
        let bootstrap = Bootstrap { confidence: 0.95, ..*bootstrap };
        let n_total = measurement.samples.len();
        let n_scored = measurement.scored();
        let mut record = Self {
            run: run.clone(),
            metric: measurement.metric.clone(),
            variant: measurement.variant.clone(),
            implementation_version: IMPLEMENTATION_VERSION.to_owned(),
            params: measurement.params.clone(),
            judge: measurement.judged.as_ref().map(|judged| judged.info.clone()),
            judge_usage: measurement.judged.as_ref().map(|judged| judged.usage),
            n_total,
            n_scored,
            n_failed: n_total - n_scored,
            value: None,
            not_measured: None,
            stderr: None,
            ci95: None,
            ci_method: "none".to_owned(),
            wall_s,
            tokens_in: measurement.judged.as_ref().map(|judged| judged.usage.prompt_tokens),
            tokens_out: measurement.judged.as_ref().map(|judged| judged.usage.completion_tokens),
        };
        match &measurement.evidence {
            Evidence::NotMeasured { reason } => record.not_measured = Some(reason.clone()),
            Evidence::Measured(tally) => {
                let value = tally.value();
                if value.is_nan() {
                    record.not_measured = Some("the value is not a number".to_owned());
                    return Ok(record);
                }
                record.value = Some(value);
                record.add_interval(tally, &bootstrap)?;
            }
        }
        Ok(record)
    }

    /// Wilson's interval for a share of successes, with clusters counted as what they are, which a bootstrap would give no width where all succeed or none does;
    /// the bootstrap's for everything else.
    fn add_interval(&mut self, tally: &Tally, bootstrap: &Bootstrap) -> Result<()> {
        let units = tally.units();
        if units.len() < 2 {
            let unit = if tally.is_clustered() { "cluster of samples" } else { "sample" };
            self.ci_method = format!("none: a single {unit} has no interval");
        } else if tally.is_clustered() && tally.successes().is_some() {
            let clusters: Vec<(f64, f64)> =
                units.rows().rows().into_iter().map(|row| (row[0], row[1])).collect();
            let (low, high) = clustered_wilson_interval(&clusters, NORMAL_QUANTILE)?;
            self.stderr = clustered_stderr(&clusters);
            self.ci95 = Some([low, high]);
            self.ci_method = format!(
                "wilson score interval for the effective number of samples, which come in {} clusters; stderr over clusters",
                clusters.len()
            );
        } else if let Some((successes, samples)) = tally.successes() {
            let (low, high) = wilson_interval(successes, samples, NORMAL_QUANTILE)?;
            self.stderr = mean_stderr(&tally.rows().column(0).to_vec());
            self.ci95 = Some([low, high]);
            self.ci_method = "wilson score interval over samples; stderr s/sqrt(n)".to_owned();
        } else if units.strata().is_some_and(|strata| strata.iter().any(|members| members.len() < 2)) {
            self.ci_method =
                "none: a stratum of a single sample does not show how its samples vary".to_owned();
        } else if let Some(interval) = bootstrap.interval(tally)? {
            if interval.has_no_width() {
                self.ci_method =
                    "none: every resample gives the same value, which says nothing about other samples"
                        .to_owned();
                return Ok(());
            }
            self.stderr = Some(interval.stderr);
            self.ci95 = Some([interval.low, interval.high]);
            self.ci_method = interval.method;
        } else {
            self.ci_method = "none: the value of a resample is not finite".to_owned();
        }
        Ok(())
    }
}
