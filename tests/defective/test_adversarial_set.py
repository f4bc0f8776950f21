"""Adversarial sets: what is written is read back, and nothing else is read."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scotoma.defective.attacks import Status
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import AdversarialSet, load_set, save_set
from scotoma.defective.robustness.adversarial_set import joined, tensor_fields, to_uint8


def make(count=5, shape=(3, 4, 4), dtype=torch.float32, seed=0, first=0, **details):
    generator = torch.Generator().manual_seed(seed)

    def classes():
        return torch.randint(0, 10, (count,), generator=generator)

    images = torch.rand((count, *shape), generator=generator)
    predictions = classes()
    return AdversarialSet(
        images=to_uint8(images) if dtype == torch.uint8 else images,
        indices=first + torch.randperm(count, generator=generator),
        labels=classes(),
        clean_predictions=classes(),
        predictions=predictions,
        unrounded_predictions=predictions,  # the very tensor, as without rounding
        status=torch.randint(0, len(Status), (count,), generator=generator).to(torch.uint8),
        forwards=classes(),
        backwards=classes(),
        details={"attack": {"attack": "fgsm", "eps": 8 / 255}, **details},
    )


def assert_equal(a, b):
    assert a.details == b.details
    for name in tensor_fields():
        one, other = getattr(a, name), getattr(b, name)
        assert one.dtype == other.dtype and torch.equal(one, other), name


@settings(max_examples=25)
@given(
    count=st.integers(0, 9),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)),
    dtype=st.sampled_from([torch.float32, torch.uint8]),
    text=st.text(max_size=8),
)
def test_a_set_survives_its_file(tmp_path_factory, count, shape, dtype, text):
    path = tmp_path_factory.mktemp("set") / "a.safetensors"
    found = make(count, shape, dtype, text=text, number=0.1, nothing=None)
    save_set(found, path)
    assert_equal(load_set(path), found)
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_views_of_one_memory_are_written_too(tmp_path):
    whole = make(8)
    counts = torch.stack([whole.forwards, whole.backwards])
    found = replace(whole, forwards=counts[0], backwards=counts[1]).subset(torch.arange(2, 7))
    save_set(found, tmp_path / "a")
    assert_equal(load_set(tmp_path / "a"), found)


def test_rounding_takes_the_nearest_level():
    levels = torch.arange(256) / 255
    for shift in (-0.49, -0.2, 0.0, 0.2, 0.49):
        shifted = (levels + shift / 255).clamp(0, 1)
        assert torch.equal(to_uint8(shifted), torch.arange(256).to(torch.uint8)), shift
    found = make(dtype=torch.uint8)
    assert torch.equal(to_uint8(found.pixels()), found.images)
    assert found.pixels().max() <= 1
    assert torch.equal(found.pixels(slice(1, 3)), found.pixels()[1:3])


def test_fooled_is_right_before_and_wrong_in_the_file():
    found = make(3)
    found = replace(
        found,
        labels=torch.tensor([1, 1, 1]),
        clean_predictions=torch.tensor([1, 1, 2]),
        predictions=torch.tensor([1, 3, 3]),
        unrounded_predictions=torch.tensor([3, 1, 3]),
    )
    assert found.fooled.tolist() == [False, True, False]


def test_joined_keeps_rows_together():
    parts = [make(3, first=0), make(2, seed=1, first=10)]
    whole = joined(parts)
    assert len(whole) == 5
    assert_equal(whole.subset(torch.arange(3)), parts[0])
    assert torch.equal(whole.subset(torch.tensor([4])).images, parts[1].images[1:])


def test_joining_what_does_not_fit_is_refused():
    for part, word in (
        (make(2, first=10, dtype=torch.uint8), "differ"),
        (make(2, first=10, shape=(1, 4, 4)), "differ"),
        (make(2, seed=1), "twice"),
    ):
        with refused(word):
            joined([make(2), part])
    with refused("no parts"):
        joined([])


def bad(name, value):
    return pytest.param({name: value}, id=f"{name}-{tuple(value.shape)}-{value.dtype}")


REFUSED = [
    bad("images", torch.tensor(1.0)),
    bad("images", torch.zeros(5, 4, 4)),
    bad("images", torch.zeros(5, 3, 0, 4)),
    bad("images", torch.zeros(5, 3, 4, 4, dtype=torch.float16)),
    bad("images", torch.zeros(4, 3, 4, 4)),
    bad("images", torch.full((5, 3, 4, 4), 1.01)),
    bad("images", torch.full((5, 3, 4, 4), -0.01)),
    bad("images", torch.full((5, 3, 4, 4), torch.nan)),
    bad("indices", torch.tensor([0, 1, 2, 3, 3])),
    bad("indices", torch.tensor([0, 1, 2, 3, -1])),
    bad("indices", torch.arange(5, dtype=torch.int32)),
    bad("labels", torch.tensor(3)),
    bad("labels", torch.zeros(5, 1, dtype=torch.int64)),
    bad("labels", torch.zeros(6, dtype=torch.int64)),
    bad("predictions", torch.zeros(5)),
    bad("status", torch.zeros(5, dtype=torch.int64)),
    bad("status", torch.full((5,), len(Status), dtype=torch.uint8)),
    bad("forwards", torch.full((5,), -1)),
]


@pytest.mark.parametrize("changes", REFUSED)
def test_a_set_that_does_not_fit_is_refused(changes, tmp_path):
    good = make(5)
    with pytest.raises(UserError):
        replace(good, **changes)
    path = tmp_path / "edited.safetensors"
    write(path, {name: getattr(good, name) for name in tensor_fields()} | changes)
    with pytest.raises(UserError, match=r"edited\.safetensors"):
        load_set(path)


RECORD = {"format": 1, "details": {}}


def write(path, tensors, record=RECORD, key="scotoma-adversarial-set"):
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, str(path), metadata={key: json.dumps(record)})


@pytest.mark.parametrize(
    ("change", "options", "word"),
    [
        ({"extra": torch.zeros(5)}, {}, "missing or unknown"),
        ({"labels": None}, {}, "missing or unknown"),
        ({}, {"key": "format"}, "no adversarial set"),
        ({}, {"record": []}, "no adversarial set"),
        ({}, {"record": {"format": 1}}, "missing or unknown"),
        ({}, {"record": {"format": 2, "details": {}}}, "format 2"),
        ({}, {"record": {"format": 1, "details": "none"}}, "missing or unknown"),
    ],
)
def test_other_safetensors_files_are_refused(tmp_path, change, options, word):
    tensors = {name: getattr(make(5), name) for name in tensor_fields()} | change
    write(tmp_path / "a", {k: v for k, v in tensors.items() if v is not None}, **options)
    with pytest.raises(UserError, match=word):
        load_set(tmp_path / "a")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("code in a file was run",)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps(Bomb()))
    torch.save({"images": Bomb()}, tmp_path / "b")
    for name in "ab":
        with pytest.raises(UserError, match="not a safetensors file"):
            load_set(tmp_path / name)


def test_every_truncation_is_refused(tmp_path):
    save_set(make(2), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for size in [0, 1, 7, 8, 50, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(UserError, match="truncated or damaged"):
            load_set(tmp_path / "cut")


@pytest.mark.parametrize("name", tensor_fields())
def test_an_edited_set_is_refused(tmp_path, name):
    path = tmp_path / "a"
    save_set(make(3, (1, 2, 2), torch.float32), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors[name] = 1 - tensors[name].clamp(max=1) if name != "indices" else tensors[name] + 5
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(UserError, match="damaged or edited"):
        load_set(path)


def test_a_missing_file_is_named(tmp_path):
    with refused("nowhere: no such adversarial set"):
        load_set(tmp_path / "nowhere")
