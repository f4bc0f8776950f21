"""Tables and figures of shape, boundary, gray-box, white-box, noise, examples and curves."""

import pytest
from paper_smoke import TINY, context, new_store, tiny_setup
from PIL import Image
from scotoma.bench.paper.artefacts import AdversarialImages, Sample, Training
from scotoma.bench.paper.budgets import BUDGETS, SMOKE
from scotoma.bench.paper.data import Data, SampleFolder, fitting_grids
from scotoma.bench.paper.published import published
from scotoma.bench.paper.setup import Setup
from scotoma.bench.paper.tables import (
    boundary,
    curves,
    examples,
    gray_box,
    noise,
    shape,
    white_box,
)
from scotoma.bench.paper.tables import definition as find
from scotoma.defective.attacks import parse_attack
from scotoma.defective.errors import UserError
from scotoma.train.datasets import load_dataset

MODULES = (shape, boundary, gray_box, white_box, noise, examples, curves)
DEFINITIONS = {d.name: d for module in MODULES for d in module.DEFINITIONS}
TABLES = {1: "table1", 6: "table6", 10: "table10", 12: "table12", 13: "table13"}
NAMES = (*TABLES.values(), *(f"figure{number}" for number in (1, 3, 4, 6, 7, 14)))


def build(name, setup=None):
    return DEFINITIONS[name].build(setup or tiny_setup())


def results(name, setup=None):
    """{place: the result of the first seed}"""
    return {place: many[0].result for place, many in build(name, setup).cells.items()}


def trainings(name, setup=None):
    found = {}
    wanted = list(build(name, setup).wanted())
    while wanted:
        artefact = wanted.pop()
        if isinstance(artefact, Training):
            found[artefact.key] = artefact
        wanted += artefact.inputs()
    return found.values()


def test_each_is_found_by_its_name():
    assert set(DEFINITIONS) == set(NAMES)
    for name in NAMES:
        assert find(name) is DEFINITIONS[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_each_can_be_built(name, budget):
    """With data sets of the paper, of which nothing is read yet."""
    found = DEFINITIONS[name]
    data = {r: Data(r, r, stylized="folder", stylized_content="ab") for r in found.roles}
    setup = Setup(BUDGETS[budget], data, seeds=(3, 4))
    experiment = found.build(setup)
    assert experiment.wanted() and len({a.key for a in experiment.wanted()})
    assert all(len(measures) == 2 for measures in experiment.cells.values())
    assert len(set(experiment.rows)) == len(experiment.rows)
    assert {row for row, _ in experiment.cells} == set(experiment.rows)
    assert {column for _, column in experiment.cells} == set(experiment.columns)
    for measures in experiment.cells.values():
        first, second = (measure.result for measure in measures)
        assert first.key != second.key
        assert measures[0].index == measures[1].index
    words = [found.title, found.section, found.needs, *experiment.settings, *experiment.notes]
    assert all(text and text == text.strip() and "  " not in text for text in words)


@pytest.mark.parametrize(("number", "name"), TABLES.items())
def test_rows_and_columns_are_the_papers(number, name):
    printed, experiment = published(number), build(name)
    assert DEFINITIONS[name].of_table == number
    assert DEFINITIONS[name].section == printed.section
    extra = set(white_box.TRAINED) if number == 12 else set()
    assert experiment.rows == (*printed.rows, *white_box.TRAINED)[: len(experiment.rows)]
    assert set(experiment.rows) - set(printed.rows) == extra
    own = [c for c in experiment.columns if c not in printed.columns]
    assert experiment.columns == (*printed.columns, *own)
    assert own == (["PGD (2,7,8)"] if number == 12 else [])
    there = {(r, c) for r in printed.rows for c in printed.columns}
    assert there <= set(experiment.cells)
    assert set(experiment.cells) - there == {(row, "PGD (2,7,8)") for row in extra}


def test_only_what_the_paper_prints_has_printed_values():
    assert [d.name for d in DEFINITIONS.values() if d.of_table is None] == [
        "figure1", "figure4", "figure3", "figure6", "figure7", "figure14",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*TABLES.values(), "figure4"])
