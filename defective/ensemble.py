"""Several networks as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .errors import UserError

Fusion = Literal["logits", "probabilities"]


class Ensemble(nn.Module):
    """The mean of several models' outputs, as a model to attack or to defend with.

    The paper's EN rows and ensemble sources (Tables 8, 14-18) average logits.

    Args:
        models: from pixels in [0,1] [N,C,H,W] to logits [N,K], all with the same K; functions too.
        fusion: "logits" for the mean of the logits, "probabilities" for the logarithm of the mean
            of the softmaxes (which are logits again).

    Raises:
        UserError: no models, or models that do not fit together.
    """

    def __init__(self, models: Sequence[nn.Module], fusion: Fusion = "logits"):
        super().__init__()
        if not models:
            raise UserError("an ensemble of no models; expected at least one")
        if fusion not in ("logits", "probabilities"):
            raise UserError(f"fusion is {fusion!r}; expected 'logits' or 'probabilities'")
        specs = [model.spec for model in models if hasattr(model, "spec")]
        for field in ("num_classes", "in_channels", "image_size"):
            values = sorted({getattr(spec, field) for spec in specs})
            if len(values) > 1:
                raise UserError(
                    f"an ensemble's models have {field} {' and '.join(map(str, values))}; they "
                    "have to agree"
                )
        self.models, self.fusion = nn.ModuleList(map(as_module, models)), fusion
        # Fresh modules claim to be in training mode, whatever they are made of.
        self.training = self.models.training = any(model.training for model in self.models)

    def forward(self, pixels: Tensor) -> Tensor:
        """Images [N,C,H,W], pixels in [0,1] -> logits [N,K]."""
        outputs = torch.stack([model(pixels) for model in self.models])
        if self.fusion == "logits":
            return outputs.mean(0)
        return outputs.log_softmax(2).logsumexp(0) - math.log(len(outputs))


class _Function(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.forward = function
        self.eval()


def as_module(model: nn.Module | Callable[[Tensor], Tensor]) -> nn.Module:
    """The model itself, or a function in a module in evaluation mode. Raises UserError."""
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type) or not callable(model):
        what = f"the class {model.__name__}" if isinstance(model, type) else repr(model)
        raise UserError(f"the model is {what:.200}; expected an nn.Module, or a function of pixels")
    return _Function(model)
