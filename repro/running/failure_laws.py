"""The law that a training goes on after a network failure, executed with processes that really end (post 2)."""

from __future__ import annotations

import dataclasses
import os
import signal
import tempfile
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro import files
from repro.checkpoint import Checkpoint
from repro.data.batches import Batches, Images
from repro.distributed import joined
from repro.distributed.start import Started
from repro.errors import ReproError
from repro.models import build as build_model
from repro.randomness import derive, generator
from repro.registry.specs import Spec
from repro.running.job import Job
from repro.running.prepare import Setting
from repro.running.train import Training, finished

TOLERANCE = 1e-12  # float64 round-off, with room; a training that goes on where it was has no difference at all
_SILENCE, _PATIENCE = 120.0, 600.0  # seconds: until a process gives another one up, and until the law gives them up


class _Dying(Batches):
    """Batches whose process is killed when it asks for local batch number ``last`` of any client."""

    last = -1

    def get(self, client: int, step: int) -> tuple[Tensor, Tensor]:
        """See ``Batches``."""
        if step == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().get(client, step)


class _EveryRound(Checkpoint):
    """A checkpoint that is written after every round, however long that takes."""

    def due(self) -> bool:
        """See ``Checkpoint``."""
        return self.pause != inf


def _setting(spec: Spec, seed: int, last: int) -> Setting:
    """Random images, and the initial network, in float64 on the processor."""
    n, random, classes = spec.train_images, generator(seed, "law", "lost worker"), 10
    pixels = random.integers(0, 256, size=(n, spec.image_size, spec.image_size, 3), dtype=np.uint8)
    images = Images(pixels, random.integers(0, classes, size=n), (0.5,) * 3, (0.25,) * 3, dtype=torch.float64)
    batches = _Dying(images, np.array_split(np.arange(n), spec.workers), spec.local_batch, seed, spec.augment)
    batches.last = last
    model = build_model(
        spec.model,
        classes=classes,
        width=spec.width,
        norm=spec.norm,
        last_scale_zero=False,
        seed=derive(seed, "law"),
        dtype=torch.float64,
    )
    return Setting(model, batches, images, classes, {"name": None, "sha256": None, "reduced": None, "classes": classes})


def _take_part(rank: int, *, spec: Spec, seed: int, folder: Path, last: int) -> None:
    """One process of a training: number 0 leaves the weights and the bytes, and a line for every finished round."""
    torch.set_num_threads(1)
    identity = {name: getattr(spec, name) for name in ("run", "source", "group", "kind", "profile")}
    identity |= {"seed": seed, "spec": spec.as_dict(), "fingerprint": files.sha256(spec.as_dict())}

    def note(share: float) -> None:
        with (folder / "rounds").open("a") as rounds:
            rounds.write(f"{share}\n")

    with joined(_SILENCE) as group:
        checkpoint = _EveryRound(folder / "checkpoint.pt", identity["fingerprint"], 0 if rank == 0 else inf)
        setting = _setting(spec, seed, last if rank == group.size - 1 else -1)
        training = Training(Job(spec, seed, folder, identity, checkpoint, 1, note, group=group), setting)
        if rank:
            training.serve()
            return
        row = finished(training).rows[-1]
        weights = [parameter.detach() for parameter in setting.model.parameters()]
        torch.save({"weights": weights, "bytes": row["bytes_up"] + row["bytes_down"]}, folder / "result.pt")


def _train(spec: Spec, seed: int, folder: Path, last: int = -1) -> list[int | None]:
    """Exit codes of a server's process and one for each client, the last of which is killed at local batch ``last``."""
    started = Started(spec.workers + 1, partial(_take_part, spec=spec, seed=seed, folder=folder, last=last), folder)
    codes = started.ended(_PATIENCE)
    if last < 0 and any(codes):
        said = next((lines for rank in range(len(codes)) if codes[rank] and (lines := started.said(rank))), [])
        raise ReproError(
            f"{spec.run}: processes ended with {codes}: {said[-1] if said else 'no word'}; run the law again"
        )
    return codes


def _disturbed(spec: Spec, seed: int, last: int) -> dict[str, Any]:
    """A training twice, undisturbed, and killed and started again; what differs."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        for name in ("undisturbed", "disturbed"):
            folder = Path(place, name)
            folder.mkdir()
            codes = _train(spec, seed, folder, last) if name == "disturbed" else []
            _train(spec, seed, folder)
            result = torch.load(folder / "result.pt", weights_only=True)
            found.append({**result, "rounds": len((folder / "rounds").read_text().split())})
    whole, again = found
    start = list(_setting(spec, seed, -1).model.parameters())
    return {
        "largest_weight_difference": _largest(whole["weights"], again["weights"]),
        "least_change": _largest(whole["weights"], start),
        "bytes_difference": abs(whole["bytes"] - again["bytes"]),
        "killed": codes.count(-signal.SIGKILL),
        "still_running": codes.count(None),
        "rounds_repeated": again["rounds"] + 1 - whole["rounds"],  # 1: the one in which the process was killed
    }


def _largest(ours: list[Tensor], theirs: list[Any]) -> float:
    return max(float((a - b.detach()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def lost_worker(spec: Spec, seed: int) -> dict[str, Any]:
    """Post 2, introduction: the trainer copes with a failing network and resumes the training afterwards.

    A server and ``workers`` clients train in processes of their own: by large batch as the spec says, and by federated
    averaging with int8 messages and local momentum that is kept. In the second epoch the process of a client is killed
    after it has received the shared model and before it has answered. The others end. All are started again, and go on
    from the server's checkpoint, which holds what every client keeps between rounds.

    Returns:
        ``largest_weight_difference`` and ``bytes_difference`` of the finished training and of an undisturbed one.
        ``least_change``: the largest change of a weight in the undisturbed training, of the method where it is smaller.
        ``killed``: processes that were killed. ``still_running``: others that did not end. ``rounds_repeated``: rounds
        that were begun twice. All over both methods: largest, least or sum. Also the sizes used, ``none``, which is 0,
        and the tolerance for "equal".
    """
    large_batch = dataclasses.replace(spec, kind="train")
    federated = dataclasses.replace(large_batch, method="federated", codec="int8", local_momentum="keep")
    found = [
        _disturbed(each, seed, last=spec.train_images // spec.workers // spec.local_batch + 1)
        for each in (large_batch, federated)
    ]
    return {
        "largest_weight_difference": max(each["largest_weight_difference"] for each in found),
        "least_change": min(each["least_change"] for each in found),
        **{
            name: sum(each[name] for each in found)
            for name in ("bytes_difference", "killed", "still_running", "rounds_repeated")
        },
        "none": 0,
        "processes": spec.workers + 1,
        "local_batch": spec.local_batch,
        "epochs": spec.epochs,
        "image_size": spec.image_size,
        "width": spec.width,
        "tolerance": TOLERANCE,
        "dtype": "float64",
    }
