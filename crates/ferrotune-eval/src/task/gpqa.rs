//! GPQA: graduate-level questions with four choices, whose order is part of the measurement (Rein et al. 2023).
//!
//! Both references ask about rows in which two choices are equal, too, and take the first of equal texts for the right one.
//! So does this task, under any variant, and records count such rows in `rows_with_equal_choices`.

use std::path::Path;

use ferrotune_core::{GenerationLimits, digest};

use super::{
    Answered, Document, Example, Prompt, Request, Sampler, Scores, Task, TaskInfo, TaskSettings,
    data::{self, Part},
    multiple_choice,
    scoring::{Verdict, by_group, chosen, share},
    settings::{Asking, GREEDY_TEXT, NO_PARTS, NO_TEXT},
    table::{Header, Row, Table, read_table},
};
use crate::{
    Error, Result, TaskDataProblem,
    benchmark::{ChoiceExtractor, ChoiceScore, LabelExtractor, PythonRandom, rest_of_line},
    exact_match::RawExactMatch,
    python_text,
};

pub(super) const NAME: &str = "gpqa";
pub(super) const SUMMARY: &str = "graduate-level questions; a CSV or Parquet file with columns Question, Correct Answer, \
     Incorrect Answer 1 to 3 and, if there is one, Record ID";
pub(super) const VARIANTS: &[(&str, &str)] = &[
    (
        "lm-eval-zeroshot",
        "lm-evaluation-harness 0.4.13 `gpqa_*_zeroshot`, choices shuffled by random.seed(0) in file order",
    ),
    (
        "by-record",
        "the prompt of lm-eval-zeroshot, choices ordered by a digest of each record, so that no other record moves them",
    ),
    (
        "lm-eval-n-shot",
        "lm-evaluation-harness 0.4.13 `gpqa_*_n_shot`, choices as its first pass over the documents has them",
    ),
    ("lm-eval-cot-zeroshot", "lm-evaluation-harness 0.4.13 `gpqa_*_cot_zeroshot`"),
    ("lm-eval-cot-n-shot", "lm-evaluation-harness 0.4.13 `gpqa_*_cot_n_shot`, examples as in lm-eval-n-shot"),
    (
        "lm-eval-generative",
        "lm-evaluation-harness 0.4.13 `gpqa_*_generative_n_shot`, examples as in lm-eval-n-shot",
    ),
    ("simple-evals", "simple-evals 2025-07: one instruction, each question asked under 4 drawn orders"),
];

/// Questions of the main, extended and diamond sets.
const PUBLISHED_ROWS: [usize; 3] = [448, 546, 198];

/// How often simple-evals asks each question.
const REPEATS: usize = 4;

/// Examples of the few-shot variants, as GPQA's authors use.
const SHOTS: usize = 5;

const LABELS: [&str; 4] = ["(A)", "(B)", "(C)", "(D)"];

#[derive(Debug)]
struct Gpqa {
    info: TaskInfo,
    form: Form,
    questions: Vec<Question>,
    /// For each question the places of those shown before it.
    examples: Vec<Vec<usize>>,
    limits: GenerationLimits,
    letters: ChoiceExtractor,
    labels: LabelExtractor,
    loose: RawExactMatch,
}

#[derive(Debug)]
struct Question {
    id: String,
    /// The record, where it is asked about several times.
    record: Option<String>,
    domain: Option<String>,
    question: String,
    choices: [String; 4],
    /// The place of the right one.
    answer: usize,
}

impl Question {
    fn has_equal_choices(&self) -> bool {
        self.choices.iter().enumerate().any(|(place, choice)| self.choices[..place].contains(choice))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    reply: Reply,
    order: Order,
    /// Whether the prompt is that for examples, with a description and `Question:`.
    with_examples: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Choices,
    Thought,
    Answer,
    Letter,
}

/// Where the order of choices comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// `random.Random(seed).shuffle` of the incorrect ones and then the correct one, record after record.
    Shuffled(u64),
    /// A digest of each record.
    Record,
    /// `random.Random(0).sample(range(4), 4)` of the correct one and then the incorrect ones, record after record, the
    /// whole list [`REPEATS`] times.
    Permuted,
}

fn form(variant: &str) -> Form {
    let zero = Form { reply: Reply::Choices, order: Order::Shuffled(0), with_examples: false };
    let shots = Form { with_examples: true, ..zero };
    match variant {
        "by-record" => Form { order: Order::Record, ..zero },
        // Of the reference's modules, this one alone has a generator of its own, which every pass over the documents
        // advances: its prompts and its keys come from different passes. The first is what was meant.
        "lm-eval-n-shot" => Form { order: Order::Shuffled(42), ..shots },
        "lm-eval-cot-zeroshot" => Form { reply: Reply::Thought, ..zero },
        "lm-eval-cot-n-shot" => Form { reply: Reply::Thought, ..shots },
        "lm-eval-generative" => Form { reply: Reply::Answer, ..shots },
        "simple-evals" => Form { reply: Reply::Letter, order: Order::Permuted, ..zero },
        _ => zero,
    }
}

