"""What to run: frozen, validated descriptions of runs, read from ``pipelines/``.

``pipelines/<source>.yaml`` says what the runs of a source are, at the published scale. The profile's
``pipelines/<profile>/params.yaml`` shrinks sizes and nothing else. The two rules that tie them together:

* workers shrink with the training images, ``round(workers x images / published images)``, at least two, so that
  rounds per epoch and local steps per round stay near the published ones (50 000 / (96 x 32) = 16.3 for post 1),
  unless the file says ``fixed_workers: true``, because there the number of devices is the scenario (post 3);
* the method, the local batch and the number of local epochs per round never change; nor do the batch sizes that a
  measurement goes through, which are its axis. Of a profile's sizes a measurement takes pixels and width, and under
  ``measure`` the number of images, blocks and repetitions.

``models`` holds sizes of single networks where they are measured, ``trained`` where they are trained, if those of the
source do not suit them. There, ``local_steps_share`` is the share of the published local steps between two
synchronisations that is left, because shards are smaller. ``runs`` holds sizes of single runs, their workers too where
the file fixes those.

A warm-up takes the published share of the epochs, or, where a source says ``warmup: steps``, as many optimiser steps as
published; a run whose schedule says ``warmup: share`` keeps the share even then. Patience shrinks with the epochs, not
below the source's ``least_patience``. ``grid`` gives every arm the same epochs, rates and seeds, and under ``arms``
some of them their own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from repro.experiments.spec import GROUPS, HELD_OUT_IMAGES, PROFILES, SOURCES, TRACKED, Profile, Spec

if TYPE_CHECKING:
    from repro.registry.plans import (
        find,
        first_seeds,
        grid_run,
        grids,
        published_warm_up,
        rates_chosen,
        runs,
        runs_and_waiting,
        sibling,
        sizes_of,
        unchosen,
    )  # fmt: skip
    from repro.registry.resolve import LONGEST_WARM_UP, described, learning_rates_path, remedy, scaled_workers
    from repro.registry.source_files import default_profile, params_path

__all__ = [
    "GROUPS", "HELD_OUT_IMAGES", "LONGEST_WARM_UP", "PROFILES", "SOURCES", "TRACKED", "Profile", "Spec",
    "default_profile", "described", "find", "first_seeds", "grid_run", "grids", "learning_rates_path", "params_path",
    "published_warm_up", "rates_chosen", "remedy", "runs", "runs_and_waiting", "scaled_workers", "sibling", "sizes_of",
    "unchosen",
]  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """What reads files is imported at its first use: the validation that it needs takes a while to import."""
        for module in ("plans", "resolve", "source_files") if name in __all__ else ():
            found = getattr(importlib.import_module(f"repro.registry.{module}"), name, None)
            if found is not None:
                return found
        raise AttributeError(f"repro.registry.specs has no {name!r}")
