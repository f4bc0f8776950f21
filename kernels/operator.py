"""The public face of ``bn_mask_add_relu``: checks once, then hands over to a backend."""

from __future__ import annotations

from math import inf
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from . import backends, fused, library, reference
from .launch import MAX_PLANS, Plan
from .reference import Branch, Projection, Settings

HALF = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALF)
MASK_DTYPES = (torch.bool, torch.uint8)

# Of calls that were checked, by what the checks looked at: the plan, or None where the eager
# definition runs them.
plans: dict[tuple, Plan | None] = {}


def bn_mask_add_relu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
    projection: Projection | None = None,
    relu: bool = True,
    training: bool,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    group: dist.ProcessGroup | None = None,
    backend: Literal["eager", "triton"] | None = None,
) -> Tensor:
    """``relu(mask * BN(x) + residual)``: a defective layer after its convolution.

    The mask comes after batch norm and before both the addition and ReLU, so the batch
    statistics see every position, the masked ones too. Nothing is rescaled by 1/p. The mask is a
    factor: a non-finite value under its zero gives NaN.
    Source: paper equations 3 to 5, in the order of the authors' release.

    Args:
        x: convolution output [N,C,H,W], float32, float16, bfloat16 or (eager) float64;
            channels_last or contiguous. The output has its shape, dtype and memory format.
            [N,C,L] and [N,C,D,H,W] work as well, with masks [C,L] and [C,D,H,W].
        weight, bias: affine parameters [C], or None.
        running_mean, running_var: running statistics [C], updated in place when ``training``;
            None to use none (``training`` must then be True).
        mask: fixed 0/1 mask [C,H,W], bool or uint8, the same for every image; None for no mask.
        residual: tensor added to the masked branch, shaped like ``x``.
        projection: second branch ``mask * BN(x)`` added to the first, instead of ``residual``.
        relu: apply ReLU at the end. NaN passes through it.
        training: normalise by batch statistics (True) or running statistics (False). The gradient
            is right in both cases.
        momentum: weight of the new batch in the running statistics, from 0 to 1; a float, or a
            tensor with one value where it is known on the device alone (1 / batches seen, for
            ``momentum=None`` of ``torch.nn.BatchNorm2d``).
        eps: epsilon, added to the variance; finite and above 0.
        group: process group over which batch statistics are synchronised; None for local ones.
        backend: "triton" for the fused kernels, "eager" for the PyTorch definition, None to choose:
            what the environment variable ``SCOTOMA_BACKEND`` says, else Triton where it can run.

    Saved for backward by the fused kernels: ``x`` (and the projection's), per-channel vectors,
    masks, and with ``residual`` and ``relu`` one bit for each element (a row of channels is padded
    to whole bytes). Never the output, never the residual.

    Speed: in training forward and backward launch three kernels each (partial sums, their merge,
    one pass over the activations). In bfloat16 without a residual they move 6 and 10 bytes an
    element. Activations that are neither channels_last nor contiguous,
    or whose formats differ, are copied first. What a call decides by shapes, strides, dtypes and
    settings is decided at the first such call and kept.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or combination, or ``backend``
            is "triton" and cannot run this call. The message names it.
    """
    settings = Settings(relu, training, momentum, eps, group)
    main = Branch(x, weight, bias, running_mean, running_var, mask)
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if type(x) is not Tensor or x.dim() != 4 or tracing or backends.transformed(x):
        return _unplanned(main, projection, residual, settings, backend)
    try:
        other = None if projection is None else Branch(*projection)
        # Whether there are other ranks decides how many values a batch needs. What the environment
        # prefers may fall back to eager, what the argument demands may not.
        key = fused.describe(main, other, residual, settings)
        key = key, settings.synchronised, backend, backends._default
        known = key in plans
    except Exception:  # of what is no dense tensor: the checks name it
        key = None
    if key is None:
        return _unplanned(main, projection, residual, settings, backend)
    if type(momentum) is not float or not 0.0 <= momentum <= 1.0:
        check_momentum(x, momentum)
    # 1 would find the plan of True.
    if (relu is not True and relu is not False) or (training is not True and training is not False):
        check_settings(x, settings)
    plan = plans[key] if known else _planned(key, main, projection, residual, settings, backend)
    if plan is None:
        return eager(main, other, residual, settings)
    return fused.bn_mask_add_relu(plan, main, other, residual, settings)


def _unplanned(main: Branch, projection, residual, settings: Settings, backend) -> Tensor:
    """A call that is checked each time: none that is traced, transformed or no 4-d tensor is kept.

    Whoever traces sees registered operators, and so does whatever stands in for a tensor.
    Collectives are not inside them: compiled, synchronised statistics are those of the eager
    definition.
    """
    other = branch_of(projection)
    check_call(main, other, residual, settings)
    if main.x.dim() != 4:
        return _of_images(main, other, residual, settings, backend)
    functional = backends.transformed(main.x)
    fuses = backends.use_triton(backend, *activations(main, other, residual))
    fuses &= not settings.synchronised and (not functional or library.transforms_allow())
    if fuses:
        return library.bn_mask_add_relu(main, other, residual, settings)
    check_dtypes(main, other)
    return eager(main, other, residual, settings)


