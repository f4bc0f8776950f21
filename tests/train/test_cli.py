"""The command line: what it leaves, and that bad input is one line, status 2, nothing changed."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forks import Forked
from matplotlib.figure import Figure
from PIL import Image
from scotoma.defective import create_model, mask_sites
from scotoma.train.cli import VERBS, main
from scotoma.train.inspect import draw_masks
from scotoma.train.runfolder import RunFolder

yaml = pytest.importorskip("yaml", reason="yaml is not installed")
pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
TINY = ["--save-seconds=0", "--width=4", "--epochs=1", "--train-limit=100", "--test-limit=50"]


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(The folder of a run, not to be changed; what was printed)."""
    out = tmp_path_factory.mktemp("first")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["train", "--out", str(out), "--name", "first", *TINY]) == 0
    return out / "first", printed.getvalue()


def refused(capsys, argv) -> str:
    """The one line on stderr."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith(f"scotoma {argv[0]}: error: ")
    return lines[0]


def test_a_run_leaves_every_artefact(first):
    folder, printed = first
    assert "test accuracy" in printed and f"run folder {folder}: curves.png, metrics" in printed
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "tensorboard",
        "curves.png",
        "best.safetensors",
        "last.safetensors",
        "resume.pt",
        "summary.json",
    }
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["recipe"], config["defects"]) == ("quick", "0.5-Bottom")
    for key in ("device", "precision", "mask_seed", "channels_last", "data_root", "name"):
        assert config[key] not in (None, "auto"), key
    assert (config["width"], config["image_size"]) == (4, 28)
    (record,) = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    measured = {f"{split}/{what}" for split in ("train", "test") for what in ("loss", "acc1")}
    assert set(record) == {"epoch", "lr", "epoch_s", "img_per_s"} | measured
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test/acc1"] == record["test/acc1"]
    with Image.open(folder / "curves.png") as image:
        image.verify()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert events.Scalars("test/acc1")[0].step == 1
    assert events.Scalars("test/acc1")[0].value == pytest.approx(record["test/acc1"])


def test_curves_in_another_format_take_the_place_of_the_old_ones(tmp_path):
    for name in ("my-curves.png", "curves.txt"):
        (tmp_path / name).touch()
    for format in ("png", "pdf", "svg"):
        RunFolder(tmp_path).write_curves(Figure(), format)
        names = {"my-curves.png", "curves.txt", f"curves.{format}"}
        assert {path.name for path in tmp_path.iterdir()} == names


def test_a_run_without_a_name_gets_one_of_its_own(out, capsys):
    taken = out / "sample-resnet18-0.5-Bottom-s0"
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("precious")
    assert main(["train", *TINY, "--picture-format", "pdf"]) == 0
    run = taken.with_name(f"{taken.name}-2")
    assert (run / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert not (run / "curves.png").exists() and "curves.pdf, metrics" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [taken.name, run.name]


# What the settings alone do not tell is in test_settings.py.
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--arch resnet19", ["'resnet19'", "'resnet18'"]),
        ("--dataset cifra10", ["'cifra10'", "'cifar10'"]),
        ("--dataset=", ["dataset ''"]),
        ("--dataset cifar10 --data-root nowhere", ["--download", "nowhere"]),
        ("--epoch 1", ["'--epoch'", "'--epochs'"]),
        ("--defects 0.3-Botom", ["position 5", "Bottom, Top"]),
        ("--defects 1.3-Bottom", ["position 1", "(0, 1]"]),
        ("--defects 0-Bottom", ["position 1", "(0, 1]"]),
        ("--arch vgg19 --defects 0.1-BottomDC", ["vgg19", "no DC variant"]),
        ("--arch senet18 --defects 0.1-{0}", ["senet18", "block 0"]),
        ("--arch vgg19 --regularizer dropblock", ["vgg19", "resnet18, resnet50"]),
        ("--device cuda:63", ["cuda:63", "GPU", "--device cpu"]),
        ("--device tpu", ["'tpu'", "cuda:N"]),
        ("--name a/b", ["'a/b'", "slashes"]),
        ("--name=", ["--name ''"]),
        ("--image-size 4", ["image_size", "4"]),
        ("--image-size 224", ["--image-size is 224", "64"]),
        ("--augment imagenet", ["--augment imagenet", "crop-flip"]),
        ("--stem 7x7", ["7x7", "128"]),
        ("--width 100000000", ["memory", "--width"]),
        ("--width 1000000000000000000000", ["memory", "--width"]),
        ("--defects 0.3-Bottomx99999999", ["memory", "xN in --defects"]),
        ("--thermometer 1000000", ["memory", "GiB", "--thermometer"]),
        ("--resume nowhere", ["nowhere", "no run to resume"]),
    ],
)
def test_bad_training_input_is_refused_before_anything_is_made(out, capsys, argv, words):
    tiny = [] if "--resume" in argv else TINY
    message = refused(capsys, ["train", *tiny, *argv.split()])
    for word in words:
        assert word in message
    assert not out.exists()


def test_no_gpu_where_one_was_asked_for(out, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refused(capsys, ["train", *TINY, "--device", "cuda"])
    assert "no usable GPU" in message
    assert "--device cpu" in message


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("config.yaml", [], ("holds another run", "--name", "--resume")),
        (
            "notes.txt",
            [],
            ("is not empty", "no run to continue (config.yaml is missing)", "--name"),
        ),
        ("last.safetensors", ["--overwrite"], ("holds no run",)),
    ],
)
def test_a_folder_that_holds_something_is_left_alone(out, capsys, file, options, words):
    (out / "mine").mkdir(parents=True)
    (out / "mine" / file).write_text("precious")
    message = refused(capsys, ["train", *TINY, "--name", "mine", *options])
    assert all(each in message for each in words)
    assert [p.read_text() for p in (out / "mine").iterdir()] == ["precious"]
    assert ("--resume" in message) == (file == "config.yaml")


def test_a_taken_name_says_what_has_it_and_may_be_overwritten(out, capsys, first):
    mine = shutil.copytree(first[0], out / "mine")
    argv = ["train", *TINY, "--name", "mine"]
    other = [*argv, "--seed", "1"]
    (mine / "notes.txt").write_text("precious")
    assert "this run, and it is finished" in refused(capsys, argv)
    assert "another run" in refused(capsys, other)
    before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}
    assert "resnet19" in refused(capsys, [*other, "--overwrite", "--arch", "resnet19"])
    assert {p: p.read_bytes() for p in before} == before
    (mine / "summary.json").unlink()
    assert "this run, unfinished" in (line := refused(capsys, argv))
    assert "--resume runs/mine" in line
    assert main([*other, "--overwrite"]) == 0
    assert yaml.safe_load((mine / "config.yaml").read_text())["seed"] == 1
    assert json.loads((mine / "summary.json").read_text())["seed"] == 1
    assert len(list((mine / "tensorboard").iterdir())) == 1
    assert (mine / "notes.txt").read_text() == "precious"


def test_an_image_folder_trains(out, capsys, image_folder):
    """Of any size up to 64, with any number of classes; a corrupt file is named before."""
    root = image_folder(size=(20, 20), classes=("a", "b", "c"), train=20, test=5)
    whole = (root / "train" / "b" / "00.png").read_bytes()
    (root / "train" / "b" / "00.png").write_bytes(b"broken")
    argv = ["train", "--dataset", str(root), "--name", "f", "--batch-size", "16", *TINY]
    assert "train/b/00.png" in refused(capsys, argv)
    assert not out.exists()
    (root / "train" / "b" / "00.png").write_bytes(whole)
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "pets: 60 training and 15 test images, 3x20x20, 3 classes" in printed
    assert "batch 16, one-cycle, peak lr 0.0125" in printed and "warning" not in printed
    config = yaml.safe_load((out / "f" / "config.yaml").read_text())
    assert config["dataset"] == str(root.resolve())
    assert config["recipe"] == "fast-cifar10"


def test_an_image_folder_without_test_images_trains(out, capsys, image_folder):
    root = image_folder(train=20)
    (root / "test").rename(out.with_name("away"))
    argv = ["--dataset", str(root), "--name", "f", "--batch-size", "36", *TINY]
    assert main(["train", *argv, "--validation-fraction", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "32 training and 8 test images (0.2 of each class, as there is no test f" in printed
    assert "warning  --batch-size 36 is more than all training images" in printed
    assert main(["evaluate", str(out / "f"), "--out", str(out / "e")]) == 0
    assert "pets: 8 test images (0.2 of each class" in capsys.readouterr().out


def test_a_full_disk_keeps_what_was_saved(tmp_path):
    """A file size limit of 100 KB in a process of its own: the state does not fit any more."""

    def work():
        def limited(self, state, save=RunFolder.save_state):
            if state["epoch"] == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
            save(self, state)

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        RunFolder.save_state = limited
        return main(["train", "--out", str(tmp_path), "--name", "full", *TINY, "--epochs", "3"])

    status, _, errors = Forked(work, tmp_path / "said").wait()
    folder = tmp_path / "full"
    assert status == 2, errors
    (line,) = errors.strip().splitlines()
    assert f"could not save {folder / 'resume.pt'}" in line
    assert f"scotoma train --resume {folder}" in line
    assert torch.load(folder / "resume.pt", weights_only=True)["epoch"] == 1
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]
    assert main(["train", "--resume", str(folder)]) == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"scotoma {verb}" in capsys.readouterr().out


IMPORTS = """
import sys
from scotoma.train.cli import main
SLOW = {"torch", "torchvision", "matplotlib", "tensorboard", "triton", "jsonargparse"}
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit:
        pass
    loaded = SLOW & {name.partition(".")[0] for name in sys.modules}
    print("LOADED", *sorted(loaded), file=sys.stderr)
