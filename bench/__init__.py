"""Measurements: of speed, and the tables of the paper."""
