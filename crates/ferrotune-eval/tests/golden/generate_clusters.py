"""Writes clusters.json beside it: statsmodels' standard error of a mean and Wilson interval of a share over clusters.

usage: generate_clusters.py, with statsmodels 0.14.5 (see README.md)
"""

import json
import pathlib
import random

import numpy as np
import statsmodels.api as sm
from statsmodels.stats.proportion import proportion_confint


def regression(scores, labels, corrected):
    """The standard error of the constant that is fitted to `scores`, robust to clusters."""
    keywords = {"groups": labels, "use_correction": corrected}
    return float(sm.OLS(scores, np.ones(len(scores))).fit(cov_type="cluster", cov_kwds=keywords).bse[0])


def case(name, clusters):
    scores = np.array([score for cluster in clusters for score in cluster], dtype=float)
    labels = np.array([label for label, cluster in enumerate(clusters) for _ in cluster])
    entry = {"name": name, "clusters": clusters, "stderr": regression(scores, labels, True)}
    share = float(scores.mean())
    if set(scores) <= {0.0, 1.0}:
        # As many independent trials as have the variance of the clusters.
        trials = len(clusters)
        if 0 < share < 1:
            trials = min(share * (1 - share) / regression(scores, labels, False) ** 2, len(scores))
        low, high = proportion_confint(share * trials, trials, alpha=0.05, method="wilson")
        entry["wilson"] = [float(low), float(high)]
    return entry


def drawn(seed, clusters, size):
    """Shares that differ between clusters, so that samples of one cluster are alike."""
    draw = random.Random(seed)
    shares = [draw.random() for _ in range(clusters)]
    return [[int(draw.random() < share) for _ in range(size)] for share in shares]


cases = [
    case("four of each", drawn(1, 198, 4)),
    case("eleven of each", drawn(2, 50, 11)),
    case("of unequal size", [[1, 1, 0], [0], [1, 1], [0, 0, 0, 1], [1], [0, 0]]),
    case("alike within", [[1] * 4, [0] * 4, [0] * 4, [1] * 4, [0] * 4]),
    case("each its own", [[1], [0], [1], [1], [0], [0], [1], [0], [1], [1]]),
    case("balanced within", [[1, 0], [0, 1], [1, 0]]),
    case("all right", [[1, 1, 1]] * 6),
    case("scores that are no shares", [[0.25, 0.5], [1.0, 0.75], [0.125, 0.0], [0.5, 0.5]]),
]
text = ",\n".join(json.dumps(entry) for entry in cases)
pathlib.Path(__file__).with_name("clusters.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")
