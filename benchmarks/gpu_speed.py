"""What ``gpu.py`` measures: the bf16 peak, and images/s of ResNet18 in a large batch and in a federated round.

* **ours**: this package as runs use it: bfloat16 convolutions on float32 weights, channels last, kernels that sum in a
  fixed order; images, cropping and mirroring on the device.
* **ours, stacked**: the ten clients of a round as one network (``repro.training.stacked``).
* **plain**: the network from ``nn.Conv2d`` and ``nn.BatchNorm2d``, ``torch.autocast`` to bfloat16, ``torch.optim.SGD``,
  all other settings PyTorch's own. It gets the same batches, and counts neither losses nor bytes.
* **peak**: a product of two square matrices of random bfloat16 numbers.

Arms take turns. FLOP are those of the convolutions and products of a forward and a backward pass.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import federated_round
import torch
import torch.nn.functional as F
from peers import networks
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from repro import codecs, machine
from repro.registry.specs import Spec
from repro.running import prepare, runner
from repro.training import fast
from repro.training.clients import SerialClients
from repro.training.exchange import Exchange
from repro.training.local import LocalTraining
from repro.training.stacked import StackedClients
from repro.training.steps import Optimisation

LR = 0.05
PEAK_PRODUCTS = 20


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        matrix: rows and columns of the matrices whose product is timed.
        width, image_size: of ResNet18.
        batch: the large one.
        steps: of it in a block, timed as one.
        clients, local_batch, local_steps: of the federated round, which is a block.
        blocks: of each arm that are timed, after one that warms up.
    """

    matrix: int
    width: int
    image_size: int
    batch: int
    steps: int
    clients: int
    local_batch: int
    local_steps: int
    blocks: int


