"""Accuracy tables of the paper: BSP and federated averaging, and what moves the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from repro.registry.labels import number
from repro.report.artefact import table
from repro.report.intervals import bounded, change, points, with_interval
from repro.report.lb.runs import MODELS, lb_origin
from repro.report.notes import gaps_of_many, stamp_by_network
from repro.report.rows import Row, span
from repro.report.selection import Selection, completed, diverged, finals, setting
from repro.report.tables import ABSENT, MEGABYTE, Table, buffer_policy
from repro.results import metrics
from repro.results.measurements import title
from repro.results.records import Record

SPLITS = {"iid": "IID", "noniid": "non-IID"}
EVERY = (250, 1000)
_METHODS = {"bsp": "BSP", "fa": "FA", **{f"fa{every}": f"FA, {every}" for every in EVERY}}

TABLE1_RUNS = tuple(f"lb-{method}-{model}-{split}" for model in MODELS for split in SPLITS for method in ("bsp", "fa"))
TABLE2_RUNS = tuple(f"lb-fa{every}-{model}-{split}" for model in MODELS for split in SPLITS for every in EVERY)
AVERAGED = "lb-bsp-resnet50-noniid"
BUFFERS_RUNS = (AVERAGED, f"{AVERAGED}-local", f"{AVERAGED}-drop")
_SETTINGS = ("", "-lr0_01", "-b64")
WEIGHTED, EQUAL = "lb-fa-alexnet-noniid", "lb-fa-alexnet-noniid-equal"
SENSITIVITY_RUNS = tuple(
    f"lb-{method}-alexnet-{split}{ending}" for ending in _SETTINGS for method in ("bsp", "fa") for split in SPLITS
)

Published = Mapping[tuple[str, str], tuple[float, float]]
"""Accuracy in percent by (model, split), for the two methods of a table."""
PUBLISHED_1: Published = {
    ("resnet50", "iid"): (82.54, 81.01), ("resnet50", "noniid"): (65.35, 58.72),
    ("vgg11", "iid"): (83.91, 74.5), ("vgg11", "noniid"): (71.01, 32.86),
    ("alexnet", "iid"): (67.1, 62.67), ("alexnet", "noniid"): (66.6, 35.2),
}  # fmt: skip
PUBLISHED_2: Published = {
    ("resnet50", "iid"): (78.07, 76.77), ("resnet50", "noniid"): (67.31, 66.26),
    ("vgg11", "iid"): (75.96, 70.79), ("vgg11", "noniid"): (31.24, 12.0),
    ("alexnet", "iid"): (61.14, 59.62), ("alexnet", "noniid"): (23.8, 24.1),
}  # fmt: skip

_MEAN = "Mean over seeds at the end of training (mean of the last tenth) [95 % Student-t interval, cut at 0 and 100 %]."
_ENDS = ["top-1 (%)", "top-5 (%)"]
_AGAINST = ["top-1 minus published", "top-5 minus published", "which fits"]


def _top5(group: Sequence[Record]) -> list[float]:
    return [100 * metrics.end_top5(record) for record in group]


def accuracy_cells(group: Sequence[Record]) -> list[str]:
    """Top-1 and top-5 with interval, and how many seeds diverged."""
    cells, lost = [with_interval(finals(group)), with_interval(_top5(group))], len(diverged(group))
    if lost:
        cells[0] += f", diverged {lost} of {len(group)} seeds"
    return cells


def _against(group: Sequence[Record], published: float) -> list[str]:
    """Top-1 and top-5 minus the published accuracy, and which of them fits: whose interval holds it."""
    ours = {"top-1": finals(group), "top-5": _top5(group)}
    apart = {words: [value - published for value in values] for words, values in ours.items()}
    nearer = min(apart, key=lambda words: abs(float(np.mean(apart[words]))))
    spans = {words: bounded(values) for words, values in ours.items()}
    fitting = [words for words, (_, low, high) in spans.items() if low <= published <= high]
    return [*map(points, apart.values()), " and ".join(fitting) or f"none; {nearer} is nearer"]


def _csv_rows(artefact: str, group: Sequence[Record], published: float | None = None) -> list[Row]:
    """One row per seed; a diverged seed counts at chance."""
    top1, top5 = finals(group), _top5(group)
    ends: Row = {}
    for name, values in (("top1", top1), ("top5", top5)):
        ends |= span(values, [f"{name}_{part}_percent" for part in ("mean", "low", "high")])
    return [
        lb_origin(artefact, record, len(group))
        | {"synchronisations": record.rows[-1]["round"] if record.status == "completed" else None}
        | {"top1_percent": top1[i], "top5_percent": top5[i], "imputed_chance": int(record.status == "diverged")}
        | ends
        | {"published_percent": published}
        for i, record in enumerate(group)
    ]


# Tables I and II ------------------------------------------------------------------------------------------------


def _comparable(profile: str) -> str:
    if profile == "paper":
        return (
            "Which fits: the accuracy of ours whose interval holds the published number. The paper does not say "
            "whether that is top-1 or top-5."
        )
    return (
        "Which fits: the accuracy of ours whose interval holds the published number, which may be top-1 or top-5. At "
        f"the {profile} profile networks and data are smaller, so that only orders are comparable, no value."
    )


def _beside_published(
    groups: Selection, methods: Sequence[str], published: Published
) -> tuple[list[list[str]], list[Row]]:
    """A row a run: pair, split, method, and (of local steps) how many and how many synchronisations."""
    rows, csv_rows = [], []
    for (model, split), values in published.items():
        for method, value in zip(methods, values, strict=True):
            group = groups[f"lb-{method}-{model}-{split}"]
            found = [title(group[0]), SPLITS[split], _METHODS[method]]
            if method not in ("bsp", "fa"):
                counts = {int(record.rows[-1]["round"]) for record in completed(group)}
                found += [number(int(setting(group, "local_steps")))]
                found += [" or ".join(map(number, sorted(counts))) or ABSENT]
            decimals = 2 if round(value, 1) != value else 1
            against = _against(group, value)
            rows.append([*found, number(value, decimals), *accuracy_cells(group), *against, str(len(group))])
            csv_rows += [row | {"fits": against[-1]} for row in _csv_rows(groups.artefact, group, value)]
    return rows, csv_rows


def _header(*names: str) -> list[str]:
    return ["network and data", "split", *names, "published (%)", *_ENDS, *_AGAINST, "n"]


def _labels(groups: Selection) -> str:
    """Labels a client of the non-IID splits, and local batches."""
    labels = ", ".join(
        f"{setting(group, 'labels_per_client')} ({title(group[0])})"
        for group in (groups[run] for run in groups if run.endswith("noniid") and run.split("-")[1] in ("fa", "fa250"))
    )
    workers = sorted({int(record.spec["workers"]) for group in groups.values() for record in group})
    batches = sorted({int(record.spec["local_batch"]) for group in groups.values() for record in group})
    said = " or ".join(map(number, batches))
    return f"{' or '.join(map(number, workers))} clients, local batch {said}. Non-IID, labels a client: {labels}."


@table("lb.table1", title="Accuracy of bulk-synchronous training and federated averaging", runs=TABLE1_RUNS)
def methods(groups: Selection) -> Table:
    """Compare bulk-synchronous training and federated averaging, IID and non-IID (statements lb.c1, lb.c2)."""
    rows, csv_rows = _beside_published(groups, ("bsp", "fa"), PUBLISHED_1)
    return Table(
        "lb.table1: test accuracy of bulk-synchronous training (BSP) and federated averaging (FA)",
        _header("method"),
        rows,
        [f"{stamp_by_network(groups)}.", f"{_MEAN} BSP averages gradients at every step, FA models once an epoch.",
         _labels(groups), _comparable(groups.profile), *gaps_of_many(groups)],
        csv_rows,
    )  # fmt: skip


@table("lb.table2", title="Accuracy of federated averaging by synchronisation", runs=TABLE2_RUNS)
def synchronisation(groups: Selection) -> Table:
    """Compare federated averaging every 250 and every 1000 iterations (statement lb.c3)."""
    rows, csv_rows = _beside_published(groups, [f"fa{every}" for every in EVERY], PUBLISHED_2)
    return Table(
        "lb.table2: test accuracy of federated averaging (FA) by synchronisation",
        _header("paper's iterations", "local steps", "synchronisations"),
        rows,
        [f"{stamp_by_network(groups)}.",
         f"{_MEAN} Local steps: steps of a client between two synchronisations, as run; a smaller profile has fewer "
         "steps in all and shortens them.",
         _labels(groups), _comparable(groups.profile), *gaps_of_many(groups)],
        csv_rows,
    )  # fmt: skip


# Ours -----------------------------------------------------------------------------------------------------------


@table(
    "lb.extra-buffers", title="One label per client: running statistics averaged, local or dropped",
    runs=BUFFERS_RUNS, group="control",
)  # fmt: skip
def buffers(groups: Selection) -> Table:
    """Compare policies for BatchNorm's running statistics of ResNet50 with one label a client under BSP."""
    rows = []
    for run, group in groups.items():
        policy = str(setting(group, "buffers"))
        difference = ABSENT if run == AVERAGED else change(groups[AVERAGED], group)
        sent = [record.rows[-1]["bytes_up"] / MEGABYTE for record in completed(group)]
        up = number(float(np.mean(sent)), 1) if sent else ABSENT
        rows.append(
            [policy, *buffer_policy(groups[AVERAGED], policy), *accuracy_cells(group), difference, up, str(len(group))]
        )
    sample = groups[AVERAGED]
    published = PUBLISHED_1["resnet50", "noniid"][0]
    return Table(
        f"lb.extra-buffers: {title(sample[0])}, BSP, labels a client: {setting(sample, 'labels_per_client')}",
        ["policy", "running statistics", "evaluated with", *_ENDS, "top-1 minus average", "sent up (MB)", "n"],
        rows,
        [f"{stamp_by_network(groups)}.",
         f"{_MEAN} Differences are paired by seed. MB = 10^6 bytes, all clients.",
         f"The paper gives {number(published, 2)} % and does not say what it does with the running statistics; chance "
         f"is {number(100 * sample[0].chance)} % for top-1 and {number(500 * sample[0].chance)} % for top-5.",
         "Test batches hold images of all labels: with `drop` accuracy depends on what else is in the batch.",
         *gaps_of_many(groups)],
        [row for group in groups.values() for row in _csv_rows(groups.artefact, group)],
    )  # fmt: skip


