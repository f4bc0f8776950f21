"""The paper's tables and figures, found by their names.

Another one is a file here with ``DEFINITIONS``, a list of :class:`Definition`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache

from ....defective.errors import UserError, nearest
from ..experiment import Definition


@cache
def definitions() -> dict[str, Definition]:
    """{name: definition}: tables by number, then figures by number."""
    found: dict[str, Definition] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f".{info.name}", __name__)
        for definition in getattr(module, "DEFINITIONS", ()):
            found[definition.name] = definition
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def definition(name: str) -> Definition:
    """Raises UserError if there is no such table or figure."""
    known = definitions()
    short = re.sub(r"[\s_-]+", "", name.lower())
    short = re.sub(r"^(t|tab|fig|f)(\d+)$", lambda m: _LONG[m[1][0]] + m[2], short)
    if short not in known:
        raise UserError(
            f"{name!r} is no table or figure that scotoma makes; expected one of "
            f"{', '.join(known)}.{nearest(short, known)}"
        )
    return known[short]


_LONG = {"t": "table", "f": "figure"}


def _order(name: str) -> tuple[bool, int]:
    word, number = re.fullmatch(r"([a-z]+)(\d+)", name).groups()
    return word != "table", int(number)
