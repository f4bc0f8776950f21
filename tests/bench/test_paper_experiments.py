"""Tables of transfer attacks and Figure 5: what their cells measure, of which networks."""

import pytest
from paper_transfers import ACCURACIES, ALL, APPENDIX, DEFENCES, TABLES, build, members, results
from scotoma.bench.paper.artefacts import AdversarialImages, Training
from scotoma.bench.paper.budgets import FULL
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.published import figure5, published
from scotoma.bench.paper.setup import ARCHITECTURES, MEMBER_SEED, SOURCE_SEED, Setup
from scotoma.bench.paper.tables import definition
from scotoma.bench.paper.transfer_tables import ROWS
from scotoma.bench.paper.work import closure
from scotoma.defective.attacks import parse_attack
from scotoma.defective.notation import Defects

# Rows of ours that the paper does not have, and rows that it measured and that cannot be made.
EXTRA = {"table2": ["Defective CNN {1,2}"]}


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
        assert measure.result.protocol == ("clean" if accuracy else "transfer")
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
