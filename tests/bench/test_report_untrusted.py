"""Rows are not trusted: nothing in them is markup, a link, or a way to break the page."""

import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from report_rows import (
    HOSTILE,
    convergence,
    layer,
    one_of_each,
    operator,
    profile,
    row,
    step,
    text_of,
    written,
)
from scotoma.bench.report import command, load, page, schema
from scotoma.bench.report.document import Bullets, Code, Document, Link, Paragraph, Strong, Table


class Tags(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.values, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.values += attrs

    def handle_data(self, data):
        self.words.append(data)


def hostile_rows():
    site = {"name": HOSTILE, "users": HOSTILE}
    clocks = {"clocks.sm": HOSTILE}
    rows = [
        step("fused", 100.0, arch=HOSTILE, defects=HOSTILE, work=HOSTILE, clocks=clocks),
        step(HOSTILE, 90.0, arch=HOSTILE, defects=HOSTILE, work=HOSTILE, problems=[HOSTILE]),
        *(layer("ours", 3.0, site=site), layer(HOSTILE, 2.0, site=site)),
        *(operator("triton", 3.0, operator=HOSTILE), operator(HOSTILE, 2.0, operator=HOSTILE)),
        convergence(HOSTILE, 0, 5.0, dataset=HOSTILE),
        profile(
            HOSTILE, trace="../../" + HOSTILE, families={HOSTILE: profile("x")["families"]["gaps"]}
        ),
        row(HOSTILE),
    ]
    for number, one in enumerate(rows):
        one["machine"] |= {"device": HOSTILE, "torch": HOSTILE, "commit": HOSTILE}
        rows[number] = one
    return rows


def test_nothing_in_a_row_is_markup(tmp_path):
    """Drawn, too: a formula or an odd character in a name breaks no picture."""
    path = written(tmp_path / "rows.jsonl", hostile_rows())
    out = tmp_path / "out" / "page.md"
    options = [str(path), "--out", str(out), "--html", str(tmp_path / "page.html")]
    assert command.main(options) == 0
    seen = "$\\bad{$ a|b <script>alert(1)</script> **c** `d` [e](http://f) \\| [2J # h & i"

    web = Tags((tmp_path / "page.html").read_text())
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(web.tags)
    assert not [name for name, _ in web.values if name.startswith("on")]
    sources = [value for name, value in web.values if name == "src"]
    assert len(sources) == 5 and all(s.startswith("data:image/png;base64,") for s in sources)
    links = [value for name, value in web.values if name == "href"]
    assert links and all(link.startswith("#part-") for link in links)
    assert web.words.count(seen) > 10 and "\u202e" not in "".join(web.words)

    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(out.read_text())
    inline = [child for token in tokens for child in token.children or ()]
    assert not [t for t in inline if t.type == "html_inline"]
    blocks = {t.content.strip() for t in tokens if t.type == "html_block"}
    assert all(b.startswith(("<details>\n<summary>", "</details>")) for b in blocks)
    assert not [t for t in inline if t.type == "link_open" and "http" in t.attrs["href"]]
    texts = [t for t in tokens if t.type == "inline"]
    plain = ["".join(c.content for c in t.children if c.content) for t in texts]
    assert any(text == seen for text in plain) and sum(seen in text for text in plain) > 10
    # A table whose cells were parted by a row's pipe would be short of cells elsewhere.
    rendered = Tags(parser.render(out.read_text()))
    assert rendered.tags.count("table") == len(re.findall(r"^\| ---", out.read_text(), re.M))


@pytest.mark.parametrize(
    "text", [HOSTILE, "`", "``a`", "a\\|b", "|", "\\", " a ", "1. x", "- x", "+ x"]
)
def test_text_survives_markdown(tmp_path, text):
    cells = [text, Code(text), Strong(text), Link(text, tmp_path / "f (1).json")]
    document = Document("T", [Table(["n"] * 4, [cells]), Bullets([text]), Paragraph(text)])
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(text_of(document, tmp_path))
    found = [t for t in tokens if t.type == "inline"][5:]
    shown = ["".join(c.content for c in t.children if c.content) for t in found]
    expected = " ".join(
        text.replace("\x1b", "").replace("\u202e", "").replace("\ud800", "").split()
    )
    assert [s.strip() for s in shown] == [expected] * 6
    link = [c for t in found for c in t.children if c.type == "link_open"]
    assert [c.attrs["href"] for c in link] == ["f%20%281%29.json"]


def test_a_trace_elsewhere_is_not_linked(tmp_path, no_pictures):
    (tmp_path / "secret.json").write_text("")
    inside = tmp_path / "in"
    rows = [profile("fused", trace="../secret.json"), profile("eager", trace="t.json")]
    path = written(inside / "rows.jsonl", rows)
    case = inside / "profile" / "resnet18-standard-b512-train"
    case.mkdir(parents=True)
    for name in (inside / "t.json", case / "timeline.png"):
        name.write_text("")
    text = text_of(page.build(load.load([path])), tmp_path)
    assert "secret" not in text
    assert "[file](in/t.json)" in text
    assert f"[Timeline of a step]({case.relative_to(tmp_path)}/timeline.png)" in text


@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_a_timeline_is_linked_in_any_format(tmp_path, no_pictures, format):
    path = written(tmp_path / "rows.jsonl", [profile("fused")])
    (tmp_path / f"timeline.{format}").write_text("")
    text = text_of(page.build(load.load([path])), tmp_path)
    assert f"[Timeline of a step](timeline.{format})" in text


def test_every_benchmark_is_known_everywhere():
    assert set(schema.BENCHMARKS) == set(schema.KEYS)
    assert {r["benchmark"] for r in one_of_each()} == set(schema.BENCHMARKS)
    assert not [schema.fault(r) for r in one_of_each() if schema.fault(r)]
