"""Data sets: what is read, from where, and what is refused."""

import gzip
import hashlib
import pickle
import shutil
import socket
import struct
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scotoma.defective import UserError
from scotoma.defective.models import CIFAR10_STATISTICS
from scotoma.train import datasets
from scotoma.train.data import measured_statistics
from scotoma.train.datasets import load_dataset
from scotoma.train.runfolder import alone_in
from scotoma.train.sample.build import read_idx
from scotoma.train.setup import load_data, resolve

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")


def test_the_sample_is_seven_thousand_balanced_fashion_images():
    data = load_dataset("sample")
    assert data.train.images.shape == (6000, 28, 28, 1)
    assert data.test.images.shape == (1000, 28, 28, 1)
    assert data.train.labels.bincount().tolist() == [600] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10
    assert data.classes == tuple(torchvision.datasets.FashionMNIST.classes)
    # The statistics commonly quoted for all of Fashion-MNIST hold for a tenth of it.
    mean, std = measured_statistics(data.train.images)
    assert mean[0] == pytest.approx(data.mean[0], abs=0.01)
    assert std[0] == pytest.approx(data.std[0], abs=0.01)


def test_statistics_equal_numpys():
    images = torch.randint(0, 256, (50, 7, 5, 3), dtype=torch.uint8)
    mean, std = measured_statistics(images)
    pixels = images.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=1e-12)
    assert std == pytest.approx(pixels.std((0, 1, 2)).tolist(), abs=1e-12)


def test_images_are_held_out_limited_and_resized():
    whole = load_dataset("sample")
    data = whole.hold_out(0.1, seed=0)
    assert (len(data.train), len(data.validation)) == (5400, 600)
    parts = (split.images.long().sum() for split in (data.train, data.validation))
    assert sum(parts) == whole.train.images.long().sum()
    assert data.validation.labels.bincount(minlength=10).min() > 30  # from all classes
    data = whole.limited(100, 50, seed=1)
    assert (len(data.train), len(data.test)) == (100, 50)
    assert data.train.labels.unique().numel() == 10
    data = load_dataset("sample", image_size=32)
    assert data.image_size == 32 and data.train.images.dtype == torch.uint8
    assert data.train.images.shape == (6000, 32, 32, 1)
    with pytest.raises(UserError, match=r"--image-size is 224.*64"):
        load_dataset("sample", image_size=224)


# Named data sets


