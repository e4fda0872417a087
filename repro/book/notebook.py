"""An executed notebook as part of a page: its HTML, with pictures that lie in ``figures/`` linked instead of copied."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from repro.errors import ReproError

_HEADING = re.compile(r'<h[23] id="(?P<anchor>[^"]+)"')
_TITLE = re.compile(r'<h1[^>]*>(?P<title>.*?)(?:<a class="anchor-link"[^>]*>[^<]*</a>)?</h1>', re.DOTALL)
_EMBEDDED = re.compile(r'<img(?P<before>[^>]*?) src="data:image/png;base64,(?P<data>[^"]+)"(?P<after>[^>]*)>')


def body(path: Path, pictures: Mapping[str, Path], folder: str) -> str:
    """The cells of the executed notebook at ``path`` as HTML.

    A picture with the same pixels as one of ``pictures`` becomes a reference to that file, and a link to its page: the
    page then shows the committed figure itself, and is small.

    Args:
        path: executed notebook, ``.ipynb``.
        pictures: artefact id -> PNG file.
        folder: where these files lie, from the page.

    Raises:
        ReproError: not a notebook, or an equation that has no MathML form.
    """
    import nbformat  # with papermill and IPython these take a second to import

    from repro.book.notebooks import html_body

    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # not JSON, or JSON of something else, on which nbformat fails in many ways
        raise ReproError(f"{path}: not a notebook; restore it with `git checkout -- {path}`") from error
    known = {pixels(file.read_bytes()): name for name, file in pictures.items() if file.exists()}

    def linked(found: re.Match[str]) -> str:
        name = known.get(pixels(base64.b64decode(found["data"])))
        if name is None:
            return found[0]
        return f'<a href="{name}.html"><img{found["before"]} src="{folder}/{name}.png"{found["after"]}></a>'

    return _EMBEDDED.sub(linked, html_body(notebook, path))


def title(body: str) -> str:
    """The first heading of a notebook's HTML as plain text; empty where there is none."""
    found = _TITLE.search(body)
    return html.unescape(re.sub(r"<[^>]+>", "", found["title"])).strip() if found else ""


def sections(body: str, ids: Iterable[str]) -> dict[str, str]:
    """Anchor of the section of a notebook that deals with each of ``ids``; ids that no section names are left out.

    Of the sections that name an id it is the one that names fewest others: tables at the end name all statements.
    """
    headings = list(_HEADING.finditer(body))
    ends = [found.start() for found in headings[1:]] + [len(body)]
    parts = [(found["anchor"], body[found.start() : end]) for found, end in zip(headings, ends, strict=True)]
    wanted = list(ids)
    named = {anchor: {name for name in wanted if mentions(text, name)} for anchor, text in parts}
    where: dict[str, str] = {}
    for anchor, names in sorted(named.items(), key=lambda item: len(item[1])):
        for name in names:
            where.setdefault(name, anchor)
    return where


def mentions(text: str, name: str) -> bool:
    """Whether a text names the id ``name``, and not only a longer one."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text) is not None


def pixels(png: bytes) -> str:
    """Hash of what a PNG shows: its header and image data, whatever its metadata say.

    Raises:
        ReproError: not a PNG.
    """
    if png[:8] != b"\x89PNG\r\n\x1a\n":
        raise ReproError("a picture is not a PNG; the output of `repro render` was expected; render it again")
    digest, data, at = hashlib.sha256(), b"", 8
    while at < len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        chunk = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            digest.update(chunk)
        elif kind == b"IDAT":
            data += chunk
        at += 12 + length
    digest.update(zlib.decompress(data))
    return digest.hexdigest()
