"""Figures and tables of the paper's performance models: lb.fig1, fig2, fig4, fig5, eq2, eq3 and one of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from repro.registry.labels import number
from repro.report import select, style
from repro.report.tables import ABSENT, Table
from repro.results import batch_costs, fits, links, measurements
from repro.results.records import Record

TIMED = ("lb-perf-resnet50", "lb-perf-vgg11", "lb-perf-alexnet", "lb-perf-vit")
FIG4_ACTIVATIONS = ("lb-memory-resnet18", "lb-perf-vgg11", "lb-perf-alexnet")
FIG4_BATCH = ("lb-perf-vgg11", "lb-perf-alexnet", "lb-memory-resnet18")
FIG4_RUNS = tuple(dict.fromkeys(FIG4_ACTIVATIONS + FIG4_BATCH))

SHOWN_BATCHES = (32, 256, 1024)
"""Rows of lb.eq2 and lb.eq3: batch sizes whose process is watched."""
LINK, EVERY = "LTE", (1, 10, 250)
"""The link of lb.eq2's synchronisation (pipelines/e2.yaml), and steps between two of them; 250: lb.table2."""
BUDGET = 2 * 2**30

_BLUE, _ORANGE, _BLACK = (style.METHODS[name].colour for name in ("large_batch", "federated", "central"))
_ARMS = (style.Style(_BLACK, "o", "-"), style.Style(_BLUE, "s", "-"), style.Style(_ORANGE, "^", "-"))


def _records(groups: select.Groups, runs: Sequence[str]) -> list[Record]:
    """One record of each run: a measurement is executed once."""
    return [groups[run][0] for run in runs]


def _stamp(records: Sequence[Record]) -> str:
    """Where and how the measurements of a figure were made."""
    first = records[0]
    machine = first.machine or {}
    sizes = ", ".join(
        f"{measurements.TITLES[r.spec['model']]} {r.spec['image_size']} px width {r.spec['width']}" for r in records
    )
    text = f"{first.profile} profile: {sizes}; {first.spec['precision']}; "
    text += f"{machine['device']}, threads: {machine['threads']}"
    text += "" if first.profile == "paper" else " – not the published scale"
    reduced = sorted({f"{r.data['name']}: {r.data['reduced']}" for r in records if r.data.get("reduced")})
    return text + "".join(f"; reduced data ({item})" for item in reduced)


def _noise(records: Sequence[Record]) -> str:
    """Repetitions, and how far one and the same step varies."""
    spec = records[0].spec
    each = ", ".join(
        f"{measurements.TITLES[r.spec['model']]} {number(100 * measurements.noise(r), 1)} %"
        for r in records
        if "probe" in r.series
    )
    least = min(measurements.busy(r) for r in records if "probe" in r.series)
    return (
        f"n = {spec['blocks']} blocks of {spec['repetitions']} steps for each size. Noise, half the quartile distance "
        f"of one and the same step over its median: {each}. The process had its core for at least "
        f"{number(100 * least)} % of the time."
    )


def _provenance(artefact: str, record: Record) -> dict[str, Any]:
    """Columns with which every row of these CSV files begins."""
    names = ("dataset", "model", "image_size", "width", "precision", "blocks", "repetitions")
    machine = record.machine or {}
    return (
        {"artefact": artefact, "profile": record.profile, "source": record.source, "run": record.run,
         "seed": record.seed, "fingerprint": record.fingerprint}
        | {name: record.spec.get(name) for name in names}
        | {"device": machine.get("device"), "threads": machine.get("threads"), "reduced": record.data.get("reduced")}
    )  # fmt: skip


