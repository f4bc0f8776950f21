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
    convergence,
    golden,
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
from scotoma.train.pages import Page, clean

ROOT = Path(__file__).resolve().parents[2]


def text_of(loaded, folder=Path(), **options):
    return page.build(loaded, out=folder / "page.md", **options).markdown()


def prepared(*of):
    return [rows.prepared(one) for one in of]


def part(show, of):
    found = Page("")
    show(found, prepared(*of))
    return found


# The page as a whole. After a change that is meant: write ``shown`` to the file, and read the
# difference.


def test_golden_page(tmp_path, no_pictures):
    """Losses, targets, changes beyond noise, headroom, seeds that missed; CPU and GPU never meet,
    and without a rival on its own device nothing is faster than anything."""
    shown = text_of(loaded(tmp_path, golden()), cpu=True)
    shown = shown[shown.index("## Other Test GPU") : shown.index("## What the words mean")]
    assert shown == (ROOT / "tests/support/report_page.md").read_text()


# Files.


def test_an_empty_checkout_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "docs/performance.md"
    assert page.main([]) == 0
    assert "No figure exists yet" in out.read_text() and "`scotoma bench step`" in out.read_text()
    assert "0 met, 0 missed, 25 not measured" in out.read_text()
    # What this machine's CPU measured changes nothing: a committed page is up to date everywhere.
    mine = Path(harness.default_path("CPU x86_64", "step"))
    written(mine, [step("eager", 77_777.0, gpu=False)])
    assert page.main(["--check"]) == 0
    for options, words in ((["--cpu"], "Test GPU (no GPU)"), ([str(mine)], "1 cases measured on")):
        assert page.main(options) == 0 and words in out.read_text()
    # Nothing but CPU figures is nothing still.
    mine.rename(Path("bench/results/step.jsonl"))
    assert page.main([]) == 0
    assert "No figure exists yet" in out.read_text() and "1 cases measured on" in out.read_text()
    assert not re.search(r"77[.,]7", out.read_text())


def test_the_page_in_the_repository_is_up_to_date(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert page.main(["--check"]) == 0, capsys.readouterr().out


def test_files_are_the_same_each_time_and_checked(tmp_path, capsys, monkeypatch):
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
    markdown, html = tmp_path / "one/performance.md", tmp_path / "one/p.html"
    text = markdown.read_text()
    pictures = sorted((tmp_path / "one/images/performance").iterdir())
    assert all(f"](images/performance/{p.name})" in text for p in pictures)
    assert "[file](../in/trace.json.gz)" in text
    for file in pictures:
        with Image.open(file) as image:
            assert set(image.info) == {"dpi"} and image.width > 600

    assert page.main([*once, "--check"]) == 0
    # Another format lies beside what the pages show, and goes when it is not asked for.
    svg = [*once, "--picture-format", "svg"]
    assert page.main([*svg, "--check"]) == 1
    assert page.main(svg) == page.main([*svg, "--check"]) == 0
    assert all(b"<svg" in path.with_suffix(".svg").read_bytes() for path in pictures)
    assert markdown.read_text() == text
    assert page.main(once) == 0
    assert sorted(pictures[0].parent.iterdir()) == pictures

    def said():
        capsys.readouterr()
        assert page.main([*once, "--check"]) == 1
        return capsys.readouterr().out

    for file, spoil in ((markdown, "Training"), (html, r"\b[0-9a-f]{64}\b")):
        before = file.read_text()
        file.write_text(re.sub(spoil, "", before))
        assert said().startswith(f"{file} is stale\nrun ")
        file.write_text(before)
    # Another matplotlib draws the same rows with other pixels; other rows make it stale.
    monkeypatch.setattr(matplotlib, "__version__", "0.0-test")
    assert page.main([*once, "--check"]) == 0
    written(path, [step("eager", 201.0), one_of_each()[1], profile("eager")])
    assert said().startswith(f"{markdown} is stale\n{html} is stale\nrun ")
    pictures[0].unlink()
    assert f"{pictures[0]} is missing" in said() and not pictures[0].exists()


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
        step("fused", 50.0, batch_size=64, commit="new", time=NEW),
        step("fused", 60.0, batch_size=64, commit="old", time=NEW[:-6] + "+00:01"),
        step("fused", 70.0, batch_size=64, commit="new", time=OLD),
    ]
    for order in (of, of[::-1]):
        found = loaded(tmp_path, order)
        newest = {row["batch_size"]: row for row in found.rows}
        medians = {batch: row["median"] for batch, row in newest.items()}
        assert medians == {512: 100.0, 128: 500.0, 64: 50.0}
        assert newest[512]["before"]["median"] == 200.0 and newest[128]["before"] is None
        assert newest[64]["before"]["median"] == 60.0
        assert "6 older rows" in text_of(found)


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


def test_pictures_of_rates():
    """A CPU's are small; and an intensity may be to the right of where the roofs meet."""
    ceilings = {"copy_gb_per_s": 10.0, "matmul_tflop_per_s": {"float32": 0.0912}}
    axes = plots.draw_roofline([operator("eager", 100.0, gpu=False, ceilings=ceilings)]).axes[0]
    assert axes.get_ylabel() == "GFLOP/s"
    copy, ceiling, point = axes.lines
    assert [copy.get_ydata()[-1], ceiling.get_ydata()[0]] == pytest.approx([91.2, 91.2])
    assert copy.get_xdata()[-1] == pytest.approx(9.12) and point.get_ydata() == [100.0]
    axes = plots.draw_roofline([operator("triton", 1.0, flops=10**9)]).axes[0]
    assert axes.get_ylabel() == "TFLOP/s"
    copy, ceiling = axes.lines[:2]
    assert copy.get_ydata()[-1] == pytest.approx(ceiling.get_ydata()[0])
    assert copy.get_xdata()[-1] == pytest.approx(ceiling.get_xdata()[0])
    for gpu, label in ((True, "ms per step"), (False, "ms per profiled step")):
        (one,) = prepared(profile("eager", gpu=gpu))
        assert plots.draw_families([one]).axes[0].get_xlabel() == label


