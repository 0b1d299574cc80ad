//! MGSM: problems of GSM8K in eleven languages (Shi et al. 2022).

mod languages;

use std::path::{Path, PathBuf};

use serde_json::Value;

use self::languages::{ENGLISH_CLOSING, ENGLISH_STEPS, LANGUAGES, Language};
use super::{
    Answered, Document, Example, Prompt, Request, RowCount, Sampler, Scores, Task, TaskInfo, TaskSettings,
    data::{self, Part},
    scoring::{Verdict, by_group, macro_mean, share},
    settings::{Asking, GREEDY_TEXT},
    table::{Header, Row, Table, find_file, read_table},
};
use crate::{
    Measurement, Result, TaskDataProblem,
    benchmark::{MGSM_ANSWER_PREFIXES, gsm8k_flexible, mgsm_answer, mgsm_matches, same_number},
    exact_match::RawExactMatch,
    python_text,
};

pub(super) const NAME: &str = "mgsm";
pub(super) const SUMMARY: &str = "grade-school problems in 11 languages; a folder of mgsm_<language>.tsv files, or one of them; \
     examples as mgsm_<language>_train with columns question, answer and answer_number";
pub(super) const VARIANTS: &[(&str, &str)] = &[
    ("lm-eval-direct", "lm-evaluation-harness 0.4.13 `mgsm_direct_*`: the answer alone"),
    (
        "lm-eval-native-cot",
        "lm-evaluation-harness 0.4.13 `mgsm_native_cot_*`: steps in the question's language",
    ),
    ("lm-eval-en-cot", "lm-evaluation-harness 0.4.13 `mgsm_en_cot_*`: steps in English"),
    ("simple-evals", "simple-evals 2025-07: an instruction in the question's language"),
];

/// Problems of each language, and its examples.
const ROWS: usize = 250;
const EXAMPLES: usize = 8;

const MAX_NEW_TOKENS: usize = 256;
const SIMPLE_EVALS_TOKENS: usize = 2048;

#[derive(Debug)]
struct Mgsm {
    info: TaskInfo,
    form: Form,
    problems: Vec<Problem>,
    max_new_tokens: usize,
    loose: RawExactMatch,
}

#[derive(Debug)]
struct Problem {
    id: String,
    /// Its place in the file of its language, which is the same in all: they are translations of one another.
    place: usize,
    language: &'static Language,
    question: String,
    /// As it is written, thousands commas included.
    answer: String,
    examples: Vec<Example>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Direct,
    NativeSteps,
    EnglishSteps,
    SimpleEvals,
}

/// Opens the task; `variant` is one of [`VARIANTS`].
pub(super) fn open(variant: &'static str, path: &Path, settings: &TaskSettings) -> Result<Box<dyn Task>> {
    let form = match variant {
        "lm-eval-native-cot" => Form::NativeSteps,
        "lm-eval-en-cot" => Form::EnglishSteps,
        "simple-evals" => Form::SimpleEvals,
        _ => Form::Direct,
    };
    let usual_tokens = if form == Form::SimpleEvals { SIMPLE_EVALS_TOKENS } else { MAX_NEW_TOKENS };
    let mut asking = Asking::new(NAME, VARIANTS, variant);
    asking.refuse(settings, &GREEDY_TEXT)?;
    asking.parts("languages", &settings.parts);
    let shots = asking.shots(0, settings)?;
    let max_new_tokens = asking.setting("max_new_tokens", usual_tokens, settings.max_new_tokens);
    let mut tables = Vec::new();
    let mut problems = Vec::new();
    for (language, file) in files(path, settings)? {
        let table = read_table(NAME, &file, Header::Given(&["question", "answer"]))?;
        let part = format!("language `{}`", language.code);
        data::check_rows(
            &table,
            settings.rows,
            Part { name: &part, found: table.rows.len(), published: &[ROWS] },
        )?;
        let mut pool = examples(path, settings, form, language, shots)?;
        let mut sampler = Sampler::random();
        for (index, row) in table.rows.iter().enumerate() {
            let drawn = sampler
                .draw(pool.1.len(), shots, None)
                .ok_or_else(|| too_few(path, language, shots, pool.1.len()))?;
            problems.push(Problem {
                id: format!("{}/{index}", language.code),
                place: index,
                language,
                question: table.text(row, "question")?.to_owned(),
                answer: answer(&table, row)?,
                examples: drawn.into_iter().map(|place| pool.1[place].clone()).collect(),
            });
        }
        tables.push(table);
        tables.append(&mut pool.0);
    }
    let mut codes: Vec<&str> = problems.iter().map(|problem| problem.language.code).collect();
    codes.dedup();
    asking.note("languages", codes);
    let info = asking.info(data::dataset(path, &tables.iter().collect::<Vec<_>>(), problems.len()));
    let loose = RawExactMatch { ignore_case: true, ignore_punctuation: true, ..RawExactMatch::default() };
    Ok(Box::new(Mgsm { info, form, problems, max_new_tokens, loose }))
}

