"""The index of the full-text search: every section of every page as a script, which works from a disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser

_SKIPPED = {"svg", "script", "style", "nav", "math", "select", "form", "footer", "header"}
_HEADINGS = {"h1", "h2", "h3"}
_SECTIONS = {"article", "dt", "section", "tr"}
_VOID = {"meta", "img", "br", "link", "input", "hr"}
LEFT_OUT = ("index.html", "search.html", "explorer.html")
"""Pages whose content stands on others too, or that have none without a script."""


@dataclass
class _Section:
    anchor: str
    tag: str = ""
    heading: str = ""
    text: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    """Cuts the content of a page at headings and entries that have an id; leaves out what is ``data-unsearched``."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sections = [_Section("")]
        self._open: list[str] = []
        self._hidden = 0  # open tags at the one that is marked as not to be searched
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self._say(" ")
            return
        self._open.append(tag)
        name, marked = dict(attrs).get("id"), "data-unsearched" in dict(attrs)
        self._hidden = self._hidden or len(self._open) * marked
        if name and (tag in _HEADINGS or tag in _SECTIONS):
            self.sections.append(_Section(name, tag))
        self._say(" ")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if len(self._open) < self._hidden:
            self._hidden = 0
        self._say(" ")

    def handle_data(self, data: str) -> None:
        self._say(data)

    def _say(self, data: str) -> None:
        if self._hidden or "main" not in self._open or _SKIPPED.intersection(self._open):
            return
        section = self.sections[-1]
        if self._open[-1] in _HEADINGS or "dt" == self._open[-1] == section.tag:
            section.heading += data
        else:
            section.text.append(data)


def _plain(text: str) -> str:
    return " ".join(text.replace("¶", " ").split())


def index(pages: Mapping[str, str]) -> str:
    """The script: for each page its file, its title, and its sections (anchor, heading, text)."""
    lines = []
    for name, page in sorted(pages.items()):
        if not name.endswith(".html") or name in LEFT_OUT:
            continue
        sections = _Reader(page).sections
        told = [[s.anchor, _plain(s.heading), _plain("".join(s.text))] for s in sections]
        told = [each for each in told if each[1] or each[2]]
        title = _plain(next((s.heading for s in sections if s.heading), name))
        lines.append(json.dumps([name, title, told], separators=(",", ":"), ensure_ascii=False))
    return "window.SEARCH = [\n" + ",\n".join(lines) + "\n];\n"
