"""Rates against arrays made by hand, and against a loop over images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import (
    counted_for_defence,
    defence_rate_over_all,
    fooled_source,
    outcomes_of,
    proportion,
    read_outcomes,
    same_wrong_class,
    share_of,
    success_defence_rate,
)


def classes(*values):
    return torch.tensor(values, dtype=torch.int64)


# Eight images, all of class 1, each another case:
#              counts, holds | counts, same wrong | counts, other wrong | source not fooled |
#              source wrong before | target wrong before | target wrong before, then right | both
LABELS = classes(1, 1, 1, 1, 1, 1, 1, 1)
SOURCE = {
    "labels": LABELS,
    "source_clean_predictions": classes(1, 1, 1, 1, 3, 1, 1, 3),
    "source_adversarial_predictions": classes(2, 2, 2, 1, 2, 2, 2, 1),
}
TARGET_CLEAN = {"target_clean_predictions": classes(1, 1, 1, 1, 1, 0, 0, 0)}
TARGET_ADVERSARIAL = {"target_adversarial_predictions": classes(1, 2, 3, 0, 1, 2, 1, 1)}
ALL = SOURCE | TARGET_CLEAN | TARGET_ADVERSARIAL


def counts(rate):
    return rate["k"], rate["n"]


def test_hand_made_cases():
    counted = counted_for_defence(**SOURCE, **TARGET_CLEAN)
    assert counted.tolist() == [True, True, True, False, False, False, False, False]
    assert counts(success_defence_rate(**ALL)) == counts(same_wrong_class(**ALL)) == (1, 3)
    assert counts(fooled_source(**SOURCE)) == (5, 6)
    assert counts(defence_rate_over_all(labels=LABELS, **TARGET_ADVERSARIAL)) == (4, 8)
    # ``only`` takes images away.
    assert counts(success_defence_rate(**ALL, only=torch.arange(8) > 0)) == (0, 2)
    assert counts(success_defence_rate(**ALL, only=torch.arange(8) >= 0)) == (1, 3)


def test_images_that_are_absent_count_as_nothing():
    """The paper's release starts from an array of successes; 2 of 4 must not become 6 of 8."""
    half = {name: value[:4] for name, value in TARGET_ADVERSARIAL.items()}
    rate = defence_rate_over_all(labels=LABELS[:4], **half)
    assert counts(rate) == (1, 4) and rate["rate"] == 0.25


@given(
    st.lists(st.tuples(*[st.integers(0, 2)] * 5, st.booleans()), max_size=40),
)
def test_rates_equal_a_loop_over_images(images):
    p1 = p2 = same = fooled = 0
    n1 = n_source = 0
    for label, source, attacked_source, target, attacked_target, chosen in images:
        p2 += attacked_target == label
        if source == label:
            n_source += 1
            if attacked_source != label:
                fooled += 1
                if target == label:
                    same += attacked_target == attacked_source
                    if chosen:
                        n1 += 1
                        p1 += attacked_target == label
    n_all = sum(1 for a, s, x, t, _, _ in images if s == a and x != a and t == a)
    columns = [classes(*column) for column in zip(*[i[:5] for i in images], strict=True)]
    columns = columns or [classes()] * 5
    every = dict(zip(ALL, columns, strict=True))
    only = torch.tensor([i[5] for i in images], dtype=torch.bool)
    assert counts(success_defence_rate(**every, only=only)) == (p1, n1)
    assert counts(same_wrong_class(**every)) == (same, n_all)
    assert counts(fooled_source(**{name: every[name] for name in SOURCE})) == (fooled, n_source)
    over_all = {name: every[name] for name in ("labels", *TARGET_ADVERSARIAL)}
    assert counts(defence_rate_over_all(**over_all)) == (p2, len(images))


# Wilson's interval from published tables and from its definition.
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), Table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_against_newcombe(k, n, low, high):
    rate = proportion(k, n)
    assert rate["low"] == pytest.approx(low, abs=6e-5)
    assert rate["high"] == pytest.approx(high, abs=6e-5)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_interval_solves_its_equation(k, n):
    """Its ends are the shares p for which k/n is 1.96 standard errors of p away."""
    k = min(k, n)
    rate = proportion(k, n)
    assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
    assert rate["low"] < rate["high"]
    for end in (rate["low"], rate["high"]):
        gap = (k / n - end) ** 2
        assert gap == pytest.approx(1.959963984540054**2 * end * (1 - end) / n, abs=1e-12)
    mirrored = proportion(n - k, n)
    assert mirrored["high"] == pytest.approx(1 - rate["low"])


def test_of_no_images_there_is_no_rate():
    empty = {"k": 0, "n": 0, "rate": None, "low": None, "high": None}
    assert proportion(0, 0) == empty
    assert share_of(torch.zeros(0, dtype=torch.bool)) == empty
    nobody = torch.zeros(8, dtype=torch.bool)
    assert success_defence_rate(**ALL, only=nobody) == empty


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 2), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(UserError, match=f"k is {k} and n is {n}"):
        proportion(k, n)


@pytest.mark.parametrize("name", sorted(ALL))
def test_wrong_shapes_and_types_are_refused(name):
    """They would be broadcast, or compared as something else, to a wrong rate without a word."""
    for wrong in (ALL[name][:1], ALL[name].float(), ALL[name][:, None]):
        with pytest.raises(UserError, match=r"expected torch\.int64"):
            success_defence_rate(**ALL | {name: wrong})


def test_choices_are_bool():
    with pytest.raises(UserError, match="only is"):
        success_defence_rate(**ALL, only=torch.ones(8, dtype=torch.int64))
    with pytest.raises(UserError, match="among is"):
        share_of(torch.ones(8, dtype=torch.bool), among=torch.ones(1, dtype=torch.bool))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_outcomes_of_images_are_kept_whole(pairs):
    chosen, among = torch.tensor(pairs).unbind(1)
    right, counted = read_outcomes(outcomes_of(chosen, among), len(pairs))
    assert torch.equal(right, chosen & among) and torch.equal(counted, among)
    assert share_of(right, counted) == share_of(chosen, among)
    assert read_outcomes(outcomes_of(chosen), len(pairs))[1].all()


def test_damaged_outcomes_are_refused():
    kept = outcomes_of(torch.ones(20, dtype=torch.bool))
    for damaged in ({}, kept | {"right": "?"}, kept | {"among": "AA=="}, kept | {"right": None}):
        with pytest.raises(UserError, match="outcomes are not of 20 images"):
            read_outcomes(damaged, 20)
