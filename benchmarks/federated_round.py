"""A round of federated averaging: this package against a plain PyTorch loop, side by side on the CPU.

    python benchmarks/federated_round.py

Workload: 10 000 CIFAR-10 images on 10 IID clients, local batch 32, one local epoch a round, SGD at a learning rate of
0.1, ResNet18 of width 16 at 32 x 32 px, then an evaluation on 2 000 test images.

* ours: ``repro.training.fast`` as the runner drives it: bfloat16 convolutions, channels last, one process a core.
* plain: ``PlainRounds`` below: float32, PyTorch's default memory format and layers, one single-threaded process a core.

Both start from the same weights and see the same local batches, and both use all cores, one after the other: every
round of ours is followed by the same round of the plain loop, so that a machine that slows down slows both. Peak memory
is that of a training of ours, loading of the data included, before the plain loop exists.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import readme
import torch
import torch.multiprocessing
import torch.nn.functional as F
from peers import networks
from torch import Tensor, nn

from repro import codecs, machine
from repro.data.batches import Batches, Images
from repro.errors import ReproError
from repro.experiments import schedules
from repro.registry import specs
from repro.running import prepare, provenance
from repro.training import fast
from repro.training.exchange import Exchange
from repro.training.steps import Optimisation
from repro.verdicts import rules

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/federated_round.json"

IMAGES, SEEDS, ROUNDS = 10_000, 30, 3
TIMED_SEEDS = 10  # times are those of the first seeds; accuracies, which vary more, are those of all
LR = 0.1
TIME_LIMIT = 0.6  # of the plain loop's time
MARGIN = 0.02  # accuracies count as equal within 2 points
MEMORY_LIMIT = 1500  # MB
SAMPLES_PER_SECOND = 20


def workload(images: int, rounds: int) -> specs.Spec:
    """The benchmark's run, with ``images`` training images and a fifth as many for the evaluation."""
    return dataclasses.replace(
        specs.find("e1-grid-federated-lr0_1", "study", ROOT),
        run="benchmark-federated-round",
        train_images=images,
        test_images=images // 5,
        image_size=32,
        evaluate_on="test",
        evaluate_every=1,
        width=16,
        workers=10,
        partition="iid",
        local_batch=32,
        local_epochs=1,
        epochs=rounds,
        schedule={"kind": "constant", "lr": LR},
        momentum=0.0,
        weight_decay=0.0,
        augment=True,
        precision="bf16",
    )


class OurRounds:
    """Rounds as ``repro.running.runner`` makes them; the model and its data are in ``setting``."""

    def __init__(
        self, spec: specs.Spec, seed: int, processes: int, stack: ExitStack, evaluation_batch: int | None = None
    ) -> None:  # fmt: skip
        self.setting = prepare.prepare(spec, seed, ROOT)
        images, size = self.setting.evaluation, evaluation_batch
        parts = self.setting.evaluation_parts() if size is None else [
            functools.partial(images.centre, at, at + size) for at in range(0, len(images), size)
        ]  # fmt: skip
        model, batches = self.setting.model, self.setting.batches
        optimisation = Optimisation(schedules.build(spec.schedule).lr, precision=spec.precision)
        pool = fast.client_pool(
            model, batches, Exchange(codecs.build(spec.codec)), optimisation, processes=processes, evaluation=parts
        )
        self._clients = stack.enter_context(pool)
        self._rounds = fast.federated_averaging(model, self._clients, range(spec.epochs))

    def train(self) -> None:
        """One round."""
        next(self._rounds)

    def evaluate(self) -> float:
        """Top-1 accuracy of the shared model, a fraction."""
        return self._clients.evaluate(self.setting.model)["top1"]


# ---- the alternative: plain PyTorch --------------------------------------------------------------------------


def plain_network(spec: specs.Spec, setting: prepare.Setting) -> nn.Module:
    """The run's network from PyTorch's own layers, with the same first weights."""
    net = networks.build(spec.model, setting.classes, spec.width)
    net.load_state_dict(net.state_dict() | setting.model.state_dict())
    return net


