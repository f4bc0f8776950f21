"""No kernel writes beside its tensors, or reads what it has not written.

The interpreter does not check addresses: a store past the end changes another tensor, or crashes.
"""

import pytest
import torch
from bn_blocks import gradients, leaves, on
from guards import guarded
from layouts import DENSE
from products import pairwise
from targets import on_triton
from tilings import tiling

# Rows and channels that end inside a tile, a byte of bits, a chunk; one value; one pixel.
SHAPES = [(2, 13, 3, 5), (1, 3, 1, 2), (3, 70, 1, 1)]


def run(target, shape, addend, layout, tiles):
    results = []
    for training in (True, False):
        block = on(target, addend, training, channels=shape[1], size=shape[2:])
        x, other = (
            torch.randn(shape).to(target.device, memory_format=DENSE[layout]).requires_grad_()
            for _ in range(2)
        )
        with tiling(tiles):
            out = block(x, other)
            grads = gradients(out, leaves(block, x, other), grad_outputs=out.detach())
        results += [out.detach(), *(g for g in grads if g is not None), *block.running()]
    return results


@on_triton
@pairwise("shape, addend, layout", SHAPES, ["residual", "projection"], DENSE, ids=(str, None, None))
def test_writes_stay_inside(target, shape, addend, layout):
    for tiles in ("real", "many chunks") if shape == SHAPES[0] else ("real",):
        with guarded() as buffers:
            found = run(target, shape, addend, layout, tiles)
        plain = run(target, shape, addend, layout, tiles)
        assert len(buffers) >= 10
        for one, other in zip(found, plain, strict=True):
            assert torch.equal(one, other)  # had memory been read unwritten, the canary would show


@pytest.mark.parametrize("place", [-1, 6])
def test_the_guard_can_fail(place):
    with pytest.raises(AssertionError, match="beside"), guarded():
        tensor = torch.zeros(2, 3).new_empty(2, 3)
        tensor.fill_(1)
        tensor.as_strided((1,), (1,), tensor.storage_offset() + place).fill_(1)
