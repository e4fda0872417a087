"""Tables of post e2: what compressed messages weigh, and how long they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from repro.errors import ReproError
from repro.experiments import post2
from repro.experiments.post2 import EPOCHS, IMAGES, WORKERS
from repro.registry.labels import label, number
from repro.report import e1, select, tables
from repro.report.e2 import (
    BASELINE,
    COLUMNS,
    COSINE,
    DGC,
    DGC_COSINE,
    FEDERATED,
    FEDERATED_GQ,
    FIG1_RUNS,
    FIG2_RUNS,
    GQ,
    WEIGHTS,
)
from repro.report.tables import ABSENT, MEGABYTE, UNKNOWN, Table
from repro.results import traffic
from repro.results.links import Link, load_links, round_seconds, slowest
from repro.results.metrics import epochs_to_target, planned_rounds, target_accuracy
from repro.results.records import Record

METHOD_RUNS = (*FIG1_RUNS, *FIG2_RUNS)
TABLE3_RUNS = (*FIG1_RUNS, COSINE, DGC_COSINE, WEIGHTS)
NETWORKS = tuple((model, classes) for model in ("resnet18", "resnet50") for classes in (10, 1000))
PAYLOAD_RUNS = tuple(f"e2-payloads-{model}-{classes}" for model, classes in NETWORKS)
RESNET18_RUNS = PAYLOAD_RUNS[:2]

CODECS = {
    "dense": "uncompressed",
    "int8": "GQ",
    "int8+zip": "GQ + zip",
    "int8-affine": "GQ (affine)",
    "dgc": "DGC",
    "dgc+zip": "DGC + zip",
    **{
        f"{traffic.dgc_at(sparsity)}{end}": f"DGC{words}, warm-up at {sparsity:g}"
        for sparsity in post2.WARM_UP
        for end, words in (("", ""), ("+zip", " + zip"))
    },
    "top-k": "top-k without residual",
    "top-k-residual": "top-k with residual",
    "threshold": "fixed threshold, without residual",
    "qsgd": "QSGD",
    "terngrad": "TernGrad",
    "1-bit": "1-bit SGD",
}
MODELS = {"resnet18": "ResNet18", "resnet50": "ResNet50"}

CONTENTS = {
    traffic.CHANGE: "changes of weights",
    traffic.WEIGHTS: "weights",
}
"""What messages other than those of gradients hold; rows of their own in e2.table5."""

METHODS = {"large_batch": BASELINE, "federated": FEDERATED}
TRAINED_PAIRS = ((DGC, FEDERATED_GQ), (GQ, FEDERATED_GQ), (BASELINE, FEDERATED))
"""Trained runs whose real totals e2.table6 sets beside the extrapolated ones."""
TOTAL_RUNS = (*RESNET18_RUNS, *dict.fromkeys(run for pair in TRAINED_PAIRS for run in pair))
GIGABYTE = 1e9

TEN_LABELS = (
    "The head with 1000 classes is trained on CIFAR-10 and sees its ten labels only: its size is right, but its "
    "gradient differs from that of a task with 1000 classes, which counts where zip is used."
)
LOST = "No value published: the post's own table was a picture and is lost."


# Messages ---------------------------------------------------------------


def _payload_stamp(groups: select.Groups) -> str:
    """The scale of payload runs, of which no profile shrinks the networks."""
    members = [record for group in groups.values() for record in group]
    width, size, batch = (_several(r.spec[name] for r in members) for name in ("width", "image_size", "local_batch"))
    at: dict[str, list[str]] = {}
    for group in groups.values():
        at.setdefault(_several(row["step"] for record in group for row in record.rows), []).append(_network(group))
    steps = "; ".join(f"{each} ({'; '.join(names)})" if len(at) > 1 else each for each, names in at.items())
    span = _several(record.spec["local_steps"] for record in members)
    seeds = {MODELS[group[0].spec["model"]]: len(group) for group in groups.values()}
    return (
        f"{members[0].profile} profile: gradients of {' and '.join(seeds)} (width {width}, {size} × {size} px, CIFAR "
        f"stem) on {batch} images at training steps {steps}; changes of weights over {span} steps; "
        + ", ".join(f"n = {n} seed{'s' if n > 1 else ''} ({model})" for model, n in seeds.items())
    )


def _several(values: Iterable[int]) -> str:
    return ", ".join(number(value) for value in sorted(set(values)))


def _origin(artefact: str, record: Record, n: int) -> dict[str, Any]:
    """The columns with which the CSV rows of payload runs begin."""
    names = ("model", "classes", "width", "image_size", "local_batch", "precision")
    return {
        "artefact": artefact,
        "profile": record.profile,
        "source": record.source,
        "run": record.run,
        "seed": record.seed,
        "n": n,
        "fingerprint": record.fingerprint,
    } | {name: record.spec.get(name) for name in names}


def _network(group: Sequence[Record]) -> str:
    return f"{MODELS[select.setting(group, 'model')]}, {number(select.setting(group, 'classes'))} classes"


def _mean_bytes(group: Sequence[Record], codec: str, what: str = traffic.GRADIENT) -> list[float]:
    """Mean length of a message over the measured steps, in bytes, for each seed."""
    return [traffic.message_bytes(record, codec, what) for record in group]


# e2.table1 --------------------------------------------------------------


@dataclass(frozen=True)
class _Traffic:
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

    def cell(self, link: Link) -> str:
        """Seconds of a round, network time of the training and, where it is known, to the target: means over seeds."""
        seconds = link.seconds(float(np.mean(self.up)), float(np.mean(self.down)))
        text = f"{_significant(seconds)} s; {_duration(seconds * self.rounds)}"
        if self.to_target is None:
            return text
        bound = "" if all(self.reached) else "> "
        return f"{text}; {bound}{_duration(float(np.mean([link.seconds(*sent) for sent in self.to_target])))}"


def _method(run: str, codec: str) -> str:
    """As ``label`` names the runs that differ in their codec."""
    return label(run) + ("" if codec == "dense" else f" ({CODECS[codec]})")


def _measured_traffic(group: Sequence[Record], target: float) -> _Traffic:
    """Traffic of a trained run, averaged over its rounds (DGC's warm-up included)."""
    seen = [record for record in group if record.rows]
    workers = select.setting(group, "workers")
    up, down = (
        [record.rows[-1][name] / record.rows[-1]["round"] / workers for record in seen]
        for name in ("bytes_up", "bytes_down")
    )
    rounds = [planned_rounds(record) for record in group]
    epochs, reached = zip(*(epochs_to_target(record, target) for record in group), strict=True)
    sent = [tables.bytes_to_target(record, target)[0] for record in seen]
    return _Traffic(
        group[0].profile,
        select.named(group),
        seen,
        up,
        down,
        float(np.mean(rounds)),
        [(one_up / workers, one_down / workers) for one_up, one_down in sent],
        tables._summary(epochs, reached, 1),
        reached,
    )


def _sent_a_round(record: Record, method: str, codec: str) -> float:
    """Bytes of one worker in a round, mean over a training at the published scale with DGC's warm-up."""
    reading = traffic.DEFAULT if codec.endswith("+zip") else traffic.UNZIPPED
    return _Row(codec, codec, reading).up(record, method) / (WORKERS * traffic.rounds(method, reading))


def _full_size_traffic(group: Sequence[Record]) -> list[_Traffic]:
    """Traffic of ResNet18 at the published scale: measured messages up, the uncompressed model down."""
    codecs = {
        "large_batch": ("dense", "int8", "int8+zip", "dgc", "dgc+zip"),
        "federated": ("dense", "int8", "int8+zip"),
    }
    down = _mean_bytes(group, "dense")
    return [
        _Traffic(
            "full size",
            _method(METHODS[name], codec),
            group,
            [_sent_a_round(record, name, codec) for record in group],
            down,
            traffic.rounds(name),
        )
        for name, sent in codecs.items()
        for codec in sent
    ]


def _significant(value: float, digits: int = 3) -> str:
    """Rounded to ``digits`` significant digits, integers in full.

    >>> _significant(0.12345), _significant(9.999), _significant(1234.5), _significant(0)
    ('0.123', '10.0', '1\\u202f234', '0')
    """
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return number(value, max(0, digits - 1 - exponent) if value else 0)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{_significant(seconds / length, 2)} {unit}"
    return f"{_significant(seconds, 2)} s"


def table1(groups: select.Groups, profile: str) -> Table:
    """Link classes, and what a round, the whole training and reaching a target accuracy cost over them."""
    links = load_links()
    trained = {run: groups[run] for run in METHOD_RUNS}
    payloads = {RESNET18_RUNS[0]: groups[RESNET18_RUNS[0]]}
    target = target_accuracy(groups[BASELINE], profile, "e2")
    found = [_measured_traffic(group, target) for group in trained.values()]
    found += _full_size_traffic(groups[RESNET18_RUNS[0]])
    rows, csv_rows, last = [], [], set()
    for item in found:
        scale = f"{item.scale}, {'measured' if item.to_target is not None else 'extrapolated'}"
        cells = [scale, item.method, number(item.rounds), item.epochs]
        if not item.up:
            rows.append(cells + ["diverged"] * (2 + len(links)))
            continue
        sizes = float(np.mean(item.up)), float(np.mean(item.down))
        last.add(slowest(links, *sizes).name)
        rows.append([*cells, *(_significant(size / MEGABYTE) for size in sizes), *(item.cell(link) for link in links)])
        for i in range(len(item.group)):
            for name, members in [*((link.name, [link]) for link in links), ("all of them", links)]:
                csv_rows.append(_link_row(item, i, name, members) | {"target_percent": 100 * target})
    images = number(WORKERS * traffic.DEFAULT.local_batch)
    return Table(
        "e2.table1: seconds that a round takes on the network, and the network time of a training",
        [
            "scale", "method", "rounds", "epochs to the target", "up (MB a round)", "down (MB a round)",
            *(f"{link.name} ({link.down:g} / {link.up:g} Mbit/s)" for link in links),
        ],
        rows,
        [
            select.stamp(trained) + ".",
            f"Full size: {_payload_stamp(payloads)}. Extrapolated: {number(EPOCHS['large_batch'])} epochs of "
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
            f"over {' or '.join(sorted(last))}.",
            LOST,
            *select.gaps(trained),
        ],
        csv_rows,
    )  # fmt: skip


def _link_row(item: _Traffic, i: int, name: str, members: Sequence[Link]) -> dict[str, Any]:
    """CSV row of the ``i``-th record of ``item`` with devices of the links ``members`` in a round."""
    alone = members[0] if len(members) == 1 else None
    seconds = round_seconds(members, item.up[i], item.down[i])
    return _origin("e2.table1", item.group[i], len(item.group)) | {
        "scale": item.scale,
        "method": item.method,
        "rounds": item.rounds,
        "link": name,
        "link_down_mbit_s": alone and alone.down,
        "link_up_mbit_s": alone and alone.up,
        "bytes_up_per_worker_and_round": item.up[i],
        "bytes_down_per_worker_and_round": item.down[i],
        "round_seconds": seconds,
        "training_seconds": seconds * item.rounds,
        "seconds_to_target": None if item.to_target is None else round_seconds(members, *item.to_target[i]),
        "extrapolated": int(item.to_target is None),
        "published": "no value published",
    }


# e2.table2 --------------------------------------------------------------

Reading = Callable[[Sequence[Record]], str]


def _field(name: str) -> Reading:
    return lambda group: tables._word(select.setting(group, name))


def _image(group: Sequence[Record]) -> str:
    return " × ".join([number(select.setting(group, "image_size"))] * 2)


def _schedule(group: Sequence[Record]) -> str:
    made = select.setting(group, "schedule")
    if made["kind"] != "plateau":
        return str(made["kind"])
    return f"plateau, × {made['factor']:g}, patience {made['patience']} epochs"


def _compression(group: Sequence[Record]) -> str:
    codec = select.setting(group, "codec")
    return {"dense": "none", "int8": "int8, symmetric, a scale a tensor", "dgc": "DGC"}[codec]


def _of_dgc(reading: Reading) -> Reading:
    """``reading`` where a run uses DGC."""
    return lambda group: reading(group) if select.setting(group, "codec").startswith("dgc") else ABSENT


def _executed(name: str, words: str) -> Reading:
    """A setting that the codec shows when it is executed, in words that hold ``{}``."""

    def read(group: Sequence[Record]) -> str:
        from repro.verdicts import definitions  # runs the codec, and needs torch for it

        return words.format(definitions.of_codec(group[0].spec)[name])

    return _of_dgc(read)


def _built(words: Callable[[Any], str]) -> Reading:
    """What the codec of a run says of itself."""

    def read(group: Sequence[Record]) -> str:
        from repro.verdicts import definitions

        return words(definitions.dgc_of(group[0].spec))

    return _of_dgc(read)


def _yes(setting: object) -> str:
    return "yes" if setting else "no"


def _corrects(codec: Any) -> str:
    return _yes(codec.corrects_momentum and codec.momentum)


def _sparsities(codec: Any) -> str:
    return ", ".join(f"{float(1 - density):g}" for density in codec.densities)


def _stem(group: Sequence[Record]) -> str:
    from repro.models import sizes  # imports torch

    first = next(iter(sizes.shapes(select.setting(group, "model"), group[0].data["classes"]).values()))
    return " × ".join(map(str, first[2:]))


def _download(group: Sequence[Record]) -> str:
    return "model, int8" if group[0].spec.get("quantised_weights") else "model, uncompressed"


def _momentum(group: Sequence[Record]) -> str:
    where = _built(lambda codec: ", on the workers" if codec.corrects_momentum else "")(group)
    return tables._word(select.setting(group, "momentum")) + (where if where != ABSENT else "")


def _warm_up(group: Sequence[Record]) -> str:
    share, epochs = select.setting(group, "sparsity_warmup"), select.setting(group, "epochs")
    return f"{share * epochs:.3g} ({100 * share:.3g} % of the epochs)"


class Parameter(NamedTuple):
    """One row of e2.table2.

    Attributes:
        name: for readers.
        large_batch, federated: the published value as the post's text gives it.
        basis: how it is known: ``stated``, ``derived`` (the data set's own) or ``implied`` (a reading of the text).
        ours: a run's value of it, from its records, or from what they say was executed.
    """

    name: str
    large_batch: str
    federated: str
    basis: str
    ours: Reading


PARAMETERS = (
    Parameter("data set", "CIFAR-10", "CIFAR-10", "stated", _field("dataset")),
    Parameter("training images", number(IMAGES), number(IMAGES), "stated", _field("train_images")),
    Parameter("test images", number(10_000), number(10_000), "stated", _field("test_images")),
    Parameter("image size (px)", "32 × 32", "32 × 32", "derived", _image),
    Parameter("model, from scratch", "ResNet18", "ResNet18", "stated", _field("model")),
    Parameter("stem", UNKNOWN, UNKNOWN, UNKNOWN, _stem),
    Parameter("base width (channels)", "64", "64", "implied", _field("width")),
    Parameter("normalisation", "batch", "batch", "implied", _field("norm")),
    Parameter("optimiser", "SGD", "SGD", "stated", lambda _: "SGD"),
    Parameter("momentum", UNKNOWN, UNKNOWN, UNKNOWN, _momentum),
    Parameter("weight decay", UNKNOWN, UNKNOWN, UNKNOWN, _field("weight_decay")),
    Parameter("learning rate", UNKNOWN, UNKNOWN, UNKNOWN, _field("lr")),
    Parameter("schedule", "plateau of training loss", "plateau of training loss", "stated", _schedule),
    Parameter("epochs", number(EPOCHS["large_batch"]), number(EPOCHS["federated"]), "stated", _field("epochs")),
    Parameter("workers", number(WORKERS), number(WORKERS), "stated", _field("workers")),
    Parameter("data on workers", "even, IID", "even, IID", "stated", _field("partition")),
    Parameter("local batch (images)", UNKNOWN, UNKNOWN, UNKNOWN, _field("local_batch")),
    Parameter("synchronised", "every batch", "once per epoch in post 1", "stated", tables._synchronised),
    Parameter("images per round", UNKNOWN, number(IMAGES), "implied", tables._images_per_round),
    Parameter("rounds per epoch", UNKNOWN, "1", "implied", tables._rounds_per_epoch),
    Parameter("sent by a worker", "gradient", "change of the model", "stated", tables._sent),
    Parameter("compression", "none, float32 to int8, or DGC", "none, or float32 to int8", "stated", _compression),
    Parameter("DGC sparsifies", "weights of convolutions", ABSENT, "stated", _executed("sparsified", "{}")),
    Parameter("DGC sparsity", "0.75 to 0.999", ABSENT, "stated", _built(_sparsities)),
    Parameter("DGC warm-up (epochs)", number(len(post2.WARM_UP)), ABSENT, "stated", _of_dgc(_warm_up)),
    Parameter(
        "DGC threshold from", "1 % of the gradient", ABSENT, "stated",
        _executed("sample_percent", "at least {} % of each tensor"),
    ),
    Parameter("DGC momentum correction", "yes", ABSENT, "stated", _built(_corrects)),
    Parameter("DGC momentum factor masking", UNKNOWN, ABSENT, UNKNOWN, _built(lambda codec: _yes(codec.masking))),
    Parameter(
        "DGC local gradient clipping", "yes, threshold not stated", ABSENT, "stated",
        _built(lambda codec: _yes(codec.clip)),
    ),
    Parameter("sent by the server", UNKNOWN, UNKNOWN, UNKNOWN, _download),
    Parameter("BatchNorm buffers", UNKNOWN, UNKNOWN, UNKNOWN, _field("buffers")),
    Parameter("augmentation", UNKNOWN, UNKNOWN, UNKNOWN, _field("augment")),
    Parameter("precision", UNKNOWN, UNKNOWN, UNKNOWN, _field("precision")),
)  # fmt: skip


def table2(groups: select.Groups, profile: str) -> Table:
    """Parameters of the experiments: the post's text beside this profile's resolved values."""
    rows, csv_rows = [], []
    for parameter in PARAMETERS:
        ours = {run: parameter.ours(groups[run]) for run in METHOD_RUNS}
        rows.append([
            parameter.name,
            parameter.large_batch, *(ours[run] for run in FIG1_RUNS),
            parameter.federated, *(ours[run] for run in FIG2_RUNS),
        ])  # fmt: skip
        for run, value in ours.items():
            published = parameter.federated if run in FIG2_RUNS else parameter.large_batch
            known = {UNKNOWN: UNKNOWN, ABSENT: "does not apply"}.get(published, parameter.basis)
            csv_rows.append(
                {
                    "artefact": "e2.table2",
                    "profile": profile,
                    "source": "e2",
                    "run": run,
                    "seeds": " ".join(str(record.seed) for record in groups[run]),
                    "n": len(groups[run]),
                    "parameter": parameter.name,
                    "published": published,
                    "basis": known,
                    "ours": value,
                }
            )
    return Table(
        "e2.table2: parameters of the experiments, published and at this profile",
        [
            "parameter",
            "post: large batch", *(f"ours: {select.named(groups[run])}" for run in FIG1_RUNS),
            "post: federated averaging", *(f"ours: {select.named(groups[run])}" for run in FIG2_RUNS),
        ],
        rows,
        [
            select.stamp(groups) + ".",
            "The post's own table was a picture and is lost: its columns hold what its text states, or implies; the "
            "CSV says which.",
            "Learning rates come from one grid for both methods, judged on held-out images; compressed variants have "
            "the rate of their method.",
        ],
        csv_rows,
    )  # fmt: skip


# e2.table3 --------------------------------------------------------------


def table3(groups: select.Groups, profile: str) -> Table:
    """Large-batch accuracy at the end of training, and its distance from the uncompressed run."""
    rows, csv_rows = [], []
    for run in TABLE3_RUNS:
        group, data = groups[run], select.curve(groups[run])
        final = list(select.ends(group).values())
        kind = select.setting(group, "schedule")["kind"]
        distance = ABSENT if run == BASELINE else e1._change(groups[BASELINE], group)
        rows.append(
            [select.named(group), kind, f"{data.epochs[-1]:g}", _with_interval(final), distance, str(len(group))]
        )
        mean, low, high = select.interval(final)
        for i, record in enumerate(group):
            csv_rows.append(
                select.provenance("e2.table3", record, len(group), COLUMNS)
                | {"accuracy_percent": final[i], "imputed_chance": int(data.imputed[i, -1])}
                | {"mean_percent": mean, "low_percent": low, "high_percent": high}
                | {"published": "no value published"}
            )
    return Table(
        "e2.table3: large-batch test accuracy at the end of training (mean of the last tenth)",
        ["method", "schedule", "epochs", "accuracy, top-1 (%)", f"minus {label(BASELINE)}", "n"],
        rows,
        [
            select.stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval]; differences are paired by seed.",
            f"The runs with cosine annealing and with int8 weights are ours. {LOST}",
            *select.gaps(groups),
        ],
        csv_rows,
    )


