"""Heat maps of which client holds images of which class: what the partition of a run gives its seed.

The partition is made again from the labels beside the manifest, by the code that made it for the run. No image is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro.data import labels, partition
from repro.files import read_json
from repro.randomness import generator
from repro.report import layout
from repro.report.layout import Axes, Figure
from repro.report.rows import Row, Rows, origin
from repro.report.selection import Selection, setting
from repro.results.records import Record

_FOLDER = "data/manifests"
_COLUMNS = ("dirichlet_alpha", "drop_uncovered")
_FEW = 12  # names or numbers of which all fit beside a panel
_RIGHT, _TICKS = 0.85, (0, 1, 5, 10, 25, 50, 100)  # inches for the colour bar, and its percent
NOTE = (
    "Share of a {who}'s training images by class, as the partition gives them to seed {seed}; white: none, and colours "
    "follow the square root."
)


def images_by_class(record: Record, root: Path) -> np.ndarray:
    """(clients, classes) training images that each client of a run has, by label.

    Raises:
        ReproError: the labels of its data set are absent or damaged.
    """
    spec = record.spec
    known = labels.read(spec["dataset"], root / _FOLDER)
    targets = known[labels.order(spec["dataset"], len(known))[: spec["train_images"]]]
    shards = partition.make(
        spec["partition"],
        targets,
        spec["workers"],
        generator(record.seed, "partition"),
        labels_per_client=spec.get("labels_per_client"),
        alpha=spec.get("dirichlet_alpha"),
        drop_uncovered=bool(spec.get("drop_uncovered")),
        batches=spec.get("local_batches"),
    )
    return np.array([np.bincount(targets[shard], minlength=known.max() + 1) for shard in shards])


def shard_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed and client, with its images of each class, in the order of labels."""
    return [
        origin(chosen.artefact, record, len(group), _COLUMNS)
        | {"client": client, "images": int(found.sum()), "images_by_class": " ".join(map(str, found))}
        for group in chosen.values()
        for record in group
        for client, found in enumerate(images_by_class(record, chosen.root), 1)
    ]


def draw(
    groups: Selection, rows: Rows, texts: layout.Texts, panels: Mapping[str, str], *, who: str = "client",
    height: float = 2.6,
) -> Figure:  # fmt: skip
    """A panel a run, three in a row where there are six.

    Args:
        groups, rows: what is drawn; of each run its first seed.
        texts: around the axes.
        panels: titles by run, of one line or two.
        who: holds the images.
        height: of a row of panels in inches.
    """
    across, titles = 3 if len(panels) == 6 else len(panels), list(panels.values())
    figure, axes = layout.rows(
        texts, panels=titles[:across], heights=[height] * (len(panels) // across), right=_RIGHT, gap=1.4,
        legend_rows=int("\n" in titles[0]),
    )  # fmt: skip
    for one, (run, title) in zip([one for row in axes for one in row], panels.items(), strict=True):
        one.set_title(title, pad=5)
        image = _draw(one, rows.where(run=run).seeds()[0], _class_names(groups, run))
    for row in axes:
        row[0].set_ylabel(who)
    for last in axes[-1]:
        last.set_xlabel("class")
    inches = axes[0][-1].get_position().width * figure.get_figwidth()
    bar = axes[0][-1].inset_axes((1 + 0.08 / inches, 0, 0.13 / inches, 1))
    figure.colorbar(image, cax=bar, ticks=_TICKS).set_label(f"images of the {who} (%)", fontsize=8)
    bar.tick_params(labelsize=7)
    return figure


def _class_names(groups: Selection, run: str) -> Sequence[str]:
    stored = read_json(groups.root / _FOLDER / f"{setting(groups[run], 'dataset')}.json")
    return [name.replace("_", " ") for name in stored["classes"]]


def _draw(axes: Axes, rows: Rows, names: Sequence[str]) -> Any:
    """One partition; returns the cells, whose colours a colour bar explains."""
    import seaborn
    from matplotlib.colors import PowerNorm

    images = np.array([row["images_by_class"].split() for row in rows], float)
    shares = 100 * images / images.sum(axis=1, keepdims=True)
    clients, classes = shares.shape
    seaborn.heatmap(
        shares, mask=shares == 0, norm=PowerNorm(0.5, 0, 100), cmap="cividis_r", cbar=False, ax=axes,
        linewidths=0.4 if classes <= _FEW else 0, linecolor="white", xticklabels=False, yticklabels=False,
        rasterized=classes > _FEW,
    )  # fmt: skip
    axes.grid(False)
    for place, count, texts in ((axes.xaxis, classes, names), (axes.yaxis, clients, range(1, clients + 1))):
        shown = range(0, count, -(-count // _FEW))
        place.set_ticks([at + 0.5 for at in shown], [str(texts[at]) for at in shown], fontsize=6.5, rotation=0)
    axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(True)
    return axes.collections[0]


def title(group: Sequence[Record]) -> str:
    """Kind of a partition in words."""
    if setting(group, "partition") == "dirichlet":
        return f"alpha = {setting(group, 'dirichlet_alpha'):g}"
    per_client = setting(group, "labels_per_client")
    return "IID" if per_client is None else f"{per_client} label{'s' if per_client > 1 else ''} a client"
