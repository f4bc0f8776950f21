"""The user study: pairs, the page without a browser, answers, scores, and the two commands."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.estimates import Estimate
from scotoma.bench.paper.judge import NOT_SUPPORTED, SUPPORTED
from scotoma.bench.paper.study import study as module
from scotoma.bench.paper.study.score import (
    MINIMUM,
    NOT_DECIDABLE,
    judge,
    mean_interval,
    page_of,
    read_page,
    read_results,
    score,
    show,
    sign_test,
    why_apart,
)
from scotoma.bench.paper.study.study import page, write_page
from scotoma.defective.errors import UserError
from scotoma.train.cli import main
from study_pairs import GROUPS, changed, pair, result, saved, study

HOSTILE = "</td><script>alert(1)</script> **b** | $x$ [red]\x1b[2J"
EMPTY = np.zeros((8, 8, 3), np.uint8)


# --- What is asked.


@pytest.mark.parametrize(
    ("make", "values", "words"),
    [
        (pair, {"predicted": ("cat",)}, "expected one, taken for two"),
        (pair, {"predicted": ("cat", "\u202e")}, "each with a name that can be seen"),
        (pair, {"predicted": ("cat", 3)}, "each with a name that can be seen"),
        (pair, {"predicted": ("cat", "bird")}, "for the true class, 'bird'"),
        (pair, {"images": ()}, "images are ; expected two of one shape"),
        (pair, {"images": (EMPTY,)}, r"images are uint8 \[8, 8, 3\]; expected two"),
        (pair, {"images": (EMPTY, EMPTY[:7])}, r"uint8 \[8, 8, 3\], uint8 \[7, 8, 3\]"),
        (pair, {"images": (EMPTY.astype(float),) * 2}, "images are float64"),
        (pair, {"images": ([[0]], [[0]])}, "images are list"),
        (pair, {"images": (EMPTY[..., :2],) * 2}, r"uint8 \[8, 8, 2\]"),
        (pair, {"images": (EMPTY[:0],) * 2}, r"uint8 \[0, 8, 3\]"),
        (study, {"groups": {"a": "x"}}, "groups is"),
        (study, {"settings": {"x": math.nan}}, "settings are no"),
        (study, {"settings": {"x": object()}}, "settings are no"),
        (study, {"per_person": 0}, "12 pairs for 0 a person"),
        (study, {"per_person": 13}, "12 pairs for 13 a person"),
        (study, {"pairs": [pair(n) for n in (4, 5, 4)]}, "several pairs have the number 4"),
    ],
)
def test_what_cannot_be_asked(make, values, words):
    with pytest.raises(UserError, match=words):
        make(**values)


def test_the_digest_changes_with_whatever_people_see_or_results_say():
    first = study(settings={"sizes": (1, 2), "nested": {"x": None}})
    assert first.settings == {"sizes": [1, 2], "nested": {"x": None}}  # as a file gives them back
    first = study()
    darker = [pair(3 * n + 1) for n in range(12)]
    darker[11].images[1][7, 7, 2] ^= 1
    swapped = [pair(1, images=first.pairs[0].images[::-1]), *first.pairs[1:]]
    flat = pair(1, images=tuple(image.reshape(4, 16, 3) for image in first.pairs[0].images))
    named = pair(1, predicted=("ship", "cat"))
    others = [
        study(title="Other"),
        study(seed=8),
        study(settings={}),
        study(groups={"a": "x", "b": "y"}),
        study(per_person=5),
        study(13),
        *(study(pairs=pairs) for pairs in (first.pairs[::-1], darker, swapped)),
        *(study(pairs=[one, *first.pairs[1:]]) for one in (flat, named)),
    ]
    digests = [first.digest, *(other.digest for other in others)]
    assert len(set(digests)) == len(digests) and study().digest == first.digest
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


# --- The page.


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_nothing_and_names_in_it_are_data():
    name = "</script><!--\u2028&{{title}}"
    asked = study(pairs=[pair(n, predicted=(name, name)) for n in range(6)], title=name)
    text = page(asked)
    assert text == page(asked) and "http://" not in text and "https://" not in text
    tags = Tags(text).found
    (policy,) = (attrs["content"] for _, attrs in tags if "Policy" in attrs.get("http-equiv", ""))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    names = {name for _, attrs in tags for name in attrs}
    assert not names & {"src", "href", "action", "style", "onclick", "onerror"}
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in tags}
    assert [tag for tag, _ in tags].count("script") == 2
    (data,) = re.findall(r'id="study">(.*)</script>\n', text)
    assert not set("<>&\u2028") & set(data)
    data = json.loads(data)
    assert data["head"]["title"] == name and data["digest"] == asked.digest
    assert data["pairs"][0]["labels"] == ["</script><!-- &{{title}}"] * 2


def test_writing_and_reading_the_page(tmp_path):
    path = write_page(study(title=HOSTILE), tmp_path / "new" / "page.html")
    assert path.read_text() == page(study(title=HOSTILE)) and len(list(path.parent.iterdir())) == 1
    assert read_page(path) == study(title=HOSTILE).digest
    (tmp_path / "folder.html").mkdir()
    for bad in (tmp_path / "page.txt", tmp_path / "folder.html"):
        with pytest.raises(UserError, match="no name for a page"):
            write_page(study(), bad)
    with pytest.raises(UserError, match="cannot be written"):
        write_page(study(), path / "below.html")
    begin = '<script type="application/json" id="study">'
    for text in ("<html>", f"{begin}[]</script>", f'{begin}{{"digest": 1}}</script>', f"{begin}{{"):
        path.write_text(text)
        with pytest.raises(UserError, match="no page of a study; expected the page as"):
            read_page(path)


def test_contrast():
    """WCAG 2.2, AA: 4.5 for words, 3 for the edges of what can be pressed; in both schemes."""
    style = Path(module.__file__).with_name("page.css").read_text()

    def luminance(colour):
        parts = (int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    schemes = [dict(re.findall(r"--([\w-]+): #(\w{6})", p)) for p in style.split("@media")[:2]]
    assert [scheme["page"] for scheme in schemes] == ["ffffff", "11151a"]
    words = "text/page text/card soft/page soft/card text/press on-main/main"
    for scheme in schemes:
        for pairs, least in ((words, 4.5), ("line/page line/card main/page", 3)):
            for names in pairs.split():
                dark, light = sorted(luminance(scheme[name]) for name in names.split("/"))
                assert (light + 0.05) / (dark + 0.05) >= least, names
    # Nothing is coloured but by these.
    assert len(re.findall("#[0-9a-f]{3,8};", style)) == sum(map(len, schemes))
    assert not re.search(r"\b(rgba?|hsla?)\(", style)


# --- Answers.


def test_results_come_back(tmp_path):
    asked = study(30, 12)
    paths = saved(tmp_path, result(asked, 9, 8, person="Zoë"), result(asked, 2, 5, answered=11))
    paths[0].write_bytes(b"\xef\xbb\xbf" + paths[0].read_bytes())
    for given_ in (paths, [tmp_path], [tmp_path, *paths], map(str, paths)):
        second, first = read_results(given_, asked)
        assert (first.person, second.person_seed) == ("Zoë", f"{2:016x}")
        assert first.path == paths[0] and first.head["study"] == asked.digest
        assert first.head["settings"] == asked.settings and first.head["groups"] == GROUPS
        assert [a.chosen for a in first.answers] == ["a"] * 8 + ["b"] * 4
        assert len(second.answers) == 11 and second.notes == []


BAD = {
    "format is 2; this version reads 1": changed(["format"], 2),
    "names, title, groups": changed(["study"], 5),
    "names, title, groups or settings": changed(["groups", "a"], ["x"]),
    "or settings are none": changed(["settings"], None),
    "6 answers of 5": changed(["per_person"], 5),
    "6 answers of '6'": changed(["per_person"], "6"),
    "6 answers of 1000": changed(["per_person"], 10**400),
    "an answer is .*1000": changed(["answers", 1, "ms"], 10**400),
    "no result, or damaged": changed(["answers", 0], []),
    "an answer is .*-1": changed(["answers", 1, "ms"], -1),
    "an answer is .*'top'": changed(["answers", 1, "side"], "top"),
    "an answer is .*'c'": changed(["answers", 1, "chosen"], "c"),
    "an answer is .*'chosen': 'b'": changed(["answers", 0, "chosen"], "b"),
    "unexpected keyword argument 'more'": changed(["answers", 0, "more"], 1),
    "lacks 'seed'": lambda found: found.pop("seed"),
    "missing 1 required": lambda found: found["answers"][2].pop("ms"),
    "two answers to one pair": lambda found: found["answers"].__setitem__(1, found["answers"][0]),
}


@pytest.mark.parametrize("words", list(BAD))
def test_a_result_that_is_none(tmp_path, words):
    found = copy.deepcopy(result(study(), 3, 4))
    BAD[words](found)
    [path] = saved(tmp_path, found)
    with pytest.raises(UserError, match=words) as caught:
        read_results([path])
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 400 + len(str(path))


@settings(max_examples=25)
@given(st.data())
def test_no_damage_ends_in_anything_but_a_user_error(tmp_path_factory, data):
    """A byte changed, cut or doubled anywhere; what still is a result counts."""
    text = bytearray(json.dumps(result(study(), 3, 4)).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    how = data.draw(st.sampled_from(["change", "cut", "double"]))
    if how == "change":
        text[place] = data.draw(st.integers(0, 255))
    elif how == "cut":
        del text[place:]
    else:
        text[place:place] = text[place : place + 40]
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(text)
    try:
        [found] = read_results([path])
    except UserError as error:
        assert str(path) in str(error)
    else:
        score([found], 1)


def test_files_that_are_no_results(tmp_path):
    path = tmp_path / "x.json"
    for paths, words in (
        ([], "no results; give"),
        ([tmp_path], "holds no results"),
        ([path], r"x\.json: cannot be read \(No such file"),
    ):
        with pytest.raises(UserError, match=words):
            read_results(paths)
    for data in (b"", b"\xff\xfe{", b"[]", b"[" * 100_000, b" " * 2**20 + b"{}"):
        path.write_bytes(data)
        large = "larger than 1,048,576 bytes" if len(data) > 2**20 else ""
        with pytest.raises(UserError, match=rf"no result, or damaged \({large}"):
            read_results([path])


def test_results_that_do_not_belong_together(tmp_path):
    one, other = study(), study(seed=8)
    paths = saved(tmp_path, result(one, 1, 3), result(other, 2, 3))
    with pytest.raises(UserError, match=f"different studies.*{one.digest}.*{other.digest}"):
        read_results(paths)
    with pytest.raises(UserError, match="not of this one"):
        read_results(paths[:1], other)
    # The same study by its digest, and not by what it says of itself.
    edited = saved(tmp_path, result(one, 1, 3), result(one, 2, 3, title="Other"))
    with pytest.raises(UserError, match="different studies"):
        read_results(edited, one)


def test_a_person_counts_once(tmp_path):
    """What was saved again does not count; what contradicts is refused."""
    asked = study()
    whole, half = result(asked, 1, 3), result(asked, 1, 3, answered=2)
    [found] = read_results(saved(tmp_path, half, whole, whole))
    assert len(found.answers) == 6 and len(found.notes) == 2
    assert found.notes[0] == "study-01.json was saved again as study-02.json, which does not count"
    paths = saved(tmp_path, whole, result(asked, 1, 4))
    with pytest.raises(UserError, match=r"of one person .* with different answers"):
        read_results(paths[:2])


# --- Scores.


def test_statistics_by_hand():
    assert sign_test(13, 0) == pytest.approx(2 / 2**13) == sign_test(0, 13)
    assert sign_test(5, 1) == pytest.approx(2 * 7 / 64)
    assert sign_test(3, 3) == 1.0 == sign_test(0, 0)
    found = mean_interval([1.0, 2.0, 3.0, 6.0])
    half = 3.182446 * math.sqrt((4 + 1 + 0 + 9) / 3 / 4)
    assert (found.value, found.n) == (3.0, 4)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert mean_interval([-2.0]) == Estimate(-2.0, None, None, 1, (-2.0,))


def scored(tmp_path, asked, *results, **options):
    return score(read_results(saved(tmp_path, *results), asked), **options)


def test_the_papers_study(tmp_path):
    """13 people who choose 32 of 50 from the defective source, as many more as the paper says."""
    asked = study(70, 50)
    chosen = [32] * 9 + [30, 34, 31, 33]
    files = [result(asked, n, a) for n, a in enumerate(chosen)]
    found = scored(tmp_path, asked, *files)
    assert found.people[["a", "b", "difference"]].to_numpy().tolist() == [
        [a, 50 - a, 2 * a - 50] for a in chosen
    ]
    assert found.prefer == (13, 0, 0)
    assert found.difference.value == 14 == found.published and found.difference.n == 13
    spread = math.sqrt((16 + 16 + 4 + 4) / 12 / 13) * 2.178813
    assert found.difference.low == pytest.approx(14 - spread, abs=1e-5)
    assert found.share.value == pytest.approx(0.64)
    assert found.share.high == pytest.approx(0.64 + spread / 100, abs=1e-6)
    assert found.verdict == SUPPORTED and found.notes == []
    other = scored(tmp_path, asked, *files[::-1])  # whatever the order of files
    assert other.people.equals(found.people) and other.difference == found.difference


def pooled(scores):
    return re.search(r"share of a in all choices: (.*)\n", page_of(scores, True).markdown())[1]


def test_people_who_stopped_early(tmp_path):
    """Scaled to all pairs, flagged, and left out below the minimum."""
    asked = study(70, 50)
    files = [
        result(asked, 0, 40),
        result(asked, 1, 15, answered=20),
        result(asked, 2, 0, answered=MINIMUM - 1),
        result(asked, 3, 0, answered=0),
        result(asked, 4, 5, answered=MINIMUM),
    ]
    found = scored(tmp_path, asked, *files)
    assert [found.people.difference[n] for n in (0, 1, 4)] == [30, 25, 0]
    assert found.people.counts.tolist() == [True, True, False, False, True]
    assert found.prefer == (2, 0, 1) and pooled(found) == "75.00 % of 80"
    assert found.difference.value == pytest.approx(55 / 3)
    assert found.share.value == pytest.approx((0.8 + 0.75 + 0.5) / 3)
    texts = " | ".join(found.notes)
    assert "study-01.json: 20 of 50 answers; the difference is scaled to 50" in texts
    assert "study-02.json: 9 of 50 answers, fewer than 10; does not count" in texts
    assert pooled(scored(tmp_path, asked, *files, minimum=9)) == "67.42 % of 89"
    with pytest.raises(UserError, match=r"none of 2 people gave 10 answers.*smaller --minimum"):
        scored(tmp_path, asked, files[2], files[3])
    short = study(12, 6)
    found = scored(tmp_path, short, result(short, 1, 6), result(short, 2, 5, answered=5))
    assert "5 of 6 answers, fewer than 6; does not count" in found.notes[0]
    with pytest.raises(UserError, match=r"none of 1 people gave 1 answers; ask more people$"):
        scored(tmp_path, short, result(short, 2, 0, answered=0), minimum=1)


def test_sides_and_times(tmp_path):
    """Who always chooses the left image chooses both groups equally often, and shows as such."""
    asked = study(20, 12)
    found = result(asked, 5, 12)
    for answer in found["answers"]:
        answer["side"] = "left"
        answer["chosen"] = "a" if answer["a_side"] == "left" else "b"
        answer["ms"] = 3000
    scores = scored(tmp_path, asked, found, result(asked, 6, 12))
    first, second = scores.people.itertuples()
    assert (first.left, first.a, first.seconds) == (12, 6, 3)
    assert (second.left, second.a, second.seconds) == (6, 12, 1.0055)
    assert scores.left.value == 0.75 and scores.prefer == (1, 0, 1)


def test_pairs_of_most_agreement(tmp_path):
    asked = study(4, 4)
    files = [result(asked, n, 4 if n else 0) for n in range(4)]
    assert scored(tmp_path, asked, *files).agreement == [(n, 3, 1) for n in (1, 4, 7, 10)]
    assert scored(tmp_path, asked, *files[:2]).agreement == []
    # Who does not count votes on no pair.
    few = scored(tmp_path, asked, *files[:3], result(asked, 9, 1, answered=1))
    assert {a + b for _, a, b in few.agreement} == {3}
    mixed = scored(tmp_path, asked, *[result(asked, n, 2) for n in range(5)]).agreement
    shares = [max(a, b) for _, a, b in mixed]
    assert shares == sorted(shares, reverse=True) and len(set(shares)) > 1
    assert sum(a for _, a, _ in mixed) == 10


def test_names_and_answers_that_stand_twice_are_noted(tmp_path):
    asked = study()
    named = [result(asked, n, 3, person="Ann" if n < 2 else "") for n in range(4)]
    [note] = scored(tmp_path, asked, *named).notes
    assert note.startswith("2 results carry the name 'Ann'")
    first = result(asked, 0, 3)
    copies = [result(asked, n, 3, answers=copy.deepcopy(first["answers"])) for n in (1, 2)]
    for answer in copies[0]["answers"]:
        answer["ms"] += 7
    [note] = scored(tmp_path, asked, first, *copies, result(asked, 3, 3)).notes
    assert note.startswith("3 results have the same answers") and "study-00.json" in note


@pytest.mark.parametrize(
    ("mean", "half", "people", "expected"),
    [
        (14, 3, (13, 0), SUPPORTED),
        (14, 3, (6, 0), SUPPORTED),
        (14, 3, (5, 0), NOT_DECIDABLE),
        (14, None, (1, 0), NOT_DECIDABLE),
        (14, 3, (9, 4), NOT_DECIDABLE),
        (14, 3, (0, 13), NOT_DECIDABLE),
        (-14, 3, (0, 13), NOT_SUPPORTED),
        (-14, 3, (4, 9), NOT_SUPPORTED),
        (-14, 3, (13, 0), NOT_DECIDABLE),
        (1, 5, (7, 6), NOT_SUPPORTED),
        (1, 5, (0, 0, 13), NOT_SUPPORTED),
        (1, 5, (1, 12), NOT_SUPPORTED),
        (1, 5, (12, 1), NOT_DECIDABLE),
        (10, 13, (9, 4), NOT_DECIDABLE),
        (10, 13, (13, 0), NOT_DECIDABLE),
    ],
)
def test_verdicts(mean, half, people, expected):
    """people: who chose more of a, and of b, and of neither."""
    low, high = (None, None) if half is None else (mean - half, mean + half)
    found, reason = judge(Estimate(mean, low, high, sum(people), ()), *people[:2], 14.0)
    assert found == expected and reason


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({}, ""),
        ({"budget": "quick", "data": {"cifar10": "cifar10", "tiny-imagenet": "folder"}}, ""),
        ({"budget": "smoke", "data": {"cifar10": "sample"}}, "the budget smoke trains small"),
        ({"budget": "Quick"}, "the budget Quick is none that"),
        ({"budget": ["smoke"]}, "is none that this version knows"),
        ({"budget": "full", "data": {"cifar10": "cifar100"}}, "cifar100 in place of cifar10"),
        ({"data": {"mnist": "mnist"}}, "mnist in place of mnist"),
        ({"data": {"cifar10": ["cifar10"]}}, "other ones"),
        ({"data": "cifar10"}, "other ones"),
    ],
)
def test_what_the_images_were_made_from_decides(tmp_path, given_, why):
    assert re.search(why, why_apart(given_)) and bool(why) == bool(why_apart(given_))
    asked = study(20, 12, settings=given_)
    scores = scored(tmp_path, asked, *(result(asked, n, 10) for n in range(8)))
    assert scores.verdict == (NOT_DECIDABLE if why else SUPPORTED)


def test_the_report(tmp_path):
    asked = study(70, 50, title=HOSTILE, groups={"a": HOSTILE, "b": HOSTILE})
    files = [result(asked, n, 25 + n, person=HOSTILE[:40]) for n in range(7)]
    files.append(result(asked, 8, 4, answered=4))
    scores = scored(tmp_path, asked, *files)
    made = page_of(scores, compared=True)
    text, web = made.markdown(), made.html()
    assert re.search(
        r"\| 1 \| 25 \| 25 \| 0 \| [\d.]+ % \| 1.0 \|  \|\n\| 2 \| 26 \| 24 \| \+2 ", text
    )
    assert "| 8 | 4 | 0 | - | 50.00 % | 1.0 | 4 of 50 answers, does not count |" in text
    assert "mean difference a - b of 50 pairs: +6.00 " in text
    assert "6 of 7, b 0, both equally 1 (paper: 13 of 13)" in text
    assert "7 people; their mean is 6.0, the paper's 14](images/score/user-study.png)" in text
    assert "<script>" not in text and "<script" not in web and web.count("&lt;script&gt;") >= 3
    assert "Budget: not named. Data: not named." in text and "not compared" not in text
    assert "were not compared with the page" in page_of(scores, compared=False).markdown()
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    show(scores, console)
    shown = console.export_text()
    assert "\x1b" not in shown and "</td><script>" in shown
    assert scores.verdict in shown and shown.count("note: ") == 2
    # Names stay with those who read the files.
    assert "carry the name" in shown and "carry the name" not in text


def test_a_report_of_one(tmp_path):
    asked = study(20, 12)
    scores = scored(tmp_path, asked, result(asked, 1, 6))
    made = page_of(scores, compared=True)
    assert made.pictures["images/score/user-study"].file().startswith(b"\x89PNG")
    assert scores.verdict == NOT_DECIDABLE and "(one person: no interval)" in made.markdown()


# --- The commands.


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """(status, out, err) of a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["paper", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


NAMES = ("goldfish", "European fire salamander", "crane", "crane")


def pairs_of(labels, first, second, monkeypatch, names=NAMES):
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
    monkeypatch.setattr(module, "load_set", lambda path: sets[path])
    monkeypatch.setattr(module, "class_names", lambda *_: names)
    sample = SimpleNamespace(data=Data("tiny-imagenet", "tiny-imagenet"))
    both = tuple(SimpleNamespace(path=lambda _, n=n: n, sample=sample) for n in (0, 1))
    return module.pairs_of({"tiny-imagenet": both}, SimpleNamespace(store=None))


def test_labels_are_words(monkeypatch):
    """Of a pair that reads alike, as the two cranes of WordNet do, there is none."""
    pairs = pairs_of([0, 2, 2, 3], [1, 0, 3, 0], [2, 1, 0, 2], monkeypatch)
    assert [(pair.number, pair.true_class, *pair.predicted) for pair in pairs] == [
        (0, "goldfish", "European fire salamander", "crane"),
        (1, "crane", "goldfish", "European fire salamander"),
    ]


def test_numbers_are_refused(run, monkeypatch):
    """Before any work."""
    numbers = ("goldfish", "n01629819", "crane")
    with pytest.raises(UserError, match=r"n01629819 says nothing to people; put back .*words.txt"):
        pairs_of([0], [1], [2], monkeypatch, numbers)
    monkeypatch.setattr(module.reproduce, "make_missing", lambda *_: pytest.fail("worked"))
    status, _, err = run("study", "--of", "tiny-imagenet", "--data-root", "none", "--device", "cpu")
    assert status == 2 and "error: tiny-imagenet: n01629819 says nothing" in err
    folder = Data("cifar10", "/some/where")
    with pytest.raises(UserError, match="folder: n01629819 says nothing to people; give --data"):
        module.names_of(folder, None)
    monkeypatch.setattr(module, "class_names", lambda *_: ("cat", "\u202e"))
    with pytest.raises(UserError, match="a class without a name says nothing"):
        module.names_of(folder, None)


@pytest.mark.parametrize("option", ["--seeds 3", "--images source", "--stylized folder"])
def test_options_that_would_do_nothing(run, option):
    status, _, err = run("study", *option.split())
    assert status == 2 and f"unknown option '{option.split()[0]}'" in err
    assert option.split()[0] + " " not in module.make_study_parser().format_help()


def test_scores_of_a_folder(run, tmp_path):
    asked = study(20, 12, settings={"budget": "smoke", "data": {"cifar10": "sample"}})
    path = write_page(asked, tmp_path / "index.html")
    (tmp_path / "answers").mkdir()
    saved(tmp_path / "answers", *(result(asked, n, 10) for n in range(8)))
    status, out, _ = run("study-score", "answers", "--page", path, "--picture-format", "svg")
    assert status == 0 and "not decidable; the budget smoke trains" in " ".join(out.split())
    text = Path("study-score/score.md").read_text()
    assert "Budget: smoke. Data: sample as cifar10." in text and "**not decidable**" in text
    files = sorted(str(p.relative_to("study-score")) for p in Path("study-score").rglob("*.*"))
    images = [f"images/score/user-study.{ending}" for ending in ("png", "svg")]
    assert files == [*images, "score.html", "score.md"]
    other = write_page(study(), tmp_path / "other.html")
    status, _, err = run("study-score", "answers", "--page", other)
    assert status == 2 and "not of this one" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--minimum", "0"), "--minimum is 0; expected 1 or more"),
        (("--minimum", "few"), "--minimum"),
        (("--page", "nowhere.html"), r"nowhere\.html: cannot be read"),
        (("--page", "."), "cannot be read"),
        ((), "gave 6 answers; ask more people, or .* --minimum"),
    ],
)
def test_mistakes(run, tmp_path, arguments, said):
    files = saved(tmp_path, result(study(), 1, 3, answered=4))
    status, _, err = run("study-score", *files, *arguments)
    assert status == 2 and re.search(said, " ".join(err.split()))
    assert not Path("study-score").exists()
    status, out, _ = run("study-score", *files, "--minimum", 4)
    assert status == 0 and "people who chose a more often: 1 of 1" in out
