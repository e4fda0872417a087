"""Fixup: what the networks compute, how they start, and that their scalars learn at a tenth of the rate."""

import math

import pytest
import torch
import torch.nn.functional as F
import toy
import trainings
from torch import Tensor, nn
from toy import toy_batches

from repro import codecs, models
from repro.errors import ReproError
from repro.experiments import numerics
from repro.models.resnet import BasicBlock, Bottleneck, ResNet
from repro.randomness import generator
from repro.running import runner
from repro.training import fast, plain, shared_state
from repro.training.exchange import Exchange
from repro.training.steps import Optimisation, set_lr, sgd

DENSE = Exchange(codecs.Dense())

NETWORKS = ("resnet18", "resnet50")


def net(model: str = "resnet18", norm: str = "fixup", width: int = 4, classes: int = 10) -> ResNet:
    return models.build(model, classes=classes, width=width, norm=norm, seed=3, dtype=torch.float64)


def images(n: int = 4, size: int = 16) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scattered(network: ResNet) -> ResNet:
    """Every scalar and every zero somewhere else, so that all of them count."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=random, dtype=tensor.dtype), alpha=0.1)
    return network


# Layout -----------------------------------------------------------------------------------------------------------


def as_published(network: ResNet, x: Tensor) -> Tensor:
    """The forward pass written out: biases 1a, 1b, 2a, ..., the multiplier and the last bias of each branch."""
    p = dict(network.named_parameters())
    h = F.relu(F.conv2d(x, p["stem.weight"], padding=1) + p["norm.bias"])
    for number, block in enumerate(network.blocks):
        of, convolutions = f"blocks.{number}.", len(block.branch)
        out = h
        for k, conv in enumerate(block.branch, start=1):
            out = out + p[f"{of}shift{k}.bias"]
            out = F.conv2d(out, p[f"{of}conv{k}.weight"], stride=conv.stride, padding=conv.padding)
            if k < convolutions:
                out = F.relu(out + p[f"{of}norm{k}.bias"])
        out = out * p[f"{of}norm{convolutions}.scale"] + p[f"{of}norm{convolutions}.bias"]
        if f"{of}shortcut.0.weight" in p:
            stride = block.shortcut[0].stride
            h = F.conv2d(h + p[f"{of}shift1.bias"], p[f"{of}shortcut.0.weight"], stride=stride)
        h = F.relu(out + h)
    return (h.mean(dim=(2, 3)) + p["shift.bias"]) @ p["classifier.weight"].T + p["classifier.bias"]


@pytest.mark.parametrize("model", NETWORKS)
def test_the_network_is_the_published_one(model):
    network, x = scattered(net(model)), images()
    assert torch.allclose(network(x), as_published(network, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "stem", "parameters", "scalars"),
    [
        ("resnet18", "cifar", 11_164_404, 42),  # 5 a block and 2
        ("resnet18", "imagenet", 11_172_084, 42),
        ("resnet50", "cifar", 23_520_842 - 53_120 + 114, 114),  # 7 a block and 2
        ("resnet50", "imagenet", 23_528_522 - 53_120 + 114, 114),
    ],
)
def test_parameters_are_as_many_as_published(kind, stem, parameters, scalars):
    with torch.device("meta"):
        network = models.NETWORKS[kind].make(classes=10, norm="fixup", stem=stem)
    sizes = [p.numel() for p in network.parameters()]
    assert sum(sizes) == parameters
    assert sizes.count(1) == scalars


# The start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("classes", [3, 10])
def test_it_starts_as_identity_and_head(model, classes):
    network, x = net(model, classes=classes), images()
    with torch.no_grad():
        h = F.relu(network.stem(x))
        for block in network.blocks:
            branch = block.branch[0](h)
            for conv in block.branch[1:]:
                branch = conv(F.relu(branch))
            assert not branch.any(), "a residual branch contributes"
            assert torch.equal(block(h), F.relu(block.shortcut(h)))
            h = block(h)
        if isinstance(network.blocks[1].shortcut, nn.Identity):
            at = torch.rand(2, network.blocks[1].branch[0].in_channels, 8, 8, dtype=torch.float64)
            assert torch.equal(network.blocks[1](at), at)
    logits = network(x)
    assert not logits.detach().any()
    loss = F.cross_entropy(logits, torch.arange(4) % classes)
    assert float(loss.detach()) == pytest.approx(math.log(classes), rel=1e-15)
    loss.backward()
    learning = {name for name, p in network.named_parameters() if p.grad.any()}
    assert learning == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(("model", "factor"), [("resnet18", 8**-0.5), ("resnet50", 16**-0.25)])
def test_convolutions_inside_branches_start_smaller(model, factor):
    fixup, he = net(model, width=16), net(model, "none", width=16)
    for ours, plain_ in zip(fixup.blocks, he.blocks, strict=True):
        for a, b in zip(ours.branch[:-1], plain_.branch[:-1], strict=True):
            assert torch.allclose(a.weight, factor * b.weight, rtol=1e-12)
        assert not ours.branch[-1].weight.detach().any()
        if not isinstance(ours.shortcut, nn.Identity):
            assert torch.equal(ours.shortcut[0].weight, plain_.shortcut[0].weight)
    bound = 1 / math.sqrt(3 * 9)  # PyTorch's default for the stem
    assert 0.95 * bound < float(fixup.stem.weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_the_initial_variance_does_not_grow_with_depth(kind):
    """Blocks of equal shape after one another: with Fixup all depths have one variance, without it grows at each."""

    def variance(norm: str, depth: int) -> float:
        network = ResNet(kind, (depth, 1, 1, 1), 64, 10, 64, norm, "cifar")  # narrow ones vary from seed to seed
        network.initialise(generator(1, "initial weights"))
        with torch.no_grad():
            return float(
                network.blocks[:depth](torch.rand(4, 64, 8, 8, generator=torch.Generator().manual_seed(2))).var()
            )

    def growth(norm: str) -> float:
        return variance(norm, 12) / variance(norm, 2)

    assert growth("fixup") == pytest.approx(1, rel=1e-6)
    assert growth("none") > 2**5


@pytest.mark.parametrize("depth", [4, 16])
def test_the_rescaled_branches_bound_the_effect_of_a_step_at_any_depth(depth):
    """What the factor is for: last convolutions that have moved by a fixed step still leave the variance bounded."""

    def variance(rescaled: bool) -> float:
        network = ResNet(BasicBlock, (depth, 1, 1, 1), 16, 10, 16, "fixup", "cifar")
        random = torch.Generator().manual_seed(1)
        network.initialise(generator(1, "initial weights"))
        with torch.no_grad():
            for block in network.blocks:
                nn.init.kaiming_normal_(block.conv2.weight, mode="fan_out", generator=random)
                if not rescaled:
                    block.conv1.weight *= len(network.blocks) ** 0.5
            x = torch.rand(4, 16, 8, 8, generator=random)
            return float(network.blocks[:depth](x).var() / x.var())

    assert variance(rescaled=True) < math.e * 3
    assert variance(rescaled=False) > 2 ** (depth / 2)


# A tenth of the learning rate -------------------------------------------------------------------------------------


def factors_of(network: nn.Module) -> dict[str, float]:
    return {name: 0.1 if "bias" in name or "scale" in name else 1.0 for name, _ in network.named_parameters()}


def test_only_fixups_scalars_have_a_factor():
    network = net()
    expected = {name: factor for name, factor in factors_of(network).items() if factor != 1}
    assert network.lr_factors() == expected
    assert len(expected) == 42 + 1, "42 scalars and the classifier's bias"
    for norm in ("batch", "group", "none"):
        network = net(norm=norm)
        (group,) = sgd(network).param_groups
        assert all(a is b for a, b in zip(group["params"], network.parameters(), strict=True))
        assert not network.lr_factors()


def test_a_model_without_factors_gets_the_usual_optimiser():
    """Bit by bit what ``torch.optim.SGD`` on all parameters does."""
    ours, theirs = net(norm="batch"), net(norm="batch")
    optimisers = sgd(ours, 0.9, 1e-3), torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3)
    for _ in range(3):
        for network, optimiser in zip((ours, theirs), optimisers, strict=True):
            set_lr(optimiser, 0.1)
            optimiser.zero_grad()
            network(images()).logsumexp(1).sum().backward()
            optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_factor_for_an_unknown_parameter_is_refused():
    class Wrong(nn.Linear):
        def lr_factors(self) -> dict[str, float]:
            return {"scale": 0.1}

    with pytest.raises(ReproError, match="'scale' is no parameter of the model; names of parameters were expected"):
        sgd(Wrong(2, 2))


def by_hand(network: nn.Module, batches: list[tuple[Tensor, Tensor]], rates: list[float], momentum: float) -> None:
    """SGD with the factors written out; weight decay 1e-3 on everything."""
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    factors = factors_of(network)
    for (x, y), rate in zip(batches, rates, strict=True):
        network.zero_grad()
        F.cross_entropy(network(x), y).backward()
        with torch.no_grad():
            for name, p in network.named_parameters():
                velocity[name].mul_(momentum).add_(p.grad + 1e-3 * p)
                p.sub_(velocity[name], alpha=rate * factors[name])


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-11), name


def lr(epoch: float) -> float:
    return 0.1 / (1 + epoch)


@pytest.mark.parametrize("engine", [plain, fast])
@pytest.mark.parametrize("method", ["centralised", "large_batch"])
def test_on_the_server_scalars_learn_at_a_tenth(method, engine):
    batches, steps = toy_batches(), range(5)
    ours, expected = scattered(net(classes=4)), scattered(net(classes=4))
    if method == "centralised":
        rounds = engine.centralised(ours, sgd(ours, 0.9, 1e-3), batches, Optimisation(lr), steps)
        data = [batches.get(0, step) for step in steps]
    else:
        rounds = engine.large_batch(ours, sgd(ours, 0.9, 1e-3), batches, DENSE, Optimisation(lr), steps)
        data = [batches.union(step)[:2] for step in steps]
    list(rounds)
    by_hand(expected, data, [lr(step / batches.rounds_per_epoch) for step in steps], 0.9)
    assert_equal(ours, expected)


def federated(network: nn.Module, engine, processes: int = 1) -> None:
    trainings.federated(engine, network, toy_batches(), DENSE, Optimisation(lr, 0.9, 1e-3), 2, processes=processes)


@pytest.mark.parametrize(("engine", "processes"), [(plain, 1), (fast, 1), (fast, 2)])
def test_on_the_clients_scalars_learn_at_a_tenth(engine, processes):
    batches = toy_batches()
    ours, expected = scattered(net(classes=4)), scattered(net(classes=4))
    federated(ours, engine, processes)
    for number in range(2):
        ends = []
        for client in range(3):
            local, steps = scattered(net(classes=4)), batches.steps_per_epoch(client)
            local.load_state_dict(expected.state_dict())
            own = range(number * steps, (number + 1) * steps)
            by_hand(local, [batches.get(client, k) for k in own], [lr(k / steps) for k in own], 0.9)
            ends.append(shared_state(local))
        shares = [len(shard) / 59 for shard in batches.shards]
        with torch.no_grad():
            for name, tensor in shared_state(expected).items():
                tensor.copy_(sum(share * end[name] for share, end in zip(shares, ends, strict=True)))
    assert_equal(ours, expected)


def test_a_saved_optimiser_goes_on_with_its_factors():
    batches, undisturbed, resumed = toy_batches(), scattered(net(classes=4)), scattered(net(classes=4))
    list(plain.centralised(undisturbed, sgd(undisturbed, 0.9), batches, Optimisation(lr), range(4)))
    before = sgd(resumed, 0.9)
    list(plain.centralised(resumed, before, batches, Optimisation(lr), range(2)))
    after = sgd(resumed, 0.9)
    after.load_state_dict(before.state_dict())
    assert [group["lr_factor"] for group in after.param_groups] == [1.0, 0.1]
    list(plain.centralised(resumed, after, batches, Optimisation(lr), range(2, 4)))
    assert all(torch.equal(a, b) for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True))


@pytest.mark.data
@pytest.mark.parametrize("method", ["central", "federated"])
def test_an_interrupted_run_goes_on_to_the_same_record(method, data, root):
    spec = toy.spec(method, norm="fixup", epochs=3, momentum=0.9, precision="bf16")
    undisturbed, _ = runner.run(spec, 3, root, checkpoint_seconds=math.inf)

    def kill(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(spec, 3, root, checkpoint_seconds=0, report=kill)
    assert list((root / "data/checkpoints").rglob("*.pt"))
    assert runner.run(spec, 3, root)[0].body() == undisturbed.body()


# What a record depends on -----------------------------------------------------------------------------------------


def test_each_norm_depends_on_its_own_part_only():
    spec = {"kind": "train", "method": "central", "codec": "dense", "partition": "iid"}
    parts = {
        norm: set(numerics.used_by(spec | {"norm": norm})) for norm in ("batch", "group", "layer", "none", "fixup")
    }
    assert parts["batch"] == parts["none"]
    assert parts["fixup"] - parts["batch"] == {"fixup"}
    assert parts["group"] == parts["layer"] == parts["batch"] | {"group_norm"}
