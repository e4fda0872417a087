"""Where the runs of a sweep are computed besides processes of this machine: as jobs of Slurm, or on a Ray cluster.

An executor does what ``repro.running.workers.Workers`` does: it is given runs and tells how each ended. Their packages
are optional (the extra ``cluster``) and imported only when an executor is started.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from repro.errors import ReproError
from repro.registry.specs import Spec
from repro.results.records import Record
from repro.running.workers import Answer

Computed = tuple[Record, dict[str, Any]]
"""A record and its provenance."""


class Work(NamedTuple):
    """What is done for a run: ``compute`` anywhere, then ``keep``, which writes both files and returns a line."""

    compute: Callable[[Spec, int, Path], Computed]
    keep: Callable[[Record, dict[str, Any], Path], str]


class Resources(NamedTuple):
    """What a sweep may use of a cluster: most jobs at a time (None: all), and GPUs of each."""

    jobs: int | None
    gpus: float


class Pool(Protocol):
    """A context; when it is left, runs that are still computed are ended.

    Attributes:
        remedy: what to do about a run whose process is killed again and again.
        at_once: how many runs it takes at a time; None: all.
    """

    remedy: str
    at_once: int | None

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, spec: Spec, seed: int, root: Path, /) -> int:
        """Take a run; returned is its number."""

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Wait until a run ends; the numbers and answers of those that have."""


def start(name: str, work: Work, root: Path, resources: Resources) -> Pool:
    """The executor ``submitit`` or ``ray``.

    Raises:
        ReproError: its package is not installed, or no cluster is found.
    """
    if importlib.util.find_spec(name) is None:
        raise ReproError(
            f"--executor {name}: the package {name} was expected, and is not installed; "
            "`pip install -e '.[cluster]'` installs what clusters need"
        )
    made: Pool = importlib.import_module(f"{__name__}.{name}").Executor(work, root.resolve(), resources)
    return made


def caught(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns, or the exception that it raises, as a value; one that cannot be pickled as its text."""
    import pickle

    try:
        return work(*arguments)
    except Exception as error:  # whatever a run met, the others go on
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(f"{type(error).__name__}: {error}")
        return error
