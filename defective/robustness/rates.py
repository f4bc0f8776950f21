"""Rates of an evaluation, with their intervals: pure functions on predictions.

All tensors have one entry an image and the same order: int64 [N] of classes, bool [N] of choices.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

Z = 1.959963984540054
"""The normal distribution's 97.5 % quantile: intervals are of 95 %."""

Rate = dict[str, Any]
"""{"k": count, "n": of how many, "rate": k/n, "low", "high": interval}; None in the last three
where n is 0. Fractions, not percent."""


def proportion(k: float, n: int) -> Rate:
    """k of n with the interval of Wilson (1927), which stays within [0,1] and is never empty.

    The interval is for the choice of images; seeds of training vary more than that. A ``k`` that is
    no whole number is a mean of several counts of the same n images.

    Raises:
        UserError: not 0 <= k <= n.
    """
    if not 0 <= k <= n:
        raise UserError(f"k is {k} and n is {n}; expected 0 <= k <= n")
    if n == 0:
        return {"k": 0, "n": 0, "rate": None, "low": None, "high": None}
    share, square = k / n, Z * Z / n
    centre = (share + square / 2) / (1 + square)
    half = Z * math.sqrt((share * (1 - share) + square / 4) / n) / (1 + square)
    # At the ends the interval touches 0 or 1 exactly; rounding would leave 1e-17 there.
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return {"k": k, "n": n, "rate": share, "low": low, "high": high}


def mean_over_draws(rates: Sequence[Rate]) -> Rate:
    """The rate of n images from their rates under several draws of noise.

    An image counts once, with the mean of its draws, so ``n`` is the number of images and ``k`` the
    mean count. The interval is Wilson's of that mean: numbers in [0,1] of mean m vary by no more
    than m (1 - m), as counts do, so it is never too narrow, whether the draws of an image agree
    (then it is exact) or not (then it is cautious).

    Raises:
        UserError: no rates, or rates of different numbers of images.
    """
    if len({rate["n"] for rate in rates}) != 1:
        raise UserError("draws are of different numbers of images")
    return proportion(sum(rate["k"] for rate in rates) / len(rates), rates[0]["n"])


def check_results(results: Any, where: str = "results") -> None:
    """Whether results of an evaluation can be: what a file says may have been damaged or edited.

    Raises:
        UserError: a rate that is not k of n with its interval, or a number that is negative, not
            finite, or text; it names where.
    """
    if isinstance(results, dict) and "rate" in results:
        expected = None
        with suppress(UserError, TypeError, KeyError):
            n = results["n"]
            expected = proportion(results["k"], n) if type(n) is int else None
        if expected is None or not all(_same(results.get(k), v) for k, v in expected.items()):
            raise UserError(f"{where}: {results} is no rate k/n with its 95 % interval")
    elif isinstance(results, dict):
        for key, value in results.items():
            if key not in _WORDS:
                check_results(value, f"{where}.{key}")
    elif isinstance(results, (list, tuple)):
        for value in results:
            check_results(value, where)
    elif results is not None and not (
        isinstance(results, (int, float)) and math.isfinite(results) and results >= 0
    ):
        raise UserError(f"{where} is {results!r}; expected a finite number, 0 or more")


_WORDS = ("shown", "relation", "warnings", "outcomes")


