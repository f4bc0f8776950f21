"""Ensembles: means of logits or of probabilities."""

import pytest
import torch
from refusals import refused
from scotoma.defective import Ensemble


@pytest.fixture
def members(small_model, randomise):
    return [randomise(small_model("resnet18", seed=seed), seed) for seed in (1, 2, 3)]


def test_the_mean_of_the_logits(members):
    images = torch.rand(4, 3, 32, 32)
    expected = (members[0](images) + members[1](images) + members[2](images)) / 3
    torch.testing.assert_close(Ensemble(members)(images), expected)


def test_the_mean_of_the_probabilities_as_logits(members):
    images = torch.rand(4, 3, 32, 32)
    expected = sum(m(images).double().softmax(1) for m in members) / 3
    logits = Ensemble(members, fusion="probabilities")(images)
    torch.testing.assert_close(logits.double().exp(), expected, rtol=1e-5, atol=1e-7)


def test_one_member_is_the_member(members):
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(Ensemble(members[:1])(images), members[0](images))


def test_it_is_in_its_members_mode_and_moves_with_them(members):
    whole = Ensemble(members)
    assert not any(m.training for m in whole.modules())
    members[1].train()
    assert Ensemble(members).training
    assert not any(m.training for m in whole.eval().modules())
    assert next(whole.double().parameters()).dtype == torch.float64


def test_refused(small_model):
    one = small_model("resnet18")
    for models, options, words in (
        ([], {}, ["no models"]),
        ([one], {"fusion": "votes"}, ["'votes'", "'logits'"]),
        ([one, small_model("vgg19", num_classes=7)], {}, ["num_classes 7 and 10"]),
        ([one, small_model("resnet18", image_size=28)], {}, ["image_size 28 and 32"]),
    ):
        with refused(*words):
            Ensemble(models, **options)
