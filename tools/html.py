"""The text of a web page, for a model to read: headings, links and lines, without the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# libxml2 reads whatever a server sends in linear time; the standard library's parser does not.
from lxml import etree, html

_TOO_DEEP = etree.ErrorTypes.ERR_RESOURCE_LIMIT
_HIDDEN = {"script", "style", "noscript", "template", "svg", "title", "iframe", "object"}
_BREAKS = {
    "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p",
    "pre", "section", "table", "tr", "ul",
}  # fmt: skip
_HEADINGS = {f"h{n}" for n in range(1, 7)}
_BEFORE = {"li": "- ", "td": "| ", "th": "| "} | {f"h{n}": f"{'#' * n} " for n in range(1, 7)}


def page_text(page: str) -> str:
    """Headings begin with #, list items with -, links are followed by their address. A last line
    says so if the page is nested too deep to be read to its end, which is 2,048 elements.

    Raises nothing: of what is no HTML, the text is shown. Seconds of work for a page of 2 MB.
    """
    parser = html.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True
    )
    try:
        root = html.document_fromstring(page.encode(errors="replace"), parser=parser)
    except (etree.ParserError, ValueError):  # nothing but space, comments or zeros
        return ""
    title = " ".join((root.findtext(".//title") or "").split())
    lines = (re.sub(" +", " ", line).strip() for line in "".join(_pieces(root)).split("\n"))
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip().replace("\0", " ")
    if any(error.type == _TOO_DEEP for error in parser.error_log):
        text = f"{text}\n\n[the page is nested too deep: what follows is left out]".lstrip("\n")
    return f"{title}\n\n{text}".strip() if title else text


def _pieces(root: Any) -> Iterator[str]:
    walk = etree.iterwalk(root, events=("start", "end"))
    verbatim = 0
    for event, element in walk:
        tag = element.tag
        if event == "start":
            if tag in _HIDDEN:
                walk.skip_subtree()
                continue
            verbatim += tag == "pre"
            yield ("\n\n" if tag in _HEADINGS else "\n" if tag in _BREAKS else "") + _BEFORE.get(
                tag, ""
            )
            yield _shown(element.text, verbatim)
            continue
        if tag not in _HIDDEN:
            verbatim -= tag == "pre"
            address = element.get("href") if tag == "a" else None
            if address and not address.startswith(("#", "javascript:")):
                yield f" ({address})"
            yield "\n\n" if tag in _HEADINGS else "\n" if tag in _BREAKS - {"br", "hr"} else ""
        yield _shown(element.tail, verbatim)


def _shown(text: str | None, verbatim: int) -> str:
    if not text:
        return ""
    # Zeros cannot be in a page; they stand for the spaces that are kept at the start of a line.
    return text.replace(" ", "\0") if verbatim else re.sub(r"\s+", " ", text)
