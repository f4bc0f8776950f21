"""A page as Markdown and as one HTML file: nothing in its words is markup, nothing is lost."""

import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from report_rows import HOSTILE
from scotoma.defective import UserError
from scotoma.train.pages import (
    BREAK,
    Page,
    badge,
    clean,
    code,
    inline,
    joined,
    soft,
    strong,
    write_files,
)


class Seen(HTMLParser):
    """Tags, attributes and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def drawn():
    figure = Figure(figsize=(1, 1))
    figure.subplots()
    return figure


def page_of(words, folder):
    page = Page(words, folder)
    page.heading(words)
    page.paragraph(words)
    page.paragraph(strong(words), " ", soft(words), BREAK, badge(words, "bad"), code(words))
    page.bullets([words, ("first ", words)])
    page.table(([words, "b"], [[words, strong(words)], [code(words), None]]))
    page.picture("drawn", drawn(), words, wide=True)
    with page.folded(words):
        page.paragraph(page.link(words, folder / "f (1).json"))
    return page


def test_nothing_in_words_is_markup(tmp_path):
    page = page_of(HOSTILE, tmp_path)
    seen = Seen(page.html())
    ours = {"b", "br", "small", "strong", "code", "details", "summary", "nav", "img", "table", "a"}
    rest = {"html", "head", "meta", "title", "style", "body", "div", "p", "ul", "li", "h1", "h2"}
    assert set(seen.tags) <= ours | rest | {"thead", "tbody", "tr", "th", "td"}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    sources = [value for name, value in seen.attributes if name == "src"]
    assert [source[:22] for source in sources] == ["data:image/png;base64,"]
    links = {value for name, value in seen.attributes if name == "href"}
    assert all(re.fullmatch(r"#part-\d+|f%20%281%29\.json", link) for link in links)
    words = clean(HOSTILE)
    assert seen.words.count(words) >= 13 and "\u202e" not in "".join(seen.words)
    assert page.html(tmp_path / "web").count('"../f%20%281%29.json"') == 1

    # GitHub sees the same: a bare address or a mention in words would be a link there.
    text = page.markdown()
    assert "http://" not in text.split("<summary>")[0] + text.split("</summary>")[1]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    raw = {c.content for t in tokens for c in t.children or () if c.type == "html_inline"}
    assert raw <= {
        *["<small>", "</small>", "</b>", "<br>", "<code>", "</code>"],
        '<b class="badge bad">',
    }
    assert [t.type for t in tokens].count("td_open") == 4


@pytest.mark.parametrize(
    "words", [HOSTILE, "`", "``a`", "a\\|b", "|", "\\", " a ", "1. x", "- x", "+ x", "= x", "a$b"]
)
def test_words_survive(tmp_path, words):
    page = Page("T", tmp_path)
    page.table(("nopq", [[words, code(words), strong(words), soft(words)]]))
    page.bullets([words])
    page.paragraph(words)
    found = Seen(page.html(tmp_path)).words
    assert [word.strip() for word in found].count(clean(words)) == 6


def test_an_index_with_a_name_is_shown_and_its_column_stays_in_sight(tmp_path):
    import pandas as pd  # machines with a GPU often lack it

    frame = pd.DataFrame({"n": ["1", None]}, index=pd.Index(["a", "b"], name="what"))
    page = Page("T", tmp_path)
    page.table(frame)
    page.table(frame.reset_index(), words=2, missing="")
    assert page.markdown() == (
        "# T\n\n| what | n |\n| --- | ---: |\n| a | 1 |\n| b | - |\n\n"
        "| what | n |\n| --- | --- |\n| a | 1 |\n| b |  |\n"
    )
    assert page.html().count('class="scrolls pinned"') == 1


def test_parts_are_joined():
    assert joined(["a*", strong("b")]) == "a\\*<br>**b**"
    assert inline(("a ", ("b", " "), code("c|d"))) == "a b <code>c\\|d</code>"
    assert [strong(""), soft(" "), badge("", "good"), code("")] == [""] * 4


@pytest.mark.parametrize("format", ["png", "svg", "pdf"])
def test_files_and_what_is_left_of_a_former_page(tmp_path, format):
    """A format no longer asked for goes, and what the page no longer shows; nothing else does."""
    markdown, html = tmp_path / "index.md", tmp_path / "web" / "index.html"

    def written(*names):
        page = Page("T", tmp_path)
        for name in names:
            page.picture(name, drawn(), "a picture")
        files = page.files(markdown, html, format if len(names) > 1 else "png")
        write_files(files)
        assert all(path.read_bytes() == data for path, data in files.items())
        return page, sorted(path.name for path in (tmp_path / "images").iterdir())

    page, names = written("a", "b")
    endings = {"png", format}
    assert names == sorted(f"{stem}.{ending}" for stem in "ab" for ending in endings)
    assert page.digest() in html.read_text() and "](images/a.png)" in markdown.read_text()
    (tmp_path / "images" / "own.png").write_bytes(b"somebody else's")
    assert written("b")[1] == ["b.png", "own.png"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.* cannot be written: .*; give another --out"):
        write_files(Page("T").files(tmp_path / "file" / "index.md"))
