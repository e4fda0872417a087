"""Training with a teacher: what large batches gain by one, beside controls that know no direction (paper, Eq. 5)."""

from __future__ import annotations

import numpy as np

from repro.registry.labels import number
from repro.report import layout
from repro.report.artefact import figure
from repro.report.intervals import interval
from repro.report.layout import Figure
from repro.report.lb.remedies import DASHED, END, SHARP, draw_arm, mean_lines, sharpness_axis
from repro.report.lb.runs import iterations, lb_origin
from repro.report.notes import gaps_of_many, stamp_by_network
from repro.report.rows import Row, Rows, span
from repro.report.selection import Selection, finals, recorded
from repro.results.records import Record

SMALL, PLAIN, LONGER = "lb-taught-small", "lb-taught-plain", "lb-taught-longer"
TAUGHT = {
    SMALL: "batch 32",
    PLAIN: "batch 1024",
    LONGER: "batch 1024, longer",
    "lb-taught-matching": "norm matching",
    "lb-taught-isotropic": "isotropic noise",
    "lb-taught-autoencoder": "autoencoder + input",
    "lb-taught-layers": "factor by tensor",
    "lb-taught-conditional": "conditional noise",
}
"""Runs from top to bottom, in words: without a teacher, controls, teachers."""


def images_used(record: Record) -> int:
    """Training images whose gradients a run took, as often as it took them: those of its steps and of its pairs."""
    return round(record.rows[-1]["epoch"] * record.spec["train_images"] + further_images(record)) if record.rows else 0


def further_images(record: Record) -> float:
    """Images of the pairs of gradients on which a run trained its teacher; 0 without one."""
    return sum(record.series.get("further_images", []))


def taught_rows(chosen: Selection) -> list[Row]:
    """One row per run and seed: accuracy at the end, images of steps and pairs, sharpness."""
    rows = []
    for run, group in chosen.items():
        sharp = [recorded(record, "hessian_top_eigenvalue") for record in group]
        above = [np.log(value) for value in sharp if value is not None and value > 0]
        same = span(finals(group), END) | dict(
            zip(SHARP, np.exp(interval(above)).tolist() if above else (None,) * 3, strict=True)
        )
        for record, end, eigenvalue in zip(group, finals(group), sharp, strict=True):
            rows.append(
                lb_origin(chosen.artefact, record, len(group))
                | {"teacher": TAUGHT[run], "imputed_chance": int(record.status == "diverged"), "top1_percent": end}
                | {"images": images_used(record), "images_of_pairs": round(further_images(record))}
                | {"top_eigenvalue": eigenvalue}
                | same
            )
    return rows


@figure(
    "lb.extra-teacher", title="Training with a teacher", runs=tuple(TAUGHT), group="control", rows=taught_rows,
    details="Each run has the learning rate of a grid of equal size on held-out images.",
)  # fmt: skip
def taught(groups: Selection, rows: Rows) -> Figure:
    """Draw accuracy and sharpness by teacher (statement lb.c21)."""
    pairs = max((row["images_of_pairs"] for row in rows), default=0)
    notes = [
        "Small dots: seeds; markers: mean, of sharpness the geometric one, with its 95 % Student-t interval, cut at 0 "
        "and 100 % (arrows); lines: means of batch 32 (solid) and 1024 (dashed), no teacher. Left: at the end (last "
        f"tenth), after {number(iterations(groups[PLAIN]))} iterations of batch 1024; teachers took pairs of "
        f"gradients of {number(pairs)} images besides; longer: as many images as steps and pairs together. Right: top "
        "eigenvalue of the Hessian of the training loss, at the end.",
        *gaps_of_many(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("lb.extra-teacher  Training with a teacher", stamp_by_network(groups), notes),
        panels=("accuracy", "sharpness"), legend_rows=0, share_y=False,
    )  # fmt: skip
    figure.subplots_adjust(wspace=0.12)
    for axes, (name, ends) in zip(panels, (("top1_percent", END), ("top_eigenvalue", SHARP)), strict=True):
        for place, run in enumerate(TAUGHT):
            draw_arm(axes, -place, rows.where(run=run), name, ends, groups[run])
        mean_lines(axes, rows, ends, {SMALL: "-", PLAIN: DASHED})
        axes.set_ylim(-len(TAUGHT) + 0.4, 0.6)
        axes.set_yticks([-place for place in range(len(TAUGHT))], list(TAUGHT.values()), fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
    panels[1].tick_params(axis="y", labelleft=False)
    panels[0].set_xlabel("accuracy, top-1 (%)", fontsize=8)
    sharpness_axis(panels[1], rows)
    return figure
