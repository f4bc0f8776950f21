"""Files of results of the user study: which are read, and which are refused."""

import copy
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scotoma.bench.paper.study import draw
from scotoma.bench.paper.study.draw import assignment
from scotoma.bench.paper.study.score import read_results
from scotoma.defective.errors import UserError
from study_pairs import GROUPS, SEEDS, changed, pair, result, saved, study


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
