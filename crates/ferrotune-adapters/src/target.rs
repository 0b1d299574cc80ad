//! Which modules an adapter's configuration means: PEFT's rules, on whole segments of module paths.
//!
//! A name in a list matches a path that is equal to it or ends in it after a dot. A string is a regular expression for
//! the whole path. `modules_to_save` alone matches any end of a path. Keys of `rank_pattern` and `alpha_pattern` match as `(.*\.)?(key)`. Modules that are excluded or
//! trained in full are never adapted. Where PEFT stays silent this crate does not: a name that matches nothing is an
//! error when an adapter is made, also if other names of the list match.

use std::collections::BTreeSet;

use fancy_regex::Regex;
use ferrotune_nn::Role;

use crate::{
    Error, LoraConfig, Result,
    config::{ModuleNames, TargetModules},
};

/// What a configuration does with a module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decision {
    /// It stays as it is.
    Frozen,
    /// A product of low rank is added to it.
    Adapted(Scale),
    /// A full copy of it trains.
    Saved,
}

/// Size and weight of an added product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    pub(crate) rank: i64,
    pub(crate) scaling: f64,
}

/// A configuration's rules, compiled, and a record of what they met.
#[derive(Debug)]
pub(crate) struct Rules {
    config: LoraConfig,
    modules: Modules,
    exclude: Option<Names>,
    saved: Vec<Entry>,
    parameters: Vec<Entry>,
    layers: Vec<Regex>,
    rank_pattern: Vec<Pattern<i64>>,
    alpha_pattern: Vec<Pattern<f64>>,
    seen: Vec<Seen>,
    seen_parameters: Vec<String>,
}

#[derive(Debug)]
struct Seen {
    path: String,
    role: Role,
    adapted: bool,
}

#[derive(Debug)]
struct Entry {
    text: String,
    matched: bool,
}

#[derive(Debug)]
enum Modules {
    List(Vec<Entry>),
    Pattern { entry: Entry, regex: Regex },
    Roles { entry: Entry, roles: &'static [Role] },
}

#[derive(Debug)]
enum Names {
    List(Vec<String>),
    Pattern(String, Regex),
}

#[derive(Debug)]
struct Pattern<T> {
    text: String,
    regex: Regex,
    value: T,
    matched: bool,
}

impl Rules {
    /// The rules of a configuration that has been checked.
    pub(crate) fn new(config: &LoraConfig) -> Result<Self> {
        let modules = match &config.target_modules {
            TargetModules::Named(ModuleNames::List(names)) => {
                Modules::List(names.iter().map(Entry::new).collect())
            }
            TargetModules::Named(ModuleNames::Pattern(text)) => {
                Modules::Pattern { entry: Entry::new(text), regex: whole("target_modules", text)? }
            }
            TargetModules::AllLinear => Modules::Roles {
                entry: Entry::new("all-linear"),
                roles: &[Role::Attention, Role::Mlp, Role::Expert],
            },
            TargetModules::PeftAllLinear => {
                Modules::Roles { entry: Entry::new("peft-all-linear"), roles: &[Role::Attention, Role::Mlp] }
            }
        };
        let exclude = match &config.exclude_modules {
            None => None,
            Some(ModuleNames::List(names)) => Some(Names::List(names.clone())),
            Some(ModuleNames::Pattern(text)) => {
                Some(Names::Pattern(text.clone(), whole("exclude_modules", text)?))
            }
        };
        // The first numbered segment is the layer, so that an expert's number is not taken for one.
        let layers = if config.layers_pattern.is_empty() {
            vec![compile("layers_pattern", "", r"\A.*?\.[^.]*\.(?P<idx>\d+)\.")?]
        } else {
            let compiled = config.layers_pattern.iter().map(|text| {
                compile("layers_pattern", text, &format!(r"\A(?:(?:^|.*?\.){text}\.(?P<idx>\d+)\.)"))
            });
            compiled.collect::<Result<_>>()?
        };
        Ok(Self {
            modules,
            exclude,
            saved: config.modules_to_save.iter().map(Entry::new).collect(),
            parameters: config.target_parameters.iter().map(Entry::new).collect(),
            layers,
            rank_pattern: patterns("rank_pattern", &config.rank_pattern)?,
            alpha_pattern: patterns("alpha_pattern", &config.alpha_pattern)?,
            config: config.clone(),
            seen: Vec::new(),
            seen_parameters: Vec::new(),
        })
    }

