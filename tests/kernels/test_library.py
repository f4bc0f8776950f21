"""The registered operators: torch's own checks of them, and graphs that contain them."""

import copy

import pytest
import torch
from bn_blocks import SHAPE, Block, close, gradients, inputs, leaves, pair
from launches import launches
from layouts import LAYOUTS, MASK_LAYOUTS, laid_out, mask_laid_out
from products import pairwise, slow
from scotoma.kernels import Projection, apply_mask, backends, bn_mask_add_relu, library
from scotoma.kernels.reference import Branch, Settings
from targets import on_triton
from torch import nn

OPS = torch.ops.scotoma
ADDENDS = ["none", "residual", "projection"]
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
SETTINGS = pairwise("addend, training, relu", ADDENDS, [True, False], [True, False])


def arguments(target, addend, training, relu=True, layouts=None, dtype=torch.float32):
    """Of the forward operator, in its order. layouts: of x, and of residual or the other x."""
    layouts = iter(layouts or ["channels_last"] * 2)
    generator = torch.Generator().manual_seed(0)

    def branch():
        x = torch.randn(2, 5, 3, 4, generator=generator).to(target.device, dtype)
        vectors = [torch.rand(5, generator=generator).to(target.device) + 0.5 for _ in range(4)]
        mask = torch.rand(5, 3, 4, generator=generator).to(target.device) < 0.6
        leaves = [laid_out(x, next(layouts)), *vectors[:2]]
        return [*(t.requires_grad_() for t in leaves), *vectors[2:], mask]

    main, other = branch(), branch()
    residual = other[0] if addend == "residual" else None
    other = other if addend == "projection" else [None] * 6
    save_bits = relu and addend == "residual"
    return (*main, *other, residual, relu, training, 1e-5, save_bits)


# What differs between the combinations is which tensors exist, and so what is registered.
COMBINATIONS = [
    ("none", True, True),
    ("residual", True, True),
    ("projection", True, True),
    ("residual", False, False),
    ("projection", False, True),
]


@on_triton
@pytest.mark.parametrize("addend, training, relu", COMBINATIONS, ids=str)
def test_opcheck_forward(target, addend, training, relu):
    # Half precision, and the contiguous format, beside the other where they change what is saved.
    half = addend == "residual" and training
    options = {"layouts": ["contiguous"] * 2, "dtype": target.half} if half else {}
    given = arguments(target, addend, training, relu, **options)
    torch.library.opcheck(OPS.bn_mask_add_relu.default, given)


@pytest.fixture(params=["kernels", "definition"])
def implementation(request, monkeypatch):
    """What runs the operators: a graph made on a GPU may run where there is none."""
    if request.param == "definition":
        monkeypatch.setattr(backends, "why_not_triton", lambda *activations: "asked for")


def strides_of_fakes_agree(operator, given):
    torch.library.opcheck(operator.default, given, test_utils="test_faketensor")


@on_triton
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_in_every_layout(target, layout, implementation):
    """The compiler trusts the strides of fake outputs, forward and backward."""
    following = LAYOUTS[LAYOUTS.index(layout) - 1]
    for addend, training, relu, other in (
        ("residual", True, True, layout),
        ("projection", True, False, following),
        ("residual", False, False, following),
    ):
        layouts = layout, other
        given = arguments(target, addend, training, relu, layouts)
        strides_of_fakes_agree(OPS.bn_mask_add_relu, [detached(t) for t in given])
        wanted = [True] * 3 + [addend == "residual"] + [addend == "projection"] * 3
        given = backward_arguments(target, addend, training, relu, wanted, layouts)
        given = (laid_out(given[0], other), *given[1:])
        strides_of_fakes_agree(OPS.bn_mask_add_relu_backward, given)
    x = laid_out(torch.randn(2, 5, 3, 4, device=target.device), layout)
    for mask in MASK_LAYOUTS:
        mask = mask_laid_out(torch.ones(5, 3, 4, dtype=torch.bool, device=target.device), mask)
        strides_of_fakes_agree(OPS.apply_mask, (x, mask))


@on_triton
@pytest.mark.parametrize("shape", [(2, 1, 3, 4), (2, 5, 1, 1), (1, 1, 1, 3)], ids=str)
def test_strides_of_shapes_that_have_both_formats(target, shape, implementation):
    x = torch.randn(shape, device=target.device)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.expand(shape)):
        vectors = [torch.ones(shape[1], device=target.device) for _ in range(4)]
        branch = (given, *vectors, None)
        options = (given, True, True, 1e-5, True)
        strides_of_fakes_agree(OPS.bn_mask_add_relu, (*branch, *[None] * 6, *options))


VIEWS = {
    "channels": lambda x: x[:, :8],
    "transposed": lambda x: x.transpose(2, 3),
    "crop": lambda x: x[:, :, 1:-1, 2:],
    "expanded": lambda x: x[:1].expand(x.shape),
    "permuted": lambda x: x.permute(0, 2, 1, 3),
    "every second image": lambda x: x[::2],
}


