//! Templates, and how each of them escapes what it is given.

use minijinja::{
    AutoEscape, Environment, Output, State, UndefinedBehavior, Value, escape_formatter, syntax::SyntaxConfig,
    value::Serde,
};

use super::{ReportError, view::View};

const HTML: &str = "report.html";
const MARKDOWN: &str = "report.md";

pub(super) fn html(view: &View) -> Result<String, ReportError> {
    render(HTML, include_str!("report.html"), view)
}

pub(super) fn markdown(view: &View) -> Result<String, ReportError> {
    render(MARKDOWN, include_str!("report.md"), view)
}

fn render(name: &'static str, source: &'static str, view: &View) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    environment.set_syntax(syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?);
    // A misspelt field is an error and not an empty cell.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|name| {
        if name == MARKDOWN { AutoEscape::Custom("markdown".into()) } else { AutoEscape::Html }
    });
    environment.set_formatter(formatter);
    environment.add_template(name, source)?;
    Ok(environment.get_template(name)?.render(Serde(view))?)
}

fn formatter(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), minijinja::Error> {
    match (state.auto_escape(), value.as_str()) {
        (AutoEscape::Custom(_), Some(text)) => Ok(out.write_str(&escaped_markdown(text))?),
        (AutoEscape::Custom(_), None) => Ok(write!(out, "{value}")?),
        (_, Some(text)) if !value.is_safe() && text.chars().any(is_forbidden) => {
            escape_formatter(out, state, &Value::from(text.replace(is_forbidden, "\u{fffd}")))
        }
        _ => escape_formatter(out, state, value),
    }
}

/// Characters that no HTML document may hold; a model can write them all the same.
fn is_forbidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// A text that Markdown shows as it is, on one line, also inside a table.
fn escaped_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\n' => escaped.push_str("<br>"),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            // A name after this sign would notify a stranger; in front of a word joiner it is none.
            '@' => escaped.push_str("@\u{2060}"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '|' | '~' | '$' | '!' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c if is_forbidden(c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escaped_markdown;

    #[test]
    fn markdown_marks_lose_their_meaning() {
        assert_eq!(escaped_markdown("a|b\n*c* <i>\u{0}"), "a\\|b<br>\\*c\\* &lt;i&gt;\u{fffd}");
        assert_eq!(
            escaped_markdown(" [x](javascript:y) @team #1"),
            "\\[x\\](javascript:y) @\u{2060}team \\#1"
        );
    }
}
