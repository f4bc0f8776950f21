"""``scotoma paper study`` and ``study-score``: names of classes, options, files of strangers."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from scotoma.bench.paper import study_command
from scotoma.bench.paper.artefacts import Context
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.study.page import write_page
from scotoma.defective.errors import UserError
from scotoma.train.cli import main
from study_pairs import result, saved, study

# Two classes share their first word, as the two cranes of WordNet do.
WORDS = {
    "n01443537": "goldfish, Carassius auratus",
    "n01629819": "European fire salamander, Salamandra salamandra",
    "n02012849": "crane",
    "n03126707": "crane, derrick",
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """(status, out, err) of a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["paper", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


# --- Names.


def tiny_imagenet(root, words=WORDS):
    """A Tiny-ImageNet of one image a class, laid out as its archive is."""
    base = root / "tiny-imagenet" / "tiny-imagenet-200"
    (base / "val" / "images").mkdir(parents=True)
    lines = []
    for place, number in enumerate(WORDS):
        (base / "train" / number / "images").mkdir(parents=True)
        image = Image.new("RGB", (64, 64), (50 * place, 0, 0))
        image.save(base / "train" / number / "images" / f"{number}_0.JPEG")
        image.save(base / "val" / "images" / f"val_{place}.JPEG")
        lines.append(f"val_{place}.JPEG\t{number}\t0\t0\t62\t62\n")
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    if words:
        text = "".join(f"{number}\t{names}\n" for number, names in words.items())
        (base / "words.txt").write_text(text)
    return Data("tiny-imagenet", "tiny-imagenet", root=str(root))


def pairs_of(data, labels, first, second, monkeypatch):
    """Of two sets with these labels and predictions, in which every image fools both."""
    count = len(labels)
    sets = [
        SimpleNamespace(
            indices=torch.arange(count),
            fooled=torch.ones(count, dtype=torch.bool),
            labels=torch.tensor(labels),
            predictions=torch.tensor(predicted),
            images=torch.zeros(count, 3, 64, 64, dtype=torch.uint8),
        )
        for predicted in (first, second)
    ]
    monkeypatch.setattr(study_command, "load_set", lambda path: sets[path])
    both = [
        SimpleNamespace(path=lambda _, n=n: n, sample=SimpleNamespace(data=data)) for n in (0, 1)
    ]
    context = Context(SimpleNamespace(folder=Path()), torch.device("cpu"), None, workers=0)
    return list(study_command._pairs({data.role: study_command._Sets(*both)}, context))


def test_labels_are_words(tmp_path, monkeypatch):
    """Not the numbers that Tiny-ImageNet's folders carry; of a pair that reads alike, none."""
    data = tiny_imagenet(tmp_path)
    pairs = pairs_of(data, [0, 2, 2, 3], [1, 0, 3, 0], [2, 1, 0, 2], monkeypatch)
    assert [(pair.true_class, *pair.predicted) for pair in pairs] == [
        ("goldfish", "European fire salamander", "crane"),
        ("crane", "goldfish", "European fire salamander"),
    ]
    assert [pair.number for pair in pairs] == [0, 1]


@pytest.mark.parametrize("words", [{}, {**WORDS, "n01629819": " "}], ids=["no file", "a gap"])
def test_numbers_are_refused(tmp_path, monkeypatch, words):
    data = tiny_imagenet(tmp_path, words)
    with pytest.raises(UserError, match=r"n\d{8} says nothing to people; put back .*words.txt"):
        pairs_of(data, [0], [1], [2], monkeypatch)


def test_numbers_of_a_folder_are_refused():
    loaded = SimpleNamespace(name="folder", classes=("cat", "n01443537", "dog"))
    there = SimpleNamespace(images=lambda _: SimpleNamespace(data=loaded))
    with pytest.raises(UserError, match="folder: n01443537 says nothing to people; give --data"):
        study_command._names(Data("cifar10", "/some/where"), there)
    loaded.classes = ("cat", "\u202e")
    with pytest.raises(UserError, match="a class without a name says nothing"):
        study_command._names(Data("cifar10", "/some/where"), there)


def test_numbers_are_refused_before_any_work(run, tmp_path, monkeypatch):
    tiny_imagenet(tmp_path / "data", {})
    monkeypatch.setattr(study_command.reproduce, "make_missing", lambda *_: pytest.fail("worked"))
    status, _, err = run("study", "--of", "tiny-imagenet", "--data-root", "data", "--device", "cpu")
    assert status == 2 and re.search(r"error: tiny-imagenet: n\d{8} says nothing", err)


# --- Options.


@pytest.mark.parametrize("option", ["--seeds 3", "--images source", "--stylized folder"])
def test_options_that_would_do_nothing(run, option):
    status, _, err = run("study", *option.split())
    assert status == 2 and f"unknown option '{option.split()[0]}'" in err
    assert option.split()[0] + " " not in study_command.make_study_parser().format_help()


def test_the_first_seed_is_the_studys():
    arguments = study_command.make_study_parser().parse_args(["--first-seed", "7"])
    assert study_command.read_setup(arguments, ["cifar10"]).seeds == (7,)


# --- Scores.


def test_files_are_held_against_the_page(run, tmp_path):
    asked = study(20, 6)
    page = write_page(asked, tmp_path / "index.html")
    (tmp_path / "answers").mkdir()
    files = saved(tmp_path / "answers", result(asked, 1, 6), result(asked, 2, 2))
    assert run("study-score", "answers", "--page", page)[0] == 0
    assert "as their seed draws them from the page" in Path("study-score/score.md").read_text()
    assert run("study-score", "answers")[0] == 0
    assert "were not held against the page" in Path("study-score/score.md").read_text()
    found = json.loads(files[0].read_text())
    files[0].write_text(json.dumps(found | {"person_seed": f"{3:016x}"}))
    assert run("study-score", "answers")[0] == 0
    status, _, err = run("study-score", "answers", "--page", page)
    assert status == 2 and files[0].name in err and "it was edited" in err


def test_a_study_at_the_smoke_budget_decides_nothing(run, tmp_path):
    asked = study(20, 12, settings={"budget": "smoke", "data": {"cifar10": "sample"}})
    saved(tmp_path, *(result(asked, n, 10) for n in range(8)))
    status, out, _ = run("study-score", tmp_path)
    assert status == 0 and "not decidable; the budget smoke trains" in " ".join(out.split())
    page = Path("study-score/score.md").read_text()
    assert "Budget: smoke. Data: sample as cifar10." in page and "**not decidable**" in page


def test_the_minimum(run, tmp_path):
    asked = study(70, 50)
    files = saved(tmp_path, *(result(asked, n, 3, answered=4) for n in range(2)))
    status, _, err = run("study-score", *files)
    assert status == 2 and "gave 10 answers" in err and "--minimum" in err
    status, out, _ = run("study-score", *files, "--minimum", 4)
    assert status == 0 and "people who chose a more often: 2 of 2" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--minimum", "0"), "--minimum is 0; expected 1 or more"),
        (("--minimum", "-3"), "--minimum is -3"),
        (("--minimum", "few"), "--minimum"),
        (("--page", "nowhere.html"), r"nowhere\.html: cannot be read"),
        (("--page", "."), "cannot be read"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, arguments, said):
    asked = study()
    status, _, err = run("study-score", *saved(tmp_path, result(asked, 1, 3)), *arguments)
    assert status == 2 and re.search(said, err) and err.count("\n") == 1
    assert not Path("study-score").exists()
