"""Results of evaluations as frames, and as tables on a terminal or a page of Markdown."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as ScreenTable
from rich.text import Text

from ...defective.errors import UserError
from ...defective.serialization import atomic_path
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
_RATES = ("accuracy", "defence", "defence_all", "robust_accuracy")
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
        ("images by status", "statuses", lambda counts: _listed(counts, " ").replace("_", " ")),
        ("forward passes", "forwards_mean", "{:.1f}".format),
    ),
}
# Kinds whose images are chosen among those that all targets classify right.
_RIGHT_FOR_ALL = ("boundary", "noise", "shuffle", "stylized")
# How the settings begin that say which images a cell is about.
_IMAGES = ("indices", "images", "fingerprint")
# The setting by which an attack is known; the others are named only where they tell two apart.
_HEADLINE = ("eps", "confidence", "sigma")


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


def _listed(pairs: Mapping[str, Any], between: str) -> str:
    return ", ".join(f"{key}{between}{value}" for key, value in sorted(pairs.items()))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
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
    best, *others = sorted(left, key=lambda name: -left[name]["rate"])
    share = _percent(left[best])
    if not others:
        why = "there is no other target to compare with"
        if len(rates) > 1:
            why = "no image is left for any other target"
        return f"{best} has {share}; {why}"
    rivals = [name for name in others if left[name]["high"] >= left[best]["low"]]
    if rivals:
        other = left[rivals[0]]
        more = f", and {len(rivals) - 1} more" if len(rivals) > 1 else ""
        return (
            f"not decidable at this N: the interval of {best}'s {share} {interval(left[best])} "
            f"meets that of {rivals[0]}'s {_percent(other)} {interval(other)}{more}"
        )
    text = f"{best} {verb}: {share}, ahead of {others[0]}'s {_percent(left[others[0]])} "
    text += "beyond both intervals"
    if (relations or {}).get(others[0]) == "white-box":
        text += f" (but the attack was made on {others[0]}'s own weights: white-box)"
    return text


# Frames


def frame(cells: Iterable[Cell]) -> DataFrame:
    """A row a cell, in an order that depends on nothing but what is in them.

    Targets stand as in the paper's tables: by architecture, the standard network first, then the
    more of it is kept.

    Args:
        cells: of an evaluation's store, in any order.

    Returns:
        Columns "kind"; "target" and "source", of which two networks of one name are called by their
        digests too; "attack", its text; "settings", everything that determines the row but the
        target; and the results by their names, missing ones NaN. No columns without a cell.

    Raises:
        UserError: a cell without a result that its kind must have.
    """
    import pandas as pd

    rows = []
    for cell in sorted(cells, key=lambda cell: json.dumps(cell, sort_keys=True)):
        _check(cell)
        shown = cell["results"]["shown"]
        identity = copy.deepcopy(cell["identity"])
        settings = {
            k: v for k, v in identity.items() if not k.startswith(("target", "images_common"))
        }
        loose = {k: v for k, v in settings.items() if not k.startswith(_IMAGES)}
        row = {
            "kind": cell["kind"],
            "attack": shown.get("attack", ""),
            "settings": settings,
            "strict": json.dumps(settings, sort_keys=True),
            "loose": json.dumps(loose, sort_keys=True),
            "common": identity.get("images_common", ""),
        }
        for role in ("target", "source"):
            row[role] = shown.get(role) or ""
            row[f"{role}_key"] = _key(identity, role, row[role])
        rows.append(cell["results"] | row)
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


def _check(cell: Cell) -> None:
    kind, results = cell["kind"], cell["results"]
    required = ("shown", *_REQUIRED.get(kind, ()))
    missing = [name for name in required if name not in results]
    if not missing and "target" not in results["shown"]:
        missing = ["shown.target"]
    for name, value in results.items():
        if isinstance(value, dict) and "rate" in value:
            missing += [f"{name}.{key}" for key in ("k", "n", "low", "high") if key not in value]
        elif name in _RATES and name in required:
            missing.append(name)
    if missing:
        raise UserError(
            f"cell {cell.get('label', '')!r} ({kind}): its results lack {missing[0]!r}; remove its "
            "file and evaluate again"
        )


def _key(identity: Mapping[str, Any], role: str, name: str) -> str:
    """The digest of a target or source; its name where the identity has none."""
    if role == "source" and not name:
        return ""
    if role == "source" and isinstance(identity.get("set"), dict):
        identity = identity["set"]
    found = [str(value) for key, value in identity.items() if key.startswith(role)]
    return "".join(found) if found else str(name)


def _paper_order(shown: Mapping[str, Any]) -> tuple:
    defects = str(shown.get("target_defects", ""))
    kept = re.search(r"\d*\.?\d+", defects)
    region = re.sub(r"[\d.]+", "", defects)
    arch = str(shown.get("target_arch", ""))
    return arch, defects != "standard", region, -float(kept[0]) if kept else 0.0


def columns(found: DataFrame, kind: str) -> Parts:
    """What each thing done to the images (an attack from a source, a noise) did to each target.

    Args:
        found: rows of :func:`frame`. kind: of the rows that are asked for.

    Returns:
        By a label that is short and unique, sorted by source and attack: the rows in order, with
        the target as index and the attack's short name as "short".
    """
    rows = found[found.kind == kind] if len(found) else found
    if rows.empty:
        return {}
    # Where each target was attacked on images of its own, the choice of images does not part them;
    # rates of images that all targets get right never mix.
    mixed = kind in _RIGHT_FOR_ALL or rows.duplicated(["loose", "target"]).any()
    groups = [group for _, group in rows.groupby("strict" if mixed else "loose")]
    # ``pgd:eps=8/255,steps=10,...`` is ``pgd eps=8/255``, and the settings that differ.
    names, options = zip(*(_parsed(group.attack.iat[0]) for group in groups), strict=True)
    sources = [group.source.iat[0] for group in groups]
    usual = {"clean": "clean accuracy", "stylized": "accuracy"}.get(kind, kind)
    shorts, labels = [], []
    for name, more, source in zip(
        names, _differing(options, names, _HEADLINE), sources, strict=True
    ):
        words = ", ".join(f"{key}={value}" for key, value in more.items())
        shorts.append(f"{name} {words}".strip())
        labels.append(" from ".join(filter(None, (shorts[-1], source))) or usual)
    settings = [flat(group.settings.iat[0]) for group in groups]
    for i, more in enumerate(_differing(settings, tuple(labels))):
        words = [f"{key.rpartition('.')[2]} {value[:24]}" for key, value in more.items()]
        labels[i] += f" ({', '.join(words)})" if words else ""
    made: Parts = {}
    for i in sorted(range(len(groups)), key=lambda i: (natural(sources[i]), natural(labels[i]))):
        label = labels[i]
        while label in made:
            label += " *"
        part = groups[i].drop_duplicates("target", keep="last").set_index("target")
        made[label] = part.assign(short=shorts[i])
    return made


def _parsed(attack: str) -> tuple[str, dict[str, str]]:
    """Name and settings of ``pgd:eps=8/255,steps=10``."""
    name, _, rest = attack.partition(":")
    return name, dict(item.split("=", 1) for item in rest.split(",") if "=" in item)


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
    """Columns that differ in one setting alone, together: (other settings, {value: rows}).

    Args:
        result: that holds the value to sort by. setting: its key in the settings.
    """
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
        frame: its entries are rates, which may have a "mark"; words; or None.
        notes: sentences below. settings: what was done in full, for the page.
        brief: whether it is for the terminal too. stacked: whether its columns are many, with
            intervals below rates.
    """

    section: str
    title: str
    frame: DataFrame
    notes: Sequence[str] = ()
    settings: Sequence[Inline] = ()
    brief: bool = True
    stacked: bool = False


