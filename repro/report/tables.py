"""Tables of post e1, as CSV (for programs), Markdown (for the page) and LaTeX with booktabs (for print)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.registry.labels import number
from repro.report import select
from repro.results.metrics import epochs_to_target, rounds_to_target, target_accuracy
from repro.results.records import Record

TABLE_RUNS = ("e1-central", "e1-large-batch", "e1-federated")

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
    csv_rows: list[dict[str, Any]]

    def csv(self) -> str:
        """The numbers with full provenance, one header line."""
        return select.csv_text(self.csv_rows)

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
    "÷": r"$\div$",
    "–": "--",
    "−": "$-$",
    "\u202f": r"\,",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


# e1.table1 ----------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One row of e1.table1.

    ``published`` holds one value per method (centralised, large batch, federated) as the post's text gives
    it, and ``basis`` says how, per method where it differs: ``stated``, ``derived`` (arithmetic on stated
    numbers, or the data set's own) or ``implied`` (a reading of what is stated, or arithmetic on one).
    ``ours`` names spec fields, filled into ``form``.
    """

    name: str
    published: tuple[str, str, str]
    basis: str | tuple[str, str, str]
    ours: tuple[str, ...]
    form: str = "{}"

    def basis_of(self, method: int) -> str:
        """How the published value of method 0, 1 or 2 is known."""
        fixed = {UNKNOWN: UNKNOWN, ABSENT: "does not apply"}
        own = self.basis if isinstance(self.basis, str) else self.basis[method]
        return fixed.get(self.published[method], own)


def _same(value: str) -> tuple[str, str, str]:
    return (value, value, value)


_IMAGES, _BATCH = number(50_000), number(3072)

SETTINGS = (
    Setting("data set", _same("CIFAR-10"), "stated", ("dataset",)),
    Setting("training images", _same(_IMAGES), "stated", ("train_images",)),
    Setting("test images", _same(number(10_000)), "stated", ("test_images",)),
    Setting("image size (px)", _same("32 × 32"), "derived", ("image_size", "image_size"), "{} × {}"),
    Setting("model, from scratch", _same("ResNet18"), "stated", ("model",)),
    Setting("base width (channels)", _same("64"), "implied", ("width",)),
    Setting("normalisation", _same("batch"), "implied", ("norm",)),
    Setting("optimiser", _same("SGD"), "stated", (), "SGD"),
    Setting("momentum", _same("0"), "stated", ("momentum",)),
    Setting("weight decay", _same(UNKNOWN), UNKNOWN, ("weight_decay",)),
    Setting("learning rate", (UNKNOWN, "larger than centralised", UNKNOWN), "stated", ("lr",)),
    Setting("schedule", _same(UNKNOWN), UNKNOWN, ("schedule.kind",)),
    Setting("epochs", _same(UNKNOWN), UNKNOWN, ("epochs",)),
    Setting("workers", ("1", "96", "96"), ("stated", "implied", "implied"), ("workers",)),
    Setting("data on workers", (ABSENT, "even, IID", "even, IID"), "stated", ("partition",)),
    Setting("local batch (images)", (UNKNOWN, f"32 = {_BATCH} / 96", UNKNOWN), "implied", ("local_batch",)),
    Setting("synchronised", (ABSENT, "every batch", "once per epoch"), "stated", ("sync",)),
    Setting("images per round", (ABSENT, _BATCH, _IMAGES), (ABSENT, "stated", "derived"), ("round_images",)),
    Setting("rounds per epoch", (ABSENT, f"16.3 = {_IMAGES} / {_BATCH}", "1"), "derived", ("rounds_per_epoch",)),
    Setting("sent by a worker", (ABSENT, "gradient", "weights or update"), "stated", ("sent",)),
    Setting("augmentation", _same(UNKNOWN), UNKNOWN, ("augment",)),
    Setting("BatchNorm buffers", (ABSENT, UNKNOWN, UNKNOWN), UNKNOWN, ("buffers",)),
    Setting("precision", _same(UNKNOWN), UNKNOWN, ("precision",)),
)

_WORDS = {"cifar10": "CIFAR-10", "resnet18": "ResNet18", "iid": "even, IID", True: "yes", False: "no"}


#: Rows that say nothing about training on a single machine.
_DISTRIBUTED_ONLY = {"partition", "sync", "round_images", "rounds_per_epoch", "sent", "buffers"}


def _ours(group: Sequence[Record], setting: Setting) -> str:
    """This profile's value of one setting, from the records."""
    if group[0].spec["method"] == "central" and _DISTRIBUTED_ONLY & set(setting.ours):
        return ABSENT
    derived = {
        "schedule.kind": _schedule,
        "sync": _synchronised,
        "round_images": _images_per_round,
        "rounds_per_epoch": _rounds_per_epoch,
        "sent": _sent,
    }
    values = [derived[name](group) if name in derived else _word(select.setting(group, name)) for name in setting.ours]
    return setting.form.format(*values)


def _schedule(group: Sequence[Record]) -> str:
    return str(select.setting(group, "schedule")["kind"])


def _synchronised(group: Sequence[Record]) -> str:
    if select.setting(group, "method") == "large_batch":
        return "every batch"
    every = select.setting(group, "local_epochs")
    return "once per epoch" if every == 1 else f"every {every} epochs"


def _images_per_round(group: Sequence[Record]) -> str:
    if select.setting(group, "method") == "large_batch":
        return _word(select.setting(group, "workers") * select.setting(group, "local_batch"))
    return _word(select.setting(group, "train_images") * select.setting(group, "local_epochs"))


