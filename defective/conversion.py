"""``convert``: masks in somebody else's network, at the batch norms after its convolutions.

Where a network's bottom is, only its shapes can tell. A *stage* is what runs at one resolution: the
sites are sorted by the reduction of their images' side, to the nearest power of two, in the order
in which they run. A block that shrinks its images belongs whole to the stage that it leads to, and
branches at a higher resolution, beside which there is already a lower one, to that of the lower.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..kernels.batch_norm import Masked, MaskedBatchNorm2d, MaskedSyncBatchNorm, NeuronMask
from ..kernels.patterns import other_norms
from .errors import UserError, counted, nearest
from .masks import check_seed, draw_mask, mask_sites, model_terms, notice_masks
from .notation import Defects
from .spec import Conversion, ModelSpec

Where = Sequence[str] | Callable[[str, nn.Module], bool] | None

_MASKED = {nn.BatchNorm2d: MaskedBatchNorm2d, nn.SyncBatchNorm: MaskedSyncBatchNorm}
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Site:
    """A batch norm of a network, after which a mask may sit.

    Attributes:
        name: of the module. shape: (C, H, W) of its output. stage: counted from 0, from the input.
    """

    name: str
    shape: tuple[int, int, int]
    stage: int


def convert(
    model: nn.Module,
    example_input: Tensor,
    defects: str | Defects = "0.3-Bottom",
    where: Where = None,
    *,
    mask_seed: int = 0,
    exact_masks: bool = True,
    name: str | None = None,
    verbose: bool = True,
) -> nn.Module:
    """Put fixed random masks on the batch norms of any convolutional network, in place.

    A site is a BatchNorm2d, a SyncBatchNorm or timm's BatchNormAct2d whose output is an image;
    after it comes ``mask * BN(x)``, before an addition and the activation, as in scotoma's own
    networks. Names of parameters and buffers stay; a mask is one persistent buffer more at its site
    (below ``drop`` in a BatchNormAct2d), and moves, loads and is saved with the network.
    :func:`scotoma.kernels.fuse` afterwards makes mask, addition and ReLU one operator. Convert to
    SyncBatchNorm before; wrap and compile afterwards.

    Args:
        model: any module that takes images, on any device; trained or not.
        example_input: one or more images [N,C,H,W], as the network takes them. It runs once, in
            evaluation, for the shapes; if it is on the meta device, on a copy there, which computes
            nothing. Masks fit this size of image only.
        defects: the paper's notation. "Bottom" and "Top" are the first and the last third of the
            stages (rounded, at least one), numbers in braces are stages as they are printed. Kinds
            are neuron masks, SM and CM; DC and xN are of scotoma's own networks.
        where: which sites, in place of the region in ``defects``: names of modules, each a site or
            above some, or a function of (name, module) of a batch norm.
        mask_seed: seed of the masks: each depends on it, the network's name and the site's.
        exact_masks: exact count in each mask (True) or Bernoulli (False).
        name: of the network, "torchvision:resnet50" or "timm:regnety_016" if it was made by that
            factory, and has the same layers still: :func:`load_model` then needs no module.
            Default: the name of its class.
        verbose: print each site with stage, shape and share of neurons kept.

    Returns:
        The same module. ``model.spec`` (:class:`scotoma.defective.spec.Conversion`) describes it.

    Raises:
        UserError: the network has no such batch norm (a transformer), runs at one resolution only
            where Bottom or Top is asked for, is converted or fused already, fails on
            ``example_input``, or ``defects`` or ``where`` name what it does not have; there is no
            network ``name``.

    Source: paper section 3.1; the order of the authors' release.
    """
    _check(model, defects)
    sites, left, logits = find_sites(model, example_input)
    if isinstance(name, str) and ":" in name:
        _check_name(model, name, logits, by_layers=not example_input.is_meta)
    chosen = choose(model, sites, defects, where)
    spec = Conversion(
        name=name or type(model).__name__,
        defects=str(Defects.parse(defects)),
        input_shape=tuple(example_input.shape[1:]),
        num_classes=logits,
        mask_seed=mask_seed,
        exact_masks=exact_masks,
        stages=stages_of(sites),
        where=None if where is None else tuple(site.name for site in chosen),
    )
    # Refuses what the network does not have, before anything is changed.
    check_seed(spec)
    model_terms(spec)
    model.spec = spec
    place(model, chosen)
    if verbose:
        print(table(model, sites, left))
    return model


def _check(model, defects) -> None:
    """Refuse what is no network of others, no batch of images, or a notation of our own ones."""
    if not isinstance(model, nn.Module):
        raise UserError(f"model is of type {type(model).__name__}; expected an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            "model is of TorchScript, which is compiled; convert the module it came from"
        )
    if wrapped(model) is not None:
        raise UserError(
            f"model is a {type(model).__name__} around a {type(wrapped(model)).__name__}; convert "
            "the network inside, and wrap or compile it afterwards"
        )
    own = getattr(model, "spec", None)
    if isinstance(own, (Conversion, ModelSpec)):
        raise UserError(
            f"model is {type(model).__name__}, which is converted already, or made by create_model;"
            " scotoma.defective.resample_masks draws its masks anew"
        )
    if own is not None:
        raise UserError(
            f"model is {type(model).__name__}, whose attribute spec is a {type(own).__name__}; "
            "convert puts the network's description there: wrap it, as in nn.Sequential(model)"
        )
    check_placement(defects)


def _check_name(model: nn.Module, name: str, logits: int | None, by_layers: bool) -> None:
    """Refuse a factory that there is not, or makes another network: its files could not be loaded.

    by_layers: not where a file is being loaded, whose tensors are compared themselves.
    """
    from .models.foreign import factory, make  # which import this

    factory(name)
    if not by_layers:
        return
    with torch.device("meta"):
        made = make(name, **({} if logits is None else {"num_classes": logits})).state_dict()
    own = model.state_dict()
    for key in dict.fromkeys([*own, *made]):
        if key not in own or key not in made or own[key].shape != made[key].shape:
            raise UserError(
                f"name is {name!r}, but what that makes has another {key!r}: leave name out, and "
                "give load_model a new network as module="
            )


def wrapped(model: nn.Module) -> nn.Module | None:
    """The network in what compiles, parallelises or averages it; None for all else."""
    if isinstance(model, _WRAPPERS):
        return model.module
    return getattr(model, "_orig_mod", None)  # of torch.compile


def check_placement(defects: str | Defects) -> None:
    """Refuse a placement, which only scotoma's own networks have two of. Raises UserError."""
    sites = Defects.parse(defects).sites
    if sites is not None:
        raise UserError(
            f"defects {str(defects)!r}: @{sites} is for scotoma's own networks; leave it out"
        )


