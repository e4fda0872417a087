"""The verdicts as one Markdown page, for readers on a forge, and the block of headline verdicts in README.md."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from repro.book.theme import PILOT, SIGNS, SOURCES, said, verdict_class
from repro.errors import ReproError
from repro.files import write_atomic
from repro.registry.labels import counted

if TYPE_CHECKING:
    from repro.book.views import Row, Site

BEGIN, END = "<!-- verdicts: begin (written by `python -m repro book`) -->", "<!-- verdicts: end -->"
_PAGE = "book/index.md"
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
    lines += [f"Profile: **{site.profile}**. {scale_note(site.profile)}", "", *_headline(site), ""]
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
    return [
        f"- {name}: " + ", ".join(f"{SIGNS[verdict_class(w)]} {n} {escaped(w)}" for w, n in counter.items())
        for name, counter in site.headline().items()
        if counter
    ] + [f"- {line}" for line in (site.progress(), certainty(site)) if line]


def certainty(site: Site) -> str:
    """How much was decided, and how many of the decisions may be wrong; empty where no part was judged."""
    found = site.certainty()
    if not found["parts"]:
        return ""
    said = f"Of {found['parts']} parts that count, {found['decided']} are decided."
    if found["tested"]:
        said += (
            f" Of the {found['tested']} decisions that rest on an interval or a test, at most {found['wrong']:.1f} are "
            "expected to be wrong (their largest false discovery rate times their number)."
        )
    return said


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
    if row.source in site.inputs.notebooks:
        links.append(_link("notebook", site.file(f"notebooks/{site.notebook_of(row.id)}.ipynb")))
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
    return f"{len(row.runs)} of the pilot, {site.inputs.pilot.seeds} seeds; their records: {where}"


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


_DECIDED = ("holds", "holds in part", "fails", "depends on", "no difference")


def _sentence(counts: Mapping[str, int]) -> str:
    """How many results have which verdict; those that show the pilot apart.

    >>> _sentence({"open": 5, "holds": 1, "not run": 1})
    'Of 7 results 1 holds, 5 are open and 1 was not run.'
    >>> _sentence({"holds": 1, "pilot": 2})
    '1 of 3 results has study evidence so far: 1 holds.'
    """
    total, old = sum(counts.values()), counts.get(PILOT, 0)
    statements = f"{total} result{'s' if total != 1 else ''}"
    if not old:
        return f"Of {statements} {said(counts)}."
    own = {word: n for word, n in counts.items() if word not in (PILOT, "not run")}
    new = sum(own.values())
    head = f"{new or 'None'} of {statements} {'has' if new < 2 else 'have'} study evidence so far"
    unrun = {"not run": counts["not run"]} if counts.get("not run") else {}
    return head + (f": {said(own | unrun)}." if own or unrun else ".")


def _fails(part: Mapping[str, Any]) -> bool:
    return part["outcome"] == "fails" and not part.get("beside")


def readme_block(site: Site) -> str:
    """What stands between the markers of README.md: what came out of each source in words, counts, all statements."""
    lines = [BEGIN, "", f"At the `{site.profile}` profile. {scale_note(site.profile)}", ""]
    if site.progress():
        lines += [site.progress(), ""]
    for name, counts in ((name, counts) for _, name, counts in site.apart() if counts):
        lines.append(f"- **{name.capitalize()}**, of all sources: {_sentence(counts).replace('result', name[:-1])}")
    for source, name, counts in site.counts():
        lines.append(f"- **{escaped(name)}.** {_sentence(counts)}")
        for row in site.rows:
            if row.source == source and row.word in _DECIDED:
                kind = f" ({row.kind})" if row.kind in ("law", "definition") else ""
                if row.word == "holds" and any(
                    part["outcome"] == "not comparable" and not part.get("beside") for part in row.parts
                ):
                    kind += " (in part: the rest is judged at full scale)"
                failing = [str(part["ours"]) for part in row.parts if _fails(part)] if len(row.parts) > 1 else []
                because = f" What fails: {escaped('; '.join(failing))}." if failing else ""
                lines.append(
                    f"  - {SIGNS[row.word]} {row.word}{' (pilot)' * row.pilot}: {escaped(row.says)}{kind}{because} "
                    f"{_link(row.id, _PAGE + '#' + row.id)}"
                )
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
    if certainty(site):
        lines += ["", certainty(site)]
    for source in site.built:
        lines += ["", f"<details><summary>{html.escape(SOURCES[source])}: every statement</summary>", ""]
        lines += [*_matrix(site.rows, source, _PAGE), "", "</details>"]
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
