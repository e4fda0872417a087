"""What the plain and the fast form of the methods share: one forward pass, one aggregation, one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.batches import Batches
from repro.codecs import Codec, Dense, Expected
from repro.engines.bfloat16 import precise
from repro.errors import NotFinite, ReproError
from repro.models.dropout import dropout_seeds
from repro.models.norms import batch_statistics
from repro.randomness import generator
from repro.stepup import StepUp, gradient_change

Schedule = Callable[[float], float]  # epochs of data seen so far -> learning rate
Progress = Callable[[float], float]  # epochs of data seen so far -> what codecs are told (``state["progress"]``)
Part = Callable[[], tuple[Tensor, Tensor]]  # makes one evaluation batch: x (B, 3, H, W), y (B,)


def epochs_seen(epoch: float) -> float:
    """The usual progress: codecs are told the epochs of data seen so far."""
    return epoch


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        number: rounds finished, this one included (from 1).
        lr: learning rate of the round's first step.
        loss: mean training loss over the round's images, NaN or infinite if training diverged.
        correct, images: training images classified correctly, and seen, in this round.
        bytes_up, bytes_down: length of all payloads from the workers to the server, and back, in this round.
        clients_top1_by_class: where asked for, the accuracy of each class (None: no image of it) for each client's own
            model, before the aggregation.
    """

    number: int
    lr: float
    loss: float
    correct: int
    images: int
    bytes_up: int
    bytes_down: int
    clients_top1_by_class: list[list[float | None]] | None = None


def local_range(
    batches: Batches, client: int, number: int, local_epochs: int, local_steps: int | None
) -> tuple[range, int]:
    """Local steps of ``client`` in round ``number`` (from 0) of federated averaging, and steps in an epoch.

    Where rounds are counted in ``local_steps`` (H) instead of local epochs, every client takes H steps, so that one
    with a smaller shard sees its images more often; epochs are then those of ``batches.rounds_per_epoch`` for all.
    """
    if local_steps is not None:
        return range(number * local_steps, (number + 1) * local_steps), batches.rounds_per_epoch
    per_epoch = batches.steps_per_epoch(client)
    return range(number * local_epochs * per_epoch, (number + 1) * local_epochs * per_epoch), per_epoch


def epochs_before(batches: Batches, number: int, local_epochs: int, local_steps: int | None) -> float:
    """Epochs that every client has trained when round ``number`` (from 0) of federated averaging begins."""
    steps, per_epoch = local_range(batches, 0, number, local_epochs, local_steps)
    return steps.start / per_epoch


