"""The command line: what it leaves, and that bad input is one line, status 2, nothing changed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from scotoma.defective import create_model, mask_sites
from scotoma.train.cli import VERBS, main
from scotoma.train.inspect import draw_masks
from scotoma.train.runfolder import RunFolder

yaml = pytest.importorskip("yaml", reason="yaml is not installed")
pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
TINY = [
    "--save-seconds",
    "0",
    "--width",
    "4",
    "--epochs",
    "1",
    "--train-limit",
    "200",
    "--test-limit",
    "50",
]


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def refused(capsys, argv) -> str:
    """The one line on stderr."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith(f"scotoma {argv[0]}: error: ")
    return lines[0]


def test_a_run_leaves_every_artefact(out, capsys):
    assert main(["train", "--name", "first", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "test accuracy" in printed
    assert "runs/first" in printed
    folder = out / "first"
    names = {p.name for p in folder.iterdir()}
    assert names == {
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
    assert config["recipe"] == "quick"
    assert config["defects"] == "0.5-Bottom"
    for key in ("device", "precision", "mask_seed", "channels_last", "data_root", "name"):
        assert config[key] not in (None, "auto"), key
    assert (config["width"], config["image_size"]) == (4, 28)
    (record,) = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    assert set(record) == {
        "epoch",
        "lr",
        "train/loss",
        "train/acc1",
        "test/loss",
        "test/acc1",
        "epoch_s",
        "img_per_s",
    }
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


def test_runs_without_a_name_get_one_each(out, capsys):
    for _ in range(2):
        assert main(["train", *TINY, "--picture-format", "pdf"]) == 0
    run = out / "sample-resnet18-0.5-Bottom-s0"
    assert (run / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert not (run / "curves.png").exists() and "curves.pdf, metrics" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        "sample-resnet18-0.5-Bottom-s0",
        "sample-resnet18-0.5-Bottom-s0-2",
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--arch", "resnet19"], ["'resnet19'", "'resnet18'"]),
        (["--dataset", "cifra10"], ["'cifra10'", "'cifar10'"]),
        (["--dataset", ""], ["dataset ''"]),
        (["--dataset", "cifar10", "--data-root", "nowhere"], ["--download", "nowhere"]),
        (["--recipe", "quik"], ["'quik'", "'quick'"]),
        (["--epoch", "1"], ["'--epoch'", "'--epochs'"]),
        (["--defects", "0.3-Botom"], ["position 5", "Bottom, Top"]),
        (["--defects", "1.3-Bottom"], ["position 1", "(0, 1]"]),
        (["--defects", "0-Bottom"], ["position 1", "(0, 1]"]),
        (["--arch", "vgg19", "--defects", "0.1-BottomDC"], ["vgg19", "no DC variant"]),
        (["--arch", "senet18", "--defects", "0.1-{0}"], ["senet18", "block 0"]),
        (["--arch", "vgg19", "--regularizer", "dropblock"], ["vgg19", "resnet18, resnet50"]),
        (["--device", "cuda:63"], ["cuda:63", "GPU", "--device cpu"]),
        (["--device", "tpu"], ["'tpu'", "cuda:N"]),
        (["--name", "a/b"], ["'a/b'", "slashes"]),
        (["--image-size", "4"], ["image_size", "4"]),
        (["--augment", "imagenet"], ["--augment imagenet", "crop-flip"]),
        (["--stem", "7x7"], ["7x7", "128"]),
        (["--image-size", "224"], ["--image-size is 224", "64"]),
        (["--label-smoothing", "1"], ["--label-smoothing is 1.0", "0 <= eps < 1"]),
        (["--adversarial-eps", "0.1", "--adversarial-steps", "0"], ["--adversarial-steps", "0"]),
        (["--batch-size", "1"], ["--batch-size is 1", "at least 2"]),
        (["--name", ""], ["--name ''"]),
        (["--width", "100000000"], ["memory", "--width"]),
        (["--width", "1" + "0" * 21], ["memory", "--width"]),
        (["--defects", "0.3-Bottomx99999999"], ["memory", "xN in --defects"]),
        (["--thermometer", "1000000"], ["memory", "GiB", "--thermometer"]),
        (["--resume", "nowhere"], ["nowhere", "no run to resume"]),
        (["--seed", "abc"], ["--seed is 'abc'; expected a whole number"]),
        (["--clip-norm", "nan"], ["--clip-norm is 'nan'; expected a finite number"]),
        (["--width", "1.5"], ["--width is '1.5'; expected a whole number"]),
        (["--lr", "1e400"], ["--lr is inf; expected a finite number"]),
        (["--lr", "1e308"], ["--lr is 1e+308; expected a finite number"]),
        (["--augment", "flop"], ["--augment is 'flop'; expected one of none", "'flip'"]),
        (["--channels-last", "maybe"], ["--channels-last is 'maybe'; expected yes or no"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_bad_training_input_is_refused_before_anything_is_made(out, capsys, argv, words):
    message = refused(
        capsys, ["train", *TINY, *argv] if "--resume" not in argv else ["train", *argv]
    )
    for word in words:
        assert word in message
    assert not out.exists()


def test_no_gpu_where_one_was_asked_for(out, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refused(capsys, ["train", *TINY, "--device", "cuda"])
    assert "no usable GPU" in message
    assert "--device cpu" in message


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("config.yaml", ("holds another run", "--name", "--resume")),
        ("notes.txt", ("is not empty", "no run to continue (config.yaml is missing)", "--name")),
    ],
)
def test_a_folder_that_holds_something_is_left_alone(out, capsys, file, words):
    (out / "mine").mkdir(parents=True)
    (out / "mine" / file).write_text("precious")
    message = refused(capsys, ["train", *TINY, "--name", "mine"])
    assert all(each in message for each in words)
    assert [p.read_text() for p in (out / "mine").iterdir()] == ["precious"]
    assert ("--resume" in message) == (file == "config.yaml")


def test_a_taken_name_says_what_has_it_and_may_be_overwritten(out, capsys):
    argv = ["train", *TINY, "--name", "mine"]
    assert main(argv) == 0
    other = [*argv, "--seed", "1"]
    (out / "mine" / "notes.txt").write_text("precious")
    assert "this run, and it is finished" in refused(capsys, argv)
    assert "another run" in refused(capsys, other)
    before = {p: p.read_bytes() for p in (out / "mine").rglob("*") if p.is_file()}
    assert "resnet19" in refused(capsys, [*other, "--overwrite", "--arch", "resnet19"])
    assert {p: p.read_bytes() for p in before} == before
    (out / "mine" / "summary.json").unlink()
    assert "this run, unfinished" in (line := refused(capsys, argv))
    assert "--resume runs/mine" in line
    assert main([*other, "--overwrite"]) == 0
    assert yaml.safe_load((out / "mine" / "config.yaml").read_text())["seed"] == 1
    assert json.loads((out / "mine" / "summary.json").read_text())["seed"] == 1
    assert len(list((out / "mine" / "tensorboard").iterdir())) == 1
    assert (out / "mine" / "notes.txt").read_text() == "precious"


def test_only_a_run_is_overwritten(out, capsys):
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "last.safetensors").write_text("precious")
    argv = ["train", *TINY, "--name", "mine", "--overwrite"]
    assert "holds no run" in refused(capsys, argv)
    assert (out / "mine" / "last.safetensors").read_text() == "precious"


def test_an_image_folder_with_a_corrupt_file(out, capsys, image_folder):
    root = image_folder(name="photos")
    (root / "train" / "cat" / "00.png").write_bytes(b"broken")
    message = refused(capsys, ["train", *TINY, "--dataset", str(root)])
    assert "train/cat/00.png" in message
    assert not out.exists()


def test_an_image_folder_trains(out, capsys, image_folder):
    """Grey or colour, of any size up to 64, with any number of classes."""
    root = image_folder(size=(20, 20), classes=("a", "b", "c"), train=20, test=5)
    assert main(["train", "--dataset", str(root), "--name", "f", "--batch-size", "16", *TINY]) == 0
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


def test_large_images_train_from_workers(out, capsys, image_folder):
    root = image_folder(size=(90, 80), train=8, test=3)
    argv = ["--dataset", str(root), "--image-size", "72", "--augment", "imagenet"]
    argv += [
        "--workers",
        "1",
        "--batch-size",
        "8",
        "--width",
        "4",
        "--epochs",
        "2",
        "--name",
        "big",
    ]
    assert main(["train", *argv]) == 0
    assert (out / "big" / "last.safetensors").is_file()


def test_a_full_disk_keeps_what_was_saved(tmp_path):
    """A file size limit of 100 KB in a process of its own: the state does not fit any more."""
    script = f"""
import resource, signal, sys
from scotoma.train.cli import main
from scotoma.train import runfolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save = runfolder.RunFolder.save_state
def limited(self, state):
    if state["epoch"] == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    save(self, state)
runfolder.RunFolder.save_state = limited
argv = {["train", "--out", str(tmp_path), "--name", "full", *TINY]!r}
sys.exit(main([*argv, "--epochs", "3"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    folder = tmp_path / "full"
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
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


SLOW = ("torch", "torchvision", "matplotlib", "tensorboard", "triton", "jsonargparse")


@pytest.mark.parametrize(
    ("argv", "needed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["trian"], set()),
        (["info", "nowhere"], {"torch", "jsonargparse"}),
        (["train", "--help"], {"torch", "jsonargparse"}),
        (["bench", "--help"], set()),
        (["paper", "list"], {"torch", "jsonargparse"}),
    ],
    ids=lambda value: " ".join(value if isinstance(value, list) else sorted(value)),
)
def test_a_command_imports_only_what_it_needs(argv, needed):
    script = (
        "import sys; from scotoma.train.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print(*{{m.partition('.')[0] for m in sys.modules}} & {set(SLOW)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    if "torch" in needed:  # what torch itself brings is its own affair
        loaded -= {"triton"}
    assert loaded <= needed


SCOTOMA = [sys.executable, "-m", "scotoma.train.cli"]


def test_training_goes_on_when_its_output_is_closed_or_full(out):
    """And with the backend of a notebook, which no other process has."""
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [*SCOTOMA, "train", *TINY, "--name", "piped"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "piped" / "summary.json").is_file() and (out / "piped" / "curves.png").is_file()
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*SCOTOMA, "--version"], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode == 2
        assert done.stderr == ("scotoma: error: cannot write the output: No space left on device\n")


def test_names_that_are_not_utf8_are_refused_before_anything_is_made(out):
    coding = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [*SCOTOMA, "train", "--name", "gr\u00f6\u00dfe"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | coding, encoding="utf-8"
    )
    assert done.returncode == 2 and "LC_ALL=C.UTF-8" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not out.exists()


def test_other_commands_end_quietly_when_nobody_reads():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*SCOTOMA, "--help"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_unknown_command_and_no_command(capsys):
    assert "'train'" in refused(capsys, ["trian"])
    assert main([]) == 0
    assert "scotoma train" in capsys.readouterr().out


def test_models_lists_counts_of_all_six(capsys):
    assert main(["models", "--defects", "0.3-Bottom", "--all-sites"]) == 0
    printed = capsys.readouterr().out
    for words in ("11,173,962", "23,520,842", "6,956,298", "11,260,354", "20,040,522", "7,400,026"):
        assert words in printed
    assert "block2.0.shortcut.bn" in printed
    assert "30.00%" in printed


def test_models_says_which_networks_lack_a_variant(capsys):
    assert main(["models", "--defects", "0.1-BottomDC"]) == 0
    printed = capsys.readouterr().out
    assert "10,211,859" in printed
    assert printed.count("not available") == 5


def test_info_and_masks_of_a_run(out, capsys):
    assert main(["train", "--name", "x", *TINY]) == 0
    capsys.readouterr()
    assert main(["info", str(out / "x")]) == 0
    printed = capsys.readouterr().out
    for words in ("resnet18, 0.5-Bottom, width 4", "stem.bn", "50.00%", "test/acc1", "recipe"):
        assert words in printed
    facts = dict(line.split(None, 1) for line in printed.splitlines() if " " in line.strip())
    assert facts["recipe"].split() == ["quick"] and facts["precision"].split() == ["float32"]
    assert "training seed  0" in printed and "best epoch" in printed
    assert main(["masks", str(out / "x" / "best.safetensors"), "--out", "m.png"]) == 0
    assert "4x28x28" in capsys.readouterr().out
    with Image.open("m.png") as image:
        assert image.size[0] > 500
    small = ["masks", "--arch", "resnet18", "--width", "2", "--channels", "1"]
    for options in (["--out", "m.PDF"], ["--picture-format", "pdf"]):
        assert main([*small, *options]) == 0
        assert Path(options[1].replace("pdf", "masks.pdf")).read_bytes().startswith(b"%PDF")


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
