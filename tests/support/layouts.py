"""The same values in many memory layouts."""

import torch

# "dense" layouts keep their format in the output; the others are copied.
DENSE = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
LAYOUTS = (*DENSE, "sliced", "channel slice", "permuted", "expanded images", "expanded map")
MASK_LAYOUTS = ("contiguous", "channels_last", "sliced")


def laid_out(values, layout, dtype=None, device=None):
    """``values`` [N,C,H,W] with the strides of a layout.

    Expanded layouts repeat the first image, or the first position of each map, with stride 0.
    """
    values = values.to(dtype=dtype, device=device)
    n, c, h, w = values.shape
    match layout:
        case "contiguous":
            return values.contiguous()
        case "channels_last":
            return values.contiguous(memory_format=torch.channels_last)
        case "sliced":
            return values.new_zeros(n, c, h + 1, 2 * w)[:, :, 1:, ::2].copy_(values)
        case "channel slice":  # a part of a concatenation, as in DenseNet
            wide = values.new_zeros(n, c + 3, h, w).contiguous(memory_format=torch.channels_last)
            return wide[:, 2 : 2 + c].copy_(values)
        case "permuted":  # dense in an order that is neither format
            return values.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        case "expanded images":
            return values[:1].contiguous().expand(n, c, h, w)
        case "expanded map":
            return values[:, :, :1, :1].contiguous().expand(n, c, h, w)
    raise ValueError(layout)


def mask_laid_out(mask, layout):
    """A mask [C,H,W] with the strides of a layout."""
    match layout:
        case "contiguous":
            return mask.contiguous()
        case "channels_last":
            return mask.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        case "sliced":
            c, h, w = mask.shape
            return mask.new_zeros(c, h, 2 * w + 1)[:, :, 1::2].copy_(mask)
    raise ValueError(layout)


def output_format(x):
    """The memory format that the kernels work in and that the output has."""
    formats = (torch.channels_last, torch.contiguous_format)
    return next((f for f in formats if x.is_contiguous(memory_format=f)), torch.channels_last)