def tables(cells: Iterable[Cell]) -> list[Table]:
    """Every table of an evaluation, in order; equal for equal cells.

    Raises:
        UserError: a cell without a result that its kind must have.
    """
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
    title = "clean accuracy (of all test images) and " if clean else ""
    title = f"{title}success defence rate (P1)" if transfer else ""
    section = "Transfer" if transfer else "Clean accuracy"
    add(section, title, first, *verdicts, settings=_settings(clean | transfer))
    add("Transfer", "all images (P2)", picked(transfer, "defence_all"))
    # Each group of targets that was measured together, on what all of them classify right.
    common = found[found.defence_common.notna()] if "defence_common" in found else found[:0]
    together = [(list(dict.fromkeys(rows.target)), rows) for _, rows in common.groupby("common")]
    for names, rows in sorted(together, key=lambda pair: (-len(pair[0]), pair[0])):
        title = f"P1 on the images that all of {', '.join(names)} classify correctly"
        add("Transfer", title, picked(columns(rows, "transfer"), "defence_common"), brief=False)
    title = "P1 with fooling judged before the rounding to 8 bit"
    add("Transfer", title, picked(transfer, "defence_unrounded"), brief=False)
    title = "share of the images of P1 to which the target gives the source's wrong class"
    add("Transfer", title, picked(transfer, "same_wrong_class"), brief=False)
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
        scores, more = _numbers(part, "boundary"), {"settings": _settings({label: part})}
        add("Decision-based score", f"by {label}", scores, _chosen([part]), **more)
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
        more = {"settings": _settings({label: part})}
        add("Stylised images", "accuracy", {label: part.accuracy}, _chosen([part]), **more)
    return made