def _batch_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """A log axis with a tick at each measured batch size."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=7)
    axes.set_xlabel("batch size (images)", fontsize=8)


def _band(axes: Axes, record: Record, part: str, look: style.Style, scale: float) -> Line2D:
    """Median of a part over batch sizes, with its quartiles as a band."""
    rows = measurements.rows(record)
    sizes = [row["batch"] for row in rows]
    low, middle, high = (scale * np.array([row[part][i] for row in rows]) for i in range(3))
    axes.fill_between(sizes, low, high, color=look.colour, alpha=0.2, linewidth=0)
    (line,) = axes.plot(sizes, middle, **look.kwargs())
    return line


# lb.fig1 -----------------------------------------------------------------


def fig1(groups: select.Groups, profile: str) -> Figure:
    """Compute and data-movement time of a step against the batch size (lb.c4)."""
    records = _records(groups, TIMED)
    figure, axes = style.grid(
        "lb.fig1  Compute and data-movement time of a step", _stamp(records),
        ["Medians with their quartiles as a band; both axes logarithmic. Data movement: gathering, augmenting and "
         "normalising a batch, and on a GPU the copy to it. Compute: forward and backward pass, without the update.",
         _noise(records)],
        panels=[measurements.title(record) for record in records],
    )  # fmt: skip
    for one, record in zip(axes, records, strict=True):
        lines = [
            _band(one, record, part, look, 1000) for part, look in zip(("compute", "movement"), _ARMS[1:], strict=True)
        ]
        for line, words in zip(lines, ("compute", "data movement"), strict=True):
            line.set_label(words)
        one.set_yscale("log")
        one.set_ylabel("time of a step (ms)", fontsize=8)
        _batch_axis(one, measurements.batches(record))
        style.legend(one, lines, 2)
    return figure


def fig1_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """Every part, batch size and its quartiles in seconds."""
    return [
        _provenance(artefact, record)
        | {"batch": row["batch"], "part": part, "n": row["n"]}
        | dict(zip(("lower_quartile_s", "median_s", "upper_quartile_s"), row[part], strict=True))
        | {"cpu_share": row["cpu_share"], "noise": measurements.noise(record)}
        for record in _records(groups, TIMED) for row in measurements.rows(record)
        for part in ("compute", "movement", "update", "step")
    ]  # fmt: skip


# lb.fig2 -----------------------------------------------------------------


def _epochs(record: Record, batch: int) -> np.ndarray:
    images = int(record.spec["train_images"])
    return batch_costs.epoch_seconds(measurements.samples(record, "step", batch), images, batch)


def fig2(groups: select.Groups, profile: str) -> Figure:
    """Distribution of the time of an epoch against the batch size (lb.c5)."""
    records = _records(groups, TIMED)
    images = number(int(records[0].spec["train_images"]))
    figure, axes = style.grid(
        "lb.fig2  Time of an epoch", _stamp(records),
        [f"An epoch is {images} images. Box: quartiles and median of 200 epochs; for each a block of the measurement "
         "is drawn, then its steps (data movement, forward and backward pass, update) from that block; whiskers: all. "
         "All are measured; synchronisation is not in them.",
         _noise(records)],
        panels=[measurements.title(record) for record in records], legend_rows=0,
    )  # fmt: skip
    for one, record in zip(axes, records, strict=True):
        sizes = measurements.batches(record)
        boxes = []
        for batch in sizes:
            low, first, middle, third, high = np.quantile(_epochs(record, batch), (0, 0.25, 0.5, 0.75, 1))
            boxes.append({"whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high, "fliers": []})
        one.bxp(boxes, positions=range(len(sizes)), widths=0.6, showfliers=False, medianprops={"color": _ORANGE})
        one.set_xticks(range(len(sizes)), [str(size) for size in sizes], fontsize=8)
        one.set_xlabel("batch size (images)", fontsize=8)
        one.set_ylabel("time of an epoch (s)", fontsize=8)
        one.set_ylim(bottom=0)
    return figure


def fig2_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """Quantiles of the epoch time at every batch size, in seconds."""
    names = ("least_s", "lower_quartile_s", "median_s", "upper_quartile_s", "most_s")
    return [
        _provenance(artefact, record)
        | {"batch": batch, "epoch_images": record.spec["train_images"]}
        | dict(zip(names, map(float, np.quantile(_epochs(record, batch), (0, 0.25, 0.5, 0.75, 1))), strict=True))
        for record in _records(groups, TIMED) for batch in measurements.batches(record)
    ]  # fmt: skip


# lb.fig4 -----------------------------------------------------------------


def fig4(groups: select.Groups, profile: str) -> Figure:
    """(a) activation memory; (b) batch memory measured and predicted by a line (lb.c7, lb.c8)."""
    records = _records(groups, FIG4_RUNS)
    figure, (left, right) = style.grid(
        "lb.fig4  Activation memory and batch memory", _stamp(records),
        ["(a) What autograd saves in a forward pass, counted; lines through the smallest and the largest batch. "
         f"(b) Growth of resident memory while the loader makes a batch, medians; dotted: line through the extremes "
         f"{measurements.LEAST_FITTED} and 1024 (judged between), dashed: least squares from "
         f"{measurements.LEAST_FITTED} up. "
         "The system counts whole pages of memory, which decide the reading of a batch of 1."],
        panels=["(a) activations", "(b) batch"], legend_rows=2,
    )  # fmt: skip
    handles = []
    for record, look in zip(_records(groups, FIG4_ACTIVATIONS), _ARMS, strict=True):
        sizes, held = measurements.bytes_of(record, "activations")
        line = fits.extremes(sizes, held)
        left.plot(sizes, [line(size) / 2**20 for size in sizes], color=look.colour, linewidth=1.2)
        (points,) = left.plot(sizes, np.array(held) / 2**20, color=look.colour, marker=look.marker, linestyle="none")
        points.set_label(measurements.TITLES[record.spec["model"]])
        handles.append(points)
    style.legend(left, handles, 3)
    handles = []
    for record, look in zip(_records(groups, FIG4_BATCH), _ARMS, strict=True):
        sizes, grown = measurements.bytes_of(record, "loader")
        if not sizes:
            continue
        for fit, dash in (("line, all sizes", "--"), ("line, extremes", ":")):
            model = fits.FITS[fit](*measurements.fitted(fit, sizes, grown))
            drawn = np.array([model(size) for size in sizes]) / 2**20
            right.plot(sizes, np.where(drawn > 0, drawn, np.nan), color=look.colour, linestyle=dash, linewidth=1.2)
        (points,) = right.plot(sizes, np.array(grown) / 2**20, color=look.colour, marker=look.marker, linestyle="none")
        points.set_label(measurements.DATASETS[record.spec["dataset"]])
        handles.append(points)
    style.legend(right, handles, 2)
    for one in (left, right):
        one.set_yscale("log")
        one.set_ylabel("memory (MiB)", fontsize=8)
        _batch_axis(one, measurements.batches(records[0]))
    return figure


def fig4_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """Activation, batch and loader bytes at every size, with both lines of the loader's memory and their errors."""
    made = []
    for record in _records(groups, FIG4_RUNS):
        sizes, grown = measurements.bytes_of(record, "loader")
        lines = {
            name: fits.FITS[name](*measurements.fitted(name, sizes, grown))
            for name in ("line, extremes", "line, all sizes") if len(sizes) > 3
        }  # fmt: skip
        for row in measurements.rows(record):
            predicted = {
                f"{name.split(', ')[1].replace(' ', '_')}_bytes": line(row["batch"]) for name, line in lines.items()
            }
            made.append(
                _provenance(artefact, record)
                | {"batch": row["batch"], "activation_bytes": row["activations"], "batch_held_bytes": row["batch_held"],
                   "loader_bytes": row["loader"]}
                | {name: predicted.get(name) for name in ("extremes_bytes", "all_sizes_bytes")}
            )  # fmt: skip
    return made


