"""How a call becomes launches: tiles, grids, and a plan of both for each description of tensors.

Tiles, chunks and programs are functions of the shape alone and ignore the number of
multiprocessors, so that the order of every sum, and with it every bit of the result, is the same
on any GPU. The kernels are in ``device/``, imported at the first launch.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from .reference import NO_BRANCH, Branch

WARPS = 4
# Bytes of an activation's tile: 16 or 32 a thread. In half precision 16 are eight values, whose
# eight mask bytes are one load as well, in the same register layout.
TILE_BYTES = WARPS * 32 * 16
# Elementwise passes and statistics, which hold few values an element, take two tiles' worth: more
# loads are under way at once.
LARGE = 2
# A row segment of 64 half-precision channels is one 128-byte cache line.
MAX_BLOCK_C = 64
# Programs of an elementwise pass: eight for each multiprocessor of an H100 (132), resident at once
# with 64 registers a thread. Larger activations give each program several tiles, so that it reads
# the per-channel vectors once for all of them.
PROGRAMS, MAX_TILES = 8 * 132, 8
# Programs of a reduction: about four for each multiprocessor of an H100, resident at once with 128
# registers a thread.
REDUCTION_PROGRAMS = 512
# Longer chunks would lose digits: rounding errors of the sums about a chunk's first tile grow with
# the number of tiles where that tile is an outlier (1e-5 of the variance at 64 tiles).
MAX_CHUNK = 2048
# Stages of the software pipeline of the reductions' loops.
STAGES = 3
# With two branches the reduction of backward takes at most these: four programs a multiprocessor.
TWO_BRANCHES = {"maxnreg": 128}
# Merging kernels: a program holds this many channels, and chunks up to a limit, at once.
MERGE_CHANNELS, MERGE_CHUNKS, MERGE_WARPS = 8, 512, 8
MAX_PLANS = 4096


@cache
def device_kernels() -> SimpleNamespace:
    """Every kernel by name. Imports Triton."""
    from .device import backward, convolution, forward, statistics

    kernels = (
        statistics.partial_statistics,
        statistics.merge_statistics,
        forward.apply_forward,
        forward.multiply_mask,
        backward.partial_gradients,
        backward.merge_gradients,
        backward.apply_backward,
        convolution.convolve,
    )
    return SimpleNamespace(**{kernel.__name__: kernel for kernel in kernels})


class Tiling(NamedTuple):
    """The matrix of N*H*W rows by C channels that the kernels see, and its tiles."""

    images: int
    channels: int
    positions: int
    channels_last: bool
    channel_unit: int
    block_m: int
    block_c: int
    wanted: int  # programs of a reduction

    @property
    def rows(self) -> int:
        return self.images * self.positions

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments that every kernel over activations has."""
        units = self.channels // self.channel_unit
        return {"N": self.images, "C_UNITS": units, "HW": self.positions}

    @property
    def constants(self) -> dict[str, int | bool]:
        """The compile-time arguments that every kernel over activations has."""
        return {
            "C_UNIT": self.channel_unit,
            "CHANNELS_LAST": self.channels_last,
            "BLOCK_M": self.block_m,
            "BLOCK_C": self.block_c,
        }

    @property
    def channel_blocks(self) -> int:
        return -(-self.channels // self.block_c)

    @property
    def tiles(self) -> int:
        """Row tiles that a program of an elementwise pass walks through."""
        all_tiles = -(-self.rows // self.block_m) * self.channel_blocks
        return min(MAX_TILES, -(-all_tiles // PROGRAMS))

    @property
    def programs(self) -> int:
        """Of an elementwise pass."""
        return -(-self.rows // (self.block_m * self.tiles)) * self.channel_blocks

    @property
    def chunk_tiles(self) -> int:
        """Row tiles that one program of a reduction sums up."""
        wanted = max(1, self.wanted // self.channel_blocks)
        rows = min(MAX_CHUNK, -(-self.rows // wanted))
        return -(-rows // self.block_m)

    @property
    def chunk(self) -> int:
        """Rows that one program of a reduction sums up."""
        return self.chunk_tiles * self.block_m

    @property
    def chunks(self) -> int:
        return -(-self.rows // self.chunk)

    @property
    def programs_of_reduction(self) -> int:
        return self.chunks * self.channel_blocks


def tiling(shape, channels_last: bool, itemsize: int = 2, size: int = 1, passes: int = 1) -> Tiling:
    """How to cut an activation [N,C,H,W] of elements of ``itemsize`` bytes.

    size: of a tile, in units of ``TILE_BYTES``. passes: reductions in one launch.
    """
    n, channels, height, width = shape
    if channels_last:
        # The widest block that wastes no column, or else one that covers small C whole.
        block_c = next((b for b in (64, 32, 16) if channels % b == 0), None)
        block_c = block_c or max(8, min(MAX_BLOCK_C, power_of_two(channels)))
    else:
        # Rows are contiguous here, so a tile is longer than wide.
        block_c = 8 if channels <= 8 else 16
    return Tiling(
        images=n,
        channels=channels,
        positions=height * width,
        channels_last=channels_last,
        channel_unit=unit(channels, itemsize),
        block_m=size * TILE_BYTES // itemsize // block_c,
        block_c=block_c,
        wanted=REDUCTION_PROGRAMS // passes,
    )


def unit(channels: int, itemsize: int) -> int:
    """What is known to divide C: tells the compiler that accesses of up to 16 bytes are aligned."""
    return next(u for u in (8, 4, 2, 1) if channels % u == 0 and u * itemsize <= 16)


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()


class Launch:
    """One kernel with its grid and all arguments that are known beforehand.

    Triton's own launch looks at every argument to find the binary. Here it would find the same one
    again, so that is kept after the first launch and started directly.

    Args:
        kernel: name. grid: of two numbers. device: index. direct: whether the binary may be kept,
            which is so where all pointers are multiples of 16.
        options: of the compiler. values: the last arguments of the kernel, by name.
    """

    def __init__(self, kernel: str, grid, device: int, direct: bool, options=None, **values):
        self.kernel, self.grid, self.device, self.direct = kernel, (*grid, 1), device, direct
        self.options = {"num_warps": WARPS, **(options or {})}
        self.values = values
        self.found = {}

    def __call__(self, variant, *args) -> None:
        """Launch on the device's current stream.

        Args:
            variant: tells apart calls that differ in which arguments are None.
            args: the first arguments of the kernel: tensors, None, numbers, and tuples of them.
        """
        found = self.found.get(variant)
        if found is None:
            self._find(variant, args)
            return
        run, function, metadata, values, driver, active, runtime = found
        enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
        # Another driver has other binaries, and a profiler's hooks want to be told of each launch.
        hooked = getattr(enter, "calls", enter) or getattr(leave, "calls", leave)
        if hooked or driver.active is not active:
            self._find(variant, args)
            return
        stream = active.get_current_stream(self.device)
        run(*self.grid, stream, function, metadata, None, None, None, *args, *values)

    def _find(self, variant, args) -> None:
        """Launch by way of Triton, which compiles the kernel if it is new."""
        kernel = getattr(device_kernels(), self.kernel)
        compiled = kernel[self.grid](*map(_as_bytes, args), **self.values, **self.options)
        if self.direct and hasattr(compiled, "run"):  # the interpreter compiles nothing
            from triton import knobs
            from triton.runtime.driver import driver

            values = tuple(self.values[name] for name in kernel.arg_names[len(args) :])
            binary = compiled.run, compiled.function, compiled.packed_metadata
            self.found[variant] = (*binary, values, driver, driver.active, knobs.runtime)


def _as_bytes(argument):
    """Boolean tensors as bytes, also inside tuples: a mask is loaded as a number."""
    if isinstance(argument, Tensor):
        return argument.view(torch.uint8) if argument.dtype == torch.bool else argument
    if isinstance(argument, tuple):
        make = getattr(argument, "_make", tuple)
        return make(map(_as_bytes, argument))
    return argument


def memory_format(x: Tensor) -> torch.memory_format:
    """The format that the kernels work in: the tensor's own, channels_last if it has neither."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def empty_output(x: Tensor) -> Tensor:
    """Memory for an output, or a gradient, shaped like ``x`` [N,C,H,W], in the kernels' format.

    Every implementation and every fake one allocates by this, so that strides agree.
    """
    return torch.empty_like(x, memory_format=memory_format(x))


def on_device(index: int):
    """Triton launches on the current device: make it the one with this index, -1 for a CPU."""
    if index >= 0 and index != torch.cuda.current_device():
        return torch.cuda.device(index)
    return nullcontext()


class Plan:
    """What calls on tensors of one description have in common, decided once.

    That is how to lay out the tensors, how to cut them, and the launches. A description is all of
    a call but the numbers in its tensors: see ``fused.describe``.

    Args:
        main, other, residual: tensors of such a call; not kept.
        relu, training, eps: of the call. direct: of :class:`Launch`.
    """

    def __init__(self, main: Branch, other: Branch | None, residual, relu, training, eps, direct):
        x, other = main.x, other or NO_BRANCH
        self.format = memory_format(x)
        self.device, self.direct, self.training = x.get_device(), direct, training
        self.masks_last = masks_order(main.mask, other.mask)
        activations = [t for t in (x, other.x, residual) if t is not None]
        vectors = [v for b in (main, other) for v in (b.weight, b.bias) if v is not None]
        running = [v for b in (main, other) for v in (b.mean, b.var) if v is not None]
        self.dense = (
            all(t.is_contiguous(memory_format=self.format) for t in activations)
            and all(v.is_contiguous() for v in vectors)
            and (training or all(v.is_contiguous() for v in running))
            and self.masks_last is not None
        )
        branches = 1 if other.x is None else 2
        # Whether the kernel that merges statistics can update the running ones.
        self.updates = (
            all(v.is_contiguous() for v in running)
            and len({v.dtype for v in running}) <= 1
            and len(running) in (0, 2 * branches)
        )
        # One pointer of a kernel is either branch's variance, so that both have to be of one dtype.
        variances = {b.var.dtype for b in (main, other) if b.var is not None}
        self.widens_variances = not training and len(variances) > 1
        # How masks lie once they are laid out.
        reordered = self.masks_last is None
        self.mask_strides = tuple(
            None
            if m is None
            else (1, m.shape[2] * m.shape[0], m.shape[0])
            if reordered
            else m.stride()
            for m in (main.mask, other.mask)
        )
        last = self.format == torch.channels_last
        small = tiling(x.shape, last, x.element_size())
        large = tiling(x.shape, last, x.element_size(), LARGE, branches)
        self.rows, self.large = small.rows, large
        # Shapes of what the launches write.
        self.bits = (small.rows, -(-small.channels // 8))
        self.chunks_of_statistics = (large.chunks, large.channels)
        self.partial_sums = (branches, 2, small.chunks, small.channels)
        self.sums = (2 * branches, small.channels)
        epilogue = {
            "eps": float(eps),
            "MASK_CHANNELS_LAST": self.masks_last is not False,
            "RELU": relu,
        }
        self._partial_statistics = {
            n: self._reduction("partial_statistics", large, (large.programs_of_reduction, n))
            for n in range(1, branches + 1)
        }
        self._merge_statistics: dict[tuple, Launch] = {}
        self._apply_forward = elementwise(
            "apply_forward", large, self.device, direct, REVERSE=training, **epilogue
        )
        self._partial_gradients = self._reduction(
            "partial_gradients",
            small,
            (small.programs_of_reduction, 1),
            # Masks in the other order than x take registers of their own.
            TWO_BRANCHES if branches == 2 and (self.masks_last is not False) == last else None,
            **epilogue,
        )
        self._merge_gradients = Launch(
            "merge_gradients",
            (-(-small.channels // MERGE_CHANNELS), branches),
            self.device,
            direct,
            {"num_warps": MERGE_WARPS},
            eps=float(eps),
            C=small.channels,
            CHUNKS=small.chunks,
            BLOCK_S=merge_chunks(small.chunks),
            BLOCK_C=MERGE_CHANNELS,
        )
        # Two branches' vectors leave no registers for a large tile.
        cut = large if branches == 1 else small
        # Behind a reduction it starts at the end, which is still in the cache.
        self._apply_backward = {
            reduced: elementwise(
                "apply_backward", cut, self.device, direct, REVERSE=reduced, **epilogue
            )
            for reduced in (True, False)
        }

    def _reduction(self, kernel: str, cut: Tiling, grid, options=None, **values) -> Launch:
        chunks = {"CHUNK_TILES": cut.chunk_tiles, "CHUNKS": cut.chunks, "STAGES": STAGES}
        values = {**cut.sizes, **chunks, **cut.constants, **values}
        return Launch(kernel, grid, self.device, self.direct, options, **values)

    def lay_out(self, main: Branch, other: Branch | None, residual: Tensor | None):
        """Every tensor as the kernels take it. Copies only what differs; differentiable.

        In training the running statistics stay as they are: they are updated in place.
        """
        if self.dense:
            return main, other, residual
        if residual is not None:
            residual = residual.contiguous(memory_format=self.format)
        return self._branch(main), None if other is None else self._branch(other), residual

    def fits(self, main: Branch, second: Branch) -> bool:
        """Whether activations and masks lie as after :meth:`lay_out`."""
        mask, second_mask = self.mask_strides
        return (
            main.x.is_contiguous(memory_format=self.format)
            and (mask is None or main.mask.stride() == mask)
            and (second.x is None or second.x.is_contiguous(memory_format=self.format))
            and (second_mask is None or second.mask.stride() == second_mask)
        )

    def _branch(self, branch: Branch) -> Branch:
        x, weight, bias, mean, var, mask = branch
        weight, bias = (v if v is None else v.contiguous() for v in (weight, bias))
        if not self.training:
            mean, var = mean.contiguous(), var.contiguous()
        if mask is not None and self.masks_last is None:
            mask = mask.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        return Branch(x.contiguous(memory_format=self.format), weight, bias, mean, var, mask)

    def partial_statistics(self, x: Tensor, x2: Tensor | None = None) -> Tensor:
        """Partial statistics [branches,2,chunks,C] of one activation or two. One launch."""
        branches = 1 if x2 is None else 2
        shape = (branches, 2, *self.chunks_of_statistics)
        partials = x.new_empty(shape, dtype=torch.float32)
        self._partial_statistics[branches](None, x, x2, partials)
        return partials

    def merge_statistics(self, partials: Tensor, running, momentum: float, chunk=None) -> Tensor:
        """Mean and biased variance, float32 [2 * branches,C]. One launch.

        Args:
            partials: [branches,2,chunks,C], of as many rows each as :meth:`partial_statistics`
                takes, or ``chunk``; the last shorter.
            running: a pair (mean, variance) [C] for each branch, updated in place; or None.
        """
        branches, _, chunks, channels = partials.shape
        key = branches, chunk, chunks
        if key not in self._merge_statistics:
            self._merge_statistics[key] = Launch(
                "merge_statistics",
                (-(-channels // MERGE_CHANNELS), branches),
                self.device,
                self.direct,
                {"num_warps": MERGE_WARPS},
                M=self.rows,
                C=channels,
                CHUNK=chunk or self.large.chunk,
                CHUNKS=chunks,
                BLOCK_S=merge_chunks(chunks),
                BLOCK_C=MERGE_CHANNELS,
            )
        statistics = partials.new_empty((2 * branches, channels))
        first, second = (*(running or ()), NO_PAIR, NO_PAIR)[:2]
        self._merge_statistics[key](
            running is None, partials, statistics, first, second, float(momentum)
        )
        for pair in running or ():
            # Autograd must notice that tensors which it saved before have changed.
            torch.autograd.graph.increment_version(pair)
        return statistics

    def apply_forward(self, main: Branch, other: Branch | None, residual, save_bits: bool):
        """``relu(mask * BN(x) + residual)`` by given statistics, and where its gradient passes.

        The bits [N*H*W, ceil(C/8)], or None. One launch.
        """
        out = torch.empty_like(main.x, memory_format=self.format)
        bits = out.new_empty(self.bits, dtype=torch.uint8) if save_bits else None
        self._apply_forward(save_bits, main, other or NO_BRANCH, residual, out, bits)
        return out, bits

    def reduce_gradients(self, grad_out: Tensor, main: Branch, other: Branch | None, bits, wanted):
        """The sums over rows that every other gradient needs, and the parameters' gradients.

        wanted: which of weight, bias, weight2, bias2 need a gradient. Returns float32
        [2 * branches,C] and four gradients or None. Two launches.
        """
        second = other or NO_BRANCH
        partials = grad_out.new_empty(self.partial_sums, dtype=torch.float32)
        self._partial_gradients(bits is None, grad_out, main, second, bits, partials)
        sums = partials.new_empty(self.sums)
        weight, bias, weight2, bias2 = wanted
        grads = (
            torch.empty_like(main.weight) if weight else None,
            torch.empty_like(main.bias) if bias else None,
            torch.empty_like(second.weight) if weight2 else None,
            torch.empty_like(second.bias) if bias2 else None,
        )
        var, var2 = main.var, second.var
        if self.widens_variances:
            var, var2 = var.float(), var2.float()
        self._merge_gradients(wanted, partials, sums, var, grads[:2], var2, grads[2:])
        return sums, grads

    def apply_backward(self, grad_out, main, other, bits, sums, inverse_count: float, wanted):
        """Gradients of x, residual and x2, each where ``wanted``. One launch.

        sums: of :meth:`reduce_gradients` over 1 / ``inverse_count`` rows, or None where the
        statistics were constants.
        """
        like, layout = main.x, self.format
        grads = [torch.empty_like(like, memory_format=layout) if w else None for w in wanted]
        launch, variant = self._apply_backward[sums is not None], (wanted, bits is None)
        second = other or NO_BRANCH
        launch(variant, grad_out, main, second, bits, sums, *grads, inverse_count)
        return grads


NO_PAIR = (None, None)


def elementwise(kernel: str, cut: Tiling, device: int, direct: bool, **values) -> Launch:
    """The launch of a kernel that passes over the activations once."""
    values = {**cut.sizes, "TILES": cut.tiles, **cut.constants, **values}
    return Launch(kernel, (cut.programs, 1), device, direct, **values)


def merge_chunks(chunks: int) -> int:
    """Chunks that a merging program holds at once, a power of two."""
    return min(MERGE_CHUNKS, power_of_two(chunks))


def masks_order(*masks: Tensor | None) -> bool | None:
    """Whether all masks lie in memory like channels_last images; None if they lie otherwise.

    False if all are contiguous. A network that runs in channels_last should keep its masks in
    that order: then eight mask bytes are one load.
    """
    given = [m for m in masks if m is not None]
    if all(m.permute(1, 2, 0).is_contiguous() for m in given):
        return True
    return False if all(m.is_contiguous() for m in given) else None
