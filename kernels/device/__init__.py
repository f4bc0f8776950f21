"""Triton kernels: device code only. Launchers are in ``scotoma.kernels.launch``.

Nothing imports this package before a Triton backend is chosen, so that scotoma works without
Triton.

Every kernel sees an activation [N,C,H,W] as a matrix of N*H*W rows (one spatial position of one
image each) and C columns, in either memory format, and works on tiles [BLOCK_M rows,
BLOCK_C channels]. Arithmetic is float32. Optional pointers are None where there is no such tensor.
"""
