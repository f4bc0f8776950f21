"""The page of the user study without a browser: what is in it, and reading it back."""

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scotoma.bench.paper.study import page_data
from scotoma.bench.paper.study.page import page, write_page
from scotoma.bench.paper.study.page_data import PageData, read_page
from scotoma.bench.paper.study.result import HEAD
from scotoma.bench.paper.study.score import read_results
from scotoma.defective.errors import UserError
from study_pairs import changed, pair, result, saved, study

HOSTILE = "</td><script>alert(1)</script> **b** | $x$ [red]\x1b[2J"


class Places(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.policy, self.data = [], "", {}
        self.within = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.within = dict(attrs).get("id", tag)
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        self.data.setdefault(self.within, data)


def test_the_page_is_the_same_each_time_and_loads_nothing():
    text = page(study())
    assert text == page(study()) != page(study(seed=8)) and "{{" not in text
    found = Places(text)
    assert found.policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in found.policy and "http" not in found.policy.replace("https", "http")
    names = {name for _, attrs in found.tags for name in attrs}
    assert not names & {"src", "href", "action", "style", "onclick", "onerror"}
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in found.tags}
    assert "http://" not in text and "https://" not in text


def test_names_in_the_page_are_data():
    name = "</script><!--\u2028&{{title}}"
    asked = study(pairs=[pair(n, predicted=(name, name)) for n in range(6)], title=name)
    found = Places(page(asked))
    line = next(line for line in page(asked).split("\n") if 'id="study"' in line)
    assert not set("<>&\u2028") & set(line.split('id="study">')[1].removesuffix("</script>"))
    data = json.loads(found.data["study"])
    assert data["title"] == name and data["digest"] == asked.digest
    assert data["pairs"][0]["labels"] == ["</script><!-- &{{title}}"] * 2
    assert [tag for tag, _ in found.tags].count("script") == 2


def test_writing_the_page(tmp_path):
    path = write_page(study(), tmp_path / "new" / "page.html")
    assert path.read_text() == page(study()) and len(list(path.parent.iterdir())) == 1
    (tmp_path / "folder.html").mkdir()
    for bad in (tmp_path / "page.txt", tmp_path / "folder.html"):
        with pytest.raises(UserError, match="no name for a page"):
            write_page(study(), bad)
    with pytest.raises(UserError, match="cannot be written"):
        write_page(study(), path / "below.html")


def data_of(asked):
    """What a study's page has to say."""
    return PageData(asked.digest, **{k: getattr(asked, k) for k in HEAD}, numbers=asked.numbers)


def test_a_page_says_what_its_study_asks(tmp_path):
    """Results are held against either alike."""
    asked = study(title=HOSTILE, settings={"sizes": (1, 2.5), "</script>": None})
    path = write_page(asked, tmp_path / "page.html")
    assert read_page(path) == data_of(asked) == read_page(str(path))
    files = saved(tmp_path, result(asked, 1, 3), result(asked, 2, 3))
    assert read_results(files, read_page(path)) == read_results(files, asked)
    assert all(found.held for found in read_results(files, asked))
    other = read_page(write_page(study(seed=8), tmp_path / "other.html"))
    with pytest.raises(UserError, match="not of this one"):
        read_results(files, other)


def test_a_result_that_asks_of_no_page(tmp_path):
    """The pairs and sides of made-up files fit no page, whatever their seeds."""
    asked = study(40, 12)
    page_ = read_page(write_page(asked, tmp_path / "page.html"))
    made_up = result(asked, 1, 12)
    for place, answer in enumerate(made_up["answers"]):
        side = ("left", "right")[place % 2]
        answer |= {"pair": 1000 + place, "a_side": side, "side": side}
    [path] = saved(tmp_path, made_up)
    assert read_results([path])
    with pytest.raises(UserError, match="it was edited"):
        read_results([path], page_)


PAGE_CHANGES = [
    (changed(["format"], True), "format is True"),
    (changed(["digest"], "0"), "digest is '0'; expected 64"),
    (changed(["digest"], ["0"]), "digest is"),
    (changed(["title"], 3), "title is 3"),
    (changed(["groups"], []), "groups is"),
    (changed(["settings"], None), "settings is None"),
    (changed(["seed"], -1), "seed is -1"),
    (changed(["perPerson"], 1001), "per_person is 1001"),
    (changed(["perPerson"], 13), "pairs that are too few"),
    (changed(["pairs"], {}), "pairs is no list"),
    (changed(["pairs", 3], 7), "pairs is no list"),
    (changed(["pairs", 3, "number"], 1), "one that is there twice"),
    (changed(["pairs", 3, "number"], "1"), "a pair's number is '1'"),
    (lambda found: found["pairs"][3].pop("number"), "a pair's number is None"),
    (lambda found: found.pop("pairs"), "its study lacks 'pairs'"),
]


@pytest.mark.parametrize("change, words", PAGE_CHANGES, ids=[words for _, words in PAGE_CHANGES])
def test_a_page_that_is_damaged(tmp_path, change, words):
    text = page(study())
    data = Places(text).data["study"]
    found = json.loads(data)
    change(found)
    path = tmp_path / "page.html"
    path.write_text(text.replace(data, json.dumps(found)))
    with pytest.raises(UserError, match=words) as caught:
        read_page(path)
    assert str(caught.value).startswith(f"{path}: ") and "expected the page as" in str(caught.value)


@given(st.data())
def test_no_damage_of_a_page_ends_in_anything_but_a_user_error(tmp_path_factory, data):
    text = bytearray(page(study(2, 2)).encode())
    begin = text.index(b'id="study"') - 40
    place = data.draw(st.integers(begin, begin + 800))
    if data.draw(st.booleans()):
        text[place] = data.draw(st.integers(0, 255))
    else:
        del text[place : data.draw(st.sampled_from([place + 1, place + 30, len(text)]))]
    path = tmp_path_factory.getbasetemp() / "damaged.html"
    path.write_bytes(text)
    try:
        found = read_page(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert len(found.numbers) >= found.per_person


def test_a_file_that_is_no_page(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    with pytest.raises(UserError, match=r"page\.html: cannot be read \(No such file"):
        read_page(path)
    path.write_text("<html>")
    with pytest.raises(UserError, match="no page of a study"):
        read_page(path)
    path.write_text('<script type="application/json" id="study">[]</script>')
    with pytest.raises(UserError, match="its study is no object"):
        read_page(path)
    monkeypatch.setattr(page_data, "LARGEST", 5)
    with pytest.raises(UserError, match="larger than 5 bytes"):
        read_page(path)
