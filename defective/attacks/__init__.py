"""Attacks on pixels in [0,1]."""

from .pgd import pgd

__all__ = ["pgd"]
