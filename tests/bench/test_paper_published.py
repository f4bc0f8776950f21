"""The paper's numbers: all that it prints, equal where it prints one twice, and unchanged."""

import csv
import dataclasses
from decimal import Decimal
from pathlib import Path

import pytest
from scotoma.bench.paper import published as module
from scotoma.bench.paper.published import TABLES, figure5, published, quoted
from scotoma.defective.errors import UserError
from scotoma.defective.notation import Defects

ARCHITECTURES = ("ResNet-18", "ResNet-50", "DenseNet-121", "SENet-18", "VGG-19")
# The appendix's tables of one source each.
SOURCES = {"DenseNet-121": 14, "ResNet-18": 15, "ResNet-50": 16, "SENet-18": 17, "VGG-19": 18}
FOLDER = Path(module.__file__).parent / "printed"
ACCURACY = ("Clean Acc", "Test Accuracy", "Acc")

# Rows, columns, and a control sum: each printed number times its place in reading order, counted
# from 1 with empty cells, summed over the text of the paper and not over the files. Percent, and
# millionths in Table 6.
PRINTED = {
    1: (2, 4, "1437.75"),
    2: (9, 3, "28874.43"),
    3: (7, 2, "4079.15"),
    4: (15, 6, "241682.06"),
    5: (16, 5, "182401.21"),
    6: (5, 1, "242.2"),
    7: (7, 3, "16401.21"),
    8: (15, 6, "192339.22"),
    9: (15, 6, "142858.09"),
    10: (4, 2, "1587.46"),
    11: (2, 2, "89.77"),
    12: (3, 7, "11328.47"),
    13: (10, 4, "38124.44"),
    14: (31, 8, "1695536.17"),
    15: (31, 8, "1583720.24"),
    16: (31, 8, "1303535.54"),
    17: (31, 8, "1480091.62"),
    18: (31, 7, "1262852.67"),
}


def column(table, name):
    return [published(table).value(row, name) for row in published(table).rows]


