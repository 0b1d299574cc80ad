//! The Alpaca-like frame that instruct-v3's prompts bring along.
//!
//! The published prompts read `Below is an instruction that describes a task. Write a response that
//! appropriately completes the request.`, `### Instruction:`, the request, `### Response:`, each on lines of
//! their own with single line breaks between them. Stanford's original template has blank lines there, and a
//! longer first sentence with an `### Input:` section for requests that have an input. All of these are
//! recognised.

const OPENINGS: [&str; 2] = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
     response that appropriately completes the request.",
];
const INSTRUCTION: &str = "### Instruction:";
const INPUT: &str = "### Input:";
const RESPONSE: &str = "### Response:";

/// The request inside a framed prompt, with an input on a line of its own as for Alpaca records.
///
/// `None` if the text is not exactly one frame around one request: no opening, no response heading at the
/// end, or headings inside the request (earlier turns or worked examples), where cutting the outer pair would
/// leave halves.
///
/// ```
/// let prompt = "Below is an instruction that describes a task. Write a response that appropriately completes \
///               the request.\n### Instruction:\nName a prime.\n### Response:\n";
/// assert_eq!(ferrotune_data::frame::strip(prompt).as_deref(), Some("Name a prime."));
/// assert_eq!(ferrotune_data::frame::strip("Name a prime."), None);
/// ```
#[must_use]
pub fn strip(prompt: &str) -> Option<String> {
    let prompt = prompt.trim();
    let body = OPENINGS.iter().find_map(|opening| prompt.strip_prefix(opening))?;
    let body = body.trim_start().strip_prefix(INSTRUCTION)?.strip_suffix(RESPONSE)?;
    // The response heading must begin its line.
    let body = body.strip_suffix('\n')?.trim();
    let (instruction, input) = match body.split_once(&format!("\n{INPUT}")) {
        Some((instruction, input)) => (instruction.trim(), Some(input.trim())),
        None => (body, None),
    };
    let parts = [Some(instruction), input];
    let holds_heading = |text: &str| {
        text.lines()
            .any(|line| [INSTRUCTION, INPUT, RESPONSE].iter().any(|heading| line.starts_with(heading)))
    };
    if instruction.is_empty() || parts.iter().flatten().any(|text| holds_heading(text)) {
        return None;
    }
    Some(match input {
        Some(input) if !input.is_empty() => format!("{instruction}\n{input}"),
        _ => instruction.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prompt: &str, expected: Option<&str>) {
        assert_eq!(strip(prompt).as_deref(), expected, "{prompt:?}");
    }

    #[test]
    fn every_published_frame_is_stripped() {
        let [plain, with_input] = OPENINGS;
        check(&format!("{plain}\n### Instruction:\nA\nB\n### Response:\n"), Some("A\nB"));
        check(&format!("{plain}\n\n### Instruction:\nA\n\n### Response:"), Some("A"));
        check(&format!("{plain}\r\n### Instruction:\r\nA\r\n### Response:\r\n"), Some("A"));
        check(&format!("{plain} ### Instruction: A\n### Response: "), Some("A"));
        check(
            &format!("{with_input}\n\n### Instruction:\nA\n\n### Input:\nB\n\n### Response:\n"),
            Some("A\nB"),
        );
        check(&format!("{with_input}\n\n### Instruction:\nA\n\n### Input:\n\n### Response:\n"), Some("A"));
    }

    #[test]
    fn what_is_not_one_frame_around_one_request_is_left_alone() {
        let [plain, _] = OPENINGS;
        check("A", None);
        check("", None);
        check(plain, None);
        check(&format!("{plain}\n### Instruction:\nA\n"), None);
        check(&format!("{plain}\n### Instruction:\n\n### Response:\n"), None);
        check(&format!("{plain}\n### Instruction:\nexplain ### Response:"), None);
        check(
            &format!("{plain}\n### Instruction:\nA\n### Response:\nB\n### Instruction:\nC\n### Response:\n"),
            None,
        );
        check(&format!("Hello.\n{plain}\n### Instruction:\nA\n### Response:\n"), None);
    }
}
