"""The user study's results: statistics, what is counted, verdicts, the report."""

import copy
import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from scotoma.bench.paper.study import intervals, origin, people, report, verdict
from scotoma.bench.paper.study.score import MINIMUM, read_results, score
from scotoma.bench.report import html, markdown
from scotoma.bench.report.document import Picture, Table, walk
from scotoma.defective.errors import UserError
from study_pairs import result, saved, study

HOSTILE = "</td><script>alert(1)</script> **b** | $x$ [red]\x1b[2J"
SEEDS = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


# --- Statistics.

# 97.5 % and 95 % quantiles of printed tables.
T_TABLE = [
    (1, 12.706, 6.314), (2, 4.303, 2.920), (3, 3.182, 2.353), (4, 2.776, 2.132),
    (5, 2.571, 2.015), (9, 2.262, 1.833), (10, 2.228, 1.812), (12, 2.179, 1.782),
    (19, 2.093, 1.729), (30, 2.042, 1.697), (60, 2.000, 1.671), (120, 1.980, 1.658),
]  # fmt: skip


@pytest.mark.parametrize("degrees, two_sided, one_sided", T_TABLE)
def test_t_quantiles_of_the_table(degrees, two_sided, one_sided):
    assert intervals.t_quantile(0.975, degrees) == pytest.approx(two_sided, abs=5.1e-4)
    assert intervals.t_quantile(0.95, degrees) == pytest.approx(one_sided, abs=5.1e-4)
    assert intervals.t_quantile(0.5, degrees) == pytest.approx(0, abs=1e-12)


def test_t_quantiles_beside_scipy():
    scipy = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    for degrees in (1, 2, 3, 4, 7, 12, 101, 1000):
        for p in (0.6, 0.9, 0.975, 0.9995):
            expected = scipy.t.ppf(p, degrees)
            assert intervals.t_quantile(p, degrees) == pytest.approx(expected, rel=1e-10)
    for more, less in ((13, 0), (10, 3), (3, 10), (5, 5), (0, 0), (40, 61)):
        expected = scipy.binomtest(more, more + less).pvalue if more + less else 1.0
        assert intervals.sign_test(more, less) == pytest.approx(expected, rel=1e-10)


def test_sign_test_by_hand():
    assert intervals.sign_test(13, 0) == 2 / 2**13 == intervals.sign_test(0, 13)
    assert intervals.sign_test(5, 1) == 2 * 7 / 64
    assert intervals.sign_test(3, 3) == 1.0 == intervals.sign_test(0, 0)


def test_mean_interval_by_hand():
    found = intervals.mean_interval([1.0, 2.0, 3.0, 6.0])
    half = 3.182446 * math.sqrt((4 + 1 + 0 + 9) / 3 / 4)
    assert (found.mean, found.n, found.sign) == (3.0, 4, 0)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert intervals.mean_interval([2.0]) == intervals.Interval(2.0, None, None, 1)
    assert intervals.mean_interval([2.0]).sign == 0
    assert intervals.mean_interval([2.0, 2.0]).sign == 1
    assert intervals.mean_interval([-2.0, -2.0]).sign == -1
    assert intervals.mean_interval([0.0, 0.0]).sign == 0


# --- Counting.


def scored(tmp_path, asked, *results, **options):
    return score(read_results(saved(tmp_path, *results), asked), **options)


def test_the_papers_study(tmp_path):
    """13 people who choose 32 of 50 from the defective source, as many more as the paper says."""
    asked = study(70, 50)
    chosen = [32] * 9 + [30, 34, 31, 33]
    found = scored(tmp_path, asked, *(result(asked, n, a) for n, a in enumerate(chosen)))
    assert [(p.a, p.b, p.difference) for p in found.people] == [
        (a, 50 - a, 2 * a - 50) for a in chosen
    ]
    assert found.prefer == (13, 0, 0) and found.sign_p == 2 / 2**13
    assert found.difference.mean == 14 and found.difference.n == 13
    spread = math.sqrt((16 + 16 + 4 + 4) / 12 / 13) * 2.178813
    assert found.difference.low == pytest.approx(14 - spread, abs=1e-5)
    assert found.share.mean == pytest.approx(0.64) and found.pooled == (13 * 32, 650)
    assert found.share.high == pytest.approx(0.64 + spread / 100, abs=1e-6)
    assert found.verdict == verdict.SUPPORTED and found.notes == ()


