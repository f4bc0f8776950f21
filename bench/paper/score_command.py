"""``scotoma paper study-score``: what the people of a user study chose."""

from __future__ import annotations

from pathlib import Path

from ...defective.errors import UserError
from ...train.settings import Parser, add_picture_format, make_parser
from ..report.output import Place, write
from .study.page_data import read_page
from .study.report import document, show
from .study.results import read_results
from .study.score import MINIMUM, score

_TEXT = """\
Evaluate the files that people saved at the end of the page of 'scotoma paper study'. With --page
each is held against what its seed draws from that page, and refused if it was edited."""


def make_score_parser() -> Parser:
    parser = make_parser("paper study-score", _TEXT)
    parser.add_argument("files", nargs="+", metavar="FILE", help="result files, or folders of them")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="index.html",
        help="that people answered, as 'scotoma paper study' wrote it",
    )
    parser.add_argument(
        "--minimum",
        type=int,
        default=MINIMUM,
        metavar="N",
        help="answers from which on a person who stopped early counts",
    )
    parser.add_argument(
        "--out", default="study-score", help="folder for the page, as Markdown and HTML"
    )
    add_picture_format(parser, "also write the picture in this format")
    return parser


def main(argv: list[str]) -> int:
    """Print statistics and write a page.

    Raises:
        UserError: a file that is no result or that was edited, results of different studies, a
            page that is none, nobody who counts, or no place to write to.
    """
    arguments = make_score_parser().parse_args(argv)
    out = Path(arguments.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if arguments.minimum < 1:
        raise UserError(f"--minimum is {arguments.minimum}; expected 1 or more")
    asked = None if arguments.page is None else read_page(arguments.page)
    results = read_results([Path(file) for file in arguments.files], asked)
    scores = score(results, arguments.minimum)
    show(scores)
    page = out / "score.html"
    write(document(scores), Place(out / "score.md", page, arguments.picture_format))
    print(f"page {page}")
    return 0
