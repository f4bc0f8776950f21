"""The page of a table or figure: ours, the paper's and the difference, and how ours came about."""

from .build import Page, build_page
from .grid import why_apart
from .head import tally
from .write import write_page

__all__ = ["Page", "build_page", "tally", "why_apart", "write_page"]
