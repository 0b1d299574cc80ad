//! MMLU: multiple-choice questions of 57 subjects (Hendrycks et al. 2021).

mod files;
mod subjects;

use std::path::Path;

use ferrotune_core::GenerationLimits;

use self::{
    files::{BySubject, LETTERS, Question, Split},
    subjects::{Categories, category},
};
use super::{
    Answered, Document, Example, Prompt, Request, Scores, Task, TaskInfo, TaskSettings, data,
    multiple_choice,
    scoring::{Verdict, by_group, chosen, macro_mean, share, with_pooled_stderr},
    settings::{Asking, GREEDY_TEXT, NO_TEXT},
};
use crate::{
    Measurement, Result,
    benchmark::{ChoiceExtractor, ChoiceScore, LabelExtractor, rest_of_line},
    exact_match::RawExactMatch,
    python_text,
};

pub(super) const NAME: &str = "mmlu";
pub(super) const SUMMARY: &str = "questions of 57 subjects; the authors' folder of dev, val and test with CSV files, or test \
     and dev as Parquet or JSON Lines with columns question, subject, choices and answer, or simple-evals' CSV";
pub(super) const VARIANTS: &[(&str, &str)] = &[
    ("lm-eval", "lm-evaluation-harness 0.4.13 `mmlu`: log-likelihood of the letters, 5 examples from dev"),
    ("hendrycks", "the prompt of hendrycks/test, log-likelihood of the letters, 5 examples from dev"),
    (
        "lm-eval-continuation",
        "lm-evaluation-harness 0.4.13 `mmlu_continuation`: log-likelihood of the choices",
    ),
    ("lm-eval-generative", "lm-evaluation-harness 0.4.13 `mmlu_generative`: the answer's first line"),
    (
        "lm-eval-flan-cot-zeroshot",
        "lm-evaluation-harness 0.4.13 `mmlu_flan_cot_zeroshot`, validation questions",
    ),
    ("simple-evals", "simple-evals 2025-07: one instruction, the letter found in the answer"),
];

#[derive(Debug)]
struct Mmlu {
    info: TaskInfo,
    form: Form,
    questions: Vec<Question>,
    shots: usize,
    examples: BySubject,
    limits: GenerationLimits,
    letters: ChoiceExtractor,
    labels: LabelExtractor,
    loose: RawExactMatch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    LmEval,
    Hendrycks,
    Continuation,
    Generative,
    FlanCot,
    SimpleEvals,
}

impl Form {
    fn categories(self) -> Categories {
        match self {
            Self::Hendrycks | Self::SimpleEvals => Categories::Hendrycks,
            _ => Categories::LmEval,
        }
    }

    /// Examples, most tokens of an answer, and what ends one.
    fn defaults(self) -> (usize, usize, &'static [&'static str]) {
        match self {
            Self::LmEval | Self::Hendrycks => (5, 0, &[]),
            Self::Continuation => (0, 0, &[]),
            Self::Generative => (0, 256, &["</s>", "\n"]),
            Self::FlanCot => (0, 256, &["</s>", "Q:", "<|im_end|>"]),
            Self::SimpleEvals => (0, 2048, &[]),
        }
    }
}

/// Opens the task; `variant` is one of [`VARIANTS`].
pub(super) fn open(variant: &'static str, path: &Path, settings: &TaskSettings) -> Result<Box<dyn Task>> {
    let form = match variant {
        "hendrycks" => Form::Hendrycks,
        "lm-eval-continuation" => Form::Continuation,
        "lm-eval-generative" => Form::Generative,
        "lm-eval-flan-cot-zeroshot" => Form::FlanCot,
        "simple-evals" => Form::SimpleEvals,
        _ => Form::LmEval,
    };
    let (shots, max_new_tokens, stop) = form.defaults();
    let mut asking = Asking::new(NAME, VARIANTS, variant);
    asking.refuse(settings, &GREEDY_TEXT)?;
    let shots = asking.shots(shots, settings)?;
    let max_new_tokens = if max_new_tokens == 0 {
        asking.refuse(settings, &[NO_TEXT])?;
        0
    } else {
        asking.setting("max_new_tokens", max_new_tokens, settings.max_new_tokens)
    };
    if !settings.parts.is_empty() {
        asking.parts("subjects", &settings.parts);
        asking.note("subjects", settings.parts.clone());
    }
    let limits = data::greedy(max_new_tokens, stop);
    let split = if form == Form::FlanCot { Split::Validation } else { Split::Test };
    let read = files::questions(path, split, settings)?;
    let (dev, examples) = files::examples(path, settings, &read.questions, shots)?;
    let tables: Vec<_> = read.tables.iter().chain(&dev).collect();
    let info = asking.info(data::dataset(path, &tables, read.questions.len()));
    Ok(Box::new(Mmlu {
        info,
        form,
        questions: read.questions,
        shots,
        examples,
        limits,
        letters: ChoiceExtractor::new()?,
        labels: LabelExtractor::new()?,
        loose: RawExactMatch { ignore_case: true, ignore_punctuation: true, ..RawExactMatch::default() },
    }))
}

