"""Results of evaluations as frames, and as tables on a terminal or a page of Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as ScreenTable
from rich.text import Text

from ...defective.errors import UserError
from ..pages import Inline, Markup, Page, code, joined

if TYPE_CHECKING:  # half a second, which only who makes tables is to wait for
    from pandas import DataFrame, Series

Cell = dict[str, Any]
Parts = dict[str, "DataFrame"]
"""By label, the rows of one thing done to the images."""

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
_SECTIONS = {
    "White-box": "Robust accuracy is the share of all images that the target classifies correctly "
    "after the attack on itself; passes are means over all images, distances medians over those "
    "that the attack turns.",
    "Decision-based score": "The squared Euclidean distance of the adversarial image divided by "
    "the number of its values, pixels in [0,1] (Brendel et al., 2018); higher is more robust. A "
    "score is of the N images that the attack turned.",
    "Gaussian noise": "N counts images, each with the mean of its draws of the noise.",
    "Shuffled patches": "Of images whose patches, a grid of k x k, are put in a random order.",
}
# The results that a cell of a kind must have.
_REQUIRED = {
    "clean": ("accuracy",),
    "transfer": ("defence", "defence_all", "relation"),
    "white-box": ("robust_accuracy", "defence", "median_l2", "median_linf"),
    "boundary": ("score_median", "score_mean", "n", "statuses"),
    "noise": ("accuracy", "epsilon"),
    "shuffle": ("accuracy", "grid"),
    "stylized": ("accuracy",),
}
# What else cells of transfer may have, and what it is.
_FURTHER = {
    "defence_unrounded": "P1 with fooling judged before the rounding to 8 bit",
    "same_wrong_class": "share of the images of P1 to which the target gives the source's wrong "
    "class",
}
# Columns of numbers: head, result, and how it is written.
_NUMBERS = {
    "white-box": (
        ("of those correct before", "defence", dict),
        ("forward passes", "forwards_mean", "{:.1f}".format),
        ("backward passes", "backwards_mean", "{:.1f}".format),
        ("median L2", "median_l2", "{:.4f}".format),
        ("median Linf / 255", "median_linf", lambda size: f"{255 * size:.2f}"),
    ),
    "boundary": (
        ("median score", "score_median", "{:.3g}".format),
        ("mean score", "score_mean", "{:.3g}".format),
        ("N", "n", str),
        ("images by status", "statuses", lambda counts: _listed(counts)),
        ("forward passes", "forwards_mean", "{:.1f}".format),
    ),
}


# Numbers and names as text


def rate_text(rate: Mapping[str, Any]) -> str:
    """``67.42 % [64.5, 70.2] (N 988)``."""
    if rate["rate"] is None:
        return "no image left (N 0)"
    return f"{_percent(rate)} {interval(rate)} (N {rate['n']})"


def interval(rate: Mapping[str, Any]) -> str:
    """``[64.5, 70.2]``, in percent."""
    return f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def _percent(rate: Mapping[str, Any]) -> str:
    return f"{100 * rate['rate']:.2f} %"


def levels(size: float) -> str:
    """A distance of pixels in [0,1] in levels of 255, without needless digits: ``16``."""
    return f"{round(255 * size, 2):g}"


def grid_text(grid: int) -> str:
    return f"{grid}x{grid}" + (" (control)" if grid == 1 else "")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())).replace("_", " ")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested plain values as text, by dotted keys."""
    found = {}
    for key, value in sorted(settings.items()):
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return found


def written(attack: str) -> tuple[str, dict[str, str]]:
    """Name and settings of ``pgd:eps=8/255,steps=10``."""
    name, _, rest = attack.partition(":")
    return name, dict(item.split("=", 1) for item in rest.split(",") if "=" in item)


