"""Pictures of evaluations: what is drawn, and that nothing lies upon anything else."""

import random
from itertools import combinations

import pytest
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from robustness_cells import clean, noise, transfer
from scotoma.train import plots
from scotoma.train.robustness.pictures import (
    draw_all,
    draw_examples,
    draw_noise,
    draw_shuffled,
    draw_tradeoff,
    draw_transfer,
)
from scotoma.train.robustness.tables import frame

EPSILONS = (2, 4, 8, 16, 32, 64)


def names_of(count):
    short = ["standard", "0.7-Bottom", "0.5-Bottom", "0.3-Bottom", "0.1-Bottom"]
    long = [f"runs/fast-cifar10-resnet18-{i}-of-one-project/checkpoint-best" for i in range(count)]
    return (short + long)[:count]


def cells_of(count, sources=("standard",), attacks=("pgd",), seed=0):
    draws, cells = random.Random(seed), []
    for i, name in enumerate(names_of(count)):
        cells.append(clean(name, 900 - draws.randrange(30)))
        cells += [noise(name, e, 900 - e * (12 - i)) for e in EPSILONS]
        for source in sources:
            relation = "white-box" if name == source else "transfer"
            for attack in attacks:
                k = 0 if name == source else 300 + draws.randrange(60)
                more = {"source": source, "attack": attack, "relation": relation}
                cells.append(transfer(name, k, 900, **more))
    return cells


def samples_of(channels=3, size=8, count=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, channels, size, size, generator=generator) * 0.5 + 0.2
    said = [("dog", False), ("dog", True), ("cat", False)]
    return {
        "clean": images,
        "adversarial": images + 0.03,
        "labels": ["cat", "dog", "frog"][:count],
        "heading": "pgd from a",
        "said of originals": [("standard", [("cat", True), ("dog", True), ("frog", True)])],
        "said": [("standard", said), ("0.3-Bottom", said)],
        "shuffled": {1: images, **{k: images.flip(-1) for k in (8, 2, 4)}},
    }


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def assert_readable(figure, chosen):
    """Texts lie inside the picture and apart."""
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in chosen]  # in pixels
    assert len(boxes) > 1
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in zip(chosen, boxes, strict=True):
        assert box.x0 > -1 and box.y0 > -1, text.get_text()
        assert box.x1 < width + 1 and box.y1 < height + 1, text.get_text()
    for (a, one), (b, other) in combinations(zip(chosen, boxes, strict=True), 2):
        wide = min(one.x1, other.x1) - max(one.x0, other.x0)
        high = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(wide, high) < 1.5, (a.get_text(), b.get_text())


