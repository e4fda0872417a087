"""Zip loses nothing, and zipping a payload is encoding with zip."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import arrays, everything, normal, send

from repro import codecs
from repro.codecs import QSGD, Int8, TopK, Zipped
from repro.errors import ReproError


@pytest.mark.parametrize("level", range(10))
def test_zip_loses_nothing_at_any_level(level: int) -> None:
    tensor = normal(200)
    for inner in (codecs.Dense(), Int8(), TopK(0.9, chosen=everything)):
        assert torch.equal(send(Zipped(inner, level), tensor), send(inner, tensor))


def test_zip_of_zip_is_possible_and_zeros_shrink() -> None:
    zeros = torch.zeros(100_000)
    once, twice = Zipped(Int8()), Zipped(Zipped(Int8()))
    assert len(once.encode(once.new_state(), {"t": zeros})) < 300
    assert torch.equal(send(twice, zeros), zeros)


def test_the_level_of_zip_is_an_option_of_every_zipped_codec() -> None:
    tensors = {"t": normal(5000)}
    lengths = {}
    for level in (0, 1, 9):
        codec = codecs.build("int8+zip", level=level)
        lengths[level] = len(codec.encode(codec.new_state(), tensors))
        assert codec.level == level
        assert len(codec.encode(codec.new_state(), tensors)) == len(
            Zipped(Int8(), level).encode(codec.new_state(), tensors)
        )
    assert lengths[9] <= lengths[1] < lengths[0]
    both = codecs.build("int8-affine+zip", level=3)
    assert (both.level, both.inner.affine) == (3, True)
    assert codecs.build("int8+zip").level == 6


@pytest.mark.parametrize("level", [-1, 10, 1.5])
def test_an_unknown_level_is_refused(level: float) -> None:
    for make in (lambda: Zipped(Int8(), level), lambda: codecs.build("int8+zip", level=level)):
        with pytest.raises(ReproError, match=r"zip level .*; 0 to 9 was expected"):
            make()


@settings(deadline=None, max_examples=60)
@given(arrays(), st.sampled_from([1, 6, 9]), st.integers(0, 99))
def test_zipping_a_payload_is_encoding_with_zip(tensor: torch.Tensor, level: int, seed: int) -> None:
    inner = QSGD()
    zipped = Zipped(inner, level)
    ours = zipped.zip(inner.encode(inner.new_state(seed), {"t": tensor}))
    assert ours == zipped.encode(zipped.new_state(seed), {"t": tensor})
    assert torch.equal(zipped.decode(ours)[0], inner.decode(inner.encode(inner.new_state(seed), {"t": tensor}))[0])
