"""``scotoma bench report``: which rows count, what the page says of them, files in and out."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from PIL import Image
from report_rows import (
    HOSTILE,
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
    written,
)
from scotoma.bench import harness
from scotoma.bench.report import page, plots, rows, tables, verdicts
from scotoma.defective import UserError
from scotoma.train.pages import Page, clean, write_files


def text_of(loaded, folder=Path(), **options):
    return page.build(loaded, out=folder / "page.md", **options).markdown()


# Files.


def test_an_empty_checkout_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert page.main([]) == 0
    text = (tmp_path / "docs/performance.md").read_text()
    assert "No figure exists yet" in text and "`scotoma bench step`" in text
    assert "0 met, 0 missed, 25 not measured" in text
    assert page.main(["--check"]) == 0
    # Nothing but CPU figures is nothing still.
    written(tmp_path / "bench/results/test-cpu/step.jsonl", [step("eager", 77_777.0, gpu=False)])
    assert page.main(["--check"]) == 1
    assert page.main([]) == 0
    text = (tmp_path / "docs/performance.md").read_text()
    assert "No figure exists yet" in text and "1 cases measured on a CPU" in text
    assert "77.7" not in text and "77,7" not in text


def test_results_of_this_machines_cpu_change_nothing(tmp_path, monkeypatch):
    """So that a committed page is up to date on everybody's machine."""
    monkeypatch.chdir(tmp_path)
    assert page.main([]) == 0
    path = Path(harness.default_path("CPU x86_64", "step"))
    written(tmp_path / path, [step("eager", 77_777.0, gpu=False)])
    assert page.main(["--check"]) == 0
    assert page.main(["--cpu"]) == 0
    assert "Test GPU (no GPU)" in (tmp_path / "docs/performance.md").read_text()
    # Named, it is read.
    assert page.main([str(path)]) == 0
    assert "1 cases measured on a CPU" in (tmp_path / "docs/performance.md").read_text()


def test_the_page_in_the_repository_is_up_to_date(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert page.main(["--check"]) == 0, capsys.readouterr().out


def test_files_are_the_same_each_time_and_checked(tmp_path, capsys):
    path = written(tmp_path / "in" / "a.jsonl", [*one_of_each()[:2], profile("eager")])
    (tmp_path / "in" / "trace.json.gz").write_bytes(b"")
    once, again = (
        [str(path.parent), "--out", str(tmp_path / n), "--html", str(tmp_path / n / "p.html")]
        for n in ("one", "two")
    )
    assert page.main(once) == page.main(again) == 0
    one = {p.relative_to(tmp_path / "one"): p for p in (tmp_path / "one").rglob("*") if p.is_file()}
    assert len(one) == 2 + 2
    for name, file in one.items():
        assert file.read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    text = (tmp_path / "one/performance.md").read_text()
    pictures = sorted((tmp_path / "one/images/performance").iterdir())
    assert all(f"](images/performance/{p.name})" in text for p in pictures)
    assert "[file](../in/trace.json.gz)" in text
    for file in pictures:
        with Image.open(file) as image:
            assert set(image.info) == {"dpi"} and image.width > 600

    assert page.main([*once, "--check"]) == 0
    # Another format lies beside what the pages show, and goes when it is not asked for.
    assert page.main([*once, "--picture-format", "svg", "--check"]) == 1
    assert page.main([*once, "--picture-format", "svg"]) == 0
    assert all(b"<svg" in path.with_suffix(".svg").read_bytes() for path in pictures)
    assert (tmp_path / "one/performance.md").read_text() == text
    assert page.main([*once, "--picture-format", "svg", "--check"]) == 0
    assert page.main(once) == 0
    assert sorted(pictures[0].parent.iterdir()) == pictures

    capsys.readouterr()
    pictures[0].unlink()
    assert page.main([*once, "--check"]) == 1
    assert f"{pictures[0]} is missing" in capsys.readouterr().out and not pictures[0].exists()


def test_a_stale_file_is_found(tmp_path, monkeypatch):
    found = one_of_each()[:2]
    place = page.Place.of(tmp_path / "page.md", tmp_path / "page.html")

    def built(of):
        return page.build(loaded(tmp_path, of), out=place.page)

    write_files(built(found).files(place.page, place.html))
    for path in (place.page, place.html):
        before = path.read_bytes()
        path.write_bytes(before.replace(b"Training", b"training").replace(b"sha256", b"") + b" ")
        spoiled = path.read_bytes()
        if path == place.html:
            path.write_bytes(spoiled.replace(built(found).digest().encode(), b""))
        assert page.stale(built(found), place) == [(path, "is stale")]
        path.write_bytes(before)
    # Another matplotlib draws the same rows with other pixels; other rows make it stale.
    monkeypatch.setattr(matplotlib, "__version__", "0.0-test")
    assert page.stale(built(found), place) == []
    other = built([step("eager", 201.0), found[1]])
    assert [path for path, _ in page.stale(other, place)] == [place.page, place.html]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere.jsonl"], ["nowhere.jsonl", "does not exist"]),
        (["folder"], ["folder", "no results"]),
        (["notes.txt"], ["notes.txt", "no file of JSON lines"]),
        (["empty.jsonl"], ["empty.jsonl", "is empty"]),
        (["wrong.jsonl"], ["wrong.jsonl:3", "step", "times.median_us"]),
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
    good = json.dumps(step("fused", 2.0))
    (tmp_path / "wrong.jsonl").write_text(f"{good}\n\n{good.replace('median_us', 'mean_us')}\n")
    with pytest.raises(UserError) as error:
        page.main(options)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "docs").exists()


