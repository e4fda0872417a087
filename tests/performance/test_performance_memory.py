"""The five parts of Eq. 3 on networks small enough to count by hand."""

import pytest
import torch
from torch import nn

from repro import models
from repro.errors import ReproError
from repro.performance import memory
from repro.performance.workload import Trainer, Workload
from repro.results import fits

TOY = Workload(model="resnet18", classes=10, image_size=16, images=64, width=4)


def bytes_of(model: nn.Module, batch: int, shape: tuple[int, ...] = (6,), precision: str = "fp32") -> int:
    return memory.activation_bytes(model, torch.randn(batch, *shape), torch.zeros(batch, dtype=torch.int64), precision)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_perceptron_saves_its_hidden_layer_and_its_log_probabilities(batch: int) -> None:
    """Linear keeps its input (the batch, which is not counted, then the hidden map), ReLU its output (the same map),
    cross-entropy the log-probabilities, the labels (not counted) and the total weight of the batch, one number."""
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert bytes_of(model, batch) == 4 * batch * (5 + 3) + 4


def test_a_storage_that_two_layers_save_counts_once() -> None:
    shared = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    assert bytes_of(shared, 8) == 4 * 8 * (5 + 3) + 4


def test_parameters_and_buffers_are_other_parts() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4, 3))
    found = [bytes_of(model, batch, (3, 4, 4)) for batch in (1 + 1, 2 + 2)]
    each = 4 * (2 * 2 * 4 * 2 + 3)  # maps before and after BatchNorm, log-probabilities
    assert found[1] - found[0] == 2 * each
    assert found[0] - 2 * each <= 4 * (2 * 4 + 1) + 8  # mean and deviation of each channel, the batch's total weight


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_exactly_linear_in_the_batch(name: str, precision: str) -> None:
    """lb.c7. Rounding to blocks does not show: autograd's storages are as large as their tensors."""
    model = models.build(name, classes=10, width=4, seed=1).train()
    sizes = [2, 3, 5, 16, 33]
    held = [bytes_of(model, batch, (3, 16, 16), precision) for batch in sizes]
    line = fits.extremes(sizes, held)
    assert [line(size) for size in sizes] == pytest.approx(held, abs=1e-6)
    assert line.slope == round(line.slope)


VGG = Workload(model="vgg11", classes=10, image_size=32, images=64, width=4, norm="none", augment=False)


class Published(nn.Module):
    """VGG11 written down once more, layer after layer, with torch's own dropout."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        kinds = (nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.layers = nn.Sequential(
            net.features, nn.AdaptiveAvgPool2d(7), nn.Flatten(), net.hidden1, *kinds, net.hidden2, *kinds,
            net.classifier,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_of_vgg11_the_network_itself_is_measured_and_not_its_shortcut() -> None:
    measured, trained = VGG.network(), models.build("vgg11", classes=10, width=4, norm="none", seed=1)
    trained.load_state_dict(measured.state_dict())
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    measured, trained = measured.eval(), trained.eval()
    assert torch.equal(measured(x), trained.reference(x))
    assert not torch.equal(measured(x), trained(x)), "the shortcut sums 49 weights first, which rounds otherwise"
    assert torch.allclose(measured(x), trained(x), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("width", [4, 16])
def test_activations_of_vgg11_are_proportional_to_the_batch(width: int) -> None:
    """lb.c7: at most 1 % are constant, against more than 30 % with the shortcut's sum of weights."""
    measured = Workload(**{**VGG.as_dict(), "width": width}).network().train()  # type: ignore[arg-type]
    sizes = [1, 2, 16, 33]
    held = [bytes_of(measured, batch, (3, 32, 32)) for batch in sizes]
    line = fits.extremes(sizes, held)
    assert [line(size) for size in sizes] == pytest.approx(held, abs=1e-6)
    assert abs(line.intercept) <= 0.01 * held[0]
    shortcut = models.build("vgg11", classes=10, width=width, norm="none", seed=1).train()
    held = [bytes_of(shortcut, batch, (3, 32, 32)) for batch in sizes]
    assert fits.extremes(sizes, held).intercept > 0.3 * held[0], "what this test is there to notice"


@pytest.mark.parametrize("batch", [1, 32])
def test_what_is_counted_of_vgg11_is_what_the_published_network_holds(batch: int) -> None:
    measured = VGG.network().train()
    ours = bytes_of(measured, batch, (3, 32, 32))
    assert bytes_of(Published(measured).train(), batch, (3, 32, 32)) == pytest.approx(ours, rel=0.05)


def test_the_terms_of_a_step() -> None:
    trainer = Trainer(TOY)
    found = memory.terms(trainer, 16)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in trainer.model.buffers())
    assert found.model == 4 * parameters + buffers
    assert found.gradients == found.optimiser == 4 * parameters
    assert found.batch == 16 * (3 * 16 * 16 * 4 + 8)  # float32 pixels and an int64 label
    assert found.total == sum(found)


def test_without_momentum_the_optimiser_holds_nothing() -> None:
    assert memory.terms(Trainer(Workload(**{**TOY.as_dict(), "momentum": 0.0})), 8).optimiser == 0  # type: ignore[arg-type]


def test_every_batch_of_a_trainer_has_its_size() -> None:
    trainer = Trainer(TOY)
    for size in (1, 5, 40, 64):
        batches = trainer.batches(size)
        assert {len(trainer.move(batches, step)[1]) for step in range(5)} == {size}
    with pytest.raises(ReproError, match="at most all of them"):
        trainer.batches(65)
