"""Evaluations, each a function from targets to cells of a store: clean images, white-box attacks,
noise, and shuffled patches. Beside them are the larger ones: transfer, boundary, stylized."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any, get_args

import torch
from torch import Tensor

from ...defective.attacks import Attack, AttackResult, GaussianNoise, Status
from ...defective.attacks.base import check_count, check_size
from ...defective.attacks.oracle import check_evaluation_mode
from ...defective.errors import UserError
from ...defective.robustness.adversarial_set import to_uint8
from ...defective.robustness.rates import (
    Rate,
    mean_over_draws,
    proportion,
    share_of,
)
from ...defective.robustness.shuffle import PAPER_GRIDS, check_grid, shuffle_patches
from ..store import Store
from .images import TestImages
from .models import NamedModel, full_precision
from .sets import Pixels, Source, keeps_batch
from .tables import levels

Advance = Callable[[int, int], None]
"""Told (images done, all) after every batch."""
Progress = Callable[[int, int, str], None]
"""Told (done, all, what is done) as an evaluation of several targets goes on."""

PRECISION = "float32"
"""Of attacks on targets, without TF32: its ten bits turn the signs of small gradients."""
PAPER_EPSILONS = tuple(level / 255 for level in (2, 4, 8, 16, 24, 32, 40, 48, 56, 64))
"""Twice the standard deviations of Figure 4, pixels in [0,1]."""
LEAST_DRAWS = 3
"""One draw, as in the paper, leaves the draw's share of a difference unseen."""


def nobody(done: int, total: int) -> None:
    """For an :data:`Advance` that nobody listens to."""


def stage(progress: Progress, before: int, total: int, text: str) -> Callable[[int], None]:
    """What to tell how much of a stage is done, where ``before`` of ``total`` came before it."""
    return lambda done: progress(before + done, total, text)


# What networks say, and what cells are called


@torch.no_grad()
def logits_of(target: NamedModel, pixels: Tensor) -> Tensor:
    """[n,K] of images [n,C,H,W] in [0,1]. Raises UserError where they are not finite: the largest
    would be a class without a word."""
    logits = target.model(pixels)
    if not bool(logits.isfinite().all()):
        raise UserError(
            f"{target.name}: its logits are not finite: its weights diverged; leave it out"
        )
    return logits


def classes_of(target: NamedModel, pixels: Tensor) -> Tensor:
    """int64 [n] on the CPU: classes of images [n,C,H,W]. Raises UserError as :func:`logits_of`."""
    return logits_of(target, pixels).argmax(1).cpu()


class CleanPredictions:
    """Classes of test images, by their numbers in the data set; computed when they are needed.

    Args:
        images: the test split. batch_size: images classified at once.
    """

    def __init__(self, images: TestImages, batch_size: int):
        self.images, self.batch_size = images, batch_size
        self._known: dict[str, Tensor] = {}

    def of(self, target: NamedModel, indices: Tensor, advance: Advance = nobody) -> Tensor:
        """int64 [n] on the CPU: the classes that ``target`` gives images ``indices`` [n]."""
        known = self._known.setdefault(
            target.digest, torch.full((len(self.images),), -1, dtype=torch.int64)
        )
        missing = indices[known[indices] < 0].unique()
        done = 0
        with full_precision():
            for part, pixels, _ in self.images.batches(missing, self.batch_size):
                known[part] = classes_of(target, pixels)
                done += len(part)
                advance(done, len(missing))
        return known[indices]

    def right_for_all(self, targets: Iterable[NamedModel], indices: Tensor) -> Tensor:
        """bool [n]: which of the images every target classifies right."""
        right = torch.ones(len(indices), dtype=torch.bool)
        for target in targets:
            right &= self.of(target, indices) == self.images.labels[indices]
        return right


def count_right(
    targets: Sequence[NamedModel],
    batches: Iterable[tuple[Sequence[Tensor], Tensor]],
    done: Callable[[int], None],
) -> list[list[Rate]]:
    """How many images each target classifies right: for each target a rate for each version.

    Args:
        batches: (versions of the same images [n,C,H,W] each, labels [n]) on the targets' device.
        done: told how many versions of images all targets have seen.
    """
    right: list[list[int]] = [[] for _ in targets]
    total = seen = 0
    with full_precision():
        for versions, labels in batches:
            for target, counts in zip(targets, right, strict=True):
                counts += [0] * (len(versions) - len(counts))
                for number, pixels in enumerate(versions):
                    counts[number] += int((classes_of(target, pixels) == labels.cpu()).sum())
            total += len(labels)
            seen += len(labels) * len(versions)
            done(seen)
    return [[proportion(k, total) for k in counts] for counts in right]


