use ferrotune_eval::{
    Error,
    arena::{Battle, EloConfig, Winner, bradley_terry, online_elo},
    quality_index::{BenchmarkScore, Component, QualityIndex},
    statistics::Bootstrap,
};
use proptest::prelude::*;

use crate::assert_close;

fn battles(of: &[(&str, &str, Winner)]) -> Vec<Battle> {
    of.iter().map(|(a, b, winner)| Battle::new(*a, *b, *winner)).collect()
}

fn example() -> Vec<Battle> {
    use Winner::{A, B, BothBad, Tie};
    battles(&[
        ("A", "B", A),
        ("B", "C", B),
        ("A", "C", Tie),
        ("C", "A", A),
        ("A", "B", A),
        ("B", "A", BothBad),
        ("C", "B", A),
        ("A", "C", A),
        ("B", "C", A),
    ])
}

#[test]
fn online_elo_equals_fastchats() {
    for (k, expected) in [
        (4.0, [1003.9542251395811, 994.2049405956432, 1001.8408342647757]),
        (32.0, [1029.2302493456334, 964.010719136888, 1006.7590315174788]),
    ] {
        let ratings = online_elo(&example(), EloConfig { k, ..EloConfig::default() });
        for (name, expected) in ["A", "B", "C"].into_iter().zip(expected) {
            assert_close(ratings[name], expected, name);
        }
    }
}

/// FastChat's optimizer stops early and is 1.2e-3 points off the maximum here, which scipy's L-BFGS-B at gtol 1e-12 puts
/// at 1084.97534, 1042.68607 and 872.33858.
const OPTIMIZER: f64 = 2e-3;

#[test]
fn bradley_terry_equals_fastchats() {
    let ratings = bradley_terry(&example(), &Bootstrap::default()).unwrap();
    for (found, (model, expected)) in
        ratings.iter().zip([("A", 1084.974115), ("C", 1042.687484), ("B", 872.338401)])
    {
        assert_eq!(found.model, model);
        assert!((found.rating - expected).abs() < OPTIMIZER, "{found:?}");
    }
}

#[test]
fn three_to_one_is_worth_the_logarithm_of_three() {
    let win = |a, b| (a, b, Winner::A);
    let ratings = bradley_terry(
        &battles(&[win("x", "y"), win("y", "x"), win("x", "y"), win("x", "y")]),
        &Bootstrap::default(),
    )
    .unwrap();
    assert_close(ratings[0].rating - ratings[1].rating, 190.84850188786498, "difference");
    assert_close(ratings[0].rating + ratings[1].rating, 2000.0, "sum");
}

#[test]
fn ratings_that_do_not_exist_are_refused_with_the_players() {
    let win = |a, b| (a, b, Winner::A);
    for (of, names) in [
        (vec![], "no battles"),
        (vec![win("x", "y"), win("x", "y"), win("x", "y")], "every battle"),
        (vec![win("x", "y"), win("y", "x"), win("best", "x"), win("best", "y")], "`best` won every battle"),
        (
            vec![win("x", "y"), win("y", "x"), win("x", "worst"), win("y", "worst")],
            "`worst` lost every battle",
        ),
        (vec![win("a", "b"), win("b", "a"), win("c", "d"), win("d", "c")], "`c`, `d` never met the others"),
    ] {
        let error = bradley_terry(&battles(&of), &Bootstrap::default()).unwrap_err();
        assert!(matches!(error, Error::Unidentifiable { .. }));
        assert!(error.to_string().contains(names), "{error}");
    }
}

#[test]
fn intervals_and_ranks_need_every_draw_to_be_identifiable() {
    let win = |a, b| (a, b, Winner::A);
    let mut of = vec![win("strong", "weak"); 90];
    of.extend(vec![win("weak", "strong"); 30]);
    let ratings = bradley_terry(&battles(&of), &Bootstrap::default()).unwrap();
    let [low, high] = ratings[0].ci95.unwrap();
    assert!(low < ratings[0].rating && ratings[0].rating < high);
    assert_eq!(ratings.iter().map(|r| r.rank).collect::<Vec<_>>(), [Some(1), Some(2)]);
    let few = bradley_terry(&battles(&[win("x", "y"), win("y", "x")]), &Bootstrap::default()).unwrap();
    assert!(few.iter().all(|r| r.ci95.is_none() && r.rank.is_none()));
}