# Which rows count.


def test_the_newest_row_of_a_case_wins(tmp_path, no_pictures):
    of = [
        step("fused", 100.0, commit="new", time=NEW),
        step("fused", 150.0, commit="new", time=OLD),
        step("fused", 200.0, commit="old", time=OLD),
        step("fused", 300.0, commit="older", time="2025-01-01T00:00:00"),
        step("fused", 400.0, commit="old", time="2026-01-02T03:04:05+01:00"),  # an hour before
        step("fused", 500.0, batch_size=128),
    ]
    for order in (of, of[::-1]):
        found = loaded(tmp_path, order)
        newest = {r["batch_size"]: r["times"]["median_us"] for r in found.rows("cuda", "Test GPU")}
        assert newest == {512: 100.0, 128: 500.0}
        ((before, after),) = found.pairs("cuda", "Test GPU")
        assert (before["times"]["median_us"], after["times"]["median_us"]) == (200.0, 100.0)
        assert "4 older rows" in text_of(found)


def test_damaged_lines_and_unknown_rows_are_counted(tmp_path, no_pictures):
    path = written(tmp_path / "rows.jsonl", [step("fused", 1.0), row("new_benchmark")])
    with path.open("a") as file:
        file.write('{"half": \n' + "[" * 4000 + "\n" + json.dumps("x" * 12_000) + "\n")
    found = rows.load([path])
    assert found.files == {path: (1, 3)} and found.unknown == {"new_benchmark": 1}
    text = text_of(found)
    assert "3 not a JSON object" in text and r"new\_benchmark (1)" in text


@pytest.mark.parametrize(
    "good", list({one["benchmark"]: one for one in one_of_each()}.values()), ids=list(rows.FIELDS)
)
def test_no_row_breaks_the_page(tmp_path, no_pictures, good):
    """Every field in turn is missing or of another type: it is shown, or its line is named."""
    assert rows.wrong(good, rows.FIELDS[good["benchmark"]]) is None
    bad = [None, True, -1, "x", [], [None], {}, {"x": None}, 10**400, float("nan"), [{"x": 1}]]
    of = []
    for name in good.keys() - {"benchmark"}:
        of += [good | {name: value} for value in bad]
        of += [{k: v for k, v in good.items() if k != name}]
        if isinstance(good[name], dict):
            of += [good | {name: good[name] | {k: v}} for k in good[name] for v in bad]
    fits = []
    for one in of:
        try:
            loaded(tmp_path, [one])
        except UserError as error:
            assert "rows.jsonl:1" in str(error)
        else:
            fits.append(one)
    assert len(fits) < 2 * len(of) / 3
    for number, one in enumerate(fits):
        # Cases of their own, so that each is shown.
        name = "backend" if good["benchmark"] == "roofline" else "contestant"
        one[name] = f"{one[name]}{number}"
    page.build(loaded(tmp_path, [*fits, good]), cpu=True).html()


