"""An engine as a training has it, and the operators that a step calls."""

from collections import Counter

import torch
from scotoma.train.distributed import World
from scotoma.train.engine import Engine
from scotoma.train.setup import build_model, load_data, make_batches, resolve
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")


def engine_of(config, device=CPU):
    """(An engine for these settings, the batches that it is trained on)."""
    config = resolve(config, device)
    data = load_data(config)
    engine = Engine(build_model(config, data), config, device, World())
    engine.model.train()
    return engine, make_batches(config, data, data.train, device, training=True)


class Operators(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function._overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))
