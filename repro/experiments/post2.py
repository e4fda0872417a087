"""What post 2 states about its experiments, and what it leaves open."""

from __future__ import annotations

IMAGES, WORKERS = 50_000, 32


EPOCHS = {"large_batch": 100, "federated": 150}


CODECS = {"large_batch": "dgc", "federated": "int8"}
"""What the post compares in total: large batch with deep gradient compression, federated averaging with F2I."""


WARM_UP = (0.75, 0.9375, 0.984375, 0.996)
"""Sparsity in the first epochs, one each; afterwards it is ``SPARSITY``."""


SPARSITY = 0.999


FULL_SIZE = {"width": 64, "image_size": 32}


LOCAL_BATCHES = (32, 64, 128)
"""Images of one worker in a round of large batch, as far as they are considered; the post does not give them."""