def natural(text: str) -> list[str | float]:
    """A sorting key by which eps=8/255 comes before eps=16/255."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)  # every other one is a number
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def verdict(
    rates: Mapping[str, Mapping[str, Any]],
    relations: Mapping[str, str] | None = None,
    verb: str = "defends best",
) -> str:
    """One sentence: which target has the highest rate, and whether its interval is clear of all
    others' intervals.

    ``relations`` of targets to the source are for P1 alone, where a target that is the source
    itself has 0 by definition, and a part of it little more.
    """
    left = {name: rate for name, rate in rates.items() if rate["rate"] is not None}
    if not left:
        return "no target has an image left"
    best, *others = sorted(left, key=lambda name: -left[name]["rate"])
    share = _percent(left[best])
    if not others:
        why = "there is no other target to compare with"
        if len(rates) > 1:
            why = "no image is left for any other target"
        return f"{best} has {share}; {why}"
    rivals = [name for name in others if left[name]["high"] >= left[best]["low"]]
    second = (rivals or others)[0]
    theirs = _percent(left[second])
    if rivals:
        more = f", and {len(rivals) - 1} more" if len(rivals) > 1 else ""
        return (
            f"not decidable at this N: the interval of {best}'s {share} {interval(left[best])} "
            f"meets that of {second}'s {theirs} {interval(left[second])}{more}"
        )
    text = f"{best} {verb}: {share}, ahead of {second}'s {theirs} beyond both intervals"
    if (relations or {}).get(second) == "white-box":
        text += f" (but the attack was made on {second}'s own weights: white-box)"
    return text


# Frames


def frame(cells: Iterable[Cell]) -> DataFrame:
    """A row a cell, in an order that depends on nothing but what is in them: targets as in the
    paper's tables, by architecture, the standard network first, then the more of it is kept.

    Returns:
        Columns "kind"; "target" and "source", of which two networks of one name are called by their
        digests too; "attack", its text; "settings", everything that determines the row but the
        target; and the results by their names, missing ones NaN. No columns without a cell.

    Raises UserError for a cell without a result that its kind must have.
    """
    import pandas as pd

    rows = []
    for cell in sorted(cells, key=lambda cell: json.dumps(cell, sort_keys=True)):
        kind, identity, results = cell["kind"], cell["identity"], cell["results"]
        shown = results.get("shown", {})
        missing = [name for name in _REQUIRED.get(kind, ()) if name not in results]
        missing += ["shown.target"] * ("target" not in shown)
        if missing:
            raise UserError(
                f"cell {cell.get('label', '')!r} ({kind}): its results lack {missing[0]!r}; remove "
                "its file and evaluate again"
            )
        settings = _without(identity, "target", "images_common")
        loose = _without(settings, "indices", "images", "fingerprint")
        row = {
            "kind": kind,
            "attack": shown.get("attack", ""),
            "settings": settings,
            "strict": json.dumps(settings, sort_keys=True),
            "loose": json.dumps(loose, sort_keys=True),
            "common": identity.get("images_common", ""),
        }
        for role, of in (("target", identity), ("source", identity.get("set", {}))):
            row[role] = shown.get(role) or ""
            key = "".join(str(value) for name, value in of.items() if name.startswith(role))
            row[f"{role}_key"] = key or row[role]
        rows.append(results | row)
    found = pd.DataFrame(rows, dtype=object)
    if found.empty:
        return found
    for role in ("target", "source"):
        names = found.groupby(f"{role}_key")[role].agg(lambda shown: shown.mode()[0])
        often = names.duplicated(keep=False)
        names[often] = [f"{name} ({key[:8]})" for key, name in names[often].items()]
        found[role] = found[f"{role}_key"].map(names)
    last = found.groupby("target").shown.last()
    ranked = sorted(last.index, key=lambda name: (_paper_order(last[name]), natural(name)))
    return found.sort_values("target", key=lambda names: names.map(ranked.index), kind="stable")


def _without(values: Mapping[str, Any], *beginnings: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith(beginnings)}


def _paper_order(shown: Mapping[str, Any]) -> tuple:
    arch, defects = (str(shown.get(f"target_{name}", "")) for name in ("arch", "defects"))
    kept = re.search(r"\d*\.?\d+", defects)
    region = re.sub(r"[\d.]+", "", defects)
    return arch, defects != "standard", region, -float(kept[0]) if kept else 0.0


def columns(found: DataFrame, kind: str) -> Parts:
    """What each thing done to the images (an attack from a source, a noise) did to each target.

    Returns:
        By a label that is short and unique, sorted by source and attack: the rows of this kind in
        order, with the target as index and the attack's short name as "short".
    """
    rows = found[found.kind == kind] if len(found) else found
    if rows.empty:
        return {}
    # Where each target was attacked on images of its own, the choice of images does not part them;
    # rates of images that all targets get right never mix.
    right_for_all = kind in ("boundary", "noise", "shuffle", "stylized")
    apart = right_for_all or rows.duplicated(["loose", "target"]).any()
    groups = [group for _, group in rows.groupby("strict" if apart else "loose")]
    # ``pgd:eps=8/255,steps=10,...`` is ``pgd eps=8/255``, and the settings that differ.
    attacks, options = zip(*(written(group.attack.iat[0]) for group in groups), strict=True)
    usual = {"clean": "clean accuracy", "stylized": "accuracy"}.get(kind, kind)
    shorts, labels = [], []
    told = _differing(options, attacks, always=("eps", "confidence", "sigma"))
    for group, attack, more in zip(groups, attacks, told, strict=True):
        words = ", ".join(f"{key}={value}" for key, value in more.items())
        shorts.append(f"{attack} {words}".strip())
        labels.append(" from ".join(filter(None, (shorts[-1], group.source.iat[0]))) or usual)
    settings = [flat(group.settings.iat[0]) for group in groups]
    found = []
    told = _differing(settings, labels)
    for group, short, label, more in zip(groups, shorts, labels, told, strict=True):
        words = [f"{key.rpartition('.')[2]} {value[:24]}" for key, value in more.items()]
        label += f" ({', '.join(words)})" if words else ""
        part = group.drop_duplicates("target", keep="last").set_index("target")
        found.append((natural(part.source.iat[0]), natural(label), label, part.assign(short=short)))
    made: Parts = {}
    for _, _, label, part in sorted(found, key=lambda each: each[:2]):
        while label in made:
            label += " *"
        made[label] = part
    return made


def _differing(
    settings: Sequence[Mapping[str, str]], names: Sequence[str], always: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Of each its settings that differ among those of its name."""
    found = []
    for own, name in zip(settings, names, strict=True):
        same = [each for each, other in zip(settings, names, strict=True) if other == name]
        differ = {key for key in own if len({each.get(key) for each in same}) > 1}
        found.append({k: v for k, v in own.items() if k in always or k in differ})
    return found


