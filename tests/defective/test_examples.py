"""The examples of docs/examples that export and attack, at small size."""

import re

import pytest
import torch
from examples import run_example
from scotoma.defective import convert, save_model


def converted():
    """A network of torchvision in which nothing is fused."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.bias)
    return convert(model, torch.rand(1, 3, 32, 32), name="torchvision:resnet18", verbose=False)


@pytest.mark.parametrize(
    ("made", "masks"),
    [
        ("timm:resnet10t", 5),
        pytest.param("resnet18", 10, marks=pytest.mark.slow),
        pytest.param(converted, 5, marks=pytest.mark.slow),
    ],
    ids=["of timm, fused", "ours", "of torchvision, converted"],
)
def test_an_exported_network_runs_elsewhere(made, masks, small_model, randomise, tmp_path, capsys):
    for library in ("onnxscript", "onnxruntime", "timm"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    if made is converted:
        model = made()
    else:
        width = None if ":" in made else 4
        model = randomise(small_model(made, "0.3-Bottom", width=width))
    save_model(model, tmp_path / "model.safetensors")
    words = [tmp_path / "model.safetensors", "--out", tmp_path / "exported"]
    names = run_example("export_defective.py", *words)
    logits, graph = names["logits"], names["exported"].graph
    by_torch, by_onnxruntime, file = capsys.readouterr().out.splitlines()
    assert by_torch.startswith("torch.export") and by_onnxruntime.startswith("onnxruntime")
    differences = [float(line.split()[-4]) for line in (by_torch, by_onnxruntime)]
    assert max(differences) < 1e-5
    assert (logits - logits[0]).abs().max() > 0.01 * logits.abs().max()  # and not by being constant
    operators = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert all(operator.startswith("aten.") for operator in operators), operators
    assert file.endswith(
        f"takes pixels ['batch', 3, 32, 32]; {masks} of {masks} masks are constants of it"
    )


@pytest.fixture
def timm_models(monkeypatch):
    """timm's networks look trained: random affine parameters, and statistics that fit noise."""
    timm = pytest.importorskip("timm", reason="timm is not installed (extra: timm)")
    create, made = timm.create_model, []

    def create_model(*arguments, **options):
        model = create(*arguments, **options)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.normal_(norm.bias, std=0.3)
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(8, 3, 64, 64))
        made.append(model.eval())
        return model

    monkeypatch.setattr(timm, "create_model", create_model)
    return made


def test_attacks_of_a_model_that_is_not_ours(timm_models, capsys):
    words = ["--samples", 6, "--size", 64, "--attack", "gaussian-noise:sigma=0.0001"]
    words += ["--attack", "pgd:eps=16/255,step=4/255,steps=4"]
    names = run_example("attack_any_model.py", "resnet10t", *words)
    lines = capsys.readouterr().out.splitlines()
    found = [re.search(r"accuracy (.*)%, robust accuracy (.*)%, N 6", line) for line in lines]
    (clean, robust), (clean_again, fooled) = [[float(v) for v in f.groups()] for f in found]
    # Labels are the model's own predictions.
    assert clean == clean_again == robust == 100 and fooled < 50
    pixels = names["pixels"]
    mean = torch.tensor([0.485, 0.456, 0.406], device=pixels.device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=pixels.device).view(3, 1, 1)
    with torch.no_grad():
        logits = timm_models[0]((pixels - mean) / std)
        torch.testing.assert_close(names["model"](pixels), logits)


def test_images_of_a_folder_are_prepared_as_the_model_wants_them(timm_models, tmp_path, capsys):
    """Once around the model and once by timm, with its normalisation, an image is the same."""
    import timm
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        noise = torch.randint(256, (50, 70, 3), dtype=torch.uint8).numpy()
        Image.fromarray(noise).save(tmp_path / name / "0.png")
    words = ["--images", tmp_path, "--attack", "fgsm:eps=1/255"]
    names = run_example("attack_any_model.py", "resnet10t", *words)
    assert capsys.readouterr().out.endswith("N 2\n")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(timm_models[0]))
    with torch.no_grad():
        for pixels, label in names["images"]:
            path, expected = names["folder"].samples[label]
            assert label == expected
            own = transform(Image.open(path)).to(names["device"])
            logits = names["model"](pixels[None].to(names["device"]))
            torch.testing.assert_close(logits, timm_models[0](own[None]), rtol=1e-4, atol=1e-4)
