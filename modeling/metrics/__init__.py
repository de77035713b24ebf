"""The scores of the three tasks for NumPy arrays; `docs/metrics.md` has the formulas."""

from __future__ import annotations

from modeling.metrics.scores import (
    Scores,
    circle_scores,
    foreground_scores,
    mosaic_scores,
    overall_values,
)

__all__ = ["Scores", "circle_scores", "foreground_scores", "mosaic_scores", "overall_values"]
