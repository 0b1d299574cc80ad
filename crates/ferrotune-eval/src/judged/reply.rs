//! The one JSON object in a judge's reply.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// How much of a reply an error quotes, in characters.
const QUOTED: usize = 120;

/// Reads the object that a reply consists of, alone, in a code fence, or at the end of prose.
///
/// An object that something other than the end of a fence follows is not read: it may be a quotation. Nor is one with a
/// field twice. What cannot be read is said in words that quote nothing of the reply, since a judge may get to read them.
pub(super) fn read_object<T: DeserializeOwned>(reply: &str) -> Result<T, String> {
    let Some(text) = object(reply) else {
        return Err("it holds no complete JSON object, or something follows it".to_owned());
    };
    serde_json::from_str(text).map_err(|error| {
        let error = error.to_string();
        let unquoted = error.split('"').next().unwrap_or_default().trim_end();
        format!("the JSON object is not of the right form: {unquoted}")
    })
}

fn object(reply: &str) -> Option<&str> {
    let text = reply.trim();
    let text = text.strip_suffix("```").map_or(text, str::trim_end);
    let is_object = |text: &&str| matches!(serde_json::from_str(text), Ok(Value::Object(_)));
    text.match_indices('{').map(|(start, _)| &text[start..]).find(is_object)
}

/// The beginning of a reply, on one line.
pub(crate) fn quoted(reply: &str) -> String {
    let mut line = reply.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(QUOTED) {
        line.truncate(end);
        line.push('…');
    }
    format!("`{line}`")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Grade {
        score: u32,
    }

    #[test]
    fn objects_are_found_where_judges_put_them_and_nowhere_else() {
        let found = [
            r#"{"score": 3}"#,
            " \n{\"score\": 3}\n ",
            "```json\n{\"score\": 3}\n```",
            "Here it is:\n```\n{\"score\": 3}\n```\n",
            r#"The set {a, b} is fine. {"score": 3}"#,
            r#"{"score": 3, "note": "braces } in { strings"}"#,
            r#"{"score": 3, "parts": {"score": 9}}"#,
        ];
        for reply in found {
            assert_eq!(read_object::<Grade>(reply), Ok(Grade { score: 3 }), "{reply}");
        }
        let lost = [
            "",
            "a fine answer, 9 of 10",
            r#"{"score": 3"#,
            r#"{"reason": "it says {"score": 9}", "score": 3}"#,
            r#"{"score": 3} but {"score": 4} for the style"#,
            r#"{"score": 3, "score": 9}"#,
            r#"{"score": "3"}"#,
            r#"{"grade": 3}"#,
            r#"[{"score": 3}]"#,
            "{'score': 3}",
        ];
        for reply in lost {
            assert!(read_object::<Grade>(reply).is_err(), "{reply}");
        }
    }
}
