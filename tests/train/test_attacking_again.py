"""Adversarial sets that are there already: stopped ones, finished ones, those of other requests."""

from dataclasses import replace

import attacking_fixtures as shared
import pytest
import torch
from attacking_fixtures import CPU, RANDOM, assert_equal, interrupt
from scotoma.defective.attacks import FGSM
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import load_set, save_set
from scotoma.train.robustness.images import TestImages
from scotoma.train.robustness.sets import make_set
from scotoma.train.runfolder import alone_in

models, images, chosen = shared.models, shared.images, shared.chosen


@pytest.mark.parametrize("pixels", ["float", "uint8"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stopped_set_goes_on_to_the_same_end(
    models, images, chosen, tmp_path, monkeypatch, after, pixels
):
    options = {"batch_size": 16, "pixels": pixels}
    whole = make_set(models[0], RANDOM, images, chosen, tmp_path / "whole", **options)
    path = tmp_path / "cut"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, after)
        make_set(models[0], RANDOM, images, chosen, path, **options)
    assert not path.exists()
    parts = tmp_path / "cut.parts"
    assert len(list(parts.glob("part-*"))) == after
    said = []
    with monkeypatch.context() as patch:
        calls = interrupt(patch, 100)
        found = make_set(models[0], RANDOM, images, chosen, path, say=said.append, **options)
    assert calls[0] == 3 - after
    assert said == ([f"going on: {16 * after} of 40 images were finished before"] if after else [])
    assert_equal(found, whole)
    assert_equal(load_set(path), whole)
    assert not parts.exists()


def test_going_on_with_smaller_batches(models, images, chosen, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 1)
        make_set(models[0], RANDOM, images, chosen, tmp_path / "cut", batch_size=16)
    found = make_set(models[0], RANDOM, images, chosen, tmp_path / "cut", batch_size=5)
    whole = make_set(models[0], RANDOM, images, chosen, tmp_path / "whole", batch_size=16)
    assert_equal(found, whole, exact=False)


def test_a_damaged_part_is_made_again(models, images, chosen, tmp_path, monkeypatch):
    whole = make_set(models[0], RANDOM, images, chosen, tmp_path / "whole", batch_size=16)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 2)
        make_set(models[0], RANDOM, images, chosen, tmp_path / "cut", batch_size=16)
    parts = tmp_path / "cut.parts"
    first = parts / f"part-{int(chosen[0]):08}.safetensors"
    first.write_bytes(first.read_bytes()[:1000])
    (parts / ".part-00000099.safetensors.x1y2.tmp").write_bytes(b"half")
    said = []
    found = make_set(
        models[0], RANDOM, images, chosen, tmp_path / "cut", batch_size=16, say=said.append
    )
    assert_equal(found, whole)
    assert any("damaged" in line and first.name in line for line in said)
    assert any("16 of 40" in line for line in said)
    assert not parts.exists()


def test_a_set_that_is_being_made_is_left_alone(models, images, chosen, tmp_path):
    (tmp_path / "a.parts").mkdir()
    with (
        alone_in(tmp_path / "a.parts", "x"),
        pytest.raises(UserError, match=r"a\.parts: the same attack is running there \(process"),
    ):
        make_set(models[0], FGSM(), images, chosen, tmp_path / "a")
    make_set(models[0], FGSM(), images, chosen, tmp_path / "a")
    assert not (tmp_path / "a.parts").exists()


def test_parts_that_overlap_count_once(models, images, chosen, tmp_path, monkeypatch):
    """As two commands at once may leave them."""
    whole = make_set(models[0], RANDOM, images, chosen, tmp_path / "whole", batch_size=16)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 1)
        make_set(models[0], RANDOM, images, chosen, tmp_path / "cut", batch_size=16)
    save_set(whole.subset(torch.arange(10, 30)), tmp_path / "cut.parts" / "part-x.safetensors")
    found = make_set(models[0], RANDOM, images, chosen, tmp_path / "cut", batch_size=16)
    assert_equal(found, whole)


def test_a_finished_set_is_used_again(models, images, chosen, tmp_path, monkeypatch):
    path = tmp_path / "a"
    first = make_set(models[0], RANDOM, images, chosen, path)
    stamp, said = path.stat().st_mtime_ns, []
    (tmp_path / "a.parts").mkdir()  # the end came before it was removed
    with monkeypatch.context() as patch:
        calls = interrupt(patch, 0)
        again = make_set(models[0], RANDOM, images, chosen, path, batch_size=7, say=said.append)
    assert calls == [0] and path.stat().st_mtime_ns == stamp
    assert_equal(first, again)
    assert len(said) == 1 and "reused" in said[0]
    assert not (tmp_path / "a.parts").exists()


CHANGES = {
    "attack eps": {"attack": replace(RANDOM, eps=0.2)},
    "attack seed": {"attack": replace(RANDOM, seed=1)},
    "another source": {"source": 1},
    "number of images": {"rows": slice(0, 39)},
    "another data indices": {"rows": torch.arange(40).flip(0)},
    "pixels": {"pixels": "uint8"},
    "precision": {"precision": "bfloat16"},
}


@pytest.mark.parametrize("word", CHANGES)
@pytest.mark.parametrize("finished", [True, False])
def test_another_request_is_refused(models, images, chosen, tmp_path, monkeypatch, word, finished):
    def make(source=0, attack=RANDOM, rows=slice(None), **options):
        request = models[source], attack, images, chosen[rows], tmp_path / "a"
        return make_set(*request, batch_size=16, **options)

    if finished:
        make()
    else:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, 1)
            make()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=rf"{word}.*--out") as caught:
        make(**CHANGES[word])
    assert str(tmp_path / "a") in str(caught.value)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_names_and_paths_are_no_part_of_a_request(models, images, chosen, tmp_path):
    make_set(models[0], RANDOM, images, chosen, tmp_path / "a")
    renamed = replace(models[0], name="other")
    said = []
    make_set(renamed, RANDOM, images, chosen, tmp_path / "a", say=said.append)
    assert "reused" in said[0]


def test_other_data_under_the_same_numbers_are_another_request(models, images, chosen, tmp_path):
    make_set(models[0], RANDOM, images, chosen, tmp_path / "a")
    split = replace(images.split, images=255 - images.split.images)
    negative = TestImages(replace(images.data, test=split), CPU)
    with pytest.raises(UserError, match="another data fingerprint"):
        make_set(models[0], RANDOM, negative, chosen, tmp_path / "a")


def test_a_folder_of_other_things_stays(models, images, chosen, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 1)
        make_set(models[0], RANDOM, images, chosen, tmp_path / "a", batch_size=16)
    (tmp_path / "a.parts" / "notes.txt").write_text("mine")
    make_set(models[0], RANDOM, images, chosen, tmp_path / "a", batch_size=16)
    assert [p.name for p in (tmp_path / "a.parts").iterdir()] == ["notes.txt"]
