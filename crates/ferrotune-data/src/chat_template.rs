//! A checkpoint's own chat template: the Jinja program that writes a conversation down as the model was trained on it.
//!
//! It is run as transformers runs it (blocks trimmed, Python's string methods, `raise_exception`, `strftime_now`, `tojson`
//! as Python writes JSON), with the special tokens' texts as variables. What comes out spells special tokens; it becomes
//! ids through [`Tokenize::encode_markup`](ferrotune_core::Tokenize::encode_markup).
//!
//! *Source*: `transformers/utils/chat_template_utils.py`, 5.23.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use ferrotune_core::{BoxError, Message, PromptTemplate, Role, digest};
use minijinja::{Environment, ErrorKind, Value as Jinja, context, syntax::SyntaxConfig, value::Kwargs};
use serde_json::Value;

use crate::{Error, special, template};

/// Bounds what a template may do, so that a loop without end is an error; hundreds of turns take a hundredth of it.
const FUEL: u64 = 2_000_000;

/// Whether the text ends where the model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// With what introduces the model's turn.
    Added,
    /// After the last message.
    Omitted,
}

/// A model folder's chat template.
///
/// ```
/// use ferrotune_core::{Message, Role};
/// use ferrotune_data::{ChatTemplate, GenerationPrompt};
/// let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{{ eos_token }}{% endfor %}\
///               {% if add_generation_prompt %}<|assistant|>{% endif %}";
/// let template = ChatTemplate::new(source, [("eos_token".to_owned(), "</s>".to_owned())].into())?;
/// let text = template.render(&[Message::new(Role::User, " Hi ")], GenerationPrompt::Added)?;
/// assert_eq!(text, "<|user|>Hi</s><|assistant|>");
/// # Ok::<(), ferrotune_data::Error>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: BTreeMap<String, String>,
    fingerprint: String,
    path: PathBuf,
}

/// The name that the program has among the environment's templates.
const PROGRAM: &str = "chat_template";

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`, where of
    /// several named ones `default` is taken. `None` where the folder has neither, as base checkpoints do.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::TokenizerFile`] for a configuration that cannot be understood; [`Error::ChatTemplate`]
    /// for a template that is no Jinja.
    pub fn open(folder: &Path) -> Result<Option<Self>, Error> {
        let config_path = folder.join("tokenizer_config.json");
        let config = special::read_object(&config_path)?.unwrap_or_default();
        let file = folder.join("chat_template.jinja");
        let (source, path) = match std::fs::read_to_string(&file) {
            Ok(source) => (source, file),
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => {
                let invalid = |problem: &str| Error::TokenizerFile {
                    path: config_path.clone(),
                    problem: problem.to_owned(),
                };
                match config.get("chat_template") {
                    None | Some(Value::Null) => return Ok(None),
                    Some(Value::String(source)) => (source.clone(), config_path),
                    Some(Value::Array(named)) => {
                        let is_default = |entry: &&Value| entry["name"] == "default";
                        let source =
                            named.iter().find(is_default).and_then(|entry| entry["template"].as_str());
                        let source = source.ok_or_else(|| {
                            invalid("`chat_template` is a list without one named `default`")
                        })?;
                        (source.to_owned(), config_path)
                    }
                    Some(_) => {
                        return Err(invalid("`chat_template` is neither a text nor a list of named texts"));
                    }
                }
            }
            Err(source) => return Err(Error::Read { path: file, source }),
        };
        let mut special = BTreeMap::new();
        let map = special::read_object(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
        for (name, value) in map.as_object().into_iter().chain(config.as_object()).flatten() {
            if name.ends_with("_token")
                && let Some(token) = special::content(value)
            {
                special.insert(name.clone(), token.to_owned());
            }
        }
        Self::compiled(&source, special, path).map(Some)
    }

    /// A template from its source, with the texts of special tokens by their names (`bos_token`, …).
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if it is no Jinja.
    pub fn new(source: &str, special: BTreeMap<String, String>) -> Result<Self, Error> {
        Self::compiled(source, special, PathBuf::from(PROGRAM))
    }

    fn compiled(source: &str, special: BTreeMap<String, String>, path: PathBuf) -> Result<Self, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|problem| refused(&path, &problem))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Jinja, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        let fingerprint = digest::of_bytes(format!("{source}\n{special:?}").as_bytes());
        environment
            .add_template_owned(PROGRAM, without_generation_marks(source))
            .map_err(|problem| refused(&path, &problem))?;
        Ok(Self { environment, special, fingerprint, path })
    }

    /// The error of a template that cannot be used in this way.
    pub(crate) fn refusal(&self, problem: &str) -> Error {
        Error::ChatTemplate { path: self.path.clone(), problem: problem.to_owned() }
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] with what the template says, as when it wants roles to alternate.
    pub fn render(&self, messages: &[Message], generation: GenerationPrompt) -> Result<String, Error> {
        let refused = |problem: minijinja::Error| refused(&self.path, &problem);
        let turn =
            |message: &Message| context! { role => message.role.name(), content => message.content.clone() };
        let messages: Vec<Jinja> = messages.iter().map(turn).collect();
        let special = Jinja::from_pairs(&self.special);
        let variables = context! {
            messages,
            tools => (),
            documents => (),
            add_generation_prompt => generation == GenerationPrompt::Added,
            ..special
        };
        self.environment.get_template(PROGRAM).and_then(|program| program.render(variables)).map_err(refused)
    }
}

