"""``scotoma attack`` from the command line."""

import os
import signal
import tempfile
from dataclasses import replace

import pytest
import torch
from fitted_networks import DATA, pixels, sample, saved
from scotoma.defective import create_model, load_model, save_model
from scotoma.defective.attacks import Attack, attack_names
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import load_set
from scotoma.train.cli import main
from scotoma.train.robustness import attack as command
from scotoma.train.robustness.attack import plan
from scotoma.train.robustness.images import Sample, TestImages

FAST = [*DATA, "--samples", "24", "--batch-size", "8"]
SETS = [*FAST, "--attack", "fgsm:eps=16/255", "--attack", "pgd:eps=0.1,step=0.05,steps=2"]


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    root = tmp_path_factory.mktemp("nets")
    saved(root / "standard.safetensors")
    saved(root / "bottom.safetensors", defects="0.5-Bottom")
    saved(root / "again.safetensors", seed=1)
    return root


@pytest.fixture
def here(nets, tmp_path, monkeypatch):
    """A folder with three checkpoints."""
    for path in nets.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *argv) -> str:
    assert main(["attack", *argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_end_to_end_and_again(here, capsys, monkeypatch):
    argv = ["attack", "standard.safetensors", *SETS]
    argv += ["--ensemble", "standard.safetensors", "bottom.safetensors"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    names = [
        f"{source}--{attack}.safetensors"
        for source in ("standard", "standard+bottom")
        for attack in ("fgsm-eps=16_255", "pgd-eps=0.1,step=0.05,steps=2")
    ]
    assert sorted(p.name for p in (here / "adversarial").iterdir()) == sorted(names)
    sets = [load_set(here / "adversarial" / name) for name in names]
    assert all(torch.equal(s.indices, sets[0].indices) for s in sets)
    assert all(torch.equal(s.clean_predictions, s.labels) for s in sets)  # all sources are right
    sampling = sets[0].details["sampling"]
    assert (sampling["asked"], sampling["seed"]) == (24, 0) and len(sets[0]) == 24
    assert [m["name"] for m in sampling["correct_for"]] == ["standard", "standard+bottom"]
    # Every setting is said, and every figure of the table is the file's.
    words = "pgd:eps=0.1,step=0.05,steps=2,norm=linf,random_start=false,restarts=1"
    assert words in "".join(printed.split())
    assert "float, not rounded" in printed and "24 of the 1,000 test images" in printed
    for name, found in zip(names, sets, strict=True):
        assert f"adversarial/{name}" in printed
        fooled = int((found.predictions != found.labels).sum())
        assert f"fooled {fooled}" in printed
        assert f"{100 * fooled / 24:.2f}" in printed
    assert "16.00" in printed  # FGSM's distance in levels

    def never(*_args, **_options):
        pytest.fail("an attack ran")

    with monkeypatch.context() as patch:
        patch.setattr(Attack, "__call__", never)
        assert main(argv) == 0
        assert capsys.readouterr().out.count("it is reused") == 4
        line = refused(capsys, *argv[1:], "--samples", "20")
    assert "standard--fgsm-eps=16_255.safetensors" in line
    assert "24 there, 20 here" in line and "--out" in line


def test_a_signal_stops_it_and_the_same_command_goes_on(here, capsys, monkeypatch):
    argv = ["attack", "standard.safetensors", *SETS]
    assert main([*argv, "--out", "whole"]) == 0
    original, calls = Attack.__call__, [0]

    def call(self, *args, **options):
        calls[0] += 1
        if calls[0] == 5:  # the second batch of the second set
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **options)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Attack, "__call__", call)
        assert main(argv) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    captured = capsys.readouterr()
    assert "the same command goes on" in captured.out
    assert captured.err == "scotoma attack: terminated\n"
    assert len(list((here / "adversarial").glob("*.parts/part-*"))) == 1
    assert main(argv) == 0
    assert "going on: 8 of 24" in capsys.readouterr().out
    for path in (here / "whole").iterdir():
        one, other = load_set(path), load_set(here / "adversarial" / path.name)
        assert torch.equal(one.images, other.images)
    assert not list((here / "adversarial").glob("*.parts"))


def test_images_are_right_for_the_targets_too(here):
    """And networks may stand between options."""
    argv = ["attack", "standard.safetensors", "--attack", "fgsm", "again.safetensors", *FAST]
    target, data = load_model("bottom.safetensors"), sample()
    shares = []
    for out, more in (("a", []), ("b", ["--correct-for", "bottom.safetensors"])):
        assert main([*argv, "--out", out, *more]) == 0
        found, _ = (load_set(path) for path in sorted((here / out).iterdir(), reverse=True))
        classes = target(pixels(data.test.images[found.indices])).argmax(1)
        shares.append(float((classes == found.labels).float().mean()))
    assert shares[0] < 1 and shares[1] == 1


def test_fewer_images_than_asked_for_are_said():
    images = TestImages(sample(), torch.device("cpu"))
    found = Sample(torch.arange(742), 1000, 0, 1000, ())
    config = command.AttackConfig(attack=["fgsm"])
    text = "\n".join(plan(found, images, config))
    assert "742 of the 1,000 test images" in text
    assert "1,000 were asked for, but there are only 742: all are taken" in text
    assert "asked for" not in "".join(plan(replace(found, asked=742), images, config))


def test_rounding_is_said_and_hinted_at(here, capsys):
    argv = ["attack", "standard.safetensors", *FAST, "--pixels", "uint8", "--samples", "4"]
    assert main([*argv, "--attack", "fgsm"]) == 0
    printed = capsys.readouterr().out
    assert "nearest of 256 levels" in printed and "hint" not in printed
    assert main([*argv, "--attack", "cw-l2:steps=2,search_steps=1"]) == 0
    assert "cw-l2 may end just past the boundary" in capsys.readouterr().out
    names = {p.name for p in (here / "adversarial").iterdir()}
    assert "standard--fgsm-eps=8_255-uint8.safetensors" in names


def test_a_set_that_fails_does_not_take_the_others_along(here, capsys, monkeypatch):
    original = command.make_set

    def make(source, attack, *args, **options):
        if attack.name == "fgsm":
            raise UserError("the gradient was not finite")
        return original(source, attack, *args, **options)

    monkeypatch.setattr(command, "make_set", make)
    line = refused(capsys, "standard.safetensors", *SETS)
    assert "1 of 2 sets could not be made; the first: the gradient was not finite" in line
    assert [p.name[:13] for p in (here / "adversarial").iterdir()] == ["standard--pgd"]
    line = refused(capsys, "standard.safetensors", *FAST, "--attack", "fgsm")
    assert line.endswith("error: the gradient was not finite")


def test_list(capsys):
    assert main(["attack", "--list"]) == 0
    printed = capsys.readouterr().out
    for name in attack_names():
        assert f"\n{name}: " in f"\n{printed}"
    assert "random_start     false     begin at a uniform point of the ball" in printed
    assert "eps              8/255" in printed


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("standard.safetensors", ["no --attack", "--list"]),
        ("--attack fgsm", ["no models"]),
        ("nowhere --attack fgsm", ["nowhere: no such run folder"]),
        ("standard.safetensors --attack fgms", ["'fgms' is unknown", "'fgsm'"]),
        ("standard.safetensors --attack pgd:esp=1", ["no setting 'esp'", "'eps'"]),
        ("standard.safetensors --attack fgsm:eps=8", ["eps is 8", "8/255"]),
        ("... --attack fgsm:eps=8/255", ["twice"]),
        ("... --batch-size 0", ["--batch-size is 0"]),
        ("... --samples 0", ["--samples is 0"]),
        ("... --sample-seed -1", ["--sample-seed"]),
        (f"... --sample-seed {2**64}", ["--sample-seed", "less than 2**64"]),
        ("... --workers -1", ["--workers is -1"]),
        ("... --device tpu", ["--device 'tpu'"]),
        ("... --precision int8", ["int8"]),
        ("... --atack x", ["'--atack'", "'--attack'"]),
        ("... --dataset mnits", ["'mnist'"]),
        ("... --out file", ["--out file", "another"]),
        ("... --out file/x", ["--out file/x"]),
        ("... --ensemble bottom.safetensors", ["two"]),
    ],
)
def test_bad_input_is_one_line_before_any_work(here, capsys, monkeypatch, argv, words):
    (here / "file").write_text("")
    before = set(here.iterdir())
    monkeypatch.setattr(command, "choose_images", lambda *a, **k: pytest.fail("work began"))
    line = refused(capsys, *argv.replace("...", "standard.safetensors --attack fgsm").split())
    assert all(word in line for word in words), line
    assert set(here.iterdir()) == before


