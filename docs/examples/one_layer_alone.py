"""One defective layer in a network of your own.

    python docs/examples/one_layer_alone.py [--keep 0.3] [--steps 20] [--size 32]

``BNMaskAddReLU`` stands where BatchNorm2d, an addition and ReLU stood. With a mask it is a
defective layer, without one a plain fused one: this network has one of each. The mask is drawn
once, follows ``.to()``, and is saved with the weights. The task is made up: ten patterns under
noise. Needs ``scotoma.kernels`` and nothing else of scotoma.
"""

import argparse
import contextlib

import torch
import torch.nn.functional as F
from scotoma.kernels import BNMaskAddReLU
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--keep", type=float, default=0.3, help="probability that a neuron works")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
options = parser.parse_args()


class Net(nn.Module):
    def __init__(self, keep: float, size: int):
        super().__init__()
        mask = torch.rand(16, size, size) < keep  # [C,H,W], the same for every image
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm1 = BNMaskAddReLU(16, mask=mask)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm2 = BNMaskAddReLU(16)
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x):
        x = self.norm1(self.conv1(x))  # relu(mask * BN(conv1(x)))
        x = self.norm2(self.conv2(x), x)  # relu(BN(conv2(x)) + x)
        return self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = Net(options.keep, options.size).to(device, memory_format=torch.channels_last)
print(model)

patterns = F.interpolate(torch.rand(10, 3, 4, 4, device=device), options.size)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
half = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
losses = []
for step in range(options.steps):
    labels = torch.randint(10, (64,), device=device)
    images = (patterns[labels] + torch.rand_like(patterns[labels])) / 2
    with half:
        loss = F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    print(f"step {step + 1}: loss {losses[-1]:.3f}")

model.eval()
with torch.no_grad():
    output = model.norm1(model.conv1(images))
silent = (output == 0).all(0)
print(f"{silent.float().mean():.1%} of the first layer's neurons are zero for all images")

other = Net(options.keep, options.size)  # with a mask of its own, until it loads this one's
other.load_state_dict(model.state_dict())
print(f"masks are equal after loading: {torch.equal(other.norm1.mask, model.norm1.mask.cpu())}")
