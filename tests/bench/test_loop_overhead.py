"""The measurement of the loop's own share runs end to end on a CPU."""

import json

import pytest
from scotoma.bench import loop_overhead

pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")


def test_it_reports_times_and_settings(capsys, monkeypatch):
    monkeypatch.setattr(loop_overhead, "REPEATS", 2)
    loop_overhead.main(["--device", "cpu", "--width", "4", "--batch-size", "16"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("bare_step_ms", "loop_step_ms", "data_step_ms"):
        assert result[name] > 0
    assert result["data_step_ms"] < result["loop_step_ms"]
    assert (result["arch"], result["defects"]) == ("resnet18", "0.3-Bottom")
    assert result["loop_share"] < 1
