//! What `tch` lacks of libtorch: autograd functions in Rust, CUDA at run time, generators, memory figures, fused
//! optimizer steps.
//!
//! Everything here is safe to call. The C++ side (`csrc`) is reached through one private module; no exception comes out
//! of it and no panic goes into it.
//!
//! * [`Function`] and [`apply`]: a differentiable operation written in Rust. [`backward`], [`grad`] and [`with_grad`]
//!   start passes, also inside a pass. [`SharedTensor`] is a frozen tensor that functions on several threads read.
//! * [`cuda`]: finds and loads libtorch's CUDA half at run time, so that one binary runs with and without a GPU.
//! * [`on_each_thread`]: work on libtorch's own threads.
//! * [`fused_adamw`]: one optimizer step over lists of tensors.
//! * [`generator`], [`memory`], [`flops`], [`version`]: what a resumable, measured run asks of libtorch.
//!
//! # Linking
//!
//! `LIBTORCH` names a libtorch 2.11 at build time. What cargo runs (`run`, `test`, `bench`, doctests) finds the
//! libraries without further ado, also in crates that depend on this one. A program that must start *without* cargo
//! gets a run path from its own build script; it depends on this crate directly, so that cargo hands it the folder:
//!
//! ```
//! // build.rs
//! # fn build() -> Result<(), Box<dyn std::error::Error>> {
//! let lib = std::env::var("DEP_FERROTUNE_TORCH_LIB")?;
//! println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{lib}");
//! # Ok(())
//! # }
//! ```

mod autograd;
pub mod cuda;
mod error;
mod ffi;
pub mod flops;
mod function;
pub mod generator;
pub mod memory;
mod optimizer;
mod threads;
pub mod version;

pub use autograd::{backward, grad, grad_enabled, with_grad};
pub use error::{BoxError, Error, Result, Stage};
pub use ffi::SharedTensor;
pub use function::{Forward, Function, apply};
pub use optimizer::{AdamW, fused_adamw};
pub use threads::on_each_thread;