def visible(figure):
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def test_the_heat_map_has_every_number_in_its_place():
    cells = [
        transfer("standard", 0, 9, source="standard", relation="white-box"),
        transfer("0.3-Bottom", 3, 4, source="standard"),
        transfer("0.3-Bottom", 1, 8, source="standard", attack="fgsm"),
        transfer("standard", 0, 0, source="standard", attack="fgsm"),
    ]
    (axes,) = draw_transfer(frame(cells)).axes
    found = {(round(t.get_position()[0]), t.get_text()): t for t in axes.texts}
    assert [t.get_text() for t in axes.get_yticklabels()] == ["standard", "0.3-Bottom"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("target", "attack and its source")
    heads = [t.get_text() for t in axes.get_xticklabels()]
    assert heads == ["fgsm eps=8/255\nfrom standard", "pgd eps=16/255\nfrom standard"]
    assert set(found) == {
        (0, "no image"),
        (0, "12.50"),
        (1, "0.00"),
        (1, "white-box"),
        (1, "75.00"),
    }
    rows = {text: round(t.get_position()[1]) for (_, text), t in found.items()}
    assert rows == {"no image": 0, "12.50": 1, "0.00": 0, "white-box": 0, "75.00": 1}
    # White on dark, black on bright.
    assert found[1, "0.00"].get_color() == "#ffffff"
    assert found[1, "75.00"].get_color() == "#000000"
    patches = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert sum(to_hex(p.get_facecolor()) == "#eeeeee" for p in patches) == 1
    assert sum(p.get_linestyle() == "--" for p in patches) == 1
    colours = {p.get_xy(): to_hex(p.get_facecolor()) for p in patches if p.get_fill()}
    assert colours[0.5, 0.5] == to_hex(colormaps["cividis"](0.75))


@pytest.mark.parametrize("signed", [False, True])
def test_numbers_on_the_heat_map_have_contrast(signed):
    rows = [str(k) for k in range(-50 if signed else 0, 51 if signed else 101, 5)]
    axes = Figure().subplots()
    plots.heat_map(axes, rows, ["a"], {(k, "a"): int(k) / 100 for k in rows}, signed=signed)

    def light(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for row, text, patch in zip(rows, axes.texts, axes.patches, strict=True):
        assert text.get_text() == f"{int(row):+.2f}".replace("+0.00", "+0.00")[not signed :]
        ink = 1.0 if text.get_color() == "#ffffff" else 0.0
        bright, dark = sorted([ink, light(patch.get_facecolor())], reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_the_noise_curve_is_the_data():
    figure = draw_noise(frame(cells_of(3)))
    (axes,) = figure.axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == ["standard", "0.7-Bottom", "0.5-Bottom"]
    for i, line in enumerate(lines):
        assert line.get_xdata() == pytest.approx(EPSILONS)
        assert line.get_ydata() == pytest.approx([(900 - e * (12 - i)) / 10 for e in EPSILONS])
    band = axes.collections[0].get_paths()[0].vertices
    at = [y for x, y in band if x == pytest.approx(64)]
    # Wilson's interval of 132 in 1000.
    assert (min(at), max(at)) == pytest.approx((11.24, 15.44), abs=0.01)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == names_of(3)
    looks = {(ln.get_color(), ln.get_marker()) for ln in lines}
    assert len(looks) == 3


def test_the_trade_off_has_a_point_a_target():
    cells = [clean("standard", 95, 100), clean("0.3-Bottom", 90, 100), clean("alone", 9, 10)]
    cells += [transfer("standard", 20, 100), transfer("0.3-Bottom", 60, 100)]
    cells += [transfer("0.1-Bottom", 70, 100)]  # without a clean accuracy
    figure = draw_tradeoff(frame(cells))
    (axes,), (legend,) = figure.axes, figure.legends
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines()]
    assert points == [pytest.approx((20, 95)), pytest.approx((60, 90))]
    assert [text.get_text() for text in legend.get_texts()] == ["standard", "0.3-Bottom"]
    looks = [[(a.get_color(), a.get_marker()) for a in each.get_lines()] for each in (axes, legend)]
    assert looks[0] == looks[1] and len(set(looks[0])) == 2
    spans = [p.vertices[:, 0] for c in axes.collections[:1] for p in c.get_paths()]
    assert spans[0] == pytest.approx([13.34, 28.88], abs=0.01)
    for values, ends in (([], (0, 100)), ([40, 60], (39, 61)), ([50], (49.5, 50.5))):
        assert plots.percent_limits(values) == pytest.approx(ends)
    alone = [clean("standard", 9, 10), transfer("standard", 5, 9), transfer("0.3-Bottom", 5, 9)]
    assert draw_tradeoff(frame(alone)) is None


def test_panels_have_one_scale_within_0_and_100_percent():
    cells = [clean("standard", 100, 100), clean("0.3-Bottom", 90, 100)]
    for attack, few, many in (("pgd", 0, 50), ("fgsm", 60, 100)):
        cells += [transfer("standard", few, 100, attack=attack)]
        cells += [transfer("0.3-Bottom", many, 100, attack=attack)]
    one, other = draw_tradeoff(frame(cells)).axes
    assert one.get_xlim() == other.get_xlim() == (0, 100)
    assert one.get_ylim() == other.get_ylim() and one.get_ylim()[1] == 100
    assert not any(line.get_clip_on() for line in one.get_lines())
    cells = [noise("standard", e, 1000 - e) for e in (0, 8)]
    cells += [noise("standard", e, e, tails="keep") for e in (0, 8)]
    one, other = draw_noise(frame(cells)).axes
    assert [axes.get_title() for axes in (one, other)] == ["tails clip", "tails keep"]
    assert one.get_ylim() == other.get_ylim() == (0, 100)
    assert not one.get_lines()[0].get_clip_on()


@pytest.mark.parametrize(
    ("count", "sources", "attacks"),
    [
        (2, ("standard",), ("pgd",)),
        (12, ("standard", "runs/another-source-with-a-long-name/checkpoint"), ("pgd", "fgsm")),
        pytest.param(
            12,
            ("standard", "b", "c", "d", "runs/a-long-name-of-a-source/best"),
            ("pgd", "fgsm"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_texts_lie_inside_the_picture_and_apart(count, sources, attacks):
    found = frame(cells_of(count, sources, attacks))
    for figure in (draw_transfer(found), draw_noise(found)):
        assert_readable(figure, visible(figure))
    figure = draw_tradeoff(found)  # of ticks beyond the axes there are texts that are not drawn
    around = [figure._suptitle, *figure.legends[0].get_texts()]
    for axes in figure.axes:
        around += [axes.title, axes.xaxis.label, axes.yaxis.label]
    assert_readable(figure, around)


def test_examples_show_labels_with_signs_and_colours():
    figure = draw_examples(samples_of())
    found = [(t.get_text(), t.get_color()) for t in visible(figure)]
    for title in ("original", "pgd from a", "difference x 16, grey is none", "true class"):
        assert title in dict(found)
    assert found.count(("✓ dog", plots.RIGHT)) == 3 and ("✓ frog", plots.RIGHT) in found
    assert found.count(("✗ dog", plots.WRONG)) == 2
    assert found.count(("✗ cat", plots.WRONG)) == 2
    assert {"standard", "0.3-Bottom", "✓ right", "✗ wrong"} <= set(dict(found))
    assert len(figure.axes) == 9  # originals, adversarial images, differences
    shown = torch.tensor(figure.axes[3].images[0].get_array())
    assert torch.allclose(shown.permute(2, 0, 1).float(), samples_of()["adversarial"][0])
    difference = torch.tensor(figure.axes[6].images[0].get_array())
    assert torch.allclose(difference.float(), torch.tensor(0.5 + 16 * 0.03), atol=1e-5)
    assert "Adversarial images, set 2 of 4" in texts(draw_examples(samples_of() | {"set": (2, 4)}))
    label = "a class of ImageNet with a long name"
    said = [(name, [(label, True)] * 3) for name in names_of(12)]
    many = draw_examples(samples_of() | {"labels": [label] * 3, "said": said})
    assert_readable(many, visible(many))


@pytest.mark.parametrize(("channels", "size", "how"), [(1, 28, "nearest"), (3, 96, "antialiased")])
def test_images_are_shown_as_they_are(channels, size, how):
    samples = samples_of(channels, size)
    for figure in (draw_examples(samples), draw_shuffled(samples)):
        shown = figure.axes[0].images[0]
        assert shown.get_interpolation() == how
        pixels = torch.tensor(shown.get_array()).float()
        if channels == 1:
            assert shown.get_cmap().name == "gray" and shown.get_clim() == (0, 1)
            assert torch.allclose(pixels, samples["clean"][0, 0])
        else:
            assert torch.allclose(pixels.permute(2, 0, 1), samples["clean"][0])


def test_shuffled_images_stand_beside_their_originals():
    samples = samples_of()
    figure = draw_shuffled(samples)
    names = ["original", "class", *samples["labels"], "2x2", "4x4", "8x8"]
    assert sorted(texts(figure)[1:]) == sorted(names)
    third = torch.tensor(figure.axes[8].images[0].get_array()).permute(2, 0, 1)
    assert torch.equal(third.float(), samples["shuffled"][4][2])
    assert_readable(figure, visible(figure))
    assert texts(draw_shuffled({"shuffled": {4: samples["shuffled"][4]}}))[1:] == ["4x4"]


def test_amplified_differences_clip_nothing():
    difference = torch.tensor([-8 / 255, 0.0, 8 / 255]).view(1, 3, 1)
    shown, factor = plots.amplified(difference)
    assert factor == 8
    assert shown.flatten().tolist() == pytest.approx([0.5 - 64 / 255, 0.5, 0.5 + 64 / 255])
    assert plots.amplified(torch.zeros(1, 2, 2)) == (pytest.approx(0.5), 1)
    assert plots.amplified(torch.ones(1, 1, 1))[1] == 1


def test_short_names_are_short_and_different():
    names = [f"runs/of-one-project-{i}-with-a-tail-that-is-long/checkpoint-best" for i in range(9)]
    found = plots.short(["short", *names, names[0] + "x"], 30)
    assert found["short"] == "short"
    assert len(set(found.values())) == 11
    assert max(map(len, found.values())) <= 30
    for i, name in enumerate(names):
        assert f"-{i}-" in found[name]
    assert plots.short(["$x$"], 9)["$x$"] == r"\$x\$"


def test_every_picture_is_a_whole_png(tmp_path):
    made = draw_all(cells_of(3), tmp_path / "new", samples=samples_of())
    names = ["transfer.png", "noise.png", "tradeoff.png", "examples.png", "shuffled.png"]
    assert [path.name for path in made] == names
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(names)
    for path in made:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert 400 < image.width < 2500 and 200 < image.height < 2500
            assert len(image.convert("L").getcolors()) > 10
    first = [path.read_bytes() for path in made]
    cells = cells_of(3)
    random.Random(1).shuffle(cells)
    again = draw_all(cells, tmp_path)
    assert [path.read_bytes() for path in again] == first[:3]


@pytest.mark.parametrize(("format", "begin"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_another_format(tmp_path, format, begin):
    """It takes the place of a former picture, and holds the same words as text or outlines."""
    cells = [transfer("standard", 5, 9), clean("standard", 9, 10)]
    draw_all(cells, tmp_path)
    (path,) = draw_all(cells, tmp_path, format=format)
    assert list(tmp_path.iterdir()) == [path] and path.name == f"transfer.{format}"
    first = path.read_bytes()
    assert first.startswith(begin)
    assert b"/Type3" not in first and b"/CreationDate" not in first and b"<dc:date>" not in first
    draw_all(cells, tmp_path / "again", format=format)
    assert (tmp_path / "again" / path.name).read_bytes() == first
    draw_all(cells, tmp_path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("cells", "samples", "expected"),
    [
        ([], None, []),
        ([], {}, []),
        ([], {"clean": torch.rand(2, 3, 8, 8), "labels": ["a", "b"]}, []),
        ([], {"shuffled": {}}, []),
        ([clean("standard", 9, 10)], None, []),
        ([transfer("standard", 5, 9)], None, ["transfer.png"]),
        ([transfer("standard", 0, 0)], None, ["transfer.png"]),
        ([noise("standard", 8, 5, 9)], None, ["noise.png"]),
        ([noise("standard", 8, 0, 0)], None, ["noise.png"]),
        ([], {k: v for k, v in samples_of().items() if k != "shuffled"}, ["examples.png"]),
        ([], {"shuffled": samples_of()["shuffled"]}, ["shuffled.png"]),
    ],
)
def test_each_alone(tmp_path, cells, samples, expected):
    assert [p.name for p in draw_all(cells, tmp_path / "x", samples=samples)] == expected
