"""PowerSGD against torch's own, and what error feedback promises. Laws of all codecs: test_codec_contract."""

import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

from repro.codecs import build
from repro.codecs.powersgd import PowerSGD
from repro.errors import ReproError


def gradient(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_torch(matrices: list[torch.Tensor], right: torch.Tensor) -> list[torch.Tensor]:
    """What torch's hook makes of one worker's gradients, with its orthogonalisation, warm start and error feedback."""
    made, error = [], torch.zeros_like(matrices[0])
    for matrix in matrices:
        given = matrix + error
        left = given @ right
        powerSGD_hook._orthogonalize(left.unsqueeze(0))
        right = given.t() @ left
        made.append(left @ right.t())
        error = given - made[-1]
    return made


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_with_one_worker_it_is_torchs(rank: int) -> None:
    codec, matrices = PowerSGD(rank), [gradient(seed, 12, 45) for seed in range(5)]
    state, received, start = codec.new_state(3, 0), [], None
    for matrix in matrices:
        (arrived,) = codec.decode(codec.encode(state, {"conv": matrix.view(12, 5, 3, 3)}))
        received.append(arrived.reshape(12, 45))
        start = start if start is not None else received[0]
    first = PowerSGD(rank)
    fresh = first.new_state(3, 0)
    drawn = {}
    original = torch.from_numpy

    def spy(values):  # the first right factor, as it was drawn
        if values.shape == (45, rank) and not drawn:
            drawn["right"] = original(values.copy())
        return original(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repro.codecs.powersgd.torch.from_numpy", spy)
        first.encode(fresh, {"conv": matrices[0].view(12, 5, 3, 3)})
    for ours, theirs in zip(received, in_torch(matrices, drawn["right"]), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_what_was_sent_and_what_is_left_are_what_was_given() -> None:
    codec = PowerSGD(2)
    state, total, sent = codec.new_state(), torch.zeros(12, 5, 3, 3, dtype=torch.float64), 0.0
    for seed in range(6):
        given = gradient(seed, 12, 5, 3, 3)
        (arrived,) = codec.decode(codec.encode(state, {"conv": given}))
        total, sent = total + given, sent + arrived
    assert torch.allclose(sent + state["memory"]["residual"]["conv"], total, rtol=0, atol=1e-12)


def test_a_matrix_of_its_rank_arrives_whole() -> None:
    left, right = gradient(1, 16, 2), gradient(2, 27, 2)
    given = (left @ right.t()).view(16, 3, 3, 3)
    (arrived,) = PowerSGD(2).decode(PowerSGD(2).encode(PowerSGD(2).new_state(), {"conv": given}))
    assert torch.allclose(arrived, given, rtol=0, atol=1e-10)


def test_factors_are_sent_where_they_are_shorter_and_the_tensor_where_not() -> None:
    wide, narrow = gradient(1, 64, 32, 3, 3), gradient(2, 2, 2, 1, 1)
    codec = PowerSGD(2)
    assert len(codec.encode(codec.new_state(), {"conv": wide})) < 8 * 2 * (64 + 288) + 100
    (arrived,) = codec.decode(codec.encode(codec.new_state(), {"conv": narrow}))
    assert torch.equal(arrived, narrow)


def test_a_gradient_of_zeros_does_not_end_the_iteration() -> None:
    codec = PowerSGD(1)
    state, zeros = codec.new_state(), torch.zeros(8, 4, 3, 3)
    codec.encode(state, {"conv": zeros})
    given = gradient(4, 8, 4, 3, 3).float()
    (arrived,) = codec.decode(codec.encode(state, {"conv": given}))
    assert float(arrived.norm()) > 0.2 * float(given.norm())


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, 2**16])
def test_impossible_ranks_are_refused(rank) -> None:
    with pytest.raises(ReproError, match="rank"):
        build("powersgd", rank=rank)
