"""Table 10, made by the command in seconds, for tests of what happens then."""

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout

import pytest
from paper_smoke import TINY
from scotoma.bench.paper.budgets import BUDGETS
from scotoma.train.cli import main


def run(*arguments):
    """(status, stdout, stderr) of the command, with a budget of seconds in the place of smoke."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setitem(BUDGETS, "smoke", TINY)
        status = main(["paper", *arguments])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """Run the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return run


TABLE10 = ("table10", "--budget", "smoke", "--images", "source", "--device", "cpu")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Where Table 10 was made from nothing."""
    folder = tmp_path_factory.mktemp("made")
    status, _, err = run(*TABLE10, "--out", str(folder))
    assert (status, err) == (0, "")
    return folder


@pytest.fixture
def again(made, paper, tmp_path):
    """Run the command where Table 10 is there."""
    shutil.copytree(made, tmp_path / "paper")
    return paper
