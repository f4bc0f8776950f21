"""``--model package:factory``: one's own network is checked, fused where it can be, measured."""

import argparse
import re
from functools import partial

import pytest
import torch
from launches import launches
from scotoma.bench import harness, model, step
from scotoma.bench.profiling import cli
from scotoma.bench.variants import (
    Case,
    NetworkRun,
    chosen_variants,
    network,
    random_images,
)
from scotoma.defective import UserError, create_model
from scotoma.kernels import backends
from torch import nn

CPU = torch.device("cpu")


class Block(nn.Module):
    """Residuals, a projection, and what must stay as it is."""

    def __init__(self, channels):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        one, two, three = (norm(conv(x)) for norm, conv in zip(self.norms, self.convs, strict=True))
        x = self.relu(one)  # alone
        y = torch.relu(two + three)  # a projection
        return x + y


class Network(nn.Module):
    def __init__(self, num_classes=5, channels=6):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels))
        self.block = Block(channels)
        self.last, self.late, self.inside = (nn.BatchNorm2d(channels) for _ in range(3))
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = nn.functional.relu(self.stem(x))
        y = self.last(self.block(x))
        y += x
        y = y.relu_()
        late = self.late(y)
        z = torch.tanh(late) + torch.relu(late + x)  # not by a ReLU alone
        twice = y * 2
        z = torch.relu(twice.add_(self.inside(z)))  # whoever else uses it wants the sum
        return self.head((z + twice).mean((2, 3)))


class Odd(nn.Module):
    """Control flow on a value, which cannot be followed, around a network that can."""

    def __init__(self):
        super().__init__()
        self.norm, self.rest = nn.BatchNorm2d(3), Network()

    def forward(self, x):
        return self.rest(self.norm(x if x.sum() > 1 else -x))


class Opaque(Odd):
    def __init__(self):
        super().__init__()
        self.rest = without_norms()


seven = partial(int, 7)
maps = partial(nn.Conv2d, 3, 4, 3)
ours = partial(create_model, "resnet18", width=2, image_size=16)


def frozen():
    return Network().requires_grad_(False)


def failing():
    raise RuntimeError("no weights")


def without_norms():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))


def chosen(name, classes=None, image_size=16):
    asked = argparse.Namespace(model=name, classes=classes, image_size=image_size)
    return model.chosen_model(asked)


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_network_computes_the_same(training):
    """Its logits, gradients and running statistics; parameters have their values."""
    own = chosen(f"{__name__}:Network", classes=3)
    assert own.classes == 3 and own.fusible == 7 and own.text == "fused: 7 of 7 batch norms"
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    found = []
    for backend in ("eager", "triton"):
        net = own.build(backend, training).double()
        x = images.clone().requires_grad_()
        logits = net(x)
        logits.square().sum().backward()
        norms = sorted(float(p.grad.norm()) for p in net.parameters())
        statistics = sorted(float(b.double().norm()) for b in net.buffers())
        found.append((logits.detach(), x.grad, torch.tensor(norms), torch.tensor(statistics)))
        assert net.training == training
    torch.testing.assert_close(*found)


