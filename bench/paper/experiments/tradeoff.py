"""Accuracy and defence for falling keep probabilities: Figure 5."""

from __future__ import annotations

from ..claims import DEFENCE_RATE, TEST_ACCURACY
from ..experiment import Definition, Experiment
from ..pictures import draw_tradeoff
from ..setup import Setup
from . import notes
from .ablation import ATTACKS, BOTTOM, cells_of
from .asides import apart
from .cells import transfer_settings

ROWS = ("ResNet-18", *BOTTOM)
SOURCE = "densenet121"


def build_tradeoff(setup: Setup) -> Experiment:
    """Two columns of Table 14: ResNet-18 of each keep probability, attacked from DenseNet-121."""
    attacks = {DEFENCE_RATE: ATTACKS["PGD16"]}
    cells, asides = apart(cells_of(setup, SOURCE, ROWS, attacks, TEST_ACCURACY))
    return Experiment(
        rows=ROWS,
        columns=(DEFENCE_RATE, TEST_ACCURACY),
        axes=("network", "rate"),
        cells=cells,
        asides=asides,
        settings=transfer_settings(setup, attacks),
        notes=(
            *notes.transfer(setup),
            "The same networks and attack as in Table 14, which has the numbers that the paper's "
            "figure does not print. The standard network, ResNet-18, is not in that figure.",
        ),
    )


DEFINITIONS = [
    Definition(
        "figure5",
        "accuracy and success defence rate by keep probability",
        "A.9",
        ("cifar10",),
        "5 sources and 9 ResNet-18 of Table 14; PGD (1, 20, 16)",
        build_tradeoff,
        draw=draw_tradeoff,
    ),
]