def test_people_who_stopped_early(tmp_path):
    """Scaled to all pairs, flagged, and left out below the minimum."""
    asked = study(70, 50)
    files = [
        result(asked, 0, 40),
        result(asked, 1, 15, answered=20),
        result(asked, 2, 0, answered=MINIMUM - 1),
        result(asked, 3, 0, answered=0),
        result(asked, 4, 5, answered=MINIMUM),
    ]
    found = scored(tmp_path, asked, *files)
    assert [p.difference for p in found.people[:2]] == [30, 25] and found.people[4].difference == 0
    assert [p.counts for p in found.people] == [True, True, False, False, True]
    assert found.prefer == (2, 0, 1) and found.pooled == (60, 80)
    assert found.difference.mean == pytest.approx(55 / 3)
    assert found.share.mean == pytest.approx((0.8 + 0.75 + 0.5) / 3)
    texts = " | ".join(found.notes)
    assert "study-01.json: 20 of 50 answers; the difference is scaled to 50" in texts
    assert "study-02.json: 9 of 50 answers, fewer than 10; does not count" in texts
    assert scored(tmp_path, asked, *files, minimum=9).pooled == (60, 89)
    with pytest.raises(UserError, match=r"none of 2 people gave 10 answers.*smaller --minimum"):
        scored(tmp_path, asked, files[2], files[3])


def test_a_study_shorter_than_the_minimum(tmp_path):
    asked = study(12, 6)
    found = scored(tmp_path, asked, result(asked, 1, 6), result(asked, 2, 5, answered=5))
    assert [p.counts for p in found.people] == [True, False]
    assert "5 of 6 answers, fewer than 6; does not count" in found.notes[0]
    with pytest.raises(UserError, match="none of 1 people gave 6 answers"):
        scored(tmp_path, asked, result(asked, 2, 5, answered=5))
    with pytest.raises(UserError, match=r"none of 1 people gave 1 answers; ask more people$"):
        scored(tmp_path, asked, result(asked, 2, 0, answered=0), minimum=1)


def test_sides_and_times(tmp_path):
    """Who always chooses the left image chooses both groups equally often, and shows as such."""
    asked = study(20, 12)
    found = result(asked, 5, 12)
    for answer in found["answers"]:
        answer["side"] = "left"
        answer["chosen"] = "a" if answer["a_side"] == "left" else "b"
        answer["ms"] = 3000
    scores = scored(tmp_path, asked, found, result(asked, 6, 12))
    first, second = scores.people
    assert (first.left, first.a, first.median_ms) == (12, 6, 3000)
    assert (second.left, second.a, second.median_ms) == (6, 12, 1005.5)
    assert scores.left.mean == 0.75 and scores.prefer == (1, 0, 1)


def test_pairs_of_most_agreement(tmp_path):
    asked = study(4, 4)
    files = [result(asked, n, 4 if n else 0) for n in range(4)]
    found = scored(tmp_path, asked, *files).agreement
    assert found == tuple(people.Agreement(n, 3, 1) for n in (1, 4, 7, 10))
    assert [pair.share for pair in found] == [0.75] * 4
    assert scored(tmp_path, asked, *files[:2]).agreement == ()
    # Who does not count votes on no pair.
    few = scored(tmp_path, asked, *files[:3], result(asked, 9, 1, answered=1))
    assert {pair.a + pair.b for pair in few.agreement} == {3}
    mixed = people.agreement_of(
        read_results(saved(tmp_path, *[result(asked, n, 2) for n in range(5)]))
    )
    assert [pair.share for pair in mixed] == sorted((p.share for p in mixed), reverse=True)
    assert sum(pair.a for pair in mixed) == 10 and len({pair.share for pair in mixed}) > 1


def test_a_name_that_stands_twice_is_noted(tmp_path):
    asked = study()
    named = [result(asked, n, 3, person="Ann" if n < 2 else "") for n in range(4)]
    [note] = scored(tmp_path, asked, *named).notes
    assert note.startswith("2 results carry the name 'Ann'")


