"""The registry of figures and tables: each is declared once, by a decorator on the function that makes it.

>>> @table("e1.table9", title="An example", runs=("e1-central",))
... def example(chosen): ...
>>> REGISTRY.pop("e1.table9").files
('e1.table9.csv', 'e1.table9.md', 'e1.table9.tex', 'e1.table9.json')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from repro.report.rows import Row, Rows, curves
from repro.report.selection import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repro.report.tables import Table

Group = Literal["artefact", "control"]
Draw = TypeVar("Draw", bound=Callable[..., Any])

_ENDINGS = {"figure": ("png", "svg", "csv", "json"), "table": ("csv", "md", "tex", "json")}


@dataclass(frozen=True)
class Artefact:
    """One figure or table.

    Attributes:
        id: source, a full stop, and a name; names of companions that the source does not have begin with ``extra-``.
        kind: what it is; its files follow from it.
        title: one line for lists and for the metadata of the files.
        runs: ids of the runs that it reads, in which ``*`` stands for anything.
        group: ``artefact`` where it needs the source's own runs only; ``control`` where it needs grids or control
            runs, so that it is drawn with these and absent until then.
        draw: makes a Figure of (selection, rows), or a Table of (selection).
        rows: of a figure: makes the rows of the CSV, from which ``draw`` draws; None for a table, which holds its own.
        details: what a reader of its page may want to know beyond the caption.
    """

    id: str
    kind: Literal["figure", "table"]
    title: str
    runs: tuple[str, ...]
    group: Group
    draw: Callable[..., Figure | Table]
    rows: Callable[[Selection], list[Row]] | None = None
    details: str = ""

    @property
    def source(self) -> str:
        """The post or paper that it belongs to."""
        return self.id.partition(".")[0]

    @property
    def published(self) -> bool:
        """Whether the source has it; False for companions of ours."""
        return not self.id.partition(".")[2].startswith("extra-")

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that ``render`` writes."""
        return tuple(f"{self.id}.{ending}" for ending in _ENDINGS[self.kind])

    def made(self, chosen: Selection) -> tuple[Figure | Table, list[Row]]:
        """The figure or table, and the rows of its CSV."""
        if self.rows is None:
            made: Any = self.draw(chosen)
            return made, made.csv_rows
        rows = Rows(self.rows(chosen))
        return self.draw(chosen, rows), rows


#: Every figure and table by id.
REGISTRY: dict[str, Artefact] = {}


def figure(
    name: str,
    *,
    title: str,
    runs: Sequence[str],
    group: Group = "artefact",
    rows: Callable[[Selection], list[Row]] | None = None,
    details: str = "",
) -> Callable[[Draw], Draw]:
    """Declare a figure; ``rows``: those of accuracy curves unless given (see ``Artefact``)."""
    return lambda draw: _declared(
        Artefact(name, "figure", title, tuple(runs), group, draw, rows or curves(), details), draw
    )


def table(name: str, *, title: str, runs: Sequence[str], group: Group = "artefact") -> Callable[[Draw], Draw]:
    """Declare a table (see ``Artefact``)."""
    return lambda draw: _declared(Artefact(name, "table", title, tuple(runs), group, draw), draw)


def _declared(artefact: Artefact, draw: Draw) -> Draw:
    if artefact.id in REGISTRY:
        raise ValueError(f"{artefact.id} is declared twice")
    REGISTRY[artefact.id] = artefact
    return draw