def float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point buffers by name: the running statistics."""
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


@dataclass(frozen=True)
class Buffers:
    """What happens to BatchNorm's running statistics, and what each worker keeps of them.

    Attributes:
        policy: ``average`` sends and averages them every round. ``local`` leaves them on each worker; the shared model
            is evaluated with each worker's in turn. ``drop`` keeps none; an evaluation batch is normalised by its own
            statistics, so that an accuracy depends on which images share a batch, and on how many.
        own: with ``local``, and a network that has any, the running statistics of each worker by name; the caller's,
            who may store them.
    """

    policy: Literal["average", "local", "drop"] = "average"
    own: list[dict[str, Tensor]] = field(default_factory=list)

    @classmethod
    def start(cls, policy: Literal["average", "local", "drop"], model: nn.Module, clients: int) -> Buffers:
        """The policy at the start of training: every worker has the running statistics of ``model``."""
        kept = policy == "local" and float_buffers(model)
        return cls(policy, [_copies(model) for _ in range(clients if kept else 0)])

    def sent(self, model: nn.Module) -> dict[str, Tensor]:
        """The buffers of ``model`` that travel, by name."""
        return float_buffers(model) if self.policy == "average" else {}

    def restore(self, model: nn.Module, client: int) -> None:
        """With ``local``, give ``model`` the running statistics of worker ``client``."""
        if self.own:
            load_buffers(model, self.own[client])

    def keep(self, model: nn.Module, client: int) -> None:
        """With ``local``, note the running statistics of ``model`` as those of worker ``client``."""
        if self.own:
            self.own[client] = _copies(model)

    @contextmanager
    def of_worker(self, model: nn.Module, client: int) -> Iterator[None]:
        """Within the context, ``model`` has the running statistics that worker ``client`` keeps, if it does."""
        before = _copies(model)
        self.restore(model, client)
        try:
            yield
        finally:
            load_buffers(model, before)


AVERAGED = Buffers()


@dataclass(frozen=True)
class Momenta:
    """What happens between rounds of federated averaging to the momentum of the clients' local SGD.

    Attributes:
        policy: ``restart``: it is zero when a round begins. ``keep``: each client goes on with its own. ``average``:
            clients send it with the change of their model, uncompressed; the server averages it with the same weights
            and sends the average with the shared model.
        own: momentum by name of the parameter, with ``keep`` for each client, with ``average`` one for all; the
            caller's, who may store it.
    """

    policy: Literal["restart", "keep", "average"] = "restart"
    own: list[dict[str, Tensor]] = field(default_factory=list)

    @classmethod
    def start(cls, policy: Literal["restart", "keep", "average"], model: nn.Module, clients: int) -> Momenta:
        """The policy at the start of training: all momentum is zero."""
        sets = {"restart": 0, "keep": clients, "average": 1}[policy]
        zeros = [{name: torch.zeros_like(p.detach()) for name, p in model.named_parameters()} for _ in range(sets)]
        return cls(policy, zeros)

    @property
    def kept(self) -> list[dict[str, Tensor]]:
        """With ``keep``, the momentum of each client; else empty."""
        return self.own if self.policy == "keep" else []

    def message(self) -> bytes:
        """With ``average``, what the server sends of it; else nothing."""
        return Dense().encode(None, self.own[0]) if self.policy == "average" else b""

    def restore(self, optimiser: torch.optim.Optimizer, model: nn.Module, client: int, received: bytes) -> None:
        """Give the fresh ``optimiser`` of ``client`` the momentum that it begins a round with.

        ``received`` is the server's ``message``.
        """
        if self.policy == "restart":
            return
        named = dict(model.named_parameters())
        values = Dense().decode(received) if self.policy == "average" else [self.own[client][name] for name in named]
        for parameter, value in zip(named.values(), values, strict=True):
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.detach()).copy_(value)

    def keep(self, optimiser: torch.optim.Optimizer, model: nn.Module, client: int) -> bytes:
        """Note the momentum that ``client`` ends a round with; returned is what it sends of it."""
        if self.policy == "restart":
            return b""
        named = model.named_parameters()
        found = {name: optimiser.state[parameter]["momentum_buffer"].clone() for name, parameter in named}
        if self.policy == "average":
            return Dense().encode(None, found)
        self.own[client] = found
        return b""

    def settle(self, mean: Sequence[Tensor]) -> None:
        """With ``average``, go on from the average of what the clients sent."""
        for own, value in zip(self.own[0].values(), mean, strict=True):
            own.copy_(value)


RESTARTED = Momenta()


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in float_buffers(model).items()}


def load_buffers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Overwrite the floating-point buffers of ``model``."""
    for name, buffer in float_buffers(model).items():
        buffer.copy_(values[name])


def shared_state(model: nn.Module, buffers: Buffers = AVERAGED) -> dict[str, Tensor]:
    """Parameters and, where they travel, floating-point buffers by name: what workers and server exchange."""
    state = dict(model.named_parameters()) | buffers.sent(model)
    return {name: tensor.detach() for name, tensor in state.items()}


def expected(model: nn.Module, buffers: Buffers = AVERAGED) -> Expected:
    """What both sides wait for: weights, their changes or gradients, all of the types and shapes of the model's own."""
    return Expected.like(shared_state(model, buffers).values())


def load_state(model: nn.Module, tensors: Iterable[Tensor], buffers: Buffers = AVERAGED) -> None:
    """Overwrite the shared state of ``model`` with ``tensors``, in order of ``shared_state``."""
    with torch.no_grad():
        for own, tensor in zip(shared_state(model, buffers).values(), tensors, strict=True):
            own.copy_(tensor)


def backward(
    model: nn.Module, x: Tensor, y: Tensor, precision: str, seeds: Sequence[int] = (),
    sizes: Sequence[int] | None = None,
) -> tuple[float, int]:  # fmt: skip
    """Set the gradient of the mean cross-entropy on x (B, 3, H, W), y (B,).

    ``seeds`` are those of dropout, one for each worker whose images are in the batch, and ``sizes`` how many each has;
    a network without dropout needs neither.

    Returns:
        The loss, and how many of the B images were classified correctly.

    Raises:
        NotFinite: the loss is NaN or infinite.
    """
    dropout = dropout_seeds(model, seeds, sizes) if seeds else nullcontext()
    with dropout, precise(precision, x.device):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NotFinite(f"the training loss is {value}; a finite loss was expected; lower the learning rate")
    model.zero_grad(set_to_none=True)
    loss.backward()
    return value, int((logits.detach().argmax(1) == y).sum())


