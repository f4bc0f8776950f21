"""Whole steps of the six networks: training, evaluation and PGD, by different means."""
