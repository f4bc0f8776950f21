"""Files from strangers: no larger than expected, and JSON that leaves nothing open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....defective.errors import UserError


def read(path: Path, largest: int) -> str:
    """A file's text. Raises UserError: it cannot be read, is no text, or has more bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from None
    if len(data) > largest:
        raise UserError(f"larger than {largest:,} bytes")
    try:
        # With or without the mark that some editors put before a text.
        return data.decode("utf-8-sig")
    except ValueError as error:
        raise UserError(f"no text, or damaged ({error})") from None


def parse(text: str) -> Any:
    """Raises UserError: no JSON, a name that stands twice in an object, or NaN and infinity."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"no JSON, or damaged ({' '.join(str(error).split())})") from None


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
