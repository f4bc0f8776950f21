"""The example that fine-tunes a network of torchvision, and what scotoma's commands make of it."""

import re

import numpy as np
import pytest
import torch
from examples import run_example
from scotoma.defective import load_model, mask_sites

COLOURS = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60)}


@pytest.fixture
def folder(tmp_path):
    """Images of three colours, eight of each to train on and four to test on."""
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name, colour in COLOURS.items():
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                image = (colour + random.normal(0, 30, (72, 80, 3))).clip(0, 255).astype("uint8")
                Image.fromarray(image).save(tmp_path / "images" / split / name / f"{number}.jpg")
    return tmp_path / "images"


def test_fine_tuning_on_an_image_folder(folder, tmp_path, monkeypatch, capsys):
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    from scotoma.train.cli import main

    class Weights:
        """In place of those that would be downloaded."""

        state = models.resnet18().state_dict()

        def get_state_dict(self, progress, check_hash):
            return self.state

    monkeypatch.setattr(models, "get_model_weights", lambda arch: {"DEFAULT": Weights()})
    monkeypatch.chdir(tmp_path)
    words = ["--arch", "resnet18", "--weights", "DEFAULT", "--size", 72, "--workers", 0]
    words += ["--epochs", 2, "--batch-size", 8]
    run_example("finetune_image_folder.py", folder, *words)
    out = capsys.readouterr().out
    assert "not pretrained: fc.weight fc.bias\n" in out
    accuracy = float(re.search(r"epoch 2: .* test accuracy (.*)%", out)[1])

    model = load_model("finetuned.safetensors")
    assert len(mask_sites(model)) == 5 and model.spec.defects == "0.3-Bottom"
    name = "layer4.1.conv2.weight"
    weight, pretrained = model.network.get_parameter(name), Weights.state[name]
    assert not torch.equal(weight, pretrained)
    assert torch.cosine_similarity(weight.flatten(), pretrained.flatten(), dim=0) > 0.9
    words = ["--dataset", str(folder), "--attack", "fgsm:eps=8/255", "--device", "cpu"]
    assert main(["evaluate", "finetuned.safetensors", *words, "--workers", "0"]) == 0
    table = capsys.readouterr().out
    assert f"{accuracy:.2f} [" in table and "fgsm eps=8/255" in table
