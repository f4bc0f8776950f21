"""What a run goes on with: which settings may be asked anew, and what is refused."""

import copy
import pickle
import random
import zipfile
from dataclasses import replace

import pytest
import torch
import yaml
from cut_runs import assert_same_weights
from scotoma.defective import UserError
from scotoma.defective.serialization import seal
from scotoma.train.config import TrainConfig
from scotoma.train.loop import Trainer
from scotoma.train.run import run_training
from scotoma.train.runfolder import RunFolder
from scotoma.train.settings import load_resolved

CUT = 7
"""A step of the second epoch, of five, in which runs are stopped."""


def test_settings_that_decide_no_weights_may_be_asked_anew(tiny, ran, tmp_path):
    """And those that decide them are config.yaml's, also over what the optimiser's state says."""
    whole, folder = ran(tiny()), ran(tiny(), CUT)
    state = RunFolder(folder).load_state()
    (group,) = state["engine"]["optimizer"]["param_groups"]
    group.update(momentum=0.5, weight_decay=9.0, nesterov=True)
    RunFolder(folder).save_state(state)
    asked = tiny(workers=7, save_seconds=9.0, data_root=str(tmp_path), recipe="quick")
    run_training(asked, resume=folder, whole=True)
    assert_same_weights(whole, folder)
    found = load_resolved(folder / "config.yaml")
    assert (found.workers, found.save_seconds, found.data_root) == (7, 9.0, str(tmp_path))


@pytest.mark.parametrize("stop", [None, CUT], ids=["finished", "cut"])
def test_a_moved_data_set_is_gone_on_with_where_it_is(tiny, ran, image_folder, stop):
    """Three steps an epoch."""
    here = image_folder(train=12, test=4)
    there = here.with_name("there")
    config = tiny(dataset=str(here), batch_size=8, epochs=3)
    folder = ran(config, stop)
    here.rename(there)
    run_training(replace(config, dataset=str(there)), resume=folder, whole=True)
    # The folder alone is enough afterwards.
    assert load_resolved(folder / "config.yaml").dataset == str(there)
    outcome, _ = run_training(TrainConfig(), resume=folder)
    assert outcome.summary["epochs"] == 3


def test_other_data_and_other_classes_are_refused_by_a_folder_alone(tiny, ran, image_folder):
    root, other = image_folder(train=12), image_folder(train=12, name="other")
    folder = ran(tiny(dataset=str(root), batch_size=8, epochs=3), CUT)
    file = folder / "config.yaml"
    settings = file.read_text()
    file.write_text(settings.replace("pets", "other"))
    with pytest.raises(UserError, match=rf"saved under dataset = '.*pets', but .*'{other}'"):
        run_training(TrainConfig(), resume=folder)
    file.write_text(settings)
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "eel")
    with pytest.raises(UserError, match=r"resume\.pt was trained on cat, dog; pets has cat, eel"):
        run_training(TrainConfig(), resume=folder)
    state = torch.load(folder / "resume.pt", weights_only=True)
    del state["classes"]  # of an older version
    torch.save(seal(state), folder / "resume.pt")
    run_training(TrainConfig(), resume=folder)


