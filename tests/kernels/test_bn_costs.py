"""What a call costs, counted: kernel launches, and bytes kept for backward."""

from functools import partial

import pytest
import torch
from bn_blocks import on
from launches import launches
from layouts import DENSE
from targets import on_triton

SHAPE = (2, 13, 4, 5)
FORWARD = {True: ["partial_statistics", "merge_statistics"], False: []}
BACKWARD = ["partial_gradients", "merge_gradients", "apply_backward"]
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def call(
    target, addend, training, *, dtype=torch.float32, layout="channels_last", relu=True, frozen=()
):
    """A block, its two inputs, and the function of them."""
    block = on(target, addend, training, relu=relu, channels=SHAPE[1], size=SHAPE[2:])
    x, other = (
        torch.randn(SHAPE).to(target.device, dtype, memory_format=DENSE[layout]).requires_grad_()
        for _ in range(2)
    )
    block.requires_grad_("affine" not in frozen), x.requires_grad_("x" not in frozen)
    return block, x, other, partial(block, x, other)


def counted_backward(out):
    with launches() as names:
        out.backward(torch.randn_like(out))
    return names


@on_triton
@TRAINING
@pytest.mark.parametrize("addend", ["none", "residual", "projection"])
def test_launches(target, training, addend):
    """Each launch serves both branches; backward reduces in evaluation for weight and bias."""
    *_, run = call(target, addend, training)
    with launches() as names:
        out = run()
    assert names == [*FORWARD[training], "apply_forward"]
    assert counted_backward(out) == BACKWARD


@on_triton
def test_backward_does_only_what_is_wanted(target):
    """Frozen parameters in evaluation need no reduction, a lone bias no pass over x."""
    for addend, training, frozen, relu, launched in (
        ("none", False, ["affine"], True, BACKWARD[2:]),
        ("none", True, ["affine"], True, BACKWARD),
        ("none", True, ["x"], True, BACKWARD[:2]),
        ("residual", True, ["x", "affine"], True, BACKWARD[2:]),
        ("residual", True, ["x", "affine"], False, []),
    ):
        *_, run = call(target, addend, training, frozen=frozen, relu=relu)
        assert counted_backward(run()) == launched


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
        options = {"dtype": dtype, "layout": layout, "relu": relu}
        block, x, other, run = call(target, addend, training, **options)
        saved, out = saved_by(run)
        n, channels, height, width = SHAPE
        inputs = [x, other] if addend == "projection" else [x]
        allowed = sum(t.nbytes + block.mask0.nbytes for t in inputs)
        allowed += len(inputs) * 4 * channels * 4  # weight, bias, mean, variance in float32
        if addend == "residual" and relu:
            allowed += n * height * width * -(-channels // 8)
        sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
        assert sum(sizes.values()) == allowed
        # No copy of x either: the very storages that the caller holds.
        assert {t.untyped_storage().data_ptr() for t in inputs} <= sizes.keys()
        for unsaved in (out, *([] if addend == "projection" else [other])):
            assert unsaved.untyped_storage().data_ptr() not in sizes


@on_triton
def test_nothing_is_saved_without_grad_mode(target):
    *_, run = call(target, "residual", False)
    with torch.no_grad(), launches() as names:
        saved, out = saved_by(run)
    assert saved == [] and out.grad_fn is None and names == ["apply_forward"]


@on_triton
def test_the_graph_dies_with_its_output(target):
    """No reference cycle keeps activations until the next collection."""
    import gc
    import weakref

    *_, run = call(target, "projection", True)
    gc.disable()
    try:
        out = run()
        node = weakref.ref(out.grad_fn)
        del out
        assert node() is None
    finally:
        gc.enable()
