"""Bytes of post 2: what a message weighs, and what a whole training sends at the post's scale, under every reading.

Messages are measured: records of kind ``payloads`` hold the lengths of real payloads of real gradients, changes of
weights, and weights. A training at the post's scale is read off a trained run where there is one; elsewhere its totals
are messages x rounds. The post gives two of them (statements e2.c7 and e2.c8) and leaves open who is zipped, whether
DGC's warm-up and the download count, and how many images a round has; ``readings`` lists the choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.experiments.post2 import CODECS, EPOCHS, FULL_SIZE, IMAGES, LOCAL_BATCHES, SPARSITY, WARM_UP, WORKERS
from repro.experiments.sizes import local_steps
from repro.results.records import Record

GRADIENT, CHANGE, WEIGHTS = "gradient", "change", "weights"
"""What is encoded: the gradient of a step, the change of the weights over a local epoch, the weights themselves."""
SENT = {"large_batch": GRADIENT, "federated": CHANGE}


# Messages ----------------------------------------------------------------------------------------------------


def dgc_at(sparsity: float) -> str:
    """The codec of a message of DGC at a sparsity, as records name it: plain ``dgc`` at the final one.

    >>> dgc_at(0.984375), dgc_at(0.999)
    ('dgc@0.984375', 'dgc')
    """
    return "dgc" if sparsity == SPARSITY else f"dgc@{sparsity:g}"


def rows_of(record: Record, codec: str, what: str = GRADIENT) -> list[dict[str, Any]]:
    """The rows of a record of payloads for one codec and one kind of content, one for each measured step.

    Raises:
        ReproError: no record of payloads, or no such message in it.
    """
    if record.kind != "payloads":
        raise ReproError(f"record {record.run}.s{record.seed}: kind {record.kind}; payloads was expected; name another")
    rows = [row for row in record.rows if (row["codec"], row["what"]) == (codec, what)]
    if not rows:
        known = ", ".join(dict.fromkeys(row["codec"] for row in record.rows if row["what"] == what)) or "none at all"
        raise ReproError(
            f"record {record.run}.s{record.seed}: no payload of codec {codec!r} for {what}; one of {known} was "
            f"expected; correct the name or run `python -m repro rerun {record.run}`"
        )
    return rows


def message_bytes(record: Record, codec: str, what: str = GRADIENT) -> float:
    """Bytes that one worker sends in one message, mean over the measured steps.

    Raises:
        ReproError: no record of payloads, or no such message in it.
    """
    return float(np.mean([row["bytes"] for row in rows_of(record, codec, what)]))


def dense_bytes(record: Record) -> float:
    """As :func:`message_bytes`, uncompressed; whatever is encoded, it is as long."""
    return message_bytes(record, "dense")


def compression_rate(record: Record, codec: str, what: str = GRADIENT) -> float:
    """How many times smaller than uncompressed the messages of ``codec`` are."""
    return dense_bytes(record) / message_bytes(record, codec, what)


def saved_by_zip(record: Record, codec: str, what: str = GRADIENT) -> float:
    """Share of the bytes of ``codec`` that zipping its messages saves, 0 to 1."""
    return 1 - message_bytes(record, f"{codec}+zip", what) / message_bytes(record, codec, what)


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
UNZIPPED = replace(DEFAULT, zipped=())
"""The same before zip: its lengths depend on shapes and sparsity, and so on no labels."""


def readings() -> list[Reading]:
    """All 48 readings, the default one first."""
    zipped = (("large_batch", "federated"), (), ("large_batch",), ("federated",))
    return [Reading(*choice) for choice in product(zipped, (True, False), (False, True), LOCAL_BATCHES)]


def rounds(method: str, reading: Reading = DEFAULT) -> int:
    """Rounds of a whole training at the post's scale: a federated round is an epoch."""
    return EPOCHS[method] * (_rounds_per_epoch(reading) if method == "large_batch" else 1)


def _rounds_per_epoch(reading: Reading) -> int:
    return local_steps(math.ceil(IMAGES / WORKERS), reading.local_batch)


def total_sent(record: Record, method: str, reading: Reading = DEFAULT) -> float:
    """Bytes that all workers send in a whole training at the post's scale: measured messages x rounds.

    Args:
        record: payloads of the network in question.
        method: ``large_batch`` (gradients, compressed by DGC) or ``federated`` (changes of weights, by F2I).
        reading: what is counted. The model that is downloaded is as large as an uncompressed message.

    Raises:
        ReproError: no record of payloads, or a message is missing in it.
    """
    end = "+zip" if method in reading.zipped else ""
    message = message_bytes(record, CODECS[method] + end, SENT[method])
    sent = rounds(method, reading) * message
    if method == "large_batch" and reading.warm_up:
        extra = [message_bytes(record, dgc_at(sparsity) + end) - message for sparsity in WARM_UP]
        sent += _rounds_per_epoch(reading) * sum(extra)
    if reading.download:
        sent += rounds(method, reading) * dense_bytes(record)
    return WORKERS * sent


def is_published_scale(run: Record, method: str) -> bool:
    """Whether ``run`` is the post's training of ``method``, at its scale and with the codec of its totals."""
    scale = {"train_images": IMAGES, "workers": WORKERS, "epochs": EPOCHS[method], "codec": CODECS[method]} | FULL_SIZE
    return run.status == "completed" and all(run.spec[name] == value for name, value in scale.items())


def sent_by_run(run: Record, payloads: Record, method: str, *, statistics: bool = False) -> float:
    """Bytes that all workers of a trained run really sent, under the reading that is judged.

    Runs do without zip, which changes no result; the share that it would have saved is that of measured messages. These
    hold parameters only, so that BatchNorm's running statistics, which a run sends with them, are left out.

    Args:
        run: trained, at the post's scale.
        payloads: of the same network.
        method: ``large_batch`` or ``federated``.
        statistics: count the running statistics, too, as long as they were sent.

    Raises:
        ReproError: the run is not of that scale, or a message is missing in ``payloads``.
    """
    if not is_published_scale(run, method):
        raise ReproError(
            f"record {run.run}.s{run.seed}: not the post's training of {method} with {CODECS[method]}; a completed run "
            "at its scale was expected; name another"
        )
    zipped = total_sent(payloads, method) / total_sent(payloads, method, UNZIPPED)
    beside = statistics_sent(run, payloads)
    return (run.rows[-1]["bytes_up"] - beside) * zipped + (beside if statistics else 0.0)


def statistics_sent(run: Record, payloads: Record) -> float:
    """Bytes of BatchNorm's running statistics in all that the workers of a trained run sent to the server.

    No codec compresses them, so that they are as long as in the uncompressed model, which every worker receives before
    it sends, and whose other part is the parameters. (Its heads are a byte a tensor shorter, which is left out.)

    Args:
        run: trained, with an uncompressed download.
        payloads: of the same network.
    """
    last = run.rows[-1]
    return float(last["bytes_down"] - last["round"] * run.spec["workers"] * dense_bytes(payloads))


def times_as_much(records: Sequence[Record], more: str, less: str, reading: Reading = DEFAULT) -> float:
    """How many times as much the method ``more`` sends in total as ``less``: geometric mean over seeds."""
    logs = [math.log(total_sent(r, more, reading) / total_sent(r, less, reading)) for r in records]
    return math.exp(float(np.mean(logs)))
