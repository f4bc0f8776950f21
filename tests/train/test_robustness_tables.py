"""Tables of evaluations: exact text, in any order of cells, at any width of names."""

import random
from io import StringIO

import pytest
from rich.cells import cell_len
from robustness_cells import (
    boundary,
    clean,
    noise,
    rate,
    shuffle,
    stylized,
    transfer,
    white_box,
)
from scotoma.defective.errors import UserError
from scotoma.train.robustness.tables import (
    console_tables,
    frame,
    markdown,
    rate_text,
    verdict,
    write_tables,
)
from scotoma.train.screen import make_console, show

LONG = "runs/fast-cifar10-resnet18-0.3-Bottom-with-a-very-long-name-{}/checkpoint-at-the-end"


def everything():
    cells = [clean("standard", 953), clean("0.3-Bottom", 918), clean("0.5-Bottom", 935)]
    for attack in ("fgsm", "pgd"):
        cells += [
            transfer("standard", 0, 980, source="standard", attack=attack, relation="white-box"),
            transfer("0.5-Bottom", 340, 930, source="standard", attack=attack),
            transfer("0.3-Bottom", 640, 900, source="standard", attack=attack, relation="DIF"),
        ]
    cells += [white_box("standard", 3, 1000), white_box("0.3-Bottom", 30, 1000)]
    cells += [boundary("standard", 7.3e-6, 1.2e-5, 500, "a")]
    cells += [boundary("0.3-Bottom", 3.5e-5, 5.6e-5, 400, "b")]
    for target, slope in (("standard", 10), ("0.3-Bottom", 8)):
        cells += [noise(target, e, 1000 - slope * e) for e in (64, 8, 16, 2, 4)]
        cells += [shuffle(target, k, 1000 - slope * k) for k in (8, 1, 2, 4)]
        cells += [stylized(target, slope * 20)]
    return cells


def on_terminal(cells, width=100):
    console = make_console(width=width, file=StringIO())
    show(console, *console_tables(cells))
    return console.file.getvalue()


def row(text, *names):
    """The entries of the first row that begins so."""
    line = next(ln for ln in text.splitlines() if ln.startswith("| " + " | ".join(names) + " |"))
    return [entry.strip() for entry in line.strip("|").split("|")][len(names) :]


def test_a_rate_has_two_decimals_its_interval_and_n():
    assert rate_text(rate(666, 988)) == "67.41 % [64.4, 70.3] (N 988)"
    assert rate_text(rate(5, 5)) == "100.00 % [56.6, 100.0] (N 5)"
    assert rate_text(rate(0, 0)) == "no image left (N 0)"


def test_a_small_page_word_by_word():
    cells = [
        clean("standard", 95, 100),
        clean("0.3-Bottom", 90, 100),
        transfer("standard", 20, 90, attack="fgsm"),
        transfer("0.3-Bottom", 60, 88, attack="fgsm", relation="gray-box"),
    ]
    assert markdown(cells) == (
        "# Robustness\n\n## Transfer\n\n"
        "- P1, the success defence rate: of the images that the target classifies correctly before "
        "the attack and whose adversarial version fools the source (right before, wrong after), "
        "the share that the target still classifies correctly. Each target has its own N.\n"
        "- P2: of all attacked images, the share that the target classifies correctly after the "
        "attack, whatever source and target make of the originals, and whether or not the source "
        "is fooled.\n\n"
        "Clean accuracy (of all test images) and success defence rate (P1):\n\n"
        "| target | clean accuracy | fgsm eps=8/255 from source |\n"
        "| --- | ---: | ---: |\n"
        "| standard | 95.00 % [88.8, 97.8] (N 100) | 22.22 % [14.9, 31.8] (N 90) |\n"
        "| 0.3-Bottom | 90.00 % [82.6, 94.5] (N 100) | 68.18 % [57.9, 77.0] (N 88), gray-box |\n\n"
        "- fgsm eps=8/255 from source: 0.3-Bottom defends best: 68.18 %, ahead of standard's "
        "22.22 % beyond both intervals.\n\n"
        "Settings:\n\n"
        "- clean accuracy: data `cifar10`, images `f00d`\n"
        "- fgsm eps=8/255 from source: `fgsm:eps=8/255,norm=linf`, source source "
        "`digest of source`, 100 images, data `f00d`, pixels `uint8`, precision `float32`\n\n"
        "All images (P2):\n\n"
        "| target | fgsm eps=8/255 from source |\n"
        "| --- | ---: |\n"
        "| standard | 30.00 % [21.9, 39.6] (N 100) |\n"
        "| 0.3-Bottom | 71.43 % [61.8, 79.4] (N 98) |\n\n"
        "Of the images that the source classifies correctly, the share on which it is fooled:\n\n"
        "| attack | source fooled |\n"
        "| --- | ---: |\n"
        "| fgsm eps=8/255 from source | 90.00 % [82.6, 94.5] (N 100) |\n\n"
        "In brackets the 95 % interval (Wilson) of the choice of images, in percent; networks "
        "trained with other seeds differ by more than that.\n"
    )


