"""The page a reviewer opens first: every statement with its verdict, and what each verdict rests on.

``render_verdicts`` gives the same content as one HTML file (inline CSS, no script, nothing fetched from
elsewhere) and as Markdown. The page lives in ``book/``; all links are relative, so that it works from a disk,
a clone or a server.
"""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from repro.claims import Choice, Published, headline
from repro.records import Record, path_of
from repro.report import ARTEFACTS, Table, outputs

SOURCES = {
    "e1": "Edgify post 1: large batch against federated learning",
    "e2": "Edgify post 2: communication compression",
    "e3": "Edgify post 3: BatchNorm with non-IID data",
    "lb": "On using large batches in federated learning (arXiv 2509.10537)",
}

#: Verdict class -> sign; the sign and the words carry the meaning, colour only repeats it.
SIGNS = {"holds": "✓", "fails": "✗", "inconclusive": "?", "not comparable": "≠", "not run": "○"}

#: CSS variables; every text colour has at least 4.5:1 on the backgrounds it is used on (WCAG 2.2 AA).
THEMES = {
    "light": {
        "page": "#ffffff",
        "card": "#f6f7f8",
        "line": "#c9ced3",
        "text": "#1b1d1f",
        "muted": "#555b61",
        "link": "#00539c",
        "holds": "#dcebf9",
        "holds-text": "#003b70",
        "fails": "#fbe3cd",
        "fails-text": "#6b3200",
        "open": "#e8eaec",
        "open-text": "#33373b",
    },
    "dark": {
        "page": "#15171a",
        "card": "#1e2125",
        "line": "#464c52",
        "text": "#e8eaec",
        "muted": "#b2b8bf",
        "link": "#8ec5ff",
        "holds": "#10304f",
        "holds-text": "#c4e1ff",
        "fails": "#4c2608",
        "fails-text": "#ffdabd",
        "open": "#2f3439",
        "open-text": "#dfe3e7",
    },
}

CHOICE_HEADER = ("Id", "Unclear", "Chosen", "Why", "What the other choice gives")

_CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:1rem/1.5 system-ui,"Segoe UI",Roboto,sans-serif}
main,header,footer{max-width:76rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.6rem;line-height:1.25;margin:1.5rem 0 .5rem}
h2{font-size:1.25rem;margin:2.5rem 0 .75rem}
h3{font-size:1rem;margin:0 0 .25rem}
p{max-width:46rem;margin:.5rem 0}
a{color:var(--link)}
a:focus-visible,summary:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem}
.muted,figcaption,caption{color:var(--muted)}
small,.muted,figcaption,caption{font-size:.875rem}
table{border-collapse:collapse;width:100%;font-size:.9375rem}
caption{text-align:left;padding:.25rem 0}
th,td{text-align:left;vertical-align:top;padding:.5rem .6rem;border-bottom:1px solid var(--line)}
th,td{overflow-wrap:break-word}
.stack :is(th,td):nth-child(1){width:24%}
.stack :is(th,td):nth-child(2){width:13%}
.stack :is(th,td):nth-child(3){width:22%}
.stack :is(th,td):nth-child(n+4){width:13.6%}
thead th{background:var(--card);border-bottom:2px solid var(--line)}
tbody th{font-weight:400}
th b,td b{white-space:nowrap}
.counts{display:flex;flex-wrap:wrap;align-items:center;gap:.5rem;padding:0;margin:.75rem 0;list-style:none}
.badge{display:inline-block;padding:.05rem .5rem;border-radius:.35rem;border:1px solid currentColor}
.holds{background:var(--holds);color:var(--holds-text)}
.fails{background:var(--fails);color:var(--fails-text)}
.open{background:var(--open);color:var(--open-text)}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem}
.card{padding:.75rem;min-width:0;margin:0}
.card img{display:block;width:100%;height:auto;background:#fff;border-radius:.25rem}
.wide{grid-column:1/-1}
.scroll{overflow-x:auto}
.scroll table{min-width:36rem;font-size:.875rem}
dt{font-weight:600;margin-top:.4rem}
dd{margin:0}
summary{cursor:pointer}
footer{margin-top:3rem;padding-bottom:2rem}
@media(max-width:52rem){
.stack thead{position:absolute;left:-99rem}
.stack,.stack caption,.stack tbody,.stack tr,.stack :is(th,td):nth-child(n){display:block;width:100%}
.stack tr{border:1px solid var(--line);border-radius:.5rem;background:var(--card)}
.stack tr{margin:.75rem 0;padding:.25rem 0}
.stack th,.stack td{border:0;padding:.3rem .75rem}
.stack td::before{content:attr(data-label);display:block;color:var(--muted);font-size:.8125rem}
}
@media print{details:not([open])>*{display:block}a{color:inherit}}
"""


class Link(NamedTuple):
    """A relative link: ``href`` as a path from the page, not yet quoted."""

    text: str
    href: str


class _Evidence(NamedTuple):
    """What a verdict rests on: the figure or table, notebook and spec, and the records of each run."""

    links: list[Link]
    runs: list[tuple[str, list[Link]]]


def render_verdicts(
    verdicts: Sequence[Mapping[str, Any]],
    published: Published,
    ledger: Sequence[Choice],
    *,
    profile: str,
    other_profiles: Mapping[str, Sequence[Mapping[str, Any]]],
    records: Iterable[Record],
    tables: Mapping[str, Table],
    present: Collection[str],
) -> tuple[str, str]:
    """The verdicts page as (HTML, Markdown); the same input gives the same bytes.

    Args:
        verdicts: verdicts at ``profile`` in their stored form (``figures/<profile>/verdicts.json``).
        published: artefacts and statements of the four sources; those without a verdict are "not run".
        ledger: what the sources leave open and what was chosen.
        profile: the profile whose figures and records the page links to.
        other_profiles: profile -> its verdicts, shown beside.
        records: records of ``profile``, controls included; verdicts link to those of the runs they name.
        tables: artefact id -> table of ``profile``, shown on the page.
        present: ids of the figures and tables whose files exist (``report.present``); the others are "not run".
    """
    page = _Page(verdicts, published, ledger, profile, other_profiles, list(records), tables, present)
    return _html(page), _markdown(page)


class _Page:
    """The content of the page, before it is HTML or Markdown."""

    def __init__(
        self,
        verdicts: Sequence[Mapping[str, Any]],
        published: Published,
        ledger: Sequence[Choice],
        profile: str,
        others: Mapping[str, Sequence[Mapping[str, Any]]],
        records: list[Record],
        tables: Mapping[str, Table],
        present: Collection[str],
    ):
        self.profile, self.published, self.tables, self.present = profile, published, tables, present
        self.sources = list(dict.fromkeys(artefact.source for artefact in ARTEFACTS.values()))
        self.verdicts = {str(v["id"]): v for v in verdicts if v["source"] in self.sources}
        self.others = {name: {v["id"]: v for v in items} for name, items in others.items() if name != profile}
        self.waiting = [s for s in published.statements if s.id not in self.verdicts]
        self.ledger = sorted(ledger, key=lambda choice: choice.source not in self.sources)
        self.by_run: dict[str, list[Record]] = {}
        for record in sorted((r for r in records if r.profile == profile), key=lambda r: (r.run, r.seed)):
            self.by_run.setdefault(record.run, []).append(record)

    def others_of(self, statement_id: str) -> list[str]:
        """``profile: verdict (n)`` of every other profile."""
        cells = []
        for name, verdicts in self.others.items():
            found = verdicts.get(statement_id)
            n = f" (n = {found['n']})" if found and found["n"] else ""
            cells.append(f"{name}: {found['verdict'] if found else 'not run'}{n}")
        return cells

    def evidence(self, verdict: Mapping[str, Any]) -> _Evidence:
        """Links of one verdict."""
        source = verdict["source"]
        name = verdict["artefact"]
        links = [Link(name, f"#{name}")] if name in ARTEFACTS else []
        if verdict["runs"]:  # else nothing is computed for it yet, and no notebook shows it
            shown = ARTEFACTS[name].shown_in if name in ARTEFACTS else source
            links.append(Link("notebook", f"../figures/{self.profile}/notebooks/{shown}.html"))
        links.append(Link("spec", f"../pipelines/{source}.yaml"))
        runs = []
        for run in verdict["runs"]:
            stored = [Link(f"seed {r.seed}", f"../{path_of(r).as_posix()}") for r in self.by_run.get(run, [])]
            runs.append((str(run), stored))
        return _Evidence(links, runs)

    def file(self, name: str) -> str:
        """Path of a figure or table file of this profile, from the page."""
        return f"../figures/{self.profile}/{name}"

    def made(self) -> list[tuple[str, str]]:
        """(id, description) of every artefact that this package can draw: the source's figures, ours, tables."""
        says = {artefact.id: artefact.says for artefact in self.published.artefacts}
        own = sorted(ARTEFACTS, key=lambda name: (ARTEFACTS[name].kind == "table", not ARTEFACTS[name].published))
        return [
            (name, says.get(name, ARTEFACTS[name].title).rstrip(".") + ("" if ARTEFACTS[name].published else " (ours)"))
            for name in own
        ]

    def waiting_by_source(self) -> dict[str, list[Any]]:
        """Statements without a verdict, by source, in the order of the published file."""
        return {source: chosen for source in SOURCES if (chosen := [s for s in self.waiting if s.source == source])}


def verdict_class(word: str) -> str:
    """The key of ``SIGNS`` that a verdict's words belong to.

    >>> verdict_class("holds at laptop scale"), verdict_class("not reproduced")
    ('holds', 'fails')
    """
    word = {"reproduced": "holds", "not reproduced": "fails"}.get(word, word)
    return next((name for name in SIGNS if word.startswith(name)), "inconclusive")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _text(value: Any) -> str:
    """A published value for readers: null, text, number, list or mapping."""
    if value is None:
        return "no value published"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def _ours(verdict: Mapping[str, Any]) -> list[str]:
    """Our numbers with their intervals, a line per part; each of several parts says how it came out."""
    parts = verdict["parts"]
    if len(parts) < 2:
        return [_text(verdict["ours"]) if verdict["ours"] else "–"]
    return [f"{part['ours'] or '–'} ({part['outcome']})" for part in parts]


# HTML ----------------------------------------------------------------


def _a(link: Link) -> str:
    return f'<a href="{html.escape(quote(link.href, safe="/#"))}">{html.escape(link.text)}</a>'


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def _badge(word: str, count: int | None = None) -> str:
    name = verdict_class(word)
    css = name if name in ("holds", "fails") else "open"
    text = html.escape(word if count is None else f"{count} {word}")
    return f'<span class="badge {css}"><span aria-hidden="true">{SIGNS[name]}</span> {text}</span>'


def _runs_html(runs: list[tuple[str, list[Link]]]) -> str:
    items = "".join(f"<li>{html.escape(run)}: {', '.join(map(_a, stored)) or 'no record'}</li>" for run, stored in runs)
    if not runs:
        return ""
    total = sum(len(stored) for _, stored in runs)
    return _details(f"{_plural(len(runs), 'run')}, {_plural(total, 'record')}", f"<ul>{items}</ul>")


def _why_html(verdict: Mapping[str, Any]) -> str:
    if not verdict["why"]:
        return ""
    return f"<small>{_details('rule', html.escape(verdict['why']))}</small>"


def _statements_html(page: _Page) -> str:
    columns = ["Statement", "Published", f"Ours ({page.profile})", "Verdict", "Other profiles", "Evidence"]
    rows = []
    for verdict in page.verdicts.values():
        evidence = page.evidence(verdict)
        cells = [
            html.escape(_text(verdict["published"])),
            "<br>".join(map(html.escape, _ours(verdict))) + f"<br><small>n = {verdict['n']}</small>",
            f"{_badge(str(verdict['verdict']))}<br><small>{html.escape(verdict['reason'])}</small>{_why_html(verdict)}",
            "<br>".join(map(html.escape, page.others_of(str(verdict["id"])))) or "–",
            f"{' · '.join(map(_a, evidence.links))}{_runs_html(evidence.runs)}",
        ]
        head = (
            f'<th scope="row" role="rowheader"><b>{html.escape(verdict["id"])}</b> '
            f"{html.escape(verdict['says'])}"
            '<br><small class="muted">'
            f"{html.escape(verdict['kind'])}; {html.escape(verdict['place'])}</small></th>"
        )
        body = "".join(
            f'<td role="cell" data-label="{html.escape(column)}"><div>{cell}</div></td>'
            for column, cell in zip(columns[1:], cells, strict=True)
        )
        rows.append(f'<tr role="row" id="{html.escape(str(verdict["id"]))}">{head}{body}</tr>')
    heads = "".join(f'<th scope="col" role="columnheader">{html.escape(column)}</th>' for column in columns)
    return (
        '<table class="stack" role="table"><caption>Intervals are 95 % Student-t over seeds, paired where '
        'two runs are compared; n is the number of seeds.</caption><thead role="rowgroup"><tr role="row">'
        f'{heads}</tr></thead>\n<tbody role="rowgroup">\n' + "\n".join(rows) + "\n</tbody></table>"
    )


def _artefacts_html(page: _Page) -> str:
    cards = []
    for name, says in page.made():
        if name not in page.present:
            title = f"<h3>{html.escape(name)}</h3><p>{html.escape(says)}</p><p>{_badge('not run')}</p>"
            cards.append(f'<article class="card" id="{name}">{title}</article>')
            continue
        files = " · ".join(_a(Link(file.rpartition(".")[2], page.file(file))) for file in outputs(name))
        title = f"<h3>{html.escape(name)}</h3><p>{html.escape(says)}</p><p>{files}</p>"
        if ARTEFACTS[name].kind == "figure":
            picture = html.escape(quote(page.file(f"{name}.png")))
            image = f'<img src="{picture}" alt="{html.escape(f"{name}: {says}")}" loading="lazy">'
            cards.append(f'<article class="card" id="{name}"><a href="{picture}">{image}</a>{title}</article>')
        else:
            shown = _table_html(page.tables[name]) if name in page.tables else ""
            cards.append(f'<article class="card wide" id="{name}">{title}{shown}</article>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _table_html(table: Table) -> str:
    title = html.escape(table.title)
    heads = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>'
        f"<caption>{title}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        + _details("How to read it", f'<ul class="muted">{notes}</ul>')
    )


def _ledger_html(page: _Page) -> str:
    def card(choice: Choice) -> str:
        body = f"<h3>{html.escape(choice.id)}</h3><p>{html.escape(choice.unclear)}</p><dl>"
        for name, value in zip(CHOICE_HEADER[2:], (choice.chosen, choice.why, choice.other_choice), strict=True):
            body += f"<dt>{name}</dt><dd>{html.escape(value)}</dd>"
        return f'<article class="card">{body}</dl></article>'

    def cards(choices: Iterable[Choice]) -> str:
        return f'<div class="cards">{"".join(map(card, choices))}</div>'

    built = [choice for choice in page.ledger if choice.source in page.sources]
    rest = [choice for choice in page.ledger if choice.source not in page.sources]
    more = _details(f"{_plural(len(rest), 'choice')} of the other sources", cards(rest)) if rest else ""
    return cards(built) + more


def _html(page: _Page) -> str:
    variables = {name: ";".join(f"--{key}:{value}" for key, value in theme.items()) for name, theme in THEMES.items()}
    counts = "".join(
        f"<li>{name}:</li>" + "".join(f"<li>{_badge(word, n)}</li>" for word, n in counter.items())
        for name, counter in headline(page.verdicts.values()).items()
        if counter
    )
    waiting = "".join(
        _details(
            f"{SOURCES[source]}: {_plural(len(items), 'statement')}, not run",
            "<ul>" + "".join(f"<li><b>{html.escape(s.id)}</b> {html.escape(s.says)}</li>" for s in items) + "</ul>",
        )
        for source, items in page.waiting_by_source().items()
    )
    files = [
        Link("verdicts as JSON", page.file("verdicts.json")),
        Link("published statements", "../data/published.yaml"),
        Link("ledger", "../data/ledger.yaml"),
        Link("this page as Markdown", "index.md"),
    ]
    titles = "; ".join(SOURCES[source] for source in page.sources)
    return f"""<!DOCTYPE html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Verdicts at the {html.escape(page.profile)} profile</title>
<style>
:root{{{variables["light"]}}}
@media(prefers-color-scheme:dark){{:root{{{variables["dark"]}}}}}{_CSS}</style>
</head>
<body>
<a class="skip" href="#statements">Skip to the statements</a>
<header>
<h1>What was published, and what our runs say</h1>
<p>{html.escape(titles)}. Profile: <b>{html.escape(page.profile)}</b>. {_scale_note(page.profile)}</p>
<ul class="counts">{counts}</ul>
<p>{" · ".join(map(_a, files))}</p>
</header>
<main>
<section id="statements"><h2>Statements</h2>
{_statements_html(page)}
</section>
<section id="artefacts"><h2>Figures and tables</h2>
{_artefacts_html(page)}
</section>
<section id="ledger"><h2>What the sources leave open</h2>
{_ledger_html(page)}
</section>
<section id="waiting"><h2>Not run</h2>
{waiting or "<p>Every statement has a verdict.</p>"}
</section>
</main>
<footer><p class="muted">Everything here is computed from the records; nothing is typed in.</p></footer>
</body>
</html>
"""


def _scale_note(profile: str) -> str:
    if profile == "paper":
        return "Runs at the published scale: values are compared with the published ones."
    note = "Runs are smaller than the published ones: orders, trends and laws are judged, values are not."
    return note + (" At this profile the numbers mean nothing; it tests the pipeline." if profile == "smoke" else "")


# Markdown ----------------------------------------------------------------


def _md(text: str) -> str:
    """Text that neither ends a table cell nor starts markup."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\|*_`[]" else c for c in text)


def _md_link(link: Link) -> str:
    return f"[{_md(link.text)}]({quote(link.href, safe='/#')})"


def _md_runs(page: _Page, evidence: _Evidence) -> str:
    """Runs with their seeds; many runs are given as their folders, so that the cell stays readable."""
    if len(evidence.runs) <= 8:
        return "; ".join(
            f"{_md(run)} ({', '.join(map(_md_link, stored)) or 'no record'})" for run, stored in evidence.runs
        )
    folders = sorted({link.href.rpartition("/")[0] for _, stored in evidence.runs for link in stored})
    return f"{len(evidence.runs)} runs in " + ", ".join(_md_link(Link(folder[3:], folder + "/")) for folder in folders)


def _md_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _markdown(page: _Page) -> str:
    lines = [
        "# What was published, and what our runs say",
        "",
        f"{'; '.join(map(SOURCES.__getitem__, page.sources))}. Profile: **{page.profile}**. "
        + _scale_note(page.profile),
        "",
    ]
    for name, counter in headline(page.verdicts.values()).items():
        if counter:
            words = (f"{SIGNS[verdict_class(word)]} {n} {_md(word)}" for word, n in counter.items())
            lines.append(f"- {name}: {', '.join(words)}")
    rows = []
    for verdict in page.verdicts.values():
        evidence = page.evidence(verdict)
        rows.append(
            [
                f"**{_md(verdict['id'])}** {_md(verdict['says'])} ({_md(verdict['kind'])}; {_md(verdict['place'])})",
                _md(_text(verdict["published"])),
                f"{'; '.join(map(_md, _ours(verdict)))} (n = {verdict['n']})",
                f"{SIGNS[verdict_class(str(verdict['verdict']))]} **{_md(str(verdict['verdict']))}**: "
                + _md(verdict["reason"]),
                "; ".join(map(_md, page.others_of(str(verdict["id"])))) or "–",
                " · ".join([*map(_md_link, evidence.links), _md_runs(page, evidence)]),
            ]
        )
    header = ["Statement", "Published", f"Ours ({page.profile})", "Verdict", "Other profiles", "Evidence"]
    lines += ["", "## Statements", "", *_md_table(header, rows)]
    lines += ["", "## Figures and tables", ""]
    for name, says in page.made():
        if name not in page.present:
            lines += [f'### <a id="{name}"></a>{_md(name)}', "", f"{_md(says)}. {SIGNS['not run']} not run", ""]
            continue
        files = " · ".join(_md_link(Link(file.rpartition(".")[2], page.file(file))) for file in outputs(name))
        lines += [f'### <a id="{name}"></a>{_md(name)}', "", f"{_md(says)}. {files}", ""]
        if ARTEFACTS[name].kind == "figure":
            lines += [f"![{_md(says)}]({quote(page.file(f'{name}.png'))})", ""]
        elif name in page.tables:
            table = page.tables[name]
            lines += [*_md_table([*map(_md, table.header)], ([*map(_md, row)] for row in table.rows)), ""]
    lines += ["## What the sources leave open", ""]
    choices = [[_md(c.id), _md(c.unclear), _md(c.chosen), _md(c.why), _md(c.other_choice)] for c in page.ledger]
    lines += _md_table(CHOICE_HEADER, choices)
    lines += ["", "## Not run", ""]
    for source, items in page.waiting_by_source().items():
        lines += [f"**{_md(SOURCES[source])}**: {', '.join(_md(s.id) for s in items)}", ""]
    return "\n".join(lines).rstrip("\n") + "\n"
