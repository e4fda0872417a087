"""Which device of post 3 holds images of which class."""

from __future__ import annotations

from repro.report import layout, shards
from repro.report.artefact import figure
from repro.report.e3.runs import BN, BN_SKEWED, split
from repro.report.layout import Figure
from repro.report.notes import gaps, stamp
from repro.report.rows import Rows
from repro.report.selection import Selection, members

RUNS = (BN, BN_SKEWED)


@figure("e3.extra-shards", title="Images of each class that clients hold", runs=RUNS, rows=shards.shard_rows)
def classes(groups: Selection, rows: Rows) -> Figure:
    """Draw IID shards and two classes a device (statements e3.c1, e3.c2)."""
    notes = [shards.NOTE.format(who="device", seed=members(groups)[0].seed), *gaps(groups, fewer=False)]
    texts = layout.Texts("e3.extra-shards  Who holds which classes", stamp(groups), notes)
    return shards.draw(groups, rows, texts, {run: split(group) for run, group in groups.items()}, who="device")
