"""Attacks and evaluations of trained networks on data sets: what the commands do."""
