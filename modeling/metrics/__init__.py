"""Every score of the three tasks as functions of NumPy arrays, by the formulas of
`docs/metrics.md`.
"""

from __future__ import annotations

from modeling.metrics.scores import (
    Scores,
    circle_scores,
    foreground_scores,
    mosaic_scores,
    overall_values,
)

__all__ = ["Scores", "circle_scores", "foreground_scores", "mosaic_scores", "overall_values"]
