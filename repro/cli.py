"""``python -m repro``: everything the package can do, one command each."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from repro import __version__, files
from repro.errors import ReproError, did_you_mean
from repro.registry import order, specs, store
from repro.results.records import Record

ROOT = Path()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: done, and the answer is no (a run failed or diverged, a repetition differs, a check fails);
    2: bad input or missing data, said in one line.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command is _help:
            return _help(options)
        if not (ROOT / "params.yaml").exists():
            raise ReproError("no params.yaml here; run from the root of the repository")
        if getattr(options, "profile", "") is None:
            options.profile = specs.default_profile(ROOT)
        elif hasattr(options, "profile"):
            specs.params_path(options.profile, ROOT)
        return int(options.command(options))
    except ReproError as error:
        print(f"repro: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "repro: interrupted; finished runs are kept, unfinished ones go on from their checkpoint",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 0


def _help(options: Any) -> int:
    """What can be done, where no command was named."""
    _parser().print_help()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="repro", description="Large-batch and federated training at the edge, reproduced."
    )
    parser.add_argument("--version", action="version", version=f"repro {__version__}")
    parser.set_defaults(command=_help)
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, command: Callable[[Any], int], text: str, *, profile: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        if profile:
            made.add_argument("--profile", metavar="P", help="smoke, study or paper (default: that of params.yaml)")
        return made

    def source(made: argparse.ArgumentParser, default: str | None = None) -> None:
        made.add_argument("--source", choices=specs.SOURCES, default=default, help="one post or paper")

    def as_json(made: argparse.ArgumentParser) -> None:
        made.add_argument("--json", action="store_true", help="print JSON for programs")

    def only(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--only",
            choices=("all", "recorded"),
            default="all",
            help="recorded: only runs that were run before, where their record is stale or gone (default: all)",
        )

    def ids(made: argparse.ArgumentParser, what: str) -> None:
        made.add_argument("ids", nargs="*", metavar="ID", help=f"ids of {what} (default: all)")

    made = add("list", _list, "artefacts, runs and statements, with their ids and state")
    ids(made, "artefacts, runs or statements")
    source(made)
    as_json(made)

    made = add("data", _data, "fetch and prepare data sets, and write their manifests", profile=False)
    made.add_argument(
        "names", nargs="*", metavar="NAME", help="data sets (default: what all but the measurements of lb need)"
    )

    made = add("run", _run, "one run, one record")
    made.add_argument("run", metavar="RUN", help="run id; `repro list` shows all")
    made.add_argument("--seed", type=_whole(0), help="seed (default: the first of the profile)")
    made.add_argument("--processes", type=_whole(1), default=1, help="processes for the clients of federated averaging")

    made = add("sweep", _sweep, "all runs that have no valid record, one process per core")
    source(made)
    made.add_argument("--group", choices=specs.GROUPS, default="artefact", help="which runs (default: the artefacts')")
    made.add_argument("--jobs", type=_whole(1), help="processes (default: one per core)")
    made.add_argument("--time-budget", type=_seconds, metavar="SECONDS", help="start no further run after this time")
    only(made)
    made.add_argument(
        "--in-order",
        action="store_true",
        help="the whole study, learning rates included: group by group (data/study.yaml), seed by seed",
    )

    made = add("tune", _tune, "choose learning rates from the finished grids and store them")
    source(made)
    only(made)

    made = add("rerun", _rerun, "run again and compare with the stored record")
    made.add_argument("run", metavar="RUN")
    made.add_argument("--seed", type=_whole(0), help="seed (default: the first of the profile)")
    made.add_argument("--processes", type=_whole(1), default=1, help="processes for the clients of federated averaging")
    as_json(made)

    made = add("audit", _audit, "rerun N records drawn at random, of all profiles, and compare", profile=False)
    made.add_argument("-n", type=_whole(1), default=3, metavar="N", help="how many (default 3)")
    made.add_argument("--draw", type=int, metavar="SEED", help="seed of the draw, to repeat it (default: a new one)")
    as_json(made)

    made = add(
        "verify",
        _verify,
        "the reviewer's check: laws, definitions, arithmetic and verdicts again, and of every statement the quickest "
        "run, compared with its record",
    )
    made.add_argument(
        "--time-budget", type=_seconds, default=1500.0, metavar="SECONDS",
        help="start no run that would end after this time (default 1500)",
    )  # fmt: skip
    made.add_argument("--jobs", type=_whole(1), help="processes (default: one per core)")
    as_json(made)

    made = add(
        "plan", _plan, "what runs will cost, from recorded runs; of the study: what it has cost and what is left"
    )
    made.add_argument("ids", nargs="*", metavar="ID", help="figures, tables, statements or runs (default: all runs)")
    source(made)
    as_json(made)

    made = add("render", _render, "draw figures and tables from records")
    made.add_argument("ids", nargs="*", metavar="ID", help="artefact ids (default: all of the source and group)")
    source(made)
    made.add_argument("--group", choices=("artefact", "control"), default="artefact", help="drawn from which runs")

    made = add("notebook", _notebook, "execute a notebook and write it with its outputs")
    made.add_argument("name", metavar="NAME", help="file name in notebooks/, without .ipynb")

    made = add("verdicts", _verdicts, "every statement: published, ours with interval and n, verdict")
    ids(made, "statements")
    source(made)
    made.add_argument("--write", action="store_true", help="store them under figures/")
    as_json(made)

    add("summary", _summary, "what came out, from the stored verdicts; where the book is; how to check a number")

    made = add("advise", _advise, "largest and fastest batch for a network on a device")
    made.add_argument("--model", required=True, help="network, as in repro.models.build")
    made.add_argument("--data", required=True, metavar="NAME", help="data set with a manifest")
    made.add_argument(
        "--memory",
        required=True,
        metavar="8GiB",
        help="what the process may use; on a GPU what torch may reserve there, without the driver's context (some "
        "hundred MB) and the images, which stay with the host",
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    made.add_argument("--width", type=_whole(1), help="base width (default: the profile's, not full size)")
    made.add_argument("--image-size", type=_whole(4), metavar="PX", help="pixels (default: the profile's)")
    made.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    made.add_argument("--clients", type=_whole(1), metavar="N", help="number of clients, with --speeds or --links")
    made.add_argument("--speeds", metavar="1,1,0.5", help="of the clients, relative to this device; repeated if fewer")
    made.add_argument("--links", metavar="NAMES", help="their links by name (pipelines/e2.yaml), separated by commas")
    made.add_argument(
        "--every", type=_whole(1), default=1, metavar="H", help="steps between synchronisations (default 1)"
    )
    made.add_argument("--probe", action="store_true", help="measure here first, some minutes")
    made.add_argument("--check", action="store_true", help="really train at the advised batch and at twice that")
    as_json(made)

    add("book", _book, "write the site that a reviewer opens, and the headline verdicts in README.md")

    made = add("arithmetic", _arithmetic, "the sources' own arithmetic, done again", profile=False)
    as_json(made)

    made = add("check", _check, "does all that the published statements name exist: runs, figures, notebook, verdicts")
    made.add_argument("--complete", action="store_true", help="refuse also what has no run or no valid record")
    return parser


# ---------------------------------------------------------------------------------------------- helpers


def _whole(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number from ``least`` up."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; a whole number from {least} up was expected")
        return int(text)

    return number


def _seconds(text: str) -> float:
    """An argparse type: seconds, from 0 up."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; seconds from 0 up were expected")
    return seconds


