"""Messages of post 2: parameters of the networks, and compression rates of real payloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from repro.errors import ReproError
from repro.registry.labels import number
from repro.report.artefact import table
from repro.report.e2.runs import (
    CODECS,
    CONTENTS,
    MODELS,
    NETWORKS,
    PAYLOAD_RUNS,
    PUBLISHED_RATE,
    PUBLISHED_SAVED,
    TOLERANCES,
)
from repro.report.notes import LOST
from repro.report.rows import Row, measured
from repro.report.selection import Groups, Selection, members, setting
from repro.report.tables import ABSENT, MEGABYTE, NO_VALUE, Table, significant
from repro.results import traffic
from repro.results.records import Record

TEN_LABELS = (
    "The head with 1000 classes is trained on CIFAR-10 and sees its ten labels only: its size is right, but its "
    "gradient differs from that of a task with 1000 classes, which counts where zip is used."
)


def payload_stamp(groups: Groups) -> str:
    """The scale of payload runs, of which no profile shrinks the networks."""
    found = members(groups)
    width, size, batch = (_several(r.spec[name] for r in found) for name in ("width", "image_size", "local_batch"))
    at: dict[str, list[str]] = {}
    for group in groups.values():
        at.setdefault(_several(row["step"] for record in group for row in record.rows), []).append(_network(group))
    steps = "; ".join(f"{each} ({'; '.join(names)})" if len(at) > 1 else each for each, names in at.items())
    span = _several(record.spec["local_steps"] for record in found)
    seeds = {MODELS[group[0].spec["model"]]: len(group) for group in groups.values()}
    return (
        f"{found[0].profile} profile: gradients of {' and '.join(seeds)} (width {width}, {size} × {size} px, CIFAR "
        f"stem) on {batch} images at training steps {steps}; changes of weights over {span} steps; "
        + ", ".join(f"n = {n} seed{'s' if n > 1 else ''} ({model})" for model, n in seeds.items())
    )


def payload_row(artefact: str, record: Record, n: int) -> Row:
    """The columns with which the CSV rows of payload runs begin; ``n``: seeds."""
    settings = ("model", "classes", "width", "image_size", "local_batch", "precision")
    return measured(artefact, record, settings, n=n)


def _several(values: Iterable[int]) -> str:
    return ", ".join(number(value) for value in sorted(set(values)))


def _network(group: Sequence[Record]) -> str:
    return f"{MODELS[setting(group, 'model')]}, {number(setting(group, 'classes'))} classes"


# Parameters of the networks -----------------------------------------------------------------------------------


@table("e2.table4", title="Parameters of convolutions and others", runs=PAYLOAD_RUNS)
def network_sizes(groups: Selection) -> Table:
    """Count parameters, convolutional and other, beside the measured length of a dense message."""
    rows, csv_rows = [], []
    for run, (model, classes) in zip(PAYLOAD_RUNS, NETWORKS, strict=True):
        for stem, words in (("cifar", "CIFAR"), ("imagenet", "ImageNet")):
            cells, row = _network_size(model, classes, stem, groups[run][0])
            rows.append([MODELS[model], number(classes), words, *cells])
            csv_rows.append(payload_row(groups.artefact, groups[run][0], len(groups[run])) | row)
    return Table(
        "e2.table4: parameters of convolutions and others",
        ["network", "classes", "stem", "convolutions", "others", "convolutions, MB (MiB)", "others, MB (MiB)",
         "all, MB (MiB)", "message, MB"],
        rows,
        [
            "Counted from the definitions at full width, at every profile. Others: normalisation and classifier. "
            "MB = 10^6 bytes, MiB = 2^20 bytes, of float32.",
            "Message: measured length of an uncompressed gradient with its heads, network with CIFAR stem.",
            "Stems: 3 × 3 convolution (CIFAR) or 7 × 7 with pooling (ImageNet); the post does not say which it used.",
            LOST,
        ],
        csv_rows,
    )  # fmt: skip


def _network_size(model: str, classes: int, stem: str, record: Record) -> tuple[list[str], Row]:
    """Cells and CSV columns of one network."""
    from repro.models import sizes  # imports torch

    size = sizes.count(model, classes, stem)
    message = int(traffic.dense_bytes(record)) if stem == "cifar" and traffic.is_full_size(record) else None
    counts = {"convolutional": size.convolutional, "other": size.other, "all": size.parameters}
    cells = [
        *(number(counts[part]) for part in ("convolutional", "other")),
        *(f"{number(4 * n / MEGABYTE, 2)} ({number(4 * n / 2**20, 2)})" for n in counts.values()),
        ABSENT if message is None else number(message / MEGABYTE, 2),
    ]
    row: Row = {"width": 64, "stem": stem, "classifier": size.classifier, "tensors": size.tensors}
    for part, n in counts.items():
        row |= {f"{part}_parameters": n, f"{part}_megabytes": 4 * n / MEGABYTE}
    return cells, row | {"dense_message_bytes": message, **NO_VALUE}


# Compression rates --------------------------------------------------------------------------------------------


def _rates(group: Sequence[Record], codec: str, what: str) -> list[float]:
    """Bytes uncompressed / bytes sent, of every message: all steps of all seeds."""
    return [row["dense_bytes"] / row["bytes"] for record in group for row in traffic.rows_of(record, codec, what)]


def _rate(group: Sequence[Record], codec: str, what: str) -> float:
    return float(np.mean([traffic.compression_rate(record, codec, what) for record in group]))


def _saved(group: Sequence[Record], codec: str, what: str) -> tuple[float, list[float]]:
    """Percent of messages of ``codec`` that zip saves: mean, and of each."""
    mean = float(np.mean([traffic.saved_by_zip(record, codec, what) for record in group]))
    pairs = zip(_rates(group, codec, what), _rates(group, f"{codec}+zip", what), strict=True)
    return 100 * mean, [100 * (1 - plain / zipped) for plain, zipped in pairs]


def _row(
    name: str, found: Sequence[tuple[float, Sequence[float]]], form: Callable[[float], str], published: float | None
) -> list[str]:
    """A row of e2.table5 from the mean, and the value of each message, of every network."""
    cells = [_spread(mean, each, form) for mean, each in found]
    if published is None:
        return [name, ABSENT, *cells, ABSENT, ABSENT]
    apart = [mean - published for mean, _ in found]
    low, high = (number(end, 2, sign=True) for end in (min(apart), max(apart)))
    fits = sum(abs(each) <= TOLERANCES[published] for each in apart)
    return [name, number(published), *cells, low if low == high else f"{low} to {high}", f"{fits} of {len(found)}"]


def _of(what: str) -> str:
    return f", {CONTENTS[what]}" if what in CONTENTS else ""


def _memory(groups: Groups) -> str:
    """What codecs with a memory had seen when they were measured."""
    given = {record.spec.get("memory_steps") for record in members(groups)}
    numbers = [steps for steps in given if steps is not None]
    steps = f"the measured steps and the {_several(numbers)} before each" if len(numbers) == len(given) else "all steps"
    return f"What DGC, top-k with residual and 1-bit SGD remember comes from {steps}."


def _samples(group: Sequence[Record]) -> str:
    """What a mean and its spread rest on."""
    steps = len({row["step"] for record in group for row in record.rows})
    return ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in ((len(group), "seed"), (steps, "step")))


def _spread(mean: float, each: Sequence[float], form: Callable[[float], str]) -> str:
    low, high = form(min(each)), form(max(each))
    return form(mean) + (f" ({low} to {high})" if low != high else "")


def _rate_rows(artefact: str, group: Sequence[Record], codec: str, what: str) -> list[Row]:
    mean, each = _rate(group, codec, what), _rates(group, codec, what)
    deviation = float(np.std(each, ddof=1)) if len(each) > 1 else None
    spread = {"mean_rate": mean, "low_rate": min(each), "high_rate": max(each), "sd_rate": deviation}
    return [
        payload_row(artefact, record, len(group))
        | {"content": what, "codec": codec, "step": row["step"], "bytes": row["bytes"]}
        | {"dense_bytes": row["dense_bytes"], "rate": row["dense_bytes"] / row["bytes"]}
        | spread
        | NO_VALUE
        for record in group
        for row in traffic.rows_of(record, codec, what)
    ]


@table("e2.table5", title="Compression rates", runs=PAYLOAD_RUNS)
def compression_rates(groups: Selection) -> Table:
    """List rates of all codecs on gradients of both networks, with 10 and 1000 classes; F2I on others, too."""
    known = {row["codec"] for record in members(groups) for row in record.rows}
    if unknown := sorted(known - set(CODECS)):
        raise ReproError(
            f"e2.table5: codec {unknown[0]} has no name for readers; add it to CODECS in report/e2/runs.py"
        )
    others = [(codec, what) for what in CONTENTS for codec in ("int8", "int8+zip", "int8-affine")]
    messages = [*((codec, traffic.GRADIENT) for codec in CODECS), *others]
    judged, nets = ("int8", traffic.GRADIENT), groups.values()
    rows = [
        _row(
            CODECS[codec] + _of(what),
            [(_rate(g, codec, what), _rates(g, codec, what)) for g in nets],
            significant,
            PUBLISHED_RATE if (codec, what) == judged else None,
        )
        for codec, what in messages
    ]
    rows += [
        _row(
            f"{CODECS[codec]}{_of(what)}: saved by zip (%)",
            [_saved(group, codec, what) for group in nets],
            number,
            PUBLISHED_SAVED if (codec, what) == judged else None,
        )
        for codec, what in (judged, *(("int8", what) for what in CONTENTS), ("dgc", traffic.GRADIENT))
    ]
    return Table(
        "e2.table5: compression rates of real messages",
        [
            "codec",
            "published",
            *(f"{_network(group)} ({_samples(group)})" for group in groups.values()),
            "ours minus published",
            "networks that fit",
        ],
        rows,
        [
            payload_stamp(groups) + ".",
            "Rate: bytes of the uncompressed message / mean bytes of the messages sent; mean over seeds (least to "
            "greatest of all steps and seeds). Real payloads, decoded again; upload of one worker, parameters only.",
            "Gradients, where a row does not say otherwise. GQ: float32 to int8, a scale a tensor. DGC (after its "
            "warm-up) and top-k: 0.1 % of the weights of convolutions, the rest dense; fixed threshold: what 0.1 % "
            f"reach at the first step. {_memory(groups)}",
            TEN_LABELS,
            "Published: in the text of the post, whose own table was a picture and is lost. Difference: least to "
            f"greatest of the networks; one fits within {TOLERANCES[PUBLISHED_RATE]:g}, and within "
            f"{TOLERANCES[PUBLISHED_SAVED]} points of what zip saves.",
        ],
        [
            row
            for group in groups.values()
            for codec, what in messages
            for row in _rate_rows(groups.artefact, group, codec, what)
        ],
    )
