"""What argument parsers say, in one line for people."""

from __future__ import annotations

from ..defective.errors import nearest


def tidy(message: str, options) -> str:
    """One line of an argument parser's message, with the option that was perhaps meant."""
    line = " ".join(str(message).split()).replace("typing.", "").replace("Parser key", "setting")
    if "nrecognized arguments:" in line:
        word = line.split("nrecognized arguments:")[1].split()[0].split("=")[0]
        known = [option for option in options if option.startswith("--") and "+" not in option]
        return f"unknown option {word!r}.{nearest(word, known)}"
    return line
