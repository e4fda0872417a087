"""BatchNorm's running statistics: each policy in the fast engines and in the plain ones, where workers are separate."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from repro import codecs, models
from repro.data import partition
from repro.data.batches import Batches, Images
from repro.models.norms import WorkerBatchNorm2d, batch_norms, batch_statistics
from repro.randomness import generator
from repro.training import evaluate, fast, plain
from repro.training.buffers import Buffers, float_buffers, shared_state
from repro.training.evaluate import evaluate_shared
from repro.training.exchange import Exchange
from repro.training.steps import Optimisation

ROUND_OFF = 1e-11
POLICIES = ("average", "local", "drop")


def toy_batches(clients=3, split="labels"):
    """59 images of four classes; with ``labels`` each of three clients has two classes, and shards differ in size."""
    random = generator(5, "toy")
    pixels = random.integers(0, 256, size=(59, 16, 16, 3), dtype=np.uint8)
    labels = np.sort(random.integers(0, 4, size=59))
    pixels = (pixels // 3 + 40 * labels[:, None, None, None]).astype(np.uint8)  # so that classes differ in brightness
    data = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3, dtype=torch.float64, padding=1)
    options = {"labels_per_client": 2} if split == "labels" else {}
    return Batches(data, partition.make(split, labels, clients, generator(5, "shards"), **options), 8, 5, True)


def toy_model(norm="batch"):
    return models.build("resnet18", classes=4, width=4, norm=norm, seed=3, dtype=torch.float64)


def parts(batches):
    return [partial(batches.images.centre, at, at + 11) for at in range(0, 59, 11)]


def after(
    method, engine, policy, *, norm="batch", rounds=5, codec="dense", download="dense", batches=None, processes=1
):
    """Rounds, what is shared, what each worker keeps, and the evaluation, after some rounds."""
    model, batches = toy_model(norm), batches or toy_batches()
    buffers = Buffers.start(policy, model, batches.clients)
    exchange = Exchange(codecs.build(codec), codecs.build(download), buffers)
    optimisation = Optimisation(lambda epoch: 0.05 / (1 + epoch), momentum=0.5)
    if method == "federated" and engine is fast:
        tested = parts(batches)
        with fast.client_pool(model, batches, exchange, optimisation, processes=processes, evaluation=tested) as pool:
            made = list(fast.federated_averaging(model, pool, range(rounds)))
            return made, shared_state(model, buffers), buffers.own, pool.evaluate(model)
    if method == "federated":
        made = plain.federated_averaging(model, batches, exchange, optimisation, range(rounds))
    else:
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
        falling = Optimisation(optimisation.lr)
        made = engine.large_batch(model, optimiser, batches, exchange, falling, range(rounds))
    made = list(made)
    return made, shared_state(model, buffers), buffers.own, evaluate_shared(model, parts(batches), buffers=buffers)


def assert_near(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=0, atol=ROUND_OFF), name


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("method", "rounds", "codec", "download"),
    [
        ("large_batch", 5, "dense", "dense"),
        ("large_batch", 3, "int8", "dense"),
        ("large_batch", 3, "dgc", "int8"),
        ("federated", 2, "dense", "dense"),
        ("federated", 2, "int8", "int8"),
    ],
)
def test_fast_equals_plain_on_shards_of_two_classes(method, rounds, codec, download, policy):
    settings = {"rounds": rounds, "codec": codec, "download": download}
    slow_rounds, slow, slow_own, slow_found = after(method, plain, policy, **settings)
    fast_rounds, quick, quick_own, quick_found = after(method, fast, policy, **settings)
    assert_near(slow, quick)
    assert len(slow_own) == len(quick_own) == (3 if policy == "local" else 0)
    for a, b in zip(slow_own, quick_own, strict=True):
        assert_near(a, b)
    for a, b in zip(slow_rounds, fast_rounds, strict=True):
        assert (a.number, a.lr, a.correct, a.images) == (b.number, b.lr, b.correct, b.images)
        assert (a.bytes_up, a.bytes_down) == (b.bytes_up, b.bytes_down)
        assert a.loss == pytest.approx(b.loss, abs=ROUND_OFF)
    assert slow_found["loss"] == pytest.approx(quick_found["loss"], abs=1e-9)
    assert slow_found["top1_by_class"] == quick_found["top1_by_class"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_on_shards_of_two_classes_is_that_of_separate_workers_with_torchs_batchnorm(policy):
    """Workers are built here from torch's own layers: neither the engines nor our layer take part."""

    def with_torchs(model):
        for name, layer in batch_norms(model).items():
            parent = model.get_submodule(name.rpartition(".")[0])
            torchs = nn.BatchNorm2d(layer.weight.numel()).double()
            torchs.load_state_dict(layer.state_dict(), strict=False)
            setattr(parent, name.rpartition(".")[2], torchs)
        return model

    model, batches = toy_model(), toy_batches()
    workers = [with_torchs(copy.deepcopy(model)).train() for _ in range(batches.clients)]
    sizes, losses = [], []
    for client, worker in enumerate(workers):
        x, y = batches.get(client, 0)
        loss = nn.functional.cross_entropy(worker(x), y)
        loss.backward()
        sizes.append(len(y))
        losses.append(float(loss.detach()))
    shares = [size / sum(sizes) for size in sizes]
    buffers = Buffers.start(policy, model, batches.clients)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    exchange = Exchange(codecs.Dense(), buffers=buffers)
    done = next(fast.large_batch(model, optimiser, batches, exchange, Optimisation(lambda _: 0.1), range(1)))
    assert done.loss == pytest.approx(sum(s * loss for s, loss in zip(shares, losses, strict=True)), abs=ROUND_OFF)
    theirs = [dict(worker.named_parameters()) for worker in workers]
    for name, parameter in model.named_parameters():
        mean = sum(share * own[name].grad for share, own in zip(shares, theirs, strict=True))
        assert torch.allclose(parameter.grad, mean, rtol=0, atol=ROUND_OFF), name
    before = float_buffers(toy_model())
    for name, ours in float_buffers(model).items():
        own = [dict(worker.named_buffers())[name] for worker in workers]
        if policy == "average":
            mean = sum(share * value for share, value in zip(shares, own, strict=True))
            assert torch.allclose(ours, mean, rtol=0, atol=ROUND_OFF), name
        else:
            assert torch.equal(ours, before[name]), f"{name}: the shared model keeps none"
        if policy == "local":
            for kept, value in zip(buffers.own, own, strict=True):
                assert torch.allclose(kept[name], value, rtol=0, atol=ROUND_OFF), name
    means = torch.stack([worker.norm.running_mean for worker in workers])
    assert float((means - means.mean(0)).abs().max()) > 0.01, "workers' statistics agree; the test shows nothing"