FULL = Sizes(8192, 64, 32, 1024, 20, 10, 32, 10, 5)
TINY = Sizes(256, 4, 16, 64, 2, 3, 8, 2, 2)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _timed(blocks: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Seconds of ``count`` calls of each, in turns, after a call that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for number in range(count + 1):
        for name, block in blocks.items():
            began = _now()
            block()
            if number:
                seconds[name].append(_now() - began)
    return seconds


@contextmanager
def pytorch_defaults() -> Iterator[None]:
    """Without the settings that make runs repeatable to the bit."""
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        runner.make_reproducible()


def peak(size: int) -> float:
    """FLOP/s of a product of two matrices of ``size`` rows and columns, in bfloat16."""
    where = machine.device()
    a, b = (torch.randn(size, size, device=where).bfloat16() for _ in range(2))

    def products() -> None:
        for _ in range(PEAK_PRODUCTS):
            a @ b

    with pytorch_defaults():
        return 2 * size**3 * PEAK_PRODUCTS / min(_timed({"": products}, 3)[""])


def _spec(sizes: Sizes, method: str) -> Spec:
    large = method == "central"
    images = sizes.batch * 4 if large else sizes.clients * sizes.local_batch * sizes.local_steps
    return replace(
        federated_round.workload(images, 10_000), run=f"benchmark-gpu-{method}", method=method, width=sizes.width,
        image_size=sizes.image_size, test_images=100, workers=1 if large else sizes.clients,
        local_batch=sizes.batch if large else sizes.local_batch,
    )  # fmt: skip


def _plain_network(spec: Spec, setting: prepare.Setting) -> nn.Module:
    return federated_round.plain_network(spec, setting).to(machine.device()).train()


def _plain_step(network: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    with torch.autocast(x.device.type, torch.bfloat16):
        loss = F.cross_entropy(network(x), y)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def large_batch(sizes: Sizes, root: Path) -> dict[str, Any]:
    """Images/s of central training at the large batch."""
    spec = _spec(sizes, "central")
    setting = prepare.prepare(spec, 1, root)
    plain, batches = _plain_network(spec, setting), setting.batches
    optimisation = Optimisation(lambda _: LR, precision="bf16")
    ours = fast.centralised(setting.model, optimisation.optimiser(setting.model), batches, optimisation, range(10**9))
    optimiser = torch.optim.SGD(plain.parameters(), lr=LR)

    def our_steps() -> None:
        for _ in range(sizes.steps):
            next(ours)

    def plain_steps() -> None:
        with pytorch_defaults():
            for step in range(sizes.steps):
                _plain_step(plain, optimiser, *batches.get(0, step))

    images = sizes.steps * sizes.batch
    return _rates(_timed({"ours": our_steps, "plain": plain_steps}, sizes.blocks), images)


def federated(sizes: Sizes, root: Path) -> dict[str, Any]:
    """Images/s of a round of federated averaging."""
    spec = _spec(sizes, "federated")
    setting = prepare.prepare(spec, 1, root)
    batches, optimisation = setting.batches, Optimisation(lambda _: LR, precision="bf16")

    def rounds(stacked: bool) -> Callable[[], object]:
        model = copy.deepcopy(setting.model)
        serial = SerialClients(model, batches, Exchange(codecs.Dense()), optimisation, LocalTraining())
        clients = StackedClients(serial, batches.clients) if stacked else serial
        made = fast.federated_averaging(model, clients, range(10**9))
        return lambda: next(made)

    shared = _plain_network(spec, setting)
    worker = copy.deepcopy(shared)
    count = iter(range(10**9))

    def plain_round() -> None:
        number = next(count)
        received, total = shared.state_dict(), {}
        with pytorch_defaults():
            for client in range(batches.clients):
                worker.load_state_dict(received)
                optimiser = torch.optim.SGD(worker.parameters(), lr=LR)
                for step in range(sizes.local_steps):
                    _plain_step(worker, optimiser, *batches.get(client, number * sizes.local_steps + step))
                for name, value in worker.state_dict().items():
                    total[name] = total.get(name, 0) + value / batches.clients
        shared.load_state_dict(total)

    arms = {"ours": rounds(False), "ours, stacked": rounds(True), "plain": plain_round}
    return _rates(_timed(arms, sizes.blocks), sizes.clients * sizes.local_batch * sizes.local_steps)


def _rates(seconds: dict[str, list[float]], images: int) -> dict[str, Any]:
    return {name: [round(images / each, 1) for each in of] for name, of in seconds.items()}


def flop_of_image(sizes: Sizes, root: Path) -> float:
    """FLOP of a forward and a backward pass of the plain network, for one image."""
    network = networks.build("resnet18", 10, sizes.width)
    counter = FlopCounterMode(display=False)
    with counter:
        network(torch.randn(2, 3, sizes.image_size, sizes.image_size)).sum().backward()
    return counter.get_total_flops() / 2


def measure(sizes: Sizes, root: Path) -> Iterator[tuple[str, Any]]:
    """Everything, by its name, as soon as it is there."""
    yield "peak, FLOP/s", round(peak(sizes.matrix))
    yield "FLOP of an image", round(flop_of_image(sizes, root))
    yield "images/s, large batch", large_batch(sizes, root)
    yield "images/s, federated round", federated(sizes, root)


def seconds_of_image(spec: Spec, root: Path, steps: int = 8) -> float:
    """Seconds that central training of ``spec`` takes for an image, from a few steps."""
    setting = prepare.prepare(spec, 1, root)
    optimisation = Optimisation(lambda _: 1e-3, spec.momentum, spec.weight_decay, spec.precision)
    optimiser = optimisation.optimiser(setting.model)
    made = fast.centralised(setting.model, optimiser, setting.batches, optimisation, range(10**9))

    def some() -> None:
        for _ in range(steps):
            next(made)

    return min(_timed({"": some}, 1)[""]) / (steps * min(spec.local_batch, spec.train_images))


def table(results: dict[str, Any]) -> str:
    """Results as Markdown tables with a line on where they come from."""
    speed, sizes, of = results["speed"], results["sizes"], results["machine"]
    top, flop = speed["peak, FLOP/s"], speed.get("FLOP of an image", 0)
    rows = {
        f"batch {sizes['batch']}": speed.get("images/s, large batch", {}),
        f"a round of {sizes['clients']} clients, batch {sizes['local_batch']}": speed.get(
            "images/s, federated round", {}
        ),
    }
    lines = ["| ResNet18, images/s | arm | images/s | against plain | share of the bf16 peak |", "|---" * 5 + "|"]
    for what, arms in rows.items():
        for name, rates in arms.items():
            rate = statistics.median(rates)
            lines.append(
                f"| {what} | {name} | {rate:.0f} ({min(rates):.0f} to {max(rates):.0f}) | "
                f"{rate / statistics.median(arms['plain']):.2f} | {100 * rate * flop / top:.1f} % |"
            )
    lines += ["", f"Peak: {top / 1e12:.1f} TFLOP/s. Records computed:", ""]
    lines += [f"- {line}" for line in results["records"]] or ["- none"]
    lines += [
        "",
        f"{results['date']}, {of['device']}, torch {of['torch']}, Python {of['python']}, commit "
        f"{results['code']['commit'][:10]}; median (least to greatest) of {sizes['blocks']} blocks.",
    ]
    return "\n".join(lines) + "\n"
