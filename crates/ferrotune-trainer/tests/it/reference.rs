//! Against the reference libraries: schedules, ten whole steps, the state file.

use approx::assert_relative_eq;
use ferrotune_core::{BoxError, Sample};
use ferrotune_nn::{WeightSource as _, checkpoint::Checkpoint};
use ferrotune_trainer::{
    Dataset, LogRow, Resume, Schedule, Scheduler, Trainer, TrainerState, TrainingConfig,
};
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::tiny::{Tiny, alone, golden, values};

/// One rounding of a product or a cosine in 64 bits.
const SCHEDULE_TOLERANCE: f64 = 1e-15;

/// Single precision over ten steps of products of at most eleven terms.
const LOSS_TOLERANCE: f64 = 2e-6;

/// AdamW divides by the root of the second moment: early steps amplify the gradients' rounding (6e-8 relative) where
/// they are small.
const WEIGHT_TOLERANCE: f64 = 2e-5;

#[test]
fn schedules_equal_transformers_at_every_step() {
    #[derive(Deserialize)]
    struct Case {
        scheduler: Scheduler,
        learning_rate: f64,
        warmup: u64,
        total: u64,
        rates: Vec<f64>,
    }
    let text = std::fs::read_to_string(golden("schedules.json")).unwrap();
    for Case { scheduler, learning_rate, warmup, total, rates } in
        serde_json::from_str::<Vec<Case>>(&text).unwrap()
    {
        let schedule = Schedule { scheduler, learning_rate, warmup, total };
        for (step, rate) in (0..).zip(rates) {
            let ours = schedule.at(step);
            assert!(
                (ours - rate).abs() <= SCHEDULE_TOLERANCE * learning_rate,
                "{schedule:?} at {step}: {ours}"
            );
        }
    }
}

#[test]
fn ten_steps_equal_torch_with_accumulation_clipping_and_decay_groups() {
    let _alone = alone();
    #[derive(Deserialize)]
    struct Row {
        loss: f64,
        grad_norm: f64,
        learning_rate: f64,
    }
    #[derive(Deserialize)]
    struct Plain {
        ids: Vec<u32>,
        supervised: Vec<bool>,
    }
    #[derive(Deserialize)]
    struct Golden {
        samples: Vec<Plain>,
        plan: Vec<Vec<Vec<usize>>>,
        settings: TrainingConfig,
        rows: Vec<Row>,
    }
    let text = std::fs::read_to_string(golden("ten_steps.json")).unwrap();
    let Golden { samples, plan, settings, rows } = serde_json::from_str(&text).unwrap();
    let sample = |Plain { ids, supervised }| Sample { ids, supervised, truncated: false };
    let samples: Vec<Sample> = samples.into_iter().map(sample).collect();
    let tensors = Checkpoint::open_file(&golden("ten_steps.safetensors")).unwrap();
    let names = ["embed", "mix", "bias", "norm", "head"];
    let (model, parameters) =
        Tiny::from_tensors(names.map(|name| tensors.read(&format!("before.{name}")).unwrap()));

    let plan = move |epoch: u64| Ok::<_, BoxError>(plan[epoch as usize].clone());
    let trainer = Trainer::new(settings, &model, &parameters, Dataset::new(&samples, &plan)).unwrap();
    let finished = trainer.run(Resume::No).unwrap();

    let ours: Vec<_> = finished
        .state
        .log_history
        .iter()
        .filter_map(|row| match row {
            LogRow::Training(row) => Some(row),
            _ => None,
        })
        .collect();
    assert_eq!(ours.len(), rows.len());
    for (ours, row) in ours.iter().zip(&rows) {
        assert_relative_eq!(ours.loss, row.loss, max_relative = LOSS_TOLERANCE);
        assert_relative_eq!(ours.grad_norm, row.grad_norm, max_relative = 10.0 * LOSS_TOLERANCE);
        assert_relative_eq!(ours.learning_rate, row.learning_rate, max_relative = SCHEDULE_TOLERANCE);
    }
    for (name, values) in values(&parameters) {
        let theirs = tensors.read(&format!("after.{name}")).unwrap().reshape([-1]);
        let difference = (Tensor::from_slice(&values) - &theirs).norm().double_value(&[]);
        let moved = (tensors.read(&format!("before.{name}")).unwrap().reshape([-1]) - &theirs).norm();
        assert!(moved.double_value(&[]) > 0.05, "{name} did not move, so nothing was compared");
        let relative = difference / theirs.to_kind(Kind::Double).norm().double_value(&[]);
        assert!(relative < WEIGHT_TOLERANCE, "{name} differs by {relative}");
    }
}

#[test]
fn a_state_file_of_transformers_is_read_and_written_byte_for_byte() {
    let path = golden("trainer_state.json");
    let state = TrainerState::load(&path).unwrap();
    assert_eq!(state.to_json().unwrap(), std::fs::read_to_string(&path).unwrap());
    assert!(matches!(state.log_history[0], LogRow::Training(_)));
    assert!(matches!(state.log_history[4], LogRow::Evaluation(_)));
    assert!(matches!(state.log_history[5], LogRow::End(_)));
}
