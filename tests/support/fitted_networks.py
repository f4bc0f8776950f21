"""Tiny networks that get most images of the sample right, made in a blink, and adversarial sets of
them, made by hand.

Only the last layer is fitted, by ridge regression on the features of random convolutions.
"""

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache

import torch
from scotoma.defective import create_model, save_model
from scotoma.defective.robustness import AdversarialSet
from scotoma.train.datasets import load_dataset
from scotoma.train.robustness.images import TestImages
from scotoma.train.robustness.models import load_named

DATA = ["--dataset", "sample", "--device", "cpu"]
CPU = torch.device("cpu")


@cache
def sample():
    return load_dataset("sample")


def pixels(images):
    return images.permute(0, 3, 1, 2).float() / 255


def fitted(defects="standard", seed=0, mask_seed=0, arch="resnet18", images=500):
    return deepcopy(_fitted(defects, seed, mask_seed, arch, images))


@cache
def _fitted(defects, seed, mask_seed, arch, images):
    data = sample()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = {"width": 4, "image_size": 28, "in_channels": 1, "num_classes": 10}
        more = {"mask_seed": mask_seed, "mean": data.mean, "std": data.std}
        model = create_model(arch, defects, **shape, **more)
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


def named(folder, *kinds, ensembles=None):
    """NamedModels of (defects, seed) or (defects, seed, mask seed)."""
    paths = []
    for kind in kinds:
        options = dict(zip(("defects", "seed", "mask_seed"), kind, strict=False))
        paths.append(saved(folder / f"{'-'.join(map(str, kind))}.safetensors", **options))
    return load_named(paths, ensembles, CPU)


def sample_images(count=120):
    """The first test images of the sample."""
    data = sample()
    return TestImages(replace(data, test=data.test.subset(torch.arange(count))), CPU)


def pixels_of(images, indices):
    return pixels(images.split.images[indices])


def classes_of(model, pixels):
    """By one forward pass, image by image."""
    with torch.no_grad():
        return torch.tensor([int(model(image[None])[0].argmax()) for image in pixels])


def hand_made_set(images, source, indices, pixels="float", strength=0.5):
    """Images blended with each other as an adversarial set of ``source``, with all that a file
    says."""
    original = pixels_of(images, indices)
    found = (1 - strength) * original + strength * original.flip(0)
    before = classes_of(source.model, found)
    if pixels == "uint8":
        found = (found * 255).round().to(torch.uint8)
    stored = found.float() / 255 if pixels == "uint8" else found
    zeros = torch.zeros(len(indices), dtype=torch.int64)
    described = json.dumps(source.describe(), default=lambda value: value.as_dict())
    return AdversarialSet(
        images=found,
        indices=indices,
        labels=images.labels[indices],
        clean_predictions=classes_of(source.model, original),
        predictions=classes_of(source.model, stored),
        unrounded_predictions=before,
        status=zeros.to(torch.uint8),
        forwards=zeros,
        backwards=zeros,
        details={
            "attack": {"attack": "blend-by-hand", "strength": strength},
            "attack_text": f"blend-by-hand:strength={strength}",
            "source": json.loads(described),  # as a file would give it back
            "data": {
                "name": images.data.name,
                "split": "test",
                "fingerprint": images.fingerprint(indices),
                "images": len(images),
            },
            "pixels": pixels,
            "precision": "float32",
        },
    )