impl PromptTemplate for ChatTemplate {
    fn prompt(&self, messages: &[Message]) -> Result<String, BoxError> {
        Ok(self.render(messages, GenerationPrompt::Added)?)
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// The study's template for prompts of a single turn: what a model that was fine-tuned here has seen.
///
/// It refuses a system message, since the study's preamble stands in that place, and conversations, whose turns are
/// separated by ids that no text spells.
#[derive(Clone, Copy, Debug, Default)]
pub struct StudyTemplate;

impl PromptTemplate for StudyTemplate {
    fn prompt(&self, messages: &[Message]) -> Result<String, BoxError> {
        match messages {
            [Message { role: Role::User, content }] => Ok(template::prompt(content)),
            _ => Err("the study's template takes one message of the user".into()),
        }
    }

    fn fingerprint(&self) -> &str {
        template::TEMPLATE
    }
}

fn refused(path: &Path, problem: &minijinja::Error) -> Error {
    let detail = problem.detail().map_or_else(|| problem.kind().to_string(), str::to_owned);
    let line = problem.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    Error::ChatTemplate { path: path.to_owned(), problem: format!("{detail}{line}") }
}

/// `{% generation %}` marks the model's turns for training on them and writes nothing.
fn without_generation_marks(source: &str) -> String {
    let mut rest = source;
    let mut out = String::with_capacity(source.len());
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + length + 2];
        let word = tag[2..tag.len() - 2].trim_matches(['-', '+', ' ', '\n', '\t', '\r']);
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&tag.replacen(word, "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen(word, "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    out + rest
}

/// The time of this machine under a format of `strftime`.
fn strftime_now(format: String) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(&format)).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("`{format}` is no format of a time"))
    })?;
    Ok(text)
}

/// JSON as Python's `json.dumps` writes it.
fn tojson(value: Jinja, options: Kwargs) -> Result<String, minijinja::Error> {
    let failed =
        |problem: String| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {problem}"));
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let style = Json {
        is_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        is_sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        separators: match separators.as_deref() {
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
            Some([item, key]) => (item.clone(), key.clone()),
            Some(other) => return Err(failed(format!("{} separators, expected 2", other.len()))),
        },
    };
    options.assert_all_used()?;
    let value = serde_json::to_value(&value).map_err(|problem| failed(problem.to_string()))?;
    let mut out = String::new();
    style.write(&mut out, &value, 0);
    Ok(out)
}

struct Json {
    is_ascii: bool,
    is_sorted: bool,
    indent: Option<usize>,
    separators: (String, String),
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) {
        match value {
            Value::Array(items) if !items.is_empty() => {
                self.block(out, "[]", depth, items, |this, out, item| this.write(out, item, depth + 1));
            }
            Value::Object(fields) if !fields.is_empty() => {
                let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
                if self.is_sorted {
                    fields.sort_by_key(|(name, _)| *name);
                }
                self.block(out, "{}", depth, &fields, |this, out, (name, value)| {
                    this.text(out, name);
                    out.push_str(&this.separators.1);
                    this.write(out, value, depth + 1);
                });
            }
            Value::String(text) => self.text(out, text),
            other => out.push_str(&other.to_string()),
        }
    }

    fn block<T>(
        &self,
        out: &mut String,
        brackets: &str,
        depth: usize,
        items: &[T],
        write: impl Fn(&Self, &mut String, &T),
    ) {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.push_str(&" ".repeat(indent * depth));
            }
        };
        out.push_str(&brackets[..1]);
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                out.push_str(&self.separators.0);
            }
            line(out, depth + 1);
            write(self, out, item);
        }
        line(out, depth);
        out.push_str(&brackets[1..]);
    }

    fn text(&self, out: &mut String, text: &str) {
        let quoted = Value::from(text).to_string();
        if !self.is_ascii {
            // serde_json leaves U+007F as it is, as Python does.
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}
