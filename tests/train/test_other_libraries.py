"""Networks of torchvision and timm through the verbs: train, info, masks, attack, evaluate."""

import json

import pytest
import torch
from cut_runs import stop_after
from scotoma.defective import convert, create_model, load_model, mask_sites, save_model
from scotoma.defective.errors import UserError
from scotoma.train import train
from scotoma.train.cli import main
from scotoma.train.settings import parse

pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
timm = pytest.importorskip("timm", reason="timm is not installed")

NAME = "timm:test_efficientnet"
TINY = ["--save-seconds=0", "--epochs=2", "--train-limit=128", "--test-limit=60", "--device=cpu"]
TINY += ["--batch-size=64", f"--model={NAME}", "--defects=0.3-Bottom"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", f"--out={out}", "--name=run", *TINY]) == 0
    return out / "run"


def test_what_is_trained_is_the_network_of_the_library_with_masks(run):
    model = load_model(run)
    assert isinstance(model.network, type(timm.create_model("test_efficientnet")))
    fresh = create_model(NAME, "0.3-Bottom", in_channels=1, image_size=28)
    assert [*mask_sites(model)] == [*mask_sites(fresh)] and len(mask_sites(model)) > 2
    assert all(map(torch.equal, mask_sites(model).values(), mask_sites(fresh).values()))
    assert model.spec.width is None and model.spec.num_classes == 10
    assert any("_fusion" in module.__dict__ for module in model.modules())
    assert not torch.equal(model.network.conv_stem.weight, fresh.network.conv_stem.weight)


def test_an_interrupted_run_goes_on_to_the_same_weights(run, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert main(["train", f"--out={tmp_path}", "--name=run", *TINY]) != 0
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    whole, gone_on = load_model(run).state_dict(), load_model(tmp_path / "run").state_dict()
    assert all(torch.equal(value, gone_on[name]) for name, value in whole.items())


def test_verbs_take_it_as_they_take_ours(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ours = create_model("resnet18", in_channels=1, image_size=28, width=4)
    save_model(ours, "ours.safetensors", details={"dataset": "sample"})
    assert main(["info", str(run)]) == main(["masks", str(run)]) == 0
    assert f"{NAME}, 0.3-Bottom" in capsys.readouterr().out
    attack = ["--attack=fgsm:eps=8/255", "--samples=20", "--device=cpu", "--out=sets"]
    assert main(["attack", str(run), *attack]) == 0
    found = ["evaluate", str(run), "ours.safetensors", "--against", "sets", "--device=cpu"]
    assert main(found) == 0
    table = capsys.readouterr().out
    assert "ours" in table and "white-box" in table and "transfer" in table


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "timm:resnet5"}, "has no classifier 'resnet5'. Did you mean"),
        ({"model": "tim:resnet50"}, "Did you mean 'timm'"),
        ({"model": NAME, "width": "8"}, "width is 8, which"),
        ({"model": NAME, "thermometer": "16"}, "thermometer is 16, which"),
        ({"model": NAME, "where": "layer1"}, "where names 'layer1'"),
        (
            {"model": "timm:test_convnext", "image-size": "64"},
            "no batch norm of images to mask; it has LayerNorm",
        ),
        ({"arch": "resnet18", "where": "layer1"}, "where is ['layer1'], which is for networks of"),
        ({"model": "torchvision:vgg11_bn"}, "image_size is 28: torchvision:vgg11_bn fails"),
    ],
)
def test_bad_input(given, message, tmp_path, capsys):
    words = [f"--{name}={value}" for name, value in given.items()]
    assert main(["train", f"--out={tmp_path}", "--defects=0.3-Bottom", *words]) == 2
    assert message in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_settings_name_it_as_model_or_arch():
    config, _ = parse(["--model", "torchvision:resnet50", "--where", "layer1", "layer2"])
    assert config == parse(["--arch=torchvision:resnet50", "--where", "layer1", "layer2"])[0]
    assert config.arch == "torchvision:resnet50" and config.where == ["layer1", "layer2"]
    assert config.width is None  # which the recipe of the sample has


def test_chosen_modules_from_python(tmp_path):
    run = train(
        arch=NAME, defects="0.5-Bottom", where=["blocks.1"], dataset="sample", epochs=1,
        train_limit=64, test_limit=50, batch_size=64, out=tmp_path, device="cpu",
    )  # fmt: skip
    masks = mask_sites(run.model)
    assert masks and all(name.startswith("network.blocks.1.") for name in masks)
    assert json.loads((run.folder / "summary.json").read_text())
    assert load_model(run.folder).spec.where == ("blocks.1",)


def test_attacks_refuse_a_converted_network_without_normalisation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bare = timm.create_model("test_efficientnet", num_classes=10)
    convert(bare, torch.zeros(1, 3, 32, 32), name=NAME, verbose=False)
    save_model(bare, tmp_path / "bare.safetensors")
    words = ["attack", str(tmp_path / "bare.safetensors"), "--attack=fgsm:eps=0.1", "--device=cpu"]
    assert main(words) == 2
    assert "holds a network of convert" in capsys.readouterr().err
    assert main(["info", words[1]]) == main(["masks", words[1]]) == 0
    assert "as its library normalises images" in capsys.readouterr().out
    # As that message says.
    whole = create_model(NAME, "0.3-Bottom", image_size=32)
    whole.network.load_state_dict(bare.state_dict())
    save_model(whole, tmp_path / "whole.safetensors")
    assert main(["info", str(tmp_path / "whole.safetensors")]) == 0
    with pytest.raises(UserError, match="needs no module"):
        load_model(tmp_path / "whole.safetensors", module=bare)


def test_without_defects_it_is_trained_too(tmp_path, capsys):
    words = [word for word in TINY if "epochs" not in word] + ["--defects=standard", "--epochs=1"]
    assert main(["train", f"--out={tmp_path}", "--name=plain", *words]) == 0
    model = load_model(tmp_path / "plain")
    assert model.spec.defects == "standard" and not mask_sites(model)
    assert main(["train", "--resume", str(tmp_path / "plain")]) == 0
    transformer = create_model("timm:test_vit", image_size=160)
    save_model(transformer, tmp_path / "vit.safetensors")
    assert load_model(tmp_path / "vit.safetensors").spec == transformer.spec


def test_what_is_printed_and_named_tells_the_modules(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--out=runs", *TINY, "--epochs=1", "--where", "bn1", "blocks.1"]) == 0
    assert f"{NAME} 0.3-Bottom in bn1, blocks.1" in capsys.readouterr().out
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "sample-timm-test_efficientnet-0.3-Bottom+bn1+blocks.1-s0"
    assert main(["masks", "--model", NAME, "--where", "bn1", "--defects=0.3-Bottom"]) == 0
    assert "network.bn1.drop" in capsys.readouterr().out
