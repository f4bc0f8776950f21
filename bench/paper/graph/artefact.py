"""What a reproduction is made of: things in files, each named by what determines it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ....train.store import slug

if TYPE_CHECKING:
    from .context import Context
    from .store import Store

FORMAT = 1
"""Raised when equal settings come to mean another result: then nothing old is reused."""


class Artefact:
    """One node of the graph: a trained network, a choice of images, a set, a result.

    A subclass is a frozen dataclass. Its key is a hash of its kind, its settings and the keys of
    its inputs, so that it is known before anything is made: two tables that ask for the same thing
    find one file, and a reproduction that was stopped finds what it had.

    Attributes:
        kind: names the folder of its files. suffix: of its file; "" for a folder.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """For people: a part of the file's name. Made of what determines the artefact, and of
        nothing else: the same key has the same file."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Plain values that determine the artefact beside its inputs; no places, no devices."""
        raise NotImplementedError

    def inputs(self) -> tuple[Artefact, ...]:
        """What has to be there before."""
        raise NotImplementedError

    def make(self, context: Context) -> None:
        """Make the file, or go on with what an earlier call began.

        Raises:
            UserError: it cannot be made. KeyboardInterrupt: it was stopped; the next call goes on.
        """
        raise NotImplementedError

    def is_done(self, store: Store) -> bool:
        return self.path(store).is_file()

    @property
    def affinity(self) -> str:
        """Artefacts of one affinity are made one after the other, since they load the same."""
        return self.key

    @cached_property
    def key(self) -> str:
        text = json.dumps(
            [FORMAT, self.kind, self.settings(), [each.key for each in self.inputs()]],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, store: Store) -> Path:
        return store.folder / self.kind / f"{slug(self.label, 60)}-{self.key}{self.suffix}"


def closure(wanted: Iterable[Artefact]) -> list[Artefact]:
    """All artefacts that ``wanted`` need, themselves included: each once, inputs first."""
    found: dict[str, Artefact] = {}

    def visit(artefact: Artefact) -> None:
        if artefact.key not in found:
            for each in artefact.inputs():
                visit(each)
            found[artefact.key] = artefact

    for artefact in wanted:
        visit(artefact)
    return list(found.values())