@pytest.mark.parametrize("method", ["large_batch", "federated"])
@pytest.mark.parametrize("engine", [plain, fast])
def test_with_one_client_average_and_local_agree(method, engine):
    """To the last bit; but that federated averaging adds the change of the buffers to the old ones, which rounds."""
    one = {"batches": toy_batches(clients=1, split="iid"), "rounds": 3}
    _, average, _, found = after(method, engine, "average", **one)
    _, local, own, found_local = after(method, engine, "local", **one)
    assert_equal({name: average[name] for name in local}, local)
    if method == "large_batch":
        assert_equal(average, local | own[0])
        assert found == found_local
    else:
        assert_near(average, local | own[0])
        assert found["loss"] == pytest.approx(found_local["loss"], rel=1e-9)


@pytest.mark.parametrize("method", ["large_batch", "federated"])
def test_without_buffers_all_policies_are_one(method):
    made = [after(method, fast, policy, norm="group", rounds=3) for policy in POLICIES]
    for rounds, state, _, found in made[1:]:
        assert rounds == made[0][0]
        assert found == made[0][3]
        assert_equal(state, made[0][1])


def test_the_policies_are_three_different_things():
    losses = {policy: after("large_batch", fast, policy)[3]["loss"] for policy in POLICIES}
    for a, b in itertools.combinations(losses.values(), 2):
        assert abs(a - b) > 1e-3


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("method", ["large_batch", "federated"])
@pytest.mark.parametrize("codec", ["dense", "int8"])
def test_buffers_are_sent_under_average_only(method, codec, policy):
    done = after(method, fast, policy, rounds=1, codec=codec)[0][0]
    model, code = toy_model(), codecs.build("dense")
    sent = shared_state(model) if policy == "average" else dict(model.named_parameters())
    assert done.bytes_down == 3 * len(code.encode(code.new_state(), sent))
    if codec == "dense":
        names = {f"gradient of {name}" if method == "large_batch" else name: value for name, value in sent.items()}
        assert done.bytes_up == 3 * len(code.encode(code.new_state(), names))
    else:
        assert done.bytes_up < done.bytes_down


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("processes", [2, 3])
def test_federated_averaging_and_its_evaluation_do_not_depend_on_processes(policy, processes):
    alone, many = (after("federated", fast, policy, rounds=2, processes=n) for n in (1, processes))
    assert alone[0] == many[0]
    assert alone[3] == many[3]
    assert_equal(alone[1], many[1])
    for a, b in zip(alone[2], many[2], strict=True):
        assert_equal(a, b)


