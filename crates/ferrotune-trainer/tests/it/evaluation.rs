//! The validation loss, and when it is measured.

use approx::assert_relative_eq;
use ferrotune_core::BoxError;
use ferrotune_torch::generator;
use ferrotune_trainer::{
    Dataset, Error, Event, Listener, Resume, Trainer, TrainingConfig, evaluate, overfitting_step,
};
use tch::{Device, Kind, Tensor};

use crate::tiny::{DropoutLlama, HIDDEN, Tiny, Twist, VOCABULARY, alone, bits, in_order, samples, settings};

#[test]
fn a_model_that_knows_nothing_has_the_loss_of_chance() {
    let _alone = alone();
    let zero = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let (h, v) = (HIDDEN, VOCABULARY);
    let (model, _) =
        Tiny::from_tensors([zero(&[v, h]), zero(&[h, h]), zero(&[h]), zero(&[h]), zero(&[v, h])]);
    let (samples, plan) = (samples(5), in_order(5, 2));
    let evaluation = evaluate(&model, &Dataset::new(&samples, &plan), &mut |_, _| Ok(())).unwrap();
    // Eleven equally likely tokens.
    assert_relative_eq!(evaluation.loss, 11f64.ln(), max_relative = 1e-6);
    assert_relative_eq!(evaluation.perplexity, 11.0, max_relative = 1e-6);
    let supervised: usize = samples.iter().map(|sample| sample.supervised_tokens()).sum();
    assert_eq!(evaluation.supervised_tokens, supervised as u64);
    assert_eq!(evaluation.tokens, samples.iter().map(|sample| sample.len() as u64).sum::<u64>());
}

#[test]
fn the_loss_weights_tokens_and_the_other_one_samples() {
    let _alone = alone();
    let (model, _) = Tiny::new(Twist::None);
    let samples = samples(3);
    let loss = |batches: Vec<Vec<usize>>, samples: &[_]| {
        let plan = move |_| Ok::<_, BoxError>(batches.clone());
        evaluate(&model, &Dataset::new(samples, &plan), &mut |_, _| Ok(())).unwrap()
    };
    let alone: Vec<_> =
        samples.iter().map(|sample| loss(vec![vec![0]], std::slice::from_ref(sample))).collect();
    let together = loss(vec![vec![0, 1], vec![2]], &samples);
    let tokens = |index: usize| alone[index].supervised_tokens as f64;
    let sum = |index: usize| alone[index].loss * tokens(index);
    let by_tokens = (sum(0) + sum(1) + sum(2)) / (tokens(0) + tokens(1) + tokens(2));
    // transformers' rule: the mean of a batch counts once per sample in it.
    let by_samples = ((sum(0) + sum(1)) / (tokens(0) + tokens(1)) * 2.0 + alone[2].loss) / 3.0;
    assert!((by_tokens - by_samples).abs() > 1e-3, "the two rules must differ for this to test anything");
    assert_relative_eq!(together.loss, by_tokens, max_relative = 1e-6);
    assert_relative_eq!(together.sample_weighted_loss, by_samples, max_relative = 1e-6);
    assert_relative_eq!(loss(vec![vec![2, 0, 1]], &samples).loss, by_tokens, max_relative = 1e-6);
}

#[test]
fn evaluating_draws_nothing_and_leaves_training_as_it_was() {
    let _alone = alone();
    let run = |eval_steps| {
        let (model, parameters) = DropoutLlama::new(5, 0.2);
        let (training, plan) = (samples(6), in_order(6, 2));
        let (validation, held_out) = (samples(4), in_order(4, 3));
        let config = TrainingConfig { eval_steps, ..settings() };
        Trainer::new(config, &model, &parameters, Dataset::new(&training, &plan))
            .unwrap()
            .with_validation(Dataset::new(&validation, &held_out))
            .unwrap()
            .run(Resume::No)
            .unwrap();
        bits(&parameters)
    };
    assert_eq!(run(Some(1)), run(None));

    let (model, _) = DropoutLlama::new(5, 0.2);
    let (samples, plan) = (samples(4), in_order(4, 3));
    let before = generator::state(Device::Cpu).unwrap();
    let evaluate = || evaluate(&model, &Dataset::new(&samples, &plan), &mut |_, _| Ok(())).unwrap().loss;
    assert_eq!(evaluate().to_bits(), evaluate().to_bits());
    assert_eq!(before, generator::state(Device::Cpu).unwrap());
}

#[test]
fn evaluations_follow_epochs_or_steps_and_always_the_end() {
    let _alone = alone();
    #[derive(Default)]
    struct Steps(Vec<u64>);
    impl Listener for Steps {
        fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
            if let Event::Evaluated { row, .. } = event {
                self.0.push(row.step);
            }
            Ok(())
        }
    }
    let run = |config: TrainingConfig| {
        let (model, parameters) = Tiny::new(Twist::None);
        let (training, plan) = (samples(8), in_order(8, 2));
        let (validation, held_out) = (samples(3), in_order(3, 2));
        let mut steps = Steps::default();
        Trainer::new(config, &model, &parameters, Dataset::new(&training, &plan))
            .unwrap()
            .with_validation(Dataset::new(&validation, &held_out))
            .unwrap()
            .with_listener(&mut steps)
            .run(Resume::No)
            .unwrap();
        steps.0
    };
    assert_eq!(run(TrainingConfig { epochs: 2.0, ..settings() }), [4, 8]);
    assert_eq!(run(TrainingConfig { epochs: 1.5, ..settings() }), [4, 6]);
    assert_eq!(run(TrainingConfig { epochs: 2.0, eval_steps: Some(3), ..settings() }), [3, 6, 8]);
    assert_eq!(run(TrainingConfig { max_steps: Some(3), ..settings() }), [3]);
    assert_eq!(run(TrainingConfig { gradient_accumulation: 3, epochs: 2.0, ..settings() }), [2, 4]);
}

#[test]
fn a_validation_plan_must_hold_each_sample_once() {
    let _alone = alone();
    let (model, parameters) = Tiny::new(Twist::None);
    let (training, plan) = (samples(4), in_order(4, 2));
    for (batches, problem) in [
        (vec![vec![0, 1], vec![1, 2]], "hold sample 1 2 times"),
        (vec![vec![0, 1]], "hold sample 2 0 times"),
        (vec![vec![0, 3]], "name sample 3"),
        (vec![vec![0], vec![]], "contain an empty one"),
    ] {
        let held_out = move |_| Ok::<_, BoxError>(batches.clone());
        let validation = samples(3);
        let error = Trainer::new(settings(), &model, &parameters, Dataset::new(&training, &plan))
            .unwrap()
            .with_validation(Dataset::new(&validation, &held_out))
            .unwrap_err();
        assert!(matches!(&error, Error::PlanShape { .. }) && error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn overfitting_is_dated_by_the_last_minimum() {
    assert_eq!(overfitting_step([]), None);
    assert_eq!(overfitting_step([(5, 1.0)]), None);
    assert_eq!(overfitting_step([(5, 1.0), (10, 2.0)]), Some(5));
    assert_eq!(overfitting_step([(5, 3.0), (10, 2.0), (15, 2.0), (20, 2.5)]), Some(15));
    // A bump on the way down is not the point; the lowest value is.
    assert_eq!(overfitting_step([(5, 2.0), (10, 2.2), (15, 1.5), (20, 1.6)]), Some(15));
    // Within a thousandth of the minimum nothing is said.
    assert_eq!(overfitting_step([(5, 2.0), (10, 2.0019)]), None);
    assert_eq!(overfitting_step([(5, 2.0), (10, 2.0021)]), Some(5));
}