def test_a_folder_that_lets_nothing_be_written_is_refused(here, capsys, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    line = refused(capsys, "standard.safetensors", *FAST, "--attack", "fgsm")
    assert line.endswith(
        "--out adversarial: cannot be written to (Permission denied); give another"
    )


def test_networks_of_differing_data_sets(here, capsys):
    save_model(create_model("resnet18", width=4), here / "rgb", details={"dataset": "sample"})
    line = refused(capsys, "standard.safetensors", "rgb", "--attack", "fgsm")
    assert "rgb has in_channels = 3, but sample has 1" in line
    save_model(create_model("resnet18", width=4), here / "rgb", details={"dataset": "cifar10"})
    line = refused(capsys, "standard.safetensors", "rgb", "--attack", "fgsm")
    assert "trained on sample" in line and "cifar10" in line


def test_names_that_clash_in_file_names_are_kept_apart(here, capsys):
    """And one network under two names is said to be one."""
    names = "a b", "a-b", "standard"
    for name, network in zip(names, ("standard", "bottom", "standard"), strict=True):
        (here / f"{name}.target").write_bytes((here / f"{network}.safetensors").read_bytes())
    argv = [f"{name}.target" for name in names]
    assert main(["attack", *argv, *FAST, "--attack", "fgsm"]) == 0
    assert "hold the same weights" in capsys.readouterr().out
    found = [load_set(path).details["source"] for path in (here / "adversarial").iterdir()]
    assert sorted(source["name"] for source in found) == sorted(names)
    assert len({source["digest"] for source in found}) == 2