def _sources(options: Any) -> tuple[str, ...]:
    return (options.source,) if options.source else specs.SOURCES


def _print_table(rows: Sequence[Sequence[object]]) -> None:
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _seed(options: Any, spec: specs.Spec) -> int:
    if options.seed is not None:
        return int(options.seed)
    # Grids first: they are planned before there are the learning rates that the other groups need.
    groups = sorted(specs.GROUPS, key=lambda group: group != "grid")
    plans = (specs.runs(spec.source, options.profile, group, ROOT) for group in groups)
    return next(seed for plan in plans for s, seed in plan if s.run == spec.run)


def _known(ids: Sequence[str], known: Sequence[str]) -> None:
    """Refuse an id that is none of ``known``."""
    for name in ids:
        if name not in known:
            raise ReproError(f"unknown id {name!r}; {did_you_mean(name, known)}`python -m repro list` shows all ids")


def _state(spec: specs.Spec, seed: int) -> str:
    if not store.record_path(spec, seed, ROOT).exists():
        return "not run"
    record = store.stored(spec, seed, ROOT)
    return "stale" if record is None else record.status


def _spec(options: Any) -> specs.Spec:
    """The run that was named."""
    from repro.commands import plan as costs

    if "." in options.run and (instead := costs.not_a_run(options.run, ROOT)):  # no id of a run has a dot
        raise ReproError(instead)
    return specs.find(options.run, options.profile, ROOT)