@on_triton
@pytest.mark.parametrize("name", ["transposed", *(slow(v) for v in VIEWS if v != "transposed")])
def test_views_compiled_by_inductor(target, name):
    """Forward and backward of a view equal eager mode's; a wrong fake stride is an error there."""
    torch.compiler.reset()
    torch.manual_seed(0)
    x, view = torch.randn(4, 16, 8, 8, device=target.device), VIEWS[name]
    channels = view(x).shape[1]
    weight = torch.rand(channels, device=target.device) + 0.5
    mask = torch.rand(view(x).shape[1:], device=target.device) < 0.5

    def block(x, weight):
        out = bn_mask_add_relu(
            view(x), weight, None, None, None, mask=mask, residual=view(x).sin(), training=True,
            backend=target.backend,
        )  # fmt: skip
        return apply_mask(out.transpose(2, 3), mask.transpose(1, 2), backend=target.backend)

    found = []
    for run in (block, torch.compile(block, fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in (x, weight)]
        out = run(*leaves)
        found.append([out.detach(), *torch.autograd.grad(out.sin().sum(), leaves)])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


def detached(argument):
    return argument.detach() if isinstance(argument, torch.Tensor) else argument


def backward_arguments(target, addend, training, relu, wanted, layouts=None):
    given = [detached(t) for t in arguments(target, addend, training, relu, layouts)]
    out, statistics, bits = OPS.bn_mask_add_relu(*given)
    main, other = given[:6], given[6:12]
    if training:
        main[3:5] = statistics[0].unbind()
        if addend == "projection":
            other[3:5] = statistics[1].unbind()
    bits = bits if given[-1] else None
    return (torch.randn_like(out), *main, *other, bits, relu, training, 1e-5, wanted)


@on_triton
@pytest.mark.parametrize("addend, training, relu", COMBINATIONS, ids=str)
def test_opcheck_backward(target, addend, training, relu):
    """It has no derivative, so autograd's own part is that it says so: see the last test."""
    wanted = [True] * 7 if addend == "projection" else [True, True, True, addend != "none"]
    wanted += [False] * (7 - len(wanted))
    if not relu:
        wanted[1] = False
    torch.library.opcheck(
        OPS.bn_mask_add_relu_backward.default,
        backward_arguments(target, addend, training, relu, wanted),
    )


@on_triton
@SETTINGS
def test_plain_torch_twins(target, addend, training, relu):
    """Where a graph made on a GPU runs without one: the same operators in plain torch."""
    given = [detached(t) for t in arguments(target, addend, training, relu)]
    out, statistics, bits = OPS.bn_mask_add_relu(*given)
    main, other = Branch(*given[:6]), Branch(*given[6:12]) if addend == "projection" else None
    options = Settings(relu, training, 0.0, 1e-5)
    twin = library.eager_forward(main, other, given[12], options, given[-1])
    close([out], [twin.out.double()], roundings=64)
    if training:
        found = [v for b in (twin.main, twin.other) if b for v in (b.mean, b.var)]
        close([statistics], [torch.stack(found).double().view_as(statistics)], roundings=64)
    assert torch.equal(bits, twin.bits) if given[-1] else twin.bits is None
    assert out.stride() == twin.out.stride()

    wanted = [True, True, True, addend == "residual", *[addend == "projection"] * 3]
    upstream, *saved, bits = backward_arguments(target, addend, training, relu, wanted)[:14]
    grads = OPS.bn_mask_add_relu_backward(upstream, *saved, bits, *options[:2], 1e-5, wanted)
    main, other = Branch(*saved[:6]), Branch(*saved[6:]) if other else None
    wanted = library.Gradients(*wanted)
    twins = library.eager_backward(upstream, main, other, bits, options, wanted)
    for grad, twin, wants in zip(grads, twins, wanted, strict=True):
        assert (twin is not None) == wants
        if wants:
            close([grad], [twin.double()], roundings=256)
            assert grad.stride() == twin.stride()


def results(block, x, y, function=None):
    """Output, gradients and running statistics of one step."""
    out = (block if function is None else function)(x, y)
    grads = gradients(out.sin().sum(), leaves(block, x, y))
    return [out.detach(), *grads, *block.running()]


def same(found, expected):
    """The very kernels ran on the very values, so bit for bit; a gradient may be zeros or None.

    Running statistics are updated outside the operator, by other roundings.
    """
    for value, right in zip(found[:-4], expected[:-4], strict=True):
        if value is None or right is None:
            assert (value is None or not value.any()) and (right is None or not right.any())
        else:
            assert torch.equal(value, right)
    close(found[-4:], [t.double() for t in expected[-4:]], roundings=4)


@on_triton
@SETTINGS
def test_compiled(target, addend, training, relu):
    """One graph, forward and backward, in the compiler's own front ends (no code generated)."""
    torch.compiler.reset()
    block, _ = pair(target, training, addend, relu=relu)
    eager = copy.deepcopy(block)
    (x, y), _ = inputs(target)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    same(results(block, x, y, compiled), results(eager, x, y))


@on_triton
@pytest.mark.parametrize("addend", [slow("none"), slow("residual"), "projection"])
def test_compiled_by_inductor(target, addend):
    torch.compiler.reset()
    block, _ = pair(target, True, addend)
    eager = copy.deepcopy(block)
    (x, y), _ = inputs(target)
    same(results(block, x, y, torch.compile(block, fullgraph=True)), results(eager, x, y))


class Network(nn.Module):
    """A convolution before and after: what Inductor really sees."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.block = Block("residual")
        self.last = nn.Conv2d(5, 4, 1)

    def forward(self, x):
        y = self.first(x)
        return self.last(self.block(y, y)).mean((2, 3))


def network(target):
    torch.manual_seed(0)
    net = Network().to(target.device)
    net.block.backend = target.backend
    x = torch.randn(3, 3, *SHAPE[2:]).to(target.device)
    return net, x


@on_triton
def test_a_network_compiled_by_inductor(target):
    """A step of training: loss, gradients and running statistics as without the compiler."""
    torch.compiler.reset()
    net, x = network(target)
    plain = copy.deepcopy(net)
    found, expected = [], []
    for module, call, kept in ((net, torch.compile(net, fullgraph=True), found),
                               (plain, plain, expected)):  # fmt: skip
        loss = call(x).square().sum()
        loss.backward()
        kept += [loss.detach(), *(p.grad for p in module.parameters()), *module.block.running()]
    close(found, [None if t is None else t.double() for t in expected])


@on_triton
def test_compiled_for_another_batch_size(target):
    torch.compiler.reset()
    block, _ = pair(target, True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    compiled(inputs(target, count=1)[0][0])
    eager = copy.deepcopy(block)
    for shape in ((1, *SHAPE[1:]), (7, *SHAPE[1:])):
        x = torch.randn(shape, device=target.device)
        assert torch.equal(compiled(x), eager(x))


@on_triton
@TRAINING
def test_exported(target, training):
    """An exported program contains the operator and updates the buffers."""
    net, x = network(target)
    net.train(training)
    plain = copy.deepcopy(net)
    before = net.block.mean0.clone()
    program = torch.export.export(net, (x,))
    assert "scotoma.bn_mask_add_relu" in str(program.graph)
    module = program.module()
    with torch.no_grad():
        found, expected = module(x), plain(x)
    close([found], [expected.double()])
    buffers = dict(module.named_buffers())
    found = [buffers[f"block.{name}"] for name in ("mean0", "var0")]
    close(found, [b.double() for b in plain.block.running()[:2]], roundings=4)
    assert torch.equal(found[0], before) != training


@on_triton
def test_no_second_derivative_in_a_graph(target):
    """A clear error, not a silent zero."""
    given = arguments(target, "none", True)
    out = OPS.bn_mask_add_relu(*given)[0]
    (grad,) = torch.autograd.grad(out.square().sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="backend='eager'"):
        grad.sum().backward()


@on_triton
def test_autocast(target):
    """After a half-precision convolution the parameters stay float32, as beside torch's."""
    net, x = network(target)
    with torch.autocast(target.device, dtype=target.half):
        y = net.first(x)
        assert y.dtype == target.half
        out = net.block(y, y)
        assert out.dtype == target.half
        loss = net.last(out).float().square().sum()
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.grad is not None)
    double = bn_mask_add_relu(
        y.double(),
        *(v.double() for v in (net.block.weight0, net.block.bias0)),
        None,
        None,
        mask=net.block.mask0,
        residual=y.double(),
        training=True,
        backend="eager",
    )
    close([out], [double], roundings=4 * 2**23 * torch.finfo(target.half).eps)


