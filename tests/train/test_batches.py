"""Resident batches: what an epoch holds, and that it depends on (seed, epoch) alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scotoma.train.data import ResidentBatches, Split, steps_per_epoch

CPU = torch.device("cpu")


def split_of(count=20, size=8, channels=3):
    """Images whose pixels are all different, so that a wrong source shows."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(1, 256, (count, size, size, channels), generator=generator)
    return Split(torch.arange(count), images.to(torch.uint8))


def collect(batches):
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_in_order_gives_every_image_as_pixels_in_unit_range():
    split = split_of()
    for augment in ("none", "crop-flip"):
        images, labels = collect(ResidentBatches(split, CPU, augment).in_order(7))
        assert torch.equal(labels, split.labels)
        assert torch.equal(images, split.images.permute(0, 3, 1, 2).float() / 255)


@given(seed=st.integers(0, 99), epoch=st.integers(0, 9), first_step=st.integers(0, 3))
@settings(max_examples=30)
def test_batches_are_a_function_of_seed_and_epoch(seed, epoch, first_step):
    """Also when an epoch is entered in its middle, as a resumed run does."""
    batches = ResidentBatches(split_of(), CPU, "crop-flip")
    torch.manual_seed(seed)  # the global generator must not matter
    whole = list(batches.epoch(seed, epoch, 6))
    order = torch.cat([labels for _, labels in whole]).tolist()
    assert sorted(order) == list(range(20))  # every image once, in another order than the next
    assert order != collect(batches.epoch(seed, epoch + 1, 6))[1].tolist()
    torch.manual_seed(seed + 1)
    rest = list(batches.epoch(seed, epoch, 6, first_step))
    assert len(rest) == len(whole) - first_step
    for (a, la), (b, lb) in zip(whole[first_step:], rest, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_augmented_images_are_crops_of_the_padded_image_or_its_mirror():
    """Every output equals one of the 9 x 9 x 2 windows of its zero-padded source (4 pixels)."""
    split = split_of(count=30, size=8)
    images, labels = collect(ResidentBatches(split, CPU, "crop-flip").epoch(0, 0, 10))
    seen = set()
    for image, label in zip(images, labels, strict=True):
        source = split.images[label].permute(2, 0, 1).float() / 255
        padded = torch.nn.functional.pad(source, (4, 4, 4, 4))
        windows = {
            (top, left, mirrored): window.flip(2) if mirrored else window
            for top in range(9)
            for left in range(9)
            for window in [padded[:, top : top + 8, left : left + 8]]
            for mirrored in (False, True)
        }
        found = [place for place, window in windows.items() if torch.equal(window, image)]
        assert len(found) == 1
        seen.add(found[0])
    assert len({t for t, _, _ in seen}) > 4
    assert len({left for _, left, _ in seen}) > 4
    assert {m for _, _, m in seen} == {False, True}


def test_flip_alone_neither_crops_nor_pads():
    split = split_of()
    images, labels = collect(ResidentBatches(split, CPU, "flip").epoch(0, 0, 5))
    plain = split.images[labels].permute(0, 3, 1, 2).float() / 255
    straight = (images == plain).flatten(1).all(1)
    mirrored = (images == plain.flip(3)).flatten(1).all(1)
    assert bool((straight ^ mirrored).all())
    assert 0 < int(mirrored.sum()) < 20


@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 4),
)
def test_ranks_divide_the_very_batches_of_one_process(count, batch_size, world_size):
    batches = ResidentBatches(split_of(count, 4, 1), CPU, "crop-flip")
    steps = steps_per_epoch(count, batch_size, world_size)
    alone = list(batches.epoch(3, 1, batch_size))[:steps]
    ranks = [
        list(batches.epoch(3, 1, batch_size, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    assert {len(r) for r in ranks} == {steps}
    for step, (images, labels) in enumerate(alone):
        assert torch.equal(torch.cat([r[step][0] for r in ranks]), images)
        assert torch.equal(torch.cat([r[step][1] for r in ranks]), labels)


@given(count=st.integers(1, 50), batch_size=st.integers(1, 9), world_size=st.integers(1, 4))
def test_ranks_together_evaluate_every_image_once(count, batch_size, world_size):
    batches = ResidentBatches(split_of(count, 4, 1), CPU)
    seen = [
        label
        for rank in range(world_size)
        for _, labels in batches.in_order(batch_size, rank, world_size)
        for label in labels.tolist()
    ]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("channels", [1, 3])
def test_memory_format_is_as_asked(channels):
    split = split_of(channels=channels)
    for channels_last in (False, True):
        batches = ResidentBatches(split, CPU, "crop-flip", channels_last)
        images, _ = next(iter(batches.epoch(0, 0, 8)))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert images.is_contiguous(memory_format=layout)
        assert images.dtype == torch.float32
