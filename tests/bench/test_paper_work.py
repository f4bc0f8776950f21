"""Plans of artefacts: what is missing, in which order, and that each is made once by whoever."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from forks import Forked
from named_artefact import Named
from paper_smoke import context, finish, new_store
from scotoma.bench.paper.data import SampleFolder
from scotoma.bench.paper.work import Failure, Plan, Store, closure, make_here
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
    assert list(plan.artefacts) == closure([top, left])
    assert plan.missing == {a.key for a in (bottom, left, right, top)}
    assert make_here(plan, context(store)) == []
    assert notes.made == ["bottom", "left", "right", "top"]
    again = Plan.of([top], store)
    assert again.to_make() == [] and make_here(again, context(store)) == []
    assert len(notes.made) == 4


def test_what_is_done_needs_no_inputs(notes, store):
    bottom, left, right, top = diamond()
    make_here(Plan.of([top], store), context(store))
    for gone in (bottom, left):
        gone.path(store).unlink()
    assert Plan.of([top], store).missing == set()
    other = Note("other", (right,))
    assert [a.name for a in Plan.of([other, top], store).to_make()] == ["other"]
    names = [a.name for a in Plan.of([top, Note("more", (left,))], store).to_make()]
    assert names == ["bottom", "left", "more"]


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
    failures = make_here(Plan.of([above, Note("apart", (right,))], store), context(store))
    assert failures == [Failure(left, "left is broken")]
    assert sorted(notes.made) == ["apart", "bottom", "right"]
    printed = capsys.readouterr().out
    assert "top: left out, left failed" in printed and "above: left out, left failed" in printed
    assert "[6/6] note" in printed
    notes.broken.clear()
    assert make_here(Plan.of([above], store), context(store)) == []
    assert notes.made[-3:] == ["left", "top", "above"]


def test_no_memory_is_a_failure_with_advice_and_a_bug_is_none(notes, store, monkeypatch):
    errors = [torch.OutOfMemoryError("out of memory"), ZeroDivisionError()]

    def make(self, context):
        raise errors.pop(0)

    monkeypatch.setattr(Note, "make", make)
    (failure,) = make_here(Plan.of([Note("large")], store), context(store))
    assert "--batch-size" in failure.message
    with pytest.raises(ZeroDivisionError):
        make_here(Plan.of([Note("bug")], store), context(store))


def test_several_at_the_same_time_make_each_once_and_share_the_work(notes, store, monkeypatch):
    """Each with an open file of its own, as processes have."""
    make, makers = Note.make, set()

    def slowly(self, context):
        time.sleep(0.05)
        makers.add(threading.get_ident())
        make(self, context)

    monkeypatch.setattr(Note, "make", slowly)
    wanted = [Note(f"top{n}", (Note(f"bottom{n}"),)) for n in range(8)]
    found = []

    def run():
        here = new_store(store.folder)
        found.append(make_here(Plan.of(wanted, here), context(here)))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[], [], []]
    assert sorted(notes.made) == sorted(a.name for a in closure(wanted))
    assert len(makers) == 3


def test_a_lock_holds_across_processes_and_ends_with_its_owner(store, tmp_path, capsys):
    artefact = SampleFolder(3, 2)

    def own():
        with new_store(store.folder).alone(artefact.key):
            (tmp_path / "locked").touch()
            time.sleep(600)

    owner = Forked(own, tmp_path / "owner")
    waiting = threading.Thread(target=finish, args=([artefact], store))
    try:
        while not (tmp_path / "locked").exists():
            time.sleep(0.01)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and not artefact.is_done(store)
        assert "waiting for another process: sample-folder" in capsys.readouterr().out
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    waiting.join(60)
    assert artefact.is_done(store)


def test_a_store_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file"):
        Store(tmp_path / "file").prepare()
