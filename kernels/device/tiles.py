"""Addresses, loads and per-channel vectors shared by the kernels."""

import triton
import triton.language as tl


@triton.jit
def tile_pointers(ptr, first, r, c, C, HW, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr):
    """Pointers [rows, channels] to the rows ``first + r`` of an activation.

    ``first`` is int64, so that tensors of more than 2^31 elements are addressed rightly; inside a
    tile 32 bits do. WIDE: the number of rows itself exceeds int32.
    """
    if CHANNELS_LAST:
        return ptr + first * C + (r[:, None] * C + c[None, :])
    # A row's image and position. 32-bit division is several times cheaper than 64-bit.
    m = first + r if WIDE else first.to(tl.int32) + r
    n = (m // HW).to(tl.int64)
    return ptr + (n * (C * HW) + m % HW)[:, None] + (c * HW)[None, :]


@triton.jit
def load_tile(ptr, first, r, c, inside, C, HW, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr):
    """An activation tile in float32, 0 outside."""
    pointers = tile_pointers(ptr, first, r, c, C, HW, CHANNELS_LAST, WIDE)
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_mask(ptr, first, r, c, inside, C, HW, MASK_CHANNELS_LAST: tl.constexpr,
              WIDE: tl.constexpr):  # fmt: skip
    """The 0/1 mask [C,H,W] of the rows' positions in float32; one byte an entry."""
    if WIDE:
        position = ((first % HW) + r) % HW
    else:
        position = (first.to(tl.int32) + r) % HW
    if MASK_CHANNELS_LAST:
        offsets = (position * C)[:, None] + c[None, :]
    else:
        offsets = position[:, None] + (c * HW)[None, :]
    return tl.load(ptr + offsets, mask=inside, other=0).to(tl.float32)


@triton.jit
def load_channel(ptr, c, C, DEFAULT: tl.constexpr):
    """A per-channel vector [C] in float32; DEFAULT where there is none."""
    if ptr is None:
        return tl.full(c.shape, DEFAULT, tl.float32)
    return tl.load(ptr + c, mask=c < C, other=DEFAULT).to(tl.float32)


@triton.jit
def channel_affine(weight, bias, mean, var, c, C, eps):
    """``BN(x) = (x - mean) * scale + bias``: returns mean, scale, bias and 1/std."""
    inverse = tl.rsqrt(load_channel(var, c, C, 1.0) + eps)
    scale = load_channel(weight, c, C, 1.0) * inverse
    return load_channel(mean, c, C, 0.0), scale, load_channel(bias, c, C, 0.0), inverse


@triton.jit
def masked_branch(x, mean, scale, bias, mask, first, r, c, inside, C, HW,
                  MASK_CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """``mask * BN(x)`` of a tile.

    Forward and backward both come here, and the multiply-add is explicit, so that the sign that
    backward recomputes is the sign that forward had, bit for bit.
    """
    value = tl.fma(x - mean[None, :], scale[None, :], bias[None, :])
    if mask is not None:
        # A product, as in the definition: NaN under a zero of the mask stays NaN.
        value *= load_mask(mask, first, r, c, inside, C, HW, MASK_CHANNELS_LAST, WIDE)
    return value


@triton.jit
def passes_relu(value):
    """Where the gradient passes ReLU: everywhere but at values <= 0, so at NaN as well."""
    return ~(value.to(tl.float32) <= 0)


@triton.jit
def bits_pointers(bits, first, c_block, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Pointers [ROWS, BLOCK_C / 8] into the saved bits [N*H*W, ceil(C / 8)]."""
    stride = (C + 7) // 8
    r = tl.arange(0, ROWS)
    b = c_block * (BLOCK_C // 8) + tl.arange(0, BLOCK_C // 8)
    inside = b < stride
    return bits + first * stride + (r[:, None] * stride + b[None, :]), inside


@triton.jit
def store_bits(bits, alive, first, rows, c_block, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Pack a boolean tile, eight channels to a byte."""
    pointers, inside = bits_pointers(bits, first, c_block, C, ROWS, BLOCK_C)
    eights = tl.reshape(alive.to(tl.int32), (ROWS, BLOCK_C // 8, 8))
    packed = tl.sum(eights << tl.arange(0, 8)[None, None, :], axis=2)
    inside = (tl.arange(0, ROWS) < rows)[:, None] & inside[None, :]
    tl.store(pointers, packed.to(tl.uint8), mask=inside)


@triton.jit
def load_bits(bits, first, rows, c_block, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """The boolean tile that ``store_bits`` packed; False outside."""
    pointers, inside = bits_pointers(bits, first, c_block, C, ROWS, BLOCK_C)
    inside = (tl.arange(0, ROWS) < rows)[:, None] & inside[None, :]
    packed = tl.load(pointers, mask=inside, other=0).to(tl.int32)
    eights = (packed[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(eights, (ROWS, BLOCK_C)) != 0
