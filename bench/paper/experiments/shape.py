"""Shape and texture: Figure 1, and Tables 1 and 13."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ....defective.robustness.shuffle import PAPER_GRIDS
from ..artefacts import Result
from ..data import fitting_grids
from ..experiment import Definition, Experiment, Measure, Place
from ..pictures import draw_shuffled
from ..setup import ARCHITECTURES, Setup
from . import notes

ROLE, DEFECTS, STYLIZED = "imagenet", "0.1-Bottom", "IN->SIN"
SHOWN = 4
"""Images of Figure 1; the paper has one."""

Pairs = Mapping[str, tuple[str, str]]
"""{architecture: (row of the standard network, row of the defective one)}."""

_FIRST: Pairs = {"resnet18": ("Standard CNN", "Defective CNN")}
_ALL: Pairs = {arch: (name, f"{name} {DEFECTS}") for arch, name in ARCHITECTURES.items()}


_FIVE = (
    "Not comparable: the release has no networks for ImageNet but ResNet-18; how the other "
    "four are built for it is ours.",
    notes.SITES,
)


def build_shapes(setup: Setup, pairs: Pairs, more_notes: tuple[str, ...] = ()) -> Experiment:
    """Pairs of networks on images whose shapes, or textures, are not what they were."""
    data = setup.data[ROLE]
    grids = fitting_grids(data)
    has_stylized = bool(data.stylized) or data.made_by is not None

    def of_seed(seed: int) -> dict[Place, Measure]:
        cells = {}
        for arch, (standard, defective) in pairs.items():
            pair = (
                setup.target(standard, arch, seed=seed, role=ROLE),
                setup.target(defective, arch, DEFECTS, seed=seed, role=ROLE),
            )
            sample = setup.sample(ROLE, pair)
            for number, model in enumerate(pair):
                shuffled = Result.shuffled(model, sample, grids)
                for index, grid in enumerate(grids):
                    cells[model.name, f"{grid}x{grid}"] = Measure(shuffled, "accuracy", index)
                if has_stylized:
                    cells[model.name, STYLIZED] = Measure(Result.stylized(pair), "accuracy", number)
        return cells

    found = [
        notes.EXACT,
        notes.IMAGENET,
        *more_notes,
        "Both networks of a pair have the same stem. The release's standard network has another "
        "one than its defective network: it is torchvision's.",
        "The images are a random draw among all that both networks of a pair classify right. The "
        "release takes the first 4,000 in the order of the classes, and of them only those that "
        "both are 99 % sure of.",
    ]
    if len(grids) < len(PAPER_GRIDS):
        left_out = ", ".join(f"{g}x{g}" for g in PAPER_GRIDS if g not in grids)
        found.append(f"{left_out}: not measured, for the images' side is not divided by it.")
    if not has_stylized:
        found.append(f"{STYLIZED}: not measured, for there are no stylised images (--stylized).")
    return Experiment(
        rows=tuple(name for names in pairs.values() for name in names),
        columns=(*(f"{grid}x{grid}" for grid in PAPER_GRIDS), STYLIZED),
        axes=("network", "patches"),
        cells=setup.each_seed(of_seed),
        settings=(
            f"Accuracy on up to {setup.budget.samples:,} test images that both networks of a pair "
            "classify right, each cut into k x k patches in one random order.",
            f"{STYLIZED}: accuracy on the stylised copies of all test images that both networks of "
            "a pair classify right.",
        ),
        notes=tuple(found),
    )


def build_figure1(setup: Setup) -> Experiment:
    """A few test images, to be shuffled as Table 1 does it."""
    return Experiment((), (), {}, {"images": setup.sample(ROLE, (), SHOWN)})


DEFINITIONS = [
    Definition(
        "figure1",
        "images with shuffled patches",
        "3.2",
        (ROLE,),
        "no networks",
        build_figure1,
        draw=draw_shuffled,
    ),
    Definition(
        "table1",
        "shuffled patches and stylised images",
        "3.2",
        (ROLE,),
        "ResNet-18, standard and 0.1-Bottom",
        partial(build_shapes, pairs=_FIRST),
        of_table=1,
        stylized=True,
    ),
    Definition(
        "table13",
        "shuffled patches and stylised images, five architectures",
        "A.8",
        (ROLE,),
        "5 architectures, standard and 0.1-Bottom",
        partial(build_shapes, pairs=_ALL, more_notes=_FIVE),
        of_table=13,
        stylized=True,
    ),
]
