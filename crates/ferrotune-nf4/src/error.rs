/// Everything that can go wrong in this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block size the format does not have.
    #[error("block size {found} is not one of 32, 64, 128, 256, 512, 1024, 2048, 4096")]
    BlockSize {
        /// What was asked for.
        found: usize,
    },
    /// A buffer does not have the length that the format prescribes.
    #[error("{what} holds {found} entries, expected {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// The length that fits the tensor.
        expected: usize,
        /// The length that was given.
        found: usize,
    },
    /// A weight, a scale or an activation is NaN or infinite.
    #[error("{what} at index {index} is {value}; only finite numbers can be stored")]
    NotFinite {
        /// Which buffer.
        what: &'static str,
        /// Flat index of the first such entry.
        index: usize,
        /// The entry: NaN, `inf` or `-inf`.
        value: f32,
    },
    /// A file's map is not the one that its format fixes.
    #[error("{what} holds {found} at index {index}, expected {expected}; the file is of another format")]
    Map {
        /// Which map.
        what: &'static str,
        /// The first entry that differs.
        index: usize,
        /// The format's entry.
        expected: f32,
        /// The file's entry.
        found: f32,
    },
    /// More rows of activations than the packed product is made for, or none.
    #[error(
        "a packed product takes 1 to {most} rows of activations, found {found}; dequantize for larger batches"
    )]
    Batch {
        /// The largest batch.
        most: usize,
        /// What was given.
        found: usize,
    },
    /// A matrix whose rows times columns is not the number of packed weights.
    #[error("a matrix of {rows} rows and {columns} columns does not have {len} weights")]
    Shape {
        /// Rows, the output features.
        rows: usize,
        /// Columns, the input features.
        columns: usize,
        /// Weights in the packed tensor.
        len: usize,
    },
    /// A range that reaches past the end of the tensor.
    #[error("range {start}..{end} reaches past the {len} weights of the tensor")]
    Range {
        /// First weight of the range.
        start: usize,
        /// One past its last weight.
        end: usize,
        /// Weights in the packed tensor.
        len: usize,
    },
}

/// `Ok` if a buffer has the expected length, an error that names it if not.
pub(crate) fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

/// `Ok` if all entries are finite, an error that names the first one that is not.
pub(crate) fn expect_finite(what: &'static str, values: &[f32]) -> Result<(), Error> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite { what, index, value: values[index] }),
    }
}
