"""Measurements: of speed so far; the paper's tables are to come."""
