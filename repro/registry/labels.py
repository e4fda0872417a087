"""Runs and numbers as readers see them: one form in figures, tables, notebooks, verdicts and on the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro import files

_Settings = Mapping[str, Any]
_Words = Callable[[re.Match[str], _Settings], str]
"""What a part of a run's id says, of the match and of the run's settings; these are empty where they are not known."""

_METHODS = {"central": "centralised", "large-batch": "large batch", "federated": "federated averaging"}
_NORMS = {
    "batch": "BatchNorm", "group": "GroupNorm", "layer": "LayerNorm", "instance": "InstanceNorm",
    "none": "no normalisation", "fixup": "Fixup",
}  # fmt: skip
_CODECS = {"int8": "GQ", "dgc": "DGC"}
_NETWORKS = {"resnet18": "ResNet18", "resnet50": "ResNet50", "vgg11": "VGG11", "alexnet": "AlexNet", "vit": "ViT"}
_RATES = r"(\d+(?:_\d+)?)"


def _number(text: str) -> str:
    """As ids write numbers: ``0_1`` is 0.1."""
    return text.replace("_", ".")


def _value(name: str, words: str, otherwise: Callable[[str], str] = _number) -> _Words:
    """``words`` with the setting ``name`` in it; with the number of the id where settings are not known."""

    def say(match: re.Match[str], settings: _Settings) -> str:
        value = settings.get(name)
        return words.format(otherwise(match[1]) if value is None else f"{value:g}")

    return say


def _rate(words: str, otherwise: str = "") -> _Words:
    """``words`` with the learning rate in it, that of the run or of its schedule."""

    def say(match: re.Match[str], settings: _Settings) -> str:
        value = settings.get("lr") or settings.get("schedule", {}).get("lr")
        if value is None:
            return otherwise or words.format(_number(match[1]))
        return words.format(f"{value:g}")

    return say


def _step(name: str, words: str, number: Callable[[re.Match[str]], str]) -> _Words:
    """``words`` with what the run's step-up says of ``name``."""

    def say(match: re.Match[str], settings: _Settings) -> str:
        value = (settings.get("step_up") or {}).get(name)
        return words.format(number(match) if value is None else f"{value:g}")

    return say


def _norm(norm: str) -> _Words:
    return lambda _, settings: _NORMS[settings.get("norm", norm)]


def _codec(name: str) -> _Words:
    def say(_: re.Match[str], settings: _Settings) -> str:
        codec = str(settings.get("codec", name)).partition("-without-")[0]
        return _CODECS.get(codec, codec)

    return say


def _momentum(otherwise: str) -> _Words:
    def say(_: re.Match[str], settings: _Settings) -> str:
        value = settings.get("momentum")
        return otherwise if value is None else f"momentum {value:g}" if value else "no momentum"

    return say


def _times(words: str) -> _Words:
    """How many times the workers of the source's runs there are, which is the same at every profile."""

    def say(match: re.Match[str], settings: _Settings) -> str:
        times = settings.get(_TIMES)
        if times is None:
            return f"×{match[1]}" if not words else f"{match[1]} {words}"
        ratio = f"×{times:g}" if times >= 1 else f"÷{1 / times:g}"
        return f"{words} {ratio}".strip()

    return say


def _sent(match: re.Match[str], settings: _Settings) -> str:
    """The share of values that a sparsifying codec sends."""
    sparsity = (settings.get("codec_options") or {}).get("sparsity")
    return f"the {largest(1 - float(match[1]) / 100 if sparsity is None else sparsity)} sent"


def largest(sparsity: float) -> str:
    """What a codec of this sparsity sends.

    >>> largest(0.99)
    'largest 1 %'
    """
    return f"largest {100 * (1 - sparsity):.3g} %"


def _split(match: re.Match[str], settings: _Settings) -> str:
    return "IID" if settings.get("partition", match[0]) == "iid" else "non-IID"


def _always(words: str) -> _Words:
    return lambda _, __: words


_TIMES = "times the workers"  # no field of a spec