def test_copies_are_noted(tmp_path):
    """Answers of one file in others, with other seeds, names and times."""
    asked = study(20, 6)
    first = result(asked, 0, 3)
    copies = [result(asked, n, 3, answers=copy.deepcopy(first["answers"])) for n in (1, 2)]
    for answer in copies[0]["answers"]:
        answer["ms"] += 7
    [note] = score(read_results(saved(tmp_path, first, *copies, result(asked, 3, 3)))).notes
    assert note.startswith("3 results have the same answers") and "study-00.json" in note
    with pytest.raises(UserError, match="it was edited"):
        scored(tmp_path, asked, first, *copies)


# --- What the images were made from.

NAMES = st.sampled_from(["budget", "data", "smoke", "quick", "cifar10", "folder", "sample"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | NAMES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | NAMES, inner, max_size=9)
    ),
)


@pytest.mark.parametrize(
    ("settings", "why", "said"),
    [
        ({}, "", "Budget: not named. Data: not named."),
        (
            {"budget": "quick", "data": {"cifar10": "cifar10", "tiny-imagenet": "folder"}},
            "",
            "Budget: quick. Data: cifar10 as cifar10, folder as tiny-imagenet.",
        ),
        ({"budget": "full", "data": {}}, "", "Budget: full. Data: not named."),
        (
            {"budget": "smoke", "data": {"cifar10": "sample"}},
            "the budget smoke trains small networks",
            "Budget: smoke. Data: sample as cifar10.",
        ),
        ({"budget": "Quick"}, "the budget Quick is none that", "Budget: Quick. Data: not named."),
        ({"budget": ["smoke"]}, "is none that this version knows", "Budget: ['smoke']. "),
        ({"budget": None}, "the budget None is none", "Budget: None. "),
        (
            {"budget": "full", "data": {"cifar10": "cifar100", "tiny-imagenet": "tiny-imagenet"}},
            r"other ones than the paper's \(cifar100 in place of cifar10\)",
            "Data: cifar100 as cifar10, tiny-imagenet as tiny-imagenet.",
        ),
        ({"data": {"mnist": "mnist"}}, "mnist in place of mnist", "Data: mnist as mnist."),
        ({"data": {"cifar10": ["cifar10"]}}, "other ones", "Data: ['cifar10'] as cifar10."),
        ({"data": "cifar10"}, "which no study says", "Data: cifar10."),
    ],
)
def test_what_decides(settings, why, said):
    assert re.search(why, origin.why_apart(settings)) and said in origin.told(settings)
    assert bool(why) == bool(origin.why_apart(settings))


@given(st.dictionaries(NAMES, JSON, max_size=4))
@example({"budget": "x" * 5000, "data": {f"role-{n}": "x" * 5000 for n in range(300)}})
def test_settings_of_strangers(settings):
    """Whatever they are: one line that is not long; and only what is the paper's may decide."""
    why, said = origin.why_apart(settings), origin.told(settings)
    assert len(why) < 1000 and len(said) < 1000 and "\n" not in why + said
    if not why and "budget" in settings:
        assert settings["budget"] in ("quick", "full")
    if not why:
        assert set(settings.get("data", {}).values()) <= {"cifar10", "tiny-imagenet", "folder"}


@pytest.mark.parametrize(
    "settings", [{"budget": "smoke"}, {"budget": "full", "data": {"cifar10": "sample"}}]
)
def test_a_study_of_something_else_decides_nothing(tmp_path, settings):
    for settings_, expected in ((settings, verdict.NOT_DECIDABLE), ({}, verdict.SUPPORTED)):
        asked = study(20, 12, settings=settings_)
        scores = scored(tmp_path, asked, *(result(asked, n, 10) for n in range(8)))
        assert scores.verdict == expected
        text = markdown.render(report.document(scores), Path("x/page.md"), Path("x/images"))
        first, claim = text.split("\n\n")[1:3]
        assert (
            origin.told(settings_) in first
            and f"**{expected}**. {scores.reason[:1].upper()}" in claim
        )


def interval(mean, half, n=13):
    return intervals.Interval(mean, mean - half, mean + half, n)


