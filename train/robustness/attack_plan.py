"""What ``scotoma attack`` can do, and what it is about to do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields

from ...defective.attacks import Attack, attack_class, attack_names
from ...defective.errors import counted
from ..distributed import device_name
from ..screen import wrapped
from .images import TestImages
from .models import NamedModel
from .sampling import Sample


def plan(
    sample: Sample,
    images: TestImages,
    attacks: Sequence[Attack],
    pixels: str,
    precision: str,
    batch_size: int,
) -> list[str]:
    """Everything that the numbers depend on, so that no default stays unseen."""
    names = ", ".join(model.name for model in sample.correct_for)
    every = "is" if len(sample.correct_for) == 1 else "all are"
    lines = [
        f"{len(sample):,} of the {counted(len(images), 'test image')} of {images.data.name}: the "
        f"first of a shuffle (seed {sample.seed}) on which {names} {every} right"
    ]
    if len(sample) < sample.asked:
        lines.append(
            f"  {sample.asked:,} were asked for, but there are only {len(sample):,}: all are taken"
        )
    lines.append(
        "  pixels    rounded to the nearest of 256 levels; the source is asked again after it"
        if pixels == "uint8"
        else "  pixels    float, not rounded"
    )
    lines.append(
        "  precision float32 without TF32"
        if precision == "float32"
        else f"  precision {precision} autocast in attacks; verdicts are in float32 without TF32"
    )
    lines.append(f"  device    {device_name(images.device)}, batches of {batch_size}")
    lines += [f"  attack    {attack}" for attack in attacks]
    near = [a.name for a in attacks if a.name in ("cw-l2", "boundary")]
    if pixels == "uint8" and near:
        lines.append(
            f"  hint      {' and '.join(dict.fromkeys(near))} may end just past the boundary, and "
            "rounding may carry images back: compare fooled with the statuses, which are before "
            "rounding; --pixels float keeps them, for cw-l2 a confidence does too"
        )
    return lines + _copies(sample.correct_for)


def _copies(models: Sequence[NamedModel]) -> list[str]:
    """Warnings of networks that are one under two names."""
    paths: dict[str, set[str]] = {}
    for member in (member for model in models for member in model.members):
        paths.setdefault(member.digest, set()).add(member.path)
    return [
        f"warning: {' and '.join(sorted(same))} hold the same weights: they are one network"
        for same in paths.values()
        if len(same) > 1
    ]


def attack_list() -> str:
    """All attacks with their settings, defaults and what they mean."""
    blocks, width = [], shutil.get_terminal_size().columns
    for name in attack_names():
        kind = attack_class(name)
        purpose = (kind.__doc__ or "").strip().splitlines()[0]
        lines = [wrapped(f"{name}: {purpose}", width)]
        written = dict(w.split("=", 1) for w in str(kind()).partition(":")[2].split(",") if w)
        for item in fields(kind):
            default = written.get(item.name, "none")
            told = item.metadata.get("help", "")
            lines.append(wrapped(f"  {item.name:16} {default:9} {told}", width, 29))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
