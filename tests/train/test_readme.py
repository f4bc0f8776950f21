"""The README's own lines of Python, and that its links lead somewhere."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_operator():
    operator, _, _ = blocks()
    x, shortcut = torch.randn(2, 2, 3, 5, 5)
    values = {
        "x": x,
        "shortcut": shortcut,
        "mask": torch.rand(3, 5, 5) < 0.5,
        **dict(
            zip(("weight", "bias", "running_mean", "running_var"), torch.rand(4, 3), strict=True)
        ),
    }
    before = values["running_mean"].clone()
    exec(operator, values)
    assert values["out"].shape == x.shape and values["out"].min() == 0
    assert not torch.equal(values["running_mean"], before)


def test_training(tmp_path, monkeypatch):
    _, training, _ = blocks()
    shorter = "epochs=1, width=4, train_limit=200, test_limit=100, device='cpu'"
    assert "epochs=5" in training
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(training.replace("epochs=5", shorter), values)
    assert "0.3-Bottom" in repr(values["run"].model)
    assert len(values["run"].history) == 1 and Path(values["run"].folder).is_dir()


def test_a_network_and_an_attack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(blocks()[2], values)
    moved = (values["adversarial"] - values["images"]).abs().max()
    assert 0 < moved <= 8 / 255 + 1e-6
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for path in re.findall(r"\b(?:kernels|defective|train|bench|tests)/[\w/-]+\.(?:py|sh)\b", text):
        assert (ROOT / path).exists(), path
