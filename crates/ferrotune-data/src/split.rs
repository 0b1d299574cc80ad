//! Training, validation and test parts by a seed, with the unused rest reported.

use serde::{Deserialize, Serialize};

use crate::{Error, shuffle};

/// How large the parts are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitSizes {
    /// Numbers of records; what remains is unused.
    Counts {
        /// Training part.
        train: usize,
        /// Validation part.
        validation: usize,
        /// Test part.
        test: usize,
    },
    /// Shares of all records in 0..=1, with a sum of at most 1; what remains is unused.
    ///
    /// Each boundary is the cumulative share times the number of records, rounded to nearest, so that shares
    /// that sum to 1 leave nothing over.
    Fractions {
        /// Training part.
        train: f64,
        /// Validation part.
        validation: f64,
        /// Test part.
        test: f64,
    },
}

/// Positions of the records of each part; every record stands in exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Training part, in shuffled order.
    pub train: Vec<usize>,
    /// Validation part.
    pub validation: Vec<usize>,
    /// Test part.
    pub test: Vec<usize>,
    /// Records left out by [`set_repeats_aside`](Self::set_repeats_aside).
    #[serde(default)]
    pub repeated: Vec<usize>,
    /// Records of no part.
    pub unused: Vec<usize>,
}

impl Split {
    /// How large each part is, for reports.
    #[must_use]
    pub fn counts(&self) -> SplitCounts {
        SplitCounts {
            train: self.train.len(),
            validation: self.validation.len(),
            test: self.test.len(),
            repeated: self.repeated.len(),
            unused: self.unused.len(),
        }
    }
}

/// Numbers of records of each part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCounts {
    /// Training part.
    pub train: usize,
    /// Validation part.
    pub validation: usize,
    /// Test part.
    pub test: usize,
    /// Records of the validation and test parts that were left out because they ask what another one asks.
    #[serde(default)]
    pub repeated: usize,
    /// Records of no part.
    pub unused: usize,
}

/// Splits `0..records` by a seeded permutation that is the same on every platform.
///
/// # Errors
/// [`Error::SplitTooLarge`] where counts exceed the records, [`Error::Setting`] for shares outside 0..=1 or
/// with a sum above 1.
///
/// ```
/// use ferrotune_data::{SplitSizes, split};
/// let parts = split(10, SplitSizes::Counts { train: 6, validation: 2, test: 1 }, 42)?;
/// assert_eq!((parts.train.len(), parts.unused.len()), (6, 1));
/// # Ok::<(), ferrotune_data::Error>(())
/// ```
pub fn split(records: usize, sizes: SplitSizes, seed: u64) -> Result<Split, Error> {
    let [train, validation, test] = counts(records, sizes)?;
    let mut order = shuffle::permutation(records, "split", &[seed]).into_iter();
    let mut part = |count| order.by_ref().take(count).collect();
    Ok(Split {
        train: part(train),
        validation: part(validation),
        test: part(test),
        repeated: Vec::new(),
        unused: part(records),
    })
}

fn counts(records: usize, sizes: SplitSizes) -> Result<[usize; 3], Error> {
    match sizes {
        SplitSizes::Counts { train, validation, test } => {
            let wanted = train.saturating_add(validation).saturating_add(test);
            if wanted > records {
                return Err(Error::SplitTooLarge { wanted, train, validation, test, available: records });
            }
            Ok([train, validation, test])
        }
        SplitSizes::Fractions { train, validation, test } => {
            // The tolerance lets shares written in decimals (0.8, 0.1, 0.1) reach 1.
            const ROUNDING: f64 = 1e-9;
            let shares = [train, validation, test];
            let sum: f64 = shares.iter().sum();
            if !shares.iter().all(|share| (0.0..=1.0).contains(share)) || sum > 1.0 + ROUNDING {
                return Err(Error::Setting {
                    setting: "split fractions",
                    found: format!("train {train}, validation {validation}, test {test}"),
                    expected: "shares from 0 to 1 with a sum of at most 1".to_owned(),
                });
            }
            let boundary = |share: f64| ((share * records as f64 + ROUNDING).round() as usize).min(records);
            let (first, second, third) =
                (boundary(train), boundary(train + validation), boundary(train + validation + test));
            Ok([first, second - first, third - second])
        }
    }
}
