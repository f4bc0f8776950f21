"""The picture of a study: a dot for each person."""

from __future__ import annotations

import hashlib

import matplotlib.style
from matplotlib.figure import Figure

from ....train import plots
from ...report.document import Picture
from .score import PAPER, Scores

_DOT, _MEAN, _PAPER = "#0072b2", "#000000", "#b84a00"


def picture(scores: Scores) -> Picture:
    """Difference a - b of every person that counts, mean and interval, zero, and the paper's mean.

    Equal for equal scores and versions of matplotlib.
    """
    mean, count = scores.difference.mean, len(scores.counted)
    alt = (
        f"Difference between choices of a and of b for each of {count} people; their mean is "
        f"{mean:.1f}, the paper's {PAPER.difference_of(scores.head['per_person']):.3g}"
    )
    return Picture("user-study.png", alt, _draw(scores), source=_source(scores))


def _draw(scores: Scores) -> Figure:
    people = sorted(scores.counted, key=lambda person: (person.difference, person.seed))
    most, of = scores.head["per_person"], scores.difference
    published = PAPER.difference_of(most)
    with matplotlib.style.context("default"):
        figure = plots.new((7.0, 1.9 + 0.17 * len(people)))
        axes = figure.subplots()
        if of.low is not None and of.high is not None:
            axes.axvspan(of.low, of.high, color="#cfcfcf", alpha=0.7, lw=0, label="95 % interval")
        axes.axvline(0, color="#777777", linewidth=1)
        axes.axvline(of.mean, color=_MEAN, linewidth=2, label=f"mean {of.mean:+.1f}")
        words = f"paper's mean {published:+.3g}"
        axes.axvline(published, color=_PAPER, linewidth=2, linestyle="--", label=words)
        for complete, label in ((True, "a person"), (False, "a person who stopped early")):
            places = [i for i, person in enumerate(people) if person.complete == complete]
            if places:
                axes.plot(
                    [people[i].difference for i in places],
                    places,
                    "o",
                    color=_DOT,
                    markerfacecolor=_DOT if complete else "white",
                    label=label,
                )
        axes.set_yticks([])
        axes.set_ylim(-0.8, len(people) - 0.2)
        largest = max(published, *(abs(person.difference) for person in people))
        axes.set_xlim(-1.12 * largest, 1.12 * largest)
        axes.set_xlabel(f"chosen from a, less chosen from b, of {most} pairs", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def _source(scores: Scores) -> str:
    """What the picture was made from: equal for equal choices."""
    choices = [(person.seed, person.a, person.b) for person in scores.people]
    digest = hashlib.sha256(repr((scores.study, choices)).encode()).hexdigest()[:32]
    return f"scotoma paper; study {digest}; matplotlib {matplotlib.__version__}"
