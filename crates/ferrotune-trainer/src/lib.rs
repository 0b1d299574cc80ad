//! Training steps, optimizers, schedules, evaluation, checkpoints and exact resume.
