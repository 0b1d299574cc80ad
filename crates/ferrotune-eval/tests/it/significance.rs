use ferrotune_eval::{
    Error, Pair,
    bleu::{Bleu, BleuConfig},
    chrf::Chrf,
    sacrebleu::{
        DEFAULT_SEED, NumpyRandom, SegmentStatistics, bootstrap, paired_bootstrap, paired_randomization,
    },
};
use serde_json::Value;

use crate::{assert_close, golden, strings};

/// sacrebleu resamples in single precision. BLEU's scores leave it through `math.log`, so means agree to rounding of
/// doubles; chrF stays in `float32` to the end, where a mean of 1000 scores near 70 is exact to about 1e-5.
const SINGLE_PRECISION: f64 = 2e-5;

fn pairs(predictions: &Value, references: &Value) -> Vec<Pair> {
    let both = strings(predictions).into_iter().zip(strings(references)).enumerate();
    both.map(|(i, (prediction, reference))| Pair::new(i.to_string(), prediction, reference)).collect()
}

#[test]
fn intervals_and_paired_tests_equal_sacrebleus() {
    let golden = golden!("significance");
    let baseline = pairs(&golden["baseline"], &golden["references"]);
    let system = pairs(&golden["system"], &golden["references"]);
    for case in golden["cases"].as_array().unwrap() {
        if case["metric"] == "BLEU" {
            let bleu = Bleu::new(crate::bleu::config(&case["options"])).unwrap();
            check(&bleu, case, &baseline, &system, crate::TOLERANCE);
        } else {
            let chrf = Chrf::new(crate::chrf::config(&case["options"])).unwrap();
            check(&chrf, case, &baseline, &system, SINGLE_PRECISION);
        }
    }
}

fn check(metric: &impl SegmentStatistics, case: &Value, baseline: &[Pair], system: &[Pair], tolerance: f64) {
    let what = format!("{} {}", case["metric"], case["options"]);
    let near = |found: f64, expected: &Value, name: &str| {
        let expected = expected.as_f64().unwrap();
        assert!((found - expected).abs() <= tolerance * 100.0, "{what}, {name}: {found} against {expected}");
    };
    let interval = bootstrap(metric, system, 1000, DEFAULT_SEED).unwrap();
    near(interval.mean, &case["bootstrap"][0], "mean");
    near(interval.half_width, &case["bootstrap"][1], "half width");
    let by_bootstrap = paired_bootstrap(metric, baseline, system, 1000, DEFAULT_SEED).unwrap();
    let by_randomization = paired_randomization(metric, baseline, system, 2000, DEFAULT_SEED).unwrap();
    for (name, found) in [("bs", by_bootstrap), ("ar", by_randomization)] {
        assert_close(found.baseline, case[name]["baseline"].as_f64().unwrap(), &what);
        assert_close(found.system, case[name]["system"].as_f64().unwrap(), &what);
        assert_close(found.p_value, case[name]["p"].as_f64().unwrap(), &format!("{what}, p of {name}"));
    }
    let interval = by_bootstrap.confidence.unwrap();
    near(interval.mean, &case["bs"]["mean"], "paired mean");
    near(interval.half_width, &case["bs"]["ci"], "paired half width");
    assert_eq!(by_randomization.confidence, None);
}

/// sacrebleu 2.6.0 on three segments with two references: bootstrap of 1000 with the default seed.
#[test]
fn the_tabled_interval_is_reproduced() {
    let pair = |prediction: &str, a: &str, b: &str| Pair {
        references: vec![a.to_owned(), b.to_owned()],
        ..Pair::new(prediction, prediction, "")
    };
    let pairs = [
        pair("The dog bit the man.", "The dog bit the man.", "The dog had bit the man."),
        pair("It wasn't surprising.", "It was not unexpected.", "No one was surprised."),
        pair("The man had just bitten him.", "The man bit him first.", "The man had bitten the dog."),
    ];
    let bleu = Bleu::new(BleuConfig::default()).unwrap();
    let interval = bootstrap(&bleu, &pairs, 1000, DEFAULT_SEED).unwrap();
    assert_close(interval.mean, 46.959748025462865, "mean");
    assert_close(interval.half_width, 46.75499683004279, "half width");
}

#[test]
fn draws_equal_numpys() {
    let golden = golden!("significance");
    let integers = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let mut random = NumpyRandom::new(12345);
    for (expected, tabled) in
        strings(&golden["raw"]).iter().zip([0x3a32b18db2ffc19d, 0x51171315c9e4c4de, 0xcc2024823444efd9])
    {
        let found = random.next_u64();
        assert_eq!((found.to_string(), found), (expected.clone(), tabled));
    }
    let random = |seed| NumpyRandom::new(seed);
    assert_eq!(random(12345).integers(1_000_003, 50), integers(&golden["integers"]));
    assert_eq!(random(12345).integers(10, 8), [6, 2, 7, 3, 2, 7, 6, 6]);
    assert_eq!(random(12345).integers(3, 12), [2, 0, 2, 0, 0, 2, 1, 2, 2, 1, 2, 0]);
    assert_eq!(random((1 << 40) + 5).integers(10, 20), integers(&golden["large_seed"]));
    let booleans: Vec<u32> = random(7).booleans(90).into_iter().map(u32::from).collect();
    assert_eq!(booleans, integers(&golden["booleans"]));
}

#[test]
fn unequal_corpora_and_no_draws_are_refused() {
    let bleu = Bleu::new(BleuConfig::default()).unwrap();
    let pairs = [Pair::new("1", "a", "a"), Pair::new("2", "b", "b")];
    assert!(matches!(bootstrap(&bleu, &[], 10, 1).unwrap_err(), Error::Setting { .. }));
    assert!(matches!(bootstrap(&bleu, &pairs, 0, 1).unwrap_err(), Error::Setting { .. }));
    assert!(matches!(
        paired_bootstrap(&bleu, &pairs, &pairs[..1], 10, 1).unwrap_err(),
        Error::LengthMismatch { left: 2, right: 1, .. }
    ));
    assert!(matches!(paired_randomization(&bleu, &pairs, &pairs, 0, 1).unwrap_err(), Error::Setting { .. }));
}