def stages_of(sites: Sequence[Site]) -> tuple[int, ...]:
    """Numbers of the stages, from the input."""
    return tuple(sorted({site.stage for site in sites}))


def find_sites(
    model: nn.Module, example_input: Tensor
) -> tuple[list[Site], dict[str, str], int | None]:
    """The sites of a network in the order in which they run, and the batch norms that are none.

    Args: as of :func:`convert`.

    Returns:
        Sites; by the names of the other batch norms the reasons; the number of logits, None if the
        network gives something else.

    Raises:
        UserError: there is no site, or the network fails on ``example_input``.
    """
    if isinstance(example_input, Tensor) and example_input.is_meta:
        model = copy.deepcopy(model).to("meta")
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
    }
    for name, module in model.named_modules():
        if isinstance(module, Masked):
            raise UserError(
                f"model is {type(model).__name__}, whose {name} has a place for a mask: it is "
                "converted already, or made of scotoma's layers"
            )
        if "_fusion" in module.__dict__:
            raise UserError(
                f"model is {type(model).__name__}, which is fused: call scotoma.kernels.unfuse, "
                "convert it, and fuse it again"
            )
    if not norms:
        raise UserError(
            f"model is {type(model).__name__}, which has no batch norm of images to mask"
            f"{other_norms(model)}"
        )
    left = {name: reason for name, norm in norms.items() if (reason := _refusal(norm))}
    _check_any(model, [name for name in norms if name not in left], left)
    if not isinstance(example_input, Tensor) or example_input.dim() != 4 or not len(example_input):
        what = type(example_input).__name__
        if isinstance(example_input, Tensor):
            what = f"a tensor of shape {list(example_input.shape)}"
        raise UserError(f"example_input is {what}; expected images [N,C,H,W], such as one batch")
    outputs: dict[str, list[tuple[int, ...]]] = {}
    hooks = []
    for name, norm in norms.items():
        if name not in left:

            def note(_module, _inputs, out, name=name):
                outputs.setdefault(name, []).append(tuple(out.shape[1:]))

            hooks.append(norm.register_forward_hook(note))
    try:
        with evaluation(model):
            out = _run_once(model, example_input)
    finally:
        for hook in hooks:
            hook.remove()
    left |= {name: "the example does not run it" for name in norms if name not in left | outputs}
    for name, shapes in list(outputs.items()):
        if len(set(shapes)) > 1 or len(shapes[0]) != 3:
            told = ", ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            left[name] = f"its outputs have shapes {told}; a mask has one, [C,H,W]"
            del outputs[name]
    shapes = {name: found[0] for name, found in outputs.items()}
    names = list(shapes)
    largest = 1
    for name in reversed(names):
        side = max(shapes[name][1:])
        if side == 1 < largest:
            left[name] = "it is between pooled vectors, not images"
            del shapes[name]
        largest = max(largest, side)
    _check_any(model, shapes, left)
    stages = _stages(model, shapes, example_input.shape[2:])
    return [Site(name, shape, stages[name]) for name, shape in shapes.items()], left, _width(out)


