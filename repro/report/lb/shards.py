"""Which client of the paper holds images of which class."""

from __future__ import annotations

from repro.report import layout, shards
from repro.report.artefact import figure
from repro.report.layout import Figure
from repro.report.lb.accuracy import SPLITS
from repro.report.lb.runs import MODELS
from repro.report.notes import gaps_of_many, stamp_by_network
from repro.report.rows import Rows
from repro.report.selection import Selection, members
from repro.results.measurements import title

RUNS = tuple(f"lb-fa-{model}-{split}" for split in SPLITS for model in MODELS)


@figure("lb.extra-shards", title="Images of each class that clients hold", runs=RUNS, rows=shards.shard_rows)
def classes(groups: Selection, rows: Rows) -> Figure:
    """Draw IID and non-IID shards of each network (statements lb.c1, lb.c2)."""
    notes = [shards.NOTE.format(who="client", seed=members(groups)[0].seed), *gaps_of_many(groups)]
    texts = layout.Texts("lb.extra-shards  Who holds which classes", stamp_by_network(groups), notes)
    titles = {run: f"{title(group[0])},\n{shards.title(group)}" for run, group in groups.items()}
    return shards.draw(groups, rows, texts, titles)