def write_mnist(root, folder, images):
    """Files of the real layout: nine images a split."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(9, dtype=np.uint8))):
            write_idx(raw / f"{stem}-{kind}-ubyte", array)
    return raw


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_mnist_files_are_read_through_torchvision(tmp_path, name, folder):
    images = np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)
    raw = write_mnist(tmp_path / name, folder, images)
    data = load_dataset(name, tmp_path)
    assert np.array_equal(data.train.images[..., 0].numpy(), images)
    assert data.test.labels.tolist() == list(range(9))
    assert len(data.classes) == 10
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:3])  # half unpacked: not even the header
    with pytest.raises(UserError, match=rf"'{name}' is not \(whole\)"):
        load_dataset(name, tmp_path)


def test_cifar10_is_read_through_torchvision(tmp_path, monkeypatch):
    """Files of the real layout; torchvision checks their MD5 before it opens them."""
    from torchvision.datasets import CIFAR10

    base = tmp_path / "cifar10" / CIFAR10.base_folder
    base.mkdir(parents=True)
    pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    content = pickle.dumps({"data": pixels, "labels": [3, 4]})
    names = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    for attribute, file in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        (base / file).write_bytes(content)
        monkeypatch.setattr(CIFAR10, attribute, [[file, hashlib.md5(content).hexdigest()]])
    (base / "batches.meta").write_bytes(names)
    meta = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(names).hexdigest()}
    monkeypatch.setattr(CIFAR10, "meta", meta)

    data = load_dataset("cifar10", tmp_path)
    expected = pixels.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(data.train.images.numpy(), expected)
    assert data.train.labels.tolist() == [3, 4]
    assert (data.mean, data.std) == CIFAR10_STATISTICS

    (base / "data_batch_1").write_bytes(content + b"tampered")
    with pytest.raises(UserError, match=r"cifar10.*--download"):
        load_dataset("cifar10", tmp_path)


def write_tiny_imagenet(base):
    """Two classes of an image each, and two validation images."""
    image = Image.new("RGB", (64, 64), (10, 20, 30))
    for name in ("n02", "n01"):
        (base / "train" / name / "images").mkdir(parents=True)
        image.save(base / "train" / name / "images" / f"{name}_0.JPEG")
    (base / "val" / "images").mkdir(parents=True)
    for index in range(2):
        image.save(base / "val" / "images" / f"val_{index}.JPEG")
    lines = "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    (base / "val" / "val_annotations.txt").write_text(lines)


def test_tiny_imagenet_uses_its_annotations(tmp_path):
    base = tmp_path / "tiny-imagenet" / "tiny-imagenet-200"
    write_tiny_imagenet(base)
    (base / "train" / ".ipynb_checkpoints").mkdir()
    (base / "train" / "n01" / "images" / "._n01_0.JPEG").write_bytes(b"of a Mac")
    data = load_dataset("tiny-imagenet", tmp_path)
    assert data.classes == ("n01", "n02")
    assert data.test.labels.tolist() == [1, 0]
    assert data.train.images.shape == (2, 64, 64, 3)
    (base / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\n")
    with pytest.raises(UserError, match=r"val_annotations.*n99"):
        load_dataset("tiny-imagenet", tmp_path)


def test_imagenet_is_streamed_from_class_folders(image_folder):
    root = image_folder(size=(90, 70), name="imagenet")
    (root / "test").rename(root.with_name("test"))
    with pytest.raises(UserError, match=r"imagenet holds no train/<class>/\* and val"):
        load_dataset("imagenet", root.parent)  # of it no test images are taken off
    root.with_name("test").rename(root / "val")
    data = load_dataset("imagenet", root.parent)
    assert not data.resident
    assert data.image_size == 224
    assert len(data.train.files) == 12


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar", ["'cifar'", "image folder", "'cifar10'"]),
        ("cifar10", ["--download", "--data-root"]),
        ("mnist", ["--download", "--data-root"]),
        ("tiny-imagenet", ["--download", "--data-root"]),
        ("imagenet", ["image-net.org", "--data-root"]),
    ],
)
def test_missing_data_says_how_to_get_it(tmp_path, name, words):
    with pytest.raises(UserError) as refused:
        load_dataset(name, tmp_path)
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


# Downloads


@pytest.fixture
def served(tmp_path):
    """(A folder, the address at which a server gives out what is in it.)"""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def at_once(name, root):
    """Download a data set in three threads that differ a little in time."""

    def load(delay):
        time.sleep(delay)
        return load_dataset(name, root, download=True)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, (0, 0.05, 0.1)))


def test_what_torchvision_unpacks_in_place_is_unpacked_once(tmp_path, monkeypatch, served):
    """From the mirror that works; and anew where a killed process unpacked a part."""
    (folder, url), root = served, tmp_path / "root"
    raw = write_mnist(folder, "MNIST", np.ones((9, 28, 28), np.uint8))
    sums = []
    for path in sorted(raw.iterdir()):
        packed = gzip.compress(path.read_bytes())
        path.with_name(f"{path.name}.gz").write_bytes(packed)
        sums.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    mirrors = [f"{url}/gone/", f"{url}/MNIST/raw/"]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", mirrors)
    half = root / "mnist" / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    half.parent.mkdir(parents=True)
    half.write_bytes((raw / half.name).read_bytes()[:5000])
    unpacked = []

    def slowly(archive, folder, *rest):
        unpacked.append(archive)
        Path(archive).with_suffix("").write_bytes(b"half")
        time.sleep(0.1)
        extract(archive, folder, *rest)

    extract = torchvision.datasets.utils.extract_archive
    monkeypatch.setattr(torchvision.datasets.utils, "extract_archive", slowly)
    for data in at_once("mnist", root):
        assert data.test.images.sum() == 9 * 28 * 28
    assert len(unpacked) == 4
    assert [path.name for path in (root / "mnist").iterdir()] == ["MNIST"]


@pytest.fixture
def tiny_url(tmp_path, monkeypatch, served):
    """Where Tiny ImageNet is served, of four images, with its MD5."""
    folder, url = served
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    archive = shutil.make_archive(folder / "tiny", "zip", tmp_path, "tiny-imagenet-200")
    monkeypatch.setattr(datasets, "TINY_MD5", hashlib.md5(Path(archive).read_bytes()).hexdigest())
    monkeypatch.setattr(datasets, "TINY_URL", f"{url}/tiny.zip")
    return datasets.TINY_URL


@pytest.mark.usefixtures("tiny_url")
def test_tiny_imagenet_is_unpacked_once(tmp_path, monkeypatch):
    unpacked = []

    def extractall(self, folder, extract=zipfile.ZipFile.extractall):
        unpacked.append(folder)
        extract(self, folder)
        time.sleep(0.3)

    monkeypatch.setattr(zipfile.ZipFile, "extractall", extractall)
    assert [len(data.train) for data in at_once("tiny-imagenet", tmp_path / "root")] == [2] * 3
    assert len(unpacked) == 1
    left = sorted(p.name for p in (tmp_path / "root" / "tiny-imagenet").iterdir())
    assert left == ["tiny-imagenet-200", "tiny-imagenet-200.zip"]


@pytest.mark.parametrize(
    ("server", "words"), [("wrong", "corrupted"), ("gone", "404"), ("silent", "timed out")]
)
def test_a_download_that_fails_is_one_line_and_the_next_goes_well(
    tmp_path, monkeypatch, tiny_url, server, words
):
    (tmp_path / "served" / "wrong").write_bytes(b"<html>Please log in</html>")
    monkeypatch.setattr(datasets, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        if server != "silent":
            url = tiny_url.replace("tiny.zip", server)
        monkeypatch.setattr(datasets, "TINY_URL", url)
        with pytest.raises(UserError, match=f"could not be fetched into .*{words}.*again") as said:
            load_dataset("tiny-imagenet", tmp_path / "root", download=True)
    assert "\n" not in str(said.value) and socket.getdefaulttimeout() is None
    monkeypatch.setattr(datasets, "TINY_URL", tiny_url)
    assert len(load_dataset("tiny-imagenet", tmp_path / "root", download=True).train) == 2


def test_a_root_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"could not be fetched into .*Not a directory"):
        load_dataset("mnist", tmp_path / "file", download=True)


def test_who_waits_is_never_in_a_folder_with_another(tmp_path):
    """Also while the lock's file is removed and made again all the time."""
    inside, most = [], []

    def work(number):
        for _ in range(4):
            with alone_in(tmp_path, "a test", wait=True):
                inside.append(number)
                time.sleep(0.001)
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most == [1] * 16
    assert list(tmp_path.iterdir()) == []


