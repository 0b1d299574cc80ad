//! What is refused, and what the message says.

use std::sync::Mutex;

use ferrotune_core::{BoxError, Sample};
use ferrotune_nn::Parameters;
use ferrotune_trainer::{Dataset, Error, Event, Listener, Resume, Scheduler, Trainer, TrainingConfig};

use crate::tiny::{Tiny, Twist, alone, bits, in_order, samples, settings};

fn failure(twist: Twist, samples: &[Sample], config: TrainingConfig) -> (Error, bool) {
    let (model, parameters) = Tiny::new(twist);
    let before = bits(&parameters);
    let plan = in_order(samples.len(), config.batch_size);
    let name = |position: usize| format!("alpaca.json:{position}");
    let dataset = Dataset::new(samples, &plan).with_names(&name);
    let error = Trainer::new(config, &model, &parameters, dataset)
        .and_then(|trainer| trainer.run(Resume::No))
        .unwrap_err();
    (error, before == bits(&parameters))
}

#[test]
fn a_tensor_that_is_cut_off_the_graph_is_named() {
    let _alone = alone();
    let (error, untouched) = failure(Twist::CutBias, &samples(4), settings());
    assert!(matches!(&error, Error::UndefinedGradient { tensor, step: 1 } if tensor == "bias"), "{error}");
    assert!(untouched);
}

#[test]
fn a_loss_that_is_no_number_names_its_records_and_touches_no_weight() {
    let _alone = alone();
    let mut samples = samples(4);
    samples[3].ids[0] = 10;
    let config = TrainingConfig { batch_size: 1, gradient_accumulation: 4, ..settings() };
    let (error, untouched) = failure(Twist::NanAt(10), &samples, config);
    let Error::NonFiniteLoss { step: 1, found, records } = &error else { panic!("{error}") };
    assert!(found.is_nan());
    assert_eq!(records, "alpaca.json:3");
    assert!(untouched);
}

#[test]
fn a_gradient_that_is_no_number_names_the_tensor() {
    let _alone = alone();
    let (error, untouched) = failure(Twist::SteepBias, &samples(4), settings());
    let Error::NonFiniteGradient { tensor, step: 1, records } = &error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), records.as_str()), ("bias", "alpaca.json:0, alpaca.json:1"));
    assert!(untouched);
}

#[test]
fn samples_that_the_model_cannot_read_are_named() {
    let _alone = alone();
    let broken = |change: fn(&mut Sample)| {
        let mut samples = samples(3);
        change(&mut samples[1]);
        failure(Twist::None, &samples, settings()).0.to_string()
    };
    let says = |message: String, words: &[&str]| {
        for word in ["training record alpaca.json:1"].iter().chain(words) {
            assert!(message.contains(word), "{message}");
        }
    };
    says(broken(|sample| sample.ids[1] = 11), &["token id 11", "vocabulary's 11"]);
    says(broken(|sample| *sample = Sample::default()), &["no tokens"]);
    says(broken(|sample| sample.supervised.truncate(2)), &["supervision marks"]);
    let long = broken(|sample| (sample.ids, sample.supervised) = (vec![1; 65], vec![true; 65]));
    says(long, &["65 tokens", "64 positions"]);
    let mut silent = samples(2);
    silent.iter_mut().for_each(|sample| sample.supervised.fill(false));
    let (error, _) = failure(Twist::None, &silent, settings());
    assert!(matches!(error, Error::NothingSupervised { set: "training", samples: 2 }));
}

