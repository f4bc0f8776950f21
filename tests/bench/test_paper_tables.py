"""Tables and figures: what their cells measure, of which networks, and what they share."""

import hashlib
import json
import re
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest
from paper_smoke import TINY, context, new_store, tiny_setup
from PIL import Image
from scotoma.bench.paper.artefacts import Sample, Training
from scotoma.bench.paper.budgets import BUDGETS, FULL, ROLES, SMOKE
from scotoma.bench.paper.data import Data, SampleFolder, fitting_grids
from scotoma.bench.paper.published import printed, published
from scotoma.bench.paper.setup import ARCHITECTURES, MEMBER_SEED, SOURCE_SEED, Setup
from scotoma.bench.paper.tables import TRAINED, definition, definitions
from scotoma.bench.paper.transfer_tables import ROWS
from scotoma.bench.paper.work import closure
from scotoma.defective.attacks import parse_attack
from scotoma.defective.errors import UserError
from scotoma.defective.notation import Defects

APPENDIX = {
    "table14": "densenet121",
    "table15": "resnet18",
    "table16": "resnet50",
    "table17": "senet18",
    "table18": "vgg19",
}
DEFENCES = ("table2", "table3", "table7")
TABLES = (*DEFENCES, "table4", "table5", "table8", "table9", "table10", "table11", *APPENDIX)
OTHERS = ("table1", "table6", "table12", "table13")
KEYS = Path(__file__).with_name("paper_keys.json")
# Rows of ours that the paper does not have.
EXTRA = {"table2": ["Defective CNN {1,2}"], "table12": list(TRAINED)}


def full_setup(**changes):
    return Setup(FULL, {role: Data(role, role) for role in ROLES}, **changes)


def build(name, setup=None):
    return definition(name).build(setup or full_setup())


def results(name, setup=None):
    """{place: result} of an experiment of one seed."""
    return {place: one[0].result for place, one in build(name, setup).cells.items()}


def keys(artefacts):
    return {artefact.key for artefact in artefacts}


def members(model):
    return keys(model.members)


def needed(name, setup=None):
    return closure(build(name, setup).wanted())


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# Each of them.


def test_results_on_disk_are_found_again_and_stand_in_their_places():
    """Digests of the keys that each table needs, and of what each of its places shows: another key,
    and nothing that people have made is found. Where that is meant, FORMAT is raised and the file
    written anew."""
    found = {}
    for name in definitions():
        for budget in ("small", "quick", "full"):
            data = {r: Data(r, r) for r in BUDGETS[budget].data}
            if not data.keys() >= set(definition(name).roles):
                continue
            artefacts = closure(definition(name).build(Setup(BUDGETS[budget], data)).wanted())
            lines = sorted(f"{a.kind} {a.label} {a.key}" for a in artefacts)
            found[f"{name} {budget}"] = digest(lines)
        lines = []
        for setup in (tiny_setup(seeds=(3, 4)), tiny_setup(images="source")):
            experiment = definition(name).build(setup)
            for place, several in (experiment.cells | experiment.asides).items():
                shown = [f"{m.result.key} {m.quantity} {m.index}" for m in several]
                lines.append(" ".join([*place, *shown]))
            lines += [f"{what} {each.key}" for what, each in experiment.attached.items()]
        found[f"{name} places"] = digest(lines)
    assert found == json.loads(KEYS.read_text())


@pytest.mark.parametrize("name", list(definitions()))
def test_each_is_told_and_whole(name):
    """With two seeds, each cell has a result of each, at the same place of it."""
    plan = definition(name)
    data = {r: Data(r, r, stylized="folder", stylized_content="ab") for r in plan.roles}
    found = plan.build(Setup(FULL, data, seeds=(3, 4)))
    for cells in (found.cells, found.asides):
        for first, second in cells.values():
            assert first.result.key != second.result.key
            assert (first.quantity, first.index) == (second.quantity, second.index)
    assert {column for _, column in found.cells} == set(found.columns)
    assert plan.title and plan.section and len(plan.needs) < 110
    for line in (plan.title, plan.needs, *found.settings, *found.notes):
        assert line == " ".join(line.split()) and "{samples" not in line
    there = {a.data.role for a in closure(found.wanted()) if isinstance(a, Training | Sample)}
    assert there == set(plan.roles)
    assert definition(re.sub(r"^(t|f)\D+", r"\1 ", name)) is plan
    assert plan.ours == (name == "perturbation") == ("not in the paper" in plan.title)


