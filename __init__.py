"""scotoma: defective convolutional networks, trained fast and measured honestly.

A defective layer multiplies its activations by a fixed random 0/1 mask, one entry per neuron,
the same in training and testing ("Defective Convolutional Networks", ICLR 2021 submission).

Four packages, each useful without those below it in this list:

- ``scotoma.kernels``: the operator ``relu(mask * BN(x) + residual)``
- ``scotoma.defective``: masks, the paper's notation, the six networks, attacks
- ``scotoma.train``: data, recipes, the training loop, the command line
- ``scotoma.bench``: speed, and the paper's tables and figures

What most scripts need is here too: ``scotoma.create_model("resnet18", "0.3-Bottom")``; and
``from scotoma.train import train`` trains. Names are imported when they are first used, since torch
takes more than a second.
"""

import importlib

__version__ = "0.1.0"

_PACKAGES = ("bench", "defective", "kernels", "train")
_NAMES = ("Defects", "UserError", "convert", "create_model", "load_model", "mask_sites")
_NAMES += ("model_names", "resample_masks", "save_model")
__all__ = ["__version__", *_PACKAGES, *_NAMES]


def __getattr__(name: str):
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.defective"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
