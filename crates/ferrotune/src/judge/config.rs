//! A judge as its user describes it.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ferrotune_eval::{
    OnFailure,
    judge::{ApiKey, ChatOptions, EndpointOptions, JsonMode, JudgingOptions, Limits, Price, TokenLimitField},
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Texts in one request for vectors.
pub(super) const EMBEDDINGS_BATCH: usize = 64;

/// Who judges, how, and at what price. At most one of [`url`](Self::url), [`local`](Self::local) and
/// [`replies`](Self::replies); a setting that would change nothing is refused by name.
///
/// ```
/// let judge: ferrotune::JudgeConfig = toml::from_str(r#"
///     url = "https://api.openai.com/v1"
///     model = "gpt-4-0613"
///     key_env = "OPENAI_API_KEY"
///     cache = "judge.jsonl"
///     prompt_price = 30.0
///     reply_price = 60.0
/// "#)?;
/// judge.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeConfig {
    /// Base address of an OpenAI-compatible server, such as `https://api.openai.com/v1`.
    pub url: Option<String>,
    /// The judge's name there, with its date.
    pub model: Option<String>,
    /// Hugging Face folder of an instruct model that judges on this machine.
    pub local: Option<PathBuf>,
    /// Replies that were written down: JSON Lines with `sample`, `purpose` and `text`.
    pub replies: Option<PathBuf>,
    /// Keeps every reply and vector, so that a run that was interrupted resumes without asking twice.
    pub cache: Option<PathBuf>,
    /// Whether the judge is asked once more where the cache holds no reply that can be used. Without it a run that is repeated
    /// fails as before, at no cost.
    pub retry_unusable: bool,
    /// How often each sample is judged, 1 where absent; its score is the mean.
    pub repeats: Option<u32>,
    /// The longest reply in tokens, 2,048 where absent.
    pub max_tokens: Option<u32>,
    /// At which temperature replies are drawn, 0 where absent; `none` sends none, for models that accept none.
    pub temperature: Option<JudgeTemperature>,
    /// The field that bounds a reply's length, `max_tokens` where absent; reasoning models want `max_completion_tokens`.
    pub token_limit_field: Option<TokenLimitField>,
    /// Whether the server is told to reply in JSON, `ask` where absent; `leave` for servers that refuse the field.
    pub json_mode: Option<JsonMode>,
    /// Environment variable with the key, of the judge and of the embeddings; without it none is sent.
    pub key_env: Option<String>,
    /// The longest wait for a reply in seconds, 120 where absent.
    pub timeout: Option<u64>,
    /// Requests under way at the same time, 4 where absent.
    pub concurrency: Option<usize>,
    /// Requests that may begin within a minute.
    pub requests_per_minute: Option<usize>,
    /// Tokens that requests begun within a minute may cost.
    pub tokens_per_minute: Option<u64>,
    /// Price of a million tokens of questions, in the user's currency.
    pub prompt_price: Option<f64>,
    /// Price of a million tokens of replies.
    pub reply_price: Option<f64>,
    /// Base address of an OpenAI-compatible server whose vectors take the sentence encoder's place.
    pub embeddings_url: Option<String>,
    /// That server's name of the vectors' model.
    pub embeddings_model: Option<String>,
    /// Price of a million tokens that are made vectors of.
    pub embeddings_price: Option<f64>,
}

/// At which temperature a judge replies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Spelt", into = "Spelt")]
pub enum JudgeTemperature {
    /// This one; 0 is greedy.
    At(f64),
    /// The judge's own: none is sent. What users write as `none`.
    Own,
}

/// A temperature as files spell it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Spelt {
    Number(f64),
    Word(String),
}

impl TryFrom<Spelt> for JudgeTemperature {
    type Error = Error;

    fn try_from(spelt: Spelt) -> Result<Self> {
        match spelt {
            Spelt::Number(number) => Ok(Self::At(number)),
            Spelt::Word(word) => word.parse(),
        }
    }
}

