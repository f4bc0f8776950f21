"""``scotoma doctor``: its lines, its verdicts, and that a broken check is one of them."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from doctor_lines import GPU, NOTHING, by_what
from scotoma.bench.doctor import command, libraries
from scotoma.bench.doctor.line import ABSENT, FAILED, OK, WARNING, Line, examine
from scotoma.defective import UserError


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
def test_a_healthy_cpu(no_compile, empty, capsys):
    assert command.main([]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    # How long the folder's name is depends on how many processes run the tests.
    assert max(map(len, text.replace(str(empty), "/tmp/a-folder").splitlines())) <= 100
    assert "\x1b" not in text
    for topic in dict.fromkeys(check.topic for check in command.CHECKS):
        assert topic in lines
    assert "nothing is wrong" in text
    assert "  ok        bn_mask_add_relu projection" in text
    assert "-> scotoma train --dataset cifar10 --download" in text
    assert lines[-1] == "Nothing failed. Start with: scotoma train"
    assert not list(empty.iterdir())  # an examination leaves nothing behind


def test_json_says_the_same(no_compile, empty, capsys):
    assert command.main(["--json", "--quick"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "ok" and report["quick"]
    assert report["machine"]["torch"] == torch.__version__
    lines = {line["what"]: line for line in report["lines"]}
    assert lines["torch"] == {
        "topic": "Python and libraries",
        "what": "torch",
        "verdict": "ok",
        "detail": torch.__version__,
        "fix": "",
        "values": {"version": torch.__version__, "minimum": libraries.MINIMUM["torch"]},
    }
    assert sum(report["counts"].values()) == len(report["lines"])
    assert "apply_mask" not in lines and "torch.compile" not in lines


def test_bad_options():
    with pytest.raises(UserError, match="--quick"):
        command.main(["--quik"])


def test_a_broken_check_is_a_line(monkeypatch, empty, capsys):
    """What it said before is kept, and the others go on."""

    def strange_check(examination):
        yield Line("before", OK, "said")
        raise OSError("No space left on device")

    def fine_check(examination):
        return [Line("fine", OK, "all well")]

    checks = (command.Check("Odd", strange_check), command.Check("Odd", fine_check))
    monkeypatch.setattr(command, "CHECKS", checks)
    assert command.main([]) == 1
    text = capsys.readouterr().out
    assert "ok        before" in text and "ok        fine" in text
    assert "failed    strange check" in text and "OSError: No space left" in text
    assert "-> free some disk space" in text
    assert "Failed: strange check." in text and "Traceback" not in text


# Libraries


def test_bounds_are_those_of_the_package():
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    project = tomllib.loads(project.read_text())["project"]
    optional = project["optional-dependencies"]
    needed = [*project["dependencies"], *optional["train"], *optional["bench"]]
    declared = dict(text.split(";")[0].split(">=") for text in needed if ">=" in text)
    declared["Python"] = project["requires-python"].removeprefix(">=")
    assert declared == libraries.MINIMUM


@pytest.mark.parametrize(
    ("found", "old"),
    [("2.11.0", False), ("2.10.9+cu126", True), ("2.11", False), ("2.9", True), ("3", False),
     ("2", True), ("2.11.0a0+git123", False)],
)  # fmt: skip
def test_versions_compare_as_numbers(found, old):
    assert libraries.too_old(found, "2.11") == old


def test_unsupported_and_missing_libraries(monkeypatch):
    versions = {"torch": "2.9.1+cu128", "jsonargparse": None, "triton": None}
    real = libraries.found_version
    monkeypatch.setattr(
        libraries, "found_version", lambda n: versions[n] if n in versions else real(n)
    )
    monkeypatch.setattr(sys, "platform", "linux")
    lines = by_what(libraries.libraries(NOTHING))
    assert lines["torch"].verdict == FAILED
    assert lines["torch"].detail == "2.9.1+cu128; needs 2.11 or later"
    # Both, since only these two fit together.
    assert lines["torch"].fix.endswith('pip install --upgrade "torch>=2.11" "torchvision>=0.26"')
    assert lines["triton"].verdict == WARNING and '"triton>=3.6"' in lines["triton"].fix
    assert lines["other libraries"].verdict == FAILED
    assert '"jsonargparse>=4.53"' in lines["other libraries"].fix
    assert lines["torchvision"].verdict == OK


def test_a_library_that_does_not_import(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    line = by_what(libraries.libraries(NOTHING))["torchvision"]
    assert line.verdict == FAILED and "--force-reinstall torch torchvision" in line.fix


def test_cudnn_versions():
    assert libraries.cudnn_version(91002) == "9.10.2"
    assert libraries.cudnn_version(8902) == "8.9.2"


def test_examine_hides_warnings(recwarn):
    def check(examination):
        import warnings

        warnings.warn("noise", stacklevel=1)
        yield Line("x", OK, "fine")

    assert [line.what for line in examine(check, NOTHING)] == ["x"]
    assert not recwarn.list


def test_shared_fixes_are_said_once():
    lines = [Line(w, ABSENT, "d", fix) for w, fix in (("a", "F"), ("b", "F"), ("c", "G"))]
    text = [t.strip() for t, _ in command.rows(lines, 100)]
    assert [t.split()[-1] for t in text] == ["d", "d", "F", "d", "G"]
    long = Line("w", FAILED, "d", "x" * 150 + " --long-option " + "y" * 10)
    assert "x" * 150 in "".join(t for t, _ in command.rows([long], 100))
