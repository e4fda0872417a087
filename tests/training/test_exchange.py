"""What workers send: how it is averaged, whose momentum and weight decay it is; every codec can be trained with."""

import ctypes
import gc
import math
import os
import tracemalloc
from pathlib import Path

import pytest
import torch
import trainings
from test_engines import ROUND_OFF, expect_equal, toy_model
from torch import nn
from toy import toy_batches

from repro import codecs
from repro.errors import NotFinite, ReproError
from repro.randomness import generator
from repro.training import fast, plain, shared_state
from repro.training.averages import WeightedMean, weighted_mean
from repro.training.buffers import Buffers
from repro.training.exchange import Exchange
from repro.training.local import LocalTraining
from repro.training.momenta import Momenta
from repro.training.steps import Optimisation, decayed_gradients, sgd

OPTIONS = {"threshold": {"threshold": 0.01}}
RATE = 0.05
STEADY = Optimisation(lambda _: RATE)


def linear_model(inputs=3 * 16 * 16, outputs=4):
    net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs)).double()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.01)
    return net


def federated(
    engine, codec="dense", *, rounds=3, processes=1, clients=3, policy="restart", weights="images", model=None,
    momentum=0.9, batches=None, buffers="average",
):  # fmt: skip
    """Rounds, model and momenta of a short federated averaging."""
    model = toy_model("group") if model is None else model
    batches = toy_batches(clients) if batches is None else batches
    exchange = Exchange(codecs.of_run(codec, "federated", momentum, options=OPTIONS.get(codec.partition("+")[0])))
    local = LocalTraining(momenta=Momenta.start(policy, model, batches.clients), weights=weights)
    optimisation = Optimisation(lambda epoch: RATE / (1 + epoch), momentum, 1e-3)
    made = trainings.federated(engine, model, batches, exchange, optimisation, rounds, local, processes)
    return made, shared_state(model), local.momenta.own


def large_batch(engine, codec, *, options=None, weight_decay=1e-2, momentum=0.9, rounds=4, workers=3, norm="group"):
    """A short large-batch training with momentum and weight decay where the codec wants them."""
    model, batches = toy_model(norm), toy_batches(workers, images=48)  # all workers take part in every step
    codec = codecs.of_run(
        codec, "large_batch", momentum, workers=workers, options=options or OPTIONS.get(codec.partition("+")[0])
    )
    optimisation = Optimisation(lambda _: RATE, momentum, weight_decay)
    optimiser = optimisation.of_server(model, codec)
    made = engine.large_batch(model, optimiser, batches, Exchange(codec), optimisation, range(rounds))
    return list(made), shared_state(model)


