"""The pictures of tables and figures: what they show, and that it can be read."""

import io
import json
from dataclasses import replace
from itertools import combinations, pairwise
from types import SimpleNamespace

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from paper_smoke import context, new_store, tiny_setup
from paper_values import invented
from PIL import Image
from scotoma.bench.paper import pictures
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.estimates import Estimate, share
from scotoma.bench.paper.experiment import Made
from scotoma.bench.paper.page import read_grid, title
from scotoma.bench.paper.pictures import class_names, data_name, fooling_all
from scotoma.bench.paper.tables import definition
from scotoma.bench.paper.work import Plan, make_here
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import AdversarialSet, save_set
from scotoma.defective.robustness.adversarial_set import to_uint8
from scotoma.defective.robustness.shuffle import shuffle_patches
from scotoma.train import plots
from scotoma.train.datasets import load_dataset


def of(name, folder, **changes):
    setup, found = tiny_setup(**changes), definition(name)
    # Else their sets and trainings are CIFAR-10's.
    others = {"tiny-imagenet": 400, "mnist": 300}
    data = {role: replace(setup.data[role], train_limit=n) for role, n in others.items()}
    setup = replace(setup, data={**setup.data, **data})
    return Made(found, setup, found.build(setup), {}, context(new_store(folder)))


def drawn(made):
    return pictures.of_page(made, read_grid(made, []), title(made.definition))


def check_png(picture, name):
    assert picture.name == name and len(picture.alt) > 20
    with Image.open(io.BytesIO(plots.encoded(picture.figure))) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 200 and max(image.size) < 2200
        assert "Software" not in image.info and len(image.convert("RGB").getcolors(1 << 24)) > 20
        return image.convert("L")


