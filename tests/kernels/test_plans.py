"""What is decided once for calls of one description: when it is made, kept, and not kept."""

import json
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from launches import launches
from layouts import DENSE
from products import slow
from scotoma.kernels import Projection, apply_mask, backends, bn_mask_add_relu, fused, operator
from targets import EAGER, on_triton


@pytest.fixture(autouse=True)
def nothing_planned(monkeypatch):
    monkeypatch.setattr(operator, "plans", {})
    monkeypatch.setattr(fused, "plans", {})


class Arguments:
    """Of a call, each of which can be changed alone."""

    def __init__(self, target):
        self.x = torch.randn(2, 8, 4, 4).to(target.device, memory_format=torch.channels_last)
        self.vectors = [torch.rand(8, device=target.device) + 0.5 for _ in range(4)]
        self.options = dict(training=True, backend=target.backend)

    def __call__(self, **changes):
        x, vectors = changes.pop("x", self.x), changes.pop("vectors", self.vectors)
        return bn_mask_add_relu(x, *vectors, **self.options | changes)


@on_triton
def test_calls_of_one_description_share_a_plan(target):
    call = Arguments(target)
    call()
    (plan,) = operator.plans.values()
    call.x = call.x + 1
    call(momentum=0.3)
    call(momentum=torch.tensor(0.3, device=target.device))
    assert list(operator.plans.values()) == [plan]


@on_triton
def test_whatever_decides_makes_another_plan(target):
    call = Arguments(target)
    device, c = target.device, call.x.shape[1]
    half = call.x.to(target.half)
    changes = [
        {},
        {"training": False},
        {"relu": False},
        {"eps": 1e-3},
        {"residual": call.x},
        {"mask": torch.ones(call.x.shape[1:], dtype=torch.bool, device=device)},
        {"mask": torch.ones(call.x.shape[1:], dtype=torch.uint8, device=device)},
        {"x": call.x.contiguous()},
        {"x": call.x[:1]},
        {"x": half},
        {"vectors": [None, *call.vectors[1:]]},
        {"vectors": [call.vectors[0].to(target.half), *call.vectors[1:]]},
        {"vectors": [torch.rand(2 * c, device=device)[::2], *call.vectors[1:]]},
        {"vectors": [*call.vectors[:2], None, None]},
    ]
    for number, change in enumerate(changes, 1):
        call(**change)
        assert len(operator.plans) == number, change


@on_triton
def test_the_backend_of_the_environment_is_part_of_it(target, monkeypatch):
    """A plan of the one would else answer for the other."""
    call = Arguments(target)
    for default, fuses in (("triton", True), ("eager", False)):
        monkeypatch.setattr(backends, "_default", default)
        with launches() as names:
            call(backend=None)
        assert bool(names) == fuses


def test_a_plan_of_what_is_preferred_does_not_answer_a_demand(monkeypatch):
    """No kernel works in float64: eager answers a preference, and an error a demand."""
    monkeypatch.setattr(backends, "_default", "triton")
    call = Arguments(EAGER)
    double = {"x": call.x.double(), "vectors": [v.double() for v in call.vectors]}
    call(backend=None, **double)
    with pytest.raises(ValueError, match="backend is 'triton'"):
        call(backend="triton", **double)
    with pytest.raises(ValueError, match="backend is ''"):
        call(backend="", **double)


def test_changing_shapes_do_not_collect(monkeypatch):
    monkeypatch.setattr(operator, "MAX_PLANS", 5)
    for n in range(2, 30):
        bn_mask_add_relu(torch.randn(n, 2, 2, 2), None, None, None, None, training=True)
        assert len(operator.plans) <= 5


