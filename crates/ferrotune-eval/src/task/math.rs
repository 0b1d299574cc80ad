//! MATH: competition problems whose solutions end in a boxed answer (Hendrycks et al. 2021).

use std::{
    fs,
    path::{Path, PathBuf},
};

use ferrotune_core::GenerationLimits;

use super::{
    Answered, Document, Example, Prompt, Request, RowCount, Sampler, Scores, Task, TaskInfo, TaskSettings,
    data::{self, Part},
    few_shot,
    scoring::{Verdict, by_group, share, with_pooled_stderr},
    settings::{Asking, GREEDY_TEXT, NO_PARTS},
    table::{Header, Row, Table, find_file, read_table},
};
use crate::{
    Error, Result, TaskDataProblem,
    benchmark::{between_dollars, last_boxed, math_equivalent, same_rational},
};

pub(super) const NAME: &str = "math";
pub(super) const SUMMARY: &str = "competition problems; the authors' folder of test and train with one JSON file per problem, or \
     test and train as JSON Lines or Parquet with columns problem and solution";
pub(super) const VARIANTS: &[(&str, &str)] = &[
    ("lm-eval-hendrycks", "lm-evaluation-harness 0.4.13 `hendrycks_math`: the authors' equality"),
    (
        "simple-evals",
        "the prompt and extraction of simple-evals 2025-07; the authors' equality, where the reference asks a judge",
    ),
];

/// Problems of the test data, and of the part that OpenAI's PRM800K calls MATH-500.
const TEST_ROWS: [usize; 2] = [5000, 500];
const TRAIN_ROWS: [usize; 2] = [7500, 12000];

const MAX_NEW_TOKENS: usize = 256;
const SIMPLE_EVALS_TOKENS: usize = 2048;

#[derive(Debug)]
struct Math {
    info: TaskInfo,
    is_simple_evals: bool,
    test: Vec<Problem>,
    train: Vec<Problem>,
    examples: Vec<Vec<usize>>,
    limits: GenerationLimits,
}

#[derive(Debug)]
struct Problem {
    id: String,
    problem: String,
    /// The boxed answer of the solution.
    answer: String,
    subject: Option<String>,
    level: Option<String>,
}

/// Opens the task; `variant` is one of [`VARIANTS`].
pub(super) fn open(variant: &'static str, path: &Path, settings: &TaskSettings) -> Result<Box<dyn Task>> {
    let is_simple_evals = variant == "simple-evals";
    let (tokens, stop): (_, &[&str]) =
        if is_simple_evals { (SIMPLE_EVALS_TOKENS, &[]) } else { (MAX_NEW_TOKENS, &["Problem:"]) };
    let mut asking = Asking::new(NAME, VARIANTS, variant);
    asking.refuse(settings, &GREEDY_TEXT)?;
    asking.refuse(settings, &[NO_PARTS])?;
    let shots = asking.shots(0, settings)?;
    let limits = data::greedy(asking.setting("max_new_tokens", tokens, settings.max_new_tokens), stop);
    let (test_tables, test) = read(path, "test", settings.rows, &TEST_ROWS)?
        .ok_or_else(|| no_files(path, "a folder with test/<subject>/<number>.json, or test.jsonl"))?;
    let (train_tables, train) = if shots == 0 {
        (Vec::new(), Vec::new())
    } else {
        let source = settings.examples.as_deref().unwrap_or(path);
        read(source, "train", settings.rows, &TRAIN_ROWS)?
            .ok_or_else(|| no_files(source, "a folder with train/<subject>/<number>.json, or train.jsonl"))?
    };
    let examples = few_shot::drawn(Sampler::random(), test.len(), train.len(), shots, "")
        .map_err(|problem| data::problem(NAME, path, problem))?;
    let tables: Vec<&Table> = test_tables.iter().chain(&train_tables).collect();
    let info = asking.info(data::dataset(path, &tables, test.len()));
    Ok(Box::new(Math { info, is_simple_evals, test, train, examples, limits }))
}

fn no_files(path: &Path, expected: &str) -> Error {
    data::problem(NAME, path, TaskDataProblem::NoFile { expected: expected.to_owned() })
}

type Read = (Vec<Table>, Vec<Problem>);

/// The problems of a split, with the files they were read from; nothing where there are none.
fn read(path: &Path, split: &str, rows: RowCount, published: &[usize]) -> Result<Option<Read>> {
    let folder = path.join(split);
    let files = if path.is_file() {
        vec![path.to_owned()]
    } else if folder.is_dir() {
        numbered(&folder)?
    } else if let Some(file) = find_file(path, &[split]) {
        vec![file]
    } else {
        return Ok(None);
    };
    let mut read = (Vec::new(), Vec::new());
    for file in &files {
        let table = read_table(NAME, file, Header::FirstRow)?;
        table.require(&["problem", "solution"])?;
        let stem = file.strip_prefix(&folder).ok().map(|below| below.with_extension(""));
        let has_id = table.columns.iter().any(|column| column == "unique_id");
        if has_id {
            table.unique(|row| table.text(row, "unique_id"))?;
        }
        for (index, row) in table.rows.iter().enumerate() {
            let id = match (&stem, has_id) {
                (_, true) => table.text(row, "unique_id")?.to_owned(),
                (Some(stem), _) => {
                    let parts: Vec<_> = stem.iter().map(|part| part.to_string_lossy()).collect();
                    format!("{split}/{}", parts.join("/"))
                }
                (None, _) => format!("{split}/{index}"),
            };
            read.1.push(problem(&table, row, id)?);
        }
        read.0.push(table);
    }
    let Some(first) = read.0.first() else {
        return Err(data::problem(NAME, &folder, TaskDataProblem::Empty));
    };
    data::check_rows(first, rows, Part { name: split, found: read.1.len(), published })
        .map_err(|error| data::at(error, path))?;
    Ok(Some(read))
}

