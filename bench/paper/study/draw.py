"""Which pairs a person gets, in which order and on which sides: a function of the person's seed.

``draw.js`` computes the same in the browser, so that a result can be held against its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

SIDES = ("left", "right")
_WORD = 0xFFFFFFFF
_ROUNDS = 12
"""Numbers thrown away until the seed has spread over the whole state."""


def assignment(numbers: Sequence[int], count: int, seed: str) -> list[tuple[int, str]]:
    """(pair's number, side on which its first image stands), in the order of asking.

    Pairs are drawn without replacement, each order as likely as any other. The first image is on
    the left as often as on the right, but for one if ``count`` is odd: whoever always chooses one
    side chooses both groups equally often.

    Args:
        numbers: of the study's pairs, in its order. count: at most as many. seed: 16 hex digits.
    """
    below = _below(_generator(seed))
    chosen = list(numbers)
    _shuffle(chosen, count, below)
    sides = [SIDES[i % 2] for i in range(count - count % 2)]
    if count % 2:
        sides.append(SIDES[below(2)])
    _shuffle(sides, count, below)
    return list(zip(chosen[:count], sides, strict=True))


def _shuffle(values: list, count: int, below: Callable[[int], int]) -> None:
    """Fisher and Yates, as far as the first ``count`` places."""
    for i in range(count):
        j = i + below(len(values) - i)
        values[i], values[j] = values[j], values[i]


def _below(random: Callable[[], int]) -> Callable[[int], int]:
    """Integers below n, all equally likely: what would favour some is drawn again."""

    def below(n: int) -> int:
        while True:
            value = random()
            if value < 2**32 - 2**32 % n:
                return value % n

    return below


def _generator(seed: str) -> Callable[[], int]:
    """Chris Doty-Humphrey's sfc32: integers of 32 bits."""
    a, b, c, counter = 0, int(seed[:8], 16), int(seed[8:], 16), 1

    def random() -> int:
        nonlocal a, b, c, counter
        found = (a + b + counter) & _WORD
        counter = (counter + 1) & _WORD
        a = b ^ (b >> 9)
        b = (c + (c << 3)) & _WORD
        c = (((c << 21) | (c >> 11)) + found) & _WORD
        return found

    for _ in range(_ROUNDS):
        random()
    return random