impl From<JudgeTemperature> for Spelt {
    fn from(temperature: JudgeTemperature) -> Self {
        match temperature {
            JudgeTemperature::At(number) => Self::Number(number),
            JudgeTemperature::Own => Self::Word("none".to_owned()),
        }
    }
}

impl FromStr for JudgeTemperature {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        if word == "none" {
            return Ok(Self::Own);
        }
        let wrong = |_| refused("temperature", format!("`{word}`"), "a number not below 0, or none");
        word.parse().map(Self::At).map_err(wrong)
    }
}

/// What a setting needs to have an effect.
#[derive(Clone, Copy)]
enum Needs {
    /// A judge of any kind.
    Judge,
    /// A judge with a file of its replies.
    JudgeWithCache,
    /// A judge that draws its replies.
    Drawing,
    /// A judge whose tokens are paid for.
    Paid,
    /// A judge behind a server.
    JudgeServer,
    /// A server, of a judge or of vectors.
    Server,
    /// A server of vectors.
    Embeddings,
    /// Anything that gives replies or vectors.
    Anything,
}

impl Needs {
    fn are_met(self, config: &JudgeConfig) -> bool {
        let judge_server = config.url.is_some();
        let embeddings = config.embeddings_url.is_some();
        let judge = judge_server || config.local.is_some() || config.replies.is_some();
        match self {
            Self::Judge => judge,
            Self::JudgeWithCache => judge && config.cache.is_some(),
            Self::Drawing => judge_server || config.local.is_some(),
            Self::Paid => judge_server || config.replies.is_some(),
            Self::JudgeServer => judge_server,
            Self::Server => judge_server || embeddings,
            Self::Embeddings => embeddings,
            Self::Anything => judge || embeddings,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Judge => "nothing: it concerns only a judge (judge.url, judge.local or judge.replies)",
            Self::JudgeWithCache => "nothing: it concerns only a judge with a cache (judge.cache)",
            Self::Drawing => {
                "nothing: it concerns only a judge that draws its replies (judge.url or judge.local)"
            }
            Self::Paid => {
                "nothing: it concerns only a judge whose tokens are counted (judge.url or judge.replies)"
            }
            Self::JudgeServer => "nothing: it concerns only a server that judges (judge.url)",
            Self::Server => "nothing: it concerns only a server (judge.url or judge.embeddings_url)",
            Self::Embeddings => "nothing: it concerns only a server of vectors (judge.embeddings_url)",
            Self::Anything => "nothing: it concerns only a judge or a server of vectors",
        }
    }
}

