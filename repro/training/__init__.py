"""The three methods. ``plain`` holds each on one screen, as the posts describe them: the oracle and the teaching text.

``fast`` computes the same rounds faster, and is what runs use; ``tests/training/test_engines.py`` holds the two
together. Both receive models, batches and codecs as arguments and know no data set, spec or file.
"""

from repro.training.buffers import shared_state
from repro.training.evaluate import evaluate
from repro.training.rounds import Round

__all__ = ["Round", "evaluate", "shared_state"]
