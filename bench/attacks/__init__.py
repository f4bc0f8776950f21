"""Attacks beside those of foolbox: the same networks, images and budgets, in turns."""
