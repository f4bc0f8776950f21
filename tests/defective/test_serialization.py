"""Checkpoints: what is saved comes back bit for bit, and a bad file is refused by its name."""

import copy
import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
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


@pytest.fixture
def saved(small_model, randomise, tmp_path):
    """A saved network: (model, path)."""
    model = randomise(small_model("resnet18", "0.7-Bottom,0.3-Top"))
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    return model, path


def edit(path, change):
    """Rewrite a checkpoint's record and tensors with ``change(record, tensors)``."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["scotoma"])
    tensors = safetensors.torch.load_file(path)
    record = change(record, tensors) or record
    text = record if isinstance(record, str) else json.dumps(record)
    safetensors.torch.save_file(tensors, path, metadata={"scotoma": text})


def names(folder):
    return [entry.name for entry in folder.iterdir()]


def refused(path):
    with pytest.raises(UserError) as error:
        load_model(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", model_names())
def test_round_trip(small_model, randomise, tmp_path, name):
    # Masks of another seed than the specification's default, weights that are not fresh.
    model = randomise(small_model(name, "0.7-Bottom,0.3-Top", mask_seed=5, num_classes=7))
    path = tmp_path / "model.safetensors"
    save_model(model.train(), path)
    assert model.training
    loaded = load_model(path)
    assert type(loaded) is type(model)
    assert loaded.spec == model.spec
    assert not any(module.training for module in loaded.modules())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
        assert loaded.state_dict()[key].dtype == value.dtype
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
        {"defects": "0.5-Bottom@paper"},
        {"exact_masks": False},
        {"regularizer": "dropblock"},
        {"in_channels": 1, "image_size": 28},
        {"image_size": 128, "stem": "7x7"},
        {"mean": (0.1, 0.2, 0.3), "std": (0.3, 0.2, 0.1)},
    ],
    ids=str,
)
def test_every_option_comes_back(small_model, tmp_path, options):
    model = small_model("resnet18", **options).eval()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.spec == model.spec
    images = torch.rand(1, model.spec.in_channels, *[model.spec.image_size] * 2)
    assert torch.equal(loaded(images), model(images))


def test_the_file_is_all_one_needs(saved, tmp_path):
    """A fresh interpreter in another folder, given the file and the images only."""
    model, path = saved
    images = torch.rand(2, 3, 32, 32)
    away = tmp_path / "elsewhere"
    away.mkdir()
    torch.save(images, away / "images.pt")
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from scotoma.defective import load_model\n"
        "logits = load_model(sys.argv[1])(torch.load('images.pt'))\n"
        "torch.save(logits.detach(), 'logits.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=away, check=True, timeout=120)
    assert torch.equal(torch.load(away / "logits.pt"), model(images))


def test_a_loaded_network_can_be_trained(saved):
    """Its parameters are leaves with gradients, and writing to them leaves the file alone."""
    _, path = saved
    before = path.read_bytes()
    loaded = load_model(path).train()
    loaded(torch.rand(4, 3, 32, 32)).square().sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert all(p.grad is not None and p.is_leaf for p in loaded.parameters())
    assert not torch.equal(loaded.head.weight, load_model(path).head.weight)
    assert path.read_bytes() == before


def test_loading_leaves_the_global_generator(saved):
    """Reading a checkpoint in the middle of a run does not change the run."""
    _, path = saved
    before = torch.get_rng_state()
    load_model(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_details_come_back(saved, tmp_path):
    model, _ = saved
    details = {"accuracy": 0.9183, "recipe": {"epochs": 350}, "note": "großes ε"}
    path = str(tmp_path / "other.safetensors")  # a string will do as well
    save_model(model, path, details=details)
    assert read_details(path) == (model.spec, details)
    assert load_model(path).spec == model.spec


def test_layouts_and_views_are_saved_by_value(small_model, tmp_path):
    model = small_model("vgg19").to(memory_format=torch.channels_last)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_any_length_of_the_header(saved):
    """The file begins with the header's length: no length may look like another file type."""
    model, path = saved
    lengths = set()
    for padding in range(0, 256, 8):
        save_model(model, path, details={"note": "x" * padding})
        lengths.add(path.read_bytes()[0])
        assert load_model(path).spec == model.spec, f"header length byte {path.read_bytes()[0]}"
    assert len(lengths) == 32  # safetensors aligns the header to 8 bytes


