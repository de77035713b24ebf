"""Training: batches in order, steps of the optimiser, evaluation on val; alone or on many
devices.
"""
