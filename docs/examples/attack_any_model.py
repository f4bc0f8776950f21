"""Somebody else's network against our attacks: robust accuracy of a model of timm.

    python docs/examples/attack_any_model.py resnet50.a1_in1k --pretrained --images imagenet/val
    python docs/examples/attack_any_model.py --attack pgd:norm=l2,eps=0.5,step=0.1,steps=20

Attacks speak of pixels in [0,1], so the model's normalisation goes into a module around it. Images
come from a folder with one folder for each class, in the order of the model's classes. Without a
folder they are noise, with the classes that the model takes it for as labels; without --pretrained
weights are random: that shows no more than that it runs. Attacks are written as for
``scotoma attack``.
"""

import argparse

import timm
import torch
from scotoma.defective.attacks import parse_attack
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import ImageFolder

parser = argparse.ArgumentParser()
parser.add_argument("model", nargs="?", default="resnet10t", help="any name of timm.list_models()")
parser.add_argument("--pretrained", action="store_true", help="with weights, which are downloaded")
parser.add_argument("--images", help="folder of class folders")
parser.add_argument("--samples", type=int, default=32, help="images to attack")
parser.add_argument("--size", type=int, help="side of the noise; the model's own if left out")
parser.add_argument("--attack", action="append", help="may be repeated; see scotoma attack --list")
options = parser.parse_args()
steps = "eps=4/255,step=1/255,steps=10"
attacks = options.attack or ["fgsm:eps=4/255", f"pgd:{steps}", f"mifgsm:{steps}"]
attacks = [parse_attack(text) for text in attacks]


class Normalised(nn.Module):
    """A model of normalised images as one of pixels in [0,1]."""

    def __init__(self, model: nn.Module, mean, std):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels):
        return self.model((pixels - self.mean) / self.std)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
network = timm.create_model(options.model, pretrained=options.pretrained)
data = timm.data.resolve_model_data_config(network)
model = Normalised(network, data["mean"], data["std"]).to(device).eval()

if options.images:  # resized and cropped as the model wants it, not normalised
    to_pixels = timm.data.create_transform(**data | {"mean": (0.0,) * 3, "std": (1.0,) * 3})
    folder = ImageFolder(options.images, to_pixels)
    images = Subset(folder, torch.randperm(len(folder))[: options.samples].tolist())
else:
    size = options.size or data["input_size"][-1]
    noise = torch.rand(options.samples, 3, size, size)
    with torch.no_grad():
        classes = [model(part.to(device)).argmax(1).cpu() for part in noise.split(32)]
    images = TensorDataset(noise, torch.cat(classes))

for attack in attacks:
    right = robust = 0
    for pixels, labels in DataLoader(images, batch_size=32):
        pixels, labels = pixels.to(device), labels.to(device)
        result = attack(model, pixels, labels)
        clean = result.clean_predictions == labels
        right += int(clean.sum())
        robust += int((clean & (result.predictions == labels)).sum())
    shares = f"accuracy {right / len(images):.1%}, robust accuracy {robust / len(images):.1%}"
    print(f"{attack}: {shares}, N {len(images)}")
