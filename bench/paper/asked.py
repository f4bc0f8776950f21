"""From options to a setup: budget, data and seeds, checked before any work."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from ...defective.errors import UserError, nearest
from ...train.datasets import DATASETS
from .budgets import BUDGETS, ROLES, DataPlan
from .data import Data, SampleFolder, folder_content, named_content
from .setup import MEMBER_SEED, Setup

SAMPLE_FOLDER = "sample-folder"


def read_setup(arguments: argparse.Namespace, roles: Iterable[str]) -> Setup:
    """The setup that the options ask for, with the data of ``roles``.

    Raises:
        UserError: a number out of range, an unknown role, or a folder that is not there.
    """
    for name, least in (("seeds", 1), ("first_seed", 0), ("batch_size", 1), ("workers", 0)):
        value = getattr(arguments, name, least)
        if value < least:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {value}; expected {least} or more")
    count = getattr(arguments, "seeds", 1)
    last = arguments.first_seed + count - 1
    if last >= MEMBER_SEED:
        raise UserError(
            f"--first-seed {arguments.first_seed} and --seeds {count} reach seed {last}; "
            f"expected seeds below {MEMBER_SEED}: from there on they are of ensembles' members"
        )
    budget = BUDGETS[arguments.budget]
    places = _places(getattr(arguments, "data", []))
    stylized = _place(getattr(arguments, "stylized", ""))
    content = folder_content(Path(stylized), "--stylized") if stylized else ""
    root = _place(getattr(arguments, "data_root", "")) or None
    data = {
        role: _data(
            role, budget.data[role], places.get(role), root, arguments.download, stylized, content
        )
        for role in ROLES
        if role in set(roles)
    }
    seeds = tuple(range(arguments.first_seed, last + 1))
    return Setup(budget, data, seeds, getattr(arguments, "images", "common"))


def _place(text: str) -> str:
    """As all processes understand it, wherever they run; "" stays."""
    return str(Path(text).expanduser().absolute()) if text else ""


def _places(texts: list[str]) -> dict[str, str]:
    """{role: place} of --data."""
    found: dict[str, str] = {}
    for text in texts:
        role, equals, place = text.partition("=")
        if not equals or not place:
            raise UserError(f"--data {text}: expected ROLE=PLACE, such as cifar10=images/cifar10")
        if role not in ROLES:
            raise UserError(
                f"--data {text}: {role!r} is none of the paper's data sets; expected one of "
                f"{', '.join(ROLES)}.{nearest(role, ROLES)}"
            )
        if role in found:
            raise UserError(f"--data {text}: {role} is given twice")
        found[role] = place
    return found


def _data(
    role: str,
    plan: DataPlan,
    place: str | None,
    root: str | None,
    download: bool,
    stylized: str,
    stylized_content: str,
) -> Data:
    common = {
        "role": role,
        "image_size": plan.image_size,
        "train_limit": plan.train_limit,
        "root": root,
        "download": download,
    }
    if role == "imagenet":
        common |= {"stylized": stylized, "stylized_content": stylized_content}
    dataset = place or plan.dataset
    if dataset == SAMPLE_FOLDER:
        return Data(dataset="", made_by=SampleFolder(1500, 400), **common)
    if dataset in DATASETS:
        return Data(dataset=dataset, content=named_content(dataset, root), **common)
    folder = _place(dataset)
    content = folder_content(Path(folder), f"--data {role}")
    return Data(dataset=folder, content=content, **common)
