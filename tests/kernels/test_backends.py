"""Which backend runs: the argument, the environment, and what each refuses."""

import ast
import os
import subprocess
import sys

import pytest
import torch
from layouts import DENSE
from refusals import refused
from scotoma.kernels import (
    Projection,
    apply_mask,
    backends,
    bn_mask_add_relu,
    conv_bn_mask_add_relu,
)
from targets import EAGER, GPU, everywhere, on_triton
from torch._subclasses.fake_tensor import FakeTensorMode

SCRIPT = """
import os, sys, torch

def found():
    import scotoma.kernels

    upper = ("scotoma.defective", "scotoma.train", "scotoma.bench", "torchvision", "triton")
    found = {"import": [m for m in sys.modules if m.startswith(upper)]}
    x = torch.ones(2, 1, 1, 2, requires_grad=True)
    for backend in (None, "eager", "triton"):
        try:
            out = scotoma.kernels.bn_mask_add_relu(
                x, None, None, None, None, training=True, backend=backend
            )
            found[backend] = "triton" if "BNMaskAddReLU" in out.grad_fn.name() else "eager"
        except ValueError as error:
            found[backend] = str(error)
        if backend == "eager":
            found["eager call"] = "scotoma.kernels.device.forward" in sys.modules
    return found

for environment in eval(sys.argv[1]):
    if not os.fork():
        os.environ |= environment
        print([environment, found()], flush=True)
        os._exit(0)
    os.wait()
"""
ENVIRONMENTS = [
    {"SCOTOMA_BACKEND": ""},
    {"SCOTOMA_BACKEND": "triton", "TRITON_INTERPRET": "1"},
    {"SCOTOMA_BACKEND": "triton"},
    {"SCOTOMA_BACKEND": "cuda", "TRITON_INTERPRET": "1"},
]


@pytest.fixture(scope="module")
def choices():
    """What each ``backend=`` leads to in a fresh process without a GPU, by its environment."""
    without = {"CUDA_VISIBLE_DEVICES": "", "SCOTOMA_BACKEND": "", "TRITON_INTERPRET": "0"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, repr(ENVIRONMENTS)],
        env=os.environ | without,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    found = [ast.literal_eval(line) for line in result.stdout.splitlines()]
    assert [environment for environment, _ in found] == ENVIRONMENTS
    return [choices for _, choices in found]


def test_the_environment_prefers_and_demands_nothing(choices):
    """An empty variable is none. On a CPU the default is eager, and Triton a clear error."""
    nothing, interpreted, compiled, wrong = choices
    for found in (nothing, compiled):  # where no kernel runs on the device of a call
        assert found[None] == found["eager"] == "eager"
        for word in ("backend is 'triton'", "cpu", "NVIDIA", "'eager'"):
            assert word in found["triton"]
    assert (interpreted[None], interpreted["eager"]) == ("triton", "eager")
    assert interpreted["triton"] == "triton"
    for word in ("SCOTOMA_BACKEND is 'cuda'", "'eager'", "'triton'"):
        assert word in wrong[None]
    assert (wrong["eager"], wrong["triton"]) == ("eager", "triton")  # not read: the argument wins


def test_kernels_import_alone(choices):
    """Nothing of the upper floors, and no torchvision; Triton only at its first use: importing
    must stay quick, and possible where it is not installed."""
    assert choices[0]["import"] == [] and not choices[0]["eager call"]


def with_vectors(operator, x, place, **options):
    """An operator on ``x`` and a mask and vectors beside it, all put where ``place`` puts them."""
    channels, *size = x.shape[1:]
    mask = torch.arange(channels * size[0] * size[1]).view(channels, *size) % 3 > 0
    weight = torch.linspace(-1, 1, channels * channels).view(channels, channels, 1, 1)
    vectors = [torch.linspace(1, 2, channels) for _ in range(4)]
    x, weight, *vectors = (place(t) for t in (x, weight, *vectors))
    if place in (NO_KERNEL["meta"], NO_KERNEL["fake"]):
        mask = place(mask)
    if operator is apply_mask:
        return apply_mask(x, mask, **options)
    call = dict(mask=mask, training=False, **options)
    if operator is conv_bn_mask_add_relu:
        return conv_bn_mask_add_relu(x, weight, None, *vectors, **call)
    return bn_mask_add_relu(x, *vectors, residual=x, **call)


FAKE = FakeTensorMode()
NO_KERNEL = {
    "meta": lambda t: t.to("meta"),
    "fake": FAKE.from_tensor,
    "float64": torch.Tensor.double,
    "empty": lambda t: t[:0] if t.dim() == 4 and t.shape[2] > 1 else t,
}


