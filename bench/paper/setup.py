"""The words that tables are written in: networks, samples and attacks of a budget; and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...defective import Defects
from ...defective.errors import UserError, nearest
from ...train.config import TrainConfig
from ...train.datasets import DATASETS
from ...train.settings import read_recipe
from .artefacts import AdversarialImages, Model, Sample, Training
from .budgets import BUDGETS, ROLES, Budget
from .data import Data, SampleFolder, folder_content, named_content

SOURCE_SEED = 1000
"""Sources are trained from other seeds than targets: the paper initialises them differently."""
MEMBER_SEED = 100
"""Between the members of an ensemble; its first member is the single network of the same row."""
ARCHITECTURES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "densenet121": "DenseNet-121",
    "senet18": "SENet-18",
    "vgg19": "VGG-19",
}
"""The five of the paper's tables, in their order, and their names there."""


@dataclass(frozen=True)
class Setup:
    """A budget on data, over seeds.

    Attributes:
        data: {role: data set}, for the roles that are there. seeds: numbers of repetitions; each
            trains all networks anew. images: "common" for attacked images that all five sources
            classify right, "source" for those that the attack's own does.
    """

    budget: Budget
    data: Mapping[str, Data]
    seeds: tuple[int, ...] = (0,)
    images: Literal["common", "source"] = "common"

    def __post_init__(self):
        seeds = self.seeds
        if not seeds or len(set(seeds)) < len(seeds):
            raise UserError(f"seeds is {list(seeds)}; expected at least one, and each once")
        for seed in seeds:
            if not 0 <= seed < MEMBER_SEED:
                raise UserError(
                    f"seeds has {seed}; expected 0 to {MEMBER_SEED - 1}: further seeds are those "
                    "of ensembles' members and of sources"
                )

    def training(
        self,
        arch: str,
        defects: str = "standard",
        *,
        role: str = "cifar10",
        seed: int,
        mask_seed: int | None = None,
        **settings: Any,
    ) -> Training:
        """A network of this budget. ``settings`` are those of training, over the recipe's."""
        plan = self.budget.data[role]
        values = {
            **read_recipe(plan.recipe),
            "defects": "standard",
            "width": self.budget.widths.get(arch),
            **plan.settings,
            **self.budget.settings.get(arch, {}),
            **settings,
            "recipe": plan.recipe,
            "arch": arch,
            "seed": seed,
        }
        values["defects"] = str(Defects.parse(defects))
        if values["defects"] != "standard":  # of no masks the seed decides nothing
            values["mask_seed"] = seed if mask_seed is None else mask_seed
        if "adversarial_steps" in values:
            most = self.budget.adversarial_steps
            values["adversarial_steps"] = min(values["adversarial_steps"], most)
        values.pop("image_size", None)  # the data's
        return Training(TrainConfig(**values), self.data[role])

    def target(
        self,
        name: str,
        arch: str,
        defects: str = "standard",
        *,
        seed: int,
        members: int = 1,
        **more,
    ) -> Model:
        """A network to defend with; or several, with masks and weights of their own, as one (the
        paper's EN). Args as :meth:`training`; ``seed`` is the repetition."""
        seeds = [seed + MEMBER_SEED * number for number in range(members)]
        return Model(name, tuple(self.training(arch, defects, seed=s, **more) for s in seeds))

    def source(
        self,
        *archs: str,
        seed: int,
        name: str = "",
        defects: str = "standard",
        role: str = "cifar10",
        **more,
    ) -> Model:
        """A network that attacks are made with, or an ensemble of several architectures: other
        weights than those of every row; masks, if any, of the row of the same name."""
        if defects != "standard":
            more["mask_seed"] = seed
        elif self.budget.one_source:
            seed = 0
        how = {"role": role, "seed": SOURCE_SEED + seed, **more}
        members = tuple(self.training(arch, defects, **how) for arch in archs)
        return Model(name or ARCHITECTURES[archs[0]], members)

    def sample(self, role: str, models: tuple[Model, ...], count: int | None = None) -> Sample:
        """The images that all ``models`` classify right; of them the budget's number."""
        return Sample(self.data[role], models, self.budget.samples if count is None else count)

    def attacked_sample(self, source: Model, *, seed: int, role: str = "cifar10") -> Sample:
        """The images that sets of ``source`` are made of."""
        judges = [source]
        if self.images == "common":
            judges = [self.source(arch, seed=seed, role=role) for arch in ARCHITECTURES]
        return self.sample(role, tuple(judges))

    def adversarial(self, source: Model, attack: str, sample: Sample) -> AdversarialImages:
        """The set of an attack; of Carlini and Wagner's, the first images only."""
        text = self.budget.attack(attack)
        most = self.budget.cw_samples if text.startswith("cw-l2") else None
        if most is not None and most >= sample.count:
            most = None
        return AdversarialImages(source, text, sample, most)


