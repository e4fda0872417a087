"""Processes that execute one task after the other, each of which may be killed without harm to the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Self, cast

Answer = str | Exception | None
"""What a task returned or raised; None: its process ended before it answered."""


class _Worker(NamedTuple):
    process: multiprocessing.process.BaseProcess
    end: Connection


class Workers:
    """A pool whose processes start when they are needed. A context: when it is left, those that still work are ended.

    Ctrl-C is this process's business alone; the workers do not hear it.

    Args:
        work: a module's function that returns a line.
        renew: a process executes one task only.
    """

    remedy = "run the sweep again with fewer --jobs"
    at_once: int | None = None

    def __init__(self, work: Callable[..., str], *, renew: bool = False) -> None:
        self._work, self._renew = work, renew
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[int, _Worker]] = {}
        self._submitted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *(worker for _, worker in self._busy.values())]:
            worker.process.terminate()
            worker.process.join()
            worker.end.close()

    def submit(self, *arguments: Any) -> int:
        """Give a task to a free process, or to a new one; returned is its number."""
        worker = self._idle.pop() if self._idle else self._started()
        self._submitted += 1
        self._busy[worker.end] = self._submitted, worker
        with suppress(BrokenPipeError):  # the process has died; ``answers`` will say so
            worker.end.send(arguments)
        return self._submitted

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Wait until a task ends; the numbers and answers of those that have."""
        for end in cast("list[Connection]", wait(list(self._busy))):
            number, worker = self._busy.pop(end)
            try:
                answer: Answer = end.recv()
            except (EOFError, ConnectionResetError):
                answer = None
            if answer is None or self._renew:
                end.close()
                worker.process.join()
            else:
                self._idle.append(worker)
            yield number, answer

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, theirs, os.getpid()))
        with _deaf_to_interrupts():
            process.start()
        theirs.close()
        return _Worker(process, ours)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started within never hear Ctrl-C, not even while they still import."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(work: Callable[..., str], end: Connection, parent: int) -> None:
    start_worker(parent)
    while True:
        try:
            arguments = end.recv()
        except EOFError:
            return
        try:
            answer: str | Exception = work(*arguments)
        except Exception as error:  # whatever a run met, the others go on
            answer = error
        try:
            end.send(answer)
        except BrokenPipeError:
            return
        except Exception:  # an exception that cannot be pickled
            end.send(RuntimeError(f"{type(answer).__name__}: {answer}"))


def start_worker(parent: int) -> None:
    """Import torch once, and end with the parent: a killed sweep must not leave runs behind that nobody waits for."""
    import torch

    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
