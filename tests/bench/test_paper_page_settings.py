"""What a page says of how its numbers came about."""

import json
import re
from dataclasses import replace

import pytest
from paper_pages import WHEN, lines_of, page_of, tables, text_of, words
from paper_values import invented
from scotoma.bench.paper.graph.artefact import closure
from scotoma.bench.paper.graph.data import Data
from scotoma.bench.paper.judge import Estimate, share
from scotoma.bench.paper.page import Page, wording
from scotoma.bench.paper.page.again import command
from scotoma.bench.paper.page.facts import read_facts
from scotoma.bench.paper.page.settings import settings_blocks
from scotoma.bench.report.document import Document
from scotoma.defective.errors import UserError


def test_settings_of_a_table(tmp_path):
    made = invented("table14", tmp_path, "quick", seeds=(3, 4))
    # Without the pictures, which take long.
    blocks = settings_blocks(made, read_facts(made), None, WHEN)
    page = Page(Document("T", blocks), {})
    text = text_of(page)
    (training,) = [t for t in tables(page) if "recipe" in t.names]
    (row,) = training.rows
    assert words(row[0]).split("\n")[0] == "resnet18" and "vgg19" in words(row[0])
    assert words(row[3]) == "fast-cifar10" and words(row[4]) == "30" and words(row[5]) == "512"
    assert words(row[6]) == "0.4 at its peak\none-cycle, rising for 20 %"
    assert "(26 variants)" in words(row[1]) and words(row[2]).startswith("3, 4, 103")
    (attacks,) = [t for t in tables(page) if "attack" in t.names]
    by_name = {words(r[0]): [words(c) for c in r[1:]] for r in attacks.rows}
    assert list(by_name) == ["FGSM8", "FGSM16", "FGSM32", "PGD16", "PGD2,16", "PGD32", "CW40"]
    assert by_name["PGD16"][0].startswith("pgd:eps=16/255,step=1/255,steps=20,")
    assert by_name["PGD16"][1:] == ["DenseNet-121", "1,000"]
    assert by_name["CW40"][2] == "200"
    assert (
        "uint8" in text and "Commit `unknown`" in text and "Seeds of the repetitions: 3, 4" in text
    )
    assert all(note in lines_of(page) for note in made.experiment.notes)
    wanted = "scotoma paper table14 --budget quick --seeds 2 --images common --first-seed 3"
    assert f"`{wanted}`" in text


def test_settings_of_the_papers_recipe(tmp_path):
    page = page_of(invented("table10", tmp_path))
    (training,) = [t for t in tables(page) if "recipe" in t.names]
    assert words(training.rows[0][6]) == "0.1\ndivided by 10 after 150, 250"
    assert "narrower" not in text_of(page)
    smoke = text_of(page_of(invented("table6", tmp_path, "smoke")))
    assert "networks are narrower than the paper's (resnet18 4" in smoke
    assert "Budget smoke: boundary is cut short (steps at most 60)." in smoke
    assert "mifgsm" not in smoke and "cw-l2" not in smoke
    assert "each network itself | 10 |" in smoke  # the budget's images


def test_what_stands_beside_the_table(tmp_path):
    made = invented("table14", tmp_path, seeds=(0, 1))
    beside = {place: share(0.75, 60) for place in made.experiment.asides}
    page = page_of(replace(made, asides=beside))
    (table,) = [t for t in tables(page) if t.rows[0][0] == "accuracy of the source"]
    assert list(table.names) == ["quantity / attack", *made.experiment.columns]
    accuracies, fooled = ([words(cell) for cell in row] for row in table.rows)
    assert fooled[0] == "fooled: the source itself" and fooled[-1] == ""
    assert set(fooled[1:-1]) == {"75.00 %\n[62.77, 84.22]\nN 60"} == {accuracies[-1]}
    assert set(accuracies[1:-1]) == {""}
    told = {(each["row"], each["column"]): each["value"] for each in page.record["asides"]}
    assert told == dict.fromkeys(beside, 0.75)
    assert "has an accuracy of 95.62 %." in text_of(page)
    assert "Beside the table" not in text_of(page_of(made))
    means = invented("table6", tmp_path)
    means = replace(
        means, asides=dict.fromkeys(means.experiment.asides, Estimate(0.01, None, None, 9, (0.01,)))
    )
    assert "| Defective CNN, mean | **1.00e-02**" in text_of(page_of(means))