impl JudgeConfig {
    /// Makes the paths relative to a folder, that of the file they stand in.
    pub fn resolve(&mut self, base: &Path) {
        for path in [&mut self.local, &mut self.replies, &mut self.cache].into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// [`Error::Setting`] for two judges, half of a pair of settings, a setting that would change nothing, and numbers out of
    /// range.
    pub fn validate(&self) -> Result<()> {
        let judges = [
            ("url", self.url.is_some()),
            ("local", self.local.is_some()),
            ("replies", self.replies.is_some()),
        ];
        let named: Vec<&str> = judges.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if named.len() > 1 {
            return Err(refused("judge", named.join(" and "), "one of url, local and replies"));
        }
        let pairs = [
            ("judge.url", &self.url, "judge.model", &self.model),
            ("judge.embeddings_url", &self.embeddings_url, "judge.embeddings_model", &self.embeddings_model),
        ];
        for (url, has_url, model, has_model) in pairs {
            if has_url.is_some() != has_model.is_some() {
                let lacking = if has_url.is_some() { model } else { url };
                return Err(refused(lacking, "absent".to_owned(), &format!("{url} and {model} together")));
            }
        }
        if self.prompt_price.is_some() != self.reply_price.is_some() {
            let lacking =
                if self.prompt_price.is_some() { "judge.reply_price" } else { "judge.prompt_price" };
            return Err(refused(lacking, "absent".to_owned(), "both prices, or neither"));
        }
        self.refuse_what_changes_nothing()?;
        for (setting, price) in [
            ("judge.prompt_price", self.prompt_price),
            ("judge.reply_price", self.reply_price),
            ("judge.embeddings_price", self.embeddings_price),
        ] {
            if let Some(price) = price.filter(|price| !price.is_finite() || *price < 0.0) {
                return Err(refused(setting, price.to_string(), "a number not below 0"));
            }
        }
        if self.timeout == Some(0) {
            return Err(refused("judge.timeout", "0".to_owned(), "at least 1 second"));
        }
        Ok(())
    }

    fn refuse_what_changes_nothing(&self) -> Result<()> {
        let shown = |value: &dyn ToString| value.to_string();
        let spelt = |value: Result<String, serde_json::Error>| value.unwrap_or_default().replace('"', "");
        let word = |value: &Option<JsonMode>| value.as_ref().map(|mode| spelt(serde_json::to_string(mode)));
        let settings = [
            ("judge.cache", self.cache.as_ref().map(|path| path.display().to_string()), Needs::Anything),
            ("judge.retry_unusable", self.retry_unusable.then(|| "true".to_owned()), Needs::JudgeWithCache),
            ("judge.repeats", self.repeats.map(|n| shown(&n)), Needs::Judge),
            ("judge.max_tokens", self.max_tokens.map(|n| shown(&n)), Needs::Judge),
            (
                "judge.temperature",
                self.temperature.map(|temperature| spelt(serde_json::to_string(&temperature))),
                Needs::Drawing,
            ),
            (
                "judge.token_limit_field",
                self.token_limit_field.map(|field| spelt(serde_json::to_string(&field))),
                Needs::JudgeServer,
            ),
            ("judge.json_mode", word(&self.json_mode), Needs::JudgeServer),
            ("judge.key_env", self.key_env.clone(), Needs::Server),
            ("judge.timeout", self.timeout.map(|n| shown(&n)), Needs::Server),
            ("judge.concurrency", self.concurrency.map(|n| shown(&n)), Needs::Server),
            ("judge.requests_per_minute", self.requests_per_minute.map(|n| shown(&n)), Needs::Server),
            ("judge.tokens_per_minute", self.tokens_per_minute.map(|n| shown(&n)), Needs::Server),
            ("judge.prompt_price", self.prompt_price.map(|price| shown(&price)), Needs::Paid),
            ("judge.embeddings_price", self.embeddings_price.map(|price| shown(&price)), Needs::Embeddings),
        ];
        for (setting, value, needs) in settings {
            if let Some(found) = value.filter(|_| !needs.are_met(self)) {
                return Err(refused(setting, found, needs.name()));
            }
        }
        Ok(())
    }

    /// A server's address with how it may be asked.
    pub(super) fn endpoint(&self, url: &str, model: &str) -> EndpointOptions {
        let usual = EndpointOptions::new(url, model);
        EndpointOptions {
            request_timeout: self.timeout.map_or(usual.request_timeout, Duration::from_secs),
            limits: Limits {
                concurrency: self.concurrency.unwrap_or(usual.limits.concurrency),
                requests_per_minute: self.requests_per_minute,
                tokens_per_minute: self.tokens_per_minute,
            },
            ..usual
        }
    }

    pub(super) fn key(&self) -> Result<Option<ApiKey>> {
        Ok(self.key_env.as_deref().map(ApiKey::from_environment).transpose()?)
    }

    pub(super) fn chat_options(&self) -> ChatOptions {
        ChatOptions {
            json_mode: self.json_mode.unwrap_or_default(),
            token_limit_field: self.token_limit_field.unwrap_or_default(),
        }
    }

    /// The price of vectors, which have no replies.
    pub(super) fn embeddings_price(&self) -> Option<Price> {
        self.embeddings_price.map(|price| Price { prompt_per_million: price, completion_per_million: 0.0 })
    }

    /// How the judge is asked, and what its failures mean.
    pub(super) fn options(&self, seed: u64, on_failure: OnFailure) -> JudgingOptions {
        let usual = JudgingOptions::default();
        let prices = self.prompt_price.zip(self.reply_price);
        JudgingOptions {
            temperature: match self.temperature {
                Some(JudgeTemperature::At(temperature)) => Some(temperature),
                Some(JudgeTemperature::Own) => None,
                None => usual.temperature,
            },
            max_tokens: self.max_tokens.unwrap_or(usual.max_tokens),
            seed: Some(seed),
            repeats: self.repeats.unwrap_or(usual.repeats),
            retry_unusable: self.retry_unusable,
            on_failure,
            price: prices.map(|(prompt_per_million, completion_per_million)| Price {
                prompt_per_million,
                completion_per_million,
            }),
            ..usual
        }
    }
}

fn refused(setting: &'static str, found: String, expected: &str) -> Error {
    Error::Setting { setting: setting.into(), found, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let config: JudgeConfig = toml::from_str(text).unwrap();
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_sense_or_changes_nothing_is_refused_by_name() {
        for (text, setting) in [
            ("url = \"u\"\nmodel = \"m\"\nlocal = \"d\"", "`judge` is url and local"),
            ("url = \"u\"", "`judge.model` is absent"),
            ("model = \"m\"", "`judge.url` is absent"),
            ("embeddings_url = \"u\"", "`judge.embeddings_model` is absent"),
            ("replies = \"f\"\nprompt_price = 1", "`judge.reply_price` is absent"),
            ("cache = \"c\"", "`judge.cache` is c"),
            ("repeats = 2\nembeddings_url = \"u\"\nembeddings_model = \"m\"", "`judge.repeats` is 2"),
            ("replies = \"f\"\nretry_unusable = true", "`judge.retry_unusable` is true"),
            ("replies = \"f\"\ntemperature = \"none\"", "`judge.temperature` is none"),
            ("local = \"d\"\njson_mode = \"leave\"", "`judge.json_mode` is leave"),
            ("local = \"d\"\ntoken_limit_field = \"max_tokens\"", "`judge.token_limit_field` is max_tokens"),
            ("local = \"d\"\ntimeout = 5", "`judge.timeout` is 5"),
            ("replies = \"f\"\nconcurrency = 5", "`judge.concurrency` is 5"),
            ("local = \"d\"\nprompt_price = 1\nreply_price = 1", "`judge.prompt_price` is 1"),
            ("replies = \"f\"\nembeddings_price = 1", "`judge.embeddings_price` is 1"),
            ("replies = \"f\"\nprompt_price = -1\nreply_price = 1", "`judge.prompt_price` is -1"),
            ("url = \"u\"\nmodel = \"m\"\ntimeout = 0", "`judge.timeout` is 0"),
        ] {
            assert!(refusal(text).contains(setting), "{text}: {}", refusal(text));
        }
        JudgeConfig::default().validate().unwrap();
    }

    #[test]
    fn a_temperature_is_a_number_or_none() {
        let temperature = |text: &str| {
            let config: Result<JudgeConfig, _> = toml::from_str(&format!("local = \"d\"\n{text}"));
            config.ok().map(|config| config.options(0, OnFailure::Skip).temperature)
        };
        assert_eq!(temperature(""), Some(Some(0.0)));
        assert_eq!(temperature("temperature = 1"), Some(Some(1.0)));
        assert_eq!(temperature("temperature = 0.5"), Some(Some(0.5)));
        assert_eq!(temperature("temperature = \"none\""), Some(None));
        assert_eq!(temperature("temperature = \"warm\""), None);
    }
}
