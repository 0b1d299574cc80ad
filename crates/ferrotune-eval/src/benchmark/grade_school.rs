//! Answers of GSM8K and MGSM.

use crate::python_text::CharSet;

/// The first number after `#### `, lm-evaluation-harness' `strict-match` for GSM8K.
///
/// ```
/// use ferrotune_eval::benchmark::gsm8k_strict;
/// assert_eq!(gsm8k_strict("x #### -3 #### 4").as_deref(), Some("-3"));
/// assert_eq!(gsm8k_strict("####18"), None);
/// ```
#[must_use]
pub fn gsm8k_strict(response: &str) -> Option<String> {
    response.match_indices("#### ").find_map(|(at, mark)| {
        let (sign, digits) =
            signed_run(&response[at + mark.len()..], |c| c.is_ascii_digit() || ".,".contains(c));
        (!digits.is_empty()).then(|| format!("{sign}{digits}"))
    })
}

/// The last number, lm-evaluation-harness' `flexible-extract` for GSM8K and MGSM. Marks that cling to it are kept: the
/// metric ignores them afterwards.
#[must_use]
pub fn gsm8k_flexible(response: &str) -> Option<String> {
    // (-?[$0-9.,]{2,})|(-?[0-9]+), the last match.
    let mut last = None;
    let mut rest = response;
    while let Some(start) = rest.find(|c: char| is_money(c) || c == '-') {
        rest = &rest[start..];
        let money = signed_run(rest, is_money);
        let digits = signed_run(rest, |c| c.is_ascii_digit());
        let length = if money.1.len() >= 2 {
            money.0.len() + money.1.len()
        } else if !digits.1.is_empty() {
            digits.0.len() + digits.1.len()
        } else {
            // All these characters are one byte long.
            rest = &rest[1..];
            continue;
        };
        last = Some(&rest[..length]);
        rest = &rest[length..];
    }
    last.map(str::to_owned)
}

fn is_money(c: char) -> bool {
    c.is_ascii_digit() || "$.,".contains(c)
}

/// A minus sign if there is one, and the characters after it that belong.
fn signed_run(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let (sign, rest) = text.split_at(usize::from(text.starts_with('-')));
    let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
    (sign, &rest[..end])
}

/// The gold answer of a GSM8K record: what follows its `#### `, without thousands commas.
#[must_use]
pub fn gsm8k_gold(answer: &str) -> Option<String> {
    let (_, gold) = answer.rsplit_once("#### ")?;
    Some(gold.trim().replace(',', ""))
}

/// The word before the answer that simple-evals demands in each of MGSM's languages.
pub const MGSM_ANSWER_PREFIXES: [(&str, &str); 11] = [
    ("bn", "উত্তর"),
    ("de", "Antwort"),
    ("en", "Answer"),
    ("es", "Respuesta"),
    ("fr", "Réponse"),
    ("ja", "答え"),
    ("ru", "Ответ"),
    ("sw", "Jibu"),
    ("te", "సమాధానం"),
    ("th", "คำตอบ"),
    ("zh", "答案"),
];

/// simple-evals' answer of an MGSM response: the last number after the last occurrence of the prefix, without commas,
/// sign and a final point; `None` without prefix or number.
///
/// It knows no sign, so `-3` becomes `3`: that is the reference's rule.
#[must_use]
pub fn mgsm_answer(response: &str, prefix: &str) -> Option<String> {
    let (_, after) = response.rsplit_once(prefix)?;
    let after = after.replace(',', "");
    // \d+\.?\d*, the last match; the digits are those of any script.
    let digit = CharSet::new(r"\p{Nd}");
    let mut last = None;
    let mut rest = after.as_str();
    while let Some(start) = rest.find(|c| digit.contains(c)) {
        rest = &rest[start..];
        let run = |text: &str| text.find(|c| !digit.contains(c)).unwrap_or(text.len());
        let whole = run(rest);
        let length = match rest[whole..].strip_prefix('.') {
            Some(fraction) => whole + 1 + run(fraction),
            None => whole,
        };
        last = Some(&rest[..length]);
        rest = &rest[length..];
    }
    last.map(|number| number.trim_end_matches('.').to_owned())
}

/// Whether simple-evals counts an extracted MGSM answer as right: equal text after zeros behind the point, the point
/// and commas are dropped.
#[must_use]
pub fn mgsm_matches(target: &str, answer: &str) -> bool {
    let answer =
        if answer.contains('.') { answer.trim_end_matches('0').trim_end_matches('.') } else { answer };
    target.replace(',', "") == answer.replace(',', "")
}

/// Whether two texts are the same number, read exactly: sign, thousands commas, a leading `$`, a decimal point and zeros
/// that mean nothing are understood, so `18.00` is `18` and `-5` is not `5`; a point or comma behind a number belongs to
/// the sentence. Texts that are no numbers are compared as
/// they are.
///
/// Not a rule of any reference; for use beside their punctuation-blind comparisons, under its own name.
///
/// ```
/// use ferrotune_eval::benchmark::same_number;
/// assert!(same_number("$1,800.50", "1800.5") && !same_number("-5", "5") && !same_number("1234.50", "123450"));
/// ```
#[must_use]
pub fn same_number(a: &str, b: &str) -> bool {
    match (canonical_number(a), canonical_number(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.trim() == b.trim(),
    }
}

/// Sign, digits before the point without leading zeros, digits behind it without trailing ones.
fn canonical_number(text: &str) -> Option<(bool, String, String)> {
    let text = text.trim().trim_end_matches(['.', ',']);
    let (negative, text) = match text.strip_prefix(['-', '−']) {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let text = text.strip_prefix('$').unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = without_thousands_commas(whole)?;
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(&whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole = whole.trim_start_matches('0').to_owned();
    let fraction = fraction.trim_end_matches('0').to_owned();
    let zero = whole.is_empty() && fraction.is_empty();
    Some((negative && !zero, whole, fraction))
}

/// `None` if there are commas that do not separate groups of three.
fn without_thousands_commas(digits: &str) -> Option<String> {
    let mut groups = digits.split(',');
    let first = groups.next()?;
    let mut whole = first.to_owned();
    for group in groups {
        if group.len() != 3 || first.is_empty() || first.len() > 3 {
            return None;
        }
        whole.push_str(group);
    }
    Some(whole)
}
