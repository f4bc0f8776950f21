"""What needs torch, triton, einops, numpy and safetensors only; what needs more says so."""

import subprocess
import sys

TRAIN = ("torchvision", "jsonargparse", "matplotlib", "pandas", "PIL", "yaml", "rich", "tabulate")
TRAIN += ("tensorboard",)


def run(absent, script):
    """``script`` where some libraries are not there, but for what torch imports with itself."""
    script = f"import sys, torch\nsys.modules.update(dict.fromkeys({absent!r}))\n{script}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_networks_kernels_attacks_and_checkpoints(tmp_path):
    out = run(
        TRAIN,
        f"""
from scotoma.defective import create_model, load_model, mask_sites, save_model
from scotoma.defective.attacks import pgd
from scotoma.kernels import bn_mask_add_relu

model = create_model("resnet18", defects="0.5-Bottom", width=4, image_size=16).eval()
images = torch.rand(2, 3, 16, 16)
labels = model(images).argmax(1)
moved = pgd(model, images, labels, eps=8 / 255, step=4 / 255, steps=2)
save_model(model, {str(tmp_path / "m.safetensors")!r})
again = load_model({str(tmp_path / "m.safetensors")!r}).eval()
out = bn_mask_add_relu(images, torch.ones(3), torch.zeros(3), None, None, training=True)
equal = torch.equal(again(moved), model(moved))
print(equal, out.shape == images.shape, len(mask_sites(again)) > 0)
""",
    )
    assert out.split() == ["True"] * 3


def test_a_table_of_the_paper_is_not_begun_without_what_its_page_needs(tmp_path):
    out = run(
        ("markdown_it",),
        f"""
import contextlib, io
from scotoma.train.cli import main
with contextlib.redirect_stderr(io.StringIO()) as said:
    main(["paper", "table10", "--budget", "smoke", "--out", {str(tmp_path)!r}])
print(said.getvalue())
""",
    )
    assert "needs markdown-it-py, which is not installed: it comes with the extra 'bench'" in out
    assert "making" not in out


def test_a_verb_without_its_libraries_names_the_extra_that_brings_them(tmp_path):
    verbs = [
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
    out = run(
        TRAIN,
        f"""
import contextlib, io, os
from scotoma.train.cli import main
os.chdir({str(tmp_path)!r})
for verb in {verbs!r}:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(verb)
    print(*verb, "|", status, said.getvalue().strip())
""",
    )
    lines = out.strip().splitlines()
    assert len(lines) == len(verbs)
    for line in lines:
        assert f"| 2 scotoma {line.split()[0]}: error: needs " in line
        assert "the extra 'train' (scotoma[train])" in line
