"""torchvision's ResNet-50 with every batch norm, addition and ReLU of a block in one operator.

    python docs/examples/torchvision_resnet50.py

Needs torch, torchvision and ``scotoma.kernels``; nothing else of scotoma is imported. The weights
and the results are those of the original: only where the work is done changes.
"""

import copy

import torch
import torchvision
from scotoma.kernels import Projection, bn_mask_add_relu
from torchvision.models.resnet import Bottleneck


class FusedBottleneck(Bottleneck):
    """torchvision's bottleneck block; its parameters and their names are unchanged."""

    def forward(self, x):
        out = norm(self.bn1, self.conv1(x))
        out = norm(self.bn2, self.conv2(out))
        if self.downsample is None:
            return norm(self.bn3, self.conv3(out), residual=x)
        conv, bn = self.downsample
        return norm(self.bn3, self.conv3(out), projection=Projection(conv(x), *vectors(bn)))


def norm(bn, x, **addend):
    """``relu(bn(x) + addend)``. Pass ``mask=`` as well to make the layer defective."""
    return bn_mask_add_relu(
        x, *vectors(bn), training=bn.training, momentum=bn.momentum, eps=bn.eps, **addend
    )


def vectors(bn):
    return bn.weight, bn.bias, bn.running_mean, bn.running_var


def fuse(model):
    """Let every block of a torchvision ResNet-50 compute by the fused operator, in place."""
    for module in model.modules():
        if type(module) is Bottleneck:
            module.__class__ = FusedBottleneck
    return model


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    original = torchvision.models.resnet50(num_classes=10)
    original = original.to(device, memory_format=torch.channels_last)
    fused = fuse(copy.deepcopy(original))
    images = torch.rand(4, 3, 64, 64, device=device).to(memory_format=torch.channels_last)
    for training in (True, False):
        expected = original.train(training)(images)
        difference = (fused.train(training)(images) - expected).abs().max().item()
        mode = "training" if training else "evaluation"
        print(f"{mode} on {device}: logits differ by {difference:.1e} of {expected.std():.2f}")


if __name__ == "__main__":
    main()
