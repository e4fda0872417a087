"""The records that verdicts rest on: by run and seed, with the planned ones that are missing, and the looks reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from repro.errors import ReproError
from repro.results import looks
from repro.results.metrics import end_top1
from repro.results.records import Record
from repro.verdicts.rules import NOT_RUN

MINIMUM_SEEDS = 3
"""Seeds that bytes need: they hardly vary."""
GRID_SEEDS = (8,)
"""Learning-rate grids have 8 seeds of their own and are looked at once."""
DIVERGENCE_SEEDS = (8,)
"""Divergence is counted once, over 8 seeds."""
MISSING, STALE = "missing", "stale"

_GRID_RUN = re.compile(r"^(?P<arm>.+)-lr(?P<rate>[0-9_]+)$")


class Undecided(Exception):
    """A part that no interval can decide: something is missing, or the records leave the question open."""

    def __init__(self, outcome: str, reason: str):
        super().__init__(reason)
        self.outcome = outcome


class Repetitions(NamedTuple):
    """What repeats a part, and how wide its intervals are.

    Attributes:
        at: numbers of seeds at which it is judged; empty: whenever all planned seeds are there.
        least: fewer seeds decide nothing.
        width: (seeds, level) -> half-width of the interval in standard errors.
    """

    at: tuple[int, ...]
    least: int
    width: Callable[[int, float], float]

    def multiplier(self, n: int, alpha: float = looks.ALPHA) -> float:
        """That of the look; of fewer seeds than the first look Student's t, which is shown and decides nothing."""
        return self.width(n, alpha) if n >= self.least else looks.student(n, alpha)


TRAINED = Repetitions(looks.LOOKS, looks.LOOKS[0], looks.multiplier)
"""Trained runs: repeated intervals at 5, 8 and 12 seeds."""
GRIDS = Repetitions(GRID_SEEDS, GRID_SEEDS[0], looks.multiplier)
"""Learning-rate grids: once, at 8 seeds, with the multiplier of that look, which is wider than Student's t."""
BYTES = Repetitions((), MINIMUM_SEEDS, looks.student)
"""Lengths of messages: once, at least 3 seeds, Student t."""


class Evidence:
    """What is known of one source at one profile: its valid records by run and seed, and planned runs that lack one."""

    def __init__(self, source: str, profile: str, records: Iterable[Record], absent: Mapping[tuple[str, int], str]):
        self.source, self.profile = source, profile
        self._read: dict[tuple[str, str, int], Any] = {}
        self.current: dict[str, dict[int, Record]] = {}
        for record in records:
            self.current.setdefault(record.run, {})[record.seed] = record
        self.absent: dict[str, dict[int, str]] = {}
        for (run, seed), why in absent.items():
            self.absent.setdefault(run, {})[seed] = why

    def read(self, metric: Callable[[Record], Any], run: str, seed: int) -> Any:
        """A metric that depends on one record only, computed once."""
        key = metric.__name__, run, seed
        if key not in self._read:
            self._read[key] = metric(self.current[run][seed])
        return self._read[key]

    def at_looks(self, runs: Sequence[str], repetitions: Repetitions) -> list[list[int]]:
        """The seeds of every look that ``runs`` have reached, each look with the first of the planned seeds.

        A seed counts when all runs have it, and only if all earlier ones count, so that none is left out by choice.
        Where every planned seed is there and the first look is not reached, its seeds are the only entry.
        """
        if not repetitions.at:
            return [self.seeds(runs)]
        planned = self._planned(runs)
        there = [all(seed in self.current.get(run, {}) for run in runs) for seed in planned]
        ready = there.index(False) if False in there else len(planned)
        if found := looks.reached(ready, repetitions.at):
            return [planned[:n] for n in found]
        return [self.seeds(runs)]

    def _planned(self, runs: Sequence[str]) -> list[int]:
        return sorted({seed for run in runs for known in (self.current, self.absent) for seed in known.get(run, {})})

    def seeds(self, runs: Sequence[str]) -> list[int]:
        """Seeds of ``runs``, all of which need a valid record of every seed that is planned for or known of any.

        A seed is never dropped because one arm, or every arm, lacks it: a deleted record could then change a verdict.
        """
        seeds = self._planned(runs)
        gone = []
        for run in runs:
            why = self.absent.get(run, {})
            lost = [seed for seed in seeds if seed not in self.current.get(run, {})]
            words = {seed: f" ({why[seed]})" if why.get(seed, MISSING) != MISSING else "" for seed in lost}
            if run not in self.current and len(set(words.values())) < 2:
                gone.append(run + next(iter(words.values()), ""))
            else:
                gone += [f"{run}.s{seed}{words[seed]}" for seed in lost]
        if gone:
            raise Undecided(NOT_RUN, "missing: " + ", ".join(gone))
        return seeds

    def grid(self, arm: str) -> dict[float, str]:
        """Learning rate -> run of ``arm``, ascending; every rate that is planned or known for any arm of the source."""
        known = [run for run in (*self.current, *self.absent) if run.startswith(f"{self.source}-grid-")]
        rates = {found["rate"] for run in known if (found := _GRID_RUN.match(run))}
        return dict(sorted((float(rate.replace("_", ".")), f"{arm}-lr{rate}") for rate in rates))

    def scores(self, arm: str, seed: int) -> dict[float, float]:
        """Learning rate -> held-out top-1 at the end, for one arm and seed.

        Raises:
            ReproError: a run of the grid was evaluated on the test set.
        """
        scores = {}
        for rate, run in self.grid(arm).items():
            record = self.current[run][seed]
            if record.spec["evaluate_on"] != "held_out":
                raise ReproError(
                    f"record {run}.s{seed}: evaluated on {record.spec['evaluate_on']}; held_out was "
                    "expected, test accuracy never chooses a learning rate; correct the run's definition"
                )
            scores[rate] = end_top1(record)
        return scores