# lb.fig5 -----------------------------------------------------------------


def fig5(groups: select.Groups, profile: str) -> Figure:
    """Compute time measured, and predicted by the paper's line and by a line with a floor (lb.c9)."""
    records = _records(groups, TIMED)
    figure, axes = style.grid(
        "lb.fig5  Compute time, measured and predicted", _stamp(records),
        ["Points: medians of forward and backward pass, with quartiles. The line is fitted to batches from "
         f"{measurements.LEAST_FITTED} up, the line with a floor to all. Both axes logarithmic, so that a line with a "
         "constant part bends.",
         _noise(records)],
        panels=[measurements.title(record) for record in records], legend_rows=2,
    )  # fmt: skip
    for one, record in zip(axes, records, strict=True):
        rows = measurements.rows(record)
        sizes = [row["batch"] for row in rows]
        low, middle, high = (1000 * np.array([row["compute"][i] for row in rows]) for i in range(3))
        one.errorbar(sizes, middle, yerr=[middle - low, high - middle], color=_BLACK, fmt="o", capsize=2)
        handles = [Line2D([], [], color=_BLACK, marker="o", linestyle="none", label="measured")]
        cost = measurements.medians(record, "compute", sizes)
        dense = np.geomspace(sizes[0], sizes[-1], 60)
        for (name, words), colour, dash in zip(_DRAWN.items(), (_BLUE, _ORANGE), ("--", "-."), strict=True):
            model = fits.FITS[name](*measurements.fitted(name, sizes, cost))
            drawn = 1000 * np.array([model(size) for size in dense])
            handles += one.plot(dense, np.where(drawn > 0, drawn, np.nan), color=colour, linestyle=dash, label=words)
        one.set_yscale("log")
        one.set_ylim(bottom=low.min() / 2)
        one.set_ylabel("compute time (ms)", fontsize=8)
        _batch_axis(one, sizes)
        style.legend(one, handles, 2)
    return figure


_DRAWN = {"line, all sizes": "line", "roofline": "line with a floor"}