def test_cpu_and_gpu_never_meet(tmp_path, no_pictures):
    of = [step("eager", 200.0), step("fused", 100.0)]
    of += [step("eager", 50_000.0, gpu=False, device="Test CPU")]
    of += [step("fused", 300.0, device="Other Test GPU")]
    found = loaded(tmp_path, of)
    assert "Test CPU" not in text_of(found)
    parts = {p.split("\n")[0]: p for p in text_of(found, cpu=True).split("\n## ")}
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
    one = operator("eager", 1.0, gpu=False, device="Test CPU", tflop_per_s=0.00012, **rates)
    text = text_of(loaded(tmp_path, [one]), cpu=True)
    assert "float32 91.2 GFLOP/s" in text and "TFLOP" not in text and "| 0.12 |" in text
    axes = plots.draw_roofline([one]).axes[0]
    assert axes.get_ylabel() == "GFLOP/s"
    copy, ceiling, point = axes.lines
    assert [copy.get_ydata()[-1], ceiling.get_ydata()[0]] == pytest.approx([91.2, 91.2])
    assert copy.get_xdata()[-1] == pytest.approx(9.12) and point.get_ydata() == [100.0]
    # An intensity to the right of where the roofs meet.
    axes = plots.draw_roofline([operator("triton", 1.0, flops=10**9)]).axes[0]
    assert axes.get_ylabel() == "TFLOP/s"
    copy, ceiling = axes.lines[:2]
    assert copy.get_ydata()[-1] == pytest.approx(ceiling.get_ydata()[0])
    assert copy.get_xdata()[-1] == pytest.approx(ceiling.get_xdata()[0])


def test_families_on_a_cpu_add_up_to_a_profiled_step(tmp_path, no_pictures):
    part = {"ms": 20.0, "percent": 40.0, "launches": 4}
    families = {"convolution": part, "gaps": part | {"ms": 5.5, "launches": 0}}
    of = {"gpu": False, "device": "Test CPU", "busy_percent": None, "step_ms": 18.5}
    one = profile("eager", families=families, **of)
    built = page.build(loaded(tmp_path, [one, profile("fused", families={}, **of)]), cpu=True)
    text = built.markdown()
    assert "eager calls" in text and "eager launches" not in text and "busy (%)" not in text
    assert "families and gaps add up to a profiled step" in text
    found = {line[0]: line[1] for line in cells(built, "family")}
    assert found["profiled step (ms)"] == "25.500"
    assert found["step without the profiler (ms)"] == "18.500"
    assert plots.draw_families([one]).axes[0].get_xlabel() == "ms per profiled step"
    assert plots.draw_families([profile("eager")]).axes[0].get_xlabel() == "ms per step"
    built = page.build(loaded(tmp_path, [profile("eager")]))
    assert cells(built, "family")[2][0] == "whole step (ms)"
    assert "eager launches" in built.markdown()


# What the page says.


def judged(of):
    return {target[:3]: verdicts.judge(target, of) for target in verdicts.all_targets()}


def part(show, *arguments):
    found = Page("")
    show(found, *arguments)
    return found


def test_runs_are_not_compared():
    """Two commands, two states of the machine: a later eager is not what an earlier fused beat."""
    steps = [step("fused", 100.0), step("eager", 50.0, time=NEW)]
    assert "None of our contestants" in part(verdicts.slower_cases, steps).markdown()
    steps[1]["time"] = OLD
    assert "out of 1 comparisons" in part(verdicts.slower_cases, steps).markdown()
    layers = [layer("ours", 9.0), layer("eager", 5.0, time=NEW), layer("compile", 8.0)]
    compared, lines = verdicts.slower_layers(layers)
    assert compared and len(lines) == 1 and "slower than compile" in lines[0]
    # Another number format is another run, and stays.
    other = [
        layer("ours", 4.0, dtype="float16", time=NEW),
        layer("eager-fp16", 2.0, dtype="float16"),
    ]
    groups = rows.layer_groups([*layers, *other])
    assert {d: [r["contestant"] for r in group] for d, group in groups.items()} == {
        "bfloat16": ["ours", "compile", "eager-fp16"],
        "float16": ["ours"],
    }


