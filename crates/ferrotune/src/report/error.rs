use std::path::PathBuf;

/// What can go wrong while a report is made or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The results hold a number that is infinite or not a number where neither has a meaning.
    #[error("{field} is {found}, expected a finite number; the run that gave it should have been stopped")]
    NotFinite {
        /// Where it stands, as a path through `results.json`.
        field: String,
        /// The number found.
        found: f64,
    },
    /// A template could not be filled in.
    #[error("the report's template cannot be filled in")]
    Template(#[from] minijinja::Error),
    /// The results could not be written as JSON.
    #[error("the results cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// A folder stands where a file of the report would go.
    #[error(
        "cannot write `{path}`: a folder of that name is in the way; move it or choose another output folder"
    )]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// A file or folder could not be written.
    #[error("cannot write `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