def test_what_is_no_table():
    with pytest.raises(UserError, match=r"'table44' is no table .*Did you mean 'table4'"):
        definition("table44")


@pytest.mark.parametrize("name", [*TABLES, *OTHERS])
def test_rows_and_columns_are_the_papers(name):
    setup = tiny_setup() if name in OTHERS else full_setup()
    table, found = published(int(name[5:])), build(name, setup)
    extra = EXTRA.get(name, [])
    own = ["PGD (2,7,8)"] if name == "table12" else []
    assert definition(name).of_table == table.table and definition(name).section == table.section
    assert found.columns == (*table.columns, *own) and found.rows == (*table.rows, *extra)
    filled = list(dict.fromkeys(row for row, _ in found.cells))
    measured = [row for row in table.rows if row not in table.quoted]
    assert set(measured) <= set(filled) <= {*table.rows, *extra}
    # Every row of the paper's that is there at all is there whole.
    whole = {(row, c) for row in filled if row not in extra or not own for c in table.columns}
    assert whole == set(found.cells) - {(row, c) for row in extra for c in own}
    assert all(any(row in note for note in found.notes) for row in extra)


# Tables of transfer attacks.


def test_attacks_are_the_papers():
    def attacks(name):
        sets = [a for a in needed(name) if a.kind == "set" or getattr(a, "attack", "")]
        found = set()
        for attack in (parse_attack(each.attack) for each in sets):
            more = (round(255 * attack.step, 2), attack.steps) if attack.name == "pgd" else ()
            found.add((attack.name, round(255 * attack.eps, 2), *more))
        return found

    assert attacks("table4") == attacks("table10") == attacks("table11") == {("pgd", 16, 1, 20)}
    assert attacks("table8") == {("pgd", 8, 2, 7)}
    assert attacks("table9") == {("pgd", 76.5, 2.55, 40)}
    assert attacks("table2") == attacks("table7") == {("fgsm", 8), ("pgd", 8, 2, 7)}
    assert attacks("table3") == {("pgd", 8, 2, 20)}
    assert attacks("table12") == {
        *(("fgsm", level) for level in (1, 2, 4)),
        *(("pgd", 2, 1, 4), ("pgd", 4, 1, 6), ("pgd", 8, 1, 10), ("pgd", 8, 2, 7)),
    }
    own = {("pgd", 2, 1, 4), ("pgd", 4, 1, 6), ("pgd", 8, 1, 10)}
    assert own < attacks("table12")
    assert attacks("perturbation") == own | {("pgd", 16, 1, 20), ("pgd", 32, 1, 40)}
    for place, result in results("table12").items():
        start = getattr(parse_attack(result.attack), "random_start", False) if result.attack else 0
        assert start == (place[1] == "PGD (2,7,8)")
    (attack,) = {result.attack for result in results("table6", full_setup()).values()}
    assert parse_attack(attack).steps == 25000


@pytest.mark.parametrize("name", list(APPENDIX))
def test_columns_of_the_appendix(name):
    attacks = {c: r.images for (row, c), r in results(name).items() if row == "ResNet-18" and r.on}
    for column, images in attacks.items():
        (source,) = images.source.members
        assert (source.config.arch, source.config.seed) == (APPENDIX[name], SOURCE_SEED)
        assert images.sample.count == 5000 and len(images.sample.models) == 5
        attack = parse_attack(images.attack)
        if column.startswith("CW"):
            assert attack.name == "cw-l2" and attack.search_steps == 30
            assert attack.confidence == float(column[2:]) == (20 if name == "table15" else 40)
            assert images.most == 1000
            continue
        levels = round(attack.eps * 255)
        assert images.most is None
        if column.startswith("FGSM"):
            assert attack.name == "fgsm" and column == f"FGSM{levels}"
        else:
            expected = {"PGD16": (1, 20, 16), "PGD2,16": (2, 10, 16), "PGD32": (1, 40, 32)}
            assert (round(attack.step * 255), attack.steps, levels) == expected[column]
    assert any(c.startswith("CW") for c in attacks) == (name != "table18")


