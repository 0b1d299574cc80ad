use std::fmt;

use tch::{Device, Kind, TchError};

/// The error of a strangers' implementation of [`Function`](crate::Function).
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// [`Error`] is what everything in this crate returns unless it says otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which half of a [`Function`](crate::Function) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// [`Function::forward`](crate::Function::forward).
    Forward,
    /// [`Function::backward`](crate::Function::backward).
    Backward,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        })
    }
}

/// What can go wrong between Rust and libtorch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Libtorch {
        /// libtorch's own message.
        #[from]
        source: TchError,
    },

    /// A [`Function`](crate::Function) returned an error.
    #[error("function `{function}` failed in its {stage} pass: {source}")]
    Function {
        /// The function's name.
        function: String,
        /// Which half failed.
        stage: Stage,
        /// What the function said.
        source: BoxError,
    },

    /// A [`Function`](crate::Function) panicked; the panic was stopped before it reached C++.
    #[error("function `{function}` panicked in its {stage} pass: {message}")]
    Panic {
        /// The function's name.
        function: String,
        /// Which half panicked.
        stage: Stage,
        /// The panic's message.
        message: String,
    },

    /// A gradient of a gradient was asked for (`create_graph`).
    #[error(
        "function `{function}` cannot be differentiated twice: run the backward pass without `create_graph`, or write the function with libtorch's own operations"
    )]
    DoubleBackward {
        /// The function's name.
        function: String,
    },

    /// A function was applied to a tensor that holds nothing.
    #[error("function `{function}` was given an undefined tensor as input {input}")]
    UndefinedInput {
        /// The function's name.
        function: String,
        /// The input's position.
        input: usize,
    },

    /// A forward pass returned a tensor that holds nothing.
    #[error("function `{function}` returned an undefined tensor as output {output}")]
    UndefinedOutput {
        /// The function's name.
        function: String,
        /// The output's position.
        output: usize,
    },

    /// A backward pass returned too few or too many gradients.
    #[error("function `{function}` returned {found} gradients, expected {expected}, one per input")]
    GradientCount {
        /// The function's name.
        function: String,
        /// The number of inputs.
        expected: usize,
        /// The number of gradients returned.
        found: usize,
    },

    /// A backward pass returned a gradient that is not shaped like its input.
    #[error(
        "function `{function}` returned a gradient of shape {found:?} for input {input}, expected {expected:?}"
    )]
    GradientShape {
        /// The function's name.
        function: String,
        /// The input's position.
        input: usize,
        /// The input's shape.
        expected: Vec<i64>,
        /// The gradient's shape.
        found: Vec<i64>,
    },

    /// A backward pass returned a gradient of another type than its input.
    #[error(
        "function `{function}` returned a gradient of type {found:?} for input {input}, expected {expected:?}"
    )]
    GradientKind {
        /// The function's name.
        function: String,
        /// The input's position.
        input: usize,
        /// The input's type.
        expected: Kind,
        /// The gradient's type.
        found: Kind,
    },

    /// A backward pass returned a gradient on another device than its input.
    #[error(
        "function `{function}` returned a gradient on {found:?} for input {input}, expected {expected:?}"
    )]
    GradientDevice {
        /// The function's name.
        function: String,
        /// The input's position.
        input: usize,
        /// The input's device.
        expected: Device,
        /// The gradient's device.
        found: Device,
    },

    /// A name contains a zero byte and cannot be given to libtorch.
    #[error("the name {name:?} contains a zero byte")]
    ZeroByte {
        /// The name.
        name: String,
    },

    /// A generator state that libtorch cannot have written.
    #[error("a generator state for {device:?} has {found} bytes, expected {expected}")]
    GeneratorState {
        /// The generator's device.
        device: Device,
        /// The length of the present state.
        expected: usize,
        /// The length of the state that was given.
        found: usize,
    },

    /// The devices of this crate are the CPU and CUDA's.
    #[error("the device {device:?} is not supported, expected the CPU or a CUDA device")]
    UnsupportedDevice {
        /// The device.
        device: Device,
    },

    /// A device name that is none.
    #[error("`{name}` names no device, expected `auto`, `cpu`, `cuda` or `cuda:N`")]
    UnknownDevice {
        /// What was given.
        name: String,
    },

    /// A CUDA device was asked for and there is no CUDA.
    #[error("the device `{name}` was asked for, and CUDA is not available: {reason}")]
    CudaUnavailable {
        /// What was asked for.
        name: String,
        /// Why there is none, and what to do.
        reason: String,
    },

    /// A CUDA device with a number that this machine does not have.
    #[error(
        "the device `cuda:{index}` was asked for, and this machine has {count} CUDA devices, counted from 0"
    )]
    CudaIndex {
        /// The number asked for.
        index: usize,
        /// The number of devices.
        count: usize,
    },

    /// The libtorch found at run time is not the one this crate was compiled against.
    #[error(
        "libtorch {found} was loaded, expected {expected}, which this program was compiled against: check LD_LIBRARY_PATH and the run path"
    )]
    Version {
        /// The version compiled against.
        expected: crate::version::Version,
        /// The version loaded.
        found: crate::version::Version,
    },

    /// The lists of an optimizer step do not fit together.
    #[error("the optimizer step has {parameters} parameters and {found} {what}, expected as many")]
    ListLength {
        /// Which list.
        what: &'static str,
        /// The number of parameters.
        parameters: usize,
        /// The length of the list.
        found: usize,
    },

    /// A tensor of an optimizer step cannot be used with its parameter.
    #[error("{what} {index} of the optimizer step {problem}, expected {expected}")]
    OptimizerTensor {
        /// Which list, in the singular.
        what: &'static str,
        /// The position in the list.
        index: usize,
        /// What is wrong with it.
        problem: String,
        /// What it should be.
        expected: String,
    },
}
