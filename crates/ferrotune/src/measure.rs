//! The metrics of a model on held-out records.

use std::{collections::HashMap, path::Path, sync::Arc};

use ferrotune_bert::SentenceEncoder;
use ferrotune_core::{GenerationLimits, Sample, Tokenize};
use ferrotune_data::{Record as DataRecord, encode_prompt};
use ferrotune_eval::{
    Measurement, OnFailure, Pair, Record, Registry, Run, SampleLine, evaluate,
    meteor::{Lexicon, Paraphrases, WordNet},
    perplexity::{Perplexity, TextLikelihood, TextSize},
    sample_lines,
    statistics::Bootstrap,
};
use ferrotune_nn::CausalLm;
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::{Result, ScoredModel};

/// What is measured and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeasureConfig {
    /// Names of metrics, separated by commas; `perplexity` is of the references given the requests, the others are of
    /// generated answers against them.
    pub metrics: String,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// At most this many records; all where absent. The first ones of the test part, which a seed has shuffled.
    pub limit: Option<usize>,
    /// Ids in a batch, padding included.
    pub batch_tokens: usize,
    /// Folder of the sentence encoder for `semantic_similarity`.
    pub embedder: Option<std::path::PathBuf>,
    /// Folder of WordNet for METEOR's synonyms.
    pub wordnet: Option<std::path::PathBuf>,
    /// Table of paraphrases for `meteor_corrected`, one pair of phrases with a tab between them a line.
    pub paraphrases: Option<std::path::PathBuf>,
}

impl Default for MeasureConfig {
    fn default() -> Self {
        Self {
            metrics: "perplexity,exact_match,token_f1,bleu,rouge,meteor,semantic_similarity".to_owned(),
            max_new_tokens: 256,
            limit: None,
            batch_tokens: 4096,
            embedder: None,
            wordnet: None,
            paraphrases: None,
        }
    }
}

/// Metrics, ready to be applied to any number of models.
#[derive(Debug)]
pub struct Measure {
    config: MeasureConfig,
    registry: Registry,
    /// Names of the metrics over texts.
    text_metrics: String,
    perplexity: bool,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// One record per metric, in the order asked for.
    pub records: Vec<Record>,
    /// What the records were made from, in the same order: comparisons of two models need the samples.
    pub measurements: Vec<Measurement>,
    /// Answer of each record.
    pub answers: Vec<String>,
    /// Score of each record under each metric.
    pub samples: Vec<SampleLine>,
}

impl Measure {
    /// Loads what the metrics need.
    ///
    /// # Errors
    /// An unknown metric; an encoder or dictionary that cannot be read.
    pub fn new(config: MeasureConfig, device: Device) -> Result<Self> {
        let mut registry = Registry::with_text_metrics()?;
        if let Some(folder) = &config.embedder {
            registry = registry.with_encoder(Arc::new(SentenceEncoder::open(folder, device)?));
        }
        let wordnet = config.wordnet.as_deref().map(WordNet::open).transpose()?.map(Arc::new);
        let paraphrases = config.paraphrases.as_deref().map(Paraphrases::open).transpose()?.map(Arc::new);
        registry = registry.with_lexicon(&Lexicon { wordnet, paraphrases })?;
        let names: Vec<&str> =
            config.metrics.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let text_metrics =
            names.iter().copied().filter(|&name| name != PERPLEXITY).collect::<Vec<_>>().join(",");
        let perplexity = names.contains(&PERPLEXITY);
        if !(text_metrics.is_empty() && perplexity) {
            registry.resolve(&text_metrics)?; // before hours of training, not after
        }
        Ok(Self { config, registry, text_metrics, perplexity })
    }

    /// How many of `available` records are measured.
    #[must_use]
    pub fn count(&self, available: usize) -> usize {
        self.config.limit.map_or(available, |limit| limit.min(available))
    }

