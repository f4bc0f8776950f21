"""What is measured: networks, batches and kinds of work."""

from __future__ import annotations

from dataclasses import dataclass

WORKS = {
    "train": "a step of 'scotoma train': batch, augmentation, forward, backward, SGD",
    "evaluate": "logits and the count of right answers, without gradients",
    "pgd": "one step of PGD: the gradient for the images, and the update",
}
STANDARD = "standard"


@dataclass(frozen=True)
class Case:
    """One network on one batch size, in several variants that are timed in turns.

    Attributes:
        arch: architecture. defects: its variants, in the paper's notation.
        batch_size: images. work: one of ``WORKS``.
        dtype: of activations, by autocast: "float32", "bfloat16" or "float16".
        image_size: side of the images in pixels. width: base width; None for the paper's.
    """

    arch: str
    defects: tuple[str, ...]
    batch_size: int
    work: str
    dtype: str
    image_size: int = 32
    width: int | None = None

    def __str__(self) -> str:
        width = "" if self.width is None else f" width {self.width}"
        size = "" if self.image_size == 32 else f" {self.image_size} px"
        return f"{self.work} {self.arch}{width}{size} batch {self.batch_size} {self.dtype}"
