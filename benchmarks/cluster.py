"""A smoke sweep through Slurm and through Ray, with runs killed in the middle, against the local one; overhead.

    python benchmarks/cluster.py slurm     # a Slurm of one node, which it starts; one job requeued, one cancelled
    python benchmarks/cluster.py ray       # a local Ray with two workers, one of them killed
    python benchmarks/cluster.py dispatch  # 100 trivial runs with each executor

It works on copies of the checkout in a temporary folder. It needs what `pip install -e '.[cluster]'` installs, and for
Slurm Debian's slurm-wlm and munge.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import processes
import readme
import slurm_here
import yaml

from repro import files, machine
from repro.errors import ReproError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().with_name("results") / "cluster.json"
PROFILE = "smoke"
CHECKPOINT = "CHECKPOINT_SECONDS = 20.0"
LIMIT_SECONDS = 10.0
LONGER = 8
"""How many times longer runs train than at the profile, so that a kill meets them in the middle."""
PATIENCE = 3600.0
NOTHING = """

NO_DATA = {"name": None, "sha256": None, "reduced": None, "classes": 10}
KINDS["law"] = lambda job: job.record(data=NO_DATA, law={"x": 1.0})
"""
TRIVIAL = """
import sys, time
from pathlib import Path
from repro.registry import specs
from repro.running import sweep
if __name__ == "__main__":
    spec = specs.find("e1-union-law", "smoke")
    done = sweep.sweep([(spec, seed) for seed in range(1, 101)], jobs=2, executor=sys.argv[1])
    assert (done.computed, done.problems) == (100, ()), done
