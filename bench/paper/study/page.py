"""A study as one HTML file that loads nothing, asks, and saves what was answered."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ....defective.errors import UserError
from ....defective.serialization import atomic_path
from ...report.document import clean
from . import limits
from .pairs import FORMAT, QUESTION, Pair, Study

_HERE = Path(__file__).parent
_SCRIPTS = ("draw.js", "result.js", "keep.js", "page.js")


def write_page(study: Study, path: str | os.PathLike) -> Path:
    """Write the page, whole or not at all; equal for equal studies.

    It works from a disk, without a network, on telephones too. Answers stay in the browser until
    the person saves them as ``study-DIGEST-PERSON.json``, which
    :func:`scotoma.bench.paper.study.results.read_results` reads.

    Args:
        path: of the HTML file; folders above it are made.

    Raises:
        UserError: ``path`` does not end in .html or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UserError(f"{path} is no name for a page; give a file that ends in .html")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(page(study), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another file") from error
    return path


def page(study: Study) -> str:
    """The text of the HTML file."""
    style, script = _read("page.css"), _script()
    # Nothing may be loaded, sent or run but these very scripts and styles, whatever the names of
    # classes hold.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(clean(study.title)),
        "longest": str(limits.LONGEST_NAME),
        "style": style,
        "script": script,
        "study": _data(study),
    }
    # All at once: what is put in is not searched for further places.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _read("page.html"))


def _data(study: Study) -> str:
    """What the script reads, as JSON that no HTML parser takes for markup."""
    data = {
        "format": FORMAT,
        "digest": study.digest,
        "title": study.title,
        "question": QUESTION,
        "groups": study.groups,
        "settings": study.settings,
        "seed": study.seed,
        "perPerson": study.per_person,
        "pairs": [_pair(pair) for pair in study.pairs],
    }
    # ASCII only, so that U+2028 and its like are escaped already.
    text = json.dumps(data, allow_nan=False, ensure_ascii=True)
    return re.sub("[<>&]", lambda sign: f"\\u{ord(sign[0]):04x}", text)


def _pair(pair: Pair) -> dict:
    height, width, _ = pair.images[0].shape
    return {
        "number": pair.number,
        "labels": pair.labels,
        "width": width,
        "height": height,
        "images": [f"data:image/png;base64,{_png(image)}" for image in pair.images],
    }


def _png(image: np.ndarray) -> str:
    """A uint8 array [H,W,C] as a PNG file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@cache
def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _script() -> str:
    body = "\n".join(map(_read, _SCRIPTS))
    return f'"use strict";\n(() => {{\n{body}}})();'


def _digest(text: str) -> str:
    """How a content security policy names a text that may be used."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