def test_rows_of_the_appendix():
    found = results("table14")
    for (row, _), result in found.items():
        networks = result.target.members
        spec = row.removesuffix("EN")
        assert len(networks) == (5 if row.endswith("EN") else 1)
        for number, network in enumerate(networks):
            config = network.config
            assert config.arch == "resnet18" and config.seed == number * MEMBER_SEED
            assert config.defects == ("standard" if spec == "ResNet-18" else spec)
            assert config.mask_seed == (None if config.defects == "standard" else config.seed)
            assert str(Defects.parse(config.defects)) == config.defects
    for row in (row for row in ROWS if row.endswith("EN")):
        ensemble, single = found[row, "Acc"].target, found[row.removesuffix("EN"), "Acc"].target
        assert ensemble.members[0].key == single.members[0].key and len(members(ensemble)) == 5
    assert sum(isinstance(a, Training) for a in needed("table14")) == 5 + 26 + 20


@pytest.mark.parametrize(("name", "role"), [("table4", "cifar10"), ("table9", "mnist")])
def test_matrices_attack_every_target_from_every_source(name, role):
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


def test_sources_of_table_8_are_those_of_table_4_but_one():
    four, eight = results("table4"), results("table8")
    singles = {c: r.images.source.members[0].key for (_, c), r in four.items() if r.on is not None}
    for place, result in eight.items():
        assert members(result.target) == members(four[place].target)
        if result.on is not None:
            expected = {key for name, key in singles.items() if name != place[1]}
            assert members(result.images.source) == expected


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
    ("names", "row", "changed"),
    [
        (DEFENCES, "Standard CNN", {}),
        (DEFENCES, "Defective CNN", {"defects": "0.1-Bottom"}),
        (["table2"], "Defective CNN {1,2}", {"defects": "0.1-{1,2}"}),
        (DEFENCES, "Standard CNN + SD", {"regularizer": "spatial-dropout"}),
        (DEFENCES, "Standard CNN + DB", {"regularizer": "dropblock"}),
        (["table2"], "Adv. Training", MADRY),
        (["table3"], "ALP", MADRY | {"logit_pairing": 0.5}),
        (["table7"], "Thermometer(16)", MADRY | {"thermometer": 16}),
        (["table7"], "Thermometer(32)", MADRY | {"thermometer": 32}),
        (["table6"], "Standard CNN + LS", {"label_smoothing": 0.1}),
    ],
)
def test_how_defences_are_trained(names, row, changed):
    """And attacked: on all images, from a plain network of another seed."""
    for name in names:
        (network,) = results(name)[row, published(int(name[5:])).columns[-1]].target.members
        for key, value in (PLAIN | changed).items():
            assert getattr(network.config, key) == value, key
        # With the budget's recipe.
        assert network.config.epochs == 350 and network.config.seed == 0
        for result in (r for r in results(name).values() if r.protocol == "transfer"):
            assert result.sample.models == () and result.sample.count == 10_000
            (source,) = result.images.source.members
            assert source.config.arch == network.config.arch and source.config.seed == SOURCE_SEED
            assert all(getattr(source.config, key) == value for key, value in PLAIN.items())


def test_gray_box_sources_have_the_targets_masks_and_dif_has_not():
    for (row, column), result in results("table10", tiny_setup(seeds=(5,))).items():
        (target,), (source,) = result.target.members, result.images.source.members
        assert source.config.defects == column and source.config.seed == 1005
        assert source.config.mask_seed == 5
        assert target.config.defects == row.removesuffix("DIF")
        dif = row.endswith("DIF")
        assert target.config.seed == target.config.mask_seed == (105 if dif else 5)
        assert [m.name for m in result.sample.models] == ["0.5-Bottom", "0.3-Bottom"]


# What they share.