def _bar(text: str) -> tuple[Any, Callable[[float], None]]:
    bar = tqdm(
        total=100,
        desc=text,
        unit="%",
        disable=None,
        bar_format="{desc} {percentage:3.0f}% [{elapsed}<{remaining}]",
    )

    def report(share: float) -> None:
        bar.update(100 * share - bar.n)

    return bar, report


# ---------------------------------------------------------------------------------------------- commands


def _list(options: Any) -> int:
    from repro import report
    from repro.commands import plan as costs
    from repro.verdicts import judge

    published = judge.load_published(ROOT)
    runs: dict[str, dict[str, Any]] = {}
    for (_, group), (tasks, waiting) in costs.all_runs(options.profile, ROOT, _sources(options)).items():
        for spec, seed in tasks:
            entry = runs.setdefault(
                spec.run, {"run": spec.run, "group": spec.group, "method": spec.method, "seeds": {}}
            )
            entry["seeds"][seed] = _state(spec, seed)
        for run, seed in waiting:
            entry = runs.setdefault(run, {"run": run, "group": group, "method": None, "seeds": {}})
            entry["seeds"][seed] = "no learning rate yet"
    wanted = [options.source] if options.source else sorted({a.source for a in published.artefacts})
    artefacts = [
        {
            "id": a.id,
            "kind": a.kind,
            "state": "built" if a.id in report.ARTEFACTS else "has no run",
            "says": a.says,
        }
        for a in published.artefacts
        if a.source in wanted
    ]
    statements = [
        {"id": s.id, "kind": s.kind, "state": "judged" if s.judge else "has no run", "says": s.says}
        for s in published.statements
        if s.source in wanted
    ]
    if options.ids:
        _known(options.ids, [*(a["id"] for a in artefacts), *runs, *(s["id"] for s in statements)])
        artefacts, statements = ([x for x in listed if x["id"] in options.ids] for listed in (artefacts, statements))
        runs = {run: entry for run, entry in runs.items() if run in options.ids}
    if options.json:
        print(json.dumps({"artefacts": artefacts, "runs": list(runs.values()), "statements": statements}, indent=1))
        return 0
    if artefacts:
        print("ARTEFACTS")
        _print_table([(a["id"], a["kind"], a["state"], a["says"][:70]) for a in artefacts])
    if runs:
        print(f"\nRUNS (profile {options.profile})")
        _print_table(
            [
                (
                    r["run"],
                    r["group"],
                    r["method"] or "",
                    " ".join(f"s{seed}:{state}" for seed, state in r["seeds"].items()),
                )
                for r in runs.values()
            ]
        )
    if statements:
        print("\nSTATEMENTS")
        _print_table([(s["id"], s["kind"], s["state"], s["says"][:70]) for s in statements])
    return 0


def _data(options: Any) -> int:
    from repro.data import sets

    for name in options.names or sets.DEFAULT:
        path = sets.write_manifest(name, ROOT / "data")
        images = sets.load(name, ROOT / "data")
        print(
            f"{name}: {len(images.train_labels)} + {len(images.test_labels)} images, hashes verified; manifest {path}"
            + (f"; REDUCED: {images.reduced}" if images.reduced else "")
        )
    return 0


