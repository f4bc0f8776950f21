"""On an NVIDIA GPU: graphs, streams, the compiler, export, autocast; nobody waits for the host."""

import copy
from contextlib import contextmanager

import pytest
import torch
from norm_layers import (
    DEVICE,
    Norm,
    activation,
    away_from_relus_corner,
    buffers,
    close,
    layer,
    same,
    step,
)
from scotoma.kernels import bn_mask_add_relu

pytestmark = pytest.mark.gpu
ADDEND = pytest.mark.parametrize("addend", ["none", "residual", "projection"])
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True, scope="module")
def exact_float32():
    """TF32 has float16's precision; float32 is compared as float32 here."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@TRAINING
@ADDEND
@HALF
def test_cuda_graphs(addend, training, dtype):
    """Forward and backward captured once, replayed on new data: the same bits as in eager mode."""
    module = Norm(addend).to(DEVICE).train(training)
    fresh = copy.deepcopy(module.state_dict())
    inputs = [activation(1, dtype), activation(2, dtype)]
    upstream = activation(3, dtype).detach()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step(module, inputs, upstream)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = step(module, inputs, upstream)
    for seed in (10, 20):
        with torch.no_grad():
            for offset, tensor in enumerate((*inputs, upstream)):
                tensor.copy_(activation(seed + offset, dtype))
        module.load_state_dict(fresh)
        graph.replay()
        replayed = [None if t is None else t.clone() for t in captured] + buffers(module)
        module.load_state_dict(fresh)
        same(replayed, step(module, inputs, upstream) + buffers(module))


@contextmanager
def no_waiting():
    """Whatever waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@TRAINING
@ADDEND
def test_no_step_waits_for_the_device(addend, training):
    module = Norm(addend).to(DEVICE).train(training)
    inputs, upstream = [activation(1), activation(2)], activation(3).detach()
    step(module, inputs, upstream)  # compiles
    with no_waiting():
        step(module, inputs, upstream)


def test_a_momentum_on_the_device_is_not_fetched():
    x, momentum = activation(1), torch.tensor(0.25, device=DEVICE)
    statistics = torch.zeros(24, device=DEVICE), torch.ones(24, device=DEVICE)

    def call():
        bn_mask_add_relu(
            x, None, None, *statistics, training=True, momentum=momentum, backend="triton"
        )

    call()
    with no_waiting():
        call()


def test_streams_do_not_disturb_each_other():
    """Nothing is shared between calls: two streams at once give what each gives alone."""
    shape = (64, 64, 32, 32)
    modules = [Norm("residual", 64, 32).to(DEVICE) for _ in range(2)]
    data = [[activation(10 * i + k, torch.bfloat16, shape) for k in range(3)] for i in range(2)]
    alone = [step(m, d[:2], d[2].detach()) + buffers(m) for m, d in zip(modules, data, strict=True)]
    for module in modules:
        module.mean0.zero_(), module.var0.fill_(1)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    found = [None, None]
    for _ in range(5):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                modules[i].mean0.zero_(), modules[i].var0.fill_(1)
                found[i] = step(modules[i], data[i][:2], data[i][2].detach()) + buffers(modules[i])
    torch.cuda.synchronize()
    for one, other in zip(found, alone, strict=True):
        same(one, other)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@TRAINING
@ADDEND
def test_compiled(addend, training, mode):
    """In one graph; several steps, as reduce-overhead records its CUDA graph at the second.

    The difference allowed is that of the compiler's own convolutions and sums in float32.
    """
    torch.compiler.reset()
    plain = layer(addend).train(training)
    compiled = copy.deepcopy(plain)
    run = torch.compile(compiled, fullgraph=True, mode=mode)
    upstream = activation(3).detach()
    for seed in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        x = activation(seed)
        grad = away_from_relus_corner(plain, x, upstream, 1e-3)
        out = run(x)
        grads = torch.autograd.grad(out, [x, *compiled.parameters()], grad, allow_unused=True)
        found = [None if t is None else t.clone() for t in (out.detach(), *grads)]
        close(found, step(plain, [x], grad), 1e-4)
        close(buffers(compiled), buffers(plain), 1e-4)


def test_reduce_overhead_uses_cuda_graphs():
    """Running statistics are updated outside the operators, so that Inductor may capture them."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    module = layer("residual")
    run = torch.compile(module, fullgraph=True, mode="reduce-overhead")
    for seed in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        run(activation(seed).detach()).sum().backward()
        module.zero_grad()
    assert counters["inductor"]["cudagraph_skips"] == 0


@HALF
@ADDEND
def test_autocast(addend, dtype):
    """Convolutions compute in half precision, parameters and statistics stay float32.

    Eager rounds four times where the kernels round once, each by at most half a unit.
    """
    unit = torch.finfo(dtype).eps
    ours = layer(addend)
    eager = copy.deepcopy(ours)
    eager.norm.backend = "eager"
    x = activation(1)
    upstream = away_from_relus_corner(ours, x, activation(3, dtype).detach(), 16 * unit)
    results = []
    for module in (ours, eager):
        with torch.autocast("cuda", dtype):
            found = step(module, [x], upstream)
        assert found[0].dtype == dtype
        assert all(g is None or g.dtype == torch.float32 for g in found[1:])
        results.append(found)
    close(*results, 4 * unit)


def test_gradient_scaler():
    """Scaled float16 gradients are those of float32; a step with an infinity is left out."""
    scaled, plain = layer("residual"), layer("residual")
    optimizer = torch.optim.SGD(scaled.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    x = activation(1).detach()
    with torch.autocast("cuda", torch.float16):
        loss = scaled(x).float().square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    plain(x).square().mean().backward()
    grads = [[p.grad for p in m.parameters() if p.grad is not None] for m in (scaled, plain)]
    close(*grads, 4 * 2**-10 + 2**-5)
    scaler.step(optimizer)
    scaler.update()
    before = [p.detach().clone() for p in scaled.parameters()]
    optimizer.zero_grad()
    with torch.autocast("cuda", torch.float16):
        loss = scaled(x * float("inf")).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    same(list(scaled.parameters()), before)
    assert scaler.get_scale() == 2.0**9
