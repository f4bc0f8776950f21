"""``scotoma bench attacks``: equal settings, results compared before any time is taken."""

import argparse
import sys
from dataclasses import replace

import pytest
import torch
from report_rows import cells
from scotoma.bench import attacks
from scotoma.bench.attacks import (
    SETUPS,
    disagreement,
    judge,
    loaded,
    make_case,
    make_run,
    passes,
    peers_attack,
    trained,
)
from scotoma.bench.harness import read_rows
from scotoma.bench.report.rows import prepared
from scotoma.bench.report.tables import attacks as section
from scotoma.defective import UserError, save_model
from scotoma.train.config import TrainConfig
from scotoma.train.pages import Page

pytest.importorskip("foolbox", reason="foolbox is not installed (extra: crosscheck)")
CPU = torch.device("cpu")
TINY = ["--cpu", "--width", "4", "--epochs", "1", "--batch", "4", "--windows", "1"]
TINY += ["--window-seconds", "0.01", "--cw-steps", "6", "--boundary-steps", "12"]


@pytest.fixture(scope="module")
def target():
    config = TrainConfig(width=4, epochs=3, train_limit=1000, batch_size=32, augment="none")
    return trained(config, CPU, 8)


def case(attack, batch=4, constants=2, steps=8, initial=1.0, boundary_steps=20):
    budgets = dict(zip(attacks.BUDGETS, (constants, steps, initial, boundary_steps), strict=True))
    return make_case(attack, "resnet18", batch, budgets)


def measured(case, target):
    options = argparse.Namespace(windows=1, window_seconds=0.01)
    return attacks.measure_case(case, target, ("scotoma", "foolbox"), CPU, options)


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(attacks, "TRAINING_LIMIT", 300)
    out = tmp_path / "rows.jsonl"
    chosen = ["fgsm", "mifgsm"]
    attacks.main([*TINY, "--attacks", *chosen, "--out", str(out)])
    rows = list(read_rows(out))
    whole = {name: "torchattacks" if name == "mifgsm" else "foolbox" for name in chosen}
    found = [(row["attack"], row["defects"], row["contestant"]) for row in rows]
    assert found == [
        (attack, defects, contestant)
        for attack, peer in whole.items()
        for defects in ("standard", "0.3-Bottom")
        for contestant in (peer, "scotoma")
    ]
    for row in rows:
        assert row["benchmark"] == "attacks" and row["batch_size"] == 4 and row["width"] == 4
        assert bool(row["times"]) == (not row["problems"])  # never a time without agreement
        assert row["machine"]["commit"] and row["settings"]["foolbox"]
        if row["contestant"] == "scotoma":
            assert row["results"]["equal_pixels"] == 1.0 and row["times_faster"] > 0
    printed = capsys.readouterr().out
    assert "x foolbox" in printed and "x torchattacks" in printed and "equal pixels" in printed
    # And the section of the page can show them.
    page = Page("")
    section(page, [prepared(row) for row in rows])
    assert len(cells(page, "attack")) == len(rows)


def test_the_network_has_learned_and_has_its_images_right(target):
    assert target.accuracy > 0.4  # of ten classes
    assert torch.equal(target.eager(target.images).argmax(1), target.labels)
    assert torch.equal(target.fused(target.images).argmax(1), target.labels)
    assert target.images.shape[0] == 8 == target.from_test
    assert not target.eager.training and not target.fused.training


@pytest.mark.parametrize(
    "attack",
    [pytest.param(n, marks=pytest.mark.slow) if n == "cw-l2-stop" else n for n in SETUPS],
)
def test_both_sides_do_the_same(target, attack):
    """Settings that differed would show: equal pixels, or equal success and nearly equal length."""
    peer = SETUPS[attack].peer
    own = case(attack, 8, 2, 40, 10.0, 150)
    if attack.startswith("cw-l2"):
        own = own._replace(attack=replace(own.attack, lr=0.05))  # so that few steps lead far
    found = {name: make_run(name, own, target)[0]() for name in (peer, "scotoma")}
    if SETUPS[attack].longer is None:
        assert torch.equal(found[peer], found["scotoma"])
        assert (found[peer] - target.images).abs().max() > 0.03
        return
    fooled = {name: target.eager(f).argmax(1) != target.labels for name, f in found.items()}
    assert torch.equal(fooled[peer], fooled["scotoma"]) and fooled[peer].sum() >= 4
    theirs, ours = (
        (found[name] - target.images)[fooled[peer]].flatten(1).norm(dim=1)
        for name in (peer, "scotoma")
    )
    assert (ours < 0.9 * (target.starts(8) - target.images).flatten(1).norm(dim=1).max()).all()
    # One side's early stop is the image's own, and directions are random in the boundary attack.
    close = {"cw-l2": 1e-4, "cw-l2-stop": 0.5, "boundary": 0.3}[attack]
    assert (ours.median() / theirs.median() - 1).abs() < close


