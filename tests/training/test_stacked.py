"""Clients that train together do what they do one after the other; ``plain`` is the oracle."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from toy import ROOT, spec, toy_batches

from repro import codecs, models
from repro.data.batches import Batches, Images
from repro.errors import NotFinite, ReproError
from repro.experiments import checks, numerics
from repro.models.norms import WorkerBatchNorm2d
from repro.randomness import generator
from repro.running import processes, runner
from repro.training import fast, plain, shared_state
from repro.training.buffers import Buffers
from repro.training.clients import SerialClients
from repro.training.exchange import Exchange
from repro.training.local import LocalTraining
from repro.training.momenta import Momenta
from repro.training.stacked import StackedClients
from repro.training.steps import Optimisation

ROUND_OFF = 1e-10
UNEQUAL = (31, 9, 20, 8, 15)  # images of the clients: one to four steps of 8, the last of another size


def batches_of(shards=UNEQUAL, size=16, dtype=torch.float64):
    """Clients with ``shards`` images each, and local batches of 8."""
    random, total = generator(7, "stacked"), sum(shards)
    pixels = random.integers(0, 256, size=(total, size, size, 3), dtype=np.uint8)
    images = Images(pixels, random.integers(0, 4, size=total), (0.5,) * 3, (0.25,) * 3, dtype=dtype, padding=1)
    return Batches(images, np.split(np.arange(total), np.cumsum(shards)[:-1]), 8, 3, augment=True)


def trained(
    model, together, batches, rounds=2, codec="dense", momentum="restart", policy="average", precision="fp32", **local
):
    """Rounds and shared state; by ``plain`` where none train together."""
    model = copy.deepcopy(model)
    buffers = Buffers.start(policy, model, batches.clients)
    momenta = Momenta.start(momentum, model, batches.clients)
    exchange = Exchange(codecs.build(codec), codecs.build("dense"), buffers)
    optimisation = Optimisation(lambda epoch: 0.02 / (1 + epoch), 0.5, 1e-3, precision)
    training = LocalTraining(momenta=momenta, **local)
    if together is None:
        made = list(plain.federated_averaging(model, batches, exchange, optimisation, range(rounds), training))
    else:
        clients = StackedClients(SerialClients(model, batches, exchange, optimisation, training), together)
        made = list(fast.federated_averaging(model, clients, range(rounds)))
    return made, shared_state(model), buffers.own, momenta.own


def expect_equal(ours, theirs, rtol=0.0, atol=ROUND_OFF):
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert (a.number, a.lr, a.correct, a.images) == (b.number, b.lr, b.correct, b.images)
        assert (a.bytes_up, a.bytes_down) == (b.bytes_up, b.bytes_down)
        assert a.loss == pytest.approx(b.loss, rel=rtol, abs=atol)
    for kept, other in zip((ours[1], *ours[2], *ours[3]), (theirs[1], *theirs[2], *theirs[3]), strict=True):
        for name, values in kept.items():
            scale = atol + rtol * float(other[name].abs().max())
            assert float((values - other[name]).abs().max()) <= scale, name


def network(model="resnet18", dtype=torch.float64, **options):
    return models.build(model, classes=4, width=4, seed=3, dtype=dtype, **{"image_size": 16} | options)


@pytest.mark.parametrize("together", [2, 5])
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", "none", "fixup"])
def test_stacked_clients_of_unequal_size_equal_separate_ones(norm, together):
    model, batches = network(norm=norm, last_scale_zero=False), batches_of(size=32 if norm == "instance" else 16)
    expect_equal(*(trained(model, number, batches) for number in (together, None)))


@pytest.mark.parametrize(("name", "size"), [("resnet50", 16), ("cnn", 16), ("vgg11", 32), ("alexnet", 64)])
def test_other_networks_can_be_stacked_too(name, size):
    """The last two have dropout, of which every client has its own."""
    options = {"norm": "group" if name == "resnet50" else "none"}
    model, batches = network(name, image_size=size, **options), batches_of((20, 9, 16), size)
    expect_equal(*(trained(model, together, batches, rounds=1) for together in (3, None)))


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": "keep"},
        {"momentum": "average", "epochs": 2},
        {"policy": "local"},
        {"codec": "top-k-residual"},
        {"codec": "int8", "policy": "drop"},
        {"steps": 3, "weights": "equal"},
    ],
)
def test_what_is_each_clients_own_stays_so(settings):
    model, batches = network(norm="batch"), batches_of()
    expect_equal(*(trained(model, together, batches, **settings) for together in (3, None)))


@pytest.mark.parametrize("norm", ["batch", "group", "fixup"])
def test_after_20_steps_in_float32_losses_and_weights_differ_by_round_off_alone(norm):
    model, batches = network(norm=norm, dtype=torch.float32), batches_of((80, 73, 75), dtype=torch.float32)
    ours, theirs = (trained(model, together, batches, rounds=1, epochs=2) for together in (3, None))
    assert batches.steps_per_epoch(0) == 10
    expect_equal(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("norm", ["batch", "group", "fixup"])
def test_in_bfloat16_they_differ_by_its_rounding(norm):
    model, batches = network(norm=norm, dtype=torch.float32), batches_of(dtype=torch.float32)
    ours, theirs = (trained(model, together, batches, rounds=1, precision="bf16")[0][0] for together in (5, None))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-2)


def test_a_layer_that_cannot_be_stacked_is_refused_in_a_line():
    batches, exchange, rate = batches_of((8, 8), 32), Exchange(codecs.Dense()), Optimisation(lambda _: 0.1)
    vit = models.build("vit", classes=4, width=1, norm="layer", image_size=32, patch=16, depth=1, dtype=torch.float64)
    with pytest.raises(ReproError, match=r"cannot be stacked: it has a layer .*leave `stacked` out"):
        StackedClients(SerialClients(vit, batches, exchange, rate, LocalTraining()), 2)
    mixing = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4).double(), Softmax())
    with pytest.raises(ReproError, match="mixes networks"):
        StackedClients(SerialClients(mixing, batches, exchange, rate, LocalTraining()), 2)


class Softmax(nn.ReLU):
    """Something that looks like a layer which treats channels alike, and does not."""

    def forward(self, x):
        return x.softmax(1)


@pytest.mark.data
def test_what_spreads_clients_over_processes_refuses_stacked_ones_in_a_line():
    stacked = spec("federated", stacked=2)
    with pytest.raises(ReproError, match="leave --processes out"):
        runner.run(stacked, 1, ROOT, processes=2, checkpoint_seconds=float("inf"))
    with pytest.raises(ReproError, match="start it without torchrun"):
        processes.expect_possible(stacked, 3)


def test_a_client_that_diverges_ends_the_round_as_it_does_alone():
    model, batches = network(norm="none"), toy_batches()
    exchange, rate = Exchange(codecs.Dense()), Optimisation(lambda _: 1e6)
    clients = StackedClients(SerialClients(model, batches, exchange, rate, LocalTraining(epochs=4)), 3)
    with pytest.raises(NotFinite):
        list(fast.federated_averaging(model, clients, range(1)))


def test_the_setting_has_a_numerics_version_of_its_own_and_leaves_other_fingerprints_alone():
    off, on = spec("federated"), spec("federated", stacked=2)
    assert "stacked" not in off.as_dict()
    assert numerics.used_by(on.as_dict()).keys() - numerics.used_by(off.as_dict()).keys() == {"stacked_clients"}
    with pytest.raises(ReproError, match="key stacked"):
        checks.check(spec("large_batch", stacked=2), "toy")


def test_batchnorm_keeps_its_own_epsilon_and_momentum_in_a_stack():
    model, batches = network(norm="batch", last_scale_zero=False), batches_of((20, 9, 16))
    for layer in model.modules():
        if isinstance(layer, WorkerBatchNorm2d):
            layer.epsilon, layer.momentum = 1e-2, 0.3
    expect_equal(*(trained(model, together, batches) for together in (3, None)))
