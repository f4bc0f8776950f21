"""Pages of tables and figures with invented numbers."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import paper_values
import pytest
from markdown_it import MarkdownIt
from paper_values import INVENTED, invented, setup_of
from report_rows import HOSTILE
from scotoma.bench.paper.claims import claims_of
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.estimates import Estimate, share
from scotoma.bench.paper.experiment import Experiment
from scotoma.bench.paper.judge import (
    NOT_DECIDABLE,
    NOT_SUPPORTED,
    SUPPORTED,
    Verdict,
    at_scale,
    judge,
)
from scotoma.bench.paper.page import build_page, merged, tally, why_apart, write_page
from scotoma.bench.paper.provenance import command, duration
from scotoma.bench.paper.published import printed, published
from scotoma.bench.paper.tables import definition
from scotoma.bench.paper.work import Failure, closure
from scotoma.defective.errors import UserError

WHEN = "2026-01-02 03:04 UTC"


def page_of(made, *, verdicts=(), failures=(), commit="abc1234"):
    return build_page(made, list(verdicts), list(failures), commit, WHEN)


def text_of(page):
    return page.document.markdown()


def cells(page):
    return {(cell["row"], cell["column"]): cell for cell in page.record["cells"]}


def without(made, places):
    return replace(made, values={p: v for p, v in made.values.items() if p not in set(places)})


def failing(made):
    """``made`` with its last training failed, the failure, and the places that it takes along."""
    training = [a for a in closure(made.experiment.wanted()) if a.kind == "train"][-1]
    lost = [
        place
        for place, several in made.experiment.cells.items()
        if any(training.key == a.key for m in several for a in closure([m.result]))
    ]
    return without(made, lost), Failure(training, "no | <memory>"), lost


def with_files(made):
    """Files of a training, its sample and a result, as making them would leave them."""
    store = made.context.store
    for artefact in closure(made.experiment.wanted()):
        path = artefact.path(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        if artefact.kind == "train":
            path.mkdir()
            summary = {"train_s": 60, "device": "Test GPU", "versions": {"torch": "2.0-test"}}
            summary |= {"train_images": 50000, "test_images": 10000, "precision": "bfloat16"}
            (path / "summary.json").write_text(json.dumps(summary))
            (path / "last.safetensors").touch()
        elif artefact.kind == "sample":
            content = {"indices": [1, 2], "details": {"asked": 5000, "found": 2, "seed": 0}}
            path.write_text(json.dumps(content))
        elif artefact.kind == "result":
            results = {"warnings": ["gradients vanish"]}
            cell = {"results": results, "made": {"seconds": 2.5, "torch": "2.1-test"}}
            path.write_text(json.dumps({"cells": [cell]}))
    return made


def whole_page(name, folder):
    """A page with all that a page can have: verdicts, failures, several seeds, asides, files."""
    narrow = name == "table2"
    made = invented(name, folder, "full" if narrow else "quick", seeds=(3, 4) if narrow else (0,))
    made = replace(made, asides=dict.fromkeys(made.experiment.asides, share(0.75, 60)))
    made, failures = (with_files(made), []) if narrow else (made, None)
    if failures is None:
        made, failure, _ = failing(made)
        failures = [failure, Failure(setup_of().training("vgg19", seed=7), "of another table")]
    verdicts = [judge(claim, made.values, True) for claim in claims_of(name)]
    return page_of(made, verdicts=verdicts, failures=failures)


@pytest.mark.parametrize("name", ["table2", "table5"])
def test_a_whole_page(name, tmp_path):
    """Word by word: with few columns and with many. Numbers and words were compared with those of
    the page before it, of every table and figure."""
    expected = Path(paper_values.__file__).with_name(f"paper_{name}.md")
    found = text_of(whole_page(name, tmp_path))
    assert found == expected.read_text(encoding="utf-8"), f"if it is meant: write it to {expected}"


def test_scores_are_compared_by_ratio(tmp_path):
    made = invented("table6", tmp_path)
    means = dict.fromkeys(made.experiment.asides, Estimate(0.01, None, None, 9, (0.01,)))
    page = page_of(replace(made, asides=means))
    text = text_of(page)
    for place, cell in cells(page).items():
        value, paper = made.values[place], published(6).value(*place)
        assert cell["unit"] == "score" and cell["difference"] is None
        assert cell["ratio"] == value.value / paper
        assert (
            f"| **{value.value:.2e}** \\[{value.low:.2e}, {value.high:.2e}\\]<br>"
            f"<small>paper {paper:.1e}, {value.value / paper:.2f}x the paper's</small><br>"
            "<small>N 480</small> |"
        ) in text
    assert page.document.pictures == {} and "Wilson" not in text
    assert "| Defective CNN, mean | **1.00e-02**<br><small>N 9</small> |" in text


def test_rows_and_columns_that_are_ours_only(tmp_path):
    page = page_of(invented("figure5", tmp_path))
    assert "Ours only, not in the paper: ResNet-18." in text_of(page)
    assert [c["ours_only"] for c in page.record["cells"]] == [True, True] + 16 * [False]
    for place, value in printed("figure5").items():
        assert cells(page)[place]["paper"] == value
    made = invented("table10", tmp_path)
    more = replace(made.experiment, columns=(*made.experiment.columns, "Noise"))
    values = {**made.values, ("0.5-Bottom", "Noise"): share(0.5, 8)}
    page = page_of(replace(made, experiment=more, values=values))
    assert "| target / source | 0.5-Bottom | 0.3-Bottom | Noise (ours only) |" in text_of(page)
    assert all(c["ours_only"] == (c["column"] == "Noise") for c in page.record["cells"])
    # A row of ours stands behind the one that it follows.
    for first, second, whole in (("abc", "axbc", "axbc"), ("abc", "xyc", "xyabc"), ("", "a", "a")):
        assert merged(first, second) == tuple(whole) and merged(second, "") == tuple(second)


def test_a_figure_of_ours(tmp_path):
    page = page_of(invented("perturbation", tmp_path), verdicts=())
    text = text_of(page)
    assert text.startswith("# Perturbation: ")
    assert "Not in the paper: it extends section 4.2." in text
    assert all(c["paper"] is None and c["state"] == "measured" for c in page.record["cells"])


def test_numbers_that_are_missing(tmp_path):
    made, failure, lost = failing(invented("table10", tmp_path))
    assert 0 < len(lost) < len(made.experiment.cells)
    first, second = [place for place in made.values if place not in lost][:2]
    made = without(made, [first, second])
    (measure,) = made.experiment.cells[first]
    path = measure.result.path(made.context.store)
    path.parent.mkdir(parents=True)
    path.write_text('{"cells": [{"results": {}}]}')  # it is there, and counts no image
    page = page_of(made, failures=[failure])
    states = {place: cell["state"] for place, cell in cells(page).items()}
    assert states == {place: "measured" for place in states} | dict.fromkeys(lost, "failed") | {
        first: "no image left",
        second: "not made",
    }
    text = text_of(page)
    assert f"Failed, so that {len(lost)} numbers could not be had:" in text
    assert f"{second[0]} ({second[1]}): not made yet" in text
    assert f"{first[0]} ({first[1]}): no image is left" in text
    assert [f["message"] for f in page.record["failures"]] == ["no | <memory>"]


def test_what_each_budget_says(tmp_path):
    quick, full = (text_of(page_of(invented("table6", tmp_path, b))) for b in ("quick", "full"))
    assert "**Budget quick:** not the paper's recipe." in quick
    told = "**Budget full:** The paper's recipes and numbers of images, as far as it gives them."
    assert told in full and INVENTED in full and "Section A.1 of the paper" in full
    assert "No differences" not in quick + full and "narrower" not in full
    assert "No claim of the paper rests" in full  # none was given
    small = text_of(page_of(invented("table12", tmp_path, "small")))
    assert "not the paper's scale: decides nothing about its numbers. CIFAR-10 tables by" in small
    assert "No differences: the budget small" in small and "10,000 of the 50,000" in small
    for told in (True, False):
        made = invented("table12", tmp_path, "small")
        data = {"cifar10": replace(made.setup.data["cifar10"], content="x", lossy=told)}
        setup = replace(made.setup, data=data)
        made = replace(made, setup=setup, experiment=made.definition.build(setup))
        assert ("JPEG files, which have lost" in text_of(page_of(made))) == told
    for name in ("table6", "table10"):
        page = page_of(invented(name, tmp_path, "smoke"))
        smoke = text_of(page)
        assert "decides nothing about the paper" in smoke and "not the paper's recipe" not in smoke
        assert "No differences: the budget smoke" in smoke and "paper " in smoke
        assert not re.search(r"\*\* [+-]\d|\d points|the paper's</small>|in points", smoke)
        assert all(c["difference"] is None and c["ratio"] is None for c in page.record["cells"])
        assert page.record["differences"] is False
        assert "networks are narrower than the paper's (resnet18 4" in smoke
        assert ("Budget smoke: boundary is cut short (steps at most 60)." in smoke) == (
            "each network itself | 10 |" in smoke  # the budget's images
        )
        assert "mifgsm" not in smoke and "cw-l2" not in smoke


def test_other_images_have_no_differences():
    setup = setup_of("quick")
    table4, table9 = definition("table4"), definition("table9")
    other = replace(setup, data={**setup.data, "mnist": Data("mnist", "fashion-mnist")})
    assert why_apart(table4, setup) == why_apart(table4, other) == ""
    assert "fashion-mnist in place of mnist" in why_apart(table9, other)
    # A folder may hold the paper's images.
    folder = replace(setup, data={**setup.data, "mnist": Data("mnist", "/a/folder", content="x")})
    assert why_apart(table9, folder) == ""


def verdict(word, claim="Masks help.", **more):
    values = {"stated": True, "evidence": "3 of 4 hold", "section": "4.2"} | more
    return Verdict(claim, verdict=word, holds=3, open=1, reversed=0, **values)


def test_verdicts(tmp_path):
    given = [
        verdict(SUPPORTED),
        verdict(NOT_SUPPORTED, stated=False),
        verdict(NOT_DECIDABLE, "<b>Less</b> noise"),
        verdict(SUPPORTED, stated=False, ours=True),
    ]
    assert tally(given) == (
        "4 claims: 2 supported, 1 not supported, 1 not decidable at this budget."
    )
    page = page_of(invented("table6", tmp_path), verdicts=given)
    lines = [line for line in text_of(page).splitlines() if line.startswith("- <b")]
    told = (
        "",
        "; its tables show it, its text does not say so",
        "",
        "; the paper has no such runs",
    )
    for line, each, words in zip(lines, given, told, strict=True):
        assert f"(section 4.2{words})" in line and f'">{each.verdict}</b>' in line
    shown = page.document.html()
    for tone, word in (("good", SUPPORTED), ("bad", NOT_SUPPORTED), ("open", NOT_DECIDABLE)):
        assert f'<b class="badge {tone}">{word}</b>' in shown
        word = at_scale(verdict(word), "at small scale").verdict
        small = page_of(invented("table6", tmp_path), verdicts=[verdict(word)]).document.html()
        assert f'<b class="badge {tone}">at small scale: ' in small
    for each, found in zip(given, page.record["verdicts"], strict=True):
        assert found == vars(each) | {"missing": []}


def test_files_hold_the_numbers(tmp_path):
    made, failure, _ = failing(invented("table10", tmp_path / "store", seeds=(0, 1, 2)))
    page = page_of(made, failures=[failure])
    folder = tmp_path / "deep" / "page"
    written = write_page(page, folder, "svg")
    assert all(path.is_file() for path in written) and written[0] == folder / "index.html"
    images = {f"images/table10-heatmap.{ending}" for ending in ("png", "svg")}
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        *("index.html", "index.md", "cells.json", "cells.csv"),
        *images,
    }
    found = json.loads((folder / "cells.json").read_text())
    assert found == page.record and found["format"] == 1
    assert found["commit"] == "abc1234" and found["when"] == WHEN and found["seeds"] == [0, 1, 2]
    there = {place: cell for place, cell in cells(page).items() if cell["value"] is not None}
    assert set(there) == set(made.values)
    for place, cell in there.items():
        numbers = (cell[name] for name in ("value", "low", "high", "n"))
        assert Estimate(*numbers, tuple(cell["per_seed"]), rate=True) == made.values[place]
        assert cell["paper"] == published(10).value(*place)
        assert cell["difference"] == cell["value"] - cell["paper"]
    lines = list(csv.DictReader((folder / "cells.csv").open()))
    for line, cell in zip(lines, found["cells"], strict=True):
        assert line == {
            name: "" if value is None else str(value) for name, value in cell.items()
        } | {"per_seed": " ".join(map(str, cell["per_seed"] or [])), "ours_only": "no"}
    # A page that shows other pictures removes these, and nothing of a user's.
    (folder / "images/users.png").write_bytes(b"a picture")
    write_page(page_of(invented("table6", tmp_path / "store")), folder)
    assert [path.name for path in (folder / "images").iterdir()] == ["users.png"]
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written.*--out"):
        write_page(page, tmp_path / "file")


def test_nothing_is_markup(tmp_path):
    """Names, settings and notes that would like to be."""
    made = invented("table10", tmp_path / "store")
    renamed = {row: f"{HOSTILE} {number}" for number, row in enumerate(made.experiment.rows)}
    places = {(renamed[r], c): several for (r, c), several in made.experiment.cells.items()}
    rows = tuple(renamed.values())
    experiment = Experiment(rows, made.experiment.columns, places, {}, (HOSTILE,), (HOSTILE,))
    values = {(renamed[r], c): value for (r, c), value in [*made.values.items()][1:]}
    made = replace(made, experiment=experiment, values=values)
    failure = Failure(closure(made.experiment.wanted())[0], HOSTILE)
    bad = verdict(HOSTILE, HOSTILE, evidence=HOSTILE, section=HOSTILE)
    page = page_of(made, verdicts=[bad], failures=[failure], commit=HOSTILE)
    folder = tmp_path / "page"
    write_page(page, folder)
    assert not re.search(r"<script|<a href=\"http", (folder / "index.html").read_text())
    rendered = MarkdownIt("commonmark").enable("table").render((folder / "index.md").read_text())
    assert not re.search(r"<script|<a |<em>|http://f\"", rendered)
    found = json.loads((folder / "cells.json").read_text())
    assert set(rows) < set(found["rows"]) and found["commit"] == HOSTILE
    assert len(list(csv.DictReader((folder / "cells.csv").open()))) == len(found["cells"])


# Where the numbers come from.


def test_settings_say_nothing_of_what_is_not_there(tmp_path):
    images = page_of(invented("figure1", tmp_path, "smoke"))
    text = text_of(images)
    assert "Devices" not in text and "Versions" not in text and "Commit" in text
    assert "How verdicts" not in text and images.record["cells"] == []
    assert "Nothing that this page could show has been made." in text
    curves = text_of(page_of(invented("figure14", tmp_path, "smoke")))
    assert "- Devices of trainings and attacks: unknown." in curves
    # Two data sets of the paper that are one of ours.
    assert "- **cifar10** is sample\n- **mnist** is sample\n" in curves


def test_the_command_of_other_data(tmp_path):
    made = invented("table9", tmp_path, "quick", seeds=(3, 4))
    setup = replace(made.setup, images="source")
    data = {**setup.data, "mnist": Data("mnist", "/a b/c"), "cifar10": Data("cifar10", "/d")}
    chosen = replace(made.experiment, only=("0.*", "a b"))
    assert command(replace(made, setup=replace(setup, data=data), experiment=chosen)) == (
        "scotoma paper table9 --budget quick --seeds 2 --images source --first-seed 3 "
        "--data 'mnist=/a b/c' --rows '0.*' 'a b'"
    )


@pytest.mark.parametrize("kind", ["train", "result", "sample", "set"])
def test_damaged_files_are_named(kind, tmp_path):
    made = invented("table10", tmp_path)
    made = made if kind == "set" else with_files(made)
    first = next(a for a in closure(made.experiment.wanted()) if a.kind == kind)
    path = first.path(made.context.store)
    path.parent.mkdir(parents=True, exist_ok=True)
    for damage in ("{", "[]", "[[]]", "null", '{"cells": 3, "versions": 3}', "\x10" + 7 * "\0{}"):
        (path / "summary.json" if kind == "train" else path).write_text(damage)
        with pytest.raises(UserError, match=re.escape(first.key)):
            page_of(made)


def test_durations():
    told = [duration(seconds) for seconds in (119.4, 120, 7200, 9e6)]
    assert told == ["119 s", "2.0 min", "2.0 h", "2,500.0 h"]
