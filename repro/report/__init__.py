"""Figures and tables from records: every artefact of the sources, by id.

No artefact is drawn from anything but records, and nothing here trains. Importing this package imports neither torch
nor matplotlib; a figure imports matplotlib when it is drawn, and e2.table2 and e2.table4 import torch, since they
execute a codec and count the parameters of networks.
``figure`` and ``table`` give objects for a notebook; ``render`` writes the files that the page and print use.

    artefact      the registry, and the decorators that declare a figure or table
    selection     the records of one artefact by run, and what is read from a run
    rows          the rows of CSV files, from which figures draw; intervals: means over seeds
    layout, look, marks   the page of a figure, the style of each run, and what is drawn with
    tables, parameters, notes            texts and cells
    provenance    the JSON file beside each artefact
    e1, e2, e3, lb   the figures and tables of each source; none of them imports another

>>> sorted(name for name, item in ARTEFACTS.items() if item.source == "e2" and item.published and item.kind == "figure")
['e2.fig1', 'e2.fig2']
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import ReproError
from repro.files import write_atomic
from repro.report import e1, e2, e3, layout, lb, provenance
from repro.report.artefact import REGISTRY, Artefact
from repro.report.rows import Row, csv_text
from repro.report.selection import Selection, select
from repro.report.tables import Table
from repro.results.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ARTEFACTS", "Artefact", "Table", "e1", "e2", "e3", "figure", "ids", "lb", "outputs", "present", "render", "table",
]  # fmt: skip

#: Every figure and table by id: source by source, first what the source itself has.
ARTEFACTS = {item.id: item for item in sorted(REGISTRY.values(), key=lambda a: (a.source, not a.published, a.id))}


def _artefact(artefact_id: str, kind: str | None = None) -> Artefact:
    known = [name for name, item in ARTEFACTS.items() if kind in (None, item.kind)]
    if artefact_id not in known:
        raise ReproError(f"unknown {kind or 'artefact'} {artefact_id!r}; one of {', '.join(known)} was expected")
    return ARTEFACTS[artefact_id]


def _made(artefact: Artefact, records: Iterable[Record], root: Path = Path()) -> tuple[Any, list[Row], Selection]:
    chosen = select(artefact.id, records, artefact.runs, root)
    if artefact.kind == "table":
        return *artefact.made(chosen), chosen
    with layout.context():
        drawn: Any
        drawn, rows = artefact.made(chosen)
        layout.fit(drawn)
        return drawn, rows, chosen


def figure(artefact_id: str, records: Iterable[Record]) -> Figure:
    """The figure ``artefact_id`` drawn from ``records`` (other runs among them are left aside).

    Raises:
        ReproError: no such figure, or its records are missing, doubled or of mixed profiles.
    """
    return _made(_artefact(artefact_id, "figure"), records)[0]


def table(artefact_id: str, records: Iterable[Record]) -> Table:
    """The table ``artefact_id`` made from ``records``; shows itself as Markdown in a notebook.

    Raises:
        ReproError: no such table, or its records are missing, doubled or of mixed profiles.
    """
    return _made(_artefact(artefact_id, "table"), records)[0]


def outputs(artefact_id: str) -> tuple[str, ...]:
    """File names that ``render`` writes for ``artefact_id``.

    >>> outputs("e1.table2")
    ('e1.table2.csv', 'e1.table2.md', 'e1.table2.tex', 'e1.table2.json')
    """
    return _artefact(artefact_id).files


def ids(source: str, group: str) -> list[str]:
    """Ids of the figures and tables of ``source`` that are drawn together with one group of its runs.

    >>> ids("e1", "control")
    ['e1.extra-grid', 'e1.extra-skew-gn']
    """
    return [name for name, item in ARTEFACTS.items() if (item.source, item.group) == (source, group)]


def present(profile: str, root: Path = Path()) -> set[str]:
    """Ids whose files all lie under ``figures/<profile>``."""
    folder = root / "figures" / profile
    return {name for name, item in ARTEFACTS.items() if all((folder / file).exists() for file in item.files)}


def render(
    artefact_id: str, records: Iterable[Record], out_dir: Path, *, profile: str, root: Path = Path()
) -> list[Path]:
    """Write all files of one artefact into ``out_dir``, each atomically, and return their paths.

    The same records with the same provenance (of which machine and versions are read, from ``root``) give the same
    bytes.

    Raises:
        ReproError: no such artefact, records missing or doubled for ``profile``, or a file is not writable.
    """
    artefact = _artefact(artefact_id)
    made, rows, chosen = _made(artefact, [r for r in records if r.profile == profile], root)
    behind = provenance.content(artefact, chosen, root)
    content: dict[str, str | bytes] = {"csv": csv_text(rows), "json": provenance.text(behind)}
    if artefact.kind == "table":
        content |= {"md": made.markdown(), "tex": made.latex()}
    else:
        title, brief = f"{artefact.id}: {artefact.title}", provenance.brief(behind)
        content |= {kind: layout.to_bytes(made, kind, title, brief) for kind in ("png", "svg")}
    paths = [Path(out_dir) / name for name in artefact.files]
    for path in paths:
        write_atomic(path, content[path.suffix[1:]])
    return paths
