//! How sure a number is: intervals, standard errors, comparisons of two models.
//!
//! All random draws come from a ChaCha8 generator seeded by the caller, with one stream per resample, so a result does
//! not depend on the number of threads. Point estimates never depend on a seed.

mod bootstrap;
mod error_of_mean;
mod paired;

pub use bootstrap::{Bootstrap, Interval, percentile};
pub use error_of_mean::{
    clustered_stderr, clustered_wilson_interval, group_mean, mean_stderr, pooled_stderr, wilson_interval,
};
pub use paired::{Comparison, compare, holm};
