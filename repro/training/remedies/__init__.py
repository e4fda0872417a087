"""Remedies for the generalisation gap of large batches: what each changes in a step of central training.

Central training of a batch is large-batch training of workers whose batches are its parts (statement e1.c4), so one
implementation serves both. Every module of this folder is imported here, so that a remedy needs no line outside of its
own file.
"""

from importlib import import_module
from pkgutil import iter_modules

from repro.training.remedies.base import Course, Remedy, Step, Taken, build, names, register

__all__ = ["NAMES", "Course", "Remedy", "Step", "Taken", "build", "names", "register"]

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")
NAMES = names()
"""All remedies."""
