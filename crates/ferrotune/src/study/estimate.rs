use std::fmt;

use ferrotune_eval::judge::Estimate;
use serde::Serialize;

/// What a study would ask of its models and its judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyEstimate {
    /// Evaluations: each model as it is, and after each of its fine-tunings.
    pub evaluations: u64,
    /// Held-out records of each evaluation.
    pub records: u64,
    /// Documents of each evaluation by benchmark.
    pub documents: Vec<(String, u64)>,
    /// What the judge would be asked in all evaluations together; nothing without a judge. A question that comes up again,
    /// such as one about the reference alone, is counted each time and asked once.
    pub judge: Option<Estimate>,
}

impl fmt::Display for StudyEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { evaluations, records, documents, judge } = self;
        write!(f, "nothing was asked: {evaluations} evaluations of {records} held-out records")?;
        for (name, count) in documents {
            write!(f, ", {count} documents of {name}")?;
        }
        match judge {
            None => write!(f, "; no judge"),
            Some(judge) => write!(f, "; of the judge {judge}"),
        }
    }
}
