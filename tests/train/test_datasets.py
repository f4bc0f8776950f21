"""Data sets: what is read, from where, and what is refused."""

import gzip
import hashlib
import pickle
import shutil
import struct
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scotoma.defective import UserError
from scotoma.defective.models import CIFAR10_STATISTICS
from scotoma.train import datasets
from scotoma.train.data import measured_statistics
from scotoma.train.datasets import load_dataset
from scotoma.train.sample.build import read_idx

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


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_an_image_folder_is_read_as_it_is(image_folder, mode, channels):
    root = image_folder(mode=mode)
    data = load_dataset(str(root))
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert (data.image_size, data.in_channels) == (16, channels)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    first = np.asarray(Image.open(root / "train" / "dog" / "02.png")).reshape(16, 16, channels)
    assert np.array_equal(data.train.images[6 + 2].numpy(), first)


def test_val_serves_as_test(image_folder):
    root = image_folder()
    (root / "test").rename(root / "val")
    assert len(load_dataset(str(root)).test) == 6


def test_image_size_brings_images_of_any_shape_to_one_size(image_folder):
    root = image_folder(size=(40, 24))
    with pytest.raises(UserError, match=r"40x24 .* have to be square; give --image-size 24 .*cut"):
        load_dataset(str(root))
    assert load_dataset(str(root), image_size=20).train.images.shape == (12, 20, 20, 3)


def test_stored_images_are_resized_when_asked():
    data = load_dataset("sample", image_size=32)
    assert data.image_size == 32
    assert data.train.images.shape == (6000, 32, 32, 1)
    assert data.train.images.dtype == torch.uint8


def test_held_out_images_leave_the_training_set():
    data = load_dataset("sample").hold_out(0.1, seed=0)
    assert (len(data.train), len(data.validation)) == (5400, 600)
    everything = load_dataset("sample").train.images.long().sum()
    assert data.train.images.long().sum() + data.validation.images.long().sum() == everything
    assert data.validation.labels.bincount(minlength=10).min() > 30  # from all classes


def test_limits_draw_from_all_classes(image_folder):
    data = load_dataset("sample").limited(100, 50, seed=1)
    assert (len(data.train), len(data.test)) == (100, 50)
    assert data.train.labels.unique().numel() == 10


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_mnist_files_are_read_through_torchvision(tmp_path, name, folder):
    generator = np.random.default_rng(0)
    raw = tmp_path / name / folder / "raw"
    images = generator.integers(0, 256, (9, 28, 28), dtype=np.uint8)
    for stem in ("train", "t10k"):
        write_idx(raw / f"{stem}-images-idx3-ubyte", images)
        write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(9, dtype=np.uint8))
    data = load_dataset(name, tmp_path)
    assert np.array_equal(data.train.images[..., 0].numpy(), images)
    assert data.test.labels.tolist() == list(range(9))
    assert len(data.classes) == 10


def test_cifar10_is_read_through_torchvision(tmp_path, monkeypatch):
    """Files of the real layout; torchvision checks their MD5 before it opens them."""
    from torchvision.datasets import CIFAR10

    base = tmp_path / "cifar10" / CIFAR10.base_folder
    base.mkdir(parents=True)
    pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    content = pickle.dumps({"data": pixels, "labels": [3, 4]})
    names = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    lists = {"train_list": ["data_batch_1"], "test_list": ["test_batch"]}
    for attribute, files in lists.items():
        for file in files:
            (base / file).write_bytes(content)
        sums = [[file, hashlib.md5(content).hexdigest()] for file in files]
        monkeypatch.setattr(CIFAR10, attribute, sums)
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


def test_tiny_imagenet_uses_its_annotations(tmp_path):
    base = tmp_path / "tiny-imagenet" / "tiny-imagenet-200"
    write_tiny_imagenet(base)
    (base / "train" / ".ipynb_checkpoints").mkdir()
    (base / "train" / "n01" / "images" / "._n01_0.JPEG").write_bytes(b"of a Mac")
    data = load_dataset("tiny-imagenet", tmp_path)
    assert data.classes == ("n01", "n02")
    assert data.test.labels.tolist() == [1, 0]
    assert data.train.images.shape == (2, 64, 64, 3)


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


def at_once(name, root):
    """Download a data set in three threads that differ a little in time."""

    def load(delay):
        time.sleep(delay)
        return load_dataset(name, root, download=True)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, (0, 0.05, 0.1)))