def test_quantities_are_what_the_paper_reports(name):
    wanted = {
        "clean": "accuracy",
        "shuffle": "accuracy",
        "stylized": "accuracy",
        "noise": "accuracy",
        "boundary": "score_median",
        "transfer": "defence",
        "white-box": "defence",
    }
    for (measure,) in build(name).cells.values():
        assert measure.quantity == wanted[measure.result.protocol]


# Tables 1 and 13


def test_table1_is_the_first_pair_of_table13():
    one, five = results("table1"), results("table13")
    for row, other in (("Standard CNN", "ResNet-18"), ("Defective CNN", "ResNet-18 0.1-Bottom")):
        for column in published(1).columns:
            assert one[row, column].key == five[other, column].key
    assert len({r.key for r in five.values()}) == 10 + 5


def test_pairs_share_images_that_both_get_right():
    found = build("table13").cells
    for measures in found.values():
        (measure,) = measures
        if measure.result.protocol == "shuffle":
            standard, defective = measure.result.sample.models
            assert measure.result.target in (standard, defective)
            assert measure.result.sample.data.role == "imagenet"
        else:
            standard, defective = measure.result.targets
            assert measure.result.protocol == "stylized"
        (one,), (other,) = standard.members, defective.members
        assert one.config.arch == other.config.arch
        assert one.config.stem == other.config.stem == "3x3"
        assert (one.config.defects, other.config.defects) == ("standard", "0.1-Bottom")
        assert one.config.seed == other.config.seed == 0


def test_indices_of_shuffled_and_stylised_results():
    cells = build("table1").cells
    for row, number in (("Standard CNN", 0), ("Defective CNN", 1)):
        for index, grid in enumerate((2, 4, 8)):
            (measure,) = cells[row, f"{grid}x{grid}"]
            assert dict(measure.result.options)["grids"][measure.index] == grid
            assert measure.index == index and measure.result.target.name == row
        (measure,) = cells[row, "IN->SIN"]
        assert measure.result.targets[measure.index].name == row
        assert measure.index == number


def test_without_stylised_images_that_column_stays_empty():
    data = {"imagenet": Data("imagenet", "imagenet")}
    experiment = build("table1", Setup(BUDGETS["full"], data))
    assert {column for _, column in experiment.cells} == {"2x2", "4x4", "8x8"}
    assert "IN->SIN" in experiment.columns
    assert any("IN->SIN: not measured" in note for note in experiment.notes)
    assert not any("not measured" in note for note in build("table1").notes)


def test_grids_that_do_not_divide_the_side_are_left_out():
    data = {"imagenet": Data("imagenet", "sample")}
    experiment = build("table1", Setup(SMOKE, data))
    assert {column for _, column in experiment.cells} == {"2x2", "4x4"}
    assert any(note.startswith("8x8: not measured") for note in experiment.notes)
    assert experiment.columns == published(1).columns


def test_sides_are_those_of_the_data_sets(tmp_path):
    assert load_dataset("sample").image_size == 28
    assert fitting_grids(Data("imagenet", "sample")) == (2, 4)
    for name in ("imagenet", "tiny-imagenet", "cifar10"):
        assert fitting_grids(Data("imagenet", name)) == (2, 4, 8)
    assert fitting_grids(Data("imagenet", "imagenet", image_size=100)) == (2, 4)
    made = Data("imagenet", "", made_by=SampleFolder(200, 100))
    assert fitting_grids(made) == (2, 4, 8)
    store = new_store(tmp_path)
    made.made_by.make(context(store))
    assert fitting_grids(Data("imagenet", made.location(store), content="ab")) == (2, 4, 8)
    assert load_dataset(made.location(store)).image_size == 32
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "odd" / place).mkdir(parents=True)
        Image.new("L", (12, 12)).save(tmp_path / "odd" / place / "0.png")
    assert fitting_grids(Data("imagenet", str(tmp_path / "odd"), content="cd")) == (2, 4)
    with pytest.raises(UserError, match="no class folders with images"):
        fitting_grids(Data("imagenet", str(tmp_path / "locks"), content="ab"))


# Table 6