_CHANGES: dict[str, _Words] = {
    r"x(\d+)": _times(""),
    r"(\d+)workers": _times("devices"),
    r"(\d+)labels": _value("labels_per_client", "{} labels"),
    r"(\d+)epochs": _value("local_epochs", "every {} epochs"),
    rf"alpha{_RATES}": _value("dirichlet_alpha", "alpha {}"),
    r"momentum": _momentum("momentum"),
    r"plain": _momentum("no momentum"),
    r"gn": _norm("group"),
    r"gq": _codec("int8"),
    r"dgc": _codec("dgc"),
    r"cosine": lambda _, settings: str(settings.get("schedule", {}).get("kind", "cosine")),
    r"top(\d+)": _sent,
    r"clip": lambda _, settings: f"clipped at {(settings.get('codec_options') or {}).get('clip', '?')}",
    r"unaccumulated": _always("without accumulation"),
    r"uncorrected": _always("without momentum correction"),
    r"weights": _always("int8 weights"),
    rf"lr{_RATES}": _rate("learning rate {}"),
}
_RUN = re.compile(
    r"[a-z0-9]+-(?:grid-)?(?P<decay>decay-)?(?P<method>central|large-batch|federated)(?P<changes>(?:-[a-z0-9_]+)*)"
)

# Post 3 names its runs by network, split and batch, in any order.
_NETWORK = {"bn": "batch", "gn": "group", "ln": "layer", "in": "instance", "none": "none", "fixup": "fixup"}
_SETTINGS: dict[str, _Words] = {
    r"iid|noniid": _split,
    r"every(\d+)": _value("local_steps", "every {} batches"),
    r"(\d+)": _value("local_batch", "batch {}"),
    r"slow": _always("Fixup's warm-up"),
    r"linear": _always("linear scaling"),
    r"short": _always("GroupNorm's warm-up"),
    r"wide": _always("full width"),
    r"local": _always("local statistics"),
    r"drop": _always("no running statistics"),
    r"unit": _always("last scale one"),
    r"averaged": _always("averaged momentum"),
}

# The paper names its trained runs by what they vary, and the network.
_OF_PAPER = re.compile(r"lb-(?P<kind>[a-z0-9]+)-(?P<network>resnet50|vgg11|alexnet)(?:-(?P<rest>[a-z0-9_-]+))?")
_KINDS: dict[str, _Words] = {
    r"bsp": _always("BSP"),
    r"shares": _always("BSP (shares by speed)"),
    r"fa": _always("FA"),
    r"fa(\d+)": _value("local_steps", "FA every {}"),
    r"batch": _always("batch"),
    r"rate": _always("learning rate ×"),
    r"step": _always(""),
    r"equation": _always("Eq. 6"),
    r"always": _always("always"),
    r"random": _always("random"),
}
_SETTINGS_OF_PAPER: dict[str, _Words] = {
    **{pattern: words for pattern, words in _SETTINGS.items() if pattern != r"(\d+)"},
    r"t(\d)(\d)": _step("threshold", "threshold {}", lambda match: f"{match[1]}.{match[2]}"),
    r"x(\d+)": _step("factor", "X = {}", lambda match: match[1]),
    r"b(\d+)": _value("local_batch", "local batch {}"),
    r"equal": _always("equal weights"),
    r"low": _rate("base rate {}", "second base rate"),
    rf"lr{_RATES}": _rate("learning rate {}"),
}
_LAWS = {
    "e1-union-law": "law of the union batch", "e3-normalisation-law": "law of normalisation",
    "lb-law-label-split": "law of the label split", "lb-law-star-and-ring": "law of server and ring",
    "lb-law-epoch-traffic": "law of an epoch's traffic", "e2-law-slowest-device": "law of the slowest device",
    "e2-law-lost-worker": "law of the lost worker",
}  # fmt: skip
_REMEDIES = {
    "plain": "batch 1024", "small": "batch 32", "scaling": "linear scaling", "lars": "LARS", "lamb": "LAMB",
    "local": "post-local SGD", "extrapolated": "extrapolated SGD", "isotropic": "isotropic noise",
    "fisher": "Fisher noise", "growing": "growing batch", "adaptive": "batch by noise scale",
    "step-up": "step-up X = 4",
}  # fmt: skip
_TAUGHT = {
    "plain": "batch 1024", "small": "batch 32", "longer": "batch 1024, longer", "autoencoder": "autoencoder with skip",
    "layers": "scale by layer", "conditional": "conditional noise", "matching": "norm matching",
    "isotropic": "isotropic noise",
}  # fmt: skip
_COMPRESSED = {"dense": "no compression", "topk": "top-k", "dgc": "DGC", "int8": "int8", "powersgd": "PowerSGD"}
_SMALL_CNN = re.compile(rf"lb-(?:grid-)?(?P<kind>remedy|taught)-(?P<name>[a-z-]+?)(?:-lr{_RATES})?")
_COMPRESSION = re.compile(r"lb-compress-(?P<codec>[a-z0-9]+)-(?P<batch>\d+)")
_MEASURED = re.compile(r"lb-(?P<kind>perf|memory|capacity|gradients|teacher)-(?P<network>\w+)")
_PAYLOADS = re.compile(r"e2-payloads-(?P<network>\w+)-(\d+)")