def test_saving_replaces_the_old_file(saved, small_model):
    _, path = saved
    other = small_model("vgg19")
    save_model(other, path)
    assert load_model(path).spec == other.spec
    assert names(path.parent) == [path.name]


def test_the_file_can_be_read_by_others(saved):
    """The mode is that of any new file under this umask, not a private temporary's."""
    _, path = saved
    plain = path.parent / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("length", [1, 7, 8, 9, 100, 0.5, -1])
def test_truncated_file(saved, length):
    _, path = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * length) if isinstance(length, float) else length])
    assert "truncated or damaged" in refused(path)


@pytest.mark.parametrize("place", [-1, -1000, -5000, 0.3, 0.5, 0.7])
def test_flipped_bit(saved, place):
    _, path = saved
    content = bytearray(path.read_bytes())
    content[place if place < 0 else int(place * len(content))] ^= 64
    path.write_bytes(content)
    assert "damaged" in refused(path)


def test_edited_details(saved, small_model):
    model, path = saved
    save_model(model, path, details={"acc1": 0.5})
    edit(path, lambda record, _: record | {"details": {"acc1": 0.9}})
    assert "damaged or edited" in refused(path)


def test_a_file_of_a_version_without_digests(saved):
    model, path = saved
    edit(path, lambda record, _: {k: v for k, v in record.items() if k != "digest"})
    assert all(
        map(torch.equal, load_model(path).state_dict().values(), model.state_dict().values())
    )


def test_longer_file(saved):
    _, path = saved
    path.write_bytes(path.read_bytes() + b"more")
    assert "damaged" in refused(path)


@pytest.mark.parametrize(
    "data", [b"", b"hello\n", b"{}", b"\x00" * 64, b"\xff" * 64, bytes(range(256))], ids=repr
)
def test_other_contents(tmp_path, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert "not a safetensors file" in refused(path)


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_not_run(tmp_path, protocol):
    path, created = tmp_path / "model.safetensors", tmp_path / "created"
    path.write_bytes(pickle.dumps(Payload(created), protocol))
    message = refused(path)
    assert not created.exists()
    assert protocol < 2 or "pickle" in message  # protocols 0 and 1 have no signature
    pickle.loads(path.read_bytes())
    assert created.exists()  # the payload is live


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_is_not_run(tmp_path, zipped):
    path, created = tmp_path / "model.safetensors", tmp_path / "created"
    torch.save({"x": Payload(created)}, path, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    assert "torch.save" in message and "run code" in message
    assert not created.exists()


def test_safetensors_of_another_program(tmp_path):
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"format": "pt"}):
        safetensors.torch.save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
        assert "without scotoma's model specification" in refused(path)


# What is done to the record -> a word of the message.
RECORDS = {
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
}


@pytest.mark.parametrize("change, word", RECORDS.values(), ids=RECORDS)
def test_bad_record(saved, change, word):
    _, path = saved
    edit(path, change)
    assert word in refused(path)


