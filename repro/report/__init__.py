"""Figures and tables from records: every artefact of the sources that are built, by id.

No artefact is drawn from anything but records, and nothing here trains. Importing this package does not import torch;
drawing e2.table4 does, for it counts the parameters of networks.
``figure`` and ``table`` give objects for a notebook; ``render`` writes the files that the page and print use.

>>> sorted(name for name, item in ARTEFACTS.items() if item.source == "e2" and item.published and item.kind == "figure")
['e2.fig1', 'e2.fig2']
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from repro.errors import ReproError
from repro.files import write_atomic
from repro.registry import specs
from repro.report import (
    e1,
    e2,
    e2_tables,
    e3,
    e3_extras,
    e3_tables,
    lb_extras,
    lb_performance,
    lb_shares,
    lb_training,
    lb_training_tables,
    select,
    sidecar,
    style,
    tables,
)
from repro.report.tables import Table
from repro.results.records import Record

__all__ = ["ARTEFACTS", "Artefact", "Table", "figure", "ids", "outputs", "present", "render", "table"]


@dataclass(frozen=True)
class Artefact:
    """One figure or table.

    Attributes:
        source: post or paper it belongs to.
        kind: ``figure`` (png, svg, csv, json) or ``table`` (csv, md, tex, json).
        group: ``artefact`` where it needs the source's own runs only; ``control`` where it needs grids or control
            runs, so that it is drawn with these and absent until then.
        runs: run ids it needs, in which ``*`` stands for anything.
        draw: (records by run, profile) -> Figure or Table.
        title: one line for lists and for the metadata of the files.
        published: False for companions of ours that the source does not have.
        columns: fields of a spec that the CSV of a figure has besides the usual ones.
        rows: (artefact id, records by run) -> rows of the CSV of a figure, where it draws anything but test accuracy
            against epochs.
    """

    source: str
    kind: Literal["figure", "table"]
    group: Literal["artefact", "control"]
    runs: tuple[str, ...]
    draw: Callable[[select.Groups, str], Figure | Table]
    title: str
    published: bool = True
    columns: tuple[str, ...] = ()
    rows: Callable[[str, select.Groups], list[dict[str, Any]]] | None = None


def _performance(
    kind: Literal["figure", "table"], runs: tuple[str, ...], draw: Callable[[select.Groups, str], Figure | Table],
    title: str, **more: Any,
) -> Artefact:  # fmt: skip
    """An artefact of the paper's performance models, drawn from measurements."""
    return Artefact("lb", kind, "artefact", runs, draw, title, **more)


