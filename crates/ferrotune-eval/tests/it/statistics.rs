use ferrotune_eval::{
    Error, Evidence, Measurement, Record, Run, SampleScore, Tally,
    statistics::{
        Bootstrap, clustered_stderr, clustered_wilson_interval, compare, group_mean, mean_stderr, percentile,
        pooled_stderr, wilson_interval,
    },
};

use crate::{assert_close, golden, numbers};

const ANSWERS: [f64; 10] = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0];

#[test]
fn standard_errors_equal_the_harness() {
    assert_close(mean_stderr(&ANSWERS).unwrap(), 0.16329931618554522, "mean");
    assert_close(pooled_stderr(&[(0.05, 100), (0.03, 250)]).unwrap(), 0.02575222980445534, "pooled");
    assert_close(group_mean(&[(0.4, 100), (0.6, 250)]).unwrap(), 0.5428571428571428, "group mean");
    assert_eq!(mean_stderr(&[1.0]), None);
    assert_eq!(pooled_stderr(&[(0.0, 1)]), None);
}

#[test]
fn bootstrap_is_reproducible_and_agrees_with_theory() {
    let tally = Tally::mean_of(&ANSWERS);
    let bootstrap = Bootstrap { resamples: 20_000, ..Bootstrap::default() };
    let interval = bootstrap.interval(&tally).unwrap().unwrap();
    assert_eq!(bootstrap.interval(&tally).unwrap().unwrap(), interval);
    let other = Bootstrap { seed: 1, ..bootstrap }.interval(&tally).unwrap().unwrap();
    assert_ne!(other.stderr, interval.stderr);
    // The standard deviation of the mean of n draws from the sample is sqrt(p (1 - p) / n); 20 000 draws estimate it to
    // about half a percent.
    const SAMPLING: f64 = 0.003;
    assert!((interval.stderr - (0.6_f64 * 0.4 / 10.0).sqrt()).abs() < SAMPLING, "{interval:?}");
    // Binomial(10, 0.6): the 2.5 % and 97.5 % quantiles are 3 and 9.
    assert_eq!((interval.low, interval.high), (0.3, 0.9));
}

#[test]
fn bootstrap_resamples_what_the_metric_aggregates() {
    // Four documents with log-likelihoods -1.2, -0.5, -2.0, -0.9 under perplexity = exp(-mean): the reference's own
    // bootstrap gives 0.9551785852891649 from 1000 draws of its generator. The two agree up to the draws' noise.
    const SAMPLING: f64 = 0.1;
    let rows = ndarray::arr2(&[[1.2, 1.0], [0.5, 1.0], [2.0, 1.0], [0.9, 1.0]]);
    let tally = Tally::new(rows, |sums| (sums[0] / sums[1]).exp());
    let interval = Bootstrap { resamples: 20_000, ..Bootstrap::default() }.interval(&tally).unwrap().unwrap();
    assert!((interval.stderr - 0.9551785852891649).abs() < SAMPLING, "{interval:?}");
}

