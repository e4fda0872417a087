"""What tests of figures and tables share: synthetic records of every source, and what a figure or CSV says."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import synthetic_lb
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic import e1_control_records, e1_grid_records, e1_records
from synthetic_e2 import e2_records
from synthetic_e3 import e3_control_records, e3_records
from synthetic_lb_training import training_control_records, training_records

from repro import report
from repro.results.records import Record


@lru_cache
def records_of(source: str) -> tuple[Record, ...]:
    """Synthetic records of all runs of a source, at profile study."""
    made: dict[str, Any] = {
        "e1": lambda: [*e1_records(), *e1_grid_records(), *e1_control_records()],
        "e2": lambda: e2_records(controls=True),
        "e3": lambda: [*e3_records(), *e3_control_records()],
        "lb": lambda: [
            *synthetic_lb.all_records(),
            *synthetic_lb.all_gradients(),
            *map(synthetic_lb.teacher, synthetic_lb.SEEDS),
            *training_records(),
            *training_control_records(),
        ],
    }
    return tuple({(record.run, record.seed): record for record in made[source]()}.values())


def drawn(name: str, records: Iterable[Record]) -> Any:
    """The figure or table ``name``."""
    return (report.figure if report.ARTEFACTS[name].kind == "figure" else report.table)(name, records)


def said(made: Any) -> str:
    """All words of a figure, or the notes of a table."""
    return texts(made) if isinstance(made, Figure) else " ".join(made.notes)


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


def read_csv(source: Path | str) -> list[dict[str, str]]:
    """Rows of a file, or of the text of one."""
    return list(csv.DictReader(io.StringIO(source.read_text() if isinstance(source, Path) else source)))


def lost(record: Record) -> Record:
    """As it is when the run diverges at its first step."""
    series = {name: [] for name in record.series}
    return replace(record, status="diverged", reason="the training loss is nan", rows=[], series=series)


def stopped(record: Record, evaluations: int = 2) -> Record:
    """As it is when the run diverges after a few evaluations."""
    if record.status == "diverged":
        return record
    rows = record.rows[:evaluations]
    series = {name: values[: rows[-1]["round"]] for name, values in record.series.items()}
    return replace(record, status="diverged", reason="the training loss is nan", rows=rows, series=series)


def undrawn_ticks(figure: Figure) -> set[Text]:
    """Labels that are not drawn, because their ticks lie outside the axis."""
    return {
        tick.label1
        for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }  # fmt: skip


def luminance(colour: str) -> float:
    """Relative luminance of a hexadecimal sRGB colour (WCAG 2.2)."""
    encoded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def lightness(colour: str) -> float:
    """CIE lightness."""
    return float(116 * np.cbrt(luminance(colour)) - 16)


def contrast(colour: str) -> float:
    """Contrast on white (WCAG 2.2)."""
    return 1.05 / (luminance(colour) + 0.05)


def of(run: str, records: Sequence[Record]) -> list[Record]:
    """The records of a run."""
    return [record for record in records if record.run == run]
