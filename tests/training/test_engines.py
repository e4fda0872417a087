"""The fast engines compute the same rounds as the plain ones, and the plain ones are what the posts describe."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from toy import toy_batches
from trainings import federated

from repro import codecs, models
from repro.errors import NotFinite
from repro.models.dropout import SeededDropout
from repro.models.norms import WorkerBatchNorm2d, worker_batches
from repro.training import evaluate, fast, plain, shared_state
from repro.training.exchange import Exchange
from repro.training.local import LocalTraining
from repro.training.steps import Optimisation, gradient_norm

ROUND_OFF = 1e-11
DENSE, TENTH = Exchange(codecs.Dense()), Optimisation(lambda _: 0.1)


def toy_model(norm="batch"):
    if norm == "dropout":
        net = nn.Sequential(nn.Flatten(), SeededDropout(0.5), nn.Linear(3 * 16 * 16, 4)).double()
        for parameter in net.parameters():
            nn.init.constant_(parameter, 0.01)
        return net
    return models.build("resnet18", classes=4, width=4, norm=norm, seed=3, dtype=torch.float64)


def after(method, engine, norm, rounds=7, processes=1, momentum=0.5, codec="dense", download="dense", sizes=None):
    model, batches = toy_model(norm), toy_batches(sizes=sizes)
    exchange = Exchange(codecs.build(codec), codecs.build(download))
    falling = lambda epoch: 0.05 / (1 + epoch)  # noqa: E731
    if method == "large_batch":
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum, weight_decay=1e-3)
        made = engine.large_batch(model, optimiser, batches, exchange, Optimisation(falling), range(rounds))
        return list(made), shared_state(model)
    optimisation, local = Optimisation(falling, momentum, 1e-3), LocalTraining(epochs=2)
    made = federated(engine, model, batches, exchange, optimisation, rounds, local, processes)
    return made, shared_state(model)


@pytest.mark.parametrize(
    ("method", "rounds", "norm", "codec", "download"),
    [
        ("large_batch", 7, "batch", "dense", "dense"),
        ("large_batch", 7, "group", "dense", "dense"),
        ("large_batch", 7, "dropout", "dense", "dense"),
        ("large_batch", 4, "dropout", "qsgd", "dense"),
        ("large_batch", 4, "batch", "int8", "dense"),
        ("large_batch", 4, "batch", "dgc", "dense"),
        ("large_batch", 4, "batch", "qsgd", "dense"),
        ("large_batch", 4, "batch", "dense", "int8"),
        ("federated", 2, "batch", "dense", "dense"),
        ("federated", 2, "group", "dense", "dense"),
        ("federated", 2, "dropout", "dense", "dense"),
        ("federated", 2, "batch", "int8", "dense"),
        ("federated", 2, "batch", "top-k-residual", "int8"),
    ],
)
def test_fast_equals_plain_to_round_off(method, rounds, norm, codec, download):
    expect_equal(*(after(method, engine, norm, rounds, codec=codec, download=download) for engine in (plain, fast)))


def expect_equal(ours, theirs):
    """Rounds and models of two trainings are equal to round-off."""
    for name in ours[1]:
        assert torch.allclose(ours[1][name], theirs[1][name], rtol=0, atol=ROUND_OFF), name
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert (a.number, a.lr, a.correct, a.images) == (b.number, b.lr, b.correct, b.images)
        assert (a.bytes_up, a.bytes_down) == (b.bytes_up, b.bytes_down)
        assert a.loss == pytest.approx(b.loss, abs=ROUND_OFF)


UNEQUAL = [14, 7, 3]  # of 3 x 8 images; an epoch of 59 images has two steps: 24 + 35


@pytest.mark.parametrize(("norm", "codec"), [("batch", "dense"), ("dropout", "dense"), ("batch", "int8")])
def test_fast_equals_plain_where_local_batches_differ(norm, codec):
    expect_equal(*(after("large_batch", engine, norm, 5, codec=codec, sizes=UNEQUAL) for engine in (plain, fast)))


def test_unequal_local_batches_change_neither_what_is_sent_nor_how_many_images_a_step_has():
    unequal, equal = (after("large_batch", plain, "group", 2, sizes=sizes)[0][0] for sizes in (UNEQUAL, None))
    assert (unequal.images, unequal.bytes_up, unequal.bytes_down) == (equal.images, equal.bytes_up, equal.bytes_down)


def test_only_with_batchnorm_does_it_matter_how_a_union_batch_is_shared():
    """lb.c17, by Eq. 1: weighted by images, the workers' gradients average to that of the union of their batches.

    One batch holds all images, so that the union is the same however they are dealt.
    """

    def trained(norm, clients, sizes=None):
        model, batches = toy_model(norm), toy_batches(clients, 48, 48 // clients, augment=False, sizes=sizes)
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3)
        exchange = () if clients == 1 else (DENSE,)
        method = plain.centralised if clients == 1 else plain.large_batch
        list(method(model, optimiser, batches, *exchange, Optimisation(lambda _: 0.05), range(3)))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def apart(norm, a, b):
        return float((trained(norm, *a) - trained(norm, *b)).abs().max())

    central, equal, unequal = (1,), (3,), (3, [28, 14, 6])
    start = torch.cat([parameter.detach().flatten() for parameter in toy_model("group").parameters()])
    assert float((trained("group", *unequal) - start).abs().max()) > 1e-3, "nothing was trained"
    assert apart("group", unequal, equal) < ROUND_OFF
    assert apart("group", unequal, central) < ROUND_OFF
    assert apart("batch", unequal, equal) > 1e-4
    assert apart("batch", unequal, central) > 1e-4


@pytest.mark.parametrize("codec", ["dense", "1-bit", "qsgd"])
def test_federated_averaging_does_not_depend_on_the_number_of_processes(codec):
    alone_rounds, alone = after("federated", fast, "batch", 3, processes=1, codec=codec)
    many_rounds, many = after("federated", fast, "batch", 3, processes=2, codec=codec)
    assert alone_rounds == many_rounds
    assert all(torch.equal(alone[name], many[name]) for name in alone)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_evaluation_of_a_pool_is_bit_identical_to_one_in_a_single_process(processes):
    model, batches = toy_model(), toy_batches()
    parts = [partial(batches.images.centre, at, at + 7) for at in range(0, 53, 7)]
    with fast.client_pool(model, batches, DENSE, TENTH, processes=processes, evaluation=parts) as pool:
        for _ in fast.federated_averaging(model, pool, range(2)):
            assert pool.evaluate(model) == evaluate(model, (part() for part in parts))


def test_one_client_is_centralised_sgd():
    batches = toy_batches(clients=1)
    results = []
    for method in (plain.centralised, plain.large_batch):
        model = toy_model()
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
        extra = (DENSE,) if method is plain.large_batch else ()
        list(method(model, optimiser, batches, *extra, TENTH, range(5)))
        results.append(shared_state(model))
    assert all(torch.allclose(results[0][name], results[1][name], rtol=0, atol=ROUND_OFF) for name in results[0])


def test_federated_averaging_of_one_client_is_its_local_sgd():
    batches = toy_batches(clients=1)
    central, averaged = toy_model(), toy_model()
    optimiser = torch.optim.SGD(central.parameters(), lr=1.0)
    list(plain.centralised(central, optimiser, batches, TENTH, range(2 * batches.rounds_per_epoch)))
    list(plain.federated_averaging(averaged, batches, DENSE, TENTH, range(2)))
    a, b = shared_state(central), shared_state(averaged)
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=ROUND_OFF) for name in a)


def test_every_image_is_used_exactly_once_per_epoch():
    batches = toy_batches(augment=False)
    for epoch in range(2):
        seen = []
        for step in range(epoch * batches.rounds_per_epoch, (epoch + 1) * batches.rounds_per_epoch):
            for client in batches.round(step):
                seen += batches._slice(client, batches.local_step(client, step))[0].tolist()
        assert sorted(seen) == list(range(59))


def test_union_batch_is_the_concatenation_of_the_clients_batches():
    batches = toy_batches()
    x, y, sizes = batches.union(2)  # the third client has only two batches an epoch
    parts = [batches.get(client, 2) for client in (0, 1)]
    assert sizes == [4, 4]
    assert torch.equal(x, torch.cat([part[0] for part in parts]))
    assert torch.equal(y, torch.cat([part[1] for part in parts]))


def test_augmentation_shifts_and_mirrors_and_nothing_else():
    batches = toy_batches(images=20, clients=1, batch=20)
    plain_images = batches.images
    x, _ = batches.get(0, 0)
    order = batches._slice(0, 0)[0]
    for row, index in zip(x, order, strict=True):
        padded = plain_images.pixels[index].to(torch.float64) * plain_images._scale - plain_images._shift
        views = [
            view
            for top in range(3)
            for left in range(3)
            for crop in [padded[top : top + 16, left : left + 16]]
            for view in (crop, crop.flip(1))
        ]
        assert any(torch.allclose(row.permute(1, 2, 0), view) for view in views)


@pytest.mark.parametrize("sizes", [[4, 4], [5, 2, 3], [1, 6]])
def test_batchnorm_of_a_union_is_each_workers_own(sizes):
    torch.manual_seed(0)
    x = torch.randn(sum(sizes), 3, 4, 4, dtype=torch.float64, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    union, alone = WorkerBatchNorm2d(3).double(), [nn.BatchNorm2d(3).double() for _ in sizes]
    with worker_batches(union, sizes):
        out = union(x)
    separate = torch.cat([layer(part) for layer, part in zip(alone, other.split(sizes), strict=True)])
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (separate * weights).sum().backward()
    assert torch.allclose(out, separate, atol=1e-12)
    assert torch.allclose(x.grad, other.grad, atol=1e-12)
    assert torch.allclose(union.weight.grad, sum(layer.weight.grad for layer in alone), atol=1e-12)
    assert torch.allclose(union.bias.grad, sum(layer.bias.grad for layer in alone), atol=1e-12)
    for name in ("running_mean", "running_var"):
        mean = sum(n / sum(sizes) * getattr(layer, name) for n, layer in zip(sizes, alone, strict=True))
        assert torch.allclose(getattr(union, name), mean, atol=1e-12), name


def test_batchnorm_of_one_worker_is_torchs():
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4)
    ours, torchs = WorkerBatchNorm2d(3), nn.BatchNorm2d(3)
    assert torch.equal(ours(x), torchs(x))
    assert torch.equal(ours.running_var, torchs.running_var)
    assert torch.equal(ours.eval()(x), torchs.eval()(x))


def test_a_loss_that_is_not_finite_stops_training():
    batches, wild = toy_batches(), Optimisation(lambda _: 1e200)
    model = toy_model()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(NotFinite, match="the training loss is"):
        list(fast.large_batch(model, optimiser, batches, DENSE, wild, range(5)))
    with pytest.raises(NotFinite, match="the training loss is"):
        federated(fast, toy_model(), batches, DENSE, wild, 5, processes=2)


def test_the_gradients_norm_is_that_of_the_step_whatever_the_optimiser_adds():
    found = []
    for settings in ({}, {"momentum": 0.9, "weight_decay": 0.1, "foreach": True}):
        model, batches = toy_model(), toy_batches()
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0, **settings)
        list(fast.large_batch(model, optimiser, batches, DENSE, TENTH, range(1)))
        found.append(gradient_norm(model))
        if not settings:
            steps = [(p - q).detach() for p, q in zip(model.parameters(), toy_model().parameters(), strict=True)]
            assert found[0] == pytest.approx(float(torch.cat([step.flatten() for step in steps]).norm()) / 0.1)
    assert found[0] == found[1]
    next(model.parameters()).grad[0] = math.inf
    with pytest.raises(NotFinite, match="the gradient's norm is inf"):
        gradient_norm(model)


def test_large_finite_gradients_have_a_finite_norm():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[3e30, 4e30]])
    assert gradient_norm(layer) == pytest.approx(5e30)


def test_evaluation_counts_by_hand():
    class Fixed(nn.Module):
        def forward(self, x):
            return x

    logits = torch.tensor([[9.0, 1, 2, 3, 4, 5], [0.0, 1, 2, 3, 4, 9], [9.0, 8, 7, 6, 5, 4]])
    labels = torch.tensor([0, 0, 5])  # right; sixth of six; sixth of six
    found = evaluate(Fixed(), [(logits[:2], labels[:2]), (logits[2:], labels[2:])])
    assert (found["top1"], found["top5"]) == (1 / 3, 1 / 3)
    assert found["top1_by_class"] == [0.5, None, None, None, None, 0]
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)


def test_a_lossy_download_is_what_everybody_goes_on_from():
    model, exchange = toy_model(), Exchange(codecs.Dense(), codecs.build("int8"))
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    list(plain.large_batch(model, optimiser, toy_batches(), exchange, Optimisation(lambda _: 0.0), range(1)))
    initial = dict(toy_model().named_parameters())
    for name, weight in model.named_parameters():
        step = float(initial[name].detach().abs().max()) / 127
        assert len(weight.unique()) <= 255
        assert float((weight - initial[name]).detach().abs().max()) <= step / 2 + 1e-12, name


def test_codecs_are_told_how_far_training_is():
    seen, states = [], []

    def progress(epoch):
        seen.append(epoch)
        return 10 * epoch

    optimiser = torch.optim.SGD(toy_model().parameters(), lr=1.0)
    exchange = Exchange(codecs.build("dgc"), progress=progress, states=states)
    list(fast.large_batch(toy_model(), optimiser, toy_batches(), exchange, TENTH, range(4)))
    assert list(dict.fromkeys(seen)) == [0, 1 / 3, 2 / 3, 1]
    assert [state["progress"] for state in states] == [10, 10, 10]
    assert all(state["messages"] > 0 for state in states)


@pytest.mark.parametrize("engine", [plain, fast])
def test_with_a_lossy_download_the_model_is_rounded_when_a_round_ends(engine):
    model, exchange = toy_model(), Exchange(codecs.Dense(), codecs.build("int8"))
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in engine.large_batch(model, optimiser, toy_batches(), exchange, TENTH, range(2)):
        assert all(len(weight.unique()) <= 255 for weight in model.parameters())
