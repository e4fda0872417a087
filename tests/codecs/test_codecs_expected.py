"""A receiver takes what it expects, and no payload makes it take more: neither of tensors, nor of memory, nor time."""

import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import codecs
from repro.codecs import Expected, Zipped, message, sparse, stochastic, wire
from repro.codecs.message import TensorCodec
from repro.errors import ReproError

MB = 2**20
NETWORK = {"conv": torch.zeros(64, 32, 3, 3), "weight": torch.zeros(10, 64), "bias": torch.zeros(10)}
EXPECTED = Expected.like(NETWORK.values())
OPTIONS = {"threshold": {"threshold": 0.5}}
NAMES = [*codecs.NAMES, *(f"{name}+zip" for name in codecs.NAMES)]
each_codec = pytest.mark.parametrize("name", NAMES)


def build(name: str):
    return codecs.build(name, **OPTIONS.get(name.removesuffix("+zip"), {}))


def encode(name: str, tensors: dict[str, torch.Tensor]) -> bytes:
    codec = build(name)
    return codec.encode(codec.new_state(1), tensors)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def head(coding: int, *shape: int, form: int = 0) -> bytes:
    return struct.pack(f"<BBB{len(shape)}I", coding, form, len(shape), *shape)


def zipped(payload: bytes) -> bytes:
    return wire.seal(Zipped.number, struct.pack("<Q", len(payload)), zlib.compress(payload, 9))


def decoded(codec, payload: bytes, expected: Expected | None) -> tuple[list[torch.Tensor] | None, str]:
    """Tensors, or None and the line that refuses them."""
    try:
        return codec.decode(payload, expected), ""
    except ReproError as error:
        return None, str(error)