def averaged(model: nn.Module) -> list[Tensor]:
    """What is averaged: parameters and running statistics."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


class PlainRounds:
    """Federated averaging in plain PyTorch: each process trains its share of the clients, one after the other.

    Models are exchanged through shared memory, and every process adds up the models of its clients itself, so that
    nothing is serialised. The evaluation is spread over the processes too.

    Args:
        network: with its first weights; one of ``peers.networks``.
        bf16: convolutions and matrix products in bfloat16 on float32 weights, and channels last in memory, as ours;
            else float32 and PyTorch's default memory format.
    """

    EVALUATION_BATCH = 100

    def __init__(
        self, network: nn.Module, batches: Batches, evaluation: Images, processes: int, stack: ExitStack,
        bf16: bool = False,
    ) -> None:  # fmt: skip
        self.model = network.to(memory_format=torch.channels_last) if bf16 else network
        self.model.share_memory()
        self.images, self._epoch = len(evaluation), 0
        self._sums, self._pipes = [], []
        context = torch.multiprocessing.get_context("fork")
        for k in range(processes):
            partial_sum = copy.deepcopy(self.model).share_memory()
            pipe, workers_pipe = context.Pipe()
            clients = range(batches.clients)[k::processes]
            part = range(k * self.images // processes, (k + 1) * self.images // processes)
            context.Process(
                target=self._work,
                args=(workers_pipe, self.model, partial_sum, batches, clients, evaluation, part, bf16),
                daemon=True,
            ).start()
            workers_pipe.close()  # so that the death of the worker is an error here, not a wait without end
            self._sums.append(partial_sum)
            self._pipes.append(pipe)
            stack.callback(pipe.send, None)

    @classmethod
    def _work(
        cls, pipe: Any, shared: nn.Module, partial_sum: nn.Module, batches: Batches, clients: Sequence[int],
        evaluation: Images, part: range, bf16: bool,
    ) -> None:  # fmt: skip
        torch.set_num_threads(1)
        model = copy.deepcopy(shared)
        total = sum(len(shard) for shard in batches.shards)
        while (task := pipe.recv()) is not None:
            if task == "evaluate":
                model.load_state_dict(shared.state_dict())
                pipe.send(cls._correct(model, evaluation, part, bf16))
                continue
            for tensor in averaged(partial_sum):
                tensor.zero_()
            for client in clients:
                model.load_state_dict(shared.state_dict())
                cls._train(model, batches, client, task, bf16)
                for mean, tensor in zip(averaged(partial_sum), averaged(model), strict=True):
                    mean.add_(tensor, alpha=len(batches.shards[client]) / total)
            pipe.send(None)

    @staticmethod
    def _train(model: nn.Module, batches: Batches, client: int, epoch: int, bf16: bool) -> None:
        model.train()
        optimiser = torch.optim.SGD(model.parameters(), lr=LR)
        steps = batches.steps_per_epoch(client)
        for step in range(epoch * steps, (epoch + 1) * steps):
            x, y = batches.get(client, step)
            optimiser.zero_grad()
            # Batches are channels last, and so would be all activations.
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(model(x if bf16 else x.contiguous()), y)
            loss.backward()
            optimiser.step()

    @classmethod
    @torch.inference_mode()
    def _correct(cls, model: nn.Module, evaluation: Images, part: range, bf16: bool) -> int:
        model.eval()
        correct = 0
        for at in range(part.start, part.stop, cls.EVALUATION_BATCH):
            x, y = evaluation.centre(at, min(at + cls.EVALUATION_BATCH, part.stop))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                correct += int((model(x if bf16 else x.contiguous()).argmax(1) == y).sum())
        return correct

    def _all(self, task: Any) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(task)
        return [pipe.recv() for pipe in self._pipes]

    def train(self) -> None:
        """One round."""
        self._all(self._epoch)
        self._epoch += 1
        for tensor, *parts in zip(averaged(self.model), *map(averaged, self._sums), strict=True):
            tensor.copy_(torch.stack(parts).sum(0))

    def evaluate(self) -> float:
        """Top-1 accuracy of the shared model, a fraction."""
        return sum(self._all("evaluate")) / self.images


# ---- measuring -----------------------------------------------------------------------------------------------


def _processes_of(pid: int) -> Iterator[int]:
    """``pid`` and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _processes_of(int(child))


