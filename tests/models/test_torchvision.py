"""Networks of torchvision: those of its own code, but for what is random and for who shares a batch."""

import copy
import hashlib
import re
import subprocess
import sys

import pytest
import torch
import toy
import tree
from torch import nn

from repro import models
from repro.errors import ReproError
from repro.experiments import numerics
from repro.models import vision
from repro.models.dropout import SeededDropout, dropout_seeds, drops
from repro.models.norms import WorkerBatchNorm2d, worker_batches
from repro.running import runner
from repro.training.steps import backward

NAME = "torchvision:mobilenet_v3_small"
GOLDEN = "28df0d06da5cf9fe0153503c066cbd6673d3a28816d29180b9966a483c57b2d5"
"""Of the weights that seed 3 gives, with the torchvision of requirements/torch.txt."""


def build(name: str = NAME, **changes) -> nn.Module:
    return models.build(name, **({"classes": 7, "image_size": 32, "seed": 3} | changes))


def images(n: int = 4, size: int = 32, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return x.to(memory_format=torch.channels_last)


def digest(net: nn.Module) -> str:
    found = hashlib.sha256()
    for parameter in net.parameters():
        found.update(parameter.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


# What is built ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [("mobilenet_v3_small", 32), ("resnet18", 32), ("squeezenet1_1", 32), ("efficientnet_b0", 32), ("googlenet", 64)],
)
def test_evaluation_is_torchvisions_own(name: str, size: int) -> None:
    """Its untouched network with our weights and running statistics gives the same logits."""
    net = build(f"torchvision:{name}", dtype=torch.float64, image_size=size)
    with torch.random.fork_rng(devices=[]):
        options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        theirs = vision.load().models.get_model(name, weights=None, num_classes=7, **options).double()
    theirs.load_state_dict(net.state_dict(), strict=False)
    assert {type(layer) for layer in theirs.modules()} - {type(layer) for layer in net.modules()} <= {
        nn.BatchNorm2d, nn.Dropout, vision.load().ops.StochasticDepth,
    }  # fmt: skip
    x = images(3, size, torch.float64)
    assert torch.allclose(net.eval()(x), theirs.eval()(x), rtol=0, atol=1e-9)
    assert net(x).std() > 0


def test_training_normalises_as_torchvision_does() -> None:
    """Normalisation has torchvision's epsilon and momentum, which are not PyTorch's."""
    net = build(dtype=torch.float64)
    theirs = vision.load().models.get_model("mobilenet_v3_small", weights=None, num_classes=7).double()
    theirs.load_state_dict(net.state_dict(), strict=False)
    for each in (net, theirs):
        for layer in each.modules():
            if isinstance(layer, nn.Dropout | SeededDropout):
                layer.p = 0.0
    assert {layer.momentum for layer in net.modules() if isinstance(layer, WorkerBatchNorm2d)} == {0.01}
    x = images(4, dtype=torch.float64)
    assert torch.allclose(net(x), theirs(x), rtol=0, atol=1e-9)
    ours, other = dict(net.named_buffers()), dict(theirs.named_buffers())
    assert all(torch.allclose(ours[name], other[name], rtol=0, atol=1e-12) for name in ours)
    assert not torch.equal(ours["features.0.1.running_mean"], torch.zeros(16).double())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf", "efficientnet_b0"])
def test_every_parameter_is_trained_and_nothing_draws_globally(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    net = build(f"torchvision:{name}")
    loss, _ = backward(net, images(), torch.tensor([0, 3, 6, 1]), "fp32", [5])
    assert torch.equal(torch.get_rng_state(), before)
    assert loss > 0
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(torch.isfinite(parameter.grad).all()), parameter_name


def test_a_seed_is_a_network_and_a_new_torchvision_that_starts_otherwise_is_noticed() -> None:
    """When torchvision changes what it draws, raise the version of the part ``torchvision`` and write the hash anew."""
    ours = digest(build())
    assert ours != digest(build(seed=4))
    assert (numerics.VERSIONS["torchvision"], ours) == (1, GOLDEN)


def test_initial_weights_are_distributed_as_torchvisions() -> None:
    net = build()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (layer.out_channels * layer.weight[0, 0].numel())) ** 0.5
            if layer.weight.numel() > 2000:
                assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.1)
        if isinstance(layer, nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
            assert not layer.bias.any()


# Masks, workers ------------------------------------------------------------------------------------------------


def test_stochastic_depth_drops_whole_images_of_a_worker_by_its_seed() -> None:
    layer = SeededDropout(0.5, whole=True).train()
    x = torch.ones(64, 3, 4, 4)
    with dropout_seeds(layer, [11]):
        dropped = layer(x)
    assert {float(image.min()) for image in dropped} == {float(image.max()) for image in dropped} == {0.0, 2.0}
    with dropout_seeds(layer, [12, 11], [32, 32]):
        assert torch.equal(layer(x)[32:], dropped[:32])
    assert drops(build("torchvision:efficientnet_b0"))


def test_workers_in_one_pass_are_workers_apart() -> None:
    net = build(dtype=torch.float64)
    x, y = images(8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 5, 6, 0])
    kept = copy.deepcopy(net.state_dict())
    with worker_batches(net, [4, 4]):
        backward(net, x, y, "fp64", [5, 6], [4, 4])
    together = [parameter.grad.clone() for parameter in net.parameters()]
    apart = [torch.zeros_like(gradient) for gradient in together]
    for part, seed in ((slice(4), 5), (slice(4, 8), 6)):
        net.load_state_dict(kept)
        backward(net, x[part], y[part], "fp64", [seed])
        for total, parameter in zip(apart, net.parameters(), strict=True):
            total += parameter.grad / 2
    assert all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(together, apart, strict=True))


