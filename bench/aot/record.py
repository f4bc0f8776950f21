"""Every launch of a kernel as Triton would specialise it for a GPU, noted before it is compiled.

The real launchers run, on meta tensors or in Triton's interpreter, and Triton itself specialises
the arguments (divisibility by 16, integers equal to 1, None), so that what is compiled from here
cannot drift from what runs. No GPU is needed: a driver claims one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.interpreter import InterpretedFunction

from ...kernels import backends, fused, operator

VECTOR = 16  # bytes of the widest access that all our architectures have
# Who is told of a launch now: whoever keeps an uncompiled kernel may launch it again later.
_notes: list[Callable[[Launch], Any]] = []
ARCH = 90  # which one is claimed while launches are noted; no specialisation depends on it


class Launch(NamedTuple):
    """One kernel with the arguments' types, constants and alignments, and compiler options.

    Constants and attributes are keyed by paths: (2,) is the third argument, (2, 0) the first
    element of a tuple there.
    """

    module: str
    kernel: str
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list]
    options: dict[str, Any]
    # Bytes that one access to each activation could have, by its memory format alone.
    widths: dict[str, int]

    @property
    def function(self) -> JITFunction:
        return getattr(importlib.import_module(self.module), self.kernel)

    @property
    def identity(self) -> str:
        """Equal for launches that share one binary on each architecture."""
        return repr(self[:6])

    @property
    def arguments(self) -> dict[str, str | None]:
        """Type of every argument by name, elements of tuples on their own: "*bf16", "i32", None
        where it was left out; a constant's is its value, as text."""
        return {name: kind for name, kind, _ in self._known()}

    @property
    def features(self) -> frozenset[tuple]:
        """What a compiler may stumble over: kernel, argument, its type or value or absence, and
        what is known of its divisibility."""
        return frozenset((self.kernel, *known) for known in self._known())

    def _known(self) -> Iterator[tuple[str, str | None, str]]:
        for path, name, kind in _leaves(self.signature.items()):
            if kind == "constexpr":
                value = self.constants[path]
                kind = value if value is None else repr(value)
            yield name, kind, repr(self.attributes.get(path, []))

    @property
    def parameters(self) -> list[str]:
        """Names of the arguments that are left at run time, in order."""
        return [name for _, name, kind in _leaves(self.signature.items()) if kind != "constexpr"]


def record(run: Callable[[], Iterator[None]]) -> list[list[Launch]]:
    """The launches of ``run``, which works on meta tensors: of each part that ends with a yield,
    such as forward, and of the rest. Nothing is compiled or run."""
    parts: list[list[Launch]] = [[]]
    with noting(lambda launch: parts[-1].append(launch)):
        for _ in run():
            parts.append([])
    return parts


@contextmanager
def noting(note: Callable[[Launch], Any], interpret: bool = False) -> Iterator[None]:
    """Hand over every launch instead of making it.

    Args:
        interpret: where Triton's interpreter is on, make launches all the same, and leave the
            choice of a backend alone.
    """
    run_interpreted = InterpretedFunction.run

    def run(function: InterpretedFunction, *args, **keywords):
        with _driver(ARCH, recording=True), _compiling_nothing():
            _compiled_twin(function).run(*args, **keywords)
        return run_interpreted(function, *args, **keywords) if interpret else None

    _notes.append(note)
    try:
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(InterpretedFunction, "run", run))
            if not interpret:
                stack.enter_context(claimed_gpu(ARCH, recording=True))
                stack.enter_context(_compiling_nothing())
            yield
    finally:
        _notes.pop()


@cache
def _compiled_twin(function: InterpretedFunction) -> JITFunction:
    return JITFunction(function.fn, **function.kwargs)


@contextmanager
def _compiling_nothing() -> Iterator[None]:
    def compiled(function, key, signature, device, constants, options, attributes, warmup):
        default = function.device_caches[device][3].parse_options({})
        given = {k: v for k, v in vars(options).items() if v != getattr(default, k)}
        parts = function.module, function.__name__, signature, constants, attributes, given
        names = function.arg_names

        def launched(x, y, z, stream, function, packed, metadata, enter, leave, *values) -> None:
            found = {name: v for _, name, v in _leaves(zip(names, values, strict=True))}
            # Images [N,C,H,W], and kernels of convolutions, which are read the same way.
            images = {
                n: v for n, v in found.items() if isinstance(v, torch.Tensor) and v.dim() == 4
            }
            widths = {name: widest_access(image) for name, image in images.items()}
            _notes[-1](Launch(*parts, widths))

        # What launchers ask of a compiled kernel.
        nothing = {"function": None, "packed_metadata": None, "launch_metadata": lambda *_: None}
        return SimpleNamespace(run=launched, **nothing)

    with mock.patch.object(JITFunction, "_do_compile", compiled):
        yield


def _leaves(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[tuple[int, ...], str, Any]]:
    """Path, name and value of every argument; elements of a tuple by their fields or numbers."""
    for number, (name, value) in enumerate(items):
        if not isinstance(value, tuple):
            yield (number,), name, value
            continue
        fields = getattr(value, "_fields", range(len(value)))
        for path, field, leaf in _leaves(zip(map(str, fields), value, strict=True)):
            yield (number, *path), f"{name}.{field}", leaf


def widest_access(tensor: torch.Tensor) -> int:
    """Bytes that an access may have so that it never crosses from one row into the next.

    Rows are the channels of one position. Of a contiguous tensor, whose channels lie apart,
    nothing is demanded; the budget keeps what there is.
    """
    if not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.element_size()
    return math.gcd(tensor.shape[1] * tensor.element_size(), VECTOR)


class ClaimedGPU:
    """As much of a Triton driver as a launch asks of one; what it launches does nothing.

    launches: how many there were.
    """

    def __init__(self, arch: int, recording: bool):
        self.arch, self.launches, self.utils = arch, 0, self
        # Triton keeps one cache of kernels a device: keep apart what differs.
        self.device = -arch - 1000 * recording
        self.launcher_cls = lambda source, metadata: self._launch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024}

    def load_binary(self, name: str, *_) -> tuple:
        return None, name, 0, 0, 1024

    def _launch(self, *arguments) -> None:
        self.launches += 1


# The same one again, as compiled kernels, which Triton and our launchers keep, belong to it.
_claimed = cache(ClaimedGPU)


@contextmanager
def claimed_gpu(arch: int, recording: bool = False) -> Iterator[ClaimedGPU]:
    """Operators accept any device's tensors for ``backend="triton"``, Triton compiles for ``arch``,
    and nothing is launched. What was planned inside is forgotten."""
    with (
        _driver(arch, recording) as gpu,
        mock.patch.object(backends, "device_refusal", lambda device: None),
        mock.patch.dict(operator.plans, clear=True),
        mock.patch.dict(fused.plans, clear=True),
    ):
        yield gpu


@contextmanager
def _driver(arch: int, recording: bool) -> Iterator[ClaimedGPU]:
    before = driver._active  # reading driver.active would look for a GPU
    gpu = _claimed(arch, recording)
    driver.set_active(gpu)
    try:
        yield gpu
    finally:
        driver.set_active(before)
