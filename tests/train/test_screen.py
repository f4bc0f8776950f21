"""What people read fits 80 columns, with every number whole; singular and plural."""

from io import StringIO

import pytest
from rich.console import Group
from rich.table import Table
from scotoma.defective.errors import counted
from scotoma.train import screen
from scotoma.train.screen import make_console, show, wrapped

NAME = "a-network-of-a-long-name-for-its-folder-{}"


def shown(*views, width=80) -> list[str]:
    console = make_console(width=width, file=StringIO())
    show(console, *views)
    return console.file.getvalue().splitlines()


def wide(rows=2, numbers=12) -> Table:
    table = Table("source", "attack", title="everything")
    for index in range(numbers):
        table.add_column(f"number {index}", justify="right")
    table.add_column("empty", justify="right")
    for row in range(rows):
        cells = [f"{row}{index:02},234.5678" for index in range(numbers)]
        table.add_row(NAME.format(row), "pgd\neps=8/255", *cells, "")
    return table


@pytest.mark.parametrize("width", [60, 80, 100, 300])
def test_a_wide_table_is_shown_in_parts_and_no_number_is_cut(width):
    lines = shown(wide(), width=width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text and "empty" not in text
    for row in range(2):
        for index in range(12):
            assert text.count(f"{row}{index:02},234.5678") == 1
    parts = text.count("everything")
    assert (parts == 1) == (width == 300)
    assert text.count("eps=8/255") == 2 * parts  # every part says whose its numbers are


def test_short_words_of_the_first_columns_are_not_broken():
    table = Table("operator", "pass", "backend", "shape")
    for name in ("us", "GB/s", "TFLOP/s"):
        table.add_column(name, justify="right")
    table.add_row("conv_bn_mask_add_relu", "backward", "triton", "128x1024x32x32 7x7", *"123")
    lines = shown(table)
    assert any("128x1024x32x32" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_lines_are_wrapped_but_not_what_is_copied_from_them():
    path = "/a/very/long/path/" * 6
    attack = "pgd:eps=32/255,step=4/255,steps=1000,random_start=true,loss=cross-entropy,x=1"
    lines = shown(Group(f"  white-box {attack} from a network", f"in {path}: 10,000 images"))
    assert [len(line) > 80 for line in lines].count(True) == 1  # the path
    assert path.rstrip() + ":" in " ".join(lines) and "10,000" in " ".join(lines)
    assert "".join(line.strip() for line in lines[:2]).startswith(f"white-box {attack}")
    assert lines[1].startswith(" " * 12)
    assert wrapped(f"  page      {path}", 80) == f"  page      {path}".rstrip()
    assert wrapped("[brackets] stay", 80) == "[brackets] stay" == shown("[brackets] stay")[0]


def test_progress_is_told_to_a_pipe_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 20.0, 70.0, 75.0, 120.0])
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    with screen.Progress() as bar:
        bar.begin("pgd")
        for done in (10, 20, 70, 75, 100):
            bar.advance(done, 100)
    assert capsys.readouterr().out.strip().splitlines() == ["70 of 100 images  1.0 images/s"]


def test_singular_and_plural():
    assert [counted(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert [counted(n, "class") for n in (1, 1000)] == ["1 class", "1,000 classes"]