# Image folders


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_an_image_folder_is_read_as_it_is(image_folder, mode, channels):
    root = image_folder(mode=mode)
    data = load_dataset(str(root))
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert (data.image_size, data.in_channels) == (16, channels)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    first = np.asarray(Image.open(root / "train" / "dog" / "02.png")).reshape(16, 16, channels)
    assert np.array_equal(data.train.images[6 + 2].numpy(), first)
    (root / "test").rename(root / "val")
    data = load_dataset(str(root))
    assert len(data.test) == 6 and data.test_note == ""


def test_image_size_brings_images_of_any_shape_to_one_size(image_folder):
    root = image_folder(size=(40, 24))
    with pytest.raises(UserError, match=r"40x24 .* have to be square; give --image-size 24 .*cut"):
        load_dataset(str(root))
    assert load_dataset(str(root), image_size=20).train.images.shape == (12, 20, 20, 3)
    with pytest.raises(UserError, match=r"larger than 64 pixels \(00.png: 100x80\).*--image-size"):
        load_dataset(str(image_folder(size=(100, 80), name="large")))


# What is moved where, or written (bytes), or made a link (Path).
DAMAGE = [
    ({"train": "training"}, "test/ is there, but no train/<class>"),
    ({"test": "../test", "train": "val"}, "val/ is there, but no train/<class>"),
    ({"train/cat": "cat", "train/dog": "dog"}, "train: no class folders"),
    (
        {"test": "../t", "train/cat": "../cat", "train/dog": "../dog"},
        "no class folders with images; .*or <class>/.* alone",
    ),
    ({"train/eel/00.gif": b"GIF"}, "train/eel: class without images"),
    ({"test/dog": "dog"}, "test/ has no images of 'dog'; train and test need the same"),
    ({"test/dog": "test/eel"}, "test/ .* of 'dog'; train/ has no images of 'eel'"),
    ({"train/dog": "a", "test/dog": "b"}, "train: only one class, 'cat'; expected two or more"),
    ({"train/cat/more": Path("/gone")}, "train/cat/more: a link that leads nowhere (/gone)"),
    ({"test/dog/09.png": Path("no.png")}, "test/dog/09.png: a link that leads nowhere (no.png)"),
    ({"train/eel": Path("eel")}, "train/eel: a link that leads nowhere (eel)"),
    ({"train": "Training", "test": "Testing"}, "Testing: looks like a split"),
    (
        {"test": "../test", **{f"train/dog/0{i}.png": f"../{i}.png" for i in range(1, 6)}},
        "train/dog: too few images (1) to take 10% off",
    ),
    ({"train/dog/02.png": b"not an image"}, "train/dog/02.png: not a readable image"),
    ({"train/dog/02.png": b"%!PS-Adobe-3.0 EPSF-3.0\n"}, "not a readable image"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE, ids=[words for _, words in DAMAGE])
def test_bad_image_folders_are_named(image_folder, damage, words):
    root = image_folder()
    for name, what in damage.items():
        if isinstance(what, str):
            (root / name).rename(root / what)
        elif isinstance(what, Path):
            (root / name).symlink_to(what)
        else:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(what)
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        load_dataset(str(root))


def test_truncated_images_bombs_and_formats_that_start_programs_are_refused(
    image_folder, monkeypatch
):
    """An EPS in disguise would start Ghostscript."""
    root = image_folder()
    path = root / "train" / "cat" / "00.png"
    whole = path.read_bytes()
    Image.new("RGB", (16, 16)).save(root / "a.eps")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started"))
    for content in (whole[:60], (root / "a.eps").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cat/00\.png: not a readable image"):
            load_dataset(str(root))
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(UserError, match="not a readable image"):
        load_dataset(str(root))


def test_links_to_folders_and_images_are_read_as_torchvision_reads_them(image_folder, tmp_path):
    root = image_folder()
    (root / "train" / "cat").rename(tmp_path / "cats")
    (root / "train" / "cat").symlink_to(tmp_path / "cats")
    more = image_folder(name="more", train=2) / "train" / "dog"
    (root / "train" / "dog" / "more").symlink_to(more)
    (root / "train" / "dog" / "07.png").symlink_to(more / "01.png")
    expected = torchvision.datasets.ImageFolder(root / "train").samples
    data = load_dataset(str(root)).train
    assert sorted(zip(map(str, data.files), data.labels.tolist(), strict=True)) == sorted(expected)
    assert len(data) == 6 + 6 + 2 + 1
    # There torchvision reads on, until names are too long.
    (root / "train" / "dog" / "up").symlink_to(root / "train")
    assert len(load_dataset(str(root)).train) == 15 + 6


STRAYS = [
    "train/cat/.ipynb_checkpoints/00-checkpoint.png",
    "train/cat/._00.png",
    "test/dog/@eaDir/00.png/SYNOPHOTO_THUMB_M.jpg",
    "train/cat/#recycle/00.png",
    "train/cat/Thumbs.db",
    "train/.ipynb_checkpoints/00-checkpoint.png",
    "train/__MACOSX/cat/00.png",
    "train/lost+found/00.png",
    "test/.DS_Store",
    ".git/objects/00.png",
]


def test_what_systems_leave_is_no_image_and_no_class(image_folder):
    root = image_folder()
    (root / "train" / "eel").mkdir()  # an empty folder
    for stray in STRAYS:
        (root / stray).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "train" / "cat" / "01.png", root / stray)
    data = load_dataset(str(root))
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (12, 6)


@pytest.mark.parametrize("flat", [False, True])
def test_without_a_test_folder_a_part_of_each_class_is_taken_off(image_folder, tmp_path, flat):
    root = image_folder(train=30)
    (root / "test").rename(root.with_name("test"))
    if flat:
        for folder in list((root / "train").iterdir()):
            folder.rename(root / folder.name)
        (root / "train").rmdir()

    def of(share, root=root):
        data = load_dataset(str(root), test_share=share)
        assert data.test_share == share and f"{share} of each class" in data.test_note
        train, test = (
            {f"{p.parent.name}/{p.name}" for p in split.files} for split in (data.train, data.test)
        )
        assert not train & test and len(train | test) == 60
        return data, test

    data, tenth = of(0.1)
    assert data.test.labels.bincount().tolist() == [3, 3]
    assert data.train.labels.bincount().tolist() == [27, 27]
    assert tenth < of(0.3)[1]
    assert tenth == of(0.1, root.rename(tmp_path / "moved"))[1]


def test_a_class_called_train_needs_the_other_layout(image_folder):
    root = image_folder(classes=("car", "train"))
    (root / "test").rename(root.with_name("test"))
    (root / "train").rename(root.with_name("flat"))
    with pytest.raises(UserError, match="flat/train: looks like a split, not like a class"):
        load_dataset(str(root.with_name("flat")))
    assert load_dataset(str(image_folder(classes=("a", "train"), name="b"))).classes[1] == "train"


def test_an_empty_name_is_no_folder_and_a_folder_hides_no_data_set(image_folder, monkeypatch, tiny):
    root = image_folder()
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match="dataset '' is unknown"):
        load_data(resolve(tiny(dataset=""), torch.device("cpu")))
    (root / "sample").mkdir()
    assert len(load_data(resolve(tiny(train_limit=None), torch.device("cpu"))).train) == 6000


