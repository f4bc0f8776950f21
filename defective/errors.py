"""The error for bad input from outside, and words for people. Needs no torch."""

import re
import sys


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it: a command stops as at Ctrl-C."""


class UserError(ValueError):
    """Bad input. The message names what was given, what was expected, and the fix.

    The command line prints it as one line, without a traceback, and exits with status 2.
    """


class RankError(UserError):
    """Bad input that one of several processes met alone."""


def lacking(error: ModuleNotFoundError) -> UserError:
    """A library that is not installed, as an error for people.

    Raises:
        ModuleNotFoundError: ``error`` itself, if what is missing is a part of scotoma.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", __name__.partition(".")[0]):
        raise error
    package = {"yaml": "PyYAML", "PIL": "pillow", "markdown_it": "markdown-it-py"}.get(
        module, module
    )
    fix = f"{sys.executable} -m pip install {package}"
    if extra := _extra_of(package):
        fix = f"it comes with the extra {extra!r} (scotoma[{extra}]), or alone: {fix}"
    return UserError(f"needs {package}, which is not installed: {fix}")


def check_installed(*modules: str) -> None:
    """For work that needs libraries only when hours have passed.

    Raises:
        UserError: one of the modules is not there.
    """
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise lacking(ModuleNotFoundError(name=module))


def _extra_of(package: str) -> str | None:
    """The extra of scotoma that brings a package, if one does."""
    from importlib import metadata

    try:
        needed = metadata.requires("scotoma") or []
    except metadata.PackageNotFoundError:  # run from a checkout
        return None
    for line in needed:
        found = re.match(r"([\w.-]+).*extra == [\"'](\w+)", line)
        if found and found[1].lower() == package.lower():
            return found[2]
    return None


def nearest(word: str, known) -> str:
    """`` Did you mean 'x'?`` for the known word nearest to ``word``, or an empty string."""
    import difflib

    by_lower = {str(k).lower(): str(k) for k in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {by_lower[found[0]]!r}?" if found else ""


def counted(number: int, word: str) -> str:
    """``1 epoch``, ``2 epochs``, ``1,000 classes``."""
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number:,} {word}{ending}"