def _numbers(part: DataFrame, kind: str) -> dict[str, Series]:
    """By head, numbers as text; None where there is none."""
    found = {head: part[result].dropna() for head, result, _ in _NUMBERS[kind] if result in part}
    texts = {head: text for head, _, text in _NUMBERS[kind]}
    return {head: values.map(texts[head]) for head, values in found.items()}


def _chosen(parts: Iterable[DataFrame]) -> str:
    """Which images the rates of such rows are of that count only what all targets get right."""
    shown = [each for part in parts for each in part.shown]
    names = list(dict.fromkeys(name for each in shown for name in each.get("right_for", ())))
    who = f"{names[0]} classifies" if len(names) == 1 else "all targets classify"
    if len(names) > 1:
        who = f"all of {', '.join(names)} classify"
    return (
        f"Of test images that {who} correctly when they are clean; for other targets they are "
        "other images, and the numbers change."
    )


def _settings(parts: Parts) -> list[Inline]:
    """What was done in full, one line a column; several values of one setting are joined."""
    import pandas as pd

    lines = []
    for label, part in parts.items():
        values = pd.DataFrame([flat(settings) for settings in part.settings])
        told = {
            key.removeprefix("set."): ", ".join(values[key].dropna().unique())
            for key in values
            if not key.removeprefix("set.").startswith("attack.")  # whose text is there
        }
        first = part.iloc[0]
        words: list[Inline] = [code(first.attack)] if first.attack else []
        if first.source:
            words.append((f"source {first.source} ", code(told.pop("source", ""))))
        if first.kind == "transfer":
            words.append(f"{first.defence_all['n']} images")
        words += [(f"{key} ", code(value)) for key, value in told.items()]
        lines.append((f"{label}: ", joined(words or ["no settings"], ", ")))
    return lines


# Pages and terminals


def write_tables(cells: Iterable[Cell], folder: Path) -> str:
    """:func:`markdown` of cells, also written to table.md in the folder (made if need be).

    Raises:
        UserError: a cell without a result that its kind must have. OSError: it cannot be written.
    """
    text = markdown(cells)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def markdown(cells: Iterable[Cell]) -> str:
    """A page with a section for each kind of result that there is; equal for equal cells.

    Args:
        cells: of an evaluation's store, in any order.

    Raises:
        UserError: a cell without a result that its kind must have.
    """
    page, section = Page("Robustness"), ""
    for table in tables(cells):
        if table.section != section:
            section = table.section
            page.heading(section)
            if section == "Transfer":
                page.bullets(DEFINITIONS)
            elif section in _SECTIONS:
                page.paragraph(_SECTIONS[section])
        if table.title:
            page.paragraph(f"{table.title[0].upper()}{table.title[1:]}:")
        page.table(table.frame.map(_on_page).rename_axis(table.frame.index.name or "target"))
        page.bullets(table.notes)
        if table.settings:
            page.paragraph("Settings:")
            page.bullets(table.settings)
    page.paragraph(INTERVALS if section else "No results.")
    return page.markdown()


def _on_page(entry: Any) -> Inline | None:
    if not isinstance(entry, dict):
        return entry
    text = Markup(rate_text(entry))
    return (text, f", {entry['mark']}") if entry.get("mark") else text


def console_tables(cells: Iterable[Cell]) -> list[RenderableType]:
    """The tables that are brief, as ``screen.show`` prints them, with the verdicts below.

    Rates are in percent, with their 95 % intervals and N. Long names are folded, never cut.

    Raises:
        UserError: a cell without a result that its kind must have.
    """
    return [_on_terminal(table) for table in tables(cells) if table.brief]


def _on_terminal(table: Table) -> RenderableType:
    entries = [entry for row in table.frame.itertuples(index=False) for entry in row]
    rates = [entry for entry in entries if isinstance(entry, dict)]
    title = ": ".join(filter(None, (table.section, table.title))) + (", %" if rates else "")
    look = {"title_justify": "left", "box": SIMPLE_HEAD, "pad_edge": False}
    made = ScreenTable(title=Text(title, style="bold"), **look)
    made.add_column("target", overflow="fold", max_width=28)
    for name in table.frame.columns:
        width = 14 if table.stacked else 30
        made.add_column(Text(name), justify="right", overflow="fold", max_width=width)
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
