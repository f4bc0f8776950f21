"""What a launcher would launch, caught just before Triton would compile it.

The real launchers run on meta tensors under a driver that claims a GPU of the wanted architecture.
Triton itself specialises the arguments (divisibility by 16, integers equal to 1, None), so what is
compiled here cannot drift from what runs.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from triton import JITFunction, knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from ...kernels import device

VECTOR = 16  # bytes of the widest access that all our architectures have


class Launch(NamedTuple):
    """One kernel with the arguments' types, constants and alignments, and compiler options."""

    function: JITFunction
    arch: int
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list]
    options: dict[str, Any]
    # Bytes that one access to each activation could have, by its memory format alone.
    widths: dict[str, int]

    @property
    def kernel(self) -> str:
        return self.function.__name__

    @property
    def identity(self) -> str:
        """Equal for launches that share one binary."""
        return repr((self.kernel, self.arch, *map(repr, self[2:6])))

    @property
    def parameters(self) -> list[str]:
        """Names of the arguments that are left at run time, in order."""
        return [name for name, kind in self.signature.items() if kind != "constexpr"]


def record(run: Callable[[], None], arch: int) -> list[Launch]:
    """The launches of ``run``, which works on meta tensors. Nothing is compiled.

    Args:
        arch: compute capability as a number, such as 90.
    """
    launches: list[Launch] = []
    arguments: dict[str, Any] = {}

    def remember(function: JITFunction, *args, **keywords) -> None:
        arguments.clear()
        arguments.update(zip(function.arg_names, args, strict=False), **keywords)

    def catch(*, fn, compile, **_) -> bool:
        function = fn.jit_function
        options = {k: v for k, v in arguments.items() if k not in function.arg_names}
        widths = {name: widest_access(a) for name, a in arguments.items() if _activation(a)}
        launches.append(
            Launch(
                function,
                arch,
                compile["signature"],
                compile["constants"],
                compile["configs"][0],
                options,
                widths,
            )
        )
        return True  # tells Triton that this is dealt with

    functions = dict(device_functions())
    hooks = {name: partial(remember, function) for name, function in functions.items()}
    with claimed_gpu(arch), torch.no_grad():
        before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, catch
        for name, function in functions.items():
            function.add_pre_run_hook(hooks[name])
        try:
            run()
        finally:
            knobs.runtime.jit_cache_hook = before
            for name, function in functions.items():
                function.pre_run_hooks.remove(hooks[name])
    return launches


def device_functions() -> Iterator[tuple[str, JITFunction]]:
    """Every ``@triton.jit`` function of ``scotoma.kernels.device`` by its qualified name."""
    for found in pkgutil.iter_modules(device.__path__):
        module = importlib.import_module(f"{device.__name__}.{found.name}")
        for name, value in vars(module).items():
            if isinstance(value, JITFunction) and value.module == module.__name__:
                yield f"{found.name}.{name}", value


def widest_access(tensor: torch.Tensor) -> int:
    """Bytes that an access may have so that it never crosses from one row into the next.

    Rows are the channels of one position. Of a contiguous tensor, whose channels lie apart,
    nothing is demanded; the budget keeps what there is.
    """
    if not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.element_size()
    return math.gcd(tensor.shape[1] * tensor.element_size(), VECTOR)


def _activation(argument) -> bool:
    """Images [N,C,H,W], and kernels of convolutions, which are read the same way."""
    return isinstance(argument, torch.Tensor) and argument.dim() == 4


class ClaimedGPU:
    """As much of a Triton driver as a launch asks of one; what it launches does nothing.

    launches: how many there were.
    """

    def __init__(self, arch: int):
        self.arch, self.launches, self.utils = arch, 0, self
        self.launcher_cls = lambda source, metadata: self._launch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        # Triton keeps one cache of kernels a device: keep the architectures apart.
        return -self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024}

    def load_binary(self, name: str, *_) -> tuple:
        return None, name, 0, 0, 1024

    def _launch(self, *arguments) -> None:
        self.launches += 1


# One for each architecture, as compiled kernels, which Triton keeps, hold on to it.
_claimed = cache(ClaimedGPU)


@contextmanager
def claimed_gpu(arch: int) -> Iterator[ClaimedGPU]:
    """Triton compiles for ``arch`` and launches nothing, whatever device tensors are on."""
    before = driver._active  # reading driver.active would look for a GPU
    gpu = _claimed(arch)
    driver.set_active(gpu)
    try:
        yield gpu
    finally:
        driver.set_active(before)
