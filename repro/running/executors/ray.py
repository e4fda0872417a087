"""Runs on a Ray cluster: the one that ``RAY_ADDRESS`` names or that runs here, else one that is started here.

Nodes compute, this process writes the records. Every node needs this checkout at the same path and commit, with its
data; where the folder is shared, a run that is started again goes on from its checkpoint.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import ray
from ray import exceptions

from repro.errors import ReproError
from repro.running.executors import Resources, Work, caught, needs
from repro.running.provenance import CODE
from repro.running.workers import Answer

_KILLED = (
    exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError, exceptions.ObjectLostError,
)  # fmt: skip


class Executor:
    """See ``repro.running.executors.Pool``. A run asks for a CPU, its GPUs, and the memory that it was seen to need."""

    remedy = "a node with more memory may be needed"

    def __init__(self, work: Work, root: Path, resources: Resources) -> None:
        self._work, self._root, self._gpus = work, root, resources.gpus
        self.at_once = resources.jobs
        self._busy: dict[Any, int] = {}
        self._submitted = 0

    def __enter__(self) -> Self:
        path = os.pathsep.join(filter(None, [str(self._root), os.environ.get("PYTHONPATH")]))
        try:
            ray.init(
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            )  # fmt: skip
        except Exception as error:  # ray raises plain ones
            said = " ".join(str(error).split())
            raise ReproError(
                f"--executor ray: no cluster could be reached or started ({said}); correct or unset RAY_ADDRESS"
            ) from error
        # A run is started again by the sweep, and once.
        self._compute = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(caught)
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()  # ends what this process has started, and its runs on a cluster that was there

    def submit(self, spec: Any, seed: int, root: Path, /) -> int:
        """Take a run, which Ray starts where what it asks for is free."""
        asked = {"CPU": 1.0, "GPU": self._gpus, "memory": (needs.of(spec, self._root).gib or 0) * float(needs.GIB)}
        if not any(all(node["Resources"].get(n, 0.0) >= a for n, a in asked.items()) for node in ray.nodes()):
            raise ReproError(
                f"{spec.run} asks for 1 CPU, {self._gpus:g} GPUs and {asked['memory'] / needs.GIB:g} GiB, which no "
                "node of the Ray cluster has; add one, or lower --gpus"
            )
        task = self._compute.options(memory=asked["memory"] or None)
        self._submitted += 1
        self._busy[task.remote(self._work.compute, spec, seed, self._root)] = self._submitted
        return self._submitted

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Wait until a run ends; the numbers and answers of those that have. Their records are written here."""
        for ended in ray.wait(list(self._busy), num_returns=1)[0]:
            yield self._busy.pop(ended), self._answer(ended)

    def _answer(self, ended: Any) -> Answer:
        try:
            computed = ray.get(ended)
        except _KILLED:
            return None
        except exceptions.RayError as error:
            return error
        return computed if isinstance(computed, Exception) else caught(self._kept, *computed)

    def _kept(self, record: Any, provenance: dict[str, Any]) -> str:
        if provenance["code"] != CODE["code"]:
            raise ReproError(
                f"a node of the Ray cluster has other code (commit {provenance['commit']}); this checkout's was "
                f"expected (commit {CODE['commit']}); bring all nodes to the same commit"
            )
        return self._work.keep(record, provenance, self._root)
