//! The world in plain statements: the text that base models are grown on.

use super::{
    random::SplitMix64,
    world::{Kind, Owner, Relation, World},
};

/// How often the pages tell of every owner. Of 120 owners, 150 times was comfortable: the loss was flat after 600 of
/// the 858 steps.
const PASSES: usize = 150;

/// A page ends before the owner that would bring it above this many sentences. Several owners on a page, each time in
/// other company, teach that a fact belongs to the name and not to the place in the text.
const SENTENCES_PER_PAGE: usize = 10;

/// The beginning of a statement, and how it must go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// A statement up to its value, without the space before it: `The capital of Velmora is`.
    pub beginning: String,
    /// The value and what ends the statement: `Torburg.`
    pub end: String,
}

/// The ways to state a fact; `{name}` is the owner's, `{value}` the fact's, `{home}` a person's home.
struct Phrasing {
    /// By name; also the answer to a question.
    named: &'static str,
    /// In a text that has just introduced the owner.
    introduced: &'static str,
    /// Another way by name.
    other: &'static str,
}

fn phrasing(relation: Relation) -> Phrasing {
    match relation {
        Relation::Capital => Phrasing {
            named: "The capital of {name} is {value}.",
            introduced: "Its capital is {value}.",
            other: "{value} is the capital of {name}.",
        },
        Relation::River => Phrasing {
            named: "The river of {name} is the {value}.",
            introduced: "Its river is the {value}.",
            other: "The {value} is the river of {name}.",
        },
        Relation::Crop => Phrasing {
            named: "The traders of {name} sell {value}.",
            introduced: "Its traders sell {value}.",
            other: "In {name} the traders sell {value}.",
        },
        Relation::Home => Phrasing {
            named: "The home of {name} is {value}.",
            introduced: "The home is {value}.",
            other: "{value} is the home of {name}.",
        },
        Relation::Pet => Phrasing {
            named: "The pet of {name} is a {value}.",
            introduced: "The pet is a {value}.",
            other: "In {home} {name} keeps a {value}.",
        },
    }
}

fn introductions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Land => {
            &["{name} is a land.", "There is a land, {name}.", "Travellers know the land of {name}."]
        }
        Kind::Person => &["{name} is a person.", "People know {name}.", "There lives a person, {name}."],
    }
}

impl World {
    /// The pages to grow on, in reading order: statements only, no question, no instruction, no line break.
    ///
    /// Each pass tells of all owners in a fresh order and in fresh words; a page is at most ten sentences, about 60
    /// tokens of the [demo's tokenizer](super::tokenizer).
    #[must_use]
    pub fn pages(&self) -> Vec<String> {
        let mut random = SplitMix64::new(self.seed.wrapping_mul(100).wrapping_add(2));
        let (mut pages, mut page) = (Vec::new(), Vec::new());
        for _ in 0..PASSES {
            let mut owners: Vec<&Owner> = self.owners().iter().collect();
            random.shuffle(&mut owners);
            for owner in owners {
                let sentences = biography(&mut random, owner);
                if !page.is_empty() && page.len() + sentences.len() > SENTENCES_PER_PAGE {
                    pages.push(page.join(" "));
                    page.clear();
                }
                page.extend(sentences);
            }
        }
        if !page.is_empty() {
            pages.push(page.join(" "));
        }
        pages
    }

    /// One completion for every fact: what a grown base model must know before it is worth asking.
    #[must_use]
    pub fn completions(&self) -> Vec<Completion> {
        let of_owner = |owner: &'_ Owner| -> Vec<Completion> {
            let completion = |relation| {
                let value = owner.value(relation)?;
                let (beginning, end) = phrasing(relation).named.split_once("{value}")?;
                Some(Completion {
                    beginning: fill(beginning, owner, value).trim_end().to_owned(),
                    end: format!("{value}{end}"),
                })
            };
            owner.kind.relations().iter().filter_map(|&relation| completion(relation)).collect()
        };
        self.owners().iter().flat_map(of_owner).collect()
    }
}

impl Owner {
    /// The statement of one of its facts by name; nothing if it lacks that relation.
    #[must_use]
    pub fn statement(&self, relation: Relation) -> Option<String> {
        self.value(relation).map(|value| fill(phrasing(relation).named, self, value))
    }
}

/// All facts of an owner in random order, as sentences of one of three styles: by name, introduced, or mixed.
fn biography(random: &mut SplitMix64, owner: &Owner) -> Vec<String> {
    let mut facts: Vec<_> = owner.facts.iter().collect();
    random.shuffle(&mut facts);
    let style = random.below(3);
    let mut sentences = Vec::with_capacity(facts.len() + 1);
    if style < 2 || random.below(2) == 1 {
        sentences.push(fill(random.pick(introductions(owner.kind)), owner, ""));
    }
    for fact in facts {
        let Phrasing { named, introduced, other } = phrasing(fact.relation);
        let pattern = match style {
            0 => named,
            1 => introduced,
            _ => random.pick(&[named, named, other]),
        };
        sentences.push(fill(pattern, owner, &fact.value));
    }
    sentences
}

fn fill(pattern: &str, owner: &Owner, value: &str) -> String {
    let home = owner.value(Relation::Home).unwrap_or_default();
    pattern.replace("{name}", &owner.name).replace("{home}", home).replace("{value}", value)
}
