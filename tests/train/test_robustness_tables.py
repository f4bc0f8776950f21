"""Tables of evaluations: a page and a terminal of every kind of cell, in any order of cells.

The two files in support/ are what was right once; a change of words is to be seen in their
difference.
"""

import random
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len
from robustness_cells import (
    boundary,
    clean,
    everything,
    noise,
    rate,
    shuffle,
    stylized,
    transfer,
    white_box,
)
from scotoma.defective.errors import UserError
from scotoma.train.robustness.tables import console_tables, frame, markdown, rate_text, verdict
from scotoma.train.screen import make_console, show

SUPPORT = Path(__file__).parents[1] / "support"
LONG = "runs/fast-cifar10-resnet18-0.3-Bottom-with-a-very-long-name-{}/checkpoint-at-the-end"


def on_terminal(cells, width=100):
    console = make_console(width=width, file=StringIO())
    show(console, *console_tables(cells))
    return console.file.getvalue()


def words(text):
    """Without spaces and lines of tables, which are rich's."""
    return [word for word in text.split() if word.strip("─")]


def test_the_page_and_the_terminal_of_everything_in_any_order_of_cells():
    cells = everything()
    for seed in range(2):
        random.Random(seed).shuffle(cells)
        assert markdown(cells) == (SUPPORT / "robustness_page.md").read_text()
        screen = (SUPPORT / "robustness_screen.txt").read_text()
        assert words(on_terminal(cells)) == words(screen)


def test_each_kind_has_its_section_and_only_those_that_are_there():
    for cell in everything():
        assert markdown([cell]).count("\n## ") == 1
    assert "## Clean accuracy" in markdown([clean("standard", 9, 10)])
    assert markdown([]) == "# Robustness\n\nNo results.\n" and on_terminal([]) == ""


def test_one_result_twice_counts_once():
    """As after a change of what is shown."""
    renamed = clean("standard", 953)
    renamed["results"]["shown"]["target"] = "another name"
    cells = [clean("standard", 953), clean("0.7-Bottom", 900), clean("0.7-Bottom", 901), renamed]
    page, screen = markdown(cells), on_terminal(cells)
    assert page.count("| 0.7-Bottom |") == 1 and page.count("(N 1000) |") == 2
    assert (markdown(cells[::-1]), on_terminal(cells[::-1])) == (page, screen)


def test_a_rate_has_two_decimals_its_interval_and_n():
    assert rate_text(rate(666, 988)) == "67.41 % [64.4, 70.3] (N 988)"
    assert rate_text(rate(5, 5)) == "100.00 % [56.6, 100.0] (N 5)"
    assert rate_text(rate(0, 0)) == "no image left (N 0)"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            [(620, 1000), (312, 1000)],
            "a defends best: 62.00 %, ahead of b's 31.20 % beyond both intervals",
        ),
        (
            [(50, 100), (55, 100)],
            "not decidable at this N: the interval of b's 55.00 % [45.2, 64.4] meets that of a's "
            "50.00 % [40.4, 59.6]",
        ),
        # The second is clear of the first, the third has so few images that it is not.
        (
            [(900, 1000), (700, 1000), (3, 5)],
            "not decidable at this N: the interval of a's 90.00 % [88.0, 91.7] meets that of c's "
            "60.00 % [23.1, 88.2]",
        ),
        (
            [(5, 10)] * 3,
            "not decidable at this N: the interval of a's 50.00 % [23.7, 76.3] meets that of b's "
            "50.00 % [23.7, 76.3], and 1 more",
        ),
        ([(1, 2)], "a has 50.00 %; there is no other target to compare with"),
        ([(1, 2), (0, 0)], "a has 50.00 %; no image is left for any other target"),
        ([(0, 0)], "no target has an image left"),
    ],
)
def test_verdicts(counts, expected):
    assert verdict({name: rate(*each) for name, each in zip("abc", counts, strict=False)}) == (
        expected
    )


def test_a_lead_over_the_source_itself_says_that_it_means_little():
    cells = [
        transfer("standard", 0, 980, source="standard", relation="white-box"),
        transfer("0.3-Bottom", 400, 900, source="standard"),
    ]
    expected = "(but the attack was made on standard's own weights: white-box)"
    assert expected in markdown(cells)
    # Nothing of the kind where the second is another network.
    assert expected not in markdown([*cells, transfer("0.5-Bottom", 200, 900, source="standard")])


def test_a_frame_has_a_row_a_cell():
    cells = [
        noise("0.3-Bottom", 8, 50, 100),
        transfer("0.3-Bottom", 4, 9),
        clean("standard", 9, 10),
    ]
    found = frame(cells)
    assert list(found.target) == ["standard", "0.3-Bottom", "0.3-Bottom"]
    assert list(found.kind) == ["clean", "noise", "transfer"]
    assert found.accuracy.iat[0]["k"] == 9 and found.defence.iat[2]["n"] == 9
    assert found.source.iat[2] == "source" and found.settings.iat[1]["tails"] == "clip"
    assert found.defence.isna().tolist() == [True, True, False] and frame([]).empty


@pytest.mark.parametrize("count", [2, 10])
def test_a_terminal_of_100_columns_is_wide_enough(count):
    names = [LONG.format(i) for i in range(count)]
    cells = []
    for i, name in enumerate(names):
        cells += [clean(name, 9000 - i, 10000), stylized(name, 10000, 10000)]
        for source in (LONG.format("source"), "b"):
            for attack in ("fgsm", "pgd"):
                cells.append(transfer(name, 10000, 10000, source=source, attack=attack))
        cells += [white_box(name, 10000, 10000), boundary(name, 7.31e-6, 1.25e-5, 500)]
        cells += [noise(name, e, 10000, 10000) for e in (2, 4, 8, 16, 24, 32, 40, 48, 56, 64)]
        cells += [shuffle(name, k, 5000 + k, 10000 + i) for k in (1, 2, 4, 8)]
    screen = on_terminal(cells)
    assert max(map(cell_len, screen.splitlines())) <= 100
    assert "…" not in screen
    # Names are folded, but whole; numbers are never torn.
    assert "100.00[100.0,100.0]N10000" in "".join(screen.split())
    assert screen.count("100.00 [100.0, 100.0] N 10000") == count * (1 + 1 + 4)
    for part in ("runs/fast-cifar10-resnet18-0", "checkpoint-at-the-end"):
        assert part in screen


def test_a_cell_that_lacks_a_result_is_named():
    cell = transfer("standard", 4, 9)
    del cell["results"]["defence_all"]
    with pytest.raises(UserError, match=r"'standard .*transfer.*lack 'defence_all'"):
        markdown([cell])
    cell = clean("standard", 4, 9)
    del cell["results"]["shown"]
    with pytest.raises(UserError, match=r"shown\.target"):
        markdown([cell])
