"""Processes that send each other bytes through torch.distributed (gloo).

Payloads are bytes in the memory of the host, whatever the network trains on, so that they go over TCP: through a GPU's
memory (nccl) they would take a detour, and two processes could not share a GPU.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from repro.errors import ReproError

CPU = torch.device("cpu")
AGAIN = "start the same command again, and the run goes on from its checkpoint"


class Lost(ReproError):
    """Another process has ended, or does not answer."""


@dataclass
class Crossed:
    """What was received from other processes, payloads only, and what these spent.

    Attributes:
        up, down: bytes of all messages as the server, and the clients, received them.
        cpu_seconds: of the processes of the clients.
    """

    up: int = 0
    down: int = 0
    cpu_seconds: float = 0.0


@dataclass
class Group:
    """This process among the others.

    Attributes:
        rank, size: its number, 0 for the server, and how many there are.
        timeout: seconds to wait for another one.
        crossed: what the server counts.
    """

    rank: int
    size: int
    timeout: float
    crossed: Crossed = field(default_factory=Crossed)
    _sending: list[tuple[dist.Work, Tensor, int]] = field(default_factory=list)

    @property
    def hosts(self) -> range:
        """The processes that hold clients."""
        return range(1, self.size)

    def hosted(self, clients: int) -> dict[int, list[int]]:
        """The clients of each process: as many as fit, in a row, by its rank."""
        shares = np.array_split(np.arange(clients), len(self.hosts))
        return {rank: share.tolist() for rank, share in zip(self.hosts, shares, strict=True)}

    def send(self, framed: tuple[Tensor, ...], to: int) -> None:
        """Begin to send a message, made by ``frame``, to one process."""
        for part in framed:
            with self._expected(to):
                work = dist.isend(part, to)
                assert work is not None  # this process is one of the group
                self._sending.append((work, part, to))

    def settle(self) -> None:
        """Wait until all that is being sent has arrived.

        Raises:
            Lost: a receiver has ended, or took nothing in time.
        """
        for work, _, to in self._sending:
            with self._expected(to):
                work.wait()
        self._sending.clear()

    def receive(self, source: int) -> bytes:
        """The next message of a process.

        Raises:
            Lost: it has ended, or sent nothing in time.
        """
        length = torch.empty(1, dtype=torch.int64)
        with self._expected(source):
            dist.recv(length, source)
            content = torch.empty(int(length), dtype=torch.uint8)
            if len(content):
                dist.recv(content, source)
        return content.numpy().tobytes()

    @contextmanager
    def _expected(self, other: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what torch makes of a closed connection, and of one that is silent
            how = f"sent and took nothing for {self.timeout:g} s" if "imed out" in str(error) else "has ended"
            raise Lost(
                f"process {other} of {self.size} {how}, so that process {self.rank} ends, too; {AGAIN}"
            ) from error


@contextmanager
def joined(timeout: float) -> Iterator[Group]:
    """This process in the group that torchrun's environment names (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).

    Args:
        timeout: seconds to wait for another process, at the start and at any time.

    Raises:
        Lost: not all came in time.
    """
    rank, size, wait = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timedelta(seconds=timeout)
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=wait))
        # torchrun keeps the store when it starts all again, and in it the addresses of processes that have ended
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=wait)
    except RuntimeError as error:
        raise Lost(
            f"process {rank} of {size}: not all others could be reached within {timeout:g} s; {AGAIN}"
        ) from error
    try:
        yield Group(rank, size, timeout)
    finally:
        dist.destroy_process_group()


def frame(message: bytes) -> tuple[Tensor, ...]:
    """What is sent of a message: its length, then its bytes."""
    length = torch.tensor([len(message)], dtype=torch.int64)
    return (length, torch.frombuffer(bytearray(message), dtype=torch.uint8)) if message else (length,)


def pack(content: Mapping[str, Any]) -> bytes:
    """Numbers, texts and tensors in dictionaries and lists, as bytes."""
    file = io.BytesIO()
    torch.save(dict(content), file)
    return file.getvalue()


def unpack(message: bytes, where: torch.device = CPU) -> dict[str, Any]:
    """The inverse of ``pack``; tensors come to the device ``where``."""
    content: dict[str, Any] = torch.load(io.BytesIO(message), map_location=where, weights_only=True)
    return content
