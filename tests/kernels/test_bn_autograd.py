"""Behaviour inside autograd: shared modules, checkpoints, hooks, tracers, forward mode.

The eager definition is plain torch and right by construction here, so it is the reference: in
float64 where numbers are compared.
"""

import pytest
import torch
from bn_blocks import SHAPE, close, gradients, inputs, leaves, pair
from layouts import DENSE, laid_out
from scotoma.kernels import (
    Projection,
    apply_mask,
    autotune,
    bn_mask_add_relu,
    conv_bn_mask_add_relu,
    library,
)
from scotoma.kernels.reference import Branch, Settings
from targets import everywhere, on_triton
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
ADDEND = pytest.mark.parametrize("addend", ["none", "residual", "projection"])


@everywhere
@TRAINING
@ADDEND
def test_two_forwards_before_one_backward(target, training, addend):
    """A module used twice. Peer bug 5 (apex): scratch memory shared by both calls."""
    found = []
    for block, (x, y, z) in zip(
        pair(target, training, addend, relu=addend != "none"), inputs(target, count=3), strict=True
    ):
        first, second = block(x, z), block(y, x)
        loss = (first * second).sum() + second.square().sum()
        found.append(gradients(loss, leaves(block, x, y, z)) + block.running())
    close(*found)


@everywhere
@TRAINING
def test_backward_twice_gives_the_same(target, training):
    """Nothing saved is overwritten by a backward pass."""
    block, _ = pair(target, training, "projection")
    (x, y), _ = inputs(target)
    out = block(x, y)
    upstream = torch.randn_like(out)
    first = gradients(out, leaves(block, x, y), grad_outputs=upstream, retain_graph=True)
    block(y.detach(), x.detach())  # another call in between
    second = gradients(out, leaves(block, x, y), grad_outputs=upstream)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@everywhere
@pytest.mark.parametrize("addend", ["none", "residual"])
def test_sign_is_that_of_the_stored_value(target, addend):
    """A positive value that float16 rounds to 0 is 0 to ReLU, and lets no gradient pass."""
    shape = (2, 2, 2, 2)
    weight = torch.tensor([2.0**-28, 1.0], device=target.device).requires_grad_()
    bias, mean = (torch.zeros(2, device=target.device) for _ in range(2))
    x = torch.ones(shape, device=target.device, dtype=torch.float16)
    residual = torch.zeros_like(x).requires_grad_() if addend == "residual" else None
    out = bn_mask_add_relu(
        x, weight, bias.requires_grad_(), mean, torch.ones_like(mean) - 2.0**-10,
        residual=residual, training=False, eps=2.0**-10, backend=target.backend,
    )  # fmt: skip
    assert torch.equal(out, torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(shape).to(out))
    wanted = [bias] if residual is None else [bias, residual]
    grads = torch.autograd.grad(out, wanted, torch.ones_like(out))
    assert grads[0].tolist() == [0.0, 8.0]
    assert residual is None or torch.equal(grads[1], out.detach())


@everywhere
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(target, reentrant):
    """Forward runs again in backward, and as in torch the running statistics move twice."""
    found = []
    for block, (x, y) in zip(pair(target, True, "residual"), inputs(target), strict=True):
        out = checkpoint(block, x, y, use_reentrant=reentrant)
        out.square().sum().backward()
        grads = [t.grad for t in (x, y, block.weight0, block.bias0)]
        found.append([*grads, block.mean0, block.var0])
    close(*found)
    once, _ = pair(target, True, "residual")
    once(*inputs(target)[0])
    assert not torch.equal(found[0][-2], once.mean0)


