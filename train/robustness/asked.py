"""What an evaluation is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...defective.attacks import Attack
from ...defective.errors import UserError
from ...defective.robustness.shuffle import PAPER_GRIDS

SAMPLES, BOUNDARY_SAMPLES = 1000, 500
"""Test images for attacks and noise, and (the paper's number) for the decision-based score."""


@dataclass(frozen=True)
class Asked:
    """What to measure beside the accuracy on clean images; what is empty or None is not asked for.

    Attributes:
        sets: paths of adversarial sets. attacks: white-box. boundary: for decision-based scores.
        epsilons: of noise, pixels in [0,1]. shuffle: whether to shuffle patches.
        grids: patches along a side; None for the paper's, where they divide the images.
        stylized: folder. samples, boundary_samples: numbers of test images.
    """

    sets: tuple[Path, ...] = ()
    attacks: tuple[Attack, ...] = ()
    boundary: Attack | None = None
    epsilons: tuple[float, ...] = ()
    shuffle: bool = False
    grids: tuple[int, ...] | None = None
    stylized: Path | None = None
    samples: int = SAMPLES
    boundary_samples: int = BOUNDARY_SAMPLES

    def grids_for(self, side: int) -> list[int]:
        """Patches along a side of images of ``side`` pixels.

        Raises:
            UserError: a number that was asked for does not divide it, or none of the paper's does.
        """
        if not self.shuffle:
            return []
        if self.grids is None:
            found = [k for k in PAPER_GRIDS if side % k == 0]
            if not found:
                usual = ", ".join(map(str, PAPER_GRIDS))
                raise UserError(f"--shuffle: none of {usual} divides {side} pixels; give a divisor")
            return found
        for k in self.grids:
            if side % k:
                raise UserError(
                    f"--shuffle {k}: the images' side of {side} pixels is no multiple of it; give "
                    "a divisor"
                )
        return list(self.grids)
