"""CW-L2: closed forms, clocks and counts, independence of the batch, and what is refused."""

import math

import pytest
import torch
from cw_models import Constant, Scaled, TwoClasses
from hypothesis import given, settings
from hypothesis import strategies as st
from scotoma.defective.attacks import Oracle, Status, parse_attack
from scotoma.defective.attacks.carlini_wagner import CWL2, cw_l2

SHORT = {"search_steps": 3, "steps": 12, "initial_const": 0.1}


@pytest.fixture
def model(small_model, randomise):
    return Scaled(randomise(small_model("resnet18", image_size=16)))


@pytest.fixture
def images():
    """Images with many pixels at the borders of the box."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(6, 3, 16, 16, generator=generator) * 1.5 - 0.25).clamp(0, 1)


def two_classes(seed=0, count=4, size=4, margin=0.3):
    """A linear model in float64 and images of class 1, whose nearest others are inside the box."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3 * size * size, generator=generator, dtype=torch.float64)
    images = 0.4 + 0.2 * torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64)
    scores = images.flatten(1) @ weight
    model = TwoClasses(weight, margin - scores.min()).eval()
    return model, images, torch.ones(count, dtype=torch.int64)


LONG = {"search_steps": 6, "steps": 100, "initial_const": 0.1}


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_minimal_distance_of_a_linear_model(confidence, stop_early):
    model, images, labels = two_classes(margin=3.0)
    options = {**LONG, "stop_early": stop_early, "details": True}
    found, result = cw_l2(model, images, labels, confidence, **options)
    margins = model(images)[:, 1].detach()
    expected = (margins + confidence) / model.weight.detach().norm()
    distance = (found - images).flatten(1).norm(dim=1)
    assert result.fooled.all()
    # Steps of Adam near the boundary do not end on it: a little too far, and never too near.
    assert (distance >= expected * (1 - 1e-9)).all()
    assert (distance <= expected * 1.01).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    confidence=st.sampled_from([0.0, 0.5, 3.0]),
    lr=st.sampled_from([1e-3, 0.1, 10.0]),
    warm=st.booleans(),
)
def test_box_margin_and_verdict(dtype, seed, confidence, lr, warm):
    """Whatever the settings: inside the box, beyond the margin or untouched, and labelled so."""
    generator = torch.Generator().manual_seed(seed)
    images = (torch.rand(5, 1, 4, 4, generator=generator) * 2 - 0.5).clamp(0, 1).to(dtype)
    weight = torch.randn(16, generator=generator).to(dtype)
    model = TwoClasses(weight, torch.zeros((), dtype=dtype)).eval()
    labels = torch.randint(2, (5,), generator=generator)
    right = model(images).argmax(1) == labels
    options = dict(search_steps=4, steps=11, lr=lr, initial_const=1.0, warm_start=warm)
    found, result = cw_l2(model, images, labels, confidence, **options, details=True)
    assert found.dtype == dtype and found.min() >= 0 and found.max() <= 1
    logits = model(found).detach()
    margin = logits.gather(1, 1 - labels[:, None]) - logits.gather(1, labels[:, None])
    assert (margin[result.fooled] >= confidence - 1e-5).all()
    same = (found == images).flatten(1).all(1)
    assert torch.equal(same, ~result.fooled)
    expected = torch.where(right, Status.RESISTED, Status.MISCLASSIFIED)
    assert torch.equal(result.status[same], expected[same].to(torch.uint8))
    assert (result.status[~right] == Status.MISCLASSIFIED).all()