impl Mmlu {
    fn description(&self, subject: &str) -> String {
        let subject = subject.replace('_', " ");
        match self.form {
            Form::SimpleEvals => String::new(),
            Form::Continuation => {
                format!("The following are questions (with answers) about {subject}.\n\n")
            }
            // The authors' code puts a space of its own before the subject.
            Form::Hendrycks => {
                format!("The following are multiple choice questions (with answers) about  {subject}.\n\n")
            }
            _ => format!("The following are multiple choice questions (with answers) about {subject}.\n\n"),
        }
    }

    fn question(&self, question: &Question) -> String {
        let text = question.question.trim_matches(python_text::is_space);
        let [a, b, c, d] = &question.choices;
        match self.form {
            Form::LmEval | Form::Generative => format!("{text}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:"),
            Form::Hendrycks => format!("{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:", question.question),
            Form::Continuation => format!("Question: {text}\nAnswer:"),
            Form::FlanCot => {
                format!("Q: {text}\n(A) {a} (B) {b} (C) {c} (D) {d}\nA: Let's think step by step.")
            }
            Form::SimpleEvals => multiple_choice::instruction(&question.question, &question.choices),
        }
    }

    fn answer(&self, question: &Question) -> String {
        match self.form {
            Form::Continuation => question.choices[question.answer].clone(),
            Form::FlanCot => format!("({})", LETTERS[question.answer]),
            _ => LETTERS[question.answer].to_owned(),
        }
    }

    fn principal(&self, answered: &[Answered]) -> Measurement {
        let question = |one: &Answered| &self.questions[one.index];
        let of =
            |rule: &str, judge: &dyn Fn(&Answered) -> Verdict| share(&self.info, NAME, rule, answered, judge);
        match self.form {
            Form::LmEval | Form::Hendrycks | Form::Continuation => {
                of("acc", &|one| chosen(one, &LETTERS, question(one).answer, ChoiceScore::Sum))
            }
            Form::Generative => of("exact_match of the first line", &|one| {
                let line = one.text().split('\n').next().unwrap_or_default();
                let found = line.trim_matches(python_text::is_space);
                Verdict::new(Some(found.to_owned()), self.loose.matches(found, &self.answer(question(one))))
            }),
            Form::FlanCot => of("exact_match of strict-match", &|one| {
                let words = ["The answer is ", "answer is ", "The answer: ", "The final answer: "];
                self.labelled(rest_of_line(one.text(), &words), question(one))
            }),
            Form::SimpleEvals => of("the letter behind a word for answer", &|one| {
                let found = self.letters.mmlu(one.text());
                let right = found.as_deref() == Some(LETTERS[question(one).answer]);
                Verdict::new(found, right)
            }),
        }
    }

    fn labelled(&self, found: Option<String>, question: &Question) -> Verdict {
        let right = found.as_ref().is_some_and(|found| self.loose.matches(found, &self.answer(question)));
        Verdict::new(found, right)
    }

    fn second(&self, answered: &[Answered]) -> Option<Measurement> {
        let question = |one: &Answered| &self.questions[one.index];
        match self.form {
            Form::Continuation => Some(share(&self.info, "mmlu_norm", "acc_norm", answered, |one| {
                chosen(one, &LETTERS, question(one).answer, ChoiceScore::PerCharacter)
            })),
            Form::FlanCot => {
                Some(share(&self.info, "mmlu_flexible", "exact_match of flexible-extract", answered, |one| {
                    let found = self.labels.last_label(one.text(), &question(one).choices);
                    self.labelled(found, question(one))
                }))
            }
            _ => None,
        }
    }
}

impl Task for Mmlu {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn len(&self) -> usize {
        self.questions.len()
    }

    fn part(&self, index: usize) -> Option<(&'static str, &str)> {
        Some(("subject", &self.questions[index].subject))
    }

    fn document(&self, index: usize) -> Document {
        let question = &self.questions[index];
        let shown =
            self.examples.get(&question.subject).map_or(&[][..], |all| &all[..self.shots.min(all.len())]);
        let example =
            |shown: &Question| Example { question: self.question(shown), answer: self.answer(shown) };
        let prompt = Prompt {
            description: self.description(&question.subject),
            ..Prompt::after(shown.iter().map(example).collect(), self.question(question))
        };
        let request = match self.form {
            Form::LmEval | Form::Hendrycks => {
                Request::Choices { prompt, choices: LETTERS.map(str::to_owned).to_vec() }
            }
            Form::Continuation => Request::Choices { prompt, choices: question.choices.to_vec() },
            Form::Generative | Form::FlanCot | Form::SimpleEvals => Request::answer(prompt, &self.limits),
        };
        Document {
            id: question.id.clone(),
            group: Some(question.subject.clone()),
            cluster: None,
            request,
            references: vec![LETTERS[question.answer].to_owned()],
        }
    }

    fn score(&self, answered: &[Answered]) -> Result<Scores> {
        let principal = self.principal(answered);
        let per_subject = by_group(&principal, answered, |one| one.document.group.as_deref());
        let mut aggregates = vec![macro_mean(&principal, answered)];
        aggregates.extend(by_group(&principal, answered, |one| {
            let subject = one.document.group.as_deref()?;
            category(subject, self.form.categories()).map(subjects::Category::name)
        }));
        let principal = with_pooled_stderr(principal, &per_subject);
        aggregates.extend(per_subject);
        let per_document = std::iter::once(principal).chain(self.second(answered)).collect();
        Ok(Scores { per_document, aggregates })
    }
}
