"""The contestants: ways to run the same network."""

from __future__ import annotations

from dataclasses import dataclass

from .case import WORKS

AUTOTUNED = "max-autotune-no-cudagraphs"


@dataclass(frozen=True)
class Way:
    """How a contestant runs a network.

    Attributes:
        text: for people.
        backend: of the defective layers; "auto" lets measured convolutions be fused too.
        compile: torch.compile mode, or "none". graph: the whole step is one CUDA graph.
        released: float32, NCHW, images augmented by loader workers, as the paper's release does.
        contiguous: float32 and NCHW, whatever the case's dtype, and all else as ``eager``.
    """

    text: str
    backend: str = "eager"
    compile: str = "none"
    graph: bool = False
    released: bool = False
    contiguous: bool = False

    def dtype(self, dtype: str) -> str:
        """The precision in which this way runs a case of ``dtype``."""
        return "float32" if self.released or self.contiguous else dtype


WAYS = {
    "reference": Way(
        "float32 (convolutions in TF32, as torch has it), NCHW, eager, images from loader workers",
        released=True,
    ),
    "contiguous": Way("float32, NCHW, images on the device: torch's defaults", contiguous=True),
    "eager": Way("autocast, channels_last, images on the device"),
    "compile": Way("eager under torch.compile", compile="default"),
    "max-autotune": Way(
        "eager under torch.compile(mode='max-autotune'): CUDA graphs of forward and of backward",
        compile="max-autotune",
    ),
    "fused": Way("the fused Triton operators", "triton"),
    "fused-conv": Way("fused, convolutions too where that measured faster", "auto"),
    "fused-compile": Way("fused under torch.compile", "triton", "default"),
    "eager-graph": Way("eager as one CUDA graph", graph=True),
    "compile-graph": Way("compile as one CUDA graph", compile="default", graph=True),
    "max-autotune-graph": Way(
        "torch.compile(mode='max-autotune-no-cudagraphs') as one CUDA graph",
        compile=AUTOTUNED,
        graph=True,
    ),
    "fused-graph": Way("fused as one CUDA graph", "triton", graph=True),
    "fused-compile-graph": Way("fused-compile as one CUDA graph", "triton", "default", graph=True),
}
ON_GPU = tuple(name for name in WAYS if name not in ("reference", "contiguous", "fused-conv"))
ON_CPU = ("contiguous", "eager", "compile")


def explained() -> str:
    """Works and contestants, for the end of a help text."""
    contestants = {name: way.text for name, way in WAYS.items()}
    return "\n".join(
        f"{title}:\n" + "\n".join(f"  {name:20} {text}" for name, text in found.items())
        for title, found in (("works", WORKS), ("contestants", contestants))
    )