# Changed fields of the specification -> a word of the message.
SPECIFICATIONS = {
    "another architecture": ({"name": "resnet50"}, "do not fit"),
    "another width": ({"width": 8}, "do not fit"),
    "another size": ({"image_size": 28}, "do not fit"),
    "more classes": ({"num_classes": 100}, "do not fit"),
    "grey images": ({"in_channels": 1, "mean": [0.1], "std": [0.3]}, "do not fit"),
    "no masks": ({"defects": "standard"}, "do not fit"),
    "fewer masks": ({"defects": "0.7-Bottom"}, "do not fit"),
    "unknown field": ({"depth": 18}, "unknown depth"),
    "negative width": ({"width": -1}, "width is -1"),
    "width as text": ({"width": "4"}, "width is '4'"),
    "bad notation": ({"defects": "0.7-Buttom"}, "position 5"),
    "bad placement": ({"sites": "nowhere"}, "sites is 'nowhere'"),
    "one mean": ({"mean": [0.5]}, "mean is [0.5]"),
    "zero std": ({"std": [0, 0, 0]}, "std is"),
    "mean is a number": ({"mean": 0.5}, ""),
    # These pass the checks of single fields; the message must name the file all the same.
    "unknown architecture": ({"name": "resnet19"}, "'resnet19'"),
    "no such block": ({"defects": "0.7-{8}"}, "block 8"),
    "regularizer elsewhere": ({"name": "vgg19", "regularizer": "dropblock"}, "'dropblock'"),
    "name is a list": ({"name": ["resnet18"]}, ""),
    "mean is text": ({"mean": ["a", "b", "c"]}, ""),
    # More than any machine's memory: nothing may be built before shapes are compared.
    "enormous width": ({"width": 10**15}, ""),
}


@pytest.mark.parametrize("fields, word", SPECIFICATIONS.values(), ids=SPECIFICATIONS)
def test_specification_of_another_model(saved, fields, word):
    _, path = saved
    edit(path, lambda record, _: record | {"spec": record["spec"] | fields})
    assert word in refused(path)


def test_missing_field(saved):
    _, path = saved

    def change(record, _):
        del record["spec"]["width"]

    edit(path, change)
    assert "lacks width" in refused(path)


# What is done to the tensors -> the tensor that the message names.
TENSORS = {
    "one is missing": (lambda t: t.pop("head.bias"), "head.bias"),
    "one too many": (lambda t: t.update(extra=torch.zeros(1)), "extra"),
    "another shape": (lambda t: t.update({"head.bias": torch.zeros(1)}), "head.bias"),
    "another dtype": (lambda t: t.update({"head.bias": t["head.bias"].double()}), "head.bias"),
    "float mask": (lambda t: t.update({"stem.bn.mask": t["stem.bn.mask"].float()}), "stem.bn.mask"),
    "missing mask": (lambda t: t.pop("stem.bn.mask"), "stem.bn.mask"),
}


@pytest.mark.parametrize("change, name", TENSORS.values(), ids=TENSORS)
def test_tensors_of_another_model(saved, change, name):
    _, path = saved
    edit(path, lambda record, tensors: (change(tensors), record)[1])
    message = refused(path)
    assert "1 tensors do not fit" in message and repr(name) in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_converted_network_keeps_its_dtype(small_model, tmp_path, dtype):
    model = small_model("vgg19", "0.5-Bottom").to(dtype)
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype


def test_missing_file(tmp_path):
    assert "no such checkpoint file" in refused(tmp_path / "missing.safetensors")
    assert "no such checkpoint file" in refused(tmp_path)  # a folder


