"""Studies of made-up images, and results that nobody gave."""

import json
import random

import numpy as np
from scotoma.bench.paper.study.study import Pair, Study

GROUPS = {"a": "adversarial images of resnet18 0.3-Bottom", "b": "those of resnet18"}
NAMES = ("cat", "dog", "frog", "ship", "truck")
TIME = "2026-01-02T03:04:05.678Z"


def pair(number=0, *, seed=0, side=8, channels=3, **values):
    """Two images of noise; the true class is bird, which neither was taken for."""
    noise = np.random.default_rng([seed, abs(number)])
    images = noise.integers(0, 256, (2, side, side, channels), dtype=np.uint8)
    values = {
        "number": number,
        "dataset": "made-up",
        "true_class": "bird",
        "images": (images[0], images[1]),
        "predicted": (NAMES[number % 5], NAMES[(number + 1) % 5]),
    } | values
    return Pair(**values)


def study(count=12, per_person=6, *, pairs=None, **values):
    values = {
        "title": "Images and labels",
        "pairs": [pair(3 * n + 1) for n in range(count)] if pairs is None else pairs,
        "groups": GROUPS,
        "settings": {"attack": "pgd:eps=16/255", "epochs": [1, 2.5]},
        "seed": 7,
        "per_person": per_person,
    } | values
    return Study(**values)


def result(asked, seed, chose_a, *, answered=None, person="", **values):
    """What the page saves of a person who chooses group a first, ``chose_a`` times, then b.

    Args:
        asked: the study. seed: an integer. answered: how many pairs; None for all.
    """
    numbers = [each.number for each in asked.pairs]
    order = random.Random(seed).sample(numbers, asked.per_person)[:answered]
    answers = []
    for place, number in enumerate(order):
        a_side = ("left", "right")[place % 2]
        chosen = "a" if place < chose_a else "b"
        other = {"left": "right", "right": "left"}[a_side]
        side = a_side if chosen == "a" else other
        answer = {"pair": number, "a_side": a_side, "chosen": chosen, "side": side}
        answers.append(answer | {"ms": 1000 + place})
    finished = TIME if len(order) == asked.per_person else None
    return (
        {"study": asked.digest, **asked.head, "person": person, "person_seed": f"{seed:016x}"}
        | {"started": TIME, "finished": finished, "answers": answers}
        | values
    )


def saved(folder, *results):
    """Files of results, in the order given."""
    paths = []
    for number, each in enumerate(results):
        paths.append(folder / f"study-{number:02}.json")
        paths[-1].write_text(json.dumps(each))
    return paths


def changed(path, value):
    """Change the value at a path such as ("answers", 0, "ms") of a file's content."""

    def change(found):
        *above, last = path
        for step in above:
            found = found[step]
        found[last] = value

    return change
