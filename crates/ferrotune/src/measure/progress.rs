use std::fmt;

use ferrotune_eval::{Measurement, judge::Estimate};

/// How far the measurement of one model is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// So many of the held-out requests are answered.
    Answers {
        /// Answers there are.
        done: usize,
        /// Answers there will be.
        total: usize,
    },
    /// A metric begins that asks no judge.
    Scoring {
        /// What it measures.
        metric: &'a str,
    },
    /// A metric begins that asks a judge.
    Judging {
        /// What it measures.
        metric: &'a str,
        /// What is to be asked, if every reply can be used.
        estimate: Estimate,
    },
    /// A judged metric is done.
    Judged {
        /// What came of it.
        measurement: &'a Measurement,
    },
    /// So many documents of a benchmark are answered.
    Documents {
        /// The benchmark.
        task: &'a str,
        /// Documents answered.
        done: usize,
        /// Documents asked about.
        total: usize,
    },
}

impl Progress<'_> {
    /// Whether this is one of many like it, the last of them excepted: what a person need not read each of.
    #[must_use]
    pub fn is_step(&self) -> bool {
        match self {
            Self::Answers { done, total } | Self::Documents { done, total, .. } => done < total,
            Self::Scoring { .. } => true,
            Self::Judging { .. } | Self::Judged { .. } => false,
        }
    }
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers { done, total } => write!(f, "{done} of {total} answers"),
            Self::Scoring { metric } => write!(f, "measuring {metric}"),
            Self::Judging { metric, estimate } => write!(f, "asking the judge for {metric}: {estimate}"),
            Self::Judged { measurement } => {
                let (scored, total) = (measurement.scored(), measurement.samples.len());
                write!(f, "{}: {scored} of {total} answers judged", measurement.metric)?;
                measurement.judged.as_ref().map_or(Ok(()), |judged| write!(f, "; {}", judged.usage))
            }
            Self::Documents { task, done, total } => write!(f, "{done} of {total} documents of {task}"),
        }
    }
}