def _with_interval(values: Sequence[float] | np.ndarray, digits: int = 1) -> str:
    mean, low, high = (number(value, digits) for value in select.interval(values))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else f"{mean} (one seed)"


# e2.table4 --------------------------------------------------------------


def table4(groups: select.Groups, profile: str) -> Table:
    """Parameters of the networks, convolutional and other, with the measured length of a dense message."""
    from repro.models import sizes  # imports torch

    rows, csv_rows = [], []
    for run, (model, classes) in zip(PAYLOAD_RUNS, NETWORKS, strict=True):
        for stem in ("cifar", "imagenet"):
            size = sizes.count(model, classes, stem)
            first = groups[run][0]
            measured = int(traffic.dense_bytes(first)) if stem == "cifar" and traffic.is_full_size(first) else None
            counts = {"convolutional": size.convolutional, "other": size.other, "all": size.parameters}
            rows.append([
                MODELS[model], number(classes), {"cifar": "CIFAR", "imagenet": "ImageNet"}[stem],
                *(number(counts[part]) for part in ("convolutional", "other")),
                *(f"{number(4 * n / MEGABYTE, 2)} ({number(4 * n / 2**20, 2)})" for n in counts.values()),
                ABSENT if measured is None else number(measured / MEGABYTE, 2),
            ])  # fmt: skip
            csv_rows.append(
                _origin("e2.table4", first, len(groups[run]))
                | {"width": 64, "stem": stem, "classifier": size.classifier, "tensors": size.tensors}
                | {name: value for part, n in counts.items() for name, value in
                   ((f"{part}_parameters", n), (f"{part}_megabytes", 4 * n / MEGABYTE))}
                | {"dense_message_bytes": measured, "published": "no value published"}
            )  # fmt: skip
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


