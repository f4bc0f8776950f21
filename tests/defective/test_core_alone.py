"""What needs torch, triton, einops, numpy and safetensors only; what needs more says so."""

import subprocess
import sys

import pytest
import torch
from scotoma.defective import save_model

TRAIN = ("torchvision", "jsonargparse", "matplotlib", "pandas", "PIL", "yaml", "rich", "tabulate")
TRAIN += ("tensorboard",)


# One process starts torch for all: each script runs in a fork, where some libraries are not there,
# but for what torch imports with itself.
FORKS = """
import os, sys, torch
torch.set_num_threads(1)
for absent, script in eval(sys.argv[1]):
    if not os.fork():
        sys.modules.update(dict.fromkeys(absent))
        exec(script)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    print("=====", flush=True)
"""
NETWORKS = """
from scotoma.defective import create_model, load_model, mask_sites
from scotoma.defective.attacks import pgd
from scotoma.kernels import bn_mask_add_relu

model = load_model("m.safetensors")
images, logits = torch.load("images.pt")
moved = pgd(model, images, logits.argmax(1), eps=8 / 255, step=4 / 255, steps=2)
out = bn_mask_add_relu(images, torch.ones(3), torch.zeros(3), None, None, training=True)
print(torch.equal(model(images), logits), moved.shape == out.shape, len(mask_sites(model)) > 0)
"""
VERBS = """
import contextlib, io
from scotoma.train.cli import main
for verb in {verbs}:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(verb)
    print(*verb, "|", status, said.getvalue().strip())
"""
WITHOUT_TRAIN = [
    ["train", "--epochs", "1"],
    ["models"],
    ["info", "nowhere"],
    ["masks", "nowhere"],
    ["attack", "nowhere"],
    ["evaluate", "nowhere"],
    ["paper", "list"],
    ["bench", "layers", "--cpu"],
    ["profile", "resnet18", "--cpu"],
]
PAPER = [["paper", "table10", "--budget", "smoke", "--out", "paper"]]


@pytest.fixture(scope="module")
def said(tmp_path_factory, small_model):
    """What the scripts said, in a folder with a checkpoint, images and their logits."""
    folder = tmp_path_factory.mktemp("alone")
    model, images = small_model("resnet18", image_size=16).eval(), torch.rand(2, 3, 16, 16)
    save_model(model, folder / "m.safetensors")
    torch.save((images, model(images).detach()), folder / "images.pt")
    scripts = [
        (TRAIN, NETWORKS),
        (TRAIN, VERBS.format(verbs=WITHOUT_TRAIN)),
        (("markdown_it",), VERBS.format(verbs=PAPER)),
    ]
    command = [sys.executable, "-c", FORKS, repr(scripts)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("=====\n")


def test_networks_kernels_attacks_and_checkpoints(said):
    """In a fresh process, given the file and the images only."""
    assert said[0].split() == ["True"] * 3


def test_a_verb_without_its_libraries_names_the_extra_that_brings_them(said):
    lines = said[1].strip().splitlines()
    assert len(lines) == len(WITHOUT_TRAIN)
    for line in lines:
        assert f"| 2 scotoma {line.split()[0]}: error: needs " in line
        assert "the extra 'train' (scotoma[train])" in line


def test_a_table_of_the_paper_is_not_begun_without_what_its_page_needs(said):
    wanted = "needs markdown-it-py, which is not installed: it comes with the extra 'bench'"
    assert wanted in said[2] and "making" not in said[2]
