"""Tiny trained networks, in files, and adversarial sets made by hand."""

import json
from dataclasses import replace
from functools import cache

import torch
from scotoma.defective import create_model
from scotoma.defective.robustness import AdversarialSet
from scotoma.defective.serialization import save_model
from scotoma.train.datasets import load_dataset
from scotoma.train.robustness.images import TestImages
from scotoma.train.robustness.models import load_named


@cache
def sample_data():
    return load_dataset("sample").limited(None, 120, 0)


@cache
def trained_state(defects, seed, mask_seed=0):
    """Weights of a network of width 4 after a few steps: it is right more often than not. With a
    seed of 3 or more it is hardly trained, for tests that need another network, no good one."""
    data = sample_data()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _new(defects, mask_seed)
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(40 if seed < 3 else 2):
            part = slice(40 * step, 40 * step + 40)
            pixels = data.train.images[part].permute(0, 3, 1, 2).float() / 255
            loss = torch.nn.functional.cross_entropy(model(pixels), data.train.labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if seed < 3:
            _settle(model, data.train.images[:500].permute(0, 3, 1, 2).float() / 255)
    return {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def _settle(model, pixels):
    """Batch statistics of the final weights: after so few steps the running ones lag behind, how
    much depends on the last digits of sums, and so on the processor."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model(pixels)
    for norm in norms:
        norm.momentum = 0.1


def _new(defects, mask_seed):
    options = {"width": 4, "image_size": 28, "in_channels": 1, "mask_seed": mask_seed}
    return create_model("resnet18", defects, **options).train()


def network_file(path, defects="standard", seed=0, mask_seed=0):
    model = _new(defects, mask_seed)
    model.load_state_dict(trained_state(defects, seed, mask_seed))
    save_model(model, path, details={"dataset": "sample"})
    return str(path)


def named(folder, *kinds, ensembles=None):
    """NamedModels of (defects, seed) or (defects, seed, mask seed)."""
    paths = [
        network_file(folder / f"{'-'.join(map(str, kind))}.safetensors", *kind) for kind in kinds
    ]
    return load_named(paths, ensembles, torch.device("cpu"))


def sample_images(count=120):
    data = sample_data()
    return TestImages(
        replace(data, test=data.test.subset(torch.arange(count))), torch.device("cpu")
    )


def classes_of(model, pixels):
    """By one forward pass, image by image."""
    with torch.no_grad():
        return torch.tensor([int(model(image[None])[0].argmax()) for image in pixels])


def pixels_of(images, indices):
    return images.split.images[indices].permute(0, 3, 1, 2).float() / 255


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
            "source": plain(source.describe()),
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


def plain(values):
    """As a file would give it back."""
    return json.loads(json.dumps(values, default=lambda value: value.as_dict()))
