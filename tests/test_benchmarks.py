"""The benchmarks' own laws: the plain networks are ours, and what a watched program did is what is said of it."""

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from repro import models
from repro.errors import ReproError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

processes = pytest.importorskip("processes")
networks = pytest.importorskip("peers.networks")

needs_proc = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")


@pytest.mark.parametrize(("model", "norm"), [("cnn", "none"), ("resnet18", "batch")])
def test_plain_networks_compute_what_ours_compute(model, norm):
    ours = models.build(model, classes=10, width=4, norm=norm, seed=3, dtype=torch.float64)
    plain = networks.build(model, 10, 4).double()
    plain.load_state_dict(plain.state_dict() | ours.state_dict())
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for net in (ours, plain):
        F.cross_entropy(net(x), torch.arange(5)).backward()
    for (name, p), (other, q) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert name == other
        assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-12), name


BUSY = """
import os, time
def burn(seconds):
    ends = time.process_time() + seconds
    while time.process_time() < ends: pass
print('benchmark: ready', flush=True)
if os.fork() == 0:
    burn(0.3); os._exit(0)
burn(0.2); os.wait()
print('benchmark: round 1', flush=True)
burn(0.1)
print('benchmark: round 2', flush=True)
print('benchmark: top1 0.25', flush=True)
"""


@needs_proc
def test_seconds_of_a_round_are_those_of_all_processes_ended_ones_too():
    seen = processes.watch([sys.executable, "-c", BUSY], os.environ)
    cpu, wall = seen.rounds()
    assert cpu == pytest.approx([0.5, 0.1], abs=0.06)
    assert len(wall) == 2
    assert seen.value("top1") == 0.25
    assert 1 <= seen.most <= 2
    assert 0 < seen.pss_mb <= seen.rss_mb


@needs_proc
def test_a_program_that_fails_is_an_error_with_its_last_line():
    with pytest.raises(ReproError, match="failed: it broke"):
        processes.watch([sys.executable, "-c", "print('it broke'); raise SystemExit(3)"], os.environ)
    with pytest.raises(ReproError, match="a program was expected"):
        processes.watch(["/no/such/program"], os.environ)
