"""Data, recipes, the training loop, evaluation and the command line.

``from scotoma.train import train`` trains from Python. Names are imported when they are first used.
"""

import importlib

_HOME = {"Run": "run", "TrainConfig": "config", "load_dataset": "datasets", "train": "run"}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
