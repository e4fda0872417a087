"""What workers and the server send each other, and what both remember of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from repro.codecs import Codec, Dense, Expected, State
from repro.training.buffers import AVERAGED, Buffers, expected, load_state, shared_state

Progress = Callable[[float], float]  # epochs of data seen so far -> what codecs are told (``state["progress"]``)


def epochs_seen(epoch: float) -> float:
    """The usual progress: codecs are told the epochs of data seen so far."""
    return epoch


@dataclass(frozen=True)
class Exchange:
    """The messages of one training.

    Attributes:
        codec: of what workers send.
        download: codec of what they receive.
        buffers: what happens to BatchNorm's running statistics.
        progress: what codecs are told of how far training is.
        seed: of codecs that draw at random.
        states: the codec's memory of each worker; the caller's, who may store it. Missing ones are made when needed.
    """

    codec: Codec
    download: Codec = field(default_factory=Dense)
    buffers: Buffers = AVERAGED
    progress: Progress = epochs_seen
    seed: int = 0
    states: list[State] = field(default_factory=list)

    def state(self, client: int) -> State:
        """The codec's memory of worker ``client``."""
        for missing in range(len(self.states), client + 1):
            self.states.append(self.codec.new_state(self.seed, missing))
        return self.states[client]

    def expected(self, model: nn.Module) -> Expected:
        """What both sides wait for."""
        return expected(model, self.buffers)

    def broadcast(self, model: nn.Module) -> bytes:
        """The payload by which workers get the shared model; the server goes on from the model that they received.

        With an exact codec nothing changes. With a lossy one the weights themselves live in its precision in training.
        """
        payload = self.download.encode(self.download.new_state(), shared_state(model, self.buffers))
        if not self.download.fixed_size:
            self.receive(model, payload)
        return payload

    def receive(self, model: nn.Module, payload: bytes) -> None:
        """Overwrite the shared state of ``model`` with what ``broadcast`` sent."""
        load_state(model, self.download.decode(payload, self.expected(model)), self.buffers)

    def settle(self, model: nn.Module) -> None:
        """After a step of the server a lossy ``download`` rounds the model at once, so that it is evaluated rounded."""
        if not self.download.fixed_size:
            self.broadcast(model)

    def send(self, client: int, tensors: Mapping[str, Tensor], epoch: float) -> bytes:
        """The payload of what worker ``client`` sends after ``epoch`` epochs of data; its memory moves on."""
        state = self.state(client)
        state["progress"] = self.progress(epoch)
        return self.codec.encode(state, tensors)