@table(
    "lb.extra-sensitivity", title="Table 1 at another learning rate and another local batch", runs=SENSITIVITY_RUNS,
    group="control",
)  # fmt: skip
def sensitivity(groups: Selection) -> Table:
    """Take the differences of table 1, AlexNet, at other settings (statements lb.c1, lb.c2)."""
    rows = []
    for ending in _SETTINGS:
        bsp, bsp_apart, fa, fa_apart = (
            groups[f"lb-{method}-alexnet-{split}{ending}"] for method in ("bsp", "fa") for split in SPLITS
        )
        pairs = ((fa, bsp), (fa_apart, bsp_apart), (bsp_apart, bsp), (fa_apart, fa))
        rows.append([
            f"{setting(bsp, 'lr'):g}", number(int(setting(bsp, "local_batch"))), with_interval(finals(bsp)),
            *(change(before, after) for before, after in pairs), str(len(bsp)),
        ])  # fmt: skip
    return Table(
        f"lb.extra-sensitivity: differences of table 1, {title(groups[SENSITIVITY_RUNS[0]][0])}",
        ["learning rate", "local batch", "BSP, IID (%)", "BSP − FA, IID", "BSP − FA, non-IID", "IID − non-IID, BSP",
         "IID − non-IID, FA", "n"],
        rows,
        [f"{stamp_by_network(groups)}.",
         f"{_MEAN} Top-1; differences in points, paired by seed. First row: the settings of lb.table1. The paper "
         "states neither learning rate nor local batch. Equal epochs: a larger local batch takes fewer steps.",
         *gaps_of_many(groups)],
        [row for group in groups.values() for row in _csv_rows(groups.artefact, group)],
    )  # fmt: skip


@table(
    "lb.extra-weights", title="Clients of unequal size: weights by images and equal weights", runs=(WEIGHTED, EQUAL),
    group="control",
)  # fmt: skip
def weights(groups: Selection) -> Table:
    """Compare federated averaging with weights in proportion to images and with equal weights (statement lb.c30)."""
    rows = []
    for run, group in groups.items():
        difference = ABSENT if run == WEIGHTED else change(groups[WEIGHTED], group)
        words = {"images": "in proportion to images", "equal": "equal"}[group[0].spec.get("weights", "images")]
        rows.append([words, *accuracy_cells(group), difference, str(len(group))])
    sample = groups[WEIGHTED]
    return Table(
        f"lb.extra-weights: {title(sample[0])}, federated averaging, labels a client: "
        f"{setting(sample, 'labels_per_client')}",
        ["weights", *_ENDS[:2], "top-1 minus weights by images", "n"],
        rows,
        [f"{stamp_by_network(groups)}.",
         f"{_MEAN} Differences are paired by seed. Clients hold different numbers of images, because classes do.",
         *gaps_of_many(groups)],
        [row for group in groups.values() for row in _csv_rows(groups.artefact, group)],
    )  # fmt: skip
