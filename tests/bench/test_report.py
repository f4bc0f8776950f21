"""``scotoma bench report``: files in and out, and which rows count."""

import json
from pathlib import Path

import matplotlib
import pytest
from PIL import Image
from report_rows import (
    NEW,
    OLD,
    cells,
    convergence,
    layer,
    loaded,
    one_of_each,
    operator,
    profile,
    row,
    step,
    text_of,
    written,
)
from scotoma.bench import harness
from scotoma.bench.report import command, html, load, output, page, plots
from scotoma.defective import UserError

# The command


def test_an_empty_checkout_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main([]) == 0
    text = (tmp_path / "docs/performance.md").read_text()
    assert "No figure exists yet" in text and "`scotoma bench step`" in text
    assert "0 met, 0 missed, 25 not measured" in text
    assert command.main(["--check"]) == 0
    # Nothing but CPU figures is nothing still.
    written(tmp_path / "bench/results/test-cpu/step.jsonl", [step("eager", 77_777.0, gpu=False)])
    assert command.main(["--check"]) == 1
    assert command.main([]) == 0
    text = (tmp_path / "docs/performance.md").read_text()
    assert "No figure exists yet" in text and "1 cases measured on a CPU" in text
    assert "77.7" not in text and "77,7" not in text


def test_results_of_this_machines_cpu_change_nothing(tmp_path, monkeypatch):
    """So that a committed page is up to date on everybody's machine."""
    monkeypatch.chdir(tmp_path)
    assert command.main([]) == 0
    path = Path(harness.default_path("CPU x86_64", "step"))
    written(tmp_path / path, [step("eager", 77_777.0, gpu=False)])
    assert command.main(["--check"]) == 0
    assert command.main(["--cpu"]) == 0
    assert "Test GPU (no GPU)" in (tmp_path / "docs/performance.md").read_text()
    # Named, it is read.
    assert command.main([str(path)]) == 0
    assert "1 cases measured on a CPU" in (tmp_path / "docs/performance.md").read_text()


