//! GSM8K: word problems of grade-school mathematics (Cobbe et al. 2021).

use std::path::Path;

use ferrotune_core::GenerationLimits;

use super::{
    Answered, Document, Example, Prompt, Request, RowCount, Sampler, Scores, Task, TaskInfo, TaskSettings,
    data::{self, Part},
    few_shot,
    scoring::{Verdict, share},
    settings::{Asking, GREEDY_TEXT, NO_PARTS},
    table::{Header, Row, Table, find_file, read_table},
};
use crate::{
    Result,
    benchmark::{gsm8k_flexible, gsm8k_gold, gsm8k_strict, same_number},
    exact_match::RawExactMatch,
};

pub(super) const NAME: &str = "gsm8k";
pub(super) const SUMMARY: &str = "grade-school word problems; a folder with test and train, or the file of test, as JSON Lines or \
     Parquet with columns question and answer; examples with steps as cot with columns question and target";
pub(super) const VARIANTS: &[(&str, &str)] = &[
    ("lm-eval", "lm-evaluation-harness 0.4.13 `gsm8k`: 5 examples drawn from train"),
    ("lm-eval-cot-zeroshot", "lm-evaluation-harness 0.4.13 `gsm8k_cot_zeroshot`"),
    (
        "lm-eval-cot",
        "lm-evaluation-harness 0.4.13 `gsm8k_cot`: the first 8 examples of a file, the same before every question; \
         the reference's own are those of Wei et al. 2022",
    ),
];

/// Rows of the published test and training data.
const TEST_ROWS: usize = 1319;
const TRAIN_ROWS: usize = 7473;

/// What lm-evaluation-harness generates at most unless a task says otherwise.
const MAX_NEW_TOKENS: usize = 256;

#[derive(Debug)]
struct Gsm8k {
    info: TaskInfo,
    form: Form,
    test: Vec<Problem>,
    train: Vec<Problem>,
    /// For each test problem the training problems shown before it.
    examples: Vec<Vec<usize>>,
    limits: GenerationLimits,
    comparison: RawExactMatch,
}

#[derive(Debug)]
struct Problem {
    question: String,
    answer: String,
}

/// What differs between the variants.
#[derive(Clone, Copy, Debug)]
struct Form {
    question: &'static str,
    answer: &'static str,
    /// Whether the strict rule wants a sentence rather than four number signs.
    sentence: bool,
    examples: Examples,
}

/// Where examples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Examples {
    /// Drawn from the training problems.
    Train,
    /// The first of a file of its own.
    Cot,
}

/// Opens the task; `variant` is one of [`VARIANTS`].
pub(super) fn open(variant: &'static str, path: &Path, settings: &TaskSettings) -> Result<Box<dyn Task>> {
    let (form, shots) = match variant {
        "lm-eval-cot-zeroshot" => {
            let answer = "\nA: Let's think step by step.";
            (Form { question: "Q: ", answer, sentence: true, examples: Examples::Train }, 0)
        }
        "lm-eval-cot" => {
            (Form { question: "Q: ", answer: "\nA:", sentence: true, examples: Examples::Cot }, 8)
        }
        _ => {
            let answer = "\nAnswer:";
            (Form { question: "Question: ", answer, sentence: false, examples: Examples::Train }, 5)
        }
    };
    let mut asking = Asking::new(NAME, VARIANTS, variant);
    asking.refuse(settings, &GREEDY_TEXT)?;
    asking.refuse(settings, &[NO_PARTS])?;
    let shots = asking.shots(shots, settings)?;
    let max_new_tokens = asking.setting("max_new_tokens", MAX_NEW_TOKENS, settings.max_new_tokens);
    let (test_table, test) = read(
        &data::file(NAME, path, &["test", "gsm8k-test", "main/test-00000-of-00001"])?,
        settings.rows,
        TEST_ROWS,
        "test",
    )?;
    let (train_table, train) = match examples_path(path, form.examples, settings).filter(|_| shots > 0) {
        None => (None, Vec::new()),
        Some(path) => {
            let (table, train) = match form.examples {
                Examples::Train => read(&path, settings.rows, TRAIN_ROWS, "train")?,
                Examples::Cot => read_cot(&path)?,
            };
            (Some(table), train)
        }
    };
    let hint = match (&train_table, form.examples) {
        (None, Examples::Train) => {
            "; put train beside test, name the file of examples, or ask for 0 examples"
        }
        (None, Examples::Cot) => {
            "; put cot beside test, or name the file: JSON Lines with `question` and `target`, an answer in steps that ends with \
             `The answer is` and a number"
        }
        (Some(_), _) => "",
    };
    let sampler = match form.examples {
        Examples::Train => Sampler::random(),
        Examples::Cot => Sampler::FirstN,
    };
    let examples = few_shot::drawn(sampler, test.len(), train.len(), shots, hint)
        .map_err(|problem| data::problem(NAME, path, problem))?;
    let mut comparison = RawExactMatch { ignore_case: true, ..RawExactMatch::default() };
    for pattern in [",", r"\$", "(?s).*#### ", r"\.$"] {
        comparison = comparison.removing(pattern)?;
    }
    let limits = data::greedy(max_new_tokens, &[form.question.trim_end(), "</s>", "<|im_end|>"]);
    let tables: Vec<&Table> = std::iter::once(&test_table).chain(&train_table).collect();
    let info = asking.info(data::dataset(path, &tables, test.len()));
    Ok(Box::new(Gsm8k { info, form, test, train, examples, limits, comparison }))
}

