"""All data that post 2 sends to the server: by every reading of what it leaves open, and of our trained runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from repro.experiments import post2
from repro.experiments.post2 import EPOCHS, IMAGES, WORKERS
from repro.registry.labels import label, number
from repro.report.artefact import table
from repro.report.e2.messages import TEN_LABELS, payload_row, payload_stamp
from repro.report.e2.runs import (
    BASELINE,
    CODECS,
    DGC,
    FEDERATED,
    FEDERATED_GQ,
    GQ,
    METHODS,
    PUBLISHED_FACTORS,
    RESNET18_RUNS,
    WITHIN,
)
from repro.report.intervals import interval
from repro.report.notes import stamp
from repro.report.rows import Row
from repro.report.selection import Groups, Selection, completed, only, setting
from repro.report.tables import ABSENT, Table, significant
from repro.results import traffic
from repro.results.records import Record

TRAINED_PAIRS = ((DGC, FEDERATED_GQ), (GQ, FEDERATED_GQ), (BASELINE, FEDERATED))
"""Trained runs whose real totals stand beside the extrapolated ones."""
TRAINED_RUNS = tuple(dict.fromkeys(run for pair in TRAINED_PAIRS for run in pair))
GIGABYTE = 1e9
EXTRAPOLATED = "extrapolated"
_OTHER_BATCH = "*"
"""The mark of rounds of other batches than the measured messages have."""


@dataclass(frozen=True)
class Exchange:
    """What the two methods send by one reading of the post, and how many images a round of large batch has.

    Attributes:
        large_batch, federated: codecs of the messages.
        reading: what is counted, download aside.
    """

    large_batch: str
    federated: str
    reading: traffic.Reading

    def up(self, record: Record, method: str) -> float:
        """Bytes that all workers send over the whole training."""
        codec = {"large_batch": self.large_batch, "federated": self.federated}[method]
        if codec.removesuffix("+zip") == post2.CODECS[method]:
            return traffic.total_sent(record, method, self.reading)
        message = traffic.message_bytes(record, codec, traffic.SENT[method])
        return WORKERS * traffic.rounds(method, self.reading) * message

    def down(self, record: Record, method: str) -> float:
        """Bytes that all workers receive: the uncompressed model every round."""
        return WORKERS * traffic.rounds(method, self.reading) * traffic.dense_bytes(record)

    @property
    def images(self) -> int:
        """Images of all workers in a round of large batch."""
        return WORKERS * self.reading.local_batch

    @property
    def warm_up(self) -> str:
        """Whether DGC's warm-up counts, in words."""
        return self.reading.words()[1] if self.large_batch.startswith("dgc") else ABSENT


def readings() -> list[Exchange]:
    """The extrapolated rows, the judged one first."""
    ours = [reading for reading in traffic.readings() if not reading.download]

    def codec(method: str, reading: traffic.Reading) -> str:
        return post2.CODECS[method] + ("+zip" if method in reading.zipped else "")

    found = [Exchange(codec("large_batch", reading), codec("federated", reading), reading) for reading in ours]
    batches = dict.fromkeys(reading.local_batch for reading in ours)
    for alike in ("int8+zip", "int8", "dense"):
        zipped = traffic.DEFAULT.zipped if alike.endswith("+zip") else ()
        found += [Exchange(alike, alike, traffic.Reading(zipped=zipped, local_batch=batch)) for batch in batches]
    return found


def ratio(large_batch: Sequence[float], federated: Sequence[float]) -> tuple[float, float, float]:
    """Large batch / federated averaging: geometric mean over seeds with its 95 % interval."""
    logs = [math.log(a / b) for a, b in zip(large_batch, federated, strict=True)]
    mean, low, high = (math.exp(value) for value in interval(logs))
    return mean, low, high


def times(found: tuple[float, float, float]) -> str:
    """A ratio as a factor: ``× 3.00``, or ``÷ 4.63 [4.40, 4.90]`` where seeds differ visibly."""
    mean, low, high = found
    sign = "×" if mean >= 1 else "÷"
    if mean < 1:
        mean, low, high = 1 / mean, 1 / high, 1 / low
    text, *bounds = map(significant, (mean, low, high)) if not math.isnan(low) else (significant(mean),)
    return f"{sign} {text}" + (f" [{', '.join(bounds)}]" if set(bounds) - {text} else "")


def _apart(mean: float, published: float) -> float:
    """How far a ratio lies from the published one, as a share of the multiple above 1 that the post states."""
    return (mean / published if published > 1 else published / mean) - 1


