"""The user study without a browser: what is asked, what is read, what is counted."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scotoma.bench.paper.study import draw, intervals, limits, people, report, verdict
from scotoma.bench.paper.study.draw import assignment
from scotoma.bench.paper.study.page import page, write_page
from scotoma.bench.paper.study.score import MINIMUM, read_results, score
from scotoma.bench.report import html, markdown
from scotoma.bench.report.document import Picture, Table, walk
from scotoma.defective.errors import UserError
from study_pairs import GROUPS, pair, result, saved, study

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
        (b"\xff\xfe{", "no JSON, or damaged"),
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
    for key in ("a_side", "side"):
        side["answers"][2][key] = opposite[side["answers"][2][key]]
    head = result(asked, 1, 3, groups={"a": GROUPS["b"], "b": GROUPS["a"]})
    order = copy.deepcopy(result(asked, 1, 6))
    order["answers"].reverse()
    for edited in (wrong_seed, side, head, order):
        [path] = saved(tmp_path, edited)
        assert read_results([path])
        with pytest.raises(UserError, match="it was edited"):
            read_results([path], asked)


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


# --- Statistics.

# 97.5 % and 95 % quantiles of printed tables.
T_TABLE = [
    (1, 12.706, 6.314), (2, 4.303, 2.920), (3, 3.182, 2.353), (4, 2.776, 2.132),
    (5, 2.571, 2.015), (9, 2.262, 1.833), (10, 2.228, 1.812), (12, 2.179, 1.782),
    (19, 2.093, 1.729), (30, 2.042, 1.697), (60, 2.000, 1.671), (120, 1.980, 1.658),
]  # fmt: skip


@pytest.mark.parametrize("degrees, two_sided, one_sided", T_TABLE)
def test_t_quantiles_of_the_table(degrees, two_sided, one_sided):
    assert intervals.t_quantile(0.975, degrees) == pytest.approx(two_sided, abs=5.1e-4)
    assert intervals.t_quantile(0.95, degrees) == pytest.approx(one_sided, abs=5.1e-4)
    assert intervals.t_quantile(0.5, degrees) == pytest.approx(0, abs=1e-12)


def test_t_quantiles_beside_scipy():
    scipy = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    for degrees in (1, 2, 3, 4, 7, 12, 101, 1000):
        for p in (0.6, 0.9, 0.975, 0.9995):
            expected = scipy.t.ppf(p, degrees)
            assert intervals.t_quantile(p, degrees) == pytest.approx(expected, rel=1e-10)
    for more, less in ((13, 0), (10, 3), (3, 10), (5, 5), (0, 0), (40, 61)):
        expected = scipy.binomtest(more, more + less).pvalue if more + less else 1.0
        assert intervals.sign_test(more, less) == pytest.approx(expected, rel=1e-10)


def test_sign_test_by_hand():
    assert intervals.sign_test(13, 0) == 2 / 2**13 == intervals.sign_test(0, 13)
    assert intervals.sign_test(5, 1) == 2 * 7 / 64
    assert intervals.sign_test(3, 3) == 1.0 == intervals.sign_test(0, 0)


def test_mean_interval_by_hand():
    found = intervals.mean_interval([1.0, 2.0, 3.0, 6.0])
    half = 3.182446 * math.sqrt((4 + 1 + 0 + 9) / 3 / 4)
    assert (found.mean, found.n, found.sign) == (3.0, 4, 0)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert intervals.mean_interval([2.0]) == intervals.Interval(2.0, None, None, 1)
    assert intervals.mean_interval([2.0]).sign == 0
    assert intervals.mean_interval([2.0, 2.0]).sign == 1
    assert intervals.mean_interval([-2.0, -2.0]).sign == -1
    assert intervals.mean_interval([0.0, 0.0]).sign == 0


# --- Counting.


def scored(tmp_path, asked, *results, **options):
    return score(read_results(saved(tmp_path, *results), asked), **options)


def test_the_papers_study(tmp_path):
    """13 people who choose 32 of 50 from the defective source, as many more as the paper says."""
    asked = study(70, 50)
    chosen = [32] * 9 + [30, 34, 31, 33]
    found = scored(tmp_path, asked, *(result(asked, n, a) for n, a in enumerate(chosen)))
    assert [(p.a, p.b, p.difference) for p in found.people] == [
        (a, 50 - a, 2 * a - 50) for a in chosen
    ]
    assert found.prefer == (13, 0, 0) and found.sign_p == 2 / 2**13
    assert found.difference.mean == 14 and found.difference.n == 13
    spread = math.sqrt((16 + 16 + 4 + 4) / 12 / 13) * 2.178813
    assert found.difference.low == pytest.approx(14 - spread, abs=1e-5)
    assert found.share.mean == pytest.approx(0.64) and found.pooled == (13 * 32, 650)
    assert found.share.high == pytest.approx(0.64 + spread / 100, abs=1e-6)
    assert found.verdict == verdict.SUPPORTED and found.notes == ()


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
    assert [p.difference for p in found.people[:2]] == [30, 25] and found.people[4].difference == 0
    assert [p.counts for p in found.people] == [True, True, False, False, True]
    assert found.prefer == (2, 0, 1) and found.pooled == (60, 80)
    assert found.difference.mean == pytest.approx(55 / 3)
    assert found.share.mean == pytest.approx((0.8 + 0.75 + 0.5) / 3)
    texts = " | ".join(found.notes)
    assert "study-01.json: 20 of 50 answers; the difference is scaled to 50" in texts
    assert "study-02.json: 9 of 50 answers, fewer than 10; does not count" in texts
    assert scored(tmp_path, asked, *files, minimum=9).pooled == (60, 89)
    with pytest.raises(UserError, match="none of 2 people gave 10 answers"):
        scored(tmp_path, asked, files[2], files[3])


def test_a_study_shorter_than_the_minimum(tmp_path):
    asked = study(12, 6)
    found = scored(tmp_path, asked, result(asked, 1, 6), result(asked, 2, 5, answered=5))
    assert [p.counts for p in found.people] == [True, False]


def test_sides_and_times(tmp_path):
    """Who always chooses the left image chooses both groups equally often, and shows as such."""
    asked = study(20, 12)
    found = result(asked, 5, 12)
    for answer in found["answers"]:
        answer["side"] = "left"
        answer["chosen"] = "a" if answer["a_side"] == "left" else "b"
        answer["ms"] = 3000
    scores = scored(tmp_path, asked, found, result(asked, 6, 12))
    first, second = scores.people
    assert (first.left, first.a, first.median_ms) == (12, 6, 3000)
    assert (second.left, second.a, second.median_ms) == (6, 12, 1005.5)
    assert scores.left.mean == 0.75 and scores.prefer == (1, 0, 1)


def test_pairs_of_most_agreement(tmp_path):
    asked = study(4, 4)
    files = [result(asked, n, 4 if n else 0) for n in range(4)]
    found = scored(tmp_path, asked, *files).agreement
    assert found == tuple(people.Agreement(n, 3, 1) for n in (1, 4, 7, 10))
    assert [pair.share for pair in found] == [0.75] * 4
    assert scored(tmp_path, asked, *files[:2]).agreement == ()
    # Who does not count votes on no pair.
    few = scored(tmp_path, asked, *files[:3], result(asked, 9, 1, answered=1))
    assert {pair.a + pair.b for pair in few.agreement} == {3}
    mixed = people.agreement_of(
        read_results(saved(tmp_path, *[result(asked, n, 2) for n in range(5)]))
    )
    assert [pair.share for pair in mixed] == sorted((p.share for p in mixed), reverse=True)
    assert sum(pair.a for pair in mixed) == 10 and len({pair.share for pair in mixed}) > 1


def test_a_name_that_stands_twice_is_noted(tmp_path):
    asked = study()
    named = [result(asked, n, 3, person="Ann" if n < 2 else "") for n in range(4)]
    [note] = scored(tmp_path, asked, *named).notes
    assert note.startswith("2 results carry the name 'Ann'")


def interval(mean, half, n=13):
    return intervals.Interval(mean, mean - half, mean + half, n)


@pytest.mark.parametrize(
    "difference, more, less, expected",
    [
        (interval(14, 3), 13, 0, verdict.SUPPORTED),
        (interval(14, 3, n=6), 6, 0, verdict.SUPPORTED),
        (interval(14, 3, n=5), 5, 0, verdict.NOT_DECIDABLE),
        (intervals.mean_interval([14.0]), 1, 0, verdict.NOT_DECIDABLE),
        (interval(14, 3), 9, 4, verdict.NOT_DECIDABLE),
        (interval(14, 3), 0, 13, verdict.NOT_DECIDABLE),
        (interval(-14, 3), 0, 13, verdict.NOT_SUPPORTED),
        (interval(-14, 3), 4, 9, verdict.NOT_SUPPORTED),
        (interval(-14, 3), 13, 0, verdict.NOT_DECIDABLE),
        (interval(1, 5), 7, 6, verdict.NOT_SUPPORTED),
        (interval(1, 5), 0, 0, verdict.NOT_SUPPORTED),
        (interval(1, 5), 1, 12, verdict.NOT_SUPPORTED),
        (interval(1, 5), 12, 1, verdict.NOT_DECIDABLE),
        (interval(10, 13), 9, 4, verdict.NOT_DECIDABLE),
        (interval(10, 13), 13, 0, verdict.NOT_DECIDABLE),
    ],
)
def test_verdicts(difference, more, less, expected):
    found, reason = verdict.judge(difference, more, less, 14.0)
    assert found == expected and reason


def test_the_order_of_files_changes_nothing(tmp_path):
    asked = study(30, 12)
    files = [result(asked, n, 3 + n) for n in range(7)]
    one = scored(tmp_path, asked, *files)
    other = scored(tmp_path, asked, *files[::-1])
    assert one == other
    assert report.document(one).pictures()[0].data == report.document(other).pictures()[0].data


# --- The report.

HOSTILE = "</td><script>alert(1)</script> **b** | $x$ [red]\x1b[2J"


def test_the_report(tmp_path):
    asked = study(70, 50, title=HOSTILE, groups={"a": HOSTILE, "b": HOSTILE})
    files = [result(asked, n, 25 + n, person=HOSTILE[:40]) for n in range(7)]
    files.append(result(asked, 8, 4, answered=4))
    scores = scored(tmp_path, asked, *files)
    made = report.document(scores)
    [table, pairs] = [b for b in walk(made.blocks) if isinstance(b, Table)]
    assert [row[:4] for row in table.rows[:2]] == [["1", "25", "25", "0"], ["2", "26", "24", "+2"]]
    assert list(table.rows[7]) == [
        "8", "4", "0", "-", table.rows[7][4], "1.0", "4 of 50 answers, does not count",
    ]  # fmt: skip
    assert 0 < len(pairs.rows) <= report.MOST_PAIRS
    [drawn] = made.pictures()
    assert isinstance(drawn, Picture) and drawn.data.startswith(b"\x89PNG")
    assert "7 people" in drawn.alt and "mean is 6.0, the paper's 14" in drawn.alt
    text = markdown.render(made, Path("x/page.md"), Path("x/images"))
    assert "<script>" not in text and "mean difference a - b of 50 pairs: +6.00" in text
    assert "6 of 7, b 0, both equally 1 (paper: 13 of 13)" in text
    web = html.render(made, Path("x/page.html"))
    assert web.count("<script") == 0 and web.count("&lt;script&gt;") >= 3
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    report.show(scores, console)
    shown = console.export_text()
    assert "[red]" not in made.title and "\x1b" not in shown and "</td><script>" in shown
    assert scores.verdict in shown and shown.count("note: ") == 2
    # Names stay with those who read the files.
    assert "carry the name" in shown and "carry the name" not in text


def test_figures():
    assert report.signed(-0.001) == "+0.00" and report.signed(-3) == "-3.00"
    assert report.percent(1 / 3) == "33.33 %"
    one = intervals.mean_interval([0.5])
    assert report.interval(one, report.percent) == "50.00 % (one person: no interval)"
    two = intervals.Interval(0.5, 0.4, 0.6, 2)
    assert report.interval(two, report.percent) == "50.00 % [40.00 %, 60.00 %]"


@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_report_of_few_and_of_many(tmp_path, count):
    asked = study(20, 12)
    scores = scored(tmp_path, asked, *(result(asked, n, 6) for n in range(count)))
    made = report.document(scores)
    assert made.pictures()[0].data.startswith(b"\x89PNG")
    expected = verdict.NOT_DECIDABLE if count < 6 else verdict.NOT_SUPPORTED
    assert scores.verdict == expected