@pytest.mark.parametrize("warm_start", [False, True])
def test_an_image_does_not_depend_on_its_batch(model, images, warm_start):
    """Bit for bit on a CPU: alone, in parts, the other way round, with counts and all.

    Confidence and learning rate are such that the images end at different steps.
    """
    model, images = model.double(), images.double()
    labels = model(images).argmax(1)
    labels[2] = (labels[2] + 1) % 10
    attack = CWL2(**SHORT, confidence=0.5, lr=0.02, warm_start=warm_start)
    together = attack(model, images, labels)
    assert len(together.backwards.unique()) > 2
    for places in ([0], [5, 4, 3], [2, 1], [1, 5, 0, 3, 2, 4]):
        part = attack(model, images[places], labels[places])
        assert torch.equal(part.images, together.images[places])
        assert torch.equal(part.forwards, together.forwards[places])
        assert torch.equal(part.backwards, together.backwards[places])


def test_early_stop_finds_the_same_distance():
    """Within 1 %, of fewer passes."""
    model, images, labels = two_classes(count=8, margin=3.0)
    settings = {**LONG, "steps": 300}
    full = CWL2(**settings, stop_early=False)(model, images, labels)
    early = CWL2(**settings)(model, images, labels)
    distances = [(r.images - images).flatten(1).norm(dim=1) for r in (full, early)]
    assert full.fooled.all() and early.fooled.all()
    torch.testing.assert_close(distances[1], distances[0], rtol=0.01, atol=0)
    assert (full.backwards == 6 * 300).all()
    assert (early.backwards < 0.9 * full.backwards).all()
    # Each has its own clock.
    assert len(early.backwards.unique()) > 1


def test_tolerance_ends_the_search():
    """Within 1 %, of fewer constants."""
    model, images, labels = two_classes(margin=3.0)
    settings = {"search_steps": 9, "steps": 60, "initial_const": 0.1, "stop_early": False}
    full = CWL2(**settings)(model, images, labels)
    close = CWL2(**settings, tolerance=0.3)(model, images, labels)
    assert full.fooled.all() and close.fooled.all()
    # Two or three times ten, then halving (1, 10): 5.5, 3.25, 2.1, 1.6 and so on.
    assert (close.backwards <= 7 * 60).all() and (close.backwards >= 4 * 60).all()
    distances = [(r.images - images).flatten(1).norm(dim=1) for r in (full, close)]
    torch.testing.assert_close(distances[1], distances[0], rtol=0.01, atol=0)


def test_a_constant_is_not_tried_twice():
    """The last of ten is the smallest that succeeded: from a cold start, the same once more."""
    model, images, labels = two_classes()
    kept = {"search_steps": 10, "steps": 20, "stop_early": False, "initial_const": 0.1}
    cold = CWL2(**kept)(model, images, labels)
    assert cold.fooled.all() and (cold.backwards == 9 * 20).all()
    nine = CWL2(**kept | {"search_steps": 9})(model, images, labels)
    assert torch.equal(cold.images, nine.images)
    warm = CWL2(**kept, warm_start=True)(model, images, labels)
    assert (warm.backwards == 10 * 20).all()


def test_warm_start_goes_on_where_it_was(model, images):
    """Two constants of n steps that differ by nothing are one of 2n."""
    model, images = model.double(), images[:2].double()
    labels = model(images).argmax(1)
    # The constant stays at its most, where it cannot grow.
    settings = {"initial_const": 1e10, "lr": 1e-5, "stop_early": False, "confidence": 1e3}
    one = CWL2(search_steps=1, steps=8, warm_start=True, **settings)
    two = CWL2(search_steps=2, steps=4, warm_start=True, **settings)
    cold = CWL2(search_steps=2, steps=4, **settings)
    pixels = [_last_pixels(model, attack, images, labels) for attack in (one, two, cold)]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])


