"""The curves of all trained runs for the explorer page: records as scripts, one file for each source.

A script, because a page that was opened from a disk may read no other file. Curves are thinned evenly, first and last
evaluation kept, until a file is small enough; accuracies are in percent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from repro.book.inputs import Inputs
from repro.book.wording import setting
from repro.errors import ReproError
from repro.registry import labels
from repro.registry.published import runs_named
from repro.results.records import Record

LIMIT = 450_000
"""Most bytes of a file."""
_POINTS = (40, 30, 20, 12, 8)
_SETTINGS = (
    "model", "data", "method", "workers", "local_batch", "lr", "momentum", "norm", "codec", "partition", "schedule",
    "step_up", "local_steps", "local_epochs", "labels_per_client", "dirichlet_alpha", "weight_decay",
)  # fmt: skip


def _percent(value: float) -> float:
    return round(100 * value, 1)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


#: What is drawn -> how its numbers are written.
MEASURES: dict[str, Callable[[float], float]] = {"test_top1": _percent, "train_top1": _percent, "test_loss": _digits}


def files(inputs: Inputs) -> dict[str, str]:
    """``curves-<source>.js`` for each source with trained runs, as file name -> text.

    Raises:
        ReproError: the curves of a source are too many for a file, even when thinned.
    """
    trained = [r for r in inputs.records if r.profile == inputs.profile and r.kind == "train" and r.rows]
    statements = {item.id: runs_named(item) for item in inputs.published.statements if item.judge}
    made = {}
    for source in dict.fromkeys(record.source for record in trained):
        mine = [record for record in trained if record.source == source]
        made[f"curves-{source}.js"] = _script(source, mine, statements)
    return made


def _script(source: str, records: Sequence[Record], statements: Mapping[str, Sequence[str]]) -> str:
    by_run: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.run, record.seed)):
        by_run.setdefault(record.run, []).append(record)
    for most in _POINTS:
        runs = [_run(group, most, _of(run, statements)) for run, group in by_run.items()]
        text = ",\n".join(json.dumps(run, separators=(",", ":"), ensure_ascii=False) for run in runs)
        if len(text.encode()) <= LIMIT:
            return f"(window.CURVES = window.CURVES || {{}}).{source} = [\n{text}\n];\n"
    raise ReproError(
        f"curves of {source}: more than {LIMIT} bytes with {_POINTS[-1]} points a curve; give the source more files "
        "in repro/book/curves.py"
    )


def _of(run: str, statements: Mapping[str, Sequence[str]]) -> list[str]:
    """The statements that are judged by a run; a grid's arm that is named stands for its runs."""
    return [
        name for name, named in statements.items()
        if any(run == other or run.startswith(f"{other}-lr") for other in named)
    ]  # fmt: skip


def _run(group: Sequence[Record], most: int, statements: Iterable[str]) -> dict[str, Any]:
    first, longest = group[0], max(group, key=lambda record: len(record.rows))
    kept = thinned(len(longest.rows), most)
    settings = [f"{name.replace('_', ' ')}: {setting(first.spec[name])}" for name in _SETTINGS if first.spec.get(name)]
    return {
        "run": first.run,
        "label": labels.label(first.run, first.spec),
        "group": first.group,
        "settings": "; ".join(settings),
        "statements": list(statements),
        "epoch": [_digits(longest.rows[i]["epoch"]) for i in kept],
        "round": [longest.rows[i]["round"] for i in kept],
        "seeds": {str(record.seed): _seed(record, kept) for record in group},
    }


def _seed(record: Record, kept: Sequence[int]) -> dict[str, list[float]]:
    """The values of one record at the evaluations that are kept; one that stopped early has fewer."""
    rows = [record.rows[i] for i in kept if i < len(record.rows)]
    return {
        name: [written(row[name]) for row in rows]
        for name, written in MEASURES.items()
        if all(name in row for row in rows)
    }


def thinned(count: int, most: int) -> list[int]:
    """Places of at most ``most`` of ``count`` values, evenly spread, with the first and the last.

    >>> thinned(5, 8), thinned(9, 3)
    ([0, 1, 2, 3, 4], [0, 4, 8])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