def test_tables_that_are_parts_of_others():
    four, whole = results("table4"), results("table14")
    for place, result in results("table11").items():
        assert result.key == four[place].key
    assert keys(build("table11").wanted()) < keys(build("table4").wanted())
    for (row, column), result in results("table5").items():
        row = "ResNet-18" if row == "Standard CNN" else row
        assert result.key == whole[row, "Acc" if column == "Test Accuracy" else column].key
    ours = results("figure5")
    assert build("figure5").rows[1:] == tuple(dict.fromkeys(row for row, _ in printed("figure5")))
    for row in build("figure5").rows:
        assert ours[row, "Defence Rate"].key == whole[row, "PGD16"].key
        assert ours[row, "Test Accuracy"].key == whole[row, "Acc"].key
    for setup in (full_setup(), full_setup(images="source"), tiny_setup()):
        five, scales = results("table5", setup), results("perturbation", setup)
        shared = {row.replace("Standard CNN", "ResNet-18"): row for row, _ in five}
        assert {row for row, _ in scales} - shared.keys() == {"0.1-Top"}
        for row, column in product(shared.keys() & {r for r, _ in scales}, ("PGD16", "PGD32")):
            assert scales[row, column].key == five[shared[row], column].key
        assert scales["0.1-Top", "PGD2"].sample.key == five["0.3-Top", "PGD16"].sample.key
    for name in APPENDIX:
        other, source = results(name), ARCHITECTURES[APPENDIX[name]]
        assert four["ResNet-18", source].key == other["ResNet-18", "PGD16"].key
        assert four["ResNet-18 0.3-Bottom", source].key == other["0.3-Bottom", "PGD16"].key
    one, five = results("table1", tiny_setup()), results("table13", tiny_setup())
    for row, other in (("Standard CNN", "ResNet-18"), ("Defective CNN", "ResNet-18 0.1-Bottom")):
        for column in published(1).columns:
            assert one[row, column].key == five[other, column].key


def test_one_network_for_all_tables():
    def network(name, row, column):
        return results(name)[row, column].target.members[0].key

    standard = {
        network("table2", "Standard CNN", "Clean Acc"),
        network("table4", "ResNet-18", "Test Accuracy"),
        network("table8", "ResNet-18", "Test Accuracy"),
        network("table12", "ResNet-18", "FGSM1"),
        network("figure4", "ResNet-18", "2"),
    }
    tenths = {
        network("table2", "Defective CNN", "Clean Acc"),
        network("table5", "0.1-Bottom", "Test Accuracy"),
    }
    assert len(standard) == len(tenths) == 1 and not tenths & standard
    for row in ("0.5-Bottom", "0.3-Bottom"):
        ensemble = full_setup().target("EN", "resnet18", row, seed=0, members=5)
        pair = [network("table10", name, row) for name in (row, f"{row}DIF")]
        assert pair == [member.key for member in ensemble.members[:2]]
    # Names do not decide files.
    a, b = results("table5")["Standard CNN", "PGD16"], results("table14")["ResNet-18", "PGD16"]
    assert a.target.name != b.target.name and (a.key, a.label) == (b.key, b.label)


@pytest.mark.parametrize("name", ["table2", "table8"])
def test_each_seed_trains_all_networks_anew_and_no_source_is_a_target(name):
    setup = full_setup(seeds=(0, 1, 99))
    found, trained = build(name, setup), []
    for number, seed in enumerate(setup.seeds):
        alone = build(name, full_setup(seeds=(seed,)))
        assert {place: one[0].result.key for place, one in alone.cells.items()} == {
            place: several[number].result.key for place, several in found.cells.items()
        }
        trained.append(keys(a for a in closure(alone.wanted()) if isinstance(a, Training)))
    assert all(not a & b for a, b in combinations(trained, 2))
    for other in (name, "table10", "table14"):
        targets, sources = set(), set()
        for several in build(other, setup).cells.values():
            for result in (measure.result for measure in several if measure.result.on is not None):
                targets |= members(result.target)
                sources |= members(result.images.source)
        assert targets and sources and not targets & sources


@pytest.mark.parametrize("seeds", [(100,), (0, 100), (1000,), (-1,), (0, 0), (), (5, 5)], ids=str)
def test_seeds_that_clash_are_refused(seeds):
    with pytest.raises(UserError, match=r"^seeds"):
        full_setup(seeds=seeds)


def test_images_of_the_source_alone():
    for name in ("table4", "table8", "table10", "table11"):
        setup = full_setup(images="source")
        assert len(build(name, setup).notes) == len(build(name).notes) - 1
        assert build(name, setup).settings != build(name).settings
        for result in results(name, setup).values():
            if result.on is not None:
                (judge,) = result.sample.models
                assert judge.key == result.images.source.key
    assert sum(isinstance(a, Training) for a in needed("table11", setup)) == 4


def test_a_shorter_sample_is_attacked_whole():
    """Where the budget's sample is not larger, Carlini and Wagner's attack takes all of it."""
    setup = tiny_setup()
    small = Setup(replace(setup.budget, samples=6, cw_samples=6), setup.data)
    images = results("table14", small)["ResNet-18", "CW40"].images
    assert images.most is None and images.sample.count == 6
    assert results("table14", setup)["ResNet-18", "CW40"].images.most == 6


# Tables 1 and 13: patches and styles.


