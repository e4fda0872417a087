"""Tables as CSV (for programs), Markdown (for the page) and LaTeX with booktabs (for print), and what cells say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.errors import ReproError
from repro.registry.labels import number
from repro.report.intervals import interval
from repro.report.rows import Row, csv_text
from repro.report.selection import setting
from repro.results.metrics import rounds_to_target
from repro.results.records import Record

NO_VALUE = {"published": "no value published"}
"""The columns of what the source does not give."""
UNKNOWN = "not stated"
ABSENT = "–"
MEGABYTE = 1e6


@dataclass(frozen=True)
class Table:
    """A finished table: what readers see as text, and the numbers with their provenance as ``csv_rows``."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    csv_rows: list[Row]

    def csv(self) -> str:
        """The numbers with full provenance, one header line."""
        return csv_text(self.csv_rows)

    def markdown(self) -> str:
        """A pipe table with a title and notes."""
        lines = [f"**{self.title}**", "", _pipe(self.header), _pipe(["---"] * len(self.header))]
        lines += [_pipe(row) for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]) + "\n"

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def latex(self) -> str:
        """A ``table`` environment; needs the packages booktabs and tabularx."""
        columns = r">{\raggedright\arraybackslash}X" * len(self.header)
        body = [" & ".join(map(_tex, row)) + r" \\" for row in self.rows]
        return (
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering\small",
                    rf"\caption{{{_tex(self.title)}}}",
                    rf"\begin{{tabularx}}{{\linewidth}}{{{columns}}}",
                    r"\toprule",
                    " & ".join(map(_tex, self.header)) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabularx}",
                    "",
                    *(rf"\par\footnotesize {_tex(note)}" for note in self.notes),
                    r"\end{table}",
                ]
            )
            + "\n"
        )


def from_markdown(text: str) -> Table:
    """The table that ``Table.markdown`` wrote as ``text``, without the numbers behind it.

    Raises:
        ReproError: something else than such a table.
    """
    lines = text.splitlines()
    piped = [
        [cell.replace(r"\|", "|") for cell in re.split(r" (?<!\\)\| ", row[2:-2])] for row in lines if row[:2] == "| "
    ]
    if not lines or not lines[0].startswith("**") or len(piped) < 2 or len({len(row) for row in piped}) > 1:
        raise ReproError("not a table that this package wrote; restore the file from git")
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return Table(lines[0].strip("*"), piped[0], piped[2:], notes, [])


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "×": r"$\times$",
    "²": r"$^2$",
    "÷": r"$\div$",
    "–": "--",
    "−": "$-$",
    "\u202f": r"\,",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


# Cells ----------------------------------------------------------------------------------------------------------

BUFFER_POLICIES = {
    "average": ("sent and averaged in every round", "the average"),
    "local": ("kept on each device", "each device's in turn, mean of the accuracies"),
    "drop": ("none kept", "those of a batch of {images} test images"),
}
"""Policy for BatchNorm's running statistics -> what becomes of them, and which ones are used in evaluation."""

EVALUATION_BATCH = 500
"""Test images that are evaluated, and under the policy ``drop`` normalised, together (``repro.running.prepare``)."""


def buffer_policy(group: Sequence[Record], policy: str) -> tuple[str, str]:
    """What becomes of BatchNorm's running statistics under ``policy``, and which ones are used in evaluation.

    ``group``: whose test images they are.
    """
    kept, evaluated = BUFFER_POLICIES[policy]
    return kept, evaluated.format(images=min(EVALUATION_BATCH, int(setting(group, "test_images"))))


def significant(value: float, digits: int = 3) -> str:
    """Rounded to ``digits`` significant digits, integers in full.

    >>> significant(0.12345), significant(9.999), significant(1234.5), significant(0)
    ('0.123', '10.0', '1\\u202f234', '0')
    """
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return number(value, max(0, digits - 1 - exponent) if value else 0)


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are two.

    >>> duration(90), duration(7200)
    ('90 s', '2.0 h')
    """
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{significant(seconds / length, 2)} {unit}"
    return f"{significant(seconds, 2)} s"


def bytes_to_target(record: Record, target: float) -> tuple[tuple[int, int], bool]:
    """Cumulative bytes (up, down) of all workers in the rounds to the target (``rounds_to_target``), interpolated.

    Where the target was not reached: the bytes of the rounds that are a lower bound, and False. A diverged run is
    charged the rounds it no longer made at its own bytes per round (0 if it diverged before the first evaluation).
    """
    rounds, reached = rounds_to_target(record, target)
    if not record.rows:
        return (0, 0), False
    if record.status == "completed":
        places = [0, *(row["round"] for row in record.rows)]
        sent = [[0, *(row[name] for row in record.rows)] for name in ("bytes_up", "bytes_down")]
        up, down = (round(float(np.interp(rounds, places, each))) for each in sent)
        return (up, down), reached
    last = record.rows[-1]
    up, down = (round(last[name] / last["round"] * rounds) for name in ("bytes_up", "bytes_down"))
    return (up, down), False


def summary(values: Sequence[float], reached: Sequence[bool], digits: int) -> str:
    """``mean [low, high]``, or ``> bound (not reached by k of n seeds)`` with those seeds at their end."""
    mean, low, high = interval(values)
    if not all(reached):
        lost = len(values) - sum(reached)
        return f"> {number(mean, digits)} (not reached by {lost} of {len(values)} seeds)"
    if np.isnan(low):
        return f"{number(mean, digits)} (one seed)"
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"
