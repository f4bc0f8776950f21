"""The page of a table or figure, with invented numbers: its cells, verdicts and files."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from paper_pages import WHEN, cells_of, lines_of, page_of, tables, text_of, without, words
from paper_values import INVENTED, invented, setup_of
from PIL import Image
from report_rows import HOSTILE
from scotoma.bench.paper.experiment import Experiment
from scotoma.bench.paper.experiments import definition
from scotoma.bench.paper.graph.artefact import closure
from scotoma.bench.paper.graph.data import Data
from scotoma.bench.paper.graph.plan import Failure
from scotoma.bench.paper.graph.training import Training
from scotoma.bench.paper.judge import (
    NOT_DECIDABLE,
    NOT_SUPPORTED,
    SUPPORTED,
    Estimate,
    Verdict,
    combined,
    share,
)
from scotoma.bench.paper.page import wording, write_page
from scotoma.bench.paper.page.grid import Cell, State, merged, read_grid, why_apart
from scotoma.bench.paper.page.tables import main_table
from scotoma.bench.paper.published import figure5, published
from scotoma.bench.report import html
from scotoma.bench.report.document import Details, Document, walk
from scotoma.defective.errors import UserError

FRACTIONS = st.floats(0, 1)

# Numbers.


@given(FRACTIONS, FRACTIONS)
def test_a_cell_reads_as_its_numbers(value, paper):
    cell = Cell(State.MEASURED, share(value, 100), paper)
    shown = wording.ours(cell)
    assert re.fullmatch(r"\d+\.\d\d %", shown)
    assert abs(float(shown[:-2]) - 100 * value) <= 0.005 + 1e-9
    against = wording.against_paper(cell)
    assert re.fullmatch(r"[+-]\d+\.\d\d", against) and against != "-0.00"
    assert abs(float(against) - 100 * (value - paper)) <= 0.005 + 1e-9
    assert wording.against_paper(cell, unit=True) == f"{against} points"
    low, high = re.fullmatch(
        r"\[(\d+\.\d\d), (\d+\.\d\d)\]", wording.interval(cell.ours, False)
    ).groups()
    assert float(low) <= float(shown[:-2]) <= float(high)


@given(FRACTIONS, st.none() | FRACTIONS, st.booleans())
def test_no_difference_without_both_or_where_it_means_nothing(value, paper, comparable):
    cell = Cell(State.MEASURED, share(value, 7), paper, comparable=comparable)
    there = paper is not None and comparable
    assert (cell.difference is not None) == there and cell.ratio is None
    assert bool(wording.against_paper(cell)) == there
    assert Cell(State.FAILED, None, paper).difference is None


def test_numbers_of_known_cells():
    assert wording.percent(0.782) == "78.20 %" and wording.percent(1) == "100.00 %"
    assert wording.points(-0.00001) == "+0.00" and wording.points(-0.1) == "-10.00"
    score = Cell(State.MEASURED, Estimate(7.1e-6, None, None, 5, (7.1e-6,)), 7.3e-6, score=True)
    assert wording.ours(score) == "7.10e-06" and wording.paper(score) == "7.3e-06"
    assert wording.against_paper(score, unit=True) == "0.97x the paper's"
    assert score.difference is None and wording.interval(score.ours, True) == ""
    assert replace(score, paper=0.0).ratio is None
    assert [wording.duration(s) for s in (119.4, 120, 7200, 9e6)] == [
        *("119 s", "2.0 min", "2.0 h", "2,500.0 h"),
    ]
    assert wording.count(1, "image") == "1 image" and wording.count(2000, "image") == "2,000 images"


# The table.


def test_every_cell_of_a_matrix(tmp_path):
    made, paper = invented("table4", tmp_path), published(4)
    page = page_of(made)
    shown = cells_of(tables(page)[0])
    assert set(shown) == {(r, c) for r in paper.rows for c in paper.columns} and len(shown) == 90
    for (row, column), text in shown.items():
        ours, printed = made.values[row, column].value, paper.value(row, column)
        difference = round(100 * (ours - printed), 2) + 0
        assert text == f"{100 * ours:.2f} % {difference:+.2f}\npaper {100 * printed:.2f} %"
    (apart,) = [b for b in walk(page.document.blocks) if isinstance(b, Details)]
    for place, text in cells_of(apart.blocks[0]).items():
        value = made.values[place]
        assert text == f"[{100 * value.low:.2f}, {100 * value.high:.2f}]\nN 988"
    assert "in points" in text_of(page) and INVENTED in text_of(page)


def test_a_small_table_has_everything_in_a_cell(tmp_path):
    made = invented("table10", tmp_path, seeds=(0, 1))
    found = page_of(made)
    assert not any(isinstance(b, Details) for b in walk(found.document.blocks))
    for place, text in cells_of(tables(found)[0]).items():
        value, paper = made.values[place], published(10).value(*place)
        seeds = ", ".join(f"{100 * each:.2f}" for each in value.per_seed)
        assert text.split("\n") == [
            f"{100 * value.value:.2f} % [{100 * value.low:.2f}, {100 * value.high:.2f}]",
            f"paper {100 * paper:.2f} %, {round(100 * (value.value - paper), 2) + 0:+.2f} points",
            "N 988",
            f"per seed {seeds}",
        ]
    assert "the mean over 2 seeds" in text_of(found) and "for the seeds (Student's)" in text_of(
        found
    )
    assert "Wilson's" in text_of(page_of(invented("table10", tmp_path)))


def test_scores_are_compared_by_ratio(tmp_path):
    made = invented("table6", tmp_path)
    page = page_of(made)
    for place, text in cells_of(tables(page)[0]).items():
        value, paper = made.values[place], published(6).value(*place)
        assert text.split("\n") == [
            f"{value.value:.2e} [{value.low:.2e}, {value.high:.2e}]",
            f"paper {paper:.1e}, {value.value / paper:.2f}x the paper's",
            "N 480",
        ]
    assert page.document.pictures() == []
    cell = page.record["cells"][0]
    assert cell["unit"] == "score" and cell["difference"] is None and 0.8 < cell["ratio"] < 1.2
    assert "Wilson" not in text_of(page) and "points" not in words(tables(page)[0].rows[0][1])


def test_a_wide_table(tmp_path):
    made = invented("table14", tmp_path)
    shown = main_table(read_grid(made, published(14), []), False)
    assert len(shown.rows) == 31 and len(shown.names) == 9 and shown.pinned
    assert all(len(words(cell).split("\n")) == 2 for row in shown.rows for cell in row[1:])


def test_quoted_rows(tmp_path):
    page = page_of(invented("table2", tmp_path))
    shown, names = cells_of(tables(page)[0]), [words(row[0]) for row in tables(page)[0].rows]
    assert shown["BPFC", "FGSM"] == "paper 75.52 % (quoted)"
    assert shown["TLA", "FGSM"] == ""  # the paper reports nothing
    assert "BPFC\nquoted" in names and "Defective CNN" in names
    assert "Adv. Training\nthe paper's quoted" in names
    # We train that one, too.
    assert re.match(r"[\d.]+ % \[.*\]\npaper [\d.]+ % \(quoted\), ", shown["Adv. Training", "PGD"])
    assert not any("quoted" in shown["Standard CNN", c] for c in ("FGSM", "PGD", "Clean Acc"))
    cited = [line for line in lines_of(page) if "Sravanti Addepalli" in line]
    assert len(cited) == 1 and cited[0].startswith("BPFC: ")
    by_place = {(c["row"], c["column"]): c for c in page.record["cells"]}
    assert "Addepalli" in by_place["BPFC", "FGSM"]["quoted"]
    assert by_place["BPFC", "FGSM"]["value"] is None and by_place["BPFC", "FGSM"]["state"] is None
    assert by_place["TLA", "FGSM"]["quoted"] is None
    assert by_place["Standard CNN", "FGSM"]["quoted"] is None


def test_rows_that_are_ours_only(tmp_path):
    page = page_of(invented("figure5", tmp_path))
    names = [words(row[0]) for row in tables(page)[0].rows]
    assert names[0] == "ResNet-18\nours only" and names[1] == "0.7-Bottom" and len(names) == 9
    assert "Ours only, not in the paper: ResNet-18." in text_of(page)
    shown = cells_of(tables(page)[0])
    for point in figure5():
        row = f"{point.keep_probability}-Bottom"
        assert f"paper {100 * point.defence_rate:.2f} %, " in shown[row, "Defence Rate"]
        assert f"paper {100 * point.accuracy:.2f} %, " in shown[row, "Test Accuracy"]
    assert "paper" not in shown["ResNet-18", "Defence Rate"]
    assert [c["ours_only"] for c in page.record["cells"]] == [True, True] + 16 * [False]


def test_columns_that_are_ours_only(tmp_path):
    made = invented("table10", tmp_path)
    more = replace(made.experiment, columns=(*made.experiment.columns, "Noise"))
    made = replace(
        made, experiment=more, values={**made.values, ("0.5-Bottom", "Noise"): share(0.5, 8)}
    )
    page = page_of(made)
    assert tables(page)[0].names == [
        "target / source",
        "0.5-Bottom",
        "0.3-Bottom",
        "Noise (ours only)",
    ]
    assert cells_of(tables(page)[0])["0.5-Bottom", "Noise"].startswith("50.00 % [")
    assert cells_of(tables(page)[0])["0.3-Bottom", "Noise"] == ""


def failing(made, number):
    """``made`` with a training that failed, and the failure."""
    training = [a for a in closure(made.experiment.wanted()) if isinstance(a, Training)][number]
    lost = [
        place
        for place, several in made.experiment.cells.items()
        if any(training.key == a.key for m in several for a in closure([m.result]))
    ]
    return without(made, lost), Failure(training, "no | <memory>"), lost


def test_failed_cells(tmp_path):
    made = invented("table10", tmp_path)
    made, failure, lost = failing(made, -1)
    assert 0 < len(lost) < len(made.experiment.cells)
    other = Failure(setup_of().training("vgg19", seed=7), "of another table")
    page = page_of(made, failures=[other, failure])
    shown = cells_of(tables(page)[0])
    for place, text in shown.items():
        failed = text.startswith("failed\npaper ")
        assert failed == (place in lost), place
        assert not failed or "points" not in text
    assert f"{failure.artefact.label}: no | <memory>" in lines_of(page)
    assert "of another table" not in text_of(page)
    assert f"Failed, so that {len(lost)} numbers could not be had:" in text_of(page)
    assert [f["message"] for f in page.record["failures"]] == ["no | <memory>"]
    states = {(c["row"], c["column"]): c["state"] for c in page.record["cells"]}
    assert {p for p, state in states.items() if state == "failed"} == set(lost)


def test_numbers_that_are_missing_without_a_failure(tmp_path):
    made = invented("table10", tmp_path)
    first, second = list(made.experiment.cells)[:2]
    made = without(made, [first, second])
    (measure,) = made.experiment.cells[first]
    path = measure.result.path(made.context.store)
    path.parent.mkdir(parents=True)
    path.write_text('{"cells": [{"results": {}}]}')  # it is there, and counts no image
    page = page_of(made)
    shown = cells_of(tables(page)[0])
    assert shown[first].startswith("no image left\n") and shown[second].startswith("not made\n")
    assert f"{second[0]} ({second[1]}): not made yet" in text_of(page)
    assert f"{first[0]} ({first[1]}): no image is left" in text_of(page)


@pytest.mark.parametrize("name", ["table4", "table10", "table2"])
def test_smoke_has_no_differences(name, tmp_path):
    made = invented(name, tmp_path, "smoke")
    page = page_of(made)
    text = text_of(page)
    assert "decides nothing about the paper" in text and "No differences: the budget smoke" in text
    shown = cells_of(tables(page)[0])
    assert not any(re.search(r" [+-]\d|points", cell) for cell in shown.values())
    assert any("paper" in cell for cell in shown.values())
    assert all(c["difference"] is None and c["ratio"] is None for c in page.record["cells"])
    assert page.record["differences"] is False
    assert "difference" not in page.document.pictures()[0].alt


def test_what_each_budget_says(tmp_path):
    texts = [text_of(page_of(invented("table6", tmp_path, b))) for b in ("quick", "full", "smoke")]
    assert "**Budget quick:** not the paper's recipe." in texts[0]
    assert (
        "**Budget full:** The paper's recipes and numbers of images, as far as it gives them."
        in texts[1]
    )
    assert "not the paper's recipe" not in texts[1] + texts[2]
    assert all("No differences" not in text for text in texts[:2])
    assert all("Section A.1 of the paper" in text for text in texts)


def test_other_images_have_no_differences():
    setup = setup_of("quick")
    table4, table9 = definition("table4"), definition("table9")
    other = replace(setup, data={**setup.data, "mnist": Data("mnist", "fashion-mnist")})
    assert why_apart(table4, setup) == why_apart(table4, other) == ""
    assert "fashion-mnist in place of mnist" in why_apart(table9, other)
    # A folder may hold the paper's images.
    folder = replace(setup, data={**setup.data, "mnist": Data("mnist", "/a/folder", content="x")})
    assert why_apart(table9, folder) == ""


names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


@given(names, names)
def test_merged_names_keep_the_papers_order(first, second):
    found = merged(first, second)
    assert sorted(found) == sorted(set(first) | set(second))
    assert [name for name in found if name in first] == first
    extra = [name for name in second if name not in first]
    assert [name for name in found if name in extra] == extra or first
    assert merged(first, []) == merged([], first) == tuple(first)


def test_a_row_of_ours_stands_behind_the_one_it_follows():
    assert merged("abc", "axbc") == tuple("axbc") and merged("abc", "xyc") == tuple("xyabc")


# Verdicts.


def verdict(word, claim="Masks help.", stated=True, missing=()):
    return Verdict(claim, "4.2", stated, word, "3 of 4 hold", 3, 1, 0, missing)


def test_verdicts_come_first(tmp_path):
    given_verdicts = [
        verdict(SUPPORTED),
        verdict(NOT_SUPPORTED, stated=False),
        verdict(NOT_DECIDABLE, "<b>Less</b> noise"),
        replace(verdict(SUPPORTED), stated=False, ours=True),
    ]
    page = page_of(invented("table10", tmp_path), verdicts=given_verdicts)
    text = text_of(page)
    assert text.index("## Claims") < text.index("## Numbers") < text.index("## Pictures")
    assert text.index("## Pictures") < text.index("## Settings") < text.index("## Make it again")
    assert "4 claims: 2 supported, 1 not supported, 1 not decidable at this budget." in text
    lines = lines_of(page)[:4]
    assert lines[0] == "supported Masks help. (section 4.2)\n3 of 4 hold"
    assert "its tables show it, its text does not say so" in lines[1]
    assert "(section 4.2; the paper has no such runs)" in lines[3]
    shown = html.render(page.document, Path("page/index.html"))
    assert '<span class="badge good">supported</span>' in shown
    assert '<span class="badge bad">not supported</span>' in shown
    assert '<span class="badge open">not decidable at this budget</span>' in shown
    assert "<b>" not in shown and "&lt;b&gt;Less&lt;/b&gt; noise" in shown
    recorded = page.record["verdicts"]
    assert [v["verdict"] for v in recorded] == [v.verdict for v in given_verdicts]
    assert recorded[3]["ours"] is True and recorded[1]["ours"] is False
    assert recorded[1]["stated"] is False and recorded[0]["holds"] == 3 and recorded[0]["open"] == 1


def test_a_page_without_claims(tmp_path):
    assert "No claim of the paper rests" in text_of(page_of(invented("table10", tmp_path)))


# Files.


def test_files_hold_the_numbers(tmp_path):
    made = invented("table4", tmp_path / "store", seeds=(0, 1, 2))
    made, failure, _ = failing(made, -1)
    page = page_of(made, failures=[failure])
    folder = tmp_path / "deep" / "page"
    written = write_page(page, folder)
    assert all(path.is_file() for path in written) and written[0] == folder / "index.html"
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {
        *("index.html", "index.md", "cells.json", "cells.csv", "images/table4-heatmap.png"),
    }
    found = json.loads((folder / "cells.json").read_text())
    assert found == page.record and found["format"] == 1
    assert found["commit"] == "abc1234" and found["when"] == WHEN and found["seeds"] == [0, 1, 2]
    values = {(c["row"], c["column"]): c for c in found["cells"] if c["value"] is not None}
    assert set(values) == set(made.values)
    for place, cell in values.items():
        assert (
            Estimate(
                *(cell["value"], cell["low"], cell["high"], cell["n"], tuple(cell["per_seed"])),
                rate=cell["unit"] == "rate",
            )
            == made.values[place]
        )
        assert cell["paper"] == published(4).value(*place)
        assert cell["difference"] == cell["value"] - cell["paper"]
    lines = list(csv.DictReader(io.StringIO((folder / "cells.csv").read_text())))
    assert len(lines) == len(found["cells"]) == 90
    for line, cell in zip(lines, found["cells"], strict=True):
        assert (line["row"], line["column"], line["state"]) == (
            *(cell["row"], cell["column"], cell["state"]),
        )
        assert line["value"] == ("" if cell["value"] is None else repr(cell["value"]))
        assert line["per_seed"].split() == list(map(repr, cell["per_seed"] or []))
        assert line["ours_only"] == "no"


def test_markdown_tables_are_whole(tmp_path):
    for name in ("table2", "table4", "table6", "figure4", "figure5"):
        page = page_of(invented(name, tmp_path))
        text = text_of(page)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        widths = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
        blocks = text.split("\n\n")
        for block in (b.splitlines() for b in blocks if b.startswith("|")):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1
            assert re.fullmatch(r"\|( -+:? \|)+", block[1])
        assert len(rows) > 5 and min(widths) > 1
        shown = MarkdownIt("commonmark").enable("table").render(text)
        assert shown.count("<table>") == len(tables(page))


def hostile(made):
    """With names, settings and notes that would like to be markup."""
    rows = tuple(f"{HOSTILE} {number}" for number in range(len(made.experiment.rows)))
    renamed = dict(zip(made.experiment.rows, rows, strict=True))
    cells = {(renamed[r], c): several for (r, c), several in made.experiment.cells.items()}
    experiment = Experiment(rows, made.experiment.columns, cells, {}, (HOSTILE,), (HOSTILE,))
    values = {(renamed[r], c): value for (r, c), value in made.values.items()}
    return replace(made, experiment=experiment, values=values)


def test_nothing_is_markup(tmp_path):
    made = hostile(invented("table10", tmp_path / "store"))
    failure = Failure(closure(made.experiment.wanted())[0], HOSTILE)
    made = without(made, list(made.values)[:1])
    bad = replace(verdict(HOSTILE, HOSTILE), evidence=HOSTILE, section=HOSTILE)
    page = page_of(made, verdicts=[bad], failures=[failure], commit=HOSTILE)
    folder = tmp_path / "page"
    write_page(page, folder)
    shown = (folder / "index.html").read_text()
    assert not re.search(r"<script|<a href=\"http", shown)
    rendered = MarkdownIt("commonmark").enable("table").render((folder / "index.md").read_text())
    assert not re.search(r"<script|<a |<em>|http://f\"", rendered)
    found = json.loads((folder / "cells.json").read_text())
    assert found["rows"][0] == made.experiment.rows[0] and found["commit"] == HOSTILE
    lines = list(csv.DictReader(io.StringIO((folder / "cells.csv").read_text())))
    assert len(lines) == len(found["cells"])


def test_the_same_page_twice(tmp_path):
    def written(number):
        made = invented("table2", tmp_path / f"store{number}", seeds=(0, 1))
        folder = tmp_path / f"page{number}"
        write_page(page_of(made, verdicts=[verdict(SUPPORTED)]), folder)
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert written(1) == written(2)


def test_former_pictures_of_ours_go_and_others_stay(tmp_path):
    folder = tmp_path / "page"
    write_page(page_of(invented("table4", tmp_path / "store")), folder)
    images = folder / "images"
    users = [images / name for name in ("users.png", "users.pdf", "users.svg", "notes.png")]
    Image.new("RGB", (3, 3)).save(users[0])
    Figure().savefig(users[1])
    Figure().savefig(users[2])
    users[3].write_text("no picture")
    ours = [images / f"table4-heatmap.{format}" for format in ("png", "svg", "pdf")]
    for format in ("svg", "pdf"):
        page = page_of(invented("table4", tmp_path / "store"))
        write_page(page, folder, format)
        assert {*users, ours[0], images / f"table4-heatmap.{format}"} == set(images.iterdir())
    write_page(page_of(invented("table6", tmp_path / "store")), folder)
    assert set(users) == set(images.iterdir())


def test_files_that_cannot_be_written(tmp_path):
    page = page_of(invented("table6", tmp_path / "store"))
    (tmp_path / "page").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written.*--out"):
        write_page(page, tmp_path / "page")


# What the report's renderers have for these pages.


def test_html_of_cells(tmp_path):
    made = invented("table4", tmp_path)
    grid = read_grid(made, published(4), [])
    shown = html.render(Document("T", [main_table(grid, False)]), Path("x/index.html"))
    assert '<div class="wide pinned">' in shown and '<td class="long">' not in shown
    value = made.values["ResNet-18", "ResNet-18"].value
    assert f"<td><strong>{100 * value:.2f} %</strong> " in shown
    assert "<br><small>paper 5.98 %</small></td>" in shown


def test_combined_seeds_have_the_fewest_images():
    cell = Cell(State.MEASURED, combined([share(0.5, 10), share(0.6, 8)]))
    assert cell.ours.n == 8 and wording.ours(cell) == "55.00 %"
