"""Attacks by name, and as people write them on a command line."""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import UserError, nearest
from .base import Attack


@cache
def _find() -> dict[str, type[Attack]]:
    package = __name__.rpartition(".")[0]
    folder = importlib.import_module(package).__path__
    found: dict[str, type[Attack]] = {}
    for info in pkgutil.iter_modules(folder):
        for value in vars(importlib.import_module(f"{package}.{info.name}")).values():
            if isinstance(value, type) and issubclass(value, Attack) and value.name:
                found[value.name] = value
    return dict(sorted(found.items()))


def attack_names() -> list[str]:
    """Names that :func:`make_attack` and :func:`parse_attack` accept."""
    return list(_find())


def attack_class(name: str) -> type[Attack]:
    """Raises UserError if there is no such attack."""
    known = _find()
    if name not in known:
        raise UserError(
            f"attack {name!r} is unknown; expected one of {', '.join(known)}.{nearest(name, known)}"
        )
    return known[name]


def make_attack(name: str, settings: dict[str, Any] | None = None) -> Attack:
    """An attack from plain values, for example those of :meth:`Attack.parameters`.

    Raises:
        UserError: an unknown attack or setting, or a value of the wrong type or out of range.
    """
    kind = attack_class(name)
    types = get_type_hints(kind)
    known = [item.name for item in fields(kind)]
    checked = {}
    for key, value in (settings or {}).items():
        if key not in known:
            raise UserError(
                f"attack {name!r} has no setting {key!r}; it has {', '.join(known)}."
                f"{nearest(key, known)}"
            )
        checked[key] = _typed(name, key, value, types[key])
    return kind(**checked)


def parse_attack(text: str) -> Attack:
    """An attack from ``name`` or ``name:key=value,...``; numbers may be fractions.

    Raises:
        UserError: as :func:`make_attack`, or the text is not of this form.

    >>> str(parse_attack("fgsm:eps=8/255"))
    'fgsm:eps=8/255'
    """
    name, _, rest = text.partition(":")
    first, *others = re.findall(r"[^\s,:()]+", text) or [""]
    if name.strip() not in attack_names() and first in attack_names():
        raise UserError(f"attack {text!r}: write {first}{':' if others else ''}{','.join(others)}")
    settings = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(
                f"attack {text!r}: expected key=value, found {item!r}; write it like "
                "pgd:eps=16/255,step=1/255,steps=20"
            )
        settings[key.strip()] = value.strip()
    return make_attack(name.strip(), settings)


def _typed(attack: str, key: str, value: Any, kind: Any) -> Any:
    """A value, or its text, as the type of a setting."""
    if type(None) in get_args(kind):
        if value is None or value in ("none", "None"):
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    try:
        if kind is bool:
            return value if isinstance(value, bool) else {"true": True, "false": False}[value]
        if kind is int and isinstance(value, (str, int)):
            return int(value)
        if kind is float:
            return read_number(value) if isinstance(value, str) else float(value)
        if kind is str or get_origin(kind) is not None:  # a Literal is checked by the attack
            return str(value)
    except (KeyError, ValueError, ZeroDivisionError, TypeError):
        pass
    expected = {bool: "true or false", int: "a whole number", float: "a number, or like 8/255"}
    raise UserError(
        f"attack {attack!r}: {key} is {value!r}; expected {expected.get(kind, kind)}"
    ) from None


def read_number(text: str) -> float:
    """A number, or a fraction such as 8/255. Raises ValueError or ZeroDivisionError."""
    top, slash, bottom = text.partition("/")
    return float(top) / float(bottom) if slash else float(top)
