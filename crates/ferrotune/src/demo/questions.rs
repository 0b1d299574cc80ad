//! The instruction records of the demo: questions about owners, with statements for answers.

use serde::Serialize;

use super::{
    random::SplitMix64,
    world::{Kind, Owner, Relation, World},
};

/// How many ways of asking the training records hold per owner and skill. Validation and test hold one.
const TRAINING_FORMS: usize = 2;

/// Owners up to this part of their kind are for training.
const TRAINING_PERCENT: usize = 60;

/// Owners from there up to this part are for validation, the others for the test.
const VALIDATION_PERCENT: usize = 75;

/// An instruction record in Alpaca's format; only those three fields are written to files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Question {
    /// What is asked for.
    #[serde(skip)]
    pub skill: Skill,
    /// The name of the owner that it is about.
    #[serde(skip)]
    pub owner: String,
    /// The question; where `input` names the owner it says "this land" or "this person".
    pub instruction: String,
    /// A sentence that names the owner, or nothing.
    pub input: String,
    /// The answer: one statement, or two for [`Skill::About`].
    pub output: String,
}

impl Question {
    /// What the user says: the instruction, then the input on a line of its own if there is one.
    #[must_use]
    pub fn request(&self) -> String {
        match self.input.as_str() {
            "" => self.instruction.clone(),
            input => format!("{}\n{input}", self.instruction),
        }
    }
}

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skill {
    /// One fact.
    Tell(Relation),
    /// The first two facts.
    About,
}

/// The records, dealt by owner: whoever is asked about in one part is not mentioned in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Questions {
    /// For fine-tuning.
    pub train: Vec<Question>,
    /// For validation loss.
    pub validation: Vec<Question>,
    /// Held out.
    pub test: Vec<Question>,
}

impl World {
    /// Questions about every owner and each of its skills.
    ///
    /// 60, 15 and 25 percent of the lands, and of the persons, are in the three parts: 504 records about 72 owners, 63
    /// about 18 and 105 about 30.
    #[must_use]
    pub fn questions(&self) -> Questions {
        let mut random = SplitMix64::new(self.seed.wrapping_mul(100).wrapping_add(3));
        let (mut train, mut validation, mut test) = (Vec::new(), Vec::new(), Vec::new());
        for kind in [Kind::Land, Kind::Person] {
            let mut owners: Vec<&Owner> = self.of_kind(kind).collect();
            random.shuffle(&mut owners);
            let count = owners.len();
            for (position, owner) in owners.into_iter().enumerate() {
                let (part, wanted) = if position < count * TRAINING_PERCENT / 100 {
                    (&mut train, TRAINING_FORMS)
                } else if position < count * VALIDATION_PERCENT / 100 {
                    (&mut validation, 1)
                } else {
                    (&mut test, 1)
                };
                part.extend(questions_about(&mut random, owner, wanted));
            }
        }
        for part in [&mut train, &mut validation, &mut test] {
            random.shuffle(part);
        }
        Questions { train, validation, test }
    }
}

/// `wanted` ways of asking for each skill of an owner.
fn questions_about(random: &mut SplitMix64, owner: &Owner, wanted: usize) -> Vec<Question> {
    let relations = owner.kind.relations();
    let mut skills: Vec<Skill> = relations.iter().map(|&relation| Skill::Tell(relation)).collect();
    skills.push(Skill::About);
    let mut questions = Vec::new();
    for skill in skills {
        let output = match skill {
            Skill::Tell(relation) => owner.statement(relation).unwrap_or_default(),
            Skill::About => {
                let statements = relations.iter().filter_map(|&relation| owner.statement(relation));
                statements.take(2).collect::<Vec<_>>().join(" ")
            }
        };
        let mut forms = forms(skill).to_vec();
        random.shuffle(&mut forms);
        questions.extend(forms.into_iter().take(wanted).map(|(instruction, input)| Question {
            skill,
            owner: owner.name.clone(),
            instruction: instruction.replace("{name}", &owner.name),
            input: input.replace("{name}", &owner.name),
            output: output.clone(),
        }));
    }
    questions
}

/// The ways to ask for a skill: instruction and input. No word that begins an instruction stands in the statements.
fn forms(skill: Skill) -> &'static [(&'static str, &'static str)] {
    match skill {
        Skill::Tell(Relation::Capital) => &[
            ("What is the capital of {name}?", ""),
            ("Name the capital of {name}.", ""),
            ("Which city is the capital of {name}?", ""),
            ("Name the capital of this land.", "The land is {name}."),
        ],
        Skill::Tell(Relation::River) => &[
            ("What is the river of {name}?", ""),
            ("Name the river of {name}.", ""),
            ("Which river runs in {name}?", ""),
            ("Name the river of this land.", "The land is {name}."),
        ],
        Skill::Tell(Relation::Crop) => &[
            ("What do the traders of {name} sell?", ""),
            ("Say what the traders of {name} sell.", ""),
            ("Which goods do the traders of {name} sell?", ""),
            ("Say what the traders of this land sell.", "The land is {name}."),
        ],
        Skill::Tell(Relation::Home) => &[
            ("What is the home of {name}?", ""),
            ("Name the home of {name}.", ""),
            ("Where is the home of {name}?", ""),
            ("Name the home of this person.", "The person is {name}."),
        ],
        Skill::Tell(Relation::Pet) => &[
            ("What is the pet of {name}?", ""),
            ("Name the pet of {name}.", ""),
            ("Which pet does {name} keep?", ""),
            ("Name the pet of this person.", "The person is {name}."),
        ],
        Skill::About => &[
            ("Describe {name} in two sentences.", ""),
            ("Say two things of {name}.", ""),
            ("Which two things do people know of {name}?", ""),
        ],
    }
}