def eager(main: Branch, other: Branch | None, residual, settings: Settings) -> Tensor:
    """The definition on a checked call."""
    projection = None if other is None else Projection(*other)
    return reference.bn_mask_add_relu(
        *main[:5],
        mask=main.mask,
        residual=residual,
        projection=projection,
        **settings._asdict(),
    )


def _planned(key, main, projection, residual, settings: Settings, backend) -> Plan | None:
    """Check a call of a new description; make and keep its plan."""
    other, plan = branch_of(projection), None
    check_call(main, other, residual, settings)
    if backends.use_triton(backend, *activations(main, other, residual)):
        plan = fused.plan_for(main, other, residual, settings)
    else:
        check_dtypes(main, other)
        check_ranks(main.x, settings, backend)
    if len(plans) >= MAX_PLANS:
        plans.clear()
    plans[key] = plan
    return plan


def activations(main: Branch, other: Branch | None, residual):
    return main.x, residual, None if other is None else other.x


def _of_images(main: Branch, other: Branch | None, residual, settings: Settings, backend) -> Tensor:
    """Activations [N,C,L] and [N,C,D,H,W] as images, which have the same rows and channels."""
    shape = main.x.shape

    def image(tensor, first):
        if tensor is None:
            return None
        return tensor.unsqueeze(first) if len(shape) == 3 else tensor.flatten(first, first + 1)

    def of_images(branch):
        return branch._replace(x=image(branch.x, 2), mask=image(branch.mask, 1))

    main = of_images(main)
    out = bn_mask_add_relu(
        *main[:5],
        mask=main.mask,
        residual=image(residual, 2),
        projection=None if other is None else Projection(*of_images(other)),
        backend=backend,
        **settings._asdict(),
    )
    return out.squeeze(2) if len(shape) == 3 else out.unflatten(2, shape[2:4])


# Checks look at shapes, dtypes and devices only, so that none waits for a GPU.


def check_call(main: Branch, other: Branch | None, residual, settings: Settings) -> None:
    """All arguments of ``bn_mask_add_relu``.

    Raises:
        ValueError: the message names the argument, what it is and what it should be.
    """
    x = main.x
    check_activation(x, "x")
    if x.shape[1] == 0:
        raise ValueError(f"x has shape {list(x.shape)}; expected 1 channel or more")
    check_settings(x, settings)
    check_branch(main, settings.training)
    if settings.training and not settings.synchronised and x.numel() == x.shape[1]:
        raise ValueError(
            f"x has shape {list(x.shape)}: batch statistics need more than 1 value per channel; "
            "use a larger batch, or training=False"
        )
    if residual is not None:
        if other is not None:
            raise ValueError("residual and projection are both given; a block has one of them")
        check_addend(x, residual, "residual")
    if other is not None:
        check_addend(x, other.x, "projection.x")
        check_branch(other, settings.training, "projection.")


def branch_of(projection: Projection | None) -> Branch | None:
    if projection is None:
        return None
    if not isinstance(projection, tuple) or len(projection) != len(Projection._fields):
        raise ValueError(
            f"projection is of type {type(projection).__name__}; expected "
            f"scotoma.kernels.Projection({', '.join(Projection._fields)})"
        )
    return Branch(*projection)


