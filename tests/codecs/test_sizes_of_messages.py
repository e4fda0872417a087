"""Every byte of a message is accounted for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import MAKERS, arrays, everything, heads, normal, sparse_size

from repro import codecs, models
from repro.codecs import Int8, TernGrad, Threshold, TopK, sparse
from repro.models import sizes
from repro.training.buffers import shared_state

SIZES = {
    "int8": lambda t, item: item + t.numel(),
    "int8-affine": lambda t, item: item + 1 + t.numel(),
    "qsgd": lambda t, item: 5 + item * -(-t.numel() // max(1, min(512, t.numel()))) + -(-t.numel() // 2),
    "qsgd-1": lambda t, item: 5 + item * -(-t.numel() // max(1, min(3, t.numel()))) + -(-t.numel() // 4),
    "qsgd-127": lambda t, item: 5 + item * -(-t.numel() // max(1, min(512, t.numel()))) + t.numel(),
    "terngrad": lambda t, item: item + -(-t.numel() // 4),
    "1-bit": lambda t, item: (
        4 + (2 * item * (t.shape[0] if t.dim() > 1 else 1) if t.numel() else 0) + -(-t.numel() // 8)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3), st.booleans(), st.integers(0, 99))
def test_a_quantised_message_has_the_published_size(name: str, shapes: list, double: bool, seed: int) -> None:
    tensors = [normal(*shape, seed=seed, dtype=torch.float64 if double else torch.float32) for shape in shapes]
    payload = MAKERS[name]().encode(codecs.OneBit().new_state(), {f"t{k}": t for k, t in enumerate(tensors)})
    assert len(payload) == heads(*tensors) + sum(SIZES[name](t, 8 if double else 4) for t in tensors)


@settings(deadline=None, max_examples=60)
@given(arrays(), st.sampled_from([0.0, 0.5, 0.9, 0.99]), st.booleans())
def test_a_sparse_message_has_the_size_of_the_shorter_index(tensor: torch.Tensor, sparsity: float, grow: bool) -> None:
    tensor = torch.cat([tensor, torch.zeros(5000), tensor]) if grow else tensor
    for codec in (TopK(sparsity, chosen=everything), Threshold(0.5, chosen=everything)):
        payload = codec.encode(codec.new_state(), {"t": tensor})
        assert len(payload) == heads(tensor) + sparse_size(codec.decode(payload)[0], 4)
        if isinstance(codec, TopK):
            nonzero = int(torch.count_nonzero(tensor))
            assert torch.count_nonzero(codec.decode(payload)[0]) == min(
                sparse.kept(len(tensor), sparse.density(sparsity)), nonzero
            )


def test_f2i_and_terngrad_of_resnet18_cost_what_the_facts_say() -> None:
    tensors = {name: torch.zeros(shape) for name, shape in sizes.shapes("resnet18", 10).items()}
    codec = TernGrad()
    assert len(codec.encode(codec.new_state(), tensors)) == 2_793_739 + heads(*tensors.values())
    codec = Int8()
    sent = len(codec.encode(codec.new_state(), tensors))
    assert sent == 11_173_962 + 62 * 4 + heads(*tensors.values())
    assert 3.999 < 4 * 11_173_962 / sent < 4


def test_a_small_resnet_costs_the_sum_of_its_tensors() -> None:
    net = models.build("resnet18", classes=10, width=4)
    state = shared_state(net)
    expected = heads(*state.values())
    for name, tensor in state.items():
        expected += 4 * tensor.numel() if "running" in name else tensor.numel() + 4
    assert len(Int8().encode(Int8().new_state(), state)) == expected
