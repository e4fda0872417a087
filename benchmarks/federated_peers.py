"""Federated averaging: this package against pfl, Flower and plain PyTorch loops, in processor seconds, on the CPU.

    python benchmarks/federated_peers.py --pfl /path/of/its/environment/bin/python --flower /path/.../bin/python

Workloads, of the same CIFAR-10 images, first weights and learning rate for all arms:

* ``resnet18``: that of ``federated_round.py``.
* ``cnn``: 50 clients of 50 images, local batch 10, one local epoch a round, a learning rate of 0.1, no augmentation;
  two convolutions of 32 and 64 channels and a fully connected layer of 128: 1 626 442 parameters.

Arms, each in a program of its own and with two processes that train:

* ``ours``: ``repro.training.fast`` as runs use it: bfloat16 convolutions on float32 weights, channels last in memory.
* ``plain, bf16``: the plain loop of ``federated_round.py`` in the same precision and memory format: the fair baseline.
* ``plain, float32``: the same in PyTorch's defaults. What ours gains over it is mostly what bfloat16 and channels last
  gain, as the fair baseline shows.
* ``pfl``, ``flower``: ``peers/pfl_rounds.py`` and ``peers/flower_rounds.py``, each in its own environment, float32, as
  their documentation uses them. ``--bf16-peers`` adds both with bfloat16 and channels last: an argument of pfl's model
  (``amp_dtype``), a line in Flower's client, and a line each for the memory format.

All arms of a seed run one after the other, then those of the next seed; the float32 plain loop has the first seed only.
Each round's processor seconds are those of the program and all that it started, in the system, too. The first round, in
which programs warm up, is not counted. Evaluation is not in a round; the accuracy is that of the model after the last
one, on 10 000 test images. Results are written after every program; a later call goes on where one was stopped, if
neither code nor machine has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import federated_round
import processes
import readme
import torch
from federated_round import ROOT, OurRounds, PlainRounds

from repro import files, machine
from repro.errors import ReproError
from repro.registry import specs
from repro.running import prepare, provenance
from repro.verdicts import rules

RESULTS = ROOT / "benchmarks/results/federated_peers.json"
PEERS = ROOT / "benchmarks/peers"
PROCESSES = 2
SEEDS = 5
TEST_BATCH = 100  # of all arms
MARGIN = 0.02  # accuracies count as equal within 2 points
OURS, FAIR, PLAIN = "ours", "plain, bf16", "plain, float32"
RELEASES = {"pfl": "0.6.0", "flower": "1.42.0"}
PACKAGES = {"pfl": "pfl", "flower": "flwr"}
VARIABLES = {"pfl": "PFL_PYTHON", "flower": "FLOWER_PYTHON"}
FAIR_LIMIT = 1.0  # of the fair plain loop's processor seconds


@dataclass(frozen=True)
class Workload:
    """What all arms train.

    Attributes:
        limit: of the best peer's processor seconds.
        rounds: in a program; the first is not timed.
    """

    model: str
    width: int
    images: int
    clients: int
    local_batch: int
    augment: bool
    rounds: int
    limit: float
    test_images: int = 10_000
    image_size: int = 32

    def spec(self) -> specs.Spec:
        """As a run of this package."""
        return replace(
            federated_round.workload(self.images, self.rounds),
            run=f"benchmark-peers-{self.model}", model=self.model, width=self.width, workers=self.clients,
            local_batch=self.local_batch, augment=self.augment, test_images=self.test_images,
            image_size=self.image_size,
            norm="none" if self.model == "cnn" else "batch",
        )  # fmt: skip


WORKLOADS = {
    "cnn": Workload("cnn", 32, 2500, 50, 10, augment=False, rounds=6, limit=0.7),
    "resnet18": Workload("resnet18", 16, 10_000, 10, 32, augment=True, rounds=3, limit=0.55),
}


# ---- the program of an arm of our own ------------------------------------------------------------------------


def train(work: Workload, arm: str, seed: int) -> None:
    """Train ``arm``, one of ours or plain, and say so round by round as the peers do."""
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first optimiser imports torch._dynamo: once here, not in every process
    with ExitStack() as stack:
        rounds: OurRounds | PlainRounds = OurRounds(
            work.spec(), seed, PROCESSES if arm == OURS else 1, stack, TEST_BATCH
        )
        if arm != OURS:
            setting = rounds.setting
            network = federated_round.plain_network(work.spec(), setting)
            rounds = PlainRounds(network, setting.batches, setting.evaluation, PROCESSES, stack, bf16=arm == FAIR)
        processes.say("ready")
        for number in range(work.rounds):
            rounds.train()
            processes.say(f"round {number + 1}")
        processes.say(f"top1 {rounds.evaluate()}")


# ---- peers ---------------------------------------------------------------------------------------------------


def hand_over(work: Workload, seed: int, bf16: bool, path: Path) -> None:
    """Write what a peer needs to ``path`` (``peers/given.py``)."""
    setting = prepare.prepare(work.spec(), seed, ROOT)
    images, test = setting.batches.images, setting.evaluation
    scale, shift = images._scale, images._shift  # x = pixel * scale - shift
    std = 1 / (255 * scale)
    content = {
        "settings": {
            "model": work.model, "width": work.width, "classes": setting.classes, "lr": federated_round.LR,
            "rounds": work.rounds, "local_batch": work.local_batch, "augment": work.augment, "bf16": bf16,
            "seed": seed,
        },
        "weights": {name: tensor.contiguous() for name, tensor in setting.model.state_dict().items()},
        "shards": [torch.from_numpy(shard) for shard in setting.batches.shards],
        "images": images.pixels, "labels": images.labels, "padding": images.padding,
        "test_images": test.pixels, "test_labels": test.labels, "mean": shift * std, "std": std,
    }  # fmt: skip
    torch.save(content, path)


def python_of(peer: str, given: str | None) -> str:
    """The Python of a peer's environment.

    Raises:
        ReproError: none was named, or it does not hold the release that is measured.
    """
    path = given or os.environ.get(VARIABLES[peer])
    wanted = f"{PACKAGES[peer]} {RELEASES[peer]}"
    remedy = f"name the Python of an environment with {wanted} by --{peer} or {VARIABLES[peer]} (benchmarks/README.md)"
    if not path:
        raise ReproError(f"{peer}: no Python was named; {remedy}")
    asked = f"import importlib.metadata as m; print('benchmark: found', m.version('{PACKAGES[peer]}'))"
    try:
        found = processes.watch([path, "-c", asked], os.environ).lines[0][0].split()[1]
    except (ReproError, IndexError) as error:
        raise ReproError(f"{peer}: {path} is no Python with {PACKAGES[peer]}; {remedy}") from error
    if found != RELEASES[peer]:
        raise ReproError(f"{peer}: {path} holds {PACKAGES[peer]} {found}; {remedy}")
    return path


def command(work: Workload, arm: str, seed: int, pythons: dict[str, str], folder: Path) -> list[str]:
    """The program of an arm."""
    if arm in (OURS, FAIR, PLAIN):
        program = [sys.executable, str(Path(__file__).resolve())]
        return [*program, "--arm", arm, "--seed", str(seed), "--work", json.dumps(asdict(work))]
    peer, bf16 = arm.partition(",")[0], "bf16" in arm
    path = folder / "given.pt"
    hand_over(work, seed, bf16, path)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES)]
    return [pythons[peer], *(torchrun if peer == "pfl" else []), str(PEERS / f"{peer}_rounds.py"), str(path)]


def measure(work: Workload, arm: str, seed: int, pythons: dict[str, str]) -> dict[str, Any]:
    """Run an arm with a seed from its start to its end."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    quiet = {"CUDA_VISIBLE_DEVICES": "", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        seen = processes.watch(command(work, arm, seed, pythons, Path(folder)), os.environ | single | quiet)
    cpu, wall = seen.rounds()
    if len(cpu) != work.rounds:
        raise ReproError(f"{work.model}, {arm}: {len(cpu)} rounds were seen; {work.rounds} were expected")
    return {
        "workload": work.model, "arm": arm, "seed": seed, "cpu_s": cpu, "wall_s": wall, "top1": seen.value("top1"),
        "pss_mb": seen.pss_mb, "rss_mb": seen.rss_mb, "processes": seen.most,
        "seconds": round(time.perf_counter() - started, 1), "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip


# ---- results -------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def seconds(row: dict[str, Any], clock: str = "cpu_s") -> float:
    """Median seconds of a round of a program, without its first one."""
    return statistics.median(row[clock][1:])


def compare(rows: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    """``arm`` beside ours, over the seeds that both have."""
    ours = {row["seed"]: row for row in rows if row["arm"] == OURS}
    pairs = [(ours[row["seed"]], row) for row in rows if row["arm"] == arm and row["seed"] in ours]
    found: dict[str, Any] = {
        "seeds": len(pairs),
        **{key: spread([seconds(row, key) for _, row in pairs]) for key in ("cpu_s", "wall_s")},
        **{key: max(row[key] for _, row in pairs) for key in ("pss_mb", "rss_mb", "processes")},
        "top1": statistics.mean(row["top1"] for _, row in pairs),
        "ours_pss_mb": max(mine["pss_mb"] for mine, _ in pairs),
        "ours_against": spread([seconds(mine) / seconds(row) for mine, row in pairs]),
    }
    if arm != OURS:
        difference = rules.paired_interval([mine["top1"] - row["top1"] for mine, row in pairs])
        found |= {
            "difference": difference.estimate,
            "interval": [difference.low, difference.high] if difference.n > 1 else None,
            "equal": rules.equivalence(difference, MARGIN),
        }
    return found


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """What is found, workload by workload and arm by arm."""
    found: dict[str, Any] = {}
    for name in WORKLOADS:
        rows = [row for row in results["rows"] if row["workload"] == name]
        if any(row["arm"] == OURS for row in rows):
            shared = {row["arm"] for row in rows if row["seed"] in {r["seed"] for r in rows if r["arm"] == OURS}}
            found[name] = {arm: compare(rows, arm) for arm in arms(True) if arm in shared}
    return found


def arms(bf16_peers: bool) -> list[str]:
    """All arms, in the order in which they run."""
    more = [f"{peer}, bf16" for peer in RELEASES] if bf16_peers else []
    return [OURS, FAIR, PLAIN, *RELEASES, *more]


def verdict(holds: bool) -> str:
    return "holds" if holds else "missed"


def _row(name: str, arm: str, of: dict[str, Any], best: str | None) -> str:
    def numbers(key: str) -> str:
        s = of[key]
        return f"{s['median']:.2f} ({s['min']:.2f} to {s['max']:.2f})"

    ratio = difference = limit = held = ""
    if arm != OURS:
        low, high = (f"{100 * bound:+.2f}" for bound in of["interval"]) if of["interval"] else ("-inf", "inf")
        ratio = numbers("ours_against")
        difference = f"{100 * of['difference']:+.2f} ({low} to {high}): {of['equal']}"
        bound = FAIR_LIMIT if arm == FAIR else WORKLOADS[name].limit if arm == best else None
        if bound is not None:
            limit, held = f"at most {bound:g}", verdict(of["ours_against"]["median"] <= bound)
        if arm in RELEASES:
            less = of["ours_pss_mb"] < of["pss_mb"]
            held = f"{held}{'; ' if held else ''}memory: {'ours less' if less else 'ours not less'}"
    return (
        f"| {arm} | {of['seeds']} | {numbers('cpu_s')} | {numbers('wall_s')} | {ratio} | {limit} | "
        f"{100 * of['top1']:.2f} | {difference} | {of['pss_mb']:.0f} | {of['rss_mb']:.0f} | {held} |"
    )


def table(results: dict[str, Any]) -> str:
    """Results as Markdown tables with a line on where they come from."""
    lines: list[str] = []
    for name, found in results["summary"].items():
        work = results["workloads"][name]
        lines += [
            f"| {name}: {work['clients']} clients, {work['images']} images | seeds | round, CPU s | round, s | ours "
            f"against it, CPU | limit | accuracy after {work['rounds']} rounds, % | ours less it, points: within "
            f"{100 * MARGIN:g} | memory, MB | summed RSS, MB | |",
            "|---" * 11 + "|",
        ]
        peers = [arm for arm in found if arm in RELEASES]
        best = min(peers, key=lambda arm, of=found: of[arm]["cpu_s"]["median"], default=None)
        lines += [*(_row(name, arm, of, best) for arm, of in found.items()), ""]
    machine = results["machine"]
    loads = [row["load"] for row in results["rows"]]
    lines.append(
        f"{results['date']}, {machine['device']} ({machine['instructions']}), {results['processes']} of "
        f"{results['cores']} cores, torch {machine['torch']}, Python {machine['python']}, pfl {RELEASES['pfl']}, "
        f"Flower {RELEASES['flower']}; seconds of a round: median (least to greatest) over seeds of the median over "
        "the rounds of a program but the first; ratios: of the same seed; the limit is that against the better peer; "
        "memory: peak of the proportional set size; load at the end of a program "
        f"{min(loads):g} to {max(loads):g}."
    )
    return "\n".join(lines) + "\n"


def started(path: Path) -> dict[str, Any]:
    """Results to go on with: those of ``path`` if code, machine and workloads are the same, else none."""
    fresh: dict[str, Any] = {
        "machine": machine.describe(), "cores": os.cpu_count(), "processes": PROCESSES, "code": provenance.CODE["code"],
        "workloads": {name: asdict(work) for name, work in WORKLOADS.items()}, "releases": RELEASES, "rows": [],
    }  # fmt: skip
    if path.exists():
        found = files.read_json(path)
        if all(found.get(key) == value for key, value in fresh.items() if key != "rows"):
            return found
        print(
            f"{path}: made by other code, on another machine or of other workloads; its rows are replaced", flush=True
        )
    return fresh


def tasks(names: Sequence[str], seeds: int, bf16_peers: bool) -> Iterator[tuple[str, int, str]]:
    """Workload, seed and arm of every program; seed 1 of all first, then the other seeds of each workload."""
    once = [(name, 1) for name in names]
    for name, seed in once + [(name, seed) for name in names for seed in range(2, seeds + 1)]:
        for arm in arms(bf16_peers):
            if arm != PLAIN or seed == 1:
                yield name, seed, arm


def run(options: argparse.Namespace, path: Path = RESULTS) -> None:
    """Run every program that is not yet done and that there is time for."""
    pythons = {peer: python_of(peer, getattr(options, peer)) for peer in RELEASES}
    results = started(path)
    ends = time.perf_counter() + 60 * options.minutes
    took: dict[tuple[str, str], float] = {(row["workload"], row["arm"]): row["seconds"] for row in results["rows"]}
    done = {(row["workload"], row["seed"], row["arm"]) for row in results["rows"]}
    for name, seed, arm in tasks(options.only, options.seeds, options.bf16_peers):
        if (name, seed, arm) in done:
            continue
        if time.perf_counter() + took.get((name, arm), 0) > ends:
            print(f"{options.minutes:g} minutes are over; the same command goes on", flush=True)
            break
        row = measure(WORKLOADS[name], arm, seed, pythons)
        took[name, arm] = row["seconds"]
        results["rows"].append(row)
        print(
            f"{name}, seed {seed}, {arm}: {seconds(row):.2f} CPU s a round, {100 * row['top1']:.1f} %, "
            f"{row['pss_mb']:.0f} MB; {row['seconds']:.0f} s in all",
            flush=True,
        )
        results["date"], results["summary"] = time.strftime("%Y-%m-%d"), summarise(results)
        if path == RESULTS:
            files.write_atomic(path, files.canonical_json(results))
            readme.update("federated_peers", table(results))
    if results["rows"]:
        print("\n" + table(results))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for peer, variable in VARIABLES.items():
        parser.add_argument(f"--{peer}", help=f"Python of an environment with {peer} (default: ${variable})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds 1 to N (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=list(WORKLOADS), choices=WORKLOADS, help="workloads")
    parser.add_argument("--minutes", type=float, default=120.0, help="start no program that would end later")
    parser.add_argument("--bf16-peers", action="store_true", help="the peers with bfloat16 and channels last, too")
    parser.add_argument("--tiny", action="store_true", help="four clients and two rounds, to see that all works; "
                        "nothing is written")  # fmt: skip
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--arm", choices=(OURS, FAIR, PLAIN), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.minutes <= 0:
        raise ReproError("--seeds and --minutes: numbers above 0 were expected")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all arms are CPU programs
    processes.end_with_children()
    if options.arm:
        train(Workload(**options.work), options.arm, options.seed)
        return
    if options.tiny:
        for name, work in WORKLOADS.items():
            WORKLOADS[name] = replace(work, images=4 * 2 * work.local_batch, clients=4, rounds=2)
    run(options, Path(os.devnull).with_name("no-results") if options.tiny else RESULTS)


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