# Pixels


def test_sixteen_bit_images_keep_their_upper_bits(image_folder):
    root = image_folder(mode="L")
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(levels).save(root / "train" / "cat" / "00.png")
    first = load_dataset(str(root)).train.images[0, ..., 0]
    assert np.array_equal(first.numpy(), np.arange(256).reshape(16, 16))


@pytest.mark.parametrize(
    ("dtype", "name", "kind"),
    [(np.int32, "a.tif", "32-bit"), (np.int16, "a.tiff", "signed"), (np.float32, "a.tif", "float")],
)
def test_pixels_without_a_fixed_range_are_refused(image_folder, dtype, name, kind):
    """All of them were black."""
    root = image_folder(mode="L")
    Image.fromarray(np.full((16, 16), 200, dtype)).save(root / "train" / "cat" / name)
    with pytest.raises(UserError, match=rf"cat/{name}: .*{kind}.* no fixed range"):
        load_dataset(str(root))


def write_deep(folder, colour, most):
    """PNGs of 16 bits with values up to ``most``, by hand: Pillow writes no colour ones."""
    for index, path in enumerate(sorted(folder.rglob("*.png"))):
        values = np.linspace(0, most, 80 * 80 * (3 if colour else 1)).astype(">u2")
        rows = np.roll(values, index).reshape(80, -1)
        raw = b"".join(b"\0" + row.tobytes() for row in rows)
        header = struct.pack(">IIBBBBB", 80, 80, 16, 2 if colour else 0, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n"
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
            sum = struct.pack(">I", zlib.crc32(kind + data))
            content += struct.pack(">I", len(data)) + kind + data + sum
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("colour", "size"), [(True, 40), (False, 40), (True, 72)], ids=["RGB", "grey", "streamed"]
)
def test_twelve_bits_in_sixteen_are_told(image_folder, colour, size, recwarn):
    root = image_folder(size=(80, 80))
    write_deep(root, colour, 65535)
    data = load_dataset(str(root), image_size=size)
    assert not recwarn.list
    if data.resident:
        assert data.train.images.max() > 250
    write_deep(root, colour, 4095)
    with pytest.warns(UserWarning, match="train/cat: 16-bit images without a value over 4095"):
        load_dataset(str(root), image_size=size)