def fig5_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """Every fit at every batch size: predicted seconds and error, also where the size was held out of the fit."""
    made = []
    for record in _records(groups, TIMED):
        sizes = measurements.batches(record)
        known = measurements.medians(record, "compute", sizes)
        for name, fit in fits.FITS.items():
            fitted, cost = measurements.fitted(name, sizes, known)
            model = fit(fitted, cost)
            held_out = dict(zip(fitted, fits.held_out(fit, fitted, cost), strict=True))
            for batch in measurements.batches(record):
                (seconds,) = measurements.medians(record, "compute", [batch])
                made.append(
                    _provenance(artefact, record)
                    | {"fit": name, "batch": batch, "fitted": int(batch in fitted), "measured_s": seconds,
                       "predicted_s": model(batch), "error_percent": 100 * abs(model(batch) / seconds - 1),
                       "held_out_error_percent": 100 * held_out[batch] if batch in held_out else None}
                )  # fmt: skip
    return made


# lb.eq2 ------------------------------------------------------------------


def eq2(groups: select.Groups, profile: str) -> Table:
    """Eq. 2 term by term: the two local parts and their sum against the measured step, and synchronisation."""
    records = _records(groups, TIMED)
    link = next(each for each in links.load_links() if each.name == LINK)
    rows, csv_rows = [], []
    for record in records:
        for row in (row for row in measurements.rows(record) if row["batch"] in SHOWN_BATCHES):
            compute, movement, update, step = (row[part][1] for part in ("compute", "movement", "update", "step"))
            local, unseen = compute + movement + update, measurements.predicted_step(record, row["batch"])
            message = float(row["model"])
            synchronisation = link.seconds(message, message)
            means = [
                batch_costs.mean_step_seconds(compute + update, movement, synchronisation, every) for every in EVERY
            ]
            errors = [100 * (each / step - 1) for each in (local, unseen)]
            rows.append(
                [measurements.title(record), str(row["batch"]),
                 *(number(1000 * each, 2) for each in (compute, movement, update, step)),
                 *(f"{number(1000 * each, 2)} ({number(error, 1, sign=True)} %)"
                   for each, error in zip((local, unseen), errors, strict=True)),
                 number(synchronisation, 2), *(number(each, 3) for each in means)]
            )  # fmt: skip
            csv_rows.append(
                _provenance("lb.eq2", record)
                | {"batch": row["batch"], "n": row["n"], "compute_s": compute, "movement_s": movement,
                   "update_s": update, "measured_step_s": step, "sum_of_terms_s": local, "sum_error_percent": errors[0],
                   "held_out_step_s": unseen, "held_out_error_percent": errors[1],
                   "message_bytes": message, "assumed_link": LINK, "assumed_synchronisation_s": synchronisation}
                | {f"mean_step_every_{every}_s": mean for every, mean in zip(EVERY, means, strict=True)}
            )  # fmt: skip
    return Table(
        "lb.eq2: the time of a step, term by term",
        ["network and data", "batch", "t_c (ms)", "t_mov (ms)", "update (ms)", "step measured (ms)",
         "sum of terms (ms)", "predicted unseen (ms)", f"t_sync, assumed {LINK} (s)",
         *(f"mean step, H = {every}, t_sync assumed (s)" for every in EVERY)],
        rows,
        [f"{_stamp(records)}.", _noise(records),
         "t_c: forward and backward pass. The update of the optimiser, which Eq. 2 does not name, stands by itself and "
         "is part of the sum. Terms and whole step were timed in different steps; in brackets the error against the "
         "measured step.",
         "Predicted unseen: this batch was held out; t_c and t_mov on lines through the other sizes from "
         f"{measurements.LEAST_FITTED} up, the update as their median. At the ends of the range this extrapolates.",
         f"t_sync is assumed, not measured: all weights and buffers as float32, down and up over a link of the speed "
         f"of {LINK}, without latency."],
        csv_rows,
    )  # fmt: skip


# lb.eq3 ------------------------------------------------------------------