def test_the_order_of_cells_does_not_matter():
    # Two runs under one name, and one result twice, as after a change of what is shown.
    renamed = clean("standard", 953)
    renamed["results"]["shown"]["target"] = "another name"
    cells = [*everything(), clean("0.7-Bottom", 900), clean("0.7-Bottom", 901), renamed]
    page, screen = markdown(cells), on_terminal(cells)
    for seed in range(2):
        random.Random(seed).shuffle(cells)
        assert markdown(cells) == page
        assert on_terminal(cells) == screen


def test_each_kind_has_its_section_and_only_those_that_are_there():
    page = markdown(everything())
    titles = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert titles == [
        "Transfer",
        "White-box",
        "Decision-based score",
        "Gaussian noise",
        "Shuffled patches",
        "Stylised images",
    ]
    assert "## Clean accuracy" in markdown([clean("standard", 9, 10)])
    for cell in everything():
        assert markdown([cell]).count("\n## ") == 1
    assert markdown([]) == "# Robustness\n\nNo results.\n"


def test_white_box_and_boundary_rows():
    page = markdown(everything())
    robust, passes = page[page.index("## White-box") :].split("Passes and distances of pgd eps")
    assert row(robust, "standard") == ["0.30 % [0.1, 0.9] (N 1000)"]
    numbers = ["0.30 % [0.1, 0.9] (N 990)", "20.0", "20.0", "1.2500", "16.00"]
    assert row(passes, "standard") == numbers
    score = page[page.index("## Decision-based") : page.index("## Gaussian")]
    scores = ["3.5e-05", "5.6e-05", "400", "fooled 400, no start 2", "25000.5"]
    assert row(score, "0.3-Bottom") == scores
    # Scores of other images are in another table.
    assert score.count("| target | median score |") == 2
    lost = boundary("standard", None, None, 0)
    assert row(markdown([lost]), "standard") == ["0", "fooled 0, no start 2", "25000.5"]


def test_rates_of_images_that_all_get_right_say_so():
    """Two choices of images never share a table, and each is named above its own."""
    three, one = ("a", "b", "c"), ("d",)
    cells = []
    for make in (noise, shuffle):
        for group, images in ((three, "f00d"), (one, "beef")):
            for name in group:
                made = make(name, 8, 50, 100)
                made["identity"]["indices"] = images
                made["results"]["shown"]["right_for"] = list(group)
                cells.append(made)
    page, screen = markdown(cells), " ".join(on_terminal(cells).split())
    for text in (page, screen):
        assert text.count("Of test images that all of a, b, c classify correctly") == 2
        assert text.count("Of test images that d classifies correctly") == 2
    for block in page.split("\n\n"):
        assert not ("| a |" in block and "| d |" in block)


def test_common_rates_name_all_targets_that_they_are_common_to():
    """A target that was measured in two commands has two such rates, and one P1."""
    cells = []
    for together in (("a", "b"), ("a", "b", "c")):
        for name in together:
            made = transfer(name, 4, 9, defence_common=rate(len(together), 8))
            made["identity"]["images_common"] = "-".join(together)
            cells.append(made)
    page = markdown(cells)
    for names, share in (("a, b", "25.00 %"), ("a, b, c", "37.50 %")):
        words = f"P1 on the images that all of {names} classify correctly:"
        block = page[page.index(words) :].split("\n\n")[1]
        assert row(block, "a")[0].startswith(share)
    # Another group of the same targets has a table of its own.
    again = transfer("a", 4, 9, defence_common=rate(7, 8))
    again["identity"]["images_common"] = "other images"
    once_more = transfer("b", 4, 9, defence_common=rate(6, 8))
    once_more["identity"]["images_common"] = "other images"
    assert markdown([*cells, again, once_more]).count("all of a, b classify correctly:") == 2
    assert page.count("| target | clean") == 0
    first = page[page.index("uccess defence rate (P1):") :].split("\n\n")[1]
    assert len(first.splitlines()) == 5 and len(row(first, "a")) == 1