# e2.table5 --------------------------------------------------------------


def _rates(group: Sequence[Record], codec: str, what: str = traffic.GRADIENT) -> list[float]:
    """Bytes uncompressed / bytes sent, of every message: all steps of all seeds."""
    return [row["dense_bytes"] / row["bytes"] for record in group for row in traffic.rows_of(record, codec, what)]


def _rate(group: Sequence[Record], codec: str, what: str = traffic.GRADIENT) -> float:
    return float(np.mean([traffic.compression_rate(record, codec, what) for record in group]))


def _rate_cell(group: Sequence[Record], codec: str, what: str = traffic.GRADIENT) -> str:
    return _spread(_rate(group, codec, what), _rates(group, codec, what), _significant)


def _saved_cell(group: Sequence[Record], codec: str, what: str = traffic.GRADIENT) -> str:
    """Percent of a message of ``codec`` that zip saves."""
    mean = float(np.mean([traffic.saved_by_zip(record, codec, what) for record in group]))
    pairs = zip(_rates(group, codec, what), _rates(group, f"{codec}+zip", what), strict=True)
    return _spread(100 * mean, [100 * (1 - plain / zipped) for plain, zipped in pairs], number)


def _of(what: str) -> str:
    return f", {CONTENTS[what]}" if what in CONTENTS else ""