def test_tiny_imagenet_is_unpacked_once(tmp_path, monkeypatch):
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    unpacked = []

    def fetch(urls, path, md5):
        with zipfile.ZipFile(path, "w") as file:
            for each in sorted((tmp_path / "tiny-imagenet-200").rglob("*.*")):
                file.write(each, each.relative_to(tmp_path))

    def extractall(self, folder, extract=zipfile.ZipFile.extractall):
        unpacked.append(folder)
        extract(self, folder)
        time.sleep(0.3)

    monkeypatch.setattr(datasets, "fetch", fetch)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", extractall)
    assert [len(data.train) for data in at_once("tiny-imagenet", tmp_path / "root")] == [2] * 3
    assert len(unpacked) == 1
    left = [p.name for p in (tmp_path / "root" / "tiny-imagenet").iterdir()]
    assert sorted(left) == ["tiny-imagenet-200", "tiny-imagenet-200.zip"]


def test_torchvisions_data_are_unpacked_once(tmp_path, monkeypatch):
    """As torchvision does it: in place, where others read."""
    unpacked = []

    class Source:
        url, filename, tgz_md5 = "http://nowhere", "archive", "0"
        classes, targets = ("a", "b"), [0, 1]

        def __init__(self, root, train=True, download=False):
            pixels = np.zeros((2, 32, 32, 3), np.uint8)
            if download:
                unpacked.append(root)
                (root / "pixels").write_bytes(b"half")
                time.sleep(0.3)
                (root / "pixels").write_bytes(pixels.tobytes())
            stored = (root / "pixels").read_bytes()
            assert len(stored) == pixels.size  # as torchvision's MNIST does
            self.data = np.frombuffer(stored, np.uint8).reshape(pixels.shape).copy()

    monkeypatch.setattr(datasets, "fetch", lambda urls, path, md5: path.write_bytes(b"archive"))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Source)
    assert [len(data.train) for data in at_once("cifar10", tmp_path)] == [2] * 3
    assert len(unpacked) == 1
    assert sorted(p.name for p in (tmp_path / "cifar10").iterdir()) == ["archive", "pixels"]
    assert len(load_dataset("cifar10", tmp_path, download=True).test) == 2
    assert len(unpacked) == 1


def test_a_half_unpacked_data_set_is_no_traceback(tmp_path):
    raw = tmp_path / "mnist" / "MNIST" / "raw"
    for stem in ("train", "t10k"):
        write_idx(raw / f"{stem}-images-idx3-ubyte", np.zeros((9, 28, 28), np.uint8))
        write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(9, dtype=np.uint8))
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:3])  # not even the header
    with pytest.raises(UserError, match=r"'mnist' is not \(whole\)"):
        load_dataset("mnist", tmp_path)