def test_curves_have_sorted_columns():
    page = markdown(everything())
    assert row(page, "target", "2") == ["4", "8", "16", "64"]
    assert row(page, "target", "1x1 (control)") == ["2x2", "4x4", "8x8"]
    noisy = page[page.index("## Gaussian noise") : page.index("## Shuffled")]
    assert row(noisy, "standard")[0] == "98.00 % [96.9, 98.7] (N 1000)"
    assert row(noisy, "standard")[-1] == "36.00 % [33.1, 39.0] (N 1000)"
    assert row(noisy, "0.3-Bottom")[-1].startswith("48.80 %")
    assert row(page[page.index("## Shuffled") :], "0.3-Bottom")[-1].startswith("93.60 %")


def test_the_smallest_noise_comes_first():
    page = markdown([noise("standard", e, 900) for e in (2, 0.01, 64)])
    assert row(page, "target", "0.01") == ["2", "64"]


def test_noise_of_two_settings_makes_two_tables():
    cells = [noise("standard", 8, 900), noise("standard", 8, 800, tails="keep")]
    page = markdown(cells)
    assert page.count("| target | 8 |") == 2
    assert "90.00 %" in page and "80.00 %" in page
    assert "tails `clip`" in page and "tails `keep`" in page


def test_a_rate_without_images_says_so():
    cells = [transfer("standard", 0, 0), transfer("0.3-Bottom", 4, 9)]
    page, screen = markdown(cells), on_terminal(cells)
    assert "| standard | no image left (N 0) |" in page
    assert "0.3-Bottom has 44.44 %; no image is left for any other target" in page
    assert "no image left N 0" in screen
    assert "no target has an image left" in markdown([transfer("standard", 0, 0)])
    assert "no image left\n" in on_terminal([noise("standard", 8, 0, 0)]).replace(" \n", "\n")


def test_further_rates_appear_where_they_are():
    more = {
        "defence_common": rate(1, 8),
        "defence_unrounded": rate(3, 8),
        "same_wrong_class": rate(5, 8),
    }
    page = markdown([transfer("standard", 4, 9, **more), transfer("0.3-Bottom", 4, 9)])
    for words, share in (
        ("P1 on the images that all of standard classify correctly", "12.50 %"),
        ("P1 with fooling judged before the rounding to 8 bit", "37.50 %"),
        ("gives the source's wrong class", "62.50 %"),
    ):
        block = page[page.index(words) :].split("\n\n")[1]
        assert row(block, "standard")[0].startswith(share)
        assert "0.3-Bottom" not in block


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (
            {"a": rate(620, 1000), "b": rate(312, 1000)},
            "a defends best: 62.00 %, ahead of b's 31.20 % beyond both intervals",
        ),
        (
            {"a": rate(50, 100), "b": rate(55, 100)},
            "not decidable at this N: the interval of b's 55.00 % [45.2, 64.4] meets that of a's "
            "50.00 % [40.4, 59.6]",
        ),
        # The second is clear of the first, the third has so few images that it is not.
        (
            {"a": rate(900, 1000), "b": rate(700, 1000), "c": rate(3, 5)},
            "not decidable at this N: the interval of a's 90.00 % [88.0, 91.7] meets that of c's "
            "60.00 % [23.1, 88.2]",
        ),
        (
            {name: rate(5, 10) for name in "abc"},
            "not decidable at this N: the interval of a's 50.00 % [23.7, 76.3] meets that of b's "
            "50.00 % [23.7, 76.3], and 1 more",
        ),
        ({"a": rate(1, 2)}, "a has 50.00 %; there is no other target to compare with"),
    ],
)
def test_verdicts(rates, expected):
    assert verdict(rates) == expected


def test_a_lead_over_the_source_itself_says_that_it_means_little():
    cells = [
        transfer("standard", 0, 980, source="standard", relation="white-box"),
        transfer("0.3-Bottom", 400, 900, source="standard"),
    ]
    expected = "(but the attack was made on standard's own weights: white-box)"
    assert expected in markdown(cells)
    # Nothing of the kind where the second is another network.
    assert expected not in markdown([*cells, transfer("0.5-Bottom", 200, 900, source="standard")])


