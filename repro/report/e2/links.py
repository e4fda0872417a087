"""What the messages of post 2 take on links: seconds of a round, of a training, and to a target accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.experiments.post2 import EPOCHS, WORKERS
from repro.registry.labels import label, number
from repro.report.artefact import table
from repro.report.e2.messages import payload_row, payload_stamp
from repro.report.e2.runs import BASELINE, CODECS, METHOD_RUNS, METHODS, RESNET18_RUNS
from repro.report.e2.totals import Exchange
from repro.report.notes import LOST, gaps, stamp
from repro.report.rows import Row
from repro.report.selection import Groups, Selection, named, only, setting
from repro.report.tables import ABSENT, MEGABYTE, NO_VALUE, Table, bytes_to_target, duration, significant, summary
from repro.results import traffic
from repro.results.links import Link, load_links, round_seconds, slowest
from repro.results.metrics import epochs_to_target, planned_rounds, target_accuracy
from repro.results.records import Record


@dataclass(frozen=True)
class Traffic:
    """Traffic of one worker.

    Attributes:
        scale: the profile, or ``full size``.
        method: for readers.
        group: the records.
        up, down: bytes of one round, for each seed.
        rounds: of the whole training.
        to_target: bytes (up, down) until the target accuracy, for each seed; None where rounds of the published scale
            were not run.
        epochs: as many epochs, in words.
        reached: whether each seed reached the target.
    """

    scale: str
    method: str
    group: Sequence[Record]
    up: list[float]
    down: list[float]
    rounds: float
    to_target: list[tuple[float, float]] | None = None
    epochs: str = ABSENT
    reached: tuple[bool, ...] = ()

    def cells(self, links: Sequence[Link]) -> list[str]:
        """The row of the table."""
        scale = f"{self.scale}, {'measured' if self.to_target is not None else 'extrapolated'}"
        first = [scale, self.method, number(self.rounds), self.epochs]
        if not self.up:
            return first + ["diverged"] * (2 + len(links))
        return [*first, *(significant(size / MEGABYTE) for size in self.sizes), *map(self._cell, links)]

    @property
    def sizes(self) -> tuple[float, float]:
        """Bytes (up, down) of one round, means over seeds."""
        return float(np.mean(self.up)), float(np.mean(self.down))

    def _cell(self, link: Link) -> str:
        """Seconds of a round, network time of the training and, where it is known, to the target: means over seeds."""
        seconds = link.seconds(*self.sizes)
        text = f"{significant(seconds)} s; {duration(seconds * self.rounds)}"
        if self.to_target is None:
            return text
        bound = "" if all(self.reached) else "> "
        return f"{text}; {bound}{duration(float(np.mean([link.seconds(*sent) for sent in self.to_target])))}"

    def csv_rows(self, artefact: str, links: Sequence[Link], target: float) -> list[Row]:
        """A row per record and link, and one with devices of all links in a round."""
        return [
            self._csv_row(artefact, i, name, used) | {"target_percent": 100 * target}
            for i in range(len(self.group) if self.up else 0)
            for name, used in [*((link.name, [link]) for link in links), ("all of them", links)]
        ]

    def _csv_row(self, artefact: str, i: int, name: str, links: Sequence[Link]) -> Row:
        alone = links[0] if len(links) == 1 else None
        seconds = round_seconds(links, self.up[i], self.down[i])
        return payload_row(artefact, self.group[i], len(self.group)) | {
            "scale": self.scale,
            "method": self.method,
            "rounds": self.rounds,
            "link": name,
            "link_down_mbit_s": alone and alone.down,
            "link_up_mbit_s": alone and alone.up,
            "bytes_up_per_worker_and_round": self.up[i],
            "bytes_down_per_worker_and_round": self.down[i],
            "round_seconds": seconds,
            "training_seconds": seconds * self.rounds,
            "seconds_to_target": None if self.to_target is None else round_seconds(links, *self.to_target[i]),
            "extrapolated": int(self.to_target is None),
            **NO_VALUE,
        }


def _measured(group: Sequence[Record], target: float) -> Traffic:
    """Traffic of a trained run, averaged over its rounds (DGC's warm-up included)."""
    seen = [record for record in group if record.rows]
    workers = setting(group, "workers")
    up, down = (
        [record.rows[-1][name] / record.rows[-1]["round"] / workers for record in seen]
        for name in ("bytes_up", "bytes_down")
    )
    epochs, reached = zip(*(epochs_to_target(record, target) for record in group), strict=True)
    sent = [bytes_to_target(record, target)[0] for record in seen]
    return Traffic(
        group[0].profile, named(group), seen, up, down,
        rounds=float(np.mean([planned_rounds(record) for record in group])),
        to_target=[(one_up / workers, one_down / workers) for one_up, one_down in sent],
        epochs=summary(epochs, reached, 1), reached=reached,
    )  # fmt: skip


def _full_size(group: Sequence[Record]) -> list[Traffic]:
    """Traffic of ResNet18 at the published scale: measured messages up, the uncompressed model down.

    Bytes of a round are a mean over a training with DGC's warm-up.
    """
    codecs = {
        "large_batch": ("dense", "int8", "int8+zip", "dgc", "dgc+zip"),
        "federated": ("dense", "int8", "int8+zip"),
    }
    down, found = [traffic.message_bytes(record, "dense", traffic.GRADIENT) for record in group], []
    for method, codec in ((method, codec) for method, sent in codecs.items() for codec in sent):
        reading = traffic.DEFAULT if codec.endswith("+zip") else traffic.UNZIPPED
        exchange, rounds = Exchange(codec, codec, reading), traffic.rounds(method, reading)
        up = [exchange.up(record, method) / (WORKERS * rounds) for record in group]
        words = label(METHODS[method]) + ("" if codec == "dense" else f" ({CODECS[codec]})")
        found.append(Traffic("full size", words, group, up, down, traffic.rounds(method)))
    return found


@table("e2.table1", title="Links, and seconds that a round costs over them", runs=(*METHOD_RUNS, RESNET18_RUNS[0]))
def seconds_on_links(groups: Selection) -> Table:
    """Show link classes, and what a round, the whole training and reaching a target accuracy cost over them."""
    links, trained = load_links(groups.root), only(groups, METHOD_RUNS)
    target = target_accuracy(groups[BASELINE], groups.profile, "e2")
    found = [*(_measured(group, target) for group in trained.values()), *_full_size(groups[RESNET18_RUNS[0]])]
    return Table(
        "e2.table1: seconds that a round takes on the network, and the network time of a training",
        [
            "scale", "method", "rounds", "epochs to the target", "up (MB a round)", "down (MB a round)",
            *(f"{link.name} ({link.down:g} / {link.up:g} Mbit/s)" for link in links),
        ],
        [item.cells(links) for item in found],
        _notes(groups, trained, target, sorted({slowest(links, *item.sizes).name for item in found if item.up})),
        [row for item in found for row in item.csv_rows(groups.artefact, links, target)],
    )  # fmt: skip


def _notes(groups: Selection, trained: Groups, target: float, last: Sequence[str]) -> list[str]:
    """``last``: the links over which a device ends last."""
    images = number(WORKERS * traffic.DEFAULT.local_batch)
    return [
        stamp(trained) + ".",
        f"Full size: {payload_stamp(only(groups, RESNET18_RUNS[:1]))}. Extrapolated: "
        f"{number(EPOCHS['large_batch'])} epochs of "
        f"{number(traffic.rounds('large_batch') // EPOCHS['large_batch'])} rounds (large batch, {images} images a "
        f"round) or {number(EPOCHS['federated'])} rounds (federated averaging) x measured message size, with the "
        "uncompressed model as download. DGC's warm-up counts everywhere, as in e2.table6; BatchNorm's running "
        "statistics in measured rows only.",
        "Links: down / up, upload at half of download as the post says; their speeds are our choice. A cell: "
        "seconds a round; network time of all rounds; and, where it was measured, to the target (> where seeds "
        "never reached it and count with all they had).",
        f"Target: {100 * target:.1f} %, which is 80 / 93.02 of the mean final accuracy of {label(BASELINE)}: the "
        "rule of post 1 with this post's baseline.",
        "MB = 10^6 bytes of one worker, measured on real payloads; means over seeds. A worker downloads, then "
        "uploads; computing and latency are left out.",
        "The slowest device sets the round: with devices of all classes in a round, each method takes as long as "
        f"over {' or '.join(last)}.",
        LOST,
        *gaps(trained),
    ]
