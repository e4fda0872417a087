"""From the content of the site to its pages: templates filled in, scripts and styles beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from repro.book import curves, describe, glossary, markdown, overview, search, tally, wording
from repro.book.inputs import Inputs
from repro.book.theme import DECIDED, PILOT, SIGNS, SOURCES, THEMES, colour, verdict_class
from repro.book.views import Site
from repro.experiments import numerics
from repro.registry import labels
from repro.report import pilot

HERE = Path(__file__).parent
ASSETS = ("matrix.js", "explorer.js", "search.js")

#: What the kinds of statement mean, for readers.
KINDS = {
    "value": "a number",
    "order": "one method or setting is said to beat another",
    "equivalence": "two methods or settings are said not to differ beyond a margin",
    "ratio": "one method or setting is said to need or send so many times more",
    "trend": "a quantity is said to rise or fall with a setting",
    "bound": "a loss is said to stay below a limit",
    "law": "follows from the method; executed as a test",
    "definition": "a setting of the method; executed as a test",
}
_HEADING = re.compile(r'<h2 id="(?P<anchor>[^"]+)"[^>]*>(?P<text>.*?)</h2>', re.DOTALL)
_LONG, _FOLDED = 4, 24
"""Sections from which a page has a table of contents, and from which it is folded."""


def site(inputs: Inputs) -> dict[str, str]:
    """Every page as file name -> text; the same inputs give the same texts."""
    made = Site(inputs)
    environment = _environment(made)

    def page(template: str, here: str, **values: Any) -> str:
        return environment.get_template(template).render(here=here, gloss=glossary.linker(), **values)

    artefacts = made.artefacts()
    known = {item["id"]: item for item in artefacts}
    drawn = curves.files(inputs)
    values: dict[str, dict[str, Any]] = {
        "figures": {"artefacts": artefacts},
        "explorer": {"sources": [name[len("curves-") : -len(".js")] for name in drawn]},
        "provenance": {"versions": numerics.VERSIONS},
        "terms": {"kinds": KINDS, "power": inputs.power},
    }
    plain = ("index", "figures", "explorer", "runs", "notebooks", "ledger", "arithmetic", "provenance", "terms", "cite")
    pages = {f"{name}.html": page(f"{name}.html", name, **values.get(name, {})) for name in (*plain, "search")}
    pages |= {f"{item['id']}.html": page("artefact.html", "figures", item=item) for item in artefacts}
    for row in made.rows:
        pages[f"{row.id}.html"] = page(
            "statement.html", "index", row=row, kinds=KINDS, shown=[known[i] for i in row.shown_by if i in known],
            runs=made.runs_of(row.runs), missing=[run for run in row.runs if not made.runs_of([run, f"{run}-lr*"])],
        )  # fmt: skip
    for source in made.built:
        mine = [run for run in made.runs.values() if run.source == source]
        pages[f"runs-{source}.html"] = page("runs-source.html", "runs", source=source, runs=mine)
    for name, body in inputs.notebooks.items():
        pages[f"notebook-{name}.html"] = page("notebook.html", "notebooks", name=name, body=Markup(body))
    pages |= {"search-index.js": search.index(pages), "index.md": markdown.render(made, artefacts)}
    pages["appendix.md"] = describe.appendix(made)
    pages |= drawn | {name: (HERE / "assets" / name).read_text(encoding="utf-8") for name in ASSETS}
    pages["style.css"] = _style()
    return {name: text.rstrip("\n") + "\n" for name, text in sorted(pages.items())}


def _environment(made: Site) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False,
    )  # fmt: skip
    environment.globals |= {
        "site": made,
        "profile": made.profile,
        "SOURCES": SOURCES,
        "SIGNS": SIGNS,
        "DECIDED": DECIDED,
        "PILOT": PILOT,
        "pilot": made.inputs.pilot,
        "pilot_words": tuple(pilot.TODAY.items()),
        "named": tally.named,
        "scale_note": markdown.scale_note(made.profile),
        "plural": wording.plural,
        "about": wording.about,
        "number": labels.number,
        "picture": overview.picture,
    }
    environment.filters |= {
        "href": lambda path: quote(str(path), safe="/#.:"),
        "badge": _badge,
        "sign": lambda word: SIGNS[verdict_class(word)],
        "with_contents": _with_contents,
    }
    return environment


def _badge(word: str, count: int | None = None) -> Markup:
    """A verdict with its sign; colour only repeats what sign and words say."""
    said = escape(word if count is None else f"{count} {word}")
    sign = "" if word == PILOT else f'<span aria-hidden="true">{SIGNS[verdict_class(word)]}</span> '
    return Markup(f'<span class="badge {colour(word)}">{sign}{said}</span>')


def _with_contents(body: str, before: str) -> Markup:
    """The content of a page with a list of its sections, where there are many of them.

    Args:
        body: content of the page.
        before: number of the section before which the list stands, from 0; empty where the page has no list.
    """
    text = str(body)
    found = list(_HEADING.finditer(text))
    if len(found) < _LONG or not before:
        return Markup(text)
    place = found[int(before)].start()
    return Markup(text[:place] + _contents(found) + text[place:])


def _contents(found: Sequence[re.Match[str]]) -> str:
    words = [(match["anchor"], re.sub(r"<a class=\"anchor-link.*?</a>|<[^>]+>", "", match["text"])) for match in found]
    items = "".join(f'<li><a href="#{anchor}">{text.strip()}</a></li>' for anchor, text in words)
    opened = "" if len(found) > _FOLDED else " open"
    return (
        f'<nav class="toc" aria-label="On this page"><details{opened}><summary>On this page</summary>'
        f"<ul>{items}</ul></details></nav>\n"
    )


def _style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (";".join(f"--{key}:{value}" for key, value in THEMES[name].items()) for name in ("light", "dark"))
    code, code_dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    own = (HERE / "assets/style.css").read_text(encoding="utf-8")
    return (
        f":root{{{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}\n{code}\n"
        f"@media(prefers-color-scheme:dark){{\n{code_dark}\n}}\n{own}"
    )