def test_boundary_scores_are_of_common_images():
    found = results("table6", tiny_setup(seeds=(2,)))
    assert len({result.sample.key for result in found.values()}) == 1
    sample = next(iter(found.values())).sample
    assert [m.key for m in sample.models] == [r.target.key for r in found.values()]
    assert sample.count == TINY.boundary_samples
    configs = {row: result.target.members[0].config for (row, _), result in found.items()}
    told = {
        row: (c.regularizer, c.label_smoothing, c.defects, c.seed) for row, c in configs.items()
    }
    assert told == {
        "Standard CNN": ("none", 0.0, "standard", 2),
        "Standard CNN + SD": ("spatial-dropout", 0.0, "standard", 2),
        "Standard CNN + DB": ("dropblock", 0.0, "standard", 2),
        "Standard CNN + LS": ("none", 0.1, "standard", 2),
        "Defective CNN": ("none", 0.0, "0.1-Bottom", 2),
    }
    (attack,) = {result.attack for result in found.values()}
    assert parse_attack(attack).steps == 10
    full = Setup(BUDGETS["full"], {"cifar10": Data("cifar10", "cifar10")})
    (attack,) = {result.attack for result in results("table6", full).values()}
    assert parse_attack(attack).steps == 25000


# Table 10


def test_gray_box_sources_have_the_targets_masks_and_dif_has_not():
    for (row, column), result in results("table10", tiny_setup(seeds=(5,))).items():
        (target,), (source,) = result.target.members, result.images.source.members
        assert source.config.defects == column and source.config.seed == 1005
        assert source.config.mask_seed == 5
        assert target.config.defects == row.removesuffix("DIF")
        dif = row.endswith("DIF")
        assert target.config.seed == target.config.mask_seed == (105 if dif else 5)
        assert parse_attack(result.images.attack).eps == 16 / 255


def test_gray_box_images_are_right_for_both_sources_or_for_their_own():
    common = {result.images.sample.key for result in results("table10").values()}
    assert len(common) == 1
    found = results("table10", tiny_setup(images="source")).values()
    assert len({result.images.sample.key for result in found}) == 2
    for result in found:
        assert result.images.sample.models == (result.images.source,)
    for result in results("table10").values():
        assert [m.name for m in result.images.sample.models] == ["0.5-Bottom", "0.3-Bottom"]


def test_networks_are_shared_between_tables():
    setup = tiny_setup()
    for row in ("0.5-Bottom", "0.3-Bottom"):
        key = results("table10")[row, row].target.key
        assert key == results("table12")[row, "FGSM1"].target.key
        assert key == results("figure4")[row, "2"].target.key
        assert key in {t.key for t in trainings("table10")}
        # The second member of the ensembles of Tables 14 to 18, and a row of Table 4.
        ensemble = setup.ensemble("EN", "resnet18", row, seed=0)
        dif = results("table10")[f"{row}DIF", row].target
        assert [key, dif.key] == [member.key for member in ensemble.members[:2]]
        shared = {t.key for t in _trainings_of(find("table4").build(setup).wanted())}
        assert key in shared


def _trainings_of(wanted):
    wanted, found = list(wanted), []
    while wanted:
        artefact = wanted.pop()
        if isinstance(artefact, Training):
            found.append(artefact)
        elif not isinstance(artefact, AdversarialImages):
            wanted += artefact.inputs()
    return found


# Table 12


def test_white_box_attacks_are_the_papers():
    full = Setup(BUDGETS["full"], {"cifar10": Data("cifar10", "cifar10")})
    found = results("table12", full)
    levels = {}
    for (row, column), result in found.items():
        if result.protocol == "white-box":
            assert result.sample.models == () and result.sample.count == 5000
            attack = parse_attack(result.attack)
            size = round(255 * attack.eps, 6)
            more = () if attack.name == "fgsm" else (round(255 * attack.step, 6), attack.steps)
            levels.setdefault(column, set()).add((attack.name, size, *more))
            start = getattr(attack, "random_start", False)
            assert start == (column == "PGD (2,7,8)")
        else:
            assert column == "Test Accuracy" and result.protocol == "clean"
        assert row.startswith(result.target.members[0].config.defects) or row.startswith("ResNet")
    assert levels == {
        "FGSM1": {("fgsm", 1.0)},
        "FGSM2": {("fgsm", 2.0)},
        "FGSM4": {("fgsm", 4.0)},
        "PGD2": {("pgd", 2.0, 1.0, 4)},
        "PGD4": {("pgd", 4.0, 1.0, 6)},
        "PGD8": {("pgd", 8.0, 1.0, 10)},
        "PGD (2,7,8)": {("pgd", 8.0, 2.0, 7)},
    }