def _memory(groups: select.Groups) -> str:
    """What codecs with a memory had seen when they were measured."""
    given = {record.spec.get("memory_steps") for group in groups.values() for record in group}
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


def table5(groups: select.Groups, profile: str) -> Table:
    """Compression rates of all codecs on gradients of both networks, with 10 and 1000 classes; F2I on others, too."""
    known = {row["codec"] for group in groups.values() for record in group for row in record.rows}
    if unknown := sorted(known - set(CODECS)):
        raise ReproError(
            f"e2.table5: codec {unknown[0]} has no name for readers; add it to repro.report.e2_tables.CODECS"
        )
    others = [(codec, what) for what in CONTENTS for codec in ("int8", "int8+zip", "int8-affine")]
    messages = [*((codec, traffic.GRADIENT) for codec in CODECS), *others]
    rows = [
        [CODECS[codec] + _of(what), *(_rate_cell(group, codec, what) for group in groups.values())]
        for codec, what in messages
    ]
    for codec, what in (("int8", traffic.GRADIENT), *(("int8", what) for what in CONTENTS), ("dgc", traffic.GRADIENT)):
        cells = [_saved_cell(group, codec, what) for group in groups.values()]
        rows.append([f"{CODECS[codec]}{_of(what)}: saved by zip (%)", *cells])
    csv_rows = []
    for group in groups.values():
        for codec, what in messages:
            mean, each = _rate(group, codec, what), _rates(group, codec, what)
            deviation = float(np.std(each, ddof=1)) if len(each) > 1 else None
            span = {"mean_rate": mean, "low_rate": min(each), "high_rate": max(each), "sd_rate": deviation}
            csv_rows += [
                _origin("e2.table5", record, len(group))
                | {"content": what, "codec": codec, "step": row["step"]}
                | {"bytes": row["bytes"], "dense_bytes": row["dense_bytes"]}
                | {"rate": row["dense_bytes"] / row["bytes"], **span, "published": "no value published"}
                for record in group
                for row in traffic.rows_of(record, codec, what)
            ]
    return Table(
        "e2.table5: compression rates of real messages",
        ["codec", *(f"{_network(group)} ({_samples(group)})" for group in groups.values())],
        rows,
        [
            _payload_stamp(groups) + ".",
            "Rate: bytes of the uncompressed message / mean bytes of the messages sent; mean over seeds (least to "
            "greatest of all steps and seeds). Real payloads, decoded again; upload of one worker, parameters only.",
            "Gradients, where a row does not say otherwise. GQ: float32 to int8, a scale a tensor. DGC (after its "
            "warm-up) and top-k: 0.1 % of the weights of convolutions, the rest dense; fixed threshold: what 0.1 % "
            f"reach at the first step. {_memory(groups)}",
            TEN_LABELS,
            f"The post states a factor of 4 for GQ and about 50 % saved by zip. {LOST}",
        ],
        csv_rows,
    )