def series(
    found: DataFrame, kind: str, result: str, setting: str
) -> list[tuple[dict[str, Any], dict[Any, DataFrame]]]:
    """Columns that differ in one ``setting`` alone: (the others, {its value, a result: rows})."""
    groups: dict[str, dict[Any, DataFrame]] = {}
    for part in columns(found, kind).values():
        rest = {k: v for k, v in part.settings.iat[0].items() if k not in (setting, result)}
        groups.setdefault(json.dumps(rest, sort_keys=True), {})[part[result].iat[0]] = part
    return [(json.loads(rest), dict(sorted(groups[rest].items()))) for rest in sorted(groups)]


# Tables


@dataclass
class Table:
    """Targets as rows, or attacks.

    Attributes:
        frame: of rates, which may have a "mark"; words; or None. notes: sentences below.
        settings: what was done in full, for the page. brief: whether it is for the terminal too.
        stacked: whether its columns are many, with intervals below rates.
    """

    section: str
    title: str
    frame: DataFrame
    notes: Sequence[str] = ()
    settings: Sequence[Inline] = ()
    brief: bool = True
    stacked: bool = False


def tables(cells: Iterable[Cell]) -> list[Table]:
    """Every table of an evaluation, in order; equal for equal cells. Raises UserError as
    :func:`frame`."""
    import pandas as pd

    found, made = frame(cells), []
    if found.empty:
        return made

    def add(section: str, title: str, values: Mapping[str, Any], *notes: str, **more) -> None:
        """Columns side by side; those without a value are left out."""
        values = {head: column for head, column in values.items() if len(column)}
        if values:
            wide = pd.DataFrame(values, dtype=object)
            order = [name for name in dict.fromkeys(found.target) if name in wide.index]
            made.append(Table(section, title, wide.reindex(order), notes, **more))

    def picked(parts: Parts, result: str) -> dict[str, Series]:
        """A result that cells may lack."""
        return {label: part[result].dropna() for label, part in parts.items() if result in part}

    clean, transfer = columns(found, "clean"), columns(found, "transfer")
    first, verdicts = picked(clean, "accuracy"), []
    for label, part in transfer.items():
        marks = zip(part.defence, part.relation, strict=True)
        first[label] = pd.Series(
            [rate | {"mark": mark.replace("transfer", "")} for rate, mark in marks], part.index
        )
        verdicts.append(f"{label}: {verdict(dict(part.defence), dict(part.relation))}.")
    section, title = "Clean accuracy", ""
    if transfer:
        also = "clean accuracy (of all test images) and " if clean else ""
        section, title = "Transfer", f"{also}success defence rate (P1)"
    add(section, title, first, *verdicts, settings=_settings(clean | transfer))
    add("Transfer", "all images (P2)", picked(transfer, "defence_all"))
    # Each group of targets that was measured together, on what all of them classify right.
    common = found[found.defence_common.notna()] if "defence_common" in found else found[:0]
    together = [(list(dict.fromkeys(rows.target)), rows) for _, rows in common.groupby("common")]
    for names, rows in sorted(together, key=lambda pair: (-len(pair[0]), pair[0])):
        title = f"P1 on the images that all of {', '.join(names)} classify correctly"
        add("Transfer", title, picked(columns(rows, "transfer"), "defence_common"), brief=False)
    for result, title in _FURTHER.items():
        add("Transfer", title, picked(transfer, result), brief=False)
    # The same for all targets.
    fooled = {k: v.iat[0] for k, v in picked(transfer, "fooled_source").items() if len(v)}
    if fooled:
        title = "of the images that the source classifies correctly, the share on which it is"
        rates = pd.DataFrame({"source fooled": fooled}, dtype=object).rename_axis("attack")
        made.append(Table("Transfer", f"{title} fooled", rates, brief=False))
    white_box = columns(found, "white-box")
    robust = picked(white_box, "robust_accuracy")
    verdicts = [f"{label}: {verdict(dict(v), verb='is best')}." for label, v in robust.items()]
    title = "robust accuracy, of all images that were attacked"
    add("White-box", title, robust, *verdicts, settings=_settings(white_box))
    for label, part in white_box.items():
        title = f"passes and distances of {label}"
        add("White-box", title, _numbers(part, "white-box"), brief=False)
    for label, part in columns(found, "boundary").items():
        notes, scores = _chosen([part]), _numbers(part, "boundary")
        add("Decision-based score", f"by {label}", scores, notes, settings=_settings({label: part}))
    noisy = "accuracy by epsilon = 2 sigma in levels of 255"
    for section, title, how, text in (
        ("Gaussian noise", noisy, ("noise", "epsilon", "sigma"), levels),
        ("Shuffled patches", "accuracy", ("shuffle", "grid", "k"), grid_text),
    ):
        for fixed, group in series(found, *how):
            rates = {text(value): part.accuracy for value, part in group.items()}
            told = [(f"{key} ", code(value)) for key, value in flat(fixed).items()]
            more = {"settings": [joined(told or ["none"], ", ")], "stacked": True}
            add(section, title, rates, _chosen(group.values()), **more)
    for label, part in columns(found, "stylized").items():
        notes, settings = _chosen([part]), _settings({label: part})
        add("Stylised images", "accuracy", {label: part.accuracy}, notes, settings=settings)
    return made


