"""``scotoma evaluate`` from the command line to its files."""

import errno
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from evaluated_networks import (
    classes_of,
    hand_made_set,
    network_file,
    pixels_of,
    sample_images,
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
from scotoma.train.robustness.images import TestImages
from scotoma.train.robustness.models import load_named
from scotoma.train.robustness.pictures import example_samples, shuffled_samples
from scotoma.train.robustness.protocols import CleanPredictions
from scotoma.train.store import Store

PGD = "pgd:eps=8/255,steps=2"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two networks, and two sets of the sample's own test images in sets/."""
    folder = tmp_path_factory.mktemp("made")
    network_file(folder / "standard.safetensors")
    network_file(folder / "defective.safetensors", "0.5-Bottom", 1)
    (folder / "sets").mkdir()
    for name, pixels, first in (("a", "float", 0), ("b", "uint8", 100)):
        found = hand_made_set(
            all_images(), source_in(folder), torch.arange(first, first + 40), pixels
        )
        save_set(found, folder / "sets" / f"{name}.safetensors")
    return folder


@pytest.fixture
def work(made, tmp_path, monkeypatch):
    """A copy of it, which is the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_dataset", few)
    return tmp_path


@cache
def few(name="sample", *where):
    """A data set; of the sample the first 200 test images, which is a fifth of the time."""
    data = load_dataset(name, *where)
    return replace(data, test=data.test.subset(torch.arange(200))) if name == "sample" else data


def all_images():
    return TestImages(few(), torch.device("cpu"))


def source_in(folder="."):
    return load_named([str(Path(folder) / "standard.safetensors")], None, torch.device("cpu"))[0]


def evaluate(*options):
    both = ["standard.safetensors", "defective.safetensors"]
    return main(["evaluate", *both, "--dataset", "sample", "--device", "cpu", *options])


def cells_in(folder="evaluation"):
    return Store(Path(folder) / "cells").all()


def by_kind(cells):
    found = {}
    for cell in cells:
        found.setdefault(cell["kind"], []).append(cell)
    return found


def test_nothing_asked_is_the_clean_accuracy(work, capsys):
    assert evaluate() == 0
    output = capsys.readouterr().out
    cells = cells_in()
    assert [cell["kind"] for cell in cells] == ["clean", "clean"]
    for cell in cells:
        rate = cell["results"]["accuracy"]
        assert rate["n"] == 200 and 0.3 < rate["rate"] < 0.95
        assert f"{100 * rate['rate']:.2f}" in output
    assert "were there" not in output
    assert (work / "evaluation" / "table.md").read_text().startswith("# Robustness")
    assert evaluate() == 0
    assert "2 of 2 results were there" in capsys.readouterr().out


def test_everything_at_once(work, capsys, monkeypatch):
    shown, draw = [], pictures.draw_examples
    monkeypatch.setattr(pictures, "draw_examples", lambda found: shown.append(found) or draw(found))
    pair = ["standard.safetensors", "defective.safetensors"]
    options = ["--against", "sets", "--attack", PGD, "--samples", "6", "--ensemble", *pair]
    options += ["--noise", "8/255", "--shuffle", "2", "--boundary", "steps=2", "--out", "all"]
    assert evaluate(*options) == 0
    output = capsys.readouterr().out
    found = {kind: len(cells) for kind, cells in by_kind(cells_in("all")).items()}
    assert found == {
        "clean": 3,
        "transfer": 6,
        "white-box": 3,
        "noise": 3,
        "shuffle": 3,
        "boundary": 3,
    }
    # All resolved parameters, not only those that were given.
    assert "pgd:eps=8/255,step=2/255,steps=2,norm=linf,random_start=false" in output
    words = "blend-by-hand:strength=0.5 from standard, 40 images, uint8"
    assert words in " ".join(output.split())
    written = {path.name for path in (work / "all").iterdir()}
    drawn = {"transfer.png", "noise.png", "tradeoff.png", "examples.png", "shuffled.png"}
    assert written == {"cells", "table.md", *drawn}
    assert shown[0]["set"] == (1, 2)
    table = (work / "all" / "table.md").read_text()
    assert "standard+defective" in table and "white-box" in table
    again = cells_in("all")
    assert evaluate(*options) == 0
    assert "21 of 21 results were there" in capsys.readouterr().out
    assert cells_in("all") == again


def test_pictures_show_what_they_say(work):
    """Labels and predictions belong to the images beside them, also where two pictures share."""
    images = all_images()
    paths = ["standard.safetensors", "defective.safetensors"]
    source, target = load_named(paths, None, torch.device("cpu"))
    found = hand_made_set(images, source, torch.arange(199, 120, -1))
    samples = example_samples(found, images, [source, target], CleanPredictions(images, 50))
    indices = samples["indices"]
    assert len(indices) == 8 and samples["labels"] != sorted(samples["labels"])
    shuffled = shuffled_samples(images, indices, [2], seed=3)
    assert torch.equal(shuffled["shuffled"][1], samples["clean"])
    assert shuffled["labels"] == samples["labels"]
    expected = shuffle_patches(samples["clean"], 2, 3, indices)
    assert torch.equal(shuffled["shuffled"][2], expected)
    assert torch.equal(samples["clean"], pixels_of(images, indices))
    names = images.data.classes
    assert samples["labels"] == [names[c] for c in images.labels[indices].tolist()]
    assert len(samples["rows"]) == 4
    for row, model in zip(samples["rows"], [source, target] * 2, strict=True):
        said = classes_of(model.model, row["images"])
        assert row["title"].endswith(model.name)
        assert row["predicted"] == [names[c] for c in said.tolist()]
        assert row["right"] == (said == images.labels[indices]).tolist()
    adversarial = samples["rows"][2]
    assert not any(adversarial["right"]) and not torch.equal(
        adversarial["images"], samples["clean"]
    )


def test_an_interrupted_evaluation_goes_on(work, capsys, monkeypatch):
    attacks = ["--attack", PGD, "--attack", "fgsm:eps=8/255", "--samples", "4"]
    assert evaluate(*attacks, "--out", "whole") == 0
    capsys.readouterr()
    real, calls = protocols._results, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(protocols, "_results", stopping)
    assert evaluate(*attacks) == 130
    captured = capsys.readouterr()
    assert "stopped; 4 finished results are kept, and the same command goes on" in captured.out
    assert len(cells_in()) == 4 and not (work / "evaluation" / "table.md").exists()
    assert evaluate(*attacks) == 0
    assert len(calls) == 5  # two before, one that was stopped, the two that were missing
    assert "4 of 6 results were there" in capsys.readouterr().out

    def results(folder):
        return {json.dumps(c["identity"], sort_keys=True): c["results"] for c in cells_in(folder)}

    assert results("evaluation") == results("whole")


def test_termination_has_a_status_of_its_own(work, capsys, monkeypatch):
    monkeypatch.setattr(transfer, "_rates", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert evaluate("--against", "sets") == 143
    assert signal.getsignal(signal.SIGTERM) is before
    captured = capsys.readouterr()
    assert captured.err == "scotoma evaluate: terminated\n"
    assert "stopped; 2 finished results are kept" in captured.out


def test_a_result_that_cannot_be_made_ends_no_long_run(work, capsys, monkeypatch):
    real = transfer._rates

    def failing(found, *arguments):
        if found.details["pixels"] == "float":
            raise UserError("no luck")
        return real(found, *arguments)

    monkeypatch.setattr(transfer, "_rates", failing)
    assert evaluate("--against", "sets") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "2 results could not be made" in captured.err
    assert captured.out.count("failed: ") == 2
    assert len(by_kind(cells_in())["transfer"]) == 2
    assert (work / "evaluation" / "table.md").exists()


def test_earlier_results_of_the_folder_stay_in_the_table(work, capsys):
    assert evaluate("--against", "sets", "--noise", "8/255", "--samples", "12") == 0
    table, pictures = work / "evaluation" / "table.md", set((work / "evaluation").glob("*.png"))
    first = table.read_text()
    assert len(pictures) == 4
    capsys.readouterr()
    assert main(["evaluate", "standard.safetensors", "--dataset", "sample", "--device", "cpu"]) == 0
    assert table.read_text() == first
    assert set((work / "evaluation").glob("*.png")) == pictures
    assert "7 results of earlier commands" in capsys.readouterr().out


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
def test_a_folder_that_cannot_be_written_to_says_what_is_kept(
    work, capsys, monkeypatch, trouble, words
):
    monkeypatch.setattr(transfer, "_rates", trouble)
    assert evaluate("--against", "sets") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_no_memory_for_a_result_names_the_batch_size_and_ends_no_long_run(
    work, capsys, monkeypatch
):
    def no_memory(*_):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(protocols, "_results", no_memory)
    assert evaluate("--attack", PGD, "--samples", "2", "--batch-size", "99") == 2
    captured = capsys.readouterr()
    assert "try a --batch-size below 99; finished results are kept" in captured.err
    assert (work / "evaluation" / "table.md").exists() and len(cells_in()) == 2


@pytest.mark.parametrize("name", ["predictions", "unrounded_predictions"])
def test_a_set_with_predictions_of_no_class_is_refused(work, capsys, name):
    found = hand_made_set(all_images(), source_in(), torch.arange(10))
    wrong = replace(found, **{name: getattr(found, name) + 99})
    save_set(wrong, work / "wrong.safetensors")
    assert evaluate("--against", "wrong.safetensors") == 2
    assert re.search(rf"wrong\.safetensors has {name} of class 1\d\d", capsys.readouterr().err)
    assert not (work / "evaluation").exists()


def test_a_damaged_result_is_told_of_before_any_work(work, capsys):
    assert evaluate() == 0
    file = sorted((work / "evaluation" / "cells").iterdir())[0]
    file.write_text(file.read_text().replace('"k": ', '"k": 1'))
    before = (work / "evaluation" / "table.md").read_text()
    capsys.readouterr()
    assert evaluate() == 2
    captured = capsys.readouterr()
    assert file.name in captured.err and "damaged" in captured.err and not captured.out
    assert (work / "evaluation" / "table.md").read_text() == before


def test_warnings_are_printed(work, capsys):
    harmless = hand_made_set(all_images(), source_in(), torch.arange(10), strength=0.0)
    save_set(harmless, work / "harmless.safetensors")
    model = source_in().model
    with torch.no_grad():
        head = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
        head.weight *= 1e5
    save_model(model, work / "saturated.safetensors")
    options = ["--against", "harmless.safetensors", "--dataset", "sample", "--device", "cpu"]
    assert main(["evaluate", "saturated.safetensors", *options]) == 0
    output = capsys.readouterr().out
    assert "warning: saturated: logits are saturated" in output
    assert "warning: saturated against harmless.safetensors: no image is left" in output


def test_the_same_network_twice_counts_once(work, capsys):
    (work / "copy.safetensors").write_bytes((work / "standard.safetensors").read_bytes())
    options = ["copy.safetensors", "--dataset", "sample", "--device", "cpu"]
    assert main(["evaluate", "standard.safetensors", "defective.safetensors", *options]) == 0
    output = capsys.readouterr().out
    assert output.startswith("evaluating standard, defective\n")
    assert "copy is the same network as standard: it is left out" in output
    assert len(cells_in()) == 2


def test_stylised_images(image_folder, tmp_path, monkeypatch, capsys):
    """A network that gives all images one class leaves those of that class."""
    monkeypatch.chdir(tmp_path)
    data = image_folder(size=(72, 72), train=1, test=3)
    model = create_model("resnet18", width=4, image_size=72, num_classes=2).eval()
    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 1.0]))
    save_model(model, "network.safetensors")
    options = ["--dataset", str(data), "--device", "cpu", "--workers", "0"]
    assert (
        main(["evaluate", "network.safetensors", *options, "--stylized", str(data / "test")]) == 0
    )
    (cell,) = by_kind(cells_in())["stylized"]
    assert cell["results"]["accuracy"]["k"] == cell["results"]["accuracy"]["n"] == 3
    assert "stylised" in capsys.readouterr().out


def damaged_set(work):
    (work / "sets" / "c.safetensors").write_bytes(b"nothing")


def set_of_another_data_set(work):
    found = hand_made_set(sample_images(), source_in(), torch.arange(10))
    found.details["data"] |= {"name": "mnist", "fingerprint": "0"}
    save_set(found, work / "sets" / "c.safetensors")


def nothing(work):
    pass


@pytest.mark.parametrize(
    ("options", "prepare", "message"),
    [
        (["--against", "nowhere.safetensors"], nothing, r"nowhere\.safetensors: no such set"),
        (["--against", "empty"], lambda w: (w / "empty").mkdir(), r"empty: no \*\.safetensors"),
        (["--against", "standard.safetensors"], nothing, "no adversarial set of scotoma's"),
        (["--against", "sets"], damaged_set, r"c\.safetensors: truncated or damaged"),
        (["--against", "sets"], set_of_another_data_set, r"c\.safetensors holds.*mnist.*sample"),
        (["--attack", "pgd:eps=8"], nothing, "eps is 8"),
        (["--attack", "pgx"], nothing, "Did you mean 'pgd'"),
        (["--boundary", "stepps=3"], nothing, "no setting 'stepps'"),
        (["--noise", "8"], nothing, "--noise 8: expected 0 < eps <= 1"),
        (["--noise", "a"], nothing, "--noise a"),
        (["--noise", "nan"], nothing, "--noise nan"),
        (["--shuffle", "3"], nothing, "--shuffle 3: the images' side of 28"),
        (["--shuffle", "0"], nothing, "--shuffle 0: expected a number"),
        (["--stylized", "nowhere"], nothing, "--stylized nowhere: no such folder"),
        (["--stylized", "sets"], nothing, "sample has no file names"),
        (["--samples", "0"], nothing, "--samples is 0; expected 1 or more"),
        (["--batch-size", "0"], nothing, "--batch-size is 0"),
        (["--out", "standard.safetensors"], nothing, r"--out standard\.safetensors: cannot be"),
        (["--out", "x"], lambda w: (w / "x").symlink_to("gone"), "a link to gone, which is not"),
        (["--device", "tpu"], nothing, "--device 'tpu'"),
        (["--agianst", "sets"], nothing, "Did you mean '--against'"),
    ],
)
def test_bad_input_is_refused_before_any_work(work, capsys, options, prepare, message):
    prepare(work)
    assert evaluate(*options) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("scotoma evaluate: error: ")
    assert re.search(message, captured.err) and captured.out == ""
    assert not list(work.glob("evaluation/cells/*"))


def test_from_python(work):
    config = EvaluateConfig(
        runs=["standard.safetensors"], dataset="sample", attack=[FGSM()], shuffle=[2], samples=4
    )
    cells = measure(config)
    assert [cell["kind"] for cell in cells] == ["clean", "white-box", "shuffle"]
    assert cells[1]["results"]["robust_accuracy"]["n"] == 4
    with pytest.raises(UserError, match="--noise 8: expected 0 < eps <= 1"):
        EvaluateConfig(noise=[8])


def test_no_networks(work, capsys):
    assert main(["evaluate", "--dataset", "sample"]) == 2
    assert "no models" in capsys.readouterr().err


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "1000, and 500 for --boundary" in text and "default: 250" in text


def test_grids_that_do_not_divide_are_left_out_only_where_none_is_asked_for():
    assert EvaluateConfig(shuffle=[]).grids_for(28) == [2, 4]
    assert EvaluateConfig(shuffle=[]).grids_for(224) == [2, 4, 8]
    assert EvaluateConfig().grids_for(28) == []
    assert EvaluateConfig(shuffle=[7, 2]).grids_for(28) == [7, 2]
    with pytest.raises(UserError, match="give a divisor"):
        EvaluateConfig(shuffle=[]).grids_for(27)