def equal(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


# Averaging ----------------------------------------------------------------------------------------------------


def test_the_mean_of_what_comes_one_by_one_is_the_weighted_mean_to_the_bit():
    """sum(n_k x_k) / n in the order of the workers, as the two lines of its definition compute it."""
    random, weights = generator(0, "mean"), [5, 3, 11, 1]
    parts = [[torch.from_numpy(random.standard_normal(shape)) for shape in ((4, 3), (2,))] for _ in weights]
    mean = WeightedMean(sum(weights))
    for part, weight in zip(parts, weights, strict=True):
        mean.add(part, weight)
    for k, ours in enumerate(mean.result()):
        by_hand = torch.zeros_like(ours)
        for part, weight in zip(parts, weights, strict=True):
            by_hand += part[k] * (weight / sum(weights))
        assert torch.equal(ours, weighted_mean(parts, weights)[k])
        assert torch.allclose(ours, by_hand, rtol=0, atol=1e-15)
        exact = sum(w * part[k] for part, w in zip(parts, weights, strict=True)) / sum(weights)
        assert torch.allclose(ours, exact, rtol=0, atol=1e-15)


def test_a_mean_in_which_a_worker_is_missing_is_not_given_out():
    mean = WeightedMean(5)
    with pytest.raises(ValueError, match="weights of 0 were counted; 5 were expected"):
        mean.result()
    mean.add([torch.ones(2)], 3)
    with pytest.raises(ValueError, match="weights of 3 were counted; 5 were expected"):
        mean.result()


def test_what_is_added_to_a_mean_stays_as_it_is():
    part, mean = torch.ones(3), WeightedMean(4)
    mean.add([part], 1)
    mean.add([part], 3)
    assert torch.equal(part, torch.ones(3))
    assert torch.equal(mean.result()[0], torch.ones(3))


def resident():
    """Bytes of memory of this process now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # so that what was freed is not counted
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(("processes", "codec"), [(1, "dense"), (2, "dense"), (1, "int8")])
def test_memory_is_that_of_a_few_models_however_many_clients_there_are(processes, codec):
    """200 clients: payloads all held at once would be 200 models."""
    clients, inputs = 200, 3 * 16 * 16
    model = linear_model(inputs, outputs=400)
    size = sum(8 * p.numel() for p in model.parameters())
    batches = toy_batches(clients, images=400, batch=2)
    exchange = Exchange(codecs.build(codec))
    with fast.client_pool(model, batches, exchange, STEADY, processes=processes) as pool:
        rounds = fast.federated_averaging(model, pool, range(2))
        next(rounds)  # what is allocated once
        before, most = resident(), 0
        run = pool.run

        def watched(*arguments):
            nonlocal most
            for client, local in enumerate(run(*arguments)):
                most = max(most, resident()) if client % 20 == 19 else most
                yield local

        pool.run = watched
        tracemalloc.start()
        next(rounds)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most - before < 20 * size, (most - before) / size
    assert held < 20 * size, held / size


@pytest.mark.parametrize("codec", ["dense", "int8", "int8-affine", "qsgd", "terngrad", "top-k"])
def test_codecs_without_a_memory_keep_no_tensor_of_a_client(codec):
    codec = codecs.build(codec)
    state = codec.new_state()
    codec.encode(state, {"w": torch.ones(4, 3, 3, 3)})
    assert state["memory"] == {}


def test_without_momentum_of_its_own_dgc_keeps_what_is_not_sent_and_nothing_else():
    codec = codecs.of_run("dgc", "federated", 0.9)
    state = codec.new_state()
    codec.encode(state, {"w": torch.randn(4, 3, 3, 3), "b": torch.randn(3)})
    assert {kind: set(kept) for kind, kept in state["memory"].items()} == {"residual": {"w"}}


def test_clients_count_by_their_images_or_equally():
    batches = toy_batches(3)
    assert LocalTraining(weights="images").shares(batches) == [20, 20, 19]
    assert LocalTraining(weights="equal").shares(batches) == [1, 1, 1]


def test_equal_weights_are_the_plain_mean_of_the_clients_models():
    """One client at a time, from the same start: their mean is the model after the round."""
    start = linear_model()
    batches = toy_batches(3)
    batches.shards[0] = batches.shards[0][:5]
    alone = []
    for client in range(3):
        one = toy_batches(3)
        one.shards[0] = one.shards[0][:5]
        model = linear_model()
        optimiser = sgd(model)
        for step in range(one.steps_per_epoch(client)):
            x, y = one.get(client, step)
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.param_groups[0]["lr"] = RATE
            optimiser.step()
        alone.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for weights, shares in (("equal", [1 / 3] * 3), ("images", [5 / 44, 20 / 44, 19 / 44])):
        model = linear_model()
        local = LocalTraining(weights=weights)
        list(plain.federated_averaging(model, batches, Exchange(codecs.Dense()), STEADY, range(1), local))
        found = torch.cat([p.detach().flatten() for p in model.parameters()])
        expected = sum(share * one for share, one in zip(shares, alone, strict=True))
        assert torch.allclose(found, expected, rtol=0, atol=ROUND_OFF)
        assert not torch.equal(found, torch.cat([p.detach().flatten() for p in start.parameters()]))


def test_fast_equals_plain_with_equal_weights():
    batches = [toy_batches(3), toy_batches(3)]
    for made in batches:
        made.shards[0] = made.shards[0][:5]
    ours, theirs = (
        federated(engine, weights="equal", batches=b) for engine, b in zip((plain, fast), batches, strict=True)
    )
    expect_equal(ours[:2], theirs[:2])


# Local momentum -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["restart", "keep", "average"])
def test_fast_equals_plain_whatever_happens_to_local_momentum(policy):
    ours, theirs = (federated(engine, policy=policy) for engine in (plain, fast))
    expect_equal(ours[:2], theirs[:2])
    for a, b in zip(ours[2], theirs[2], strict=True):
        assert all(torch.allclose(a[name], b[name], rtol=0, atol=ROUND_OFF) for name in a)


@pytest.mark.parametrize("policy", ["keep", "average"])
def test_local_momentum_does_not_depend_on_the_number_of_processes(policy):
    alone, many = (federated(fast, "int8", policy=policy, processes=processes) for processes in (1, 2))
    assert alone[0] == many[0]
    assert equal(alone[1], many[1])
    assert len(alone[2]) == len(many[2]) == {"keep": 3, "average": 1}[policy]
    assert all(equal(a, b) for a, b in zip(alone[2], many[2], strict=True))


def test_momentum_that_one_client_keeps_is_that_of_centralised_training():
    """Weights are sent as changes, so that they are equal to round-off; momentum that restarts is another training."""
    batches, found = toy_batches(1), {}
    model = toy_model("group")
    optimiser = sgd(model, 0.9, 1e-3)
    falling = Optimisation(lambda epoch: RATE / (1 + epoch))
    list(plain.centralised(model, optimiser, batches, falling, range(3 * batches.rounds_per_epoch)))
    central = shared_state(model)
    buffers = {name: optimiser.state[p]["momentum_buffer"] for name, p in model.named_parameters()}
    for policy in ("restart", "keep", "average"):
        _, found[policy], own = federated(plain, clients=1, policy=policy)
        apart = max(float((found[policy][name] - central[name]).abs().max()) for name in central)
        assert apart < ROUND_OFF if policy != "restart" else apart > 1e-4
        if policy != "restart":
            assert all(torch.allclose(own[0][name], buffers[name], rtol=0, atol=ROUND_OFF) for name in buffers)
    assert equal(found["keep"], found["average"])


def test_momentum_kept_over_one_round_is_that_of_centralised_training_to_the_bit():
    """From the same start no change of weights has been rounded yet."""
    batches, model = toy_batches(1), toy_model("group")
    optimiser = sgd(model, 0.9, 1e-3)
    falling = Optimisation(lambda epoch: RATE / (1 + epoch))
    list(plain.centralised(model, optimiser, batches, falling, range(batches.rounds_per_epoch)))
    for policy in ("keep", "average"):
        for engine in (plain, fast):
            (own,) = federated(engine, clients=1, policy=policy, rounds=1)[2]
            for name, parameter in model.named_parameters():
                assert torch.equal(own[name], optimiser.state[parameter]["momentum_buffer"]), name


def test_averaged_momentum_is_the_mean_of_the_clients_and_its_bytes_are_counted():
    kept, averaged, usual = (federated(plain, policy=policy, rounds=1) for policy in ("keep", "average", "restart"))
    for name, mean in averaged[2][0].items():
        expected = sum(n / 59 * own[name] for n, own in zip((20, 20, 19), kept[2], strict=True))
        assert torch.allclose(mean, expected, rtol=0, atol=1e-15)
    message = len(codecs.Dense().encode(None, averaged[2][0]))
    assert averaged[0][0].bytes_up - usual[0][0].bytes_up == 3 * message
    assert averaged[0][0].bytes_down - usual[0][0].bytes_down == 3 * message
    assert (kept[0][0].bytes_up, kept[0][0].bytes_down) == (usual[0][0].bytes_up, usual[0][0].bytes_down)


# Weight decay and momentum with codecs ------------------------------------------------------------------------


def central(weight_decay, momentum=0.9, workers=3, rounds=4):
    """Large-batch training without a codec's help: torch's SGD on the mean of the workers' gradients."""
    model = toy_model("group")
    made = plain.large_batch(
        model, torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum, weight_decay=weight_decay),
        toy_batches(workers, images=48), Exchange(codecs.Dense()), STEADY, range(rounds),
    )  # fmt: skip
    return list(made), shared_state(model)


