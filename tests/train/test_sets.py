"""Adversarial sets: contents, rounding, precision, what can go wrong, and what is there already."""

import json
from dataclasses import replace

import pytest
import torch
from fitted_networks import CPU, pixels, sample_images, saved
from scotoma.defective.attacks import FGSM, PGD, Attack, GaussianNoise, Oracle, Status
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import load_set, save_set
from scotoma.defective.robustness.adversarial_set import tensor_fields, to_uint8
from scotoma.train.robustness import sets
from scotoma.train.robustness.images import TestImages, choose_images
from scotoma.train.robustness.models import (
    check_precision,
    full_precision,
    load_named,
    memory_advice,
)
from scotoma.train.robustness.sets import Source, keeps_batch, make_set, set_name
from scotoma.train.runfolder import alone_in

RANDOM = PGD(eps=16 / 255, step=8 / 255, steps=2, random_start=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two networks of float64, whose results do not depend on the batch, and their mean."""
    root = tmp_path_factory.mktemp("nets")
    paths = [
        saved(root / f"{name}.safetensors", double=True, **options)
        for name, options in {"standard": {}, "bottom": {"defects": "0.5-Bottom"}}.items()
    ]
    return load_named(paths, [paths], CPU)


@pytest.fixture(scope="module")
def images():
    return sample_images(150)


@pytest.fixture(scope="module")
def chosen(models, images):
    """Numbers of 40 images that all models get right, in the order of the choice."""
    return choose_images(models, images, 40).indices


def assert_equal(a, b, exact=True):
    for name in tensor_fields():
        one, other = getattr(a, name), getattr(b, name)
        if exact or not one.is_floating_point():
            assert torch.equal(one, other), name
        else:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def interrupt(monkeypatch, after, error=KeyboardInterrupt):
    """Ctrl-C while a batch is attacked, when ``after`` are finished."""
    original, calls = Attack.__call__, [0]

    def call(self, *args, **options):
        calls[0] += 1
        if calls[0] > after:
            raise error
        return original(self, *args, **options)

    monkeypatch.setattr(Attack, "__call__", call)
    return calls


@pytest.fixture
def make(models, images, chosen, tmp_path):
    """A set in a file of ``tmp_path``."""

    def make_it(
        name="a", attack=RANDOM, source=0, which=slice(None), precision="float32", **options
    ):
        options = {"batch_size": 16} | options
        source = Source(models[source], precision) if isinstance(source, int) else source
        return make_set(source, attack, images, chosen[which], tmp_path / name, **options)

    return make_it


@pytest.fixture
def cut(make, monkeypatch):
    """A set that is stopped after so many batches."""

    def cut_it(after, **options):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, after)
            make(**options)

    return cut_it


@pytest.fixture(scope="module")
def whole(models, images, chosen, tmp_path_factory):
    """What a set in batches of 16 has to be."""
    path = tmp_path_factory.mktemp("whole") / "a"
    return make_set(Source(models[0]), RANDOM, images, chosen, path, batch_size=16)


def test_a_set_is_what_the_attack_makes_of_each_image(models, images, chosen, make, tmp_path):
    path, told = tmp_path / "a.safetensors", []
    found = make(path.name, source=1, advance=lambda *a: told.append(a))
    assert_equal(found, load_set(path))
    assert load_set(path).details == json.loads(json.dumps(found.details))
    assert torch.equal(found.indices, chosen)
    assert torch.equal(found.labels, images.labels[chosen])
    assert told == [(16, 40), (32, 40), (40, 40)]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert (found.status == Status.FOOLED).sum() > 5
    for row in (0, 17, 39):  # alone, and keyed by its number
        index = chosen[row : row + 1]
        clean = pixels(images.split.images[index])
        alone = RANDOM(models[1].model, clean, images.labels[index], index)
        torch.testing.assert_close(found.images[row], alone.images[0])
        moved = RANDOM(models[1].model, clean, images.labels[index], index + 1)
        assert not torch.equal(found.images[row], moved.images[0])
    assert torch.equal(found.predictions, models[1].model(found.images).argmax(1))
    assert (found.forwards == 2).all() and (found.backwards == 2).all()


def test_a_set_of_an_ensemble_says_everything_and_is_judged_by_the_mean(
    models, images, chosen, make
):
    found = make(source=2, sampling={"seed": 0})
    assert torch.equal(found.predictions, Oracle(models[2].model).verdict(found.images))
    assert not torch.equal(found.predictions, Oracle(models[0].model).verdict(found.images))
    details = found.details
    assert details["attack"] == RANDOM.parameters() and details["attack_text"] == str(RANDOM)
    assert details["source"]["digest"] == models[2].digest
    paths = [m["path"] for m in details["source"]["members"]]
    assert paths == [m.members[0].path for m in models[:2]]
    assert details["data"] == {
        "name": "sample",
        "split": "test",
        "fingerprint": images.fingerprint(chosen),
        "images": 150,
    }
    assert (details["pixels"], details["precision"]) == ("float", "float32")
    assert details["sampling"] == {"seed": 0} and details["seconds"] > 0
    assert details["versions"]["torch"] == torch.__version__ and "CPU" in details["device"]


def test_neither_the_batch_size_nor_the_other_images_nor_their_order_matter(make, whole):
    assert_equal(whole, make("b", batch_size=64), exact=False)
    rows = torch.tensor([30, 2, 11])
    assert_equal(whole.subset(rows), make("c", which=rows, batch_size=2), exact=False)
    noise = GaussianNoise(sigma=0.3)
    assert_equal(make("d", noise), make("e", noise, batch_size=64), exact=False)


def test_rounding_is_to_the_nearest_level_and_judged_after(models, make):
    attack = PGD(eps=0.3, step=0.0137, steps=3)
    exact, found = make("a", attack), make("b", attack, pixels="uint8")
    assert found.images.dtype == torch.uint8 and exact.images.dtype == torch.float32
    assert torch.equal(found.images, to_uint8(exact.images))
    assert (found.pixels() - exact.images).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(found.unrounded_predictions, exact.predictions)
    assert torch.equal(found.predictions, models[0].model(found.pixels()).argmax(1))
    assert torch.equal(exact.predictions, exact.unrounded_predictions)
    assert torch.equal(found.status, exact.status)


def test_rounding_that_undoes_an_attack_is_seen(images, chosen, make):
    """Steps of a third of a level: rounding carries every pixel back to where it was."""
    found = make(attack=FGSM(eps=0.3 / 255), pixels="uint8")
    assert torch.equal(found.images, images.split.images[chosen].permute(0, 3, 1, 2))
    assert torch.equal(found.predictions, found.clean_predictions)
    assert not found.fooled.any()


def test_autocast_is_for_the_attack_alone(models, make):
    seen, source = [], Source(models[0], "bfloat16")
    assert source.oracle(RANDOM).dtype == torch.bfloat16
    source.warnings = []  # their passes are not the attack's
    hook = models[0].model.register_forward_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    found = make(attack=PGD(eps=0.1, step=0.1, steps=2), source=source, batch_size=40)
    hook.remove()
    assert seen == [False, True, True, False] and found.details["precision"] == "bfloat16"


def test_one_oracle_is_kept_and_shrinking_batches_have_none_with_graphs(models):
    source = Source(models[0], cuda_graph=True)
    assert source.oracle(FGSM()) is source.oracle(RANDOM)
    shrinking = replace(RANDOM, stop_when_fooled=True), replace(RANDOM, restarts=2), GaussianNoise()
    assert [keeps_batch(a) for a in shrinking] == [False] * 3
    assert source.oracle(shrinking[0]) is source.oracle(shrinking[1])
    assert source.oracle(FGSM())._graphs is not None
    assert source.oracle(shrinking[0])._graphs is None


def test_warnings_are_said_once_and_kept(models, make, monkeypatch):
    calls, source, said = [], Source(models[0]), []
    monkeypatch.setattr(sets, "sanity_flags", lambda *a: calls.append(len(a[1])) or ["it is odd"])
    for name, attack in (("a", FGSM()), ("b", FGSM(eps=0.1))):
        found = make(name, attack, source, say=said.append)
        assert found.details["warnings"] == ["it is odd"]
    assert calls == [16] and said == ["warning: standard: it is odd"]


# What can go wrong


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("can't allocate memory: you tried")]
)
def test_no_memory_names_the_batch_size(make, tmp_path, monkeypatch, error):
    interrupt(monkeypatch, 1, error)
    with pytest.raises(UserError, match=r"--batch-size below 16; finished batches are kept"):
        make()
    assert len(list((tmp_path / "a.parts").glob("part-*"))) == 1


def test_other_errors_are_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="a bug"), memory_advice(CPU, 1):
        raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"pixels": "png"}, "--pixels is 'png'"),
        ({"indices": torch.tensor([0, 150])}, "image 150 is asked for"),
    ],
)
def test_bad_arguments_leave_nothing(models, images, chosen, tmp_path, options, word):
    arguments = {"indices": chosen, "path": tmp_path / "a"} | options
    with pytest.raises(UserError, match=word):
        make_set(Source(models[0]), RANDOM, images, **arguments)
    assert not list(tmp_path.iterdir())


def test_an_error_within_names_source_and_attack(models, make):
    model = torch.nn.Sequential(models[0].model, torch.nn.Softmax(1)).eval()
    source = Source(replace(models[0], model=model))
    source.warnings = []
    with pytest.raises(UserError, match="standard, pgd: the model returns probabilities"):
        make(source=source)


def test_tf32_is_off_for_a_while_only():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        with pytest.raises(KeyError), full_precision(benchmark=False):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cudnn.benchmark
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.benchmark = before[1]


def test_bfloat16_on_a_gpu_without_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *a: "an old GPU")
    monkeypatch.setattr(torch.cuda, "device", lambda device: memory_advice(CPU, 1))
    with pytest.raises(UserError, match="an old GPU does not"):
        check_precision("bfloat16", torch.device("cuda", 0))
    check_precision("float16", torch.device("cuda", 0))
    with pytest.raises(UserError, match="--precision is 'int8'"):
        check_precision("int8", CPU)


def test_names_of_files(models):
    model = replace(models[0], name="runs/a b")
    assert set_name(model, FGSM()) == "runs_a-b--fgsm-eps=8_255.safetensors"
    name = set_name(model, PGD(eps=0.5, steps=20, random_start=True), "uint8")
    assert name == "runs_a-b--pgd-eps=0.5,steps=20,random_start=true-uint8.safetensors"
    long = {set_name(replace(models[0], name="x" * 300 + end), FGSM()) for end in "ab"}
    assert len(long) == 2 and all(len(each) < 200 for each in long)


# Sets that are there already: stopped ones, finished ones, those of other requests


@pytest.mark.parametrize(("after", "pixels"), [(0, "float"), (1, "uint8"), (2, "float")])
def test_a_stopped_set_goes_on_to_the_same_end(make, cut, tmp_path, monkeypatch, after, pixels):
    whole = make("whole", pixels=pixels)
    cut(after, pixels=pixels)
    parts = tmp_path / "a.parts"
    assert not (tmp_path / "a").exists() and len(list(parts.glob("part-*"))) == after
    said, calls = [], interrupt(monkeypatch, 100)
    found = make(say=said.append, pixels=pixels)
    assert calls[0] == 3 - after
    assert said == ([f"going on: {16 * after} of 40 images were finished before"] if after else [])
    assert_equal(found, whole)
    assert_equal(load_set(tmp_path / "a"), whole)
    assert not parts.exists()


def test_going_on_with_smaller_batches(make, cut, whole):
    cut(1)
    assert_equal(make(batch_size=5), whole, exact=False)


def test_damaged_and_overlapping_parts_and_files_of_others(chosen, make, cut, whole, tmp_path):
    """Two commands at once may leave parts that overlap."""
    cut(2)
    parts, said = tmp_path / "a.parts", []
    first = parts / f"part-{int(chosen[0]):08}.safetensors"
    first.write_bytes(first.read_bytes()[:1000])
    (parts / ".part-00000099.safetensors.x1y2.tmp").write_bytes(b"half")
    (parts / "notes.txt").write_text("mine")
    save_set(whole.subset(torch.arange(10, 30)), parts / "part-x.safetensors")
    assert_equal(make(say=said.append), whole)
    assert any("damaged" in line and first.name in line for line in said)
    assert any("22 of 40" in line for line in said)
    assert [path.name for path in parts.iterdir()] == ["notes.txt"]


def test_a_set_that_is_being_made_is_left_alone(make, tmp_path):
    (tmp_path / "a.parts").mkdir()
    with (
        alone_in(tmp_path / "a.parts", "x"),
        pytest.raises(UserError, match=r"a\.parts: the same attack is running there \(process"),
    ):
        make()
    make()
    assert not (tmp_path / "a.parts").exists()


def test_a_finished_set_is_used_again(models, make, tmp_path, monkeypatch):
    """Names, paths and batches are no part of a request."""
    first, said = make(), []
    stamp = (tmp_path / "a").stat().st_mtime_ns
    (tmp_path / "a.parts").mkdir()  # the end came before it was removed
    calls = interrupt(monkeypatch, 0)
    renamed = Source(replace(models[0], name="other"))
    again = make(source=renamed, batch_size=7, say=said.append)
    assert calls == [0] and (tmp_path / "a").stat().st_mtime_ns == stamp
    assert_equal(first, again)
    assert len(said) == 1 and "reused" in said[0]
    assert not (tmp_path / "a.parts").exists()


CHANGES = {
    "attack eps": {"attack": replace(RANDOM, eps=0.2)},
    "attack seed": {"attack": replace(RANDOM, seed=1)},
    "another source": {"source": 1},
    "number of images": {"which": slice(0, 39)},
    "another data indices": {"which": torch.arange(40).flip(0)},
    "pixels": {"pixels": "uint8"},
    "precision": {"precision": "bfloat16"},
}


@pytest.mark.parametrize("finished", [True, False])
def test_another_request_is_refused(models, images, chosen, make, cut, tmp_path, finished):
    make() if finished else cut(1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    for word, changes in CHANGES.items():
        with pytest.raises(UserError, match=rf"{word}.*--out") as caught:
            make(**changes)
        assert str(tmp_path / "a") in str(caught.value)
    split = replace(images.split, images=255 - images.split.images)
    negative = TestImages(replace(images.data, test=split), CPU)
    with pytest.raises(UserError, match="another data fingerprint"):
        make_set(Source(models[0]), RANDOM, negative, chosen, tmp_path / "a")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
