"""Fixtures that several files of tests use."""

import pytest
from scotoma.bench.doctor import compiling
from scotoma.bench.doctor.line import OK, Line
from scotoma.bench.report.sections import album


@pytest.fixture
def no_pictures(monkeypatch):
    """Every picture is one of no rows."""

    def draw(self, draw, rows, alt, *words):
        return album.Picture(f"{'-'.join(words)}.png", alt, b"")

    monkeypatch.setattr(album.Album, "draw", draw)


@pytest.fixture
def no_compile(monkeypatch):
    """It takes longest by far, and has tests of its own."""
    line = Line("torch.compile", OK, "works")
    monkeypatch.setattr(compiling, "outcome", lambda *arguments: line)


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """A machine without caches and data."""
    monkeypatch.setenv("SCOTOMA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SCOTOMA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return tmp_path