fn examples_path(path: &Path, examples: Examples, settings: &TaskSettings) -> Option<std::path::PathBuf> {
    let stems: &[&str] = match examples {
        Examples::Train => &["train", "gsm8k-train", "main/train-00000-of-00001"],
        Examples::Cot => &["cot", "gsm8k-cot"],
    };
    match &settings.examples {
        Some(path) if path.is_dir() => find_file(path, stems),
        Some(path) => Some(path.clone()),
        None if path.is_dir() => find_file(path, stems),
        None => find_file(path.parent()?, stems),
    }
}

/// Questions with answers as they are to be given.
fn read_cot(path: &Path) -> Result<(Table, Vec<Problem>)> {
    let table = read_table(NAME, path, Header::FirstRow)?;
    table.require(&["question", "target"])?;
    let problem = |row: &Row| {
        Ok(Problem {
            question: table.text(row, "question")?.to_owned(),
            answer: table.text(row, "target")?.to_owned(),
        })
    };
    let problems = table.rows.iter().map(problem).collect::<Result<_>>()?;
    Ok((table, problems))
}

fn read(path: &Path, rows: RowCount, published: usize, part: &str) -> Result<(Table, Vec<Problem>)> {
    let table = read_table(NAME, path, Header::FirstRow)?;
    table.require(&["question", "answer"])?;
    data::check_rows(&table, rows, Part { name: part, found: table.rows.len(), published: &[published] })?;
    let problem = |row: &Row| {
        let answer = table.text(row, "answer")?;
        if gsm8k_gold(answer).is_none() {
            let found = serde_json::Value::from(answer);
            return Err(table.cell(
                row,
                "answer",
                Some(&found),
                "a solution that ends with `#### ` and a number",
            ));
        }
        Ok(Problem { question: table.text(row, "question")?.to_owned(), answer: answer.to_owned() })
    };
    let problems = table.rows.iter().map(problem).collect::<Result<_>>()?;
    Ok((table, problems))
}

impl Gsm8k {
    fn question(&self, problem: &Problem) -> String {
        format!("{}{}{}", self.form.question, problem.question, self.form.answer)
    }

    fn strict(&self, response: &str) -> Option<String> {
        if self.form.sentence {
            data::number_after(response, "The answer is ", any_end)
        } else {
            gsm8k_strict(response)
        }
    }
}

/// `The answer is 18` needs one character more behind the number, as the reference's expression does.
fn any_end(rest: &str) -> bool {
    rest.chars().next().is_some_and(|c| c != '\n')
}

impl Task for Gsm8k {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn len(&self) -> usize {
        self.test.len()
    }

    fn document(&self, index: usize) -> Document {
        let problem = &self.test[index];
        let example = |&place: &usize| Example {
            question: self.question(&self.train[place]),
            answer: self.train[place].answer.clone(),
        };
        let examples = self.examples[index].iter().map(example).collect();
        Document {
            id: format!("test/{index}"),
            group: None,
            cluster: None,
            request: Request::answer(Prompt::after(examples, self.question(problem)), &self.limits),
            references: vec![problem.answer.clone()],
        }
    }

    fn score(&self, answered: &[Answered]) -> Result<Scores> {
        let gold = |one: &Answered| &self.test[one.index].answer;
        let by_rule = |found: Option<String>, one: &Answered| {
            let right = found.as_ref().is_some_and(|found| self.comparison.matches(found, gold(one)));
            Verdict::new(found, right)
        };
        let numeric = |one: &Answered| {
            let found = gsm8k_flexible(one.text());
            let right = found
                .as_ref()
                .zip(gsm8k_gold(gold(one)))
                .is_some_and(|(found, gold)| same_number(found, &gold));
            Verdict::new(found, right)
        };
        Ok(Scores {
            per_document: vec![
                share(&self.info, "gsm8k", "exact_match of strict-match", answered, |one| {
                    by_rule(self.strict(one.text()), one)
                }),
                share(&self.info, "gsm8k_flexible", "exact_match of flexible-extract", answered, |one| {
                    by_rule(gsm8k_flexible(one.text()), one)
                }),
                share(
                    &self.info,
                    "gsm8k_numeric",
                    "the last number, compared as a number (a rule of no reference)",
                    answered,
                    numeric,
                ),
            ],
            aggregates: Vec::new(),
        })
    }
}
