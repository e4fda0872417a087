"""Runs and numbers as readers see them: one form in figures, tables, notebooks, verdicts and on the page."""

from __future__ import annotations

import re
from collections.abc import Mapping

_RUN = re.compile(r"[a-z0-9]+-(?:grid-)?(?P<method>central|large-batch|federated)(?P<changes>(?:-[a-z0-9_]+)*)")
_METHODS = {"central": "centralised", "large-batch": "large batch", "federated": "federated averaging"}
_CHANGES = {
    r"x(\d+)": r"×\1",
    r"(\d+)labels": r"\1 labels",
    r"(\d+)epochs": r"every \1 epochs",
    r"gn": "GroupNorm",
    r"gq": "GQ",
    r"dgc": "DGC",
    r"plain": "no momentum",
    r"weights": "int8 weights",
    r"lr(\d+)": r"learning rate \1",
    r"lr(\d+)_(\d+)": r"learning rate \1.\2",
}

# Post 3 names its runs by network, split and batch, in any order.
_NORMS = {
    "bn": "BatchNorm",
    "gn": "GroupNorm",
    "ln": "LayerNorm",
    "in": "InstanceNorm",
    "none": "no normalisation",
    "fixup": "Fixup",
    "fedavg": "federated averaging",
}
_SETTINGS = {
    r"iid": "IID",
    r"noniid": "non-IID",
    r"every(\d+)": r"every \1 batches",
    r"(\d+)": r"batch \1",
    r"slow": "Fixup's warm-up",
    r"linear": "linear scaling",
    r"short": "short warm-up",
    r"wide": "full width",
    r"local": "local statistics",
    r"drop": "no running statistics",
    r"unit": "last scale one",
}

# The paper names its trained runs by what they vary, and the network.
_OF_PAPER = re.compile(r"lb-(?P<kind>[a-z0-9]+)-(?P<network>resnet50|vgg11|alexnet)(?:-(?P<rest>[a-z0-9_-]+))?")
_NETWORKS = {"resnet50": "ResNet50", "vgg11": "VGG11", "alexnet": "AlexNet"}
_KINDS = {
    r"bsp": "BSP",
    r"shares": "BSP (shares by speed)",
    r"fa": "FA",
    r"fa(\d+)": r"FA every \1",
    r"batch": "batch",
    r"rate": "learning rate ×",
    r"step": "",
    r"equation": "Eq. 6",
    r"always": "always",
    r"random": "random",
}
_SETTINGS_OF_PAPER = _SETTINGS | {
    r"t(\d)(\d)": r"threshold \1.\2",
    r"x(\d+)": r"X = \1",
    r"b(\d+)": r"local batch \1",
    r"lr(\d+)_(\d+)": r"learning rate \1.\2",
}
del _SETTINGS_OF_PAPER[r"(\d+)"]


def label(run: str) -> str:
    """A run, or an arm of a learning-rate grid, in words; an id of another form as it is.

    >>> label("e1-grid-central"), label("e1-federated-2labels-gn"), label("e1-grid-large-batch-x4-lr0_1")
    ('centralised', 'federated averaging (2 labels, GroupNorm)', 'large batch (×4, learning rate 0.1)')
    >>> label("e3-noniid-bn"), label("e3-fedavg-iid-150"), label("e3-fixup-1024-linear")
    ('BatchNorm (non-IID)', 'federated averaging (IID, every 150 batches)', 'Fixup (batch 1024, linear scaling)')
    >>> label("lb-fa250-vgg11-iid"), label("lb-batch-resnet50-32"), label("lb-equation-vgg11-t08-x4")
    ('VGG11 FA every 250 (IID)', 'ResNet50 batch 32', 'VGG11 X = 4 (threshold 0.8, Eq. 6)')
    >>> label("lb-shares-resnet50"), label("lb-perf-resnet50")
    ('ResNet50 BSP (shares by speed)', 'lb-perf-resnet50')
    """
    if run.startswith("e3-"):
        return _label_of_post_3(run)
    if run.startswith("lb-"):
        return _label_of_paper(run)
    found = _RUN.fullmatch(run)
    if not found:
        return run
    changes = [_change(part, _CHANGES) for part in found["changes"].split("-")[1:]]
    return _METHODS[found["method"]] + (f" ({', '.join(changes)})" if changes else "")


def _label_of_post_3(run: str) -> str:
    parts = run.removesuffix("-scale").split("-")[1:]
    (network, *more), settings = [p for p in parts if p in _NORMS] or [""], [p for p in parts if p not in _NORMS]
    if network == "fedavg":
        settings = [f"every{part}" if part.isdecimal() else part for part in settings]
    words = [_change(part, _SETTINGS) for part in settings]
    if network == "fedavg":
        words, more = [*(_NORMS[norm] for norm in more), *words], []
    if more or not network or words == settings:
        return run
    return f"{_NORMS[network]} ({', '.join(words)})"


def _label_of_paper(run: str) -> str:
    found = _OF_PAPER.fullmatch(run)
    if found is None:
        return run
    kind = _change(found["kind"], _KINDS)
    if kind == found["kind"] and kind not in _KINDS:
        return run
    network = _NETWORKS[found["network"]]
    if found["rest"] is None:
        return f"{network} {kind}"
    if found["kind"] == "batch":
        return f"{network} batch {found['rest']}"
    if found["kind"] == "rate":
        return f"{network} {kind}{found['rest'].replace('_', '.')}"
    words = [_change(part, _SETTINGS_OF_PAPER) for part in found["rest"].split("-")]
    if kind.startswith(("BSP", "FA")):
        return f"{network} {kind} ({', '.join(words)})"
    *more, factor = words
    settings = [*more, *([kind] if kind else [])]
    return f"{network} {factor} ({', '.join(settings)})"


def _change(part: str, known: Mapping[str, str]) -> str:
    for pattern, words in known.items():
        if re.fullmatch(pattern, part):
            return re.sub(pattern, words, part)
    return part


def counted(n: int, repetitions: str | None = None) -> str:
    """``n``, and what it counts where that is not seeds.

    >>> counted(3), counted(3, "seeds"), counted(5, "blocks")
    ('3', '3', '5, blocks')
    """
    return str(n) if repetitions in (None, "seeds") else f"{n}, {repetitions}"


def number(value: float, digits: int = 0, *, sign: bool = False) -> str:
    """Narrow no-break spaces between thousands, true minus, ``digits`` decimals; ``sign``: also a plus.

    Round-off goes first, so that equal values summed in two ways are printed alike.

    >>> number(0.145 * 100, 0), number(-1234.56, 1), number(2, 1, sign=True), number(-0.01, 1)
    ('14', '−1\\u202f234.6', '+2.0', '0.0')
    """
    rounded = round(round(value, 9), digits) + 0.0
    return f"{rounded:{'+' if sign else ''},.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")