@pytest.mark.parametrize("operator", [bn_mask_add_relu, apply_mask, conv_bn_mask_add_relu])
@pytest.mark.parametrize("kind", NO_KERNEL)
def test_calls_that_no_kernel_runs_do_not_obey_the_environment(kind, operator, monkeypatch):
    """They are other people's: passes that find shapes, checks in float64, probes."""
    x = torch.linspace(-2, 2, 120).view(2, 3, 4, 5)
    place = NO_KERNEL[kind]
    expected = with_vectors(operator, x, place, backend="eager")
    monkeypatch.setattr(backends, "_default", "triton")
    found = with_vectors(operator, x, place)
    assert (found.shape, found.dtype, found.device) == (
        expected.shape,
        expected.dtype,
        expected.device,
    )
    if kind not in ("meta", "fake"):
        assert torch.equal(found, expected)
    if operator is conv_bn_mask_add_relu:
        return  # "triton" demands another thing of it
    with pytest.raises(ValueError, match="backend is 'triton'"):
        with_vectors(operator, x, place, backend="triton")


@pytest.mark.skipif(not backends.interpreting(), reason="the interpreter is for machines without")
def test_the_interpreter_is_never_chosen_by_default():
    """It is thousands of times slower than eager, and only for tests."""
    assert "BNMaskAddReLU" not in call(EAGER, torch.ones(2, 1, 1, 2, requires_grad=True),
                                       backend=None).grad_fn.name()  # fmt: skip


def call(target, x, **options):
    return bn_mask_add_relu(
        x, None, None, None, None, training=True, **{"backend": target.backend} | options
    )


@on_triton
@pytest.mark.parametrize("addend", ["residual", "projection"])
def test_mixed_dtypes_are_refused(target, addend, monkeypatch):
    """With backend=None they fall back to eager, which promotes, whatever the environment says."""
    x = torch.randn(2, 3, 4, 5, device=target.device)
    other = x.half()
    options = {"residual": other}
    if addend == "projection":
        options = {"projection": Projection(other, None, None, None, None)}
    with refused("float32", "float16", "backend", "'eager'", error=ValueError):
        call(target, x, **options)
    for default in (None, "triton"):
        monkeypatch.setattr(backends, "_default", default)
        assert call(target, x, backend=None, **options).dtype == torch.float32


@pytest.mark.gpu
def test_default_on_a_gpu():
    x = torch.randn(2, 3, 4, 5, device="cuda", requires_grad=True)
    assert "BNMaskAddReLU" in call(GPU, x, backend=None).grad_fn.name()
    assert "Relu" in call(GPU, x, backend="eager").grad_fn.name()
    assert backends.why_not_triton(x.double()) and not backends.why_not_triton(x.bfloat16())


def special(target, value, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 2, 2, generator=generator).to(target.device)
    x[1, 2, 0, 1] = value
    return x


def evaluated(target, x, **options):
    statistics = [f(3, device=target.device) for f in (torch.zeros, torch.ones)]
    return bn_mask_add_relu(
        x, None, None, *statistics, training=False, backend=target.backend, **options
    )


@everywhere
@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("where", ["x", "residual", "projection"])
def test_nan_passes_through_relu(target, where, layout):
    """A diverged run must show: max(NaN, 0) is NaN, not 0. So does its gradient."""
    nan = special(target, float("nan"), 1).contiguous(memory_format=DENSE[layout])
    x = nan if where == "x" else special(target, 1.0).contiguous(memory_format=DENSE[layout])
    options = {"residual": nan} if where == "residual" else {}
    if where == "projection":
        statistics = [f(3, device=target.device) for f in (torch.zeros, torch.ones)]
        options = {"projection": Projection(nan, None, None, *statistics)}
    x.requires_grad_()
    out = evaluated(target, x, **options)
    assert out.isnan().nonzero().tolist() == [[1, 2, 0, 1]]
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert gradient[1, 2, 0, 1] == torch.tensor(1.0 + 1e-5).rsqrt()


@everywhere
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, in the interpreter
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_non_finite_values_under_the_mask(target, value):
    """The mask is a factor, as in the paper: 0 * inf is NaN, on every backend."""
    mask = torch.ones(3, 2, 2, dtype=torch.bool, device=target.device)
    mask[2, 0, 1] = False
    out = evaluated(target, special(target, value), mask=mask)
    assert out.isnan().nonzero().tolist() == [[1, 2, 0, 1]]