def _same(found: Any, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return isinstance(found, (int, float)) and math.isclose(found, expected, abs_tol=1e-9)


def share_of(chosen: Tensor, among: Tensor | None = None) -> Rate:
    """How many are ``chosen``; with ``among``, of those. Both bool [N]."""
    _check(torch.bool, chosen=chosen, **({} if among is None else {"among": among}))
    if among is None:
        return proportion(int(chosen.sum()), len(chosen))
    return proportion(int((chosen & among).sum()), int(among.sum()))


Outcomes = dict[str, str]
"""Which images are behind a rate: {"right": bits, "among": bits}, in base64, a bit an image."""


def outcomes_of(chosen: Tensor, among: Tensor | None = None) -> Outcomes:
    """What :func:`share_of` counts, image by image, for comparisons of networks on the same images.

    Args:
        chosen, among: bool [N]. None: all images.
    """
    _check(torch.bool, chosen=chosen, **({} if among is None else {"among": among}))
    if among is None:
        among = torch.ones_like(chosen)
    kept = {"right": chosen & among, "among": among}
    return {
        name: base64.b64encode(np.packbits(each.numpy()).tobytes()).decode()
        for name, each in kept.items()
    }


def read_outcomes(outcomes: Outcomes, count: int) -> tuple[Tensor, Tensor]:
    """(chosen, among): bool [count] each, as :func:`outcomes_of` took them.

    Raises:
        UserError: no outcomes of so many images.
    """
    try:
        found = []
        for name in ("right", "among"):
            packed = np.frombuffer(base64.b64decode(outcomes[name], validate=True), np.uint8)
            if len(packed) != -(-count // 8):
                raise ValueError(f"{len(packed)} bytes")
            found.append(torch.from_numpy(np.unpackbits(packed, count=count).astype(bool)))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"outcomes are not of {count} images ({error}); evaluate again") from None
    return found[0], found[1]


def counted_for_defence(
    *,
    labels: Tensor,
    source_clean_predictions: Tensor,
    source_adversarial_predictions: Tensor,
    target_clean_predictions: Tensor,
) -> Tensor:
    """bool [N]: the images of P1's denominator. See :func:`success_defence_rate`."""
    _check(
        torch.int64,
        labels=labels,
        source_clean_predictions=source_clean_predictions,
        source_adversarial_predictions=source_adversarial_predictions,
        target_clean_predictions=target_clean_predictions,
    )
    fooled = (source_clean_predictions == labels) & (source_adversarial_predictions != labels)
    return fooled & (target_clean_predictions == labels)


def success_defence_rate(
    *,
    labels: Tensor,
    source_clean_predictions: Tensor,
    source_adversarial_predictions: Tensor,
    target_clean_predictions: Tensor,
    target_adversarial_predictions: Tensor,
    only: Tensor | None = None,
) -> Rate:
    """P1, the success defense rate of the paper (section 4; all of its tables of defence but 2, 3
    and 7).

    Over the images that the target classifies right and whose adversarial image fools its source
    (right on the image, wrong on the adversarial one): the share of adversarial images that the
    target still classifies right. Each target has a denominator of its own; give ``only`` to
    compare several on the same images.

    Args:
        source_adversarial_predictions: the source's classes for the images that the target gets.
        only: bool [N], images that count at all; None for all.
    """
    counted = counted_for_defence(
        labels=labels,
        source_clean_predictions=source_clean_predictions,
        source_adversarial_predictions=source_adversarial_predictions,
        target_clean_predictions=target_clean_predictions,
    )
    if only is not None:
        _check(torch.bool, only=only)
        counted = counted & only
    return share_of(_right(labels, target_adversarial_predictions), among=counted)


def defence_rate_over_all(*, labels: Tensor, target_adversarial_predictions: Tensor) -> Rate:
    """P2: the share of all adversarial images that the target classifies right, without a filter.

    Errors on clean images count as failures, and images that do not fool their source as defended
    if the target is right; so the paper's release counts in its comparison with other defences
    (Table 7). Images that are not in the set count as nothing: n is what was there.
    """
    right = _right(labels, target_adversarial_predictions)
    return share_of(right)


def same_wrong_class(
    *,
    labels: Tensor,
    source_clean_predictions: Tensor,
    source_adversarial_predictions: Tensor,
    target_clean_predictions: Tensor,
    target_adversarial_predictions: Tensor,
) -> Rate:
    """The share of P1's images that the target takes for the very class that the source does."""
    counted = counted_for_defence(
        labels=labels,
        source_clean_predictions=source_clean_predictions,
        source_adversarial_predictions=source_adversarial_predictions,
        target_clean_predictions=target_clean_predictions,
    )
    same = target_adversarial_predictions == source_adversarial_predictions
    return share_of(same, among=counted)


def fooled_source(
    *, labels: Tensor, source_clean_predictions: Tensor, source_adversarial_predictions: Tensor
) -> Rate:
    """The share of the images that the source classifies right on which it is then wrong."""
    wrong = ~_right(labels, source_adversarial_predictions)
    return share_of(wrong, among=_right(labels, source_clean_predictions))


def _right(labels: Tensor, predictions: Tensor) -> Tensor:
    _check(torch.int64, labels=labels, predictions=predictions)
    return predictions == labels


def _check(dtype: torch.dtype, **tensors: Tensor) -> None:
    """Wrong shapes would be broadcast to a wrong rate without a word."""
    count = len(next(iter(tensors.values())))
    for name, tensor in tensors.items():
        if tensor.dtype != dtype or tensor.shape != (count,):
            raise UserError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype}; expected {dtype} of shape "
                f"({count},)"
            )
