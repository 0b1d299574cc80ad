//! The lenient JSON of the library that ragas parses replies with.
//!
//! A text that breaks off is completed: open strings, lists and objects are closed, and characters are taken away from the
//! end until what remains is JSON. A reply with prose before it is searched for a fence of three backticks.
//!
//! *Source*: langchain-core 0.2.43 and 1.7.2, `utils/json.py`, whose parsers differ in one rule ([`Escape`]); ragas 0.4.3,
//! `prompt/utils.py`. The repair of replies with an `action_input` is left out, since no reply of a judge has one.

use serde_json::Value;

/// What becomes of a backslash at the very end of a string that breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// It stays, and escapes the quote that should close the string: langchain-core 0.2.
    Kept,
    /// It is removed first: later versions.
    Removed,
}

/// The value of a reply; `None` if there is none.
pub(super) fn parse(reply: &str, escape: Escape) -> Option<Value> {
    let reply = reply.trim_matches(crate::python_text::is_space);
    match parse_partial(strip(reply), escape) {
        Partial::Value(value) => Some(value),
        Partial::Malformed => None,
        Partial::NotJson => {
            let fenced = reply.split_once("```")?.1;
            let inside = fenced.strip_prefix("json").unwrap_or(fenced);
            match parse_partial(strip(inside), escape) {
                Partial::Value(value) => Some(value),
                Partial::Malformed | Partial::NotJson => None,
            }
        }
    }
}

/// The text from the first bracket or brace to the one of the same kind that balances it, after a fence if there is one;
/// the whole text if nothing balances. Braces inside strings count.
pub(super) fn first_block(reply: &str) -> &str {
    let text = reply.find("```json").map_or(reply, |start| &reply[start..]);
    let Some(start) = text.find(['[', '{']) else { return text };
    let open = text.as_bytes()[start];
    let close = if open == b'[' { b']' } else { b'}' };
    let mut depth = 0_usize;
    for (i, byte) in text.bytes().enumerate().skip(start) {
        if byte == open {
            depth += 1;
        } else if byte == close {
            depth -= 1;
        }
        if depth == 0 {
            return &text[start..=i];
        }
    }
    text
}

fn strip(text: &str) -> &str {
    text.trim_matches([' ', '\n', '\r', '\t', '`'])
}

enum Partial {
    Value(Value),
    /// A bracket closes what it did not open, for which the parser returns Python's `None` as the value.
    Malformed,
    NotJson,
}

fn parse_partial(text: &str, escape: Escape) -> Partial {
    if let Some(value) = python_json(text) {
        return Partial::Value(value);
    }
    let mut kept: Vec<char> = Vec::new();
    let mut open: Vec<char> = Vec::new();
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if in_string {
            if c == '\n' && !escaped {
                kept.extend(['\\', 'n']);
                continue;
            }
            match c {
                '"' if !escaped => in_string = false,
                '\\' => escaped = !escaped,
                _ => escaped = false,
            }
        } else {
            match c {
                '"' => (in_string, escaped) = (true, false),
                '{' => open.push('}'),
                '[' => open.push(']'),
                '}' | ']' if open.pop() != Some(c) => return Partial::Malformed,
                _ => {}
            }
        }
        kept.push(c);
    }
    if in_string {
        if escaped && escape == Escape::Removed {
            kept.pop();
        }
        kept.push('"');
    }
    open.reverse();
    while !kept.is_empty() {
        let candidate: String = kept.iter().chain(&open).collect();
        if let Some(value) = python_json(&candidate) {
            return Partial::Value(value);
        }
        kept.pop();
    }
    Partial::NotJson
}

/// `json.loads(text, strict=False)`: control characters may stand in strings, lone surrogates and the words for what is no
/// number are allowed. The latter two become a replacement character and null, which no schema here tells apart.
fn python_json(text: &str) -> Option<Value> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(quote) = rest.find('"') {
        plain.push_str(&numbers(&rest[..quote]));
        let body = &rest[quote + 1..];
        let end = end_of_string(body)?;
        plain.push('"');
        plain.push_str(&string_body(&body[..end]));
        plain.push('"');
        rest = &body[end + 1..];
    }
    plain.push_str(&numbers(rest));
    serde_json::from_str(&plain).ok()
}

fn end_of_string(body: &str) -> Option<usize> {
    let mut escaped = false;
    body.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// What stands between strings, with Python's words for infinity and not-a-number.
fn numbers(text: &str) -> String {
    text.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null")
}

fn string_body(body: &str) -> String {
    let mut plain = String::with_capacity(body.len());
    for c in body.chars() {
        if (c as u32) < 0x20 {
            plain.push_str(&format!("\\u{:04x}", c as u32));
        } else {
            plain.push(c);
        }
    }
    lone_surrogates_replaced(&plain)
}

/// `\ud83d` without its other half cannot stand in a Rust string.
fn lone_surrogates_replaced(body: &str) -> String {
    let escape_at = |i: usize| -> Option<u16> {
        let digits = body.get(i..i + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut plain = String::with_capacity(body.len());
    let mut i = 0;
    while let Some(c) = body[i..].chars().next() {
        match escape_at(i) {
            Some(0xd800..0xdc00) if matches!(escape_at(i + 6), Some(0xdc00..0xe000)) => {
                plain.push_str(&body[i..i + 12]);
                i += 12;
            }
            Some(0xd800..0xe000) => {
                plain.push('\u{fffd}');
                i += 6;
            }
            _ if c == '\\' => {
                let pair: String = body[i..].chars().take(2).collect();
                plain.push_str(&pair);
                i += pair.len();
            }
            _ => {
                plain.push(c);
                i += c.len_utf8();
            }
        }
    }
    plain
}
