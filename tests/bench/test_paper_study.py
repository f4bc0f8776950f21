"""The user study: what is asked, and of whom."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scotoma.bench.paper.study import draw, limits
from scotoma.bench.paper.study.draw import assignment
from scotoma.defective.errors import UserError
from study_pairs import SEEDS, pair, study


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
