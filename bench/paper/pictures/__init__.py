"""Pictures of the paper's figures, each from the artefacts that it is made of."""

from __future__ import annotations

import io
import warnings

from matplotlib.figure import Figure

from ....train.robustness.plots import style
from ..graph.data import Data

_NAMES = {
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    "tiny-imagenet": "Tiny-ImageNet",
    "imagenet": "ImageNet",
}


def data_name(data: Data) -> str:
    """The paper's name of a data set, and what stands in its place if something does."""
    name = _NAMES.get(data.role, data.role)
    return name if data.label == data.role else f"{data.label} (in the place of {name})"


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure always gives the same bytes."""
    from matplotlib import style as looks

    file = io.BytesIO()
    # Without its name and version matplotlib's files depend on nothing but what is drawn.
    options = {"dpi": style.DPI, "format": "png", "metadata": {"Software": None}}
    with looks.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, **options)
    return file.getvalue()