_DEFINED: dict[str, Artefact] = {
    "e1.table1": Artefact(
        "e1", "table", "artefact", tables.TABLE_RUNS, tables.table1, "Parameters of the three methods"
    ),
    "e1.fig1": Artefact("e1", "figure", "artefact", e1.FIG1_RUNS, e1.fig1, "Test accuracy against epochs"),
    "e1.table2": Artefact(
        "e1",
        "table",
        "artefact",
        tables.TABLE_RUNS,
        tables.table2,
        "Rounds and bytes to the target accuracy",
    ),
    "e1.extra-skew": Artefact(
        "e1",
        "figure",
        "artefact",
        e1.SKEW_RUNS,
        e1.skew,
        "IID shards against two labels per client",
        published=False,
    ),
    "e1.extra-skew-gn": Artefact(
        "e1",
        "figure",
        "control",
        e1.SKEW_GN_RUNS,
        e1.skew_gn,
        "IID shards against two labels per client, with GroupNorm",
        published=False,
    ),
    "e1.extra-convergence": Artefact(
        "e1",
        "figure",
        "artefact",
        e1.BATCH_RUNS + e1.SYNC_RUNS,
        e1.convergence,
        "Accuracy per epoch by global batch and by synchronisation",
        published=False,
    ),
    "e1.extra-devices": Artefact(
        "e1",
        "figure",
        "artefact",
        e1.DEVICES_RUNS,
        e1.devices,
        "Federated averaging by the number of devices",
        published=False,
        columns=("momentum", "dirichlet_alpha"),
    ),
    "e1.extra-momentum": Artefact(
        "e1",
        "figure",
        "artefact",
        e1.MOMENTUM_RUNS,
        e1.momentum,
        "Momentum in centralised training and in federated averaging",
        published=False,
        columns=("momentum", "dirichlet_alpha"),
    ),
    "e1.extra-dirichlet": Artefact(
        "e1",
        "figure",
        "artefact",
        e1.DIRICHLET_RUNS,
        e1.dirichlet,
        "Federated averaging by the unevenness of the shards",
        published=False,
        columns=("momentum", "dirichlet_alpha"),
    ),
    "e1.extra-grid": Artefact(
        "e1",
        "figure",
        "control",
        e1.GRID_RUNS,
        e1.grid,
        "Held-out accuracy against the learning rate",
        published=False,
    ),
    "e2.table1": Artefact(
        "e2",
        "table",
        "artefact",
        e2_tables.METHOD_RUNS + e2_tables.RESNET18_RUNS[:1],
        e2_tables.table1,
        "Links, and seconds that a round costs over them",
    ),
    "e2.table2": Artefact(
        "e2", "table", "artefact", e2_tables.METHOD_RUNS, e2_tables.table2, "Parameters of the experiments"
    ),
    "e2.fig1": Artefact(
        "e2",
        "figure",
        "artefact",
        e2.FIG1_RUNS,
        e2.fig1,
        "Large batch with compressed gradients: accuracy and learning rate against epochs",
        columns=e2.COLUMNS,
    ),
    "e2.table3": Artefact(
        "e2", "table", "artefact", e2_tables.TABLE3_RUNS, e2_tables.table3, "Large-batch accuracy at the end"
    ),
    "e2.fig2": Artefact(
        "e2",
        "figure",
        "artefact",
        e2.FIG2_RUNS,
        e2.fig2,
        "Federated averaging with quantised deltas: accuracy against epochs",
        columns=e2.COLUMNS,
    ),
    "e2.table4": Artefact(
        "e2", "table", "artefact", e2_tables.PAYLOAD_RUNS, e2_tables.table4, "Parameters of convolutions and others"
    ),
    "e2.table5": Artefact("e2", "table", "artefact", e2_tables.PAYLOAD_RUNS, e2_tables.table5, "Compression rates"),
    "e2.table6": Artefact(
        "e2", "table", "artefact", e2_tables.TOTAL_RUNS, e2_tables.table6, "Total data sent to the server"
    ),
    "e2.extra-cosine": Artefact(
        "e2",
        "figure",
        "artefact",
        e2.COSINE_RUNS,
        e2.cosine,
        "Reduce on plateau against cosine annealing, with and without DGC",
        published=False,
        columns=e2.COLUMNS,
    ),
    "e2.extra-cut": Artefact(
        "e2",
        "figure",
        "artefact",
        e2.CUT_RUNS,
        e2.cut,
        "Learning rate and accuracy where a plateau cuts the rate, with and without DGC",
        published=False,
        columns=(*e2.COLUMNS, "weight_decay"),
    ),
    "e2.extra-weights": Artefact(
        "e2",
        "figure",
        "artefact",
        e2.WEIGHTS_RUNS,
        e2.weights,
        "Quantised weights against quantised gradients",
        published=False,
        columns=e2.COLUMNS,
    ),
    "e3.fig1": Artefact(
        "e3",
        "figure",
        "artefact",
        e3.FIG1_RUNS,
        e3.fig1,
        "What normalisations average over, and statistics of one device against all",
        rows=e3.layer_rows,
    ),
    "e3.fig2": Artefact(
        "e3",
        "figure",
        "artefact",
        e3.FIG2_RUNS,
        e3.fig2,
        "Three networks on IID and on label-skewed data",
        columns=e3.COLUMNS,
    ),
    "e3.fig3": Artefact(
        "e3",
        "figure",
        "artefact",
        e3.FIG3_RUNS,
        e3.fig3,
        "GroupNorm, LayerNorm and InstanceNorm by batch",
        columns=e3.COLUMNS,
    ),
    "e3.fig4": Artefact(
        "e3",
        "figure",
        "artefact",
        e3.FIG4_RUNS,
        e3.fig4,
        "Fixup by batch, and where it diverged",
        columns=e3.COLUMNS,
    ),
    "e3.table1": Artefact(
        "e3",
        "table",
        "artefact",
        e3_tables.TABLE1_RUNS,
        e3_tables.table1,
        "Accuracy at the end of training by batch and warm-up",
    ),
    "e3.fig5": Artefact(
        "e3",
        "figure",
        "artefact",
        e3.FIG5_RUNS,
        e3.fig5,
        "Federated averaging with GroupNorm by synchronisation",
        columns=e3.COLUMNS,
    ),
    "e3.extra-collapse": Artefact(
        "e3",
        "figure",
        "artefact",
        e3_extras.COLLAPSE_RUNS,
        e3_extras.collapse,
        "Why BatchNorm collapses on label-skewed data",
        published=False,
        rows=e3_extras.collapse_rows,
    ),
    "e3.extra-divergence": Artefact(
        "e3",
        "figure",
        "artefact",
        e3_extras.DIVERGENCE_RUNS,
        e3_extras.divergence,
        "Norm of the gradient of Fixup by learning rate and warm-up",
        published=False,
        rows=e3_extras.norm_rows,
    ),
    "e3.extra-regularisation": Artefact(
        "e3",
        "figure",
        "artefact",
        e3_extras.REGULARISATION_RUNS,
        e3_extras.regularisation,
        "Training against test accuracy of BatchNorm and GroupNorm",
        published=False,
        rows=e3_extras.regularisation_rows,
    ),
    "e3.extra-forgetting": Artefact(
        "e3",
        "figure",
        "artefact",
        e3.SKEWED_RUNS,
        e3_extras.forgetting,
        "Accuracy by class of devices before and after averaging",
        published=False,
        rows=e3_extras.forgetting_rows,
    ),
    "e3.extra-buffers": Artefact(
        "e3",
        "table",
        "control",
        e3_tables.BUFFERS_RUNS,
        e3_tables.buffers,
        "Running statistics of BatchNorm averaged, local or dropped",
        published=False,
    ),
    "e3.extra-momentum": Artefact(
        "e3",
        "table",
        "control",
        e3_tables.MOMENTUM_RUNS,
        e3_tables.momentum,
        "Federated averaging with local momentum that restarts or is averaged",
        published=False,
    ),
    "e3.extra-initialisation": Artefact(
        "e3",
        "figure",
        "control",
        e3_extras.INITIALISATION_RUNS,
        e3_extras.initialisation,
        "GroupNorm with zero and unit last scale, and no normalisation",
        published=False,
        rows=e3_extras.initialisation_rows,
    ),
    "lb.fig1": _performance(
        "figure", lb_performance.TIMED, lb_performance.fig1, "Compute and data-movement time of a step",
        rows=lb_performance.fig1_rows,
    ),
    "lb.fig2": _performance(
        "figure", lb_performance.TIMED, lb_performance.fig2, "Time of an epoch", rows=lb_performance.fig2_rows
    ),
    "lb.fig4": _performance(
        "figure", lb_performance.FIG4_RUNS, lb_performance.fig4, "Activation memory and batch memory",
        rows=lb_performance.fig4_rows,
    ),
    "lb.fig5": _performance(
        "figure", lb_performance.TIMED, lb_performance.fig5, "Compute time, measured and predicted",
        rows=lb_performance.fig5_rows,
    ),
    "lb.eq2": _performance("table", lb_performance.TIMED, lb_performance.eq2, "Time of a step, term by term"),
    "lb.eq3": _performance("table", lb_performance.TIMED, lb_performance.eq3, "Memory of training, term by term"),
    "lb.extra-fits": _performance(
        "table", lb_performance.TIMED + lb_performance.FIG4_RUNS, lb_performance.model_fits,
        "Errors of the fits at sizes they have not seen", published=False,
    ),
    "lb.extra-shares": _performance(
        "table", lb_shares.SHARES_RUNS, lb_shares.shares, "Unequal devices: time of a round, and accuracy",
        published=False,
    ),
    "lb.table1": Artefact(
        "lb", "table", "artefact", lb_training_tables.TABLE1_RUNS, lb_training_tables.table1,
        "Accuracy of bulk-synchronous training and federated averaging",
    ),
    "lb.table2": Artefact(
        "lb", "table", "artefact", lb_training_tables.TABLE2_RUNS, lb_training_tables.table2,
        "Accuracy of federated averaging by synchronisation",
    ),
    "lb.fig3": Artefact(
        "lb", "figure", "artefact", lb_training.FIG3_RUNS, lb_training.fig3, "Test accuracy by batch size",
        rows=lb_training.fig3_rows,
    ),
    "lb.fig6": Artefact(
        "lb", "figure", "artefact", lb_training.FIG6_RUNS, lb_training.fig6, "Gradient norm in early training",
        rows=lb_training.fig6_rows,
    ),
    "lb.fig7": Artefact(
        "lb", "figure", "artefact", lb_training.FIG7_RUNS, lb_training.fig7, "Step-up factors at threshold 0.5",
        rows=lb_training.step_rows,
    ),
    "lb.fig8": Artefact(
        "lb", "figure", "artefact", lb_training.FIG8_RUNS, lb_training.fig8, "Step-up factors at threshold 0.8",
        rows=lb_training.step_rows,
    ),
    "lb.extra-low-rate": Artefact(
        "lb", "figure", "artefact", lb_extras.LOW_RATE_RUNS, lb_extras.low_rate,
        "Step-up factors at two learning rates", published=False, rows=lb_training.end_rows,
    ),
    "lb.extra-low-gating": Artefact(
        "lb", "figure", "control", lb_extras.LOW_GATING_RUNS, lb_extras.low_gating,
        "What the gate is worth at the second learning rate", published=False, rows=lb_training.end_rows,
    ),
    "lb.extra-training": Artefact(
        "lb", "figure", "artefact", lb_extras.TRAINING_RUNS, lb_extras.training,
        "Training and test accuracy by batch size", published=False, rows=lb_extras.training_rows,
    ),
    "lb.extra-sharpness": Artefact(
        "lb", "figure", "artefact", lb_training.FIG3_RUNS, lb_training.sharpness, "Sharpness of minima by batch size",
        published=False, rows=lb_training.sharpness_rows,
    ),
    "lb.extra-equation": Artefact(
        "lb", "figure", "control", lb_training.EQUATION_RUNS, lb_training.equation,
        "Two readings of the step function", published=False, rows=lb_training.end_rows,
    ),
    "lb.extra-gating": Artefact(
        "lb", "figure", "control", lb_training.GATING_RUNS, lb_training.gating, "What the gate is worth",
        published=False, rows=lb_training.end_rows,
    ),
    "lb.extra-buffers": Artefact(
        "lb", "table", "control", lb_training_tables.BUFFERS_RUNS, lb_training_tables.buffers,
        "One label per client: running statistics averaged, local or dropped", published=False,
    ),
    "lb.extra-sensitivity": Artefact(
        "lb", "table", "control", lb_training_tables.SENSITIVITY_RUNS, lb_training_tables.sensitivity,
        "Table 1 at another learning rate and another local batch", published=False,
    ),
}  # fmt: skip

