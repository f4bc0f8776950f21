"""Triton kernels: device code only. Launchers are in ``scotoma.kernels.launch``.

Nothing imports this package before a Triton backend is chosen, so that scotoma works without
Triton.

Every kernel sees an activation [N,C,H,W] as a matrix of N*H*W rows (one spatial position of one
image each) and C columns, in either memory format, and works on tiles [BLOCK_M rows,
BLOCK_C channels]. Arithmetic is float32. A branch is a tuple of pointers with the names of
``scotoma.kernels.operator.Branch``; what there is no tensor for is None.

The compiler sees all of a function: code after a ``return`` inside an ``if`` would be compiled
too, so that there is one ``return``, at the end.
"""