def message(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    return str(error.value)


def test_all_tables_are_there():
    assert list(TABLES) == list(PRINTED) == list(range(1, 19))
    assert sorted(file.name for file in FOLDER.glob("*.csv")) == [
        f"table{table:02}.csv" for table in TABLES
    ]
    assert len({published(table).title for table in TABLES}) == 18
    early = ["3.2", "4.1.2", "4.1.2", "4.1.2", "4.2"]
    appendix = ["A.1", "A.3", "A.4", "A.5", "A.6", "A.6", "A.7", "A.8", *["A.10"] * 5]
    assert [published(table).section for table in TABLES] == early + appendix
    assert all(published(table).title.endswith(source) for source, table in SOURCES.items())


@pytest.mark.parametrize("table", list(PRINTED))
def test_shape_control_sum_and_values(table):
    rows, columns, control = PRINTED[table]
    text = (FOLDER / f"table{table:02}.csv").read_text(encoding="utf-8")
    header, *lines = csv.reader(text.splitlines())
    assert header[0] == "row" and len(lines) == rows
    assert {len(line) for line in (header, *lines)} == {columns + 1}
    cells = [cell for line in lines for cell in line[1:]]
    unit = Decimal(10**6 if table == 6 else 1)
    total = sum(place * Decimal(cell or 0) * unit for place, cell in enumerate(cells, start=1))
    assert total == Decimal(control)
    found = published(table)
    assert found.table == table and found.columns == tuple(header[1:])
    assert found.rows == tuple(line[0] for line in lines)
    assert len(set(found.rows)) == rows and len(set(found.columns)) == columns
    assert found.unit == ("score" if table == 6 else "rate")
    for line in lines:
        for name, cell in zip(header[1:], line[1:], strict=True):
            printed = found.value(line[0], name)
            if not cell:
                assert printed is None
            elif found.unit == "score":
                assert f"{printed:.1e}" == cell and 0 < printed < 1e-4
            else:
                assert printed == float(Decimal(cell).scaleb(-2)) and 0 <= printed <= 1


def test_what_the_paper_does_not_report():
    assert [
        (table, row, name)
        for table in TABLES
        for row in published(table).rows
        for name in published(table).columns
        if published(table).value(row, name) is None
    ] == [
        (2, "TLA", "FGSM"),
        (7, "Thermometer(16)", "FGSM"),
        (7, "Thermometer(32)", "FGSM"),
    ]


def test_one_network_has_one_accuracy():
    """Networks of CIFAR-10: in Tables 4 and 8 by architecture, elsewhere variants of ResNet-18."""
    by_variant = {}
    for table in (4, 8, 5, 12, 14, 15, 16, 17, 18):
        (name,) = set(ACCURACY) & set(published(table).columns)
        for row, accuracy in zip(published(table).rows, column(table, name), strict=True):
            variant = "ResNet-18" if row == "Standard CNN" else row
            if table not in (4, 8) and not variant.startswith("ResNet-18"):
                variant = f"ResNet-18 {variant}"
            assert by_variant.setdefault(variant, accuracy) == accuracy, (variant, table)
    # Tables 14 to 18 have the same 31; Table 4 adds four architectures of three rows.
    assert len(by_variant) == 31 + 12


def test_tables_that_are_parts_of_others():
    small, large = published(1), published(13)
    assert small.columns == large.columns == ("2x2", "4x4", "8x8", "IN->SIN")
    assert small.rows == ("Standard CNN", "Defective CNN") and small.cells == large.cells[:2]
    for source, table in SOURCES.items():
        for variant in ("ResNet-18", "0.5-Bottom", "0.3-Bottom"):
            row = variant if variant == "ResNet-18" else f"ResNet-18 {variant}"
            assert published(4).value(row, source) == published(table).value(variant, "PGD16")
    part, whole = published(5), published(14)
    for row in part.rows:
        for name in part.columns:
            other = "ResNet-18" if row == "Standard CNN" else row
            expected = whole.value(other, "Acc" if name == "Test Accuracy" else name)
            assert part.value(row, name) == expected, (row, name)
    for target in published(11).rows:
        for source in published(11).columns:
            assert published(11).value(target, source) == published(4).value(target, source)


def test_rows_and_columns():
    for table in (4, 8, 9):
        parts = ("", " 0.5-Bottom", " 0.3-Bottom")
        assert published(table).rows == tuple(a + part for a in ARCHITECTURES for part in parts)
        assert published(table).columns == (*ARCHITECTURES, "Test Accuracy")
    pairs = tuple(a + part for a in ARCHITECTURES for part in ("", " 0.1-Bottom"))
    assert published(13).rows == pairs
    bottom = tuple(f"{p}-Bottom" for p in (0.7, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05))
    top = ("0.7-Top", "0.5-Top", "0.3-Top")
    mixed = tuple(f"0.{b}-Bottom,0.{t}-Top" for b, t in ((5, 5), (7, 7), (7, 3), (3, 3), (3, 7)))
    kinds = tuple(f"0.{p}-Bottom{kind}" for kind in ("DC", "SM", "x2") for p in (5, 3, 1))
    ensembles = ("ResNet-18EN", "0.5-Bottomx2EN", *(f"0.{p}-BottomEN" for p in (5, 3, 1)))
    attacks = ("FGSM8", "FGSM16", "FGSM32", "PGD16", "PGD2,16", "PGD32")
    carlini = {14: ("CW40",), 15: ("CW20",), 16: ("CW40",), 17: ("CW40",), 18: ()}
    for table, last in carlini.items():
        assert published(table).rows == ("ResNet-18", *bottom, *top, *mixed, *kinds, *ensembles)
        assert published(table).columns == (*attacks, *last, "Acc")
        # Larger perturbations of one kind succeed more often.
        for weak, strong in (("PGD16", "PGD32"), ("FGSM8", "FGSM16")):
            both = zip(column(table, weak), column(table, strong), strict=True)
            assert all(a > b for a, b in both)
    assert published(12).rows == ("ResNet-18", "0.5-Bottom", "0.3-Bottom")
    assert published(10).rows == tuple(f"{p}-Bottom{d}" for p in (0.5, 0.3) for d in ("", "DIF"))
    # Table 5's twin of 0.5-Bottom, the twelfth row, is left out.
    assert published(5).rows[10:13] == ("0.3-Bottom,0.7-Top", "0.1-Bottom", "0.5-BottomDC")
    assert published(6).rows[1:4] == tuple(f"Standard CNN + {name}" for name in ("SD", "DB", "LS"))
    # Variants are written as on the command line, but for EN, an ensemble of five.
    for row in (*published(5).rows[1:], *published(14).rows[1:], *published(12).rows[1:]):
        spec = row.removesuffix("EN")
        assert spec == "ResNet-18" or str(Defects.parse(spec)) == spec


def test_quoted_rows():
    assert list(quoted()) == [2, 3, 7]
    for table in TABLES:
        assert published(table).quoted == quoted().get(table, {})
    measured = ["Standard CNN", "Standard CNN + SD", "Standard CNN + DB", "Defective CNN"]
    for table in quoted():
        found = published(table)
        assert [row for row in found.rows if row not in found.quoted] == measured
    assert "Madry" in published(7).quoted["Adversarial Training"]
    assert "2018, Adversarial logit pairing" in published(3).quoted["ALP"]
    for citation in (c for rows in quoted().values() for c in rows.values()):
        authors, rest = citation.split(", 20")
        assert " and " in authors and rest[:2].isdigit() and rest[2:4] == ", "
        assert "\n" not in citation and "  " not in citation
    # What one caller does to them, no other sees.
    published(2).quoted.clear()
    assert len(published(2).quoted) == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        published(2).title = "another"


def test_figure_5_comes_from_table_14():
    points = figure5()
    assert [p.keep_probability for p in points] == [0.7, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05]
    assert points[0] == (0.7, 0.5129, 0.9403) and points[-1] == (0.05, 0.9743, 0.8453)
    # What the figure is there to show.
    assert [p.defence_rate for p in points] == sorted(p.defence_rate for p in points)
    assert [p.accuracy for p in points] == sorted((p.accuracy for p in points), reverse=True)


def test_unknown_tables_rows_and_columns_name_the_nearest():
    for wrong, closest in ((0, 1), (-3, 1), (19, 18), (400, 18)):
        assert message(published, wrong).endswith(f"the nearest is {closest}")
        assert f"table {wrong}:" in message(published, wrong)
    for wrong in ("4", 4.0, None, True, [4]):
        assert f"table {wrong!r}: expected a number from 1 to 18" in message(published, wrong)
    table = published(14)
    text = message(table.value, "0.5-Bottom×2,EN", "PGD16")
    assert text.startswith("row '0.5-Bottom×2,EN'") and "Table 14" in text
    assert "Did you mean '0.5-Bottomx2EN'?" in text
    text = message(table.value, "0.3-Bottom", "PGD 16")
    assert text.startswith("column 'PGD 16'") and "Did you mean 'PGD16'?" in text
    listed = message(published(11).value, "?", "ResNet-18")
    assert listed.endswith("It has: ResNet-18; DenseNet-121.")
    assert "row None" in message(published(11).value, None, "ResNet-18")