def shown_target(target: NamedModel) -> dict[str, Any]:
    """Names of a target for people: as a cell's ``results["shown"]`` begins."""
    specs = [member.spec for member in target.members]
    archs = dict.fromkeys(spec.name for spec in specs)
    defects = dict.fromkeys(str(spec.defects) for spec in specs)
    return {
        "target": target.name,
        "target_arch": "+".join(archs),
        "target_defects": "+".join(defects),
    }


def right_for(targets: Sequence[NamedModel]) -> dict[str, list[str]]:
    """For a cell's ``shown``: whom its images are right for, and so which images they are."""
    return {"right_for": [target.name for target in targets]}


def digest_of(values: Sequence[str] | Tensor) -> str:
    """A short hash of texts or of int64 numbers, for identities."""
    if isinstance(values, Tensor):
        content = values.contiguous().numpy().tobytes()
    else:
        content = "\n".join(values).encode()
    return hashlib.sha256(content).hexdigest()[:32]


def cells_of(
    kind: str,
    targets: Sequence[NamedModel],
    label: str,
    identity: dict[str, Any],
    store: Store,
    compute: Callable[[list[NamedModel]], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """A cell for each target, in their order; what is missing is computed in one pass.

    The pass counts in the first computed cell's seconds.

    Args:
        label: of what is done to the targets. identity: what determines the results beside them.
        compute: gets the targets whose cells are missing, and returns their results.
    """

    def about(target: NamedModel) -> tuple[str, str, dict[str, Any]]:
        return kind, f"{target.name}-{label}", {"target": target.digest, **identity}

    missing = [target for target in targets if not store.path(*about(target)).is_file()]
    results: list[dict[str, Any]] = []

    def of(target: NamedModel) -> dict[str, Any]:
        if not results:
            results.extend(compute(missing))
        return results[missing.index(target)]

    return [
        store.get(*about(t), partial(of, t), shown=shown_target(t) | right_for(targets))[0]
        for t in targets
    ]


def check_evaluation(targets: Sequence[NamedModel], indices: Tensor, batch_size: int) -> None:
    """Arguments of evaluations of several targets.

    Raises:
        UserError: no targets, one in training mode, no images, an image twice, or no batch size.
    """
    if not targets:
        raise UserError("no targets to evaluate; give run folders or checkpoints")
    for target in targets:
        try:
            check_evaluation_mode(target.model)
        except UserError as error:
            raise UserError(f"{target.name}: {error}") from None
    if indices.dtype != torch.int64 or indices.dim() != 1:
        raise UserError(
            f"indices is {tuple(indices.shape)} {indices.dtype}; expected int64 [N], numbers of "
            "test images"
        )
    if not len(indices):
        names = ", ".join(target.name for target in targets)
        raise UserError(f"no images to evaluate on: is there any that all of {names} get right?")
    if len(indices.unique()) != len(indices):
        raise UserError("indices has a test image twice; expected each once")
    check_count("batch_size", batch_size)


# Clean images


def evaluate_clean(
    target: NamedModel,
    images: TestImages,
    store: Store,
    *,
    clean: CleanPredictions,
    fingerprint: str | None = None,
    advance: Advance = nobody,
) -> dict[str, Any]:
    """The cell of a target's accuracy on the whole test split.

    Args:
        fingerprint: of the whole split, where it is known already.
    """
    every = torch.arange(len(images))
    identity = {
        "target": target.digest,
        "data": images.data.name,
        "images": fingerprint or images.fingerprint(every),
    }

    def compute() -> dict[str, Any]:
        return {"accuracy": share_of(clean.of(target, every, advance) == images.labels)}

    return store.get("clean", target.name, identity, compute, shown=shown_target(target))[0]


# Targets attacked themselves, with all that is known of them


def evaluate_white_box(
    target: NamedModel | Source,
    attack: Attack,
    images: TestImages,
    indices: Tensor,
    store: Store,
    *,
    batch_size: int,
    advance: Advance = nobody,
) -> dict[str, Any]:
    """The cell of one attack on one target; an image's key in the attack is its index.

    ``robust_accuracy`` is the share of all images that are classified right before the attack and
    after it; ``defence`` the same share of those that were classified right before it (the paper's
    Table 12).

    Args:
        target: the model, or a :class:`Source` in float32 to keep its CUDA graphs over attacks.
        indices: int64 [N], numbers in the test split.

    Returns:
        A cell with further results ``forwards_mean`` and ``backwards_mean`` (passes an image),
        ``median_l2`` and ``median_linf`` (of the images that the attack turned, pixels in [0,1];
        None where it turned none) and ``statuses`` ({name: number of images}).

    Raises:
        UserError: a model that cannot be attacked, or settings that do not fit the images.
    """
    source = target if isinstance(target, Source) else Source(target, PRECISION)
    if source.precision != PRECISION:
        raise UserError(f"the source's precision is {source.precision}; expected {PRECISION}")
    model = source.model
    identity = {
        "target": model.digest,
        "attack": attack.parameters(),
        "images": images.fingerprint(indices),
        "indices": digest_of(indices),
        "precision": PRECISION,
    }

    def compute() -> dict[str, Any]:
        results: list[dict[str, Tensor]] = []
        done = 0
        with full_precision(keeps_batch(attack)):
            for part, pixels, labels in images.batches(indices, batch_size):
                try:
                    result = attack(source.oracle(attack), pixels, labels, keys=part)
                except UserError as error:
                    raise UserError(f"{model.name}, {attack}: {error}") from None
                results.append(_of_batch(result, pixels))
                done += len(part)
                advance(done, len(indices))
        return _results(results, images.labels[indices])

    shown = shown_target(model) | {"attack": str(attack)}
    label = f"{model.name}-{attack.name}"
    return store.get("white-box", label, identity, compute, shown=shown)[0]


def _of_batch(result: AttackResult, pixels: Tensor) -> dict[str, Tensor]:
    """All but the images, on the CPU, and the distances from the originals: float [n,2], Euclidean
    and largest."""
    delta = (result.images.float() - pixels).flatten(1)
    found = {"distances": torch.stack([delta.norm(dim=1), delta.abs().amax(1)], 1)}
    for name in ("predictions", "clean_predictions", "status", "forwards", "backwards"):
        found[name] = getattr(result, name)
    return {name: tensor.cpu() for name, tensor in found.items()}


def _results(results: list[dict[str, Tensor]], labels: Tensor) -> dict[str, Any]:
    every = {name: torch.cat([part[name] for part in results]) for name in results[0]}
    after = every["predictions"] == labels
    before = every["clean_predictions"] == labels
    turned = every["distances"][before & ~after]
    medians = turned.double().quantile(0.5, dim=0).tolist() if len(turned) else (None, None)
    counts = torch.bincount(every["status"].long(), minlength=len(Status)).tolist()
    return {
        "robust_accuracy": share_of(after & before),
        "defence": share_of(after, among=before),
        "forwards_mean": float(every["forwards"].double().mean()),
        "backwards_mean": float(every["backwards"].double().mean()),
        "median_l2": medians[0],
        "median_linf": medians[1],
        "statuses": {Status(i).name.lower(): n for i, n in enumerate(counts) if n},
    }


# Gaussian noise: the paper's Figure 4


def evaluate_noise(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    store: Store,
    *,
    epsilons: Sequence[float] = PAPER_EPSILONS,
    draws: int = LEAST_DRAWS,
    seed: int = 0,
    pixels: Pixels = "uint8",
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A cell for each epsilon and target: accuracy on images with noise of sigma = epsilon / 2.

    The noise is clipped at 2 sigma and added, with the same sigma in every channel (the release
    scales it by the smallest channel's standard deviation, and makes the others' up to 1.5 %
    stronger). All targets see the same noisy images. An image's noise depends on its number and on
    the draw's seed, and is the same pattern at each epsilon.

    ``accuracy`` counts each image once, with the mean of its draws
    (:func:`scotoma.defective.robustness.rates.mean_over_draws`); ``per_draw`` has a rate a draw.

    Args:
        indices: int64 [N], numbers of test images that all targets classify right.
        epsilons: pixels in [0,1]. draws: noisy copies of each image, at least 3.
        seed: of the first draw; the others' are the numbers after it.
        pixels: "uint8" rounds the noisy images to 256 levels, "float" leaves them.
        progress: told (images done, all, text), where an image counts once for each draw.

    Returns:
        Cells in the order of epsilons, then of targets.

    Raises:
        UserError: a setting out of range, or no images. What was finished before is kept.
    """
    check_evaluation(targets, indices, batch_size)
    if not len(epsilons):
        raise UserError("epsilons is empty; expected at least one, such as 8/255")
    for epsilon in epsilons:
        check_size("epsilons", epsilon)
    check_count("draws", draws, LEAST_DRAWS)
    check_count("seed", seed, 0)
    if pixels not in get_args(Pixels):
        raise UserError(f"pixels is {pixels!r}; expected one of {', '.join(get_args(Pixels))}")
    each, found = draws * len(indices), []
    chosen = {"images": images.fingerprint(indices), "indices": digest_of(indices)}
    for number, epsilon in enumerate(epsilons):
        noises = [GaussianNoise(sigma=epsilon / 2, seed=s) for s in range(seed, seed + draws)]
        text = f"noise of {levels(epsilon)}/255"
        done = stage(progress, number * each, each * len(epsilons), text)
        identity = {
            "sigma": noises[0].sigma,
            "limit": noises[0].limit,
            "tails": noises[0].tails,
            "seeds": [noise.seed for noise in noises],
            "pixels": pixels,
            **chosen,
        }

        def compute(
            missing: list[NamedModel], noises=noises, done=done, epsilon=epsilon
        ) -> list[dict[str, Any]]:
            batches = _noisy(images, indices, noises, pixels, batch_size)
            return [
                {"accuracy": mean_over_draws(rates), "per_draw": rates, "epsilon": epsilon}
                for rates in count_right(missing, batches, done)
            ]

        found += cells_of("noise", targets, levels(epsilon), identity, store, compute)
        done(each)
    return found


def _noisy(
    images: TestImages,
    indices: Tensor,
    noises: Sequence[GaussianNoise],
    pixels: Pixels,
    batch_size: int,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """(a noisy copy [n,C,H,W] for each noise, labels [n]); originals are loaded once."""
    for part, clean, labels in images.batches(indices, batch_size):
        copies = [noise.noisy(clean, part.to(clean.device)) for noise in noises]
        if pixels == "uint8":
            copies = [to_uint8(copy).float() / 255 for copy in copies]
        yield copies, labels


# Shuffled patches: the paper's Tables 1 and 13


def evaluate_shuffle(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    store: Store,
    *,
    grids: Sequence[int] = PAPER_GRIDS,
    seed: int = 0,
    confidence: float | None = None,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A cell for each grid and target: accuracy on images cut into grid x grid shuffled patches.

    An image's order of patches depends on its number and the seed, so all targets see the same
    images. The release takes the first 4000 images in the order of the classes, and so a part of
    the classes; here the caller chooses.

    Args:
        indices: int64 [N], numbers of test images that all targets classify right.
        grids: patches along a side; 1 is the control, and has to give what clean images give.
        seed: of the orders. confidence: if given, only images count to whose class every target's
            softmax gives at least this (the release: 0.99).
        progress: told (images done, all, text), where an image counts once for each grid.

    Returns:
        Cells in the order of grids, then of targets.

    Raises:
        UserError: a grid that does not divide the images' side, a setting out of range, or no
            image of this confidence. What was finished before is kept.
    """
    check_evaluation(targets, indices, batch_size)
    if not len(grids):
        raise UserError("grids is empty; expected at least one, such as 2")
    for grid in grids:
        check_grid(grid, images.data.image_size)
    check_count("seed", seed, 0)
    if confidence is not None and not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}; expected a probability between 0 and 1")
    identity = {
        "seed": seed,
        "images": images.fingerprint(indices),
        "indices": digest_of(indices),
    }
    if confidence is not None:
        identity["confidence"] = confidence
        # Which images are left depends on all targets, not only on the cell's own.
        identity["images_confident_for"] = digest_of(sorted(t.digest for t in targets))

    @cache
    def chosen() -> Tensor:
        if confidence is None:
            return indices
        return _confident(targets, images, indices, confidence, batch_size)

    found, count = [], len(indices)
    for number, grid in enumerate(grids):
        done = stage(progress, number * count, len(grids) * count, f"patches {grid}x{grid}")

        def compute(missing: list[NamedModel], grid=grid, done=done) -> list[dict[str, Any]]:
            batches = (
                ([shuffle_patches(clean, grid, seed, part)], labels)
                for part, clean, labels in images.batches(chosen(), batch_size)
            )
            rates = count_right(missing, batches, done)
            return [{"accuracy": rate, "grid": grid} for (rate,) in rates]

        found += cells_of("shuffle", targets, str(grid), {"grid": grid, **identity}, store, compute)
        done(count)
    return found


def _confident(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    confidence: float,
    batch_size: int,
) -> Tensor:
    """Those of the indices to whose class each target's softmax gives at least ``confidence``."""
    found = []
    with full_precision():
        for part, clean, labels in images.batches(indices, batch_size):
            sure = torch.ones_like(labels, dtype=torch.bool)
            for target in targets:
                shares = logits_of(target, clean).float().softmax(1)
                sure &= shares.gather(1, labels[:, None])[:, 0] >= confidence
            found.append(part[sure.cpu()])
    kept = torch.cat(found)
    if not len(kept):
        names = ", ".join(target.name for target in targets)
        raise UserError(
            f"confidence is {confidence}; none of {len(indices):,} images is recognised so surely "
            f"by all of {names}: lower it"
        )
    return kept