def test_the_page_in_the_repository_is_up_to_date(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert command.main(["--check"]) == 0, capsys.readouterr().out


def test_files_are_the_same_each_time(tmp_path, capsys):
    results = written(tmp_path / "in" / "a.jsonl", one_of_each())
    (tmp_path / "in" / "trace.json.gz").write_bytes(b"")
    once, again = (
        [str(results.parent), "--out", str(tmp_path / n), "--html", str(tmp_path / n / "p.html")]
        for n in ("one", "two")
    )
    assert command.main(once) == command.main(again) == 0
    one = {p.relative_to(tmp_path / "one"): p for p in (tmp_path / "one").rglob("*") if p.is_file()}
    assert len(one) == 2 + 5
    for name, path in one.items():
        assert path.read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    text = (tmp_path / "one/performance.md").read_text()
    pictures = sorted((tmp_path / "one/images/performance").iterdir())
    assert all(f"](images/performance/{p.name})" in text for p in pictures)
    assert "[file](../in/trace.json.gz)" in text
    for path in pictures:
        with Image.open(path) as image:
            assert set(image.info) == {"Source", "dpi"} and image.width > 600

    assert command.main([*once, "--check"]) == 0
    # Another format lies beside what the pages show, and goes when it is not asked for.
    assert command.main([*once, "--picture-format", "pdf"]) == 0
    further = [path.with_suffix(".pdf") for path in pictures]
    assert all(path.read_bytes().startswith(b"%PDF") for path in further)
    assert (tmp_path / "one/performance.md").read_text() == text
    assert command.main([*once, "--picture-format", "pdf", "--check"]) == 0
    assert command.main([*once, "--check"]) == 1
    assert f"{further[0]} is of no picture" in capsys.readouterr().out
    assert command.main(once) == 0
    assert sorted(pictures[0].parent.iterdir()) == pictures

    pictures[0].unlink()
    assert command.main([*once, "--check"]) == 1
    assert f"{pictures[0]} is missing" in capsys.readouterr().out and not pictures[0].exists()


def test_a_stale_file_is_found(tmp_path, monkeypatch):
    rows = one_of_each()[:2]
    place = output.Place.of(tmp_path / "page.md", tmp_path / "page.html")
    document = page.build(loaded(tmp_path, rows))
    output.write(document, place)
    (picture,) = place.pictures.iterdir()
    assert output.stale(document, place) == []
    data = picture.read_bytes()
    for path, spoiled, words in (
        (picture, data[:-1] + b"?", "is stale"),
        (picture.parent / "old.png", data, "is of no picture on the page"),
        (place.html, b"other", "is stale"),
        (place.page, place.page.read_bytes() + b" ", "is stale"),
    ):
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(spoiled)
        assert (path, words) in output.stale(document, place)
        assert path.read_bytes() == spoiled  # nothing was mended
        output.write(document, place)
        assert (path.read_bytes() if path.exists() else None) == before
    (picture.parent / "own.png").write_bytes(b"a picture that somebody else put there")
    output.write(document, place)
    assert (picture.parent / "own.png").exists()

    # Another matplotlib draws the same rows with other pixels; other rows make it stale.
    monkeypatch.setattr(matplotlib, "__version__", "0.0-test")
    later = page.build(loaded(tmp_path, rows))
    assert later.pictures()[0].file() != data
    assert output.stale(later, place) == []
    rows = [step("eager", 201.0), rows[1]]
    found = [path for path, _ in output.stale(page.build(loaded(tmp_path, rows)), place)]
    assert found == [picture, place.page, place.html]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere.jsonl"], ["nowhere.jsonl", "does not exist"]),
        (["folder"], ["folder", "no results"]),
        (["notes.txt"], ["notes.txt", "no file of JSON lines"]),
        (["empty.jsonl"], ["empty.jsonl", "is empty"]),
        (["--out", "notes.txt"], ["--out", "notes.txt", ".md"]),
        (["--html", "folder"], ["--html", "folder"]),
        (["--html", "page.md"], ["--html", "page.md", ".html"]),
    ],
)
def test_wrong_input_is_named(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("some words\n[1]\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError) as error:
        command.main(options)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "docs").exists()


# Which rows count


def test_the_newest_row_of_a_case_wins(tmp_path):
    rows = [
        step("fused", 100.0, commit="new", time=NEW),
        step("fused", 150.0, commit="new", time=OLD),
        step("fused", 200.0, commit="old", time=OLD),
        step("fused", 300.0, commit="older", time="2025-01-01T00:00:00"),
        step("fused", 400.0, commit="old", time="2026-01-02T03:04:05+01:00"),  # an hour before
        step("fused", 500.0, batch_size=128),
    ]
    for order in (rows, rows[::-1]):
        found = loaded(tmp_path, order)
        newest = {r["batch_size"]: r["times"]["median_us"] for r in found.rows("cuda", "Test GPU")}
        assert newest == {512: 100.0, 128: 500.0}
        ((before, after),) = found.pairs("cuda", "Test GPU")
        assert (before["times"]["median_us"], after["times"]["median_us"]) == (200.0, 100.0)
        assert found.superseded["cuda", "Test GPU"] == 4


def test_damaged_and_unknown_rows_are_counted(tmp_path, no_pictures, monkeypatch):
    monkeypatch.setattr(load, "LONGEST_LINE", 5000)
    path = written(tmp_path / "rows.jsonl", [step("fused", 1.0), row("new_benchmark")])
    wrong = json.dumps(step("fused", 2.0, time=NEW))
    with path.open("a") as file:
        file.write('{"half": \n')
        file.write("[" * 4000 + "\n")
        file.write(json.dumps("x" * 12_000) + "\n")  # too long to be a row
        file.write(wrong.replace("512", "NaN") + "\n" + wrong.replace("512", "1e999") + "\n")
        file.write(wrong.replace("median_us", "mean_us") + "\n")
    found = load.load([path])
    assert found.files[path] == 1 and found.unknown == {"new_benchmark": 1}
    assert sum(found.damaged[path].values()) == 6
    text = text_of(page.build(found), tmp_path)
    assert "5 not a JSON object; 1 step row whose field times" in text.replace("\\", "")
    assert "new_benchmark (1)" in text.replace("\\", "")


@pytest.mark.parametrize(
    "good",
    [
        *(step("fused", 1.0), layer("ours", 1.0), operator("triton", 1.0)),
        *(convergence("fused", 0, 1.0), profile("fused")),
    ],
    ids=lambda good: good["benchmark"],
)
def test_no_row_breaks_the_page(tmp_path, no_pictures, good):
    """Every field in turn is missing or of another type: it is shown, or counted as damaged."""
    bad = [None, True, -1, "", "x", [], [None], {}, {"x": None}, 10**400, [{"x": 1}]]
    rows = []
    for name in good:
        rows += [good | {name: value} for value in bad]
        rows += [{k: v for k, v in good.items() if k != name}]
        if isinstance(good[name], dict):
            rows += [good | {name: good[name] | {k: v}} for k in good[name] for v in bad]
    for number, one in enumerate(rows):
        # Cases of their own, so that each is shown.
        for name in ("contestant", "backend"):
            if isinstance(one.get(name), str):
                one[name] += str(number)
    found = loaded(tmp_path, [*rows, good])
    document = page.build(found, cpu=True)
    text_of(document, tmp_path)
    html.render(document, tmp_path / "p.html")
    counted = sum(map(sum, (d.values() for d in map(dict, found.damaged.values()))))
    used = sum(found.files.values())
    assert used + counted + sum(found.unknown.values()) == len(rows) + 1
    assert counted > len(rows) / 3


def test_cpu_and_gpu_never_meet(tmp_path, no_pictures):
    rows = [step("eager", 200.0), step("fused", 100.0)]
    rows += [step("eager", 50_000.0, gpu=False, device="Test CPU")]
    rows += [step("fused", 300.0, device="Other Test GPU")]
    found = loaded(tmp_path, rows)
    assert "Test CPU" not in text_of(page.build(found), tmp_path)
    text = text_of(page.build(found, cpu=True), tmp_path)
    parts = {p.split("\n")[0]: p for p in text.split("\n## ")}
    assert "only that the commands work" in parts["Test CPU (no GPU)"]
    assert "50.000" in parts["Test CPU (no GPU)"]
    assert "Targets" not in parts["Test CPU (no GPU)"]
    assert "50.000" not in parts["Test GPU"] and "0.300" not in parts["Test GPU"]
    # Without a rival on its own device nothing is faster than anything.
    assert "2.00x" in parts["Test GPU"] and "x |" not in parts["Other Test GPU"].split("###")[-1]
    both = [step("eager", 1.0), step("eager", 1.0, gpu=False)]
    for draw in (plots.draw_steps, plots.draw_roofline, plots.draw_layers, plots.draw_families):
        for wrong in (both, []):
            with pytest.raises(ValueError, match="exactly one device"):
                draw(wrong)


def test_rates_of_a_cpu_are_small(tmp_path, no_pictures):
    ceilings = {"copy_gb_per_s": 10.0, "matmul_tflop_per_s": {"float32": 0.0912}}
    rates = {"times": {"median_us": 100.0, "p10_us": 99.0, "p90_us": 101.0}, "ceilings": ceilings}
    row = operator("eager", 1.0, gpu=False, device="Test CPU", tflop_per_s=0.00012, **rates)
    text = text_of(page.build(loaded(tmp_path, [row]), cpu=True), tmp_path)
    assert "float32 91.2 GFLOP/s" in text and "TFLOP" not in text and "| 0.12 |" in text
    axes = plots.draw_roofline([row]).axes[0]
    assert axes.get_ylabel() == "GFLOP/s"
    copy, ceiling, point = axes.lines
    assert [copy.get_ydata()[-1], ceiling.get_ydata()[0]] == pytest.approx([91.2, 91.2])
    assert copy.get_xdata()[-1] == pytest.approx(9.12) and point.get_ydata() == [100.0]
    assert plots.draw_roofline([operator("triton", 1.0)]).axes[0].get_ylabel() == "TFLOP/s"


def test_families_on_a_cpu_add_up_to_a_profiled_step(tmp_path, no_pictures):
    part = {"ms": 20.0, "percent": 40.0, "launches": 4}
    families = {"convolution": part, "gaps": part | {"ms": 5.5, "launches": 0}}
    of = {"gpu": False, "device": "Test CPU", "busy_percent": None, "step_ms": 18.5}
    row = profile("eager", families=families, **of)
    document = page.build(loaded(tmp_path, [row, profile("fused", families={}, **of)]), cpu=True)
    text = text_of(document, tmp_path)
    assert "eager calls" in text and "eager launches" not in text and "busy (%)" not in text
    assert "families and gaps add up to a profiled step" in text
    found = {line[0]: line[1] for line in cells(document, "family")}
    assert found["profiled step (ms)"] == "25.500"
    assert found["step without the profiler (ms)"] == "18.500"
    assert plots.draw_families([row]).axes[0].get_xlabel() == "ms per profiled step"
    assert plots.draw_families([profile("eager")]).axes[0].get_xlabel() == "ms per step"
    document = page.build(loaded(tmp_path, [profile("eager")]))
    assert cells(document, "family")[2][0] == "whole step (ms)"
    assert "eager launches" in text_of(document, tmp_path)


def test_the_copy_line_of_a_roofline_ends_at_the_ceiling():
    beyond = operator("triton", 1.0, flops=10**9)  # an intensity to the right of where they meet
    axes = plots.draw_roofline([beyond]).axes[0]
    copy, ceiling = axes.lines[:2]
    assert copy.get_ydata()[-1] == pytest.approx(ceiling.get_ydata()[0])
    assert copy.get_xdata()[-1] == pytest.approx(ceiling.get_xdata()[0])
