"""torchvision's ResNet-50 with every batch norm, addition and ReLU of a block in one operator.

    python docs/examples/torchvision_resnet50.py

Needs torch, torchvision and ``scotoma.kernels``; nothing else of scotoma is imported. The weights,
the results and the state_dict are those of the original: only where the work is done changes.
``BatchNorm2d`` and ``SyncBatchNorm`` are handled, frozen ones, ``momentum=None`` and
``track_running_stats=False`` too. Not handled: other norms (refused), and hooks on a block's batch
norms and ReLU, which do not run any more. The batch norm before the blocks stays as it is.
"""

import copy

import torch
import torch.distributed as dist
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
        (conv, bn), bn3 = self.downsample, self.bn3
        # The operator has one set of them for both branches.
        if bn.momentum is None or settings(bn) != settings(bn3):
            return norm(bn3, self.conv3(out), residual=norm(bn, conv(x), relu=False))
        count(bn)
        return norm(bn3, self.conv3(out), projection=Projection(conv(x), *vectors(bn)))


def norm(bn, x, **addend):
    """``relu(bn(x) + addend)``. Pass ``mask=`` as well to make the layer defective."""
    count(bn)
    momentum, training, eps, group = settings(bn)
    if momentum is None:  # a cumulative average; the count stays on its device
        counted = bn.training and bn.num_batches_tracked is not None
        momentum = 1.0 / bn.num_batches_tracked if counted else 0.0
    return bn_mask_add_relu(
        x, *vectors(bn), training=training, momentum=momentum, eps=eps, group=group, **addend
    )


def settings(bn):
    """Momentum, whether the batch's statistics normalise, eps, and the group that shares them."""
    group = None
    if isinstance(bn, torch.nn.SyncBatchNorm) and dist.is_initialized():
        group = bn.process_group or dist.group.WORLD
    return bn.momentum, bn.training or bn.running_mean is None, bn.eps, group


def vectors(bn):
    return bn.weight, bn.bias, bn.running_mean, bn.running_var


def count(bn):
    if bn.training and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)


def fuse(model):
    """Let every block of a torchvision ResNet-50 compute by the fused operator, in place."""
    blocks = {name: module for name, module in model.named_modules() if type(module) is Bottleneck}
    for block, module in blocks.items():
        norms = {f"bn{i}": getattr(module, f"bn{i}") for i in (1, 2, 3)}
        if module.downsample is not None:
            norms["downsample.1"] = module.downsample[1]
        for name, bn in norms.items():
            if type(bn) not in (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm):
                raise ValueError(
                    f"{block}.{name} is {type(bn).__name__}; expected BatchNorm2d or SyncBatchNorm"
                )
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no block of torchvision's kind Bottleneck")
    for module in blocks.values():
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