def test_what_cannot_be_fused_is_said():
    odd = chosen(f"{__name__}:Odd")
    assert odd.fusible == 7 and odd.text.startswith("fused: 7 of 8 batch norms; left alone: the")
    assert "control flow" in odd.text
    opaque = chosen(f"{__name__}:Opaque")
    assert opaque.fusible == 0 and opaque.text.startswith("nothing can be fused: the forward of")
    plain = chosen(f"{__name__}:without_norms")
    assert plain.fusible == 0 and "nothing can be fused" in plain.text
    assert chosen(f"{__name__}:ours").text.startswith("fused: its 20 layers")
    assert chosen_variants(None, ("eager", "fused"), CPU, plain) == ("eager",)
    words = r"variants has 'fused'.*nothing can be fused.*leave it out"
    with pytest.raises(UserError, match=words):
        chosen_variants(["eager", "fused"], (), CPU, plain)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("resnet50", {}, "expected package:factory.*torchvision:NAME"),
        ("no_such_package:net", {}, "no package 'no_such_package'"),
        (f"{__name__}:Netwrk", {}, "nothing called 'Netwrk'. Did you mean 'Network'"),
        (f"{__name__}:CPU", {}, "no callable 'CPU'"),
        (f"{__name__}:seven", {}, "gives int, no nn.Module"),
        (f"{__name__}:Block", {}, "call fails: TypeError.*needs no arguments"),
        (f"{__name__}:failing", {}, "call fails: RuntimeError: no weights"),
        (f"{__name__}:frozen", {}, "no parameters to train"),
        (f"{__name__}:maps", {}, r"gives \(2, 4, 14, 14\) in training; expected logits"),
        (f"{__name__}:without_norms", {"classes": 3}, "takes no argument num_classes"),
        (f"{__name__}:without_norms", {"image_size": 8}, r"\(2, 3, 8, 8\).*--image-size"),
        (f"{__name__}:frozen", {"classes": 3}, "takes no argument num_classes"),
        (None, {"classes": 3}, "classes is for --model"),
    ],
)
def test_bad_models_are_refused_before_any_work(name, changes, words):
    with pytest.raises(UserError) as error:
        chosen(name, **changes)
    assert re.search(words, str(error.value))


@pytest.mark.parametrize("option", [["--networks", "vgg19"], ["--defects", "standard"]])
def test_options_of_our_networks_are_refused(option):
    with pytest.raises(UserError, match="leave it out with --model"):
        step.main(["--cpu", "--model", f"{__name__}:Network", *option])


def test_a_step_and_a_profile_of_it_are_made(tmp_path, capsys):
    name = f"{__name__}:Network"
    options = ["--cpu", "--model", name, "--image-size", "16", "--batch", "2"]
    more = ["--windows", "1", "--window-seconds", "0.001", "--variants", "contiguous", "eager"]
    out = tmp_path / "step.jsonl"
    assert step.main([*options, *more, "--work", "train", "evaluate", "--out", str(out)]) == 0
    rows = list(harness.read_rows(out))
    assert [row["work"] for row in rows] == 2 * ["train"] + 2 * ["evaluate"]
    for row in rows:
        assert row["arch"] == name and row["defects"] == "standard" and row["image_size"] == 16
        assert row["times"] and not row["problems"]
    options += ["--steps", "2", "--work", "evaluate", "--out", str(tmp_path)]
    assert cli.main(options) == 0
    (row,) = harness.read_rows(tmp_path / "profile.jsonl")
    assert row["arch"] == name and row["contestant"] == "eager" and not row["problems"]
    assert row["families"] and (tmp_path / row["trace"]).is_file()
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("fused: 7 of 7 batch norms") == 2
    for words, refused in (([], "which network"), (["resnet18", *options], "arch is for scotoma")):
        with pytest.raises(UserError, match=refused):
            cli.main(words)


def test_only_fused_variants_get_the_fused_network():
    one = Case("m", ("standard",), 2, "train", "float32", 16, None, chosen(f"{__name__}:Network"))
    assert type(network("compile", one, "standard")) is Network
    assert type(network("fused-compile", one, "standard")) is not Network


@pytest.mark.skipif(not backends.interpreting(), reason="needs TRITON_INTERPRET=1")
def test_its_fused_variant_computes_what_eager_does():
    own = chosen(f"{__name__}:Network")
    one = Case("m", ("standard",), 2, "train", "float32", 16, None, own)
    data = random_images(one, CPU)
    found, counts = {}, {}
    for name in ("eager", "fused"):
        with launches() as launched:
            found[name] = NetworkRun(name, one, "standard", data, CPU).warm_up(2)
        counts[name] = launched.count("apply_backward")
    assert found["fused"] == pytest.approx(found["eager"], rel=1e-4)
    assert counts == {"eager": 0, "fused": 12}  # two steps, six patterns