def check_words(figure):
    """Everything written is on the picture, and nothing upon another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, boxes = canvas.get_renderer(), {}
    for text in (text for text in figure.texts if text.get_text()):
        boxes[text] = text.get_window_extent(renderer)
        assert boxes[text].x0 >= 0 and boxes[text].x1 <= figure.bbox.width, text.get_text()
        assert boxes[text].y0 >= 0 and boxes[text].y1 <= figure.bbox.height, text.get_text()
    for (a, one), (b, other) in combinations(boxes.items(), 2):
        assert not one.overlaps(other), (a.get_text(), b.get_text())
    for axes in figure.axes:
        for text, box in boxes.items():
            assert not box.overlaps(axes.get_window_extent(renderer)), text.get_text()


# Tables


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        pytest.param("table8", "source →\ntarget ↓", marks=pytest.mark.slow),
        ("table10", "source →\ntarget ↓"),
        ("table13", "patches →\nnetwork ↓"),
    ],
)
def test_heat_maps(name, axes, tmp_path):
    (picture,) = drawn(invented(name, tmp_path))
    image = check_png(picture, f"{name}-heatmap")
    right = image.crop((image.width - 4, 0, image.width, 60))
    assert right.getextrema() == (255, 255)  # no title is cut off
    titles = [text.get_text() for text in picture.figure.texts]
    assert titles[2:] == ["ours, in percent", "the paper's, in percent", "difference, in points"]
    assert picture.wide and picture.alt.startswith(f"Table {name[5:]} as heat maps: ours")
    corner = next(text for text in picture.figure.texts if "↓" in text.get_text())
    assert corner.get_text() == axes
    labels = picture.figure.axes[0].get_xticklabels() + picture.figure.axes[0].get_yticklabels()
    box = corner.get_window_extent(FigureCanvasAgg(picture.figure).get_renderer())
    assert box.x0 > 0 and not any(box.overlaps(label.get_window_extent()) for label in labels)


def test_a_heat_map_says_what_is_missing_and_has_no_differences_on_other_images(tmp_path):
    made = invented("table10", tmp_path, "smoke")
    made = replace(made, values=dict(list(made.values.items())[1:]))
    (picture,) = drawn(made)
    ours, paper = picture.figure.axes
    assert "not made" in [text.get_text() for text in ours.texts]
    assert "not made" not in [text.get_text() for text in paper.texts]
    assert "difference" not in picture.alt


# Figures 4 and 5


def test_the_curve_of_noise(tmp_path):
    made = invented("figure4", tmp_path)
    columns = made.experiment.columns
    values = {("ResNet-18", column): share(0.5, 30) for column in columns}
    values |= {("0.1-Bottom", column): share(1.0, 9) for column in columns}
    values["0.3-Bottom", "4"] = Estimate(0.4, None, None, 3, (0.4,), rate=True)
    (picture,) = drawn(replace(made, values=values))
    check_png(picture, "figure4")
    (axes,) = picture.figure.axes
    assert axes.get_ylim() == (0, 100) and not any(line.get_clip_on() for line in axes.lines)
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(one.x1 + 3 < other.x0 for one, other in pairwise(boxes))
    assert axes.get_xscale() == "log" and axes.get_xticks().tolist() == list(map(float, columns))
    first, second, third = axes.lines
    # Side by side, so that the bars of a column do not hide each other.
    scales = [line.get_xdata() / list(map(float, columns)) for line in (first, third)]
    assert ((scales[0] > 0.95) & (scales[0] < 1)).all()
    assert ((scales[1] > 1) & (scales[1] < 1.05)).all()
    assert first.get_ydata().tolist() == len(columns) * [50]
    assert second.get_xdata().tolist() == [4] and second.get_ydata().tolist() == [40]
    assert third.get_ydata().tolist() == len(columns) * [100]
    bar = axes.collections[0].get_segments()[0][:, 1]
    one = values["ResNet-18", "2"]
    assert bar.tolist() == pytest.approx([100 * one.low, 100 * one.high])
    assert len(axes.get_legend().get_texts()) == 3


def test_lines_by_perturbation_scale(tmp_path):
    made = invented("perturbation", tmp_path)
    (picture,) = drawn(made)
    check_png(picture, "perturbation")
    (axes,) = picture.figure.axes
    assert axes.get_ylim() == (0, 100) and axes.get_xticks().tolist() == [2, 4, 8, 16, 32]
    lines = {line.get_label(): line for line in axes.lines}
    assert tuple(lines) == made.experiment.rows
    for row, line in lines.items():
        # Without the accuracy.
        values = [100 * made.values[row, f"PGD{scale}"].value for scale in (2, 4, 8, 16, 32)]
        assert line.get_ydata().tolist() == values
        assert line.get_linestyle() == ("--" if row.endswith("Top") else "-")
        assert line.get_color() == lines[row.replace("Top", "Bottom")].get_color()
    assert lines["ResNet-18"].get_color() == "#000000"
    assert len({line.get_color() for line in axes.lines}) == 4
    (legend,) = picture.figure.legends
    box = legend.get_window_extent(FigureCanvasAgg(picture.figure).get_renderer())
    assert not box.overlaps(axes.get_window_extent()) and picture.figure.bbox.width < 800


def test_the_tradeoff(tmp_path):
    made = invented("figure5", tmp_path)
    missing = next(iter(made.values))
    (picture,) = drawn(
        replace(made, values={p: share(1.0, 9) for p in made.values if p != missing})
    )
    check_png(picture, "figure5")
    (axes,) = picture.figure.axes
    assert axes.get_xlim()[1] == axes.get_ylim()[1] == 100
    assert not any(line.get_clip_on() for line in axes.lines if len(line.get_xdata()))
    assert f"{missing[0]}," not in picture.alt and "of 0.7-Bottom, 0.5-Bottom," in picture.alt


@pytest.mark.parametrize(
    "name",
    ["table10", "figure4", "figure5", "figure1", "figure6", "figure14", "perturbation", "table6"],
)
def test_nothing_is_drawn_of_nothing(name, tmp_path):
    made = invented(name, tmp_path)
    # Nor heat maps of scores.
    assert drawn(made if name == "table6" else replace(made, values={})) == []


# Figure 1


def test_images_are_shuffled_as_in_table_1(tmp_path, monkeypatch):
    made = of("figure1", tmp_path)
    assert make_here(Plan.of(made.experiment.wanted(), made.context.store), made.context) == []
    sample = made.experiment.attached["images"]
    indices, _ = sample.read(made.context.store)
    images = made.context.images(sample.data)
    ((_, pixels, labels),) = images.batches(indices, 4)
    draw, shown = plots.draw_shuffled, []
    monkeypatch.setattr(plots, "draw_shuffled", lambda *given: shown.append(given) or draw(*given))
    (picture,) = drawn(made)
    check_png(picture, "figure1")
    assert picture.alt.startswith("4 images of sample-folder (in the place of ImageNet)")
    ((grids, words),) = shown
    assert sorted(grids) == [1, 2, 4, 8] and torch.equal(grids[1], pixels)
    for grid in (2, 4, 8):
        assert torch.equal(grids[grid], shuffle_patches(pixels, grid, 0, indices))
    assert words == [images.data.classes[label] for label in labels.tolist()]


# Figures 3, 6 and 7


def write_set(artefact, made, fooled, indices=range(30, 42), right=None):
    """A set whose predictions are the next class where it fools, and the label elsewhere."""
    indices = torch.tensor(list(indices))
    images = made.context.images(artefact.sample.data)
    ((_, pixels, labels),) = images.batches(indices, len(indices))
    fools = torch.tensor([number in fooled for number in indices.tolist()])
    right = torch.ones_like(fools) if right is None else torch.tensor(right)
    kept = torch.zeros_like(labels)
    predictions = torch.where(fools, (labels + 1) % 10, labels)
    path = artefact.path(made.context.store)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = AdversarialSet(
        images=to_uint8((pixels + 0.2).clamp(0, 1)),
        indices=indices,
        labels=labels,
        clean_predictions=torch.where(right, labels, (labels + 2) % 10),
        predictions=predictions,
        unrounded_predictions=predictions,
        status=kept.to(torch.uint8),
        forwards=kept,
        backwards=kept,
        details={},
    )
    save_set(found, path)
    return found


def test_examples_are_the_first_images_that_fool_every_network(tmp_path):
    made = of("figure6", tmp_path)
    attached = list(made.experiment.attached.values())
    small, large = attached[:3], attached[3:]
    fooled = [range(30, 42), [31, 33, 34, 36, 40], [41, 40, 36, 35, 33]]
    orders = [range(30, 42), range(41, 29, -1), range(30, 42)]
    sets = [
        write_set(artefact, made, *how)
        for artefact, *how in zip(small, fooled, orders, strict=True)
    ]
    chosen = fooling_all(sets)
    assert chosen.tolist() == [33, 36, 40]
    (strips,) = pictures.example_strips(made).values()
    assert [strip.above for strip in strips] == [
        *("MI-FGSM, epsilon 16/255, 3 steps of 1/255", "", "", "")
    ]
    assert [s.name for s in strips] == ["0.2-Bottom", "0.1-{1,2}", "original", "ResNet-18"]
    images = made.context.images(made.setup.data["cifar10"])
    ((_, pixels, labels),) = images.batches(chosen, 3)
    names = images.data.classes
    for strip in strips:
        ((_, words, inks),) = strip.lines
        if strip.name == "original":
            assert torch.equal(strip.images, pixels)
            assert words == [names[c] for c in labels.tolist()] and plots.WRONG not in inks
        else:
            wanted = to_uint8((pixels + 0.2).clamp(0, 1)).float() / 255
            assert torch.equal(strip.images, wanted)
            assert words == [names[(c + 1) % 10] for c in labels.tolist()]
            assert set(inks) == {plots.WRONG}
    for artefact in large:
        write_set(artefact, made, range(30, 42))
    counts = [len(strip.images) for strip in pictures.example_strips(made)["cifar10"]]
    assert counts == [3] * 4 + [8] * 4
    (picture,) = drawn(made)
    check_png(picture, "figure6-cifar10")
    check_words(picture.figure)


def test_examples_that_are_not_shown(tmp_path):
    """Images that a network gets wrong from the start; and where none fools all, words say so."""
    made = of("figure7", tmp_path)
    one, other = list(made.experiment.attached.values())[:2]
    sets = [write_set(one, made, range(30, 42), right=[n % 2 == 0 for n in range(12)])]
    sets.append(write_set(other, made, range(30, 42), right=[n % 3 == 0 for n in range(12)]))
    assert fooling_all(sets).tolist() == [30, 36]
    for artefact in made.experiment.attached.values():
        write_set(artefact, made, [31] if artefact.source.name == "ResNet-18" else [32])
    (strips,) = pictures.example_strips(made).values()
    assert len(strips) == 2 and not any(len(strip.images) for strip in strips)
    assert all(strip.above.endswith(": no image fools all networks") for strip in strips)
    (picture,) = drawn(made)
    check_words(picture.figure)
    one.path(made.context.store).write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        drawn(made)


def test_examples_of_two_data_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "draw_strips", lambda title, strips, *_, **__: strips)
    made = of("figure3", tmp_path)
    for artefact in list(made.experiment.attached.values())[
        :5
    ]:  # the second has one network's only
        write_set(artefact, made, range(30, 42))
    first, second = drawn(made)
    assert (first.name, second.name) == ("figure3-cifar10", "figure3-tiny-imagenet")
    assert "in the place of Tiny-ImageNet" in second.alt
    assert [strip.name for strip in second.figure] == ["0.1-{1,2}", "original"]


# Figure 14


def history(epochs, start):
    return [
        {"epoch": n, "train/acc1": start + n / 10, "test/acc1": start + n / 20, "lr": 0.1}
        for n in range(1, epochs + 1)
    ]


def write_run(training, made, records):
    folder = training.path(made.context.store)
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record) + "\n" for record in records)
    (folder / pictures.METRICS).write_text("".join(lines))
    (folder / "summary.json").write_text("{}")
    (folder / "last.safetensors").touch()
    return pictures.read_history(folder / pictures.METRICS)


def test_curves_of_each_network_and_seed(tmp_path):
    made = of("figure14", tmp_path, seeds=(0, 1))
    told = []
    for number, training in enumerate(made.experiment.attached.values()):
        told.append((training, write_run(training, made, history(4, number / 20))))
    (picture,) = drawn(made)
    check_png(picture, "figure14")
    assert "standard and 0.1-Bottom" in picture.alt
    titles = [axes.get_title() for axes in picture.figure.axes]
    assert titles == ["sample (in the place of CIFAR-10)", "sample (in the place of MNIST)"]
    for panel, axes in enumerate(picture.figure.axes):
        lines = iter(axes.get_lines())
        for training, records in told[4 * panel : 4 * panel + 4]:
            for key, kind in (("train/acc1", "--"), ("test/acc1", "-")):
                line = next(lines)
                assert list(line.get_xdata()) == [1, 2, 3, 4]
                wanted = [100 * record[key] for record in records]
                assert list(line.get_ydata()) == pytest.approx(wanted)
                defective = training.config.defects != "standard"
                assert line.get_color() == plots.colour(int(defective))
                assert line.get_linestyle() == kind and line.get_marker() == "o"
        assert list(lines) == []
    (legend,) = picture.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{name}, {split}" for name in ("standard", "0.1-Bottom") for split in ("train", "test")
    ]


def test_long_curves_have_no_marks_and_missing_trainings_no_curve(tmp_path):
    made = of("figure14", tmp_path)
    write_run(list(made.experiment.attached.values())[3], made, history(25, 0.0))
    (picture,) = drawn(made)
    (axes,) = picture.figure.axes
    assert axes.get_title() == "sample (in the place of MNIST)"
    assert [line.get_marker() for line in axes.get_lines()] == ["None"] * 2


def test_damaged_metrics_are_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for content in (
        *(None, b"\xff\xfe\x00", b"", b"{", b"[1]\n", b'{"epoch": 1}\n', b"[" * 100_000),
        b'{"epoch": 1, "train/acc1": NaN, "test/acc1": 0.5}\n',
        b'{"epoch": 1, "train/acc1": "much", "test/acc1": 0.5}\n',
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"metrics\.jsonl: no metrics .* train it again"):
            pictures.read_history(path)


# Names


def test_what_stands_in_the_place_of_a_data_set():
    assert data_name(Data("mnist", "mnist")) == "MNIST"
    assert data_name(Data("tiny-imagenet", "tiny-imagenet")) == "Tiny-ImageNet"
    assert data_name(Data("cifar10", "sample")) == "sample (in the place of CIFAR-10)"
    assert data_name(Data("imagenet", "/some/where")) == "folder (in the place of ImageNet)"


def names_of(data, classes, name):
    loaded = SimpleNamespace(name=name, classes=tuple(classes))
    there = SimpleNamespace(images=lambda _: SimpleNamespace(data=loaded))
    return class_names(data, there)


def test_numbers_of_wordnet_become_words(tmp_path, monkeypatch):
    classes = load_dataset("sample").classes
    assert names_of(Data("cifar10", "sample"), classes, "sample") == classes
    data, mixed = Data("imagenet", "imagenet"), ("n01440764", "cat")
    assert names_of(data, mixed, "imagenet") == mixed
    numbers = tuple(f"n{n:08}" for n in range(1000))
    names = names_of(data, numbers, "imagenet")
    assert len(names) == 1000 and names[0] == "tench" and names[-1] == "toilet tissue"
    assert names_of(data, numbers[:10], "imagenet") == numbers[:10]
    assert names_of(data, numbers, "another") == numbers
    folder = tmp_path / "tiny-imagenet" / "tiny-imagenet-200"
    folder.mkdir(parents=True)
    classes = ("n01443537", "n01629819", "n02124075")
    given = Data("tiny-imagenet", "tiny-imagenet", root=str(tmp_path))
    assert names_of(given, classes, "tiny-imagenet") == classes
    text = "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn01629819\t \nbroken\n"
    (folder / "words.txt").write_text(text)
    wanted = ("goldfish", "n01629819", "Egyptian cat")
    assert names_of(given, classes, "tiny-imagenet") == wanted
    monkeypatch.setenv("SCOTOMA_DATA", str(tmp_path))
    usual = Data("tiny-imagenet", "tiny-imagenet")
    assert names_of(usual, classes, "tiny-imagenet") == wanted
