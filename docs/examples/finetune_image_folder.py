"""A defective ResNet-50 of torchvision, fine-tuned on an image folder in a loop of your own.

    python docs/examples/finetune_image_folder.py FOLDER --weights DEFAULT
    scotoma evaluate finetuned.safetensors --dataset FOLDER --attack pgd:eps=2/255,step=1/255

FOLDER holds train/CLASS/* and test/CLASS/*. --weights downloads torchvision's, of ImageNet; without
it training begins at random ones. Pretrained weights have not seen the masks, so that all layers
are trained, not the last one alone. Test images are resized to 256/224 of --size before the middle
is cut out; scotoma does so over 64 pixels only.
"""

import argparse
import contextlib
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from scotoma.defective import create_model, save_model
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2 as transforms

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--arch", default="resnet50", help="of torchvision.models")
parser.add_argument("--weights", help="of that architecture, such as DEFAULT or IMAGENET1K_V1")
parser.add_argument("--defects", default="0.3-Bottom")
parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--lr", type=float, default=0.02, help="highest learning rate")
parser.add_argument("--workers", type=int, default=2, help="processes that read images")
parser.add_argument("--out", type=Path, default=Path("finetuned.safetensors"))


def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, loading = options.size, {"num_workers": options.workers}

    # Pixels in [0,1]: the network normalises them, by the statistics of torchvision's weights.
    pixels = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True)]
    cut = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    middle = [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)]
    train = ImageFolder(options.folder / "train", transforms.Compose(cut + pixels))
    test = ImageFolder(options.folder / "test", transforms.Compose(middle + pixels))
    batch_size = min(options.batch_size, len(train))
    batches = DataLoader(train, batch_size, shuffle=True, drop_last=True, **loading)

    name = f"torchvision:{options.arch}"
    statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    sizes = {"num_classes": len(train.classes), "image_size": size}
    model = create_model(name, options.defects, mask_seed=0, **sizes, **statistics)
    if options.weights:
        weights = torchvision.models.get_model_weights(options.arch)[options.weights]
        own = model.network.state_dict()
        found = weights.get_state_dict(progress=True, check_hash=True)
        fitting = {k: v for k, v in found.items() if k in own and v.shape == own[k].shape}
        missing, _ = model.network.load_state_dict(fitting, strict=False)
        print("not pretrained:", *(key for key in missing if not key.endswith(".mask")))
    model.to(device, memory_format=torch.channels_last)

    optimizer = torch.optim.SGD(model.parameters(), options.lr, momentum=0.9, weight_decay=1e-4)
    steps = options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps)
    half = contextlib.nullcontext()
    if device.type == "cuda":
        half = torch.autocast("cuda", torch.bfloat16)
    for epoch in range(options.epochs):
        model.train()
        for images, labels in batches:
            images = images.to(device, memory_format=torch.channels_last)
            with half:
                loss = F.cross_entropy(model(images), labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        right = 0
        for images, labels in DataLoader(test, batch_size, **loading):
            with torch.no_grad():
                right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {right / len(test):.2%}")
        save_model(model, options.out, details={"classes": train.classes})


if __name__ == "__main__":
    main(parser.parse_args())
