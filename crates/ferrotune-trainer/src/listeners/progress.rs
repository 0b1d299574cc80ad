//! A progress bar for a person who waits.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use ferrotune_core::BoxError;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

use crate::{Event, Listener, Result, RunPlan};

/// Shows a run on standard error: a bar where that is a terminal, lines where it is a file.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// A bar that appears when the run starts.
    #[must_use]
    pub fn new() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    fn start(&mut self, step: u64, plan: &RunPlan) -> Result<(), BoxError> {
        self.bar = ProgressBar::new(plan.steps).with_position(step);
        self.bar.reset_eta();
        self.bar.set_style(ProgressStyle::with_template(
            "{bar:30} {pos}/{len} steps [{elapsed_precise} < {eta_precise}] {msg}",
        )?);
        if step > 0 {
            self.line(&format!("going on after step {step} of {}", plan.steps))?;
        }
        let disk = match plan.disk_bytes {
            0 => String::new(),
            bytes => {
                format!(
                    "; checkpoints of {}, up to {} on disk",
                    HumanBytes(plan.checkpoint_bytes),
                    HumanBytes(bytes)
                )
            }
        };
        self.line(&format!(
            "{} steps ({} per epoch, {} of warm-up) over {} samples, {} trainable parameters; \
             {} for weights, gradients and moments{disk}",
            plan.steps,
            plan.steps_per_epoch,
            plan.warmup_steps,
            plan.samples,
            plan.trainable_parameters,
            HumanBytes(plan.state_bytes),
        ))?;
        for group in &plan.groups {
            self.line(&format!(
                "  weight decay {} on {} tensors, {} parameters",
                group.weight_decay, group.tensors, group.elements
            ))?;
        }
        Ok(())
    }

    fn line(&self, text: &str) -> io::Result<()> {
        if self.bar.is_hidden() {
            writeln!(io::stderr(), "{text}")
        } else {
            self.bar.println(text);
            Ok(())
        }
    }
}

impl Listener for Progress {
    fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
        match *event {
            Event::Started { step, plan } => self.start(step, plan)?,
            Event::Estimated(estimate) => {
                let remaining = Duration::try_from_secs_f64(estimate.remaining_seconds).unwrap_or_default();
                let memory = estimate
                    .peak_device_bytes
                    .or(estimate.peak_rss_bytes)
                    .map_or_else(String::new, |bytes| format!(", {} of memory so far", HumanBytes(bytes)));
                self.line(&format!(
                    "{:.3} s per step, about {} to go{memory}",
                    estimate.seconds_per_step,
                    HumanDuration(remaining)
                ))?;
            }
            Event::Stepped(report) => {
                self.bar.set_position(report.step);
                self.bar.set_message(format!("loss {:.4}", report.loss));
            }
            Event::Logged(row) if self.bar.is_hidden() => self.line(&format!(
                "step {}: loss {:.4}, gradient norm {:.4}, learning rate {:.3e}, epoch {:.3}",
                row.step, row.loss, row.grad_norm, row.learning_rate, row.epoch
            ))?,
            Event::Evaluating { done, total } => self.bar.set_message(format!("evaluating {done}/{total}")),
            Event::Evaluated { row, evaluation } => self.line(&format!(
                "step {}: validation loss {:.4}, perplexity {:.3}",
                row.step, row.eval_loss, evaluation.perplexity
            ))?,
            Event::CheckpointWritten { path, bytes, .. } => {
                self.line(&format!("wrote {} ({})", path.display(), HumanBytes(bytes)))?;
            }
            Event::Finished { summary, .. } => {
                self.bar.finish_and_clear();
                // Not through the bar: once cleared, it would leave the line without an end.
                writeln!(
                    io::stderr(),
                    "done: {} steps in {}, training loss {:.4}, {:.0} tokens per second",
                    summary.steps,
                    HumanDuration(
                        Duration::try_from_secs_f64(summary.train_runtime_seconds).unwrap_or_default()
                    ),
                    summary.train_token_loss,
                    summary.tokens_per_second
                )?;
            }
            _ => {}
        }
        Ok(())
    }
}
