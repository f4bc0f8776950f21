"""A network of torchvision's (or timm's, or your own) in a loop of your own, its batch norms fused.

    python docs/examples/fuse_in_your_loop.py [package:factory] [--size 64] [--steps 5]
    torchrun --nproc-per-node 2 docs/examples/fuse_in_your_loop.py timm:regnety_016

One line is scotoma's: ``fuse(model)``. It stands after what replaces modules (SyncBatchNorm) and
before what wraps them (DistributedDataParallel). Weights, results and state dict are those of the
original, which the last line shows. Mixed precision is bfloat16 on a GPU, float32 elsewhere. Needs
``scotoma.kernels`` and nothing else of scotoma.
"""

import argparse
import contextlib
import copy
import importlib
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from scotoma.kernels import fuse
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("model", nargs="?", default="torchvision.models:resnet18")
parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
parser.add_argument("--steps", type=int, default=5)
options = parser.parse_args()

rank, ranks = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
if ranks > 1:
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

torch.manual_seed(0)
package, factory = options.model.split(":")
create = (
    importlib.import_module(package).create_model
    if package == "timm"
    else getattr(importlib.import_module(package), factory)
)
model = create(factory, num_classes=10) if package == "timm" else create(num_classes=10)
if ranks > 1 and device.type == "cuda":  # torch's demands a GPU
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
model = model.to(device, memory_format=torch.channels_last)
original = copy.deepcopy(model)

fusion = fuse(model)
if rank == 0:
    print(fusion)

wrapped = DistributedDataParallel(model) if ranks > 1 else model
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01, momentum=0.9)
half = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
for step in range(options.steps):
    images = torch.rand(8, 3, options.size, options.size, device=device)
    labels = torch.randint(10, (8,), device=device)
    with half:
        loss = F.cross_entropy(wrapped(images.to(memory_format=torch.channels_last)), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if rank == 0:
        print(f"step {step + 1}: loss {loss.item():.3f}")

original.load_state_dict(model.state_dict())
with torch.no_grad():
    difference = (model.eval()(images) - original.eval()(images)).abs().max().item()
if rank == 0:
    print(f"logits of the fused network differ from the original's by {difference:.1e}")
if ranks > 1:
    dist.destroy_process_group()
