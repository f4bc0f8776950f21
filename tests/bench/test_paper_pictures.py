"""The pictures of Figures 1, 3, 6, 7 and 14: what they show, and that it can be read."""

import io
import json
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from paper_smoke import context, new_store, tiny_setup
from PIL import Image
from scotoma.bench.paper.experiment import Made
from scotoma.bench.paper.experiments import curves, shape
from scotoma.bench.paper.experiments import examples as figures
from scotoma.bench.paper.graph.data import Data
from scotoma.bench.paper.graph.local import run_locally
from scotoma.bench.paper.graph.plan import Plan
from scotoma.bench.paper.pictures import data_name, examples, shuffled, training_curves
from scotoma.bench.paper.pictures.class_names import class_names
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import AdversarialSet, save_set
from scotoma.defective.robustness.adversarial_set import to_uint8
from scotoma.defective.robustness.shuffle import shuffle_patches
from scotoma.train import plots
from scotoma.train.datasets import load_dataset

DEFINITIONS = {d.name: d for module in (shape, figures, curves) for d in module.DEFINITIONS}


def of(name, folder, **changes):
    setup, definition = tiny_setup(**changes), DEFINITIONS[name]
    other = replace(setup.data["tiny-imagenet"], train_limit=400)  # else its sets are CIFAR-10's
    setup = replace(setup, data={**setup.data, "tiny-imagenet": other})
    there = context(new_store(folder))
    return Made(definition, setup, definition.build(setup), {}, there)


def check_png(picture, name):
    assert picture.name == name and picture.alt
    image = Image.open(io.BytesIO(picture.file()))
    image.load()
    assert image.format == "PNG" and min(image.size) > 200
    assert "Software" not in image.info


