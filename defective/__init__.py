"""Masks, the paper's notation, defective layers and the six networks."""

from .ensemble import Ensemble
from .errors import UserError
from .layers import (
    BNMaskReLU,
    ConvBNMaskReLU,
    ConvMask,
    synchronise_statistics,
    use_backend,
)
from .masks import sample_mask
from .models import create_model, model_names, reset_weights
from .notation import Defects
from .placement import mask_sites, resample_masks
from .serialization import load_model, save_model

__all__ = [
    "BNMaskReLU",
    "ConvBNMaskReLU",
    "ConvMask",
    "Defects",
    "Ensemble",
    "UserError",
    "create_model",
    "load_model",
    "mask_sites",
    "model_names",
    "resample_masks",
    "reset_weights",
    "sample_mask",
    "save_model",
    "synchronise_statistics",
    "use_backend",
]
