"""What the benchmark gives a peer's program: the network, its first weights, the data and the settings, in one file.

A program says ``ready`` once everything is loaded, ``round N`` after each round, and ``top1 F`` at the end, a line
each on standard output; the benchmark takes processor seconds and memory of all its processes from outside.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import build
from torch import Tensor, nn

TEST_BATCH = 100


def say(line: str) -> None:
    """A line for the benchmark."""
    print(f"benchmark: {line}", flush=True)


class Given:
    """The content of the file.

    Attributes:
        settings: ``model``, ``width``, ``classes``, ``lr``, ``rounds``, ``local_batch``, ``augment`` and ``bf16``
            (bfloat16 autocast and channels last).
        shards: for each client, indices of its images.
    """

    def __init__(self, path: str | Path) -> None:
        content: dict[str, Any] = torch.load(path, weights_only=True)
        self.settings: dict[str, Any] = content["settings"]
        self.shards: list[Tensor] = content["shards"]
        self._weights: dict[str, Tensor] = content["weights"]
        self._images, self._labels = content["images"].numpy(), content["labels"]
        self._test, self._test_labels = content["test_images"], content["test_labels"]
        self._mean, self._std = content["mean"].view(3, 1, 1), content["std"].view(3, 1, 1)
        self._padding = content["padding"]  # of the training images, for random crops

    def network(self) -> nn.Module:
        """The network with its first weights."""
        net = build(self.settings["model"], self.settings["classes"], self.settings["width"])
        net.load_state_dict(net.state_dict() | self._weights)
        return net.to(memory_format=torch.channels_last) if self.settings["bf16"] else net

    def autocast(self) -> Any:
        """The context of a forward pass."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.settings["bf16"])

    def batches(self, shard: Tensor) -> list[Tensor]:
        """Indices of the local batches of one epoch in random order; a rest below half a batch joins the last one."""
        size = self.settings["local_batch"]
        order, steps = shard[torch.randperm(len(shard))], max(1, (len(shard) + size // 2) // size)
        return [order[step * size : (step + 1) * size if step + 1 < steps else None] for step in range(steps)]

    def load(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Training images ``index``, cropped and mirrored at random where ours are: x (B, 3, H, W), y (B,)."""
        size = self._images.shape[1] - 2 * self._padding
        if self.settings["augment"]:
            chosen = np.empty((len(index), size, size, 3), np.uint8)
            corners = torch.randint(2 * self._padding + 1, (len(index), 2)).tolist()
            mirrored = (torch.rand(len(index)) < 0.5).tolist()
            for k, (image, (top, left), flip) in enumerate(zip(index.tolist(), corners, mirrored, strict=True)):
                crop = self._images[image, top : top + size, left : left + size]
                chosen[k] = crop[:, ::-1] if flip else crop
        else:
            chosen = self._images[index.numpy()]
        return self._scaled(torch.from_numpy(chosen)), self._labels[index]

    def _scaled(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)
        return x.contiguous(memory_format=torch.channels_last if self.settings["bf16"] else torch.contiguous_format)

    @torch.inference_mode()
    def top1(self, net: nn.Module) -> float:
        """Accuracy on the test images, a fraction."""
        net.eval()
        correct = 0
        with self.autocast():
            for at in range(0, len(self._test), TEST_BATCH):
                x = self._scaled(self._test[at : at + TEST_BATCH])
                correct += int((net(x).argmax(1) == self._test_labels[at : at + TEST_BATCH]).sum())
        return correct / len(self._test)


@cache
def loaded(path: Path) -> Given:
    """The content of a file, read once a process, with random numbers of this process's own."""
    torch.set_num_threads(1)
    given = Given(path)
    torch.manual_seed(given.settings["seed"] + os.getpid())
    return given


def main_argument() -> Path:
    """The path of the file, the only argument of a program."""
    if len(sys.argv) != 2:
        sys.exit(f"{Path(sys.argv[0]).name}: one argument was expected, the file that the benchmark wrote")
    return Path(sys.argv[1])
