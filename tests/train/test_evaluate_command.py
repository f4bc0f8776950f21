"""``scotoma evaluate`` from the command line to its files."""

import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from fitted_networks import (
    CPU,
    DATA,
    classes_of,
    hand_made_set,
    named,
    pixels_of,
    sample_images,
    saved,
)
from scotoma.defective import create_model
from scotoma.defective.attacks import FGSM
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import save_set
from scotoma.defective.robustness.shuffle import shuffle_patches
from scotoma.defective.serialization import save_model
from scotoma.train.cli import main
from scotoma.train.datasets import load_dataset
from scotoma.train.robustness import models, pictures, protocols, transfer
from scotoma.train.robustness.evaluate import EvaluateConfig
from scotoma.train.robustness.evaluate import evaluate as measure
from scotoma.train.robustness.models import load_named
from scotoma.train.robustness.pictures import example_samples, shuffled_samples
from scotoma.train.robustness.protocols import CleanPredictions
from scotoma.train.store import Store

PGD = "pgd:eps=8/255,steps=2"
PAIR = ["standard.safetensors", "defective.safetensors"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two networks, and two sets of the sample's own test images in sets/."""
    folder = tmp_path_factory.mktemp("made")
    saved(folder / PAIR[0])
    saved(folder / PAIR[1], defects="0.5-Bottom", seed=1)
    (folder / "sets").mkdir()
    for name, pixels, first in (("a", "float", 0), ("b", "uint8", 100)):
        rows = torch.arange(first, first + 40)
        found = hand_made_set(sample_images(200), source_in(folder), rows, pixels)
        save_set(found, folder / "sets" / f"{name}.safetensors")
    return folder


@pytest.fixture
def work(made, tmp_path, monkeypatch):
    """A copy of it, which is the current folder; the sample has 200 test images, for speed."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def few(name="sample", *where):
        return sample_images(200).data if name == "sample" else load_dataset(name, *where)

    monkeypatch.setattr(models, "load_dataset", few)
    return tmp_path


def source_in(folder="."):
    return load_named([str(Path(folder) / PAIR[0])], None, CPU)[0]


def evaluate(*options, runs=PAIR):
    return main(["evaluate", *runs, *DATA, *options])


def cells_in(folder="evaluation"):
    """{kind: cells}."""
    found = {}
    for cell in Store(Path(folder) / "cells").all():
        found.setdefault(cell["kind"], []).append(cell)
    return found


def test_nothing_asked_is_the_clean_accuracy_and_earlier_results_stay(work, capsys):
    assert evaluate() == 0
    output = capsys.readouterr().out
    ((kind, cells),) = cells_in().items()
    assert kind == "clean" and len(cells) == 2 and "were there" not in output
    for cell in cells:
        rate = cell["results"]["accuracy"]
        assert rate["n"] == 200 and 0.3 < rate["rate"] < 0.95
        assert f"{100 * rate['rate']:.2f}" in output
    table = work / "evaluation" / "table.md"
    assert table.read_text().startswith("# Robustness")
    assert evaluate("--noise", "8/255", "--samples", "12") == 0
    assert "2 of 4 results were there" in capsys.readouterr().out
    before, drawn = table.read_text(), set((work / "evaluation").glob("*.png"))
    assert [path.name for path in drawn] == ["noise.png"]
    assert evaluate(runs=PAIR[:1]) == 0
    assert table.read_text() == before and set((work / "evaluation").glob("*.png")) == drawn
    assert "3 results of earlier commands" in capsys.readouterr().out


def test_everything_at_once(work, capsys, monkeypatch):
    shown, draw = [], pictures.draw_examples
    monkeypatch.setattr(pictures, "draw_examples", lambda found: shown.append(found) or draw(found))
    options = ["--against", "sets", "--attack", PGD, "--samples", "6", "--ensemble", *PAIR]
    options += ["--noise", "8/255", "--shuffle", "2", "--boundary", "steps=2", "--out", "all"]
    assert evaluate(*options) == 0
    output = capsys.readouterr().out
    again = cells_in("all")
    one_each = dict.fromkeys(("clean", "white-box", "noise", "shuffle", "boundary"), 3)
    assert {kind: len(cells) for kind, cells in again.items()} == {"transfer": 6} | one_each
    # All resolved parameters, not only those that were given.
    assert "pgd:eps=8/255,step=2/255,steps=2,norm=linf,random_start=false" in output
    words = "blend-by-hand:strength=0.5 from standard, 40 images, uint8"
    assert words in " ".join(output.split())
    drawn = {"transfer.png", "noise.png", "tradeoff.png", "examples.png", "shuffled.png"}
    assert {path.name for path in (work / "all").iterdir()} == {"cells", "table.md", *drawn}
    assert shown[0]["set"] == (1, 2)
    table = (work / "all" / "table.md").read_text()
    assert "standard+defective" in table and "white-box" in table
    assert evaluate(*options) == 0
    assert "21 of 21 results were there" in capsys.readouterr().out
    assert cells_in("all") == again


def test_pictures_show_what_they_say(tmp_path):
    """Labels and predictions belong to the images beside them, also where two pictures share."""
    images = sample_images(200)
    source, target = named(tmp_path, ("standard", 0), ("0.5-Bottom", 1))
    found = hand_made_set(images, source, torch.arange(199, 120, -1))
    samples = example_samples(found, images, [source, target], CleanPredictions(images, 50))
    indices, names = samples["indices"], images.data.classes
    assert len(indices) == 8 and samples["labels"] != sorted(samples["labels"])
    shuffled = shuffled_samples(images, indices, [2], seed=3)
    assert torch.equal(shuffled["shuffled"][1], samples["clean"])
    assert shuffled["labels"] == samples["labels"]
    expected = shuffle_patches(samples["clean"], 2, 3, indices)
    assert torch.equal(shuffled["shuffled"][2], expected)
    assert torch.equal(samples["clean"], pixels_of(images, indices))
    assert samples["labels"] == [names[c] for c in images.labels[indices].tolist()]
    for which, of in (("clean", "said of originals"), ("adversarial", "said")):
        for (name, said), model in zip(samples[of], [source, target], strict=True):
            classes = classes_of(model.model, samples[which])
            right = (classes == images.labels[indices]).tolist()
            assert name == model.name
            assert said == list(zip([names[c] for c in classes.tolist()], right, strict=True))
    assert not any(right for _, right in samples["said"][0][1])
    assert not torch.equal(samples["adversarial"], samples["clean"])


def test_an_interrupted_evaluation_goes_on(work, capsys, monkeypatch):
    attacks = ["--attack", PGD, "--attack", "fgsm:eps=8/255", "--samples", "4"]
    assert evaluate(*attacks, "--out", "whole") == 0
    capsys.readouterr()
    real, calls = protocols._results, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(protocols, "_results", stopping)
    assert evaluate(*attacks) == 143
    captured = capsys.readouterr()
    assert captured.err == "scotoma evaluate: terminated\n"
    assert "stopped; 4 finished results are kept, and the same command goes on" in captured.out
    assert sum(map(len, cells_in().values())) == 4
    assert not (work / "evaluation" / "table.md").exists()
    assert evaluate(*attacks) == 0
    assert len(calls) == 5  # two before, one that was stopped, the two that were missing
    assert "4 of 6 results were there" in capsys.readouterr().out

    def results(folder):
        cells = [cell for several in cells_in(folder).values() for cell in several]
        return {json.dumps(c["identity"], sort_keys=True): c["results"] for c in cells}

    assert results("evaluation") == results("whole")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("no luck"), "the first: no luck"),
        (torch.OutOfMemoryError("no"), "try a --batch-size below 99; finished results are kept"),
    ],
)
def test_a_result_that_cannot_be_made_ends_no_long_run(work, capsys, monkeypatch, error, words):
    real = transfer._rates

    def failing(found, *arguments):
        if found.details["pixels"] == "float":
            raise error
        return real(found, *arguments)

    monkeypatch.setattr(transfer, "_rates", failing)
    assert evaluate("--against", "sets", "--batch-size", "99") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "2 results could not be made" in captured.err
    assert words in captured.err and captured.out.count("failed: ") == 2
    assert len(cells_in()["transfer"]) == 2
    assert (work / "evaluation" / "table.md").exists()


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def removed(*_):
    shutil.rmtree("evaluation")
    raise FileNotFoundError(errno.ENOENT, "No such file", "evaluation/cells/.x.tmp")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (no_space, "free some space; finished results are kept"),
        (removed, "evaluation was removed meanwhile"),
    ],
)
def test_a_folder_that_cannot_be_written_to(work, capsys, monkeypatch, trouble, words):
    monkeypatch.setattr(transfer, "_rates", trouble)
    assert evaluate("--against", "sets") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_a_damaged_result_is_told_of_before_any_work(work, capsys):
    assert evaluate(runs=PAIR[:1]) == 0
    (file,) = (work / "evaluation" / "cells").iterdir()
    file.write_text(file.read_text().replace('"k": ', '"k": 1'))
    before = (work / "evaluation" / "table.md").read_text()
    capsys.readouterr()
    assert evaluate() == 2
    captured = capsys.readouterr()
    assert file.name in captured.err and "damaged" in captured.err and not captured.out
    assert (work / "evaluation" / "table.md").read_text() == before


def test_warnings_are_printed_and_the_same_network_twice_counts_once(work, capsys):
    harmless = hand_made_set(sample_images(200), source_in(), torch.arange(10), strength=0.0)
    save_set(harmless, work / "harmless.safetensors")
    model = source_in().model
    with torch.no_grad():
        model.head.weight *= 1e5
    save_model(model, work / "saturated.safetensors")
    shutil.copy("saturated.safetensors", "copy.safetensors")
    runs = ["saturated.safetensors", "copy.safetensors"]
    assert evaluate("--against", "harmless.safetensors", runs=runs) == 0
    output = capsys.readouterr().out
    assert output.startswith("evaluating saturated\n") and len(cells_in()["clean"]) == 1
    assert "copy is the same network as saturated: it is left out" in output
    assert "warning: saturated: logits are saturated" in output
    assert "warning: saturated against harmless.safetensors: no image is left" in output


def test_stylised_images(image_folder, tmp_path, monkeypatch, capsys):
    """A network that gives all images one class leaves those of that class."""
    monkeypatch.chdir(tmp_path)
    data = image_folder(size=(72, 72), train=1, test=3)
    model = create_model("resnet18", width=4, image_size=72, num_classes=2).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0]))
    save_model(model, "network.safetensors")
    options = ["--dataset", str(data), "--device", "cpu", "--workers", "0"]
    options += ["--stylized", str(data / "test")]
    assert main(["evaluate", "network.safetensors", *options]) == 0
    (cell,) = cells_in()["stylized"]
    assert cell["results"]["accuracy"]["k"] == cell["results"]["accuracy"]["n"] == 3
    assert "stylised" in capsys.readouterr().out


def damaged_set(work):
    (work / "sets" / "c.safetensors").write_bytes(b"nothing")


def set_of_another_data_set(work):
    found = hand_made_set(sample_images(), source_in(), torch.arange(10))
    found.details["data"] |= {"name": "mnist", "fingerprint": "0"}
    save_set(found, work / "sets" / "c.safetensors")


@pytest.mark.parametrize(
    ("options", "message", "prepare"),
    [
        ("--against nowhere.safetensors", r"nowhere\.safetensors: no such set", None),
        ("--against empty", r"empty: no \*\.safetensors", lambda w: (w / "empty").mkdir()),
        ("--against standard.safetensors", "no adversarial set of scotoma's", None),
        ("--against sets", r"c\.safetensors: truncated or damaged", damaged_set),
        ("--against sets", r"c\.safetensors holds.*mnist.*sample", set_of_another_data_set),
        ("--attack pgd:eps=8", "eps is 8", None),
        ("--attack pgx", "Did you mean 'pgd'", None),
        ("--boundary stepps=3", "no setting 'stepps'", None),
        ("--noise 8", "--noise 8: expected 0 < eps <= 1", None),
        ("--noise a", "--noise a", None),
        ("--noise nan", "--noise nan", None),
        ("--shuffle 3", "--shuffle 3: the images' side of 28", None),
        ("--shuffle 0", "--shuffle 0: expected a number", None),
        ("--stylized nowhere", "--stylized nowhere: no such folder", None),
        ("--stylized sets", "sample has no file names", None),
        ("--samples 0", "--samples is 0; expected 1 or more", None),
        ("--batch-size 0", "--batch-size is 0", None),
        ("--out standard.safetensors", r"--out standard\.safetensors: cannot be", None),
        ("--out x", "a link to gone, which is not", lambda w: (w / "x").symlink_to("gone")),
        ("--device tpu", "--device 'tpu'", None),
        ("--agianst sets", "Did you mean '--against'", None),
    ],
)
def test_bad_input_is_refused_before_any_work(work, capsys, options, message, prepare):
    if prepare:
        prepare(work)
    assert evaluate(*options.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("scotoma evaluate: error: ")
    assert re.search(message, captured.err) and captured.out == ""
    assert not list(work.glob("evaluation/cells/*"))


def test_from_python(work):
    config = EvaluateConfig(
        runs=PAIR[:1], dataset="sample", attack=[FGSM()], shuffle=[2], samples=4, device="cpu"
    )
    cells = measure(config)
    assert [cell["kind"] for cell in cells] == ["clean", "white-box", "shuffle"]
    assert cells[1]["results"]["robust_accuracy"]["n"] == 4
    with pytest.raises(UserError, match="--noise 8: expected 0 < eps <= 1"):
        EvaluateConfig(noise=[8])


def test_grids_that_do_not_divide_are_left_out_only_where_none_is_asked_for():
    for asked, side, grids in (
        ([], 28, [2, 4]),
        ([], 224, [2, 4, 8]),
        (None, 28, []),
        ([7, 2], 28, [7, 2]),
    ):
        assert EvaluateConfig(shuffle=asked).grids_for(side) == grids
    with pytest.raises(UserError, match="give a divisor"):
        EvaluateConfig(shuffle=[]).grids_for(27)