# e2.table6 --------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
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


def _readings() -> list[_Row]:
    """The rows of e2.table6, the judged one first."""
    ours = [reading for reading in traffic.readings() if not reading.download]

    def codec(method: str, reading: traffic.Reading) -> str:
        return post2.CODECS[method] + ("+zip" if method in reading.zipped else "")

    rows = [_Row(codec("large_batch", reading), codec("federated", reading), reading) for reading in ours]
    batches = dict.fromkeys(reading.local_batch for reading in ours)
    for alike in ("int8+zip", "int8", "dense"):
        zipped = traffic.DEFAULT.zipped if alike.endswith("+zip") else ()
        rows += [_Row(alike, alike, traffic.Reading(zipped=zipped, local_batch=batch)) for batch in batches]
    return rows


def _downloads(record: Record) -> str:
    """What the workers receive over the whole training."""
    totals = {f"{label(BASELINE)}, {number(row.images)} images": row.down(record, "large_batch") for row in _readings()}
    totals |= {label(FEDERATED): _readings()[0].down(record, "federated")}
    return ", ".join(f"{number(total / GIGABYTE)} GB ({name})" for name, total in totals.items())


def ratio(large_batch: Sequence[float], federated: Sequence[float]) -> tuple[float, float, float]:
    """Large batch / federated averaging: geometric mean over seeds with its 95 % interval."""
    logs = [math.log(a / b) for a, b in zip(large_batch, federated, strict=True)]
    mean, low, high = (math.exp(value) for value in select.interval(logs))
    return mean, low, high


