"""Files of settings: recipes that ship with scotoma, and a user's own YAML."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ..defective.errors import UserError, nearest
from .config import TrainConfig

RECIPES = Path(__file__).parent / "recipes"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of settings. Raises UserError on a missing file, bad YAML or an unknown key."""
    import yaml

    if not path.is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    known = [item.name for item in fields(TrainConfig)]
    renamed = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise UserError(f"{path}: unknown key {str(key)!r}.{nearest(name, known)}")
        renamed[name] = value
    return renamed


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    if name not in recipe_names():
        known = recipe_names()
        raise UserError(
            f"recipe {name!r} is unknown; expected one of {', '.join(known)}.{nearest(name, known)}"
        )
    return read_yaml(RECIPES / f"{name}.yaml")


def recipe_for(dataset: str) -> str:
    """The recipe that a data set gets unless one is named."""
    return {
        "sample": "quick",
        "mnist": "paper-mnist",
        "fashion-mnist": "paper-mnist",
        "imagenet": "imagenet",
    }.get(dataset, "fast-cifar10")
