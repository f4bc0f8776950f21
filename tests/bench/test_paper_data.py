"""Data in keys: other images are another key, and the same ones the same, wherever they lie."""

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paper_smoke import context, finish, new_store, tiny_setup
from PIL import Image
from scotoma.bench.paper import data as of_data
from scotoma.bench.paper.artefacts import Model, Result, Training
from scotoma.bench.paper.cli import make_paper_parser
from scotoma.bench.paper.data import Data, SampleFolder, folder_content
from scotoma.bench.paper.setup import fgsm, read_setup
from scotoma.bench.paper.work import Plan, make_here
from scotoma.defective.errors import UserError
from scotoma.train import image_folder as contents
from scotoma.train.config import TrainConfig

CONFIG = TrainConfig(width=4, epochs=1, batch_size=8, lr=0.01, augment="none", workers=0)


def images(root: Path, count=2, seed=0, extension="png", split="train", size=16):
    """``root/split/{a,b}/*`` of random pixels; the classes differ in brightness."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate("ab"):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.integers(128 * label, 128 + 128 * label, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / name / f"{number}.{extension}")
    return root


def key(data):
    return Training(TrainConfig(), data).key


@pytest.fixture
def large(monkeypatch):
    """Folders are not small enough to be read."""
    monkeypatch.setattr(contents, "SMALL", 0)


def test_links_are_what_they_lead_to_and_a_moved_folder_is_the_same(tmp_path, large):
    plain = images(images(tmp_path / "plain"), 3, split="test")
    content = folder_content(plain)
    linked = tmp_path / "linked"
    linked.mkdir()
    for split in ("train", "test"):
        (linked / split).symlink_to(plain / split)
    assert folder_content(linked) == content
    (linked / "test").unlink()
    (linked / "test").symlink_to(images(tmp_path / "more", 4, split="test") / "test")
    assert folder_content(linked) != content
    (plain / "train" / "a" / "up").symlink_to(plain)  # a circle ends
    assert folder_content(plain) == content
    (plain / "train" / "a" / "up").unlink()
    there = plain.rename(tmp_path / "there")
    data = [Data("cifar10", str(folder), folder_content(there)) for folder in (plain, there)]
    assert data[1].content == content and key(data[0]) == key(data[1])


@pytest.mark.parametrize("to", ["itself", "nothing"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, to):
    plain = images(tmp_path / "plain")
    (plain / "train" / "b" / "itself").symlink_to(to)
    with pytest.raises(UserError, match=rf"b/itself: a link that leads nowhere \({to}\)"):
        folder_content(plain)


def test_names_need_not_be_utf8(tmp_path):
    found = set()
    for name in (b"\xe9.png", b"\xe8.png"):
        folder = tmp_path / str(len(found)) / "a"
        folder.mkdir(parents=True)
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(b"x")  # noqa: PTH118
        found.add(folder_content(folder))
    assert len(found) == 2


@pytest.mark.parametrize("extension", ["bmp", "ppm", "tif", "TIFF"])
def test_uncompressed_images_are_read(tmp_path, large, extension):
    folders = [images(tmp_path / str(seed), seed=seed, extension=extension) for seed in (0, 1)]
    sizes = [[p.stat().st_size for p in sorted(f.rglob("*.*"))] for f in folders]
    assert sizes[0] == sizes[1]
    assert folder_content(folders[0]) != folder_content(folders[1])


def test_small_folders_are_read_whatever_the_format(tmp_path, monkeypatch):
    for name in "xy":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(name.encode())
    assert folder_content(tmp_path / "x") != folder_content(tmp_path / "y")
    monkeypatch.setattr(contents, "SMALL", 0)
    assert folder_content(tmp_path / "x") == folder_content(tmp_path / "y")
    (tmp_path / "y" / "0.jpg").write_bytes(b"yy")
    assert folder_content(tmp_path / "x") != folder_content(tmp_path / "y")


def test_hidden_files_do_not_count_since_they_are_not_read(tmp_path):
    folder = images(tmp_path / "here")
    before = folder_content(folder)
    for name in (".DS_Store", "._0.png", "@eaDir/0.png", ".ipynb_checkpoints/0.png"):
        path = folder / "train" / "a" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert folder_content(folder) == before
    (folder / "train" / "a" / "x.png").write_bytes(b"x")
    assert folder_content(folder) != before


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            folder_content(tmp_path / name)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(contents.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"empty: cannot be read \(Permission denied\)"):
        folder_content(tmp_path / "empty")


# What options become.


def read(*options):
    arguments = make_paper_parser().parse_args(["table1", "--budget", "quick", *options])
    return read_setup(arguments, ("cifar10", "mnist", "tiny-imagenet", "imagenet")).data


def keys(data):
    return {role: key(one) for role, one in data.items()}


def test_imagenet_is_what_lies_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOTOMA_DATA", str(tmp_path / "usual"))
    none = keys(read())
    found = []
    for place, count in (("one", 2), ("two", 3), ("usual", 3)):
        images(tmp_path / place / "imagenet", count)
        root = () if place == "usual" else ("--data-root", str(tmp_path / place))
        found.append(keys(read(*root)))
    assert found[0]["imagenet"] != found[1]["imagenet"] == found[2]["imagenet"]
    assert none["imagenet"] not in {each["imagenet"] for each in found}
    for each in found:
        assert {**each, "imagenet": none["imagenet"]} == none
    assert read("--data", f"mnist={tmp_path / 'one'}")["mnist"].content
    assert keys(read("--data", "mnist=imagenet"))["mnist"] != none["mnist"]
    (tmp_path / "three" / "imagenet").mkdir(parents=True)  # empty: left to who reads it
    assert read("--data-root", str(tmp_path / "three"))["imagenet"].content == ""


def test_tiny_imagenet_is_itself_before_and_after_its_download_and_a_part_is_not(
    tmp_path, monkeypatch
):
    whole = replace(of_data.KNOWN["tiny-imagenet"], train=4, test=2)
    monkeypatch.setitem(of_data.KNOWN, "tiny-imagenet", whole)
    base = tmp_path / "tiny-imagenet" / "tiny-imagenet-200"
    before = keys(read("--data-root", str(tmp_path), "--download"))
    images(images(base, 2, extension="JPEG"), 1, split="val", extension="JPEG")
    (base / "words.txt").write_text("words")
    assert keys(read("--data-root", str(tmp_path))) == before
    (base / "train" / "a" / "1.JPEG").unlink()
    part = keys(read("--data-root", str(tmp_path)))
    assert part["tiny-imagenet"] != before["tiny-imagenet"]
    assert {**part, "tiny-imagenet": before["tiny-imagenet"]} == before


def test_settings_of_verified_data_are_as_they_were():
    for name in ("cifar10", "mnist", "tiny-imagenet"):
        expected = {"dataset": name, "image_size": None, "train_limit": None}
        assert Data(name, name).settings() == expected == read()[name].settings()


def test_places_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    images(tmp_path / "home" / "styles")
    data = read("--data-root", "data", "--stylized", "~/styles")["imagenet"]
    assert data.root == str(tmp_path / "data")
    assert data.stylized == str(tmp_path / "home" / "styles")
    assert read()["imagenet"].root is None and read()["imagenet"].stylized == ""
    # The command of a study has no --stylized.
    bare = {"budget": "quick", "seeds": 1, "first_seed": 0, "batch_size": 9, "workers": 0}
    namespace = argparse.Namespace(**bare, images="common", download=False)
    assert read_setup(namespace, ("cifar10",)).data["cifar10"].root is None


# Data that an artefact makes.


def test_results_need_the_data_that_they_read():
    setup = tiny_setup()
    network = setup.target("a", "resnet18", seed=0, role="imagenet")
    sample = setup.sample("imagenet", (network,))
    results = [
        Result.clean(network),
        Result.transfer(network, setup.adversarial(network, fgsm(8), sample)),
        Result.white_box(network, fgsm(8), sample),
        Result.boundary(network, "boundary", sample),
        Result.noise(network, sample, (0.1,)),
        Result.shuffled(network, sample, (2,)),
        Result.stylized((network, network)),
    ]
    assert all(setup.data["imagenet"].made_by in result.inputs() for result in results)
    plain = setup.target("a", "resnet18", seed=0, role="cifar10")
    assert Result.clean(plain).inputs() == plain.members


def test_images_that_are_gone_are_made_again(tmp_path):
    store = new_store(tmp_path / "store")
    data = Data("imagenet", "", made_by=SampleFolder(100, 20))
    network = Model("x", (Training(CONFIG, data),))
    results = [Result.clean(network), Result.stylized((network,))]
    assert finish(results, store) == []
    before = [result.read(store) for result in results]
    for gone in ("data", "result"):
        shutil.rmtree(store.folder / gone)
    plan = Plan.of(results, store)
    assert [a.kind for a in plan.to_make()] == ["data", "result", "result"]
    assert make_here(plan, context(store)) == []
    assert [result.read(store) for result in results] == before


def test_results_of_changed_files_are_not_those_of_before(tmp_path):
    """Streamed images that change under their names."""
    folder = images(images(tmp_path / "pets", 16, size=72), 4, split="test", size=72)
    store = new_store(tmp_path / "store")

    def accuracy():
        data = Data("cifar10", str(folder), content=folder_content(folder), image_size=72)
        config = replace(CONFIG, epochs=6, lr=0.02)
        result = Result.clean(Model("x", (Training(config, data),)))
        assert finish([result], store) == []
        return result.read(store)[0]["accuracy"]["rate"]

    before = accuracy()
    (folder / "test" / "a").rename(folder / "test" / "c")
    (folder / "test" / "b").rename(folder / "test" / "a")
    (folder / "test" / "c").rename(folder / "test" / "b")
    assert before > 0.5
    assert accuracy() == pytest.approx(1 - before)  # the new network has the weights of the old