def sgd(model: nn.Module, momentum: float = 0.0, weight_decay: float = 0.0) -> torch.optim.SGD:
    """SGD on all parameters of ``model``; ``set_lr`` sets its learning rate before every step.

    A model whose parameters do not all learn at the schedule's rate says so by a method ``lr_factors``, which returns
    the factor by name of those for which it is not 1; parameters of one factor form one group of the optimiser.

    Raises:
        ReproError: a factor for something that is not a parameter of the model.
    """
    own = getattr(model, "lr_factors", None)
    factors: Mapping[str, float] = own() if own is not None else {}
    parameters = dict(model.named_parameters())
    unknown = sorted(set(factors) - set(parameters))
    if unknown:
        raise ReproError(f"lr_factors: {unknown[0]!r} is no parameter of the model; names of parameters were expected")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(factors.get(name, 1.0), []).append(parameter)
    return torch.optim.SGD(
        [{"params": group, "lr_factor": factor} for factor, group in groups.items()],
        lr=1.0, momentum=momentum, weight_decay=weight_decay, foreach=True,
    )  # fmt: skip


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters, each times the factor that ``sgd`` gave its group."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


class WeightedMean:
    """Average over workers of what each of them sends, one after the other: it holds one set of tensors, not all.

    Sums are made in the order of ``add``, so that with the workers in order they are reproducible.

    Args:
        total: sum of the weights of all workers.
    """

    def __init__(self, total: int) -> None:
        self._total, self._added = total, 0
        self._sums: list[Tensor] | None = None

    def add(self, part: Sequence[Tensor], weight: int) -> None:
        """Count the tensors of one worker, which are left as they are."""
        if self._sums is None:
            self._sums = [torch.zeros_like(tensor) for tensor in part]
        for mean, tensor in zip(self._sums, part, strict=True):
            mean.add_(tensor, alpha=weight / self._total)
        self._added += weight

    def result(self) -> list[Tensor]:
        """The average, once every worker was counted.

        Raises:
            ValueError: the weights of those counted do not add up to the total.
        """
        if self._sums is None or self._added != self._total:
            raise ValueError(f"weights of {self._added} were counted; {self._total} were expected")
        return self._sums


def weighted_mean(parts: Sequence[Sequence[Tensor]], weights: Sequence[int]) -> list[Tensor]:
    """``WeightedMean`` of all ``parts``."""
    mean = WeightedMean(sum(weights))
    for part, weight in zip(parts, weights, strict=True):
        mean.add(part, weight)
    return mean.result()


def client_weights(batches: Batches, weights: Literal["images", "equal"]) -> list[int]:
    """Weight of each client in federated averaging: the images of its shard, or one."""
    return [len(shard) if weights == "images" else 1 for shard in batches.shards]


def broadcast(model: nn.Module, download: Codec, buffers: Buffers = AVERAGED) -> bytes:
    """The payload by which workers get the shared model; the server goes on from the model that they received.

    With an exact codec nothing changes. With a lossy one the weights themselves live in its precision during training.
    """
    payload = download.encode(download.new_state(), shared_state(model, buffers))
    if not download.fixed_size:
        load_state(model, download.decode(payload, expected(model, buffers)), buffers)
    return payload


