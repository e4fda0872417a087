"""The command line, ``python -m repro``: the arguments of every command; what they do is in ``repro/commands``.

The name of a command is that of its module, whose ``run(options, root)`` returns the exit code. It is imported when the
command runs, so that each command loads only what it needs.
"""

from __future__ import annotations

import argparse
import codecs
import io
import keyword
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from repro import __version__
from repro.commands import checkout
from repro.errors import ReproError
from repro.registry import specs

LARGEST_SEED = 2**32 - 1
EXECUTORS = ("local", "submitit", "ray")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: done, and the answer is no (a run failed or diverged, a repetition differs, a check fails);
    2: bad input or missing data, said in one line; 130: interrupted.
    """
    _print_in_any_encoding()
    try:
        code = _run(parser().parse_args(arguments))
        sys.stdout.flush()
        return code
    except ReproError as error:
        return _end(str(error))
    except BrokenPipeError:  # the reader has enough, as `head` does; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        return _end(f"{name}{error.strerror or error}; a file or folder that can be used was expected; mend it")
    except KeyboardInterrupt:
        return _end("interrupted; finished runs are kept, unfinished ones go on from their checkpoint", 130)


def _run(options: argparse.Namespace) -> int:
    if options.command is None:
        parser().print_help()
        return 0
    root = checkout.root()
    if getattr(options, "profile", "") is None:
        options.profile = specs.default_profile(root)
    elif hasattr(options, "profile"):
        specs.params_path(options.profile, root)
    module = options.command + "_" * keyword.iskeyword(options.command)  # import_ for import
    return int(import_module(f"repro.commands.{module}").run(options, root))


def _end(said: str, code: int = 2) -> int:
    print(f"repro: {_one_line(said)}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


# How text is printed -------------------------------------------------------------------------------------------

_ASCII = {"−": "-", "–": "-", "→": "->", "≤": "<=", "≥": ">=", "×": "x", "±": "+-", "·": "*", "’": "'"}


def _print_in_any_encoding() -> None:
    """Write what the encoding of the terminal lacks as the nearest ASCII text, instead of failing."""
    codecs.register_error("repro.nearest", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="repro.nearest")


def _nearest(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    near = "".join(_ASCII.get(letter, unicodedata.normalize("NFKD", letter)) for letter in lacking)
    return near.encode("ascii", "replace").decode(), error.end


# Arguments -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {_one_line(message)}; `{self.prog} --help` explains the arguments\n")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from ``least`` up, to ``most``.

    >>> whole(1)("12")
    12
    """
    expected = f"a whole number from {least} up" if most is None else f"a whole number from {least} to {most}"
    limit = sys.maxsize if most is None else most

    def number(text: str) -> int:
        fits = text.isdecimal() and len(text) <= 20 and least <= int(text) <= limit
        if not fits:
            raise argparse.ArgumentTypeError(f"{text!r}; {expected} was expected")
        return int(text)

    return number


def seconds(text: str) -> float:
    """An argparse type: seconds, from 0 up."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; seconds from 0 up were expected")
    return found


class _Commands:
    """The commands of a parser, and the arguments that several of them have."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._added = parser.add_subparsers(metavar="COMMAND")

    def add(self, name: str, text: str, *shared: Callable[[argparse.ArgumentParser], Any]) -> argparse.ArgumentParser:
        made = self._added.add_parser(name, help=text, description=text)
        made.set_defaults(command=name)
        for argument in shared:
            argument(made)
        return made


def _profile(made: argparse.ArgumentParser) -> None:
    made.add_argument("--profile", metavar="P", help="smoke, study or paper (default: that of params.yaml)")


def _source(made: argparse.ArgumentParser) -> None:
    made.add_argument("--source", choices=specs.SOURCES, help="one post or paper")


def _json(made: argparse.ArgumentParser) -> None:
    made.add_argument("--json", action="store_true", help="print JSON for programs")


def _only(made: argparse.ArgumentParser) -> None:
    text = "recorded: only runs that were run before, where their record is stale or gone (default: all)"
    made.add_argument("--only", choices=("all", "recorded"), default="all", help=text)


