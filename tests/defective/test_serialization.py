"""Checkpoints: what is saved comes back bit for bit, and a bad file is refused by its name."""

import copy
import json
import os
import pickle
import resource
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoints import edit
from refusals import refused
from scotoma.defective import (
    Ensemble,
    UserError,
    load_model,
    mask_sites,
    model_names,
    resample_masks,
    reset_weights,
    save_model,
)
from scotoma.defective.serialization import read_details
from torch import nn
from torch.optim.swa_utils import AveragedModel


@pytest.fixture(scope="module")
def original(small_model, randomise, tmp_path_factory):
    """A network, not to be changed, and the content of its file."""
    model = randomise(small_model("resnet18", "0.7-Bottom,0.3-Top"))
    path = tmp_path_factory.mktemp("original") / "model.safetensors"
    save_model(model, path)
    return model, path.read_bytes()


@pytest.fixture
def path(tmp_path):
    """Where a network may be saved."""
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(original, path):
    """A saved network: (model, path)."""
    path.write_bytes(original[1])
    return original[0], path


def names(folder):
    return [entry.name for entry in folder.iterdir()]


def message_for(path):
    """Of the refusal to load it: one line that names the file."""
    with pytest.raises(UserError) as error:
        load_model(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


def assert_same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key


@pytest.mark.parametrize("name", model_names())
def test_round_trip(small_model, randomise, path, name):
    # Masks of another seed than the specification's default, weights that are not fresh.
    model = randomise(small_model(name, "0.7-Bottom,0.3-Top", mask_seed=5, num_classes=7))
    save_model(model.train(), path)
    assert model.training
    loaded = load_model(path)
    assert type(loaded) is type(model) and loaded.spec == model.spec
    assert not any(module.training for module in loaded.modules())
    assert_same_state(loaded, model)
    images = torch.rand(2, 3, 32, 32)
    logits = model.eval()(images)
    assert torch.equal(loaded(images), logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"defects": "standard"},
        {"defects": "0.5-Bottomx2"},
        {"defects": "0.1-BottomDC"},
        {"defects": "0.1-BottomSM"},
        {"defects": "0.5-Bottom@paper", "exact_masks": False},
        {"regularizer": "dropblock", "mean": (0.1, 0.2, 0.3), "std": (0.3, 0.2, 0.1)},
        {"in_channels": 1, "image_size": 28},
        {"image_size": 128, "stem": "7x7"},
    ],
    ids=str,
)
def test_every_option_comes_back(small_model, path, options):
    model = small_model("resnet18", **options).eval()
    save_model(model, path)
    loaded = load_model(path)
    assert loaded.spec == model.spec
    assert_same_state(loaded, model)


def test_a_loaded_network_can_be_trained(saved):
    """Its parameters are leaves with gradients, and writing to them leaves the file alone; reading
    a checkpoint in the middle of a run does not change the run."""
    _, path = saved
    before, generator = path.read_bytes(), torch.get_rng_state()
    loaded = load_model(path).train()
    assert torch.equal(torch.get_rng_state(), generator)
    loaded(torch.rand(4, 3, 32, 32)).square().sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert all(p.grad is not None and p.is_leaf for p in loaded.parameters())
    assert not torch.equal(loaded.head.weight, load_model(path).head.weight)
    assert path.read_bytes() == before


def test_details_come_back(original, path):
    details = {"accuracy": 0.9183, "recipe": {"epochs": 350}, "note": "großes ε"}
    save_model(original[0], str(path), details=details)  # a string will do as well
    assert read_details(str(path)) == (original[0].spec, details)


@pytest.mark.parametrize(
    "change", [lambda m: m.to(memory_format=torch.channels_last), nn.Module.half, nn.Module.double]
)
def test_layouts_are_saved_by_value_and_dtypes_are_kept(small_model, path, change):
    model = change(small_model("vgg19"))
    save_model(model, path)
    assert_same_state(load_model(path), model)


def test_any_length_of_the_header(small_model, path):
    """The file begins with the header's length: no length may look like another file type."""
    model, lengths = small_model("vgg19", "standard", width=1), set()
    for padding in range(0, 256, 8):
        save_model(model, path, details={"note": "x" * padding})
        lengths.add(path.read_bytes()[0])
        assert read_details(path)[0] == model.spec, f"header length byte {path.read_bytes()[0]}"
    assert len(lengths) == 32  # safetensors aligns the header to 8 bytes