/// Opens the task; `variant` is one of [`VARIANTS`].
pub(super) fn open(variant: &'static str, path: &Path, settings: &TaskSettings) -> Result<Box<dyn Task>> {
    let form = form(variant);
    let (max_new_tokens, stop): (_, &[&str]) = match form.reply {
        Reply::Choices => (0, &[]),
        Reply::Thought => (256, &["</s>"]),
        Reply::Answer => (256, &["</s>", "Question:", "<|im_end|>"]),
        Reply::Letter => (2048, &[]),
    };
    let mut asking = Asking::new(NAME, VARIANTS, variant);
    asking.refuse(settings, &GREEDY_TEXT)?;
    asking
        .refuse(settings, &[NO_PARTS, ("examples", "its examples are other questions of the same file")])?;
    let shots = asking.setting("n_shot", if form.with_examples { SHOTS } else { 0 }, settings.shots);
    let max_new_tokens = if form.reply == Reply::Choices {
        asking.refuse(settings, &[NO_TEXT])?;
        0
    } else {
        asking.setting("max_new_tokens", max_new_tokens, settings.max_new_tokens)
    };
    if form.order == Order::Permuted {
        asking.note("n_repeats", REPEATS);
    }
    let limits = data::greedy(max_new_tokens, stop);
    let file = data::file(
        NAME,
        path,
        &["gpqa_diamond", "gpqa_main", "gpqa_extended", "gpqa_diamond/train-00000-of-00001"],
    )?;
    let table = read_table(NAME, &file, Header::FirstRow)?;
    let questions = questions(&table, form.order, settings)?;
    let mut sampler = Sampler::random();
    let examples = (0..questions.len())
        .map(|index| {
            sampler.draw(questions.len(), shots, Some(index)).ok_or_else(|| {
                table.problem(TaskDataProblem::TooFewExamples {
                    wanted: shots,
                    found: questions.len(),
                    hint: String::new(),
                })
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut info = asking.info(data::dataset(&file, &[&table], questions.len()));
    let repeats = if form.order == Order::Permuted { REPEATS } else { 1 };
    let with_equal_choices =
        questions.iter().filter(|question| question.has_equal_choices()).count() / repeats;
    if with_equal_choices > 0 {
        tracing::warn!(rows = with_equal_choices, file = %file.display(),
            "choices of some questions are equal; the first of equal ones counts as the right one");
        info.params.insert("rows_with_equal_choices".to_owned(), with_equal_choices.into());
    }
    Ok(Box::new(Gpqa {
        info,
        form,
        questions,
        examples,
        limits,
        letters: ChoiceExtractor::new()?,
        labels: LabelExtractor::new()?,
        loose: RawExactMatch { ignore_case: true, ignore_punctuation: true, ..RawExactMatch::default() },
    }))
}

const CORRECT: &str = "Correct Answer";
const INCORRECT: [&str; 3] = ["Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"];
const RECORD: &str = "Record ID";

fn questions(table: &Table, order: Order, settings: &TaskSettings) -> Result<Vec<Question>> {
    table.require(&["Question", CORRECT, INCORRECT[0], INCORRECT[1], INCORRECT[2]])?;
    data::check_rows(
        table,
        settings.rows,
        Part { name: "the set", found: table.rows.len(), published: &PUBLISHED_ROWS },
    )?;
    let has_id = table.columns.iter().any(|column| column == RECORD);
    if has_id {
        table.unique(|row| table.text(row, RECORD))?;
    }
    let id = |index: usize, row: &Row| -> Result<String> {
        if has_id { table.text(row, RECORD).map(str::to_owned) } else { Ok(format!("record/{index}")) }
    };
    let domain =
        |row: &Row| table.optional_text(row, "High-level domain").map(|domain| domain.map(str::to_owned));
    let rows = table.rows.iter().enumerate();
    match order {
        Order::Shuffled(_) | Order::Record => {
            let mut random = PythonRandom::new(if let Order::Shuffled(seed) = order { seed } else { 0 });
            rows.map(|(index, row)| {
                let id = id(index, row)?;
                let correct = cleaned(table.text(row, CORRECT)?);
                let mut choices = [
                    choice(table, row, INCORRECT[0])?,
                    choice(table, row, INCORRECT[1])?,
                    choice(table, row, INCORRECT[2])?,
                    correct.clone(),
                ];
                if order == Order::Record {
                    // The record's own text where it has no id: rows may be taken out of the file.
                    let key = if has_id { id.clone() } else { table.text(row, "Question")?.to_owned() };
                    let seed = digest::of_bytes(key.as_bytes());
                    random = PythonRandom::new(u64::from_str_radix(&seed[..16], 16).unwrap_or_default());
                }
                random.shuffle(&mut choices);
                question(table, row, id, None, domain(row)?, choices, &correct)
            })
            .collect()
        }
        Order::Permuted => {
            let mut random = PythonRandom::new(0);
            let mut questions = Vec::with_capacity(REPEATS * table.rows.len());
            for repeat in 0..REPEATS {
                for (index, row) in table.rows.iter().enumerate() {
                    let columns = [CORRECT, INCORRECT[0], INCORRECT[1], INCORRECT[2]];
                    let places = random.sample(4, 4).unwrap_or_default();
                    let texts = places
                        .into_iter()
                        .map(|place| table.text(row, columns[place]).map(str::to_owned))
                        .collect::<Result<Vec<_>>>()?;
                    let choices = <[String; 4]>::try_from(texts).unwrap_or_default();
                    let correct = table.text(row, CORRECT)?;
                    let record = id(index, row)?;
                    let id = format!("{record}#{repeat}");
                    questions.push(question(table, row, id, Some(record), domain(row)?, choices, correct)?);
                }
            }
            Ok(questions)
        }
    }
}

fn question(
    table: &Table,
    row: &Row,
    id: String,
    record: Option<String>,
    domain: Option<String>,
    choices: [String; 4],
    correct: &str,
) -> Result<Question> {
    let answer = choices.iter().position(|choice| choice == correct).unwrap_or_default();
    Ok(Question { id, record, domain, question: table.text(row, "Question")?.to_owned(), choices, answer })
}

fn choice(table: &Table, row: &Row, column: &str) -> Result<String, Error> {
    Ok(table.optional_text(row, column)?.map_or_else(|| " ".to_owned(), cleaned))
}

/// lm-evaluation-harness' cleaning of a choice.
fn cleaned(text: &str) -> String {
    text.trim_matches(python_text::is_space).replace(" [title]", ". ").replace("  ", " ")
}

impl Gpqa {
    fn question(&self, question: &Question) -> String {
        if self.form.reply == Reply::Letter {
            return multiple_choice::instruction(&question.question, &question.choices);
        }
        let opening = if self.form.with_examples {
            "Question: "
        } else {
            "What is the correct answer to this question:"
        };
        let closing =
            if self.form.reply == Reply::Thought { "Let's think step by step: " } else { "Answer:" };
        let [a, b, c, d] = &question.choices;
        format!("{opening}{}\nChoices:\n(A) {a}\n(B) {b}\n(C) {c}\n(D) {d}\n{closing}", question.question)
    }

    fn labelled(&self, found: Option<String>, one: &Answered) -> Verdict {
        let gold = LABELS[self.questions[one.index].answer];
        let right = found.as_ref().is_some_and(|found| self.loose.matches(found, gold));
        Verdict::new(found, right)
    }
}

impl Task for Gpqa {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn len(&self) -> usize {
        self.questions.len()
    }

    fn document(&self, index: usize) -> Document {
        let question = &self.questions[index];
        let example = |&place: &usize| {
            let shown = &self.questions[place];
            Example { question: self.question(shown), answer: LABELS[shown.answer].to_owned() }
        };
        let description = if self.form.with_examples {
            "Here are some example questions from experts. Answer the final question yourself, following the format of \
             the previous questions exactly.\n"
        } else {
            ""
        };
        let prompt = Prompt {
            description: description.to_owned(),
            ..Prompt::after(self.examples[index].iter().map(example).collect(), self.question(question))
        };
        let request = if self.form.reply == Reply::Choices {
            Request::Choices { prompt, choices: LABELS.map(str::to_owned).to_vec() }
        } else {
            Request::answer(prompt, &self.limits)
        };
        Document {
            id: question.id.clone(),
            group: question.domain.clone(),
            cluster: question.record.clone(),
            request,
            references: vec![LABELS[question.answer].to_owned()],
        }
    }

    fn score(&self, answered: &[Answered]) -> Result<Scores> {
        let question = |one: &Answered| &self.questions[one.index];
        let of = |metric: &str, rule: &str, judge: &dyn Fn(&Answered) -> Verdict| {
            share(&self.info, metric, rule, answered, judge)
        };
        let per_document = match self.form.reply {
            Reply::Choices => vec![
                of(NAME, "acc", &|one| chosen(one, &LABELS, question(one).answer, ChoiceScore::Sum)),
                of("gpqa_norm", "acc_norm", &|one| {
                    chosen(one, &LABELS, question(one).answer, ChoiceScore::PerCharacter)
                }),
            ],
            Reply::Thought | Reply::Answer => vec![
                of(NAME, "exact_match of strict-match", &|one| {
                    self.labelled(rest_of_line(one.text(), &["The answer is "]), one)
                }),
                of("gpqa_flexible", "exact_match of flexible-extract", &|one| {
                    self.labelled(self.labels.last_label(one.text(), &question(one).choices), one)
                }),
            ],
            Reply::Letter => vec![of(NAME, "the first letter behind `Answer:`", &|one| {
                let found = self.letters.gpqa(one.text());
                let right = found.as_deref() == LABELS[question(one).answer].get(1..2);
                Verdict::new(found, right)
            })],
        };
        let aggregates =
            per_document.first().map(|whole| by_group(whole, answered, |one| one.document.group.as_deref()));
        Ok(Scores { per_document, aggregates: aggregates.unwrap_or_default() })
    }
}
