"""How large are real gradients on the wire? Every codec encodes the gradients of one training run at several steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from repro import codecs
from repro.batches import Batches
from repro.engines import plain
from repro.engines.common import gradients, sgd

CODECS: dict[str, dict[str, Any]] = {
    "dense": {},
    "int8": {},
    "int8-affine": {},
    "int8+zip": {},
    "dgc": {"sparsity": (0.999,)},
    "dgc+zip": {"sparsity": (0.999,)},
    "top-k": {},
    "qsgd": {},
    "terngrad": {},
    "1-bit": {},
}
"""The rows of post 2's table of compression rates, and what it names besides; DGC at its final sparsity."""


def measure(
    model: nn.Module, batches: Batches, lr: float, steps: Sequence[int], seed: int, precision: str
) -> list[dict[str, Any]]:
    """Train with plain SGD on one client, and encode the gradients of the given steps with every codec.

    Codecs start without memory at each measured step: what is measured is the gradient, not what had piled up.

    Args:
        model: the network; it is trained in place.
        batches: of one client.
        lr: learning rate.
        steps: steps to measure at, counted from 1.
        seed: of the codecs that draw at random.
        precision: of the forward and backward pass.

    Returns:
        One row for each step and codec: ``step``, ``codec``, ``bytes`` and ``dense_bytes``, lengths of real payloads
        that were decoded again.
    """
    optimiser = sgd(model)
    rows = []
    for done in plain.centralised(model, optimiser, batches, lambda _: lr, range(max(steps)), precision):
        if done.number not in steps:
            continue
        sizes = {}
        for name, options in CODECS.items():
            codec = codecs.build(name, **options)
            payload = codec.encode(codec.new_state(seed, 0), gradients(model))
            codec.decode(payload)
            sizes[name] = len(payload)
        rows += [
            {"step": done.number, "codec": name, "bytes": size, "dense_bytes": sizes["dense"]}
            for name, size in sizes.items()
        ]
    return rows
