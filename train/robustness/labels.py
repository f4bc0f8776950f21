"""Names of targets, attacks and settings: short, and unique where they stand together."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

# The setting by which an attack is known; the others are named only where they tell two apart.
_HEADLINE = ("eps", "confidence", "sigma")


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested plain values as text, by dotted keys."""
    found = {}
    for key, value in sorted(settings.items()):
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return found


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sorting key by which eps=8/255 comes before eps=16/255."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts) if p]


def names(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{digest: name}, of several names the commonest; equal ones get their digests."""
    shown: dict[str, Counter] = {}
    for key, name in pairs:
        shown.setdefault(key, Counter())[name] += 1
    found = {k: min(c, key=lambda name: (-c[name], name)) for k, c in shown.items()}
    often = Counter(found.values())
    return {k: f"{n} ({k[:8]})" if often[n] > 1 else n for k, n in found.items()}


def paper_order(shown: dict[str, Any]) -> tuple:
    """A sorting key of a target: architecture, standard first, then the more of it is kept."""
    defects = str(shown.get("target_defects", ""))
    kept = re.search(r"\d*\.?\d+", defects)
    region = re.sub(r"[\d.]+", "", defects)
    arch = str(shown.get("target_arch", ""))
    return arch, defects != "standard", region, -float(kept[0]) if kept else 0.0


def short_attacks(texts: Sequence[str]) -> list[str]:
    """``pgd:eps=8/255,steps=10,...`` as ``pgd eps=8/255``, and the settings that differ."""
    parsed = []
    for text in texts:
        name, _, rest = text.partition(":")
        parsed.append((name, dict(item.split("=", 1) for item in rest.split(",") if "=" in item)))
    short = []
    for name, settings in parsed:
        same = [other for other_name, other in parsed if other_name == name]
        told = [
            f"{key}={value}"
            for key, value in settings.items()
            if key in _HEADLINE or len({other.get(key) for other in same}) > 1
        ]
        short.append(" ".join([name, ", ".join(told)]).strip())
    return short


def told_apart(labels: list[str], settings: list[dict]) -> list[str]:
    """Equal labels with the settings by which they differ, unless that is the attack's."""
    flattened = [flat(each) for each in settings]
    found = []
    for label, own in zip(labels, flattened, strict=True):
        same = [f for other, f in zip(labels, flattened, strict=True) if other == label]
        told = [
            f"{key.rpartition('.')[2]} {value[:24]}"
            for key, value in own.items()
            if len({other.get(key) for other in same}) > 1
        ]
        found.append(f"{label} ({', '.join(told)})" if told else label)
    return found