@on_triton
@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("offset", [1, slow(2), slow(3), 8])
def test_any_alignment(target, layout, offset):
    """Views that begin between two multiples of 16 bytes: no vector access may cross them."""
    shape, found = (2, 8, 3, 4), []

    def shifted(values, by):
        flat = values.new_zeros(values.numel() + by)[by:]
        return flat.as_strided(values.shape, values.stride()).copy_(values)

    generator = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(shape, generator=generator).to(target.device) for _ in range(2))
    x, upstream = (t.contiguous(memory_format=DENSE[layout]) for t in (x, upstream))
    weight = torch.rand(8, generator=generator).to(target.device)
    mask = (torch.rand(shape[1:], generator=generator) < 0.5).to(target.device)
    for by in (0, offset):
        for which in range(4):
            tensors = [x, weight, mask, upstream]
            tensors[which] = shifted(tensors[which], by)
            leaves = [t.detach().requires_grad_() for t in tensors[:2]]
            out = bn_mask_add_relu(
                leaves[0], leaves[1], None, None, None, mask=tensors[2], residual=leaves[0],
                training=True, backend=target.backend,
            )  # fmt: skip
            masked = apply_mask(tensors[0], tensors[2], backend=target.backend)
            found.append([out, masked, *torch.autograd.grad(out, leaves, tensors[3])])
    for values in found[1:]:
        assert all(map(torch.equal, values, found[0]))


@on_triton
def test_branches_that_share_running_statistics_update_them_in_turn(target):
    """One kernel's programs of both branches would read and write them at once."""
    call = Arguments(target)
    weight, bias, mean, var = call.vectors
    second = Projection(2 * call.x, weight, bias, mean, var)
    expected = mean.double(), var.double()
    for x in (call.x, second.x):
        wide = x.double()
        expected = [
            0.9 * old + 0.1 * new
            for old, new in zip(expected, (wide.mean((0, 2, 3)), wide.var((0, 2, 3))), strict=True)
        ]
    own = fused.Plan.merge_statistics
    with mock.patch.object(fused.Plan, "merge_statistics", autospec=True, side_effect=own) as merge:
        call(projection=second)
    ((_, _, running, _), _) = merge.call_args
    assert merge.call_count == 1 and running is None  # the kernel was not told to update them
    torch.testing.assert_close(mean.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(var.double(), expected[1], rtol=1e-5, atol=1e-5)


# Kernels are compiled for a GPU that is not there, and nothing is run.
DIRECT = """
import json, torch
from triton import JITFunction, knobs
from scotoma.bench.overhead import launches_that_do_nothing
from scotoma.kernels import apply_mask, bn_mask_add_relu

triton_runs = []
run = JITFunction.run

def counted(self, *args, **options):
    triton_runs.append(self.__name__)
    return run(self, *args, **options)

JITFunction.run = counted
x = torch.randn(2, 8, 4, 4).requires_grad_()
odd = torch.randn(1 + x.numel())[1:].view(x.shape).requires_grad_()
weight = torch.ones(8, requires_grad=True)
mask = torch.ones(8, 4, 4, dtype=torch.bool)

def step(x):
    out = bn_mask_add_relu(x, weight, None, None, None, mask=mask, training=True, backend="triton")
    torch.autograd.grad(apply_mask(out, mask, backend="triton"), [x, weight], torch.ones_like(out))

def runs(x):
    triton_runs.clear()
    before = gpu.launches
    step(x)
    return [len(triton_runs), gpu.launches - before]

with launches_that_do_nothing(90) as gpu:
    found = {"first": runs(x), "second": runs(x), "misaligned": [runs(odd), runs(odd)]}
    knobs.runtime.launch_enter_hook.add(print_nothing := lambda *_: None)
    found["hooked"] = runs(x)
    knobs.runtime.launch_enter_hook.remove(print_nothing)
    found["unhooked"] = runs(x)
with launches_that_do_nothing(80) as gpu:
    found["another GPU"] = runs(x)
print(json.dumps(found))
"""


def test_launches_after_the_first_go_past_triton():
    """Eight launches a step; by way of Triton only where it has something to look at or to tell."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", DIRECT], capture_output=True, text=True, env=environment, timeout=300
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    # The mask's gradient is the same launch as its product.
    assert found["first"] == found["another GPU"] == [7, 8]
    assert found["second"] == found["unhooked"] == [0, 8]
    # Not all of a misaligned call's: launches on intermediate results are aligned.
    first, second = found["misaligned"]
    assert first[1] == second[1] == 8 and first[0] >= second[0] >= 6
    assert found["hooked"] == [8, 8]