#: What can be drawn, by id: the artefacts of the sources that have specs.
ARTEFACTS = {name: item for name, item in _DEFINED.items() if item.source in specs.SOURCES}


def _artefact(artefact_id: str, kind: str | None = None) -> Artefact:
    known = [name for name, item in ARTEFACTS.items() if kind in (None, item.kind)]
    if artefact_id not in known:
        raise ReproError(f"unknown {kind or 'artefact'} {artefact_id!r}; one of {', '.join(known)} was expected")
    return ARTEFACTS[artefact_id]


def _draw(artefact_id: str, records: Iterable[Record]) -> tuple[Figure | Table, select.Groups]:
    artefact = ARTEFACTS[artefact_id]
    groups = select.group(artefact_id, records, artefact.runs)
    profile = next(iter(groups.values()))[0].profile
    with style.context():
        return artefact.draw(groups, profile), groups


def figure(artefact_id: str, records: Iterable[Record]) -> Figure:
    """The figure ``artefact_id`` drawn from ``records`` (other runs among them are left aside).

    Raises:
        ReproError: no such figure, or its records are missing, doubled or of mixed profiles.
    """
    _artefact(artefact_id, "figure")
    drawn, _ = _draw(artefact_id, records)
    assert isinstance(drawn, Figure)
    return drawn


