//! The client behind the endpoints: one POST of JSON, within limits, with retries.

use std::{
    env, fmt, io,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ferrotune_core::digest;
use serde_json::Value;
use ureq::{
    Agent,
    http::{Uri, header::RETRY_AFTER},
};

use super::{
    Clock, JudgeError, Limits, RetryPolicy, SystemClock, TokenUsage, limits::Limiter,
    retry::parse_retry_after,
};
use crate::{Error, Result};

/// The longest body that is read, in bytes; embeddings of a large batch are a few megabytes.
const LONGEST_BODY: u64 = 64 << 20;

/// How much of a server's own words goes into an error, in characters.
const EXCERPT: usize = 300;

/// A server, what it may be asked, and how patiently.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointOptions {
    /// The base address, such as `https://api.openai.com/v1` or `http://127.0.0.1:8000/v1`; the path of the task is added
    /// unless it is there already, before a query such as `?api-version=…`. Only `http` and `https`, and no key in it.
    pub url: String,
    /// The model's name, as the server knows it.
    pub model: String,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest wait for a whole request, from connecting to the last byte of the reply.
    pub request_timeout: Duration,
    /// What happens after a fault.
    pub retry: RetryPolicy,
    /// How much at once, and how much a minute.
    pub limits: Limits,
}

impl EndpointOptions {
    /// A model behind an address; 10 seconds to connect, 2 minutes for a reply, the usual retries and limits.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(120),
            retry: RetryPolicy::default(),
            limits: Limits::default(),
        }
    }
}