def test_a_half_unpacked_data_set_is_unpacked_again(tmp_path, monkeypatch):
    """By torchvision itself, which takes a file that is there for whole."""
    raw, archives = tmp_path / "mnist" / "MNIST" / "raw", {}
    for stem in ("train", "t10k"):
        write_idx(raw / f"{stem}-images-idx3-ubyte", np.ones((9, 28, 28), np.uint8))
        write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(9, dtype=np.uint8))
    for path in raw.iterdir():
        archives[f"{path.name}.gz"] = gzip.compress(path.read_bytes())
    resources = [(name, hashlib.md5(packed).hexdigest()) for name, packed in archives.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(
        datasets, "fetch", lambda urls, path, md5: path.write_bytes(archives[path.name])
    )
    path = raw / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    assert load_dataset("mnist", tmp_path, download=True).test.images.sum() == 9 * 28 * 28


def test_imagenet_is_streamed_from_class_folders(image_folder):
    root = image_folder(size=(90, 70), name="imagenet")
    lose_test(root)
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


def remove_train(root):
    (root / "train").rename(root / "training")


def empty_train(root):
    for folder in (root / "train").iterdir():
        folder.rename(root / f"away-{folder.name}")


def add_class_of_other_files(root):
    (root / "train" / "eel").mkdir()
    (root / "train" / "eel" / "00.gif").write_bytes(b"GIF")


def leave_one_class(root):
    for split in ("train", "test"):
        (root / split / "dog").rename(root / f"dog-{split}")


def have_a_class_in_test_alone(root):
    (root / "test" / "dog").rename(root / "test" / "eel")


def lose_the_end_of_a_link(root):
    (root / "train" / "cat" / "more").symlink_to(root / "gone")


def lose_the_end_of_a_linked_image(root):
    (root / "test" / "dog" / "09.png").symlink_to("gone.png")


def lose_the_end_of_a_linked_class(root):
    (root / "train" / "eel").symlink_to("eel")


def only_test_is_left(root):
    lose_test(root)
    (root / "train").rename(root / "val")


def lose_test(root):
    (root / "test").rename(root.with_name("test"))


def other_names_of_splits(root):
    (root / "train").rename(root / "Training")
    (root / "test").rename(root / "Testing")


def nothing_at_all(root):
    lose_test(root)
    empty_train(root)
    for folder in root.glob("away-*"):
        folder.rename(root.with_name(folder.name))


def too_few_for_a_split(root):
    lose_test(root)
    for path in (root / "train" / "dog").glob("0[1-9].png"):
        path.unlink()


def lose_a_test_class(root):
    (root / "test" / "dog").rename(root / "dog")


def corrupt(root):
    (root / "train" / "dog" / "02.png").write_bytes(b"not an image")


def truncate(root):
    path = root / "train" / "cat" / "03.png"
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_train, "test/ is there, but no train/<class>"),
        (only_test_is_left, "val/ is there, but no train/<class>"),
        (empty_train, "train: no class folders"),
        (nothing_at_all, "no class folders with images; .*or <class>/.* alone"),
        (add_class_of_other_files, "train/eel: class without images"),
        (lose_a_test_class, "test/ has no images of 'dog'; train and test need the same"),
        (have_a_class_in_test_alone, "test/ .* of 'dog'; train/ has no images of 'eel'"),
        (leave_one_class, "train: only one class, 'cat'; expected two or more"),
        (lose_the_end_of_a_link, "train/cat/more: a link that leads nowhere (.*/gone)"),
        (lose_the_end_of_a_linked_image, "test/dog/09.png: a link that leads nowhere (gone.png)"),
        (lose_the_end_of_a_linked_class, "train/eel: a link that leads nowhere (eel)"),
        (other_names_of_splits, "Testing: looks like a split"),
        (too_few_for_a_split, "train/dog: too few images (1) to take 10% off"),
        (corrupt, "train/dog/02.png: not a readable image"),
        (truncate, "train/cat/03.png: not a readable image"),
    ],
)
def test_bad_image_folders_are_named(image_folder, damage, words):
    root = image_folder()
    damage(root)
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
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


