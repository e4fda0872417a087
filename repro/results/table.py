"""All records of a profile as one table, for a spreadsheet or a data frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repro.errors import ReproError
from repro.results import records
from repro.results.records import Record

Row = dict[str, Any]


def frame(profile: str = "study", root: Path = Path(), *, evaluations: bool = False) -> list[Row]:
    """Rows that all have the same columns, so that ``pandas.DataFrame(frame())`` is a data frame.

    Columns: identity of the run; ``spec.`` and a setting, with a full stop before each level below; ``data.``; then
    accuracy at the end (mean of the last tenth; fractions, as in records), seconds of one core, and what was measured.
    A list is JSON; what a run does not have is None.

    Args:
        profile: whose records, stale ones included (``repro list`` tells them).
        root: of the checkout.
        evaluations: a row for each evaluation (of messages and measurements: each of these), and not only the last.

    Raises:
        ReproError: there is no record, or one is damaged.
    """
    found = [path for path in records.every(root) if path.parts[-3] == profile]
    if not found:
        raise ReproError(
            f"{root / 'data/records' / profile}: no records; run `python -m repro sweep --profile {profile}`"
        )
    rows = [row for path in found for row in _rows(records.read(path), path, evaluations)]
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def _rows(record: Record, path: Path, evaluations: bool) -> Iterator[Row]:
    names = ("profile", "source", "group", "kind", "run", "seed", "status", "fingerprint")
    start: Row = {name: getattr(record, name) for name in names}
    start |= _flat("spec", {name: value for name, value in record.spec.items() if name not in names})
    start |= _flat("data", record.data) | {"end_top1": None, "end_top5": None}
    if record.kind == "train":
        from repro.results import metrics

        start |= {"end_top1": metrics.end_top1(record), "end_top5": metrics.end_top5(record)}
    start["core_seconds"] = records.core_seconds(records.provenance_path(path))
    shown = record.rows if evaluations else record.rows[-1:]
    for row in shown or [{}]:
        yield start | {name: _cell(value) for name, value in row.items()}


def _flat(name: str, value: Any) -> Row:
    if not isinstance(value, Mapping):
        return {name: _cell(value)}
    return {column: cell for key, below in value.items() for column, cell in _flat(f"{name}.{key}", below).items()}


def _cell(value: Any) -> Any:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, (list, tuple, Mapping)) else value