    /// What happens to the module `path`.
    pub(crate) fn module(&mut self, role: Role, path: &str) -> Result<Decision> {
        let alias = alias(role, path);
        let names: Vec<&str> = std::iter::once(path).chain(alias.as_deref()).collect();
        let decision = self.decide(role, path, &names)?;
        self.seen.push(Seen {
            path: path.to_owned(),
            role,
            adapted: matches!(decision, Decision::Adapted(_)),
        });
        Ok(decision)
    }

    fn decide(&mut self, role: Role, path: &str, names: &[&str]) -> Result<Decision> {
        let mut saved = false;
        for entry in &mut self.saved {
            let here = names.iter().any(|path| holds(&entry.text, path));
            entry.matched |= here;
            saved |= here;
        }
        if saved {
            return Ok(Decision::Saved);
        }
        for path in names {
            if self.excludes(path)? {
                return Ok(Decision::Frozen);
            }
        }
        let mut targeted = false;
        for path in names {
            targeted |= self.targets(role, path)?;
        }
        if !targeted {
            return Ok(Decision::Frozen);
        }
        let what = match role {
            Role::Embedding => "an embedding",
            Role::Norm => "a normalization",
            _ => return Ok(Decision::Adapted(self.scale(path)?)),
        };
        Err(Error::NotAdaptable { path: path.to_owned(), what })
    }

    /// What is added to the parameter `name` (`….mlp.experts.gate_up_proj`, `….q_proj.weight`) because
    /// `target_parameters` names it.
    pub(crate) fn parameter(&mut self, name: &str) -> Result<Option<Scale>> {
        if !self.seen_parameters.iter().any(|seen| seen == name) {
            self.seen_parameters.push(name.to_owned());
        }
        let mut matched = false;
        for entry in &mut self.parameters {
            let here = is_or_ends_in(name, &entry.text);
            entry.matched |= here;
            matched |= here;
        }
        matched.then(|| self.scale(name)).transpose()
    }

