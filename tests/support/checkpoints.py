"""Checkpoints that somebody edited."""

import json

import safetensors.torch
from safetensors import safe_open


def edit(path, change):
    """Rewrite a checkpoint's record and tensors with ``change(record, tensors)``."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["scotoma"])
    tensors = safetensors.torch.load_file(path)
    record = change(record, tensors)
    text = record if isinstance(record, str) else json.dumps(record)
    safetensors.torch.save_file(tensors, path, metadata={"scotoma": text})
