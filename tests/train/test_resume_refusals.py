"""What a run goes on with: which settings may be asked anew, and what is refused."""

import copy
import random
import zipfile
from dataclasses import replace

import pytest
import torch
from cut_runs import assert_same_weights, cut_run
from scotoma.defective import UserError
from scotoma.defective.serialization import seal
from scotoma.train.config import TrainConfig
from scotoma.train.loop import Trainer
from scotoma.train.run import run_training
from scotoma.train.runfolder import RunFolder
from scotoma.train.settings import load_resolved


def test_settings_that_decide_no_weights_may_be_asked_anew(tiny, monkeypatch, tmp_path):
    _, whole = run_training(tiny(name="whole"))
    folder = cut_run(tiny(name="cut"), monkeypatch)
    asked = tiny(name="cut", workers=7, save_seconds=9.0, data_root=str(tmp_path), recipe="quick")
    run_training(asked, resume=folder, whole=True)
    assert_same_weights(whole.path, folder)
    found = load_resolved(folder / "config.yaml")
    assert (found.workers, found.save_seconds, found.data_root) == (7, 9.0, str(tmp_path))


@pytest.mark.parametrize("epochs", [2, 3], ids=["finished", "cut"])
def test_a_moved_data_set_is_gone_on_with_where_it_is(tiny, monkeypatch, image_folder, epochs):
    """Three steps an epoch."""
    here = image_folder(train=12, test=4)
    there = here.with_name("there")
    config = tiny(dataset=str(here), batch_size=8, epochs=epochs)
    folder = cut_run(config, monkeypatch)
    here.rename(there)
    run_training(replace(config, dataset=str(there)), resume=folder, whole=True)
    # The folder alone is enough afterwards.
    assert load_resolved(folder / "config.yaml").dataset == str(there)
    outcome, _ = run_training(TrainConfig(), resume=folder)
    assert outcome.summary["epochs"] == epochs


def test_another_data_set_is_still_refused_by_a_folder_alone(tiny, monkeypatch, image_folder):
    folder = cut_run(tiny(dataset=str(image_folder(train=12)), batch_size=8), monkeypatch)
    other = image_folder(train=12, name="other")
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("pets", "other"))
    with pytest.raises(UserError, match=rf"saved under dataset = '.*pets', but .*'{other}'"):
        run_training(TrainConfig(), resume=folder)


