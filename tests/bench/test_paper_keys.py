"""Keys of artefacts: what determines a thing names it."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_smoke import learning_setup
from scotoma.bench.paper.artefacts import AdversarialImages, Model, Result, Sample, Training
from scotoma.bench.paper.data import Data, SampleFolder
from scotoma.bench.paper.setup import fgsm, pgd
from scotoma.bench.paper.work import Store
from scotoma.train.config import FREE, TrainConfig

DATA = Data("cifar10", "sample", train_limit=800)
STORE = Store(Path("/nowhere"))
# Another value for each setting of training, by what it is to a key.
DECIDES = {
    "seed": 3,
    "arch": "vgg19",
    "defects": "0.3-Bottom",
    "where": ["layer1"],
    "sites": "paper",
    "width": 8,
    "mask_seed": 5,
    "mask_sampling": "bernoulli",
    "regularizer": "dropblock",
    "stem": "7x7",
    "thermometer": 16,
    "augment": "flip",
    "evaluate_on": "validation",
    "validation_fraction": 0.2,
    "test_limit": 50,
    "epochs": 31,
    "batch_size": 64,
    "lr": 0.2,
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestones": [15, 25],
    "warmup": 0.1,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "ema": 0.9,
    "adversarial_eps": 8 / 255,
    "adversarial_step": 1 / 255,
    "adversarial_steps": 8,
    "logit_pairing": 0.5,
    "precision": "float32",
    "channels_last": True,
    "tf32": False,
    "compile": "default",
    "sync_stats": False,
}
DECIDES_NOTHING = {
    "recipe": "quick",
    "out": "elsewhere",
    "name": "another",
    "device": "cuda:3",
    "save_seconds": 1.0,
    "picture_format": "pdf",
    "overwrite": True,
    "data_root": "/data",
    "download": True,
    "workers": 9,
    "cuda_graph": True,
    "backend": "eager",
    "adversarial_test_images": 0,
}


def test_every_setting_of_training_is_in_one_of_the_lists():
    listed = [*DECIDES, *DECIDES_NOTHING, "dataset", "image_size", "train_limit"]
    assert sorted(listed) == sorted(f.name for f in fields(TrainConfig))
    assert set(FREE) <= set(DECIDES_NOTHING)


def trained(**settings):
    return Training(TrainConfig(**settings), DATA)


@pytest.mark.parametrize("name", [*DECIDES, *DECIDES_NOTHING])
def test_what_decides_the_weights_changes_the_key_and_places_do_not(name):
    other = trained(**{name: (DECIDES | DECIDES_NOTHING)[name]})
    assert (other.key == trained().key) == (name in DECIDES_NOTHING)
    assert (other.path(STORE) == trained().path(STORE)) == (name in DECIDES_NOTHING)


@pytest.mark.parametrize(
    ("name", "value"), [("dataset", "mnist"), ("image_size", 64), ("train_limit", 7)]
)
def test_the_data_are_those_of_the_artefact(name, value):
    assert trained(**{name: value}).key == trained().key
    config = trained(**{name: value}).whole_config(STORE, "cpu")
    assert getattr(config, name) == getattr(DATA, name)


CHOICES = st.sets(st.sampled_from([*DECIDES, *DECIDES_NOTHING]), max_size=6)


@settings(max_examples=60)
@given(first=CHOICES, second=CHOICES, levels=st.integers(1, 254))
def test_equal_keys_are_equal_files(first, second, levels):
    values = DECIDES | DECIDES_NOTHING
    networks = [trained(**{name: values[name] for name in names}) for names in (first, second)]
    same = first & DECIDES.keys() == second & DECIDES.keys()
    assert (networks[0].key == networks[1].key) == same
    assert (networks[0].path(STORE) == networks[1].path(STORE)) == same
    # Whatever is made of them differs as they do.
    for several in zip(*(_made_of(one, levels) for one in networks), strict=True):
        assert (several[0].key == several[1].key) == same
        assert (several[0].path(STORE) == several[1].path(STORE)) == same
        assert several[0].label == several[1].label or not same


def _made_of(training, level):
    """Names for people differ every time."""
    model = Model(f"network {id(training)}", (training,))
    sample = Sample(DATA, (model,), 10)
    images = AdversarialImages(model, fgsm(level), sample)
    return [
        sample,
        images,
        Result.clean(model),
        Result.transfer(model, images),
        Result.white_box(model, fgsm(level), sample),
        Result.noise(model, sample, (level / 255,)),
        Result.stylized((model, model)),
    ]


def test_no_two_kinds_of_artefacts_share_a_key():
    made = [trained(), *_made_of(trained(), 8)]
    assert len({artefact.key for artefact in made}) == len(made)
    assert len({artefact.path(STORE) for artefact in made}) == len(made)


def test_an_attack_is_what_it_means_and_not_how_it_is_written():
    model = learning_setup().source("resnet18", seed=0)
    sample = Sample(DATA, (model,), 10)
    one = AdversarialImages(model, "pgd:eps=8/255,step=2/255,steps=7", sample)
    other = AdversarialImages(model, f"PGD:steps=7,step=2/255,eps={8 / 255!r}".lower(), sample)
    assert one.key == other.key and one.path(STORE) == other.path(STORE)
    changed = [
        AdversarialImages(model, pgd(2, 8, 8), sample),
        replace(one, most=5),
        replace(one, sample=replace(sample, seed=1)),
        replace(one, sample=replace(sample, count=11)),
        replace(one, sample=replace(sample, models=())),
    ]
    assert len({each.key for each in (one, *changed)}) == 1 + len(changed)


def test_an_ensemble_is_neither_a_member_nor_another_order_of_inputs():
    a, b, c = (learning_setup().source("vgg19", seed=seed).members[0] for seed in range(3))
    sample = Sample(DATA, (), 4)

    def images(members):
        return AdversarialImages(Model("one", members), fgsm(8), sample)

    keys = [Result.clean(Model("x", members)).key for members in ((a,), (b,), (a, b), (a, b, c))]
    assert len(set(keys)) == 4
    # Which of the inputs are targets and which are the source is a part of a result.
    assert (
        Result.transfer(Model("x", (a, b)), images((c,))).key
        != Result.transfer(Model("x", (a,)), images((b, c))).key
    )
    split = [
        Sample(DATA, (Model("x", (a, b)), Model("y", (c,))), 4).key,
        Sample(DATA, (Model("x", (a,)), Model("y", (b, c))), 4).key,
        Sample(DATA, tuple(Model("x", (each,)) for each in (a, b, c)), 4).key,
    ]
    assert len(set(split)) == 3


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"role": "mnist"}, True),
        ({"root": "/data"}, True),
        ({"download": True}, True),
        ({"stylized": "/stylized"}, True),
        ({"dataset": "mnist"}, False),
        ({"image_size": 64}, False),
        ({"train_limit": 900}, False),
        ({"dataset": "/a/folder", "content": "1"}, False),
        ({"dataset": "", "made_by": SampleFolder(5, 5)}, False),
    ],
)
def test_keys_of_data(change, same):
    after = Training(TrainConfig(), replace(DATA, **change))
    assert (trained().key == after.key) is same
    assert (trained().path(STORE) == after.path(STORE)) is same
