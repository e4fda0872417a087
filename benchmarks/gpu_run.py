"""What ``gpu.py`` does: it measures, and computes records until its time is over."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gpu_speed
import parcels

from repro import files, machine
from repro.errors import ReproError
from repro.registry import specs, store
from repro.registry.specs import Spec
from repro.running import provenance, runner

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/gpu.json"
PROFILE = "paper"
CHECKPOINT_SECONDS = 10.0
ORDER: tuple[tuple[str, str, str, str], ...] = (  # what for, source, group, pattern of run ids
    ("lb.fig3 and lb.fig6, batch 1024", "lb", "artefact", r"lb-batch-(resnet50|vgg11|alexnet)-1024"),
    ("lb.fig7", "lb", "artefact", r"lb-step-(resnet50|vgg11)-t05-x(2|4|8|16)"),
    ("e3.table1", "e3", "artefact", r"e3-(gn|ln|in|fixup)-(128|1024|2048)(-slow|-short|-linear)?"),
    ("e1, learning rates", "e1", "grid", r"e1-grid-.*"),
    ("e1", "e1", "artefact", r"e1-.*"),
)
WORK = {"vgg11": 0.15, "resnet18": 0.56, "resnet50": 1.3}  # GFLOP of an image of 32 px, forward, at width 64
MARGIN = 1.2  # of a run's time over that of its steps: evaluations, checkpoints
SPEED_SHARE = 0.4  # of the time that measuring may take
Task = tuple[Spec, int]


class Stopped(Exception):
    """Time is up, or the machine is wanted back."""


class Clock:
    """The time that is left; a SIGTERM or Ctrl-C ends it."""

    def __init__(self, minutes: float) -> None:
        self.ends, self.stopped = time.monotonic() + 60 * minutes, False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopped = True

    @property
    def left(self) -> float:
        """Seconds."""
        return 0.0 if self.stopped else max(0.0, self.ends - time.monotonic())

    def check(self, _: float = 0.0) -> None:
        """Raise Stopped if nothing is left; a run calls it after every step."""
        if not self.left:
            raise Stopped


def planned(profile: str = PROFILE, only: Sequence[str] = (), root: Path = ROOT) -> Iterator[list[Task]]:
    """Runs and seeds that are wanted, one list for each entry of ``ORDER``; those that wait for a rate are left out."""
    for _, source, group, pattern in ORDER:
        tasks, _ = specs.runs_and_waiting(source, profile, group, root)
        chosen = [task for task in tasks if re.fullmatch(pattern, task[0].run) and (not only or task[0].run in only)]
        yield sorted(chosen, key=lambda task: (task[1], WORK.get(task[0].model, 9.0) * task[0].epochs))


class Records:
    """Full-scale records, as many as the time allows."""

    def __init__(self, clock: Clock, profile: str, only: Sequence[str], checkpoint_seconds: float) -> None:
        self.clock, self.checkpoint_seconds = clock, checkpoint_seconds
        todo = [task for tasks in planned(profile, only) for task in tasks if store.stored(*task, ROOT) is None]
        begun = [task for task in todo if runner.checkpoint_path(*task, ROOT).exists()]
        self.todo = begun + [task for task in todo if task not in begun]
        self._seconds_of_image: dict[tuple[Any, ...], float] = {}
        self.lines: list[str] = []

    def compute(self) -> Iterator[str]:
        """Compute them; a line after each that has ended, in whatever way.

        Raises:
            Stopped: time is up.
        """
        for surely in (True, False):
            for task in list(self.todo):
                self.clock.check()
                if surely and self._estimate(*task) > self.clock.left:
                    continue
                self.todo.remove(task)
                yield self._one(*task)

    def _estimate(self, spec: Spec, seed: int) -> float:
        """Seconds that a run takes from its start; infinite where nothing tells."""
        if runner.checkpoint_path(spec, seed, ROOT).exists() or spec.kind == "law":
            return 0.0
        if spec.kind != "train" or spec.method != "central":
            return float("inf")
        like = (spec.dataset, spec.model, spec.width, spec.norm, spec.local_batch, spec.image_size)
        if like not in self._seconds_of_image:
            try:
                self._seconds_of_image[like] = gpu_speed.seconds_of_image(spec, ROOT)
            except (ReproError, RuntimeError) as error:
                print(f"{spec.run}: {_first_line(error)}", flush=True)
                self._seconds_of_image[like] = float("inf")
        return MARGIN * spec.epochs * spec.train_images * self._seconds_of_image[like]

    def _one(self, spec: Spec, seed: int) -> str:
        began = time.monotonic()
        try:
            record, of = runner.run(
                spec, seed, ROOT, checkpoint_seconds=self.checkpoint_seconds, report=self.clock.check
            )
        except (ReproError, RuntimeError) as error:  # out of memory, say; the others go on
            return f"{spec.run} seed {seed} failed: {_first_line(error)}"
        runner.save(record, of, ROOT)
        return f"{spec.run} seed {seed}: {record.status} in {time.monotonic() - began:.0f} s here"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def run(options: argparse.Namespace) -> None:
    """Measure, then compute records; everything that is there when time is up lies in the folder."""
    clock = Clock(options.minutes)
    parcels.adopt_commit(ROOT)
    runner.make_reproducible()
    sizes = gpu_speed.TINY if options.tiny else gpu_speed.FULL
    path = options.folder / "gpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "machine": machine.describe(), "code": provenance.CODE, "date": time.strftime("%Y-%m-%d"), "sizes": vars(sizes),
        "speed": {}, "records": [],
    }  # fmt: skip

    def keep(checkpoints: bool = False) -> None:
        files.write_atomic(path, files.canonical_json(results))
        parcels.gather(options.folder, ROOT, options.profile, options.piece_mb if checkpoints else None)

    records = Records(clock, options.profile, options.only, options.checkpoint_seconds)
    try:
        for name, found in gpu_speed.measure(sizes, ROOT) if not options.no_speed else ():
            results["speed"][name] = found
            print(f"{name}: {found}", flush=True)
            keep()
            if clock.left < (1 - SPEED_SHARE) * 60 * options.minutes:
                print("measuring has had its share of the time; the rest is left out", flush=True)
                break
        for line in records.compute():
            results["records"].append(line)
            print(line, flush=True)
            keep()
    except Stopped:
        print(f"stopped; {len(records.todo)} runs were not begun; the same command goes on", flush=True)
    keep(checkpoints=True)


def finish(folder: Path, into: Path) -> None:
    """At home: unpack what came back; where a GPU measured, publish that."""
    names = parcels.take(folder, into)
    path = folder / "gpu.json"
    print(f"{into}: {len(names)} files; `python -m repro import {into}` takes the records in")
    found = files.read_json(path)
    if found["sizes"] == vars(gpu_speed.FULL) and found["speed"]:
        import readme

        readme.publish("gpu", RESULTS, found, gpu_speed.table(found))


def main(doc: str, arguments: Sequence[str] | None = None) -> None:
    """The command line, which ``doc`` explains."""
    try:
        _command(_options(doc, arguments))
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)


def _options(doc: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="prove the whole way on this machine's CPU")
    commands = parser.add_subparsers(dest="command")
    pack = commands.add_parser("pack", help="at home: write what the borrowed machine needs")
    pack.add_argument("folder", type=Path, nargs="?", default=ROOT / "parcel", help="(default: parcel)")
    pack.add_argument("--part-mb", type=float, default=40.0, help="largest part of the data (default: %(default)g)")
    commands.add_parser("unpack", help="there: make the data from its parts").add_argument("folder", type=Path)
    there = commands.add_parser("run", help="there: measure, and compute records")
    there.add_argument("folder", type=Path, help="where results are written")
    there.add_argument("--minutes", type=float, default=8.0, help="in all (default: %(default)g)")
    there.add_argument("--piece-mb", type=float, default=15.0, help="largest piece of checkpoints (%(default)g)")
    there.add_argument("--no-speed", action="store_true", help="records alone")
    there.add_argument("--profile", default=PROFILE, choices=specs.PROFILES)
    there.add_argument("--only", nargs="+", default=[], metavar="RUN", help="these runs alone")
    there.add_argument("--tiny", action="store_true", help="measure at sizes for a CPU: its figures mean nothing")
    there.add_argument("--checkpoint-seconds", type=float, default=CHECKPOINT_SECONDS, help=argparse.SUPPRESS)
    back = commands.add_parser("take", help="at home: unpack what came back")
    back.add_argument("folder", type=Path)
    back.add_argument("into", type=Path)
    options = parser.parse_args(arguments)
    if not (options.dry_run or options.command):
        parser.error("pack, unpack, run, take or --dry-run was expected")
    return options


def _command(options: argparse.Namespace) -> None:
    if options.dry_run:
        import gpu_dry_run

        gpu_dry_run.main()
    elif options.command == "pack":
        parcels.pack_code(options.folder, ROOT)
        parts = parcels.pack_data(options.folder, options.part_mb, ROOT)
        print(f"{options.folder}: code.zip and {len(parts)} parts of the data")
    elif options.command == "unpack":
        print(f"CIFAR-10 is as data/manifests states: {parcels.unpack_data(options.folder, ROOT)}")
    elif options.command == "run":
        run(options)
    else:
        finish(options.folder, options.into)
