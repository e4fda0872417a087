"""Federated averaging whose rounds are counted in local steps, and what its clients' own models are worth."""

from functools import partial

import pytest
import torch
from toy import toy_batches
from trainings import federated

from repro import codecs, models
from repro.models.norms import batch_statistics
from repro.training import evaluate, fast, plain, shared_state
from repro.training.buffers import Buffers, load_state
from repro.training.exchange import Exchange
from repro.training.local import LocalTraining
from repro.training.steps import Optimisation

ROUND_OFF = 1e-11


def toy_model(norm="batch"):
    return models.build("resnet18", classes=4, width=4, norm=norm, seed=3, dtype=torch.float64)


def falling(epoch):
    return 0.05 / (1 + epoch)


def after(engine, steps, rounds, batches=None, *, norm="batch", processes=1, codec="dense", momentum=0.5):
    model, batches, exchange = toy_model(norm), batches or toy_batches(), Exchange(codecs.build(codec))
    optimisation, local = Optimisation(falling, momentum, 1e-3), LocalTraining(steps=steps)
    return federated(engine, model, batches, exchange, optimisation, rounds, local, processes), shared_state(model)


def assert_near(a, b, atol=ROUND_OFF):
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=0, atol=atol), name


@pytest.mark.parametrize("codec", ["dense", "int8"])
@pytest.mark.parametrize("steps", [2, 4, 5])
def test_fast_equals_plain(steps, codec):
    slow_rounds, slow = after(plain, steps, 2, codec=codec)
    fast_rounds, quick = after(fast, steps, 2, codec=codec)
    assert_near(slow, quick)
    for a, b in zip(slow_rounds, fast_rounds, strict=True):
        assert (a.number, a.lr, a.correct, a.images, a.bytes_up) == (b.number, b.lr, b.correct, b.images, b.bytes_up)
        assert a.loss == pytest.approx(b.loss, abs=ROUND_OFF)


def test_it_does_not_depend_on_the_number_of_processes():
    alone_rounds, alone = after(fast, 4, 2)
    many_rounds, many = after(fast, 4, 2, processes=2)
    assert alone_rounds == many_rounds
    assert all(torch.equal(alone[name], many[name]) for name in alone)


def test_as_many_steps_as_an_epoch_has_are_an_epoch():
    batches, model = toy_batches(images=48), toy_model()
    by_steps = after(plain, 2, 3, batches)
    made = federated(plain, model, batches, Exchange(codecs.Dense()), Optimisation(falling, 0.5, 1e-3), 3)
    assert by_steps[0] == made
    state = shared_state(model)
    assert all(torch.equal(by_steps[1][name], state[name]) for name in state)


def test_every_client_takes_the_same_number_of_steps_whatever_its_shard():
    batches = toy_batches()
    assert [batches.steps_per_epoch(client) for client in range(3)] == [3, 3, 2]
    asked = []
    get = batches.get
    batches.get = lambda client, step: asked.append((client, step)) or get(client, step)
    after(fast, 4, 2, batches)
    assert asked == [(client, step) for steps in (range(4), range(4, 8)) for client in range(3) for step in steps]


def test_one_step_a_round_without_momentum_is_large_batch_training():
    """The average of the models after a step is a step along the average gradient, where nothing else has a state."""
    batches, model = toy_batches(images=48), toy_model("group")
    _, averaged = after(plain, 1, 4, batches, norm="group", momentum=0.0)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=1e-3)
    list(plain.large_batch(model, optimiser, batches, Exchange(codecs.Dense()), Optimisation(falling), range(4)))
    assert_near(averaged, shared_state(model))


def test_one_client_without_momentum_trains_as_in_one_place_whatever_the_rounds():
    batches, model = toy_batches(clients=1), toy_model()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=1e-3)
    list(plain.centralised(model, optimiser, batches, Optimisation(falling), range(6)))
    for every in (1, 3, 6):
        _, averaged = after(fast, every, 6 // every, batches, momentum=0.0)
        assert_near(averaged, shared_state(model))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("policy", ["average", "local", "drop"])
def test_clients_score_their_own_models_before_they_are_averaged(policy, processes):
    model, batches, codec = toy_model(), toy_batches(), codecs.build("dense")
    exchange, local = Exchange(codec, buffers=Buffers.start(policy, model, 3)), LocalTraining(steps=4)
    parts = [partial(batches.images.centre, at, at + 30) for at in (0, 30)]
    with fast.client_pool(
        model, batches, exchange, Optimisation(falling), local, evaluation=parts, processes=processes
    ) as pool:
        first, last = fast.federated_averaging(model, pool, range(2), score_clients_in=1)
    assert first.clients_top1_by_class is None

    class Spy:
        """Keeps what is sent; the codec itself is exact."""

        fixed_size, sent = True, []

        def __getattr__(self, name):
            return getattr(codec, name)

        def encode(self, state, tensors):
            self.sent.append({name: tensor.clone() for name, tensor in tensors.items()})
            return codec.encode(state, tensors)

    spied, spy, mine = toy_model(), Spy(), Buffers.start(policy, toy_model(), 3)
    told = Exchange(spy, buffers=mine)
    rounds = plain.federated_averaging(spied, batches, told, Optimisation(falling), range(2), local)
    next(rounds)
    before = {name: tensor.clone() for name, tensor in shared_state(spied, mine).items()}
    spy.sent.clear()
    next(rounds)
    assert len(last.clients_top1_by_class) == 3
    for client, (change, found) in enumerate(zip(spy.sent, last.clients_top1_by_class, strict=True)):
        worker = toy_model()
        load_state(worker, [before[name] + change[name] for name in before], mine)
        mine.restore(worker, client)
        if policy == "drop":
            with batch_statistics(worker):
                assert found == evaluate(worker, (part() for part in parts))["top1_by_class"]
            continue
        assert found == evaluate(worker, (part() for part in parts))["top1_by_class"]
