"""What the doctor says of caches, disks and data sets."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from doctor_lines import NOTHING, by_what
from scotoma.bench.doctor import data, places
from scotoma.bench.doctor.line import ABSENT, OK, WARNING, Examination
from scotoma.train.datasets import DATASETS


def test_folders_that_cannot_be_written(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(file / "below"))
    lines = by_what(places.caches(NOTHING))
    assert {line.verdict for line in lines.values()} == {WARNING}
    assert "is a file" in lines["Triton's cache"].detail
    assert "export TRITON_CACHE_DIR=" in lines["Triton's cache"].fix


def test_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    line = places.free_space("data root", tmp_path / "not" / "yet", "free some")
    assert line.verdict == WARNING and "1.0 GiB free" in line.detail
    assert list(tmp_path.iterdir()) == []


def put(folder: Path, name: str) -> None:
    """The files that a data set consists of, empty."""
    for pattern in data.FILES[name]:
        path = pattern if isinstance(pattern, str) else pattern[0]
        path = folder / name / path.replace("*", "x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_data_sets_that_are_there_and_not(monkeypatch, tmp_path):
    monkeypatch.delenv("SCOTOMA_DATA", raising=False)
    put(tmp_path, "cifar10")
    put(tmp_path, "imagenet")
    put(tmp_path, "mnist")
    (tmp_path / "mnist" / "MNIST/raw/train-labels-idx1-ubyte").unlink()
    lines = by_what(data.data_sets(Examination(tmp_path)))
    assert list(lines) == ["data root", *DATASETS]
    for name in ("sample", "cifar10", "imagenet"):
        assert lines[name].verdict == OK
    assert lines["cifar10"].detail == f"in {tmp_path / 'cifar10'}"
    assert lines["mnist"].verdict == ABSENT
    assert "has no MNIST/raw/train-labels-idx1-ubyte" in lines["mnist"].detail
    assert lines["fashion-mnist"].verdict == ABSENT
    fix = f"scotoma train --dataset fashion-mnist --download --data-root {tmp_path}"
    assert lines["fashion-mnist"].fix == fix
    monkeypatch.setenv("SCOTOMA_DATA", str(tmp_path))
    assert by_what(data.data_sets(NOTHING))["fashion-mnist"].fix == fix.split(" --data-root")[0]


def test_imagenet_is_told_where_to_go(tmp_path):
    line = data.line("imagenet", tmp_path)
    assert line.verdict == ABSENT
    assert "image-net.org" in line.fix and f"ln -s /that/folder {tmp_path / 'imagenet'}" in line.fix


def test_files_are_those_that_torchvision_reads():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    source = torchvision.datasets.CIFAR10
    names = [name for name, _ in source.train_list + source.test_list] + [source.meta["filename"]]
    assert sorted(data.FILES["cifar10"]) == sorted(f"{source.base_folder}/{n}" for n in names)
    for name, source in (
        ("mnist", torchvision.datasets.MNIST),
        ("fashion-mnist", torchvision.datasets.FashionMNIST),
    ):
        names = [Path(file).stem for file, _ in source.resources]
        expected = [f"{source.__name__}/raw/{file}" for file in names]
        assert sorted(data.FILES[name]) == sorted(expected)
    assert set(DATASETS) == {"sample", *data.FILES}
