"""Every refused argument: the message names it, says what came and what was expected."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scotoma.kernels import Projection, apply_mask, bn_mask_add_relu, conv_bn_mask_add_relu
from targets import everywhere

X = torch.zeros(2, 3, 4, 5)
VECTOR = torch.ones(3)
MASK = torch.ones(3, 4, 5, dtype=torch.bool)
V0 = torch.ones(0)
GOOD = {
    "x": X,
    "weight": VECTOR,
    "bias": VECTOR,
    "running_mean": VECTOR,
    "running_var": VECTOR,
    "training": True,
}


def call(**changes):
    return bn_mask_add_relu(**GOOD | changes)


def call_after_convolution(**changes):
    values = GOOD | changes
    return conv_bn_mask_add_relu(values.pop("x"), torch.ones(3, 3, 1, 1), None, **values)


def projection(**changes):
    fields = {"x": X, "weight": None, "bias": None, "running_mean": VECTOR, "running_var": VECTOR}
    return Projection(**fields | changes)


VECTORS = ["weight", "bias", "running_mean", "running_var"]

# arguments -> what the message must contain: the name first, then what came, then what is right
REFUSED = {
    "integer x": (dict(x=X.long()), ["x has dtype torch.int64", "floating", "x.float()"]),
    "bool x": (dict(x=X.bool()), ["x has dtype torch.bool", "floating"]),
    "float8 x": (dict(x=X.to(torch.float8_e4m3fn)), ["x has dtype torch.float8", "x.float()"]),
    "complex x": (dict(x=X.to(torch.complex64)), ["x has dtype torch.complex64", "floating"]),
    "array as x": (dict(x=X.numpy()), ["x is of type ndarray", "torch.as_tensor"]),
    "no x": (dict(x=None), ["x is of type NoneType", "expected a tensor"]),
    "sparse x": (dict(x=X.to_sparse()), ["x is sparse", "to_dense()"]),
    "x without channels": (dict(x=X[:, :0]), ["x has shape [2, 0, 4, 5]", "1 channel"]),
    "x without channels in evaluation": (
        dict(x=X[:, :0], weight=V0, bias=V0, running_mean=V0, running_var=V0, training=False),
        ["x has shape [2, 0, 4, 5]", "1 channel"],
    ),
    "2-d x": (dict(x=X[0, 0]), ["x has shape [4, 5]", "[N,C,H,W]", "[N,C,L]"]),
    "6-d x": (dict(x=X[None, None]), ["x has shape [1, 1, 2, 3, 4, 5]", "[N,C,D,H,W]"]),
    "image without a batch": (dict(x=X[0]), ["weight has shape [3]", "[4]", "[3, 4, 5]"]),
    "mask of another length": (
        dict(x=X[..., 0], mask=MASK[..., 0, None]),
        ["mask has shape [3, 4, 1]", "[2, 3, 4]", "expected [3, 4]"],
    ),
    **{
        f"longer {name}": ({name: torch.ones(4)}, [f"{name} has shape [4]", "[3]"])
        for name in VECTORS
    },
    **{
        f"2-d {name}": ({name: torch.ones(3, 1)}, [f"{name} has shape [3, 1]", "[3]"])
        for name in VECTORS
    },
    **{f"number as {name}": ({name: 1.0}, [f"{name} is of type float"]) for name in VECTORS},
    **{f"array as {name}": ({name: VECTOR.numpy()}, [f"{name} is of type nd"]) for name in VECTORS},
    # Torch's batch norm mixes half precision with float32, and nothing else.
    **{
        f"{name} {dtype}": (
            {name: VECTOR.to(dtype)},
            [f"{name} has dtype {dtype}", "x has", ".to("],
        )
        for name in VECTORS
        for dtype in (torch.float64, torch.float16)
    },
    "float64 x with float32 vectors": (
        dict(x=X.double()),
        ["weight has dtype torch.float32", "x has torch.float64", "weight.to(x.dtype)"],
    ),
    "vectors of two dtypes": (
        dict(x=X.half(), bias=VECTOR.half()),
        ["weight has dtype torch.float32", "x has torch.float16", "float32 for all vectors"],
    ),
    "float8 weight": (
        dict(weight=VECTOR.to(torch.float8_e4m3fn)),
        ["weight has dtype torch.float8_e4m3fn", "floating"],
    ),
    "array as mask": (dict(mask=MASK.numpy()), ["mask is of type ndarray", "torch.as_tensor"]),
    "sparse mask": (dict(mask=MASK.to_sparse()), ["mask is sparse", "to_dense()"]),
    "float mask": (dict(mask=MASK.float()), ["mask has dtype torch.float32", "bool or uint8"]),
    "int64 mask": (dict(mask=MASK.long()), ["mask has dtype torch.int64", "bool or uint8"]),
    "mask of another size": (
        dict(mask=MASK[:, :3]),
        ["mask has shape [3, 3, 5]", "[2, 3, 4, 5]", "expected [3, 4, 5]"],
    ),
    "mask with a batch axis": (
        dict(mask=MASK[None]),
        ["mask has shape [1, 3, 4, 5]", "expected [3, 4, 5]", "drop the batch dimension, mask[0]"],
    ),
    "mask of another image size": (
        dict(mask=MASK[:, :3]),
        ["mask has shape [3, 3, 5]", "expected [3, 4, 5]", "one image size"],
    ),
    # It would broadcast silently.
    "mask of one channel": (
        dict(mask=MASK[:1]),
        ["mask has shape [1, 4, 5]", "expected [3, 4, 5]"],
    ),
    "residual of another shape": (
        dict(residual=X[:1]),
        ["residual has shape [1, 3, 4, 5]", "[2, 3, 4, 5]"],
    ),
    "number as residual": (dict(residual=1.0), ["residual is of type float", "a tensor"]),
    "array as residual": (dict(residual=X.numpy()), ["residual is of type ndarray", "a tensor"]),
    "integer residual": (dict(residual=X.long()), ["residual has dtype torch.int64", "floating"]),
    # Its six images would be taken for the fields.
    "tensor as projection": (
        dict(x=X.repeat(3, 1, 1, 1), projection=X.repeat(3, 1, 1, 1)),
        ["projection is of type Tensor", "Projection(x, weight"],
    ),
    "list as projection": (dict(projection=[X]), ["projection is of type list", "Projection("]),
    "array in the projection": (
        dict(projection=projection(mask=MASK.numpy())),
        ["projection.mask is of type ndarray"],
    ),
    **{
        f"{name} {value!r}": ({name: value}, [f"{name} is {value!r}", "True or False"])
        for name in ("relu", "training")
        for value in (1, None, "no", [1], np.True_)
    },
    "group by its name": (dict(group="world"), ["group is 'world'", "process group"]),
    "list of backends": (dict(backend=["eager"]), ["backend is ['eager']", "'triton'"]),
    "residual and projection": (
        dict(residual=X, projection=projection()),
        ["residual", "projection", "both", "one of them"],
    ),
    "only a running mean": (dict(running_var=None), ["running_mean", "running_var", "both"]),
    "only a running variance": (dict(running_mean=None), ["running_mean", "running_var", "both"]),
    "evaluation without statistics": (
        dict(running_mean=None, running_var=None, training=False),
        ["running_mean is None", "training is False", "training=True"],
    ),
    # torch.nn.BatchNorm2d takes it for a cumulative average; here the caller knows the count.
    "no momentum": (dict(momentum=None), ["momentum is None", "1 / num_batches_tracked"]),
    "momentum for each channel": (dict(momentum=torch.ones(3)), ["momentum has shape [3]", "one"]),
    "momentum as a matrix": (dict(momentum=torch.ones(1, 1)), ["momentum has shape [1, 1]", "one"]),
    "momentum over 1": (dict(momentum=1.5), ["momentum is 1.5", "from 0 to 1"]),
    "negative momentum": (dict(momentum=-0.1), ["momentum is -0.1", "from 0 to 1"]),
    "nan as momentum": (dict(momentum=float("nan")), ["momentum is nan", "from 0 to 1"]),
    "text as momentum": (dict(momentum="0.1"), ["momentum is '0.1'", "from 0 to 1"]),
    "momentum on another device": (
        dict(momentum=torch.tensor(0.1, device="meta")),
        ["momentum is on meta", "x is on cpu"],
    ),
    "negative eps": (dict(eps=-1e-5), ["eps is -1e-05", "above 0"]),
    # Torch's batch norm has refused it always, in training only, or never, by its release.
    "zero eps": (dict(eps=0.0), ["eps is 0.0", "above 0"]),
    "zero eps in evaluation": (dict(eps=0, training=False), ["eps is 0", "above 0"]),
    "list as eps": (dict(eps=[1e-5]), ["eps is [1e-05]", "finite"]),
    "nan as eps": (dict(eps=float("nan")), ["eps is nan", "finite"]),
    "infinite eps": (dict(eps=float("inf")), ["eps is inf", "finite"]),
    "no eps": (dict(eps=None), ["eps is None", "finite"]),
    "integer weight": (dict(weight=torch.ones(3).int()), ["weight has dtype torch.int32"]),
    # An illegal access, if a kernel ran.
    **{
        f"{name} on another device": (
            {name: GOOD[name].to("meta")},
            [f"{name} is on meta", "x is on cpu", f"{name}.to(x.device)"],
        )
        for name in VECTORS
    },
    "mask on another device": (dict(mask=MASK.to("meta")), ["mask is on meta", "x is on cpu"]),
    "residual on another device": (dict(residual=X.to("meta")), ["residual is on meta", "cpu"]),
    "projection on another device": (
        dict(projection=projection(x=X.to("meta"))),
        ["projection.x is on meta", "x is on cpu"],
    ),
    "projection's mask on another device": (
        dict(projection=projection(mask=MASK.to("meta"))),
        ["projection.mask is on meta", "x is on cpu"],
    ),
    "unknown backend": (dict(backend="cuda"), ["backend is 'cuda'", "'eager'"]),
    "projection of another shape": (
        dict(projection=projection(x=X[..., :4])),
        ["projection.x has shape [2, 3, 4, 4]", "[2, 3, 4, 5]"],
    ),
    "projection's vector": (
        dict(projection=projection(weight=torch.ones(2))),
        ["projection.weight has shape [2]", "[3]"],
    ),
    "projection's float mask": (
        dict(projection=projection(mask=MASK.float())),
        ["projection.mask has dtype torch.float32", "bool or uint8"],
    ),
    "projection's mask of another size": (
        dict(projection=projection(mask=MASK[1:])),
        ["projection.mask has shape [2, 4, 5]", "expected [3, 4, 5]"],
    ),
    "projection's one statistic": (
        dict(projection=projection(running_var=None)),
        ["projection.running_mean", "projection.running_var", "both"],
    ),
    "projection in evaluation without statistics": (
        dict(projection=projection(running_mean=None, running_var=None), training=False),
        ["projection.running_mean is None", "training=True"],
    ),
    "integer projection": (
        dict(projection=projection(x=X.int())),
        ["projection.x has dtype torch.int32", "floating"],
    ),
}


# The convolution refuses these first, by other words.
BEFORE = (
    "2-d x",
    "6-d x",
    "image without",
    "mask of another length",
    "x without",
    "vectors of two",
)


@pytest.mark.parametrize("convolved", [False, True], ids=["", "after a convolution"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, convolved):
    changes, words = REFUSED[name]
    if convolved and name.startswith(BEFORE):
        return
    if convolved and name == "float64 x with float32 vectors":
        words = ["conv_weight has dtype torch.float32", "x has torch.float64"]
    with pytest.raises(ValueError) as error:
        (call_after_convolution if convolved else call)(**changes)
    message = str(error.value)
    for word in words:
        assert word in message
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
    with pytest.raises(ValueError):
        call(
            x=torch.randn(2, 3, 4, 5),
            running_mean=mean,
            running_var=variance,
            projection=projection(mask=MASK.float()),
        )
    assert torch.equal(mean, torch.zeros(3)) and torch.equal(variance, torch.ones(3))


def test_accepted():
    """The base of the cases above, so that none is refused for another reason."""
    assert call().shape == X.shape
    assert call(projection=projection()).shape == X.shape
    assert call(residual=X, mask=MASK, backend="eager").shape == X.shape


def test_one_value_per_channel_has_no_variance():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        call(x=torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize(
    "mask, words",
    [
        (MASK.float(), ["mask has dtype torch.float32", "bool or uint8"]),
        (MASK[:2], ["mask has shape [2, 4, 5]", "expected [3, 4, 5]"]),
        (MASK[None], ["mask has shape [1, 3, 4, 5]", "drop the batch dimension, mask[0]"]),
        (MASK.to("meta"), ["mask is on meta", "x is on cpu"]),
        (MASK.numpy(), ["mask is of type ndarray", "torch.as_tensor"]),
        (1.0, ["mask is of type float", "expected a tensor"]),
    ],
)
def test_apply_mask_refuses(mask, words):
    with pytest.raises(ValueError) as error:
        apply_mask(X, mask)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("x", [X.numpy(), X.long(), X.to(torch.float8_e4m3fn), X[0, 0], 1.0])
def test_apply_mask_refuses_as_x(x):
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
def test_one_value_in_a_group_of_one_process(target, tmp_path):
    """A group says nothing of how many values there are: here the variance has no unbiased one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        x, *vectors = (
            torch.ones(size, device=target.device) for size in ((1, 2, 1, 1), 2, 2, 2, 2)
        )
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            bn_mask_add_relu(
                x, *vectors, training=True, group=dist.group.WORLD, backend=target.backend
            )
        assert all(v.eq(1).all() for v in vectors)
    finally:
        dist.destroy_process_group()


@everywhere
@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 1, 1, 1, 1)], ids=str)
def test_other_dimensions(target, shape):
    """Refused by every operator on every backend, by the same words."""
    x, vector = torch.zeros(shape, device=target.device), torch.ones(3, device=target.device)
    mask = torch.ones(shape[1:], dtype=torch.bool, device=target.device)
    with pytest.raises(ValueError, match=r"x has shape \[.*\]; expected \[N,C,H,W\]"):
        apply_mask(x, mask, backend=target.backend)
    with pytest.raises(ValueError, match=r"x has shape \[.*\]; expected \[N,C,H,W\]"):
        bn_mask_add_relu(x, *[vector] * 4, training=True, backend=target.backend)
