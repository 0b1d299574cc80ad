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
    /// A scale is below zero. Scales are magnitudes, so the file was damaged or written by another rule.
    #[error("{what} at index {index} is {value}; a scale is a magnitude, 0 or more")]
    NegativeScale {
        /// Which buffer.
        what: &'static str,
        /// Index of the first such scale.
        index: usize,
        /// The scale.
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
    /// There is no CUDA driver, or not this device. Compute on the CPU, or with libtorch.
    #[error("no CUDA device to compile kernels for: {reason}")]
    CudaUnavailable {
        /// What is missing.
        reason: String,
    },
    /// NVIDIA's run-time compiler is not there.
    #[error(
        "no NVRTC to compile kernels with: {reason}; run `cargo xtask setup`, or set FERROTUNE_NVRTC_LIB to the folder that holds it"
    )]
    NvrtcUnavailable {
        /// Where was looked, or what the loader said.
        reason: String,
    },
    /// A device of an architecture before the ones that the kernels are written for.
    #[error("the device has compute capability {}.{}, the kernels need {}.{}", found / 10, found % 10, lowest / 10, lowest % 10)]
    DeviceTooOld {
        /// Ten times the major number plus the minor.
        found: u32,
        /// The same, of the oldest that will do.
        lowest: u32,
    },
    /// The kernels do not compile: another NVRTC than those that were tested.
    #[error("kernels cannot be compiled for {target}: {log}")]
    KernelCompilation {
        /// What for.
        target: String,
        /// The compiler's words.
        log: String,
    },
    /// A call to NVRTC failed.
    #[error("{call} failed: {code}")]
    Nvrtc {
        /// Which one.
        call: &'static str,
        /// NVRTC's code for it.
        code: String,
    },
    /// A call to the CUDA driver failed.
    #[error("{call} failed: {code}")]
    Driver {
        /// Which one.
        call: &'static str,
        /// The driver's code for it.
        code: String,
    },
    /// A buffer in device memory does not begin where 16-byte accesses can.
    #[error(
        "{what} at address {address:#x} does not begin at a multiple of {multiple} bytes; copy it to a tensor of its own"
    )]
    Misaligned {
        /// Which buffer.
        what: &'static str,
        /// Where it begins.
        address: u64,
        /// What it must be a multiple of.
        multiple: u64,
    },
    /// A size that a kernel takes only in multiples.
    #[error("{what}: {found} is not a multiple of {multiple}")]
    NotAMultiple {
        /// Which size.
        what: &'static str,
        /// What was given.
        found: usize,
        /// What it must be a multiple of.
        multiple: usize,
    },
    /// More than a launch can hold.
    #[error("{what}: {found} are more than the {most} of a launch")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// What was asked for.
        found: usize,
        /// The largest that works.
        most: usize,
    },
}

/// `Ok` if a buffer has the expected length, an error that names it if not.
pub(crate) fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

/// `Ok` if all entries are finite, an error that names the first one that is not.
pub(crate) fn expect_finite(what: &'static str, values: &[f32]) -> Result<(), Error> {
    if !any(values, |value| !value.is_finite()) {
        return Ok(());
    }
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite { what, index, value: values[index] }),
    }
}

/// `Ok` if all entries are finite and none is below zero, an error that names the first one that is not.
pub(crate) fn expect_magnitudes(what: &'static str, values: &[f32]) -> Result<(), Error> {
    // One after the other, because the compiler makes vectors of neither if it sees both at once.
    if !any(values, |value| !value.is_finite()) && !any(values, |value| *value < 0.0) {
        return Ok(());
    }
    match values.iter().position(|value| !(0.0..f32::INFINITY).contains(value)) {
        None => Ok(()),
        Some(index) if values[index].is_finite() => {
            Err(Error::NegativeScale { what, index, value: values[index] })
        }
        Some(index) => Err(Error::NotFinite { what, index, value: values[index] }),
    }
}

/// Whether an entry is bad. Stops at none of them, so that the compiler can use vectors: scales are checked before each product.
fn any(values: &[f32], bad: impl Fn(&f32) -> bool) -> bool {
    values.iter().fold(0, |any, value| any | u32::from(bad(value))) != 0
}