"""


def test_a_command_imports_only_what_it_needs():
    light = ["--help", "--version", "trian", "bench --help"]
    others = ["info nowhere", "train --help", "paper list"]
    command = [sys.executable, "-c", IMPORTS, *light, *others]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = [set(line.split()[1:]) for line in done.stderr.splitlines() if "LOADED" in line]
    assert loaded[: len(light)] == [set()] * len(light)
    # What torch itself brings is its own affair.
    assert [each - {"triton"} for each in loaded[len(light) :]] == [{"torch", "jsonargparse"}] * 3


SCOTOMA = [sys.executable, "-m", "scotoma.train.cli"]


@pytest.fixture
def unread():
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_training_goes_on_when_its_output_is_closed(out, unread):
    """And with the backend of a notebook, which no other process has."""

    def work():
        os.dup2(unread, 1)
        sys.argv[1:] = ["train", *TINY, "--name", "piped"]
        return main() or os.environ["MPLBACKEND"] != "agg"

    said = out.with_name("said")
    status, _, errors = Forked(work, said, MPLBACKEND="module://matplotlib_inline.backend").wait()
    assert (status, errors) == (0, "")
    assert (out / "piped" / "summary.json").is_file() and (out / "piped" / "curves.png").is_file()


def test_other_commands_end_quietly_when_nobody_reads(unread):
    done = subprocess.run([*SCOTOMA, "--help"], stdout=unread, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            command = [*SCOTOMA, "--version"]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert done.stderr == "scotoma: error: cannot write the output: No space left on device\n"


def test_names_that_are_not_utf8_are_refused_before_anything_is_made(out):
    coding = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [*SCOTOMA, "train", "--name", "gr\u00f6\u00dfe"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | coding, encoding="utf-8"
    )
    assert done.returncode == 2 and "LC_ALL=C.UTF-8" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not out.exists()


def test_unknown_command_and_no_command(capsys):
    assert "'train'" in refused(capsys, ["trian"])
    assert main([]) == 0
    assert "scotoma train" in capsys.readouterr().out


# The verbs models, info and masks


def test_models_lists_counts_of_all_six_and_who_lacks_a_variant(capsys):
    assert main(["models", "--defects", "0.3-Bottom", "--all-sites"]) == 0
    printed = capsys.readouterr().out
    for words in ("11,173,962", "23,520,842", "6,956,298", "11,260,354", "20,040,522", "7,400,026"):
        assert words in printed
    assert "block2.0.shortcut.bn" in printed
    assert "30.00%" in printed
    assert main(["models", "--defects", "0.1-BottomDC"]) == 0
    printed = capsys.readouterr().out
    assert "10,211,859" in printed
    assert printed.count("not available") == 5


def test_info_and_masks_of_a_run(out, capsys, first):
    assert main(["info", str(first[0])]) == 0
    printed = capsys.readouterr().out
    for words in ("resnet18, 0.5-Bottom, width 4", "stem.bn", "50.00%", "test/acc1", "recipe"):
        assert words in printed
    facts = dict(line.split(None, 1) for line in printed.splitlines() if " " in line.strip())
    assert facts["recipe"].split() == ["quick"] and facts["precision"].split() == ["float32"]
    assert "training seed  0" in printed and "best epoch" in printed
    best = str(first[0] / "best.safetensors")
    assert main(["masks", best, "--channels", "1", "--out", "m.png"]) == 0
    assert "4x28x28" in capsys.readouterr().out
    with Image.open("m.png") as image:
        assert image.size[0] > 500
    small = ["masks", "--arch", "vgg19", "--defects", "0.5-{1}", "--width", "2", "--channels", "1"]
    for options, file in (
        (["--out", "m.PDF"], "m.PDF"),
        (["--picture-format", "pdf"], "masks.pdf"),
    ):
        assert main([*small, *options]) == 0
        assert Path(file).read_bytes().startswith(b"%PDF")


def test_histograms_of_masks_have_one_range_and_a_line_at_p():
    model = create_model("resnet18", "0.7-Bottom,0.1-Top", width=2)
    sites = mask_sites(model).values()
    rows = [axes for axes in draw_masks(model, channels=1).axes if axes.patches]
    assert len(rows) == len(sites) > 2
    found = [axes.lines[0].get_xdata()[0] for axes in rows]
    assert sorted(set(found)) == [10, 70]
    assert {axes.get_xlim() for axes in rows} == {(0, 100)}
    for axes, mask in zip(rows, sites, strict=True):
        assert sum(patch.get_height() for patch in axes.patches) == len(mask)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["info", "missing.safetensors"], "no such checkpoint"),
        (["info", "pickle.pt"], "pickle"),
        (["info", "text.safetensors"], "damaged"),
        (["masks", "--out", "."], "directory"),
        (["info"], "checkpoint"),
        (["masks", "--defects", "standard"], "no masks"),
        (["masks", "--out", "no/such/m.png"], "does not exist"),
        (["masks", "--channel", "3"], "'--channels'"),
        (["masks", "--out", "m.jpg"], "ends in .png, .pdf, .svg"),
        (["masks", "--out", "m.png", "--picture-format", "pdf"], "ends in .pdf"),
        (["masks", "--picture-format", "jpg"], "expected one of png, pdf, svg"),
        (["models", "--defects", "0.3-Bottm"], "position 5"),
        (["models", "extra"], "unexpected argument 'extra': takes options only"),
        (["info", "runs"], "runs holds runs, name one: runs/a, runs/b"),
        (["train", "--resume", "runs"], "runs holds runs, name one: runs/a, runs/b"),
        (["attack", "runs", "--attack", "fgsm"], "runs holds runs, name one: runs/a, runs/b"),
        (["attack", "runs/a", "--attack", "pgd eps=8/255"], "write pgd:eps=8/255"),
        (["attack", "runs/a", "--attack", "pgd(eps=8/255, steps=3)"], "pgd:eps=8/255,steps=3"),
        (["evaluate", "runs/a", "--against", "runs/b"], "that is a run, not a set"),
    ],
)
def test_other_commands_refuse_bad_input(out, capsys, argv, words):
    torch.save({"a": 1}, "pickle.pt")
    Path("text.safetensors").write_text("hello")
    for name in ("a", "b"):
        (out / name).mkdir(parents=True)
        (out / name / "config.yaml").touch()
    before = sorted(Path().iterdir())
    assert words in refused(capsys, argv)
    assert sorted(Path().iterdir()) == before
