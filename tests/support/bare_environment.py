"""A Python environment as GPU machines often have it: torch, a few libraries, and nothing else."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "triton", "numpy", "einops", "safetensors", "rich", "matplotlib")
PACKAGES += ("tensorboard", "pytest", "hypothesis")
# Starts torch once for all: each command of a list runs in a fork, with its output in a file.
FORKS = """
import json, os, runpy, sys, traceback
import torch

statuses = []
for number, (words, environment) in enumerate(json.load(sys.stdin)):
    if not (child := os.fork()):
        status = 1
        try:
            log = os.open(f"{sys.argv[1]}/{number}", os.O_WRONLY | os.O_CREAT)
            for stream in (1, 2):
                os.dup2(log, stream)
            os.environ |= environment
            sys.argv[:] = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(statuses))
"""


def distributions():
    """Those of ``PACKAGES`` that are installed here, and all that they need."""
    names, seen = list(PACKAGES), set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        yield found
        needed = [need for need in found.requires or () if "extra ==" not in need]
        names += [re.match(r"[\w.-]+", need)[0] for need in needed]


def make(folder):
    """The interpreter of a new environment, whose packages are links to those that are here."""
    venv.EnvBuilder(symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "scotoma").symlink_to(ROOT)
    for found in distributions():
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(found.locate_file(top)).resolve())
    return folder / "bin" / "python"


def run_all(python, commands, folder):
    """Run ``python -m ...`` command lines, one after the other, on a machine without a GPU.

    Args:
        commands: (words, further environment).

    Returns:
        (status, output) of each.
    """
    folder.mkdir()
    unset = ("TRITON_INTERPRET", "PYTHONPATH" if python != sys.executable else "")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    result = subprocess.run(
        [python, "-c", FORKS, folder],
        input=json.dumps(commands),
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    texts = [(folder / str(number)).read_text() for number in range(len(commands))]
    return list(zip(json.loads(result.stdout.splitlines()[-1]), texts, strict=True))