def test_targets():
    found = judged(
        [
            *(step("eager", 160.0), step("max-autotune", 109.0)),
            *(step("fused", 110.0), step("fused-graph", 100.0)),
            step("fused-compile", 50.0, problems=["losses differ"]),
            step("fused", 1.0, dtype="float16"),
            step("fused", 1.0, work="evaluate"),
            step("fused", 1.0, width=16),
            step("fused", 1.0, batch_size=128),
        ]
    )
    assert found["resnet18", "standard", "eager"] == ("fused-graph", "512", "1.60x", "met")
    autotune = found["resnet18", "standard", "max-autotune"]
    assert autotune == ("fused-graph", "512", "1.09x", "missed")
    assert found["resnet18", "0.3-Bottom", "eager"][-1] == "not measured"
    # Of other networks the largest batch stands in; of ResNet-18 none does.
    small = [step("fused", 100.0, batch_size=b, arch="vgg19") for b in (64, 128)]
    small += [step("compile", 100.0, batch_size=128, arch="vgg19")]
    found = judged([*small, step("fused", 1.0, batch_size=128)])
    assert found["vgg19", "standard", "compile"] == ("fused", "128", "1.00x", "met")
    assert found["resnet18", "standard", "eager"][-1] == "not measured"
    # What another run measured is no rival.
    apart = [step("fused", 100.0, time=NEW), step("fused-graph", 200.0), step("eager", 900.0)]
    case = "resnet18", "standard", "eager"
    assert judged(apart)[case] == ("fused-graph", "512", "4.50x", "met")
    assert judged(apart[::2])[case][-1] == "not measured"
    # A rival that failed is beaten by nobody.
    failed = [step("fused", 100.0), step("eager", 900.0, problems=["bad"])]
    assert judged(failed)[case][-1] == "not measured"


@pytest.mark.parametrize(("cost", "verdict"), [(2.0, "met"), (2.01, "missed"), (None, "not")])
def test_cost_of_masks(cost, verdict):
    masked = step("fused", 100.0, defects="0.3-Bottom", mask_overhead_percent=cost)
    slower = step("fused-compile", 200.0, defects="0.3-Bottom", mask_overhead_percent=99.0)
    assert judged([masked, slower])["resnet18", "0.3-Bottom", ""][-1].startswith(verdict)


def test_all_losses_and_problems_are_listed(tmp_path, no_pictures):
    of = [*one_of_each(), operator("cudnn", 1.0), convergence("compile", 0, 5.0)]
    of += [step("max-autotune", 80.0), step("fused-compile", 70.0)]
    built = page.build(loaded(tmp_path, of))
    case = "resnet18 standard, train, bfloat16, 32 pixels, batch 512"
    assert cells(built, "case") == [
        [case, "fused", "max-autotune", "1.25x"],
        [case, "fused", "compile", "1.11x"],
        ["resnet18 standard, fake to 80.0%", "fused", "compile", "4.00x"],
        ["bn_mask_add_relu, none, forward, 4x16x8x8, bfloat16", "triton", "cudnn", "2.00x"],
    ]
    text = built.markdown()
    bullets = re.findall(r"^- (.*)$", text, re.M)
    assert bullets[0].startswith("bfloat16: 4x16x8x8 none: slower than eager-fp16: cold graph")
    assert bullets[1:] == [f"step: {case}: fused-graph: bad"]
    # Our fastest loses to nobody here, another of ours does.
    assert "our fastest contestant loses" not in text
    assert "another of our contestants loses: 2" in text


def test_no_losses_are_said():
    text = part(verdicts.slower_cases, [step("fused", 1.0), step("eager", 2.0)]).markdown()
    assert "No losses" in text and "1 comparisons" in text and "No row has problems" in text


def test_changes_beyond_noise(tmp_path):
    of = []
    for name, after in (("fused", 101.9), ("eager", 103.0), ("compile", 90.0)):
        of += [step(name, 100.0), step(name, after, commit="new", time=NEW)]
    pairs = loaded(tmp_path, of).pairs("cuda", "Test GPU")
    shown = cells(part(verdicts.changes, pairs), "case")
    assert [(line[1], line[-1]) for line in shown] == [("eager", "+3.0"), ("compile", "-10.0")]
    assert all(line[2:4] == ["aaa1111", "new"] for line in shown)


