"""The whole page: a part for each device, what the words mean, where the figures come from."""

from __future__ import annotations

from collections.abc import Sequence

from .document import Block, Code, Document, Heading, Paragraph, Strong, Table
from .figures import listed, whole
from .load import Loaded
from .sections import (
    attacks,
    changes,
    conditions,
    convergence,
    gaps,
    layers,
    losses,
    profile,
    roofline,
    steps,
    targets,
)
from .sections.album import Album

GPU, CPU = "cuda", "cpu"
TITLE = "Measured performance"

HOW = (
    "Contestants do the same work on the same data in turns, another one first in each round, "
    "after compilation, capture and warm-up; only those of one run are compared. A time is the "
    "median over all rounds; ranges and whiskers go from the 10 % to the 90 % quantile. Every "
    "figure comes from a row of results that names its device, versions, commit and clocks, and "
    "cases that we lose are listed first."
)
TO_MEASURE = (
    ("whether the kernels are right: tests, sanitizer", "make gpu-check"),
    ("all of the following, in calls of ten minutes", "make gpu-bench"),
    ("whole steps: images per second, cost of masks, memory", "scotoma bench step"),
    ("the operator at every site of the six networks", "scotoma bench layers"),
    ("operators against bandwidth and matrix ceilings", "scotoma bench roofline"),
    ("where a step's time goes, by family of kernels", "scotoma profile resnet18"),
    ("seconds until a network reaches an accuracy", "scotoma bench convergence"),
    ("attacks beside foolbox's, at equal results", "scotoma bench attacks"),
    ("this page again, from what was measured", "scotoma bench report"),
)
GLOSSARY = (
    ("eager", "PyTorch as it comes, one kernel an operation"),
    ("compile", "the same network through torch.compile"),
    ("max-autotune", "torch.compile with mode max-autotune, which tries more kernels"),
    ("eager-fp16", "eager in float16, where PyTorch takes cuDNN's batch norm"),
    ("released", "the layer of the paper's release under autocast, whose masks are float32"),
    ("fused", "batch norm, mask, addition and ReLU by our Triton kernels; ours, in other tables"),
    ("fused-conv", "fused, with convolutions of ours where those measured faster"),
    ("fused-compile", "our kernels inside a network that torch.compile compiled"),
    ("-graph", "the whole step captured in a CUDA graph and replayed"),
    ("reference", "plain float32 PyTorch, as the paper's release does it, images from workers"),
    ("training step", "batch, augmentation, forward, backward, update, as scotoma train does it"),
    ("PGD step", "one step of an attack: the gradient for the images, and their update"),
    ("standard, 0.3-Bottom", "no masks; masks that keep 30 % in the network's bottom layers"),
    ("cold, hot", "operands come from device memory; the same operands again and again"),
    ("graph, wall", "the GPU's clock under graph replay; the host's clock, launches included"),
    ("% of copy", "bytes that must move, over the time, of the bandwidth of a large copy"),
    ("peak, saved", "most memory allocated in a step; bytes kept from forward for backward"),
    ("1.30x", "times faster; above 1 the contestant named in the column is the slower one"),
)


def build(loaded: Loaded, cpu: bool = False) -> Document:
    """The page of what the files hold.

    Args:
        cpu: with a part for figures of a CPU, which are left out otherwise.
    """
    album = Album()
    devices = loaded.devices(GPU)
    page = Document(TITLE)
    page.blocks += [
        Paragraph(
            (
                "How fast scotoma's kernels are beside PyTorch's own. ",
                Code("scotoma bench report"),
                " writes this page from rows of results: edit nothing here.",
            )
        ),
        Paragraph(HOW),
    ]
    page.blocks += _nothing_yet() if not devices else []
    for device in devices:
        page.blocks += [Heading(2, device), *_device(loaded, GPU, device, album)]
    if cpu:
        page.blocks += _cpu(loaded, album)
    page.blocks += [
        Heading(2, "What the words mean"),
        Table(["word", "meaning"], [[Code(word), text] for word, text in GLOSSARY], left=2),
        Heading(2, "Sources"),
        *_sources(loaded, cpu),
    ]
    return page


def _device(loaded: Loaded, kind: str, device: str, album: Album) -> list[Block]:
    rows = loaded.rows(kind, device)
    return [
        *conditions.blocks(rows, loaded.superseded[kind, device]),
        *(targets.blocks(rows) if kind == GPU else []),
        *losses.blocks(rows),
        *steps.blocks(rows, album),
        *attacks.blocks(rows),
        *profile.blocks(rows, album),
        *convergence.blocks(rows, album),
        *layers.blocks(rows, album),
        *roofline.blocks(rows, album),
        *gaps.blocks(rows),
        *changes.blocks(loaded.pairs(kind, device)),
    ]


def _nothing_yet() -> list[Block]:
    lines = [[what, Code(command)] for what, command in TO_MEASURE]
    words = "No figure exists yet: there are no results of a GPU."
    return [
        Heading(2, "No figure yet"),
        Paragraph((Strong(words), " On a machine with an NVIDIA GPU these commands make them:")),
        Table(["what is measured", "command"], lines, left=2),
        *targets.blocks([]),
    ]


def _cpu(loaded: Loaded, album: Album) -> list[Block]:
    warning = Paragraph(
        Strong(
            "Figures of a CPU show only that the commands work. They say nothing about the kernels "
            "or about any GPU."
        )
    )
    found: list[Block] = []
    for device in loaded.devices(CPU):
        found += [Heading(2, f"{device} (no GPU)"), warning]
        found += _device(loaded, CPU, device, album)
    return found or [Heading(2, "CPU"), Paragraph("There are no results of a CPU.")]


def _sources(loaded: Loaded, cpu: bool) -> list[Block]:
    notes = []
    unused = sum(case[0] == CPU for case in loaded.cases)
    if unused and not cpu:
        notes.append(
            f"{unused:,} cases measured on a CPU are left out; the option --cpu shows them."
        )
    if loaded.unknown:
        names = listed(f"{name} ({count:,})" for name, count in loaded.unknown.items())
        notes.append(f"Left out, rows of benchmarks that this page does not know: {names}.")
    found: list[Block] = [Paragraph(note) for note in notes]
    if loaded.files:
        found.append(Table(["file", "rows", "damaged lines"], _files(loaded)))
    return found or [Paragraph("There are no files of results.")]


def _files(loaded: Loaded) -> Sequence[Sequence]:
    lines = []
    for path, count in loaded.files.items():
        damaged = loaded.damaged.get(path, {})
        why = "; ".join(f"{number:,} {reason}" for reason, number in sorted(damaged.items()))
        lines.append([Code(path.as_posix()), whole(count), why or "none"])
    return lines