def peak_of(call) -> int:
    """The most bytes that ``call`` held at a time."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# What fits ----------------------------------------------------------------------------------------------------


@each_codec
def test_what_is_expected_is_decoded_as_without_expecting_it(name: str) -> None:
    tensors = {key: normal(*tensor.shape) for key, tensor in NETWORK.items()}
    payload = encode(name, tensors)
    for a, b in zip(build(name).decode(payload, EXPECTED), build(name).decode(payload), strict=True):
        assert torch.equal(a, b)


@each_codec
@pytest.mark.parametrize(
    "tensors",
    [
        {"t": torch.zeros(0)},
        {"t": torch.zeros(5, 0, 2)},
        {"t": normal(3000, 1)},  # of 1-bit, two values for each
        {f"t{k}": torch.tensor(1.0) for k in range(300)},
        {"t": normal(*[1] * 20)},
        {},
    ],
    ids=["empty", "empty-3d", "columns", "scalars", "dimensions", "nothing"],
)
def test_no_honest_payload_is_longer_than_is_accepted(name: str, tensors: dict[str, torch.Tensor]) -> None:
    expected = Expected.like(tensors.values())
    assert len(encode(name, tensors)) <= expected.payload
    assert [tensor.shape for tensor in build(name).decode(encode(name, tensors), expected)] == [
        tensor.shape for tensor in tensors.values()
    ]


def test_a_bucket_for_each_value_and_zip_in_zip_are_accepted() -> None:
    tensors = {"t": normal(4000)}
    for codec in (codecs.QSGD(bucket=1, levels=127), Zipped(Zipped(codecs.OneBit(), level=0), level=0)):
        payload = codec.encode(codec.new_state(1), tensors)
        assert len(payload) <= Expected.like(tensors.values()).payload
        codec.decode(payload, Expected.like(tensors.values()))


@each_codec
def test_expanding_block_by_block_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"conv": normal(5, 3, 3, 3), "vector": normal(41, seed=1), "long": normal(3, 70, seed=2)}
    payload = encode(name, tensors)
    whole = build(name).decode(payload)
    for module in (message, sparse, stochastic):
        monkeypatch.setattr(module, "BLOCK", 8)
    assert all(torch.equal(a, b) for a, b in zip(build(name).decode(payload), whole, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), min_size=1, max_size=70), st.sampled_from([8, 16, 64]))
def test_places_survive_in_both_codings_whatever_the_block(chosen: list[bool], block: int) -> None:
    values = np.where(chosen, np.arange(1.0, len(chosen) + 1), 0).astype(np.float32)
    places = np.flatnonzero(values)
    sent = [struct.pack("<I", len(places)), values[places].tobytes()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "BLOCK", block)
        for coding, index in ((sparse.GAPS, sparse.pack_gaps(places)), (sparse.BITMAP, np.packbits(values != 0))):
            reader = message.Reader(memoryview(b"".join([*sent, bytes(index)])), "test")
            assert (sparse.expand(coding, reader, len(values), np.dtype("<f4")) == values).all()
            reader.finish()


# What does not fit --------------------------------------------------------------------------------------------


@each_codec
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bias": torch.zeros(11)}, r"tensor 2 is float32 of \(11,\); float32 of \(10,\) was expected"),
        ({"weight": torch.zeros(64, 10)}, r"tensor 1 is float32 of \(64, 10\); float32 of \(10, 64\) was expected"),
        ({"bias": torch.zeros(10).double()}, r"tensor 2 is float64 of \(10,\); float32 of \(10,\) was expected"),
        ({"more": torch.zeros(1)}, "4 tensors; 3 were expected"),
    ],
)
def test_other_tensors_than_expected_are_refused_by_what_differs(name: str, change: dict, says: str) -> None:
    with pytest.raises(ReproError, match=f"inconsistent with what is expected.*{says}"):
        build(name).decode(encode(name, NETWORK | change), EXPECTED)


@each_codec
def test_fewer_tensors_than_expected_are_refused(name: str) -> None:
    with pytest.raises(ReproError, match="2 tensors; 3 were expected"):
        build(name).decode(encode(name, {key: NETWORK[key] for key in ("conv", "weight")}), EXPECTED)


def bombs() -> dict[str, tuple]:
    """Codecs and payloads of up to 100 kB that would unfold to far more than ``NETWORK``."""
    top, dense, one = codecs.TopK(), codecs.Dense(), struct.pack("<I", 1)
    million = struct.pack("<I", 10**6)
    empty = wire.seal(1, million, struct.pack("<BBI", 0, 1, 0) * 10**6)
    zeros = wire.seal(1, one, struct.pack("<BBI", 0, 1, 23 * 10**6), bytes(92 * 10**6))

    def many_gaps(sent: int) -> bytes:
        values = struct.pack("<I", sent) + bytes(8 * sent)
        return wire.seal(4, one, head(3, 2**28, form=1), values, b"\x00" * sent)

    return {
        "empty": (dense, wire.seal(1, struct.pack("<I", 16_000), struct.pack("<BBI", 0, 1, 0) * 16_000)),
        "zip-empty": (Zipped(dense), zipped(empty)),
        "zip-empty-sparse": (Zipped(top), zipped(wire.seal(4, million, head(3, 0) * 10**6, bytes(4 * 10**6)))),
        "zip-zeros": (Zipped(dense), zipped(zeros)),
        "zip-zip": (Zipped(Zipped(dense)), zipped(zipped(zeros))),
        "zip-of-nothing-that-fits": (Zipped(dense), zipped(bytes(95 * 10**6))),
        "no-gaps": (top, wire.seal(4, one, head(3, 2**28, form=1), struct.pack("<I", 0))),
        "gaps": (top, many_gaps(10_000)),
        "zip-gaps": (Zipped(top), zipped(many_gaps(15_000))),
        "many-sparse": (top, wire.seal(4, struct.pack("<I", 4000), head(3, 2**16) * 4000, bytes(4 * 4000))),
        "zip-terngrad": (Zipped(codecs.TernGrad()), zipped(wire.seal(8, one, head(1, 2**28), bytes(4 + 2**26)))),
    }  # fmt: skip


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_payload_that_would_unfold_is_one_line_at_once_and_without_memory(name: str) -> None:
    codec, payload = BOMBS[name]
    assert len(payload) <= 100_000

    def refused() -> None:
        with pytest.raises(ReproError) as error:
            codec.decode(payload, EXPECTED)
        assert str(error.value).count("\n") == 0

    start = time.process_time()
    refused()
    assert time.process_time() - start < 1
    assert peak_of(refused) < MB


@pytest.mark.parametrize("name", BOMBS)
def test_a_receiver_that_expects_nothing_is_safe_as_well(name: str) -> None:
    codec, payload = BOMBS[name]

    assert peak_of(lambda: decoded(codec, payload, None)) <= 2 * Expected.unknown(len(payload)).bytes + 64 * MB
    assert decoded(codec, payload, None)[1].count("\n") == 0


def test_without_a_model_to_compare_with_tensors_and_bytes_are_still_limited() -> None:
    with pytest.raises(ReproError, match="4097 tensors; at most 4096 are accepted"):
        codecs.Dense().decode(encode("dense", {f"t{k}": torch.zeros(0) for k in range(4097)}))
    most = Expected.unknown(4 + 7 + 4).bytes // 4

    def of(count: int) -> bytes:
        return wire.seal(4, struct.pack("<I", 1), head(3, count), struct.pack("<I", 0))

    assert len(codecs.TopK().decode(of(most))[0]) == most
    with pytest.raises(ReproError, match=f"values of {4 * most + 4} bytes or more; at most {4 * most} are accepted"):
        codecs.TopK().decode(of(most + 1))


COUNT = 8_000_000  # values, 32 MB
FULL = {
    "dense": (codecs.Dense(), struct.pack("<BBI", 0, 1, COUNT), bytes(4 * COUNT)),
    "raw": (codecs.Int8(), head(0, COUNT), bytes(4 * COUNT)),
    "int8": (codecs.Int8(), head(1, COUNT), struct.pack("<f", 1) + bytes(COUNT)),
    "int8-affine": (codecs.Int8(affine=True), head(2, COUNT), struct.pack("<fb", 3e38, 0) + bytes(COUNT)),
    "gaps": (codecs.TopK(), head(3, COUNT), struct.pack("<I", COUNT) + bytes(5 * COUNT)),
    "bitmap": (codecs.TopK(), head(1, COUNT), struct.pack("<I", COUNT) + bytes(4 * COUNT) + b"\xff" * (COUNT // 8)),
    "qsgd": (codecs.QSGD(), head(1, COUNT), struct.pack("<IB", COUNT, 7) + bytes(4 + COUNT // 2)),
    "qsgd-buckets": (codecs.QSGD(), head(1, COUNT), struct.pack("<IB", 1, 127) + bytes(4 * COUNT + COUNT)),
    "terngrad": (codecs.TernGrad(), head(1, COUNT), bytes(4 + COUNT // 4)),
    "1-bit": (codecs.OneBit(), head(1, COUNT), struct.pack("<I", 1) + bytes(8 + COUNT // 8)),
    "1-bit-columns": (codecs.OneBit(), head(1, COUNT), struct.pack("<I", COUNT) + bytes(8 * COUNT + COUNT // 8)),
}


@pytest.mark.parametrize("name", FULL)
def test_a_small_payload_that_unfolds_to_what_is_expected_takes_at_most_twice_its_memory(name: str) -> None:
    codec, shape, body = FULL[name]
    payload = zipped(wire.seal(codec.number, struct.pack("<I", 1), shape, body))
    assert len(payload) <= 100_000
    expected = Expected.like([torch.empty(COUNT, device="meta")])
    assert peak_of(lambda: Zipped(codec).decode(payload, expected)) <= 2 * 4 * COUNT + 64 * MB
    with pytest.raises(ReproError, match="inconsistent"):
        Zipped(codec).decode(zipped(wire.seal(codec.number, struct.pack("<I", 1), shape, body, b"\0")), expected)


# Damage -------------------------------------------------------------------------------------------------------

SMALL = {"conv": normal(3, 2, 3, 3), "bias": normal(5, seed=1), "scalar": torch.tensor(0.5)}
PAYLOADS = {name: encode(name, SMALL) for name in NAMES}


@each_codec
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_mutated_payload_is_one_line_or_tensors_as_expected(name: str, data: st.DataObject) -> None:
    """Damage behind a right checksum, inside the zip where there is one."""
    payload, codec = PAYLOADS[name], build(name)
    inner = codec.inner if isinstance(codec, Zipped) else codec
    content = zlib.decompress(payload[26:])[18:] if isinstance(codec, Zipped) else payload[18:]
    at = data.draw(st.integers(0, len(content)))
    cut = data.draw(st.integers(0, 4))
    content = content[:at] + data.draw(st.binary(max_size=6)) + content[at + cut :]
    damaged = wire.seal(inner.number, content)
    if isinstance(codec, Zipped):
        damaged = zipped(damaged)
    tensors, line = decoded(codec, damaged, Expected.like(SMALL.values()))
    if tensors is None:
        assert line.count("\n") == 0 < len(line)
        return
    assert [(t.dtype, t.shape) for t in tensors] == [(t.dtype, t.shape) for t in SMALL.values()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    again = inner.decode(wire.seal(inner.number, content)) if isinstance(inner, TensorCodec) else tensors
    assert all(torch.equal(a, b) for a, b in zip(tensors, again, strict=True))


@each_codec
def test_any_bytes_in_place_of_a_payload_are_one_line(name: str) -> None:
    random = np.random.default_rng(4)
    for _ in range(50):
        with pytest.raises(ReproError):
            build(name).decode(random.bytes(int(random.integers(200))), Expected.like(SMALL.values()))
