"""Images and their shuffled patches: Figure 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....train import plots
from ....train.robustness.pictures import shuffled_samples
from ...report.document import Picture
from ..grids import fitting_grids
from . import data_name
from .class_names import class_names

if TYPE_CHECKING:
    from ..experiment import Made


def draw_shuffled(made: Made) -> list[Picture]:
    """A row an image: as it is, and in 2x2, 4x4 and 8x8 patches, as Table 1 shuffles them.

    No picture where the choice of images is not there.

    Raises:
        UserError: a damaged choice of images, or data that cannot be read.
    """
    found = shown(made)
    figure = plots.draw_shuffled(found.get("shuffled", {}), found.get("labels", ()))
    if figure is None:
        return []
    data = made.experiment.attached["images"].data
    alt = f"{len(found['labels'])} images of {data_name(data)}, and their patches in random order"
    return [Picture(f"{made.definition.name}.png", alt, figure)]


def shown(made: Made) -> dict[str, Any]:
    """As :func:`scotoma.train.robustness.pictures.shuffled_samples`; empty without images."""
    sample, context = made.experiment.attached["images"], made.context
    if not sample.is_done(context.store):
        return {}
    indices, _ = sample.read(context.store)
    images = context.images(sample.data)
    found = shuffled_samples(images, indices, fitting_grids(sample.data), seed=0)
    names = class_names(sample.data, context)
    return found | {"labels": [names[label] for label in images.labels[indices].tolist()]}
