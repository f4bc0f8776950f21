"""Stylised images: which belong to which test image, and which count."""

import numpy as np
import protocol_targets as shared
import pytest
import torch
from PIL import Image
from protocol_targets import Bright, Told, Watched, named
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import proportion
from scotoma.train.datasets import load_dataset
from scotoma.train.robustness.images import TestImages
from scotoma.train.robustness.protocols import CleanPredictions
from scotoma.train.robustness.stylized import evaluate_stylized

cells = shared.cells


@pytest.fixture
def targets():
    return [named(Watched(Bright()), "a"), named(Watched(Bright(slope=3)), "b")]


def paint(path, level, size=(16, 16), mode="RGB"):
    """An image of one brightness of 255; class 1 (dog) is over 0.3 * 255 = 76.5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode == "L" else (level,) * 3).save(path)


def stylise(root, levels):
    """``levels``: {"dog/02": 200} paints the stylised image dog/02.png."""
    for name, level in levels.items():
        paint(root / f"{name}.png", level)
    return root


def loaded(root, size=None, workers=0):
    return TestImages(load_dataset(str(root), image_size=size), torch.device("cpu"), workers)


def evaluate(targets, images, folder, cells, **more):
    told = Told()
    found = evaluate_stylized(targets, images, folder, cells, batch_size=2, progress=told, **more)
    told.check()
    return found


def test_only_stylised_images_whose_originals_all_get_right_count(
    tmp_path, image_folder, targets, cells
):
    root = image_folder(test=4)
    paint(root / "test" / "dog" / "01.png", 70)  # a dog that all take for a cat
    # And one that only the second target takes for a cat.
    targets[1] = named(Watched(Bright(level=0.45)), "b")
    paint(root / "test" / "dog" / "03.png", 100)
    images = loaded(root)
    folder = stylise(
        tmp_path / "styled",
        {
            "cat/00": 10, "cat/01": 200, "cat/02": 100, "dog/00": 250, "dog/01": 250,
            "dog/02": 5, "dog/03": 250, "dog/99": 250, "bird/00": 250,
        },
    )  # fmt: skip
    found = evaluate(targets, images, folder, cells)
    for cell in found:
        assert cell["kind"] == "stylized"
        counts = {k: v for k, v in cell["results"].items() if k not in ("accuracy", "shown")}
        assert counts == {"stylised": 7, "without_original": 2, "originals_wrong": 2}
    # Of cat 00, 01, 02 and dog 00, 02: the first takes 100 for a dog, the second for a cat.
    assert found[0]["results"]["accuracy"] == proportion(2, 5)
    assert found[1]["results"]["accuracy"] == proportion(3, 5)
    assert [cell["results"]["shown"]["target"] for cell in found] == ["a", "b"]
    # Alone, the first is asked about dog 03 too.
    alone = evaluate(targets[:1], images, folder, cells)
    assert alone[0]["results"]["accuracy"] == proportion(3, 6)


def test_links_are_read_and_hidden_images_are_not(tmp_path, image_folder, targets, cells):
    images = loaded(image_folder())
    folder = stylise(tmp_path / "styled", {"cat/.ipynb_checkpoints/00": 250, "cat/00": 10})
    (folder / "dog").symlink_to(stylise(tmp_path / "dogs", {"00": 250, "@eaDir/01": 250}))
    cell, _ = evaluate(targets, images, folder, cells)
    assert cell["results"]["accuracy"] == proportion(2, 2)
    assert cell["results"]["stylised"] == 2


def test_the_images_may_be_in_a_split_of_the_folder(tmp_path, image_folder, targets, cells):
    """And a class may have the name of one."""
    images = loaded(image_folder())
    for split in ("val", "test"):
        folder = stylise(tmp_path / split, {f"{split}/dog/00": 250, f"{split}/cat/00": 250})
        stylise(folder, {"train/dog/00": 250, "train/dog/01": 250})  # not test images
        cell, _ = evaluate(targets, images, folder, cells)
        assert cell["results"]["accuracy"] == proportion(1, 2)
        assert cell["results"]["stylised"] == 2
    images = loaded(image_folder(classes=("cat", "val"), name="others"))
    folder = stylise(tmp_path / "styled", {"val/00": 250, "cat/00": 250, "cat/01": 10})
    cell, _ = evaluate(targets, images, folder, cells)
    assert cell["results"]["accuracy"] == proportion(2, 3)


def test_images_are_brought_to_the_size_and_channels_of_the_test_images(
    tmp_path, image_folder, targets, cells
):
    """Half of a wide image is cut away, and colours become grey."""
    images = loaded(image_folder(mode="L"))
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, :16] = wide[:, 48:] = 255
    wide[:, 16:48] = (90, 120, 60)
    (tmp_path / "styled" / "dog").mkdir(parents=True)
    Image.fromarray(wide).save(tmp_path / "styled" / "dog" / "00.webp", lossless=True)
    evaluate(targets, images, tmp_path / "styled", cells)
    (last,) = targets[0].model.seen[-1:]
    assert last.shape == (1, 1, 16, 16)
    middle = last[0, 0, :, 1:-1]  # the resizing blends the borders
    assert torch.allclose(middle, middle[0, 0].expand_as(middle))
    assert round(255 * float(middle[0, 0])) == round(0.299 * 90 + 0.587 * 120 + 0.114 * 60)


@pytest.mark.parametrize("workers", [0, 1])
def test_large_images_are_read_from_files_as_test_images_are(
    tmp_path, image_folder, targets, cells, workers
):
    root = image_folder(size=(90, 80), test=2)
    images = loaded(root, 72, workers)
    assert images.split.images is None
    folder = tmp_path / "styled"
    for cls in ("cat", "dog"):
        for name in ("00", "01"):
            (folder / cls).mkdir(parents=True, exist_ok=True)
            with Image.open(root / "test" / cls / f"{name}.png") as image:
                image.save(folder / cls / f"{name}.tiff")  # a style that changes nothing
    cell, _ = evaluate(targets, images, folder, cells)
    assert cell["results"]["accuracy"] == proportion(4, 4)
    seen = targets[0].model.images()
    assert torch.equal(seen[:4], seen[4:])  # originals, then stylised images


def test_a_second_call_computes_nothing(tmp_path, image_folder, targets, cells):
    images = loaded(image_folder())
    folder = stylise(tmp_path / "styled", {"cat/00": 10, "dog/00": 20})
    first = evaluate(targets, images, folder, cells)
    asked = [len(target.model.seen) for target in targets]
    moved = folder.rename(tmp_path / "elsewhere")
    again = evaluate(targets, images, moved, cells)
    assert [c["results"] for c in again] == [c["results"] for c in first]
    assert [len(target.model.seen) for target in targets] == asked
    assert cells.reused == cells.computed == 2
    paint(moved / "dog" / "00.png", 250)  # another style under the same name
    changed = evaluate(targets, images, moved, cells)
    assert changed[0]["results"]["accuracy"]["k"] == first[0]["results"]["accuracy"]["k"] + 1


def test_clean_predictions_can_be_shared(tmp_path, image_folder, targets, cells):
    images = loaded(image_folder())
    folder = stylise(tmp_path / "styled", {"cat/00": 10, "dog/00": 20})
    clean = CleanPredictions(images, 3)
    clean.right_for_all(targets, torch.arange(len(images)))
    assert [len(target.model.images()) for target in targets] == [6, 6]
    evaluate(targets, images, folder, cells, clean=clean)
    assert [len(target.model.images()) for target in targets] == [6 + 2, 6 + 2]


def test_nothing_that_fits_is_an_error(tmp_path, image_folder, targets, cells):
    images = loaded(image_folder())
    folder = stylise(tmp_path / "styled", {"cat/img_1": 10, "dog/img_2": 10})
    with pytest.raises(UserError, match=r"looked for cat/00\.png .*; 2 images of other names"):
        evaluate(targets, images, folder, cells)
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        evaluate(targets, images, tmp_path / "nowhere", cells)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"looked for cat/00\.png \(or another extension\) and so"):
        evaluate(targets, images, tmp_path / "empty", cells)
    with pytest.raises(UserError, match="sample has no file names"):
        evaluate(targets, loaded("sample"), folder, cells)
    stylise(folder, {"cat/00": 10, "cat/01": 10})
    with pytest.raises(UserError, match=r"of 2 stylised images no original .* all of bad"):
        evaluate([named(Bright(level=-1.0), "bad")], images, folder, cells)
    paint(tmp_path / "pets" / "test" / "cat" / "00.bmp", 10)  # which is the original?
    with pytest.raises(UserError, match=r"cat/00\.bmp and .*cat/00\.png differ only"):
        evaluate(targets, loaded(tmp_path / "pets"), folder, cells)
    assert not cells.all()


@pytest.mark.parametrize("content", [b"no image", "half"])
def test_an_unreadable_image_is_named_and_finished_cells_stay(
    tmp_path, image_folder, targets, cells, content
):
    images = loaded(image_folder())
    folder = stylise(tmp_path / "styled", {"cat/00": 10, "dog/00": 20})
    evaluate(targets, images, folder, cells)
    for target in targets:
        target.model.seen.clear()
    broken = folder / "dog" / "01.png"
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[:400] if content == "half" else content)
    with pytest.raises(UserError, match=r"dog/01\.png: not a readable image"):
        evaluate(targets, images, folder, cells)
    assert len(cells.all()) == 2
    if content != "half":  # the header tells, before any work
        assert not any(target.model.seen for target in targets)


def test_small_image_folders_keep_the_names_of_their_files(image_folder):
    data = load_dataset(str(image_folder()))
    for split, count in ((data.train, 12), (data.test, 6)):
        assert len(split.files) == count
        for file, label, pixels in zip(split.files, split.labels, split.images, strict=True):
            assert file.parent.name == data.classes[label]
            assert np.array_equal(np.asarray(Image.open(file)), pixels.numpy())
    part = data.limited(5, 3, 0).hold_out(0.4, 0)
    for split in (part.train, part.validation, part.test):
        assert len(split.files) == len(split)
        for file, pixels in zip(split.files, split.images, strict=True):
            assert np.array_equal(np.asarray(Image.open(file)), pixels.numpy())
    resized = load_dataset(str(image_folder(size=(20, 20), name="others")), image_size=16)
    assert len(resized.test.files) == 6