def _run(options: Any) -> int:
    from repro.running import runner

    spec = _spec(options)
    seed = _seed(options, spec)
    if store.stored(spec, seed, ROOT) is not None:
        path = store.record_path(spec, seed, ROOT)
        print(f"{path} is valid; nothing to do (`repro rerun {spec.run}` repeats it and compares)")
        return 0
    bar, report = _bar(f"{spec.run} seed {seed}")
    with bar:
        record, provenance = runner.run(spec, seed, ROOT, processes=options.processes, report=report)
    path = runner.save(record, provenance, ROOT)
    print(f"{path}: {record.status} in {provenance['seconds']} s" + (f"; {record.reason}" if record.reason else ""))
    return int(record.status == "diverged" and not spec.expects_divergence)


def _sweep(options: Any) -> int:
    from repro.running import sweep

    if options.in_order:
        return _in_order(options)
    tasks = []
    for source in _sources(options):
        if options.only == "recorded":
            planned, _ = specs.runs_and_waiting(source, options.profile, options.group, ROOT)
            tasks += [task for task in planned if store.was_run(*task, ROOT)]
        else:
            tasks += specs.runs(source, options.profile, options.group, ROOT)
    for source in _sources(options) if options.group != "grid" else ():
        _warn_of_stale_rates(source, options)
    done = sweep.sweep(tasks, ROOT, jobs=options.jobs, time_budget=options.time_budget)
    for source in _sources(options):
        store.keep_folders(options.profile, source, options.group, ROOT)
    print(f"{done.valid} of {len(tasks)} runs are valid; {done.computed} computed now, {done.left} left for later")
    return _said(done.problems)


def _said(problems: Sequence[str]) -> int:
    for problem in problems:
        print(f"repro: {problem}", file=sys.stderr)
    return int(bool(problems))


def _warn_of_stale_rates(source: str, options: Any) -> None:
    from repro.running import tuning

    if options.only == "recorded" and not specs.rates_chosen(source, options.profile, ROOT):
        return  # no run of this source has a record that waits for them
    for grid in tuning.stale(source, options.profile, ROOT):
        print(
            f"repro: the learning rate of {source} {grid} was chosen with other code, data or settings; "
            f"`{specs.remedy(options.profile)}` chooses again",
            file=sys.stderr,
        )


def _in_order(options: Any) -> int:
    """What is left of the study, in the order of ``data/study.yaml`` (``repro.registry.order.steps``)."""
    import time

    from repro.registry import study
    from repro.running import sweep, tuning

    if options.profile != study.PROFILE or options.source or options.group != "artefact" or options.only != "all":
        raise ReproError(
            f"--in-order computes all runs of profile {study.PROFILE}; neither --source, --group, --only nor another "
            "profile was expected beside it"
        )
    started, problems = time.monotonic(), list[str]()
    for step in order.steps(ROOT):
        rest = None if options.time_budget is None else options.time_budget - (time.monotonic() - started)
        tasks = step.tasks(ROOT)
        print(f"== {step.name}: {len(tasks)} runs", file=sys.stderr, flush=True)
        done = sweep.sweep(sweep.by_seed(tasks), ROOT, jobs=options.jobs, time_budget=rest, in_order=True)
        print(f"{step.name}: {done.valid} of {len(tasks)} runs are valid; {done.computed} computed now", flush=True)
        problems += done.problems
        if step.tune and done.valid == len(tasks):
            tuning.write(step.tune, options.profile, ROOT)
    for source in specs.SOURCES:
        for group in ("artefact", "control"):
            if waiting := specs.runs_and_waiting(source, options.profile, group, ROOT)[1]:
                problems.append(f"{len(waiting)} runs of {source} ({group}) wait for their learning rates")
            store.keep_folders(options.profile, source, group, ROOT)
    return _said(problems)


