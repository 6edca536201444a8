"""Documents: everything that comes from outside is escaped, paths lead where they should, pictures are inside."""

from __future__ import annotations

import base64
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.evaluation.document import Document, plain_json, write_json

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
HOSTILE = """a "b' <img src=x onerror=alert(1)> & `code` | [link](x)"""


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def hostile(folder: Path, text: str = HOSTILE) -> Document:
    (folder / "p.png").write_bytes(PIXEL)
    document = Document(text)
    document.heading(text)
    document.paragraph(text, strong=True)
    document.items([text])
    document.table([text, "b"], [[text, 1]])
    document.picture(folder / "p.png", text)
    return document


def test_what_comes_from_outside_is_no_markup(tmp_path):
    page = Page(hostile(tmp_path).html(tmp_path))
    assert len(page.of("img")) == 1 and set(page.of("img")[0]) == {"src", "alt"}
    assert page.of("img")[0]["alt"] == HOSTILE
    assert page.text.count(HOSTILE.replace("`", "")) >= 6 and len(page.of("code")) == 7
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "strong", "ul", "li", "div", "table", "tr",
        "th", "td", "figure", "figcaption", "img", "code",
    }  # fmt: skip


@given(text=st.text(max_size=30))
def test_any_text_keeps_the_table_whole(tmp_path_factory, text):
    document = Document("t")
    document.table(["a", "b"], [[text, "x"], ["y", text]])
    lines = [line for line in document.markdown(Path(".")).split("\n") if line.startswith("|")]
    assert len(lines) == 4 and all(line.replace("\\|", "").count("|") == 3 for line in lines)
    page = Page(document.html(Path(".")))
    assert len(page.of("td")) == 4 and len(page.of("tr")) == 3


@pytest.mark.parametrize("name", ['a "b".png', "a (1).png", "a'b<c>.png", "ä #?%.png"])
def test_paths_lead_from_the_page_to_the_file(tmp_path, name):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / name).write_bytes(PIXEL)
    document = Document("t")
    document.picture(tmp_path / "plots" / name, "picture")
    document.link("file", tmp_path / "plots" / name)
    page = document.write(tmp_path / "report")
    assert page == tmp_path / "report" / "report.md"
    links = [line.split("](")[1][:-1] for line in page.read_text().splitlines() if "](" in line]
    html = Page(page.with_suffix(".html").read_text())
    for link in (*links, html.of("a")[0]["href"]):
        assert (page.parent / unquote(link)).read_bytes() == PIXEL
    assert html.of("img")[0]["src"].endswith(base64.b64encode(PIXEL).decode())


def test_empty_blocks_leave_nothing():
    document = Document("t")
    document.items([])
    document.paragraph(" ")
    assert document.markdown(Path(".")) == "# t\n"


def test_json_is_plain(tmp_path):
    write_json(tmp_path / "a.json", {"a": math.nan, 1: (np.float32(0.5), np.int64(2), math.inf), "p": Path("x")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "1": [0.5, 2, None], "p": "x"}
    assert plain_json([True, None, "x"]) == [True, None, "x"]
