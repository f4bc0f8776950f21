"""Evaluations, each a function from targets to cells of a store: clean images, white-box attacks,
noise, and shuffled patches. Beside them are the larger ones: transfer, boundary, stylized."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...defective.attacks import Attack, AttackResult, GaussianNoise, Status
from ...defective.errors import UserError
from ...defective.robustness.adversarial_set import to_uint8
from ...defective.robustness.rates import (
    Rate,
    mean_over_draws,
    outcomes_of,
    proportion,
    share_of,
)
from ...defective.robustness.shuffle import PAPER_GRIDS, shuffle_patches
from ..store import Store
from .images import TestImages
from .models import NamedModel, full_precision
from .sets import Source, keeps_batch
from .tables import levels

Progress = Callable[[int, int, str], None]
"""Told (images done, all, what is done, or "" for as before) as an evaluation goes on."""

PRECISION = "float32"
"""Of attacks on targets, without TF32: its ten bits turn the signs of small gradients."""
PAPER_EPSILONS = tuple(level / 255 for level in (2, 4, 8, 16, 24, 32, 40, 48, 56, 64))
"""Twice the standard deviations of Figure 4, pixels in [0,1]."""


def nobody(done: int, total: int, text: str) -> None:
    """A :data:`Progress` that nobody listens to."""


def stage(progress: Progress, before: int, total: int, text: str) -> Callable[[int], None]:
    """What to tell how much of a stage is done, where ``before`` of ``total`` came before it."""
    return lambda done: progress(before + done, total, text)


# What networks say, and what cells are called


@torch.no_grad()
def classes_of(target: NamedModel, pixels: Tensor) -> Tensor:
    """int64 [n] on the CPU: classes of images [n,C,H,W] in [0,1]. Raises UserError where logits are
    not finite: the largest would be a class without a word."""
    logits = target.model(pixels)
    if not bool(logits.isfinite().all()):
        raise UserError(
            f"{target.name}: its logits are not finite: its weights diverged; leave it out"
        )
    return logits.argmax(1).cpu()


class CleanPredictions:
    """Classes of test images, by their numbers in the data set; computed when they are needed."""

    def __init__(self, images: TestImages, batch_size: int):
        self.images, self.batch_size = images, batch_size
        self._known: dict[str, Tensor] = {}

    def of(self, target: NamedModel, indices: Tensor, progress: Progress = nobody) -> Tensor:
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
                progress(done, len(missing), "")
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
    found, total, seen = [], 0, 0  # of each batch [targets, versions]
    with full_precision():
        for versions, labels in batches:
            true = labels.cpu()
            right = [[classes_of(t, v) == true for v in versions] for t in targets]
            found.append([[int(each.sum()) for each in row] for row in right])
            total, seen = total + len(labels), seen + len(labels) * len(versions)
            done(seen)
    return [[proportion(k, total) for k in row] for row in torch.tensor(found).sum(0).tolist()]


def shown_target(target: NamedModel) -> dict[str, Any]:
    """Names of a target for people: as a cell's ``results["shown"]`` begins."""
    specs = [member.spec for member in target.members]
    return {
        "target": target.name,
        "target_arch": "+".join(dict.fromkeys(spec.name for spec in specs)),
        "target_defects": "+".join(dict.fromkeys(str(spec.defects) for spec in specs)),
    }


def shown_targets(target: NamedModel, targets: Sequence[NamedModel]) -> dict[str, Any]:
    """With whom the images are right for, and so which images they are."""
    return shown_target(target) | {"right_for": [each.name for each in targets]}


def digest_of(values: Sequence[str] | Tensor) -> str:
    """A short hash of texts or of int64 numbers, for identities."""
    if isinstance(values, Tensor):
        content = values.contiguous().numpy().tobytes()
    else:
        content = "\n".join(values).encode()
    return hashlib.sha256(content).hexdigest()[:32]


def which(images: TestImages, indices: Tensor) -> dict[str, str]:
    """The part of an identity that says which images a cell is about."""
    return {"images": images.fingerprint(indices), "indices": digest_of(indices)}