def _numbers(part: DataFrame, kind: str) -> dict[str, Series]:
    """By head, numbers as text; None where there is none."""
    there = [column for column in _NUMBERS[kind] if column[1] in part]
    return {head: part[result].dropna().map(text) for head, result, text in there}


def _chosen(parts: Iterable[DataFrame]) -> str:
    """Which images the rates of such rows are of that count only what all targets get right."""
    shown = [each for part in parts for each in part.shown]
    names = list(dict.fromkeys(name for each in shown for name in each.get("right_for", ())))
    who = f"all of {', '.join(names)} classify" if names else "all targets classify"
    who = f"{names[0]} classifies" if len(names) == 1 else who
    return (
        f"Of test images that {who} correctly when they are clean; for other targets they are "
        "other images, and the numbers change."
    )


def _settings(parts: Parts) -> list[Inline]:
    """What was done in full, one line a column; several values of one setting are joined."""
    lines = []
    for label, part in parts.items():
        values: dict[str, list[str]] = {}
        for key, value in chain(*(flat(settings).items() for settings in part.settings)):
            values.setdefault(key.removeprefix("set."), []).append(value)
        told = _without(values, "attack.")  # whose text is there
        told = {key: ", ".join(dict.fromkeys(each)) for key, each in told.items()}
        first = part.iloc[0]
        words: list[Inline] = [code(first.attack)] if first.attack else []
        if first.source:
            words.append((f"source {first.source} ", code(told.pop("source", ""))))
        if first.kind == "transfer":
            words.append(f"{first.defence_all['n']} images")
        words += [(f"{key} ", code(value)) for key, value in told.items()]
        lines.append((f"{label}: ", joined(words or ["no settings"], ", ")))
    return lines


