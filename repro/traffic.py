"""Bytes of post 2: what a message weighs, and what a whole training sends at the post's scale, under every reading.

Messages are measured: records of kind ``payloads`` hold the lengths of real payloads of real gradients. A training is
not: its totals are messages x rounds. The post gives two of them (statements e2.c7 and e2.c8) and leaves open who is
zipped, whether DGC's warm-up and the download count, and how many images a round has; ``readings`` lists the choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.partition import local_steps
from repro.records import Record

IMAGES, WORKERS = 50_000, 32
EPOCHS = {"large_batch": 100, "federated": 150}
CODECS = {"large_batch": "dgc", "federated": "int8"}
"""What the post compares in total: large batch with deep gradient compression, federated averaging with F2I."""
WARM_UP = (0.75, 0.9375, 0.984375, 0.996)
"""Sparsity in the first epochs, one each; afterwards it is ``SPARSITY``."""
SPARSITY = 0.999
FULL_SIZE = {"width": 64, "image_size": 32}


# Messages ----------------------------------------------------------------------------------------------------


def _rows(record: Record, codec: str) -> list[dict[str, Any]]:
    if record.kind != "payloads":
        raise ReproError(f"record {record.run}.s{record.seed}: kind {record.kind}; payloads was expected; name another")
    rows = [row for row in record.rows if row["codec"] == codec]
    if not rows:
        known = ", ".join(dict.fromkeys(row["codec"] for row in record.rows))
        raise ReproError(
            f"record {record.run}.s{record.seed}: no payload of codec {codec!r}; one of {known} was expected; "
            f"correct the name or run `python -m repro rerun {record.run}`"
        )
    return rows


def message_bytes(record: Record, codec: str) -> float:
    """Bytes that one worker sends in one message, mean over the measured steps.

    Raises:
        ReproError: no record of payloads, or none of ``codec`` in it.
    """
    return float(np.mean([row["bytes"] for row in _rows(record, codec)]))


def dense_bytes(record: Record) -> float:
    """As :func:`message_bytes`, uncompressed."""
    return message_bytes(record, "dense")


def compression_rate(record: Record, codec: str) -> float:
    """How many times smaller than uncompressed the messages of ``codec`` are."""
    return dense_bytes(record) / message_bytes(record, codec)


def saved_by_zip(record: Record, codec: str) -> float:
    """Share of the bytes of ``codec`` that zipping its messages saves, 0 to 1."""
    return 1 - message_bytes(record, f"{codec}+zip") / message_bytes(record, codec)


def is_full_size(record: Record) -> bool:
    """Whether the payloads are those of the published network, at whatever profile they were measured."""
    return all(record.spec[name] == size for name, size in FULL_SIZE.items())


# Whole trainings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """One way to read "total data sent".

    Attributes:
        zipped: the methods whose messages are zipped.
        warm_up: whether the larger messages of DGC's first epochs count.
        download: whether the uncompressed model that each worker gets every round counts, too.
        local_batch: images of one worker in a round of large batch; the post gives only the 32 workers.
    """

    zipped: tuple[str, ...] = ("large_batch", "federated")
    warm_up: bool = True
    download: bool = False
    local_batch: int = 32

    def words(self) -> tuple[str, str, str, str]:
        """Who is zipped, warm-up, direction and images per round, for a row of a table.

        >>> Reading().words()
        ('both', 'counted', 'up', '1024')
        """
        names = {(): "none", ("large_batch",): "large batch", ("federated",): "federated"}
        return (
            names.get(self.zipped, "both"),
            "counted" if self.warm_up else "left out",
            "up and down" if self.download else "up",
            str(WORKERS * self.local_batch),
        )


DEFAULT = Reading()
"""The reading that is judged."""


def readings() -> list[Reading]:
    """All 32 readings, the default one first."""
    zipped = (("large_batch", "federated"), (), ("large_batch",), ("federated",))
    return [Reading(*choice) for choice in product(zipped, (True, False), (False, True), (32, 128))]


def rounds(method: str, reading: Reading = DEFAULT) -> int:
    """Rounds of a whole training at the post's scale: a federated round is an epoch."""
    return EPOCHS[method] * (_rounds_per_epoch(reading) if method == "large_batch" else 1)


def _rounds_per_epoch(reading: Reading) -> int:
    return local_steps(math.ceil(IMAGES / WORKERS), reading.local_batch)


def total_sent(record: Record, method: str, reading: Reading = DEFAULT) -> float:
    """Bytes that all workers send in a whole training at the post's scale.

    Args:
        record: payloads of the network in question.
        method: ``large_batch`` (compressed by DGC) or ``federated`` (by F2I).
        reading: what is counted. The model that is downloaded is as large as an uncompressed message.

    Raises:
        ReproError: no record of payloads, or a codec is missing in it.
    """
    codec = CODECS[method] + ("+zip" if method in reading.zipped else "")
    sent = rounds(method, reading) * message_bytes(record, codec)
    if method == "large_batch" and reading.warm_up:
        extra = [warm_up_bytes(record, codec, sparsity) - message_bytes(record, codec) for sparsity in WARM_UP]
        sent += _rounds_per_epoch(reading) * sum(extra)
    if reading.download:
        sent += rounds(method, reading) * dense_bytes(record)
    return WORKERS * sent


def times_as_much(records: Sequence[Record], more: str, less: str, reading: Reading = DEFAULT) -> float:
    """How many times as much the method ``more`` sends in total as ``less``: geometric mean over seeds."""
    logs = [math.log(total_sent(r, more, reading) / total_sent(r, less, reading)) for r in records]
    return math.exp(float(np.mean(logs)))


def warm_up_bytes(record: Record, codec: str, sparsity: float) -> float:
    """Bytes of a message of ``codec`` (``dgc`` or ``dgc+zip``) at a sparsity of DGC's warm-up.

    Computed from the measured message at the final sparsity: what sparsification saves is in proportion to
    :func:`saved_by_sparsity`, and everything that is sent dense stays. Zip is taken to save as large a share as there.
    """
    dense, final = dense_bytes(record), message_bytes(record, "dgc")
    unzipped = dense - (dense - final) * saved_by_sparsity(sparsity) / saved_by_sparsity(SPARSITY)
    return unzipped * message_bytes(record, codec) / final


def saved_by_sparsity(sparsity: float) -> float:
    """Share of the bytes of a float32 tensor that sparsification saves.

    A value that is sent takes 4 bytes and those of its place, in the shorter of the two codings of
    ``repro.codecs.sparse``: a bitmap, or gaps in groups of 7 bits, which are geometrically distributed if places are
    independent.

    >>> round(4 * (1 - saved_by_sparsity(0.999)) / 0.001, 2)  # bytes a value sent; 4 + 1.88 were measured
    5.88
    """
    sent = 1 - sparsity
    gaps = sum(sparsity ** (2 ** (7 * group)) for group in range(1, 4))
    return 1 - sent * (1 + min(1 / (8 * sent), 1 + gaps) / 4)