def _tune(options: Any) -> int:
    from repro.running import tuning

    for source in _sources(options):
        if not specs.grids(source, options.profile, ROOT):
            print(f"{source}: no learning-rate grid, its rates are given")
            continue
        path = tuning.write(source, options.profile, ROOT, finished=options.only == "recorded")
        chosen = json.loads(path.read_text()).get(source, {})
        if waits := [grid for grid in specs.grids(source, options.profile, ROOT) if grid not in chosen]:
            print(f"{source}: no learning rate yet for {', '.join(waits)}: runs of these grids are missing")
        for grid, choice in chosen.items():
            edge = "  (at the edge of the grid: a better one may lie outside)" if choice["at_edge"] else ""
            print(f"{source} {grid}: learning rate {choice['lr']:g}{edge}")
    return 0


def _rerun(options: Any) -> int:
    spec = _spec(options)
    return _compare([(spec, _seed(options, spec))], options)


def _audit(options: Any) -> int:
    from repro.running import rerun

    draw = secrets.randbelow(10**6) if options.draw is None else options.draw
    drawn = rerun.sample(options.n, draw, ROOT)
    print(f"audit: draw {draw}", file=sys.stderr)
    return _compare(drawn, options, go_on=True)


def _compare(tasks: Sequence[tuple[specs.Spec, int]], options: Any, *, go_on: bool = False) -> int:
    """Run each task again; a line before, on stderr, and one after, so that a long one is seen to work.

    With ``go_on`` a run that cannot be computed here (its data set is not there) is said and left aside, unless it is
    all there is.
    """
    from repro.running import rerun

    found: list[rerun.Comparison] = []
    for i, (spec, seed) in enumerate(tasks, start=1):
        rerun.recorded(spec, seed, ROOT)  # what cannot be compared is said before anything is announced
        seconds = rerun.recorded_seconds(spec, seed, ROOT)
        took = "" if seconds is None else f"; the record took {seconds:.0f} s"
        name = f"{spec.run} seed {seed} (profile {spec.profile})"
        print(f"[{i}/{len(tasks)}] computing {name} again{took}", file=sys.stderr, flush=True)
        bar, report = _bar(f"{spec.profile} {spec.run} seed {seed}")
        try:
            with bar:
                c = rerun.rerun(spec, seed, ROOT, processes=getattr(options, "processes", 1), report=report)
        except ReproError as error:
            if not go_on or (i == len(tasks) and not found):
                raise
            print(f"{spec.run} seed {seed}: not compared ({error})", file=sys.stderr, flush=True)
            continue
        found.append(c)
        said = f"{c.run} seed {c.seed}: {c.verdict} ({c.detail}); recorded {c.recorded}, computed again {c.again}"
        print(said, file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps([vars(c) for c in found], indent=1))
    return int(any(c.verdict == rerun.DIFFERS for c in found))


def _verify(options: Any) -> int:
    from repro.commands import verify as reviewer

    def tell(line: str) -> None:
        print(f"verify: {line}", file=sys.stderr, flush=True)

    found = reviewer.review(options.profile, ROOT, time_budget=options.time_budget, jobs=options.jobs, tell=tell)
    if options.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print("\n".join(found.lines()))
    return int(not found.agrees)