    /// Whether everything that was asked for was found. In a file that is read, a name of a list may match nothing, as
    /// long as another does: PEFT wrote it so, and the tensors of the file are accounted for one by one.
    pub(crate) fn finish(&self, lenient: bool) -> Result<()> {
        let mut asked: Vec<(&'static str, &str, bool)> = Vec::new(); // field, entry, whether it matched
        let entries = match &self.modules {
            Modules::List(entries) => entries.as_slice(),
            Modules::Pattern { entry, .. } | Modules::Roles { entry, .. } => std::slice::from_ref(entry),
        };
        asked.extend(entries.iter().map(|entry| ("target_modules", entry.text.as_str(), entry.matched)));
        asked.extend(
            self.parameters.iter().map(|entry| ("target_parameters", entry.text.as_str(), entry.matched)),
        );
        let any = asked.iter().any(|(_, _, matched)| *matched);
        asked.extend(self.saved.iter().map(|entry| ("modules_to_save", entry.text.as_str(), entry.matched)));
        asked.extend(
            self.rank_pattern.iter().map(|entry| ("rank_pattern", entry.text.as_str(), entry.matched)),
        );
        asked.extend(
            self.alpha_pattern.iter().map(|entry| ("alpha_pattern", entry.text.as_str(), entry.matched)),
        );
        for (field, entry, _) in asked.into_iter().filter(|(_, _, matched)| !matched) {
            let in_both = field == "target_modules" && self.saved.iter().any(|saved| saved.text == entry);
            let excluded = || -> Result<bool> {
                for seen in self.seen.iter().filter(|seen| is_or_ends_in(&seen.path, entry)) {
                    if self.excludes(&seen.path)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            };
            let remedy = if lenient {
                self.remedy(field, entry)
            } else if in_both {
                "; it stands in `modules_to_save` too, and what trains in full is not adapted: leave it out of one of the two"
            } else if field == "target_modules" && excluded()? {
                "; `exclude_modules` leaves it out: leave it out of one of the two"
            } else {
                self.remedy(field, entry)
            };
            if lenient && any && remedy.is_empty() {
                tracing::warn!(field, entry, "matches nothing in this model");
                continue;
            }
            return Err(Error::NoMatch {
                field,
                entry: entry.to_owned(),
                available: self.available(field),
                remedy: remedy.to_owned(),
            });
        }
        self.check_embedding()
    }

    /// The names that stand for a word such as `all-linear` in a file that PEFT reads, after all modules were seen.
    pub(crate) fn resolved(&self) -> TargetModules {
        let Modules::Roles { roles, .. } = &self.modules else { return self.config.target_modules.clone() };
        let adapted = || self.seen.iter().filter(|seen| seen.adapted);
        let leaves: BTreeSet<&str> = adapted().map(|seen| leaf(&seen.path)).collect();
        let ambiguous =
            self.seen.iter().any(|seen| !roles.contains(&seen.role) && leaves.contains(leaf(&seen.path)));
        if ambiguous {
            TargetModules::list(adapted().map(|seen| seen.path.as_str()))
        } else {
            TargetModules::list(leaves)
        }
    }

    /// Refuses to train an embedding that is also the head.
    fn check_embedding(&self) -> Result<()> {
        let Some(embedding) = self.seen.iter().find(|seen| seen.role == Role::Embedding) else {
            return Ok(());
        };
        let trains = self.saved.iter().any(|entry| holds(&entry.text, &embedding.path));
        let head = self.seen.iter().any(|seen| seen.role == Role::Head);
        if trains && !head { Err(Error::TiedEmbedding { path: embedding.path.clone() }) } else { Ok(()) }
    }

    fn excludes(&self, path: &str) -> Result<bool> {
        match &self.exclude {
            None => Ok(false),
            Some(Names::List(names)) => Ok(names.iter().any(|name| is_or_ends_in(path, name))),
            Some(Names::Pattern(text, regex)) => is_match("exclude_modules", text, regex, path),
        }
    }

    fn targets(&mut self, role: Role, path: &str) -> Result<bool> {
        // Layers filter what matches by its end, not what is named in full.
        let in_layers = self.in_layers(path)?;
        match &mut self.modules {
            Modules::List(entries) => {
                let exact = entries.iter().any(|entry| entry.text == path);
                let mut targeted = false;
                for entry in entries {
                    let here = is_or_ends_in(path, &entry.text) && (exact || in_layers);
                    entry.matched |= here;
                    targeted |= here;
                }
                Ok(targeted)
            }
            Modules::Pattern { entry, regex } => {
                let here = is_match("target_modules", &entry.text, regex, path)?;
                entry.matched |= here;
                Ok(here)
            }
            Modules::Roles { entry, roles } => {
                let here = roles.contains(&role);
                entry.matched |= here;
                Ok(here)
            }
        }
    }

    fn in_layers(&self, path: &str) -> Result<bool> {
        if self.config.layers_to_transform.is_empty() {
            return Ok(true);
        }
        for regex in &self.layers {
            let captures = regex
                .captures(path)
                .map_err(|source| pattern_error("layers_pattern", regex.as_str(), source))?;
            if let Some(index) = captures.and_then(|captures| captures.name("idx")?.as_str().parse().ok()) {
                return Ok(self.config.layers_to_transform.contains(&index));
            }
        }
        Ok(false)
    }

    fn scale(&mut self, path: &str) -> Result<Scale> {
        let rank = first("rank_pattern", &mut self.rank_pattern, path)?.unwrap_or(self.config.r);
        let alpha = first("alpha_pattern", &mut self.alpha_pattern, path)?.unwrap_or(self.config.lora_alpha);
        Ok(Scale { rank, scaling: self.config.scaling(rank, alpha) })
    }

    /// The alpha of a module or parameter, from which its scaling comes.
    pub(crate) fn alpha(&mut self, path: &str) -> Result<f64> {
        Ok(first("alpha_pattern", &mut self.alpha_pattern, path)?.unwrap_or(self.config.lora_alpha))
    }

    fn available(&self, field: &str) -> String {
        let adapted = || self.seen.iter().filter(|seen| seen.adapted).map(|seen| leaf(&seen.path));
        let parameters = || self.seen_parameters.iter().map(|name| stacked_leaf(name));
        let names: BTreeSet<&str> = if field.ends_with("_pattern") {
            adapted().chain(parameters().filter(|_| !self.parameters.is_empty())).collect()
        } else if field == "target_parameters" {
            parameters().collect()
        } else {
            let linear = |role| !matches!(role, Role::Embedding | Role::Norm);
            let wanted = |seen: &&Seen| field == "modules_to_save" || linear(seen.role);
            self.seen.iter().filter(wanted).map(|seen| leaf(&seen.path)).collect()
        };
        if names.is_empty() {
            return "nothing of that kind".to_owned();
        }
        names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }

    fn remedy(&self, field: &str, entry: &str) -> &'static str {
        let head = self.seen.iter().any(|seen| seen.role == Role::Head);
        if field != "target_parameters" && !head && entry.contains("head") {
            "; its head is tied to the embedding: read the weights through `Untied` with `tie_word_embeddings` false to \
             train a head of its own"
        } else if field == "target_modules" && !self.config.layers_to_transform.is_empty() {
            "; layers_to_transform leaves out every layer that has it, or no layer has it"
        } else {
            ""
        }
    }
}

impl Entry {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), matched: false }
    }
}