def _last_pixels(model, attack, images, labels):
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    attack.images(model, images, labels)
    hook.remove()
    return seen[-1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pixels_at_the_border_move(value):
    """tanh is flat there; without shrinking they would not move at all."""
    weight = torch.full((12,), 1.0 if value else -1.0)
    model = TwoClasses(weight, torch.tensor(0.5 - 12.0 * value)).eval()
    images, labels = torch.full((1, 3, 2, 2), value), torch.ones(1, dtype=torch.int64)
    options = dict(search_steps=4, steps=150, lr=0.1, initial_const=1.0)
    found, result = cw_l2(model, images, labels, **options, details=True)
    assert result.fooled.all()
    distance = (found - images).norm()
    assert 0.5 / math.sqrt(12) <= distance < 0.52 / math.sqrt(12)
    assert (found != value).all()


def test_logits_that_are_all_negative(model, images):
    """A shift of all logits changes nothing; an attack that masks classes by zeros would stop."""
    assert model(images).max() < -50
    labels = model(images).argmax(1)
    shifted = cw_l2(model, images, labels, **SHORT)
    model.shift = 0.0
    plain, result = cw_l2(model, images, labels, **SHORT, details=True)
    assert result.fooled.all()
    ours, plains = ((x - images).flatten(1).norm(dim=1) for x in (shifted, plain))
    torch.testing.assert_close(ours, plains, rtol=0.01, atol=0)


def test_misclassified_images_stay_and_cost_one_look(model, images):
    labels = model(images).argmax(1)
    wrong = torch.tensor([True, False, True, False, False, True])
    labels[wrong] = (labels[wrong] + 3) % 10
    found, result = cw_l2(model, images, labels, **SHORT, details=True)
    assert torch.equal(found[wrong], images[wrong])
    assert (result.status[wrong] == Status.MISCLASSIFIED).all()
    assert (result.forwards[wrong] == 1).all() and (result.backwards[wrong] == 0).all()
    assert result.fooled[~wrong].all() and (result.backwards[~wrong] > 0).all()
    found, result = cw_l2(model, images[wrong], labels[wrong], **SHORT, details=True)
    assert torch.equal(found, images[wrong]) and (result.forwards == 1).all()


@pytest.mark.filterwarnings("ignore:the gradient for the pixels")
@pytest.mark.parametrize("label, ahead", [(0, 2.0), (3, 2.0), (0, 0.0)])
@pytest.mark.parametrize("confidence", [0.0, 2.0])
def test_a_model_that_cannot_be_fooled(label, ahead, confidence):
    """Also not where all logits are equal and the true class comes first."""
    images, labels = torch.rand(3, 1, 4, 4), torch.full((3,), label)
    found, result = cw_l2(
        Constant(label, ahead=ahead).eval(), images, labels, confidence, steps=20, details=True
    )
    assert torch.equal(found, images)
    assert (result.status == Status.RESISTED).all()


@pytest.mark.filterwarnings("ignore:the gradient for the pixels")
def test_constants_end_at_their_most():
    """1e10 is tried once; a search of any length is over then, and nothing overflows."""
    images, labels = torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    attack = CWL2(search_steps=60, steps=5, stop_early=False)
    result = attack(Constant(0).eval(), images, labels)
    assert (result.backwards == 14 * 5).all()  # 1e-3, 1e-2, ..., 1e10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(model, images, dtype):
    """Float16's range is narrow and its loss is scaled, so constants must not go through it."""
    labels = model(images).argmax(1)
    attack = CWL2(confidence=3.0, search_steps=3, steps=15, initial_const=1e3)
    result = attack(Oracle(model, dtype=dtype), images, labels)
    assert result.images.dtype == torch.float32
    assert result.fooled.all()


def test_channels_last(model, images):
    model = model.double()
    images = images.double().contiguous(memory_format=torch.channels_last)
    labels = model(images).argmax(1)
    layouts = []
    hook = model.register_forward_pre_hook(
        lambda _, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    found = cw_l2(model, images, labels, **SHORT)
    hook.remove()
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert all(layouts)
    other = cw_l2(model, images.contiguous(), labels, **SHORT)
    torch.testing.assert_close(found, other, rtol=0, atol=1e-4)


def test_release():
    attack = CWL2.release(20.0)
    assert (attack.confidence, attack.search_steps, attack.steps) == (20.0, 30, 1000)
    assert attack.lr == 5e-4 and attack.warm_start and attack.stop_early
    assert parse_attack(str(attack)) == attack