def _plan(options: Any) -> int:
    from repro.commands import plan as costs
    from repro.registry import study

    wanted: list[tuple[dict[str, str], costs.Planned]]
    if options.profile == study.PROFILE and not options.ids and options.source is None:
        return _plan_of_study(costs.of_study(ROOT), options.json)
    if options.ids:
        wanted = [({"id": name}, costs.of_id(name, options.profile, ROOT)) for name in options.ids]
    else:
        known = costs.all_runs(options.profile, ROOT, _sources(options))
        wanted = [({"source": source, "group": group}, tasks) for (source, group), tasks in known.items()]
    found = [(name, costs.cost(tasks, ROOT)) for name, (tasks, _) in wanted]
    waiting = [len(later) for _, (_, later) in wanted]
    if options.json:
        answer = [
            name
            | {"runs": c.runs, "core_hours": c.seconds / 3600, "core_hours_to_do": c.seconds_to_do / 3600,
               "runs_without_a_time": c.untimed, "runs_without_a_learning_rate": later,
               "peak_memory_bytes": c.memory, "disk_bytes": c.disk, "measured_on": list(c.devices)}
            for (name, c), later in zip(found, waiting, strict=True)
        ]  # fmt: skip
        print(json.dumps(answer, indent=1))
        return 0
    header = ("runs", "core-hours", "to do", "runs never timed", "memory (MB)", "disk (MB)", "measured on")
    rows: list[tuple[object, ...]] = [(*found[0][0], *header)]
    for name, c in found:
        hours = [_hours(seconds, c) for seconds in (c.seconds, c.seconds_to_do)]
        memory = "not recorded" if c.memory is None else f"{c.memory / 1e6:.0f}"
        rows.append((*name.values(), c.runs, *hours, c.untimed, memory, f"{c.disk / 1e6:.2f}", "; ".join(c.devices)))
    _print_table(rows)
    if any(waiting):
        of = ", ".join(f"{' '.join(n.values())} {k}" for (n, _), k in zip(wanted, waiting, strict=True) if k)
        print(
            "not in the table, for their learning rates are still to be chosen, by "
            f"`{specs.remedy(options.profile)}`: {sum(waiting)} runs ({of})"
        )
    if any(c.untimed for _, c in found):
        print("a run that was never timed has no known cost: hours are those of the timed ones, or not known")
    return 0


def _plan_of_study(bills: Sequence[Any], as_json: bool) -> int:
    """Print what the study has cost and what is left of it; the last of ``bills`` (``costs.Bill``) is the total."""
    *groups, total = bills
    if as_json:
        print(json.dumps({"groups": [bill.as_dict() for bill in groups], "total": total.as_dict()}, indent=1))
        return 0
    rows: list[tuple[object, ...]] = [("group", "runs", "done", "core-hours spent", "core-hours left", "cost unknown")]
    for bill in bills:
        left = "not known" if bill.unknown and bill.unknown == bill.runs - bill.done else f"{bill.left / 3600:.2f}"
        rows.append((bill.group, bill.runs, bill.done, f"{bill.spent / 3600:.2f}", left, bill.unknown))
    _print_table(rows)
    print(
        "core-hours are CPU time. What is left is estimated: a run takes as long as its other seeds did, or else as "
        "long for an image as the same network at the same sizes with the same method"
    )
    if total.unknown:
        print(f"nothing is known of the cost of {total.unknown} runs, which are not in the core-hours left")
    return 0


def _hours(seconds: float, cost: Any) -> str:
    """Hours of the runs whose time is known."""
    return "not known" if cost.runs and cost.untimed == cost.runs else f"{seconds / 3600:.2f}"


def _render(options: Any) -> int:
    from repro import report
    from repro.registry import study
    from repro.report import pilot

    for name in options.ids:
        if name not in report.ARTEFACTS:
            raise ReproError(_not_drawn(name))
    ids = options.ids or [
        i for i, a in report.ARTEFACTS.items() if a.source in _sources(options) and a.group == options.group
    ]
    evidence = pilot.Evidence(ROOT) if options.profile == study.PROFILE else None
    loaded: dict[str, list[Record]] = {}
    for artefact in ids:
        if evidence is not None and pilot.stands_in_for(artefact, evidence):
            paths = pilot.copy_artefact(artefact, evidence.study.pilot, ROOT)
            if not paths:
                print(
                    f"{artefact}: not drawn; the study lacks runs, and the pilot had no such artefact", file=sys.stderr
                )
        else:
            source = report.ARTEFACTS[artefact].source
            if source not in loaded:
                loaded[source] = store.current(source, options.profile, ROOT).records
            folder = ROOT / "figures" / options.profile
            paths = report.render(artefact, loaded[source], folder, profile=options.profile, root=ROOT)
        for path in paths:
            print(path)
    return 0


def _not_drawn(name: str) -> str:
    """What to say of an id that is no figure or table."""
    from repro import report
    from repro.commands import plan as costs
    from repro.verdicts import judge

    published = judge.load_published(ROOT)
    if why := costs.without_a_run(name, published):
        return why
    if statement := next((s for s in published.statements if s.id == name), None):
        shown = f"it is shown by {statement.artefact}" if statement.artefact else "nothing draws it"
        return f"{name} is a statement; the id of a figure or table was expected, and {shown}"
    hint = did_you_mean(name, report.ARTEFACTS)
    return f"unknown figure or table {name!r}; {hint}`python -m repro list` shows the ids"