/// The path that transformers 5 gives a module, where it differs: every sparse block is called `mlp` there, and of its
/// modules only the router remained one.
pub(crate) fn alias(role: Role, path: &str) -> Option<String> {
    if role != Role::Router {
        return None;
    }
    let (block, router) = path.rsplit_once('.')?;
    let (layer, _) = block.rsplit_once('.')?;
    let alias = format!("{layer}.mlp.{router}");
    (alias != path).then_some(alias)
}

/// The stacked parameter of all experts, from the path of the experts' module in released files and the parameter's
/// name below the layer.
pub(crate) fn stacked_parameter(experts: &str, stacked_name: &str) -> String {
    let layer = experts.rsplitn(3, '.').nth(2).unwrap_or_default();
    if layer.is_empty() { stacked_name.to_owned() } else { format!("{layer}.{stacked_name}") }
}

fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The last two segments: enough to tell `experts.down_proj` from `down_proj.weight`.
fn stacked_leaf(name: &str) -> &str {
    let start = name.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1);
    &name[start..]
}

fn is_or_ends_in(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether `path` is a module whose path ends in `name`, or is inside one. The end need not be a whole segment here:
/// PEFT trains (and files) every such module, so another rule would make adapters that it cannot read.
fn holds(name: &str, path: &str) -> bool {
    let ends = path.match_indices('.').map(|(dot, _)| dot).chain([path.len()]);
    ends.into_iter().any(|end| path[..end].ends_with(name))
}

/// Whether a key of `rank_pattern` or `alpha_pattern` means a module or parameter.
pub(crate) fn pattern_matches(field: &'static str, text: &str, path: &str) -> Result<bool> {
    let compiled = patterns(field, &[(text.to_owned(), ())])?;
    is_match(field, text, &compiled[0].regex, path)
}

fn first<T: Copy + PartialEq>(
    field: &'static str,
    patterns: &mut [Pattern<T>],
    path: &str,
) -> Result<Option<T>> {
    let mut matching: Vec<&Pattern<T>> = Vec::new();
    for pattern in patterns {
        if is_match(field, &pattern.text, &pattern.regex, path)? {
            pattern.matched = true;
            matching.push(pattern);
        }
    }
    let (Some(first), Some(sorted)) = (matching.first(), matching.iter().min_by(|a, b| a.text.cmp(&b.text)))
    else {
        return Ok(None);
    };
    if first.value == sorted.value {
        return Ok(Some(first.value));
    }
    let (path, first, second) = (path.to_owned(), first.text.clone(), sorted.text.clone());
    Err(Error::AmbiguousPattern { field, path, first, second })
}

fn patterns<T: Copy>(field: &'static str, entries: &[(String, T)]) -> Result<Vec<Pattern<T>>> {
    let compiled = entries.iter().map(|(text, value)| {
        // Two groups, as in PEFT, so that a pattern's own references count the same.
        let regex = compile(field, text, &format!(r"\A(.*\.)?({text})\z"))?;
        Ok(Pattern { text: text.clone(), regex, value: *value, matched: false })
    });
    compiled.collect()
}

fn whole(field: &'static str, text: &str) -> Result<Regex> {
    compile(field, text, &format!(r"\A(?:{text})\z"))
}

fn compile(field: &'static str, text: &str, regex: &str) -> Result<Regex> {
    Regex::new(regex).map_err(|source| pattern_error(field, text, source))
}

fn is_match(field: &'static str, text: &str, regex: &Regex, path: &str) -> Result<bool> {
    regex.is_match(path).map_err(|source| pattern_error(field, text, source))
}

fn pattern_error(field: &'static str, text: &str, source: fancy_regex::Error) -> Error {
    Error::Pattern { field, pattern: text.to_owned(), source: Box::new(source) }
}