#[test]
fn battles_are_read_in_fastchats_spelling() {
    let battle: Battle =
        serde_json::from_str(r#"{"model_a": "x", "model_b": "y", "winner": "tie (bothbad)", "turn": 1}"#)
            .unwrap();
    assert_eq!(battle, Battle::new("x", "y", Winner::BothBad));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// At the maximum of the likelihood every player's expected score equals the score reached.
    #[test]
    fn expected_scores_equal_the_scores_reached(outcomes in prop::collection::vec((0_usize..4, 0_usize..4, 0_u8..3), 8..60)) {
        let battles: Vec<Battle> = outcomes
            .into_iter()
            .filter(|(a, b, _)| a != b)
            .map(|(a, b, w)| Battle::new(a.to_string(), b.to_string(), [Winner::A, Winner::B, Winner::Tie][usize::from(w)]))
            .collect();
        let bootstrap = Bootstrap { resamples: 40, ..Bootstrap::default() };
        if let Ok(ratings) = bradley_terry(&battles, &bootstrap) {
            let rating = |model: &str| ratings.iter().find(|r| r.model == model).unwrap().rating;
            for player in &ratings {
                let (mut reached, mut expected) = (0.0, 0.0);
                for battle in &battles {
                    let p = 1.0 / (1.0 + 10.0_f64.powf((rating(&battle.model_b) - rating(&battle.model_a)) / 400.0));
                    if battle.model_a == player.model {
                        reached += battle.winner.score();
                        expected += p;
                    } else if battle.model_b == player.model {
                        reached += 1.0 - battle.winner.score();
                        expected += 1.0 - p;
                    }
                }
                prop_assert!((reached - expected).abs() < 1e-7, "{} {reached} {expected}", player.model);
            }
        }
    }
}

fn score(name: &str, value: f64, stderr: Option<f64>) -> BenchmarkScore {
    BenchmarkScore { name: name.to_owned(), value, stderr }
}

/// 100 (0.6 + 0.3 + 0.2 + 0.5) / 4 = 40, and its standard error 100 sqrt(4 · 0.01²) / 4 = 0.5.
#[test]
fn the_quality_index_is_what_its_definition_says() {
    let of = |stderr| {
        ["mmlu", "gpqa", "math", "humaneval"]
            .into_iter()
            .zip([0.6, 0.3, 0.2, 0.5])
            .map(move |(n, v)| score(n, v, stderr))
    };
    let known = QualityIndex::mean_of_four().value(&of(Some(0.01)).collect::<Vec<_>>()).unwrap();
    assert_close(known.value, 40.0, "value");
    assert_close(known.stderr.unwrap(), 0.5, "standard error");
    let unknown = QualityIndex::mean_of_four().value(&of(None).collect::<Vec<_>>()).unwrap();
    assert_eq!(unknown.stderr, None);
    // (1250 - 1000) / 500 = 0.5, 0.7, (5.5 - 1) / 9 = 0.5.
    let arena = [score("arena_elo", 1250.0, None), score("mmlu", 0.7, None), score("mt_bench", 5.5, None)];
    let found = QualityIndex::with_arena([1000.0, 1500.0]).value(&arena).unwrap();
    assert_close(found.value, 100.0 * 1.7 / 3.0, "with arena");
    assert!(found.definition.contains("arena_elo from 1000 to 1500"), "{}", found.definition);
}

#[test]
fn a_missing_part_or_a_score_out_of_bounds_is_refused() {
    let index = QualityIndex::mean_of_four();
    let mut scores: Vec<BenchmarkScore> =
        ["mmlu", "gpqa", "math", "humaneval"].map(|name| score(name, 0.5, None)).to_vec();
    scores[0].value = 50.0;
    assert!(index.value(&scores).unwrap_err().to_string().contains("`mmlu`"));
    scores.remove(0);
    match index.value(&scores).unwrap_err() {
        Error::MissingComponent { component, .. } => assert_eq!(component, "mmlu"),
        other => panic!("{other}"),
    }
    let component = |weight, bounds| QualityIndex {
        name: "x".to_owned(),
        components: vec![Component { name: "gpqa".to_owned(), weight, bounds }],
    };
    for wrong in [component(0.0, None), component(1.0, Some([1.0, 0.0])), component(f64::NAN, None)] {
        assert!(matches!(wrong.value(&scores).unwrap_err(), Error::Setting { .. }));
    }
    assert!(QualityIndex { name: "x".to_owned(), components: vec![] }.value(&scores).is_err());
}
