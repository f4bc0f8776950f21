"""Results that are kept: a small file, the page that it makes, and commands that go on from it."""

import errno
import json
import math
import re
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from paper_smoke import TINY
from paper_table10 import TABLE10
from scotoma.bench.paper import reproduce
from scotoma.bench.paper.artefacts import Context, Training
from scotoma.bench.paper.budgets import BUDGETS
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.results import FILE, Results, read_results
from scotoma.bench.paper.results_page import Keeper, write_page
from scotoma.bench.paper.setup import Setup
from scotoma.bench.paper.tables import definition
from scotoma.bench.paper.work import Store
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import proportion
from scotoma.defective.serialization import seal
from scotoma.train.pages import inline
from scotoma.train.screen import Progress

COMMITTED = sorted((Path(__file__).parents[2] / "docs/results").glob(f"*/{FILE}"))


@pytest.fixture
def kept(again, tmp_path):
    """The folder of results of Table 10."""
    status, out, err = again(*TABLE10, "--batch-size", "100", "--results", "kept")
    assert (status, err) == (0, "") and "results     kept/index.md\n" in out
    return tmp_path / "kept"


def edited(folder, change):
    """Edit a results file as somebody could who knows how it is sealed."""
    record = json.loads((folder / FILE).read_text())
    record.pop("digest", None)
    change(record)
    (folder / FILE).write_text(json.dumps(seal(record)))


def test_the_page_is_made_from_the_file_alone(kept, paper, tmp_path):
    page = (kept / "index.md").read_text()
    own = tmp_path / "paper/pages/table10-smoke"
    numbers = (own / "index.md").read_text().split("## Numbers")[1].split("##")[0]
    assert numbers.count(" %**") >= 4 and numbers.strip() in page
    verdicts = json.loads((own / "cells.json").read_text())["verdicts"]
    assert all(inline(each[k]) in page for each in verdicts for k in ("claim", "evidence"))
    assert "6 trainings took" in page and str(tmp_path) not in page + (kept / FILE).read_text()
    shutil.rmtree(tmp_path / "paper")
    (kept / "index.md").unlink()
    status, out, err = paper("page", "kept")
    assert (status, err) == (0, "") and out.endswith("page  kept/index.md\n")
    assert (kept / "index.md").read_text() == page


def test_what_the_file_has_is_not_made_again(kept, paper, monkeypatch):
    def fails(self, context):
        raise AssertionError("made again")

    page = (kept / "index.md").read_text()
    monkeypatch.setattr(Training, "make", fails)
    status, out, err = paper(*TABLE10, "--results", "kept", "--out", "other")
    assert (status, err) == (0, "") and ", 0 to make" in out
    without_line = [
        "\n".join(line for line in text.split("\n") if "Written on" not in line)
        for text in (page, (kept / "index.md").read_text())
    ]
    assert without_line[0] == without_line[1]
    # And another table is added to it.
    status, out, _ = paper("table11", *TABLE10[1:], "--results", "kept", "--dry-run")
    tables = json.loads((kept / FILE).read_text())["tables"]
    assert status == 0 and set(tables) == {"table10", "table11"}
    status, _, _ = paper("page", "kept")
    page = (kept / "index.md").read_text()
    assert status == 0 and "What is not made yet was estimated at" in page
    # A claim that compares both is one.
    claims, _ = page.split("A claim is a number of comparisons")[0:2]
    assert claims.count("Against a source of its own kind") == 1 and "3 claims:" in claims
    # A dry run tells the same, and when nothing is left, leaves the estimate as it is.
    before = (kept / FILE).read_bytes()
    status, out, _ = paper(*TABLE10, "--results", "kept", "--out", "third", "--dry-run")
    assert status == 0 and re.search(r"evaluations +10 +10 +0 ", out), out
    assert (kept / FILE).read_bytes() == before


def test_a_dry_run_alone_has_a_page(paper, tmp_path):
    assert paper(*TABLE10, "--results", "new", "--dry-run")[0] == 0
    assert paper("page", "new")[0] == 0
    page = (tmp_path / "new/index.md").read_text()
    assert "0 trainings took 0 s." in page and "Written on" not in page
    assert re.search(r"What is not made yet was estimated at \d+ s", page)


def test_what_was_estimated_is_held_against_what_it_took(again, tmp_path):
    shutil.rmtree(tmp_path / "paper/result")
    assert again(*TABLE10, "--results", "new", "--dry-run")[0] == 0
    assert again(*TABLE10, "--results", "new")[0] == 0
    page = (tmp_path / "new/index.md").read_text()
    assert re.search(r"6 trainings took \d+ s\.", page) and "not made yet" not in page
    assert re.search(r"10 evaluations took (\d+ s); 10 of them \1, estimated at \d+ s", page)
    assert "What a dry run estimates at" in page


