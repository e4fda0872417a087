"""What a stored number depends on: the versions of the numerical parts, and the fingerprint of a run.

Raise a part's version when a change of it alters any result. The golden runs (``tests/test_golden.py``) fail when
results change and no version did, so that a refactoring keeps every record valid and a change of numerics cannot
hide. Verdicts tell a stale record from a valid one without importing torch. Versions therefore stand here, and those of
codecs, which stand in their classes, are read from the source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro import files
from repro.experiments.spec import TORCHVISION

_PARTS = {
    "aggregation_weights": 1,  # clients of federated averaging that count equally
    "batches": 1,  # subset, scaling, order of images, augmentation, normalisation
    "batch_shares": 1,  # local batches of different sizes, and the shards that go with them
    "buffer_policies": 1,  # local and drop
    "clients_go_on": 1,  # with shards of different sizes, who takes part in a step, and how long an epoch is
    "engines": 1,  # the three methods, aggregation, what is sent
    "evaluation": 1,
    "final_evaluations": 1,  # which further evaluations there are, and on which images the last ones take place
    "fixup": 2,  # scalars, their learning rate, initialisation
    "group_norm": 2,  # group, layer and instance norm: groups, first scales, kernels
    "law_normalisation": 2,
    "law_label_split": 1,
    "law_lost_worker": 1,
    "law_traffic": 1,
    "gradients": 1,  # noise, signal and sparsity of gradients at the same weights
    "laws": 2,
    "local_momentum": 1,  # momentum of federated clients that is kept, or averaged
    "local_steps": 2,  # which steps a round takes, when it is evaluated
    "models": 2,  # layers, initialisation, normalisation
    "partition": 1,
    "partition_by_labels": 2,  # counted for these partitions only
    "measure": 3,  # what a measurement runs, counts and times
    "payloads": 2,  # which codecs, what they encode, and what they remember
    "quantised_weights": 1,  # when the shared model is rounded
    "randomness": 1,
    "schedules": 1,
    "stacked_clients": 1,  # clients of federated averaging that train as one network: order of sums
    "step_up": 1,  # the change of the gradient, and what follows from it
    # How torchvision's networks are initialised, and which layers of theirs are replaced. The version of torchvision
    # stands in the provenance, as torch's does: a run can be planned and judged where neither is installed.
    "torchvision": 1,
    "teacher": 1,  # which pairs of gradients there are, how teachers are trained on them, and tested
    "tracked_batch_statistics": 1,
    "tracked_gradient_norm": 1,
    "tracked_per_class": 1,
    "tracked_sharpness": 2,  # how the eigenvalue is found, and when it has settled
    "tracked_training_images": 1,
    "tracked_training_sample": 1,
}

_PACKAGE = Path(__file__).parents[1]


def _registered(folder: str) -> Iterator[dict[str, Any]]:
    """Name, version and parts of every ``@register(name, version=..)`` in ``folder``, whose files are not executed."""
    for path in sorted((_PACKAGE / folder).glob("*.py")):
        for written in re.findall(r"^@register\(.*?^class \w+", path.read_text(encoding="utf-8"), re.M | re.S):
            made: Any = ast.parse(f"{written}: ...").body[0]  # without what a whole file takes to parse
            for call in made.decorator_list:
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "register"):
                    continue
                given = {option.arg: option.value for option in call.keywords}
                known = {name: given[name] for name in ("version", "part", "part_of") if name in given}
                literals = {name: ast.literal_eval(value) for name, value in known.items()}
                yield {"name": ast.literal_eval(call.args[0])} | literals


def _part(codec: str) -> str:
    """The part that a codec, or a wrapper such as ``+zip``, is."""
    return codec[1:] if codec.startswith("+") else f"codec_{codec}"


_CODECS = {entry["name"]: entry for entry in _registered("codecs")}
_NETWORKS = {entry["name"]: entry for entry in _registered("models")}
_REMEDIES = {entry["name"]: entry for entry in _registered("training/remedies")}
CODECS = tuple(sorted(name for name in _CODECS if not name.startswith("+")))
"""Names of all codecs, wrappers left out."""
NETWORKS = tuple(sorted(_NETWORKS))
"""Names of all networks."""
REMEDIES = tuple(sorted(_REMEDIES))
"""Names of all remedies for the generalisation gap of large batches."""
_PART_OF_NETWORK = {name: of.get("part", name) for name, of in _NETWORKS.items() if "version" in of}
"""Networks that have a version of their own; that of ``models`` covers the ResNets and how all are built."""
_VERSIONS = _PARTS | {_part(name): of["version"] for name, of in _CODECS.items()}
_VERSIONS |= {part: _NETWORKS[name]["version"] for name, part in _PART_OF_NETWORK.items()}
_VERSIONS |= {f"remedy_{name}": of["version"] for name, of in _REMEDIES.items()}
VERSIONS: dict[str, int] = dict(sorted(_VERSIONS.items()))
"""Version of every part."""
MEASURED_CODECS = (
    "dense",
    "int8",
    "int8-affine",
    "dgc",
    "top-k",
    "top-k-residual",
    "threshold",
    "qsgd",
    "terngrad",
    "1-bit",
)
"""Codecs whose messages runs of kind ``payloads`` measure, in the order of their rows; no other changes a record."""

_OF_TRAFFIC = ["batches", "codec_dense", "engines", "group_norm", "law_traffic", "models", "randomness"]
_OF_LAWS = {
    "epoch_traffic": _OF_TRAFFIC,
    "slowest_device": _OF_TRAFFIC,
    "star_and_ring": _OF_TRAFFIC,
    "normalisation": ["group_norm", "law_normalisation", "models", "randomness"],
    "lost_worker": [
        "batches",
        "codec_dense",
        "codec_dgc",
        "codec_int8",
        "engines",
        "group_norm",
        "law_lost_worker",
        "local_momentum",
        "models",
        "randomness",
    ],
    "label_split": ["batches", "codec_dense", "engines", "law_label_split", "models", "randomness", "vgg"],
}
_OF_UNION_LAW = ["batches", "codec_dense", "engines", "group_norm", "laws", "models", "randomness"]
_NEUTRAL = {
    "batch_shares": (None, "batch_shares"),
    "buffers": ("average", "buffer_policies"),
    "clients_wait": (True, "clients_go_on"),
    "final_evaluations": (None, "final_evaluations"),
    "final_test_images": (None, "final_evaluations"),
    "local_momentum": ("restart", "local_momentum"),
    "local_steps": (None, "local_steps"),
    "stacked": (None, "stacked_clients"),
    "step_up": (None, "step_up"),
    "weights": ("images", "aggregation_weights"),
}
"""Setting of a training -> its neutral value, and the part that counts with any other."""


def used_by(spec: dict[str, Any]) -> dict[str, int]:
    """Versions of the parts that a run of ``spec`` (a resolved spec as a mapping) depends on."""
    if spec["kind"] == "payloads":
        parts = ["batches", *map(_part, MEASURED_CODECS), "engines", "models", "partition", "payloads", "randomness"]
        parts.append("zip")
    elif spec["kind"] == "measure":
        parts = ["batches", "engines", "measure", "models", "randomness"]
    elif spec["kind"] in ("gradients", "teacher"):
        parts = [*_of_training(spec), spec["kind"]]
    elif spec["kind"] == "law":
        parts = _OF_LAWS.get(spec.get("law") or "", _OF_UNION_LAW)
    else:
        parts = _of_training(spec)
    model = spec.get("model") or ""
    if part := "torchvision" if model.startswith(TORCHVISION) else _PART_OF_NETWORK.get(model):
        parts = [*parts, part]
    return {part: VERSIONS[part] for part in parts}


def _of_training(spec: dict[str, Any]) -> list[str]:
    parts = ["batches", "engines", "evaluation", "models", "partition", "randomness", "schedules"]
    if spec["method"] != "central":
        parts += _of_exchange(spec)
    if spec.get("quantised_weights"):
        parts += ["codec_int8", "quantised_weights"]
    if spec["norm"] in ("group", "layer", "instance"):
        parts.append("group_norm")
    if spec["norm"] == "fixup":
        parts.append("fixup")
    if spec["partition"] == "labels":
        parts.append("partition_by_labels")
    parts += [part for name, (neutral, part) in _NEUTRAL.items() if spec.get(name, neutral) != neutral]
    if spec.get("remedy"):
        parts.append("remedy_" + spec["remedy"])
    return parts + [f"tracked_{name}" for name in spec.get("track") or []]


def _of_exchange(spec: dict[str, Any]) -> list[str]:
    codec, plus, wrapper = spec["codec"].partition("+")
    parts = [_part(codec), *([_part(plus + wrapper)] if plus else [])]
    if whole := _CODECS.get(codec, {}).get("part_of"):
        parts.append(_part(whole))
    if not spec.get("quantised_weights") and VERSIONS["codec_dense"] > 1:
        # The download is dense. This was counted from the codec's second version on, so that records of its first one,
        # made before, stay valid.
        parts.append("codec_dense")
    return parts


def fingerprint(spec: dict[str, Any], seed: int, data_sha256: str | None, after: str | None = None) -> str:
    """Hex SHA-256 that identifies what a record was computed from; equal fingerprints mean an equal body.

    ``after`` is the fingerprint of the run whose record this one reads, where there is one.
    """
    content = {"spec": spec, "seed": seed, "data": data_sha256, "numerics": used_by(spec)}
    return files.sha256(content | ({"after": after} if after else {}))
