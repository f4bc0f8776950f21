"""Masks, the paper's notation, defective layers and the six networks.

Names are imported when they are first used, so that what needs no network needs no torch.
"""

import importlib

_MODULES = {
    "conversion": ["convert"],
    "ensemble": ["Ensemble"],
    "errors": ["UserError"],
    "layers": [
        "BNMaskReLU",
        "ConvBNMaskReLU",
        "ConvMask",
        "synchronise_statistics",
        "use_backend",
    ],
    "masks": ["mask_sites", "resample_masks", "sample_mask"],
    "models": ["create_model", "model_names", "reset_weights"],
    "notation": ["Defects"],
    "serialization": ["load_model", "save_model"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
