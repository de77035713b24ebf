"""Records of scores: of predictions, of trivial baselines, and beside the reference."""
