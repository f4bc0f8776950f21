"""Tables of transfer attacks and Figure 5: what they share, and what seeds and images change."""

from dataclasses import replace
from itertools import combinations

import pytest
from paper_smoke import tiny_setup
from paper_transfers import (
    ACCURACIES,
    ALL,
    APPENDIX,
    build,
    full_setup,
    keys,
    members,
    results,
)
from scotoma.bench.paper.artefacts import Training
from scotoma.bench.paper.setup import ARCHITECTURES, Setup
from scotoma.bench.paper.work import closure
from scotoma.defective.errors import UserError


def test_table_5_is_a_part_of_table_14():
    assert keys(build("table5").wanted()) < keys(build("table14").wanted())
    part, whole = results("table5"), results("table14")
    for (row, column), result in part.items():
        place = (
            "ResNet-18" if row == "Standard CNN" else row,
            "Acc" if column == "Test Accuracy" else column,
        )
        assert result.key == whole[place].key


@pytest.mark.parametrize("name", list(APPENDIX))
def test_table_4_has_the_pgd16_columns_of_the_appendix(name):
    four, other = results("table4"), results(name)
    source = ARCHITECTURES[APPENDIX[name]]
    for row in ("ResNet-18", "0.5-Bottom", "0.3-Bottom"):
        target = row if row == "ResNet-18" else f"ResNet-18 {row}"
        assert four[target, source].key == other[row, "PGD16"].key
        assert four[target, "Test Accuracy"].key == other[row, "Acc"].key


def test_table_11_is_a_part_of_table_4():
    four = results("table4")
    for place, result in results("table11").items():
        assert result.key == four[place].key
    assert keys(build("table11").wanted()) < keys(build("table4").wanted())


def test_one_network_for_all_tables():
    """The standard ResNet-18 of Tables 2, 4, 5, 8, 11, 14 to 18 is trained once."""
    standard = {
        results(name)[row, column].target.members[0].key
        for name, row, column in (
            ("table2", "Standard CNN", "Clean Acc"),
            ("table4", "ResNet-18", "Test Accuracy"),
            ("table5", "Standard CNN", "Test Accuracy"),
            ("table8", "ResNet-18", "Test Accuracy"),
            ("table11", "ResNet-18", "ResNet-18"),
            *((name, "ResNet-18", "Acc") for name in APPENDIX),
        )
    }
    assert len(standard) == 1
    tenths = {
        results(name)[row, column].target.members[0].key
        for name, row, column in (
            ("table2", "Defective CNN", "Clean Acc"),
            ("table5", "0.1-Bottom", "Test Accuracy"),
            ("figure5", "0.1-Bottom", "Test Accuracy"),
        )
    }
    assert len(tenths) == 1 and not tenths & standard


def test_names_of_one_network_do_not_decide_its_file():
    one, other = results("table5"), results("table14")
    a, b = one["Standard CNN", "PGD16"], other["ResNet-18", "PGD16"]
    assert a.target.name != b.target.name
    assert a.key == b.key and a.label == b.label


# Seeds, and whose images are attacked.


@pytest.mark.parametrize("name", ["table2", "table8", "table14"])
def test_each_seed_trains_all_networks_anew(name):
    setup = full_setup(seeds=(0, 1, 99))
    found = build(name, setup)
    assert all(len(several) == 3 for several in found.cells.values())
    trained = []
    for number, seed in enumerate(setup.seeds):
        alone = build(name, full_setup(seeds=(seed,)))
        assert {place: one[0].result.key for place, one in alone.cells.items()} == {
            place: several[number].result.key for place, several in found.cells.items()
        }
        trained.append(keys(a for a in closure(alone.wanted()) if isinstance(a, Training)))
    assert all(not a & b for a, b in combinations(trained, 2))


def test_no_source_is_a_target():
    for name in ALL:
        for several in build(name, full_setup(seeds=(0, 99))).cells.values():
            for measure in several:
                if measure.result.protocol == "transfer":
                    target, source = measure.result.target, measure.result.images.source
                    assert not members(target) & members(source)


@pytest.mark.parametrize(
    "seeds", [(100,), (0, 100), (1000,), (-1,), (0, 0), (), (5, 5)], ids=lambda seeds: str(seeds)
)
def test_seeds_that_clash_are_refused(seeds):
    with pytest.raises(UserError, match=r"^seeds"):
        full_setup(seeds=seeds)
    full_setup(seeds=(0, 99))


def test_images_of_the_source_alone():
    for name in ("table4", "table8", "table9", "table11", "table14"):
        setup = full_setup(images="source")
        notes = build(name).notes
        assert len(build(name, setup).notes) == len(notes) - 1
        for (_, column), result in results(name, setup).items():
            if column not in ACCURACIES:
                (judge,) = result.images.sample.models
                assert judge.key == result.images.source.key
    needed = closure(build("table11", full_setup(images="source")).wanted())
    assert sum(isinstance(a, Training) for a in needed) == 4


def test_a_shorter_sample_is_attacked_whole():
    """Where the budget's sample is not larger, Carlini and Wagner's attack takes all of it."""
    setup = tiny_setup()
    small = Setup(replace(setup.budget, samples=6, cw_samples=6), setup.data)
    images = results("table14", small)["ResNet-18", "CW40"].images
    assert images.most is None and images.sample.count == 6
    assert results("table14", setup)["ResNet-18", "CW40"].images.most == 6