def test_a_set_that_was_made_again_is_told(kept, paper):
    """Elsewhere the same training ends in other bits, and so do attacks on it."""
    page = (kept / "index.md").read_text()
    assert "Not all on the same images" not in page
    chosen = []

    def change(record):
        for entry in record["artefacts"].values():
            if entry["kind"] == "result" and "-against-" in entry["label"] and not chosen:
                chosen.append(entry["label"])
                entry["content"]["cells"][0]["identity"]["set"]["content"] = "0" * 32

    edited(kept, change)
    assert paper("page", "kept")[0] == 0
    page = (kept / "index.md").read_text()
    assert page.count("Not all on the same images") == 1 and chosen[0] in page


def test_a_folder_with_the_name_of_a_data_set_stays_a_folder(tmp_path):
    """Its images are told by their content: with another name its keys would be others."""
    for place, told in (
        ("/home/me/cifar10", "./cifar10"),
        ("/home/me/mine", "mine"),
        ("/", "fold"),
    ):
        data = Data("cifar10", place, content="0" * 64, train_limit=500)
        setup = Setup(TINY, {"cifar10": data})
        Results(setup, {"table10": []}, commits=["c"]).write(tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(BUDGETS, "smoke", TINY)
            found = read_results(tmp_path)
        assert found.setup.data["cifar10"].settings() == data.settings()
        assert found.setup.data["cifar10"].dataset.startswith(told)
        assert "/home" not in (tmp_path / FILE).read_text()


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(again, tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    whole = tempfile.TemporaryFile

    def fails(dir):
        if dir.name == "kept":
            raise OSError(errno.EROFS, "Read-only file system")
        return whole(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    status, out, err = again(*TABLE10, "--results", "kept")
    assert (status, out) == (2, "") and "--results kept: cannot be written to (Read-only" in err


def test_what_is_there_is_kept_when_it_is_stopped(again, tmp_path, monkeypatch):
    for path in (tmp_path / "paper/result").glob("*0.3-Bottom-s0-against*"):
        path.unlink()

    def stopped(plan, context, options):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "make_missing", stopped)
    assert again(*TABLE10, "--results", "kept")[0] == 130
    page = (tmp_path / "kept/index.md").read_text()
    assert "0.3-Bottom (0.5-Bottom), 0.3-Bottom (0.3-Bottom): not made yet" in page
    assert " %**" in page


def test_two_commands_that_end_at_once_lose_nothing_of_each_other(kept, tmp_path, monkeypatch):
    """Whatever their --out: the lock is of the folder that both write to."""
    monkeypatch.setitem(BUDGETS, "smoke", TINY)
    setup = read_results(kept).setup
    keepers = [
        Keeper(kept, setup, {name: definition(name).build(setup)})
        for name in ("table11", "table12")
    ]
    collect, begun, other = Results.collect, threading.Event(), threading.Event()

    def slow(results, store):
        collect(results, store)
        if not begun.is_set():
            begun.set()
            other.wait(0.5)  # which has to wait for this one

    monkeypatch.setattr(Results, "collect", slow)
    with Progress() as screen, ThreadPoolExecutor() as pool:
        cpu = torch.device("cpu")
        one, two = (Context(Store(tmp_path / n), cpu, screen, batch_size=1) for n in "ab")
        kept_first = pool.submit(keepers[0].keep, one)
        assert begun.wait(30)
        keepers[1].keep(two)
        other.set()
        kept_first.result()
    assert set(read_results(kept).tables) == {"table10", "table11", "table12"}
    assert not [path for path in kept.iterdir() if path.name.startswith(".")]


def test_mistakes(kept, paper, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").write_text("mine")
    table = (*TABLE10, "--results")
    for arguments, said in (
        (("page",), "required: folder"),
        (("page", "empty"), "empty: no results.json in it"),
        (("page", "nowhere"), "nowhere: no results.json in it"),
        ((*table, "taken"), "--results taken: cannot be written to"),
        ((*table, "kept", "--seeds", "2"), r"--seeds \[0\], not \[0, 1\]; give another folder"),
        ((*table, "kept", "--images", "common"), "--images source, not common"),
        ((*table, "kept", "--data", "cifar10=mnist"), "--data cifar10"),
        (("figure3", *TABLE10[1:], "--results", "new"), "numbers, and not the images that figure3"),
    ):
        status, _, err = paper(*arguments)
        assert status == 2 and err.count("\n") <= 2
        assert re.search(said, err), err
    assert (tmp_path / "taken").read_text() == "mine" and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(format=99), "format is 99"),
        (lambda r: r.update(budget="tiny"), "no results of 'scotoma paper'.*tiny"),
        (lambda r: r.update(seeds=[]), "seeds is"),
        (lambda r: r.update(tables={"table99": []}), "table99"),
        (lambda r: r.update(tables={"table10": ["VGG*"]}), "no row of table10 matches"),
        (lambda r: r["data"]["cifar10"].update(path="/"), "no results of"),
        (lambda r: r.update(artefacts=3), "no results of"),
        (lambda r: r["artefacts"].update(x={"kind": "set"}), "1 of [0-9]+ entries are of other"),
        (lambda r: r.update(seeds=[1e400]), "a number is"),
        (lambda r: r.update(seeds=[10**400]), "a number is"),
        (lambda r: r.update(tables={}), "no tables"),
        (lambda r: r.update(images=5), "images is 5"),
        (lambda r: r["artefacts"].update(x={"kind": "set"}) or r.update(commits=[]), "of other"),
        (lambda r: r["estimate"].update(x="one"), "no results of"),
        (lambda r: r["estimate"].update(x=-1), "seconds are -1"),
        (lambda r: drop_identity(r), "no results of"),
        (lambda r: r.update(estimate=3), "no results of"),
        (lambda r: r["data"]["cifar10"].update(dataset=3), "dataset of cifar10 is 3"),
        (lambda r: r["data"]["cifar10"].update(made_by={}), "data of cifar10 have"),
        (lambda r: told(r, {}), "no results of"),
        (lambda r: told(r, None), "no results of"),
        (lambda r: told(r, {"seconds": -1, "warnings": []}), "seconds are -1"),
        (lambda r: told(r, {"seconds": math.nan, "warnings": []}), "a number is NaN"),
        (lambda r: told(r, {"seconds": 1, "warnings": [], "train_images": []}), "train_images is"),
        (lambda r: wrong(r, "sample", indices=[-1]), "entry of sample-16.*is damaged"),
        (lambda r: wrong(r, "sample", indices=""), "entry of sample-16.*is damaged"),
        (lambda r: wrong(r, "sample", details={"found": "x"}), "entry of sample-16.*is damaged"),
        (lambda r: wrong(r, "result", cells=[{"results": RIGHT, "made": {}}]), "no result|damaged"),
        (lambda r: r["artefacts"].update(dict.fromkeys(r["artefacts"], 3)), "no results of"),
        (lambda r: wrong(r, "result", cells=[{"results": {"defence": 2}}]), "is damaged|no result"),
        (lambda r: wrong(r, "result", cells=[]), "no result"),
    ],
)
def test_a_file_of_somebody_else_is_not_trusted(kept, paper, change, said):
    edited(kept, change)
    status, _, err = paper("page", "kept")
    assert status == 2 and re.search(said, err), err