def check_settings(x: Tensor, settings: Settings) -> None:
    for name, value in (("relu", settings.relu), ("training", settings.training)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; expected True or False")
    check_momentum(x, settings.momentum)
    eps, group = settings.eps, settings.group
    if not (isinstance(eps, (int, float)) and 0 < eps < inf):
        raise ValueError(f"eps is {eps!r}; expected a finite float above 0, such as 1e-5")
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise ValueError(
            f"group is {group!r}; expected None or a process group, such as "
            "torch.distributed.group.WORLD"
        )


def check_branch(branch: Branch, training: bool, prefix: str = "") -> None:
    """One batch norm branch without its ``x`` [N,C,...]: vectors [C], mask [C,...]."""
    x, _, _, running_mean, running_var, mask = branch
    for name, vector in vectors_of(branch, prefix):
        check_tensor(vector, name)
        if vector.shape != x.shape[1:2]:
            raise ValueError(
                f"{name} has shape {list(vector.shape)}; expected [{x.shape[1]}], "
                f"one value for each channel of {prefix}x {list(x.shape)}"
            )
        if vector.dtype not in FLOATS:
            raise ValueError(f"{name} has dtype {vector.dtype}; expected a floating dtype")
        check_device(x, vector, name)
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{prefix}running_mean and {prefix}running_var: give both or neither")
    if not training and running_mean is None:
        raise ValueError(
            f"{prefix}running_mean is None while training is False: evaluation needs running "
            "statistics; give them, or pass training=True to use the batch's own"
        )
    if mask is not None:
        check_mask(x, mask, f"{prefix}mask")


def vectors_of(branch: Branch, prefix: str) -> list[tuple[str, Tensor]]:
    """Those that are given, with the names of their arguments."""
    pairs = zip(("weight", "bias", "running_mean", "running_var"), branch[1:5], strict=True)
    return [(prefix + name, vector) for name, vector in pairs if vector is not None]


def check_dtypes(main: Branch, other: Branch | None) -> None:
    """What torch's batch norm takes, where it runs: the kernels take any mixture."""
    for branch, prefix in ((main, ""), (other, "projection.")):
        if branch is None:
            continue
        dtype, vectors = branch.x.dtype, vectors_of(branch, prefix)
        if dtype in HALF and all(vector.dtype == torch.float32 for _, vector in vectors):
            continue
        for name, vector in vectors:
            if vector.dtype != dtype:
                half = " (or float32 for all vectors)" if dtype in HALF else ""
                raise ValueError(
                    f"{name} has dtype {vector.dtype}, but {prefix}x has {dtype}; torch's batch "
                    f"norm, which runs here, needs that of {prefix}x{half}: convert one of them, "
                    f"as with {name}.to({prefix}x.dtype)"
                )


def check_ranks(x: Tensor, settings: Settings, backend: str | None) -> None:
    """Kernels and definition do not share collectives, and no kernel runs on an empty batch."""
    if settings.synchronised and x.numel() == 0 and backends.use_triton(backend, x.new_empty(1)):
        raise ValueError(
            f"x {list(x.shape)} is empty, and the fused kernels synchronise whole batches only; "
            "feed this rank an image, or pass backend='eager' on every rank"
        )


def check_tensor(value, name: str) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} is of type {type(value).__name__}; expected a tensor, such as torch.as_tensor "
            "makes of arrays and numbers"
        )
    if value.layout is not torch.strided or value.is_nested:
        raise ValueError(f"{name} is sparse or nested; expected a dense tensor, as of .to_dense()")


def check_floating(x, name: str) -> None:
    check_tensor(x, name)
    if x.dtype not in FLOATS:
        raise ValueError(
            f"{name} has dtype {x.dtype}; expected a floating dtype of 16 bits or more: convert it "
            f"with {name}.float()"
        )


def check_activation(x, name: str) -> None:
    check_floating(x, name)
    if x.dim() not in (3, 4, 5):
        raise ValueError(
            f"{name} has shape {list(x.shape)}; expected [N,C,H,W], [N,C,L] or [N,C,D,H,W]"
        )


def check_addend(x: Tensor, addend, name: str) -> None:
    check_floating(addend, name)
    if addend.shape != x.shape:
        raise ValueError(
            f"{name} has shape {list(addend.shape)}; expected that of x, {list(x.shape)}"
        )
    check_device(x, addend, name)


def check_momentum(x: Tensor, momentum) -> None:
    if momentum is None:
        raise ValueError(
            "momentum is None; expected a float, or a tensor with one value. For a cumulative "
            "average pass 1 / num_batches_tracked"
        )
    if isinstance(momentum, Tensor):
        if momentum.numel() != 1 or momentum.dim() > 1:
            raise ValueError(
                f"momentum has shape {list(momentum.shape)}; expected a float, or a tensor with "
                "one value"
            )
        # A number on a CPU fits all devices.
        if momentum.device != x.device and (momentum.dim() or momentum.device.type != "cpu"):
            check_device(x, momentum, "momentum")
    elif not isinstance(momentum, (int, float)) or not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum!r}; expected a number from 0 to 1, such as 0.1")


def check_mask(x: Tensor, mask, name: str) -> None:
    check_tensor(mask, name)
    if mask.dtype not in MASK_DTYPES:
        raise ValueError(
            f"{name} has dtype {mask.dtype}; expected bool or uint8 (a float mask would promote "
            f"the activations): convert it with {name}.bool()"
        )
    if mask.shape != x.shape[1:]:
        advice = (
            f"A mask is the same for every image: drop the batch dimension, {name}[0]"
            if mask.shape[1:] == x.shape[1:]
            else "Masks are fixed to one image size: feed images of the size the network was "
            "created for"
        )
        raise ValueError(
            f"{name} has shape {list(mask.shape)}, but the activations are {list(x.shape)}; "
            f"expected {list(x.shape[1:])}. {advice}"
        )
    check_device(x, mask, name)


def check_device(x: Tensor, tensor: Tensor, name: str) -> None:
    if tensor.device != x.device:
        raise ValueError(
            f"{name} is on {tensor.device}, but x is on {x.device}; move it with "
            f"{name}.to(x.device)"
        )