def _times(found: tuple[float, float, float]) -> str:
    """A ratio as a factor: ``× 3.00``, or ``÷ 4.63 [4.40, 4.90]`` where seeds differ visibly."""
    mean, low, high = found
    sign = "×" if mean >= 1 else "÷"
    if mean < 1:
        mean, low, high = 1 / mean, 1 / high, 1 / low
    text, *bounds = map(_significant, (mean, low, high)) if not math.isnan(low) else (_significant(mean),)
    return f"{sign} {text}" + (f" [{', '.join(bounds)}]" if set(bounds) - {text} else "")


def _total_row(
    name: str, record: Record, n: int, *, basis: str, codecs: Sequence[str], warm_up: str, images: int, judged: bool,
    rounds: dict[str, int], up: dict[str, float], down: dict[str, float],
    ratios: dict[str, tuple[float, float, float]], message_images: int | None,
) -> dict[str, Any]:  # fmt: skip
    """CSV row of e2.table6; bytes are those of one seed, ratios those over seeds."""
    return (
        _origin("e2.table6", record, n)
        | {"network": name, "basis": basis, "large_batch_codec": codecs[0], "federated_codec": codecs[1]}
        | {"warm_up": warm_up, "images_per_round": images, "message_images": message_images, "judged": int(judged)}
        | {f"{method}_rounds": rounds[method] for method in METHODS}
        | {f"{method}_bytes_up": up[method] for method in METHODS}
        | {f"{method}_bytes_down": down[method] for method in METHODS}
        | {
            f"ratio_{way}{end}": value
            for way, found in ratios.items()
            for end, value in zip(("", "_low", "_high"), found, strict=True)
        }
        | {"extrapolated": int(basis == EXTRAPOLATED)}
    )