def label(run: str, spec: _Settings | None = None) -> str:
    """A run, or an arm of a learning-rate grid, in words; an id of another form as it is.

    The id says which settings of a run to name, and the settings what they are, so that the words stay true when a
    setting is changed. What shrinks with the profile (workers, local steps) is named as the spec file has it.

    Args:
        run: id.
        spec: settings of the run, as records have them; None: those in ``pipelines/<source>.yaml`` of the working
            directory, or the numbers of the id where no file has the run.

    >>> label("e1-grid-central"), label("e1-federated-2labels-gn"), label("e1-grid-large-batch-x2-lr0_1")
    ('centralised', 'federated averaging (2 labels, GroupNorm)', 'large batch (×2, learning rate 0.1)')
    >>> label("e1-federated-2epochs", {"local_epochs": 4}), label("e2-decay-large-batch-dgc")
    ('federated averaging (every 4 epochs)', 'large batch (DGC, weight decay)')
    >>> label("e3-noniid-bn"), label("e3-fedavg-iid-150"), label("e3-fixup-1024-linear")
    ('BatchNorm (non-IID)', 'federated averaging (IID, every 150 batches)', 'Fixup (batch 1024, linear scaling)')
    >>> label("lb-fa250-vgg11-iid"), label("lb-batch-resnet50-32"), label("lb-equation-vgg11-t08-x4")
    ('VGG11 FA every 250 (IID)', 'ResNet50 batch 32', 'VGG11 X = 4 (threshold 0.8, Eq. 6)')
    >>> label("lb-step-resnet50-t05-x4-low"), label("lb-shares-resnet50"), label("lb-perf-resnet50")
    ('ResNet50 X = 4 (threshold 0.5, base rate 0.01)', 'ResNet50 BSP (shares by speed)', 'ResNet50 (time and memory)')
    """
    settings = _settings(run, spec)
    if run in _LAWS:
        return _LAWS[run]
    if found := _PAYLOADS.fullmatch(run):
        network, classes = _NETWORKS.get(found["network"], found["network"]), settings.get("classes", found[2])
        return f"messages of {network} ({classes} classes)"
    if run.startswith("e3-"):
        return _label_of_post_3(run, settings)
    if run.startswith("lb-"):
        return _label_of_paper(run, settings)
    matched = _RUN.fullmatch(run)
    if not matched:
        return run
    changes = [_change(part, _CHANGES, settings) for part in matched["changes"].split("-")[1:]]
    changes += ["weight decay"] * bool(matched["decay"])
    return _METHODS[matched["method"]] + (f" ({', '.join(changes)})" if changes else "")


def _settings(run: str, spec: _Settings | None) -> _Settings:
    """The settings of ``spec``, but those that shrink with the profile as the source's spec file has them."""
    written = _written(run)
    if spec is None:
        return written
    shrinking = ("workers", "local_steps", _TIMES)
    return {name: value for name, value in spec.items() if name not in shrinking} | {
        name: written[name] for name in shrinking if name in written
    }