def test_where_the_time_goes():
    """1 MB at 1000 GB/s is 1 us: forward 3 us has a gap of 2, three times in ResNet-18."""
    of = [layer("ours", 3.0), layer("eager", 9.0), layer("ours", 99.0, problems=["wrong"])]
    found = {gap.step: gap.all_uses for gap in verdicts.gaps(of)}
    assert found == pytest.approx({"forward": 6.0, "backward": 12.0})
    assert {gap.network for gap in verdicts.gaps(of)} == {"resnet18"}
    assert verdicts.most_uses("headline") == (None, 1)
    many = [layer("ours", 2.0 + n, site={"name": f"S{n}", "users": "headline"}) for n in range(9)]
    shown = cells(part(verdicts.headroom, many), "site")
    assert len(shown) == 10 and shown[0][:5] == ["S8", "bfloat16", "backward", "not known", "-"]


def test_seeds_that_missed_leave_no_mean(tmp_path, no_pictures):
    of = [convergence("fused", seed, seconds) for seed, seconds in enumerate((10.0, 14.0))]
    of += [convergence("eager", 0, 20.0), convergence("eager", 1, None)]
    built = page.build(loaded(tmp_path, of))
    found = {line[3]: line for line in cells(built, "network") if len(line) == 9}
    assert found["fused"][4:7] == ["0: 10.0, 1: 14.0", "12.0", "2.00"]
    assert found["eager"][4:7] == ["0: 20.0, 1: missed", "-", "-"]


# Rows are not trusted.


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
    parts = {HOSTILE: profile("x")["families"]["gaps"]}
    of = [
        step("fused", 100.0, arch=HOSTILE, defects=HOSTILE, work=HOSTILE),
        step(HOSTILE, 90.0, arch=HOSTILE, defects=HOSTILE, work=HOSTILE, problems=[HOSTILE]),
        *(layer("ours", 3.0, site=site), layer(HOSTILE, 2.0, site=site)),
        *(operator("triton", 3.0, operator=HOSTILE), operator(HOSTILE, 2.0, operator=HOSTILE)),
        convergence(HOSTILE, 0, 5.0, dataset=HOSTILE),
        profile(HOSTILE, trace="../../" + HOSTILE, families=parts),
        row(HOSTILE),
    ]
    for one in of:
        one["machine"] |= {"device": HOSTILE, "torch": HOSTILE, "commit": HOSTILE}
        one["clocks"] = {"clocks.sm": HOSTILE}
    return of


def test_nothing_in_a_row_is_markup(tmp_path):
    """Drawn, too: a formula or an odd character in a name breaks no picture."""
    path = written(tmp_path / "rows.jsonl", hostile_rows())
    out = tmp_path / "out" / "page.md"
    assert page.main([str(path), "--out", str(out), "--html", str(tmp_path / "page.html")]) == 0
    web = Tags((tmp_path / "page.html").read_text())
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(web.tags)
    assert not [name for name, _ in web.values if name.startswith("on")]
    sources = [value for name, value in web.values if name == "src"]
    assert len(sources) == 5 and all(s.startswith("data:image/png;base64,") for s in sources)
    links = [value for name, value in web.values if name == "href"]
    assert links and all(link.startswith("#part-") for link in links)
    assert web.words.count(clean(HOSTILE)) > 10 and "\u202e" not in "".join(web.words)
    # A table whose cells were parted by a row's pipe would be short of cells elsewhere.
    assert web.tags.count("table") == len(re.findall(r"^\| ---", out.read_text(), re.M))


@pytest.mark.parametrize("format", ["png", "pdf"])
def test_a_trace_elsewhere_is_not_linked(tmp_path, no_pictures, format):
    (tmp_path / "secret.json").write_text("")
    inside = tmp_path / "in"
    of = [profile("fused", trace="../secret.json"), profile("eager", trace="t.json")]
    path = written(inside / "rows.jsonl", of)
    case = inside / "profile" / "resnet18-standard-b512-train"
    case.mkdir(parents=True)
    for name in (inside / "t.json", case / f"timeline.{format}"):
        name.write_text("")
    text = text_of(rows.load([path]), tmp_path)
    assert "secret" not in text and "[file](in/t.json)" in text
    assert f"[Timeline of a step]({case.relative_to(tmp_path)}/timeline.{format})" in text


def test_pictures_of_equal_names_stay_apart(monkeypatch):
    monkeypatch.setattr(plots, "draw_steps", lambda rows: None)
    found = Page("")
    for _ in range(2):
        tables.picture(found, plots.draw_steps, [step("eager", 1.0)], "alt", "A b")
    assert list(found.pictures) == ["images/test-gpu-a-b", "images/test-gpu-a-b-2"]
