use std::{io, path::PathBuf};

use ferrotune_core::BoxError;

use crate::{LineProblem, TaskDataProblem};

/// Everything that can go wrong in this crate.
///
/// A sample that cannot be scored is not an error but a counted [`Failure`](crate::Failure).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened or read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be created, since its folder is not there.
    #[error("cannot create `{path}`: the folder `{folder}` does not exist; make it first, or name another")]
    MissingFolder {
        /// The file.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// A file to be written is there already.
    #[error("`{path}` exists already; choose another name or allow it to be replaced")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A line of a data file is not what it should be.
    #[error("`{path}` line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// Every record of a file has all records' references.
    #[error(
        "all {records} records of `{path}` have the same {records} references, as many as there are records: the \
         references look transposed; a record's `references` are the acceptable answers to its own question"
    )]
    TransposedReferences {
        /// The file.
        path: PathBuf,
        /// How many records there are.
        records: usize,
    },
    /// A data file holds nothing.
    #[error("`{path}` holds no records, expected at least one JSON object per line")]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// A metric was asked for by a name that nothing is registered under.
    #[error("unknown metric `{name}`, expected one of: {}", known.join(", "))]
    UnknownMetric {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A list of metrics names none.
    #[error("no metric was named, expected some of: {}", known.join(", "))]
    NoMetric {
        /// The names that exist.
        known: Vec<String>,
    },
    /// Two metrics were registered under one name.
    #[error("metric `{name}` is registered already")]
    DuplicateMetric {
        /// The name.
        name: String,
    },
    /// References given as streams do not fit the predictions.
    #[error(
        "reference stream {stream} has {found} segments, expected {expected}, one for each prediction{}",
        if *transposed { "; the references look transposed: pass one stream per reference, each as long as the predictions" } else { "" }
    )]
    ReferenceShape {
        /// Which stream, counted from 0.
        stream: usize,
        /// Its length.
        found: usize,
        /// The number of predictions.
        expected: usize,
        /// Whether the streams have the shape of a list of references per segment.
        transposed: bool,
    },
    /// A segment has no reference at all.
    #[error("segment {segment} has no reference, expected at least one")]
    NoReference {
        /// Which segment, counted from 0.
        segment: usize,
    },
    /// Two lists that belong together have different lengths.
    #[error("{what}: {left} against {right} entries, expected as many on both sides")]
    LengthMismatch {
        /// What was compared or joined.
        what: &'static str,
        /// Entries on the left.
        left: usize,
        /// Entries on the right.
        right: usize,
    },
    /// Some samples have an instruction and some have none.
    #[error(
        "sample `{without}` has no instruction and sample `{with}` has one; a judge has to see the question of every sample, \
         or of none"
    )]
    SomeInstructions {
        /// The first that has one.
        with: String,
        /// The first that has none.
        without: String,
    },
    /// A setting of a metric or a statistic is outside its range.
    #[error("`{option}` is {found}, expected {expected}")]
    Setting {
        /// The setting's name.
        option: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A pattern to be removed before comparing is not a regular expression of the `regex` crate.
    #[error(
        "cannot compile the pattern `{pattern}`: {source}; look-around and back-references are not supported"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the compiler said.
        source: regex::Error,
    },
    /// The language model failed.
    #[error("the language model failed: {source}")]
    Model {
        /// What it said.
        source: BoxError,
    },
    /// The language model answered more or fewer requests than it was given.
    #[error("the language model gave {found} replies to {expected} requests, expected one for each")]
    ReplyCount {
        /// Replies.
        found: usize,
        /// Requests.
        expected: usize,
    },
    /// A prompt template refused a conversation.
    #[error("the prompt template refused the conversation: {source}")]
    Template {
        /// What it said.
        source: BoxError,
    },
    /// A task was asked for by a name that none has.
    #[error("unknown task `{name}`, expected one of: {}", known.join(", "))]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A variant of a task was asked for by a name that none has.
    #[error("task `{task}` has no variant `{variant}`, expected one of: {}", known.join(", "))]
    UnknownVariant {
        /// The task.
        task: String,
        /// The name asked for.
        variant: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// The files of a task are not what they should be.
    #[error("task `{task}` cannot use `{}`: {problem}", path.display())]
    TaskData {
        /// The task.
        task: String,
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<TaskDataProblem>,
    },
    /// A setting was changed that a variant of a task has no use for.
    #[error("`{setting}` changes nothing in `{task}:{variant}`: {reason}; leave it out")]
    UnusedSetting {
        /// The task.
        task: &'static str,
        /// Its variant.
        variant: String,
        /// The setting.
        setting: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Per-sample lines are not replies to the questions of the task that is to score them.
    #[error("sample `{id}` cannot be scored again by this task: {problem}")]
    Rescore {
        /// The sample.
        id: String,
        /// What does not fit, and what to do.
        problem: String,
    },
    /// The sentence encoder failed.
    #[error("the sentence encoder `{encoder}` failed: {source}")]
    Encoder {
        /// Its name.
        encoder: String,
        /// What it said.
        source: BoxError,
    },
    /// The sentence encoder answered with vectors of the wrong number or length.
    #[error("the sentence encoder `{encoder}` returned {found}, expected {expected}")]
    EncoderShape {
        /// Its name.
        encoder: String,
        /// What came.
        found: String,
        /// What was due.
        expected: String,
    },
    /// A sample failed and failures are not allowed.
    #[error(
        "metric `{metric}` failed on sample `{id}`: {failure}; with the policy `skip` it is counted instead"
    )]
    SampleFailed {
        /// The metric.
        metric: String,
        /// The sample.
        id: String,
        /// Why.
        failure: crate::Failure,
    },
    /// A judge answers no request: a wrong key, an unknown model, an exhausted quota.
    #[error(
        "judge `{judge}` refused to answer after {judged} of {samples} samples: {detail}; {}",
        match cache {
            Some(cache) => format!("its replies are in `{}`: with this cache the same run goes on where it ended", cache.display()),
            None => "with a file as its cache the same run goes on where it ended, and asks nothing twice".to_owned(),
        }
    )]
    JudgeRefused {
        /// Its name.
        judge: String,
        /// Samples that have a score.
        judged: usize,
        /// Samples there are.
        samples: usize,
        /// What it said and what to do.
        detail: String,
        /// The file that holds its replies, if there is one.
        cache: Option<PathBuf>,
    },
    /// The environment variable that should hold a key does not.
    #[error("environment variable `{variable}`, which should hold the API key, {problem}")]
    ApiKey {
        /// Its name.
        variable: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A cache of replies is open elsewhere.
    #[error("cache `{path}` is in use by another run; wait for it, or name another file")]
    CacheInUse {
        /// The file.
        path: PathBuf,
    },
    /// A dictionary folder lacks a file or holds a malformed one.
    #[error(
        "`{path}` is not WordNet data: {problem}; on Debian `apt-get install wordnet-base` puts it into /usr/share/wordnet"
    )]
    WordNet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Code written by a model is to be run, and nobody allowed it.
    #[error(
        "{task} runs code that a model wrote, which has to be allowed first; allow it with `--allow-code-execution`, in a study with `allow_code_execution = true`, in code with `CodeExecution::Allowed`, if this machine may run it in isolation"
    )]
    CodeExecutionNotAllowed {
        /// The benchmark.
        task: &'static str,
    },
    /// This machine cannot isolate a program well enough to run code that a model wrote.
    #[error(
        "code cannot be isolated well enough here, so none was run: {}; install bubblewrap (on Debian `apt-get install bubblewrap`) and let ordinary users make namespaces (`sysctl user.max_user_namespaces` above 0, no profile of a container or of AppArmor that forbids `unshare`)",
        lacking.join("; ")
    )]
    Isolation {
        /// What each way to isolate lacks.
        lacking: Vec<String>,
    },
    /// There is no Python interpreter that an ordinary user can run.
    #[error(
        "no Python interpreter can be run by user {user}: {}; install python3 where every user can read it",
        if tried.is_empty() { "there is no `python3` in `PATH`".to_owned() } else { tried.join(", ") }
    )]
    Interpreter {
        /// The interpreters that were tried, each with what is wrong with it.
        tried: Vec<String>,
        /// The user that untrusted programs run as.
        user: u32,
    },
    /// The isolation failed, which says nothing about the program in it.
    #[error("a program could not be run in isolation: {problem}")]
    Sandbox {
        /// What happened.
        problem: String,
    },
    /// A composite index lacks a component.
    #[error("the index `{index}` lacks `{component}`; a missing part is never re-weighted silently")]
    MissingComponent {
        /// The index.
        index: String,
        /// The missing part.
        component: String,
    },
    /// Ratings cannot be identified from the battles.
    #[error("ratings are not identifiable: {reason}")]
    Unidentifiable {
        /// Why: a disconnected comparison graph, an undefeated player.
        reason: String,
    },
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
