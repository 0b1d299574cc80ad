//! The table of messages in `docs/errors.md`, and the check that an example says what stands there.

use crate::place::Place;

const TABLE: &str = include_str!("../../../docs/errors.md");

/// The message that the table gives for an input.
fn documented(input: &str) -> &'static str {
    let row =
        TABLE.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(input)?.strip_prefix(" | "));
    row.and_then(|row| row.strip_suffix(" |"))
        .unwrap_or_else(|| panic!("docs/errors.md has no row `{input}`"))
}

/// Whether the pieces of `pattern` between `…` stand in `text` in their order, from its beginning to its end.
fn matches(text: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = "";
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        (rest, last) = (&rest[at + piece.len()..], piece);
    }
    rest.is_empty() || (pattern.contains('…') && last.is_empty())
}

/// Spoils a good place, runs an example there, and holds its failure against the table.
pub(crate) fn check(input: &str, spoil: impl FnOnce(&Place), line: &str) {
    let place = Place::new();
    spoil(&place);
    let before = place.contents();
    let output = place.run(line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("panicked"), "{input}: {errors}");
    let status = output.status.code();
    assert!(matches!(status, Some(1 | 2)), "{input}: status {status:?}: {errors}");
    assert!(output.stdout.is_empty(), "{input}: a failure prints no result");
    let begin = errors.find("error: ").unwrap_or_else(|| panic!("{input}: no error in {errors}"));
    // A usage error goes on with hints; the message is its first paragraph.
    let message = errors[begin + "error: ".len()..].split("\n\n").next().unwrap_or_default().trim_end();
    assert!(
        matches(message, documented(input)),
        "{input}:\n  found:    {message}\n  expected: {}",
        documented(input)
    );
    let after = place.contents();
    let changed: Vec<_> =
        after.iter().filter(|&(path, bytes)| before.get(path) != Some(bytes)).map(|(path, _)| path).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "{input}: left behind {changed:?}");
}