fn problem(table: &Table, row: &Row, id: String) -> Result<Problem> {
    let optional = |column| table.optional_text(row, column).map(|text| text.map(str::to_owned));
    let solution = table.text(row, "solution")?;
    // The authors' code fails on such a solution, once a model has answered everything.
    let answer = last_boxed(solution).ok_or_else(|| {
        table.cell(row, "solution", Some(&solution.into()), r"a solution with its answer in \boxed{…}")
    })?;
    Ok(Problem {
        id,
        problem: table.text(row, "problem")?.to_owned(),
        answer: answer.to_owned(),
        subject: optional("type")?.map_or_else(|| optional("subject"), |subject| Ok(Some(subject)))?,
        // MATH-500 writes the level as a number.
        level: match table.count(row, "level") {
            Ok(level) => Some(format!("Level {level}")),
            Err(_) => optional("level")?,
        },
    })
}

/// The JSON files below a folder: subjects in alphabetical order, problems by number.
fn numbered(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = |folder: &Path| -> Result<Vec<PathBuf>> {
        let unreadable = |source| Error::Read { path: folder.to_owned(), source };
        fs::read_dir(folder)
            .map_err(unreadable)?
            .map(|entry| entry.map(|entry| entry.path()).map_err(unreadable))
            .collect()
    };
    let mut files = Vec::new();
    for entry in entries(folder)? {
        if entry.is_dir() {
            files.extend(entries(&entry)?);
        } else {
            files.push(entry);
        }
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    let number = |file: &PathBuf| {
        file.file_stem().and_then(|stem| stem.to_string_lossy().parse::<u64>().ok()).unwrap_or(u64::MAX)
    };
    files.sort_by_cached_key(|file| (file.parent().map(Path::to_owned), number(file), file.clone()));
    Ok(files)
}

impl Math {
    fn question(&self, problem: &Problem) -> String {
        if self.is_simple_evals {
            return simple_evals(&problem.problem);
        }
        format!("Problem: {}\nAnswer:", problem.problem)
    }

    fn found<'a>(&self, response: &'a str) -> Option<&'a str> {
        if self.is_simple_evals { answer_line(response) } else { Some(between_dollars(response)) }
    }

    fn judged(&self, one: &Answered, equal: fn(&str, &str) -> bool) -> Verdict {
        let found = self.found(one.text());
        let right = found.is_some_and(|found| equal(found, &self.test[one.index].answer));
        Verdict::new(found.map(str::to_owned), right)
    }
}

/// simple-evals' prompt, word for word, since a paraphrase would be another variant.
///
/// *Source*: `math_eval.py` of openai/simple-evals, 2025-07-09 (MIT).
fn simple_evals(problem: &str) -> String {
    format!(
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: \
         $ANSWER (without quotes) where $ANSWER is the answer to the problem.\n\n{problem}\n\nRemember to put your \
         answer on its own line after \"Answer:\", and you do not need to use a \\boxed command."
    )
}

/// What follows the first `Answer:` on its line, or on the next that has anything: `(?i)Answer\s*:\s*([^\n]+)`.
fn answer_line(response: &str) -> Option<&str> {
    let lower = response.to_ascii_lowercase();
    lower.match_indices("answer").find_map(|(at, word)| {
        let is_space = crate::python_text::is_space;
        let after = response[at + word.len()..].trim_start_matches(is_space).strip_prefix(':')?;
        let line = after.trim_start_matches(is_space).split('\n').next()?;
        (!line.is_empty()).then_some(line)
    })
}

impl Task for Math {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn len(&self) -> usize {
        self.test.len()
    }

    fn part(&self, index: usize) -> Option<(&'static str, &str)> {
        Some(("subject", self.test[index].subject.as_deref()?))
    }

    fn document(&self, index: usize) -> Document {
        let problem = &self.test[index];
        let example = |&place: &usize| {
            let shown = &self.train[place];
            Example { question: self.question(shown), answer: shown.answer.clone() }
        };
        let examples = self.examples[index].iter().map(example).collect();
        Document {
            id: problem.id.clone(),
            group: problem.subject.clone(),
            cluster: None,
            request: Request::answer(Prompt::after(examples, self.question(problem)), &self.limits),
            references: vec![problem.answer.clone()],
        }
    }

    fn score(&self, answered: &[Answered]) -> Result<Scores> {
        let principal = share(&self.info, NAME, "the authors' equality", answered, |one| {
            self.judged(one, math_equivalent)
        });
        let numeric = share(
            &self.info,
            "math_numeric",
            "equal by the authors' rules or as rational numbers (a rule of no reference)",
            answered,
            |one| self.judged(one, |found, gold| math_equivalent(found, gold) || same_rational(found, gold)),
        );
        let subjects = by_group(&principal, answered, |one| one.document.group.as_deref());
        let levels = by_group(&principal, answered, |one| self.test[one.index].level.as_deref());
        let principal = with_pooled_stderr(principal, &subjects);
        let aggregates = subjects.into_iter().chain(levels).collect();
        Ok(Scores { per_document: vec![principal, numeric], aggregates })
    }
}
