"""The whole way of ``gpu.py`` on a CPU, at a few steps: packed, killed, stopped, finished, brought home, imported.

The borrowed machine is a folder without git, made from the archive alone; home is another one, without any record of
the profile ``smoke``. The first program is killed at its first checkpoint, the second is asked to stop at the next one.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import parcels
import readme
from gpu_run import ROOT

from repro import files, machine
from repro.errors import ReproError
from repro.running import provenance

RESULTS = ROOT / "benchmarks/results/gpu_dry_run.json"
PROFILE = "smoke"
RUNS = ("lb-batch-vgg11-1024", "e3-gn-128", "e1-union-law")
LIMIT = 180  # processor seconds
LONGEST = 1200.0  # seconds to wait for a checkpoint


def _python(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """A program of the folder's own code, on the CPU, with one thread."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    quiet = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=kept | quiet, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _finished(program: subprocess.Popen[str], what: str, expected: int = 0) -> list[str]:
    said, _ = program.communicate()
    for line in said.splitlines():
        print(f"  {line}")
    if program.returncode != expected:
        raise ReproError(f"{what} ended with {program.returncode}; {expected} was expected; see above")
    return said.splitlines()


def _interrupted(program: subprocess.Popen[str], there: Path, by: signal.Signals) -> None:
    """Send ``program`` a signal as soon as there is a newer checkpoint."""

    def newest() -> int:
        with suppress(FileNotFoundError):  # that of a run which has just ended
            return max((path.stat().st_mtime_ns for path in (there / "data/checkpoints").rglob("*.pt")), default=0)
        return 0

    before, began = newest(), time.monotonic()
    while newest() <= before:
        if program.poll() is not None or time.monotonic() - began > LONGEST:
            raise ReproError(f"no checkpoint was written: {program.communicate()[0]}")
        time.sleep(0.01)
    program.send_signal(by)


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def rehearse(work: Path) -> dict[str, Any]:
    """All of it, in ``work``; what was seen."""
    parcel, there, home, out = (work / name for name in ("parcel", "there", "home", "out"))
    archive = parcels.pack_code(parcel, ROOT)
    parts = parcels.pack_data(parcel, 40.0, ROOT)
    for place in (there, home):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(place)
    _finished(_python("benchmarks/gpu.py", "unpack", str(parcel), folder=there), "unpacking")
    run = ["benchmarks/gpu.py", "run", str(out), "--profile", PROFILE, "--tiny", "--checkpoint-seconds", "0"]
    run += ["--minutes", "60", "--only", *RUNS]
    killed = _python(*run, folder=there)
    _interrupted(killed, there, signal.SIGKILL)
    _finished(killed, "the first program", -signal.SIGKILL)
    stopped = _python(*run, "--no-speed", folder=there)
    _interrupted(stopped, there, signal.SIGTERM)
    _finished(stopped, "the second program")
    pieces = sorted(path.name for path in out.glob("checkpoints.zip.*"))
    _finished(_python(*run, "--no-speed", folder=there), "the third program")
    parcels.take(out, work / "back")
    lines = _finished(_python("-m", "repro", "import", str(work / "back"), folder=home), "the import")
    paths = sorted((home / "data/provenance" / PROFILE).rglob("*.json"))
    return {
        "parts_mb": [round(sum(path.stat().st_size for path in part.iterdir()) / 1e6, 1) for part in parts],
        "code_mb": round(archive.stat().st_size / 1e6, 1),
        "pieces_of_checkpoints_when_stopped": len(pieces),
        "taken_in": sum(line.endswith("taken in") for line in lines),
        "interruptions": {path.stem: files.read_json(path)["interruptions"] for path in paths},
    }


def table(results: dict[str, Any]) -> str:
    """What was seen, in words."""
    of, seen = results["machine"], results["seen"]
    interruptions = ", ".join(f"{name} {count}" for name, count in seen["interruptions"].items() if count)
    return (
        f"The dry run packed the code ({seen['code_mb']} MB) and CIFAR-10 (parts of "
        f"{', '.join(map(str, seen['parts_mb']))} MB), unpacked both in a folder without git, where a run was killed, "
        f"stopped and finished (interruptions of a run: {interruptions}), and `repro import` took in "
        f"{seen['taken_in']} of {results['runs']} records: {results['cpu_s']} s of processor time "
        f"({'within' if results['cpu_s'] <= LIMIT else 'above'} {LIMIT}), {results['date']}, {of['device']} "
        f"({of['instructions']}), torch {of['torch']}, Python {of['python']}. No GPU was at hand.\n"
    )


def main() -> None:
    began = _cpu_seconds()
    with tempfile.TemporaryDirectory() as work:
        seen = rehearse(Path(work))
    if not seen["taken_in"] or max(seen["interruptions"].values()) < 1:
        raise ReproError(f"the dry run saw {seen}; records taken in, one of them interrupted, were expected")
    results = {
        "machine": machine.describe(), "code": provenance.CODE, "date": time.strftime("%Y-%m-%d"), "seen": seen,
        "runs": len(seen["interruptions"]), "cpu_s": round(_cpu_seconds() - began, 1), "limit_s": LIMIT,
    }  # fmt: skip
    readme.publish("gpu_dry_run", RESULTS, results, table(results))
    print(table(results))
