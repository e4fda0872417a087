"""The child process of ``peak``: trains a few steps at one batch size and says so. Not meant to be called by hand."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from repro.errors import ReproError
from repro.performance.peak import resident
from repro.performance.workload import Trainer, Workload


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main(task: dict[str, Any]) -> int:
    """Train as ``task`` says; wait for the parent before ending."""
    torch.set_num_threads(1)
    device = torch.device(task["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ReproError("no CUDA device here; cpu was expected")
    if device.type == "cuda" and task["limit"] is not None:
        share = task["limit"] / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
    _say(base=resident() if device.type == "cpu" else 0)
    try:
        trainer = Trainer(Workload(**task["workload"]), device=device)
        batches = trainer.batches(task["batch"])
        for step in range(task["steps"]):
            trainer.train(batches, step)
        trainer.wait()
    except torch.OutOfMemoryError:
        _say(out_of_memory=True)
        return 0
    _say(done=True, reserved=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(json.loads(sys.argv[1])))
    except ReproError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