def test_pairs_share_their_images_and_their_stem():
    cells = build("table13", tiny_setup()).cells
    for (row, column), (measure,) in cells.items():
        result = measure.result
        pair = result.sample.models if result.protocol == "shuffle" else result.targets
        first, second = (model.members[0].config for model in pair)
        assert first.arch == second.arch and first.stem == second.stem == "3x3"
        assert (first.defects, second.defects) == ("standard", "0.1-Bottom")
        if result.protocol == "shuffle":
            grid = dict(result.options)["grids"][measure.index]
            assert column == f"{grid}x{grid}" and result.target.name == row
        else:
            assert column == "IN->SIN" and result.targets[measure.index].name == row


def test_columns_that_cannot_be_measured_stay_empty():
    plain = build("table1", Setup(FULL, {"imagenet": Data("imagenet", "imagenet")}))
    assert {column for _, column in plain.cells} == {"2x2", "4x4", "8x8"}
    assert any("IN->SIN: not measured" in note for note in plain.notes)
    small = build("table1", Setup(SMOKE, {"imagenet": Data("imagenet", "sample")}))
    assert {column for _, column in small.cells} == {"2x2", "4x4"}
    assert any(note.startswith("8x8: not measured") for note in small.notes)
    assert small.columns == plain.columns == published(1).columns
    assert not any("not measured" in note for note in build("table1", tiny_setup()).notes)


def test_grids_divide_the_sides_of_the_data_sets(tmp_path):
    assert fitting_grids(Data("imagenet", "sample")) == (2, 4)
    for name in ("imagenet", "tiny-imagenet", "cifar10"):
        assert fitting_grids(Data("imagenet", name)) == (2, 4, 8)
    assert fitting_grids(Data("imagenet", "imagenet", image_size=100)) == (2, 4)
    made, store = Data("imagenet", "", made_by=SampleFolder(200, 100)), new_store(tmp_path)
    assert fitting_grids(made) == (2, 4, 8)
    made.made_by.make(context(store))
    assert fitting_grids(Data("imagenet", made.location(store), content="ab")) == (2, 4, 8)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "odd" / place).mkdir(parents=True)
        Image.new("L", (12, 12)).save(tmp_path / "odd" / place / "0.png")
    assert fitting_grids(Data("imagenet", str(tmp_path / "odd"), content="cd")) == (2, 4)
    with pytest.raises(UserError, match="no class folders with images"):
        fitting_grids(Data("imagenet", str(tmp_path / "locks"), content="ab"))


# Figures, and samples that networks have in common.


def test_noise_and_decisions_are_on_images_that_all_networks_have_right():
    assert build("figure4").columns == ("2", "4", "8", "16", "24", "32", "40", "48", "56", "64")
    for name, count in (("figure4", TINY.samples), ("table6", TINY.boundary_samples)):
        found = build(name, tiny_setup())
        (sample,) = {r.sample.key: r.sample for r in results(name, tiny_setup()).values()}.values()
        assert [model.name for model in sample.models] == list(found.rows)
        assert sample.count == count
    for (_, column), (measure,) in build("figure4").cells.items():
        epsilon = dict(measure.result.options)["epsilons"][measure.index]
        assert round(255 * epsilon, 9) == float(column)


def test_examples_are_of_each_network_itself():
    for name in ("figure3", "figure6", "figure7"):
        for what, images in build(name).attached.items():
            attack, (network,) = parse_attack(images.attack), images.source.members
            assert attack.name == "mifgsm" and attack.step == 1 / 255
            assert images.sample.models == () and images.sample.count == 100
            defects = network.config.defects.replace("standard", "ResNet-18")
            assert what.startswith(network.data.role) and what.endswith(f" {defects}")
            assert images.source.data == images.sample.data


def test_figures_share_what_they_can_and_need_no_more():
    several = [keys(build(n).attached.values()) for n in ("figure3", "figure6", "figure7")]
    assert [len(a & b) for a, b in combinations(several, 2)] == [4, 2, 0]
    (sample,) = build("figure1").attached.values()
    assert isinstance(sample, Sample) and sample.models == () and sample.count == 4
    found = build("figure14", full_setup(seeds=(0, 1))).attached.values()
    assert [(t.data.role, t.config.defects, t.config.seed) for t in found] == [
        (role, defects, seed)
        for role in ("cifar10", "mnist")
        for defects in ("standard", "0.1-Bottom")
        for seed in (0, 1)
    ]
