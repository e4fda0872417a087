"""Runs of post 3, and what of them is said in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from repro.registry.labels import label, number
from repro.report.selection import Groups, completed, diverged, global_batch, members, setting
from repro.results.records import Record

BN, GN, FIXUP = "e3-iid-bn", "e3-iid-gn", "e3-iid-fixup"
BN_SKEWED, GN_SKEWED, FIXUP_SKEWED = "e3-noniid-bn", "e3-noniid-gn", "e3-noniid-fixup"
LAW = "e3-normalisation-law"
BATCHES = (128, 1024, 2048)
SYNCHRONISED = (10, 40, 150)

GN_RUNS = tuple(f"e3-gn-{batch}" for batch in BATCHES)
LN_RUNS = tuple(f"e3-ln-{batch}" for batch in BATCHES)
IN_RUNS = tuple(f"e3-in-{batch}" for batch in BATCHES)
OTHER_NORM_RUNS = (*LN_RUNS, *IN_RUNS)
FIXUP_RUNS = tuple(f"e3-fixup-{batch}" for batch in BATCHES)
LINEAR_RUNS = ("e3-fixup-1024-linear", "e3-fixup-2048-linear")
SHORT_RUNS = ("e3-fixup-1024-short", "e3-fixup-2048-short")
"""Fixup to a rate of 0.1 with the length of GroupNorm's warm-up, so that rate and warm-up can be told apart."""
IID_RUNS = ("e3-fedavg-iid-10", "e3-fedavg-iid-150")
SKEWED_RUNS = tuple(f"e3-fedavg-noniid-{steps}" for steps in SYNCHRONISED)

#: Fields of a spec in which the runs of this post differ; columns of its CSV files.
COLUMNS = ("schedule", "local_steps", "buffers", "last_scale_zero", "momentum", "weight_decay")


def network(run: str) -> str:
    """The network of a run, without its split or batch."""
    return label(run).partition(" (")[0]


def split(group: Sequence[Record]) -> str:
    """Whose classes a device has."""
    per_client = setting(group, "labels_per_client")
    return "IID" if per_client is None else f"{per_client} classes a device"


def every(group: Sequence[Record]) -> int:
    """Local batches between two synchronisations."""
    return int(setting(group, "local_steps"))


def thin_lines(groups: Groups) -> list[str]:
    """A note on what is drawn where a seed diverged; none where none did."""
    if not diverged(members(groups)):
        return []
    return ["Where a seed diverged: thin, a line a seed, and an X at chance for each lost one."]


def steps(groups: Groups, runs: Iterable[str]) -> str:
    """Steps that each run was given, which differ because the epochs do not."""
    counted = {}
    for run in runs:
        if ended := completed(groups[run]):
            counted[global_batch(groups[run])] = int(ended[0].rows[-1]["round"])
    said = ", ".join(f"{number(steps)} of {number(batch)} images" for batch, steps in counted.items())
    return f"Equal epochs are unequal steps: {said}." if said else "No run completed."


def warm_up(*runs: Sequence[Record]) -> str:
    """How the rate of runs is warmed up: from, to, and in how many epochs.

    Runs of several batches differ in the last rate, and in the epochs too where a profile keeps the steps of a warm-up.
    """
    schedules = [setting(group, "schedule") for group in runs]
    starts, lengths, ends = (
        " or ".join(dict.fromkeys(f"{schedule[name]:.4g}" for schedule in schedules))
        for name in ("warmup_from", "warmup_epochs", "lr")
    )
    return f"{starts} to {ends} in {lengths} epochs"
