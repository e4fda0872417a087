"""The memory that a codec keeps of one client: a plain dict of numbers and tensors, which any checkpoint can hold."""

from __future__ import annotations

from typing import Any

State = dict[str, Any]
"""``seed`` and ``client`` name the random stream; ``messages`` is the number of messages sent, and so the position in
that stream; ``progress`` is the epochs of data trained on, which the engine sets before it encodes; ``memory`` holds
tensors by purpose and name, for example ``state["memory"]["residual"]["stem.weight"]``."""


def new_state(seed: int = 0, client: int = 0) -> State:
    """The memory of a client that has sent nothing yet."""
    return {"seed": seed, "client": client, "messages": 0, "progress": 0.0, "memory": {}}
