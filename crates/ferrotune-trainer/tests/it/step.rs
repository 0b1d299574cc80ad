//! What an optimizer step does with its window.

use approx::assert_relative_eq;
use ferrotune_core::BoxError;
use ferrotune_torch::SharedTensor;
use ferrotune_trainer::{Dataset, Finished, LogRow, Resume, Trainer, TrainingConfig, TrainingRow};
use tch::Tensor;

use crate::tiny::{
    DropoutLlama, HIDDEN, ROUTED, Tiny, Twist, alone, bits, in_order, samples, settings, values,
};

/// Sums in another order, in single precision.
const ORDER_TOLERANCE: f32 = 2e-6;

fn rows(finished: &Finished) -> Vec<TrainingRow> {
    let row = |row: &LogRow| if let LogRow::Training(row) = row { Some(row.clone()) } else { None };
    finished.state.log_history.iter().filter_map(row).collect()
}

fn trained(config: TrainingConfig, twist: Twist, count: usize) -> (Vec<(String, Vec<f32>)>, Finished) {
    let (model, parameters) = Tiny::new(twist);
    let (samples, plan) = (samples(count), in_order(count, config.batch_size));
    let trainer = Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan)).unwrap();
    let finished = trainer.run(Resume::No).unwrap();
    (values(&parameters), finished)
}

/// The same samples cut into micro-batches of several sizes, with supervised tokens spread unequally; 10 samples leave a
/// short window at the end, too.
fn check_that_the_split_does_not_matter(twist: impl Fn() -> Twist) {
    let split = |batch_size, gradient_accumulation| TrainingConfig {
        batch_size,
        gradient_accumulation,
        max_grad_norm: 0.3,
        ..settings()
    };
    let (whole, finished) = trained(split(4, 1), twist(), 10);
    assert_eq!(finished.summary.steps, 3);
    for (batch_size, gradient_accumulation) in [(2, 2), (1, 4)] {
        let (parts, other) = trained(split(batch_size, gradient_accumulation), twist(), 10);
        for (a, b) in rows(&finished).iter().zip(rows(&other)) {
            assert_relative_eq!(a.loss, b.loss, max_relative = f64::from(ORDER_TOLERANCE));
            assert_relative_eq!(a.grad_norm, b.grad_norm, max_relative = 10.0 * f64::from(ORDER_TOLERANCE));
            assert_eq!(a.auxiliary_loss.is_some(), b.auxiliary_loss.is_some());
            if let (Some(a), Some(b)) = (a.auxiliary_loss, b.auxiliary_loss) {
                assert_relative_eq!(a, b, max_relative = f64::from(ORDER_TOLERANCE));
            }
        }
        for ((name, whole), (_, parts)) in whole.iter().zip(&parts) {
            for (a, b) in whole.iter().zip(parts) {
                assert!((a - b).abs() < 20.0 * ORDER_TOLERANCE, "{name}: {a} {b}");
            }
        }
    }
}

#[test]
fn accumulating_two_batches_of_two_equals_one_batch_of_four() {
    let _alone = alone();
    check_that_the_split_does_not_matter(|| Twist::None);
}

#[test]
fn the_auxiliary_loss_is_weighted_by_its_share_of_tokens() {
    let _alone = alone();
    check_that_the_split_does_not_matter(|| Twist::Auxiliary(0.5));
}

#[test]
fn the_auxiliary_loss_reaches_the_gradients_and_stays_out_of_the_loss() {
    let _alone = alone();
    let (without, plain) = trained(settings(), Twist::None, 4);
    let (with, finished) = trained(settings(), Twist::Auxiliary(0.5), 4);
    assert_ne!(without, with);
    let (plain, finished) = (rows(&plain), rows(&finished));
    assert_eq!(plain[0].loss, finished[0].loss);
    assert!(plain[0].auxiliary_loss.is_none() && finished[0].auxiliary_loss.unwrap() > 0.0);
}

