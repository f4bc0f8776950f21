"""Results of evaluations: one JSON file a cell, found again by what determines it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...defective.errors import UserError
from ...defective.robustness.rates import check_results, mean_over_draws
from ...defective.serialization import atomic_path, check_seal, seal

FORMAT = 1
"""Of the cells; a change of what a number means is a new format, and old cells are made again."""


class Cells:
    """A folder of cells.

    A cell is a mapping with the keys ``kind`` (transfer, white-box, noise, ...), ``identity``
    (everything that determines the result, plain values), ``results`` (the numbers) and ``made``
    (versions, time, seconds). Its file's name holds a hash of kind and identity, so that a result
    is computed once, and an interrupted evaluation goes on where it stopped.

    Attributes:
        reused, computed: how many cells :meth:`get` found, and how many it made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.reused = self.computed = 0

    def path(self, kind: str, label: str, identity: dict[str, Any]) -> Path:
        """The file of a cell, whether it is there or not. The label is for people: a cell that
        was made under another one is found all the same."""
        text = json.dumps([FORMAT, kind, identity], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        there = sorted(self.folder.glob(f"{kind}-*-{digest}.json"))
        short = re.sub(r"[^A-Za-z0-9.,+-]+", "-", label).strip("-")[:80]
        return there[0] if there else self.folder / f"{kind}-{short}-{digest}.json"

    def get(
        self,
        kind: str,
        label: str,
        identity: dict[str, Any],
        compute: Callable[[], dict[str, Any]],
        *,
        shown: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], bool]:
        """(cell, whether it was there already); computed and written if it was not.

        Args:
            kind: of the cell. label: for people, goes into the file's name and into the cell.
            identity: plain values. compute: returns ``results``, plain values.
            shown: names for people, as ``results["shown"]``. Of a cell that was there these are
                the names of today, whatever things were called when it was made.

        Raises:
            UserError: the file that was there is no cell, or of something else than asked.
            OSError: it cannot be written.
        """
        path = self.path(kind, label, identity)
        if path.is_file():
            cell = self.read(path)
            if [cell["kind"], cell["identity"]] != json.loads(json.dumps([kind, identity])):
                raise UserError(
                    f"{path}: its content is of another result than its name; remove it, and it "
                    "is made again"
                )
            self.reused += 1
            if shown is not None:
                cell["results"]["shown"] = shown
            return cell, True
        start = time.perf_counter()
        results = compute()
        if shown is not None:
            results = {**results, "shown": shown}
        made = {
            "seconds": round(time.perf_counter() - start, 3),
            "scotoma": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        cell = {"format": FORMAT, "kind": kind, "label": label, "identity": identity}
        cell = seal({**cell, "results": results, "made": made})
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(cell, indent=1) + "\n")
        self.computed += 1
        return cell, False

    def all(self) -> list[dict[str, Any]]:
        """Every cell of this format, in the order of the files' names; other files are left out.

        Raises UserError as :meth:`read`.
        """
        files = sorted(self.folder.glob(f"*-*-{'[0-9a-f]' * 16}.json"))
        cells = [self.read(path) for path in files]
        return [cell for cell in cells if cell["format"] == FORMAT]

    def read(self, path: Path) -> dict[str, Any]:
        """A cell whose numbers can be. Raises UserError if the file is none."""
        try:
            cell = json.loads(path.read_text())
            if not {"format", "kind", "label", "identity", "results"} <= set(cell):
                raise ValueError("keys are missing")
            if not all(isinstance(cell[key], dict) for key in ("identity", "results")):
                raise ValueError("identity or results are no mapping")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: no result of an evaluation ({error}); remove it") from None
        check_seal(cell, path, "remove it, and it is made again")
        results = cell["results"]
        try:
            check_results(results)
            if cell["kind"] == "noise" and "per_draw" in results:
                # Version 0.1.0 counted every draw of an image as an image at first.
                results["accuracy"] = mean_over_draws(results["per_draw"])
        except (UserError, TypeError, KeyError, IndexError) as error:
            raise UserError(f"{path}: {error}; remove it, and it is made again") from None
        return cell