@on_triton
@TRAINING
@pytest.mark.parametrize("addend", ADDENDS)
def test_functional_gradients(target, addend, training):
    """``torch.func.grad`` runs the kernels; what they cannot do there, the definition does."""
    x, weight, bias, mean, var, mask, *other = arguments(target, addend, training)[:13]
    residual = other.pop()
    running = (None, None) if training else (mean, var)  # changing them is no function
    projection = Projection(*other[:3], *running, other[5]) if addend == "projection" else None

    def loss(backend):
        def run(x, weight, bias):
            out = bn_mask_add_relu(
                x, weight, bias, *running, mask=mask, residual=residual, projection=projection,
                training=training, backend=backend,
            )  # fmt: skip
            return out.sin().sum()

        return run

    given = x.detach(), weight.detach(), bias.detach()
    ours, eager = loss(target.backend), loss("eager")
    with launches() as names:
        grads = torch.func.grad(ours, argnums=(0, 1, 2))(*given)
    assert "apply_backward" in names
    expected = torch.func.grad(eager, argnums=(0, 1, 2))(*given)
    close(list(grads), [g.double() for g in expected])
    with launches() as names:
        batched = torch.func.vmap(ours, in_dims=(0, None, None))(given[0][None], *given[1:])
        _, tangent = torch.func.jvp(lambda bias: ours(*given[:2], bias), given[2:], given[2:])
        hessian = torch.func.hessian(lambda bias: ours(*given[:2], bias))(given[2])
    assert not names
    torch.testing.assert_close(batched[0], eager(*given))
    torch.testing.assert_close(tangent, (expected[2] * given[2]).sum(), rtol=1e-4, atol=1e-4)
    assert hessian.isfinite().all()