def test_settings_say_nothing_of_what_is_not_there(tmp_path):
    images = text_of(page_of(invented("figure1", tmp_path, "smoke")))
    assert "Devices" not in images and "Versions" not in images and "Commit" in images
    assert "How verdicts" not in images
    curves = text_of(page_of(invented("figure14", tmp_path, "smoke")))
    assert "- Devices of trainings and attacks: unknown." in curves
    assert "How verdicts" not in curves
    assert "How verdicts" in text_of(page_of(invented("figure5", tmp_path, "smoke")))


def test_two_data_sets_of_the_paper_that_are_one_of_ours(tmp_path):
    (cifar10, mnist) = [
        line
        for line in lines_of(page_of(invented("figure14", tmp_path, "smoke")))
        if line.endswith(" is sample")
    ]
    assert cifar10.startswith("cifar10") and mnist.startswith("mnist")


def test_the_command_of_other_data(tmp_path):
    made = invented("table9", tmp_path, "quick")
    setup = replace(made.setup, images="source")
    data = {**setup.data, "mnist": Data("mnist", "/a b/c"), "cifar10": Data("cifar10", "/d")}
    made = replace(made, setup=replace(setup, data=data))
    wanted = "scotoma paper table9 --budget quick --seeds 1 --images source --data 'mnist=/a b/c'"
    assert command(made) == wanted
    chosen = replace(made, experiment=replace(made.experiment, only=("0.*", "a b")))
    assert command(chosen) == f"{wanted} --rows '0.*' 'a b'"


def with_files(made):
    """Files of a training, its sample and a result, as making them would leave them."""
    store = made.context.store
    for artefact in closure(made.experiment.wanted()):
        path = artefact.path(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        if artefact.kind == "train":
            path.mkdir()
            summary = {"train_s": 60, "device": "Test GPU", "versions": {"torch": "2.0-test"}}
            summary |= {"train_images": 50000, "test_images": 10000, "precision": "bfloat16"}
            (path / "summary.json").write_text(json.dumps(summary))
            (path / "last.safetensors").touch()
        elif artefact.kind == "sample":
            content = {"indices": [1, 2], "details": {"asked": 5000, "found": 2, "seed": 0}}
            path.write_text(json.dumps(content))
        elif artefact.kind == "result":
            results = {"warnings": ["gradients vanish"]}
            cell = {"results": results, "made": {"seconds": 2.5, "torch": "2.1-test"}}
            path.write_text(json.dumps({"cells": [cell]}))
    return made


def test_what_files_tell(tmp_path):
    made = with_files(invented("table12", tmp_path))
    artefacts = closure(made.experiment.wanted())
    kinds = [artefact.kind for artefact in artefacts]
    text = text_of(page_of(made))
    assert "Devices of trainings and attacks: Test GPU." in text
    assert "Versions: torch 2.0-test; torch 2.1-test." in text and "bfloat16" in text
    seconds = 60 * kinds.count("train") + 2.5 * kinds.count("result")
    assert f"for another page: {wording.duration(seconds)}." in text
    assert "50,000 training images, 10,000 test images" in text
    assert "2 of 5,000 wanted test images of cifar10" in text
    assert text.count("- gradients vanish") == 1


@pytest.mark.parametrize("damage", ["{", "[]", "[[]]", "null", '{"cells": 3, "versions": 3}'])
@pytest.mark.parametrize("kind", ["train", "result", "sample"])
def test_damaged_files_are_named(damage, kind, tmp_path):
    made = with_files(invented("table12", tmp_path))
    several = [a for a in closure(made.experiment.wanted()) if a.kind == kind]
    path = several[0].path(made.context.store)
    path = path / "summary.json" if kind == "train" else path
    path.write_text(damage)
    with pytest.raises(UserError, match=re.escape(several[0].key)):
        page_of(made)


def test_a_damaged_set_is_named(tmp_path):
    made = invented("table4", tmp_path)
    (first, *_) = [a for a in closure(made.experiment.wanted()) if a.kind == "set"]
    path = first.path(made.context.store)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match=re.escape(first.key)):
        page_of(made)