def test_read_details_refuses_as_load_model_does(saved):
    _, path = saved
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated"):
        read_details(path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
def test_a_failing_write_leaves_the_old_file(saved, small_model, monkeypatch, where, error):
    _, path = saved
    before = path.read_bytes()

    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(where, fail)
    with pytest.raises(type(error)):
        save_model(small_model("vgg19"), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_an_error_after_the_rename_is_none(saved, small_model, monkeypatch, call):
    """Once the new file is in place the write has succeeded.

    Some file systems cannot sync a folder, and a folder that one may write to but not list (mode
    wx) cannot be opened. "OSError: the file cannot be written; what was at path is then
    untouched" leaves no third way.
    """
    _, path = saved
    other = small_model("vgg19")
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
        save_model(other, path)
    except OSError:
        assert path.read_bytes() == before
    else:
        assert load_model(path).spec == other.spec
    monkeypatch.undo()
    assert names(path.parent) == [path.name]


def test_a_full_disk_leaves_the_old_file(saved):
    """A limit on file sizes stops the write in the middle, as a full disk would."""
    _, path = saved
    before = path.read_bytes()
    code = (
        "import resource, sys\n"
        "from scotoma.defective import create_model, save_model\n"
        "model = create_model('resnet18', width=4)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n"
        "    save_model(model, sys.argv[1])\n"
        "except OSError as error:\n"
        "    print('OSError', error.errno)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.strip() == "OSError 27"  # EFBIG
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


def test_a_missing_folder_is_named(small_model, tmp_path):
    with pytest.raises(UserError, match=r"the folder .*missing does not exist"):
        save_model(small_model("vgg19"), tmp_path / "missing" / "model.safetensors")
    assert names(tmp_path) == []


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
def test_the_network_inside_is_saved(small_model, tmp_path, wrap):
    model = small_model("resnet18")
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    save_model(wrap(model), tmp_path / "model.safetensors")
    found = load_model(tmp_path / "model.safetensors").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())


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
def test_what_could_not_be_loaded_is_not_saved(small_model, tmp_path, change, word):
    with pytest.raises(UserError) as error:
        save_model(change(small_model("resnet18")), tmp_path / "model.safetensors")
    assert word in str(error.value)
    assert names(tmp_path) == []


def test_a_run_folder_is_its_last_epoch(small_model, tmp_path):
    model = small_model("resnet18")
    save_model(model, tmp_path / "last.safetensors", details={"epoch": 3})
    assert load_model(tmp_path).spec == model.spec
    assert read_details(tmp_path) == (model.spec, {"epoch": 3})


DEFECTS = ["0.3-Bottom", "0.5-BottomSM", "0.5-BottomCM", "0.5-Bottomx2", "0.7-Bottom,0.3-Top"]


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "Bernoulli"])
@pytest.mark.parametrize("defects", DEFECTS)
def test_masks_of_another_seed_are_kept_and_told(small_model, tmp_path, defects, exact):
    model = small_model("resnet18", defects, mask_seed=5, exact_masks=exact)
    other = small_model("resnet18", defects, exact_masks=exact)
    model.load_state_dict(other.state_dict())
    assert model.spec.mask_seed is None and "mask_seed=None" in repr(model)
    path = tmp_path / "model.safetensors"
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


def test_masks_that_were_set_by_hand(small_model, tmp_path):
    model = small_model("resnet18", "0.5-Bottom")
    model.stem.bn.mask.logical_not_()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.spec.mask_seed is None
    assert torch.equal(loaded.stem.bn.mask, model.stem.bn.mask)


def test_masks_of_a_file_that_names_their_seed_wrongly(saved):
    """As versions wrote it that did not look."""
    model, path = saved

    def change(record, _):
        record.pop("digest")
        record["spec"]["mask_seed"] = 99

    edit(path, change)
    loaded = load_model(path)
    assert loaded.spec.mask_seed is None
    assert torch.equal(loaded.stem.bn.mask, model.stem.bn.mask)


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
def test_masks_that_the_defects_cannot_be(small_model, tmp_path, defects, change):
    model, path = small_model("resnet18", defects), tmp_path / "model.safetensors"
    save_model(model, path)
    before = path.read_bytes()
    change(model.stem.bn.mask)
    with pytest.raises(UserError, match=f"not written: the mask of stem.bn .* {defects}"):
        save_model(model, path)
    assert path.read_bytes() == before

    def forge(record, tensors):
        del record["digest"]
        tensors["stem.bn.mask"] = model.stem.bn.mask

    edit(path, forge)
    assert "the mask of stem.bn" in refused(path)
