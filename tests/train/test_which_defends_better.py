"""The examples that are scripts: one that answers the question on a CPU, one for a GPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
SCRIPTS = WHICH, LONGER = "which_defends_better.sh", "cifar10_transfer.sh"
ATTACKS = ("fgsm", "pgd")


def run(script: str, out: Path, timeout: int, *arguments: str, **settings) -> str:
    environment = {
        **os.environ,
        "FOLDER": str(out),
        "SCOTOMA": f"{sys.executable} -m scotoma.train.cli",
        "OMP_NUM_THREADS": "1",
        **{name: str(value) for name, value in settings.items()},
    }
    command = ["sh", str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cells(out: Path, kind: str) -> dict:
    found = [json.loads(p.read_text()) for p in (out / "evaluation/cells").glob(f"{kind}-*.json")]
    return {
        (
            c["results"]["shown"]["target"],
            c["identity"].get("set", {}).get("attack", {}).get("attack"),
        ): c["results"]
        for c in found
    }


def check(out: Path, printed: str) -> dict:
    """Every number that is printed is one of the cells', and every cell is there."""
    transfer = cells(out, "transfer")
    names = ("standard", "0.3-Bottom")
    assert set(transfer) == {(name, attack) for name in names for attack in ATTACKS}
    assert set(cells(out, "clean")) == {(name, None) for name in names}
    table = (out / "evaluation/table.md").read_text()
    for results in transfer.values():
        rate = results["defence"]
        assert rate["n"] > 0 and results["relation"] == (
            "gray-box" if (results["shown"]["target"] == "standard") else "transfer"
        )
        assert f"{100 * rate['rate']:.2f}" in table and f"{100 * rate['rate']:.2f}" in printed
    assert "P1" in table and (out / "evaluation/transfer.png").is_file()
    return {key: results["defence"] for key, results in transfer.items()}


@pytest.mark.slow
def test_small(tmp_path):
    """Smaller networks, fewer images."""
    small = {"WIDTH": 6, "EPOCHS": 4, "SAMPLES": 60, "TRAIN": "--train-limit 1000"}
    check(tmp_path / "out", run(WHICH, tmp_path / "out", 300, **small))


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_trained_stays_and_what_was_begun_goes_on(script, tmp_path):
    """With a scotoma that only says what it is asked, of three networks in three states."""
    runs = tmp_path / "runs"
    for name in ("source", "0.3-Bottom"):
        (runs / name).mkdir(parents=True)
        (runs / name / "config.yaml").touch()
    (runs / "0.3-Bottom" / "summary.json").touch()
    printed = run(script, tmp_path, 20, SCOTOMA="echo", TRAIN="--width 3").splitlines()
    assert printed[0] == f"train --resume {runs}/source"
    assert f"{runs}/0.3-Bottom is trained already" in printed
    (begun,) = [line for line in printed if line.startswith("train --name standard ")]
    assert "--defects standard --seed 0 " in begun and f" --out {runs} " in begun
    assert begun.endswith(" --width 3")  # the user's options have the last word
    assert printed[-1].startswith("evaluate ")


@pytest.mark.slow
def test_as_documented(tmp_path):
    """The defective network defends better, beyond both intervals, as the page says.

    Run again, nothing is made again.
    """
    out = tmp_path / "out"
    rates = check(out, run(WHICH, out, 900))
    defective, standard = rates["0.3-Bottom", "pgd"], rates["standard", "pgd"]
    assert defective["low"] > standard["high"]
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    again = run(WHICH, out, 200)
    assert again.count("is trained already") == 3
    assert len(re.findall("it is reused", again)) == 2 and "6 of 6 results were there" in again
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert check(out, again) == rates


@pytest.mark.slow
def test_the_experiment_for_a_gpu_runs(image_folder, tmp_path):
    """The longer script, on a handful of tiny images: every command and option of it works."""
    folder = image_folder(size=(16, 16), train=40, test=20)
    train = "--width 4 --epochs 4 --batch-size 20 --lr 0.1 --device cpu"
    run(LONGER, tmp_path / "out", 300, str(folder), TRAIN=train, SAMPLES=20)
    transfer = list((tmp_path / "out/evaluation/cells").glob("transfer-*.json"))
    assert len(transfer) == 4 * 6
    assert (tmp_path / "out/evaluation/noise.png").is_file()