def test_early_stop_is_on_both_sides_or_on_none():
    """A batch seldom stalls as a whole, so that results need not show it."""
    theirs = attacks.library("foolbox").attacks
    for name, stops in (("cw-l2", False), ("cw-l2-stop", True)):
        own = case(name).attack
        assert own.stop_early == peers_attack(theirs, own).abort_early == stops


def test_passes_of_one_attack_are_reported(target):
    peer, ours = measured(case("pgd20"), target)
    assert peer["contestant"] == "foolbox" and ours["contestant"] == "scotoma"
    assert ours["results"]["forwards"] == ours["results"]["backwards"] == 20
    assert ours["results"]["most_forwards"] == 20
    assert peer["results"]["forwards"] is None and passes(peer) == "-"
    assert passes(ours) == "20.0 + 20.0"
    expected = peer["times"]["median_us"] / ours["times"]["median_us"]
    assert ours["times_faster"] == pytest.approx(expected, abs=1e-3)
    assert ours["images_per_s"] == pytest.approx(4e6 / ours["times"]["median_us"], abs=0.006)


def test_another_result_gets_no_time(target, monkeypatch):
    """A weaker attack would be fast."""
    fgsm = case("fgsm")
    strong, weaker = (fgsm._replace(attack=replace(fgsm.attack, eps=e)) for e in (0.5, 1e-6))
    monkeypatch.setattr(
        attacks,
        "make_run",
        lambda name, case, t: make_run(name, weaker if name == "scotoma" else case, t),
    )
    peer, ours = measured(strong, target)
    assert peer["times"] and not ours["times"] and ours["times_faster"] is None
    assert any("success is 0," in problem for problem in ours["problems"])


def test_a_failing_peer_is_a_result(target, monkeypatch):
    def fail(name, *arguments):
        if name == "foolbox":
            raise RuntimeError("broken")
        return make_run(name, *arguments)

    monkeypatch.setattr(attacks, "make_run", fail)
    peer, ours = measured(case("fgsm"), target)
    assert peer["problems"] == ["RuntimeError: broken"] and not peer["times"]
    assert "nothing to compare with" in ours["problems"][0] and not ours["times"]


def test_images_that_are_not_finite_are_a_failure(target, monkeypatch):
    run = lambda: torch.full_like(target.images[:4], float("nan"))  # noqa: E731
    monkeypatch.setattr(attacks, "make_run", lambda *arguments: (run, None))
    for row in measured(case("fgsm"), target):
        assert "not finite" in row["problems"][0] and not row["times"]


def outcome(success=0.5, median=1.0, equal=1.0):
    return {"success": success, "median_l2": median, "equal_predictions": equal}


@pytest.mark.parametrize(
    "attack, own, dtype, word",
    [
        ("pgd20", outcome(), "float32", None),
        ("pgd20", outcome(0.51), "float32", None),
        ("pgd20", outcome(0.47), "float32", "success"),
        ("pgd20", outcome(0.53), "float32", "success"),  # stronger is not the same attack either
        ("pgd20", outcome(0.47), "bfloat16", None),
        ("pgd20", outcome(equal=0.9), "float32", "equal_predictions"),
        ("pgd20", outcome(equal=0.9), "bfloat16", None),
        ("cw-l2", outcome(0.47), "float32", "success"),
        ("cw-l2", outcome(0.9), "float32", None),
        ("cw-l2", outcome(median=1.02), "float32", "median_l2"),
        ("cw-l2-stop", outcome(median=1.04), "float32", None),
        ("cw-l2-stop", outcome(median=1.06), "float32", "median_l2"),
        ("cw-l2", outcome(median=0.5), "float32", None),
        ("boundary", outcome(median=1.2), "float32", None),
        ("boundary", outcome(median=1.3), "float32", "median_l2"),
        ("cw-l2", outcome(0.5, None), "float32", None),
    ],
)
def test_what_counts_as_agreement(attack, own, dtype, word):
    problems = disagreement(own, outcome(equal=None), case(attack, 1000), dtype)
    assert bool(problems) == (word is not None)
    assert word is None or word in problems[0]


