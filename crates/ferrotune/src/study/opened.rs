//! A model of a study, opened before anything runs.

use std::sync::Arc;

use ferrotune_core::{PromptTemplate as _, Tokenize as _, digest};
use ferrotune_data::{ChatTemplate, Prepared as Encoding, Template, Tokenizer, template};
use ferrotune_eval::task::PromptStyle;

use super::{Interaction, ModelConfig, ModelTemplate, TemplateResults};
use crate::{Architecture, AutoCausalLm, Benchmark, Chat, Error, Instructions, Measure, PromptText, Result};

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
        let template = written_in(model)?;
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

    /// The template, for the results.
    pub(super) fn template_results(&self) -> TemplateResults {
        match &self.template {
            Template::Study => TemplateResults {
                name: format!("the study's, {}", template::TEMPLATE),
                sha256: digest::of_bytes(template::TEMPLATE.as_bytes()),
            },
            Template::Chat(template) => TemplateResults {
                name: "the checkpoint's own chat template".to_owned(),
                sha256: template.fingerprint().to_owned(),
            },
        }
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

/// What a model's records are written in.
fn written_in(model: &ModelConfig) -> Result<Template> {
    match model.template {
        ModelTemplate::Study => Ok(Template::Study),
        ModelTemplate::Chat => match ChatTemplate::open(&model.path)? {
            Some(template) => Ok(Template::Chat(Arc::new(template))),
            None => Err(Error::Setting {
                setting: "models.template",
                found: format!(
                    "chat for `{}`, and `{}` has no chat template",
                    model.name,
                    model.path.display()
                ),
                expected: "study, or a checkpoint with chat_template.jinja or chat_template in \
                           tokenizer_config.json"
                    .to_owned(),
            }),
        },
    }
}
