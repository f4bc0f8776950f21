"""What a call costs, counted: kernel launches, and bytes kept for backward."""

from functools import partial

import pytest
import torch
from launches import launches
from layouts import DENSE
from scotoma.kernels import Projection, bn_mask_add_relu
from targets import on_triton

SHAPE = (2, 13, 4, 5)
FORWARD = {True: ["partial_statistics", "merge_statistics"], False: []}
BACKWARD = ["partial_gradients", "merge_gradients", "apply_backward"]
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


class Call:
    """One call with fresh tensors; ``addend`` is none, residual or projection."""

    def __init__(self, target, addend, *, dtype=torch.float32, layout="channels_last", frozen=()):
        def activation():
            x = torch.randn(SHAPE).to(target.device, dtype)
            return x.contiguous(memory_format=DENSE[layout]).requires_grad_()

        def vector():
            return torch.rand(SHAPE[1], device=target.device) + 0.5

        def branch():
            mask = torch.rand(SHAPE[1:], device=target.device) < 0.5
            affine = [vector().requires_grad_("affine" not in frozen) for _ in range(2)]
            return activation(), *affine, vector(), vector(), mask

        self.backend = target.backend
        self.main = branch()
        self.residual = activation() if addend == "residual" else None
        self.projection = Projection(*branch()) if addend == "projection" else None
        self.main[0].requires_grad_("x" not in frozen)

    def __call__(self, training, **options):
        return bn_mask_add_relu(
            *self.main[:5],
            mask=self.main[5],
            residual=self.residual,
            projection=self.projection,
            training=training,
            backend=self.backend,
            **options,
        )


def counted_backward(out):
    with launches() as names:
        out.backward(torch.randn_like(out))
    return names


@on_triton
@TRAINING
@pytest.mark.parametrize("addend", ["none", "residual", "projection"])
def test_launches(target, training, addend):
    """Each launch serves both branches; backward reduces in evaluation for weight and bias."""
    call = Call(target, addend)
    with launches() as names:
        out = call(training)
    assert names == [*FORWARD[training], "apply_forward"]
    assert counted_backward(out) == BACKWARD


@on_triton
def test_launches_without_grad_mode(target):
    call = Call(target, "residual")
    with torch.no_grad(), launches() as names:
        call(False)
    assert names == ["apply_forward"]


@on_triton
def test_backward_does_only_what_is_wanted(target):
    """Frozen parameters in evaluation need no reduction, a lone bias no pass over x."""
    frozen = Call(target, "none", frozen=("affine",))
    assert counted_backward(frozen(False)) == ["apply_backward"]
    assert counted_backward(frozen(True)) == BACKWARD
    affine = Call(target, "none", frozen=("x",))
    assert counted_backward(affine(True)) == BACKWARD[:2]
    only_residual = Call(target, "residual", frozen=("x", "affine"))
    assert counted_backward(only_residual(True)) == ["apply_backward"]
    assert counted_backward(only_residual(True, relu=False)) == []


def saved_by(function):
    """The tensors that autograd keeps, and the result."""
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function()
    return saved, out


@on_triton
@TRAINING
@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "no relu"])
@pytest.mark.parametrize("addend", ["none", "residual", "projection"])
def test_saved_bytes(target, training, layout, relu, addend):
    """x, the mask, vectors, and for a residual under ReLU one bit for each element."""
    for dtype in (torch.float32, torch.float16):
        call = Call(target, addend, dtype=dtype, layout=layout)
        saved, out = saved_by(partial(call, training, relu=relu))
        n, channels, height, width = SHAPE
        branches = [call.main] if addend != "projection" else [call.main, call.projection]
        allowed = sum(b[0].nbytes + b[5].nbytes for b in branches)
        allowed += len(branches) * 4 * channels * 4  # weight, bias, mean, variance in float32
        if addend == "residual" and relu:
            allowed += n * height * width * -(-channels // 8)
        sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
        assert sum(sizes.values()) == allowed
        # No copy of x either: the very storages that the caller holds.
        for branch in branches:
            assert branch[0].untyped_storage().data_ptr() in sizes
        for other in (out, call.residual):
            assert other is None or other.untyped_storage().data_ptr() not in sizes


@on_triton
def test_nothing_is_saved_without_grad_mode(target):
    call = Call(target, "residual")
    with torch.no_grad():
        saved, out = saved_by(lambda: call(True))
    assert saved == [] and out.grad_fn is None


@on_triton
def test_the_graph_dies_with_its_output(target):
    """No reference cycle keeps activations until the next collection."""
    import gc
    import weakref

    call = Call(target, "projection")
    gc.disable()
    try:
        out = call(True)
        node = weakref.ref(out.grad_fn)
        del out
        assert node() is None
    finally:
        gc.enable()