def markdown(cells: Iterable[Cell]) -> str:
    """A page with a section for each kind of result that there is; equal for equal cells."""

    def on_page(entry: Any) -> Inline | None:
        if not isinstance(entry, dict):
            return entry
        text = Markup(rate_text(entry))
        return (text, f", {entry['mark']}") if entry.get("mark") else text

    page, section = Page("Robustness"), ""
    for table in tables(cells):
        if table.section != section:
            section = table.section
            page.heading(section)
            page.bullets(DEFINITIONS if section == "Transfer" else ())
            if section in _SECTIONS:
                page.paragraph(_SECTIONS[section])
        if table.title:
            page.paragraph(f"{table.title[0].upper()}{table.title[1:]}:")
        page.table(table.frame.map(on_page).rename_axis(table.frame.index.name or "target"))
        page.bullets(table.notes)
        if table.settings:
            page.paragraph("Settings:")
            page.bullets(table.settings)
    page.paragraph(INTERVALS if section else "No results.")
    return page.markdown()


def console_tables(cells: Iterable[Cell]) -> list[RenderableType]:
    """The tables that are brief, as ``screen.show`` prints them, with the verdicts below."""
    return [_on_terminal(table) for table in tables(cells) if table.brief]


def _on_terminal(table: Table) -> RenderableType:
    entries = [entry for row in table.frame.itertuples(index=False) for entry in row]
    rates = [entry for entry in entries if isinstance(entry, dict)]
    title = ": ".join(filter(None, (table.section, table.title))) + (", %" if rates else "")
    look = {"title_justify": "left", "box": SIMPLE_HEAD, "pad_edge": False}
    made = ScreenTable(title=Text(title, style="bold"), **look)
    made.add_column("target", overflow="fold", max_width=28)
    look = {"justify": "right", "overflow": "fold", "max_width": 14 if table.stacked else 30}
    for name in table.frame.columns:
        made.add_column(Text(name), **look)
    notes, counts = list(table.notes), {rate["n"] for rate in rates}
    once = table.stacked and len(counts) == 1
    if once:
        notes[0] = f"N {counts.pop()} each. {notes[0]}"
    for name, *row in table.frame.itertuples():
        made.add_row(Text(name), *(Text(_on_screen(e, table.stacked, not once)) for e in row))
    return Group(made, *(Text(f"{note}\n") for note in notes))


def _on_screen(entry: Any, stacked: bool, counted: bool) -> str:
    """``67.42 [64.5, 70.2] N 988``, in lines where it is stacked."""
    if not isinstance(entry, dict):
        return entry if isinstance(entry, str) else "-"
    parts = ["no image left", "N 0"]
    if entry["rate"] is not None:
        parts = [f"{100 * entry['rate']:.2f}", interval(entry)]
        parts += [f"N {entry['n']}"] if counted else []
    text = ("\n" if stacked else " ").join(parts)
    return f"{text}\n{entry['mark']}" if entry.get("mark") else text