#[test]
fn a_sample_that_supervises_nothing_changes_nothing_but_the_count_of_tokens() {
    let _alone = alone();
    let config = TrainingConfig { batch_size: 1, gradient_accumulation: 2, ..settings() };
    let run = |silent: bool| {
        let (model, parameters) = Tiny::new(Twist::None);
        let mut samples = samples(3);
        if silent {
            samples[1].supervised.fill(false);
        } else {
            samples.remove(1);
        }
        let batches = if silent { vec![vec![0], vec![1], vec![2]] } else { vec![vec![0], vec![1]] };
        // Windows: {0, silent}, {2} against {0}, {2}.
        let accumulation = if silent { 2 } else { 1 };
        let config = TrainingConfig { gradient_accumulation: accumulation, ..config.clone() };
        let plan = move |_| Ok::<_, BoxError>(batches.clone());
        let trainer = Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan)).unwrap();
        let finished = trainer.run(Resume::No).unwrap();
        (bits(&parameters), finished.summary.supervised_tokens)
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_first_window_that_supervises_nothing_still_reaches_every_tensor() {
    let _alone = alone();
    let (model, parameters) = Tiny::new(Twist::None);
    let before = values(&parameters);
    let mut samples = samples(2);
    samples[0].supervised.fill(false);
    let config = TrainingConfig { batch_size: 1, max_steps: Some(1), ..settings() };
    let plan = in_order(2, 1);
    let finished = Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan))
        .unwrap()
        .run(Resume::No)
        .unwrap();
    assert_eq!((finished.summary.supervised_tokens, finished.summary.train_loss), (0, 0.0));
    assert_eq!(before, values(&parameters));
}

#[test]
fn a_gradient_below_the_limit_is_left_alone_and_0_never_clips() {
    let _alone = alone();
    let clipped = |limit| trained(TrainingConfig { max_grad_norm: limit, ..settings() }, Twist::None, 6).0;
    assert_eq!(clipped(0.0), clipped(1e9));
    assert_ne!(clipped(0.0), clipped(0.01));
}

#[test]
fn an_expert_without_tokens_keeps_its_weights_until_one_reaches_it() {
    let _alone = alone();
    let expert =
        || SharedTensor::from(Tensor::from_slice(&[0.25f32; HIDDEN as usize]).set_requires_grad(true));
    let last = |routed: bool| {
        let (model, parameters) = Tiny::new(Twist::Expert(expert()));
        let mut samples = samples(4);
        if routed {
            samples[3].ids[1] = ROUTED as u32;
            samples[3].supervised[2..].fill(true);
        }
        let plan = in_order(4, 1);
        let config = TrainingConfig { batch_size: 1, weight_decay: 0.1, ..settings() };
        let trainer = Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan)).unwrap();
        trainer.run(Resume::No).unwrap();
        values(&parameters).pop().unwrap().1
    };
    // Not even decay touches it, as torch's optimizers leave a parameter without a gradient alone.
    assert_eq!(last(false), [0.25; HIDDEN as usize]);
    assert_ne!(last(true), [0.25; HIDDEN as usize]);
}

#[test]
fn recomputing_blocks_gives_the_same_weights() {
    let _alone = alone();
    let run = |gradient_checkpointing| {
        let (model, parameters) = DropoutLlama::new(3, 0.2);
        let (samples, plan) = (samples(8), in_order(8, 2));
        let config = TrainingConfig { gradient_checkpointing, ..settings() };
        let trainer = Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan)).unwrap();
        trainer.run(Resume::No).unwrap();
        values(&parameters)
    };
    for ((name, kept), (_, recomputed)) in run(false).iter().zip(&run(true)) {
        for (a, b) in kept.iter().zip(recomputed) {
            assert!((a - b).abs() < 20.0 * ORDER_TOLERANCE, "{name}: {a} {b}");
        }
    }
}

#[test]
fn equal_seeds_give_equal_runs_and_other_seeds_other_dropout() {
    let _alone = alone();
    let run = |seed| {
        let (model, parameters) = DropoutLlama::new(3, 0.2);
        let (samples, plan) = (samples(8), in_order(8, 2));
        let config = TrainingConfig { seed, ..settings() };
        let trainer = Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan)).unwrap();
        trainer.run(Resume::No).unwrap();
        bits(&parameters)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
