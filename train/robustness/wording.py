"""How results of evaluations read: percentages with intervals and N, and who defends best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DEFINITIONS = (
    "P1, the success defence rate: of the images that the target classifies correctly before the "
    "attack and whose adversarial version fools the source (right before, wrong after), the share "
    "that the target still classifies correctly. Each target has its own N.",
    "P2: of all attacked images, the share that the target classifies correctly after the attack, "
    "whatever source and target make of the originals, and whether or not the source is fooled.",
)
INTERVALS = (
    "In brackets the 95 % interval (Wilson) of the choice of images, in percent; networks trained "
    "with other seeds differ by more than that."
)
_NOTHING = "no image left (N 0)"


def percent(share: float) -> str:
    """A fraction as ``67.42 %``."""
    return f"{100 * share:.2f} %"


def rate_text(rate: Mapping[str, Any]) -> str:
    """``67.42 % [64.5, 70.2] (N 988)``."""
    if rate["rate"] is None:
        return _NOTHING
    return f"{percent(rate['rate'])} {interval(rate)} (N {rate['n']})"


def short_rate(rate: Mapping[str, Any]) -> str:
    """:func:`rate_text` for a narrow column: ``67.42 [64.5, 70.2] N 988``."""
    if rate["rate"] is None:
        return "no image left N 0"
    return f"{100 * rate['rate']:.2f} {interval(rate)} N {rate['n']}"


def interval(rate: Mapping[str, Any]) -> str:
    return f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def levels(size: float) -> str:
    """A distance of pixels in [0,1] in levels of 255, without needless digits: ``16``."""
    return f"{round(255 * size, 2):g}"


def grid_text(grid: int) -> str:
    return f"{grid}x{grid}" + (" (control)" if grid == 1 else "")


def chosen_text(cells: Iterable[Mapping[str, Any]]) -> str:
    """Which images the rates of such cells are of that count only what all targets get right."""
    names: dict[str, None] = {}
    for cell in cells:
        names |= dict.fromkeys(cell["results"]["shown"].get("right_for", ()))
    who = f"{''.join(names)} classifies" if len(names) == 1 else "all targets classify"
    if len(names) > 1:
        who = f"all of {', '.join(names)} classify"
    return (
        f"Of test images that {who} correctly when they are clean; for other targets they are "
        "other images, and the numbers change."
    )


def verdict(
    rates: Mapping[str, Mapping[str, Any]],
    relations: Mapping[str, str] | None = None,
    verb: str = "defends best",
) -> str:
    """One sentence: which target has the highest rate, and whether its interval is clear of all
    others' intervals.

    Args:
        rates: by target. relations: of some of them to the source, as
            :func:`scotoma.train.robustness.models.relation` names them; for P1 alone, where a
            target that is the source itself has 0 by definition, and a part of it little more.
    """
    left = {name: rate for name, rate in rates.items() if rate["rate"] is not None}
    if not left:
        return "no target has an image left"
    ranked = sorted(left, key=lambda name: -left[name]["rate"])
    best = ranked[0]
    share = percent(left[best]["rate"])
    if len(rates) == 1:
        return f"{best} has {share}; there is no other target to compare with"
    if len(left) == 1:
        return f"{best} has {share}; no image is left for any other target"
    rivals = [n for n in ranked[1:] if left[n]["high"] >= left[best]["low"]]
    if rivals:
        other = rivals[0]
        against = f"{other}'s {percent(left[other]['rate'])} {interval(left[other])}"
        more = f", and {len(rivals) - 1} more" if len(rivals) > 1 else ""
        return (
            f"not decidable at this N: the interval of {best}'s {share} {interval(left[best])} "
            f"meets that of {against}{more}"
        )
    second = ranked[1]
    text = f"{best} {verb}: {share}, ahead of {second}'s {percent(left[second]['rate'])} "
    text += "beyond both intervals"
    if (relations or {}).get(second) == "white-box":
        text += f" (but the attack was made on {second}'s own weights: white-box)"
    return text