def test_adversarial_training_is_the_extra_rows_alone():
    for (row, _), result in results("table12").items():
        config = result.target.members[0].config
        trained = "Adv. Training" in row
        assert (config.adversarial_eps == 8 / 255) == trained
        assert config.adversarial_step == 2 / 255
        assert config.adversarial_steps == (TINY.adversarial_steps if trained else 7)
    places = [(row, "PGD (2,7,8)") for row in white_box.TRAINED]
    defects = [results("table12")[p].target.members[0].config.defects for p in places]
    assert defects == ["standard", "0.5-Bottom"]


# Figures


def test_noise_is_the_papers_on_common_images():
    found = build("figure4", tiny_setup())
    assert found.columns == ("2", "4", "8", "16", "24", "32", "40", "48", "56", "64")
    samples = set()
    for (row, column), (measure,) in found.cells.items():
        assert measure.result.protocol == "noise" and measure.result.target.name == row
        epsilon = dict(measure.result.options)["epsilons"][measure.index]
        assert round(255 * epsilon, 9) == float(column)
        assert (
            dict(measure.result.options)["draws"] == TINY.draws and measure.quantity == "accuracy"
        )
        samples.add(measure.result.sample.key)
        assert [model.name for model in measure.result.sample.models] == list(found.rows)
    assert len(samples) == 1
    networks = {row: result.target for (row, _), result in results("figure4").items()}
    kept = [networks[row].members[0].config.defects for row in found.rows]
    assert kept == ["standard", "0.5-Bottom", "0.3-Bottom", "0.1-Bottom"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("figure3", {("cifar10", 16, 20), ("cifar10", 32, 40)}
         | {("tiny-imagenet", 16, 20), ("tiny-imagenet", 32, 40)}),
        ("figure6", {("cifar10", 16, 20), ("cifar10", 32, 40)}),
        ("figure7", {("tiny-imagenet", 32, 40), ("tiny-imagenet", 64, 80)}),
    ],
)  # fmt: skip
def test_examples_are_of_each_network_itself(name, wanted):
    data = {role: Data(role, role) for role in ("cifar10", "tiny-imagenet")}
    attached = build(name, Setup(BUDGETS["full"], data)).attached.values()
    networks = ("0.2-Bottom",) if name == "figure6" else ()
    networks = (*networks, "0.1-{1,2}", "standard")
    found = {}
    for images in attached:
        attack = parse_attack(images.attack)
        assert attack.name == "mifgsm" and attack.step == 1 / 255
        key = images.sample.data.role, round(255 * attack.eps), attack.steps
        found.setdefault(key, []).append(images.source.members[0].config.defects)
        assert images.sample.models == () and images.sample.count == 100
        assert images.pixels == "uint8" and images.source.members[0].config.seed == 0
        assert images.source.data == images.sample.data
    assert found == {key: list(networks) for key in wanted}


def test_figures_of_examples_share_their_sets():
    full = Setup(BUDGETS["full"], {r: Data(r, r) for r in ("cifar10", "tiny-imagenet")})
    keys = [
        {a.key for a in build(n, full).attached.values()} for n in ("figure3", "figure6", "figure7")
    ]
    assert [len(each) for each in keys] == [8, 6, 4]
    assert [len(keys[0] & keys[1]), len(keys[0] & keys[2]), len(keys[1] & keys[2])] == [4, 2, 0]


def test_figures_without_networks_and_without_attacks():
    (sample,) = build("figure1").attached.values()
    assert isinstance(sample, Sample) and sample.models == () and sample.count == 4
    assert not list(trainings("figure1"))
    found = build("figure14", tiny_setup(seeds=(0, 1))).attached.values()
    told = [(t.data.role, t.config.defects, t.config.seed) for t in found]
    assert told == [
        (role, defects, seed)
        for role in ("cifar10", "mnist")
        for defects in ("standard", "0.1-Bottom")
        for seed in (0, 1)
    ]