def _gpus(text: str) -> float:
    """An argparse type: GPUs of a run, from 0 up; below 1, runs share one."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not (0 <= found <= 64 and (found <= 1 or found.is_integer())):
        raise argparse.ArgumentTypeError(f"{text!r}; a share of a GPU from 0 to 1, or a whole number, was expected")
    return found


def _ids(what: str, default: str = "all") -> Callable[[argparse.ArgumentParser], None]:
    def ids(made: argparse.ArgumentParser) -> None:
        made.add_argument("ids", nargs="*", metavar="ID", help=f"ids of {what} (default: {default})")

    return ids


def _run_and_seed(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", metavar="RUN", help="run id; `repro list` shows all")
    made.add_argument("--seed", type=whole(0, LARGEST_SEED), help="seed (default: the first of the profile)")
    text = "processes for the clients of federated averaging (default 1)"
    made.add_argument("--processes", type=whole(1, _most_processes()), default=1, help=text)


def _timeout(made: argparse.ArgumentParser) -> None:
    text = "under torchrun: end when another process is silent this long (default 1800; longer than any round)"
    made.add_argument("--timeout", type=seconds, default=1800.0, metavar="SECONDS", help=text)


def _jobs(made: argparse.ArgumentParser) -> None:
    made.add_argument("--jobs", type=whole(1, _most_processes()), help="processes (default: one per core)")


def _most_processes() -> int:
    return 4 * (os.cpu_count() or 1)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``command`` of what it gives is the name of the command, or None."""
    made = _Parser(prog="repro", description="Large-batch and federated training at the edge, reproduced.")
    made.add_argument("--version", action="version", version=f"repro {__version__}")
    made.set_defaults(command=None)
    commands = _Commands(made)
    _add_runs(commands)
    _add_results(commands)
    _add_advise(commands)
    _add_checks(commands)
    return made


def _add_runs(commands: _Commands) -> None:
    """What computes records, and what that costs."""
    listed = _ids("artefacts, runs or statements")
    commands.add("list", "artefacts, runs and statements, with their ids and state", _profile, listed, _source, _json)
    data = commands.add("data", "fetch and prepare data sets, and write their manifests")
    text = "data sets (default: what all but the measurements of lb need)"
    data.add_argument("names", nargs="*", metavar="NAME", help=text)
    text = "one run, one record; under torchrun its server and clients are processes of their own"
    commands.add("run", text, _profile, _run_and_seed, _timeout)
    sweep = commands.add("sweep", "all runs that have no valid record, one process per core", _profile, _source)
    text = "which runs (default: the artefacts')"
    sweep.add_argument("--group", choices=specs.GROUPS, default="artefact", help=text)
    text = "where runs are computed: processes here (default), Slurm, or Ray; the others need the extra `cluster`"
    sweep.add_argument("--executor", choices=EXECUTORS, default=EXECUTORS[0], help=text)
    text = "processes (default: one per core); on a cluster, most jobs at a time (default: all)"
    sweep.add_argument("--jobs", type=whole(1, 100_000), metavar="N", help=text)
    text = "GPUs of each run on a cluster (default 0); below 1 with ray, runs share one"
    sweep.add_argument("--gpus", type=_gpus, default=0.0, metavar="N", help=text)
    sweep.add_argument("--time-budget", type=seconds, metavar="SECONDS", help="start no further run after this time")
    _only(sweep)
    text = "the whole study, learning rates included: group by group (data/study.yaml), seed by seed"
    sweep.add_argument("--in-order", action="store_true", help=text)
    commands.add("tune", "choose learning rates from the finished grids and store them", _profile, _source, _only)
    text = "what runs will cost, from recorded runs; of the study: what it has cost and what is left"
    ids = _ids("figures, tables, statements or runs", "all runs")
    plan = commands.add("plan", text, _profile, ids, _source, _json)
    text = "what to ask a cluster for: jobs, time limits and memory of the runs that have no valid record"
    plan.add_argument("--executor", choices=EXECUTORS[1:], help=text)