class Counted(NamedTuple):
    """Totals of both methods for one network.

    Attributes:
        name: of the network's runs, in the CSV.
        records: those that the rows of the CSV name, with the place of their seed.
        up, down: bytes by method, one per seed.
        rounds: by method, one per seed.
        message_images: images behind a measured message; None for trained runs.
        judged: whether a verdict rests on it.
    """

    name: str
    records: list[tuple[int, Record]]
    up: dict[str, list[float]]
    down: dict[str, list[float]]
    rounds: dict[str, list[int]]
    message_images: int | None
    judged: bool

    def ratios(self) -> dict[str, tuple[float, float, float]]:
        """Large batch / federated averaging, of what is sent and of both ways together."""
        both = {m: [sum(pair) for pair in zip(self.up[m], self.down[m], strict=True)] for m in METHODS}
        return {name: ratio(*counted.values()) for name, counted in (("up", self.up), ("up_and_down", both))}

    def cells(self, published: float) -> list[str]:
        """Four cells of the table; ``published``: ratio with so many classes."""
        sent = [significant(float(np.mean(self.up[method])) / GIGABYTE) for method in METHODS]
        return [
            *sent,
            *(
                f"{times(found)} ({number(100 * _apart(found[0], published), sign=True)} %)"
                for found in self.ratios().values()
            ),
        ]


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        codecs: of large batch and of federated averaging.
        warm_up, images, basis: what is counted, images a round, and how it is known.
        counted: totals by network; none where no seed of both methods completed.
        mark: after the images, for readers.
    """

    codecs: tuple[str, str]
    warm_up: str
    images: int
    basis: str
    counted: list[Counted] = field(default_factory=list)
    mark: str = ""

    def cells(self, networks: int) -> list[str]:
        """The row of the table, which has columns for so many networks."""
        found = [*(CODECS[codec] for codec in self.codecs), self.warm_up, number(self.images) + self.mark, self.basis]
        for each, published in zip(self.counted, PUBLISHED_FACTORS, strict=False):
            found += each.cells(published)
        return [*found, *[ABSENT] * 4 * (networks - len(self.counted)), self._fits(networks)]

    def _fits(self, networks: int) -> str:
        """In which direction both published factors are met."""
        if len(self.counted) < networks:
            return ABSENT
        pairs = list(zip((each.ratios() for each in self.counted), PUBLISHED_FACTORS, strict=True))
        ways = {"up": "up", "up_and_down": "up and down"}
        met = [
            words
            for way, words in ways.items()
            if all(abs(_apart(found[way][0], published)) <= WITHIN for found, published in pairs)
        ]
        return "; ".join(met) or "neither"

    def csv_rows(self, artefact: str) -> list[Row]:
        """Rows of the CSV: bytes are those of one seed, ratios those over seeds."""
        return [self._row(artefact, each, i, record) for each in self.counted for i, record in each.records]

    def _row(self, artefact: str, each: Counted, i: int, record: Record) -> Row:
        row = payload_row(artefact, record, len(each.up["federated"])) | {
            "network": each.name, "basis": self.basis, "large_batch_codec": self.codecs[0],
            "federated_codec": self.codecs[1], "warm_up": self.warm_up, "images_per_round": self.images,
            "message_images": each.message_images, "judged": int(each.judged),
        }  # fmt: skip
        for name, values in (("rounds", each.rounds), ("bytes_up", each.up), ("bytes_down", each.down)):
            row |= {f"{method}_{name}": values[method][i] for method in METHODS}
        for way, found in each.ratios().items():
            row |= dict(zip((f"ratio_{way}", f"ratio_{way}_low", f"ratio_{way}_high"), found, strict=True))
        return row | {"extrapolated": int(self.basis == EXTRAPOLATED)}


def _extrapolated(exchange: Exchange, groups: Groups, judged: Sequence[str]) -> Line:
    """A reading; ``judged``: runs whose verdict rests on it."""
    counted = [
        Counted(
            name, list(enumerate(group)),
            {method: [exchange.up(record, method) for record in group] for method in METHODS},
            {method: [exchange.down(record, method) for record in group] for method in METHODS},
            {method: [traffic.rounds(method, exchange.reading)] * len(group) for method in METHODS},
            setting(group, "local_batch"), name in judged,
        )
        for name, group in groups.items()
    ]  # fmt: skip
    mark = f" {_OTHER_BATCH}" if exchange.images != WORKERS * traffic.DEFAULT.local_batch else ""
    codecs = (exchange.large_batch, exchange.federated)
    return Line(codecs, exchange.warm_up, exchange.images, EXTRAPOLATED, counted, mark)


def _trained(
    groups: Groups, pair: tuple[str, str], payloads: Sequence[Record], *, zipped: bool = False, statistics: bool = True
) -> Line:
    """Real totals of two trained runs, of the seeds that both completed; without such a seed no row of the CSV.

    ``zipped``: at the post's scale, with the share that zip saves of measured messages, and with or without BatchNorm's
    running ``statistics``.
    """
    runs = {
        method: {record.seed: record for record in completed(groups[run])}
        for method, run in zip(METHODS, pair, strict=True)
    }
    weighed = {record.seed: record for record in payloads}
    seeds = [s for s in runs["large_batch"] if s in runs["federated"] and (not zipped or s in weighed)]
    first = groups[pair[0]][0]
    basis = (
        f"measured, {first.profile} profile" + ", zip computed" * zipped + ", no running statistics" * (not statistics)
    )
    codecs = tuple(setting(groups[run], "codec") + "+zip" * zipped for run in pair)
    warm_up = "counted" if first.spec["codec"] == "dgc" else ABSENT
    line = Line((codecs[0], codecs[1]), warm_up, first.spec["workers"] * first.spec["local_batch"], basis)
    if not seeds:
        return line
    up: dict[str, list[float]] = {}
    for method, by_seed in runs.items():
        up[method] = [
            traffic.sent_by_run(by_seed[seed], weighed[seed], method, statistics=statistics)
            if zipped
            else float(by_seed[seed].rows[-1]["bytes_up"])
            for seed in seeds
        ]
    down, rounds = (
        {method: [by_seed[seed].rows[-1][name] for seed in seeds] for method, by_seed in runs.items()}
        for name in ("bytes_down", "round")
    )
    records = [(i, runs[method][seed]) for i, seed in enumerate(seeds) for method in METHODS]
    line.counted.append(Counted(pair[0], records, up, down, rounds, None, judged=not statistics))
    return line


_COLUMNS = ("large batch up (GB)", "federated up (GB)", "large batch sends, up", "up and down")


@table("e2.table6", title="Total data sent to the server", runs=(*RESNET18_RUNS, *TRAINED_RUNS))
def total_sent(groups: Selection) -> Table:
    """Count the whole training: at full scale by every reading, and of our trained runs."""
    payloads = only(groups, RESNET18_RUNS)
    ten = payloads[RESNET18_RUNS[0]]
    full = all(
        traffic.is_published_scale(record, method)
        for method, run in zip(METHODS, TRAINED_PAIRS[0], strict=True)
        for record in groups[run]
    )
    judged = [run for run in payloads if not (full and run == RESNET18_RUNS[0])]
    lines = [_extrapolated(each, payloads, judged if i == 0 else []) for i, each in enumerate(readings())]
    if full:
        lines += [_trained(groups, TRAINED_PAIRS[0], ten, zipped=True, statistics=each) for each in (False, True)]
    lines += [_trained(groups, pair, ten) for pair in TRAINED_PAIRS]
    classes = [f"{number(setting(group, 'classes'))} classes" for group in payloads.values()]
    return Table(
        "e2.table6: total data sent to the server over the whole training, ResNet18",
        [
            label(BASELINE), label(FEDERATED), "warm-up of DGC", "images a round of large batch", "basis",
            *(f"{name}: {what}" for name in classes for what in _COLUMNS), "which way fits",
        ],
        [line.cells(len(classes)) for line in lines],
        _notes(groups, payloads, full, classes[0]),
        [row for line in lines for row in line.csv_rows(groups.artefact)],
    )  # fmt: skip


def _notes(groups: Selection, payloads: Groups, full: bool, ten_classes: str) -> list[str]:
    judged = "the first of the measured rows is judged with 10 classes" if full else "the first one is judged"
    return [
        f"Extrapolated: full-scale rounds x measured message size. {number(WORKERS)} workers; large batch: "
        f"{number(EPOCHS['large_batch'])} epochs of {number(IMAGES)} images; federated averaging: "
        f"{number(EPOCHS['federated'])} rounds. GB = 10^9 bytes.",
        f"Messages: {payload_stamp(payloads)}. Large batch sends gradients, federated averaging changes of "
        "weights; DGC's warm-up was measured at each of its sparsities.",
        f"{_OTHER_BATCH} The messages are those of {number(traffic.DEFAULT.local_batch)} images a worker, not of as "
        "many as the round has: as long before zip, and taken to be so after it.",
        f"Measured: bytes that our trained runs really sent ({stamp(only(groups, TRAINED_RUNS))}), BatchNorm's running "
        "statistics included where nothing else is said; extrapolated ones hold parameters only; with 1000 classes "
        "nothing was trained to the end.",
        f"Each extrapolated row is a reading of what the post leaves open; {judged} (e2.c7, e2.c8). The post "
        "states: 10 classes, large batch (DGC + zip) sends 5 times less; 1000 classes, federated averaging sends 3 "
        "times less. Its own table was a picture and is lost.",
        "Down: the uncompressed model to every worker in every round, as in our runs; with "
        f"{ten_classes} {_downloads(payloads[RESNET18_RUNS[0]][0])}.",
        "Factors: what large batch sends is what federated averaging sends times (×) or divided by (÷) the number; "
        "geometric mean over seeds [95 % Student-t interval of the paired log ratio, where it is wider "
        "than the digits shown].",
        TEN_LABELS,
    ]


def _downloads(record: Record) -> str:
    """What the workers receive over the whole training."""
    every = readings()
    totals = {f"{label(BASELINE)}, {number(each.images)} images": each.down(record, "large_batch") for each in every}
    totals |= {label(FEDERATED): every[0].down(record, "federated")}
    return ", ".join(f"{number(total / GIGABYTE)} GB ({name})" for name, total in totals.items())
