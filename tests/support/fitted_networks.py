"""Tiny networks that get most images of the sample right, made in a blink.

Only the last layer is fitted, by ridge regression on the features of random convolutions.
"""

from functools import cache

import torch
from scotoma.defective import create_model, save_model
from scotoma.train.datasets import load_dataset

DATA = ["--dataset", "sample", "--device", "cpu"]


@cache
def sample():
    return load_dataset("sample")


def pixels(images):
    return images.permute(0, 3, 1, 2).float() / 255


def fitted(defects="standard", seed=0, mask_seed=0, arch="resnet18", images=500):
    data = sample()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model(
            arch,
            defects,
            width=4,
            image_size=28,
            in_channels=1,
            num_classes=10,
            mask_seed=mask_seed,
            mean=data.mean,
            std=data.std,
        )
    x, labels = pixels(data.train.images[:images]), data.train.labels[:images]
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x[:200])
        model.eval()
        features = model.features((x - model.mean) / model.std).mean((2, 3)).double()
        scale = features.std(0) + 1e-6
        design = torch.cat([features / scale, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        wanted = torch.nn.functional.one_hot(labels, 10).double()
        ridge = design.T @ design + torch.eye(design.shape[1], dtype=torch.float64)
        solution = 8 * torch.linalg.solve(ridge, design.T @ wanted)
        model.head.weight.copy_(solution[:-1].T / scale)
        model.head.bias.copy_(solution[-1])
    for norm in norms:
        norm.momentum = 0.1
    return model


def saved(path, double=False, **options):
    """The path of a checkpoint of :func:`fitted`."""
    model = fitted(**options)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model.double() if double else model, path, details={"dataset": "sample"})
    return str(path)