@pytest.mark.parametrize("state", [True, False], ids=["with its state", "without"])
def test_another_run_is_not_gone_on_with(tiny, ran, state):
    folder = ran(tiny(), CUT)
    if not state:  # nothing but config.yaml says what it was
        (folder / "resume.pt").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for change, message in (
        ({"seed": 4}, "mask_seed is 0 there, and 4 is asked for"),
        ({"arch": "vgg19"}, "arch is 'resnet18' there, and 'vgg19' is asked for"),
        ({"width": None}, "width is 4 there, and 64 is asked for"),
        ({"precision": "bfloat16"}, "precision is 'float32' there, and 'bfloat16' is asked for"),
        ({"test_limit": 99}, "test_limit is 100 there, and 99 is asked for"),
    ):
        with pytest.raises(UserError, match=rf"cut-7/config\.yaml: {message}; remove the folder"):
            run_training(tiny(**change), resume=folder, whole=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_was_left_to_the_device_stays(tiny, ran):
    """Begun on a GPU, say, and gone on with on a machine without one."""
    begun = {"precision": "bfloat16", "channels_last": True, "train_limit": 60, "batch_size": 20}
    folder = ran(tiny(**begun), 4)
    asked = tiny(**begun | {"precision": "auto", "channels_last": None})
    outcome, _ = run_training(asked, resume=folder, whole=True)
    assert outcome.summary["precision"] == "bfloat16"


def test_a_run_from_before_some_settings_goes_on(tiny, ran):
    """Neither its settings nor its state name them; its weights are what they would have been."""
    folder = ran(tiny(), CUT)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    state = torch.load(folder / "resume.pt", weights_only=True)
    for name in ("thermometer", "logit_pairing"):
        del settings[name], state["settings"][name]
    del state["digest"]  # neither did it have one
    # Asked for later, they are another run.
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"thermometer": 4}))
    torch.save(state, folder / "resume.pt")
    with pytest.raises(UserError, match=r"under thermometer = 0, but config\.yaml says 4"):
        run_training(load_resolved(folder / "config.yaml"), folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    resumed = load_resolved(folder / "config.yaml")
    assert (resumed.thermometer, resumed.logit_pairing) == (0, 0.0)
    run_training(resumed, folder)
    assert_same_weights(ran(tiny()), folder)


def test_a_state_with_code_or_another_config_is_refused(tiny, ran, tmp_path):
    """Unpickling it would create a file."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    config, folder = tiny(), ran(tiny(), CUT)
    with pytest.raises(UserError, match="no run to resume"):
        run_training(config, resume=tmp_path)
    file = folder / "config.yaml"
    settings = file.read_text()
    file.write_text(settings.replace("width: 4", "width: 8"))
    with pytest.raises(UserError, match=r"saved under width = 4, but config\.yaml says 8"):
        run_training(config, resume=folder)
    file.write_text(settings)
    torch.save({"epoch": Evil()}, tmp_path / "evil")
    contents = [
        pickle.dumps(Evil()),
        (tmp_path / "evil").read_bytes(),
        b"PK\x03\x04 truncated",
        b"",
    ]
    for content in contents:
        (folder / "resume.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"resume\.pt: damaged"):
            run_training(config, resume=folder)
    assert not (tmp_path / "owned").exists()


def momentum(state):
    return state["engine"]["optimizer"]["state"]


def inverted_mask(state):
    name = next(name for name in state["engine"]["model"] if name.endswith(".mask"))
    state["engine"]["model"][name].logical_not_()


WRONG = [
    (lambda state: state.update(epoch="x"), ""),
    (lambda state: state.update(step=99), "step 99 of epoch 1"),
    (lambda state: state.update(engine=5), ""),
    (lambda state: state.update(losses=1), ""),
    (lambda state: state.update(history=None), ""),
    (lambda state: state.update(history=[1]), "not subscriptable"),
    (lambda state: state.update(history=[{}]), "'epoch'"),
    (lambda state: state["history"][0].update(epoch=2), "line 1 of the history"),
    (lambda state: state["history"][0].update({"test/acc1": float("nan")}), "line 1 of the"),
    (lambda state: state["history"][0].update({"train/loss": "low"}), "real number"),
    (lambda state: state.update(best=None), ""),
    (lambda state: state.update(best={}), "'epoch'"),
    (lambda state: state["best"].update(acc1=5.0), "best epoch"),
    (lambda state: momentum(state).clear(), "momentum of another"),
    (lambda state: momentum(state)[0].update(momentum_buffer=torch.zeros(3)), "momentum of"),
    (inverted_mask, "another mask at stem"),
]


def test_values_that_cannot_be_of_the_run_are_refused(tiny, ran, monkeypatch):
    """A digest that fits is no proof: anybody can write one."""
    config, trainers, folder = tiny(), [], ran(tiny(), CUT)
    whole = RunFolder(folder).load_state()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", lambda self, _stop: trainers.append(self))
        run_training(config, resume=folder)
    for edit, reason in WRONG:
        state = copy.deepcopy(whole)
        edit(state)
        words = rf"resume\.pt: damaged, or of another version.*{reason}"
        with pytest.raises(UserError, match=words):
            trainers[0]._restore(state)
    trainers[0]._restore(whole)
    # Without one that fits it is not even looked at.
    torch.save(whole | {"epoch": 0}, folder / "resume.pt")
    with pytest.raises(UserError, match=r"resume\.pt: damaged or edited"):
        run_training(config, resume=folder)


def test_a_compressed_state_is_refused_unread_and_no_advice_is_given(tmp_path, monkeypatch):
    """torch.save compresses nothing, so what does may hold any amount."""
    folder = RunFolder(tmp_path)
    folder.save_state({"zeros": torch.zeros(10_000)})
    file = tmp_path / "resume.pt"
    with zipfile.ZipFile(file) as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, each in content.items():
            bomb.writestr(name, each)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
        with pytest.raises(UserError, match=r"damaged, or not a state that scotoma wrote; "):
            folder.load_state()
    torch.save({"config": TrainConfig()}, file)  # which weights_only refuses
    with pytest.raises(UserError, match=r"damaged, or not a state that scotoma wrote; the last"):
        folder.load_state()


def test_no_flipped_bit_of_a_state_goes_unnoticed(tiny, ran):
    folder = RunFolder(ran(tiny(), CUT))
    file = folder.path / "resume.pt"
    whole, state = file.read_bytes(), folder.load_state()
    refusals = 0
    for place in random.Random(0).sample(range(len(whole)), 40):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        try:
            found = folder.load_state()
        except UserError:
            refusals += 1
        else:  # a bit of the archive's padding, say
            assert seal(found) == found and found["digest"] == state["digest"]
    assert refusals > 10