def test_a_run_does_not_go_on_with_other_classes(tiny, monkeypatch, image_folder):
    root = image_folder(train=12)
    folder = cut_run(tiny(dataset=str(root), batch_size=8), monkeypatch)
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "eel")
    with pytest.raises(UserError, match=r"resume\.pt was trained on cat, dog; pets has cat, eel"):
        run_training(TrainConfig(), resume=folder)
    state = torch.load(folder / "resume.pt", weights_only=True)
    del state["classes"]  # of an older version
    torch.save(seal(state), folder / "resume.pt")
    run_training(TrainConfig(), resume=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "mask_seed is 0 there, and 4 is asked for"),
        ({"arch": "vgg19"}, "arch is 'resnet18' there, and 'vgg19' is asked for"),
        ({"width": None}, "width is 4 there, and 64 is asked for"),
        ({"precision": "bfloat16"}, "precision is 'float32' there, and 'bfloat16' is asked for"),
        ({"test_limit": 99}, "test_limit is 100 there, and 99 is asked for"),
    ],
)
@pytest.mark.parametrize("state", [True, False], ids=["with its state", "without"])
def test_another_run_is_not_gone_on_with(tiny, monkeypatch, change, message, state):
    folder = cut_run(tiny(name="cut"), monkeypatch)
    if not state:  # nothing but config.yaml says what it was
        (folder / "resume.pt").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError, match=rf"cut/config\.yaml: {message}; remove the folder"):
        run_training(tiny(name="cut", **change), resume=folder, whole=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_was_left_to_the_device_stays(tiny, monkeypatch):
    """Begun on a GPU, say, and gone on with on a machine without one."""
    begun = {"precision": "bfloat16", "channels_last": True, "train_limit": 160, "batch_size": 20}
    folder = cut_run(tiny(**begun), monkeypatch)
    asked = tiny(**begun | {"precision": "auto", "channels_last": None})
    outcome, _ = run_training(asked, resume=folder, whole=True)
    assert outcome.summary["precision"] == "bfloat16"


def test_nothing_to_resume(tmp_path, tiny):
    with pytest.raises(UserError, match="no run to resume"):
        run_training(tiny(), resume=tmp_path)


def test_a_state_with_code_in_it_is_refused(tiny, tmp_path):
    """Unpickling it would create a file."""
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    config = tiny(epochs=1)
    _, folder = run_training(config)
    for content in (pickle.dumps(Evil()), b"PK\x03\x04 truncated", b""):
        (folder.path / "resume.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"resume\.pt: damaged"):
            run_training(config, resume=folder.path)
    torch.save({"epoch": Evil()}, folder.path / "resume.pt")
    with pytest.raises(UserError, match=r"resume\.pt: damaged"):
        run_training(config, resume=folder.path)
    assert not (tmp_path / "owned").exists()


def test_an_edited_config_does_not_fit_the_state(tiny):
    config = tiny(epochs=1)
    _, folder = run_training(config)
    file = folder.path / "config.yaml"
    file.write_text(file.read_text().replace("width: 4", "width: 8"))
    with pytest.raises(UserError, match=r"saved under width = 4, but config\.yaml says 8"):
        run_training(config, resume=folder.path)


def test_a_state_with_wrong_content_is_refused(tiny):
    config = tiny(epochs=1)
    _, folder = run_training(config)
    whole = torch.load(folder.path / "resume.pt", weights_only=True)
    wrong = {"epoch": "x", "step": 99, "history": None, "best": None, "engine": 5, "losses": 1}
    for key, value in wrong.items():
        state = whole | {key: value}
        torch.save(seal(state), folder.path / "resume.pt")
        with pytest.raises(UserError, match=r"resume\.pt: damaged, or of another version"):
            run_training(config, resume=folder.path)
    torch.save(state, folder.path / "resume.pt")
    with pytest.raises(UserError, match=r"resume\.pt: damaged or edited"):
        run_training(config, resume=folder.path)


def inverted_mask(state):
    name = next(name for name in state["engine"]["model"] if name.endswith(".mask"))
    state["engine"]["model"][name].logical_not_()


WRONG = [
    (lambda state: state.update(history=[1]), "not subscriptable"),
    (lambda state: state.update(history=[{}]), "'epoch'"),
    (lambda state: state["history"][0].update(epoch=2), "line 1 of the history"),
    (lambda state: state["history"][0].update({"test/acc1": float("nan")}), "line 1 of the"),
    (lambda state: state["history"][0].update({"train/loss": "low"}), "real number"),
    (lambda state: state.update(best={}), "'epoch'"),
    (lambda state: state["best"].update(acc1=5.0), "best epoch"),
    (lambda state: momentum(state).clear(), "momentum of another"),
    (lambda state: momentum(state)[0].update(momentum_buffer=torch.zeros(3)), "momentum of"),
    (inverted_mask, "another mask at stem"),
]


def momentum(state):
    return state["engine"]["optimizer"]["state"]


def test_values_that_cannot_be_of_the_run_are_refused(tiny, monkeypatch):
    """A digest that fits is no proof: anybody can write one."""
    config, trainers = tiny(epochs=1, train_limit=64, test_limit=10), []
    _, folder = run_training(config)
    whole = folder.load_state()
    monkeypatch.setattr(Trainer, "run", lambda self, _stop: trainers.append(self))
    run_training(config, resume=folder.path)
    for edit, reason in WRONG:
        state = copy.deepcopy(whole)
        edit(state)
        words = rf"resume\.pt: damaged, or of another version.*{reason}"
        with pytest.raises(UserError, match=words):
            trainers[0]._restore(state)
    trainers[0]._restore(whole)


def test_the_settings_decide_over_the_state(tiny, monkeypatch):
    """Momentum, weight decay and the like are those of config.yaml."""
    _, whole = run_training(tiny(name="whole"))
    cut = cut_run(tiny(name="cut"), monkeypatch)
    state = RunFolder(cut).load_state()
    (group,) = state["engine"]["optimizer"]["param_groups"]
    group.update(momentum=0.5, weight_decay=9.0, nesterov=True)
    RunFolder(cut).save_state(state)
    run_training(TrainConfig(), resume=cut)
    assert_same_weights(whole.path, cut)


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


def test_no_flipped_bit_of_a_state_goes_unnoticed(tiny):
    _, folder = run_training(tiny(epochs=1))
    file = folder.path / "resume.pt"
    whole, state = file.read_bytes(), folder.load_state()
    places = random.Random(0).sample(range(len(whole)), 60)
    refusals = 0
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        try:
            found = folder.load_state()
        except UserError:
            refusals += 1
        else:  # a bit of the archive's padding, say
            assert seal(found) == found and found["digest"] == state["digest"]
    assert refusals > 10
