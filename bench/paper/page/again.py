"""The command that makes a page again."""

from __future__ import annotations

import shlex

from ..experiment import Made


def command(made: Made) -> str:
    """With every option that decides numbers; where things lie decides none."""
    definition, setup = made.definition, made.setup
    words = ["scotoma", "paper", definition.name, "--budget", setup.budget.name]
    words += ["--seeds", str(len(setup.seeds)), "--images", setup.images]
    if setup.seeds[0]:
        words += ["--first-seed", str(setup.seeds[0])]
    for role, data in setup.data.items():
        plan = setup.budget.data[role]
        if role in definition.roles and data.made_by is None and data.dataset != plan.dataset:
            words += ["--data", f"{role}={data.dataset}"]
    stylized = [data.stylized for data in setup.data.values() if data.stylized]
    if definition.stylized and stylized:
        words += ["--stylized", stylized[0]]
    if made.experiment.only:
        words += ["--rows", *made.experiment.only]
    return shlex.join(words)
