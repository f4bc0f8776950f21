"""``scotoma bench report``: a page that leaves nothing out, mixes nothing, and trusts no row."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from scotoma.bench import results
from scotoma.bench.report import command, compare, html, load, markdown, output, page, plots, schema
from scotoma.bench.report.document import Bullets, Code, Document, Link, Paragraph, Strong, Table
from scotoma.bench.report.sections import album, changes, gaps, losses, targets
from scotoma.defective import UserError

HOSTILE = (
    "$\\bad{$ a|b <script>alert(1)</script> **c** `d` [e](http://f) \\| "
    "\x1b[2J\u202e\ud800\n# h & i"
)
OLD, NEW = "2026-01-02T03:04:05+00:00", "2026-02-03T04:05:06+00:00"


def row(benchmark, *, device="Test GPU", gpu=True, commit="aaa1111", time=OLD, **values):
    """Made up, of no device that exists."""
    machine = {"device": device, "kind": "cuda" if gpu else "cpu", "commit": commit}
    machine |= {"torch": "2.0-test", "triton": "3.0-test", "driver": "1.0-test"}
    head = {"benchmark": benchmark, "time": time, "machine": machine, "settings": {"repeats": 3}}
    clocks = {"clocks.sm": "1234", "temperature.gpu": "[N/A]"}
    return head | {"problems": [], "clocks": clocks} | values


def spread(median, noise=0.01):
    return {
        "median_us": median,
        "p10_us": median * (1 - noise),
        "p90_us": median * (1 + noise),
    }


def step(contestant, median, **values):
    batch = values.get("batch_size", 512)
    values = {
        "arch": "resnet18",
        "defects": "standard",
        "width": None,
        "image_size": 32,
        "batch_size": batch,
        "work": "train",
        "contestant": contestant,
        "dtype": "bfloat16",
        "times": spread(median) if median else {},
        "images_per_s": batch * 1e6 / median if median else None,
        "peak_bytes": 2**30,
        "mask_overhead_percent": None,
        "in_turns": True,
        "prepare_s": 1.5,
    } | values
    return row("step", **values)


def layer(contestant, median, users="resnet18 x3, vgg19 x2", **values):
    least = {"forward": 1_000_000, "backward": 2_000_000, "both": 3_000_000}
    times = {
        name: spread(median * bytes / 1e6) | {"copy_percent": 50.0} for name, bytes in least.items()
    }
    values = {
        "copy_gb_per_s": 1000.0,
        "site": {"name": "4x16x8x8 none", "users": users},
        "contestant": contestant,
        "dtype": "bfloat16",
        "bytes": least,
        "times": {"cold": {"graph": times, "wall": times}, "hot": {"graph": times}},
        "saved_bytes": 2**20,
        "peak_bytes": 2**21,
    } | values
    return row("layers", **values)


def operator(backend, median, **values):
    values = {
        "operator": "bn_mask_add_relu",
        "kind": "none",
        "pass": "forward",
        "backend": backend,
        "shape": [4, 16, 8, 8],
        "detail": "",
        "dtype": "bfloat16",
        "bytes": 10**6,
        "flops": 10**7,
        "times": spread(median),
        "ceilings": {"copy_gb_per_s": 1000.0, "matmul_tflop_per_s": {"bfloat16": 100.0}},
    } | values
    return row("roofline", **values)


def convergence(contestant, seed, seconds, **values):
    history = [{"epoch": e, "seconds": 10.0 * e, "accuracy": 0.3 * e} for e in (1, 2, 3)]
    values = {
        "arch": "resnet18",
        "defects": "standard",
        "dataset": "fake",
        "seed": seed,
        "contestant": contestant,
        "target": 0.8,
        "seconds_to_target": seconds,
        "history": history,
        "accuracy": 0.9,
    } | values
    return row("convergence", **values)


def profile(contestant, **values):
    part = {"ms": 1.0, "percent": 50.0, "launches": 4}
    values = {
        "arch": "resnet18",
        "defects": "standard",
        "width": None,
        "image_size": 32,
        "batch_size": 512,
        "dtype": "bfloat16",
        "contestant": contestant,
        "step_ms": 2.0,
        "busy_percent": 50.0,
        "families": {"convolution": part, "gaps": part | {"launches": 0}},
        "trace": "trace.json.gz",
    } | values
    return row("profile", **values)


def one_of_each():
    return [
        *(step("eager", 200.0), step("fused", 100.0), step("compile", 90.0)),
        *(step("reference", 900.0, dtype="float32"), step("fused-graph", None, problems=["bad"])),
        *(layer("ours", 3.0), layer("eager", 6.0), layer("eager-fp16", 2.0, dtype="float16")),
        *(operator("triton", 2.0), operator("eager", 5.0)),
        *(convergence("eager", 0, 30.0), convergence("fused", 0, 20.0)),
        *(profile("eager"), profile("fused")),
    ]


def written(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def loaded(tmp_path, rows):
    return load.load([written(tmp_path / "rows.jsonl", rows)])


@pytest.fixture
def no_pictures(monkeypatch):
    """Every picture is one of no rows."""

    def draw(self, draw, rows, alt, *words):
        return album.Picture(f"{'-'.join(words)}.png", alt, b"")

    monkeypatch.setattr(album.Album, "draw", draw)


def text_of(document, tmp_path):
    return markdown.render(document, tmp_path / "page.md", tmp_path / "images")


def cells(document, first):
    """The rows of the table that has this first heading, as plain text."""
    found = [b for b in document.blocks if isinstance(b, Table) and b.names[0] == first]
    return [[getattr(c, "text", c) for c in line] for table in found for line in table.rows]


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
    path = Path(results.default_path("CPU x86_64", "step"))
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
    assert later.pictures()[0].data != data
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
                draw(wrong, io.BytesIO())


# What the page says


def verdicts(rows):
    return {
        (t.arch, t.defects, t.rival): targets.judge(t, rows)[1:]
        for t in targets.targets()
        if t.arch in ("resnet18", "vgg19")
    }


def test_runs_are_not_compared():
    """Two commands, two states of the machine: a later eager is not what an earlier fused beat."""
    steps = [step("fused", 100.0), step("eager", 50.0, time=NEW)]
    assert losses.step_losses(steps) == (0, [])
    assert losses.step_losses([steps[0], steps[1] | {"time": OLD}])[0] == 1
    layers = [layer("ours", 9.0), layer("eager", 5.0, time=NEW), layer("compile", 8.0)]
    compared, lines = losses.layer_losses(layers)
    assert compared and len(lines) == 1 and "slower than compile" in lines[0]
    # Another number format is another run, and stays.
    other = [
        layer("ours", 4.0, dtype="float16", time=NEW),
        layer("eager-fp16", 2.0, dtype="float16"),
    ]
    groups = compare.layer_groups([*layers, *other])
    assert {d: [r["contestant"] for r in rows] for d, rows in groups.items()} == {
        "bfloat16": ["ours", "compile", "eager-fp16"],
        "float16": ["ours"],
    }


def test_targets():
    rows = [
        *(step("eager", 160.0), step("max-autotune", 109.0)),
        *(step("fused", 110.0), step("fused-graph", 100.0)),
        step("fused-compile", 50.0, problems=["losses differ"]),
        step("fused", 1.0, dtype="float16"),
        step("fused", 1.0, work="evaluate"),
        step("fused", 1.0, width=16),
        step("fused", 1.0, batch_size=128),
    ]
    found = verdicts(rows)
    name = Code("fused-graph")
    assert found["resnet18", "standard", "eager"] == (name, "512", "1.60x", "met")
    assert found["resnet18", "standard", "max-autotune"] == (name, "512", "1.09x", "missed")
    assert found["resnet18", "0.3-Bottom", "eager"][-1] == "not measured"
    # Of other networks the largest batch stands in; of ResNet-18 none does.
    small = [step("fused", 100.0, batch_size=b, arch="vgg19") for b in (64, 128)]
    small += [step("compile", 100.0, batch_size=128, arch="vgg19")]
    found = verdicts([*small, step("fused", 1.0, batch_size=128)])
    assert found["vgg19", "standard", "compile"] == (Code("fused"), "128", "1.00x", "met")
    assert found["resnet18", "standard", "eager"][-1] == "not measured"
    # What another run measured is no rival.
    apart = [step("fused", 100.0, time=NEW), step("fused-graph", 200.0), step("eager", 900.0)]
    found = verdicts(apart)["resnet18", "standard", "eager"]
    assert found == (Code("fused-graph"), "512", "4.50x", "met")
    assert verdicts(apart[::2])["resnet18", "standard", "eager"][-1] == "not measured"
    # A rival that failed is beaten by nobody.
    failed = [step("fused", 100.0), step("eager", 900.0, problems=["bad"])]
    assert verdicts(failed)["resnet18", "standard", "eager"][-1] == "not measured"


@pytest.mark.parametrize(("cost", "verdict"), [(2.0, "met"), (2.01, "missed"), (None, "not")])
def test_cost_of_masks(cost, verdict):
    masked = step("fused", 100.0, defects="0.3-Bottom", mask_overhead_percent=cost)
    slower = step("fused-compile", 200.0, defects="0.3-Bottom", mask_overhead_percent=99.0)
    assert verdicts([masked, slower])["resnet18", "0.3-Bottom", ""][-1].startswith(verdict)


def test_all_losses_and_problems_are_listed(tmp_path, no_pictures):
    rows = [*one_of_each(), operator("cudnn", 1.0), convergence("compile", 0, 5.0)]
    rows += [step("max-autotune", 80.0), step("fused-compile", 70.0)]
    document = page.build(loaded(tmp_path, rows))
    case = "resnet18 standard, train, bfloat16, 32 pixels, batch 512"
    assert cells(document, "case") == [
        [case, "fused", "max-autotune", "1.25x"],
        [case, "fused", "compile", "1.11x"],
        ["resnet18 standard, fake to 80.0%", "fused", "compile", "4.00x"],
        ["bn_mask_add_relu, none, forward, 4x16x8x8, bfloat16", "triton", "cudnn", "2.00x"],
    ]
    bullets = [line for b in document.blocks if isinstance(b, Bullets) for line in b.items]
    assert bullets[0].startswith("bfloat16: 4x16x8x8 none: slower than eager-fp16: cold graph")
    assert bullets[1:] == [f"step: {case}: fused-graph: bad"]
    # Our fastest loses to nobody here, another of ours does.
    text = text_of(document, tmp_path)
    assert "our fastest contestant loses" not in text
    assert "another of our contestants loses: 2" in text


def test_no_losses_are_said():
    words = losses.blocks([step("fused", 1.0), step("eager", 2.0)])[1].inline.text
    assert words.startswith("No losses") and "1 comparisons" in words
    assert "beside another" in losses.blocks([step("fused", 1.0)])[1].inline.text


def test_changes_beyond_noise(tmp_path):
    rows = []
    for name, after in (("fused", 101.9), ("eager", 103.0), ("compile", 90.0)):
        rows += [step(name, 100.0), step(name, after, commit="new", time=NEW)]
    pairs = loaded(tmp_path, rows).pairs("cuda", "Test GPU")
    shown = changes.blocks(pairs)[-1].rows
    assert [(line[1].text, line[-1]) for line in shown] == [("eager", "+3.0"), ("compile", "-10.0")]
    assert all(line[2:4] == ["aaa1111", "new"] for line in shown)


def test_where_the_time_goes():
    """1 MB at 1000 GB/s is 1 us: forward 3 us has a gap of 2, three times in ResNet-18."""
    rows = [layer("ours", 3.0), layer("eager", 9.0), layer("ours", 99.0, problems=["wrong"])]
    found = {gap.step: gap for gap in gaps.gaps(rows)}
    assert found["forward"].all_uses_us == pytest.approx(6.0)
    assert found["backward"].all_uses_us == pytest.approx(12.0)
    assert found["forward"].network == "resnet18"
    assert gaps.most_uses("headline") == (None, 1)
    many = [layer("ours", 2.0 + n, site={"name": f"S{n}", "users": "headline"}) for n in range(9)]
    (*_, table) = gaps.blocks(many)
    assert len(table.rows) == 10
    assert table.rows[0][0] == "S8" and table.rows[0][2] == "backward"


def test_seeds_that_missed_leave_no_mean(tmp_path, no_pictures):
    rows = [convergence("fused", seed, seconds) for seed, seconds in enumerate((10.0, 14.0))]
    rows += [convergence("eager", 0, 20.0), convergence("eager", 1, None)]
    document = page.build(loaded(tmp_path, rows))
    found = {line[3]: line for line in cells(document, "network") if len(line) == 9}
    assert found["fused"][4:7] == ["0: 10.0, 1: 14.0", "12.0", "2.00"]
    assert found["eager"][4:7] == ["0: 20.0, 1: missed", "-", "-"]


# Rows are not trusted


class Tags(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.values, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.values += attrs

    def handle_data(self, data):
        self.words.append(data)


def hostile_rows():
    site = {"name": HOSTILE, "users": HOSTILE}
    clocks = {"clocks.sm": HOSTILE}
    rows = [
        step("fused", 100.0, arch=HOSTILE, defects=HOSTILE, work=HOSTILE, clocks=clocks),
        step(HOSTILE, 90.0, arch=HOSTILE, defects=HOSTILE, work=HOSTILE, problems=[HOSTILE]),
        *(layer("ours", 3.0, site=site), layer(HOSTILE, 2.0, site=site)),
        *(operator("triton", 3.0, operator=HOSTILE), operator(HOSTILE, 2.0, operator=HOSTILE)),
        convergence(HOSTILE, 0, 5.0, dataset=HOSTILE),
        profile(
            HOSTILE, trace="../../" + HOSTILE, families={HOSTILE: profile("x")["families"]["gaps"]}
        ),
        row(HOSTILE),
    ]
    for number, one in enumerate(rows):
        one["machine"] |= {"device": HOSTILE, "torch": HOSTILE, "commit": HOSTILE}
        rows[number] = one
    return rows


def test_nothing_in_a_row_is_markup(tmp_path):
    """Drawn, too: a formula or an odd character in a name breaks no picture."""
    path = written(tmp_path / "rows.jsonl", hostile_rows())
    out = tmp_path / "out" / "page.md"
    options = [str(path), "--out", str(out), "--html", str(tmp_path / "page.html")]
    assert command.main(options) == 0
    seen = "$\\bad{$ a|b <script>alert(1)</script> **c** `d` [e](http://f) \\| [2J # h & i"

    web = Tags((tmp_path / "page.html").read_text())
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(web.tags)
    assert not [name for name, _ in web.values if name.startswith("on")]
    sources = [value for name, value in web.values if name == "src"]
    assert len(sources) == 5 and all(s.startswith("data:image/png;base64,") for s in sources)
    links = [value for name, value in web.values if name == "href"]
    assert links and all(link.startswith("#part-") for link in links)
    assert web.words.count(seen) > 10 and "\u202e" not in "".join(web.words)

    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(out.read_text())
    inline = [child for token in tokens for child in token.children or ()]
    assert not [t for t in inline if t.type == "html_inline"]
    blocks = {t.content.strip() for t in tokens if t.type == "html_block"}
    assert all(b.startswith(("<details>\n<summary>", "</details>")) for b in blocks)
    assert not [t for t in inline if t.type == "link_open" and "http" in t.attrs["href"]]
    texts = [t for t in tokens if t.type == "inline"]
    plain = ["".join(c.content for c in t.children if c.content) for t in texts]
    assert any(text == seen for text in plain) and sum(seen in text for text in plain) > 10
    # A table whose cells were parted by a row's pipe would be short of cells elsewhere.
    rendered = Tags(parser.render(out.read_text()))
    assert rendered.tags.count("table") == len(re.findall(r"^\| ---", out.read_text(), re.M))


@pytest.mark.parametrize(
    "text", [HOSTILE, "`", "``a`", "a\\|b", "|", "\\", " a ", "1. x", "- x", "+ x"]
)
def test_text_survives_markdown(tmp_path, text):
    cells = [text, Code(text), Strong(text), Link(text, tmp_path / "f (1).json")]
    document = Document("T", [Table(["n"] * 4, [cells]), Bullets([text]), Paragraph(text)])
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(text_of(document, tmp_path))
    found = [t for t in tokens if t.type == "inline"][5:]
    shown = ["".join(c.content for c in t.children if c.content) for t in found]
    expected = " ".join(
        text.replace("\x1b", "").replace("\u202e", "").replace("\ud800", "").split()
    )
    assert [s.strip() for s in shown] == [expected] * 6
    link = [c for t in found for c in t.children if c.type == "link_open"]
    assert [c.attrs["href"] for c in link] == ["f%20%281%29.json"]


def test_a_trace_elsewhere_is_not_linked(tmp_path, no_pictures):
    (tmp_path / "secret.json").write_text("")
    inside = tmp_path / "in"
    rows = [profile("fused", trace="../secret.json"), profile("eager", trace="t.json")]
    path = written(inside / "rows.jsonl", rows)
    case = inside / "profile" / "resnet18-standard-b512-train"
    case.mkdir(parents=True)
    for name in (inside / "t.json", case / "timeline.png"):
        name.write_text("")
    text = text_of(page.build(load.load([path])), tmp_path)
    assert "secret" not in text
    assert "[file](in/t.json)" in text
    assert f"[Timeline of a step]({case.relative_to(tmp_path)}/timeline.png)" in text


def test_every_benchmark_is_known_everywhere():
    assert set(schema.BENCHMARKS) == set(schema.KEYS)
    assert {r["benchmark"] for r in one_of_each()} == set(schema.BENCHMARKS)
    assert not [schema.fault(r) for r in one_of_each() if schema.fault(r)]