@pytest.mark.parametrize(
    "stray",
    [
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
        "train/eel/",
    ],
)
def test_what_systems_leave_is_no_image_and_no_class(image_folder, stray):
    root = image_folder()
    path = root / stray
    (path if stray.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
    if not stray.endswith("/"):
        shutil.copy(root / "train" / "cat" / "01.png", path)
    data = load_dataset(str(root))
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (12, 6)


@pytest.mark.parametrize("flat", [False, True])
def test_without_a_test_folder_a_part_of_each_class_is_taken_off(image_folder, tmp_path, flat):
    root = image_folder(train=30)
    lose_test(root)
    if flat:
        for folder in list((root / "train").iterdir()):
            folder.rename(root / folder.name)
        (root / "train").rmdir()

    def of(share, root=root):
        data = load_dataset(str(root), test_share=share)
        assert data.test_share == share and f"{share} of each class" in data.test_note
        files = [
            {f"{p.parent.name}/{p.name}" for p in split.files} for split in (data.train, data.test)
        ]
        assert not files[0] & files[1] and len(files[0] | files[1]) == 60
        return data, files[1]

    data, tenth = of(0.1)
    assert data.test.labels.bincount().tolist() == [3, 3]
    assert data.train.labels.bincount().tolist() == [27, 27]
    assert tenth < of(0.3)[1]
    assert tenth == of(0.1, root.rename(tmp_path / "moved"))[1]
    assert load_dataset(str(image_folder(name="whole"))).test_note == ""


def test_a_class_called_train_needs_the_other_layout(image_folder):
    root = image_folder(classes=("car", "train"))
    lose_test(root)
    (root / "train").rename(root.with_name("flat"))
    with pytest.raises(UserError, match="flat/train: looks like a split, not like a class"):
        load_dataset(str(root.with_name("flat")))
    assert load_dataset(str(image_folder(classes=("a", "train"), name="b"))).classes[1] == "train"


def test_an_empty_name_is_not_the_current_folder(image_folder, monkeypatch, tiny):
    from scotoma.train.setup import load_data, resolve

    monkeypatch.chdir(image_folder())
    with pytest.raises(UserError, match="dataset '' is unknown"):
        load_dataset("")
    with pytest.raises(UserError, match="dataset '' is unknown"):
        load_data(resolve(tiny(dataset=""), torch.device("cpu")))


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


@pytest.mark.parametrize("size", [40, 72], ids=["resident", "streamed"])
@pytest.mark.parametrize("colour", [True, False])
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


def test_a_colour_image_is_not_made_grey_without_a_word(image_folder):
    root = image_folder(mode="L")
    Image.new("RGB", (16, 16), (200, 0, 0)).save(root / "test" / "dog" / "01.png")
    with pytest.raises(UserError, match=r"test/dog/01\.png: not a grey image \(RGB\)"):
        load_dataset(str(root))


def test_names_of_classes_are_compared():
    data = replace(load_dataset("sample"), name="fruit", classes=("apple", "red/Cherry", "kiwi"))
    for same in (data.classes, ["Apple", "red-cherry", "kiwi"], None, "apple", [1, 2, 3]):
        data.check_names(same, "net")
    replace(data, classes=("0 - zero", "1 - one")).check_names(["0", "1"], "net")
    with pytest.raises(UserError, match="net was trained on apple, fig, kiwi; fruit has apple, re"):
        data.check_names(["apple", "fig", "kiwi"], "net")
    with pytest.raises(UserError, match="fruit has in another order apple"):
        data.check_names(["red/Cherry", "apple", "kiwi"], "net")
    with pytest.raises(UserError, match="net was trained on apple, red/Cherry; fruit has apple"):
        data.check_names(["apple", "red/Cherry"], "net")
    many = [f"c{i}" for i in range(1000)]
    data = replace(data, classes=tuple(many))
    with pytest.raises(UserError, match=r"1000 classes, number 7 of them x; .* of them c7"):
        data.check_names([*many[:7], "x", *many[8:]], "net")


def test_a_colour_folder_stays_coloured_whatever_its_first_file(image_folder):
    root = image_folder()
    Image.new("L", (16, 16), 77).save(root / "train" / "cat" / "00.png")
    data = load_dataset(str(root))
    assert data.in_channels == 3
    assert data.train.images[0, 0, 0].tolist() == [77, 77, 77]


def test_only_formats_that_pillow_decodes_itself(image_folder):
    """An EPS in disguise would start Ghostscript."""
    root = image_folder()
    path = root / "train" / "cat" / "00.png"
    Image.new("RGB", (16, 16)).save(root / "a.eps")
    path.write_bytes((root / "a.eps").read_bytes())
    with pytest.raises(UserError, match=r"cat/00\.png: not a readable image"):
        load_dataset(str(root))


def test_a_decompression_bomb_is_refused(image_folder, monkeypatch):
    root = image_folder()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(UserError, match="not a readable image"):
        load_dataset(str(root))


def test_large_sizes_are_not_kept_in_memory():
    with pytest.raises(UserError, match=r"--image-size is 224.*64"):
        load_dataset("sample", image_size=224)


def test_a_folder_named_like_a_data_set_does_not_hide_it(tmp_path, monkeypatch, tiny):
    from scotoma.train.setup import resolve

    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").mkdir()
    config = resolve(tiny(), torch.device("cpu"))
    assert config.dataset == "sample"
    assert len(load_dataset(config.dataset).train) == 6000


def test_bad_annotations_of_tiny_imagenet(tmp_path):
    base = tmp_path / "tiny-imagenet" / "tiny-imagenet-200"
    (base / "train" / "n01").mkdir(parents=True)
    (base / "val").mkdir()
    (base / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\n")
    with pytest.raises(UserError, match=r"val_annotations.*n99"):
        load_dataset("tiny-imagenet", tmp_path)


def test_large_images_need_a_size(image_folder):
    root = image_folder(size=(100, 80))
    with pytest.raises(UserError, match="--image-size"):
        load_dataset(str(root))


def test_idx_files_of_any_rank_are_read(tmp_path):
    """The script that made the sample; checked against the format's definition."""
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "plain", array)
    (tmp_path / "a.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)