def _add_results(commands: _Commands) -> None:
    """What shows records."""
    ids = _ids("artefacts", "all of the source and group")
    render = commands.add("render", "draw figures and tables from records", _profile, ids, _source)
    text = "drawn from which runs (default: the artefacts')"
    render.add_argument("--group", choices=("artefact", "control"), default="artefact", help=text)
    notebook = commands.add("notebook", "execute a notebook and write it with its outputs", _profile)
    notebook.add_argument("name", metavar="NAME", help="file name in notebooks/, without .ipynb")
    text = "every statement: published, ours with interval and n, verdict"
    verdicts = commands.add("verdicts", text, _profile, _ids("statements"), _source, _json)
    verdicts.add_argument("--write", action="store_true", help="store them under figures/")
    text = "what came out, from the stored verdicts; where the book is; how to check a number"
    commands.add("summary", text, _profile)
    text = "the records of a profile as one table, a row a run and seed"
    export = commands.add("export", text, _profile, _json)
    export.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where it is written (default: printed)")
    export.add_argument("--csv", action="store_true", help="print CSV (default)")
    text = "a row for each evaluation, message and measurement"
    export.add_argument("--evaluations", action="store_true", help=text)
    commands.add("book", "write the site that a reviewer opens, and the headline verdicts in README.md", _profile)
    commands.add("arithmetic", "the sources' own arithmetic, done again", _json)
    commands.add("pipelines", "write the files of DVC from what the code declares")


def _add_advise(commands: _Commands) -> None:
    advise = commands.add("advise", "largest and fastest batch for a network on a device", _profile, _json)
    argument = advise.add_argument
    argument("--model", required=True, help="network, as in repro.models.build")
    argument("--data", required=True, metavar="NAME", help="data set with a manifest")
    text = (
        "what the process may use; on a GPU what torch may reserve there, without the driver's context (some hundred "
        "MB) and the images, which stay with the host"
    )
    argument("--memory", required=True, metavar="8GiB", help=text)
    argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    argument("--width", type=whole(1, 256), help="base width (default: the profile's, not full size)")
    argument("--image-size", type=whole(4, 1024), metavar="PX", help="pixels (default: the profile's)")
    argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    argument("--clients", type=whole(1, 1000), metavar="N", help="number of clients, with --speeds or --links")
    argument("--speeds", metavar="1,1,0.5", help="of the clients, relative to this device; repeated if fewer")
    argument("--links", metavar="NAMES", help="their links by name (pipelines/e2.yaml), separated by commas")
    text = "steps between synchronisations (default 1)"
    argument("--every", type=whole(1, 10**6), default=1, metavar="H", help=text)
    argument("--probe", action="store_true", help="measure here first, some minutes")
    argument("--check", action="store_true", help="really train at the advised batch and at twice that")


def _add_checks(commands: _Commands) -> None:
    """What a reviewer runs."""
    commands.add("rerun", "run again and compare with the stored record", _profile, _run_and_seed, _json)
    audit = commands.add("audit", "rerun N records drawn at random, of all profiles, and compare", _json)
    audit.add_argument("-n", type=whole(1, 10**6), default=3, metavar="N", help="how many (default 3)")
    text = "seed of the draw, to repeat it (default: a new one)"
    audit.add_argument("--draw", type=whole(0, LARGEST_SEED), metavar="SEED", help=text)
    text = (
        "the reviewer's check: laws, definitions, arithmetic and verdicts again, and of every statement the quickest "
        "run, compared with its record"
    )
    verify = commands.add("verify", text, _profile, _jobs, _json)
    text = "start no run that would end after this time (default 1500)"
    verify.add_argument("--time-budget", type=seconds, default=1500.0, metavar="SECONDS", help=text)
    text = "does all that the published statements name exist: runs, figures, notebook, verdicts"
    check = commands.add("check", text, _profile)
    text = "refuse also what has no run or no valid record"
    check.add_argument("--complete", action="store_true", help=text)
    text = "take in records made elsewhere, on another machine or a borrowed GPU, each checked or refused in a line"
    taken = commands.add("import", text)
    taken.add_argument("folder", metavar="FOLDER", help="holds data/records and data/provenance, as a checkout does")
    taken.add_argument("--dry-run", action="store_true", help="check, and write nothing")