def test_grey_and_colour_are_not_mixed_without_a_word(image_folder):
    root = image_folder(mode="L")
    Image.new("RGB", (16, 16), (200, 0, 0)).save(root / "test" / "dog" / "01.png")
    with pytest.raises(UserError, match=r"test/dog/01\.png: not a grey image \(RGB\)"):
        load_dataset(str(root))
    root = image_folder(name="coloured")  # whatever its first file
    Image.new("L", (16, 16), 77).save(root / "train" / "cat" / "00.png")
    data = load_dataset(str(root))
    assert data.in_channels == 3
    assert data.train.images[0, 0, 0].tolist() == [77, 77, 77]


def test_names_of_classes_are_compared():
    data = replace(load_dataset("sample"), name="fruit", classes=("apple", "red/Cherry", "kiwi"))
    for same in (data.classes, ["Apple", "red-cherry", "kiwi"], None, "apple", [1, 2, 3]):
        data.check_names(same, "net")
    replace(data, classes=("0 - zero", "1 - one")).check_names(["0", "1"], "net")
    many = [f"c{i}" for i in range(1000)]
    large = replace(data, classes=tuple(many))
    for ours, theirs, words in (
        (data, ["apple", "fig", "kiwi"], "net was trained on apple, fig, kiwi; fruit has apple, r"),
        (data, ["red/Cherry", "apple", "kiwi"], "fruit has in another order apple"),
        (data, ["apple", "red/Cherry"], "net was trained on apple, red/Cherry; fruit has apple"),
        (large, [*many[:7], "x", *many[8:]], "1000 classes, number 7 of them x; .* of them c7"),
    ):
        with pytest.raises(UserError, match=words):
            ours.check_names(theirs, "net")


def test_idx_files_of_any_rank_are_read(tmp_path):
    """The script that made the sample; checked against the format's definition."""
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "plain", array)
    (tmp_path / "a.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)
