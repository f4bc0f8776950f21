"""How much of an experiment is done: smoke, small, quick, full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...defective.attacks import make_attack, parse_attack

ROLES = ("cifar10", "mnist", "tiny-imagenet", "imagenet")
"""The paper's data sets."""


@dataclass(frozen=True)
class DataPlan:
    """How the networks of one of the paper's data sets are trained.

    Attributes:
        dataset: a name; "sample-folder" for the sample as image files.
        recipe: of training. settings: of training, over the recipe's.
        image_size, train_limit: as settings of training.
    """

    dataset: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    train_limit: int | None = None


@dataclass(frozen=True)
class Budget:
    """Numbers of everything.

    Attributes:
        name, description: for people. decides: whether claims of the paper can be judged by it.
        data: for those of the paper's data sets that it has. widths: of architectures, where not
        the paper's; settings: of training by architecture, over those of ``data``.
        samples: images that are attacked; cw_samples: by Carlini and Wagner's attack;
        boundary_samples: by the boundary attack; all_samples: where the paper takes the whole test
        set; draws: of noise; study_pairs: of images in the user study.
        shortened: settings of attacks that are cut short, by the attack's name.
        adversarial_steps: most steps of the attack inside adversarial training.
        seeds: how often networks are trained, where nothing else is asked for.
        scale: words before verdicts on claims where ``decides`` is false: they are about networks
        of this budget, and not about the paper's; "" for none.
        one_source: whether all seeds are attacked by the same standard networks, with the same
        images, and not by networks of their own.
        notes: further differences to the paper, for people.
    """

    name: str
    description: str
    decides: bool
    data: Mapping[str, DataPlan]
    samples: int
    cw_samples: int
    boundary_samples: int
    all_samples: int
    draws: int
    study_pairs: int
    widths: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shortened: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    adversarial_steps: int = 7
    seeds: int = 1
    scale: str = ""
    one_source: bool = False
    notes: tuple[str, ...] = ()

    def attack(self, text: str) -> str:
        """An attack's text, cut short where this budget does so."""
        attack = parse_attack(text)
        cuts = self.shortened.get(attack.name)
        if not cuts:
            return str(attack)
        settings = {k: v for k, v in attack.parameters().items() if k != "attack"}
        for key, most in cuts.items():
            settings[key] = min(settings[key], most)
        return str(make_attack(attack.name, settings))


_SMOKE = {"epochs": 3, "batch_size": 64, "lr": 0.05, "save_seconds": 3600.0}

SMOKE = Budget(
    name="smoke",
    description="narrow networks on the sample that ships with scotoma: shows that it works",
    decides=False,
    data={
        "cifar10": DataPlan("sample", "quick", _SMOKE, train_limit=1500),
        "mnist": DataPlan("sample", "quick", _SMOKE, train_limit=1500),
        "tiny-imagenet": DataPlan("sample", "quick", _SMOKE, train_limit=1500),
        "imagenet": DataPlan("sample-folder", "quick", _SMOKE),
    },
    widths={
        "resnet18": 4,
        "resnet50": 4,
        "densenet121": 4,
        "senet18": 16,
        "vgg19": 8,
        "wrn32_4": 2,
    },
    adversarial_steps=2,
    samples=60,
    cw_samples=20,
    boundary_samples=10,
    all_samples=100,
    draws=3,
    study_pairs=12,
    shortened={
        # Fewer constants, or a margin, would fool narrow networks on no image at all.
        "cw-l2": {"search_steps": 5, "steps": 20, "confidence": 0.0},
        "boundary": {"steps": 60},
    },
)

SMALL = Budget(
    name="small",
    description="CIFAR-10 tables by networks of a quarter of the width, trained on 10,000 images, "
    "three seeds: two CPU cores, hours",
    decides=False,
    scale="at small scale",
    data={
        "cifar10": DataPlan(
            "cifar10",
            "fast-cifar10",
            {
                "epochs": 4,
                # Small batches: after so few epochs the number of steps limits the accuracy.
                "batch_size": 16,
                "lr": 0.05,
                "warmup": 0.2,
                # Crops pay off after more epochs than these.
                "augment": "flip",
                # On CPUs with matrix units, which is where it was run, a third faster than float32.
                "precision": "bfloat16",
                "channels_last": True,
                # Of the curves, after each epoch; pages have the accuracy on all test images.
                "test_limit": 1000,
                "save_seconds": 60.0,
            },
            train_limit=10_000,
        ),
    },
    widths={
        "resnet18": 16,
        "resnet50": 16,
        "densenet121": 8,
        "senet18": 16,
        "vgg19": 16,
        "wrn32_4": 4,
    },
    # After 4 epochs they are right on half of the images only: weak sources of attacks.
    settings={"resnet50": {"epochs": 8}, "vgg19": {"epochs": 8}},
    adversarial_steps=2,
    samples=1000,
    cw_samples=100,
    boundary_samples=100,
    all_samples=1000,
    draws=3,
    study_pairs=50,
    shortened={
        "cw-l2": {"search_steps": 5, "steps": 30, "confidence": 5.0},
        "boundary": {"steps": 1000},
    },
    seeds=3,
    # A third of the time, and targets of all seeds meet the same images: a paired comparison.
    one_source=True,
    notes=(
        "standard sources are trained once, and attack the targets of every seed with the same "
        "images.",
        "networks learn for a few epochs from 10,000 of the 50,000 training images, flipped but "
        "not shifted; the paper's learn 350 epochs from all, flipped and shifted.",
        "the attack inside adversarial training has 2 steps of 2, the paper's 7.",
        "DenseNet-121 grows by 8 channels a layer where the paper's grows by 32.",
    ),
)

QUICK = Budget(
    name="quick",
    description="a fast recipe and 1,000 images: one GPU, minutes to an hour; ImageNet takes hours",
    decides=True,
    data={
        "cifar10": DataPlan("cifar10", "fast-cifar10"),
        "mnist": DataPlan("mnist", "paper-mnist", {"epochs": 10, "milestones": [4, 8]}),
        "tiny-imagenet": DataPlan("tiny-imagenet", "fast-cifar10"),
        # A tenth of the images at 128 pixels: the stem and the masks of ImageNet, in hours.
        "imagenet": DataPlan(
            "imagenet",
            "imagenet",
            {"epochs": 20, "milestones": [10, 16], "augment": "imagenet"},
            image_size=128,
            train_limit=128_000,
        ),
    },
    samples=1000,
    cw_samples=200,
    boundary_samples=100,
    all_samples=1000,
    draws=3,
    study_pairs=100,
)

FULL = Budget(
    name="full",
    description="the paper's recipes and numbers of images, as far as it gives them",
    decides=True,
    data={
        "cifar10": DataPlan("cifar10", "paper-cifar10"),
        "mnist": DataPlan("mnist", "paper-mnist"),
        "tiny-imagenet": DataPlan("tiny-imagenet", "paper-cifar10"),
        "imagenet": DataPlan("imagenet", "imagenet", image_size=224),
    },
    samples=5000,
    cw_samples=1000,
    boundary_samples=500,
    all_samples=10_000,
    draws=3,
    study_pairs=200,
)

BUDGETS = {budget.name: budget for budget in (SMOKE, SMALL, QUICK, FULL)}