/// A secret that goes into the requests' `Authorization` header and nowhere else: `Debug` does not show it, records and
/// caches do not hold it, and it is blotted out where a server repeats it in an error.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key as it is.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key in an environment variable.
    ///
    /// # Errors
    /// [`Error::ApiKey`] if the variable is not set, empty, or not a header's text.
    pub fn from_environment(variable: &str) -> Result<Self> {
        let wrong = |problem| Error::ApiKey { variable: variable.to_owned(), problem };
        let key = env::var(variable).map_err(|_| wrong("is not set"))?;
        let key = key.trim();
        if key.is_empty() {
            return Err(wrong("is empty"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("holds characters that a key cannot have"));
        }
        Ok(Self(key.to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// One address of a server that takes JSON and gives JSON.
pub(super) struct Endpoint {
    agent: Agent,
    /// The full address.
    url: String,
    model: String,
    key: Option<ApiKey>,
    retry: RetryPolicy,
    limiter: Limiter,
    clock: Arc<dyn Clock>,
    /// Why the server answers no request at all, once it has said so.
    refused: OnceLock<String>,
    /// Whether it was ever reached.
    is_reached: AtomicBool,
    /// Whether the first fault was told.
    has_warned: AtomicBool,
}

/// What came of a request that was answered.
#[derive(Debug)]
pub(super) struct Answered<T> {
    pub(super) value: T,
    /// What the server counted.
    pub(super) tokens: Option<u64>,
    pub(super) retries: u32,
    /// What the server counted for replies that held nothing to be read.
    pub(super) wasted: TokenUsage,
    pub(super) latency: Duration,
}

/// What came of one attempt.
enum Attempt<T> {
    /// The value, and how many tokens the server counted.
    Done(T, Option<u64>),
    /// Another attempt may succeed, after this wait if the server named one.
    Fault { detail: String, retry_after: Option<Duration>, contact: Contact, billed: TokenUsage },
    /// This request will never be answered.
    Rejected(String),
    /// No request will be.
    Refused(String),
}

/// Whether a server was there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    Made,
    /// Nobody listens at the address, or it has no such name.
    Nobody,
}

impl Endpoint {
    /// `path` is the task's, such as `chat/completions`.
    pub(super) fn new(options: &EndpointOptions, path: &str, key: Option<ApiKey>) -> Result<Self> {
        let uri = parse_url(&options.url)?;
        let (base, query) = match options.url.split_once('?') {
            Some((base, query)) => (base, format!("?{query}")),
            None => (options.url.as_str(), String::new()),
        };
        let base = base.trim_end_matches('/').trim_end_matches(path).trim_end_matches('/');
        let url = format!("{base}/{path}{query}");
        options.retry.check()?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(options.connect_timeout))
            .timeout_global(Some(options.request_timeout))
            .max_idle_connections_per_host(options.limits.concurrency)
            .user_agent(concat!("ferrotune-eval/", env!("CARGO_PKG_VERSION")));
        if uri.host().is_some_and(is_loopback) {
            // A proxy from the environment is another machine, whose loopback is not ours.
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().into(),
            url,
            model: options.model.clone(),
            key,
            retry: options.retry,
            limiter: Limiter::new(options.limits)?,
            clock: Arc::new(SystemClock::new()),
            refused: OnceLock::new(),
            is_reached: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
        })
    }

    pub(super) fn set_clock(&mut self, clock: Arc<dyn Clock>) {
        self.clock = clock;
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn concurrency(&self) -> usize {
        self.limiter.concurrency()
    }

    /// The address as records show it: without a query, which may hold what is nobody's business.
    pub(super) fn shown_url(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }

    /// Posts `body` until `read` finds what it wants in a reply, or a bound is reached. `tokens` is what the request may
    /// cost; `read` gives the value and what it did cost, or says in words what is wrong.
    pub(super) fn post<T>(
        &self,
        body: &Value,
        tokens: u64,
        read: impl Fn(&Value) -> Result<(T, Option<u64>), String>,
    ) -> Result<Answered<T>, JudgeError> {
        let body = body.to_string();
        let stream = u64::from_str_radix(&digest::of_bytes(body.as_bytes())[..16], 16).unwrap_or_default();
        let start = self.clock.now();
        let mut retries = 0;
        let mut wasted = TokenUsage::default();
        loop {
            let (detail, retry_after, contact) = match self.attempt(&body, tokens, &read) {
                Attempt::Done(value, tokens) => {
                    let latency = self.clock.now().saturating_sub(start);
                    return Ok(Answered { value, tokens, retries, wasted, latency });
                }
                Attempt::Refused(detail) => {
                    let detail = self.refused.get_or_init(|| detail).clone();
                    return Err(JudgeError::Refused { detail });
                }
                Attempt::Rejected(detail) => return Err(JudgeError::Unavailable { detail, retries, wasted }),
                Attempt::Fault { detail, retry_after, contact, billed } => {
                    wasted.add(billed);
                    (detail, retry_after, contact)
                }
            };
            let unavailable = |detail| Err(JudgeError::Unavailable { detail, retries, wasted });
            tracing::debug!(url = self.shown_url(), retries, detail, "request failed");
            if contact == Contact::Made {
                self.is_reached.store(true, Ordering::Relaxed);
            }
            if retries + 1 >= self.retry.attempts && !self.is_reached.load(Ordering::Relaxed) {
                let detail =
                    format!("{detail}; nobody was reached in {} attempts, check the address", retries + 1);
                return Err(JudgeError::Refused { detail: self.refused.get_or_init(|| detail).clone() });
            }
            if retries + 1 >= self.retry.attempts {
                return unavailable(format!("{detail} (attempt {} of {0})", retries + 1));
            }
            self.warn_once(&detail);
            match retry_after {
                Some(wait) if wait > self.retry.longest_retry_after => {
                    return unavailable(format!(
                        "{detail}; it asks to wait {} s, longer than the {} s allowed",
                        wait.as_secs(),
                        self.retry.longest_retry_after.as_secs()
                    ));
                }
                // Every request waits, this one too, when it next asks for a grant.
                Some(wait) => self.limiter.hold(&*self.clock, wait),
                None => self.clock.sleep(self.retry.back_off(retries + 1, stream)),
            }
            retries += 1;
        }
    }

    /// Says the first fault of all aloud: waiting for a server without a word looks like hanging.
    fn warn_once(&self, detail: &str) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                attempts = self.retry.attempts,
                "{detail}; such questions are put again after a while, and further faults are told at the level debug"
            );
        }
    }

    fn attempt<T>(
        &self,
        body: &str,
        tokens: u64,
        read: impl Fn(&Value) -> Result<(T, Option<u64>), String>,
    ) -> Attempt<T> {
        let _slot = self.limiter.slot();
        let Some(grant) = self.limiter.grant(&*self.clock, tokens) else {
            return Attempt::Rejected(format!(
                "the request may cost {tokens} tokens, more than the limit of a minute"
            ));
        };
        if let Some(detail) = self.refused.get() {
            return Attempt::Refused(detail.clone());
        }
        let attempt = self.send(body, &read);
        if let Attempt::Done(..) = attempt {
            self.is_reached.store(true, Ordering::Relaxed);
        }
        if let Attempt::Done(_, Some(cost)) = attempt {
            self.limiter.settle(grant, cost);
        }
        attempt
    }

    fn send<T>(&self, body: &str, read: impl Fn(&Value) -> Result<(T, Option<u64>), String>) -> Attempt<T> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(ApiKey(key)) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let fault = |detail: String| Attempt::Fault {
            detail: self.public(&detail),
            retry_after: None,
            contact: Contact::Made,
            billed: TokenUsage::default(),
        };
        let mut response = match request.send(body) {
            Ok(response) => response,
            Err(error) => {
                let detail = self.public(&format!("no reply from {}: {error}", self.shown_url()));
                let (contact, billed) = (contact_of(&error), TokenUsage::default());
                return Attempt::Fault { detail, retry_after: None, contact, billed };
            }
        };
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| parse_retry_after(value, self.clock.wall()));
        let text = match response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec() {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return fault(format!("a reply with HTTP {status} broke off: {error}")),
        };
        let reply: Option<Value> = serde_json::from_str(&text).ok();
        if status == 200 {
            let Some(reply) = reply else {
                return fault(format!("the reply is not JSON: {}", excerpt(&text)));
            };
            return match read(&reply) {
                Ok((value, cost)) => Attempt::Done(value, cost),
                Err(problem) => Attempt::Fault {
                    detail: self.public(&format!("{problem}: {}", excerpt(&text))),
                    retry_after: None,
                    contact: Contact::Made,
                    billed: billed(&reply),
                },
            };
        }
        let said = reply.as_ref().and_then(error_message).unwrap_or(&text);
        let detail = self.public(&format!("HTTP {status}: {}", excerpt(said)));
        match status {
            // An exhausted account answers with the status of a busy server, and no waiting helps.
            429 if reply.as_ref().is_some_and(is_out_of_quota) => Attempt::Refused(detail),
            408 | 409 | 425 | 429 | 500.. => {
                Attempt::Fault { detail, retry_after, contact: Contact::Made, billed: TokenUsage::default() }
            }
            401 | 403 => Attempt::Refused(match self.key {
                Some(_) => format!("{detail}; the API key was not accepted"),
                None => format!("{detail}; no API key was given"),
            }),
            402 | 404 | 405 | 410 => {
                Attempt::Refused(format!("{detail}; check the address and the name of the model"))
            }
            300..=399 => {
                Attempt::Refused(format!("{detail}; redirections are not followed, give the final address"))
            }
            _ => Attempt::Rejected(detail),
        }
    }

    /// The same words without the key.
    fn public(&self, text: &str) -> String {
        match &self.key {
            Some(ApiKey(key)) if !key.is_empty() => text.replace(key.as_str(), "[key]"),
            _ => text.to_owned(),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.shown_url())
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// What a reply says it did cost, whether it holds anything else or not. Embeddings count only what was read.
fn billed(reply: &Value) -> TokenUsage {
    let usage = &reply["usage"];
    let read = usage["prompt_tokens"].as_u64().or_else(|| usage["total_tokens"].as_u64());
    TokenUsage { prompt_tokens: read, completion_tokens: usage["completion_tokens"].as_u64() }
}

fn contact_of(error: &ureq::Error) -> Contact {
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => Contact::Nobody,
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => Contact::Nobody,
        _ => Contact::Made,
    }
}

fn parse_url(url: &str) -> Result<Uri> {
    let wrong = |found: String| Error::Setting {
        option: "url",
        found,
        expected: "an address like `https://host/v1` or `http://127.0.0.1:8000/v1`, without a user, a password or a key",
    };
    let uri: Uri = url.parse().map_err(|error| wrong(format!("`{url}` ({error})")))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(wrong("an address with a user or a password".to_owned()))
        }
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(wrong(format!("`{url}`"))),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `{"error": {"message": …}}`, as most servers say it, or `{"error": …}`, `{"message": …}`, `{"detail": …}`.
fn error_message(reply: &Value) -> Option<&str> {
    let error = &reply["error"];
    error["message"]
        .as_str()
        .or_else(|| error.as_str())
        .or_else(|| reply["message"].as_str())
        .or_else(|| reply["detail"].as_str())
}

fn is_out_of_quota(reply: &Value) -> bool {
    ["code", "type"].iter().any(|field| reply["error"][field] == "insufficient_quota")
}

/// The beginning of a text, on one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(EXCERPT) {
        line.truncate(end);
        line.push('…');
    }
    line
}
