"""Less texture, more shape: Tables 1 and 13."""

from __future__ import annotations

from ..setup import ARCHITECTURES
from .building import down
from .claim import Claim

SHUFFLED, STYLIZED = ("2x2", "4x4", "8x8"), ("IN->SIN",)
_ONE = {"Standard CNN": "Defective CNN"}
_FIVE = {name: f"{name} 0.1-Bottom" for name in ARCHITECTURES.values()}


def _claims(section: str, defective_of: dict[str, str]) -> tuple[Claim, ...]:
    return (
        Claim(
            "Without shapes, defective networks are worse than standard ones: on images of "
            "shuffled patches, of each size.",
            section,
            down(defective_of.items(), SHUFFLED),
        ),
        Claim(
            "Without textures, defective networks are better: on stylised images.",
            section,
            down([(d, s) for s, d in defective_of.items()], STYLIZED),
        ),
    )


CLAIMS = {"table1": _claims("3.2", _ONE), "table13": _claims("A.8", _FIVE)}