/// The files of the languages that are asked about.
fn files(path: &Path, settings: &TaskSettings) -> Result<Vec<(&'static Language, PathBuf)>> {
    let problem = |problem| data::problem(NAME, path, problem);
    let asked = |language: &&Language| {
        settings.parts.is_empty() || settings.parts.iter().any(|part| part == language.code)
    };
    if let Some(unknown) =
        settings.parts.iter().find(|part| !LANGUAGES.iter().any(|l| l.code == part.as_str()))
    {
        let what = "of the languages asked for".to_owned();
        return Err(problem(TaskDataProblem::MissingParts { what, missing: vec![unknown.clone()] }));
    }
    if path.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let language = LANGUAGES.iter().find(|l| name.starts_with(&format!("mgsm_{}.", l.code)));
        return language.filter(asked).map(|language| vec![(language, path.to_owned())]).ok_or_else(|| {
            problem(TaskDataProblem::NoFile { expected: "a file named mgsm_<language>.tsv".to_owned() })
        });
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for language in LANGUAGES.iter().filter(asked) {
        match find_file(path, &[&format!("mgsm_{}", language.code)]) {
            Some(file) => found.push((language, file)),
            None => missing.push(language.code.to_owned()),
        }
    }
    if found.is_empty() && settings.parts.is_empty() {
        let expected = "files named mgsm_<language>.tsv".to_owned();
        return Err(problem(TaskDataProblem::NoFile { expected }));
    }
    let may_lack = settings.rows == RowCount::Any && settings.parts.is_empty();
    if !missing.is_empty() && !may_lack {
        let what = format!("of MGSM's {} languages", LANGUAGES.len());
        return Err(problem(TaskDataProblem::MissingParts { what, missing }));
    }
    Ok(found)
}

fn too_few(path: &Path, language: &Language, wanted: usize, found: usize) -> crate::Error {
    let hint = format!(" in mgsm_{}_train; name the folder of examples, or ask for 0", language.code);
    data::problem(NAME, path, TaskDataProblem::TooFewExamples { wanted, found, hint })
}

/// The examples of a language: the question and the answer in steps come with their introducing words.
fn examples(
    path: &Path,
    settings: &TaskSettings,
    form: Form,
    language: &Language,
    shots: usize,
) -> Result<(Vec<Table>, Vec<Example>)> {
    if shots == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let beside = if path.is_dir() { Some(path) } else { path.parent() };
    let source = settings.examples.as_deref().or(beside);
    let stems = [format!("mgsm_{}_train", language.code), format!("{}/train-00000-of-00001", language.code)];
    let file = match source {
        Some(file) if file.is_file() => Some(file.to_owned()),
        Some(folder) => find_file(folder, &stems.each_ref().map(String::as_str)),
        None => None,
    };
    let Some(file) = file else { return Err(too_few(path, language, shots, 0)) };
    let table = read_table(NAME, &file, Header::FirstRow)?;
    table.require(&["question", "answer", "answer_number"])?;
    if settings.rows == RowCount::Published {
        let part = Part { name: "the examples", found: table.rows.len(), published: &[EXAMPLES] };
        data::check_rows(&table, settings.rows, part)?;
    }
    let example = |row: &Row| {
        let steps = table.text(row, "answer")?;
        Ok(Example {
            question: format!("{}\n{}", table.text(row, "question")?, form.closing(language)),
            answer: match form {
                Form::Direct => table.count(row, "answer_number")?.to_string(),
                // What introduces the steps, and the space after it, is part of the file.
                _ => steps.chars().skip(language.steps.chars().count() + 1).collect(),
            },
        })
    };
    let examples = table.rows.iter().map(example).collect::<Result<Vec<_>>>()?;
    Ok((vec![table], examples))
}

/// A whole number, with thousands commas or without.
fn answer(table: &Table, row: &Row) -> Result<String> {
    let text = table.text(row, "answer")?.trim();
    let digits = text.strip_prefix('-').unwrap_or(text).replace(',', "");
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err(table.cell(row, "answer", Some(&Value::from(text)), "a whole number"))
}