def test_attacks_are_told_apart_by_the_settings_that_differ():
    first, second = transfer("standard", 1, 9), transfer("standard", 5, 9)
    second["identity"]["set"]["attack"] |= {"steps": 40}
    text = second["results"]["shown"]["attack"].replace("steps=20", "steps=40")
    second["results"]["shown"]["attack"] = text
    page = markdown([first, second])
    head = (
        "| target | pgd eps=16/255, steps=20 from source | pgd eps=16/255, steps=40 from source |"
    )
    assert head in page
    assert row(page, "standard") == ["11.11 % [2.0, 43.5] (N 9)", "55.56 % [26.7, 81.1] (N 9)"]
    third = transfer("standard", 7, 9)
    third["identity"]["set"]["pixels"] = "float"
    head = "| target | pgd eps=16/255 from source (pixels float) |"
    assert head in markdown([first, third])


def test_columns_whose_settings_differ_beyond_what_is_shown_are_both_there():
    cells = []
    for k, end in ((3, "a"), (5, "b")):
        made = clean("standard", k, 10)
        made["identity"]["images"] = "the same for 24 characters " + end
        cells.append(made)
    assert [share.split()[0] for share in row(markdown(cells), "standard")] == ["30.00", "50.00"]


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


def test_networks_of_one_name_are_told_apart_by_their_digests():
    one, other = clean("standard", 9, 10), clean("standard", 5, 10)
    one["identity"]["target"], other["identity"]["target"] = "aaaaaaaaaa", "bbbbbbbbbb"
    page = markdown([one, other])
    assert row(page, "standard (aaaaaaaa)")[0].startswith("90.00 %")
    assert row(page, "standard (bbbbbbbb)")[0].startswith("50.00 %")


def test_targets_stand_in_the_papers_order():
    names = ["0.1-Bottom", "0.5-Bottom", "standard", "0.3-Bottom", "0.5-Top"]
    page = markdown([clean(name, 5, 10) for name in names])
    lines = [line.split(" | ")[0][2:] for line in page.splitlines() if line.startswith("| 0")]
    assert lines == ["0.5-Bottom", "0.3-Bottom", "0.1-Bottom", "0.5-Top"]
    assert page.index("| standard") < page.index("| 0.5-Bottom")


def test_names_cannot_break_a_table():
    cell = clean("a|b`*_<i>\nc", 5, 10)
    page = markdown([cell, transfer("a|b`*_<i>\nc", 5, 10, source="s|t")])
    assert r"| a\|b\`\*\_\<i\> c | 50.00 %" in page
    assert r"from s\|t" in page
    bars = {line.replace(r"\|", "").count("|") for line in page.splitlines() if line[:1] == "|"}
    assert bars == {3, 4}


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
    joined = "".join(screen.split())
    assert joined.count("100.00[100.0,100.0]N10000") > 0
    assert screen.count("100.00 [100.0, 100.0] N 10000") == count * (1 + 1 + 4)
    for part in ("runs/fast-cifar10-resnet18-0", "checkpoint-at-the-end"):
        assert part in screen


def test_the_terminal_shows_the_same_numbers_and_verdicts():
    screen = on_terminal(everything())
    for text in (
        "95.30 [93.8, 96.4] N 1000",
        "71.11 [68.1, 74.0] N 900",
        "71.43 [68.4, 74.3] N 910",
        "3.00 [2.1, 4.3] N 1000",
        "3.5e-05",
        "white-box",
        "DIF",
        "ahead of 0.5-Bottom's 36.56 % beyond",
        "N 1000 each",
    ):
        assert text in screen
    assert on_terminal([]) == ""


def test_a_cell_that_lacks_a_result_is_named():
    cell = transfer("standard", 4, 9)
    del cell["results"]["defence_all"]
    with pytest.raises(UserError, match=r"'standard .*transfer.*lack 'defence_all'"):
        markdown([cell])
    cell = clean("standard", 4, 9)
    del cell["results"]["accuracy"]["low"]
    with pytest.raises(UserError, match=r"accuracy\.low"):
        markdown([cell])


def test_the_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    text = write_tables(everything(), tmp_path / "new")
    assert (tmp_path / "new" / "table.md").read_text() == text == markdown(everything())

    def broken(self, *_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_text", broken)
    with pytest.raises(OSError, match="disk full"):
        write_tables([], tmp_path / "new")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.md"]
    assert (tmp_path / "new" / "table.md").read_text() == text
