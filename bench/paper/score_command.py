"""``scotoma paper study-score``: what the people of a user study chose."""

from __future__ import annotations

from pathlib import Path

from ...defective.errors import UserError
from ...train.commands.options import Parser, make_parser
from ..report.output import Place, write
from .study.report import document, show
from .study.results import read_results
from .study.score import score

_TEXT = """\
Evaluate the files that people saved at the end of the page of 'scotoma paper study'."""


def make_score_parser() -> Parser:
    parser = make_parser("paper study-score", _TEXT)
    parser.add_argument("files", nargs="+", metavar="FILE", help="result files, or folders of them")
    parser.add_argument(
        "--out", default="study-score", help="folder for the page, as Markdown and HTML"
    )
    return parser


def main(argv: list[str]) -> int:
    """Print statistics and write a page.

    Raises:
        UserError: a file that is no result, results of different studies, or no page to write.
    """
    arguments = make_score_parser().parse_args(argv)
    out = Path(arguments.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    scores = score(read_results([Path(file) for file in arguments.files]))
    show(scores)
    page = out / "score.html"
    write(document(scores), Place(out / "score.md", page))
    print(f"page {page}")
    return 0
