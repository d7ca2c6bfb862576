"""Reading a page as a browser would, without one."""

import json
import re
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br"}
APART = {"br", "dt", "dd", "p", "td", "th", "li", "h1", "h2", "h3"}
LOADING = {"src", "href", "srcset", "poster", "action", "formaction", "data", "background"}


class Element:
    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.pieces = tag, dict(attributes), []

    @property
    def text(self):
        """Its text and that of what is in it, with single spaces."""
        return " ".join(self.raw.split())

    @property
    def raw(self):
        before = " " if self.tag in APART else ""
        return before + "".join(p if isinstance(p, str) else p.raw for p in self.pieces)

    def __iter__(self):
        yield self
        for piece in self.pieces:
            if isinstance(piece, Element):
                yield from piece

    def all(self, tag=None, **attributes):
        """Elements inside with a tag and attributes; a class is one of several."""
        return [each for each in self if each._is(tag, attributes)]

    def one(self, tag=None, **attributes):
        [found] = self.all(tag, **attributes)
        return found

    def _is(self, tag, attributes):
        classes = (self.attributes.get("class") or "").split()
        return tag in (None, self.tag) and all(
            value in classes if name == "kind" else self.attributes.get(name) == value
            for name, value in attributes.items()
        )


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Element("", [])
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, attrs)
        self.open[-1].pieces.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].pieces.append(Element(tag, attrs))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].pieces.append(data)


def read(html):
    """The page as a tree; every element is closed."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


def rows_of(page):
    """What the table is made of."""
    return json.loads(page.one("script", id="rows").raw)


def loaded(page):
    """Addresses of all that a page would load."""
    for element in page:
        for name in LOADING & set(element.attributes):
            yield element.attributes[name]
        for text in (
            element.attributes.get("style") or "",
            element.raw if element.tag == "style" else "",
        ):
            yield from re.findall(r"url\(([^)]*)\)|@import", text)
