"""The paper's numbers: all that it prints, equal where it prints one twice, and unchanged."""

import csv
from decimal import Decimal
from pathlib import Path

import pytest
from scotoma.bench.paper import published as module
from scotoma.bench.paper.published import TABLES, printed, published, quoted
from scotoma.defective.errors import UserError
from scotoma.defective.notation import Defects

# The appendix's tables of one source each.
SOURCES = {"DenseNet-121": 14, "ResNet-18": 15, "ResNet-50": 16, "SENet-18": 17, "VGG-19": 18}
FOLDER = Path(module.__file__).parent / "printed"
ACCURACY = ("Clean Acc", "Test Accuracy", "Acc")

# The section that has a table, its numbers of rows and columns, and a control sum: each printed
# number times its place in reading order, counted from 1 with empty cells, summed over the text of
# the paper and not over the files. Percent, and millionths in Table 6.
PRINTED = {
    1: ("3.2", 2, 4, "1437.75"),
    2: ("4.1.2", 9, 3, "28874.43"),
    3: ("4.1.2", 7, 2, "4079.15"),
    4: ("4.1.2", 15, 6, "241682.06"),
    5: ("4.2", 16, 5, "182401.21"),
    6: ("A.1", 5, 1, "242.2"),
    7: ("A.3", 7, 3, "16401.21"),
    8: ("A.4", 15, 6, "192339.22"),
    9: ("A.5", 15, 6, "142858.09"),
    10: ("A.6", 4, 2, "1587.46"),
    11: ("A.6", 2, 2, "89.77"),
    12: ("A.7", 3, 7, "11328.47"),
    13: ("A.8", 10, 4, "38124.44"),
    14: ("A.10", 31, 8, "1695536.17"),
    15: ("A.10", 31, 8, "1583720.24"),
    16: ("A.10", 31, 8, "1303535.54"),
    17: ("A.10", 31, 8, "1480091.62"),
    18: ("A.10", 31, 7, "1262852.67"),
}


@pytest.mark.parametrize("table", list(PRINTED))
def test_shape_control_sum_and_values(table):
    section, rows, columns, control = PRINTED[table]
    text = (FOLDER / f"table{table:02}.csv").read_text(encoding="utf-8")
    header, *lines = csv.reader(text.splitlines())
    assert header[0] == "row" and len(lines) == rows
    assert {len(line) for line in (header, *lines)} == {columns + 1}
    cells = [cell for line in lines for cell in line[1:]]
    unit = Decimal(10**6 if table == 6 else 1)
    total = sum(place * Decimal(cell or 0) * unit for place, cell in enumerate(cells, start=1))
    assert total == Decimal(control)
    found = published(table)
    assert (found.table, found.section, found.columns) == (table, section, tuple(header[1:]))
    assert found.rows == tuple(line[0] for line in lines)
    assert len(set(found.rows)) == rows and len(set(found.columns)) == columns
    assert found.unit == ("score" if table == 6 else "rate")
    for line in lines:
        for name, cell in zip(header[1:], line[1:], strict=True):
            printed = found.value(line[0], name)
            if not cell:
                assert printed is None
                assert (table, line[0][:5], name) in ((2, "TLA", "FGSM"), (7, "Therm", "FGSM"))
            elif found.unit == "score":
                assert f"{printed:.1e}" == cell and 0 < printed < 1e-4
            else:
                assert printed == float(Decimal(cell).scaleb(-2)) and 0 <= printed <= 1


def test_one_network_has_one_accuracy():
    """Networks of CIFAR-10: in Tables 4 and 8 by architecture, elsewhere variants of ResNet-18."""
    by_variant = {}
    for table in (4, 8, 5, 12, 14, 15, 16, 17, 18):
        (name,) = set(ACCURACY) & set(published(table).columns)
        for row in published(table).rows:
            accuracy = published(table).value(row, name)
            variant = "ResNet-18" if row == "Standard CNN" else row
            if table not in (4, 8) and not variant.startswith("ResNet-18"):
                variant = f"ResNet-18 {variant}"
            assert by_variant.setdefault(variant, accuracy) == accuracy, (variant, table)
    # Tables 14 to 18 have the same 31; Table 4 adds four architectures of three rows.
    assert len(by_variant) == 31 + 12


