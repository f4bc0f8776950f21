"""Memory of one operator: what it saves for backward, and its peak."""

from __future__ import annotations

import torch

from .operands import Call


def saved_bytes(run, call: Call) -> int:
    """Bytes of all tensors that a forward keeps for its backward, shared storages counted once.

    Operands that are kept count too: keeping the convolution's output is a cost.
    """
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(*call.operands)
    del out
    return sum(storages.values())


def peak_bytes(run, call: Call) -> int | None:
    """Memory that one forward and backward allocate beyond their operands; None on a CPU."""
    device = call.operands.x.device
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    out = run(*call.operands)
    grads = torch.autograd.grad(out, call.inputs(), call.grad_out)
    torch.cuda.synchronize(device)
    del out, grads
    return torch.cuda.max_memory_allocated(device) - before