def settle(model: nn.Module, download: Codec, buffers: Buffers = AVERAGED) -> None:
    """After a step of the server: a lossy ``download`` rounds the model at once, so that it is evaluated rounded."""
    if not download.fixed_size:
        broadcast(model, download, buffers)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by name of the parameter."""
    return {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}


def set_gradients(model: nn.Module, received: Sequence[Tensor], buffers: Buffers = AVERAGED) -> None:
    """Give ``model`` the gradients and the running statistics that travel, in the order in which they are sent."""
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, received, strict=False):
        parameter.grad = gradient.to(parameter.device)
    for buffer, average in zip(buffers.sent(model).values(), received[len(parameters) :], strict=True):
        buffer.copy_(average)


def decayed_gradients(model: nn.Module, weight_decay: float) -> dict[str, Tensor]:
    """``gradients`` plus ``weight_decay`` times the weights, as ``torch.optim.SGD`` adds it before its momentum.

    A worker whose codec corrects momentum sends these, and the server then decays nothing. PaddlePaddle's DGC decays
    the local gradient, too; in the DGC authors' code the decay has a momentum of its own, outside of what is sparse.
    """
    if not weight_decay:
        return gradients(model)
    with torch.no_grad():
        return {
            f"gradient of {name}": p.grad.add(p, alpha=weight_decay)
            for name, p in model.named_parameters()
            if p.grad is not None
        }


def gradient_norm(model: nn.Module) -> float:
    """L2 norm of the gradient that ``model`` holds. After a round it is the one that the server has just applied.

    Raises:
        NotFinite: the gradient holds NaN or infinity.
    """
    norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in model.parameters() if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(norms)))
    if not math.isfinite(norm):
        raise NotFinite(f"the gradient's norm is {norm}; a finite one was expected; lower the learning rate")
    return norm


@dataclass(frozen=True)
class Gate:
    """The step-up method in a training (paper lb, Eqs. 6 and 8): call it between the backward pass and the step.

    Attributes:
        rule: when gradients are stepped up, and by how much.
        seed: of the run; a ``random`` rule draws by the number of the step.
        norms: L2 norm of the unscaled gradient in every iteration so far; the caller's, who may store them.
        factors: factor of the gradient in every iteration so far, likewise.
    """

    rule: StepUp
    seed: int
    norms: list[float]
    factors: list[float]

    def __call__(self, model: nn.Module, step: int) -> None:
        """Multiply the gradient that ``model`` holds by its factor in ``step``.

        Raises:
            NotFinite: the gradient holds NaN or infinity.
        """
        norm = gradient_norm(model)
        change = gradient_change(norm, self.norms[-1] if self.norms else None)
        factor = self.rule.factor_at(change, generator(self.seed, "step_up", step).random())
        if factor != 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        self.norms.append(norm)
        self.factors.append(factor)


class Score(NamedTuple):
    """Sums over the images of an evaluation batch: cross-entropy, hits of the first and of the first five, images.

    The last two are hits of the first, and images, class by class.
    """

    loss: float
    top1: int
    top5: int
    images: int
    top1_by_class: tuple[int, ...]
    images_by_class: tuple[int, ...]


@torch.inference_mode()
def scores(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "fp32") -> list[Score]:
    """The score of every batch, in evaluation mode. With fewer than five classes, all images are top-5 hits."""
    was_training = model.training
    model.eval()
    found = []
    for x, y in batches:
        with precise(precision, x.device):
            logits = model(x)
        logits = logits.float() if precision == "bf16" else logits
        best = logits.topk(min(5, logits.shape[1])).indices == y[:, None]
        loss = float(F.cross_entropy(logits, y, reduction="sum"))
        hits, counts = (torch.bincount(of, minlength=logits.shape[1]).tolist() for of in (y[best[:, 0]], y))
        found.append(Score(loss, int(best[:, 0].sum()), int(best.sum()), len(y), tuple(hits), tuple(counts)))
    model.train(was_training)
    return found


def mean_score(parts: Iterable[Score]) -> Mapping[str, Any]:
    """Mean cross-entropy and top-1 and top-5 accuracy (fractions); summed in order, so that it is reproducible.

    ``top1_by_class`` lists the accuracy of each class; None where it has no image.
    """
    losses, top1, top5, images, hits, counts = zip(*parts, strict=True)
    total = sum(images)
    by_class = zip(map(sum, zip(*hits, strict=True)), map(sum, zip(*counts, strict=True)), strict=True)
    return {
        "loss": sum(losses) / total,
        "top1": sum(top1) / total,
        "top5": sum(top5) / total,
        "top1_by_class": [right / n if n else None for right, n in by_class],
    }


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "fp32") -> Mapping[str, Any]:
    """Mean cross-entropy and top-1 and top-5 accuracy (fractions) over ``batches``, in evaluation mode."""
    return mean_score(scores(model, batches, precision))


def evaluate_shared(
    model: nn.Module, parts: Sequence[Part], precision: str = "fp32", buffers: Buffers = AVERAGED
) -> Mapping[str, Any]:
    """``evaluate`` of the shared model, with the statistics that the policy of ``buffers`` gives it.

    With ``local`` it is the mean over the workers of the evaluation with each worker's running statistics.
    """
    found = []
    for client in range(len(buffers.own) or 1):
        with buffers.of_worker(model, client):
            found += scores_by_policy(model, parts, precision, buffers)
    return mean_score(found)


def scores_by_policy(model: nn.Module, parts: Iterable[Part], precision: str, buffers: Buffers) -> list[Score]:
    """The score of every batch, normalised by the statistics of the batch under the policy ``drop``."""
    with batch_statistics(model) if buffers.policy == "drop" else nullcontext():
        return scores(model, (part() for part in parts), precision)
