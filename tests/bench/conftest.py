"""Fixtures that several files of tests use."""

import pytest
from paper_table10 import again, made, paper  # noqa: F401
from scotoma.bench.doctor import kernels
from scotoma.bench.doctor.checks import OK, CheckResult
from scotoma.bench.report import tables


@pytest.fixture
def no_pictures(monkeypatch):
    """Pages of results are words and tables."""
    monkeypatch.setattr(tables, "picture", lambda *arguments: None)


@pytest.fixture
def no_compile(monkeypatch):
    """It takes longest by far, and has tests of its own."""
    result = CheckResult("torch.compile", OK, "works")
    monkeypatch.setattr(kernels, "outcome", lambda *arguments: result)


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """A machine without caches and data."""
    monkeypatch.setenv("SCOTOMA_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return tmp_path


@pytest.fixture
def store(tmp_path):
    """Where a reproduction keeps what it makes."""
    from paper_smoke import new_store

    return new_store(tmp_path / "store")


@pytest.fixture(scope="module")
def browser():
    from study_visit import running  # only here, since not everybody has one

    with running() as started:
        yield started


@pytest.fixture
def visit(browser, tmp_path):
    """visit(study, **options of a context) opens its page; afterwards nothing has gone wrong."""
    from scotoma.bench.paper.study.study import write_page
    from study_visit import Visit

    opened = []

    def visit(asked, **options):
        opened.append(Visit(browser, write_page(asked, tmp_path / "page.html"), **options))
        return opened[-1]

    yield visit
    for each in opened:
        each.close()
