"""Which client of post 1 holds images of which class."""

from __future__ import annotations

from repro.report import layout, shards
from repro.report.artefact import figure
from repro.report.e1.curves import DIRICHLET_RUNS
from repro.report.layout import Figure
from repro.report.notes import gaps, stamp
from repro.report.rows import Rows
from repro.report.selection import Selection, members

RUNS = (DIRICHLET_RUNS[0], "e1-federated-2labels", *DIRICHLET_RUNS[1:])


@figure("e1.extra-shards", title="Images of each class that clients hold", runs=RUNS, rows=shards.shard_rows)
def classes(groups: Selection, rows: Rows) -> Figure:
    """Draw IID shards, two labels a client, and Dirichlet shards (statements e1.c5, e1.c10)."""
    drawn = shards.NOTE.format(who="client", seed=members(groups)[0].seed)
    notes = [f"{drawn} Alpha: of the Dirichlet distribution of a client's classes.", *gaps(groups, fewer=False)]
    texts = layout.Texts("e1.extra-shards  Who holds which classes", stamp(groups), notes)
    return shards.draw(groups, rows, texts, {run: shards.title(group) for run, group in groups.items()})
