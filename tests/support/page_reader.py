"""Read a page of this project like a browser, and check that it needs nothing from other hosts."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags with their attributes, text, and whether tags match."""

    VOID = frozenset({"meta", "link", "img", "br", "line", "circle", "polyline", "polygon", "path", "rect"})

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.open: list[str] = []
        self.unmatched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unmatched.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def assert_self_contained(text: str) -> None:
    """Tags match, nothing runs, nothing is fetched, and the page's policy says so."""
    page = Page(text)
    assert page.open == [] and page.unmatched == []
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "xlink:href", "srcset", "style"):
            value = attributes.get(name, "")
            assert not re.search(r"//|url\(|javascript:", value) or value.startswith("data:image/"), (tag, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert not re.search(r"@import|url\(", "".join(re.findall(r"<style>.*?</style>", text, re.DOTALL)))
    assert "default-src 'none'" in text


def assert_readable_aloud(page: Page) -> None:
    """One main heading, no level skipped, words for every picture, and links that lead to a place on the page."""
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    targets = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(targets) == len(set(targets))
    named = [attributes[name] for _, attributes in page.tags for name in ("aria-labelledby",) if name in attributes]
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert {*named, *links} <= set(targets)
