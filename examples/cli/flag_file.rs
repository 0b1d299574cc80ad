//! Flags from a TOML file: the same names, and flags of the command line win.

use std::{any::TypeId, ffi::OsString, path::Path};

use clap::{Arg, ArgAction, Command, Parser, error::ErrorKind};
use toml::Value;

use super::flags::NamedFolder;

/// Parses a command line, and behind it what the file of its `--config` adds to it.
///
/// The file's entries become flags, so that both are checked by the same rules. Relative paths in the file are relative
/// to the file.
pub(super) fn parse<F: Parser>(mut line: Vec<OsString>) -> Result<F, clap::Error> {
    let mut command = F::command();
    // Messages about the file come before clap has read the program's name from the line.
    if let Some(name) = line.first().and_then(|path| Path::new(path).file_name()) {
        command = command.bin_name(name.to_string_lossy().into_owned());
    }
    if let Some(file) = value_of(&line, "config") {
        let more = read(Path::new(&file), &command, &line).map_err(|refusal| {
            let problem = format!("`{}` {refusal}", Path::new(&file).display());
            command.error(ErrorKind::InvalidValue, problem)
        })?;
        line.extend(more);
    }
    let mut matches = command.clone().try_get_matches_from(line)?;
    F::from_arg_matches_mut(&mut matches).map_err(|refusal| refusal.format(&mut command))
}

fn read(file: &Path, command: &Command, line: &[OsString]) -> Result<Vec<OsString>, String> {
    let text = std::fs::read_to_string(file).map_err(|problem| format!("cannot be read: {problem}"))?;
    let table: toml::Table = text.parse().map_err(|problem: toml::de::Error| {
        let before = problem.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("is not TOML: {} in line {}", problem.message(), before.lines().count().max(1))
    })?;
    let base = file.parent().unwrap_or(Path::new(""));
    let mut added = Vec::new();
    for (key, value) in &table {
        let flag = command.get_arguments().find(|flag| flag.get_long() == Some(key) && key != "config");
        let Some(flag) = flag else { return Err(unknown(key, command)) };
        if !is_given(line, key) {
            added.extend(as_flags(flag, key, value, base)?);
        }
    }
    Ok(added)
}

fn unknown(key: &str, command: &Command) -> String {
    let known: Vec<_> =
        command.get_arguments().filter_map(Arg::get_long).filter(|&name| name != "config").collect();
    format!("has the unknown key `{key}`, expected one of: {}", known.join(", "))
}

/// An entry as the flags that say the same.
fn as_flags(flag: &Arg, key: &str, value: &Value, base: &Path) -> Result<Vec<OsString>, String> {
    let wrong = |expected: &str| format!("gives `{key}` the value {value}, expected {expected}");
    if !flag.get_action().takes_values() {
        let on = value.as_bool().ok_or_else(|| wrong("true or false"))?;
        return Ok(if on { vec![format!("--{key}").into()] } else { Vec::new() });
    }
    let is = |kind: TypeId| flag.get_value_parser().type_id() == kind;
    let scalar = |value: &Value| match value {
        Value::Boolean(on) if is(TypeId::of::<bool>()) => Ok(on.to_string()),
        _ if is(TypeId::of::<bool>()) => Err(wrong("true or false")),
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        _ => Err(wrong("text, a number or a list of them")),
    };
    let values = match value {
        Value::Array(list) => list.iter().map(scalar).collect::<Result<Vec<_>, _>>()?,
        Value::Table(table) => table
            .iter()
            .map(|(key, value)| Ok::<_, String>(format!("{key}={}", scalar(value)?)))
            .collect::<Result<_, String>>()?,
        single => vec![scalar(single)?],
    };
    let is_path = is(TypeId::of::<std::path::PathBuf>());
    let is_named = is(TypeId::of::<NamedFolder>());
    let spelt = |value: String| -> OsString {
        let mut text = OsString::from(format!("--{key}="));
        match value.split_once('=') {
            Some((name, folder)) if is_named => {
                text.push(format!("{name}="));
                text.push(base.join(folder));
            }
            _ if is_path || is_named => text.push(base.join(value)),
            _ => text.push(value),
        }
        text
    };
    Ok(match flag.get_action() {
        ArgAction::Append => values.into_iter().map(spelt).collect(),
        _ => vec![spelt(values.join(","))],
    })
}

fn is_given(line: &[OsString], name: &str) -> bool {
    let (alone, with_value) = (format!("--{name}"), format!("--{name}="));
    line.iter().any(|word| *word == *alone || word.to_string_lossy().starts_with(&with_value))
}

fn value_of(line: &[OsString], name: &str) -> Option<OsString> {
    let (alone, with_value) = (format!("--{name}"), format!("--{name}="));
    line.iter().enumerate().find_map(|(place, word)| {
        if *word == *alone {
            return line.get(place + 1).cloned();
        }
        word.to_str()?.strip_prefix(&with_value).map(Into::into)
    })
}
