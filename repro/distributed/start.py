"""Processes of one group started from within Python, as torchrun starts them, to see what becomes of them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from repro.errors import ReproError
from repro.machine import device


class Started:
    """``size`` processes of a group of their own.

    Args:
        size: how many.
        work: is called in each with its rank. A ``ReproError`` is a line on stderr and exit code 2, as of a command.
        folder: holds what each writes to stderr.
    """

    def __init__(self, size: int, work: Callable[[int], None], folder: Path) -> None:
        # As with torchrun, this process holds the store by which they find each other, at a port that was free.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._folder = folder
        environment = {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        # A process forked from this one could wait for ever for what one of its threads holds, so a server without
        # threads, which imports once what they run, forks them; with a GPU each starts from nothing.
        context: Any = multiprocessing.get_context("forkserver" if device().type == "cpu" else "spawn")
        if device().type == "cpu":
            context.set_forkserver_preload([getattr(work, "func", work).__module__, "torch._dynamo"])
        self._processes = [
            context.Process(target=_begin, args=(work, rank, environment, self._said(rank))) for rank in range(size)
        ]
        for process in self._processes:
            process.start()

    def _said(self, rank: int) -> Path:
        return self._folder / f"said-{rank}.txt"

    def ended(self, within: float) -> list[int | None]:
        """Exit codes of all; None for those that still ran after ``within`` seconds, which are killed then."""
        until = time.monotonic() + within
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in self._processes]
        for process in self._processes:
            process.kill()
            process.join()
        return codes

    def said(self, rank: int) -> list[str]:
        """The lines that a process wrote to stderr."""
        return self._said(rank).read_text(encoding="utf-8").splitlines()


def _begin(work: Callable[[int], None], rank: int, environment: Mapping[str, str], said: Path) -> None:
    os.environ |= {**environment, "RANK": str(rank)}
    with said.open("w", encoding="utf-8") as sys.stderr:
        os.dup2(sys.stderr.fileno(), 2)
        try:
            work(rank)
        except ReproError as error:
            print(f"repro: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except Exception:  # a bug: its trace belongs to what this process said
            traceback.print_exc()
            raise SystemExit(1) from None
