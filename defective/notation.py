"""The paper's own names for defective networks, parsed and printed.

::

    spec   = "standard" | term {"," term} [ "@" ("release" | "paper") ]
    term   = p "-" region [ "DC" | "SM" | "CM" | ("x" | "×") n ]
    region = "Bottom" | "Top" | "{" block {"," block} "}"

``p`` is the keep probability. Suffixes: DC, defective channels, which the release builds as a
narrower network; SM, one mask shared by all channels of a layer; CM, whole channels masked (ours,
the literal reading of the paper's DC); xN, N times as many channels in the named blocks.
``@paper`` puts masks where the paper's text says instead of where the release has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from .errors import UserError

Region = Literal["Bottom", "Top"] | tuple[int, ...]
Kind = Literal["neuron", "DC", "SM", "CM"]

_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
_REGION = re.compile(r"bottom|top", re.IGNORECASE)
_BLOCKS = re.compile(r"\{\s*\d+(\s*,\s*\d+)*\s*\}")
_SUFFIX = re.compile(r"(dc|sm|cm)|[x×](\d+)", re.IGNORECASE)
_PLACEMENT = re.compile(r"release|paper", re.IGNORECASE)
_EXAMPLE = "write it like 0.3-Bottom, 0.7-Bottom,0.3-Top, 0.1-BottomDC, 0.3-Bottomx2 or standard"


@dataclass(frozen=True)
class Term:
    """One defect: keep probability ``p`` on the blocks of ``region``."""

    keep_probability: float
    region: Region
    kind: Kind = "neuron"
    width_factor: int = 1

    def __str__(self) -> str:
        blocks = self.region
        region = blocks if isinstance(blocks, str) else "{" + ",".join(map(str, blocks)) + "}"
        kind = "" if self.kind == "neuron" else self.kind
        width = "" if self.width_factor == 1 else f"x{self.width_factor}"
        p = format(Decimal(repr(self.keep_probability)).normalize(), "f")
        return f"{p}-{region}{kind}{width}"


@dataclass(frozen=True)
class Defects:
    """A defect specification. ``str()`` prints it in the paper's form.

    Attributes:
        terms: what is defective; empty for a standard network.
        sites: "release" or "paper" placement, or None if the text leaves it open.
    """

    terms: tuple[Term, ...] = ()
    sites: Literal["release", "paper"] | None = None

    def __str__(self) -> str:
        placement = f"@{self.sites}" if self.sites else ""
        return (",".join(map(str, self.terms)) or "standard") + placement

    @classmethod
    def parse(cls, text: str | Defects) -> Defects:
        """Read the paper's notation, in any case of letters.

        Raises:
            UserError: with the position of the mistake, counted from 1.

        >>> str(Defects.parse("0.7-bottom, 0.30-TOP"))
        '0.7-Bottom,0.3-Top'
        """
        return text if isinstance(text, Defects) else _Parser(str(text)).spec()


class _Parser:
    def __init__(self, text: str):
        self.text, self.at = text, 0

    def fail(self, expected: str, at: int | None = None):
        position = (self.at if at is None else at) + 1
        rest = self.text[position - 1 :]
        found = repr(rest[:12]) if rest else "the end"
        raise UserError(
            f"defects {self.text!r}, position {position}: expected {expected}, "
            f"found {found}; {_EXAMPLE}"
        )

    def take(self, pattern: re.Pattern | str) -> re.Match | None:
        match = re.compile(pattern).match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def expect(self, pattern: re.Pattern | str, name: str) -> re.Match:
        return self.take(pattern) or self.fail(name)

    def spec(self) -> Defects:
        self.take(r"\s*")
        terms: list[Term] = []
        if not self.take(re.compile(r"standard", re.IGNORECASE)):
            self.term(terms)
            while self.take(r"\s*,\s*"):
                self.term(terms)
        sites = None
        if self.take(r"\s*@\s*"):
            sites = self.expect(_PLACEMENT, "'release' or 'paper'")[0].lower()
        self.take(r"\s*")
        if self.at < len(self.text):
            self.fail("the end, a comma, or one of DC, SM, CM, x2" if terms else "the end")
        return Defects(tuple(terms), sites)

    def term(self, terms: list[Term]) -> None:
        start = self.at
        p = float(self.expect(_NUMBER, "a keep probability")[0])
        if not 0 < p <= 1:
            self.fail("a keep probability in (0, 1]", start)
        self.expect(r"\s*-\s*", "'-'")
        region_at = self.at
        if blocks := self.take(_BLOCKS):
            region = tuple(sorted({int(n) for n in re.findall(r"\d+", blocks[0])}))
        else:
            region = self.expect(_REGION, "Bottom, Top or {0,1,2}")[0].capitalize()
        if any(region == other.region for other in terms):
            self.fail(f"each region once ({region} is named twice)", region_at)
        kind, factor, suffix_at = "neuron", 1, self.at
        if suffix := self.take(_SUFFIX):
            kind = suffix[1].upper() if suffix[1] else "neuron"
            factor = int(suffix[2] or 1)
            if suffix[2] and factor < 2:
                self.fail("a width factor of 2 or more", suffix_at)
        terms.append(Term(p, region, kind, factor))
