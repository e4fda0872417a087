"""Processes that compute one run together, as torchrun starts them, but forked from this one, which spares imports."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from repro.errors import ReproError


class Started:
    """``size`` forked processes of one group; ``work`` is called in each, with its rank, and may be killed."""

    def __init__(self, size: int, folder: Path, work: Callable[[int], None]) -> None:
        # as torchrun: this process holds the store, at a port that the system chose
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._folder, context = folder, multiprocessing.get_context("fork")
        environment = {
            "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }  # fmt: skip
        self.processes = [context.Process(target=self._begin, args=(work, rank, environment)) for rank in range(size)]
        for process in self.processes:
            process.start()

    def _begin(self, work: Callable[[int], None], rank: int, environment: Mapping[str, str]) -> None:
        os.environ |= {**environment, "RANK": str(rank)}
        with (self._folder / f"said{rank}").open("w") as said:
            os.dup2(said.fileno(), 2)
            sys.stderr = open(2, "w", closefd=False)
            try:
                work(rank)
            except ReproError as error:
                print(f"repro: {error}", file=sys.stderr)
                raise SystemExit(2) from None

    def ended(self, within: float = 60.0) -> list[int | None]:
        """Exit codes of all, None for those that still run after ``within`` seconds, which are ended."""
        until = time.monotonic() + within
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
                process.join()
        return codes

    def said(self, rank: int) -> list[str]:
        """What a process wrote to stderr, in lines."""
        return (self._folder / f"said{rank}").read_text().splitlines()
