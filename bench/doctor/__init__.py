"""``scotoma doctor``: what of scotoma works on this machine, and how to mend the rest."""