# What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("torchvision:mobilenet_v3_smal", {}, "did you mean mobilenet_v3_small, .*such as torchvision:resnet18"),
        (NAME, {"norm": "group"}, "has no norm; leave it out"),
        (NAME, {"width": 8}, "has no width; leave it out"),
        (NAME, {"depth": 2}, "has no depth; leave it out"),
        (NAME, {"image_size": 16}, "16 px: a convolution with a stride would meet a single pixel"),
        ("torchvision:alexnet", {"image_size": 8}, "8 px: .*larger, were expected"),
    ],
)
def test_what_does_not_apply_is_refused_in_a_line(name: str, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ReproError, match=says) as error:
        build(name, **changes)
    assert "\n" not in str(error.value)


def run(code: str) -> str:
    """What a fresh interpreter prints, in which torchvision cannot be imported."""
    hidden = "import sys; sys.modules['torchvision'] = None\n" + code
    done = subprocess.run(
        [sys.executable, "-c", hidden], cwd=tree.REPOSITORY, capture_output=True, text=True, check=False
    )  # fmt: skip
    return done.stdout + done.stderr


def test_without_torchvision_all_else_works_and_its_networks_say_what_to_install() -> None:
    said = run(
        "from repro import models\nfrom repro.errors import ReproError\nimport repro.running.runner\n"
        "models.build('resnet18', classes=3, width=4)\n"
        "try: models.build('torchvision:resnet18', classes=3)\n"
        "except ReproError as error: print(error)"
    )
    assert said == (
        "networks of torchvision need torchvision, which is not installed; install the pair that "
        "requirements/torch.txt names (`make env`)\n"
    )


def test_torchvision_is_imported_in_one_place_and_only_when_it_is_needed() -> None:
    files = [*(tree.REPOSITORY / "repro").rglob("*.py"), *(tree.REPOSITORY / "tests").rglob("*.py")]
    statement = re.compile(r"^\s*(import|from) torchvision\b", re.MULTILINE)
    assert [path.name for path in files if statement.search(path.read_text(encoding="utf-8"))] == ["vision.py"]
    code = "import sys\nimport repro.running.runner, repro.book.notebooks\nprint('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree.REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Runs ----------------------------------------------------------------------------------------------------------

RUNS = {
    "central": {"method": "central", "epochs": 1},
    "large batch, DGC": {"method": "large_batch", "codec": "dgc", "momentum": 0.9, "sparsity_warmup": 0.5, "epochs": 2},
    "federated, int8 and zip": {"method": "federated", "codec": "int8+zip", "epochs": 1},
    "payloads": {"method": "central", "kind": "payloads", "classes": 20, "measured_steps": [1], "local_steps": 1},
}


@pytest.mark.data
@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_it_and_a_second_one_is_the_same(name: str) -> None:
    """Not in float64 alone: bfloat16 is what profiles train in."""
    settings = {"model": NAME, "width": None, "norm": None, "image_size": 32, "precision": "bf16", "train_images": 48}
    spec = toy.spec(**(settings | RUNS[name]))
    first, provenance = runner.run(spec, 7, toy.ROOT, checkpoint_seconds=float("inf"))
    again, _ = runner.run(spec, 7, toy.ROOT, checkpoint_seconds=float("inf"))
    assert first.status == "completed"
    assert (first.rows, first.series) == (again.rows, again.series)
    assert numerics.used_by(first.spec)["torchvision"] == 1
    assert provenance["machine"]["torchvision"].startswith(vision.load().__version__.partition("+")[0])
