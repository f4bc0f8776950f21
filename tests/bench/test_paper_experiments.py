"""Tables of transfer attacks and Figure 5: their cells, what they share, and that they run."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from paper_smoke import context, learning_setup, new_store, tiny_setup
from scotoma.bench.paper.budgets import FULL, ROLES, SMOKE
from scotoma.bench.paper.estimates import read_places, read_values
from scotoma.bench.paper.experiment import Made, only_rows
from scotoma.bench.paper.experiments import definition
from scotoma.bench.paper.experiments.ablation import ROWS
from scotoma.bench.paper.graph.artefact import closure
from scotoma.bench.paper.graph.attacking import AdversarialImages
from scotoma.bench.paper.graph.data import Data
from scotoma.bench.paper.graph.local import run_locally
from scotoma.bench.paper.graph.plan import Plan
from scotoma.bench.paper.graph.results import Clean, Transfer
from scotoma.bench.paper.graph.training import Training
from scotoma.bench.paper.published import figure5, published
from scotoma.bench.paper.setup import ARCHITECTURES, MEMBER_SEED, SOURCE_SEED, Setup
from scotoma.defective.attacks import parse_attack
from scotoma.defective.errors import UserError
from scotoma.defective.notation import Defects
from scotoma.defective.robustness import load_set

MATRICES = ("table4", "table8", "table9")
APPENDIX = {
    "table14": "densenet121",
    "table15": "resnet18",
    "table16": "resnet50",
    "table17": "senet18",
    "table18": "vgg19",
}
DEFENCES = ("table2", "table3", "table7")
TABLES = ("table2", "table3", "table4", "table5", "table7", "table8", "table9", "table11")
TABLES += tuple(APPENDIX)
ALL = (*TABLES, "figure5")
ACCURACIES = ("Clean Acc", "Test Accuracy", "Acc")
# Rows of ours that the paper does not have, and rows that it measured and that cannot be made.
EXTRA = {"table2": ["Defective CNN {1,2}"]}


def full_setup(**changes):
    names = dict(zip(ROLES, ("cifar10", "mnist", "tiny-imagenet", "imagenet"), strict=True))
    data = {role: Data(role, name) for role, name in names.items()}
    return Setup(FULL, data, **changes)


def build(name, setup=None):
    return definition(name).build(setup or full_setup())


def results(name, setup=None):
    """{place: result} of an experiment of one seed."""
    return {place: one[0].result for place, one in build(name, setup).cells.items()}


def keys(artefacts):
    return {artefact.key for artefact in artefacts}


def members(model):
    return keys(model.members)


@pytest.mark.parametrize("name", TABLES)
def test_rows_and_columns_are_the_papers(name):
    table, found = published(int(name[5:])), build(name)
    extra = EXTRA.get(name, [])
    assert definition(name).of_table == table.table
    assert found.columns == table.columns
    assert found.rows == (*table.rows, *extra)
    filled = list(dict.fromkeys(row for row, _ in found.cells))
    measured = [row for row in table.rows if row not in table.quoted]
    assert set(measured) <= set(filled) <= {*table.rows, *extra}
    # Every row that is there at all is there whole.
    assert list(found.cells) == [(row, column) for row in filled for column in found.columns]
    assert all(any(row in note for note in found.notes) for row in extra)


def test_quoted_defences_that_are_trained_here():
    trained = {
        name: [row for row in published(int(name[5:])).quoted if (row, "PGD") in build(name).cells]
        for name in DEFENCES
    }
    assert trained == {
        "table2": ["Adv. Training"],
        "table3": ["Adv. Training", "ALP"],
        "table7": ["Adversarial Training", "Thermometer(16)", "Thermometer(32)"],
    }


def test_figure_5_has_the_points_of_the_papers():
    found = build("figure5")
    assert definition("figure5").of_table is None
    assert found.columns == ("Defence Rate", "Test Accuracy")
    points = [f"{point.keep_probability:g}-Bottom" for point in figure5()]
    assert found.rows == ("ResNet-18", *points)
    ours, whole = results("figure5"), results("table14")
    for row in found.rows:
        assert ours[row, "Defence Rate"].key == whole[row, "PGD16"].key
        assert ours[row, "Test Accuracy"].key == whole[row, "Acc"].key


@pytest.mark.parametrize("name", ALL)
def test_what_a_cell_measures(name):
    quantity = "defence_all" if name in DEFENCES else "defence"
    for (_, column), (measure,) in build(name).cells.items():
        accuracy = column in ACCURACIES
        assert measure.quantity == ("accuracy" if accuracy else quantity)
        assert isinstance(measure.result, Clean if accuracy else Transfer)
        assert measure.index == 0


@pytest.mark.parametrize("name", ALL)
def test_words_for_people(name):
    found, plan = build(name), definition(name)
    assert plan.title and plan.section and plan.needs and len(plan.needs) < 110
    for line in (*found.settings, *found.notes):
        assert line.endswith(".") or parse_attack(line.split(": ")[1])
        assert line == " ".join(line.split()) and len(line) < 400
    assert len(set(found.notes)) == len(found.notes)
    columns = [c for c in found.columns if c not in (*ACCURACIES, *ARCHITECTURES.values())]
    told = [line.split(": ")[0] for line in found.settings]
    assert set(columns) <= set(told)


@pytest.mark.parametrize("name", ALL)
def test_only_the_data_that_are_said_to_be_needed(name):
    roles = definition(name).roles
    some = {role: Data(role, "sample") for role in roles}
    found = definition(name).build(Setup(FULL, some))
    there = {a.data.role for a in closure(found.wanted()) if isinstance(a, Training)}
    assert there == set(roles)


# What is attacked, and by what.


def test_attacks_are_the_papers():
    assert _attacks("table4") == {"pgd:eps=16/255,step=1/255,steps=20"}
    assert _attacks("table8") == {"pgd:eps=8/255,step=2/255,steps=7"}
    assert _attacks("table9") == {"pgd:eps=0.3,step=0.01,steps=40"}
    assert _attacks("table11") == {"pgd:eps=16/255,step=1/255,steps=20"}
    both = {"fgsm:eps=8/255", "pgd:eps=8/255,step=2/255,steps=7"}
    assert _attacks("table2") == _attacks("table7") == both
    assert _attacks("table3") == {"pgd:eps=8/255,step=2/255,steps=20"}


def _attacks(name):
    sets = [a for a in closure(build(name).wanted()) if isinstance(a, AdversarialImages)]
    return {_short(images.attack) for images in sets}


def _short(text):
    """With the settings that the paper gives, whether or not they are the defaults."""
    told = dict(item.split("=") for item in str(parse_attack(text)).partition(":")[2].split(","))
    given = ",".join(f"{key}={told[key]}" for key in ("eps", "step", "steps") if key in told)
    return f"{parse_attack(text).name}:{given}"


@pytest.mark.parametrize("name", list(APPENDIX))
def test_columns_of_the_appendix(name):
    row = results(name)
    attacks = {
        column: result.images
        for (place, column), result in row.items()
        if place == "ResNet-18" and column != "Acc"
    }
    for column, images in attacks.items():
        source = images.source.members
        assert [m.config.arch for m in source] == [APPENDIX[name]]
        assert source[0].config.seed == SOURCE_SEED and source[0].config.defects == "standard"
        assert images.sample.count == 5000 and len(images.sample.models) == 5
        attack = parse_attack(images.attack)
        if column.startswith("CW"):
            assert attack.name == "cw-l2" and attack.search_steps == 30
            assert attack.confidence == float(column[2:]) == (20 if name == "table15" else 40)
            assert images.most == 1000
            continue
        assert images.most is None
        levels = round(attack.eps * 255)
        if column.startswith("FGSM"):
            assert attack.name == "fgsm" and column == f"FGSM{levels}"
        else:
            step, steps = round(attack.step * 255), attack.steps
            expected = {"PGD16": (1, 20, 16), "PGD2,16": (2, 10, 16), "PGD32": (1, 40, 32)}
            assert (step, steps, levels) == expected[column]
    assert any(c.startswith("CW") for c in attacks) == (name != "table18")


@pytest.mark.parametrize("name", list(APPENDIX))
def test_rows_of_the_appendix(name):
    for (row, _), result in results(name).items():
        networks = result.target.members
        spec = row.removesuffix("EN")
        assert len(networks) == (5 if row.endswith("EN") else 1)
        for number, network in enumerate(networks):
            config = network.config
            assert config.arch == "resnet18" and config.seed == number * MEMBER_SEED
            assert config.defects == ("standard" if spec == "ResNet-18" else spec)
            assert config.mask_seed == (None if config.defects == "standard" else config.seed)
            assert str(Defects.parse(config.defects)) == config.defects


def test_an_ensembles_first_member_is_the_network_of_its_row():
    found = results("table14")
    ensembles = [row for row in ROWS if row.endswith("EN")]
    assert len(ensembles) == 5
    for row in ensembles:
        ensemble, single = found[row, "Acc"].target, found[row.removesuffix("EN"), "Acc"].target
        assert ensemble.members[0].key == single.members[0].key
        assert len(members(ensemble)) == 5
    trained = [a for a in closure(build("table14").wanted()) if isinstance(a, Training)]
    assert len(trained) == 5 + 26 + 20


def test_matrices_attack_every_target_from_every_source():
    for name, role in (("table4", "cifar10"), ("table9", "mnist")):
        for (row, column), result in results(name).items():
            (target,) = result.target.members
            arch, _, defects = row.partition(" ")
            assert ARCHITECTURES[target.config.arch] == arch
            assert target.config.defects == (defects or "standard")
            assert target.config.seed == 0 and target.data.role == role
            if column != "Test Accuracy":
                (source,) = result.images.source.members
                assert ARCHITECTURES[source.config.arch] == column == result.images.source.name
                assert source.config.defects == "standard" and source.config.seed == SOURCE_SEED
                assert len(result.images.sample.models) == 5


def test_sources_of_table_8_are_the_five_but_one():
    """The five are those of Table 4."""
    singles = {
        column: result.images.source.members[0].key
        for (_, column), result in results("table4").items()
        if column != "Test Accuracy"
    }
    assert len(set(singles.values())) == 5
    found = results("table8")
    for (_, column), result in found.items():
        if column != "Test Accuracy":
            expected = {key for name, key in singles.items() if name != column}
            assert members(result.images.source) == expected
            assert len(result.images.source.members) == 4
    four = results("table4")
    for place in found:
        assert members(found[place].target) == members(four[place].target)


def test_tables_2_and_7_count_all_images():
    for name, arch in (("table2", "resnet18"), ("table3", "resnet50"), ("table7", "wrn32_4")):
        for (_, column), result in results(name).items():
            assert [m.config.arch for m in result.target.members] == [arch]
            if column in ACCURACIES:
                continue
            images = result.images
            assert images.sample.models == () and images.sample.count == 10_000
            assert images.most is None
            (source,) = images.source.members
            assert (source.config.arch, source.config.defects) == (arch, "standard")
            assert source.config.seed == SOURCE_SEED and not source.config.adversarial_eps


MADRY = {"adversarial_eps": 8 / 255, "adversarial_step": 2 / 255, "adversarial_steps": 7}
PLAIN = {
    "adversarial_eps": 0.0,
    "logit_pairing": 0.0,
    "thermometer": 0,
    "regularizer": "none",
    "defects": "standard",
    "label_smoothing": 0.0,
}


@pytest.mark.parametrize(
    ("name", "row", "changed"),
    [
        *((name, "Standard CNN", {}) for name in DEFENCES),
        *((name, "Defective CNN", {"defects": "0.1-Bottom"}) for name in DEFENCES),
        ("table2", "Defective CNN {1,2}", {"defects": "0.1-{1,2}"}),
        ("table2", "Standard CNN + SD", {"regularizer": "spatial-dropout"}),
        ("table2", "Standard CNN + DB", {"regularizer": "dropblock"}),
        ("table7", "Standard CNN + SD", {"regularizer": "spatial-dropout"}),
        ("table7", "Standard CNN + DB", {"regularizer": "dropblock"}),
        ("table2", "Adv. Training", MADRY),
        ("table3", "Adv. Training", MADRY),
        ("table7", "Adversarial Training", MADRY),
        ("table3", "ALP", MADRY | {"logit_pairing": 0.5}),
        ("table7", "Thermometer(16)", MADRY | {"thermometer": 16}),
        ("table7", "Thermometer(32)", MADRY | {"thermometer": 32}),
    ],
)
def test_how_defences_are_trained(name, row, changed):
    accuracy = published(int(name[5:])).columns[-1]
    (network,) = results(name)[row, accuracy].target.members
    for key, value in (PLAIN | changed).items():
        assert getattr(network.config, key) == value, key
    # With the budget's recipe.
    assert network.config.epochs == 350 and network.config.seed == 0


# What is made once for several tables.


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
                if isinstance(measure.result, Transfer):
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


# Run for real.


def run(experiment, store):
    failures = run_locally(Plan.of(experiment.wanted(), store), context(store))
    assert failures == [], failures[0].message
    return read_values(experiment, store)


@pytest.mark.parametrize("name", ["table2", "table4", "table8", "table10", "table11", "table14"])
def test_sources_are_measured_beside_the_table(name):
    """Each set has the share that fools its source, and each source an accuracy."""
    experiment = definition(name).build(tiny_setup(seeds=(0, 3)))
    sets = {
        measure.result.images.key: measure.result.images
        for several in experiment.cells.values()
        for measure in several
        if isinstance(measure.result, Transfer)
    }
    fooled, accuracies = (
        [m.result for several in experiment.asides.values() for m in several if m.quantity == kind]
        for kind in ("fooled_source", "accuracy")
    )
    assert sorted(result.images.key for result in fooled) == sorted(sets)
    assert {r.target.key for r in accuracies} == {each.source.key for each in sets.values()}
    # Nothing is evaluated for the shares: they are in results that the table needs anyway.
    needed = {m.result.key for several in experiment.cells.values() for m in several}
    assert {result.key for result in fooled} <= needed
    chosen = only_rows(experiment, [experiment.rows[0]], name)
    assert set(chosen.asides) == {
        place for place in experiment.asides if place[0] == "fooled: the source itself"
    } | ({(f"{experiment.rows[0]}, P1", c) for c in ("FGSM", "PGD")} if name == "table2" else set())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("tiny"))


def test_two_rows_of_table_15(store):
    """From a network of its own to numbers; the images are those that the source gets right."""
    setup = learning_setup(images="source")
    whole = definition("table15").build(setup)
    experiment = only_rows(whole, ["ResNet-18", "0.3-Bottom"], "table15")
    values = run(experiment, store)
    assert set(values) == {(r, c) for r in experiment.rows for c in experiment.columns}
    assert Plan.of(experiment.wanted(), store).to_make() == []
    for (row, column), value in values.items():
        result = experiment.cells[row, column][0].result
        assert 0 <= value.value <= 1 and value.n > 0
        if column == "Acc":
            assert value.n == 1000 and value.value > 0.3
            continue
        found = load_set(result.images.path(store))
        here = context(store)
        with torch.no_grad():
            network = result.target.load(here).model
            data = here.images(result.images.sample.data)
            (_, clean, labels), *more = data.batches(found.indices, 100)
            assert not more and torch.equal(labels, found.labels)
            pixels = found.images.float() / 255
            source = result.images.source.load(here).model
            counted = network(clean).argmax(1) == labels
            counted &= source(clean).argmax(1) == labels
            counted &= source(pixels).argmax(1) != labels
            held = (network(pixels).argmax(1) == labels)[counted]
        assert len(found) == (6 if column == "CW20" else 16)
        assert (value.n, value.value) == (len(held), float(held.double().mean()))


def test_three_rows_of_table_2(store):
    setup = learning_setup()
    rows = ["Standard CNN", "Defective CNN*"]
    experiment = only_rows(definition("table2").build(setup), rows, "table2")
    values = run(experiment, store)
    assert len(experiment.rows) == 3 and set(values) == set(experiment.cells)
    for (row, column), value in values.items():
        result = experiment.cells[row, column][0].result
        assert value.n == (1000 if column == "Clean Acc" else 20)
        if column != "Clean Acc":
            found = load_set(result.images.path(store))
            with torch.no_grad():
                network = result.target.load(context(store)).model
                right = network(found.images.float() / 255).argmax(1) == found.labels
            assert value.value == float(right.double().mean())


def test_a_picture_for_figure_5(store):
    """Of the rows that are there; none where there is no row."""
    setup = learning_setup(images="source")
    plan = definition("figure5")
    experiment = plan.build(setup)
    here = context(store)
    assert plan.draw(Made(plan, setup, experiment, {}, here)) == []
    ours = only_rows(definition("table15").build(setup), ["ResNet-18", "0.3-Bottom"], "table15")
    names = {"PGD16": "Defence Rate", "Acc": "Test Accuracy"}
    values = {
        (row, names[column]): value
        for (row, column), value in run(ours, store).items()
        if column in names
    }
    pictures = plan.draw(Made(plan, setup, experiment, values, here))
    assert [picture.name for picture in pictures] == ["figure5.png"]
    assert pictures[0].data.startswith(b"\x89PNG")
    assert "0.3-Bottom" in pictures[0].alt and "0.5-Bottom" not in pictures[0].alt
    assert plan.draw(Made(plan, setup, experiment, values, here))[0].data == pictures[0].data
    half = {place: value for place, value in values.items() if place[1] == "Defence Rate"}
    assert plan.draw(Made(plan, setup, experiment, half, here)) == []


@pytest.fixture(scope="module")
def smoke_store(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("smoke"))


def without_images(experiment, place, store):
    (measure,) = experiment.cells[place]
    found = measure.result.read(store)[measure.index][measure.quantity]
    return isinstance(found, dict) and found["n"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_everything_at_the_smallest_budget(smoke_store, name):
    """One store for all, so that what tables share is made once: an hour on two cores."""
    data = {
        role: Data(role, "sample", train_limit=SMOKE.data[role].train_limit)
        for role in definition(name).roles
    }
    experiment = definition(name).build(Setup(SMOKE, data))
    values = run(experiment, smoke_store)
    # Narrow ensembles may withstand an attack, and then nothing is left to defend against.
    empty = {place for place in experiment.cells if without_images(experiment, place, smoke_store)}
    assert set(values) == set(experiment.cells) - empty
    assert 2 * len(empty) <= len(values) and all(value.n > 0 for value in values.values())
    beside = read_places(experiment.asides, smoke_store)
    assert set(beside) == set(experiment.asides)