def fgsm(level: int) -> str:
    """FGSM with epsilon in 1/255."""
    return f"fgsm:eps={level}/255"


def pgd(step: int, steps: int, scale: int) -> str:
    """PGD as the paper writes it: step size and perturbation scale in 1/255."""
    return f"pgd:eps={scale}/255,step={step}/255,steps={steps}"


def mifgsm(step: int, steps: int, scale: int) -> str:
    return f"mifgsm:eps={scale}/255,step={step}/255,steps={steps}"


def cw(confidence: float) -> str:
    """Carlini and Wagner's attack with the paper's 30 constants (section A.10)."""
    return f"cw-l2:confidence={confidence:g},search_steps=30"


# From options to a setup: budget, data and seeds, checked before any work.


_JPEG = "*.[jJ][pP]*[gG]"


def read_setup(arguments: argparse.Namespace, roles: Iterable[str]) -> Setup:
    """The setup that the options ask for, with the data of ``roles``.

    Raises:
        UserError: a number out of range, an unknown role, or a folder that is not there.
    """
    for name, least in (("seeds", 1), ("first_seed", 0), ("batch_size", 1), ("workers", 0)):
        value = getattr(arguments, name, least)
        if value < least:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {value}; expected {least} or more")
    budget = BUDGETS[arguments.budget]
    places = _places(getattr(arguments, "data", []))
    stylized = _place(getattr(arguments, "stylized", ""))
    content = folder_content(Path(stylized), "--stylized") if stylized else ""
    root = _place(getattr(arguments, "data_root", "")) or None

    def data_of(role: str) -> Data:
        plan = budget.data.get(role)
        if plan is None:
            having = [name for name, each in BUDGETS.items() if role in each.data]
            raise UserError(
                f"--budget {budget.name} has no networks for {role}; expected tables and figures "
                f"of {', '.join(budget.data)} (see: scotoma paper list NAME), or --budget "
                f"{', '.join(having)}"
            )
        found = {
            "image_size": plan.image_size,
            "train_limit": plan.train_limit,
            "root": root,
            "download": arguments.download,
        }
        if role == "imagenet":
            found |= {"stylized": stylized, "stylized_content": content}
        dataset = places.get(role, plan.dataset)
        if dataset == "sample-folder":
            return Data(role, "", made_by=SampleFolder(1500, 400), **found)
        if dataset in DATASETS:
            return Data(role, dataset, named_content(dataset, root), **found)
        folder = Path(_place(dataset))
        found["content"] = folder_content(folder, f"--data {role}")
        return Data(role, str(folder), **found, lossy=any(folder.rglob(_JPEG)))

    roles = set(roles)
    data = {role: data_of(role) for role in ROLES if role in roles}
    count = getattr(arguments, "seeds", budget.seeds)
    seeds = range(arguments.first_seed, arguments.first_seed + count)
    return Setup(budget, data, tuple(seeds), getattr(arguments, "images", "common"))


def _place(text: str) -> str:
    """As all processes understand it, wherever they run; "" stays."""
    return str(Path(text).expanduser().absolute()) if text else ""


def _places(texts: list[str]) -> dict[str, str]:
    """{role: place} of --data."""
    found: dict[str, str] = {}
    for text in texts:
        role, equals, place = text.partition("=")
        if not equals or not place:
            raise UserError(f"--data {text}: expected ROLE=PLACE, such as cifar10=images/cifar10")
        if role not in ROLES:
            raise UserError(
                f"--data {text}: {role!r} is none of the paper's data sets; expected one of "
                f"{', '.join(ROLES)}.{nearest(role, ROLES)}"
            )
        if role in found:
            raise UserError(f"--data {text}: {role} is given twice")
        found[role] = place
    return found