def check_words(figure):
    """Everything written is on the picture, and nothing upon another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, boxes = canvas.get_renderer(), {}
    for text in figure.texts:
        boxes[text] = text.get_window_extent(renderer)
        assert boxes[text].x0 >= 0 and boxes[text].x1 <= figure.bbox.width, text.get_text()
        assert boxes[text].y0 >= 0 and boxes[text].y1 <= figure.bbox.height, text.get_text()
    for (a, one), (b, other) in combinations(boxes.items(), 2):
        assert not one.overlaps(other), (a.get_text(), b.get_text())
    for axes in figure.axes:
        for text, box in boxes.items():
            assert not box.overlaps(axes.get_window_extent(renderer)), text.get_text()


# Figure 1


def test_images_are_shuffled_as_in_table_1(tmp_path):
    made = of("figure1", tmp_path)
    assert shape.draw_shuffled(made) == []
    assert run_locally(Plan.of(made.experiment.wanted(), made.context.store), made.context) == []
    sample = made.experiment.attached["images"]
    indices, _ = sample.read(made.context.store)
    found = shuffled.shown(made)
    images = made.context.images(sample.data)
    ((_, pixels, labels),) = images.batches(indices, 4)
    assert sorted(found["shuffled"]) == [1, 2, 4, 8]
    assert torch.equal(found["shuffled"][1], pixels)
    for grid in (2, 4, 8):
        assert torch.equal(found["shuffled"][grid], shuffle_patches(pixels, grid, 0, indices))
    assert found["labels"] == [images.data.classes[label] for label in labels.tolist()]
    (picture,) = shape.draw_shuffled(made)
    check_png(picture, "figure1.png")
    assert picture.alt.startswith("4 images of sample-folder (in the place of ImageNet)")


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


def test_blocks_have_the_first_images_that_fool_every_network(tmp_path):
    made = of("figure6", tmp_path)
    assert examples.draw_examples(made) == []
    attached = list(made.experiment.attached.values())
    small, large = attached[:3], attached[3:]
    fooled = [range(30, 42), [31, 33, 34, 36, 40], [41, 40, 36, 35, 33]]
    orders = [range(30, 42), range(41, 29, -1), range(30, 42)]
    sets = [
        write_set(*item)
        for item in zip(small, [made] * 3, fooled, orders, strict=True)
    ]  # fmt: skip
    chosen = examples.fooling_all(sets)
    assert chosen.tolist() == [33, 36, 40]
    (blocks,) = examples.blocks_of(made).values()
    assert [block.heading for block in blocks] == ["MI-FGSM, epsilon 16/255, 3 steps of 1/255"]
    images = made.context.images(made.setup.data["cifar10"])
    ((_, pixels, labels),) = images.batches(chosen, 3)
    strips = blocks[0].strips
    headings = [strip.heading for strip in strips]
    assert headings == ["0.2-Bottom", "0.1-{1,2}", "original", "ResNet-18"]
    classes = images.data.classes
    for strip in strips:
        if strip.heading == "original":
            assert torch.equal(strip.images, pixels)
            assert strip.labels == [classes[c] for c in labels.tolist()]
            assert strip.ink != plots.WRONG
        else:
            wanted = to_uint8((pixels + 0.2).clamp(0, 1)).float() / 255
            assert torch.equal(strip.images, wanted)
            assert strip.labels == [classes[(c + 1) % 10] for c in labels.tolist()]
            assert strip.ink == plots.WRONG
    for artefact in large:
        write_set(artefact, made, range(30, 42))
    assert [len(block.strips[0].images) for block in examples.blocks_of(made)["cifar10"]] == [3, 8]
    (picture,) = examples.draw_examples(made)
    check_png(picture, "figure6-cifar10.png")


def test_images_that_a_network_gets_wrong_from_the_start_are_not_shown(tmp_path):
    made = of("figure7", tmp_path)
    one, other = list(made.experiment.attached.values())[:2]
    sets = [write_set(one, made, range(30, 42), right=[n % 2 == 0 for n in range(12)])]
    sets.append(write_set(other, made, range(30, 42), right=[n % 3 == 0 for n in range(12)]))
    assert examples.fooling_all(sets).tolist() == [30, 36]


def test_where_no_image_fools_all_networks_the_picture_says_so(tmp_path):
    made = of("figure7", tmp_path)
    for artefact in made.experiment.attached.values():
        write_set(artefact, made, [31] if artefact.source.name == "ResNet-18" else [32])
    (blocks,) = examples.blocks_of(made).values()
    assert len(blocks) == 2
    for block in blocks:
        assert block.strips == () and block.heading.endswith(": no image fools all networks")
    check_words(examples.figure_of("nothing", blocks))
    check_png(*examples.draw_examples(made), "figure7-tiny-imagenet.png")


def test_a_picture_for_each_data_set(tmp_path):
    made = of("figure3", tmp_path)
    attached = list(made.experiment.attached.values())
    for artefact in attached[:5]:  # the second data set has one network's only
        write_set(artefact, made, range(30, 42))
    first, second = examples.draw_examples(made)
    check_png(first, "figure3-cifar10.png")
    check_png(second, "figure3-tiny-imagenet.png")
    assert "in the place of Tiny-ImageNet" in second.alt
    (block,) = examples.blocks_of(made)["tiny-imagenet"]
    assert [strip.heading for strip in block.strips] == ["0.1-{1,2}", "original"]


def test_a_damaged_set_is_an_error(tmp_path):
    made = of("figure7", tmp_path)
    artefact = next(iter(made.experiment.attached.values()))
    write_set(artefact, made, range(30, 42))
    artefact.path(made.context.store).write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        examples.draw_examples(made)


@pytest.mark.parametrize("count", [1, 8])
def test_long_names_of_classes_do_not_run_into_each_other(count):
    pixels = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names = [f"WWWWWW MMMMMM number {k}" for k in range(count)]
    strips = [
        examples.Strip(heading, pixels, names, ink)
        for heading, ink in (("0.2-Bottom", plots.WRONG), ("original", "#000000"))
    ]
    title = "Adversarial images, tiny-imagenet (in the place of Tiny-ImageNet)"
    told = "MI-FGSM, epsilon 64/255, 80 steps of 1/255"
    figure = examples.figure_of(title, [examples.Block(told, tuple(strips))] * 2)
    assert len(figure.axes) == 2 * 2 * count
    check_words(figure)
    assert plots.encoded(figure) == plots.encoded(figure)


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
    (folder / training_curves.METRICS).write_text("".join(lines))
    (folder / "summary.json").write_text("{}")
    (folder / "last.safetensors").touch()
    return training_curves.read_history(folder / training_curves.METRICS)


def test_curves_of_each_network_and_seed(tmp_path):
    made = of("figure14", tmp_path, seeds=(0, 1))
    assert curves.draw_training_curves(made) == []
    told = []
    for number, training in enumerate(made.experiment.attached.values()):
        told.append((training, write_run(training, made, history(4, number / 20))))
    figure = training_curves.figure_of(told)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["sample (in the place of CIFAR-10)", "sample (in the place of MNIST)"]
    for panel, axes in enumerate(figure.axes):
        lines = axes.get_lines()
        assert len(lines) == 2 * 2 * 2
        for number, (training, records) in enumerate(told[4 * panel : 4 * panel + 4]):
            for line, key, kind in zip(
                lines[2 * number :], ("train/acc1", "test/acc1"), ("--", "-"), strict=False
            ):
                assert list(line.get_xdata()) == [1, 2, 3, 4]
                wanted = [100 * record[key] for record in records]
                assert list(line.get_ydata()) == pytest.approx(wanted)
                defective = training.config.defects != "standard"
                assert line.get_color() == plots.colour(int(defective))
                assert line.get_linestyle() == kind and line.get_marker() == "o"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "standard, train", "standard, test", "0.1-Bottom, train", "0.1-Bottom, test",
    ]  # fmt: skip
    (picture,) = curves.draw_training_curves(made)
    check_png(picture, "figure14.png")
    assert "standard and 0.1-Bottom" in picture.alt


def test_long_curves_have_no_marks_and_missing_trainings_no_curve(tmp_path):
    made = of("figure14", tmp_path)
    training = list(made.experiment.attached.values())[3]
    records = write_run(training, made, history(25, 0.0))
    figure = training_curves.figure_of([(training, records)])
    (axes,) = figure.axes
    assert axes.get_title() == "sample (in the place of MNIST)"
    assert [line.get_marker() for line in axes.get_lines()] == ["None"] * 2
    check_png(*curves.draw_training_curves(made), "figure14.png")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]\n",
        '{"epoch": 1}\n',
        '{"epoch": 1, "train/acc1": NaN, "test/acc1": 0.5}\n',
        '{"epoch": 1, "train/acc1": "much", "test/acc1": 0.5}\n',
        "\x00",
        "[" * 100_000,
    ],
    ids=str.__len__,
)
def test_damaged_metrics_are_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl: no metrics .* train it again"):
        training_curves.read_history(path)


def test_no_metrics_and_metrics_that_are_no_text(tmp_path):
    with pytest.raises(UserError, match="no metrics of a training"):
        training_curves.read_history(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no metrics of a training"):
        training_curves.read_history(tmp_path / "metrics.jsonl")


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


def test_words_stay_as_they_are():
    classes = load_dataset("sample").classes
    assert names_of(Data("cifar10", "sample"), classes, "sample") == classes
    mixed = ("n01440764", "cat")
    assert names_of(Data("cifar10", "sample"), mixed, "imagenet") == mixed


def test_numbers_of_imagenet_become_words():
    data = Data("imagenet", "imagenet")
    numbers = [f"n{n:08}" for n in range(1000)]
    names = names_of(data, numbers, "imagenet")
    assert len(names) == 1000 and names[0] == "tench" and names[-1] == "toilet tissue"
    assert names_of(data, numbers[:10], "imagenet") == tuple(numbers[:10])
    assert names_of(data, numbers, "another") == tuple(numbers)


def test_numbers_of_tiny_imagenet_become_words(tmp_path, monkeypatch):
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