def test_tables_that_are_parts_of_others():
    small, large, four = published(1), published(13), published(4)
    assert small.columns == large.columns == ("2x2", "4x4", "8x8", "IN->SIN")
    assert small.cells == large.cells[:2]
    for source, table in SOURCES.items():
        for variant in ("ResNet-18", "0.5-Bottom", "0.3-Bottom"):
            row = variant if variant == "ResNet-18" else f"ResNet-18 {variant}"
            assert four.value(row, source) == published(table).value(variant, "PGD16")
    part, whole = published(5), published(14)
    for row in part.rows:
        for name in part.columns:
            other = "ResNet-18" if row == "Standard CNN" else row
            expected = whole.value(other, "Acc" if name == "Test Accuracy" else name)
            assert part.value(row, name) == expected, (row, name)
    for target in published(11).rows:
        for source in published(11).columns:
            assert published(11).value(target, source) == four.value(target, source)


def test_larger_perturbations_succeed_more_often_and_rows_are_notation():
    for table in SOURCES.values():
        found = published(table)
        for row in found.rows:
            for weak, strong in (("PGD16", "PGD32"), ("FGSM8", "FGSM16")):
                assert found.value(row, weak) > found.value(row, strong)
    # Variants are written as on the command line, but for EN, an ensemble of five.
    for table in (5, 12, 14):
        for row in published(table).rows[1:]:
            spec = row.removesuffix("EN")
            assert spec == "ResNet-18" or str(Defects.parse(spec)) == spec


def test_quoted_rows():
    assert list(quoted()) == [2, 3, 7]
    measured = ["Standard CNN", "Standard CNN + SD", "Standard CNN + DB", "Defective CNN"]
    for table in TABLES:
        found = published(table)
        assert found.quoted == quoted().get(table, {})
        if found.quoted:
            assert [row for row in found.rows if row not in found.quoted] == measured
    assert "Madry" in published(7).quoted["Adversarial Training"]
    for citation in (c for rows in quoted().values() for c in rows.values()):
        authors, rest = citation.split(", 20")
        assert " and " in authors and rest[:2].isdigit() and rest[2:4] == ", "
    # What one caller does to them, no other sees.
    published(2).quoted.clear()
    assert len(published(2).quoted) == 5


def test_figure_5_comes_from_table_14():
    rows = [f"{keep}-Bottom" for keep in (0.7, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)]
    found = printed("figure5")
    assert list(found) == [(r, c) for r in rows for c in ("Defence Rate", "Test Accuracy")]
    assert list(found.values())[:2] == [0.5129, 0.9403]
    assert list(found.values())[-2:] == [0.9743, 0.8453] and printed("figure4") == {}


def test_what_the_paper_has_not_is_named_with_the_nearest():
    table = published(14)
    for call, said in (
        *((lambda w=w: published(w), f"table {w!r}: expected a number from 1 to 18")
          for w in (0, -3, 19, "4", 4.0, None, True, [4])),
        (lambda: table.value("0.5-Bottom×2,EN", "PGD16"),
         "row '0.5-Bottom×2,EN': Table 14 of the paper has none such. "
         "Did you mean '0.5-Bottomx2EN'?"),
        (lambda: table.value("0.3-Bottom", "PGD 16"), "column 'PGD 16': Table 14"),
        (lambda: published(11).value("?", "ResNet-18"), "It has: ResNet-18; DenseNet-121."),
        (lambda: published(11).value(None, "ResNet-18"), "row None"),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            call()
        assert said in str(error.value)
