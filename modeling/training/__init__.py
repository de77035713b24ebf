"""Training: batches in order, steps of the optimiser, evaluation on val; on one or many devices."""