#[test]
fn percentiles_interpolate_as_numpy() {
    // numpy.percentile([1, 2, 4, 8], [0, 2.5, 50, 97.5, 100])
    let sorted = [1.0, 2.0, 4.0, 8.0];
    for (share, expected) in [(0.0, 1.0), (0.025, 1.075), (0.5, 3.0), (0.975, 7.7), (1.0, 8.0)] {
        assert_close(percentile(&sorted, share), expected, "percentile");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let tally = Tally::mean_of(&ANSWERS);
    for bootstrap in [
        Bootstrap { resamples: 0, ..Bootstrap::default() },
        Bootstrap { resamples: 1, ..Bootstrap::default() },
        Bootstrap { resamples: 39, ..Bootstrap::default() },
        Bootstrap { resamples: 199, confidence: 0.99, ..Bootstrap::default() },
        Bootstrap { confidence: 1.0, ..Bootstrap::default() },
        Bootstrap { confidence: f64::NAN, ..Bootstrap::default() },
    ] {
        assert!(matches!(bootstrap.interval(&tally).unwrap_err(), Error::Setting { .. }));
    }
    for bootstrap in [
        Bootstrap { resamples: 40, ..Bootstrap::default() },
        Bootstrap { resamples: 200, confidence: 0.99, ..Bootstrap::default() },
    ] {
        assert!(bootstrap.interval(&tally).unwrap().is_some());
    }
    assert!(wilson_interval(0, 0, 1.96).is_err());
    assert!(wilson_interval(2, 1, 1.96).is_err());
}

/// `scipy.stats.binomtest(k, n).proportion_ci(method="wilson")` of scipy 1.17.1.
#[test]
fn wilson_equals_scipy() {
    const Z: f64 = 1.959963984540054;
    for (successes, trials, low, high) in WILSON {
        let found = wilson_interval(successes, trials, Z).unwrap();
        assert_close(found.0, low, "low");
        assert_close(found.1, high, "high");
    }
}

const WILSON: [(u64, u64, f64, f64); 6] = [
    (0, 10, 0.0, 0.27753279986288926),
    (10, 10, 0.7224672001371109, 1.0),
    (6, 10, 0.3126737697336583, 0.8318196702937639),
    (1, 3, 0.06149194472039626, 0.7923403991979523),
    (37, 164, 0.16834378503490682, 0.2954358994818522),
    (999, 1000, 0.9943574414020421, 0.9998234536293739),
];

const Z: f64 = 1.959_963_984_540_054;

#[test]
fn clusters_are_counted_as_statsmodels_counts_them() {
    let golden = golden!("clusters");
    for case in golden.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let clusters: Vec<Vec<f64>> = case["clusters"].as_array().unwrap().iter().map(numbers).collect();
        let sums: Vec<(f64, f64)> =
            clusters.iter().map(|cluster| (cluster.iter().sum(), cluster.len() as f64)).collect();
        assert_close(clustered_stderr(&sums).unwrap(), case["stderr"].as_f64().unwrap(), name);
        if let Some(expected) = case.get("wilson").map(numbers) {
            let (low, high) = clustered_wilson_interval(&sums, Z).unwrap();
            assert_close(low, expected[0], name);
            assert_close(high, expected[1], name);
        }
    }
    assert_eq!(clustered_stderr(&[(3.0, 4.0)]), None);
    assert!(matches!(clustered_wilson_interval(&[], Z), Err(Error::Setting { .. })));
}

#[test]
fn clusters_of_one_sample_change_nothing() {
    let alone: Vec<(f64, f64)> = ANSWERS.iter().map(|&score| (score, 1.0)).collect();
    assert_close(clustered_stderr(&alone).unwrap(), mean_stderr(&ANSWERS).unwrap(), "standard error");
    let (found, expected) =
        (clustered_wilson_interval(&alone, Z).unwrap(), wilson_interval(6, 10, Z).unwrap());
    assert_close(found.0, expected.0, "lower end");
    assert_close(found.1, expected.1, "upper end");
    assert!(!Tally::mean_of(&ANSWERS).clustered(&[7, 3, 9, 1, 0, 2, 4, 5, 6, 8]).is_clustered());
}

/// Scores of questions that are asked `repeats` times with the same result each time.
fn repeated(scores: &[f64], repeats: usize) -> Measurement {
    let all: Vec<f64> = scores.iter().copied().cycle().take(scores.len() * repeats).collect();
    let labels: Vec<usize> = (0..scores.len()).cycle().take(all.len()).collect();
    let sample = |(place, &score): (usize, &f64)| SampleScore {
        id: place.to_string(),
        extracted: None,
        score: Ok(score),
    };
    let samples = all.iter().enumerate().map(sample).collect();
    let tally = Tally::mean_of(&all).clustered(&labels);
    Measurement { evidence: Evidence::Measured(tally), ..Measurement::of_mean("mean", "as is", samples) }
}

#[test]
fn repeats_of_a_question_make_nothing_surer() {
    let bootstrap = Bootstrap::default();
    let (once, often) = (repeated(&ANSWERS, 1), repeated(&ANSWERS, 4));
    let interval =
        |measurement: &Measurement| bootstrap.interval(measurement.tally().unwrap()).unwrap().unwrap();
    let (first, second) = (interval(&once), interval(&often));
    assert_close(second.stderr, first.stderr, "standard error");
    assert_close(second.low, first.low, "lower end");
    assert_close(second.high, first.high, "upper end");
    assert!(second.method.contains("over clusters of samples"), "{}", second.method);

    let others = [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0];
    let once = compare(&once, &repeated(&others, 1), &bootstrap).unwrap();
    let often = compare(&often, &repeated(&others, 4), &bootstrap).unwrap();
    // Two questions differ, in one direction: of 4 exchanges 2 are as large.
    assert_eq!((once.p_value, often.p_value), (0.5, 0.5));
    assert_eq!((often.n, often.n_left_out), (40, 0));
    assert_eq!(once.ci95, often.ci95);
}