def _pss() -> tuple[float, int]:
    """Proportional set size, MB, summed over this process and its descendants; and how many they are."""
    kib = []
    for pid in _processes_of(os.getpid()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kib.append(int(line.split()[1]))
    return sum(kib) * 1024 / 1e6, len(kib)


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Samples the memory of this process and its descendants; at the end, the peak is in the mapping."""
    peak: dict[str, float] = {"pss_mb": 0.0, "processes": 0, "samples": 0}
    over = threading.Event()

    def sample() -> None:
        while not over.wait(1 / SAMPLES_PER_SECOND):
            try:
                megabytes, processes = _pss()
            except (FileNotFoundError, ProcessLookupError):  # a process ended while it was looked at
                continue
            peak["pss_mb"] = max(peak["pss_mb"], megabytes)
            peak["processes"] = max(peak["processes"], processes)
            peak["samples"] += 1

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()


def timed(action: Callable[[], T]) -> tuple[float, T]:
    """Seconds that ``action`` took, and what it returned."""
    started = time.perf_counter()
    result = action()
    return round(time.perf_counter() - started, 3), result


def measure_memory(spec: specs.Spec, processes: int) -> dict[str, float]:
    """Peak memory of a training of ours, from loading the data to the last evaluation."""
    with peak_memory() as peak, ExitStack() as stack:
        ours = OurRounds(spec, 1, processes, stack)
        for _ in range(spec.epochs):
            ours.train()
            ours.evaluate()
    return {"pss_mb": round(peak["pss_mb"], 1), "processes": peak["processes"], "samples": peak["samples"]}


def measure_seed(spec: specs.Spec, seed: int, processes: int) -> list[dict[str, Any]]:
    """Seconds and accuracies of both arms, a row a round."""
    rows = []
    with ExitStack() as stack:
        ours = OurRounds(spec, seed, processes, stack)
        setting = ours.setting
        plain = PlainRounds(
            plain_network(spec, setting), setting.batches, setting.evaluation, processes, stack
        )  # fmt: skip
        arms: tuple[tuple[str, OurRounds | PlainRounds], ...] = (("ours", ours), ("plain", plain))
        for number in range(spec.epochs):
            row: dict[str, Any] = {"seed": seed, "round": number + 1}
            for name, arm in arms:
                row[f"{name}_train_s"], _ = timed(arm.train)
                row[f"{name}_evaluate_s"], row[f"{name}_top1"] = timed(arm.evaluate)
            rows.append(row)
    return rows


def summarise(rows: Sequence[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Median, least and greatest of every time and of the ratio of a round; the accuracies of the last round."""

    def spread(values: Sequence[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    def total(row: dict[str, Any], arm: str) -> float:
        return row[f"{arm}_train_s"] + row[f"{arm}_evaluate_s"]

    last = [row for row in rows if row["round"] == rounds]
    difference = rules.paired_interval([row["ours_top1"] - row["plain_top1"] for row in last])
    timed_rows = [row for row in rows if row["seed"] <= TIMED_SEEDS]
    summary: dict[str, Any] = {"ratio": spread([total(row, "ours") / total(row, "plain") for row in timed_rows])}
    for arm in ("ours", "plain"):
        summary[arm] = {
            "round_s": spread([total(row, arm) for row in timed_rows]),
            "train_s": spread([row[f"{arm}_train_s"] for row in timed_rows]),
            "evaluate_s": spread([row[f"{arm}_evaluate_s"] for row in timed_rows]),
            "top1": statistics.mean(row[f"{arm}_top1"] for row in last),
        }
    bounds = (difference.low, difference.high)
    return summary | {
        "top1_difference": difference.estimate,
        "top1_difference_interval": list(bounds) if difference.n > 1 else None,
        "top1_equal": rules.equivalence(difference, MARGIN),
    }


def table(results: dict[str, Any]) -> str:
    """Results as a Markdown table with a line on where they come from."""
    found, peak = results["summary"], results["memory"]["pss_mb"]

    def seconds(arm: str, what: str) -> str:
        s = found[arm][what]
        return f"{s['median']:.2f} ({s['min']:.2f} to {s['max']:.2f})"

    def ratio(what: str) -> str:
        return f"{found['ours'][what]['median'] / found['plain'][what]['median']:.2f}"

    def verdict(holds: bool) -> str:
        return "holds" if holds else "missed"

    r, interval = found["ratio"], found["top1_difference_interval"]
    low, high = (f"{100 * bound:+.2f}" for bound in interval) if interval else ("-inf", "inf")
    spec, machine = results["spec"], results["machine"]
    lines = [
        f"| {spec['train_images']} images, {spec['workers']} clients | ours | plain PyTorch | ours against plain "
        "| limit | |",
        "|---|---|---|---|---|---|",
        f"| round, s | {seconds('ours', 'round_s')} | {seconds('plain', 'round_s')} "
        f"| {r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f}) | at most {TIME_LIMIT} "
        f"| {verdict(r['median'] <= TIME_LIMIT)} |",
        f"| of it training, s | {seconds('ours', 'train_s')} | {seconds('plain', 'train_s')} "
        f"| {ratio('train_s')} | | |",
        f"| of it evaluation, s | {seconds('ours', 'evaluate_s')} | {seconds('plain', 'evaluate_s')} "
        f"| {ratio('evaluate_s')} | | |",
        f"| test accuracy after {spec['epochs']} rounds, % | {100 * found['ours']['top1']:.2f} "
        f"| {100 * found['plain']['top1']:.2f} | {100 * found['top1_difference']:+.2f} ({low} to {high}) points "
        f"| within {100 * MARGIN:g} points | {found['top1_equal']} |",
        f"| peak memory, MB | {peak:.0f} | | | at most {MEMORY_LIMIT} | {verdict(peak <= MEMORY_LIMIT)} |",
        "",
        f"{results['date']}, {machine['device']} ({machine['instructions']}), {results['processes']} of "
        f"{results['cores']} cores, torch {machine['torch']}, Python {machine['python']}; "
        f"accuracies: {len(results['seeds'])} seeds; times and their ratio: median (least to greatest) of the "
        f"{sum(row['seed'] <= TIMED_SEEDS for row in results['rounds'])} rounds of the first {TIMED_SEEDS} seeds.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds 1 to N (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds per seed (default: %(default)s)")
    parser.add_argument("--images", type=int, default=IMAGES, help="training images (default: %(default)s); "
                        "results are written for the default workload only")  # fmt: skip
    args = parser.parse_args(arguments)
    if min(args.seeds, args.rounds, args.images) < 1:
        raise ReproError("--seeds, --rounds and --images: numbers of at least 1 were expected")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # both arms are CPU programs
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first optimiser imports torch._dynamo: once here, not in every process
    processes = len(os.sched_getaffinity(0))
    spec = workload(args.images, args.rounds)

    load = round(os.getloadavg()[0], 2)
    print(f"{processes} processes; load of the last minute {load} (0 is expected)", flush=True)
    memory = measure_memory(spec, processes)
    print(f"peak memory of ours {memory['pss_mb']:.0f} MB", flush=True)
    rows: list[dict[str, Any]] = []
    for seed in range(1, args.seeds + 1):
        rows += measure_seed(spec, seed, processes)
        for row in rows[-args.rounds :]:
            arms = [
                f"{arm} {row[f'{arm}_train_s']:.2f} + {row[f'{arm}_evaluate_s']:.2f} s, "
                f"{100 * row[f'{arm}_top1']:.1f} %"
                for arm in ("ours", "plain")
            ]
            print(f"seed {seed} of {args.seeds}, round {row['round']}: {'; '.join(arms)}", flush=True)
    results = {
        "spec": spec.as_dict(),
        "machine": machine.describe(),
        "cores": os.cpu_count(),
        "processes": processes,
        "load_before": load,
        "code": provenance.CODE,
        "date": time.strftime("%Y-%m-%d"),
        "memory": memory,
        "seeds": list(range(1, args.seeds + 1)),
        "rounds": rows,
        "summary": summarise(rows, args.rounds),
    }
    print("\n" + table(results))
    if (args.images, args.seeds, args.rounds) != (IMAGES, SEEDS, ROUNDS):
        print("not the default workload: nothing was written")
        return
    readme.publish("federated_round", RESULTS, results, table(results))


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