def _check_any(model: nn.Module, found: Collection[str], left: dict[str, str]) -> None:
    if not found:
        reasons = "; ".join(dict.fromkeys(left.values()))
        raise UserError(
            f"model is {type(model).__name__}, in which no batch norm can have a mask: {reasons}"
        )


def logits_of(model: nn.Module, example_input: Tensor) -> int | None:
    """How many logits a network gives now; None if it gives something else."""
    with evaluation(model):
        return _width(_run_once(model, example_input))


def _width(out) -> int | None:
    return out.shape[1] if isinstance(out, Tensor) and out.dim() == 2 else None


def _refusal(norm: nn.Module) -> str:
    """Why a mask cannot sit after a batch norm, by its class; nothing where it can."""
    kind = type(norm)
    if kind in _MASKED and "forward" not in norm.__dict__:
        return ""
    if kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm."):
        drop = getattr(norm, "drop", None)
        return "" if type(drop) is nn.Identity else f"its drop is a {type(drop).__name__}"
    return f"{kind.__name__} is no BatchNorm2d, SyncBatchNorm or timm's BatchNormAct2d"


@contextmanager
def evaluation(model: nn.Module):
    """Every module in evaluation for a while; then as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _run_once(model: nn.Module, example_input: Tensor):
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    example = example_input[:1].detach()
    if first is not None:
        example = example.to(first.device)
        example = example.to(first.dtype) if example.is_floating_point() else example
    devices = [example.device] if example.is_cuda else []
    # Nothing is compiled for one image. Where nothing else was, asking would import the compiler.
    compiler = "torch._dynamo" in sys.modules
    eagerly = torch.compiler.set_stance("force_eager") if compiler else nullcontext()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices), eagerly:
            return model(example)
    except Exception as error:  # anybody's forward may raise anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"example_input has shape {list(example_input.shape)}, on which "
            f"{type(model).__name__} fails: {reason}; give images of the size, the number "
            "of channels and the dtype that the network takes"
        ) from error


def _stages(
    model: nn.Module, shapes: dict[str, tuple[int, ...]], image: Sequence[int]
) -> dict[str, int]:
    """The stage of each site; see the top of this file. ``shapes`` in the order of running."""
    levels = {
        name: max(0, round(math.log2(math.prod(image) / math.prod(shape[1:])) / 2))
        for name, shape in shapes.items()
    }
    whole = {name: _level_of_block(model, name, levels) for name in levels}
    for found in (whole, levels):
        lowest, reached = 0, {}
        for name, level in found.items():
            reached[name] = lowest = max(lowest, level)
        if len(set(reached.values())) > 1:
            break
    order = sorted(set(reached.values()))
    return {name: order.index(level) for name, level in reached.items()}


def _level_of_block(model: nn.Module, name: str, levels: dict[str, int]) -> int:
    """Of a site in a block that shrinks its images once: that of the block's smaller images."""
    block = name.rpartition(".")[0]
    while block:
        inside = [level for site, level in levels.items() if site.startswith(f"{block}.")]
        if max(inside) > levels[name] and type(model.get_submodule(block)) not in _CONTAINERS:
            return max(inside) if max(inside) - min(inside) == 1 else levels[name]
        block = block.rpartition(".")[0]
    return levels[name]


