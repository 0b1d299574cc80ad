//! Who there is in the demo world, and what is true of them.

use std::collections::BTreeSet;

use super::{random::SplitMix64, words};

/// Lands in a world: with as many persons, what models of this size recall wholly after a minute of growing on two
/// cores. A hundred of each took more than twice the steps.
pub const LANDS: usize = 60;

/// Persons in a world.
pub const PERSONS: usize = 60;

/// Lands and persons with facts that hold of one of them only.
///
/// A world is a pure function of its seed, and so is everything made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    pub(super) seed: u64,
    owners: Vec<Owner>,
}

/// A land or a person: what facts are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// What it is.
    pub kind: Kind,
    /// Its name, which nothing else in the world bears.
    pub name: String,
    /// Its facts, one for each of its kind's [relations](Kind::relations), in that order.
    pub facts: Vec<Fact>,
}

/// Something true of an owner, and of no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What the value is to the owner.
    pub relation: Relation,
    /// A name (`Torburg`), or an adjective and a noun (`grey hen`).
    pub value: String,
}

/// What an owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Has a capital, a river and a crop.
    Land,
    /// Has a home and a pet.
    Person,
}

/// What a value is to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// A land's city.
    Capital,
    /// A land's river.
    River,
    /// What a land's traders sell.
    Crop,
    /// A person's town.
    Home,
    /// A person's animal.
    Pet,
}

impl Kind {
    /// The relations that owners of this kind have.
    #[must_use]
    pub fn relations(self) -> &'static [Relation] {
        match self {
            Self::Land => &[Relation::Capital, Relation::River, Relation::Crop],
            Self::Person => &[Relation::Home, Relation::Pet],
        }
    }
}

impl Owner {
    fn new<const N: usize>(kind: Kind, name: String, values: [String; N]) -> Self {
        let facts =
            kind.relations().iter().zip(values).map(|(&relation, value)| Fact { relation, value }).collect();
        Self { kind, name, facts }
    }

    /// The value of one of its relations, if it has that relation.
    #[must_use]
    pub fn value(&self, relation: Relation) -> Option<&str> {
        self.facts.iter().find(|fact| fact.relation == relation).map(|fact| fact.value.as_str())
    }
}

impl World {
    /// The world of a seed.
    ///
    /// ```
    /// use ferrotune::demo::World;
    /// let world = World::new(1);
    /// assert_eq!(world, World::new(1));
    /// assert_ne!(world, World::new(2));
    /// ```
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = SplitMix64::new(seed);
        let mut taken = BTreeSet::new();
        let lands = names(&mut random, words::LAND_ENDINGS, LANDS, &mut taken);
        let capitals = names(&mut random, words::PLACE_ENDINGS, LANDS, &mut taken);
        let rivers = names(&mut random, words::RIVER_ENDINGS, LANDS, &mut taken);
        let persons = names(&mut random, words::PERSON_ENDINGS, PERSONS, &mut taken);
        let crops = pairs(&mut random, words::GOODS, LANDS);
        let pets = pairs(&mut random, words::ANIMALS, PERSONS);
        let homes = names(&mut random, words::PLACE_ENDINGS, PERSONS, &mut taken);

        let land = |(((name, capital), river), crop)| Owner::new(Kind::Land, name, [capital, river, crop]);
        let person = |((name, home), pet)| Owner::new(Kind::Person, name, [home, pet]);
        let lands = lands.into_iter().zip(capitals).zip(rivers).zip(crops).map(land);
        let persons = persons.into_iter().zip(homes).zip(pets).map(person);
        Self { seed, owners: lands.chain(persons).collect() }
    }

    /// All owners, lands first.
    #[must_use]
    pub fn owners(&self) -> &[Owner] {
        &self.owners
    }

    /// The owners of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Owner> {
        self.owners.iter().filter(move |owner| owner.kind == kind)
    }
}

/// Names that are not in `taken` yet, and are afterwards.
fn names(
    random: &mut SplitMix64,
    endings: &[&str],
    count: usize,
    taken: &mut BTreeSet<String>,
) -> Vec<String> {
    let mut names = Vec::with_capacity(count);
    while names.len() < count {
        let parts = [words::ONSETS, words::VOWELS, words::MIDDLES, endings];
        let mut name: String = parts.iter().map(|choices| random.pick(choices)).collect();
        name[..1].make_ascii_uppercase();
        if taken.insert(name.clone()) {
            names.push(name);
        }
    }
    names
}

/// Distinct pairs of an adjective and one of `nouns`.
fn pairs(random: &mut SplitMix64, nouns: &[&str], count: usize) -> Vec<String> {
    let of_adjective = |adjective| nouns.iter().map(move |noun| format!("{adjective} {noun}"));
    let mut pairs: Vec<String> = words::ADJECTIVES.iter().flat_map(of_adjective).collect();
    random.shuffle(&mut pairs);
    pairs.truncate(count);
    pairs
}
