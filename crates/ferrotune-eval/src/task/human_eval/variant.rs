//! Whose prompt, whose way of drawing, and whose idea of where the completion is in an answer.

use std::borrow::Cow;

use super::{super::Prompt, Problem};

pub(in super::super) const VARIANTS: &[(&str, &str)] = &[
    ("lm-eval", "lm-evaluation-harness 0.4.13 `humaneval`, for base models: one greedy completion"),
    (
        "lm-eval-64",
        "lm-evaluation-harness 0.4.13 `humaneval_64`: 64 completions at temperature 0.2, top-p 0.95",
    ),
    (
        "lm-eval-instruct",
        "lm-evaluation-harness 0.4.13 `humaneval_instruct`: the reply is made to begin with the prompt",
    ),
    ("lm-eval-64-instruct", "lm-evaluation-harness 0.4.13 `humaneval_64_instruct`"),
    (
        "simple-evals",
        "simple-evals 2025-07: 5 replies at temperature 0.5, all up to the first indented line dropped",
    ),
    (
        "instruct",
        "for instructed models: one greedy reply, its first code block, a whole function or its body",
    ),
    (
        "human-eval",
        "Chen et al. 2021: 200 completions at temperature 0.8, top-p 0.95; for files of completions",
    ),
];

/// What ends a completion of code at the end of its function, in the paper and in every suite for base models.
const STOPS: &[&str] = &["\nclass", "\ndef", "\n#", "\nif", "\nprint"];

const FENCE: &str = "```";

const PYTHON_FENCE: &str = "```python\n";

#[derive(Debug)]
pub(super) struct Variant {
    question: Question,
    found: Found,
    pub(super) stop: &'static [&'static str],
    pub(super) max_new_tokens: usize,
    pub(super) temperature: f64,
    pub(super) top_p: f64,
    pub(super) samples: usize,
    pub(super) ks: &'static [usize],
}

/// What the model is asked.
#[derive(Debug)]
enum Question {
    /// To go on with the program.
    Program,
    /// lm-evaluation-harness' words for instructed models, and the beginning of their reply.
    Begun,
    /// simple-evals' words.
    CodeOnly,
    /// Ours.
    Function,
}

/// Where the completion is in an answer.
#[derive(Debug)]
enum Found {
    /// It is the answer.
    Whole,
    /// Up to the first fence.
    BeforeFence,
    /// By simple-evals' rule, which loses a character of what has no signature.
    AfterSignature,
    /// In the first block of code.
    Block,
}

impl Variant {
    /// The variant of a name, which is one of [`VARIANTS`].
    pub(super) fn named(name: &str) -> Self {
        let lm_eval = Self {
            question: Question::Program,
            found: Found::Whole,
            stop: STOPS,
            max_new_tokens: 1024,
            temperature: 0.0,
            top_p: 1.0,
            samples: 1,
            ks: &[1],
        };
        let instruct = |variant| Self { question: Question::Begun, found: Found::BeforeFence, ..variant };
        let sixty_four =
            |variant| Self { temperature: 0.2, top_p: 0.95, samples: 64, ks: &[2, 8, 16, 32, 64], ..variant };
        match name {
            "lm-eval-64" => sixty_four(lm_eval),
            "lm-eval-instruct" => instruct(lm_eval),
            "lm-eval-64-instruct" => sixty_four(instruct(lm_eval)),
            "simple-evals" => Self {
                question: Question::CodeOnly,
                found: Found::AfterSignature,
                stop: &[],
                temperature: 0.5,
                samples: 5,
                ks: &[1, 2, 5],
                ..lm_eval
            },
            "instruct" => Self { question: Question::Function, found: Found::Block, stop: &[], ..lm_eval },
            "human-eval" => {
                Self { temperature: 0.8, top_p: 0.95, samples: 200, ks: &[1, 10, 100], ..lm_eval }
            }
            _ => lm_eval,
        }
    }

    pub(super) fn prompt(&self, problem: &Problem) -> Prompt {
        let program = &problem.prompt;
        let question = match self.question {
            Question::Program => program.clone(),
            Question::Begun => format!(
                "Write a solution to the following problem and make sure that it passes the tests:\n\
                 {PYTHON_FENCE}{program}\n{FENCE}\n"
            ),
            Question::CodeOnly => format!(
                "Read the following function signature and docstring, and fully implement the function described. \
                 Your response should only contain the code for this function.\n{program}"
            ),
            Question::Function => format!(
                "Complete this Python program. Answer with the whole function `{}` in one block of Python code.\n\n\
                 {PYTHON_FENCE}{program}{FENCE}",
                problem.entry_point
            ),
        };
        let answer_prefix = match self.question {
            Question::Begun => format!("Here is the completed function:\n{PYTHON_FENCE}{program}\n"),
            _ => String::new(),
        };
        Prompt { question, answer_prefix, ..Prompt::default() }
    }

    /// What follows the problem's prompt in the program.
    pub(super) fn completion<'a>(&self, problem: &Problem, answer: &'a str) -> Cow<'a, str> {
        match self.found {
            Found::Whole => answer.into(),
            Found::BeforeFence => answer.split(FENCE).next().unwrap_or_default().into(),
            Found::AfterSignature => {
                let code = block(answer, PYTHON_FENCE).unwrap_or(answer);
                match code.find(":\n    ") {
                    Some(colon) => code[colon + 2..].into(),
                    // Python's `find` says -1, so that the reference begins at 1.
                    None => code.chars().skip(1).collect::<String>().into(),
                }
            }
            Found::Block => {
                let code =
                    block(answer, PYTHON_FENCE).or_else(|| block_of_any_language(answer)).unwrap_or(answer);
                if defines(code, &problem.entry_point) {
                    // The prompt is a function without a body but its docstring: defined again below it, with the
                    // prompt's imports and helpers above.
                    format!("\n{code}").into()
                } else {
                    code.into()
                }
            }
        }
    }
}

/// What stands between the first `opening` and the next fence.
fn block<'a>(answer: &'a str, opening: &str) -> Option<&'a str> {
    let (_, after) = answer.split_once(opening)?;
    after.split_once(FENCE).map(|(code, _)| code)
}

fn block_of_any_language(answer: &str) -> Option<&str> {
    let (_, after) = answer.split_once(FENCE)?;
    let (_, code) = after.split_once('\n')?;
    // An answer that was cut off has no second fence.
    Some(code.split(FENCE).next().unwrap_or(code))
}

/// Whether code defines a function at its outermost level.
fn defines(code: &str, function: &str) -> bool {
    code.lines().any(|line| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("def ")
            .and_then(|rest| rest.trim_start().strip_prefix(function))
            .is_some_and(|rest| rest.trim_start().starts_with('('))
    })
}