def cells_of(
    kind: str,
    targets: Sequence[NamedModel],
    label: str,
    identity: dict[str, Any],
    store: Store,
    compute: Callable[[list[NamedModel]], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """A cell for each target, in their order; what is missing is computed in one pass, which
    counts in the first computed cell's seconds.

    Args:
        label: of what is done to the targets. identity: what determines the results beside them.
        compute: gets the targets whose cells are missing, and returns their results.
    """
    abouts = [(kind, f"{t.name}-{label}", {"target": t.digest, **identity}) for t in targets]
    pairs = list(zip(targets, abouts, strict=True))
    missing = [target for target, about in pairs if not store.path(*about).is_file()]

    @cache
    def computed() -> dict[str, dict[str, Any]]:
        return dict(zip([t.digest for t in missing], compute(missing), strict=True))

    return [
        store.get(*about, lambda t=t: computed()[t.digest], shown=shown_targets(t, targets))[0]
        for t, about in pairs
    ]


# Clean images


def evaluate_clean(
    target: NamedModel,
    images: TestImages,
    store: Store,
    *,
    clean: CleanPredictions,
    progress: Progress = nobody,
) -> dict[str, Any]:
    """The cell of a target's accuracy on the whole test split."""
    every = torch.arange(len(images))
    identity = {
        "target": target.digest,
        "data": images.data.name,
        "images": images.fingerprint(every),
    }

    def compute() -> dict[str, Any]:
        right = clean.of(target, every, progress) == images.labels
        return {"accuracy": share_of(right), "outcomes": outcomes_of(right)}

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
    progress: Progress = nobody,
) -> dict[str, Any]:
    """The cell of one attack on one target; an image's key in the attack is its index.

    ``robust_accuracy`` is the share of all images that are classified right before the attack and
    after it; ``defence`` the same share of those that were classified right before it (the paper's
    Table 12).

    Args:
        target: the model, or a :class:`Source` in float32 to keep its CUDA graphs over attacks.
        indices: int64 [N], numbers in the test split.

    Returns:
        A cell with further results ``outcomes`` (of ``defence``), ``forwards_mean`` and
        ``backwards_mean`` (passes an image), ``median_l2`` and ``median_linf`` (of the images that
        the attack turned, pixels in [0,1]; None where it turned none) and ``statuses`` ({name:
        number of images}).

    Raises:
        UserError: a model that cannot be attacked, or settings that do not fit the images.
    """
    source = target if isinstance(target, Source) else Source(target, PRECISION)
    model = source.model
    identity = {
        "target": model.digest,
        "attack": attack.parameters(),
        **which(images, indices),
        "precision": PRECISION,
    }

    def compute() -> dict[str, Any]:
        results: list[dict[str, Tensor]] = []
        done = 0
        with full_precision(keeps_batch(attack)):
            for part, pixels, labels in images.batches(indices, batch_size):
                results.append(_of_batch(source.attacked(attack, pixels, labels, part), pixels))
                done += len(part)
                progress(done, len(indices), "")
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
    return {
        "robust_accuracy": share_of(after & before),
        "defence": share_of(after, among=before),
        "outcomes": outcomes_of(after, before),
        "forwards_mean": float(every["forwards"].double().mean()),
        "backwards_mean": float(every["backwards"].double().mean()),
        "median_l2": medians[0],
        "median_linf": medians[1],
        "statuses": count_statuses(every["status"]),
    }


def count_statuses(statuses: Tensor) -> dict[str, int]:
    """{name: number of images} of those that there are."""
    counts = torch.bincount(statuses.long(), minlength=len(Status)).tolist()
    return {Status(i).name.lower(): n for i, n in enumerate(counts) if n}


# Gaussian noise: the paper's Figure 4


def evaluate_noise(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    store: Store,
    *,
    epsilons: Sequence[float] = PAPER_EPSILONS,
    draws: int = 3,
    seed: int = 0,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A cell for each epsilon and target: accuracy on images with noise of sigma = epsilon / 2.

    The noise is clipped at 2 sigma and added, with the same sigma in every channel (the release
    scales it by the smallest channel's standard deviation, and makes the others' up to 1.5 %
    stronger); then images are rounded to 256 levels. All targets see the same images. An image's
    noise depends on its number and on the draw's seed, and is the same pattern at each epsilon.

    ``accuracy`` counts each image once, with the mean of its draws
    (:func:`scotoma.defective.robustness.rates.mean_over_draws`); ``per_draw`` has a rate a draw.

    Args:
        indices: int64 [N], numbers of test images that all targets classify right.
        epsilons: pixels in [0,1]. draws: noisy copies of each image; one, as in the paper, would
            leave the draw's share of a difference unseen.
        seed: of the first draw; the others' are the numbers after it.
        progress: an image counts once for each draw.

    Returns:
        Cells in the order of epsilons, then of targets.
    """
    each, found, chosen = draws * len(indices), [], which(images, indices)

    def noisy(noises: list[GaussianNoise]):
        for part, clean, labels in images.batches(indices, batch_size):
            copies = (noise.noisy(clean, part.to(clean.device)) for noise in noises)
            yield [to_uint8(copy).float() / 255 for copy in copies], labels

    for number, epsilon in enumerate(epsilons):
        noises = [GaussianNoise(sigma=epsilon / 2, seed=s) for s in range(seed, seed + draws)]
        text = f"noise of {levels(epsilon)}/255"
        done = stage(progress, number * each, each * len(epsilons), text)
        identity = {
            "sigma": noises[0].sigma,
            "limit": noises[0].limit,
            "tails": noises[0].tails,
            "seeds": [noise.seed for noise in noises],
            "pixels": "uint8",
            **chosen,
        }

        def compute(missing: list[NamedModel], epsilon=epsilon, noises=noises, done=done):
            return [
                {"accuracy": mean_over_draws(rates), "per_draw": rates, "epsilon": epsilon}
                for rates in count_right(missing, noisy(noises), done)
            ]

        found += cells_of("noise", targets, levels(epsilon), identity, store, compute)
        done(each)
    return found


# Shuffled patches: the paper's Tables 1 and 13


def evaluate_shuffle(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    store: Store,
    *,
    grids: Sequence[int] = PAPER_GRIDS,
    seed: int = 0,
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
        progress: an image counts once for each grid.

    Returns:
        Cells in the order of grids, then of targets.

    Raises UserError for a grid that does not divide the images' side.
    """

    found, count, chosen = [], len(indices), which(images, indices)
    for number, grid in enumerate(grids):
        done = stage(progress, number * count, len(grids) * count, f"patches {grid}x{grid}")
        identity = {"grid": grid, "seed": seed, **chosen}

        def compute(missing: list[NamedModel], grid=grid, done=done):
            batches = (
                ([shuffle_patches(clean, grid, seed, part)], labels)
                for part, clean, labels in images.batches(indices, batch_size)
            )
            return [{"accuracy": r, "grid": grid} for (r,) in count_right(missing, batches, done)]

        found += cells_of("shuffle", targets, str(grid), identity, store, compute)
        done(count)
    return found
