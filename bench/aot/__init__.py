"""``scotoma bench aot``: compile every kernel that we ship, ahead of time and without a GPU.

``cases`` runs the real launchers on meta tensors, ``record`` catches what they would launch,
``measure`` compiles it and reads the machine code, ``budget`` compares with ``budget.json``, and
``command`` is the command line. Only ``record`` and ``measure`` import Triton.
"""
