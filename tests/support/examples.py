"""Scripts of docs/examples, run in this process."""

import runpy
import sys
from pathlib import Path
from unittest import mock

import torch

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"


def run_example(name, *arguments):
    """Run a script as a command would; the names that it leaves behind."""
    words = [name, *map(str, arguments)]
    with mock.patch.object(sys, "argv", words), torch.random.fork_rng():
        return runpy.run_path(str(FOLDER / name), run_name="__main__")