#[test]
fn settings_out_of_range_are_named() {
    let check = |config: TrainingConfig, setting: &str| {
        let error = config.validate().unwrap_err();
        assert!(matches!(&error, Error::Setting { setting: named, .. } if *named == setting), "{error}");
    };
    check(TrainingConfig { epochs: 0.0, ..settings() }, "epochs");
    check(TrainingConfig { epochs: f64::NAN, ..settings() }, "epochs");
    check(TrainingConfig { max_steps: Some(0), ..settings() }, "max_steps");
    check(TrainingConfig { batch_size: 0, ..settings() }, "batch_size");
    check(TrainingConfig { gradient_accumulation: 0, ..settings() }, "gradient_accumulation");
    check(TrainingConfig { learning_rate: -1e-3, ..settings() }, "learning_rate");
    check(TrainingConfig { learning_rate: f64::INFINITY, ..settings() }, "learning_rate");
    check(TrainingConfig { warmup_ratio: 1.5, ..settings() }, "warmup_ratio");
    check(TrainingConfig { weight_decay: f64::NAN, ..settings() }, "weight_decay");
    check(TrainingConfig { adam_beta1: 1.0, ..settings() }, "adam_beta1");
    check(TrainingConfig { adam_beta2: -0.1, ..settings() }, "adam_beta2");
    check(TrainingConfig { adam_epsilon: -1.0, ..settings() }, "adam_epsilon");
    check(TrainingConfig { max_grad_norm: -1.0, ..settings() }, "max_grad_norm");
    check(TrainingConfig { eval_steps: Some(0), ..settings() }, "eval_steps");
    check(TrainingConfig { save_steps: Some(0), ..settings() }, "save_steps");
    check(TrainingConfig { save_total_limit: Some(0), ..settings() }, "save_total_limit");
    check(TrainingConfig { logging_steps: 0, ..settings() }, "logging_steps");
    TrainingConfig::default().validate().unwrap();
}

#[test]
fn settings_refuse_unknown_keys_and_read_their_own_text() {
    let read = |text| serde_json::from_str::<TrainingConfig>(text);
    let error = read(r#"{"learning_rat": 1e-3}"#).unwrap_err();
    assert!(error.to_string().contains("learning_rat"), "{error}");
    assert!(read(r#"{"scheduler": "polynomial"}"#).unwrap_err().to_string().contains("polynomial"));
    let config = TrainingConfig { scheduler: Scheduler::Cosine, max_steps: Some(7), ..settings() };
    assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn steps_and_warm_up_are_rounded_up() {
    let config = TrainingConfig { gradient_accumulation: 4, warmup_ratio: 0.03, ..settings() };
    // 10 micro-batches in windows of 4 are 3 steps.
    assert_eq!(TrainingConfig { epochs: 2.0, ..config.clone() }.total_steps(10), 6);
    assert_eq!(TrainingConfig { epochs: 0.5, ..config.clone() }.total_steps(10), 2);
    assert_eq!(TrainingConfig { max_steps: Some(5), ..config.clone() }.total_steps(10), 5);
    assert_eq!(config.warmup(100), 3);
    assert_eq!(config.warmup(101), 4);
    assert_eq!(TrainingConfig { warmup_steps: Some(0), ..config }.warmup(101), 0);
}

#[test]
fn nothing_to_train_is_an_error() {
    let _alone = alone();
    let (model, _) = Tiny::new(Twist::None);
    let (samples, plan) = (samples(2), in_order(2, 2));
    let parameters = Parameters::default();
    let error = Trainer::new(settings(), &model, &parameters, Dataset::new(&samples, &plan)).unwrap_err();
    assert!(matches!(error, Error::NothingTrains));
}

#[test]
fn an_epoch_with_another_number_of_batches_is_refused() {
    let _alone = alone();
    let (model, parameters) = Tiny::new(Twist::None);
    let samples = samples(4);
    let plan = |epoch: u64| Ok::<_, BoxError>((0..4 - epoch as usize).map(|sample| vec![sample]).collect());
    let config = TrainingConfig { epochs: 2.0, ..settings() };
    let trainer = Trainer::new(config, &model, &parameters, Dataset::new(&samples, &plan)).unwrap();
    let error = trainer.run(Resume::No).unwrap_err();
    assert!(error.to_string().contains("epoch 1 are 3, expected 4"), "{error}");
}

#[test]
fn the_error_of_a_listener_stops_the_run_with_its_step() {
    let _alone = alone();
    struct Full<'a>(&'a Mutex<u64>);
    impl Listener for Full<'_> {
        fn on(&mut self, event: &Event<'_>) -> Result<(), BoxError> {
            let Event::Stepped(report) = event else { return Ok(()) };
            *self.0.lock().unwrap() = report.step;
            if report.step == 2 { Err("no space left on device".into()) } else { Ok(()) }
        }
    }
    let (model, parameters) = Tiny::new(Twist::None);
    let (samples, plan) = (samples(8), in_order(8, 2));
    let last = Mutex::new(0);
    let mut full = Full(&last);
    let trainer = Trainer::new(settings(), &model, &parameters, Dataset::new(&samples, &plan)).unwrap();
    let error = trainer.with_listener(&mut full).run(Resume::No).unwrap_err();
    assert!(matches!(&error, Error::Port { step: 2, .. }), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert_eq!(*last.lock().unwrap(), 2);
}
