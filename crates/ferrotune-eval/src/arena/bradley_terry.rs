use std::collections::BTreeMap;

use super::{Battle, SCALE};
use crate::{
    Error, Result,
    statistics::{Bootstrap, percentile},
};

/// Newton's method ends when no strength moves by more than this, in units of 400 / ln 10 points.
const CONVERGED: f64 = 1e-12;
/// It takes about ten steps; more mean that something is wrong.
const MOST_STEPS: usize = 200;
/// The mean of the ratings.
const CENTRE: f64 = 1000.0;

/// A player's rating.
#[derive(Clone, Debug, PartialEq)]
pub struct BradleyTerry {
    /// The player.
    pub model: String,
    /// Points; the mean over players is 1000, and 400 points are a factor of ten in the odds.
    pub rating: f64,
    /// 95 % interval over resampled battles; absent if some draw had no unique ratings.
    pub ci95: Option<[f64; 2]>,
    /// 1 more than the number of players whose interval lies above this one's; absent without intervals.
    pub rank: Option<usize>,
}

/// Maximum-likelihood ratings of the Bradley-Terry model, a tie counting as half a win for each side; in order of
/// falling rating.
///
/// They exist only if every split of the players into two groups has wins (or ties) in both directions. Otherwise the
/// likelihood has no maximum, and instead of numbers that depend on when an optimizer gave up there is an error that
/// names the players.
///
/// The interval is a percentile bootstrap over battles. *Source*: Hunter 2004 for existence; FastChat's
/// `rating_systems.py` for scale and ranks.
///
/// # Errors
/// [`Error::Unidentifiable`] for a disconnected or one-sided comparison graph, or without battles;
/// [`Error::Setting`] for a bootstrap out of range.
///
/// ```
/// use ferrotune_eval::{arena::{Battle, Winner, bradley_terry}, statistics::Bootstrap};
/// let win = |a, b| Battle::new(a, b, Winner::A);
/// let ratings = bradley_terry(&[win("x", "y"), win("x", "y"), win("x", "y"), win("y", "x")], &Bootstrap::default())?;
/// assert!((ratings[0].rating - ratings[1].rating - 400.0 * 3.0_f64.log10()).abs() < 1e-9);
/// # Ok::<(), ferrotune_eval::Error>(())
/// ```
pub fn bradley_terry(battles: &[Battle], bootstrap: &Bootstrap) -> Result<Vec<BradleyTerry>> {
    bootstrap.check()?;
    let mut models: Vec<&str> =
        battles.iter().flat_map(|b| [b.model_a.as_str(), b.model_b.as_str()]).collect();
    models.sort_unstable();
    models.dedup();
    let place: BTreeMap<&str, usize> = models.iter().copied().zip(0..).collect();
    let results: Vec<Outcome> = battles
        .iter()
        .map(|b| Outcome {
            a: place[b.model_a.as_str()],
            b: place[b.model_b.as_str()],
            score: b.winner.score(),
        })
        .collect();
    let ratings = fit(&Wins::of(models.len(), results.iter().copied()))
        .map_err(|problem| Error::Unidentifiable { reason: problem.describe(&models) })?;
    let draws = Bootstrap { confidence: 0.95, ..*bootstrap }.draws(results.len(), |indices| {
        fit(&Wins::of(models.len(), indices.iter().map(|&i| results[i]))).ok()
    });
    let draws: Option<Vec<Vec<f64>>> = draws.into_iter().collect();
    let intervals: Option<Vec<[f64; 2]>> = draws.map(|draws| {
        let of_model = |i: usize| {
            let mut values: Vec<f64> = draws.iter().map(|ratings| ratings[i]).collect();
            values.sort_unstable_by(f64::total_cmp);
            [percentile(&values, 0.025), percentile(&values, 0.975)]
        };
        (0..models.len()).map(of_model).collect()
    });
    let rank = |i: usize| {
        let intervals = intervals.as_ref()?;
        Some(1 + intervals.iter().filter(|other| other[0] > intervals[i][1]).count())
    };
    let mut table: Vec<BradleyTerry> = models
        .iter()
        .enumerate()
        .map(|(i, model)| BradleyTerry {
            model: (*model).to_owned(),
            rating: ratings[i],
            ci95: intervals.as_ref().map(|intervals| intervals[i]),
            rank: rank(i),
        })
        .collect();
    table.sort_by(|a, b| b.rating.total_cmp(&a.rating));
    Ok(table)
}

#[derive(Clone, Copy)]
struct Outcome {
    a: usize,
    b: usize,
    score: f64,
}

/// `won[i][j]`: how often i won against j, ties as halves.
struct Wins {
    won: Vec<Vec<f64>>,
}

impl Wins {
    fn of(players: usize, outcomes: impl Iterator<Item = Outcome>) -> Self {
        let mut won = vec![vec![0.0; players]; players];
        for Outcome { a, b, score } in outcomes {
            won[a][b] += score;
            won[b][a] += 1.0 - score;
        }
        Self { won }
    }

    fn players(&self) -> usize {
        self.won.len()
    }

    /// The players that can be reached from the first along wins, or along losses.
    fn reached(&self, wins: bool) -> Vec<bool> {
        let mut reached = vec![false; self.players()];
        let mut waiting = vec![0];
        reached[0] = true;
        while let Some(i) = waiting.pop() {
            for (j, reached) in reached.iter_mut().enumerate() {
                let edge = if wins { self.won[i][j] } else { self.won[j][i] };
                if edge > 0.0 && !*reached {
                    *reached = true;
                    waiting.push(j);
                }
            }
        }
        reached
    }
}

