"""The tables of transfer attacks and Figure 5 at the budget full, in pieces."""

from scotoma.bench.paper.budgets import FULL, ROLES
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.setup import Setup
from scotoma.bench.paper.tables import definition

APPENDIX = {
    "table14": "densenet121",
    "table15": "resnet18",
    "table16": "resnet50",
    "table17": "senet18",
    "table18": "vgg19",
}
DEFENCES = ("table2", "table3", "table7")
TABLES = ("table2", "table3", "table4", "table5", "table7", "table8", "table9", "table11")
TABLES += tuple(APPENDIX)


def full_setup(**changes):
    names = dict(zip(ROLES, ("cifar10", "mnist", "tiny-imagenet", "imagenet"), strict=True))
    data = {role: Data(role, name) for role, name in names.items()}
    return Setup(FULL, data, **changes)


def build(name, setup=None):
    return definition(name).build(setup or full_setup())


def results(name, setup=None):
    """{place: result} of an experiment of one seed."""
    return {place: one[0].result for place, one in build(name, setup).cells.items()}


def keys(artefacts):
    return {artefact.key for artefact in artefacts}


def members(model):
    return keys(model.members)
