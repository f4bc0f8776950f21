"""``scotoma paper`` as people use it: from a name to a page, stopped, given again, mistaken."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import paper_table10
import pytest
import torch
from paper_smoke import TINY, context
from paper_table10 import TABLE10
from scotoma.bench.paper import reproduce
from scotoma.bench.paper.artefacts import Training
from scotoma.bench.paper.budgets import BUDGETS, SMOKE
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.setup import Setup
from scotoma.bench.paper.tables import definition, definitions
from scotoma.bench.paper.work import Store
from scotoma.defective.errors import UserError
from study_pairs import result, saved, study

ONE_ROW = (*TABLE10, "--rows", "0.5-Bottom")


def trainings(folder, *texts):
    return [p for p in (folder / "train").iterdir() if all(t in p.name for t in texts)]


def test_a_table_is_made_once(again, tmp_path):
    folder = tmp_path / "paper"
    assert len(trainings(folder)) == 6
    page = folder / "pages" / "table10-smoke"
    cells = json.loads((page / "cells.json").read_text())
    assert "0.5-BottomDIF" in (page / "index.md").read_text()
    assert (page / "index.html").read_text().startswith("<!DOCTYPE html>")
    times = {p: p.stat().st_mtime_ns for p in folder.glob("[rst]*/*")}
    assert len(times) > 8
    status, out, _ = again(*TABLE10)
    assert status == 0 and re.search(r", 0 to make", out)
    assert "table10: 2 claims: 2 not decidable at this budget.\n" in out
    assert out.count("  not decidable at this budget: ") == 2
    assert f"  page      {page / 'index.html'}\n" in out
    assert times == {p: p.stat().st_mtime_ns for p in folder.glob("[rst]*/*")}
    assert json.loads((page / "cells.json").read_text())["cells"] == cells["cells"]


def test_relations_and_masks_of_table_10(made):
    """Equal, drawn apart, or nested, as its notes say."""
    there = context(Store(made))
    data = {"cifar10": Data("cifar10", "sample", train_limit=500)}
    table = definition("table10").build(Setup(TINY, data, images="source"))
    assert "nested" in " ".join(table.notes)
    masks = {}
    for (row, column), (measure,) in table.cells.items():
        relation = measure.result.read(there.store)[0]["relation"]
        same = row.removesuffix("DIF") == column
        assert relation == (("DIF" if row.endswith("DIF") else "gray-box") if same else "transfer")
        for kind, name, model in (
            ("target", row, measure.result.target),
            ("source", column, measure.result.images.source),
        ):
            state = model.load(there).model.state_dict()
            masks[kind, name] = torch.cat([v.flatten() for k, v in state.items() if "mask" in k])
    half, third = masks["target", "0.5-Bottom"], masks["target", "0.3-Bottom"]
    assert torch.equal(half, masks["source", "0.5-Bottom"])
    assert torch.equal(third, masks["source", "0.3-Bottom"])
    for name, mask in (("0.5-BottomDIF", half), ("0.3-BottomDIF", third)):
        assert 0 < (masks["target", name] != mask).float().mean() < 0.9
    assert bool(half[third].all()) and not bool(half[masks["target", "0.3-BottomDIF"]].all())


def test_what_fails_is_left_out_and_the_rest_is_made(again, tmp_path, monkeypatch):
    folder = tmp_path / "paper"
    for gone in (folder / "result", *trainings(folder, "0.5-Bottom-s0")):
        shutil.rmtree(gone)
    make = Training.make

    def fails(self, context):
        assert self.config.defects == "0.5-Bottom" and self.config.seed == 0
        raise UserError("the loss is not finite")

    monkeypatch.setattr(Training, "make", fails)
    status, _, err = again(*TABLE10)
    assert status == 2
    assert re.search(r"error: 1 of \d+ artefacts could not be made.*loss is not finite", err)
    page = folder / "pages/table10-smoke/index.md"
    assert "failed" in page.read_text() and len(list((folder / "result").iterdir())) == 8
    monkeypatch.setattr(Training, "make", make)
    status, _, _ = again(*TABLE10)
    assert status == 0 and "failed" not in page.read_text()


def test_a_damaged_result_keeps_no_other_page(again, tmp_path):
    pages = tmp_path / "paper" / "pages"
    before = (pages / "table10-smoke" / "index.md").read_text()
    damaged = next((tmp_path / "paper" / "result").iterdir())
    damaged.write_text("")
    status, out, err = again("table10", "figure1", *TABLE10[1:])
    assert status == 2 and "table10: no page: " in out
    assert damaged.name in err and "remove it" in err
    assert "1 page could not be written" in err
    assert (pages / "figure1-smoke" / "index.html").is_file()
    assert (pages / "table10-smoke" / "index.md").read_text() == before


def test_a_stopped_command_goes_on(again, tmp_path, monkeypatch):
    folder = tmp_path / "paper"
    for gone in (folder / "pages", folder / "result", *trainings(folder, "0.3-Bottom-s0")):
        shutil.rmtree(gone)

    def stops(self, context):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "make", stops)
        status, out, _ = again(*TABLE10)
    assert status == 130 and "the same command goes on" in out
    assert not list(folder.glob("pages/*"))
    status, out, _ = again(*TABLE10)
    assert status == 0 and re.search(r"[1-9]\d* there already", out)


def test_only_rows_that_match(again, tmp_path):
    assert again(*ONE_ROW)[0] == 0
    page = (tmp_path / "paper/pages/table10-smoke/index.md").read_text()
    assert "table10 --budget smoke --seeds 1 --images source --rows 0.5-Bottom`" in page
    assert "Made were only the rows that match 0.5-Bottom." in page
    rows = {line.split(" |")[0]: line for line in page.splitlines() if line.startswith("| 0.")}
    assert rows["| 0.3-Bottom"].count("paper") == 2 == rows["| 0.3-Bottom"].count("| <small>")
    assert rows["| 0.5-Bottom"].count("paper") == 2 and "| <small>" not in rows["| 0.5-Bottom"]
    # Two sources, and the row's own network.
    _, out, _ = again(*ONE_ROW, "--out", "new", "--dry-run", "--no-measure")
    assert re.search(r"trainings +3 +0 +3", out)
    # Of one table only; the other keeps its rows.
    rows = ("--rows", "table10:0.5-Bottom")
    for names, count in ((("table10",), 3), (("table10", "table11"), 3 + 4)):
        _, out, _ = again(*names, *TABLE10[1:], *rows, "--out", "new", "--dry-run", "--no-measure")
        assert re.search(rf"trainings +{count} +0 +{count}", out)


def test_verdicts_at_small_scale_have_words_of_their_own(again, tmp_path, monkeypatch):
    monkeypatch.setattr(paper_table10, "TINY", replace(TINY, scale="at small scale"))
    _, out, _ = again(*TABLE10)
    # Of other images than the paper's nothing is decided.
    assert re.search(r"table10: 2 claims: 2 at small scale: undecided\.", out)
    monkeypatch.setattr(reproduce, "other_images", lambda *_: "")
    page = again(*TABLE10) and (tmp_path / "paper/pages/table10-smoke/index.html").read_text()
    assert "at small scale: " in page and "decide nothing about the paper" not in page


def test_the_small_budget_has_three_seeds_with_masks_of_their_own(paper):
    out = paper("table11", "--budget", "small", "--dry-run", "--no-measure")[1]
    assert re.search(r"trainings +11 +0 +11", out)  # five sources once, two targets three times
    out = paper("table11", "--budget", "small", "--seeds", "1", "--dry-run", "--no-measure")[1]
    assert re.search(r"trainings +7 +0 +7", out)
    data = Data("cifar10", "cifar10", train_limit=10_000)
    built = definition("table5").build(Setup(BUDGETS["small"], {"cifar10": data}, seeds=(0, 1, 2)))
    measures = built.cells["0.3-Bottom", "PGD16"]
    networks = [measure.result.target.members[0].config for measure in measures]
    assert [network.mask_seed for network in networks] == [0, 1, 2]
    assert {network.width for network in networks} == {16}
    # All seeds meet the same images, of which there are 1,000.
    assert len({measure.result.images.key for measure in measures}) == 1
    assert measures[0].result.sample.count == 1000


def test_a_dry_run_makes_nothing(paper, tmp_path):
    status, out, _ = paper(*TABLE10, "--dry-run", "--no-measure")
    assert status == 0
    assert re.search(r"trainings +6 +0 +6", out)
    assert not (tmp_path / "paper/train").exists() and not (tmp_path / "paper/pages").exists()


def test_the_list_has_everything_of_the_paper(paper):
    status, out, _ = paper("list")
    assert status == 0
    wanted = [f"table{n}" for n in range(1, 19)] + [f"figure{n}" for n in (1, 3, 4, 5, 6, 7, 14)]
    wanted.append("perturbation")
    assert list(definitions()) == wanted
    assert [line.split()[0] for line in out.splitlines()[: len(wanted)]] == wanted
    status, out, _ = paper("list", "table4")
    assert status == 0 and "5 sources and 15 targets" in out
    status, out, _ = paper("list", "perturbation")
    assert status == 0 and "section  none in the paper; extends 4.2" in out


@pytest.mark.slow
def test_a_study_is_made(paper, tmp_path, monkeypatch):
    # Networks have to be good enough that there is something to fool.
    monkeypatch.setattr(paper_table10, "TINY", replace(TINY, data=SMOKE.data))
    options = ("--budget", "smoke", "--per-person", "2", "--device", "cpu")
    status, out, err = paper("study", *options, "--attack", "mifgsm:eps=64/255,step=16/255,steps=3")
    assert status == 0 and "pairs" in out, err
    page = (tmp_path / "paper/pages/study-smoke/index.html").read_text()
    assert "data:image/png;base64," in page and "http://" not in page.replace("w3.org", "")


def test_a_study_is_scored(paper, tmp_path):
    asked = study()
    files = saved(tmp_path, result(asked, 1, 6), result(asked, 2, 2))
    status, out, err = paper("study-score", *map(str, files))
    assert (status, err) == (0, "")
    assert "people who chose a more often: 1 of 2" in out
    page = Path("study-score/score.html")
    assert out.endswith(f"page {page}\n") and page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "which table or figure"),
        (("tabel4",), "did you mean .?table4|table4"),
        (("table19",), "table19"),
        (("table11", "--seeds", "0"), "--seeds is 0"),
        (("table11", "--first-seed", "99", "--seeds", "2"), "seeds has 100"),
        (("table11", "--batch-size", "0"), "--batch-size is 0"),
        (("table11", "--per-gpu", "2"), "give --ray"),
        (("table11", "--ray", "local", "--per-gpu", "0"), "--per-gpu is 0; expected 1 to 1000"),
        (("table11", "--ray", "local", "--per-gpu", "1001"), "--per-gpu is 1001"),
        (("table11", "--ray", "local", "--device", "cpu", "--per-gpu", "2"), "not --device cpu"),
        (("table11", "--ray", "local", "--device", "cuda"), "--device cuda with --ray"),
        (("table11", "--data", "cifar10"), "expected ROLE=PLACE"),
        (("table11", "--data", "cifar=x"), "none of the paper's data sets.*cifar10"),
        (("table11", "--data", "cifar10=nowhere"), "no such image folder"),
        (("table11", "--budget", "smoke", "--rows", "VGG*"), "no row of table11 matches"),
        (("table11", "--budget", "smoke", "--rows", "table4:*"), "table4 is not among.*table11"),
        (("table9", "--budget", "small"), "no networks for mnist; expected.*smoke, quick, full"),
        (("table11", "--data-root", "empty"), "--download"),
        (("table1", "--budget", "smoke", "--stylized", "nowhere"), "--stylized .*no such"),
        (("table11", "--budget", "tiny"), "smoke.*small.*quick.*full"),
        (("study", "--defects", "standard"), "--defects is standard"),
        (("study", "--per-person", "0"), "--per-person is 0"),
        (("study", "--attack", "pgdd"), "pgdd"),
        (("study-score", "nowhere.json"), "nowhere.json"),
        (("list", "table99"), "table99"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(paper, tmp_path, arguments, said):
    status, _, err = paper(*arguments)
    assert status == 2
    assert err.startswith("scotoma paper: error: ") and err.count("\n") == 1
    assert re.search(said, err), err
    assert not (tmp_path / "paper" / "train").exists()


def test_a_file_is_no_folder(paper, tmp_path):
    (tmp_path / "taken").write_text("mine")
    status, _, err = paper("table11", "--budget", "smoke", "--out", "taken")
    assert status == 2 and "--out" in err and "cannot be written" in err
    assert (tmp_path / "taken").read_text() == "mine"
