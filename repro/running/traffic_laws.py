"""Laws of what is sent and how long it takes, executed with real messages (paper, section II; post 2, introduction)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro.codecs import Dense
from repro.data.batches import Batches, Images
from repro.models import build as build_model
from repro.randomness import derive, generator
from repro.results.links import Link, round_seconds
from repro.training import plain
from repro.training.exchange import Exchange
from repro.training.steps import Optimisation

TOLERANCE = 1e-12  # float64 round-off of sums of a few numbers, with room


def _network(width: int, seed: int, classes: int = 10) -> nn.Module:
    return build_model(
        "resnet18", classes=classes, width=width, norm="group", last_scale_zero=False, seed=derive(seed, "law"),
        dtype=torch.float64,
    )  # fmt: skip


def ring_all_reduce(vectors: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """The sum of one vector of each client, by messages between neighbours in a ring only.

    The vector is cut into as many pieces as there are clients. In C - 1 steps every client adds the piece that its
    neighbour sent to its own, in C - 1 more the finished pieces go round (Patarasuk and Yuan, 2009).

    Args:
        vectors: one of the same length for each of C clients.

    Returns:
        What every client holds at the end, and the bytes that each of them sent.
    """
    clients = len(vectors)
    pieces = [[piece.copy() for piece in np.array_split(vector, clients)] for vector in vectors]
    sent = [0] * clients

    def step(first: int, adds: bool) -> None:
        moving = [pieces[client][(client + first) % clients].tobytes() for client in range(clients)]
        for client, message in enumerate(moving):
            sent[client] += len(message)
            receiver, at = (client + 1) % clients, (client + first) % clients
            received = np.frombuffer(message, dtype=vectors[0].dtype)
            pieces[receiver][at] = pieces[receiver][at] + received if adds else received

    for n in range(clients - 1):
        step(-n, adds=True)
    for n in range(clients - 1):
        step(1 - n, adds=False)
    return [np.concatenate(own) for own in pieces], sent


def star_and_ring(*, workers: int, width: int, seed: int) -> dict[str, Any]:
    """Paper, section II-A: a server's traffic grows with the clients, that of a client of a ring does not.

    The gradients of 2, 4, ... ``workers`` clients are averaged twice: by a server that every client sends a message to
    and gets one from, and by a ring all-reduce.

    Returns:
        ``star_deviation``: how far the server's bytes are from proportional to the clients, relative to them.
        ``ring_deviation``: how far a client's bytes are from 2 (C - 1) / C models, in models, and ``ring_rounding``,
        the most that comes from pieces of unequal length. ``star_growth`` and ``ring_growth``: bytes of the server, and
        of a client of the ring, at most clients relative to two. ``largest_difference`` of the two averages, and
        ``largest_gradient``. Also the sizes used, and the tolerance for "equal".
    """
    length = sum(p.numel() for p in _network(width, seed).parameters())
    codec, random = Dense(), generator(seed, "law", "gradients")
    counts = [2**k for k in range(1, workers.bit_length()) if 2**k <= workers]
    server, ring, difference, largest = {}, {}, 0.0, 0.0
    for clients in counts:
        vectors = [random.normal(size=length) for _ in range(clients)]
        up = [codec.encode(codec.new_state(), {"gradient": torch.from_numpy(v)}) for v in vectors]
        mean = sum(codec.decode(message)[0] for message in up) / clients
        down = [codec.encode(codec.new_state(), {"mean": mean}) for _ in range(clients)]
        server[clients] = sum(map(len, up)) + sum(map(len, down))
        reduced, sent = ring_all_reduce(vectors)
        ring[clients] = max(sent)
        difference = max(difference, *(float(np.abs(own / clients - mean.numpy()).max()) for own in reduced))
        largest = max(largest, float(mean.abs().max()))
    model = 8 * length
    return {
        "star_deviation": max(abs(server[c] * 2 / (server[2] * c) - 1) for c in counts),
        "ring_deviation": max(abs(ring[c] / model - 2 * (c - 1) / c) for c in counts),
        "ring_rounding": 2 * workers / length,
        "star_growth": server[counts[-1]] / server[2],
        "ring_growth": ring[counts[-1]] / ring[2],
        "largest_difference": difference,
        "largest_gradient": largest,
        "clients": counts[-1], "values": length, "tolerance": TOLERANCE, "dtype": "float64",
    }  # fmt: skip


def epoch_traffic(*, images: int, local_batch: int, image_size: int, width: int, seed: int) -> dict[str, Any]:
    """Paper, section II-B: an epoch of D images in batches of B has D / B iterations, and sends as many messages.

    Trains an epoch by large batch, one worker, at batches of ``local_batch`` and twice, four, eight times that.

    Returns:
        ``iterations_deviation``: how far the iterations were from D / B. ``bytes_deviation``: how far the bytes sent in
        an epoch were from proportional to 1 / B, relative to them. ``least_saving``: the least factor by which twice
        the batch sends less, and ``no_saving``, which is 1. ``least_step``: the smallest of the largest changes of the
        weights, which shows that all of them trained. Also the sizes used, and the tolerance for "equal".
    """
    random = generator(seed, "law", "images")
    pixels = random.integers(0, 256, size=(images, image_size, image_size, 3), dtype=np.uint8)
    held = Images(pixels, random.integers(0, 10, size=images), (0.5,) * 3, (0.25,) * 3, dtype=torch.float64)
    sizes = [local_batch * 2**k for k in range(4) if local_batch * 2**k <= images]
    iterations, sent, moved = {}, {}, []
    for batch in sizes:
        model = _network(width, seed)
        start = [p.detach().clone() for p in model.parameters()]
        batches = Batches(held, [np.arange(images)], batch, seed, False)
        todo, steps = range(batches.rounds_per_epoch), Optimisation(lambda _: 0.01)
        optimiser = steps.optimiser(model)
        rounds = list(plain.large_batch(model, optimiser, batches, Exchange(Dense()), steps, todo))
        iterations[batch], sent[batch] = len(rounds), sum(done.bytes_up for done in rounds)
        moved.append(max(float((p.detach() - s).abs().max()) for p, s in zip(model.parameters(), start, strict=True)))
    return {
        "iterations_deviation": max(abs(iterations[b] - images / b) for b in sizes),
        "bytes_deviation": max(abs(sent[b] * b / (sent[sizes[0]] * sizes[0]) - 1) for b in sizes),
        "least_saving": min(sent[b] / sent[2 * b] for b in sizes[:-1]),
        "no_saving": 1.0,
        "least_step": min(moved),
        "images": images, "largest_batch": sizes[-1], "tolerance": TOLERANCE, "dtype": "float64",
    }  # fmt: skip


def _transfer(size: int, megabits: float, start: float) -> float:
    """When a message that starts at ``start`` has arrived, packet by packet of 1500 bytes."""
    packets = [1500] * (size // 1500) + [size % 1500]
    return start + float(np.sum([8 * packet / megabits / 1e6 for packet in packets]))


def slowest_device(*, workers: int, width: int, seed: int) -> dict[str, Any]:
    """Post 2, introduction: the slowest device sets the time of a round; slow uploads impede large models.

    ``workers`` devices of random speed, whose upload has half the speed of their download, receive a real message of a
    model and send one back, packet by packet; the round ends when the last packet of all has arrived.

    Returns:
        ``round_deviation``: how far the round is from the time of the slowest device, relative to it.
        ``faster_others``: relative change of the round when all other devices become ten times as fast.
        ``slower_slowest``: how far it is from twice as long when the slowest device is half as fast, relative to it.
        ``upload_share`` of the round's time, and ``half``, which it exceeds. ``larger_model``: how many times as long a
        round takes with a model of twice the width, ``larger_message``: how many times as many bytes that has, and
        ``growth_deviation``, the relative difference of both. Also the sizes used, and the tolerance for "equal".
    """
    speeds = generator(seed, "law", "speeds").uniform(4, 100, size=workers)  # megabits a second, upload

    def message(width: int) -> int:
        tensors: dict[str, Tensor] = dict(_network(width, seed).named_parameters())
        codec = Dense()
        return len(codec.encode(codec.new_state(), {name: t.detach() for name, t in tensors.items()}))

    def simulated(speeds: np.ndarray, size: int) -> float:
        return max(_transfer(size, up, _transfer(size, 2 * up, 0.0)) for up in speeds.tolist())

    small, large = message(width), message(2 * width)
    slow = int(np.argmin(speeds))
    links = [Link(str(n), down=2 * up, up=up) for n, up in enumerate(speeds.tolist())]
    took = simulated(speeds, small)
    faster, slower = 10 * speeds, speeds.copy()
    faster[slow], slower[slow] = speeds[slow], speeds[slow] / 2
    grown = simulated(speeds, large) / took
    return {
        "round_deviation": abs(round_seconds(links, small, small) / took - 1),
        "faster_others": abs(simulated(faster, small) / took - 1),
        "slower_slowest": abs(simulated(slower, small) / took / 2 - 1),
        "upload_share": 1 - _transfer(small, 2 * float(speeds[slow]), 0.0) / took,
        "half": 0.5,
        "larger_model": grown,
        "larger_message": large / small,
        "growth_deviation": abs(grown / (large / small) - 1),
        "devices": workers, "tolerance": TOLERANCE, "dtype": "float64",
    }  # fmt: skip