RIGHT = {
    "defence": proportion(2**40, 2**40),
    "accuracy": proportion(2**40, 2**40),
    "outcomes": {"right": "", "among": ""},
}
"""Of more images than memory holds."""


def told(record, found):
    next(e for e in record["artefacts"].values() if e["kind"] == "train")["told"] = found


def drop_identity(record):
    for entry in record["artefacts"].values():
        for cell in entry.get("content", {}).get("cells", ()):
            del cell["identity"]


def wrong(record, kind, **content):
    next(e for e in record["artefacts"].values() if e["kind"] == kind)["content"] |= content


@pytest.mark.parametrize("cut", [0, 1, 1000, -2])
def test_a_file_that_was_cut_short(kept, paper, cut):
    whole = (kept / FILE).read_bytes()
    for content in (whole[:cut], b"\xff" + whole, b"[" * 100_000, b"[1]"):
        (kept / FILE).write_bytes(content)
        status, _, err = paper("page", "kept")
        assert status == 2 and "no results of 'scotoma paper'" in err and len(err) < 500


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["artefacts"].update(x={}) or r.update(commits=["\x1b[2J"]),
        lambda r: r.update(tables={"table10": ["\x1b[2J"]}),
        lambda r: r.update(tables={"\x1b[2J": []}),
    ],
)
def test_what_a_file_says_does_not_reach_the_terminal_s_controls(kept, paper, change):
    edited(kept, change)
    status, _, err = paper("page", "kept")
    assert status == 2 and "\x1b" not in err and "[2J" in err


def test_a_damaged_result_is_named_once(again, tmp_path):
    path = next((tmp_path / "paper/result").glob("*.json"))
    path.write_text("{")
    status, _, err = again(*TABLE10, "--results", "kept")
    assert status == 2 and err.count("remove it") == err.count(path.name) == 1, err


def test_an_edited_file_is_found_out(kept):
    text = (kept / FILE).read_text()
    (kept / FILE).write_text(text.replace('"seconds": ', '"seconds": 1', 1))
    with pytest.raises(UserError, match=r"results\.json.*(changed|damaged|edited)"):
        read_results(kept)


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_committed_pages_are_those_of_their_files(file, tmp_path):
    """And nothing in them is of an older version of the code, whose keys were others."""
    results = read_results(file.parent)
    with Progress() as screen:
        write_page(tmp_path, results, screen)
    assert (tmp_path / "index.md").read_text() == (file.parent / "index.md").read_text()
    size = sum(p.stat().st_size for p in file.parent.rglob("*") if p.is_file())
    assert size < 3e6
