"""Which client of post 2 holds images of which class."""

from __future__ import annotations

from repro.report import layout, shards
from repro.report.artefact import figure
from repro.report.e2.runs import BASELINE
from repro.report.layout import Figure
from repro.report.notes import gaps, stamp
from repro.report.rows import Rows
from repro.report.selection import Selection, members


@figure("e2.extra-shards", title="Images of each class that clients hold", runs=(BASELINE,), rows=shards.shard_rows)
def classes(groups: Selection, rows: Rows) -> Figure:
    """Draw the IID shards of all runs of the post (table e2.table2)."""
    notes = [shards.NOTE.format(who="client", seed=members(groups)[0].seed), *gaps(groups, fewer=False)]
    texts = layout.Texts("e2.extra-shards  Who holds which classes", stamp(groups), notes)
    return shards.draw(groups, rows, texts, {run: shards.title(group) for run, group in groups.items()}, height=1.6)