def _rounds_per_epoch(group: Sequence[Record]) -> str:
    """As counted while training: the rest of an epoch is a round too."""
    counted = [record.rows[-1] for record in group if record.rows]
    return f"{counted[0]['round'] / counted[0]['epoch']:g}" if counted else "no evaluation"


def _sent(group: Sequence[Record]) -> str:
    return "gradient" if select.setting(group, "method") == "large_batch" else "update"


def _word(value: Any) -> str:
    if isinstance(value, (bool, str)):
        return _WORDS.get(value, str(value))
    return number(value) if isinstance(value, int) else f"{value:g}"


def table1(groups: select.Groups, profile: str) -> Table:
    """Parameters of the three methods: the post's text beside this profile's resolved values."""
    ordered = [groups[run] for run in TABLE_RUNS]
    names = [select.named(group) for group in ordered]
    rows, csv_rows = [], []
    for setting in SETTINGS:
        ours = [_ours(group, setting) for group in ordered]
        rows.append([setting.name, *(cell for pair in zip(setting.published, ours, strict=True) for cell in pair)])
        for i, (group, value) in enumerate(zip(ordered, ours, strict=True)):
            first = group[0]
            csv_rows.append(
                {
                    "artefact": "e1.table1",
                    "profile": profile,
                    "source": first.source,
                    "run": first.run,
                    "seeds": " ".join(str(r.seed) for r in group),
                    "n": len(group),
                    "method": first.spec["method"],
                    "parameter": setting.name,
                    "published": setting.published[i],
                    "basis": setting.basis_of(i),
                    "ours": value,
                }
            )
    return Table(
        "e1.table1: parameters of the three methods, published and at this profile",
        ["parameter", *(f"{name}: {who}" for name in names for who in ("post", "ours"))],
        rows,
        [
            select.stamp(groups) + ".",
            "The post's own table was a picture and is lost: its column holds what its text states, or what "
            "follows by arithmetic; the CSV says which. It states 96 virtual CPUs, which we read as 96 workers.",
            "Learning rates come from one grid for all methods, judged on held-out images (e1.extra-grid).",
        ],
        csv_rows,
    )


# e1.table2 ----------------------------------------------------------------


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


def _summary(values: Sequence[float], reached: Sequence[bool], digits: int) -> str:
    """``mean [low, high]``, or ``> bound (not reached by k of n seeds)`` with those seeds at their end."""
    mean, low, high = select.interval(values)
    if not all(reached):
        lost = len(values) - sum(reached)
        return f"> {number(mean, digits)} (not reached by {lost} of {len(values)} seeds)"
    if np.isnan(low):
        return f"{number(mean, digits)} (one seed)"
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"


def table2(groups: select.Groups, profile: str) -> Table:
    """Rounds and measured bytes to the target accuracy; centralised training has epochs only."""
    target = target_accuracy([r for group in groups.values() for r in group], profile)
    rows, csv_rows = [], []
    for run in TABLE_RUNS:
        group, central = groups[run], groups[run][0].spec["method"] == "central"
        columns: dict[str, list[float]] = {"epochs": [], "rounds": [], "bytes_up": [], "bytes_down": []}
        reached = []
        for record in group:
            epochs, hit = epochs_to_target(record, target)
            rounds, _ = (0, hit) if central else rounds_to_target(record, target)
            (up, down), _ = ((0, 0), hit) if central else bytes_to_target(record, target)
            reached.append(hit)
            for name, value in zip(columns, (epochs, rounds, up, down), strict=True):
                columns[name].append(float(value))
        statistics = {name: select.interval(values) for name, values in columns.items()}
        for i, record in enumerate(group):
            csv_rows.append(
                select.provenance("e1.table2", record, len(group))
                | {"target_percent": 100 * target, "reached": int(reached[i])}
                | {name: columns[name][i] for name in columns}
                | {
                    f"{name}_{part}": value
                    for name in columns
                    for part, value in zip(("mean", "low", "high"), statistics[name], strict=True)
                }
                | {"published": "no value published"}
            )
        megabytes = [[value / MEGABYTE for value in columns[name]] for name in ("bytes_up", "bytes_down")]
        sent = (
            ["0", "0", "0"]
            if central
            else [
                _summary(columns["rounds"], reached, 1),
                *(_summary(values, reached, 1) for values in megabytes),
            ]
        )
        rows.append([select.named(group), _summary(columns["epochs"], reached, 1), *sent, str(len(group))])
    return Table(
        f"e1.table2: communication to a test accuracy of {100 * target:.1f} %",
        ["method", "epochs", "rounds", "sent up (MB)", "sent down (MB)", "n"],
        rows,
        [
            select.stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval]. MB = 10^6 bytes, measured on real payloads, all "
            "workers together. Accuracy is known where it was evaluated, so steps are one evaluation wide.",
            "A value after > is a lower bound: seeds that never reached the target count with all they had.",
            _target_note(profile),
            "No value published: the post's own table was a picture and is lost.",
            *select.gaps(groups),
        ],
        csv_rows,
    )


def _target_note(profile: str) -> str:
    if profile == "paper":
        return "Target: 80 %, as in the post."
    return (
        "Target: 80 / 93.02 of the mean final accuracy of the centralised run at this profile. 93.02 % is what the "
        "network is reported to reach at full scale with momentum, weight decay and a falling learning rate, none of "
        "which the post is read to use: its 80 % may be a larger share of what its own recipe reaches."
    )
