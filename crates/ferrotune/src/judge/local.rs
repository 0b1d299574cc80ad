//! A judge on this machine: a model folder behind the port that judges speak through.

use std::path::Path;

use ferrotune_core::{
    BoxError, Continuation, Generation, GenerationLimits, LanguageModel, Likelihood, Message, PromptTemplate,
    Role, Tokenize as _,
};
use ferrotune_data::{ChatTemplate, Tokenizer};
use ferrotune_eval::judge::{self, JudgeRequest, LocalJudge};
use ferrotune_nn::{CausalLm, Frozen};
use tch::{Device, Kind};

use crate::{
    AutoCausalLm, BaseConfig, Error, LoadOptions, PromptText, Result, ScoredModel, device_name, kind_name,
    weights_digest,
};

/// A model with its tokenizer, both owned.
#[derive(Debug)]
pub(super) struct Owned {
    model: Box<dyn CausalLm>,
    tokenizer: Tokenizer,
}

impl Owned {
    fn scored(&self) -> ScoredModel<'_, Tokenizer> {
        ScoredModel::new(self.model.as_ref(), &self.tokenizer).with_prompts(PromptText::Markup)
    }
}

impl LanguageModel for Owned {
    fn log_likelihoods(&mut self, requests: &[Continuation]) -> Result<Vec<Likelihood>, BoxError> {
        self.scored().log_likelihoods(requests)
    }

    fn generate(
        &mut self,
        prompts: &[String],
        limits: &GenerationLimits,
    ) -> Result<Vec<Generation>, BoxError> {
        self.scored().generate(prompts, limits)
    }
}

/// The judge in a model folder, spoken to through the folder's own chat template.
///
/// # Errors
/// [`Error::Setting`] for a folder without a chat template: a base model cannot be told to judge. What opening the folder
/// gives.
pub(super) fn open(folder: &Path, device: Device, kind: Kind) -> Result<LocalJudge<Owned>> {
    let opened = AutoCausalLm::open(folder)?;
    let template = ChatTemplate::open(folder)?.ok_or_else(|| Error::Setting {
        setting: "judge.local".into(),
        found: format!("`{}`, which has no chat template", folder.display()),
        expected:
            "an instruct model: a folder with chat_template.jinja, or chat_template in tokenizer_config.json"
                .to_owned(),
    })?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let (ids, vocabulary) = (tokenizer.vocabulary_size(), opened.vocabulary_size());
    if ids as i64 > vocabulary {
        return Err(Error::VocabularyMismatch {
            folder: folder.to_owned(),
            tokenizer: ids,
            model: vocabulary,
        });
    }
    let (storage, _) = BaseConfig::default().storage(&opened)?;
    let model = opened.load(&LoadOptions::new(device, kind), &mut Frozen::new(storage))?;
    let weights = weights_digest(folder)?;
    let system = SystemTurn::of(&template);
    let fingerprint = template.fingerprint().to_owned();
    let tokenizer_sha = tokenizer.fingerprint().to_owned();
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    let write = move |request: &JudgeRequest| template.prompt(&system.messages(request));
    Ok(LocalJudge::new(name, Owned { model, tokenizer }, write)
        .with_param("weights_sha256", weights)
        .with_param("tokenizer_sha", tokenizer_sha)
        .with_param("template_sha", fingerprint)
        .with_param("system_message", system.name())
        .with_param("dtype", kind_name(kind))
        .with_param("device", device_name(device)))
}

/// Where the system message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SystemTurn {
    /// In a turn of its own.
    Own,
    /// Before the first question: the template refuses a system message (Mistral's first ones do), or leaves it out.
    InFirstQuestion,
}

impl SystemTurn {
    fn of(template: &ChatTemplate) -> Self {
        const PROBE: &str = "You examine answers.";
        let messages = [Message::new(Role::System, PROBE), Message::new(Role::User, "Is this one right?")];
        match template.prompt(&messages) {
            Ok(text) if text.contains(PROBE) => Self::Own,
            _ => Self::InFirstQuestion,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Own => "own turn",
            Self::InFirstQuestion => "before the first question",
        }
    }

    fn messages(self, request: &JudgeRequest) -> Vec<Message> {
        let role = |role| match role {
            judge::Role::User => Role::User,
            judge::Role::Assistant => Role::Assistant,
        };
        let mut messages: Vec<Message> =
            request.messages.iter().map(|turn| Message::new(role(turn.role), &turn.content)).collect();
        match (self, messages.first_mut()) {
            _ if request.system.is_empty() => {}
            (Self::InFirstQuestion, Some(first)) => {
                first.content = format!("{}\n\n{}", request.system, first.content);
            }
            _ => messages.insert(0, Message::new(Role::System, &request.system)),
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, std::collections::BTreeMap::new()).unwrap()
    }

    fn texts(system: SystemTurn) -> Vec<(Role, String)> {
        let request = JudgeRequest {
            system: "Be fair.".to_owned(),
            messages: vec![
                judge::Message { role: judge::Role::User, content: "Q".to_owned() },
                judge::Message { role: judge::Role::Assistant, content: "prose".to_owned() },
                judge::Message { role: judge::Role::User, content: "Again.".to_owned() },
            ],
            ..JudgeRequest::default()
        };
        system.messages(&request).into_iter().map(|message| (message.role, message.content)).collect()
    }

    #[test]
    fn a_system_message_reaches_every_judge() {
        let turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
        assert_eq!(SystemTurn::of(&template(turns)), SystemTurn::Own);
        let refusing = format!(
            "{{% if messages[0].role == 'system' %}}{{{{ raise_exception('no system') }}}}{{% endif %}}{turns}"
        );
        assert_eq!(SystemTurn::of(&template(&refusing)), SystemTurn::InFirstQuestion);
        let dropping =
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}";
        assert_eq!(SystemTurn::of(&template(dropping)), SystemTurn::InFirstQuestion);
        let rest = [(Role::Assistant, "prose".to_owned()), (Role::User, "Again.".to_owned())];
        let own = texts(SystemTurn::Own);
        assert_eq!(own[..2], [(Role::System, "Be fair.".to_owned()), (Role::User, "Q".to_owned())]);
        assert_eq!(own[2..], rest);
        let merged = texts(SystemTurn::InFirstQuestion);
        assert_eq!(merged[0], (Role::User, "Be fair.\n\nQ".to_owned()));
        assert_eq!(merged[1..], rest);
    }
}