@on_triton  # torch's own batch norm uses the new ones silently on a CPU
def test_statistics_changed_between_forward_and_backward(target):
    """Evaluation saves the running statistics: if a later call overwrites them, backward must say
    so, not use the new ones."""
    block, _ = pair(target, False)
    (x, y), _ = inputs(target)
    out = block(x)
    block.train()(y.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@everywhere
@TRAINING
def test_strided_vectors(target, training):
    """Every second entry of longer vectors: those between must not be read or written."""
    results = []
    for step in (1, 2):
        long = [torch.full((3 * step,), f, device=target.device) for f in (-9.0, 9.0, 5.0, 7.0)]
        vectors = [vector[::step] for vector in long]
        for i, vector in enumerate(vectors):
            vector.copy_(torch.arange(1.0, 4.0) / (i + 1))
        x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        x = x.to(target.device).requires_grad_()
        out = bn_mask_add_relu(x, *vectors, training=training, backend=target.backend)
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        results.append([t.detach().double() for t in (out, grad, *vectors)])
        if step == 2:
            assert [vector[1::2].tolist() for vector in long] == [[f] * 3 for f in (-9, 9, 5, 7)]
    close(results[1], results[0], roundings=16)  # torch takes another way through strided vectors


@everywhere
@pytest.mark.parametrize("layout", DENSE)
@TRAINING
def test_gradient_formats(target, layout, training):
    """The gradient that goes into the convolution's backward keeps channels_last as well."""
    block, _ = pair(target, training, "residual")
    (x,), _ = inputs(target, count=1)
    x = laid_out(x.detach(), layout).requires_grad_()
    out = block(x, x)
    for upstream_layout in DENSE:
        upstream = laid_out(torch.ones_like(out), upstream_layout)
        (gradient,) = torch.autograd.grad(out, x, upstream, retain_graph=True)
        assert gradient.is_contiguous(memory_format=DENSE[layout])
    assert out.is_contiguous(memory_format=DENSE[layout])


@on_triton
def test_hooks_see_one_gradient_for_each_input(target):
    """Gradients that autograd accumulates in place must not share memory with each other."""
    block, _ = pair(target, True, "residual", relu=False)
    (x, y), _ = inputs(target)
    upstream = torch.ones(SHAPE, device=target.device)
    out = block(x, y)
    out.backward(upstream)
    out = block(x, y)
    out.backward(upstream)
    assert torch.equal(upstream, torch.ones_like(upstream))
    assert torch.equal(y.grad, 2 * upstream)


@on_triton
@ADDEND
@pytest.mark.parametrize("shifted", [False, True], ids=["contiguous", "misaligned"])
def test_saved_tensors_come_back_otherwise(target, addend, shifted):
    """Hooks promise the same values, not the same strides or address: offloading pinned copies
    makes everything contiguous."""

    def unpack(tensor):
        flat = tensor.new_empty(tensor.numel() + shifted)[shifted:]
        return flat.view(tensor.shape).copy_(tensor)

    generator = torch.Generator().manual_seed(4)
    x, y, upstream = (
        torch.randn(2, 8, 3, 4, generator=generator)
        .to(target.device)
        .contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    )
    mask = (torch.rand(3, 4, 8, generator=generator) < 0.5).to(target.device).permute(2, 0, 1)
    found = []
    for hook in (lambda tensor: tensor, unpack):
        inputs = [x.clone().requires_grad_(), y.clone().requires_grad_()]
        weight = torch.rand(8, generator=torch.Generator().manual_seed(5)).to(target.device)
        branch = inputs[0], weight.requires_grad_(), None, None, None
        others = {
            "none": {},
            "residual": {"residual": inputs[1]},
            "projection": {"projection": Projection(inputs[1], weight, None, None, None, mask)},
        }[addend]
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, hook):
            out = bn_mask_add_relu(*branch, mask=mask, training=True, backend="triton", **others)
        wanted = [inputs[0], weight] + ([] if addend == "none" else inputs[1:])
        found.append(torch.autograd.grad(out, wanted, upstream))
    for one, other in zip(*found, strict=True):
        # Sums in another order, where the format is another.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def carried(target, backend):
    """An input, and operators as functions of it."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, 4, 3, 3, generator=generator).to(target.device)
    vectors = [(torch.rand(4, generator=generator) + 0.5).to(target.device) for _ in range(4)]
    mask = (torch.rand(4, 3, 3, generator=generator) < 0.6).to(target.device)
    kernel = torch.randn(4, 4, 1, 1, generator=generator).to(target.device)

    def normal(training):
        return lambda x: bn_mask_add_relu(
            x, *[v.clone() for v in vectors], mask=mask, residual=x, training=training,
            backend=backend,
        )  # fmt: skip

    return x, {
        "training": normal(True),
        "evaluation": normal(False),
        "mask": lambda x: apply_mask(x, mask, backend=backend),
        # The fused way where it is the one that was measured.
        "convolution": lambda x: conv_bn_mask_add_relu(x, kernel, None, *vectors, mask=mask),
    }


@pytest.fixture
def fused_convolutions(monkeypatch):
    monkeypatch.setattr(autotune, "active", lambda: True)
    monkeypatch.setattr(autotune, "choose", lambda device, key, ways: list(ways)[1])


CARRIED = pytest.mark.parametrize("name", ["training", "evaluation", "mask", "convolution"])


@on_triton
@CARRIED
@pytest.mark.parametrize("enabled", [True, False], ids=["gradients", "no gradients"])
def test_forward_mode_derivatives(target, name, enabled, fused_convolutions):
    """A kernel knows of none, so that the definition has to run, also where gradients are off."""
    found = []
    for backend in ("triton", "eager"):
        x, operators = carried(target, backend)
        with forward_ad.dual_level(), torch.set_grad_enabled(enabled):
            out = operators[name](forward_ad.make_dual(x, x.sin()))
            found.append(forward_ad.unpack_dual(out).tangent)
    assert found[0] is not None
    torch.testing.assert_close(*found)


@on_triton
@CARRIED
def test_batches_of_gradients(target, name):
    x, operators = carried(target, target.backend)
    x.requires_grad_()
    out = operators[name](x)
    upstream = torch.randn(3, *out.shape, device=out.device)

    def gradient(upstream):
        return torch.autograd.grad(out, x, upstream, retain_graph=True)[0]

    expected = torch.stack([gradient(u) for u in upstream])
    (found,) = torch.autograd.grad(out, x, upstream, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found = torch.func.vmap(gradient)(upstream)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@on_triton
@CARRIED
@pytest.mark.filterwarnings("ignore")
def test_recorded_by_a_tracer(target, name, fused_convolutions):
    """``torch.jit.trace``, which is behind the older ONNX export, sees only what is registered."""
    x, operators = carried(target, target.backend)
    with torch.no_grad():
        traced = torch.jit.trace(operators[name], (x,), check_trace=False)
        torch.testing.assert_close(traced(x + 1), operators[name](x + 1), rtol=1e-4, atol=1e-4)


@on_triton
@pytest.mark.parametrize("residual", [False, True], ids=["recomputed", "saved bits"])
@pytest.mark.parametrize("way", ["kernels", "create_graph", "registered"])
def test_infinite_gradients_stop_at_relu(target, residual, way):
    """Where ReLU is 0 the gradient is 0, not 0 * inf, whichever way computes it."""
    # The registered operators compute float64 by the definition.
    dtype = torch.float64 if way == "registered" else torch.float32
    x = torch.tensor([-1.0, 1.0], dtype=dtype, device=target.device).view(1, 1, 1, 2)
    x.requires_grad_()
    vectors = None, None, x.new_zeros(1), x.new_ones(1)
    other = torch.zeros_like(x, requires_grad=True) if residual else None
    if way == "registered":
        settings = Settings(relu=True, training=False, momentum=0.1, eps=1e-5)
        out = library.bn_mask_add_relu(Branch(x, *vectors, None), None, other, settings)
    else:
        out = bn_mask_add_relu(x, *vectors, residual=other, training=False, backend=target.backend)
    wanted = [x, other] if residual else [x]
    upstream = torch.full_like(x, float("inf"))
    for grad in torch.autograd.grad(out, wanted, upstream, create_graph=way == "create_graph"):
        assert grad.flatten().tolist() == [0, float("inf")]