def _notebook(options: Any) -> int:
    from repro.book import notebooks
    from repro.registry import study
    from repro.report import pilot

    source = ROOT / "notebooks" / f"{options.name}.ipynb"
    if not source.exists():
        known = ", ".join(sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb")))
        raise ReproError(f"unknown notebook {options.name!r}; one of {known} was expected")
    out = ROOT / "figures" / options.profile / "notebooks" / f"{options.name}.ipynb"
    if options.profile == study.PROFILE and pilot.notebook_waits(options.name, pilot.Evidence(ROOT)):
        print(f"{pilot.copy_notebook(options.name, ROOT)} (the pilot's: the study lacks runs that it reads)")
        return 0
    notebooks.execute(source, out, {"profile": options.profile}, ROOT)
    print(out)
    return 0


def _verdicts_path(profile: str) -> Path:
    return ROOT / "figures" / profile / "verdicts.json"


def _verdicts(options: Any) -> int:
    from repro.report import pilot
    from repro.verdicts import judge

    found = pilot.judge_all(judge.load_published(ROOT).statements, options.profile, ROOT)
    _known(options.ids, [v["id"] for v in found])
    if options.write:
        files.write_atomic(_verdicts_path(options.profile), files.canonical_json(found))
    found = [v for v in found if options.source in (None, v["source"]) and (not options.ids or v["id"] in options.ids)]
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for v in found:
            print(
                f"{v['id']:8} {v['verdict']:24} n={v['n'] if v['n'] is not None else '-'}  {v['ours'] or v['reason']}"
            )
    return 0


def _summary(options: Any) -> int:
    from repro.book import theme

    path = _verdicts_path(options.profile)
    if not path.exists():
        raise ReproError(f"{path}: no verdicts yet; run `dvc repro` first")
    stored = files.read_json(path)
    groups: dict[str, list[Any]] = {"results": [], "laws": [], "definitions": []}
    for v in stored:
        groups[{"law": "laws", "definition": "definitions"}.get(v["kind"], "results")].append(v)
    own, old = theme.split((v["verdict"], bool(v.get("pilot"))) for v in groups["results"])
    print(f"Of {sum(own.values()) + sum(old.values())} results, at profile {options.profile}: {theme.said(own)}.")
    for name in ("laws", "definitions"):
        found, shown = theme.split((v["verdict"], bool(v.get("pilot"))) for v in groups[name])
        said = [theme.said(found)] * bool(found) + [f"{sum(shown.values())} from the pilot"] * bool(shown)
        if said:
            print(f"Of {len(groups[name])} {name}, counted apart: {'; '.join(said)}.")
    if old:
        print(
            f"{sum(old.values())} of the results show the pilot, which is never counted ({theme.said(old)}): "
            "`make study` computes what is left, and `python -m repro plan` says what that costs."
        )
    print("The book: open book/index.html in a browser (on a forge book/index.md).")
    print("Check numbers: `python -m repro audit -n 3` computes three records again, drawn at random, and compares.")
    return 0


def _advise(options: Any) -> int:
    from repro.commands import advise
    from repro.results import links as network

    budget, workload = advise.parse_bytes(options.memory), _workload(options)
    most = advise.physical_bytes(options.device)
    if budget > most and (options.probe or options.check):  # what is read from records needs no memory here
        has = f"this machine has {advise.gibibytes(most)}"
        raise ReproError(
            f"{advise.gibibytes(budget)} of memory; {has}; a budget within it was expected to probe or check"
        )
    speeds, links = _clients(options, network.load_links(ROOT))
    if options.probe:
        evidence = advise.probe(workload, budget, options.device)
    else:
        known = advise.stored(workload, options.data, options.device, ROOT)
        if known is None:
            raise ReproError(
                f"no measurement of {workload.model} at width {workload.width} and {workload.image_size} px on this "
                "kind of machine is stored; run the command with --probe"
            )
        evidence = known
    advice = advise.advise(workload, evidence, budget, speeds=speeds, links=links, every=options.every)
    if options.check:
        advice["check"] = advise.check(workload, advice["largest_batch"], budget, options.device)
    print(json.dumps(advice, indent=1) if options.json else "\n".join(advise.lines(advice)))
    failed = options.check and (not advice["check"]["fits"] or advice["check"].get("twice_fits"))
    return int(bool(failed))


def _workload(options: Any) -> Any:
    """What is advised on: the profile's size of the network, all training images of the data set."""
    from repro.performance.workload import Workload

    known = sorted(path.stem for path in (ROOT / "data/manifests").glob("*.json"))
    if options.data not in known:
        raise ReproError(f"unknown data set {options.data!r}; one of {', '.join(known)} was expected")
    manifest = files.read_json(ROOT / "data/manifests" / f"{options.data}.json")
    images, height = manifest["arrays"]["train_images"]["shape"][:2]
    sizes = specs.sizes_of("lb", options.profile, options.model, ROOT)
    chosen = sizes | {
        "model": options.model, "image_size": options.image_size or min(height, sizes["image_size"]),
        "width": options.width or sizes["width"], "precision": options.precision,
    }  # fmt: skip
    workload = Workload.of(chosen, classes=len(manifest["classes"]), images=images)
    workload.network()  # an unknown network, or one that these images are too small for, is said before anything runs
    return workload


def _clients(options: Any, known: Sequence[Any]) -> tuple[list[float], list[Any]]:
    """Speeds and links, one for each client; shorter lists are repeated."""
    try:
        speeds = [float(each) for each in options.speeds.split(",")] if options.speeds else []
    except ValueError as error:
        raise ReproError(f"--speeds {options.speeds!r}; numbers separated by commas were expected") from error
    by_name = {link.name: link for link in known}
    names = options.links.split(",") if options.links else []
    for name in names:
        if name not in by_name:
            raise ReproError(f"--links: unknown link {name!r}; some of {', '.join(by_name)} were expected")
    if options.clients and not speeds and not names:
        raise ReproError(f"--clients {options.clients} alone changes nothing; give their --speeds, --links or both")
    count = options.clients or max(len(speeds), len(names))
    if count < max(len(speeds), len(names)):
        raise ReproError(f"--clients {count}; at least as many as speeds and links were expected")
    return [speeds[i % len(speeds)] for i in range(count)] if speeds else [], [
        by_name[names[i % len(names)]] for i in range(count)
    ] if names else []


def _book(options: Any) -> int:
    from repro import book
    from repro.book import markdown, views

    inputs = book.load(options.profile, ROOT)
    pages = book.site(inputs)
    book.write(pages, ROOT)
    print(f"{ROOT / 'book'}: {len(pages)} files, {sum(map(len, pages.values())) / 1e6:.1f} MB; open book/index.html")
    if options.profile == specs.default_profile(ROOT):
        markdown.update_readme(views.Site(inputs), ROOT / "README.md")
        print("README.md: headline verdicts")
    return 0


def _arithmetic(options: Any) -> int:
    from repro.verdicts import arithmetic

    found = arithmetic.lines(ROOT)
    if options.json:
        print(json.dumps(arithmetic.as_rows(found), indent=1))
        return 0
    for line in found:
        print(f"{line.id}: {line.question}\n    {line.working} -> {line.computed}")
        print(f"    published: {line.published}; {line.outcome}" + (f". {line.note}" if line.note else ""))
    return 0


def _check(options: Any) -> int:
    from repro.commands import check

    problems, waiting = check.check(options.profile, ROOT)
    for line in problems:
        print(f"repro: {line}", file=sys.stderr)
    if options.complete:
        for line in waiting:
            print(f"repro: {line}", file=sys.stderr)
    print(f"{len(problems)} problems; {len(waiting)} artefacts and statements without a run or a valid record")
    return int(bool(problems or (options.complete and waiting)))
