"""What a study's images were made from, by its settings, and whether that is what the paper asked.

Settings of results come from strangers: any JSON values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..budgets import BUDGETS
from .limits import shown

ROLES = ("cifar10", "tiny-imagenet")
"""The data sets of the paper's study."""
_MOST = 4
"""Data sets that are named."""


def why_apart(settings: Mapping[str, Any]) -> str:
    """Why the study decides nothing about the paper's; "" where it may.

    What settings do not name is not held against them: studies may be made in Python.
    """
    if "budget" in settings:
        name = settings["budget"]
        budget = BUDGETS.get(name) if isinstance(name, str) else None
        if budget is None:
            return f"the budget {_word(name)} is none that this version knows"
        if not budget.decides:
            return (
                f"the budget {budget.name} trains small networks on other images: what people see "
                "in those says nothing about the paper's"
            )
    data = settings.get("data", {})
    if not isinstance(data, Mapping):
        return f"the data are said to be {_word(data)}, which no study says"
    # A folder may hold the paper's images; another named data set does not.
    others = {role: label for role, label in data.items() if not _papers(role, label)}
    if others:
        return f"the images are other ones than the paper's ({_listed(others, 'in place of')})"
    return ""


def told(settings: Mapping[str, Any]) -> str:
    """Budget and data, in two sentences."""
    budget = _word(settings["budget"]) if "budget" in settings else "not named"
    data = settings.get("data")
    if isinstance(data, Mapping):
        data = _listed(data, "as")
    elif data is not None:
        data = _word(data)
    return f"Budget: {budget}. Data: {data or 'not named'}."


def _papers(role: str, label: object) -> bool:
    return role in ROLES and label in (role, "folder")


def _listed(data: Mapping[str, Any], between: str) -> str:
    found = [f"{_word(label)} {between} {_word(role)}" for role, label in data.items()]
    return ", ".join(found[:_MOST] + ["..."] * (len(found) > _MOST))


def _word(value: object) -> str:
    """A plain name as it is, anything else so that it stands apart from our words."""
    plain = isinstance(value, str) and value.isascii() and value.replace("-", "a").isalnum()
    return value if plain and len(value) <= 60 else shown(value)
