"""The user study without a browser: what is asked, of whom, and what is read."""

import copy
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scotoma.bench.paper.study import (
    draw,
    limits,
    page_data,
)
from scotoma.bench.paper.study.draw import assignment
from scotoma.bench.paper.study.page import page, write_page
from scotoma.bench.paper.study.page_data import PageData, read_page
from scotoma.bench.paper.study.result import HEAD
from scotoma.bench.paper.study.score import read_results
from scotoma.defective.errors import UserError
from study_pairs import GROUPS, pair, result, saved, study

HOSTILE = "</td><script>alert(1)</script> **b** | $x$ [red]\x1b[2J"
SEEDS = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


# --- What is asked.


@pytest.mark.parametrize(
    "values, words",
    [
        ({"number": -1}, "number is -1"),
        ({"number": True}, "number is True"),
        ({"number": 2**31}, "number is 2147483648"),
        ({"dataset": ""}, "dataset is ''"),
        ({"true_class": 3}, "true_class is 3"),
        ({"predicted": ("cat",)}, "predicted: expected two"),
        ({"predicted": ("cat", "d" * 301)}, "predicted.1. is"),
        ({"predicted": ("cat", "\u202e")}, "what can be seen of predicted.1. is ''"),
        ({"predicted": ("cat", "bird")}, "for the true class, 'bird'"),
        ({"images": (np.zeros((8, 8, 3), np.uint8),)}, "images: expected two"),
        ({"images": (np.zeros((8, 8, 3)),) * 2}, "an image of float64"),
        ({"images": ([[0]], [[0]])}, "an image of list"),
        ({"images": (np.zeros((8, 8), np.uint8),) * 2}, r"shape \[8, 8\]"),
        ({"images": (np.zeros((8, 8, 4), np.uint8),) * 2}, r"shape \[8, 8, 4\]"),
        ({"images": (np.zeros((0, 8, 3), np.uint8),) * 2}, r"shape \[0, 8, 3\]"),
        ({"images": (np.zeros((8, 513, 3), np.uint8),) * 2}, r"shape \[8, 513, 3\]"),
        (
            {"images": (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))},
            "both must have one shape",
        ),
    ],
)
def test_a_bad_pair(values, words):
    with pytest.raises(UserError, match=words):
        pair(**values)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"title": " "}, "title is"),
        ({"groups": {"a": "x"}}, "groups is"),
        ({"groups": {"a": "x", "b": ""}}, "groups.'b'. is"),
        ({"settings": {"x": math.nan}}, "settings is"),
        ({"settings": {"x": 2**53}}, "settings is"),
        ({"settings": {"x": object()}}, "settings is"),
        ({"settings": {"x": "y" * limits.LONGEST_SETTINGS}}, "settings is"),
        ({"settings": [1]}, "settings is"),
        ({"seed": 2**53}, "seed is"),
        ({"seed": 1.0}, "seed is"),
        ({"per_person": 0}, "per_person is 0"),
        ({"per_person": 13}, "12 pairs for 13 a person"),
        (
            {"pairs": [pair(4), pair(5), pair(4)], "per_person": 2},
            "several pairs have the number 4",
        ),
    ],
)
def test_a_bad_study(values, words):
    with pytest.raises(UserError, match=words):
        study(**values)


def test_the_digest_changes_with_whatever_people_see_or_results_say():
    first = study()
    darker = [pair(3 * n + 1) for n in range(12)]
    darker[11].images[1][7, 7, 2] ^= 1
    swapped = [pair(3 * n + 1) for n in range(12)]
    swapped[0] = pair(1, images=swapped[0].images[::-1])
    flat = [pair(3 * n + 1) for n in range(12)]
    flat[0] = pair(1, images=tuple(image.reshape(4, 16, 3) for image in flat[0].images))
    same = {"images": first.pairs[0].images, "predicted": first.pairs[0].predicted}
    renumbered = pair(2, **same)
    others = [
        study(title="Other"),
        study(seed=8),
        study(settings={}),
        study(groups={"a": "x", "b": "y"}),
        study(per_person=5),
        study(13),
        study(pairs=first.pairs[::-1]),
        *(study(pairs=pairs) for pairs in (darker, swapped, flat)),
        *(
            study(pairs=[pair(1, **values), *first.pairs[1:]])
            for values in (
                {"predicted": ("ship", "cat")},
                {"true_class": "deer"},
                {"dataset": "other"},
            )
        ),
        study(pairs=[renumbered, *first.pairs[1:]]),
    ]
    digests = [first.digest, *(other.digest for other in others)]
    assert len(set(digests)) == len(digests) and study().digest == first.digest
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_settings_are_what_a_file_gives_back():
    asked = study(settings={"sizes": (1, 2), "nested": {"x": None}})
    assert asked.settings == {"sizes": [1, 2], "nested": {"x": None}}