# What the page says.


def judged(*of):
    return {target[:3]: verdicts.judge(target, prepared(*of)) for target in verdicts.all_targets()}


def test_runs_are_not_compared():
    """Two commands, two states of the machine: a later eager is not what an earlier fused beat."""
    steps = [step("fused", 100.0), step("eager", 50.0, time=NEW)]
    assert "None of our contestants" in part(verdicts.slower_cases, steps).markdown()
    steps[1]["time"] = OLD
    assert "out of 1 comparisons" in part(verdicts.slower_cases, steps).markdown()
    text = part(verdicts.slower_cases, [step("fused", 1.0), step("eager", 2.0)]).markdown()
    assert "No losses" in text and "1 comparisons" in text and "No row has problems" in text
    layers = [layer("ours", 9.0), layer("eager", 5.0, time=NEW), layer("compile", 8.0)]
    compared, lines = verdicts.slower_layers(prepared(*layers))
    assert compared and len(lines) == 1 and "slower than compile" in lines[0]
    # Another number format is another run, and stays.
    other = {"dtype": "float16"}
    layers += [layer("ours", 4.0, time=NEW, **other), layer("eager-fp16", 2.0, **other)]
    groups = rows.layer_groups(prepared(*layers))
    assert {d: [r["contestant"] for r in group] for d, group in groups.items()} == {
        "bfloat16": ["ours", "compile", "eager-fp16"],
        "float16": ["ours"],
    }


def test_targets():
    found = judged(
        *(step("eager", 160.0), step("max-autotune", 109.0)),
        *(step("fused", 110.0), step("fused-graph", 100.0)),
        step("fused-compile", 50.0, problems=["losses differ"]),
        step("fused", 1.0, dtype="float16"),
        step("fused", 1.0, work="evaluate"),
        step("fused", 1.0, width=16),
        step("fused", 1.0, batch_size=128),
    )
    case = "resnet18", "standard", "eager"
    assert found[case] == ("fused-graph", "512", "1.60x", "met")
    autotune = found["resnet18", "standard", "max-autotune"]
    assert autotune == ("fused-graph", "512", "1.09x", "missed")
    assert found["resnet18", "0.3-Bottom", "eager"][-1] == "not measured"
    # Of other networks the largest batch stands in; of ResNet-18 none does.
    small = [step("fused", 100.0, batch_size=b, arch="vgg19") for b in (64, 128)]
    small += [step("compile", 100.0, batch_size=128, arch="vgg19")]
    found = judged(*small, *(step(name, 1.0, batch_size=128) for name in ("fused", "eager")))
    assert found["vgg19", "standard", "compile"] == ("fused", "128", "1.00x", "met")
    assert found[case][-1] == "not measured"
    # What another run measured is no rival.
    apart = [step("fused", 100.0, time=NEW), step("fused-graph", 200.0), step("eager", 900.0)]
    assert judged(*apart)[case] == ("fused-graph", "512", "4.50x", "met")
    assert judged(*apart[::2])[case][-1] == "not measured"
    # A rival that failed is beaten by nobody.
    assert (
        judged(step("fused", 1.0), step("eager", 9.0, problems=["x"]))[case][-1] == "not measured"
    )
    for cost, verdict in ((2.0, "met"), (2.01, "missed"), (None, "not measured")):
        masked = {"defects": "0.3-Bottom", "mask_overhead_percent": cost}
        slower = step("fused-compile", 200.0, **masked | {"mask_overhead_percent": 99.0})
        found = judged(step("fused", 100.0, **masked), slower)
        assert found["resnet18", "0.3-Bottom", ""][-1] == verdict


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


def test_nothing_in_a_row_is_markup(tmp_path):
    """Drawn, too: a formula or an odd character in a name breaks no picture."""
    site, part = {"name": HOSTILE, "users": HOSTILE}, profile("x")["families"]["gaps"]
    network = {"arch": HOSTILE, "defects": HOSTILE, "work": HOSTILE}
    of = [
        *(step("fused", 100.0, **network), step(HOSTILE, 90.0, problems=[HOSTILE], **network)),
        *(layer("ours", 3.0, site=site), layer(HOSTILE, 2.0, site=site)),
        *(operator("triton", 3.0, operator=HOSTILE), operator(HOSTILE, 2.0, operator=HOSTILE)),
        convergence(HOSTILE, 0, 5.0, dataset=HOSTILE),
        profile(HOSTILE, trace="../../" + HOSTILE, families={HOSTILE: part}),
        row(HOSTILE),
    ]
    for one in of:
        one["machine"] |= {"device": HOSTILE, "torch": HOSTILE, "commit": HOSTILE}
        one["clocks"] = {"clocks.sm": HOSTILE}
    path = written(tmp_path / "rows.jsonl", of)
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


def test_pictures_of_equal_names_stay_apart():
    found = Page("")
    for _ in range(2):
        tables.picture(found, lambda rows: None, [step("eager", 1.0)], "alt", "A b")
    assert list(found.pictures) == ["images/test-gpu-a-b", "images/test-gpu-a-b-2"]
