use crate::BoxError;

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Who sets the rules; at most the first message.
    System,
    /// Who asks.
    User,
    /// Who answers: the model.
    Assistant,
}

impl Role {
    /// The word that chat templates compare with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// How a model wants a conversation written down; implementors provide both methods.
///
/// What they return goes into a prompt of [`LanguageModel`](crate::LanguageModel) as it is.
pub trait PromptTemplate: std::fmt::Debug + Send + Sync {
    /// The text of a conversation up to where the model answers.
    ///
    /// An error where the template refuses the conversation, as many do with a system message.
    fn prompt(&self, messages: &[Message]) -> Result<String, BoxError>;

    /// Names the template in records: a digest of everything that changes what [`prompt`](Self::prompt) returns.
    fn fingerprint(&self) -> &str;
}