def test_judgement():
    images, labels = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 3])
    found = images.clone()
    found[1], found[2] = 0.5, 0.25
    classes = torch.tensor([0, 0, 0, 3])
    other = images.clone()
    other[1] = 0.5
    counts = torch.tensor([1, 2, 3, 6]), torch.tensor([0, 0, 0, 2])
    seen = judge(found, classes, images, labels, (other, torch.tensor([0, 0, 2, 3])), counts)
    assert seen == {
        "success": 0.5,
        "median_l2": 0.5,  # of 1.0 and 0.5 the lower
        "equal_pixels": 0.75,
        "equal_predictions": 0.75,
        "forwards": 3.0,
        "backwards": 0.5,
        "most_forwards": 6,
    }
    alone = judge(images, labels, images, labels)
    assert alone == dict.fromkeys(seen) | {"success": 0.0}


def test_black_images_of_a_failed_search_do_not_count(target):
    """foolbox returns zeros where it found nothing, which another class may well be."""
    run, _ = make_run("foolbox", case("cw-l2", 4, 1, 1, 1e-9, 1), target)
    assert torch.equal(run(), target.images[:4])


def test_starts_are_of_another_class(target):
    starts = target.starts(8)
    assert (target.eager(starts).argmax(1) != target.labels).all()
    same = replace(target, labels=torch.zeros_like(target.labels))
    with pytest.raises(UserError, match="one class only"):
        same.starts(8)


def test_random_state_is_left_alone(target):
    before = torch.get_rng_state()
    make_run("foolbox", case("boundary"), target)[0]()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_named_model(tmp_path, target, capsys):
    file = tmp_path / "network.safetensors"
    save_model(target.eager, file)
    same = loaded(str(file), "sample", CPU, 8)
    assert torch.equal(same.images, target.images) and same.accuracy == target.accuracy
    out = tmp_path / "rows.jsonl"
    options = ["--cpu", "--model", str(file), "--dataset", "sample", "--out", str(out)]
    options += ["--attacks", "fgsm", "--batch", "4", "--windows", "1", "--window-seconds", "0.01"]
    assert attacks.main(options) == 0
    for settings in (row["settings"] for row in read_rows(out)):
        assert settings["training_epochs"] is None
        assert settings["contestants"] == ["scotoma", "foolbox"]  # no peer of other attacks
    assert attacks.main(["--cpu", "--model", str(file), "--list"]) == 0
    assert f"pgd20 {file} batch 32" in capsys.readouterr().out
    with pytest.raises(UserError, match="batch is 9999"):
        loaded(str(file), "sample", CPU, 9999)


@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_a_missing_library_is_said(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    attack = "fgsm" if library == "foolbox" else "mifgsm"
    with pytest.raises(UserError) as error:
        attacks.main(["--cpu", "--attacks", attack])
    assert library in str(error.value) and "pip install 'scotoma[crosscheck]'" in str(error.value)


def test_without_torchattacks_the_others_are_measured(monkeypatch):
    monkeypatch.setattr(attacks, "available", lambda name: False)
    assert attacks.parse(["--cpu"]).attacks == tuple(n for n in SETUPS if n != "mifgsm")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--attacks", "pdg20"], ["attacks", "pdg20", "Did you mean 'pgd20'"]),
        (["--contestants", "foolbx"], ["variants", "foolbx"]),
        (["--variants", "scotoma"], ["lacks 'foolbox'", "proof"]),
        (["--contestants", "foolbox", "torchattacks", "scotoma-graph"], ["scotoma-graph", "GPU"]),
        (["--window-seconds", "0"], ["window-seconds", "more than 0"]),
        (["--defects", "0.3-Botom"], ["0.3-Botom"]),
        (["--dataset", "cifar10"], ["dataset", "--model"]),
        (["--model", "nowhere", "--width", "8"], ["width", "--model"]),
        (["--model", "nowhere"], ["nowhere"]),
    ],
)
def test_bad_options(tmp_path, options, words):
    with pytest.raises(UserError) as error:
        attacks.main(["--cpu", "--out", str(tmp_path / "rows.jsonl"), *options])
    assert all(word in str(error.value) for word in words)


def test_a_set_backend_is_refused(monkeypatch):
    monkeypatch.setenv("SCOTOMA_BACKEND", "eager")
    with pytest.raises(UserError, match="SCOTOMA_BACKEND"):
        attacks.main(["--cpu"])
