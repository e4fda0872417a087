"""What a stored number depends on: the versions of the numerical parts, and the fingerprint of a run.

Raise a part's version when a change of it alters any result. The golden runs (``tests/test_golden.py``) fail when
results change and no version did, so that a refactoring keeps every record valid and a change of numerics cannot
hide. The versions stand in one file, rather than in each module, so that verdicts can tell a stale record from a
valid one without importing torch.
"""

from __future__ import annotations

from typing import Any

from repro import files

VERSIONS = {
    "aggregation_weights": 1,  # clients of federated averaging that count equally
    "alexnet": 2,  # layers, initialisation, dropout
    "batches": 1,  # subset, scaling, order of images, augmentation, normalisation
    "batch_shares": 1,  # local batches of different sizes, and the shards that go with them
    "buffer_policies": 1,  # local and drop
    "cnn": 1,  # layers, initialisation
    "clients_go_on": 1,  # with shards of different sizes, who takes part in a step, and how long an epoch is
    "codec_1-bit": 1,
    "codec_dense": 1,
    "codec_dgc": 3,
    "codec_dgc-without-accumulation": 1,
    "codec_dgc-without-clipping": 1,
    "codec_dgc-without-correction": 1,
    "codec_dgc-without-masking": 1,
    "codec_int8": 1,
    "codec_int8-affine": 1,
    "codec_qsgd": 1,
    "codec_terngrad": 1,
    "codec_threshold": 2,
    "codec_top-k": 2,
    "codec_top-k-residual": 2,
    "engines": 1,  # the three methods, aggregation, what is sent
    "evaluation": 1,
    "final_evaluations": 1,  # which further evaluations there are, and on which images the last ones take place
    "fixup": 2,  # scalars, their learning rate, initialisation
    "group_norm": 2,  # group, layer and instance norm: groups, first scales, kernels
    "law_normalisation": 2,
    "law_label_split": 1,
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
    "step_up": 1,  # the change of the gradient, and what follows from it
    "tracked_batch_statistics": 1,
    "tracked_gradient_norm": 1,
    "tracked_per_class": 1,
    "tracked_sharpness": 2,  # how the eigenvalue is found, and when it has settled
    "tracked_training_images": 1,
    "tracked_training_sample": 1,
    "vgg": 2,  # layers, initialisation, dropout
    "vit": 2,  # layers, initialisation
    "zip": 1,
}

_NETWORKS = {"alexnet": "alexnet", "cnn": "cnn", "vgg11": "vgg", "vit": "vit"}
"""Networks that have a version of their own; that of ``models`` covers the ResNets and how all are built."""
CODECS = tuple(part.removeprefix("codec_") for part in VERSIONS if part.startswith("codec_"))
"""Names of all codecs."""
MEASURED_CODECS = (
    "1-bit", "dense", "dgc", "int8", "int8-affine", "qsgd", "terngrad", "threshold", "top-k", "top-k-residual",
)  # fmt: skip
"""Those whose messages runs of kind ``payloads`` measure (``repro.running.payloads.CODECS``)."""


def used_by(spec: dict[str, Any]) -> dict[str, int]:
    """Versions of the parts that a run of ``spec`` (a resolved spec as a mapping) depends on."""
    if spec["kind"] == "payloads":
        parts = [
            "batches",
            *(f"codec_{name}" for name in MEASURED_CODECS),
            "engines",
            "models",
            "partition",
            "payloads",
            "randomness",
            "zip",
        ]
    elif spec["kind"] == "measure":
        parts = ["batches", "engines", "measure", "models", "randomness"]
    elif spec["kind"] == "law":
        parts = ["batches", "codec_dense", "engines", "group_norm", "laws", "models", "randomness"]
        if spec.get("law") == "normalisation":
            parts = ["group_norm", "law_normalisation", "models", "randomness"]
        if spec.get("law") == "label_split":
            parts = ["batches", "codec_dense", "engines", "law_label_split", "models", "randomness", "vgg"]
    else:
        parts = ["batches", "engines", "evaluation", "models", "partition", "randomness", "schedules"]
        if spec["method"] != "central":
            codec, _, zipped = spec["codec"].partition("+")
            parts += [f"codec_{codec}", *(["zip"] if zipped else [])]
            if codec.startswith("dgc-"):
                parts.append("codec_dgc")
            if not spec.get("quantised_weights") and VERSIONS["codec_dense"] > 1:
                # The download is dense. This was counted from the codec's second version on, so that records of its
                # first one, made before, stay valid.
                parts.append("codec_dense")
        if spec.get("quantised_weights"):
            parts += ["codec_int8", "quantised_weights"]
        if spec["norm"] in ("group", "layer", "instance"):
            parts.append("group_norm")
        if spec["norm"] == "fixup":
            parts.append("fixup")
        if spec["partition"] == "labels":
            parts.append("partition_by_labels")
        if spec.get("buffers", "average") != "average":
            parts.append("buffer_policies")
        if spec.get("local_steps") is not None:
            parts.append("local_steps")
        if spec.get("step_up") is not None:
            parts.append("step_up")
        if not spec.get("clients_wait", True):
            parts.append("clients_go_on")
        if spec.get("batch_shares") is not None:
            parts.append("batch_shares")
        if spec.get("local_momentum", "restart") != "restart":
            parts.append("local_momentum")
        if spec.get("weights", "images") != "images":
            parts.append("aggregation_weights")
        if spec.get("final_evaluations") is not None or spec.get("final_test_images") is not None:
            parts.append("final_evaluations")
        parts += [f"tracked_{name}" for name in spec.get("track") or []]
    if spec.get("model") in _NETWORKS:
        parts.append(_NETWORKS[spec["model"]])
    return {part: VERSIONS[part] for part in parts}


def fingerprint(spec: dict[str, Any], seed: int, data_sha256: str | None, after: str | None = None) -> str:
    """Hex SHA-256 that identifies what a record was computed from; equal fingerprints mean an equal body.

    ``after`` is the fingerprint of the run whose record this one reads, where there is one.
    """
    content = {"spec": spec, "seed": seed, "data": data_sha256, "numerics": used_by(spec)}
    return files.sha256(content | ({"after": after} if after else {}))