/// The mean of the means of these strata.
fn mean_of_means(strata: &[&[f64]]) -> Tally {
    let labels: Vec<usize> =
        strata.iter().enumerate().flat_map(|(k, scores)| vec![k; scores.len()]).collect();
    let scores: Vec<f64> = strata.concat();
    let rows = ndarray::Array2::from_shape_fn((scores.len(), 2 * strata.len()), |(row, column)| {
        let of_row = column / 2 == labels[row];
        if column % 2 == 0 { f64::from(u8::from(of_row)) * scores[row] } else { f64::from(u8::from(of_row)) }
    });
    let mean = |sums: &[f64]| {
        let means: Vec<f64> =
            sums.chunks(2).filter(|sums| sums[1] > 0.0).map(|sums| sums[0] / sums[1]).collect();
        means.iter().sum::<f64>() / means.len() as f64
    };
    Tally::new(rows, mean).stratified(&labels)
}

#[test]
fn each_stratum_is_drawn_from_by_itself() {
    let many: Vec<f64> = (0..30).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
    let (few, two) = ([1.0, 0.0, 1.0, 1.0, 0.0], [0.25, 1.0]);
    let strata: [&[f64]; 3] = [&many, &few, &two];
    // Means of independent strata: the variance of their mean is the sum of s² / n over the square of their number.
    let variance: f64 = strata.iter().map(|scores| mean_stderr(scores).unwrap().powi(2)).sum();
    let expected = variance.sqrt() / 3.0;
    // 20 000 draws estimate a standard deviation to about half a percent.
    const SAMPLING: f64 = 0.02;
    let bootstrap = Bootstrap { resamples: 20_000, ..Bootstrap::default() };
    let interval = bootstrap.interval(&mean_of_means(&strata)).unwrap().unwrap();
    assert!((interval.stderr / expected - 1.0).abs() < SAMPLING, "{} against {expected}", interval.stderr);
    assert!(
        interval.method.contains("over samples within each of 3 strata (n - 1 of n)"),
        "{}",
        interval.method
    );

    // The same of two systems: the differences of the second are the scores of a third.
    let better: Vec<Vec<f64>> =
        strata.iter().map(|scores| scores.iter().map(|s| 1.0 - s).collect()).collect();
    let better: Vec<&[f64]> = better.iter().map(Vec::as_slice).collect();
    let measured = |strata: &[&[f64]]| {
        let sample = |(place, &score): (usize, &f64)| SampleScore {
            id: place.to_string(),
            extracted: None,
            score: Ok(score),
        };
        let samples = strata.concat().iter().enumerate().map(sample).collect();
        Measurement::of_tally("macro", "as is", samples, mean_of_means(strata))
    };
    let found = compare(&measured(&strata), &measured(&better), &bootstrap).unwrap();
    let change: Vec<Vec<f64>> =
        strata.iter().map(|scores| scores.iter().map(|s| 1.0 - 2.0 * s).collect()).collect();
    let change: Vec<&[f64]> = change.iter().map(Vec::as_slice).collect();
    let expected = bootstrap.interval(&mean_of_means(&change)).unwrap().unwrap();
    assert_close(found.ci95.unwrap()[0], expected.low, "lower end");
    assert_close(found.ci95.unwrap()[1], expected.high, "upper end");
    assert!(found.method.contains("within each of 3 strata"), "{}", found.method);
}

#[test]
fn a_stratum_of_one_sample_gives_no_interval() {
    let tally = mean_of_means(&[&[1.0, 0.0, 1.0], &[0.0]]);
    assert_eq!(Bootstrap::default().interval(&tally).unwrap(), None);
    let measurement = Measurement::of_tally("macro", "as is", Vec::new(), tally);
    let record = Record::new(&Run::default(), &measurement, &Bootstrap::default(), 0.0).unwrap();
    assert_eq!((record.stderr, record.ci95), (None, None));
    assert!(record.ci_method.starts_with("none: a stratum of a single sample"), "{}", record.ci_method);
    // A single stratum is no stratum, and clusters across strata are drawn whole.
    let alone = Tally::mean_of(&ANSWERS);
    assert_eq!(
        Bootstrap::default().interval(&alone.clone().stratified(&[4; 10])).unwrap(),
        Bootstrap::default().interval(&alone).unwrap()
    );
    let across = mean_of_means(&[&[1.0, 0.0], &[0.0, 1.0]]).clustered(&[0, 1, 0, 1]);
    let method = Bootstrap::default().interval(&across).unwrap().unwrap().method;
    assert!(method.contains("over clusters of samples, "), "{method}");
}
