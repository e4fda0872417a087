"""The verdicts as one Markdown page, for readers on a forge, and the block of headline verdicts in README.md."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from repro.errors import ReproError
from repro.page import SIGNS, SOURCES, verdict_class
from repro.records import write_atomic
from repro.words import counted

if TYPE_CHECKING:
    from repro.book.views import Row, Site

BEGIN, END = "<!-- verdicts: begin (written by `python -m repro book`) -->", "<!-- verdicts: end -->"
CHOICE_HEADER = ("Id", "Unclear", "Chosen", "Why", "What the other choice gives")


def ours(verdict: Mapping[str, Any]) -> list[str]:
    """Our numbers with their intervals, a line per part; each of several parts says how it came out."""
    parts = verdict.get("parts", [])
    if len(parts) < 2:
        return [str(verdict["ours"]) if verdict.get("ours") else "–"]
    return [f"{'beside it: ' * part.get('beside', False)}{part['ours'] or '–'} ({part['outcome']})" for part in parts]


def scale_note(profile: str) -> str:
    """What the size of the runs means for the verdicts, in two sentences."""
    if profile == "paper":
        return "Runs at the published scale: values are compared with the published ones."
    note = "Runs are smaller than the published ones: orders, trends and laws are judged, values are not."
    return note + (" At this profile the numbers mean nothing; it tests the pipeline." if profile == "smoke" else "")


def escaped(text: str) -> str:
    """Text that neither ends a table cell nor starts markup."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\|*_`[]" else c for c in text)


def _link(text: str, href: str) -> str:
    return f"[{escaped(text)}]({quote(href, safe='/#')})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def render(site: Site, artefacts: Sequence[Mapping[str, Any]]) -> str:
    """All statements with verdicts and evidence, figures and tables, and the ledger."""
    built = [row for row in site.rows if row.source in site.built]
    lines = ["# What was published, and what our runs say", ""]
    lines += [f"Profile: **{site.profile}**. {scale_note(site.profile)}", "", *_headline(site), ""]
    header = ["Statement", "Published", f"Ours ({site.profile})", "Verdict", "Other profiles", "Evidence"]
    lines += ["## Statements", "", *_table(header, [_statement(site, row) for row in built]), ""]
    lines += ["## Figures and tables", ""]
    for item in artefacts:
        if item["source"] not in site.built:
            continue
        says = escaped(item["says"]) + (" (ours)" if item["ours"] else "")
        head = f'### <a id="{item["id"]}"></a>{escaped(item["id"])}'
        if not item["drawn"]:
            lines += [head, "", f"{says}. {SIGNS['not run']} not run", ""]
            continue
        lines += [head, "", f"{says}. {' · '.join(_link(*file) for file in item['files'])}", ""]
        if item["picture"]:
            lines += [f"![{says}]({quote(item['picture'])})", ""]
        elif item["table"] is not None:
            table = item["table"]
            lines += [*_table([*map(escaped, table.header)], ([*map(escaped, row)] for row in table.rows)), ""]
    lines += ["## What the sources leave open", ""]
    choices = [
        [escaped(text) for text in (c.id, c.unclear, c.chosen, c.why, c.other_choice)]
        for _, group in site.choices()
        for c in group
    ]
    lines += _table(CHOICE_HEADER, choices)
    waiting = [row for row in site.rows if row.source not in site.built]
    if waiting:
        lines += ["", "## Not run", ""]
    for source in dict.fromkeys(row.source for row in waiting):
        lines += [f"**{escaped(SOURCES[source])}**: {', '.join(row.id for row in waiting if row.source == source)}", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _headline(site: Site) -> list[str]:
    return [
        f"- {name}: " + ", ".join(f"{SIGNS[verdict_class(w)]} {n} {escaped(w)}" for w, n in counter.items())
        for name, counter in site.headline().items()
        if counter
    ]


def _statement(site: Site, row: Row) -> list[str]:
    links = [_link(row.artefact, f"#{row.artefact}")] if row.artefact else []
    if row.source in site.inputs.notebooks:
        links.append(_link("notebook", site.file(f"notebooks/{site.notebook_of(row.id)}.ipynb")))
    links.append(_link("spec", f"../pipelines/{row.source}.yaml"))
    return [
        f"**{escaped(row.id)}** {escaped(row.says)} ({escaped(row.kind)}; {escaped(row.place)})",
        escaped(row.published),
        f"{'; '.join(map(escaped, row.ours))} (n = {counted(row.n, row.repetitions)})",
        f"{SIGNS[row.word]} **{escaped(row.verdict)}**: {escaped(row.reason)}",
        "; ".join(escaped(f"{name}: {word}" + (f" (n = {n})" if n else "")) for name, word, n in row.others) or "–",
        " · ".join([*links, _runs(site, row.runs)]),
    ]


def _runs(site: Site, runs: Sequence[str]) -> str:
    """Runs with their seeds; many runs are given as their folders, so that the cell stays readable."""
    stored = {run: site.runs[run].stored if run in site.runs else [] for run in runs}
    if len(runs) <= 8:
        return "; ".join(
            f"{escaped(run)} ({', '.join(_link(f'seed {one.seed}', one.href) for one in made) or 'no record'})"
            for run, made in stored.items()
        )
    folders = sorted({one.href.rpartition("/")[0] for made in stored.values() for one in made})
    return f"{len(runs)} runs in " + ", ".join(_link(folder[3:], folder + "/") for folder in folders)


# README ------------------------------------------------------------------------------------------------------


def readme_block(site: Site) -> str:
    """The headline verdicts between the markers of README.md: a line a source, then every built statement."""
    words = list(SIGNS)
    lines = [
        BEGIN, "",
        f"Statements by verdict at the `{site.profile}` profile (laws and definitions included):", "",
        *_table(
            ["source", *(f"{SIGNS[word]} {word}" for word in words)],
            [[escaped(name), *(str(counts.get(word, 0)) for word in words)] for _, name, counts in site.counts()],
        ),
    ]  # fmt: skip
    for source in site.built:
        rows = [row for row in site.rows if row.source == source]
        lines += ["", f"<details><summary>{html.escape(SOURCES[source])}: every statement</summary>", ""]
        lines += _table(
            ["id", "statement", "ours (95 % interval)", "n", "verdict"],
            [
                [f"[{row.id}](book/index.md)", escaped(row.says), "; ".join(map(escaped, row.ours)),
                 counted(row.n, row.repetitions),
                 f"{SIGNS[row.word]} {escaped(row.verdict)}"]
                for row in rows
            ],
        )  # fmt: skip
        lines += ["", "</details>"]
    return "\n".join([*lines, "", END])


def update_readme(site: Site, path: Path) -> None:
    """Replace what stands between the markers of the file at ``path``.

    Raises:
        ReproError: the file or its markers are missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReproError(f"{path}: no such file; it is part of the repository; restore it from git") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReproError(
            f"{path}: the markers {BEGIN!r} and {END!r} were expected, in this order; restore them from git"
        )
    made = before + readme_block(site) + after
    if made != text:
        write_atomic(path, made)
