"""Plans of artefacts: what is missing, in which order, by how many at a time."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from named_artefact import Named
from paper_smoke import context, new_store
from scotoma.bench.paper.graph.artefact import closure
from scotoma.bench.paper.graph.local import make_one, run_locally
from scotoma.bench.paper.graph.plan import Failure, Plan
from scotoma.bench.paper.graph.sample_folder import SampleFolder
from scotoma.bench.paper.graph.store import Store
from scotoma.defective.errors import UserError


@dataclass(frozen=True)
class Note(Named):
    """A file that says when it was made, and of what."""

    kind: ClassVar[str] = "note"
    suffix: ClassVar[str] = ".txt"
    made: ClassVar[list] = []
    broken: ClassVar[set] = set()

    def make(self, context):
        assert all(each.is_done(context.store) for each in self.needs)
        if self.name in self.broken:
            raise UserError(f"{self.name} is broken")
        self.made.append(self.name)
        self.path(context.store).parent.mkdir(parents=True, exist_ok=True)
        self.path(context.store).write_text(self.name)


@pytest.fixture
def notes(monkeypatch):
    """What was made so far, in order."""
    monkeypatch.setattr(Note, "made", [])
    monkeypatch.setattr(Note, "broken", set())
    return Note


def diamond():
    bottom = Note("bottom")
    left, right = Note("left", (bottom,)), Note("right", (bottom,))
    return bottom, left, right, Note("top", (left, right))


def test_inputs_first_and_nothing_twice(notes, store):
    bottom, left, right, top = diamond()
    plan = Plan.of([top, left, top, Note("bottom")], store)
    assert [a.name for a in plan.artefacts] == ["bottom", "left", "right", "top"]
    assert plan.missing == {a.key for a in (bottom, left, right, top)}
    assert run_locally(plan, context(store)) == []
    assert notes.made == ["bottom", "left", "right", "top"]
    again = Plan.of([top], store)
    assert again.to_make() == [] and run_locally(again, context(store)) == []
    assert len(notes.made) == 4


def test_what_is_done_needs_no_inputs(notes, store):
    bottom, left, right, top = diamond()
    run_locally(Plan.of([top], store), context(store))
    for gone in (bottom, left):
        gone.path(store).unlink()
    assert Plan.of([top], store).missing == set()
    assert len(Plan.of([top], store).artefacts) == 4
    other = Note("other", (right,))
    assert [a.name for a in Plan.of([other, top], store).to_make()] == ["other"]
    assert [a.name for a in Plan.of([top, Note("more", (left,))], store).to_make()] == [
        "bottom",
        "left",
        "more",
    ]


def test_what_loads_the_same_stands_together(notes, store):
    first = [Note(f"a{n}", (), "a") for n in range(2)]
    between = [Note(f"b{n}", (first[n],), "b") for n in range(2)]
    wanted = [first[0], between[0], Note("c"), first[1], between[1]]
    names = [a.name for a in Plan.of(wanted, store).to_make()]
    assert names == ["a0", "a1", "b0", "b1", "c"]
    # An input of the same group comes before what needs it.
    chain = Note("d2", (Note("d1", (), "d"),), "d")
    assert [a.name for a in Plan.of([chain], store).to_make()] == ["d1", "d2"]


def test_a_failure_leaves_out_dependants_only(notes, store, capsys):
    _, left, right, top = diamond()
    above = Note("above", (top,))
    notes.broken.add("left")
    failures = run_locally(Plan.of([above, Note("apart", (right,))], store), context(store))
    assert failures == [Failure(left, "left is broken")]
    assert sorted(notes.made) == ["apart", "bottom", "right"]
    printed = capsys.readouterr().out
    assert "top: left out, left failed" in printed and "above: left out, left failed" in printed
    notes.broken.clear()
    assert run_locally(Plan.of([above], store), context(store)) == []
    assert notes.made[-3:] == ["left", "top", "above"]


def test_no_memory_is_a_failure_with_advice(notes, store, monkeypatch):
    def make(self, context):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Note, "make", make)
    (failure,) = run_locally(Plan.of([Note("large")], store), context(store))
    assert "--batch-size" in failure.message


def test_bugs_are_no_failures(notes, store, monkeypatch):
    def make(self, context):
        raise ZeroDivisionError

    monkeypatch.setattr(Note, "make", make)
    with pytest.raises(ZeroDivisionError):
        run_locally(Plan.of([Note("bug")], store), context(store))


def test_artefacts_in_a_circle_are_a_bug(store):
    one = Note("one")
    plan = Plan((Note("two", (one,)),), frozenset({Note("two", (one,)).key, one.key}))
    with pytest.raises(RuntimeError, match="circle"):
        plan.to_make()


def test_kind_order_and_number_of_inputs_are_a_part_of_the_key():
    @dataclass(frozen=True)
    class Other(Note):
        kind: ClassVar[str] = "other"

    one, two = Note("one"), Note("two")
    alike = [Note("x", needs) for needs in ((one, two), (two, one), (one,), (one, one), ())]
    assert len({a.key for a in [*alike, Other("x", (one, two))]}) == len(alike) + 1


def test_closure_has_each_once_and_inputs_first():
    order = closure([diamond()[3], diamond()[1]])
    assert [a.name for a in order] == ["bottom", "left", "right", "top"]


def test_two_at_the_same_time_make_it_once(notes, store, monkeypatch):
    """Each with an open file of its own, as two processes have."""
    slow, begun = Note("slow"), threading.Event()
    make = Note.make

    def slowly(self, context):
        begun.set()
        time.sleep(0.3)
        make(self, context)

    monkeypatch.setattr(Note, "make", slowly)
    others = [new_store(store.folder) for _ in range(3)]
    contexts = [context(each) for each in others]
    threads = [threading.Thread(target=make_one, args=(slow, each)) for each in contexts]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    for thread in threads:
        thread.join()
    assert notes.made == ["slow"]


_LOCKING = """
import sys, time
from pathlib import Path
from scotoma.bench.paper.graph.store import Store
from scotoma.bench.paper.graph.sample_folder import SampleFolder
store, artefact = Store(Path(sys.argv[1])), SampleFolder(3, 2)
with store.lock(artefact):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_lock_holds_across_processes_and_ends_with_its_owner(store):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    owner = subprocess.Popen(
        [sys.executable, "-c", _LOCKING, str(store.folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    artefact, finished = SampleFolder(3, 2), threading.Event()

    def make():
        make_one(artefact, context(store))
        finished.set()

    waiting = threading.Thread(target=make)
    try:
        assert owner.stdout.readline() == "locked\n"
        waiting.start()
        assert not finished.wait(0.5) and not artefact.is_done(store)
    finally:
        owner.kill()
        owner.communicate()
    assert finished.wait(60) and artefact.is_done(store)
    waiting.join()


def test_a_store_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file"):
        Store(tmp_path / "file").prepare()