def table(artefact_id: str, records: Iterable[Record]) -> Table:
    """The table ``artefact_id`` made from ``records``; shows itself as Markdown in a notebook.

    Raises:
        ReproError: no such table, or its records are missing, doubled or of mixed profiles.
    """
    _artefact(artefact_id, "table")
    made, _ = _draw(artefact_id, records)
    assert isinstance(made, Table)
    return made


def outputs(artefact_id: str) -> tuple[str, ...]:
    """File names that ``render`` writes for ``artefact_id``.

    >>> outputs("e1.table2")
    ('e1.table2.csv', 'e1.table2.md', 'e1.table2.tex', 'e1.table2.json')
    """
    endings = {"figure": ("png", "svg", "csv", "json"), "table": ("csv", "md", "tex", "json")}[
        _artefact(artefact_id).kind
    ]
    return tuple(f"{artefact_id}.{ending}" for ending in endings)


def ids(source: str, group: str) -> list[str]:
    """Ids of the figures and tables of ``source`` that are drawn together with one group of its runs.

    >>> ids("e1", "control")
    ['e1.extra-skew-gn', 'e1.extra-grid']
    """
    return [name for name, item in ARTEFACTS.items() if (item.source, item.group) == (source, group)]


def present(profile: str, root: Path = Path()) -> set[str]:
    """Ids whose files all lie under ``figures/<profile>``."""
    folder = root / "figures" / profile
    return {name for name in ARTEFACTS if all((folder / file).exists() for file in outputs(name))}


