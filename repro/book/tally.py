"""How many statements came out in which way: one sentence and one table, the same on every page and in README.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repro.book.rows import NOT_RUN, Row
from repro.book.theme import PILOT, SIGNS, SOURCES, said
from repro.running.bill import Line as Bill
from repro.verdicts import judge, rules

GROUPS = {"results": "result", "laws": "law", "definitions": "definition"}


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Column of the table of verdicts -> number of rows."""
    found = Counter(row.counted_as for row in rows)
    return {word: found[word] for word in columns(found) if found[word]}


def columns(words: Iterable[str]) -> list[str]:
    """How verdicts are counted: by the keys of ``SIGNS``, and the pilot's apart where there are any."""
    return [*SIGNS, *([PILOT] if PILOT in set(words) else [])]


def by_source(rows: Sequence[Row]) -> list[tuple[str, str, dict[str, int]]]:
    """(source, its name, counts) of the results of each source; laws and definitions are no results."""
    found = [(source, name, [row for row in rows if row.source == source]) for source, name in SOURCES.items()]
    return [
        (source, name, counts(row for row in mine if row.group == "results")) for source, name, mine in found if mine
    ]


def apart(rows: Sequence[Row]) -> list[tuple[str, str, dict[str, int]]]:
    """(kind, name, counts) of laws and of definitions, of all sources."""
    return [(GROUPS[name], name, counts(row for row in rows if row.group == name)) for name in ("laws", "definitions")]


def sentence(rows: Sequence[Row]) -> str:
    """The tally: how many statements are judged, and how, results, laws and definitions apart.

    Those of the pilot are not among them, and ``progress`` tells of the rest where there are any.
    """
    judged = [row for row in rows if row.counted_as not in (PILOT, NOT_RUN)]
    told = []
    for group, one in GROUPS.items():
        if mine := counts(row for row in judged if row.group == group):
            number, _, rest = said(mine).partition(" ")
            told.append(f"{number} {one if number == '1' else group} {rest}")
    text = f"{len(judged)} of {len(rows)} statements judged"
    unrun = counts(row for row in rows if row.counted_as == NOT_RUN)
    if unrun and not any(row.pilot for row in rows):
        told.append(said(unrun))
    return f"{text}: {'; '.join(told)}." if told else f"{text}."


def named(rows: Iterable[Row]) -> str:
    """How many results, laws and definitions there are among ``rows``: ``3 results + 7 laws``."""
    found = Counter(row.group for row in rows)
    told = [f"{found[group]} {one if found[group] == 1 else group}" for group, one in GROUPS.items() if found[group]]
    return " + ".join(told) or "none"


def progress(rows: Sequence[Row], seeds: int, bill: Sequence[Bill]) -> str:
    """How far the study is, where the pilot still stands in: statements, runs and core-hours; else empty.

    Args:
        rows: all statements.
        seeds: repetitions of the pilot.
        bill: what the study costs, by group.
    """
    old = [row for row in rows if row.pilot]
    if not old:
        return ""
    unrun = sum(row.word == NOT_RUN for row in rows)
    done, left = (sum(getattr(line, name) for line in bill) for name in ("done", "left"))
    runs = f" ({done} of its {done + left} records are computed)" if bill else ""
    return (
        f"The study is under way{runs}: {len(rows) - len(old) - unrun} of {len(rows)} statements have its evidence, "
        f"{len(old)} {'shows' if len(old) == 1 else 'show'} the pilot for now ({seeds} repetitions, short trainings, "
        f"never counted), and {unrun} {'was' if unrun == 1 else 'were'} not run. "
        f"In the pilot {said(dict(Counter(row.word for row in old)))}."
    )


def certainty(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """How much was decided, and how many of the decisions may be wrong; the pilot is left out. Empty without parts."""
    own = [verdict for verdict in verdicts if not verdict.get("pilot")]
    parts = [part for verdict in own for part in verdict["parts"] if not part.get("beside")]
    if not parts:
        return ""
    wrong, tested = judge.expected_wrong(own)
    decided = sum(part["outcome"] in rules.DECIDED for part in parts)
    told = f"Of {len(parts)} parts that count, {decided} {'is' if decided == 1 else 'are'} decided."
    if tested:
        told += (
            f" Of the {tested} decisions that rest on an interval or a test, at most {wrong:.1f} are "
            "expected to be wrong (their largest false discovery rate times their number)."
        )
    return told