impl Form {
    /// What a question ends with.
    fn closing(self, language: &Language) -> &'static str {
        match self {
            Self::Direct => language.direct,
            Self::EnglishSteps => ENGLISH_STEPS,
            Self::NativeSteps | Self::SimpleEvals => language.steps,
        }
    }
}

impl Mgsm {
    fn gold(&self, one: &Answered) -> String {
        self.problems[one.index].answer.replace(',', "")
    }

    fn by_rule(&self, found: Option<String>, one: &Answered) -> Verdict {
        let right = found.as_ref().is_some_and(|found| self.loose.matches(found, &self.gold(one)));
        Verdict::new(found, right)
    }

    fn strict(&self, one: &Answered) -> Option<String> {
        let (before, after) = match self.form {
            Form::EnglishSteps => ENGLISH_CLOSING,
            _ => self.problems[one.index].language.closing,
        };
        data::number_after(one.text(), before, |rest| rest.starts_with(after))
    }

    fn principal(&self, answered: &[Answered]) -> Measurement {
        let of =
            |rule: &str, judge: &dyn Fn(&Answered) -> Verdict| share(&self.info, NAME, rule, answered, judge);
        match self.form {
            Form::Direct => of("exact_match of remove_whitespace", &|one| {
                self.by_rule(Some(one.text().trim_matches(python_text::is_space).to_owned()), one)
            }),
            Form::NativeSteps | Form::EnglishSteps => {
                of("exact_match of strict-match", &|one| self.by_rule(self.strict(one), one))
            }
            Form::SimpleEvals => of("the last number behind the word for answer", &|one| {
                let problem = &self.problems[one.index];
                let prefix = MGSM_ANSWER_PREFIXES.iter().find(|(code, _)| *code == problem.language.code);
                let found = prefix.and_then(|(_, prefix)| mgsm_answer(one.text(), prefix));
                let right = mgsm_matches(&problem.answer, found.as_deref().unwrap_or_default());
                Verdict::new(found, right)
            }),
        }
    }
}

impl Task for Mgsm {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn len(&self) -> usize {
        self.problems.len()
    }

    fn part(&self, index: usize) -> Option<(&'static str, &str)> {
        Some(("language", self.problems[index].language.code))
    }

    fn document(&self, index: usize) -> Document {
        let problem = &self.problems[index];
        let language = problem.language;
        let (question, stop) = if self.form == Form::SimpleEvals {
            (format!("{}\n\n{}", language.instruction, problem.question), vec![])
        } else {
            let question =
                format!("{} {}\n{}", language.question, problem.question, self.form.closing(language));
            (question, vec![language.question, "</s>", "<|im_end|>"])
        };
        let prompt = Prompt {
            delimiter: if self.form == Form::Direct { "" } else { " " }.to_owned(),
            ..Prompt::after(problem.examples.clone(), question)
        };
        Document {
            id: problem.id.clone(),
            group: Some(language.code.to_owned()),
            cluster: Some(format!("problem {}", problem.place)),
            request: Request::answer(prompt, &data::greedy(self.max_new_tokens, &stop)),
            references: vec![problem.answer.clone()],
        }
    }

    fn score(&self, answered: &[Answered]) -> Result<Scores> {
        let principal = self.principal(answered);
        let mut aggregates = vec![macro_mean(&principal, answered)];
        aggregates.extend(by_group(&principal, answered, |one| one.document.group.as_deref()));
        aggregates.extend(by_group(&principal, answered, |one| {
            let is_latin = self.problems[one.index].language.is_latin;
            Some(if is_latin { "group_latin" } else { "group_non_latin" })
        }));
        let mut per_document = vec![principal];
        if self.form != Form::SimpleEvals {
            per_document.push(share(
                &self.info,
                "mgsm_flexible",
                "exact_match of flexible-extract",
                answered,
                |one| self.by_rule(gsm8k_flexible(one.text()), one),
            ));
        }
        per_document.push(share(
            &self.info,
            "mgsm_numeric",
            "the last number, compared as a number (a rule of no reference)",
            answered,
            |one| {
                let found = gsm8k_flexible(one.text());
                let right = found.as_ref().is_some_and(|found| same_number(found, &self.gold(one)));
                Verdict::new(found, right)
            },
        ));
        Ok(Scores { per_document, aggregates })
    }
}
