"""Calibration: whether predictions are right as often as their confidence says.

`fit_temperature` finds the number by which logits are divided so that they are. `Reliability`
measures how far they are from it. `docs/metrics.md` has the formulas and their sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15  # of equal width, from a confidence of 0 to 1
LEAST, MOST = 0.05, 20.0  # temperatures that are looked for

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def fit_temperature(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Find the temperature that gives logits the least cross-entropy with the true labels.

    `logits`, float (n, K), are divided by it before the softmax (Guo and others, 2017); `labels`
    are integers (n,) below K. Returns a number from LEAST to MOST; 1 for logits that say nothing,
    because there are none or all are equal.

    A share of 1 / (n + 1) of each label is spread over all classes, as Platt (1999) does for two:
    without it, no finite confidence would be high enough for samples that are all right. The
    cross-entropy is convex in 1 / temperature, so its only minimum is found by Newton's method,
    kept within a bracket.

    >>> logits = np.array([[4.0, 0.0]] * 99 + [[0.0, 4.0]])  # 99 of 100 right, and sure of 98.2%
    >>> round(fit_temperature(logits, np.zeros(100, int)), 2)
    0.95
    """
    n = len(logits)
    if not n:
        return 1.0
    scores = np.array(logits.T, np.float64, order="C")  # sums over few classes are fast in columns
    if (scores == scores[:1]).all():
        return 1.0
    spread = 1 / (n + 1)
    scores -= (1 - spread) * scores[labels, np.arange(n)] + spread * scores.mean(0)

    low, high, factor = 1 / MOST, 1 / LEAST, 1.0
    if not _slopes(scores, low)[0] < 0:
        return MOST
    if not _slopes(scores, high)[0] > 0:
        return LEAST
    for _ in range(100):
        first, second = _slopes(scores, factor)
        step = factor - first / second if second > 0 else math.inf
        if abs(step - factor) <= 1e-10 * factor:
            break
        low, high = (factor, high) if first < 0 else (low, factor)
        factor = step if low < step < high else math.sqrt(low * high)
    return 1 / factor


def _slopes(scores: Floats, factor: float) -> tuple[float, float]:
    """Derive the mean of log(sum(exp(factor * scores))) over columns, twice, by the factor.

    With the logits of its label subtracted from each column, (K, n), that is the cross-entropy.
    """
    weights = factor * scores
    weights -= weights.max(0)
    np.exp(weights, out=weights)
    weights /= weights.sum(0)
    weights *= scores
    means = weights.sum(0)
    weights *= scores
    return float(means.mean()), float((weights.sum(0) - means**2).mean())


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predictions counted by their confidence, in BINS bins; two of them can be added.

    A bin has its lower end and not its upper one, except that the last has 1 too. `counts` and
    `right` are int64 (BINS,): predictions, and those that are right. `confidence`, float64 (BINS,),
    are sums, and `loss` is the sum of -log(probability of the true label).
    """

    counts: Integers
    right: Integers
    confidence: Floats
    loss: float

    @classmethod
    def none(cls) -> Reliability:
        """Count no predictions, to begin a sum with."""
        return cls.of(np.empty(0), np.empty(0, bool), np.empty(0))

    @classmethod
    def of(
        cls, confidence: npt.NDArray[Any], right: npt.NDArray[np.bool_], loss: npt.NDArray[Any]
    ) -> Reliability:
        """Count predictions: their confidence from 0 to 1, whether right, and loss, all (n,).

        >>> found = Reliability.of(np.array([0.9, 0.7]), np.array([True, False]), np.zeros(2))
        >>> found.counts.tolist()
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0]
        """
        exact = confidence.astype(np.float64)
        bins = np.minimum((exact * BINS).astype(np.int64), BINS - 1)
        wrong_or_right = np.bincount(bins + BINS * right, minlength=2 * BINS).reshape(2, BINS)
        return cls(
            wrong_or_right.sum(0),
            wrong_or_right[1],
            np.bincount(bins, exact, BINS).astype(np.float64),
            float(loss.sum(dtype=np.float64)),
        )

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.counts + other.counts,
            self.right + other.right,
            self.confidence + other.confidence,
            self.loss + other.loss,
        )

    def record(self) -> dict[str, Any]:
        """Give plain values: n, ece, nll, mean confidence, accuracy, and the same of each bin.

        The expected calibration error is the mean distance of confidence and accuracy in a bin,
        weighted by its predictions. What is undefined without predictions is None.

        >>> found = Reliability.of(np.array([0.9, 0.7]), np.array([True, False]), np.zeros(2))
        >>> round(found.record()["ece"], 3)
        0.4
        """
        n = int(self.counts.sum())
        apart = float(np.abs(self.confidence - self.right).sum())
        return {
            "n": n,
            "ece": apart / n if n else None,
            "nll": self.loss / n if n else None,
            **_means(n, float(self.confidence.sum()), int(self.right.sum())),
            "bins": [
                {"n": count, **_means(count, confidence, right)}
                for count, confidence, right in zip(
                    self.counts.tolist(),
                    self.confidence.tolist(),
                    self.right.tolist(),
                    strict=True,
                )
            ],
        }


def _means(n: int, confidence: float, right: int) -> dict[str, float | None]:
    return {"confidence": confidence / n if n else None, "accuracy": right / n if n else None}
