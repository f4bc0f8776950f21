"""Addresses, loads and per-channel vectors shared by the kernels."""

import triton
import triton.language as tl


@triton.jit
def tile_pointers(ptr, first, r, c, C, HW, CHANNELS_LAST: tl.constexpr):
    """Pointers [rows, channels] to the rows ``first + r`` of an activation.

    ``first`` is int64, so that tensors of more than 2^31 elements are addressed rightly; inside a
    tile 32 bits do, and for the number of a row.
    """
    if CHANNELS_LAST:
        pointers = ptr + first * C + (r[:, None] * C + c[None, :])
    else:
        # A row's image and position. 32-bit division is several times cheaper than 64-bit.
        m = first.to(tl.int32) + r
        image = (m // HW).to(tl.int64)
        pointers = ptr + (image * (C * HW) + m % HW)[:, None] + (c * HW)[None, :]
    return pointers


@triton.jit
def load_tile(ptr, first, r, c, inside, C, HW, CHANNELS_LAST: tl.constexpr):
    """An activation tile in float32, 0 outside; None where there is no activation."""
    tile = None
    if ptr is not None:
        pointers = tile_pointers(ptr, first, r, c, C, HW, CHANNELS_LAST)
        tile = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    return tile


@triton.jit
def positions(first, r, HW):
    """Positions in the image, int32, of the rows ``first + r``."""
    return (first.to(tl.int32) + r) % HW


@triton.jit
def next_positions(position, first, r, HW, BLOCK_M: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """``positions(first, r, HW)`` from the position BLOCK_M rows before.

    Without a division, but where rows are contiguous the compiler has to see that they are.
    """
    if CHANNELS_LAST:
        moved = position + BLOCK_M % HW
        moved = tl.where(moved >= HW, moved - HW, moved)
    else:
        moved = positions(first, r, HW)
    return moved


@triton.jit
def load_mask(ptr, position, c, inside, C, HW, MASK_CHANNELS_LAST: tl.constexpr):
    """The 0/1 mask [C,H,W] at positions, in float32; one byte an entry. None if there is none."""
    keep = None
    if ptr is not None:
        if MASK_CHANNELS_LAST:
            offsets = (position * C)[:, None] + c[None, :]
        else:
            offsets = position[:, None] + (c * HW)[None, :]
        keep = tl.load(ptr + offsets, mask=inside, other=0).to(tl.float32)
    return keep


@triton.jit
def load_channel(ptr, c, C, DEFAULT: tl.constexpr):
    """A per-channel vector [C] in float32; DEFAULT where there is none."""
    if ptr is None:
        value = tl.full(c.shape, DEFAULT, tl.float32)
    else:
        value = tl.load(ptr + c, mask=c < C, other=DEFAULT).to(tl.float32)
    return value


@triton.jit
def load_affine(branch, c, C, eps):
    """``BN(x) = (x - mean) * scale + bias``: mean, scale, bias and 1/std, each [C].

    Of a branch that is not there: numbers that nothing uses.
    """
    inverse = tl.rsqrt(load_channel(branch.var, c, C, 1.0) + eps)
    scale = load_channel(branch.weight, c, C, 1.0) * inverse
    bias = load_channel(branch.bias, c, C, 0.0)
    return load_channel(branch.mean, c, C, 0.0), scale, bias, inverse


@triton.jit
def masked_branch(x, affine, keep):
    """``mask * BN(x)`` of a tile; ``keep`` is the mask's tile, or None.

    Forward and backward both come here, and the multiply-add is explicit, so that the sign that
    backward recomputes is the sign that forward had, bit for bit.
    """
    value = tl.fma(x - affine[0][None, :], affine[1][None, :], affine[2][None, :])
    if keep is not None:
        # A product, as in the definition: NaN under a zero of the mask stays NaN.
        value *= keep
    return value


@triton.jit
def passes_relu(value):
    """Where the gradient passes ReLU: everywhere but at values <= 0, so at NaN as well."""
    return ~(value.to(tl.float32) <= 0)


@triton.jit
def bits_pointers(bits, first, rows, c_block, C, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Pointers [BLOCK_M, BLOCK_C / 8] into the saved bits [N*H*W, ceil(C / 8)], and which exist."""
    stride = (C + 7) // 8
    r = tl.arange(0, BLOCK_M)
    b = c_block * (BLOCK_C // 8) + tl.arange(0, BLOCK_C // 8)
    inside = (r < rows)[:, None] & (b < stride)[None, :]
    return bits + first * stride + (r[:, None] * stride + b[None, :]), inside


@triton.jit
def store_bits(bits, alive, first, rows, c_block, C, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Pack a boolean tile, eight channels to a byte."""
    pointers, inside = bits_pointers(bits, first, rows, c_block, C, BLOCK_M, BLOCK_C)
    eights = tl.reshape(alive.to(tl.int32), (BLOCK_M, BLOCK_C // 8, 8))
    packed = tl.sum(eights << tl.arange(0, 8)[None, None, :], axis=2)
    tl.store(pointers, packed.to(tl.uint8), mask=inside)


@triton.jit
def load_bits(bits, first, rows, c_block, C, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """The bytes of a tile that ``store_bits`` stored, 0 outside; None where there are no bits."""
    packed = None
    if bits is not None:
        pointers, inside = bits_pointers(bits, first, rows, c_block, C, BLOCK_M, BLOCK_C)
        packed = tl.load(pointers, mask=inside, other=0)
    return packed


@triton.jit
def unpack_bits(packed, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """The boolean tile [BLOCK_M, BLOCK_C] in the bytes of ``load_bits``."""
    eights = (packed.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(eights, (BLOCK_M, BLOCK_C)) != 0
