"""Gaussian noise: its distribution, in closed form."""

import math

import pytest
import torch
from refusals import refused
from scotoma.defective.attacks import gaussian_noise

N = 3 * 64 * 64 * 8
IMAGES = torch.full((8, 3, 64, 64), 0.5)
KEYS = torch.arange(8)  # equal images would have equal noise


def noise(sigma=0.05, **options):
    return (gaussian_noise(IMAGES, sigma, keys=KEYS, **options) - IMAGES).double() / sigma


@pytest.mark.parametrize(
    "tails, variance",
    # Of a standard normal clipped, truncated at 2, and left alone.
    [("clip", 0.92054), ("truncate", 0.77374), ("keep", 1.0)],
)
def test_variance(tails, variance):
    found = noise(tails=tails)
    assert abs(found.mean()) < 5 * math.sqrt(variance / N)
    # The standard error of a variance is at most sqrt(2 / N), the normal's.
    assert abs(found.var() - variance) < 5 * math.sqrt(2 / N)


def test_clipping_heaps_at_the_limit_and_truncation_does_not():
    clipped, truncated = noise(tails="clip"), noise(tails="truncate")
    for found in (clipped, truncated):
        assert found.abs().max() <= 2 + 1e-4
    heap = (clipped.abs() > 2 - 1e-4).double().mean()
    assert abs(heap - 0.0455) < 5 * math.sqrt(0.0455 / N)
    assert (truncated.abs() > 2 - 1e-4).double().mean() < 1e-4
    assert noise(tails="keep").abs().max() > 3.5
    assert noise(limit=1.0).abs().max() <= 1 + 1e-4


def test_every_channel_has_the_same_sigma():
    for channel in noise(tails="keep").unbind(1):
        assert abs(channel.var() - 1) < 5 * math.sqrt(2 / channel.numel())


def test_pixels_are_clipped_to_the_box():
    images = torch.cat([torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)])
    found = gaussian_noise(images, 0.3, keys=torch.arange(4))
    assert found.min() == 0 and found.max() == 1
    assert (found[:2] == 0).float().mean() > 0.3  # half of the noise is below


def test_half_precision_images_have_the_same_noise():
    found = gaussian_noise(IMAGES.half(), 0.1, keys=KEYS)
    assert found.dtype == torch.float16
    # A rounding to 11 bits of each of noise and sum.
    torch.testing.assert_close(
        found.float(), gaussian_noise(IMAGES, 0.1, keys=KEYS), rtol=0, atol=2e-3
    )


def test_pixels_out_of_the_box_are_refused():
    with refused("pixels from 127.5", "divide by 255"):
        gaussian_noise(IMAGES * 255, 0.1)
