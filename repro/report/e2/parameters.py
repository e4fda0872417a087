"""Parameters of post 2's experiments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from repro.experiments import post2
from repro.experiments.post2 import EPOCHS, IMAGES, WORKERS
from repro.registry.labels import number
from repro.report.artefact import table
from repro.report.e2.runs import FEDERATED_RUNS, LARGE_BATCH_RUNS, METHOD_RUNS
from repro.report.notes import stamp
from repro.report.parameters import (
    Parameter,
    Reading,
    field,
    image_size,
    images_per_round,
    rounds_per_epoch,
    sent,
    synchronised,
    word,
)
from repro.report.selection import Selection, named, setting
from repro.report.tables import ABSENT, UNKNOWN, Table
from repro.results.records import Record


def _schedule(group: Sequence[Record]) -> str:
    made = setting(group, "schedule")
    if made["kind"] != "plateau":
        return str(made["kind"])
    return f"plateau, × {made['factor']:g}, patience {made['patience']} epochs"


def _compression(group: Sequence[Record]) -> str:
    codec = setting(group, "codec")
    return {"dense": "none", "int8": "int8, symmetric, a scale a tensor", "dgc": "DGC"}[codec]


def _of_dgc(reading: Reading) -> Reading:
    """``reading`` where a run uses DGC."""
    return lambda group: reading(group) if setting(group, "codec").startswith("dgc") else ABSENT


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

    first = next(iter(sizes.shapes(setting(group, "model"), group[0].data["classes"]).values()))
    return " × ".join(map(str, first[2:]))


def _download(group: Sequence[Record]) -> str:
    return "model, int8" if group[0].spec.get("quantised_weights") else "model, uncompressed"


def _momentum(group: Sequence[Record]) -> str:
    where = _built(lambda codec: ", on the workers" if codec.corrects_momentum else "")(group)
    return word(setting(group, "momentum")) + (where if where != ABSENT else "")


def _warm_up(group: Sequence[Record]) -> str:
    share, epochs = setting(group, "sparsity_warmup"), setting(group, "epochs")
    return f"{share * epochs:.3g} ({100 * share:.3g} % of the epochs)"


def _both(published: str) -> tuple[str, str]:
    return (published, published)


#: Published values for large batch and federated averaging.
PARAMETERS = (
    Parameter("data set", _both("CIFAR-10"), "stated", field("dataset")),
    Parameter("training images", _both(number(IMAGES)), "stated", field("train_images")),
    Parameter("test images", _both(number(10_000)), "stated", field("test_images")),
    Parameter("image size (px)", _both("32 × 32"), "derived", image_size),
    Parameter("model, from scratch", _both("ResNet18"), "stated", field("model")),
    Parameter("stem", _both(UNKNOWN), UNKNOWN, _stem),
    Parameter("base width (channels)", _both("64"), "implied", field("width")),
    Parameter("normalisation", _both("batch"), "implied", field("norm")),
    Parameter("optimiser", _both("SGD"), "stated", lambda _: "SGD"),
    Parameter("momentum", _both(UNKNOWN), UNKNOWN, _momentum),
    Parameter("weight decay", _both(UNKNOWN), UNKNOWN, field("weight_decay")),
    Parameter("learning rate", _both(UNKNOWN), UNKNOWN, field("lr")),
    Parameter("schedule", _both("plateau of training loss"), "stated", _schedule),
    Parameter("epochs", (number(EPOCHS["large_batch"]), number(EPOCHS["federated"])), "stated", field("epochs")),
    Parameter("workers", _both(number(WORKERS)), "stated", field("workers")),
    Parameter("data on workers", _both("even, IID"), "stated", field("partition")),
    Parameter("local batch (images)", _both(UNKNOWN), UNKNOWN, field("local_batch")),
    Parameter("synchronised", ("every batch", "once per epoch in post 1"), "stated", synchronised),
    Parameter("images per round", (UNKNOWN, number(IMAGES)), "implied", images_per_round),
    Parameter("rounds per epoch", (UNKNOWN, "1"), "implied", rounds_per_epoch),
    Parameter("sent by a worker", ("gradient", "change of the model"), "stated", sent),
    Parameter("compression", ("none, float32 to int8, or DGC", "none, or float32 to int8"), "stated", _compression),
    Parameter("DGC sparsifies", ("weights of convolutions", ABSENT), "stated", _executed("sparsified", "{}")),
    Parameter("DGC sparsity", ("0.75 to 0.999", ABSENT), "stated", _built(_sparsities)),
    Parameter("DGC warm-up (epochs)", (number(len(post2.WARM_UP)), ABSENT), "stated", _of_dgc(_warm_up)),
    Parameter(
        "DGC threshold from", ("1 % of the gradient", ABSENT), "stated",
        _executed("sample_percent", "at least {} % of each tensor"),
    ),
    Parameter("DGC momentum correction", ("yes", ABSENT), "stated", _built(_corrects)),
    Parameter("DGC momentum factor masking", (UNKNOWN, ABSENT), UNKNOWN, _built(lambda codec: _yes(codec.masking))),
    Parameter(
        "DGC local gradient clipping", ("yes, threshold not stated", ABSENT), "stated",
        _built(lambda codec: _yes(codec.clip)),
    ),
    Parameter("sent by the server", _both(UNKNOWN), UNKNOWN, _download),
    Parameter("BatchNorm buffers", _both(UNKNOWN), UNKNOWN, field("buffers")),
    Parameter("augmentation", _both(UNKNOWN), UNKNOWN, field("augment")),
    Parameter("precision", _both(UNKNOWN), UNKNOWN, field("precision")),
)  # fmt: skip


@table("e2.table2", title="Parameters of the experiments", runs=METHOD_RUNS)
def parameters(groups: Selection) -> Table:
    """Set the post's text beside this profile's resolved values."""
    rows, csv_rows = [], []
    for parameter in PARAMETERS:
        cells = [parameter.name]
        for column, runs in enumerate((LARGE_BATCH_RUNS, FEDERATED_RUNS)):
            ours = {run: parameter.ours(groups[run]) for run in runs}
            cells += [parameter.published[column], *ours.values()]
            csv_rows += [parameter.row(groups.artefact, groups[run], column, value) for run, value in ours.items()]
        rows.append(cells)
    return Table(
        "e2.table2: parameters of the experiments, published and at this profile",
        [
            "parameter",
            "post: large batch", *(f"ours: {named(groups[run])}" for run in LARGE_BATCH_RUNS),
            "post: federated averaging", *(f"ours: {named(groups[run])}" for run in FEDERATED_RUNS),
        ],
        rows,
        [
            stamp(groups) + ".",
            "The post's own table was a picture and is lost: its columns hold what its text states, or implies; the "
            "CSV says which.",
            "Learning rates come from one grid for both methods, judged on held-out images; compressed variants have "
            "the rate of their method.",
        ],
        csv_rows,
    )  # fmt: skip