    /// Measures a model on `records`, whose encodings are `samples`.
    ///
    /// # Errors
    /// What the model and the metrics give. A sample that a metric cannot score is counted, not an error.
    pub fn measure<T: Tokenize>(
        &self,
        model: &dyn CausalLm,
        tokenizer: &T,
        records: &[&DataRecord],
        samples: &[&Sample],
        run: &Run,
    ) -> Result<Measured> {
        let scored = ScoredModel::new(model, tokenizer).with_batch_tokens(self.config.batch_tokens);
        let bootstrap = Bootstrap { seed: run.seed, ..Bootstrap::default() };
        let mut measured = Measured {
            records: Vec::new(),
            measurements: Vec::new(),
            answers: Vec::new(),
            samples: Vec::new(),
        };
        let ids = ids_of(records);
        if self.perplexity {
            let start = std::time::Instant::now();
            let rows: Vec<_> = samples.iter().map(|s| (s.ids.clone(), s.supervised.clone())).collect();
            let texts: Vec<TextLikelihood> = scored
                .score_ids(&rows)?
                .iter()
                .zip(records.iter().zip(&ids))
                .map(|(likelihood, (record, id))| TextLikelihood {
                    id: id.clone(),
                    log_likelihood: likelihood.log_likelihood,
                    tokens: likelihood.tokens as u64,
                    size: Some(TextSize::of(response(record))),
                })
                .collect();
            let measurement = Perplexity::TokenWeighted.measure(&texts)?;
            measured.records.push(Record::new(run, &measurement, &bootstrap, start.elapsed().as_secs_f64())?);
            measured.measurements.push(measurement);
        }
        if !self.text_metrics.is_empty() {
            let prompts = records
                .iter()
                .map(|record| encode_prompt(record, tokenizer))
                .collect::<Result<Vec<_>, _>>()?;
            let limits = GenerationLimits {
                max_new_tokens: self.config.max_new_tokens,
                stop: Vec::new(),
                temperature: 0.0,
                top_p: 1.0,
                seed: run.seed,
            };
            let answers = scored.generate_ids(&prompts, &limits)?;
            measured.answers = answers.into_iter().map(|answer| answer.text.trim().to_owned()).collect();
            let pairs: Vec<Pair> = records
                .iter()
                .zip(measured.answers.iter().zip(&ids))
                .map(|(record, (answer, id))| Pair {
                    instruction: Some(request(record).to_owned()),
                    ..Pair::new(id, answer.clone(), response(record).trim())
                })
                .collect();
            let metrics = self.registry.resolve(&self.text_metrics)?;
            let evaluation = evaluate(&metrics, &pairs, run, &bootstrap, OnFailure::Skip)?;
            measured.samples = sample_lines(&pairs, &evaluation.measurements)?;
            measured.records.extend(evaluation.records);
            measured.measurements.extend(evaluation.measurements);
        }
        Ok(measured)
    }
}

/// The metric that reads the references instead of answers.
const PERPLEXITY: &str = "perplexity";

/// The last request of a record.
#[must_use]
pub fn request(record: &DataRecord) -> &str {
    record.turns.last().map_or("", |turn| &turn.request)
}

/// The last response of a record.
#[must_use]
pub fn response(record: &DataRecord) -> &str {
    record.turns.last().map_or("", |turn| &turn.response)
}

/// Names records by file and place, the same for every model and each name once: where files in several folders have
/// one name, a number follows.
#[must_use]
pub fn ids_of(records: &[&DataRecord]) -> Vec<String> {
    let mut times = HashMap::new();
    let id = |record: &&DataRecord| {
        let file = record.origin.file.file_name().unwrap_or_default();
        let name = format!("{} {}", Path::new(file).display(), record.origin.place);
        let time: &mut u32 = times.entry(name.clone()).or_default();
        *time += 1;
        if *time == 1 { name } else { format!("{name} ({time})") }
    };
    records.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use ferrotune_data::Record;

    use super::ids_of;

    #[test]
    fn records_of_files_with_one_name_have_ids_of_their_own() {
        let record = |file: &str, row| {
            let mut record = Record::new("q", "a", row);
            record.origin.file = Arc::from(Path::new(file));
            record
        };
        let records = [record("a/test.json", 1), record("b/test.json", 1), record("b/test.json", 2)];
        let ids = ids_of(&records.iter().collect::<Vec<_>>());
        assert_eq!(ids, ["test.json row 1", "test.json row 1 (2)", "test.json row 2"]);
    }
}
