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


def lines_of(table):
    text = (FOLDER / f"table{table:02}.csv").read_text(encoding="utf-8")
    return list(csv.reader(text.splitlines()))


def column(table, name):
    return [published(table).value(row, name) for row in published(table).rows]


def accuracy_of(table):
    (name,) = set(ACCURACY) & set(published(table).columns)
    return dict(zip(published(table).rows, column(table, name), strict=True))


def message(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    return str(error.value)


def test_all_tables_are_there():
    assert list(TABLES) == list(PRINTED) == list(range(1, 19))
    files = [file.name for file in FOLDER.glob("*.csv")]
    assert sorted(files) == [f"table{table:02}.csv" for table in TABLES]


@pytest.mark.parametrize("table", list(PRINTED))
def test_shape_and_control_sum(table):
    rows, columns, control = PRINTED[table]
    header, *lines = lines_of(table)
    assert header[0] == "row" and len(lines) == rows
    assert {len(line) for line in (header, *lines)} == {columns + 1}
    cells = [cell for line in lines for cell in line[1:]]
    unit = Decimal(10**6 if table == 6 else 1)
    total = sum(place * Decimal(cell or 0) * unit for place, cell in enumerate(cells, start=1))
    assert total == Decimal(control)


@pytest.mark.parametrize("table", list(PRINTED))
def test_what_is_read_is_what_the_file_says(table):
    found = published(table)
    header, *lines = lines_of(table)
    assert found.table == table and found.columns == tuple(header[1:])
    assert found.rows == tuple(line[0] for line in lines)
    assert len(set(found.rows)) == len(found.rows)
    assert len(set(found.columns)) == len(found.columns)
    for line in lines:
        for name, cell in zip(header[1:], line[1:], strict=True):
            printed = found.value(line[0], name)
            if not cell:
                assert printed is None
            elif found.unit == "score":
                assert f"{printed:.1e}" == cell and 0 < printed < 1e-4
            else:
                assert f"{printed:.2%}" == f"{cell}%" and 0 <= printed <= 1
                assert printed == float(Decimal(cell).scaleb(-2))


def test_only_table_6_has_scores():
    assert [table for table in TABLES if published(table).unit == "score"] == [6]
    assert published(6).value("Defective CNN", "S(M)") == 3.5e-05
    assert published(4).value("DenseNet-121", "ResNet-18") == 0.1453


def test_what_the_paper_does_not_report():
    empty = [
        (table, row, name)
        for table in TABLES
        for row in published(table).rows
        for name in published(table).columns
        if published(table).value(row, name) is None
    ]
    assert empty == [
        (2, "TLA", "FGSM"),
        (7, "Thermometer(16)", "FGSM"),
        (7, "Thermometer(32)", "FGSM"),
    ]


def test_one_network_has_one_accuracy():
    """Networks of CIFAR-10: in Tables 4 and 8 by architecture, elsewhere variants of ResNet-18."""
    by_variant = {}
    for table in (4, 8, 5, 12, 14, 15, 16, 17, 18):
        for row, accuracy in accuracy_of(table).items():
            name = "ResNet-18" if row == "Standard CNN" else row
            if table not in (4, 8) and not name.startswith("ResNet-18"):
                name = f"ResNet-18 {name}"
            assert by_variant.setdefault(name, accuracy) == accuracy, f"{name} in Table {table}"
    # Tables 14 to 18 have the same 31; Table 4 adds four architectures of three rows.
    assert len(by_variant) == 31 + 12


def test_table_1_is_the_first_pair_of_table_13():
    small, large = published(1), published(13)
    assert small.columns == large.columns == ("2x2", "4x4", "8x8", "IN->SIN")
    assert small.rows == ("Standard CNN", "Defective CNN")
    assert large.rows[:2] == ("ResNet-18", "ResNet-18 0.1-Bottom")
    assert small.cells == large.cells[:2]


def test_table_4_has_the_pgd16_columns_of_tables_14_to_18():
    assert set(SOURCES) == set(ARCHITECTURES)
    for source, table in SOURCES.items():
        for variant in ("ResNet-18", "0.5-Bottom", "0.3-Bottom"):
            row = variant if variant == "ResNet-18" else f"ResNet-18 {variant}"
            assert published(4).value(row, source) == published(table).value(variant, "PGD16")


def test_table_5_is_a_part_of_table_14():
    part, whole = published(5), published(14)
    for row in part.rows:
        for name in part.columns:
            other = "ResNet-18" if row == "Standard CNN" else row
            expected = whole.value(other, "Acc" if name == "Test Accuracy" else name)
            assert part.value(row, name) == expected, (row, name)


def test_table_11_is_a_part_of_table_4():
    for target in published(11).rows:
        for source in published(11).columns:
            assert published(11).value(target, source) == published(4).value(target, source)


@pytest.mark.parametrize("table", [4, 8, 9])
def test_matrices_of_five_architectures(table):
    parts = ("", " 0.5-Bottom", " 0.3-Bottom")
    assert published(table).rows == tuple(a + part for a in ARCHITECTURES for part in parts)
    assert published(table).columns == (*ARCHITECTURES, "Test Accuracy")


def test_rows_of_table_13():
    parts = ("", " 0.1-Bottom")
    assert published(13).rows == tuple(a + part for a in ARCHITECTURES for part in parts)


def test_tables_14_to_18_have_the_same_networks():
    rows = published(14).rows
    for table in (15, 16, 17, 18):
        assert published(table).rows == rows
    attacks = ("FGSM8", "FGSM16", "FGSM32", "PGD16", "PGD2,16", "PGD32")
    carlini = {14: ("CW40",), 15: ("CW20",), 16: ("CW40",), 17: ("CW40",), 18: ()}
    for table, last in carlini.items():
        assert published(table).columns == (*attacks, *last, "Acc")


def test_rows_of_variants():
    bottom = tuple(f"{p}-Bottom" for p in (0.7, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05))
    top = ("0.7-Top", "0.5-Top", "0.3-Top")
    mixed = tuple(f"0.{b}-Bottom,0.{t}-Top" for b, t in ((5, 5), (7, 7), (7, 3), (3, 3), (3, 7)))
    kinds = tuple(f"0.{p}-Bottom{kind}" for kind in ("DC", "SM", "x2") for p in (5, 3, 1))
    ensembles = ("ResNet-18EN", "0.5-Bottomx2EN", *(f"0.{p}-BottomEN" for p in (5, 3, 1)))
    assert published(14).rows == ("ResNet-18", *bottom, *top, *mixed, *kinds, *ensembles)
    assert published(12).rows == ("ResNet-18", "0.5-Bottom", "0.3-Bottom")
    different = ("0.5-Bottom", "0.5-BottomDIF", "0.3-Bottom", "0.3-BottomDIF")
    assert published(10).rows == different
    # Table 5's twin of 0.5-Bottom, the twelfth row, is left out.
    assert published(5).rows[10:13] == ("0.3-Bottom,0.7-Top", "0.1-Bottom", "0.5-BottomDC")
    assert published(6).rows[1:4] == tuple(f"Standard CNN + {name}" for name in ("SD", "DB", "LS"))


def test_variants_are_written_as_the_command_line_writes_them():
    """EN, an ensemble of five, is the one mark that a defect specification does not have."""
    for row in (*published(5).rows[1:], *published(14).rows[1:], *published(12).rows[1:]):
        spec = row.removesuffix("EN")
        if spec != "ResNet-18":
            assert str(Defects.parse(spec)) == spec
    ensembles = [row for row in published(14).rows if row.endswith("EN")]
    assert ensembles == [
        "ResNet-18EN",
        "0.5-Bottomx2EN",
        "0.5-BottomEN",
        "0.3-BottomEN",
        "0.1-BottomEN",
    ]


def test_stronger_attacks_of_one_kind_succeed_more_often():
    """Within the appendix, PGD to 32 beats PGD to 16, and FGSM to 16 beats FGSM to 8."""
    for table in range(14, 19):
        assert all(
            a > b for a, b in zip(column(table, "PGD16"), column(table, "PGD32"), strict=True)
        )
        assert all(
            a > b for a, b in zip(column(table, "FGSM8"), column(table, "FGSM16"), strict=True)
        )


def test_quoted_rows():
    assert list(quoted()) == [2, 3, 7]
    for table in TABLES:
        found = published(table).quoted
        assert found == quoted().get(table, {})
        assert all(row in published(table).rows for row in found)
    measured = ["Standard CNN", "Standard CNN + SD", "Standard CNN + DB", "Defective CNN"]
    for table in quoted():
        found = published(table)
        assert [row for row in found.rows if row not in found.quoted] == measured
    assert "Madry" in published(7).quoted["Adversarial Training"]
    assert "2018, Adversarial logit pairing" in published(3).quoted["ALP"]
    for citation in (c for rows in quoted().values() for c in rows.values()):
        authors, rest = citation.split(", 20")
        assert " and " in authors and rest[:2].isdigit() and rest[2:4] == ", "


def test_figure_5_comes_from_table_14():
    points = figure5()
    assert [p.keep_probability for p in points] == [0.7, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05]
    assert points[0] == (0.7, 0.5129, 0.9403)
    assert points[-1] == (0.05, 0.9743, 0.8453)
    # What the figure is there to show.
    assert [p.defence_rate for p in points] == sorted(p.defence_rate for p in points)
    assert [p.accuracy for p in points] == sorted((p.accuracy for p in points), reverse=True)


@pytest.mark.parametrize(("wrong", "closest"), [(0, 1), (-3, 1), (19, 18), (400, 18)])
def test_unknown_number_of_a_table(wrong, closest):
    assert message(published, wrong).endswith(f"the nearest is {closest}")
    assert f"table {wrong}:" in message(published, wrong)


@pytest.mark.parametrize("wrong", ["4", 4.0, None, True, [4]])
def test_number_of_a_table_is_a_whole_number(wrong):
    assert f"table {wrong!r}: expected a number from 1 to 18" in message(published, wrong)


def test_unknown_row_and_column_name_the_nearest():
    table = published(14)
    text = message(table.value, "0.5-Bottom×2,EN", "PGD16")
    assert text.startswith("row '0.5-Bottom×2,EN'") and "Table 14" in text
    assert "Did you mean '0.5-Bottomx2EN'?" in text
    text = message(table.value, "0.3-Bottom", "PGD 16")
    assert text.startswith("column 'PGD 16'") and "Did you mean 'PGD16'?" in text


def test_unknown_row_like_no_other_lists_them():
    assert message(published(11).value, "?", "ResNet-18").endswith(
        "It has: ResNet-18; DenseNet-121."
    )
    assert "row None" in message(published(11).value, None, "ResNet-18")


def test_a_table_is_read_once_and_stays_as_it_is():
    table = published(2)
    assert published(2) is table and hash(table) == hash(published(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.title = "another"
    table.quoted.clear()
    assert len(published(2).quoted) == 5


def test_titles_and_sections():
    assert len({published(table).title for table in TABLES}) == 18
    early = ["3.2", "4.1.2", "4.1.2", "4.1.2", "4.2"]
    appendix = ["A.1", "A.3", "A.4", "A.5", "A.6", "A.6", "A.7", "A.8", *["A.10"] * 5]
    assert [published(table).section for table in TABLES] == early + appendix
    for source, table in SOURCES.items():
        assert published(table).title.endswith(source)
