"""The verdicts as one Markdown page, for readers on a forge, and the block of headline verdicts in README.md."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from repro.book.theme import DECIDED, SIGNS, SOURCES, entered
from repro.errors import ReproError
from repro.files import write_atomic
from repro.registry.labels import counted
from repro.report import ARTEFACTS

if TYPE_CHECKING:
    from repro.book.views import Row, Site

BEGIN, END = "<!-- verdicts: begin (written by `python -m repro book`) -->", "<!-- verdicts: end -->"
_PAGE = "book/index.md"
_EXAMPLE = "e1.fig1"
CHOICE_HEADER = ("Id", "Unclear", "Chosen", "Why", "What the other choice gives")


def scale_note(profile: str) -> str:
    """What the size of the runs means for the verdicts, in two sentences."""
    if profile == "paper":
        return "Runs at the published scale: values are compared with the published ones."
    note = (
        "Runs are smaller than the published ones: orders, trends and laws are judged; published values only where "
        "what was measured has the published size, as messages have."
    )
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
    """A matrix of all statements, figures and tables, each statement with its evidence, and the ledger."""
    built = [row for row in site.rows if row.source in site.built]
    lines = ["# What was published, and what our runs say", ""]
    lines += [f"Profile: **{site.profile}**. {scale_note(site.profile)}", "", *_headline(site)]
    lines += ["## Statements", ""]
    for source in site.built:
        lines += [f"### {escaped(SOURCES[source])}", "", *_matrix(built, source, ""), ""]
    lines += ["## Figures and tables", ""]
    for item in artefacts:
        if item["source"] not in site.built:
            continue
        says = escaped(item["says"]) + (" (ours)" if item["ours"] else "")
        head = f'### <a id="{item["id"]}"></a>{escaped(item["id"])}'
        if not item["drawn"]:
            lines += [head, "", f"{says}. {SIGNS['not run']} not run", ""]
            continue
        mark = " **Pilot.**" if item["pilot"] else ""
        lines += [head, "", f"{says}.{mark} {' · '.join(_link(*file) for file in item['files'])}", ""]
        if item["picture"]:
            lines += [f"![{says}]({quote(item['picture'])})", ""]
        elif item["table"] is not None:
            table = item["table"]
            lines += [*_table([*map(escaped, table.header)], ([*map(escaped, row)] for row in table.rows)), ""]
    lines += ["## What each verdict rests on", ""]
    lines += [line for row in built for line in [*_statement(site, row), ""]]
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
    """The tally, and how far the study is."""
    said = [f"**{escaped(site.tally())}**", escaped(site.progress()), escaped(site.certainty())]
    return [line for text in said if text for line in (text, "")]


def _matrix(rows: Sequence[Row], source: str, page: str) -> list[str]:
    """The statements of a source and their verdicts, each linked to its evidence on the Markdown page ``page``."""
    return _table(
        ["Id", "Statement", "Verdict", "n"],
        [
            [_link(row.id, f"{page}#{row.id}"), escaped(row.says), f"{SIGNS[row.word]} {escaped(row.verdict)}",
             counted(row.n, row.repetitions)]
            for row in rows if row.source == source
        ],
    )  # fmt: skip


def _statement(site: Site, row: Row) -> list[str]:
    """A statement with all that its verdict rests on; its page in the site has the reason of each part besides."""
    links = [_link(name, f"#{name}") for name in row.shown_by]
    if row.id in site.sections:
        links.append(_link("notebook", site.file(f"notebooks/{site.sections[row.id][0]}.ipynb")))
    links += [_link("spec", f"../pipelines/{row.source}.yaml"), _link("its page in the site", f"{row.id}.html")]
    others = [escaped(f"{name}: {word}" + (f" (n = {n})" if n else "")) for name, word, n in row.others]
    return [
        f'### <a id="{row.id}"></a>{escaped(row.id)}',
        "",
        f"{escaped(row.says)} ({escaped(row.kind)}; {escaped(row.place)})",
        "",
        f"- Verdict: {SIGNS[row.word]} **{escaped(row.verdict)}**: {escaped(row.reason)}",
        f"- Published: {escaped(row.published)}",
        f"- Ours ({site.profile}), n = {counted(row.n, row.repetitions)}:",
        *(f"  - {escaped(line)}" for line in row.ours),
        *([f"- Other profiles: {'; '.join(others)}"] if others else []),
        f"- Evidence: {' · '.join(links)}",
        *([f"- Runs: {_old_runs(site, row) if row.pilot else _runs(site, row.runs)}"] if row.runs else []),
    ]


def _old_runs(site: Site, row: Row) -> str:
    """Runs of the pilot, whose records are in the history of the repository."""
    assert site.inputs.pilot is not None
    where = f"data/records/{site.inputs.pilot.profile}/ at commit {site.inputs.pilot.commit}"
    behind = site.behind_pilot(row.runs)
    sizes = f", {behind.sizes}" if behind else ""
    return f"{len(row.runs)} of the pilot, {site.inputs.pilot.seeds} seeds{sizes}; their records: {where}"


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


def _fails(part: Mapping[str, Any]) -> bool:
    return entered(part) == "fails" and not part.get("beside")


def readme_block(site: Site) -> str:
    """What stands between the markers of README.md: the tally, what came out of each source, and all statements."""
    lines = [BEGIN, "", f"At the `{site.profile}` profile. {scale_note(site.profile)}", "", *_headline(site)]
    for source, name, _ in site.counts():
        found = [row for row in site.rows if row.source == source and row.word in DECIDED]
        lines += [f"- **{escaped(name)}**" + ("" if found else ": nothing is decided yet."), *map(_decided, found)]
    lines += [
        "",
        *_table(
            [
                "results by source; laws and definitions apart",
                *(f"{SIGNS.get(word, '')} {word}".strip() for word in site.columns),
            ],
            [
                [escaped(name), *(str(counts.get(word, 0)) for word in site.columns)]
                for _, name, counts in [*site.counts(), *site.apart()]
            ],
        ),
    ]
    for source in site.built:
        lines += ["", f"<details><summary>{html.escape(SOURCES[source])}: every statement</summary>", ""]
        lines += [*_matrix(site.rows, source, _PAGE), "", "</details>"]
    return "\n".join([*lines, *_picture(site), "", END])


def _picture(site: Site) -> list[str]:
    """One figure as an example, with whose runs it shows; none where it was not drawn."""
    name = _EXAMPLE
    if name not in site.inputs.present:
        return []
    title, file = escaped(ARTEFACTS[name].title), f"figures/{site.profile}/{name}.png"
    old = name in site.inputs.of_pilot
    whose = "the pilot's runs, until the study's own are in" if old else f"runs at the `{site.profile}` profile"
    return ["", f"![{title}]({quote(file)})", "", f"*{title}; {whose} ({_link(name, f'{_PAGE}#{name}')}).*"]


def _decided(row: Row) -> str:
    """A statement that something came out of, as an item of a list."""
    kind = f" ({row.kind})" if row.kind in ("law", "definition") else ""
    counted = [part for part in row.parts if not part.get("beside")]
    if row.word == "holds" and (left := sum(part["outcome"] == "not comparable" for part in counted)):
        kind += f" ({left} of {len(counted)} parts is judged at full scale only)"
    failing = [str(part["ours"]) for part in row.parts if _fails(part)] if len(row.parts) > 1 else []
    because = f" What fails: {escaped('; '.join(failing))}." if failing else ""
    return (
        f"  - {SIGNS[row.word]} {row.word}{' (pilot)' * row.pilot}: {escaped(row.says)}{kind}{because} "
        f"{_link(row.id, _PAGE + '#' + row.id)}"
    )


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