# --- Who gets which pairs, on which sides.


@given(SEEDS, st.integers(1, 80), st.data())
def test_pairs_are_different_and_sides_balanced(seed, count, data):
    numbers = list(range(10, 10 + data.draw(st.integers(count, 120))))
    drawn = assignment(numbers, count, seed)
    assert drawn == assignment(numbers, count, seed)
    chosen = [number for number, _ in drawn]
    left = sum(side == "left" for _, side in drawn)
    assert len(drawn) == count == len(set(chosen)) and set(chosen) <= set(numbers)
    assert {left, count - left} == {count // 2, count - count // 2}


def test_every_pair_place_and_side_is_as_likely():
    """Over 3,000 people: within five standard deviations of what chance gives."""
    numbers, people_, count = list(range(20)), 3000, 5
    at_first, chosen, left = np.zeros(20), np.zeros(20), np.zeros(count)
    for person in range(people_):
        drawn = assignment(numbers, count, f"{person * 0x9E3779B97F4A7C15 % 2**64:016x}")
        at_first[drawn[0][0]] += 1
        for place, (number, side) in enumerate(drawn):
            chosen[number] += 1
            left[place] += side == "left"
    for found, share in ((at_first, 1 / 20), (chosen, 5 / 20), (left, 1 / 2)):
        spread = math.sqrt(people_ * share * (1 - share))
        assert np.all(np.abs(found - people_ * share) < 5 * spread)
        assert np.std(found) > 0.2 * spread


def test_numbers_that_would_favour_some_are_drawn_again():
    """2^32 is no multiple of 3: its last number would make 0 likelier."""
    below = draw._below(iter([2**32 - 1, 5, 2**32 - 2]).__next__)
    assert (below(3), below(3)) == (2, 2)


# --- The page.


class Places(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.policy, self.data = [], "", {}
        self.within = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.within = dict(attrs).get("id", tag)
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        self.data.setdefault(self.within, data)


def test_the_page_is_the_same_each_time_and_loads_nothing():
    text = page(study())
    assert text == page(study()) != page(study(seed=8)) and "{{" not in text
    found = Places(text)
    assert found.policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in found.policy and "http" not in found.policy.replace("https", "http")
    names = {name for _, attrs in found.tags for name in attrs}
    assert not names & {"src", "href", "action", "style", "onclick", "onerror"}
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in found.tags}
    assert "http://" not in text and "https://" not in text


def test_names_in_the_page_are_data():
    name = "</script><!--\u2028&{{title}}"
    asked = study(pairs=[pair(n, predicted=(name, name)) for n in range(6)], title=name)
    found = Places(page(asked))
    line = next(line for line in page(asked).split("\n") if 'id="study"' in line)
    assert not set("<>&\u2028") & set(line.split('id="study">')[1].removesuffix("</script>"))
    data = json.loads(found.data["study"])
    assert data["title"] == name and data["digest"] == asked.digest
    assert data["pairs"][0]["labels"] == ["</script><!-- &{{title}}"] * 2
    assert [tag for tag, _ in found.tags].count("script") == 2


def test_writing_the_page(tmp_path):
    path = write_page(study(), tmp_path / "new" / "page.html")
    assert path.read_text() == page(study()) and len(list(path.parent.iterdir())) == 1
    (tmp_path / "folder.html").mkdir()
    for bad in (tmp_path / "page.txt", tmp_path / "folder.html"):
        with pytest.raises(UserError, match="no name for a page"):
            write_page(study(), bad)
    with pytest.raises(UserError, match="cannot be written"):
        write_page(study(), path / "below.html")


# --- Reading results.


def test_results_come_back(tmp_path):
    asked = study(30, 12)
    paths = saved(tmp_path, result(asked, 9, 8, person="Zoë"), result(asked, 2, 5, answered=11))
    paths[0].write_bytes(b"\xef\xbb\xbf" + paths[0].read_bytes())
    for given_ in (paths, [tmp_path], [tmp_path, *paths], map(str, paths)):
        second, first = read_results(given_, asked)
        assert (first.person, first.complete, second.complete) == ("Zoë", True, False)
        assert (first.person_seed, second.person_seed) == (f"{9:016x}", f"{2:016x}")
        assert first.path == paths[0] and first.study == asked.digest
        assert first.head["settings"] == asked.settings and first.head["groups"] == GROUPS
        assert [a.chosen for a in first.answers] == ["a"] * 8 + ["b"] * 4
        assert [(a.pair, a.a_side) for a in first.answers] == assignment(
            asked.numbers, 12, f"{9:016x}"
        )
        assert (len(second.answers), second.finished, second.notes) == (11, None, ())


def changed(path, value):
    """A valid result, with the value at a path such as ("answers", 0, "ms") another."""

    def change(found):
        *above, last = path
        for step in above:
            found = found[step]
        found[last] = value

    return change


BAD = [
    (changed(["format"], 2), "format is 2; this version reads 1"),
    (changed(["format"], True), "format is True"),
    (changed(["study"], "0" * 63), "study is"),
    (changed(["study"], "A" * 64), "study is"),
    (changed(["study"], 5), "study is 5"),
    (changed(["title"], None), "title is None"),
    (changed(["groups"], {"a": "x", "b": "y", "c": "z"}), "groups is"),
    (changed(["groups", "a"], ["x"]), "groups.'a'. is"),
    (changed(["settings"], None), "settings is None"),
    (changed(["seed"], -1), "seed is -1"),
    (changed(["per_person"], 1001), "per_person is 1001"),
    (changed(["person"], "x" * 41), "person is"),
    (changed(["person_seed"], "0" * 15 + "G"), "person_seed is"),
    (changed(["person_seed"], "0" * 15 + "\u0663"), "person_seed is"),
    (changed(["started"], "yesterday"), "started is 'yesterday'"),
    (changed(["started"], "2026-02-30T03:04:05.678Z"), "started is"),
    (changed(["finished"], None), "finished is None"),
    (changed(["answers"], {}), "answers is no list"),
    (changed(["answers", 0], []), "answers.0. is no object"),
    (changed(["answers", 1, "ms"], -1), "answers.1..ms is -1"),
    (changed(["answers", 1, "ms"], 1.5), "answers.1..ms is 1.5"),
    (changed(["answers", 1, "pair"], "1"), "answers.1..pair is '1'"),
    (changed(["answers", 1, "side"], "top"), "answers.1..side is 'top'; expected left or right"),
    (changed(["answers", 1, "a_side"], []), "answers.1..a_side is"),
    (changed(["answers", 1, "chosen"], "c"), "answers.1..chosen is 'c'; expected a or b"),
    (changed(["answers", 0, "chosen"], "b"), "answers.0. chose b on the"),
    (changed(["answers", 5, "chosen"], "a"), "answers.5. chose a on the"),
    (changed(["answers", 0, "more"], 1), "answers.0. has 'more'"),
    (changed(["more"], 1), "the file has 'more'"),
    (lambda found: found.pop("seed"), "the file lacks 'seed'"),
    (lambda found: found["answers"][2].pop("ms"), "answers.2. lacks 'ms'"),
    (lambda found: found["answers"].append(found["answers"][0]), "answers is no list of 6"),
    (lambda found: found["answers"].pop(), "finished, with 5 of 6 answers"),
    (lambda found: found["answers"].__setitem__(1, found["answers"][0]), "two of one pair"),
]


@pytest.mark.parametrize("change, words", BAD, ids=[words for _, words in BAD])
def test_a_result_that_is_none(tmp_path, change, words):
    found = copy.deepcopy(result(study(), 3, 4))
    change(found)
    [path] = saved(tmp_path, found)
    with pytest.raises(UserError, match=words) as caught:
        read_results([path])
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 400 + len(str(path))


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "no JSON, or damaged"),
        (b"\xff\xfe{", "no text, or damaged"),
        (b"[]", "no object"),
        (b'{"format": NaN}', "NaN is no JSON"),
        (b'{"format": 1, "format": 1}', "a name stands twice"),
        (b"[" * 100_000, "no JSON, or damaged"),
        (b" " * 2**20 + b"{}", "larger than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_result(tmp_path, data, words):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_results([path])


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
        assert len(found.answers) == 6


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no results; give"):
        read_results([])
    with pytest.raises(UserError, match="holds no results"):
        read_results([tmp_path])
    with pytest.raises(UserError, match=r"x\.json: cannot be read \(No such file"):
        read_results([tmp_path / "x.json"])


def test_results_that_do_not_belong_together(tmp_path):
    one, other = study(), study(seed=8)
    paths = saved(tmp_path, result(one, 1, 3), result(other, 2, 3))
    with pytest.raises(UserError, match="different studies") as caught:
        read_results(paths)
    assert one.digest in str(caught.value) and other.digest in str(caught.value)
    with pytest.raises(UserError, match="not of this one"):
        read_results(paths[:1], other)
    paths = saved(tmp_path, result(one, 1, 3), result(one, 2, 3, title="Other"))
    with pytest.raises(UserError, match="differ in title: one was edited"):
        read_results(paths)


def test_answers_are_held_against_the_seed(tmp_path):
    asked = study()
    assert read_results(saved(tmp_path, result(asked, 1, 3)), asked)
    wrong_seed = result(asked, 1, 3, person_seed=f"{2:016x}")
    side = copy.deepcopy(result(asked, 1, 6))
    opposite = {"left": "right", "right": "left"}
    one = side["answers"][0]["a_side"]
    other = next(n for n, answer in enumerate(side["answers"]) if answer["a_side"] != one)
    for place in (0, other):
        for key in ("a_side", "side"):
            side["answers"][place][key] = opposite[side["answers"][place][key]]
    head = result(asked, 1, 3, groups={"a": GROUPS["b"], "b": GROUPS["a"]})
    order = copy.deepcopy(result(asked, 1, 6))
    order["answers"].reverse()
    for edited in (wrong_seed, side, head, order):
        [path] = saved(tmp_path, edited)
        assert [found.held for found in read_results([path])] == [False]
        with pytest.raises(UserError, match="it was edited"):
            read_results([path], asked)


def data_of(asked):
    """What a study's page has to say."""
    return PageData(asked.digest, **{k: getattr(asked, k) for k in HEAD}, numbers=asked.numbers)


def test_a_page_says_what_its_study_asks(tmp_path):
    """Results are held against either alike."""
    asked = study(title=HOSTILE, settings={"sizes": (1, 2.5), "</script>": None})
    path = write_page(asked, tmp_path / "page.html")
    assert read_page(path) == data_of(asked) == read_page(str(path))
    files = saved(tmp_path, result(asked, 1, 3), result(asked, 2, 3))
    assert read_results(files, read_page(path)) == read_results(files, asked)
    assert all(found.held for found in read_results(files, asked))
    other = read_page(write_page(study(seed=8), tmp_path / "other.html"))
    with pytest.raises(UserError, match="not of this one"):
        read_results(files, other)


def test_a_result_that_asks_of_no_page(tmp_path):
    """The pairs and sides of made-up files fit no page, whatever their seeds."""
    asked = study(40, 12)
    page_ = read_page(write_page(asked, tmp_path / "page.html"))
    made_up = result(asked, 1, 12)
    for place, answer in enumerate(made_up["answers"]):
        side = ("left", "right")[place % 2]
        answer |= {"pair": 1000 + place, "a_side": side, "side": side}
    [path] = saved(tmp_path, made_up)
    assert read_results([path])
    with pytest.raises(UserError, match="it was edited"):
        read_results([path], page_)


PAGE_CHANGES = [
    (changed(["format"], True), "format is True"),
    (changed(["digest"], "0"), "digest is '0'; expected 64"),
    (changed(["digest"], ["0"]), "digest is"),
    (changed(["title"], 3), "title is 3"),
    (changed(["groups"], []), "groups is"),
    (changed(["settings"], None), "settings is None"),
    (changed(["seed"], -1), "seed is -1"),
    (changed(["perPerson"], 1001), "per_person is 1001"),
    (changed(["perPerson"], 13), "pairs that are too few"),
    (changed(["pairs"], {}), "pairs is no list"),
    (changed(["pairs", 3], 7), "pairs is no list"),
    (changed(["pairs", 3, "number"], 1), "one that is there twice"),
    (changed(["pairs", 3, "number"], "1"), "a pair's number is '1'"),
    (lambda found: found["pairs"][3].pop("number"), "a pair's number is None"),
    (lambda found: found.pop("pairs"), "its study lacks 'pairs'"),
]


@pytest.mark.parametrize("change, words", PAGE_CHANGES, ids=[words for _, words in PAGE_CHANGES])
def test_a_page_that_is_damaged(tmp_path, change, words):
    text = page(study())
    data = Places(text).data["study"]
    found = json.loads(data)
    change(found)
    path = tmp_path / "page.html"
    path.write_text(text.replace(data, json.dumps(found)))
    with pytest.raises(UserError, match=words) as caught:
        read_page(path)
    assert str(caught.value).startswith(f"{path}: ") and "expected the page as" in str(caught.value)


@given(st.data())
def test_no_damage_of_a_page_ends_in_anything_but_a_user_error(tmp_path_factory, data):
    text = bytearray(page(study(2, 2)).encode())
    begin = text.index(b'id="study"') - 40
    place = data.draw(st.integers(begin, begin + 800))
    if data.draw(st.booleans()):
        text[place] = data.draw(st.integers(0, 255))
    else:
        del text[place : data.draw(st.sampled_from([place + 1, place + 30, len(text)]))]
    path = tmp_path_factory.getbasetemp() / "damaged.html"
    path.write_bytes(text)
    try:
        found = read_page(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert len(found.numbers) >= found.per_person


def test_a_file_that_is_no_page(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    with pytest.raises(UserError, match=r"page\.html: cannot be read \(No such file"):
        read_page(path)
    path.write_text("<html>")
    with pytest.raises(UserError, match="no page of a study"):
        read_page(path)
    path.write_text('<script type="application/json" id="study">[]</script>')
    with pytest.raises(UserError, match="its study is no object"):
        read_page(path)
    monkeypatch.setattr(page_data, "LARGEST", 5)
    with pytest.raises(UserError, match="larger than 5 bytes"):
        read_page(path)


@given(st.lists(st.sampled_from(draw.SIDES), min_size=1, max_size=9), st.integers(0, 3))
def test_sides_that_no_seed_draws(tmp_path_factory, sides, left):
    """Without the study, too: a group has at most half of each side, but for an odd one."""
    asked = study(12, len(sides) + left)
    found = result(asked, 1, 0, answered=len(sides))
    for answer, side in zip(found["answers"], sides, strict=True):
        answer |= {"a_side": side, "side": {"left": "right", "right": "left"}[side]}
    [path] = saved(tmp_path_factory.mktemp("sides"), found)
    if max(map(sides.count, draw.SIDES)) <= math.ceil(asked.per_person / 2):
        assert read_results([path])
    else:
        with pytest.raises(UserError, match=r"a was on the .* at most, so that .* was edited"):
            read_results([path])


@given(SEEDS, st.integers(1, 40), st.data())
def test_sides_that_a_seed_draws(tmp_path_factory, seed, count, data):
    """Of whoever stops wherever, are never refused."""
    asked = study(per_person=count, pairs=[pair(n, side=1) for n in range(40)])
    answered = data.draw(st.integers(0, count))
    found = result(asked, int(seed, 16), answered // 2, answered=answered)
    [path] = saved(tmp_path_factory.mktemp("drawn"), found)
    assert read_results([path]) and read_results([path], asked)


def test_a_person_counts_once(tmp_path):
    """What was saved again does not count; what contradicts is refused."""
    asked = study()
    whole, half = result(asked, 1, 3), result(asked, 1, 3, answered=2)
    [found] = read_results(saved(tmp_path, half, whole, whole))
    assert len(found.answers) == 6 and len(found.notes) == 2
    assert found.notes[0] == (
        "study-01.json was saved again as study-02.json, which does not count"
    )
    paths = saved(tmp_path, whole, result(asked, 1, 4))
    with pytest.raises(UserError, match=r"of one person .* with different answers"):
        read_results(paths[:2])
