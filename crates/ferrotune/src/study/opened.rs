//! A model of a study, opened before anything runs.

use std::path::{Path, PathBuf};

use ferrotune_core::Tokenize as _;
use ferrotune_data::{Prepared as Encoding, Template, Tokenizer};
use ferrotune_eval::task::PromptStyle;

use super::{Interaction, ModelConfig, TemplateResults};
use crate::{
    Architecture, AutoCausalLm, Benchmark, Chat, Error, Instructions, Measure, PromptText, Result, slug::slug,
};

/// A model of the study, opened and with its records encoded.
#[derive(Debug)]
pub(super) struct Opened<'s> {
    pub(super) model: &'s ModelConfig,
    pub(super) folder: AutoCausalLm,
    pub(super) tokenizer: Tokenizer,
    pub(super) encoding: Encoding,
    pub(super) base_sha256: String,
    /// What the records are written in for this model.
    pub(super) template: Template,
    /// For each benchmark how its questions are written for this model.
    pub(super) styles: Vec<(PromptStyle, PromptText)>,
}

impl<'s> Opened<'s> {
    pub(super) fn open(
        model: &'s ModelConfig,
        instructions: &Instructions,
        measure: &Measure,
        interaction: &mut dyn Interaction,
    ) -> Result<Self> {
        let folder = AutoCausalLm::open(&model.path)?;
        let tokenizer = Tokenizer::from_folder(&model.path)?;
        let vocabulary = folder.vocabulary_size();
        if tokenizer.vocabulary_size() as i64 > vocabulary {
            return Err(Error::VocabularyMismatch {
                folder: model.path.clone(),
                tokenizer: tokenizer.vocabulary_size(),
                model: vocabulary,
            });
        }
        let (asked, positions) = (instructions.config().max_seq_length, folder.max_positions());
        if positions < asked as i64 {
            interaction.say(&format!(
                "{}: sequences are cut at the model's {positions} positions, not {asked}",
                model.name
            ));
        }
        let template = model.template.open(&model.path).map_err(|error| match error {
            Error::Setting { found, expected, .. } => {
                let found = format!("{found} (the model `{}`)", model.name);
                Error::Setting { setting: "models.template".into(), found, expected }
            }
            other => other,
        })?;
        let encoding = instructions.encode(&tokenizer, &template, positions, &|_| {})?;
        let counts = encoding.report.total;
        interaction.say(&format!(
            "{}: {} records encoded, {} of them cut; left out: {} with a long request, {} with nothing to learn from",
            model.name, counts.kept, counts.truncated, counts.request_too_long, counts.nothing_supervised
        ));
        let usual = match template {
            Template::Study => Chat::None,
            Template::Chat(_) => Chat::Template,
        };
        let style = |benchmark: &Benchmark| benchmark.style(&model.path, usual);
        let styles = measure.benchmarks().iter().map(style).collect::<Result<_>>()?;
        let base_sha256 = crate::weights_digest(&model.path)?;
        Ok(Self { model, folder, tokenizer, encoding, base_sha256, template, styles })
    }

    /// Where the files of all its states go.
    pub(super) fn output(&self, study: &Path) -> PathBuf {
        study.join(slug(&self.model.name))
    }

    /// The template, for the results.
    pub(super) fn template_results(&self) -> TemplateResults {
        TemplateResults::of(&self.template)
    }

    pub(super) fn family(&self) -> String {
        match self.folder.architecture() {
            Architecture::Mixtral(_) => "mixtral",
            Architecture::Llama2(config) => match config.family {
                ferrotune_llama2::Family::Llama => "llama",
                ferrotune_llama2::Family::Mistral => "mistral",
            },
        }
        .to_owned()
    }
}
