"""Attacks on pixels in [0,1], each image for itself, seeded and counted.

Every attack is a class that holds its settings and is called with a model and a batch, and a
function for a single call.
"""

from .autoattack import APGD, AutoAttack, apgd, autoattack
from .base import Attack, AttackResult, Status
from .boundary import Boundary, boundary
from .carlini_wagner import CWL2, cw_l2
from .fgsm import FGSM, fgsm
from .gaussian_noise import GaussianNoise, gaussian_noise
from .lspga import LSPGA, lspga
from .mifgsm import MIFGSM, mifgsm
from .oracle import Oracle
from .pgd import PGD, pgd
from .registry import attack_class, attack_names, make_attack, parse_attack

__all__ = [
    "APGD",
    "CWL2",
    "FGSM",
    "LSPGA",
    "MIFGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "Boundary",
    "GaussianNoise",
    "Oracle",
    "Status",
    "apgd",
    "attack_class",
    "attack_names",
    "autoattack",
    "boundary",
    "cw_l2",
    "fgsm",
    "gaussian_noise",
    "lspga",
    "make_attack",
    "mifgsm",
    "parse_attack",
    "pgd",
]


def __dir__() -> list[str]:
    return __all__
