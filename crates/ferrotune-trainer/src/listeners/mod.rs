//! Listeners that come with the trainer: a progress bar, a log of JSON lines, TensorBoard event files.
//!
//! Both logs follow a resumed run: at its start they cut themselves back to the step that it goes on from, so that they
//! hold each step once, whatever was interrupted. A run that begins anew removes them; files are made with their first row.

mod json_log;
mod progress;
mod tensor_board;

pub use json_log::JsonLog;
pub use progress::Progress;
pub use tensor_board::TensorBoard;
