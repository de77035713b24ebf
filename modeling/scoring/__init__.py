"""Predictions into records of scores, beside those of trivial baselines and the reference."""
