"""Artefacts of a reproduction, what each is made of, and where it is kept."""