def test_local_is_evaluated_with_the_statistics_of_each_worker_in_turn():
    model, batches = toy_model(), toy_batches()
    buffers = Buffers.start("local", model, 3)
    for client, own in enumerate(buffers.own):
        for name, value in own.items():
            value.mul_(1 + client) if name.endswith("var") else value.add_(0.1 * client)
    before = {name: value.clone() for name, value in float_buffers(model).items()}
    ours = evaluate_shared(model, parts(batches), buffers=buffers)
    assert_equal(before, float_buffers(model))
    each = []
    for own in buffers.own:
        worker = copy.deepcopy(model)
        worker.load_state_dict(own, strict=False)
        each.append(evaluate(worker, (part() for part in parts(batches))))
    assert len({found["loss"] for found in each}) == 3
    for name in ("loss", "top1", "top5"):
        assert ours[name] == pytest.approx(np.mean([found[name] for found in each]), rel=1e-12)


def test_drop_is_evaluated_with_the_statistics_of_the_batch():
    model, batches = toy_model(), toy_batches()
    x, y = batches.images.centre(0, 59)
    ours = evaluate_shared(model, [lambda: (x, y)], buffers=Buffers("drop"))
    training = copy.deepcopy(model).train()
    assert ours["loss"] == pytest.approx(float(nn.functional.cross_entropy(training(x), y).detach()), rel=1e-12)
    assert_equal(float_buffers(model), float_buffers(toy_model()))
    smaller = evaluate_shared(model, parts(batches), buffers=Buffers("drop"))
    assert abs(smaller["loss"] - ours["loss"]) > 1e-4, "it depends on which images share a batch, and on how many"


def test_batch_statistics_leave_the_layer_as_it_was():
    torch.manual_seed(0)
    layer, x = WorkerBatchNorm2d(3).double(), torch.randn(6, 3, 4, 4, dtype=torch.float64)
    for training in (True, False):
        layer.train(training)
        with batch_statistics(layer):
            assert torch.equal(layer(x), nn.BatchNorm2d(3).double()(x))
        assert torch.equal(layer.running_mean, torch.zeros(3))
        assert torch.equal(layer.running_var, torch.ones(3))
    assert not torch.equal(layer(x), nn.BatchNorm2d(3).double()(x)), (
        "in evaluation mode the running statistics count again"
    )
