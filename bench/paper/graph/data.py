"""The images of an experiment: which, where, and how much of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....defective.errors import UserError
from ....train.contents import files_digest, files_in
from ....train.datasets import DATASETS, TINY_FOLDER, default_root
from .artefact import Artefact
from .store import Store

TINY_IMAGES = {"train": 100_000, "val": 10_000}
"""Of the archive of Tiny-ImageNet."""


@dataclass(frozen=True)
class Data:
    """A data set, by name, as an image folder, or as an artefact that is an image folder.

    Attributes:
        role: the paper's data set that it stands for: cifar10, mnist, tiny-imagenet, imagenet.
        dataset: a name or a folder's path; "" with ``made_by``. content: of a folder, as of
            :func:`folder_content`; of a name, as of :func:`named_content`.
        image_size, train_limit: as settings of training.
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
        found = {
            "dataset": named or self.content,
            "image_size": self.image_size,
            "train_limit": self.train_limit,
        }
        return found | ({"content": self.content} if named and self.content else {})

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
    """A hash of a folder's files: their names below it, which a move leaves as they are, sizes,
    and contents where sizes tell too little (:func:`scotoma.train.contents.files_digest`).

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
    files = files_in(folder)
    if not files:
        raise UserError(f"{option} {folder}: no files in it; expected <class>/<image> in it")
    return files_digest(files)


def named_content(dataset: str, root: str | None) -> str:
    """A hash of what lies in a named data set's folder, where nothing else vouches for it, or "".

    That is ImageNet, whatever it is; and Tiny-ImageNet if it has not the archive's number of
    images. A folder that is not there yet has none: what a download brings is verified.
    """
    folder = (Path(root) if root else default_root()) / dataset
    if dataset == "tiny-imagenet":
        folder /= TINY_FOLDER
    elif dataset != "imagenet":
        return ""
    files = files_in(folder) if folder.is_dir() else []
    images = Counter(name.partition("/")[0] for name, _ in files if name.endswith(".JPEG"))
    if dataset == "tiny-imagenet" and TINY_IMAGES.items() <= images.items():
        return ""
    return files_digest(files) if files else ""
