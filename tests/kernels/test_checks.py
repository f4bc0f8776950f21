"""Every refused argument: the message names it, says what came and what was expected."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from refusals import refused
from scotoma.kernels import Projection, apply_mask, bn_mask_add_relu, conv_bn_mask_add_relu
from targets import everywhere

X = torch.zeros(2, 3, 4, 5)
VECTOR = torch.ones(3)
MASK = torch.ones(3, 4, 5, dtype=torch.bool)
V0 = torch.ones(0)
FLOAT8 = torch.float8_e4m3fn
VECTORS = ("weight", "bias", "running_mean", "running_var")
GOOD = {"x": X, **dict.fromkeys(VECTORS, VECTOR), "training": True}


def call(**changes):
    return bn_mask_add_relu(**GOOD | changes)


def call_after_convolution(**changes):
    values = GOOD | changes
    return conv_bn_mask_add_relu(values.pop("x"), torch.ones(3, 3, 1, 1), None, **values)


def projection(**changes):
    fields = {"x": X, "weight": None, "bias": None, "running_mean": VECTOR, "running_var": VECTOR}
    return {"projection": Projection(**fields | changes)}


# Arguments, and what the message must contain: the name first, then what came, then what is right.
REFUSED = [
    ({"x": X.long()}, "x has dtype torch.int64", "floating", "x.float()"),
    ({"x": X.bool()}, "x has dtype torch.bool", "floating"),
    ({"x": X.to(FLOAT8)}, "x has dtype torch.float8", "x.float()"),
    ({"x": X.to(torch.complex64)}, "x has dtype torch.complex64", "floating"),
    ({"x": X.numpy()}, "x is of type ndarray", "torch.as_tensor"),
    ({"x": None}, "x is of type NoneType", "expected a tensor"),
    ({"x": X.to_sparse()}, "x is sparse", "to_dense()"),
    # Torch's batch norm mixes half precision with float32, and nothing else.
    ({"x": X.double()}, "weight has dtype torch.float32", "x has torch.float64", ".to(x.dtype)"),
    # It would broadcast silently.
    ({"mask": MASK[:1]}, "mask has shape [1, 4, 5]", "expected [3, 4, 5]"),
    ({"mask": MASK[:, :3]}, "mask has shape [3, 3, 5]", "[2, 3, 4, 5]", "expected [3, 4, 5]"),
    ({"mask": MASK[:, :3]}, "mask has shape [3, 3, 5]", "one image size"),
    ({"mask": MASK[None]}, "mask has shape [1, 3, 4, 5]", "drop the batch dimension, mask[0]"),
    ({"mask": MASK.numpy()}, "mask is of type ndarray", "torch.as_tensor"),
    ({"mask": MASK.to_sparse()}, "mask is sparse", "to_dense()"),
    ({"mask": MASK.float()}, "mask has dtype torch.float32", "bool or uint8"),
    ({"mask": MASK.long()}, "mask has dtype torch.int64", "bool or uint8"),
    ({"mask": MASK.to("meta")}, "mask is on meta", "x is on cpu"),
    ({"residual": X[:1]}, "residual has shape [1, 3, 4, 5]", "[2, 3, 4, 5]"),
    ({"residual": 1.0}, "residual is of type float", "a tensor"),
    ({"residual": X.numpy()}, "residual is of type ndarray", "a tensor"),
    ({"residual": X.long()}, "residual has dtype torch.int64", "floating"),
    ({"residual": X.to("meta")}, "residual is on meta", "cpu"),
    ({"residual": X} | projection(), "residual", "projection", "both", "one of them"),
    ({"projection": [X]}, "projection is of type list", "Projection("),
    # Its six images would be taken for the fields.
    (
        {"x": X.repeat(3, 1, 1, 1), "projection": X.repeat(3, 1, 1, 1)},
        *("projection is of type Tensor", "Projection(x, weight"),
    ),
    (projection(x=X[..., :4]), "projection.x has shape [2, 3, 4, 4]", "[2, 3, 4, 5]"),
    (projection(x=X.int()), "projection.x has dtype torch.int32", "floating"),
    (projection(x=X.to("meta")), "projection.x is on meta", "x is on cpu"),
    (projection(weight=torch.ones(2)), "projection.weight has shape [2]", "[3]"),
    (projection(mask=MASK.numpy()), "projection.mask is of type ndarray"),
    (projection(mask=MASK.float()), "projection.mask has dtype torch.float32", "bool or uint8"),
    (projection(mask=MASK[1:]), "projection.mask has shape [2, 4, 5]", "expected [3, 4, 5]"),
    (projection(mask=MASK.to("meta")), "projection.mask is on meta", "x is on cpu"),
    (projection(running_var=None), "projection.running_mean", "projection.running_var", "both"),
    (
        projection(running_mean=None, running_var=None) | {"training": False},
        *("projection.running_mean is None", "training=True"),
    ),
    ({"running_var": None}, "running_mean", "running_var", "both"),
    ({"running_mean": None}, "running_mean", "running_var", "both"),
    (
        {"running_mean": None, "running_var": None, "training": False},
        *("running_mean is None", "training is False", "training=True"),
    ),
    # torch.nn.BatchNorm2d takes it for a cumulative average; here the caller knows the count.
    ({"momentum": None}, "momentum is None", "1 / num_batches_tracked"),
    ({"momentum": torch.ones(3)}, "momentum has shape [3]", "one"),
    ({"momentum": torch.ones(1, 1)}, "momentum has shape [1, 1]", "one"),
    ({"momentum": torch.tensor(0.1, device="meta")}, "momentum is on meta", "x is on cpu"),
    *(({"momentum": m}, f"momentum is {m!r}", "0 to 1") for m in (1.5, -0.1, float("nan"), "0.1")),
    # Zero: torch's batch norm has refused it always, in training only, or never, by its release.
    *(({"eps": eps}, f"eps is {eps}", "above 0") for eps in (-1e-5, 0.0)),
    ({"eps": 0, "training": False}, "eps is 0", "above 0"),
    *(({"eps": e}, f"eps is {e}", "finite") for e in ([1e-5], float("nan"), float("inf"), None)),
    *(
        ({name: value}, f"{name} is {value!r}", "True or False")
        for name in ("relu", "training")
        for value in (1, None, "no", [1], np.True_)
    ),
    ({"group": "world"}, "group is 'world'", "process group"),
    ({"backend": ["eager"]}, "backend is ['eager']", "'triton'"),
    ({"backend": "cuda"}, "backend is 'cuda'", "'eager'"),
    ({"weight": VECTOR.to(FLOAT8)}, "weight has dtype torch.float8_e4m3fn", "floating"),
    ({"weight": VECTOR.int()}, "weight has dtype torch.int32"),
    *(
        case
        for name in VECTORS
        for case in (
            ({name: torch.ones(4)}, f"{name} has shape [4]", "[3]"),
            ({name: torch.ones(3, 1)}, f"{name} has shape [3, 1]", "[3]"),
            ({name: 1.0}, f"{name} is of type float"),
            ({name: VECTOR.numpy()}, f"{name} is of type ndarray"),
            ({name: VECTOR.double()}, f"{name} has dtype torch.float64", "x has", ".to("),
            ({name: VECTOR.half()}, f"{name} has dtype torch.float16", "x has", ".to("),
            # An illegal access, if a kernel ran.
            ({name: VECTOR.to("meta")}, f"{name} is on meta", "x is on cpu", f"{name}.to(x.device"),
        )
    ),
]
# The convolution refuses these first, by other words.
REFUSED_ALONE = [
    ({"x": X[:, :0]}, "x has shape [2, 0, 4, 5]", "1 channel"),
    (
        {"x": X[:, :0], **dict.fromkeys(VECTORS, V0), "training": False},
        *("x has shape [2, 0, 4, 5]", "1 channel"),
    ),
    ({"x": X[0, 0]}, "x has shape [4, 5]", "[N,C,H,W]", "[N,C,L]"),
    ({"x": X[None, None]}, "x has shape [1, 1, 2, 3, 4, 5]", "[N,C,D,H,W]"),
    ({"x": X[0]}, "weight has shape [3]", "[4]", "[3, 4, 5]"),
    (
        {"x": X[..., 0], "mask": MASK[..., 0, None]},
        *("mask has shape [3, 4, 1]", "[2, 3, 4]", "expected [3, 4]"),
    ),
    (
        {"x": X.half(), "bias": VECTOR.half()},
        *("weight has dtype torch.float32", "x has torch.float16", "float32 for all vectors"),
    ),
]
CALLS = [(operator, *case) for operator in (call, call_after_convolution) for case in REFUSED]
CALLS += [(call, *case) for case in REFUSED_ALONE]


@pytest.mark.parametrize("case", CALLS, ids=lambda case: f"{case[0].__name__}: {case[2]}")
def test_refused(case):
    operator, changes, *words = case
    if operator is call_after_convolution and words[0] == "weight has dtype torch.float32":
        words = ["conv_weight has dtype torch.float32", "x has torch.float64"]
    with pytest.raises(ValueError) as error:
        operator(**changes)
    message = str(error.value)
    assert all(word in message for word in words), message
    positions = [message.index(word) for word in words]
    assert positions[0] == min(positions)


def test_a_plan_answers_for_no_other_type():
    """1 and True are one key of a dictionary."""
    call(), call(training=False)
    for changes in (dict(relu=1), dict(training=1), dict(training=0), dict(momentum=float("nan"))):
        with pytest.raises(ValueError, match=f"{next(iter(changes))} is "):
            call(**changes)


def test_a_refused_call_changes_nothing():
    """Checks come before the first write, the check of the second branch too."""
    mean, variance = torch.zeros(3), torch.ones(3)
    wrong = {"x": torch.randn(2, 3, 4, 5), "running_mean": mean, "running_var": variance}
    with pytest.raises(ValueError):
        call(**wrong, **projection(mask=MASK.float()))
    assert torch.equal(mean, torch.zeros(3)) and torch.equal(variance, torch.ones(3))


def test_accepted():
    """The base of the cases above, so that none is refused for another reason."""
    assert call().shape == call(**projection()).shape == X.shape
    assert call(residual=X, mask=MASK, backend="eager").shape == X.shape


MASKS = [
    (MASK.float(), "mask has dtype torch.float32", "bool or uint8"),
    (MASK[:2], "mask has shape [2, 4, 5]", "expected [3, 4, 5]"),
    (MASK[None], "mask has shape [1, 3, 4, 5]", "drop the batch dimension, mask[0]"),
    (MASK.to("meta"), "mask is on meta", "x is on cpu"),
    (MASK.numpy(), "mask is of type ndarray", "torch.as_tensor"),
    (1.0, "mask is of type float", "expected a tensor"),
]


def test_apply_mask_refuses():
    for mask, *words in MASKS:
        with refused(*words, error=ValueError):
            apply_mask(X, mask)
    for x in (X.numpy(), X.long(), X.to(torch.float8_e5m2), X[0, 0], 1.0):
        with pytest.raises(ValueError, match=r"x (is|has)"):
            apply_mask(x, MASK)


@everywhere
@pytest.mark.parametrize("momentum", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5), (0, 3, 4), (2, 3, 4, 0, 5)], ids=str)
def test_an_empty_batch_leaves_the_statistics(target, shape, momentum):
    mean, var = (torch.tensor([1.0, 2.0, 3.0], device=target.device) for _ in range(2))
    x = torch.zeros(shape, device=target.device, requires_grad=True)
    out = bn_mask_add_relu(x, None, None, mean, var, training=True, momentum=momentum)
    assert out.shape == shape
    out.sum().backward()
    assert mean.tolist() == var.tolist() == [1.0, 2.0, 3.0]


@everywhere
def test_one_value_a_channel_has_no_variance(target, tmp_path):
    """A group of one process says nothing of how many values there are."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        x, *vectors = (
            torch.ones(size, device=target.device) for size in ((1, 2, 1, 1), 2, 2, 2, 2)
        )
        for group in (None, dist.group.WORLD):
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                bn_mask_add_relu(x, *vectors, training=True, group=group, backend=target.backend)
        assert all(v.eq(1).all() for v in vectors)
    finally:
        dist.destroy_process_group()


@everywhere
@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 1, 1, 1, 1)], ids=str)
def test_other_dimensions(target, shape):
    """Refused by every operator on every backend, by the same words."""
    x, vector = torch.zeros(shape, device=target.device), torch.ones(3, device=target.device)
    mask = torch.ones(shape[1:], dtype=torch.bool, device=target.device)
    for call in (
        lambda: apply_mask(x, mask, backend=target.backend),
        lambda: bn_mask_add_relu(x, *[vector] * 4, training=True, backend=target.backend),
    ):
        with pytest.raises(ValueError, match=r"x has shape \[.*\]; expected \[N,C,H,W\]"):
            call()
