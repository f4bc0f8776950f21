"""The images of an experiment: which, where, and how much of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....defective.errors import UserError
from ....train.datasets import DATASETS
from .artefact import Artefact
from .store import Store


@dataclass(frozen=True)
class Data:
    """A data set, by name, as an image folder, or as an artefact that is an image folder.

    Attributes:
        role: the paper's data set that it stands for: cifar10, mnist, tiny-imagenet, imagenet.
        dataset: a name or a folder's path; "" with ``made_by``. content: of a folder, a hash of
            its files' names and sizes. image_size, train_limit: as settings of training.
        root, download: where named data sets live, and whether to fetch them; decide nothing else.
        made_by: the artefact that is the image folder.
        stylized: a folder of stylised test images, or "". stylized_content: a hash as ``content``.
    """

    role: str
    dataset: str
    content: str = ""
    image_size: int | None = None
    train_limit: int | None = None
    root: str | None = None
    download: bool = False
    made_by: Artefact | None = None
    stylized: str = ""
    stylized_content: str = ""

    def settings(self) -> dict[str, Any]:
        """What determines the images: a moved folder is the same."""
        named = self.dataset if self.dataset in DATASETS else ""
        return {
            "dataset": named or self.content,
            "image_size": self.image_size,
            "train_limit": self.train_limit,
        }

    def inputs(self) -> tuple[Artefact, ...]:
        return () if self.made_by is None else (self.made_by,)

    def location(self, store: Store) -> str:
        """A name, or the folder."""
        return self.dataset if self.made_by is None else str(self.made_by.path(store) / "images")

    def stylized_folder(self, store: Store) -> Path | None:
        """Stylised copies of the test images; None where there are none."""
        if self.stylized:
            return Path(self.stylized)
        return None if self.made_by is None else self.made_by.path(store) / "stylized"

    @property
    def label(self) -> str:
        """For names of files; a folder may be moved."""
        if self.made_by is not None:
            return self.made_by.label
        return self.dataset if self.dataset in DATASETS else "folder"


def folder_content(folder: Path, option: str = "--data") -> str:
    """A hash of the names and sizes of a folder's files: cheap, and moved folders stay the same.

    Args:
        option: that named the folder, for messages.

    Raises:
        UserError: no such folder, or an empty one.
    """
    if not folder.is_dir():
        raise UserError(
            f"{option} {folder}: no such image folder, and no data set of that name; expected "
            "<class>/<image> in it, or a name of 'scotoma train --help'"
        )
    digest, count = hashlib.sha256(), 0
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name}\n{path.stat().st_size}\n".encode())
            count += 1
    if not count:
        raise UserError(f"{option} {folder}: no files in it; expected <class>/<image> in it")
    return digest.hexdigest()[:32]
