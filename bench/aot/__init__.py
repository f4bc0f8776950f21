"""``scotoma bench aot``: compile every kernel that we ship, ahead of time and without a GPU.

``cases`` calls the operators on meta tensors, ``record`` notes what they would launch, ``code``
compiles it and reads the machine code, ``budget`` compares with ``budget.json``, and ``cli`` is
the command line. Only ``record`` and ``code`` import Triton.
"""