enum Problem {
    NoBattles,
    /// These players never lose, not even half, against the others, or never win.
    OneSided {
        group: Vec<usize>,
        always: &'static str,
    },
    /// These players never meet the others.
    Apart {
        group: Vec<usize>,
    },
    /// The optimizer did not converge, which the conditions above rule out but for overflow.
    NotConverged,
}

impl Problem {
    fn describe(&self, models: &[&str]) -> String {
        let names = |group: &[usize]| {
            group.iter().map(|&i| format!("`{}`", models[i])).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::NoBattles => "there are no battles".to_owned(),
            Self::OneSided { group, always } => {
                format!("{} {always} every battle against the others", names(group))
            }
            Self::Apart { group } => format!("{} never met the others", names(group)),
            Self::NotConverged => "the maximum of the likelihood was not found".to_owned(),
        }
    }
}

fn check(wins: &Wins) -> Result<(), Problem> {
    if wins.players() == 0 {
        return Err(Problem::NoBattles);
    }
    let group = |reached: &[bool], inside: bool| -> Vec<usize> {
        (0..reached.len()).filter(|&i| reached[i] == inside).collect()
    };
    let (down, up) = (wins.reached(true), wins.reached(false));
    let met = |i: usize, j: usize| wins.won[i][j] + wins.won[j][i] > 0.0;
    let apart =
        |inside: &[usize], outside: &[usize]| !inside.iter().any(|&i| outside.iter().any(|&j| met(i, j)));
    for (reached, inside_always) in [(&down, "lost"), (&up, "won")] {
        if reached.iter().all(|&r| r) {
            continue;
        }
        // Nobody inside the reached set has won (or lost) against anybody outside it.
        let (inside, outside) = (group(reached, true), group(reached, false));
        return Err(if apart(&inside, &outside) {
            Problem::Apart { group: outside }
        } else if outside.len() < inside.len() {
            let outside_always = if inside_always == "lost" { "won" } else { "lost" };
            Problem::OneSided { group: outside, always: outside_always }
        } else {
            Problem::OneSided { group: inside, always: inside_always }
        });
    }
    Ok(())
}

/// Ratings with mean 1000. The log-likelihood is concave, so Newton's method on strengths that sum to zero finds its
/// maximum; a step that lowers it is halved.
fn fit(wins: &Wins) -> Result<Vec<f64>, Problem> {
    check(wins)?;
    let n = wins.players();
    let mut strength = vec![0.0; n];
    for _ in 0..MOST_STEPS {
        let (gradient, hessian) = derivatives(wins, &strength);
        let step = solve(hessian, gradient).ok_or(Problem::NotConverged)?;
        let before = log_likelihood(wins, &strength);
        let moved =
            |scale: f64| -> Vec<f64> { strength.iter().zip(&step).map(|(s, d)| s + scale * d).collect() };
        let mut scale = 1.0;
        while log_likelihood(wins, &moved(scale)) < before - 1e-9 * before.abs() && scale > 1e-6 {
            scale /= 2.0;
        }
        strength = moved(scale);
        if step.iter().all(|d| d.abs() < CONVERGED.max(1e-14 * n as f64)) {
            let mean = strength.iter().sum::<f64>() / n as f64;
            let points = SCALE / std::f64::consts::LN_10;
            return Ok(strength.iter().map(|s| CENTRE + points * (s - mean)).collect());
        }
    }
    Err(Problem::NotConverged)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn log_likelihood(wins: &Wins, strength: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (i, row) in wins.won.iter().enumerate() {
        for (j, &won) in row.iter().enumerate() {
            if won > 0.0 {
                let x = strength[i] - strength[j];
                // ln sigmoid(x), without overflow on either side.
                sum += won * (x.min(0.0) - (-x.abs()).exp().ln_1p());
            }
        }
    }
    sum
}

/// The gradient, and the negated Hessian with ones added everywhere, which fixes the sum of the strengths and makes it
/// invertible without changing the solution.
fn derivatives(wins: &Wins, strength: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = wins.players();
    let mut gradient = vec![0.0; n];
    let mut hessian = vec![vec![1.0; n]; n];
    for i in 0..n {
        for j in 0..n {
            let games = wins.won[i][j] + wins.won[j][i];
            if games > 0.0 && i != j {
                let p = sigmoid(strength[i] - strength[j]);
                gradient[i] += wins.won[i][j] - games * p;
                hessian[i][i] += games * p * (1.0 - p);
                hessian[i][j] -= games * p * (1.0 - p);
            }
        }
    }
    (gradient, hessian)
}

/// Gaussian elimination with pivoting; `None` for a singular matrix.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let n = right.len();
    for column in 0..n {
        let pivot =
            (column..n).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        if matrix[pivot][column].abs() < f64::MIN_POSITIVE {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let (top, below) = matrix.split_at_mut(column + 1);
        let top = &top[column];
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[column] / top[column];
            row.iter_mut().zip(top).skip(column).for_each(|(x, t)| *x -= factor * t);
            right[column + 1 + offset] -= factor * right[column];
        }
    }
    let mut solution = vec![0.0; n];
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| matrix[row][k] * solution[k]).sum();
        solution[row] = (right[row] - known) / matrix[row][row];
    }
    Some(solution)
}
