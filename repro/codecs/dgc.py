"""Deep Gradient Compression (Lin et al. 2018), as post 2 uses it: on the weights of convolutions only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codecs import sparse
from repro.codecs.base import register
from repro.codecs.message import Buffer, Item, Reader, Rule, TensorCodec, blank, convolutions, flatten, parameters
from repro.codecs.state import State
from repro.errors import ReproError
from repro.experiments import post2

WARM_UP = (*post2.WARM_UP, post2.SPARSITY)
"""Sparsity in epochs 0, 1, 2, 3 and from epoch 4 on: the paper's list (the authors' code follows another)."""

_SAMPLE = Fraction(1, 100)  # of the values, at least; post 2: "sampling only 1% of the gradients"
_FEWEST, _ROUNDS = 0.8, 10  # a threshold that lets less than 0.8 k pass is lowered by that factor, up to ten times


@register("dgc", version=3)
@register("dgc-without-accumulation", version=1, part_of="dgc", accumulation=False)
@register("dgc-without-clipping", version=1, part_of="dgc", clip=None)
@register("dgc-without-correction", version=1, part_of="dgc", correction=False)
@register("dgc-without-masking", version=1, part_of="dgc", masking=False)
class DGC(TensorCodec):
    """A message sends, of each chosen tensor, the largest 0.1 % of what has accumulated there.

    With the gradient g of a step, momentum m, and 0 at the start:

    1. local gradient clipping: g is scaled down if its norm exceeds this worker's share of the global threshold;
    2. momentum correction: u = m u + g (Nesterov's: u = m (u + g));
    3. accumulation: v = v + u (Nesterov's: v = v + u + g);
    4. the k = ceil((1 - sparsity) n) largest values of |v| are sent, and v becomes 0 there;
    5. momentum factor masking: u becomes 0 there, too.

    The server steps by the average without momentum of its own. Gradients that are not sparsified are sent after step
    2, and the average of the momentum is the momentum of the average, so that the server need not tell them apart.
    Whatever is no gradient (running statistics) is sent as it is.

    Weight decay is not the codec's business: g is what the codec is given. The engines add the decay to the local
    gradient before they encode it (``repro.training.steps.decayed_gradients``), as PaddlePaddle's DGC does. The
    authors' code keeps decay out of u and v and gives it a momentum of its own on every node. Where everything is
    sent, both are SGD's.

    Without momentum of its own (m = 0, or ``correction`` off) u is g and is not kept.

    For step 4 a threshold is estimated from a sample of 1 %: the sampled value at rank (1 - sparsity) x sample size.
    If more than k values pass, the k largest are found among those that passed ("hierarchical" selection); if less
    than 0.8 k pass, the threshold is lowered. So at most k values are sent.

    Args:
        momentum: m.
        masking: step 5.
        nesterov: Nesterov's momentum instead of the usual one.
        clip: threshold for the norm of the global gradient (None: step 1 is left out). In the paper a worker's
            gradient contains the factor 1 / workers, and is clipped at ``local_threshold(clip, workers)``; here
            workers send means of their own batch, which the server averages, so g / workers is clipped there.
        workers: number of workers, for clipping.
        sparsity: by epoch of ``state["progress"]``; the last one stays.
        chosen: which tensors to sparsify.
        gradients: which tensors are gradients.
        correction: step 2; otherwise the plain gradient is accumulated, and momentum is left to the server.
        accumulation: step 3; otherwise v is u, and what is not sent is lost, but for what u remembers of it.

    Raises:
        ReproError: an impossible sparsity, momentum, threshold or number of workers.
    """

    number, name = 6, "dgc"
    decided_elsewhere = ("correction", "momentum", "workers")

    def __init__(
        self,
        momentum: float = 0.9,
        masking: bool = True,
        nesterov: bool = False,
        clip: float | None = None,
        workers: int = 1,
        sparsity: Sequence[float] = WARM_UP,
        chosen: Rule = convolutions,
        gradients: Rule = parameters,
        correction: bool = True,
        accumulation: bool = True,
    ) -> None:
        super().__init__(chosen)
        if not 0 <= momentum < 1:
            raise ReproError(f"momentum {momentum}; at least 0 and less than 1 was expected")
        if (clip is not None and not clip > 0) or workers < 1 or not sparsity:
            raise ReproError(f"clip {clip}, {workers} workers, sparsity {sparsity}; positive numbers were expected")
        self.momentum, self.masking, self.nesterov, self.clip, self.workers = momentum, masking, nesterov, clip, workers
        self.densities = [sparse.density(epoch) for epoch in sparsity]
        self.gradients, self.corrects_momentum, self.accumulation = gradients, correction, accumulation

    @staticmethod
    def of_run(method: str, momentum: float, workers: int) -> dict[str, Any]:
        """What follows from the method, the momentum and the number of workers of a run.

        Local training has a momentum of its own; what it sends is a change of weights, whose rest only waits.
        """
        return {"momentum": momentum if method == "large_batch" else 0.0, "workers": workers}

    def prepare(self, state: State, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Steps 1 to 3: v for the chosen tensors, what v would have grown by for the other gradients."""
        is_gradient = {name: self.gradients(name, tensor) for name, tensor in tensors.items()}
        scale = self._clipping([tensor for name, tensor in tensors.items() if is_gradient[name]])
        corrected = dict(tensors)
        for name, tensor in tensors.items():
            if is_gradient[name]:
                corrected[name] = self._corrected(state, name, tensor, scale)
        return sparse.add_residual(state, corrected, self.chosen) if self.accumulation else corrected

    @property
    def _has_velocity(self) -> bool:
        return self.corrects_momentum and self.momentum > 0

    def _corrected(self, state: State, name: str, gradient: Tensor, scale: float) -> Tensor:
        """Step 2 for one gradient, scaled by step 1."""
        if not self._has_velocity:
            return gradient if scale == 1 else gradient * scale
        velocity = state["memory"].setdefault("velocity", {})
        if name not in velocity:
            velocity[name] = blank(gradient)
        u: Tensor = velocity[name]
        if self.nesterov:
            return u.add_(gradient, alpha=scale).mul_(self.momentum).add(gradient, alpha=scale)
        return u.mul_(self.momentum).add_(gradient, alpha=scale)

    def density_at(self, progress: float) -> Fraction:
        """Share of values sent at ``progress``, which counts steps of the warm-up; the last one stays."""
        return self.densities[min(int(progress), len(self.densities) - 1)]

    def _clipping(self, gradients: Sequence[Tensor]) -> float:
        if self.clip is None:
            return 1.0
        norm = math.hypot(*(float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in gradients)) / self.workers
        return min(1.0, local_threshold(self.clip, self.workers) / norm) if norm > 0 else 1.0

    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """Steps 4 and 5."""
        places = select(item.values, self.density_at(state["progress"]), random)
        coded = sparse.compress(item.values, places)
        if self.accumulation:
            item.values[places] = 0
        if self.masking and self._has_velocity:
            flatten(state["memory"]["velocity"][item.name])[0][places] = 0
        return coded

    def expand(self, coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
        """See ``repro.codecs.sparse``."""
        return sparse.expand(coding, reader, count, kind)


def warm_up(share: float, epochs: int) -> Callable[[float], float]:
    """Epochs of data seen -> ``state["progress"]``, for a training that warms up during a share of its epochs.

    The warm-up has as many steps as ``WARM_UP`` has sparsities before its last, which begins when it ends: in post 2
    four epochs of a hundred, so that a step is an epoch. With a share of 0 a step is an epoch, too.
    """
    scale = (len(WARM_UP) - 1) / (share * epochs) if share else 1.0
    return lambda epoch: scale * epoch


def local_threshold(clip: float, workers: int) -> float:
    """A worker's threshold: gradients of workers that differ by noise add up to sqrt(workers) times their norm."""
    return clip / math.sqrt(workers)


@cache
def sampling(count: int, share: Fraction) -> tuple[int, int]:
    """Stride of the sample of ``count`` values, and its size (the authors' rule).

    The sample is 1 % or what it takes to have two values above the threshold, whichever is more. Strides are odd, so
    that they do not follow the layout of a tensor.
    """
    wanted = max(math.ceil(count * _SAMPLE), math.ceil(2 / share))
    if count <= math.ceil(2 / share):
        return 1, count
    stride = 32 * math.ceil(Fraction(count, 32 * wanted)) + 1
    while count // stride < wanted:
        stride -= 8
    return stride, count // stride


def select(values: Tensor, share: Fraction, random: np.random.Generator) -> Tensor:
    """Places, ascending, of about the ``share`` largest by magnitude; never of a zero.

    Args:
        values: (n,).
        share: of the values to select; at most ``kept(n, share)`` are.
        random: where the sample starts.
    """
    most = sparse.kept(len(values), share)
    least = torch.finfo(values.dtype).smallest_normal * torch.finfo(values.dtype).eps  # the smallest positive number
    if most == len(values):
        return sparse.above(values, least)
    stride, size = sampling(len(values), share)
    sample = values[int(random.integers(stride)) :: stride].abs()
    threshold = max(least, float(sample.topk(sparse.kept(size, share), sorted=False).values.min()))
    places = sparse.above(values, threshold)
    for _ in range(_ROUNDS):
        if len(places) >= _FEWEST * most or threshold == least:
            break
        threshold = max(least, _FEWEST * threshold)
        places = sparse.above(values, threshold)
    if len(places) > most:
        places = places[values[places].abs().topk(most, sorted=False).indices].sort().values
    return places