def choose(model: nn.Module, sites: Sequence[Site], defects: str, where: Where) -> list[Site]:
    """The sites that may have masks, of which ``defects`` name the stages if ``where`` is None.

    Raises:
        UserError: ``where`` chooses nothing, or names what is not there; there is one stage only.
    """
    terms, defects = Defects.parse(defects).terms, str(Defects.parse(defects))
    if where is None:
        regions = [term for term in terms if isinstance(term.region, str)]
        if regions and len({site.stage for site in sites}) == 1:
            raise UserError(
                f"defects {defects!r}: all batch norms of {type(model).__name__} have images of "
                f"one size, so that it has no stages and no {regions[0].region.lower()}; name "
                "modules in where, or the stage as {0}"
            )
        return list(sites)
    if len(terms) != 1:
        raise UserError(
            f"defects {defects!r} with where: the sites in where are one region; give one term, "
            "such as 0.3-Bottom, of which the keep probability and the kind count"
        )
    if isinstance(where, str):
        raise UserError(f"where is {where!r}; expected a list: [{where!r}]")
    if not callable(where) and not isinstance(where, Collection):
        raise UserError(f"where is {where!r}; expected names of modules, or a function")
    if callable(where):
        chosen = [site for site in sites if where(site.name, model.get_submodule(site.name))]
        if not chosen:
            raise UserError("where chooses none of the sites: " + _first(sites))
        return chosen
    names = list(where)
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen = []
    for name in names:
        if name not in modules:
            hint = nearest(str(name), [n for n in modules if n])
            raise UserError(f"where names {name!r}, which {type(model).__name__} has not.{hint}")
        below = set(modules[name].modules())
        chosen.append({site for site in sites if modules[site.name] in below})
        if not chosen[-1]:
            raise UserError(
                f"where names {name!r}, in which there is no site; sites are {_first(sites)}"
            )
    if not names:
        raise UserError(f"where is empty; expected names of modules: {_first(sites)}")
    return [site for site in sites if any(site in found for found in chosen)]


def _first(sites: Sequence[Site], count: int = 6) -> str:
    more = f" and {len(sites) - count} more" if len(sites) > count else ""
    return ", ".join(site.name for site in sites[:count]) + more


def place(model: nn.Module, sites: Sequence[Site]) -> None:
    """Draw masks for those of the sites that the model's ``spec`` makes defective, in place.

    Raises UserError if there is no seed to draw from, but for a model on the meta device.
    """
    if not any(parameter.is_meta for parameter in model.parameters()):
        check_seed(model.spec)
    terms = model_terms(model)
    model.register_load_state_dict_post_hook(notice_masks)
    for site in sites:
        if site.stage not in terms:
            continue
        norm = model.get_submodule(site.name)
        holder, name = norm, site.name
        make_maskable(norm)
        if not isinstance(norm, Masked):  # timm's has a place between batch norm and activation
            holder, name = NeuronMask().train(norm.training), f"{site.name}.drop"
            norm.drop = holder
        holder.block = site.stage
        likely = norm.running_mean, norm.weight, *model.parameters()
        device = next((t.device for t in likely if t is not None), torch.device("cpu"))
        if device.type == "meta":  # a skeleton, to be filled from a checkpoint
            holder.mask = torch.empty(site.shape, dtype=torch.bool, device=device)
        else:
            holder.mask = draw_mask(model.spec, name, site.shape, terms[site.stage]).to(device)


def make_maskable(norm: nn.Module) -> None:
    """Give a BatchNorm2d or SyncBatchNorm a place for a mask; nothing to all else."""
    if type(norm) in _MASKED:
        norm.__class__ = _MASKED[type(norm)]
        norm.register_buffer("mask", None)


def table(model: nn.Module, sites: Sequence[Site], left: dict[str, str]) -> str:
    """What :func:`convert` did: a line for each mask, each batch norm that can have none, and the
    sites of each stage that have none."""
    masks, spec = mask_sites(model), model.spec
    of = {site: masks.get(site.name, masks.get(f"{site.name}.drop")) for site in sites}
    width = max(map(len, [*left, *(site.name for site in sites)]))
    lines = [
        f"{site.name:{width}}  stage {site.stage}  {'x'.join(map(str, site.shape)):>12}  "
        + ("on the meta device" if mask.is_meta else f"keeps {float(mask.float().mean()):.4f}")
        for site, mask in of.items()
        if mask is not None
    ]
    for stage in spec.stages:
        bare = [site for site, mask in of.items() if mask is None and site.stage == stage]
        if bare:
            lines.append(
                f"{bare[0].name:{width}}  stage {stage}  {counted(len(bare), 'site')} without masks"
                f" from here to {bare[-1].name}"
            )
    lines += [f"{name:{width}}  left alone: {reason}" for name, reason in left.items()]
    lines.append(
        f"{spec.name} {spec.defects}: masks at {len(masks)} of {len(sites)} sites, "
        f"seed {spec.mask_seed}"
    )
    return "\n".join(lines)