def eq3(groups: select.Groups, profile: str) -> Table:
    """Eq. 3 term by term, its sum against what the process really took, and the largest batch in 2 GiB."""
    records = _records(groups, TIMED)
    rows, csv_rows = [], []
    for record in records:
        watched = len(measurements.bytes_of(record, "peak")[0]) > 1
        held, most = int(record.spec["train_images"]), measurements.largest_batch(record, BUDGET) if watched else None
        # Watched processes hold so many images; a larger batch would need more, which no line through them knows.
        largest = ABSENT if most is None else number(most) if most <= held else f"> {number(held)}"
        by_equation = number(measurements.largest_by_terms(record, BUDGET))
        for row in (row for row in measurements.rows(record) if row["batch"] in SHOWN_BATCHES):
            predicted = measurements.predicted_terms(record, row["batch"])
            measured = {name: float(row[name]) for name in measurements.TERMS}
            grown = None if row["peak"] is None else float(row["peak"] - row["base"])
            cells = [f"{_mib(predicted[name])} / {_mib(measured[name])}" for name in measurements.TERMS]
            totals = sum(predicted.values()), sum(measured.values())
            rows.append(
                [measurements.title(record), str(row["batch"]), *cells, f"{_mib(totals[0])} / {_mib(totals[1])}",
                 *((ABSENT, ABSENT) if grown is None
                   else (_mib(grown), f"{number(100 * (totals[0] / grown - 1), 1, sign=True)} %")),
                 by_equation, largest]
            )  # fmt: skip
            for name in (*measurements.TERMS, "total"):
                ours, said = (measured | {"total": totals[1]})[name], (predicted | {"total": totals[0]})[name]
                csv_rows.append(
                    _provenance("lb.eq3", record)
                    | {"batch": row["batch"], "term": name, "predicted_bytes": said, "measured_bytes": ours,
                       "error_percent": 100 * (said / ours - 1) if ours else None,
                       "process_growth_bytes": grown if name == "total" else None,
                       "error_against_process_percent":
                           100 * (said / grown - 1) if name == "total" and grown is not None else None}
                )  # fmt: skip
    return Table(
        "lb.eq3: the memory of training, term by term (MiB, predicted / counted)",
        ["network and data", "batch", "M_model", "M_grad", "M_opt", "M_act", "M_batch", "M_total", "process grew by",
         "M_total against it", "largest batch in 2 GiB by Eq. 3", "largest batch in 2 GiB by processes"],
        rows,
        [f"{_stamp(records)}.",
         "Predicted: 4 bytes a parameter for weights, gradients and momentum; M_act and M_batch on the line through "
         "the smallest and the largest batch, so that those two are exact by construction.",
         "Process: peak resident memory of a child that trains three steps, less what its interpreter and libraries "
         "took before. Beyond the predicted M_total: kernels loaded on first use, gradients of activations while they "
         "pass back, workspaces, the training images.",
         f"Largest batch: where M_total, or the line through the two largest watched processes with their libraries, "
         f"reaches 2 GiB less a margin of {100 * batch_costs.MARGIN:g} %, which `repro advise` leaves, too."],
        csv_rows,
    )  # fmt: skip


def _mib(count: float) -> str:
    return number(count / 2**20, 1)


# Ours --------------------------------------------------------------------


def model_fits(groups: select.Groups, profile: str) -> Table:
    """Errors of all fits of compute time and loader memory, at sizes that a fit has not seen (lb.c8, lb.c9)."""
    rows, csv_rows = [], []
    cases: list[tuple[Record, str, list[int], list[float]]] = []
    for record in _records(groups, TIMED):
        sizes = measurements.batches(record)
        cases.append((record, "compute", sizes, measurements.medians(record, "compute", sizes)))
    for record in _records(groups, FIG4_BATCH):
        sizes, grown = measurements.bytes_of(record, "loader")
        if len(sizes) > 3:
            cases.append((record, "loader", sizes, grown))
    for record, quantity, every, costs in cases:
        cells = []
        for name, fit in fits.FITS.items():
            sizes, cost = measurements.fitted(name, every, costs)
            if min(cost) <= 0:  # a batch within pages that the process has already
                cells.append(ABSENT)
                continue
            inside, outside = fits.errors(fit(sizes, cost), sizes, cost), fits.held_out(fit, sizes, cost)
            cells.append(f"{number(100 * float(np.median(outside)), 1)} ({number(100 * float(outside.max()), 1)})")
            csv_rows += [
                _provenance("lb.extra-fits", record)
                | {"quantity": quantity, "fit": name, "batch": size, "measured": each, "error_percent": 100 * a,
                   "held_out_error_percent": 100 * b}
                for size, each, a, b in zip(sizes, cost, inside.tolist(), outside.tolist(), strict=True)
            ]  # fmt: skip
        what = {"compute": "compute time", "loader": "batch memory"}[quantity]
        rows.append([f"{what}, {measurements.title(record)}", *cells])
    records = _records(groups, tuple(groups))
    return Table(
        "lb.extra-fits: errors of the fits at sizes they have not seen, in percent: median (largest)",
        ["quantity", *fits.FITS],
        rows,
        [f"{_stamp(records)}.",
         "Each size is predicted from all others; leaving out an end of the range means to extrapolate. Lines from "
         f"batch {measurements.LEAST_FITTED} up, the roofline with a batch of 1 as well.",
         f"{ABSENT}: a reading of the system that is not above 0, of which there is no error in percent."],
        csv_rows,
    )  # fmt: skip