EXTRAPOLATED = "extrapolated"
_Totals = dict[str, list[float]]


def _ratios(up: _Totals, down: _Totals) -> dict[str, tuple[float, float, float]]:
    both = {method: [sum(pair) for pair in zip(up[method], down[method], strict=True)] for method in METHODS}
    return {name: ratio(*counted.values()) for name, counted in (("up", up), ("up_and_down", both))}


def _total_cells(up: _Totals, ratios: dict[str, tuple[float, float, float]]) -> list[str]:
    cells = [_significant(float(np.mean(up[method])) / GIGABYTE) for method in METHODS]
    return [*cells, _times(ratios["up"]), _times(ratios["up_and_down"])]


def _extrapolated(row: _Row, groups: select.Groups, judged: Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """A reading as a row of the table and as rows of its CSV; ``judged``: runs whose verdict rests on it."""
    mark = f" {UNMEASURED}" if row.images != WORKERS * traffic.DEFAULT.local_batch else ""
    cells = [CODECS[row.large_batch], CODECS[row.federated], row.warm_up, number(row.images) + mark, EXTRAPOLATED]
    lines = []
    for name, group in groups.items():
        up, down = (
            {method: [count(record, method) for record in group] for method in METHODS} for count in (row.up, row.down)
        )
        ratios = _ratios(up, down)
        cells += _total_cells(up, ratios)
        for i, record in enumerate(group):
            lines.append(_total_row(
                name, record, len(group), basis=EXTRAPOLATED, codecs=(row.large_batch, row.federated),
                warm_up=row.warm_up, images=row.images, judged=name in judged,
                rounds={method: traffic.rounds(method, row.reading) for method in METHODS},
                up={method: up[method][i] for method in METHODS},
                down={method: down[method][i] for method in METHODS}, ratios=ratios,
                message_images=record.spec["local_batch"],
            ))  # fmt: skip
    return cells, lines


def _trained(
    groups: select.Groups, pair: tuple[str, str], payloads: Sequence[Record], *, zipped: bool = False,
    statistics: bool = True,
) -> tuple[list[str], list[dict[str, Any]]]:  # fmt: skip
    """Real totals of two trained runs, of the seeds that both completed; without such a seed no row of the CSV.

    ``zipped``: at the post's scale, with the share that zip saves of measured messages, and with or without BatchNorm's
    running ``statistics``.
    """
    by_seed = [{record.seed: record for record in groups[run] if record.status == "completed"} for run in pair]
    weighed = {record.seed: record for record in payloads}
    seeds = [seed for seed in by_seed[0] if seed in by_seed[1] and (not zipped or seed in weighed)]
    codecs = [select.setting(groups[run], "codec") + "+zip" * zipped for run in pair]
    profile, first = groups[pair[0]][0].profile, groups[pair[0]][0].spec
    basis = f"measured, {profile} profile" + ", zip computed" * zipped + ", no running statistics" * (not statistics)
    warm_up = "counted" if first["codec"] == "dgc" else ABSENT
    images = first["workers"] * first["local_batch"]
    cells = [*(CODECS[codec] for codec in codecs), warm_up, number(images), basis]
    if not seeds:
        return [*cells, *[ABSENT] * 8], []
    runs = dict(zip(METHODS, by_seed, strict=True))
    down = {method: [runs[method][seed].rows[-1]["bytes_down"] for seed in seeds] for method in METHODS}
    up = {
        method: [
            traffic.sent_by_run(runs[method][seed], weighed[seed], method, statistics=statistics)
            if zipped
            else float(runs[method][seed].rows[-1]["bytes_up"])
            for seed in seeds
        ]
        for method in METHODS
    }
    ratios = _ratios(up, down)
    lines = [
        _total_row(
            pair[0], runs[own][seed], len(seeds), basis=basis, codecs=codecs, warm_up=warm_up, images=images,
            judged=not statistics, rounds={method: runs[method][seed].rows[-1]["round"] for method in METHODS},
            up={method: up[method][i] for method in METHODS}, down={method: down[method][i] for method in METHODS},
            ratios=ratios, message_images=None,
        )
        for i, seed in enumerate(seeds)
        for own in METHODS
    ]  # fmt: skip
    return [*cells, *_total_cells(up, ratios), *[ABSENT] * 4], lines


UNMEASURED = "*"


def table6(groups: select.Groups, profile: str) -> Table:
    """Data sent to the server over the whole training: at full scale by every reading, and of our trained runs."""
    payloads = {run: groups[run] for run in RESNET18_RUNS}
    ten = payloads[RESNET18_RUNS[0]]
    full = all(
        traffic.is_published_scale(record, method)
        for method, run in zip(METHODS, TRAINED_PAIRS[0], strict=True)
        for record in groups[run]
    )
    rows, csv_rows = [], []
    judged_here = [run for run in payloads if not (full and run == RESNET18_RUNS[0])]
    made = [_extrapolated(row, payloads, judged_here if i == 0 else []) for i, row in enumerate(_readings())]
    if full:
        made += [_trained(groups, TRAINED_PAIRS[0], ten, zipped=True, statistics=each) for each in (False, True)]
    made += [_trained(groups, pair, ten) for pair in TRAINED_PAIRS]
    for cells, lines in made:
        rows.append(cells)
        csv_rows += lines
    classes = [f"{number(select.setting(group, 'classes'))} classes" for group in payloads.values()]
    trained = {run: groups[run] for run in TOTAL_RUNS if run not in RESNET18_RUNS}
    judged = "the first of the measured rows is judged with 10 classes" if full else "the first one is judged"
    return Table(
        "e2.table6: total data sent to the server over the whole training, ResNet18",
        [
            label(BASELINE), label(FEDERATED), "warm-up of DGC", "images a round of large batch", "basis",
            *(
                f"{name}: {what}"
                for name in classes
                for what in ("large batch up (GB)", "federated up (GB)", "large batch sends, up",
                             "up and down")
            ),
        ],
        rows,
        [
            f"Extrapolated: full-scale rounds x measured message size. {number(WORKERS)} workers; large batch: "
            f"{number(EPOCHS['large_batch'])} epochs of {number(IMAGES)} images; federated averaging: "
            f"{number(EPOCHS['federated'])} rounds. GB = 10^9 bytes.",
            f"Messages: {_payload_stamp(payloads)}. Large batch sends gradients, federated averaging changes of "
            "weights; DGC's warm-up was measured at each of its sparsities.",
            f"{UNMEASURED} The messages are those of {number(traffic.DEFAULT.local_batch)} images a worker, not of as "
            "many as the round has: as long before zip, and taken to be so after it.",
            f"Measured: bytes that our trained runs really sent ({select.stamp(trained)}), BatchNorm's running "
            "statistics included where nothing else is said; extrapolated ones hold parameters only; with 1000 classes "
            "nothing was trained to the end.",
            f"Each extrapolated row is a reading of what the post leaves open; {judged} (e2.c7, e2.c8). The post "
            "states: 10 classes, large batch (DGC + zip) sends 5 times less; 1000 classes, federated averaging sends 3 "
            "times less. Its own table was a picture and is lost.",
            "Down: the uncompressed model to every worker in every round, as in our runs; with "
            f"{classes[0]} {_downloads(ten[0])}.",
            "Factors: what large batch sends is what federated averaging sends times (×) or divided by (÷) the number; "
            "geometric mean over seeds [95 % Student-t interval of the paired log ratio, where it is wider "
            "than the digits shown].",
            TEN_LABELS,
        ],
        csv_rows,
    )  # fmt: skip