"""


def copy_of_checkout(folder: Path) -> Path:
    """Code, specs, recorded costs and prepared data in ``folder``, without records.

    Runs keep a checkpoint every half second instead of every 20 s: those of this profile end within seconds.
    """
    for name in ("repro", "pipelines", "data/manifests", "data/learning_rates", f"data/provenance/{PROFILE}"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "params.yaml", *(ROOT / "data").glob("*.*")):
        shutil.copy(path, folder / path.relative_to(ROOT))
    for name in ("raw", "prepared"):
        (folder / "data" / name).symlink_to((ROOT / "data" / name).resolve())
    runner = folder / "repro/running/runner.py"
    text = runner.read_text()
    assert CHECKPOINT in text, f"{runner} no longer holds {CHECKPOINT!r}"
    runner.write_text(text.replace(CHECKPOINT, "CHECKPOINT_SECONDS = 0.5"))
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def here(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """How a program is started whose code is that of ``folder``."""
    return {"cwd": folder, "env": dict(environment) | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}}


def bodies(folder: Path) -> dict[str, bytes]:
    """Every record, by its path."""
    place = folder / "data/records"
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(place.rglob("*.json"))}


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "data/checkpoints").rglob("*.pt"))


def until(found: Callable[[], Any], sweep: subprocess.Popen[str], what: str) -> Any:
    """What ``found`` gives, once it is not empty.

    Raises:
        ReproError: the sweep ended before, or it took too long.
    """
    deadline = time.monotonic() + PATIENCE
    while not (it := found()):
        if sweep.poll() is not None or time.monotonic() > deadline:
            raise ReproError(f"the sweep showed no {what} before its end; one was expected; see its output")
        time.sleep(0.05)
    return it


def swept(
    folder: Path, arguments: Sequence[str], environment: Mapping[str, str], meanwhile: Callable[[Any], None]
) -> str:
    """Sweep in ``folder``; what it said. ``meanwhile`` gets the process that does it.

    Raises:
        ReproError: it failed.
    """
    program = command("-m", "repro", "sweep", "--profile", PROFILE, *arguments)
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(program, stdout=said, stderr=said, text=True, **here(folder, environment)) as sweep,
    ):
        try:
            meanwhile(sweep)
            sweep.wait(PATIENCE)
        finally:
            if sweep.poll() is None:
                processes.stop(sweep)
            said.seek(0)
            text = said.read()
            if sweep.returncode:
                print(text, file=sys.stderr)
        if sweep.returncode:
            raise ReproError(f"the sweep in {folder} ended with {sweep.returncode}; 0 was expected; see above")
    return text


class Comparison:
    """Smoke runs of a source, each sweep in a copy of its own under ``place``; the local one is made once.

    Args:
        place: where the copies are; what is there from an earlier call is not computed again.
        source: whose runs are computed.
        runs: patterns of their ids.
        seeds: how many of the profile's seeds, from the first; None: all.
    """

    def __init__(self, place: Path, source: str, runs: Sequence[str], seeds: int | None) -> None:
        self.place, self.source, self.runs, self.seeds = place, source, runs, seeds

    def copy(self, name: str) -> Path:
        """A copy of the checkout with the runs and seeds of the source that were asked for, and longer trainings."""
        if (folder := self.place / name).exists():
            return folder
        copy_of_checkout(folder)
        planned, sizes = folder / f"pipelines/{self.source}.yaml", folder / f"pipelines/{PROFILE}/params.yaml"
        content = files.read_yaml(planned)
        content["runs"] = {run: it for run, it in content["runs"].items() if any(fnmatch(run, p) for p in self.runs)}
        planned.write_text(yaml.safe_dump(content))
        content = files.read_yaml(sizes)
        content[self.source]["seeds"] = content[self.source]["seeds"][: self.seeds]
        content[self.source]["sizes"]["epochs"] *= LONGER
        sizes.write_text(yaml.safe_dump(content))
        return folder

    def sweep(self, folder: Path, executor: str, *how: Any) -> str:
        """See ``swept``."""
        return swept(folder, ["--source", self.source, "--jobs", "2", "--executor", executor], *how)

    def with_executor(
        self, name: str, environment: Mapping[str, str], meanwhile: Callable[[Path, Any], None], out: list[str]
    ) -> dict[str, Any]:
        """How many records of the executor ``name`` equal the local ones, to the last byte.

        Raises:
            ReproError: not all, or no run went on from a checkpoint, or a sweep failed.
        """
        local, other = self.copy("local"), self.copy(name)
        said = self.sweep(other, name, environment, lambda sweep: meanwhile(other, sweep))
        for line in said.splitlines():
            if "started again" in line:
                say(out, line)
        self.sweep(local, "local", os.environ, lambda _: None)
        expected, found = bodies(local), bodies(other)
        equal = sum(found.get(path) == body for path, body in expected.items())
        provenances = [other / "data/provenance" / path for path in found]
        resumed = [path.stem for path in provenances if files.read_json(path).get("interruptions")]
        say(out, f"gone on from a checkpoint: {', '.join(resumed) or 'none'}")
        say(out, f"{equal} of {len(expected)} records of {name} byte-identical to the local ones")
        if not equal == len(expected) == len(found) or not resumed:
            raise ReproError(f"{name}: equal records, and a run that went on, were expected; see above")
        if logs := sorted((other / "data/logs").rglob("*.log")):
            say(out, f"{len(logs)} logs named by run, as {logs[0].relative_to(other)}")
        return {"records": len(found), "identical": equal, "resumed": resumed, "printed": out}


def say(out: list[str], line: str) -> None:
    print(line, flush=True)
    out.append(line)


def slurm(comparison: Comparison) -> dict[str, Any]:
    """The sweep through Slurm: one job is requeued while it computes, another one is cancelled."""
    out: list[str] = []
    with slurm_of_its_own() as environment:

        def control(*arguments: str) -> str:
            return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout

        def job_of(checkpoint: Path, folder: Path) -> str:
            """The job that writes a checkpoint, told by the name of its log."""
            log = folder / "data/logs" / checkpoint.relative_to(folder / "data/checkpoints").with_suffix(".log")
            return os.readlink(log).rpartition("/")[2].removesuffix("_0_log.out")

        def kill(folder: Path, sweep: Any) -> None:
            first = until(lambda: checkpoints(folder), sweep, "checkpoint")[0]
            job = job_of(first, folder)
            control("scontrol", "requeue", job)
            say(out, f"scontrol requeue {job} while it computed {first.stem}")
            other = until(
                lambda: [each for each in checkpoints(folder) if job_of(each, folder) != job], sweep, "second job"
            )[0]
            control("scancel", job_of(other, folder))
            say(out, f"scancel {job_of(other, folder)} while it computed {other.stem}")

        found = comparison.with_executor("submitit", environment, kill, out)
        slurm_version = control("srun", "--version").split()[-1]
    return found | {"versions": {"slurm": slurm_version, "submitit": version("submitit")}}


@contextmanager
def slurm_of_its_own() -> Iterator[dict[str, str]]:
    if lacking := slurm_here.missing():
        raise ReproError(f"{lacking}; a machine with Slurm was expected")
    with tempfile.TemporaryDirectory() as folder, slurm_here.slurm(Path(folder)) as environment:
        yield environment


def ray(comparison: Comparison) -> dict[str, Any]:
    """The sweep through a local Ray of two workers, one of which is killed while both compute."""
    out: list[str] = []

    def workers(pid: int) -> list[int]:
        names = ((each, Path(f"/proc/{each}/cmdline").read_bytes()) for each in processes.tree(pid))
        return [each for each, name in names if name.startswith(b"ray::caught")]

    def kill(folder: Path, sweep: Any) -> None:
        both = until(lambda: len(checkpoints(folder)) == 2 and workers(sweep.pid), sweep, "two runs at once")
        computed = " and ".join(each.stem for each in checkpoints(folder))
        say(out, f"kill -9 of one of {len(both)} workers while they computed {computed}")
        os.kill(both[0], signal.SIGKILL)

    found = comparison.with_executor("ray", os.environ, kill, out)
    return found | {"versions": {"ray": version("ray")}}


def dispatch(repetitions: int) -> dict[str, Any]:
    """Seconds of 100 trivial runs in two processes, from the start of the program to its end, with each executor."""
    out: list[str] = []
    seconds: dict[str, list[float]] = {"local": [], "submitit": [], "ray": []}
    with slurm_of_its_own() as environment, tempfile.TemporaryDirectory() as place:
        for repetition in range(repetitions):
            for name, taken in seconds.items():
                folder = copy_of_checkout(Path(place) / f"{name}{repetition}")
                with (folder / "repro/running/runner.py").open("a") as runner:
                    runner.write(NOTHING)
                (folder / "trivial.py").write_text(TRIVIAL)
                started, cpu = time.monotonic(), processes.cpu_seconds(os.getpid())
                subprocess.run(command("trivial.py", name), check=True, **here(folder, environment))
                taken.append(round(time.monotonic() - started, 1))
                cpu = processes.cpu_seconds(os.getpid()) - cpu
                say(out, f"100 trivial runs, {name}: {taken[-1]} s, of processors {cpu:.1f} s")
    above = {
        name: round(statistics.median(taken) - statistics.median(seconds["local"]), 1)
        for name, taken in seconds.items()
    }
    for name in ("submitit", "ray"):
        holds = "holds" if above[name] <= LIMIT_SECONDS else "fails"
        say(out, f"{name}: {above[name]:+} s against the local pool (limit {LIMIT_SECONDS:g} s: {holds})")
    return {"seconds": seconds, "above": above, "limit": LIMIT_SECONDS, "printed": out}


def text(results: Mapping[str, Any]) -> str:
    """The part of README.md: what each part printed, and on what."""
    parts = []
    for name in ("slurm", "ray", "dispatch"):
        if name in results:
            found = results[name]
            versions = "".join(f", {package} {number}" for package, number in found.get("versions", {}).items())
            made = f"{found['date']}, {found['machine']}{versions}, load of the minute before {found['load']}"
            parts.append("\n".join([f"`cluster.py {name}`; {made}:", "", "```", *found["printed"], "```"]))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=("slurm", "ray", "dispatch"), metavar="slurm, ray, dispatch")
    parser.add_argument("--source", default="e3", help="whose smoke runs are computed (default: %(default)s)")
    parser.add_argument("--runs", nargs="+", default=["*"], metavar="RUN", help="patterns of their ids (default: all)")
    parser.add_argument("--seeds", type=int, help="of the profile's seeds so many (default: all)")
    about_place = "folder for the copies, kept; what is there is not computed again (default: a temporary one)"
    parser.add_argument("--place", type=Path, help=about_place)
    parser.add_argument("--repetitions", type=int, default=3, help="of what is timed (default: %(default)s)")
    options = parser.parse_args(arguments)
    processes.end_with_children()
    about = machine.describe()
    where = f"{about['device']}, {machine.usable_cores()} cores, torch {about['torch']}, Python {about['python']}"
    with tempfile.TemporaryDirectory() as place:
        comparison = Comparison(options.place or Path(place), options.source, options.runs, options.seeds)
        for part in options.parts:
            made = {"date": time.strftime("%Y-%m-%d"), "load": round(os.getloadavg()[0], 2), "machine": where}
            if part == "dispatch":
                found = dispatch(options.repetitions)
            else:
                found = {"slurm": slurm, "ray": ray}[part](comparison)
            results = (files.read_json(RESULTS) if RESULTS.exists() else {}) | {part: found | made}
            readme.publish("cluster", RESULTS, results, text(results))


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