@pytest.mark.parametrize("engine", [plain, fast])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_dgc_that_sends_everything_is_sgd_with_momentum_and_weight_decay(engine, weight_decay):
    options = {"sparsity": [0.0], "masking": False}
    _, ours = large_batch(engine, "dgc", options=options, weight_decay=weight_decay)
    _, theirs = central(weight_decay)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < ROUND_OFF
    if weight_decay:
        _, without = central(0.0)
        assert max(float((ours[name] - without[name]).abs().max()) for name in ours) > 1e-3


def test_weight_decay_is_added_to_the_gradient_as_torch_adds_it():
    model, twin = linear_model(), linear_model()
    for net in (model, twin):
        for k, parameter in enumerate(net.parameters()):
            parameter.grad = torch.full_like(parameter, 0.7 + k)
    before = [p.detach().clone() for p in model.parameters()]
    torch.optim.SGD(twin.parameters(), lr=1.0, momentum=0.9, weight_decay=0.03).step()
    for sent, old, new in zip(decayed_gradients(model, 0.03).values(), before, twin.parameters(), strict=True):
        assert torch.equal(old - sent, new)
    plain_ones = decayed_gradients(model, 0.0).values()
    assert all(torch.equal(g, p.grad) for g, p in zip(plain_ones, model.parameters(), strict=True))


