"""``scotoma doctor``: what of scotoma works on this machine, and how to mend the rest.

A check is a function that yields ``Line``s (``line``), listed in ``CHECKS`` of ``command``.
"""
