"""Names of classes for people, where a data set has only numbers of WordNet."""

from __future__ import annotations

import re
from pathlib import Path

from ....train.datasets import default_root
from ..graph.context import Context
from ..graph.data import Data

_WORDNET = re.compile(r"n\d{8}")
WORDS = "tiny-imagenet-200/words.txt"
"""Comes with Tiny-ImageNet: a number and its synonyms a line."""


def class_names(data: Data, context: Context) -> tuple[str, ...]:
    """The classes of a data set in their order, with names that are words where those are known.

    Raises:
        UserError: the data set cannot be read.
    """
    loaded = context.images(data).data
    classes = loaded.classes
    if not all(_WORDNET.fullmatch(name) for name in classes):
        return classes
    if loaded.name == "imagenet":
        from torchvision.models import ResNet18_Weights

        known = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
        return tuple(known) if len(known) == len(classes) else classes
    if loaded.name == "tiny-imagenet":
        root = Path(data.root) if data.root else default_root()
        words = _words(root / "tiny-imagenet" / WORDS)
        return tuple(words.get(name, name) for name in classes)
    return classes


def _words(path: Path) -> dict[str, str]:
    """{number: the first of its synonyms}; empty if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    split = (line.partition("\t") for line in lines)
    return {number: words.split(",")[0].strip() for number, _, words in split if words.strip()}