@pytest.mark.parametrize(
    "difference, more, less, expected",
    [
        (interval(14, 3), 13, 0, verdict.SUPPORTED),
        (interval(14, 3, n=6), 6, 0, verdict.SUPPORTED),
        (interval(14, 3, n=5), 5, 0, verdict.NOT_DECIDABLE),
        (intervals.mean_interval([14.0]), 1, 0, verdict.NOT_DECIDABLE),
        (interval(14, 3), 9, 4, verdict.NOT_DECIDABLE),
        (interval(14, 3), 0, 13, verdict.NOT_DECIDABLE),
        (interval(-14, 3), 0, 13, verdict.NOT_SUPPORTED),
        (interval(-14, 3), 4, 9, verdict.NOT_SUPPORTED),
        (interval(-14, 3), 13, 0, verdict.NOT_DECIDABLE),
        (interval(1, 5), 7, 6, verdict.NOT_SUPPORTED),
        (interval(1, 5), 0, 0, verdict.NOT_SUPPORTED),
        (interval(1, 5), 1, 12, verdict.NOT_SUPPORTED),
        (interval(1, 5), 12, 1, verdict.NOT_DECIDABLE),
        (interval(10, 13), 9, 4, verdict.NOT_DECIDABLE),
        (interval(10, 13), 13, 0, verdict.NOT_DECIDABLE),
    ],
)
def test_verdicts(difference, more, less, expected):
    found, reason = verdict.judge(difference, more, less, 14.0)
    assert found == expected and reason


def test_the_order_of_files_changes_nothing(tmp_path):
    asked = study(30, 12)
    files = [result(asked, n, 3 + n) for n in range(7)]
    one = scored(tmp_path, asked, *files)
    other = scored(tmp_path, asked, *files[::-1])
    assert one == other
    assert report.document(one).pictures()[0].file() == report.document(other).pictures()[0].file()


# --- The report.


def test_the_report(tmp_path):
    asked = study(70, 50, title=HOSTILE, groups={"a": HOSTILE, "b": HOSTILE})
    files = [result(asked, n, 25 + n, person=HOSTILE[:40]) for n in range(7)]
    files.append(result(asked, 8, 4, answered=4))
    scores = scored(tmp_path, asked, *files)
    made = report.document(scores)
    [table, pairs] = [b for b in walk(made.blocks) if isinstance(b, Table)]
    assert [row[:4] for row in table.rows[:2]] == [["1", "25", "25", "0"], ["2", "26", "24", "+2"]]
    assert list(table.rows[7]) == [
        "8", "4", "0", "-", table.rows[7][4], "1.0", "4 of 50 answers, does not count",
    ]  # fmt: skip
    assert 0 < len(pairs.rows) <= report.MOST_PAIRS
    [drawn] = made.pictures()
    assert isinstance(drawn, Picture) and drawn.file().startswith(b"\x89PNG")
    assert "7 people" in drawn.alt and "mean is 6.0, the paper's 14" in drawn.alt
    text = markdown.render(made, Path("x/page.md"), Path("x/images"))
    assert "<script>" not in text and "mean difference a - b of 50 pairs: +6.00" in text
    assert "6 of 7, b 0, both equally 1 (paper: 13 of 13)" in text
    web = html.render(made, Path("x/page.html"))
    assert web.count("<script") == 0 and web.count("&lt;script&gt;") >= 3
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    report.show(scores, console)
    shown = console.export_text()
    assert "[red]" not in made.title and "\x1b" not in shown and "</td><script>" in shown
    assert scores.verdict in shown and shown.count("note: ") == 2
    assert "as their seed draws them from the page" in text and "not held" not in text
    alone = markdown.render(
        report.document(score(read_results(saved(tmp_path, *files)))), Path("x.md"), Path("x")
    )
    assert "were not held against the page" in alone and "as often on" not in alone
    assert "as their seed draws" not in alone
    # Names stay with those who read the files.
    assert "carry the name" in shown and "carry the name" not in text


def test_figures():
    assert report.signed(-0.001) == "+0.00" and report.signed(-3) == "-3.00"
    assert report.percent(1 / 3) == "33.33 %"
    one = intervals.mean_interval([0.5])
    assert report.interval(one, report.percent) == "50.00 % (one person: no interval)"
    two = intervals.Interval(0.5, 0.4, 0.6, 2)
    assert report.interval(two, report.percent) == "50.00 % [40.00 %, 60.00 %]"


@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_report_of_few_and_of_many(tmp_path, count):
    asked = study(20, 12)
    scores = scored(tmp_path, asked, *(result(asked, n, 6) for n in range(count)))
    made = report.document(scores)
    assert made.pictures()[0].file().startswith(b"\x89PNG")
    expected = verdict.NOT_DECIDABLE if count < 6 else verdict.NOT_SUPPORTED
    assert scores.verdict == expected
