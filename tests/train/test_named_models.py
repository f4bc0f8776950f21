"""Networks as commands name them, and how two are related."""

import json
import shutil

import pytest
import torch
from fitted_networks import CPU, saved
from scotoma.defective import Ensemble, UserError, create_model, load_model, save_model
from scotoma.train.datasets import load_dataset
from scotoma.train.robustness.models import load_common_data, load_named, relation


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Checkpoints by what they are."""
    root = tmp_path_factory.mktemp("nets")
    kinds = {
        "standard": {},
        "again": {"seed": 1},
        "bottom": {"defects": "0.5-Bottom"},
        "bottom-again": {"defects": "0.5-Bottom", "seed": 1},
        "bottom-dif": {"defects": "0.5-Bottom", "seed": 1, "mask_seed": 1},
        "other-keep": {"defects": "0.3-Bottom"},
    }
    made = {k: saved(root / f"{k}.safetensors", images=60, **v) for k, v in kinds.items()}
    made["copy"] = str(shutil.copy(made["bottom"], root / "copy.safetensors"))
    return made


@pytest.fixture(scope="module")
def named(paths):
    return dict(zip(paths, load_named(list(paths.values()), None, CPU), strict=True))


def test_relation(paths, named):
    """Of an ensemble that of its nearest member."""
    named = dict(named)
    for pair in (("standard", "bottom-again"), ("other-keep", "bottom-dif")):
        named["+".join(pair)] = load_named([], [[paths[name] for name in pair]], CPU)[0]
    for source, target, expected in (
        ("bottom", "bottom", "white-box"),
        ("bottom", "copy", "white-box"),
        ("bottom", "bottom-again", "gray-box"),
        ("standard", "again", "gray-box"),
        ("bottom", "bottom-dif", "DIF"),
        ("bottom-again", "bottom-dif", "DIF"),
        ("bottom", "other-keep", "transfer"),
        ("standard", "bottom", "transfer"),
        ("standard+bottom-again", "standard", "white-box"),
        ("standard+bottom-again", "bottom", "gray-box"),
        ("standard+bottom-again", "bottom-dif", "DIF"),
        ("standard+bottom-again", "other-keep", "transfer"),
        ("standard+bottom-again", "other-keep+bottom-dif", "DIF"),
    ):
        assert relation(named[source], named[target]) == expected, (source, target)
        assert relation(named[target], named[source]) == expected
        from_file = json.loads(json.dumps(named[source].describe()))
        assert relation(from_file, named[target]) == expected


@pytest.mark.parametrize("damage", ["digest", "spec", None])
def test_a_damaged_description_is_an_error_in_words(named, damage):
    described = json.loads(json.dumps(named["bottom"].describe()))
    described["members"][0].pop(damage, None)
    described["members"] *= bool(damage)
    with pytest.raises(UserError, match="make its adversarial set again"):
        relation(described, named["standard"])


def test_digests_tell_weights_masks_and_settings(paths, named, tmp_path):
    digests = {k: m.digest for k, m in named.items()}
    assert digests.pop("copy") == digests["bottom"]
    assert len(set(digests.values())) == len(digests)
    model = load_model(paths["bottom"])
    with torch.no_grad():
        model.head.bias[3] += 1e-6
    save_model(model, tmp_path / "nudged")
    nudged = load_named([str(tmp_path / "nudged")], None, CPU)[0]
    assert nudged.digest != digests["bottom"]
    masks = {k: m.members[0].mask_digest for k, m in named.items()}
    assert nudged.members[0].mask_digest == masks["bottom"] == masks["bottom-again"]
    assert masks["bottom"] != masks["bottom-dif"]


def test_an_ensemble_is_the_mean_of_logits_and_half_precision_is_widened(paths, tmp_path):
    pair = [paths["standard"], paths["bottom"]]
    save_model(load_model(pair[0]).half(), tmp_path / "half")
    half, found = load_named([str(tmp_path / "half")], [pair], CPU)
    assert isinstance(found.model, Ensemble) and not found.model.training
    assert found.name == "standard+bottom"
    x = torch.rand(3, 1, 28, 28)
    expected = sum(load_model(p)(x) for p in pair) / 2
    torch.testing.assert_close(found.model(x), expected)
    assert half.model(x).dtype == torch.float32


def test_names_that_clash_get_more_of_their_paths(paths, tmp_path):
    folders = [tmp_path / x / "run" for x in "ab"]
    for folder, kind in zip(folders, ("standard", "bottom"), strict=True):
        folder.mkdir(parents=True)
        shutil.copy(paths[kind], folder / "last.safetensors")
    names = [m.name for m in load_named(list(map(str, folders)), None, CPU)]
    assert names == ["a/run", "b/run"]
    assert load_named([str(folders[0])], None, CPU)[0].name == "run"


@pytest.mark.parametrize(
    ("runs", "ensembles", "word"),
    [
        ([], [], "no models"),
        (["standard", "standard"], [], "given twice"),
        ([], [["standard", "standard"]], "given twice"),
        ([], [["standard", "again"], ["standard", "again"]], "given twice"),
        ([], [["standard"]], "two or more"),
        (["nowhere"], [], "nowhere: no such run folder or checkpoint"),
        (["standard", "link"], [], "given twice"),
    ],
)
def test_wrong_models(paths, tmp_path, runs, ensembles, word):
    (tmp_path / "link").symlink_to(paths["standard"])
    at = paths | {"link": str(tmp_path / "link"), "nowhere": "nowhere"}
    with pytest.raises(UserError, match=word):
        load_named([at[name] for name in runs], [[at[name] for name in e] for e in ensembles], CPU)


def test_the_data_set_comes_from_the_checkpoint_or_the_command(
    named, paths, tmp_path, image_folder
):
    assert load_common_data([named["standard"]]).name == "sample"
    save_model(load_model(paths["standard"]), tmp_path / "bare")
    bare = load_named([str(tmp_path / "bare")], None, CPU)
    with pytest.raises(UserError, match="--dataset"):
        load_common_data(bare)
    assert load_common_data(bare, "sample").name == "sample"
    save_model(load_model(paths["standard"]), tmp_path / "elsewhere", details={"dataset": "mnist"})
    elsewhere = load_named([str(tmp_path / "elsewhere")], None, CPU)
    with pytest.raises(UserError, match="trained on"):
        load_common_data([named["standard"], *elsewhere])
    with pytest.raises(UserError, match="num_classes = 10"):
        load_common_data([named["standard"]], str(image_folder()))


def fruit_network(path, **details):
    """A checkpoint of a network for 16x16 images of three classes."""
    model = create_model("resnet18", width=4, num_classes=3, image_size=16)
    save_model(model, path, details=details)
    return load_named([str(path)], None, CPU)


def test_a_data_set_of_other_classes_is_refused(image_folder, tmp_path):
    names = ["apple", "banana", "cherry"]
    same = image_folder(classes=names)
    other = image_folder(classes=[*names[1:], "durian"], name="other")
    network = fruit_network(tmp_path / "fruit", dataset="pets", classes=names)
    assert load_common_data(network, str(same)).classes == tuple(names)
    message = "fruit was trained on apple, banana, cherry; other has banana, cherry, durian"
    with pytest.raises(UserError, match=message):
        load_common_data(network, str(other))
    with pytest.raises(UserError, match=message):  # a member of an ensemble too
        pair = [str(tmp_path / "older"), str(tmp_path / "fruit")]
        older = fruit_network(tmp_path / "older", dataset="pets")
        load_common_data(load_named([], [pair], CPU), str(other))
    assert load_common_data(older, str(other)).classes[-1] == "durian"  # it has no names


def test_a_part_that_was_taken_off_for_testing_is_the_same_again(image_folder, tmp_path):
    root = image_folder(classes=("a", "b", "c"), train=20)
    (root / "test").rename(tmp_path / "away")

    def tested_on(*shares):
        networks = []
        for share in shares:
            details = {} if share is None else {"test_share": share}
            networks += fruit_network(tmp_path / str(share), dataset="pets", **details)
        return set(load_common_data(networks, str(root)).test.files)

    fifth = tested_on(0.2)
    assert fifth == set(load_dataset(str(root), test_share=0.2).test.files)
    assert len(fifth) == 12
    assert tested_on(None) == tested_on("x") == tested_on(0.2, 0.1) < fifth
