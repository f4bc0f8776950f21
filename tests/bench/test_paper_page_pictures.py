"""The heat maps and curves of a page."""

import io
from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from paper_pages import page_of, text_of
from paper_values import invented
from PIL import Image
from scotoma.bench.paper.judge import Estimate, share
from scotoma.bench.paper.page.grid import read_grid
from scotoma.bench.paper.pictures import heatmap, noise_curve
from scotoma.bench.paper.pictures.tradeoff import draw_tradeoff
from scotoma.bench.paper.published import published
from scotoma.train.plots import encoded


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("table4", "table4-heatmap.png"),
        ("table14", "table14-heatmap.png"),
        ("table10", "table10-heatmap.png"),
        ("figure4", "figure4.png"),
        ("figure5", "figure5.png"),
    ],
)
def test_pictures(name, file, tmp_path):
    (picture,) = page_of(invented(name, tmp_path)).document.pictures()
    assert picture.name == file and len(picture.alt) > 20
    with Image.open(io.BytesIO(picture.file())) as image:
        image.load()
        assert image.format == "PNG" and image.info["Source"] == f"scotoma paper {name}"
        assert 400 < image.width < 2200 and 200 < image.height < 1500
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def column_at(data, panels, rows, number, row, offset):
    """Colours of a line from top to bottom of a cell of the panel's first column.

    Args:
        offset: of the line, in pixels from the cell's left edge.
    """
    with Image.open(io.BytesIO(data)) as image:
        bottom = image.height - 0.15 * 120
        left = image.width - 120 * (0.05 + (panels - number) * 1.8)
        top = bottom - (rows - row) * 0.23 * 120
        x, inside = round(left + offset), range(round(top) + 3, round(top + 0.23 * 120) - 2)
        return {image.getpixel((x, y))[:3] for y in inside}


def colour_at(data, panels, rows, number, row):
    """The colour of the first column's cell of a panel, near its left edge."""
    with Image.open(io.BytesIO(data)) as image:
        image = image.convert("RGB")
        bottom = image.height - 0.15 * 120
        left = image.width - 120 * (0.05 + (panels - number) * 1.8)
        middle = bottom - (rows - row - 0.5) * 0.23 * 120
        return image.getpixel((round(left + 3), round(middle)))


def test_colours_of_a_heat_map():
    rows, columns = ("r", "s", "t"), ("a", "b")
    rates = {("r", "a"): 0.0, ("s", "a"): 1.0, ("r", "b"): 0.5, ("s", "b"): 0.5}
    differences = {("r", "a"): -0.5, ("s", "a"): 0.5, ("t", "a"): 0.0}
    panels = [
        heatmap.Panel("ours", rates, {("t", "a"): "failed"}),
        heatmap.Panel("paper", rates),
        heatmap.Panel("difference", differences, signed=True),
    ]
    data = encoded(heatmap.draw("A title", rows, columns, panels, ("target", "source")))
    assert data == encoded(heatmap.draw("A title", rows, columns, panels, ("target", "source")))
    low, high, failed = (colour_at(data, 3, 3, 0, row) for row in range(3))
    assert sum(low) < 200 < 400 < sum(high) and low[2] > low[0] and high[0] > high[2]
    assert failed == (0xEE, 0xEE, 0xEE)
    assert colour_at(data, 3, 3, 1, 2) == (255, 255, 255)
    worse, better, same = (colour_at(data, 3, 3, 2, row) for row in range(3))
    assert worse[0] > 2 * worse[2] and better[2] > 2 * better[0] and min(same) > 235


def test_words_stay_within_their_cell():
    words = {("r", "a"): "no image left", ("s", "a"): "not made"}
    panels = [heatmap.Panel("ours", {("r", "b"): 0.5}, words)] * 3
    data = encoded(heatmap.draw("A title", ("r", "s"), ("a", "b"), panels, ("target", "source")))
    grey, width = {(0xEE, 0xEE, 0xEE)}, round(0.56 * 120)
    for row in (0, 1):
        cell = [column_at(data, 3, 2, 0, row, offset) for offset in range(3, width - 2)]
        assert cell[:3] == [grey] * 3 and cell[-3:] == [grey] * 3
        assert any(column != grey for column in cell)


def test_no_title_is_cut_off(tmp_path):
    for name in (f"table{number}" for number in (1, 8, 11, 13)):
        (picture,) = page_of(invented(name, tmp_path)).document.pictures()
        with Image.open(io.BytesIO(picture.file())) as image:
            right = image.convert("L").crop((image.width - 4, 0, image.width, 60))
        assert right.getextrema() == (255, 255), name


def test_heat_maps_name_their_axes(tmp_path):
    made = invented("table10", tmp_path)
    grid = read_grid(made, published(10), [])
    assert grid.axes == ("target", "source")
    figure = heatmap.draw("A title", grid.rows, grid.columns, [heatmap.Panel("", {})], grid.axes)
    (corner,) = (text for text in figure.texts if "↓" in text.get_text())
    assert corner.get_text() == "source →\ntarget ↓"
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = figure.axes[0].get_xticklabels() + figure.axes[0].get_yticklabels()
    box = corner.get_window_extent(canvas.get_renderer())
    assert box.x0 > 0 and not any(box.overlaps(label.get_window_extent()) for label in labels)


def test_no_percents_over_100_and_no_ticks_that_touch(tmp_path):
    made = invented("figure4", tmp_path)
    rows, columns = made.experiment.rows, made.experiment.columns
    figure = noise_curve.draw(rows, columns, {p: share(1.0, 9) for p in made.values})
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    assert axes.get_ylim() == (0, 100) and not axes.lines[0].get_clip_on()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(one.x1 + 3 < other.x0 for one, other in pairwise(boxes))
    made = invented("figure5", tmp_path)
    whole = {place: share(1.0, 9) for place in made.values}
    (picture,) = draw_tradeoff(replace(made, values=whole))
    (axes,) = picture.figure.axes
    assert axes.get_xlim()[1] == axes.get_ylim()[1] == 100
    assert not any(line.get_clip_on() for line in axes.lines if len(line.get_xdata()))


def test_the_curve_of_noise():
    rows, columns = ("p", "_q"), ("2", "4", "64")
    values = {("p", c): share(0.5, 30) for c in columns}
    values["_q", "4"] = Estimate(0.4, None, None, 3, (0.4,), rate=True)
    assert noise_curve.draw(rows, columns, {}) is None
    (axes,) = noise_curve.draw(rows, columns, values).axes
    assert axes.get_xscale() == "log" and axes.get_xticks().tolist() == [2, 4, 64]
    first, second = axes.lines
    assert first.get_xdata().tolist() == [2, 4, 64] and first.get_ydata().tolist() == 3 * [50]
    assert second.get_xdata().tolist() == [4] and second.get_ydata().tolist() == [40]
    shaded = axes.collections[0].get_paths()[0].vertices[:, 1]
    low, high = values["p", "2"].low, values["p", "2"].high
    assert [shaded.min(), shaded.max()] == pytest.approx([100 * low, 100 * high])
    assert len(axes.get_legend().get_texts()) == 2


def test_a_page_of_nothing(tmp_path):
    page = page_of(invented("figure14", tmp_path))
    assert page.document.pictures() == [] and "Nothing that this page could show" in text_of(page)
    assert page.record["cells"] == []