def test_saving_replaces_the_old_file(saved, small_model):
    """With the mode of any new file under this umask, not a private temporary's."""
    _, path = saved
    other = small_model("vgg19")
    save_model(other, path)
    assert load_model(path).spec == other.spec
    assert names(path.parent) == [path.name]
    plain = path.parent / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def flipped(content, place):
    content = bytearray(content)
    content[place if place < 0 else int(place * len(content))] ^= 64
    return bytes(content)


# What becomes of the content -> a word of the message.
DAMAGED = {
    **{n: (lambda b, n=n: b[:n], "truncated or damaged") for n in (1, 7, 8, 9, 100, -1)},
    "half": (lambda b: b[: len(b) // 2], "truncated or damaged"),
    **{
        f"flipped at {place}": (lambda b, place=place: flipped(b, place), "damaged")
        for place in (-1, -1000, -5000, 0.3, 0.5, 0.7)
    },
    "longer": (lambda b: b + b"more", "damaged"),
    **{
        repr(data): (lambda b, data=data: data, "not a safetensors file")
        for data in (b"", b"hello\n", b"{}", b"\x00" * 64, b"\xff" * 64, bytes(range(256)))
    },
}


@pytest.mark.parametrize("change, word", DAMAGED.values(), ids=map(str, DAMAGED))
def test_damaged_or_another_file(original, path, change, word):
    path.write_bytes(change(original[1]))
    assert word in message_for(path)


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_not_run(path, protocol):
    created = path.parent / "created"
    path.write_bytes(pickle.dumps(Payload(created), protocol))
    message = message_for(path)
    assert not created.exists()
    assert protocol < 2 or "pickle" in message  # protocols 0 and 1 have no signature
    pickle.loads(path.read_bytes())
    assert created.exists()  # the payload is live


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_is_not_run(path, zipped):
    created = path.parent / "created"
    torch.save({"x": Payload(created)}, path, _use_new_zipfile_serialization=zipped)
    message = message_for(path)
    assert "torch.save" in message and "run code" in message
    assert not created.exists()


def test_safetensors_of_another_program(path):
    for metadata in (None, {"format": "pt"}):
        safetensors.torch.save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
        assert "no model specification of scotoma's" in message_for(path)


def spec(**fields):
    return lambda record, _: record | {"spec": record["spec"] | fields}


def tensors(change):
    return lambda record, tensors: (change(tensors), record)[1]


# What is done to the record and the tensors -> a word of the message.
EDITED = {
    "format 2": (lambda r, _: r | {"format": 2}, "format 2"),
    "format as text": (lambda r, _: r | {"format": "1"}, "format '1'"),
    "no format": (lambda r, _: {"spec": r["spec"]}, "specification"),
    "no specification": (lambda r, _: {"format": 1}, "spec"),
    "broken JSON": (lambda r, _: json.dumps(r)[:-5], "specification"),
    "a list": (lambda r, _: [r], "specification"),
    "a number": (lambda r, _: 3.5, "specification"),
    "null": (lambda r, _: "null", "specification"),
    "specification is null": (lambda r, _: r | {"spec": None}, ""),
    "specification is a list": (lambda r, _: r | {"spec": list(r["spec"])}, ""),
    "details": (lambda r, _: r | {"details": {"acc1": 0.9}}, "damaged or edited"),
    "another architecture": (spec(name="resnet50"), "do not fit"),
    "another width": (spec(width=8), "do not fit"),
    "another size": (spec(image_size=28), "do not fit"),
    "more classes": (spec(num_classes=100), "do not fit"),
    "grey images": (spec(in_channels=1, mean=[0.1], std=[0.3]), "do not fit"),
    "no masks": (spec(defects="standard"), "do not fit"),
    "fewer masks": (spec(defects="0.7-Bottom"), "do not fit"),
    "unknown field": (spec(depth=18), "unknown depth"),
    "missing field": (lambda r, _: (r["spec"].pop("width"), r)[1], "lacks width"),
    "negative width": (spec(width=-1), "width is -1"),
    "width as text": (spec(width="4"), "width is '4'"),
    "bad notation": (spec(defects="0.7-Buttom"), "position 5"),
    "bad placement": (spec(sites="nowhere"), "sites is 'nowhere'"),
    "one mean": (spec(mean=[0.5]), "mean is [0.5]"),
    "zero std": (spec(std=[0, 0, 0]), "std is"),
    "mean is a number": (spec(mean=0.5), ""),
    "mean is text": (spec(mean=["a", "b", "c"]), ""),
    # These pass the checks of single fields; the message must name the file all the same.
    "unknown architecture": (spec(name="resnet19"), "'resnet19'"),
    "no such block": (spec(defects="0.7-{8}"), "block 8"),
    "regularizer elsewhere": (spec(name="vgg19", regularizer="dropblock"), "'dropblock'"),
    "name is a list": (spec(name=["resnet18"]), ""),
    # More than any machine's memory: nothing may be built before shapes are compared.
    "enormous width": (spec(width=10**15), ""),
    **{
        name: (tensors(change), f"1 tensors do not fit the specification (resnet18, {word}")
        for name, change, word in (
            ("one is missing", lambda t: t.pop("head.bias"), "0.7-Bottom,0.3-Top), first 'head.b"),
            ("one too many", lambda t: t.update(extra=torch.zeros(1)), "0.7-Bottom,0.3-Top), fi"),
            ("missing mask", lambda t: t.pop("stem.bn.mask"), "0.7-Bottom,0.3-Top), first 'stem."),
        )
    },
    "another shape": (tensors(lambda t: t.update({"head.bias": torch.zeros(1)})), "'head.bias'"),
    "another dtype": (
        tensors(lambda t: t.update({"head.bias": t["head.bias"].double()})),
        "'head.bias': [10] torch.float64",
    ),
    "float mask": (
        tensors(lambda t: t.update({"stem.bn.mask": t["stem.bn.mask"].float()})),
        "'stem.bn.mask': [4, 32, 32] torch.float32",
    ),
}


@pytest.mark.parametrize("change, word", EDITED.values(), ids=EDITED)
def test_edited_file(saved, change, word):
    _, path = saved
    edit(path, change)
    assert word in message_for(path)


def test_a_file_of_a_version_without_digests(saved):
    model, path = saved
    edit(path, lambda record, _: {k: v for k, v in record.items() if k != "digest"})
    assert_same_state(load_model(path), model)


def test_missing_and_truncated_files(saved):
    _, path = saved
    assert "no such checkpoint file" in message_for(path.parent / "missing.safetensors")
    assert "no such checkpoint file" in message_for(path.parent)  # a folder
    path.write_bytes(path.read_bytes()[:50])
    with refused("model.safetensors: truncated"):
        read_details(path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
def test_a_failing_write_leaves_the_old_file(saved, monkeypatch, where, error):
    model, path = saved
    before = path.read_bytes()

    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(where, fail)
    with pytest.raises(type(error)):
        save_model(model, path, details={"new": 1})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_an_error_after_the_rename_is_none(saved, monkeypatch, call):
    """Once the new file is in place the write has succeeded.

    Some file systems cannot sync a folder, and a folder that one may write to but not list (mode
    wx) cannot be opened. "OSError: the file cannot be written; what was at path is then
    untouched" leaves no third way.
    """
    model, path = saved
    original = getattr(os, call)

    def files_only(target, *arguments, **options):
        if isinstance(target, int):
            folder = stat.S_ISDIR(os.fstat(target).st_mode)
        else:
            folder = Path(target).is_dir()
        if folder:
            raise OSError(22, "Invalid argument")
        return original(target, *arguments, **options)

    monkeypatch.setattr(os, call, files_only)
    before = path.read_bytes()
    try:
        save_model(model, path, details={"new": 1})
    except OSError:
        assert path.read_bytes() == before
    else:
        assert read_details(path)[1] == {"new": 1}
    monkeypatch.undo()
    assert names(path.parent) == [path.name]


def test_a_full_disk_leaves_the_old_file(saved):
    """A limit on file sizes stops the write in the middle, as a full disk would."""
    model, path = saved
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_model(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        AveragedModel,
        lambda model: torch.compile(AveragedModel(model)),
        lambda model: (setattr(model, "stem", torch.compile(model.stem)), model)[1],
    ],
    ids=["compiled", "parallel", "averaged", "compiled average", "a part compiled"],
)
def test_the_network_inside_is_saved(small_model, path, wrap):
    save_model(wrap(small_model("resnet18")), path)
    assert_same_state(load_model(path), small_model("resnet18"))


def with_head(model, head):
    model.head = head
    return model


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (nn.Sequential, "model is a Sequential"),
        (lambda model: Ensemble([model.eval(), copy.deepcopy(model)]), "model is a Ensemble"),
        (lambda model: model.forward, "model is a method"),
        (lambda model: with_head(model, nn.Linear(32, 3)), "'head.bias': [3]"),
        (lambda model: with_head(model, model.head.half()), "'head.bias': [10] torch.float16"),
        (lambda model: with_head(model, nn.Identity()), "'head.bias': none"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(small_model, path, change, word):
    with refused(word):
        save_model(change(small_model("resnet18")), path)
    with refused(f"the folder {path.parent / 'missing'} does not exist"):
        save_model(small_model("resnet18"), path.parent / "missing" / "model.safetensors")
    assert names(path.parent) == []


def test_a_run_folder_is_its_last_epoch(original, tmp_path):
    save_model(original[0], tmp_path / "last.safetensors", details={"epoch": 3})
    assert load_model(tmp_path).spec == original[0].spec
    assert read_details(tmp_path) == (original[0].spec, {"epoch": 3})


@pytest.mark.parametrize(
    "defects, exact",
    [
        ("0.3-Bottom", True),
        ("0.5-BottomSM", False),
        ("0.5-BottomCM", True),
        ("0.5-Bottomx2", True),
        ("0.7-Bottom,0.3-Top", False),
    ],
)
def test_masks_of_another_seed_are_kept_and_told(small_model, path, defects, exact):
    model = small_model("resnet18", defects, mask_seed=5, exact_masks=exact)
    other = small_model("resnet18", defects, exact_masks=exact)
    model.load_state_dict(other.state_dict())
    assert model.spec.mask_seed is None and "mask_seed=None" in repr(model)
    save_model(model, path)
    loaded = load_model(path)
    assert loaded.spec == read_details(path)[0] == other.spec.with_mask_seed(None)
    for one, two in zip(mask_sites(loaded).values(), mask_sites(other).values(), strict=True):
        assert torch.equal(one, two)
    reset_weights(loaded, 1)  # keeps them
    assert torch.equal(loaded.stem.bn.mask, other.stem.bn.mask)
    resample_masks(loaded, 7)
    save_model(loaded, path)
    assert load_model(path).spec.mask_seed == 7


def test_masks_that_were_set_by_hand_or_whose_seed_is_wrong_in_the_file(small_model, path):
    model = small_model("resnet18", "0.5-Bottom")
    model.stem.bn.mask.logical_not_()
    save_model(model, path)
    for _ in range(2):
        loaded = load_model(path)
        assert loaded.spec.mask_seed is None
        assert torch.equal(loaded.stem.bn.mask, model.stem.bn.mask)
        # As versions wrote it that did not look.
        edit(path, lambda r, _: {"format": 1, "spec": r["spec"] | {"mask_seed": 99}})


@pytest.mark.parametrize(
    ("defects", "change"),
    [
        ("0.5-Bottom", lambda mask: mask.fill_(True)),
        ("0.5-Bottom", lambda mask: mask.fill_(False)),
        ("0.3-Bottom", lambda mask: mask.logical_not_()),
        ("0.5-BottomSM", lambda mask: mask[0, :, :16].logical_not_()),
        ("0.5-BottomCM", lambda mask: mask[:, 0].logical_not_()),
        ("0.5-BottomCM", lambda mask: mask.fill_(True)),
    ],
)
def test_masks_that_the_defects_cannot_be(small_model, path, defects, change):
    model = small_model("resnet18", defects)
    save_model(model, path)
    before = path.read_bytes()
    change(model.stem.bn.mask)
    with pytest.raises(UserError, match=f"not written: the mask of stem.bn .* {defects}"):
        save_model(model, path)
    assert path.read_bytes() == before

    def forge(record, tensors):
        del record["digest"]
        tensors["stem.bn.mask"] = model.stem.bn.mask
        return record

    edit(path, forge)
    assert "the mask of stem.bn" in message_for(path)
