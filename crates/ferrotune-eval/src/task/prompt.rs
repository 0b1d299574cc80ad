//! A question with its examples, and how it becomes the text that a model reads.

use std::sync::Arc;

use ferrotune_core::{Message, PromptTemplate, Role, digest};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A question before it has a form: the parts that every suite's prompt is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Before everything else, with its own line ends; empty for none. A system message in chats.
    pub description: String,
    /// Questions with their answers.
    pub examples: Vec<Example>,
    /// The question itself, up to where the answer begins.
    pub question: String,
    /// Between a question and its answer: part of a choice in plain text, dropped where a chat turn ends.
    pub delimiter: String,
    /// What the answer is made to begin with; empty for nothing.
    pub answer_prefix: String,
}

/// A question with the answer that is shown for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// As [`Prompt::question`].
    pub question: String,
    /// What stands in the answer's place.
    pub answer: String,
}

/// Between examples, in every suite that is matched here.
const EXAMPLE_SEPARATOR: &str = "\n\n";

/// How a [`Prompt`] becomes text.
#[derive(Clone, Debug, Default)]
pub enum PromptStyle {
    /// One text: description, examples and question one after the other, as lm-evaluation-harness does without a chat
    /// template.
    #[default]
    Plain,
    /// A conversation written down by a template.
    Template {
        /// The model's own, or the one it was trained with.
        template: Arc<dyn PromptTemplate>,
        /// Where examples go.
        turns: Turns,
    },
}

/// Where the examples of a prompt go in a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// Into one turn of the user with the question, lm-evaluation-harness' default.
    #[default]
    One,
    /// Into turns of their own, its `fewshot_as_multiturn`.
    PerExample,
}

impl PromptStyle {
    /// Names the style in records.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Template { turns: Turns::One, .. } => "template, one turn",
            Self::Template { turns: Turns::PerExample, .. } => "template, a turn per example",
        }
    }

    /// The digest of the template, if there is one.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        match self {
            Self::Plain => None,
            Self::Template { template, .. } => Some(template.fingerprint()),
        }
    }

    /// The text that a model reads before it answers.
    ///
    /// A template that refuses a system message gets the description at the beginning of the user's first turn instead.
    ///
    /// # Errors
    /// [`Error::Template`] with what the template said.
    pub fn render(&self, prompt: &Prompt) -> Result<String> {
        let Self::Template { template, turns } = self else { return Ok(prompt.plain()) };
        let conversation = prompt.conversation(*turns, System::Apart);
        let rendered = match template.prompt(&conversation) {
            Err(_) if !prompt.description.is_empty() => {
                template.prompt(&prompt.conversation(*turns, System::InFirstTurn))
            }
            other => other,
        };
        let text = rendered.map_err(|source| Error::Template { source })?;
        Ok(text + &prompt.answer_prefix)
    }

    /// What stands between the text of [`render`](Self::render) and an answer.
    #[must_use]
    pub fn delimiter<'p>(&self, prompt: &'p Prompt) -> &'p str {
        let joins = match self {
            Self::Plain => true,
            // The answer begins a turn, unless that turn has begun with words.
            Self::Template { .. } => {
                prompt.answer_prefix.chars().next_back().is_some_and(|c| !c.is_whitespace())
            }
        };
        if joins { &prompt.delimiter } else { "" }
    }
}

/// Where the description goes in a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Apart,
    InFirstTurn,
}

impl Prompt {
    /// A question after its examples, answered after a space.
    pub(super) fn after(examples: Vec<Example>, question: String) -> Self {
        Self { examples, question, delimiter: " ".to_owned(), ..Self::default() }
    }

    /// Description, examples, question and the answer's beginning as one text.
    #[must_use]
    pub fn plain(&self) -> String {
        let mut text = self.description.clone() + &self.examples_and_question();
        if !self.answer_prefix.is_empty() {
            let touching = !text.ends_with(char::is_whitespace)
                && !self.answer_prefix.starts_with(char::is_whitespace)
                && !text.is_empty();
            if touching {
                text.push_str(&self.delimiter);
            }
            text.push_str(&self.answer_prefix);
        }
        text
    }

    fn examples_and_question(&self) -> String {
        let mut text = String::new();
        for example in &self.examples {
            for part in [&example.question, &self.delimiter, &example.answer, EXAMPLE_SEPARATOR] {
                text.push_str(part);
            }
        }
        text + &self.question
    }

    fn conversation(&self, turns: Turns, system: System) -> Vec<Message> {
        let mut messages = Vec::new();
        if system == System::Apart && !self.description.is_empty() {
            messages.push(Message::new(Role::System, &self.description));
        }
        match turns {
            Turns::One => messages.push(Message::new(Role::User, self.examples_and_question())),
            Turns::PerExample => {
                for example in &self.examples {
                    messages.push(Message::new(Role::User, &example.question));
                    messages.push(Message::new(Role::Assistant, &example.answer));
                }
                messages.push(Message::new(Role::User, &self.question));
            }
        }
        if system == System::InFirstTurn
            && let Some(first) = messages.first_mut()
        {
            first.content.insert_str(0, &self.description);
        }
        messages
    }
}

/// The digest that per-sample files name a rendered prompt by.
pub(super) fn sha(text: &str) -> String {
    digest::of_bytes(text.as_bytes())
}