def render(
    artefact_id: str, records: Iterable[Record], out_dir: Path, *, profile: str, root: Path = Path()
) -> list[Path]:
    """Write all files of one artefact into ``out_dir``, each atomically, and return their paths.

    The same records with the same provenance (of which machine and versions are read, from ``root``) give the same
    bytes.

    Raises:
        ReproError: no such artefact, records missing or doubled for ``profile``, or a file is not writable.
    """
    artefact = _artefact(artefact_id)
    records = [r for r in records if r.profile == profile]
    drawn, groups = _draw(artefact_id, records)
    behind = sidecar.content(artefact_id, artefact.title, artefact.source, profile, outputs(artefact_id), groups, root)
    content: dict[str, str | bytes]
    if isinstance(drawn, Table):
        content = {"csv": drawn.csv(), "md": drawn.markdown(), "tex": drawn.latex()}
    else:
        title = f"{artefact_id}: {artefact.title}"
        content = {kind: style.to_bytes(drawn, kind, title, sidecar.brief(behind)) for kind in ("png", "svg")}
        if artefact.rows is not None:
            rows = artefact.rows(artefact_id, groups)
        else:
            rows = select.curve_rows(artefact_id, groups, artefact.columns)
        content["csv"] = select.csv_text(rows)
    content["json"] = sidecar.text(behind)
    paths = []
    for name in outputs(artefact_id):
        path = Path(out_dir) / name
        write_atomic(path, content[name.rpartition(".")[2]])
        paths.append(path)
    return paths
