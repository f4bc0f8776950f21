"""The paper's names: all of them parse and print back; mistakes are located."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from scotoma.defective import Defects, UserError
from scotoma.defective.notation import Term

# Row names of Tables 4 to 18, without EN (an ensemble) and DIF (a second draw of masks), with
# the terms they stand for: (p, region, kind, width factor).
PAPER = {
    **{
        f"{p}-Bottom": [(p, "Bottom", "neuron", 1)]
        for p in (0.7, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
    },
    **{f"{p}-Top": [(p, "Top", "neuron", 1)] for p in (0.7, 0.5, 0.3)},
    **{
        f"{p}-Bottom, {q}-Top": [(p, "Bottom", "neuron", 1), (q, "Top", "neuron", 1)]
        for p, q in ((0.5, 0.5), (0.7, 0.7), (0.7, 0.3), (0.3, 0.3), (0.3, 0.7))
    },
    **{
        f"{p}-Bottom{kind}": [(p, "Bottom", kind, 1)]
        for kind in ("DC", "SM")
        for p in (0.5, 0.3, 0.1)
    },
    **{f"{p}-Bottom×2": [(p, "Bottom", "neuron", 2)] for p in (0.5, 0.3, 0.1)},
}


def terms(*values):
    return tuple(Term(*value) for value in values)


@pytest.mark.parametrize("name, expected", PAPER.items(), ids=PAPER)
def test_names_of_the_paper(name, expected):
    defects = Defects.parse(name)
    assert defects.terms == terms(*expected)
    assert defects.sites is None
    # The printed form drops the space after a comma and writes the sign as a letter.
    assert str(defects) == name.replace(", ", ",").replace("×", "x")


def test_standard():
    assert Defects.parse("standard") == Defects.parse("Standard") == Defects()
    assert str(Defects()) == "standard"


@pytest.mark.parametrize(
    "text, printed",
    [
        ("0.3-bottom", "0.3-Bottom"),
        ("0.3-BOTTOM,0.5-tOP", "0.3-Bottom,0.5-Top"),
        ("  0.7 - Bottom ,  0.3-Top  ", "0.7-Bottom,0.3-Top"),
        (".3-Bottom", "0.3-Bottom"),
        ("0.30-Bottom", "0.3-Bottom"),
        ("1-Top", "1-Top"),
        ("1.0-Top", "1-Top"),
        ("0.1-bottomdc", "0.1-BottomDC"),
        ("0.1-Bottomsm", "0.1-BottomSM"),
        ("0.1-BottomCm", "0.1-BottomCM"),
        ("0.3-Bottomx2", "0.3-Bottomx2"),
        ("0.3-BottomX2", "0.3-Bottomx2"),
        ("0.3-Bottom×4", "0.3-Bottomx4"),
        ("0.1-{1,2}", "0.1-{1,2}"),
        ("0.1-{ 2 , 1,2 }", "0.1-{1,2}"),
        ("0.1-{3}SM", "0.1-{3}SM"),
        ("0.3-Bottom@paper", "0.3-Bottom@paper"),
        ("0.3-Bottom @ Release ", "0.3-Bottom@release"),
        ("standard@PAPER", "standard@paper"),
        ("0.00001-Bottom", "0.00001-Bottom"),
    ],
)
def test_printed_form(text, printed):
    assert str(Defects.parse(text)) == printed
    assert Defects.parse(printed) == Defects.parse(text)


def test_parts():
    assert Defects.parse("0.1-{2,1}").terms == terms((0.1, (1, 2), "neuron", 1))
    defects = Defects.parse("0.3-Bottom@paper")
    assert defects.sites == "paper" and Defects.parse(defects) is defects


REGIONS = st.one_of(
    st.sampled_from(["Bottom", "Top"]),
    st.sets(st.integers(0, 9), min_size=1).map(lambda blocks: tuple(sorted(blocks))),
)
VARIANTS = st.one_of(
    st.sampled_from([("neuron", 1), ("DC", 1), ("SM", 1), ("CM", 1)]),
    st.tuples(st.just("neuron"), st.integers(2, 12)),
)


@st.composite
def specifications(draw):
    regions = draw(st.lists(REGIONS, max_size=4, unique=True))
    p = st.floats(0, 1, exclude_min=True)
    return Defects(
        tuple(Term(draw(p), region, *draw(VARIANTS)) for region in regions),
        draw(st.sampled_from([None, "release", "paper"])),
    )


@given(specifications())
def test_round_trip(defects):
    text = str(defects)
    assert Defects.parse(text) == defects
    assert str(Defects.parse(text)) == text


@given(specifications(), st.randoms(use_true_random=False))
def test_case_and_space_do_not_matter(defects, random):
    text = "".join(random.choice([c.lower(), c.upper()]) for c in str(defects))
    text = f" {text} ".replace(",", " , ").replace("@", " @ ").replace("x", "×")
    assert Defects.parse(text) == defects


@pytest.mark.parametrize(
    "text, position, expected",
    [
        ("", 1, "a keep probability"),
        ("   ", 4, "a keep probability"),
        ("Bottom", 1, "a keep probability"),
        ("none", 1, "a keep probability"),
        ("-0.3-Bottom", 1, "a keep probability"),
        ("0.3", 4, "'-'"),
        ("0.3 Bottom", 4, "'-'"),
        ("0.3.1-Bottom", 4, "'-'"),
        ("0,3-Bottom", 1, "(0, 1]"),
        ("0-Bottom", 1, "(0, 1]"),
        ("1.5-Bottom", 1, "(0, 1]"),
        ("30-Bottom", 1, "(0, 1]"),
        ("0.3-Middle", 5, "Bottom, Top or {0,1,2}"),
        ("0.3-", 5, "Bottom, Top or {0,1,2}"),
        ("0.3-{}", 5, "Bottom, Top or {0,1,2}"),
        ("0.3-{1,2", 5, "Bottom, Top or {0,1,2}"),
        ("0.3-{-1}", 5, "Bottom, Top or {0,1,2}"),
        ("0.3-BottomXX", 11, "one of DC, SM, CM, x2"),
        ("0.3-Bottomx", 11, "one of DC, SM, CM, x2"),
        ("0.3-BottomDCx2", 13, "the end, a comma"),
        ("0.3-BottomDIF", 11, "the end, a comma"),
        ("0.3-BottomEN", 11, "the end, a comma"),
        ("0.3-Bottomx1", 11, "a width factor of 2 or more"),
        ("0.3-Bottomx0", 11, "a width factor of 2 or more"),
        ("0.3-Bottom,", 12, "a keep probability"),
        ("0.3-Bottom,,0.5-Top", 12, "a keep probability"),
        ("0.3-Bottom, 1.5-Top", 13, "(0, 1]"),
        ("0.3-Bottom 0.5-Top", 12, "the end, a comma"),
        ("0.3-Bottom,0.5-Bottom", 16, "each region once"),
        ("0.3-{1,2},0.5-{2,1}", 15, "each region once"),
        ("0.3-Bottom@", 12, "'release' or 'paper'"),
        ("0.3-Bottom@text", 12, "'release' or 'paper'"),
        ("0.3-Bottom@paper@paper", 17, "the end"),
        ("standard,0.3-Top", 9, "the end"),
        ("standardx2", 9, "the end"),
    ],
)
def test_refused(text, position, expected):
    rest = text[position - 1 :]
    found = f"found {rest[:12]!r}" if rest else "found the end"
    with refused(repr(text), f"position {position}:", expected, found):
        Defects.parse(text)


@pytest.mark.parametrize(
    "text", ["0.3.-Bottom", "\u0660.\u0663-Bottom", "0.3-{1,2}x²", "0.3-Bottom\n-"]
)
def test_odd_characters_are_refused_or_understood(text):
    """Never an error of another kind, and never a form that does not read back."""
    try:
        defects = Defects.parse(text)
    except UserError:
        return
    assert Defects.parse(str(defects)) == defects
