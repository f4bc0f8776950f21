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


def test_batches_are_a_function_of_seed_and_epoch_alone(photos):
    """Not of the workers, nor of where an epoch is entered; the global generator is left alone."""
    before = torch.get_rng_state()
    whole, other = epoch(photos, "imagenet"), epoch(photos, "imagenet", epoch=1)
    assert not torch.equal(whole[0][0], other[0][0])
    assert torch.equal(torch.get_rng_state(), before)
    by_workers = epoch(photos, "imagenet", workers=2)
    rest = epoch(photos, "imagenet", first_step=1)
    for expected, found in ((whole, by_workers), (whole[1:], rest)):
        for (a, la), (b, lb) in zip(expected, found, strict=True):
            assert torch.equal(a, b) and torch.equal(la, lb)


def test_the_last_five_imagenet_epochs_cut_the_centre(photos):
    """Brightness of a centre crop is that of the class; a random resized crop's is too, but a
    plain epoch shows every image at one scale: its rows are those of the resized image."""
    ((reference, _),) = StreamedBatches(photos.train, CPU, 72, "none").in_order(10)
    images, _ = epoch(photos, "imagenet", epoch=15)[0]

    def centred(image):  # without the tint, a constant per channel
        return image - image.mean((1, 2), keepdim=True)

    for image in images:
        gaps = [
            float((centred(image) - centred(turned)).abs().median())
            for still in reference
            for turned in (still, still.flip(2))
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
    ids=lambda said: type(said).__name__,
)
@pytest.mark.usefixtures("unwatched_children")
def test_a_killed_worker_is_named_whatever_is_left_unread(photos, monkeypatch, said):
    def fail(_self):
        raise said

    others = set(multiprocessing.active_children())
    running, stopped = (
        StreamedBatches(photos.train, CPU, 72, workers=1).epoch(0, 0, 4) for _ in range(2)
    )
    next(running)
    alive = set(multiprocessing.active_children()) - others
    next(stopped)
    (worker,) = set(multiprocessing.active_children()) - others - alive
    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_next_data", fail)
    with pytest.raises(type(said)):  # another's error
        next(running)
    worker.kill()
    with pytest.raises(RankError, match="a loader worker was killed"):
        next(stopped)
