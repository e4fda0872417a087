"""Sparse tensors on the wire: places survive, and take what the textbook says."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import arrays, everything, heads, leb128, normal, send

from repro.codecs import Threshold, TopK, message, sparse


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 2**28 - 1), max_size=30, unique=True))
def test_places_survive_and_are_written_as_in_the_textbook(places: list[int]) -> None:
    index = np.array(sorted(places), np.int64)
    data = sparse.pack_gaps(index)
    assert data == b"".join(leb128(int(gap) - 1) for gap in np.diff(index, prepend=-1))
    reader = message.Reader(memoryview(data + b"\x01\x80"), "test")
    assert [*map(int, itertools.chain(*sparse.unpack_gaps(reader, len(index), 2**28)))] == index.tolist()
    assert bytes(reader.take(2)) == b"\x01\x80", "it reads as far as its values go"


@pytest.mark.parametrize("count", [1, 9, 432, 1000, 2**20])
def test_uint32_places_are_never_shorter(count: int) -> None:
    """For the tensor at hand, from one value, wherever it lies, to all of them; and for the longest gap there is."""
    assert len(sparse.pack_gaps(np.array([message.MAX_ELEMENTS - 1]))) == 4
    random = np.random.default_rng(count)
    for sent in sorted({1, 2, count // 1000, count // 100, count // 4, count} & set(range(1, count + 1))):
        last = np.arange(count - sent, count)
        for places in (np.arange(sent), last, np.sort(random.choice(count, sent, replace=False))):
            tensor = torch.zeros(count)
            tensor[torch.from_numpy(places)] = 1.5
            payload = Threshold(1.0, chosen=everything).encode(Threshold(1.0).new_state(), {"t": tensor})
            assert len(payload) - heads(tensor) - 4 - 4 * sent <= 4 * sent


@pytest.mark.parametrize(("sparsity", "coding"), [(0.5, 1), (0.75, 1), (0.9375, 3), (0.999, 3)])
def test_the_index_of_a_dense_choice_is_a_bitmap_and_of_a_sparse_one_gaps(sparsity: float, coding: int) -> None:
    tensor = normal(20_000)
    assert TopK(sparsity, chosen=everything).encode(TopK().new_state(), {"t": tensor})[22] == coding


@settings(deadline=None, max_examples=100)
@given(arrays(), st.sampled_from([0.0, 0.25, 0.9]))
def test_top_k_sends_the_largest_unchanged_and_loses_or_keeps_the_rest(tensor: torch.Tensor, sparsity: float) -> None:
    received = send(TopK(sparsity, chosen=everything), tensor)
    sent = received != 0
    assert torch.equal(received[sent], tensor[sent])
    if len(tensor) and not sent.all():
        assert not sent.any() or tensor[sent].abs().min() >= tensor[~sent].abs().max()
    codec = TopK(sparsity, residual=True, chosen=everything)
    state = codec.new_state()
    assert torch.equal(send(codec, tensor, state) + state["memory"]["residual"]["t"], tensor + 0.0)


def test_without_a_residual_what_is_not_sent_is_lost() -> None:
    codec = TopK(0.5, chosen=everything)
    state, tensor = codec.new_state(), torch.tensor([3.0, 1.0])
    assert [send(codec, tensor, state).tolist() for _ in range(5)] == [[3.0, 0.0]] * 5
    assert state["memory"] == {}
    codec = TopK(0.5, residual=True, chosen=everything)
    state = codec.new_state()
    assert [send(codec, tensor, state).tolist() for _ in range(4)] == [[3, 0], [3, 0], [3, 0], [0, 4]]


def test_a_threshold_sends_what_reaches_it() -> None:
    codec = Threshold(0.5, chosen=everything)
    assert send(codec, torch.tensor([0.5, -0.5, 0.4999, 0.0, -7.0])).tolist() == [0.5, -0.5, 0.0, 0.0, -7.0]
