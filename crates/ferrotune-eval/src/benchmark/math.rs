//! Answers of MATH by the rules of its authors: equality of strings after a fixed series of rewrites.
//!
//! *Source*: Hendrycks et al. 2021; `modeling/math_equivalence.py` of hendrycks/math, and `hendrycks_math` of
//! lm-evaluation-harness for how an answer is found. The rules know LaTeX spellings, not mathematics: `2` and `2.0`
//! differ.

/// Whether two answers are equal by the authors' rules. Where a rewrite fails on one of them, they are compared as they
/// are.
///
/// ```
/// use ferrotune_eval::benchmark::math_equivalent;
/// assert!(math_equivalent(r"\frac12", "0.5") && !math_equivalent("2", "2.0"));
/// ```
#[must_use]
pub fn math_equivalent(a: &str, b: &str) -> bool {
    match (normalize(a), normalize(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// The content of the last `\boxed{…}`, or of `\boxed …` up to a dollar sign: the gold answer of a solution. `None` if
/// there is none, if its braces do not close, and for `\fbox`, whose content the reference cannot read either.
#[must_use]
pub fn last_boxed(solution: &str) -> Option<&str> {
    if let Some((_, after)) = solution.rsplit_once(r"\boxed ") {
        return after.split('$').next();
    }
    let inside = &solution[solution.rfind(r"\boxed")?..].strip_prefix(r"\boxed{")?;
    let mut open = 1_usize;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(&inside[..at]);
        }
    }
    None
}

/// lm-evaluation-harness' answer of a response to `hendrycks_math`: what stands between the first and the last dollar
/// sign, or all of it if there are fewer than two.
#[must_use]
pub fn between_dollars(response: &str) -> &str {
    match (response.find('$'), response.rfind('$')) {
        (Some(first), Some(last)) if first < last => &response[first + 1..last],
        _ => response,
    }
}

/// The rewrites in the authors' order; `None` where theirs raise an exception.
fn normalize(answer: &str) -> Option<String> {
    let mut text = answer.to_owned();
    for (from, to) in [
        ("\n", ""),
        (r"\!", ""),
        (r"\\", r"\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        (r"\left", ""),
        (r"\right", ""),
        (r"^{\circ}", ""),
        (r"^\circ", ""),
        (r"\$", ""),
    ] {
        text = text.replace(from, to);
    }
    text = without_unit(text)?;
    for (from, to) in [(r"\%", ""), (" .", " 0."), ("{.", "{0.")] {
        text = text.replace(from, to);
    }
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    if let Some((left, right)) = text.split_once('=')
        && !right.contains('=')
        && left.chars().count() <= 2
    {
        text = right.to_owned();
    }
    text = brace_roots(&text)?.replace(' ', "");
    text = brace_fractions(text)?;
    if text == "0.5" {
        text = r"\frac{1}{2}".to_owned();
    }
    Some(slash_to_fraction(text))
}

/// Drops everything from `\text{ `, which marks a unit; two of them are one too many.
fn without_unit(text: String) -> Option<String> {
    match text.split_once(r"\text{ ") {
        None => Some(text),
        Some((before, after)) => (!after.contains(r"\text{ ")).then(|| before.to_owned()),
    }
}

/// `\sqrt3` to `\sqrt{3}`; fails where nothing follows.
fn brace_roots(text: &str) -> Option<String> {
    let mut pieces = text.split(r"\sqrt");
    let mut braced = pieces.next()?.to_owned();
    for piece in pieces {
        let mut chars = piece.chars();
        match chars.next()? {
            '{' => braced.extend([r"\sqrt", piece]),
            first => braced.push_str(&format!(r"\sqrt{{{first}}}{}", chars.as_str())),
        }
    }
    Some(braced)
}

/// `\frac12` to `\frac{1}{2}`, `\frac1{72}` to `\frac{1}{72}`; a fraction cut off after one character leaves the whole
/// text as it is, and one cut off at once fails.
fn brace_fractions(text: String) -> Option<String> {
    let mut pieces = text.split(r"\frac");
    let mut braced = pieces.next()?.to_owned();
    for piece in pieces {
        braced.push_str(r"\frac");
        let mut chars = piece.chars();
        let numerator = chars.next()?;
        if numerator == '{' {
            braced.push_str(piece);
            continue;
        }
        let Some(denominator) = chars.next() else { return Some(text) };
        if denominator == '{' {
            braced.push_str(&format!("{{{numerator}}}{{{}", chars.as_str()));
        } else {
            braced.push_str(&format!("{{{numerator}}}{{{denominator}}}{}", chars.as_str()));
        }
    }
    Some(braced)
}

/// `a/b` to `\frac{a}{b}` if both are integers in their shortest spelling.
fn slash_to_fraction(text: String) -> String {
    let is_integer = |part: &str| {
        let digits = part.strip_prefix('-').unwrap_or(part);
        let shortest = digits == "0" && part == "0" || !digits.starts_with('0');
        !digits.is_empty() && shortest && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    match text.split_once('/') {
        Some((a, b)) if is_integer(a) && is_integer(b) => format!(r"\frac{{{a}}}{{{b}}}"),
        _ => text,
    }
}
