//! What the examples share: flags, files of flags, messages on standard error, and the result as the last line of
//! standard output.
//!
//! An example is a function from its flags to something that serializes; [`run`] does the rest. A failure is one line
//! that names every cause, and exit status 1; flags that make no sense give status 2 before anything is read.

#![allow(dead_code, unused_imports, reason = "each example uses its part of this module")]

mod flag_file;
mod flags;
mod folder;

use std::{
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use serde::Serialize;
use tracing_subscriber::EnvFilter;

pub(crate) use ferrotune::core::BoxError;
pub(crate) use flags::{
    AUTO, BASE_HEADING, BaseFlags, BlockFlags, Common, ComputeFlags, DTYPES, FORMATS, HostFlags, NamedFolder,
    OtherBase, TEMPLATES, bytes, load, names, say_census, seconds_since, tokenizer, usual_embedder, words,
};
pub(crate) use folder::{
    OutputFlags, refuse_a_broken_link, refuse_inputs, refuse_to_fill, refuse_to_write_over, write_file,
};

/// What an example's work gives.
pub(crate) type Result<T> = std::result::Result<T, BoxError>;

/// Parses flags, with those of the file that `--config` names, and does an example's work.
pub(crate) fn run<F: clap::Parser, S: Serialize>(work: impl FnOnce(F) -> Result<S>) -> ExitCode {
    match flag_file::parse::<F>(std::env::args_os().collect()) {
        Ok(flags) => finish(|| work(flags)),
        Err(refusal) => refusal.exit(),
    }
}

/// Does the work of an example whose flags are parsed: its result becomes the last line of standard output.
pub(crate) fn finish<S: Serialize>(work: impl FnOnce() -> Result<S>) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // In a file or a pipe, colours are characters in the way.
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();
    let printed = work().and_then(|result| {
        let line = serde_json::to_string(&result)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush())?;
        Ok(())
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {}", chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line of prose. Standard error may be closed, which is no reason to stop.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// An error with its causes, each once: some messages repeat their source's.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = Some(error);
    let mut full = false;
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        full |=
            error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::StorageFull);
        cause = error.source();
    }
    if full {
        text.push_str("; make room and run it again, a training run with --resume");
    }
    text
}
