"""Definitions of the sources, read off by running what implements them, so that a changed codec shows."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch

from repro import codecs
from repro.codecs import dgc
from repro.errors import ReproError
from repro.experiments.post2 import EPOCHS
from repro.models import sizes
from repro.randomness import generator
from repro.registry import specs


def of_codec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What post 2 says about deep gradient compression, as the codec of a run does it.

    Args:
        spec: of a run with the codec ``dgc``, as its record holds it.

    Returns:
        ``sparsified``: which tensors of a ResNet18 arrive with less than all their values; ``sparsity_first`` and
        ``sparsity_last`` of the warm-up; ``warm_up_epochs``: epochs before the last sparsity in a training as long as
        the post's; ``sample_percent``: the sample that the threshold of the largest tensor comes from, rounded to whole
        percents; ``warm_up_epochs_here``: as ``warm_up_epochs``, in the run itself.

    Raises:
        ReproError: the run has another codec.
    """
    codec = dgc_of(spec)
    largest = max(torch.Size(shape).numel() for shape in sizes.shapes("resnet18", 10).values())
    sample = dgc.sampling(largest, Fraction(codec.densities[-1]))[1]
    return {
        "sparsified": _sparsified(codec),
        "sparsity_first": float(1 - codec.densities[0]),
        "sparsity_last": float(1 - codec.densities[-1]),
        "warm_up_epochs": _warm_up_epochs(codec, specs.published_warm_up(spec), EPOCHS["large_batch"]),
        "sample_percent": round(100 * sample / largest),
        "warm_up_epochs_here": _warm_up_epochs(codec, spec["sparsity_warmup"], spec["epochs"]),
    }


def dgc_of(spec: Mapping[str, Any]) -> codecs.DGC:
    """The codec of a run with DGC, as the run builds it.

    Raises:
        ReproError: the run has another codec.
    """
    options = spec.get("codec_options")
    codec = codecs.of_run(
        spec["codec"], spec["method"], spec["momentum"], workers=spec["workers"], options=options
    )  # fmt: skip
    if not isinstance(codec, codecs.DGC):
        raise ReproError(f"run with codec {spec['codec']}: its definition is not in the post; dgc was expected")
    return codec


def _warm_up_epochs(codec: codecs.DGC, share: float, epochs: int) -> float:
    """Epochs before the codec reaches its last sparsity, by the rule that runs follow; found to a thousandth."""
    progress = codecs.warm_up(share, epochs)
    reached = next(
        (step for step in range(1000 * epochs + 1) if codec.density_at(progress(step / 1000)) == codec.densities[-1]),
        1000 * epochs,
    )
    return reached // 1000 if reached % 1000 == 0 else reached / 1000


def _sparsified(codec: codecs.DGC) -> str:
    random = generator(0, "definition")
    shapes = sizes.shapes("resnet18", 10, width=4)
    sent = {f"gradient of {name}": torch.from_numpy(random.standard_normal(shape)) for name, shape in shapes.items()}
    received = codec.decode(codec.encode(codec.new_state(), sent))
    sparse = {tensor.dim() == 4 for tensor, got in zip(sent.values(), received, strict=True) if not (got != 0).all()}
    dense = {tensor.dim() == 4 for tensor, got in zip(sent.values(), received, strict=True) if torch.equal(tensor, got)}
    return "convolution weights only" if (sparse, dense) == ({True}, {False}) else "other tensors, too"
