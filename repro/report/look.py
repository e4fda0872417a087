"""How each method, network and setting looks, the same in every figure.

Each method has one colour, one marker and one line style everywhere. The three colours lie at CIE lightness
9, 35 and 61, so that they differ in grey print too, stay apart under simulated protanopia, deuteranopia and
tritanopia, and have at least 3:1 contrast on white (WCAG 2.2, 1.4.11). Arms that vary one thing of a method
keep its line style and take a shade or a marker of their own. What compresses the messages of a method keeps its hue
and takes shade, marker and line style of its own, because such curves lie on top of each other; of the large batch, the
largest values alone, DGC without its correction and rounded weights have hues of their own. Post 3 compares
networks, not methods: there each normalisation has a colour, the split of the data or the batch a marker and a shade.
The paper varies the batch (from the centralised black to the large batch's blue) and the step-up factor, which grows
darker with the factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from repro.results.records import Record

GREY = "#555555"
"""Of reference lines."""
DOTTED = (0, (1, 2))
"""Of references: chance, targets."""
PUBLISHED = (0, (7, 2))
"""Of what a source published, which is grey."""


@dataclass(frozen=True)
class Style:
    """How one arm is drawn: a hexadecimal sRGB colour, a matplotlib marker and line style."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]
    filled: bool = True

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot``."""
        face = self.colour if self.filled else "white"
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face}


#: Keyed by the ``method`` of a spec.
METHODS = {
    "central": Style("#1A1A1A", "o", "-"),
    "large_batch": Style("#00539C", "s", (0, (5.0, 1.5))),
    "federated": Style("#DB7600", "^", (0, (5.0, 1.2, 1.2, 1.2))),
}

#: Arms that change one thing of their method, keyed by run.
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "e1-large-batch-x2": ("large_batch", {"colour": "#6A51A3", "marker": "D"}),
    "e1-large-batch-2labels": ("large_batch", {"filled": False}),
    "e1-federated-2epochs": ("federated", {"colour": "#A85A00", "marker": "v"}),
    "e1-federated-4epochs": ("federated", {"colour": "#6B3900", "marker": "P"}),
    "e1-federated-32workers": ("federated", {"colour": "#A85A00", "marker": "v"}),
    "e1-federated-384workers": ("federated", {"colour": "#4A2700", "marker": "P"}),
    "e1-central-momentum": ("central", {"colour": "#6F6F6F", "filled": False}),
    "e1-federated-momentum": ("federated", {"colour": "#8C4A00", "filled": False}),
    "e1-federated-alpha10": ("federated", {"colour": "#C26200", "marker": "v"}),
    "e1-federated-alpha1": ("federated", {"colour": "#8C4A00", "marker": "D"}),
    "e1-federated-alpha0_1": ("federated", {"colour": "#3D2000", "marker": "P"}),
    "e1-federated-2labels": ("federated", {"filled": False}),
}
ARMS = {run: replace(METHODS[method], **change) for run, (method, change) in _VARIANTS.items()}

_GQ, _DGC = Style("#4F93CF", "o", "-"), Style("#00264D", "D", (0, (1.2, 1.2)))
_COSINE: dict[str, Any] = {"line": (0, (5.0, 1.2, 1.2, 1.2)), "filled": False}
#: Compressed arms and what is compared with them, keyed by run. Light blue is GQ and navy DGC; open: cosine schedule.
COMPRESSED = {
    "e2-large-batch-gq": _GQ,
    "e2-large-batch-dgc": _DGC,
    "e2-large-batch-cosine": replace(METHODS["large_batch"], **_COSINE),
    "e2-large-batch-dgc-cosine": replace(_DGC, **_COSINE),
    "e2-large-batch-weights": Style("#4D6A00", "X", (0, (5.0, 1.2, 1.2, 1.2))),
    "e2-decay-large-batch": METHODS["large_batch"],
    "e2-decay-large-batch-dgc": _DGC,
    "e2-decay-large-batch-cosine": replace(METHODS["large_batch"], **_COSINE),
    "e2-decay-large-batch-dgc-cosine": replace(_DGC, **_COSINE),
    "e2-large-batch-plain-top10": Style("#2B9C9C", "D", "-"),
    "e2-large-batch-plain-top1": Style("#0B4F4F", "v", (0, (1.2, 1.2))),
    "e2-federated-top10": Style("#A85A00", "D", "-"),
    "e2-federated-top1": Style("#4A2700", "v", (0, (1.2, 1.2))),
    "e2-large-batch-dgc-clip": Style("#00264D", "s", "-"),
    "e2-large-batch-dgc-clip-unaccumulated": Style("#6D83A6", "X", (0, (1.2, 1.2)), filled=False),
    "e2-large-batch-dgc-clip-uncorrected": Style("#2B9C9C", "^", "-", filled=False),
    "e2-federated-gq": Style("#8C4A00", "v", "-"),
}

#: Keyed by the ``norm`` of a spec.
NORMS = {
    "batch": Style("#3B0A57", "o", "-"),
    "group": Style("#0B5D2E", "s", (0, (5.0, 1.5))),
    "fixup": Style("#E0559A", "D", (0, (5.0, 1.2, 1.2, 1.2))),
    "layer": Style("#007C89", "^", (0, (1.2, 1.2))),
    "instance": Style("#8A6D00", "v", (0, (3.0, 1.0, 1.0, 1.0, 1.0, 1.0))),
    "none": Style("#6F6F6F", "X", (0, (1.2, 1.2))),
}
_OPEN: dict[str, Any] = {"filled": False}
_LARGER: dict[str, dict[str, Any]] = {
    "1024": {"marker": "s", "line": "-"},
    "2048": {"marker": "^", "line": (0, (1.2, 1.2))},
}
_SHADES = {"group": {"1024": "#2F9E6E", "2048": "#06301A"}, "fixup": {"1024": "#B0206F", "2048": "#6B1043"}}
_NAMES = {"bn": "batch", "gn": "group", "fixup": "fixup", "ln": "layer", "in": "instance", "none": "none"}


def _of_post_3() -> dict[str, Style]:
    looks = {f"e3-iid-{name}": NORMS[_NAMES[name]] for name in ("bn", "gn", "fixup")}
    looks |= {f"e3-noniid-{name}": replace(NORMS[_NAMES[name]], **_OPEN) for name in ("bn", "gn", "fixup")}
    looks |= {f"e3-{name}-128": NORMS[norm] for name, norm in _NAMES.items() if name != "bn"}
    for name, norm in (("gn", "group"), ("fixup", "fixup")):
        for batch, change in _LARGER.items():
            look = replace(NORMS[norm], colour=_SHADES[norm][batch], **change)
            looks[f"e3-{name}-{batch}"] = look
            looks[f"e3-{name}-{batch}-slow"] = replace(look, marker="X", **_OPEN)
    for batch, colour, line in (("1024", "#C46A9B", (5.0, 1.5)), ("2048", "#3A0824", (5.0, 1.2, 1.2, 1.2))):
        looks[f"e3-fixup-{batch}-linear"] = Style(colour, "X", (0, line))
    looks["e3-fixup-1024-short"] = Style("#4A0A33", "P", (0, (1.2, 1.2)), filled=False)
    looks["e3-fixup-2048-short"] = Style("#D0679F", "P", "-", filled=False)
    for name, colour, marker, large in (("ln", "#004A52", "D", "#2E97A2"), ("in", "#544300", "P", "#A88500")):
        looks[f"e3-{name}-1024"] = replace(NORMS[_NAMES[name]], colour=colour, marker=marker, line=(0, (5.0, 1.5)))
        looks[f"e3-{name}-2048"] = replace(NORMS[_NAMES[name]], colour=large, line="-", **_OPEN)
    looks["e3-gn-128-unit-scale"] = replace(NORMS["group"], colour="#2F9E6E", line="-", **_OPEN)
    looks["e3-gn-wide"], looks["e3-gn-wide-unit-scale"] = NORMS["group"], looks["e3-gn-128-unit-scale"]
    looks["e3-noniid-bn-local"] = replace(NORMS["batch"], colour="#7A3E9D", **_OPEN)
    looks["e3-noniid-bn-drop"] = replace(NORMS["batch"], colour="#9A6FB5", **_OPEN)
    for every, colour, marker in (("10", "#DB7600", "^"), ("40", "#A85A00", "v"), ("150", "#6B3900", "P")):
        looks[f"e3-fedavg-iid-{every}"] = replace(METHODS["federated"], colour=colour, marker=marker, line="-")
        looks[f"e3-fedavg-noniid-{every}"] = replace(METHODS["federated"], colour=colour, marker=marker, **_OPEN)
    return looks


#: Arms of post 3, keyed by run. Open markers: non-IID shards, or another policy than the first of its kind.
NETWORKS = _of_post_3()

#: Warm-ups of Fixup, keyed by the endings of runs: to a rate of 0.1 slowly and fast, and to one in proportion to
#: the batch.
WARM_UPS = {
    "": Style("#E0559A", "o", "-"),
    "-short": Style("#9A1F66", "s", (0, (1.2, 1.2))),
    "-linear": Style("#3A0824", "X", (0, (5.0, 1.5))),
}

#: Batches of the paper's centralised runs: the small one, 256, 512 and 1024.
_SMALL = METHODS["central"]
_MIDDLE = Style("#7D6BB5", "D", (0, (1.2, 1.2)))
_HALF = Style("#5A78C8", "^", "-", filled=False)
_LARGE = METHODS["large_batch"]
#: Step-up factors at batch 1024; factor 1 is the run without a step-up.
FACTORS = {
    1: _LARGE,
    2: Style("#DE6A5E", "^", "-"),
    4: Style("#B8352F", "D", (0, (5.0, 1.2, 1.2, 1.2))),
    8: Style("#85131F", "v", (0, (3.0, 1.0))),
    16: Style("#4A0410", "P", (0, (1.2, 1.2))),
}
#: When the gradient is stepped up, keyed by ``when`` of a spec's ``step_up``; ``rate``: the learning rate is instead.
GATES = {
    "above": Style("#B8352F", "D", "-"),
    "below": Style("#2B8A6B", "s", (0, (5.0, 1.5)), filled=False),
    "always": Style("#37474F", "s", (0, (5.0, 1.2, 1.2, 1.2))),
    "random": Style("#A8791A", "v", (0, (1.2, 1.2)), filled=False),
    "rate": Style("#5B7FA6", "^", (0, (3.0, 1.0))),
}

#: Of performance models, where nothing is trained: networks, data sets, parts of a step, fits.
MEASURED = (Style("#333333", "o", "-"), Style("#5B2A86", "s", "-"), Style("#C08A00", "^", "-"))

#: Remedies for the generalisation gap, teachers among them: the axis tells them apart.
_REMEDY = Style("#B8352F", "D", "-")
#: Codecs whose cost is drawn by batch size, as run ids have them; those of post 2 look as there.
CODECS = {
    "topk": Style("#2B9C9C", "^", (0, (5.0, 1.5))),
    "dgc": _DGC,
    "int8": _GQ,
    "powersgd": Style("#8C6D62", "s", (0, (5.0, 1.2, 1.2, 1.2))),
}


def _of_paper() -> dict[str, Style]:
    looks: dict[str, Style] = {}
    for model, small in (("resnet50", 32), ("vgg11", 64), ("alexnet", 32)):
        looks |= {
            f"lb-batch-{model}-{batch}": look
            for batch, look in ((small, _SMALL), (256, _MIDDLE), (512, _HALF), (1024, _LARGE))
        }
        for threshold in ("t05", "t08"):
            looks |= {f"lb-step-{model}-{threshold}-x{factor}": look for factor, look in FACTORS.items() if factor > 1}
    looks |= {"lb-remedy-small": _SMALL, "lb-remedy-plain": _LARGE, "lb-taught-small": _SMALL}
    looks |= {"lb-taught-plain": _LARGE, "lb-taught-longer": _LARGE}
    return looks


#: Arms of the paper, keyed by run.
TRAINED = _of_paper()


def of(run: str, method: str) -> Style:
    """The style of ``run``: its own where it varies its method, else that of its ``method``.

    Runs of post 1 with GroupNorm look like those with BatchNorm, with which they never share a figure.
    """
    if run.startswith(("lb-remedy-", "lb-taught-")) and run not in TRAINED:
        return _REMEDY
    return (NETWORKS | TRAINED).get(run) or (ARMS | COMPRESSED).get(run.removesuffix("-gn"), METHODS[method])


def of_group(group: Sequence[Record]) -> Style:
    """The style of the run of these records."""
    return of(group[0].run, group[0].spec["method"])