def _written(run: str) -> _Settings:
    """The settings of ``run`` in its spec file, at the published scale; none where there is no such file or run."""
    from repro.registry import specs

    source = run.partition("-")[0]
    path = Path("pipelines") / f"{source}.yaml"
    if source not in specs.SOURCES or not path.exists():
        return {}
    content, base = files.parsed_yaml(files.read_text(path), path), run
    defaults = content.get("defaults", {})
    if arm := re.fullmatch(rf"{source}-grid-(.+?)(?:-lr{_RATES})?", run):
        base = content.get("grid", {}).get("arms", {}).get(arm[1])
    own = {**content.get("controls", {}), **content.get("runs", {})}.get(base)
    if own is None:
        return {}
    settings = {**defaults, **own}
    if arm and arm[2]:
        settings["lr"] = float(_number(arm[2]))
    known = settings.get("workers") and defaults.get("workers")
    return settings | ({_TIMES: settings["workers"] / defaults["workers"]} if known else {})


def _label_of_post_3(run: str, settings: _Settings) -> str:
    parts = run.removesuffix("-scale").split("-")[1:]
    federated, norms = "fedavg" in parts, [part for part in parts if part in _NETWORK]
    others = [part for part in parts if part != "fedavg" and part not in _NETWORK]
    if federated:
        others = [f"every{part}" if part.isdecimal() else part for part in others]
    words = [_change(part, _SETTINGS, settings) for part in others]
    if len(norms) > 1 or (not norms and not federated) or words == others:
        return run
    named = [_NORMS[settings.get("norm", _NETWORK[norm])] for norm in norms]
    if federated:
        return f"federated averaging ({', '.join([*named, *words])})"
    return f"{named[0]} ({', '.join(words)})"


def _label_of_paper(run: str, settings: _Settings) -> str:
    if measured := _MEASURED.fullmatch(run):
        kinds = {
            "perf": "time and memory", "memory": "memory", "capacity": "memory between probes", "teacher": "teachers"
        }  # fmt: skip
        what = kinds.get(measured["kind"], measured["kind"])
        return f"{_NETWORKS.get(measured['network'], measured['network'])} ({what})"
    if trained := _SMALL_CNN.fullmatch(run):
        taught, rate = trained["kind"] == "taught", f"learning rate {_number(trained[3])}" if trained[3] else ""
        beside = ", ".join(["teachers"] * taught + [rate] * bool(rate))
        name = (_TAUGHT if taught else _REMEDIES).get(trained["name"], trained["name"])
        return f"small CNN {name}" + (f" ({beside})" if beside else "")
    if sent := _COMPRESSION.fullmatch(run):
        return f"ResNet18 {_COMPRESSED.get(sent['codec'], sent['codec'])} (batch {sent['batch']})"
    found = _OF_PAPER.fullmatch(re.sub(r"lb-grid-([a-z0-9]+)-([a-z0-9]+)", r"lb-\2-\1", run))
    if found is None:
        return run
    kind = _change(found["kind"], _KINDS, settings)
    if kind == found["kind"] and kind not in _KINDS:
        return run
    network = _NETWORKS[found["network"]]
    if found["rest"] is None:
        return f"{network} {kind}"
    first, *rest = found["rest"].split("-")
    if found["kind"] in ("batch", "rate"):
        value = f" {settings.get('local_batch', first)}" if found["kind"] == "batch" else _number(first)
        more = [_change(part, _SETTINGS_OF_PAPER, settings) for part in rest]
        return f"{network} {kind}{value}" + (f" ({', '.join(more)})" if more else "")
    words = [_change(part, _SETTINGS_OF_PAPER, settings) for part in (first, *rest)]
    if kind.startswith(("BSP", "FA")):
        return f"{network} {kind} ({', '.join(words)})"
    factor = next((word for word in words if word.startswith("X = ")), words[-1])
    known = [word for word in words if word != factor]
    rates = [word for word in known if word.startswith("base rate") or word == "second base rate"]
    others = [*(word for word in known if word not in rates), *([kind] if kind else []), *rates]
    return f"{network} {factor} ({', '.join(others)})"


def _change(part: str, known: Mapping[str, _Words], settings: _Settings) -> str:
    for pattern, words in known.items():
        if found := re.fullmatch(pattern, part):
            return words(found, settings)
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
