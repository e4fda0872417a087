"""Were these numbers really computed? Runs again and compares with what is stored."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from repro import files
from repro.errors import ReproError
from repro.registry import published, specs, store
from repro.results import records
from repro.results.records import Record
from repro.running import runner
from repro.verdicts import rules

IDENTICAL, AGREES, DIFFERS = "identical", "agrees, not identical", "differs"
_DETERMINISTIC = (
    "run",
    "source",
    "group",
    "kind",
    "profile",
    "seed",
    "spec",
    "data",
    "fingerprint",
    "status",
)
_COUNTED = {
    "train": ("epoch", "round", "lr", "bytes_up", "bytes_down"),
    "payloads": ("step", "what", "codec", "dense_bytes"),
    "gradients": ("step", "batch", "repetitions"),
    "teacher": ("teacher", "held_out", "large", "small", "pairs", "numbers"),
    "measure": ("batch", "parameters", "buffers", "n", "model", "gradients", "optimiser", "activations", "batch_held"),
}  # of a row, what no round-off changes
COMPARED = tuple(kind for kind in _COUNTED if kind != "measure")
"""Kinds of runs whose repetition can be compared on any machine; a time needs the machine for itself."""
#: Of a record of each kind, the number in percent that must lie where one more seed is expected, and what it is.
_IN_PERCENT: dict[str, tuple[str, Callable[[Record], float]]] = {
    "train": ("last top-1", lambda record: 100 * record.rows[-1]["test_top1"]),
    "gradients": ("mean cosine with all images", lambda record: 100 * fmean(row["cosine"] for row in record.rows)),
    "teacher": ("mean R² of all teachers", lambda record: 100 * fmean(row["r2"] for row in record.rows)),
}
PEAK_TOLERANCE = 0.1  # of a process's peak memory, which libraries and malloc share in
TIME_TOLERANCE = 1.25  # factor between median times on the same machine type, beyond the quartiles of both
SIZE_TOLERANCE = 0.1  # of a payload's length: round-off grows in training, and how well messages zip depends on it
_UNSTEADY = "threshold"  # what reaches a fixed threshold is as uncertain as the gradient is


@dataclass(frozen=True)
class Comparison:
    """One repeated run: its verdict, in what it differs, and the number of the record beside the new one, in words."""

    run: str
    seed: int
    verdict: str
    detail: str
    recorded: str = ""
    again: str = ""


def rerun(
    spec: specs.Spec,
    seed: int,
    root: Path = Path(),
    *,
    processes: int = 1,
    report: Callable[[float], None] = lambda share: None,
) -> Comparison:
    """Run again, from the beginning and without touching the stored record, and compare.

    On the same machine type and versions the bodies must be identical. Elsewhere everything but measured floats must
    be equal (rows, rounds and bytes among it), and one number of each training (its last accuracy), of gradients (their
    mean cosine) or of teachers (their mean R2) must lie where one more seed is expected: mean +- t s sqrt(1 + 1/n) over
    the recorded seeds, 95 %. Lengths of payloads, some of which exist for one seed only,
    must lie within ``SIZE_TOLERANCE`` of those on record, but for a fixed threshold, whose lengths vary more. Of a
    measurement, bytes of tensors must be equal and, on the same machine type, times and peaks agree within an interval;
    nothing else should run meanwhile. Of a law, elsewhere, each check of what it states must be met or missed alike.
    A record that processes of torchrun made is repeated in this process, with the workers one after the other.

    Raises:
        ReproError: there is no record to compare with, or it is stale.
    """
    stored = recorded(spec, seed, root)
    known = records.provenance_path(store.record_path(spec, seed, root))
    separate = known.exists() and "transport" in files.read_json(known)  # summed worker by worker, as the record was
    again, provenance = runner.run(
        spec, seed, root, processes=processes, checkpoint_seconds=math.inf, report=report, separate=separate
    )
    found = _compare(spec, stored, again, provenance, root)
    return replace(found, recorded=records.result(stored), again=records.result(again))


def _compare(spec: specs.Spec, stored: Record, again: Record, provenance: Mapping[str, Any], root: Path) -> Comparison:
    seed, differing = stored.seed, records.differences(stored, again)
    if not differing:
        return Comparison(spec.run, seed, IDENTICAL, "the record bodies are bit-identical")
    if stored.kind == "measure":
        return _measured_again(stored, again)
    before = records.provenance_path(store.record_path(spec, seed, root))
    machine = files.read_json(before)["machine"] if before.exists() else None
    if machine is None:
        return Comparison(spec.run, seed, DIFFERS, f"{', '.join(differing)} differ, and no provenance names a machine")
    if all(provenance["machine"].get(name) == known for name, known in machine.items()):  # older ones name less
        told = f"same machine type and versions, but {', '.join(differing)} differ; {_apart(stored, again, differing)}"
        return Comparison(spec.run, seed, DIFFERS, told)
    found = _elsewhere(spec, stored, again, root)
    return replace(found, detail=f"{found.detail}; {_apart(stored, again, differing)}")


def _apart(stored: Record, again: Record, differing: Iterable[str]) -> str:
    """How many values differ and the first of them, by its place in the record, with all digits of both."""
    before, now = stored.body(), again.body()
    found = [line for name in differing for line in _leaves(name, before.get(name), now.get(name))]
    return f"{len(found)} values differ, first {found[0]}" if len(found) > 1 else f"what differs: {found[0]}"


def _leaves(name: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _leaves(f"{name}.{key}", before.get(key), now.get(key))
    elif isinstance(before, list | tuple) and isinstance(now, list | tuple):
        if len(before) != len(now):
            yield f"{name}: recorded {len(before)} entries, here {len(now)}"
        for i, pair in enumerate(zip(before, now, strict=False)):
            yield from _leaves(f"{name}[{i}]", *pair)
    elif before != now:
        yield f"{name}: recorded {before!r}, here {now!r}"


def recorded(spec: specs.Spec, seed: int, root: Path = Path()) -> Record:
    """The record that a repetition is compared with.

    Raises:
        ReproError: there is none (the message names the seeds that have one), or it is damaged or stale.
    """
    path = store.record_path(spec, seed, root)
    if not path.exists():
        others = (other.stem.rpartition(".s")[2] for other in path.parent.glob(f"{spec.run}.s*.json"))
        seeds = ", ".join(sorted((name for name in others if name.isdecimal()), key=int))
        remedy = f"make one with `python -m repro run {spec.run} --profile {spec.profile}`"
        if seeds:
            remedy = f"name a seed that has one: {seeds}"
        raise ReproError(f"{path}: no such record; {remedy}")
    stored = store.stored(spec, seed, root)
    if stored is None:
        raise ReproError(
            f"{path}: stale, its fingerprint is not that of the current code and spec; run the sweep first"
        )
    return stored


def recorded_seconds(spec: specs.Spec, seed: int, root: Path = Path()) -> float | None:
    """Core-seconds that the stored record took, and a repetition may take; None where no provenance tells.

    Raises:
        ReproError: the provenance is damaged.
    """
    return records.core_seconds(records.provenance_path(store.record_path(spec, seed, root)))


def _measured_again(stored: Record, again: Record) -> Comparison:
    """Two measurements: what is counted must be equal, times and peaks agree within an interval.

    Times of another machine are another measurement; they are not compared.
    """
    counted = _COUNTED["measure"]
    wrong = [name for name in _DETERMINISTIC if getattr(stored, name) != getattr(again, name)]
    pairs = list(zip(stored.rows, again.rows, strict=False))
    if len(stored.rows) != len(again.rows) or any(a[k] != b[k] for a, b in pairs for k in counted):
        wrong.append("rows")
    if wrong:
        return Comparison(stored.run, stored.seed, DIFFERS, f"a measurement, and {', '.join(wrong)} differ")
    if stored.machine != again.machine:
        what = "another machine; bytes of tensors are equal, times and peaks are not compared"
        return Comparison(stored.run, stored.seed, AGREES, what)
    apart = [
        f"{part} at batch {a['batch']}"
        for a, b in pairs
        for part in ("compute", "movement", "update", "step")
        if a[part] is not None
        and (b[part][0] > TIME_TOLERANCE * a[part][2] or a[part][0] > TIME_TOLERANCE * b[part][2])
    ]
    apart += [
        f"peak at batch {a['batch']}"
        for a, b in pairs
        if a["peak"] is not None and abs(b["peak"] / a["peak"] - 1) > PEAK_TOLERANCE
    ]
    within = f"quartiles within a factor of {TIME_TOLERANCE:g}, peaks within {100 * PEAK_TOLERANCE:g} %"
    if apart:
        told = f"same machine type, but beyond {within}: {', '.join(apart)}"
        return Comparison(stored.run, stored.seed, DIFFERS, told)
    return Comparison(stored.run, stored.seed, AGREES, f"a measurement; bytes of tensors are equal, {within}")


def _elsewhere(spec: specs.Spec, stored: Record, again: Record, root: Path) -> Comparison:
    wrong = [name for name in _DETERMINISTIC if getattr(stored, name) != getattr(again, name)]
    counted = _COUNTED.get(stored.kind, ())
    if [[row[k] for k in counted] for row in stored.rows] != [[row[k] for k in counted] for row in again.rows]:
        wrong.append("rows")
    if wrong:
        return Comparison(stored.run, stored.seed, DIFFERS, f"another machine type, and {', '.join(wrong)} differ")
    if stored.kind == "law":
        return _law_elsewhere(stored, again, root)
    if stored.kind == "payloads":
        pairs = [pair for pair in zip(stored.rows, again.rows, strict=True) if pair[0]["codec"] != _UNSTEADY]
        largest = max(abs(ours["bytes"] / theirs["bytes"] - 1) for theirs, ours in pairs)
        verdict = AGREES if largest <= SIZE_TOLERANCE else DIFFERS
        detail = f"another machine type; payload lengths differ by at most {100 * largest:.1f} %"
        return Comparison(stored.run, stored.seed, verdict, f"{detail}, {100 * SIZE_TOLERANCE:g} % are allowed")
    what, percent = _IN_PERCENT[stored.kind]
    folder = records.folder(stored.profile, stored.source, stored.group).name
    known = [r.seed for r in records.load_all(stored.profile, folder, root) if r.run == stored.run]
    valid = [r for seed in known if (r := store.stored(spec, seed, root)) is not None and r.rows]
    values, ours = [percent(r) for r in valid], percent(again)
    if len(values) < 2:
        return Comparison(stored.run, stored.seed, DIFFERS, "another machine type, and one seed gives no interval")
    # The interval of the mean is t s / sqrt(n) wide on each side; that of one more seed t s sqrt(1 + 1/n).
    mean = rules.paired_interval(values)
    half = (mean.high - mean.estimate) * math.sqrt(len(values) + 1)
    low, high = mean.estimate - half, mean.estimate + half
    verdict = AGREES if low <= ours <= high else DIFFERS
    detail = f"another machine type; {what} {ours:.1f} %, expected {low:.1f} to {high:.1f} %"
    return Comparison(stored.run, stored.seed, verdict, detail)


def _law_elsewhere(stored: Record, again: Record, root: Path) -> Comparison:
    """Two executions of a law: sizes must be equal, and each check of its statement met or missed alike.

    Digits are not compared: how large round-off is, and how a network comes out whose steps differ by it, is the
    processor's.

    Raises:
        ReproError: no statement reads the law, or a number that a check names was not recorded.
    """
    checks = law_checks(stored.run, root)
    if not checks:
        raise ReproError(
            f"{stored.run}: no law of data/published.yaml has this run; its checks were expected there to compare two "
            "machines by; compare on the machine type of the record"
        )
    before, now = stored.law or {}, again.law or {}
    sizes = ["law's sizes"] if _law_sizes(before) != _law_sizes(now) or before.keys() != now.keys() else []
    other = [
        check["called"]
        for check in checks
        if not sizes and bool(rules.unmet_checks(before, [check])) != bool(rules.unmet_checks(now, [check]))
    ]
    if sizes or other:
        return Comparison(
            stored.run, stored.seed, DIFFERS, f"another machine type, and {', '.join(sizes + other)} differ"
        )
    missed = len(rules.unmet_checks(now, checks))
    met = f"{len(checks) - missed} of {len(checks)} checks of the law are met here and on record"
    return Comparison(stored.run, stored.seed, AGREES, f"another machine type; {met}")


def law_checks(run: str, root: Path = Path()) -> list[Mapping[str, Any]]:
    """What the statements check of the numbers of an executed law."""
    return [
        check
        for statement in published.load_published(root).statements
        for part in (statement.judge or {}).get("parts", [])
        if part["rule"] == "law" and part["run"] == run
        for check in part["checks"]
    ]


def _law_sizes(law: Mapping[str, Any]) -> dict[str, Any]:
    """What a law was executed on, the tolerance among it: what no round-off changes."""
    return {name: value for name, value in law.items() if name == "tolerance" or not isinstance(value, float)}


def sample(n: int, seed: int, root: Path = Path()) -> list[tuple[specs.Spec, int]]:
    """``n`` committed records, drawn at random over all profiles, whose runs are still planned and current.

    Raises:
        ReproError: there is none.
    """
    known = []
    for profile in specs.PROFILES:
        for source in specs.SOURCES:
            if (root / "data/records" / profile / source).exists():
                groups = (specs.runs_and_waiting(source, profile, group, root)[0] for group in specs.GROUPS)
                planned = [task for tasks in groups for task in tasks]
                known += [task for task in planned if store.stored(*task, root) is not None]
    if not known:
        raise ReproError("no valid records to audit; run `python -m repro sweep` first")
    return random.Random(seed).sample(known, min(n, len(known)))