@pytest.mark.parametrize("name", codecs.NAMES)
def test_momentum_and_decay_are_either_the_servers_or_the_workers(name):
    codec, optimisation = codecs.build(name, **OPTIONS.get(name, {})), Optimisation(lambda _: RATE, 0.9, 0.1)
    (group,) = optimisation.of_server(toy_model("group"), codec).param_groups
    workers = (codec.momentum if codec.corrects_momentum else 0.0, optimisation.decay_of_workers(codec))
    assert {(group["momentum"], group["weight_decay"]), workers} == {(0.9, 0.1), (0.0, 0.0)}


@pytest.mark.parametrize("name", codecs.NAMES)
def test_every_codec_trains_in_large_batch_with_momentum_and_decay(name):
    rounds = 3 if name in ("threshold",) else 4
    ours, theirs = (large_batch(engine, name, rounds=rounds) for engine in (plain, fast))
    expect_equal(ours, theirs)
    start = shared_state(toy_model("group"))
    assert any(not torch.equal(ours[1][tensor], start[tensor]) for tensor in start)
    assert all(math.isfinite(done.loss) and done.bytes_up > 0 for done in ours[0])


@pytest.mark.parametrize("name", [*codecs.NAMES, "dgc+zip", "int8+zip"])
def test_every_codec_trains_in_federated_averaging(name):
    ours, theirs = (federated(engine, name, rounds=2, policy="keep") for engine in (plain, fast))
    expect_equal(ours[:2], theirs[:2])
    start = shared_state(toy_model("group"))
    assert any(not torch.equal(ours[1][tensor], start[tensor]) for tensor in start)


@pytest.mark.parametrize("name", codecs.NAMES)
def test_whose_momentum_it_is_follows_from_the_codec_zipped_or_not(name):
    options = OPTIONS.get(name)
    made = codecs.of_run(name, "large_batch", 0.9, options=options)
    on_workers = {"dgc", "dgc-without-accumulation", "dgc-without-clipping", "dgc-without-masking"}
    assert made.corrects_momentum == (name in on_workers)
    assert codecs.of_run(f"{name}+zip", "large_batch", 0.9, options=options).corrects_momentum == (name in on_workers)


# DGC without one of its parts ---------------------------------------------------------------------------------


def received(codec, gradients, places=None):
    """What arrives of a sequence of gradients of one convolution, as vectors."""
    state, found = codec.new_state(), []
    for gradient in gradients:
        payload = codec.encode(state, {"t": torch.tensor(gradient, dtype=torch.float64).view(-1, 1, 1, 1)})
        found.append(codec.decode(payload)[0].flatten().tolist())
    return found


STEPS = [[1.0, 100.0], [1.0, 100.0], [1.0, 0.0], [1.0, 0.0]]  # the second value takes the place in two messages


