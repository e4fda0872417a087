"""Codecs turn tensors into bytes and back. What crosses the wire is ``len(payload)``, nothing else is counted.

Every module of this folder is imported here, so that a codec needs no line outside of its own file.
"""

from importlib import import_module
from pkgutil import iter_modules

from repro.codecs.base import Codec, build, names, of_run
from repro.codecs.dense import Dense
from repro.codecs.dgc import DGC, WARM_UP, warm_up
from repro.codecs.expected import Expected
from repro.codecs.int8 import Int8
from repro.codecs.onebit import OneBit
from repro.codecs.sparse import Threshold, TopK
from repro.codecs.state import State
from repro.codecs.stochastic import QSGD, TernGrad
from repro.codecs.zipped import Zipped

__all__ = [
    "DGC",
    "NAMES",
    "QSGD",
    "WARM_UP",
    "Codec",
    "Dense",
    "Expected",
    "Int8",
    "OneBit",
    "State",
    "TernGrad",
    "Threshold",
    "TopK",
    "Zipped",
    "build",
    "of_run",
    "warm_up",
]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
NAMES = names()
"""All codecs. ``dgc-without-...`` is DGC less one of its parts; clipping is one only where a ``clip`` is given."""
