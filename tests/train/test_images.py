"""Which images are attacked: those that all networks get right, by their numbers."""

import json
from dataclasses import replace

import pytest
import torch
from fitted_networks import CPU, named, pixels, sample_images
from PIL import Image
from scotoma.defective.errors import UserError
from scotoma.train import image_folder as contents
from scotoma.train.data import DataSet, Split
from scotoma.train.robustness.images import TestImages, choose_images


@pytest.fixture(scope="module")
def images():
    return sample_images(150)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return named(tmp_path_factory.mktemp("nets"), ("standard",), ("0.5-Bottom",))


def test_the_first_of_the_shuffle_that_all_get_right(models, images):
    everything = pixels(images.split.images)
    right = torch.ones(len(images), dtype=torch.bool)
    for model in models:
        right &= model.model(everything).argmax(1) == images.labels
    assert 10 < int(right.sum()) < 100
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    expected = order[right[order]]
    for count in (7, 1000):
        for size in (20, 1000):
            found = choose_images(models, images, count, 3, size)
            assert torch.equal(found.indices, expected[:count])
            last = int((order == found.indices[-1]).nonzero()) + 1
            assert found.looked_at == (len(images) if count > len(expected) else last)
    assert not torch.equal(choose_images(models, images, 7, 4, 20).indices, expected[:7])
    described = json.loads(json.dumps(found.describe()))
    assert described["seed"] == 3 and described["found"] == len(expected)
    assert [m["digest"] for m in described["correct_for"]] == [m.digest for m in models]


def test_each_model_sees_each_image_once_and_no_more_than_needed(models, images):
    seen = []
    hook = models[0].model.register_forward_hook(lambda module, x, y: seen.append(len(y)))
    choose_images(models[:1], images, 5, batch_size=20)
    assert sum(seen) <= 40
    seen.clear()
    choose_images(models[:1], images, 10**6, batch_size=64)
    assert sum(seen) == len(images)
    hook.remove()


def test_wrong_choices(models, images):
    for options, word in (
        ({"count": 0}, "--samples is 0"),
        ({"count": 5, "seed": -1}, "--sample-seed is -1"),
    ):
        with pytest.raises(UserError, match=word):
            choose_images(models, images, **options)
    wrong = (models[0].model(pixels(images.split.images)).argmax(1) + 1) % 10
    split = Split(wrong, images.split.images)
    with pytest.raises(UserError, match=r"none of the 150 .* standard"):
        choose_images(models[:1], TestImages(replace(images.data, test=split), CPU), 5)


def test_images_by_number(images):
    chosen = torch.tensor([5, 0, 149])
    ((indices, batch, labels),) = images.batches(chosen, 10)
    assert torch.equal(indices, chosen) and torch.equal(labels, images.labels[chosen])
    assert torch.equal(batch, pixels(images.split.images[chosen]))
    assert [len(i) for i, _, _ in images.batches(chosen, 2)] == [2, 1]
    prints = {images.fingerprint(torch.tensor(i)) for i in ([5], [6], [5, 6], [6, 5])}
    assert len(prints) == 4
    for wrong in (-1, 150):
        with pytest.raises(UserError, match=f"image {wrong} is asked for"):
            next(images.batches(torch.tensor([0, wrong]), 10))
        with pytest.raises(UserError, match=f"image {wrong} is asked for"):
            images.fingerprint(torch.tensor([wrong]))


def test_images_in_files_by_number(image_folder):
    files = sorted((image_folder((70, 70)) / "test").rglob("*.png"))
    split = Split(torch.tensor([0, 0, 0, 1, 1, 1]), files=tuple(files))
    data = DataSet("pets", ("cat", "dog"), split, split, 70, 3, (0.5,) * 3, (0.2,) * 3)
    streamed = TestImages(data, CPU)
    _, whole, _ = next(streamed.batches(torch.arange(6), 6))
    parts = list(streamed.batches(torch.tensor([4, 1, 0]), 2))
    assert torch.equal(torch.cat([x for _, x, _ in parts]), whole[[4, 1, 0]])
    assert torch.cat([y for _, _, y in parts]).tolist() == [1, 0, 0]
    other = TestImages(replace(data, image_size=64), CPU)
    assert streamed.fingerprint(torch.arange(3)) != other.fingerprint(torch.arange(3))


@pytest.mark.parametrize("small", [True, False])
def test_files_of_other_contents_are_other_images(image_folder, monkeypatch, small):
    """Their names alone once counted, and results of the files of before were found again."""
    monkeypatch.setattr(contents, "SMALL", 1 << 20 if small else 0)
    files = sorted((image_folder((70, 70)) / "test").rglob("*.png"))
    files.append(files[0].with_suffix(".bmp"))
    Image.new("RGB", (70, 70), (1, 2, 3)).save(files[-1])
    split = Split(torch.zeros(len(files), dtype=torch.int64), files=tuple(files))
    data = DataSet("pets", ("cat", "dog"), split, split, 70, 3, (0.5,) * 3, (0.2,) * 3)

    def fingerprints():
        images = TestImages(data, CPU)
        found = [images.fingerprint(torch.tensor([index])) for index in range(len(files))]
        assert found == [images.fingerprint(torch.tensor([index])) for index in range(len(files))]
        return found

    def same():
        return [one == other for one, other in zip(before, fingerprints(), strict=True)]

    before = fingerprints()
    assert len(set(before)) == len(files) and all(same())
    files[1].write_bytes(files[1].read_bytes() + b"\0")  # another size
    content = files[2].read_bytes()
    files[2].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the same size
    Image.new("RGB", (70, 70), (1, 2, 4)).save(files[-1])
    assert same() == [True, False, not small, *[True] * (len(files) - 4), False]
    files[0].unlink()
    with pytest.raises(UserError, match=r"00\.png: cannot be read"):
        fingerprints()