@pytest.mark.parametrize(
    ("name", "first_value"),
    [
        ("dgc", [0, 0, 5.61, 1]),  # u = 1, 1.9, 2.71; v = 1, 2.9, 5.61; cleared by the send
        ("dgc-without-clipping", [0, 0, 5.61, 1]),
        ("dgc-without-correction", [0, 0, 3, 1]),  # 1 + 1 + 1
        ("dgc-without-accumulation", [0, 0, 2.71, 1]),  # u alone; what was not sent before is lost
        ("dgc-without-masking", [0, 0, 0, 9.049]),  # the other's momentum goes on: 171 against 5.61, then v + 3.439
    ],
)
def test_the_worked_example_without_each_part(name, first_value):
    codec = codecs.of_run(name, "large_batch", 0.9, options={"sparsity": [0.5]})
    sent = received(codec, STEPS)
    if name == "dgc-without-masking":
        assert [step[1] for step in sent] == pytest.approx([100, 190, 171, 153.9])
        assert [step[0] for step in sent] == [0, 0, 0, 0]
        return
    assert [step[0] for step in sent] == pytest.approx(first_value)


def test_dgc_without_correction_and_with_everything_sent_is_sgd_with_the_servers_momentum():
    _, ours = large_batch(plain, "dgc-without-correction", options={"sparsity": [0.0]}, weight_decay=0.3)
    _, theirs = central(0.3)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < ROUND_OFF


def test_clipping_is_dgcs_and_left_out_without_it():
    clipped = codecs.of_run("dgc", "large_batch", 0.9, workers=4, options={"clip": 1.0, "sparsity": [0.0]})
    assert (clipped.clip, clipped.workers) == (1.0, 4)
    assert received(clipped, [[6.0, 8.0]])[0] == pytest.approx([1.2, 1.6])  # norm 10 / 4, to 1 / sqrt(4)
    without = codecs.of_run("dgc-without-clipping", "large_batch", 0.9, workers=4, options={"sparsity": [0.0]})
    assert received(without, [[6.0, 8.0]])[0] == [6, 8]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("dgc-without-clipping", {"clip": 1.0}, "option 'clip', which this codec goes without"),
        ("dgc-without-masking", {"masking": True}, "option 'masking', which this codec goes without"),
        ("dgc", {"momentum": 0.5}, "option 'momentum' follows from other fields"),
        ("dgc", {"workers": 2}, "option 'workers' follows from other fields"),
        ("int8", {"levels": 4}, "levels"),
        ("threshold", {}, "threshold"),
        ("dgc", {"clip": -1.0}, "clip -1.0"),
        ("dgc", {"clip": [1.0]}, "see its class"),
    ],
)
def test_options_that_a_codec_does_not_have_are_refused(name, options, told):
    with pytest.raises(ReproError, match=told):
        codecs.of_run(name, "large_batch", 0.9, options=options)


class Sent(codecs.Dense):
    """Uncompressed, but as messages: what is exchanged in shared memory otherwise."""

    fixed_size = False


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("buffers", ["average", "local", "drop"])
@pytest.mark.parametrize("down", [codecs.Dense, Sent])
@pytest.mark.parametrize("up", [codecs.Dense, Sent])
def test_tensors_in_shared_memory_are_what_messages_would_hold(processes, buffers, down, up):
    def trained(upload, download, count):
        model, batches = toy_model("batch"), toy_batches(7)
        model.to(memory_format=torch.channels_last)
        exchange = Exchange(upload, download, Buffers.start(buffers, model, batches.clients))
        return trainings.federated(fast, model, batches, exchange, STEADY, 3, processes=count), model.state_dict()

    made, state = trained(up(), down(), processes)
    messages, sent = trained(Sent(), Sent(), 1)
    assert made == messages
    assert all(torch.equal(state[name], sent[name]) for name in sent)


def test_a_change_that_is_not_finite_is_not_averaged():
    model, batches = linear_model(), toy_batches(3)
    with pytest.raises(NotFinite):
        trainings.federated(
            fast, model, batches, Exchange(codecs.Dense()), Optimisation(lambda _: 1e308), 1, processes=2
        )
