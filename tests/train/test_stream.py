"""Streamed batches: large images read by workers."""

import multiprocessing

import pytest
import torch
from scotoma.defective import UserError
from scotoma.defective.errors import RankError
from scotoma.train.data import StreamedBatches
from scotoma.train.datasets import load_dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

CPU = torch.device("cpu")


@pytest.fixture
def photos(image_folder):
    return load_dataset(str(image_folder(size=(96, 80), train=5, test=2)), image_size=72)


def epoch(data, augment, workers=0, **options):
    batches = StreamedBatches(data.train, CPU, 72, augment, epochs=20, workers=workers)
    return list(batches.epoch(0, options.pop("epoch", 0), 4, **options))


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip", "imagenet"])
def test_batches_have_one_shape_and_unit_range(photos, augment):
    batches = epoch(photos, augment)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    for images, labels in batches:
        assert images.shape == (len(labels), 3, 72, 72)
        assert images.min() >= 0 and images.max() <= 1
        assert images.dtype == torch.float32


def test_augmentation_does_not_depend_on_the_workers(photos):
    for (a, la), (b, lb) in zip(
        epoch(photos, "imagenet"), epoch(photos, "imagenet", workers=2), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_an_epoch_can_be_entered_in_its_middle(photos):
    whole, rest = epoch(photos, "imagenet"), epoch(photos, "imagenet", first_step=1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[1:], rest, strict=True))


def test_epochs_differ_and_the_global_generator_is_left_alone(photos):
    before = torch.get_rng_state()
    first, second = epoch(photos, "imagenet"), epoch(photos, "imagenet", epoch=1)
    assert not torch.equal(first[0][0], second[0][0])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_last_five_imagenet_epochs_cut_the_centre(photos):
    """Brightness of a centre crop is that of the class; a random resized crop's is too, but a
    plain epoch shows every image at one scale: its rows are those of the resized image."""
    still = StreamedBatches(photos.train, CPU, 72, "none")
    reference = {}
    for images, labels in still.in_order(10):
        reference = dict(enumerate(zip(images, labels, strict=True)))
    images, _ = epoch(photos, "imagenet", epoch=15)[0]
    for image in images:
        # Undo the tint, a constant per channel, by comparing images less their means.
        centred = image - image.mean((1, 2), keepdim=True)
        gaps = [
            min(
                float((centred - (r - r.mean((1, 2), keepdim=True))).abs().median()),
                float((centred - (r - r.mean((1, 2), keepdim=True)).flip(2)).abs().median()),
            )
            for r, _ in reference.values()
        ]
        assert min(gaps) < 1e-3


def test_in_order_gives_every_image_once(photos):
    labels = [
        label
        for rank in range(2)
        for _, part in StreamedBatches(photos.test, CPU, 72).in_order(3, rank, 2)
        for label in part.tolist()
    ]
    assert sorted(labels) == sorted(photos.test.labels.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_file_is_named(photos, workers):
    photos.train.files[3].write_bytes(b"broken")
    with pytest.raises(UserError) as refused:
        epoch(photos, "imagenet", workers=workers)
    assert str(photos.train.files[3]) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "said",
    [
        ConnectionResetError("of the socket that hands over images"),
        FileNotFoundError("the socket's name"),
        EOFError(),
        RuntimeError("received 0 items of ancdata"),
    ],
)
@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.usefixtures("unwatched_children")
def test_a_killed_worker_is_named_whatever_is_left_unread(photos, monkeypatch, said, killed):
    def fail(_self):
        raise said

    others = set(multiprocessing.active_children())
    loaded = StreamedBatches(photos.train, CPU, 72, workers=1).epoch(0, 0, 4)
    next(loaded)
    (worker,) = set(multiprocessing.active_children()) - others
    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_next_data", fail)
    if not killed:
        with pytest.raises(type(said)):  # another's error
            next(loaded)
        return
    worker.kill()
    with pytest.raises(RankError, match="a loader worker was killed"):
        next(loaded)
