//! How a checkpoint is spoken to: as text, through its own chat template, or through the study's.

use std::{path::Path, str::FromStr, sync::Arc};

use ferrotune_data::{ChatTemplate, StudyTemplate, Template};
use ferrotune_eval::task::{PromptStyle, Turns};
use serde::{Deserialize, Serialize};

use crate::{Error, PromptText, Result, study::ModelTemplate};

/// Where a checkpoint's own template is looked for.
const CHAT_TEMPLATE: &str = "chat_template.jinja or chat_template in tokenizer_config.json";

impl ModelTemplate {
    /// What records for the model of a folder are written in.
    ///
    /// # Errors
    /// [`Error::Setting`] for [`ModelTemplate::Chat`] where the folder has no chat template; one that cannot be read.
    pub fn open(self, folder: &Path) -> Result<Template> {
        match self {
            Self::Study => Ok(Template::Study),
            Self::Chat => match ChatTemplate::open(folder)? {
                Some(template) => Ok(Template::Chat(Arc::new(template))),
                None => Err(Error::Setting {
                    setting: "template".into(),
                    found: format!("chat, and `{}` has no chat template", folder.display()),
                    expected: format!("study, or a checkpoint with {CHAT_TEMPLATE}"),
                }),
            },
        }
    }
}

/// Which template questions go through; what users write as `--chat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chat {
    /// The checkpoint's own template if it has one, as instruct checkpoints do; else none.
    #[default]
    Auto,
    /// Plain text, as base checkpoints are measured.
    None,
    /// The checkpoint's own template, which must be there.
    Template,
    /// The template that models are fine-tuned with here.
    Study,
}

impl FromStr for Chat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "template" => Ok(Self::Template),
            "study" => Ok(Self::Study),
            other => Err(Error::Setting {
                setting: "chat".into(),
                found: format!("`{other}`"),
                expected: "auto, none, template or study".to_owned(),
            }),
        }
    }
}

impl Chat {
    /// How prompts for the model of a folder are written, and how [`ScoredModel`](crate::ScoredModel) reads them.
    ///
    /// The study's template has one turn; `turns` says where examples go under a checkpoint's own.
    ///
    /// # Errors
    /// [`Error::Setting`] for [`Chat::Template`] where the folder has none; a template that cannot be read.
    pub fn style(self, folder: &Path, turns: Turns) -> Result<(PromptStyle, PromptText)> {
        let own = match self {
            Self::Auto | Self::Template => ChatTemplate::open(folder)?,
            Self::None | Self::Study => None,
        };
        match (self, own) {
            (Self::Study, _) => {
                let template = Arc::new(StudyTemplate);
                Ok((PromptStyle::Template { template, turns: Turns::One }, PromptText::Plain))
            }
            (_, Some(template)) => {
                Ok((PromptStyle::Template { template: Arc::new(template), turns }, PromptText::Markup))
            }
            (Self::Template, None) => Err(Error::Setting {
                setting: "chat".into(),
                found: format!("template, and `{}` has none", folder.display()),
                expected: format!("a folder with {CHAT_TEMPLATE}"),
            }),
            _ => Ok((PromptStyle::Plain, PromptText::Plain)),
        }
    }
}
