"""``scotoma bench compatibility``: what is wrong is found, and said; what is counted is right."""

import json
from pathlib import Path

import pytest
import torch
from scotoma.bench import compatibility
from scotoma.kernels import fuse
from scotoma.train.cli import main
from torch import nn

pytest.importorskip("timm", reason="timm is not installed")
SMALL, WITHOUT = "timm:test_resnet", "timm:test_vit"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The exit status and the rows of a call, whose page is page.md."""
    monkeypatch.setattr(compatibility, "FURTHER", ())
    monkeypatch.setattr(compatibility, "INTERPRETED", ())
    file, page = tmp_path / "rows.jsonl", tmp_path / "page.md"

    def call(*networks):
        argv = ["--networks", *networks, "--resume", "--out", str(file), "--page", str(page)]
        status = main(["bench", "compatibility", *argv])
        return status, [json.loads(line) for line in file.read_text().splitlines()]

    return call


def test_a_network_is_compared_and_another_refused(run, tmp_path):
    status, rows = run(SMALL, WITHOUT)
    assert status == 0
    small, without = rows
    assert (small["fused"], small["norms"], small["masks"]) == (15, 15, 15)
    assert small["differences"].keys() == {"fused", "converted", "both"}
    assert all(value < 1e-12 for value, *_ in small["differences"].values())
    assert "no BatchNorm2d" in without["unsupported"] and not without["differences"]
    page = (tmp_path / "page.md").read_text()
    assert "**1 of 1 networks compute the same**" in page and "Failures" not in page
    assert "| `test_resnet` | 15 of 15 | 15 | 5 | 64 |" in page
    assert f"| `{WITHOUT}` | model is VisionTransformer, which has no" in page
    assert run(SMALL) == (0, rows)  # which the file has


@pytest.mark.parametrize(("part", "found"), [("fuse", "fused"), ("convert", "converted")])
def test_what_is_wrong_is_found(run, tmp_path, monkeypatch, part, found):
    right = getattr(compatibility, part)

    def wrong(model, *arguments, **options):
        made = right(model, *arguments, **options)
        model.get_submodule("layer2.0.bn1").momentum = 0.11
        return made

    monkeypatch.setattr(compatibility, part, wrong)
    status, (row,) = run(SMALL)
    assert status == 1
    assert any(text.startswith(f"{found}: ") for text in row["problems"])
    page = (tmp_path / "page.md").read_text()
    assert "**0 of 1 networks" in page and f"| `{SMALL}` | {found}: " in page


def test_differences():
    right = {"gradient of a": torch.tensor([2.0, 0.0]), "count": torch.tensor(4)}
    right |= {"gradient of b": torch.tensor([1e-9]), "output 0": torch.tensor([1.0, 10.0])}

    def of(**found):
        names = {"a": "gradient of a", "b": "gradient of b", "out": "output 0", "count": "count"}
        ours = right | {names[name]: torch.tensor(value) for name, value in found.items()}
        return compatibility.compared([("evaluation", ours)], {"evaluation": right})

    assert of() == (0.0, "nothing")
    assert of(a=[2.0, 0.5]) == (0.25, "gradient of a (evaluation)")
    assert of(out=[2.0, 10.0]) == (pytest.approx(0.1), "output 0 (evaluation)")
    assert of(count=5, out=[2.0, 10.0]) == (0.25, "count (evaluation)")
    floor = 2 * compatibility.tolerance(torch.float32)
    assert of(b=[2e-9])[0] == pytest.approx(1e-9 / floor)
    assert of(out=[float("nan"), 0.0]) == (None, "output 0 (evaluation)")


class Block(nn.Module):
    """A projection, and a batch norm that cannot be fused."""

    def __init__(self):
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.norm, self.norm2, self.alone = (nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)) + self.norm2(self.shortcut(x)))
        return self.alone(self.alone(x))


def test_launches_and_bytes_are_counted(monkeypatch):
    monkeypatch.setattr(compatibility, "COUNTED_BATCH", 2)
    model = Block()
    fusion = fuse(model)
    assert fusion.fused == 2
    ran, counted = compatibility.counted_step(model, 4)
    assert ran == 2
    activation = 2 * 8 * 4 * 4 * 2
    alone = 2 * (3 + 2 + 1), 2 * (3 + 5) * activation
    assert counted["eager"] == [alone[0] + 2 * 6 + 1 + 2, alone[1] + (2 * 8 + 3 + 5) * activation]
    assert counted["fused"] == [alone[0] + 7, alone[1] + (5 + 8) * activation]


def test_batch_norms_that_do_not_run_as_operators_are_not_counted_as_fused(run, monkeypatch):
    def hooked(model):
        fusion = fuse(model)
        model.get_submodule("layer2.0.bn1").register_forward_hook(lambda *_: None)
        return fusion

    monkeypatch.setattr(compatibility, "fuse", hooked)
    status, (row,) = run(SMALL)
    assert status == 0 and row["fused"] + row["reasons"][compatibility.CALLED_OTHERWISE] == 15
    assert row["fused"] < 15


def test_names(capsys):
    assert main(["bench", "compatibility", "--list"]) == 0
    names = capsys.readouterr().out.split()
    assert "torchvision:vit_b_16" in names and "timm:dla34" in names
    assert {*compatibility.FURTHER, *compatibility.INTERPRETED} <= set(names)
    assert main(["bench", "compatibility", "--networks", "torchvision:resnet51"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_the_page_in_docs_is_of_the_rows_in_results():
    root = Path(compatibility.__file__).parents[1]
    rows = compatibility.newest(root / "bench/results/cpu-x86-64/compatibility.jsonl")
    page = compatibility.page(rows, compatibility.PAGE)
    assert page.markdown() == (root / compatibility.PAGE).read_text()


@pytest.mark.slow
def test_other_ways(run, monkeypatch):
    """Half a minute of Triton's interpreter."""
    for name in ("FURTHER", "INTERPRETED"):
        monkeypatch.setattr(compatibility, name, (SMALL,))
    status, (row,) = run(SMALL)
    assert status == 0
    assert {"compiled", "exported", "interpreted"} < row["differences"].keys()
