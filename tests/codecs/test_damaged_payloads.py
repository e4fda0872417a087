"""No bytes whatever get past the one error; names and settings that make no sense do not, either."""

import math
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from messages import normal, resealed, says

from repro import codecs
from repro.codecs import DGC, QSGD, Int8, OneBit, TernGrad, Threshold, TopK, Zipped
from repro.errors import ReproError


@pytest.mark.parametrize("name", [*codecs.NAMES, *(f"{name}+zip" for name in codecs.NAMES)])
def test_every_name_builds_a_codec(name: str) -> None:
    codec = codecs.build(name, threshold=1.0) if name.startswith("threshold") else codecs.build(name)
    payload = codec.encode(codec.new_state(), {"stem.weight": normal(4, 3, 3, 3)})
    assert codec.decode(payload)[0].shape == (4, 3, 3, 3)
    assert isinstance(codec, Zipped) == name.endswith("+zip")


@pytest.mark.parametrize("name", ["zip", "+zip", "int8+", "int8+zip+zip", "int8+gzip", "INT8", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ReproError, match=r"unknown codec .*dense, int8.*was expected") as error:
        codecs.build(name)
    says(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: codecs.build("int8", levels=3),
        lambda: codecs.build("int8", level=3),
        lambda: codecs.build("threshold"),
        lambda: TopK(1.0),
        lambda: TopK(-0.1),
        lambda: TopK(math.nan),
        lambda: Threshold(0.0),
        lambda: Threshold(math.nan),
        lambda: DGC(momentum=1.0),
        lambda: DGC(clip=0.0),
        lambda: DGC(clip=1.0, workers=0),
        lambda: DGC(sparsity=[]),
        lambda: DGC(sparsity=[0.9, 1.0]),
        lambda: QSGD(levels=0),
        lambda: QSGD(levels=128),
        lambda: QSGD(bucket=0),
        lambda: TernGrad(clip=-1.0),
    ],
)
def test_impossible_settings_are_refused(make) -> None:
    with pytest.raises(ReproError) as error:
        make()
    says(error)


MESSAGE = {
    "conv": normal(3, 2, 3, 3).to(memory_format=torch.channels_last),
    "vector": normal(5, seed=1),
    "scalar": torch.tensor(0.5),
    "empty": torch.zeros(0, 4),
    "double": normal(2, 3, seed=2, dtype=torch.float64),
}


def some(name: str, tensor: torch.Tensor) -> bool:
    return name != "vector"


FUZZED = {
    "int8": (Int8(chosen=some), 2),
    "int8-affine": (Int8(affine=True, chosen=some), 2),
    "top-k": (TopK(0.5, chosen=some), 4),
    "top-k-gaps": (TopK(0.95, chosen=some), 4),
    "threshold": (Threshold(0.5, chosen=some), 5),
    "dgc": (DGC(chosen=some), 6),
    "qsgd": (QSGD(chosen=some), 7),
    "terngrad": (TernGrad(chosen=some), 8),
    "1-bit": (OneBit(chosen=some), 9),
    "dense": (codecs.Dense(), 1),
}
FUZZED |= {"zip": (Zipped(Int8(chosen=some)), 3), "zip-dgc": (Zipped(DGC(chosen=some)), 3)}
PAYLOADS = {name: codec.encode(codec.new_state(1), MESSAGE) for name, (codec, _) in FUZZED.items()}
each_payload = pytest.mark.parametrize("name", PAYLOADS)


@each_payload
def test_every_truncation_and_every_tail_is_refused(name: str) -> None:
    payload, codec = PAYLOADS[name], FUZZED[name][0]
    for damaged in [payload[:length] for length in range(len(payload))] + [payload + b"\0", payload + payload]:
        with pytest.raises(ReproError) as error:
            codec.decode(damaged)
        says(error)


@each_payload
def test_every_flipped_bit_is_refused(name: str) -> None:
    payload, codec = PAYLOADS[name], FUZZED[name][0]
    for place in range(len(payload)):
        for bit in range(8):
            damaged = bytearray(payload)
            damaged[place] ^= 1 << bit
            with pytest.raises(ReproError):
                codec.decode(bytes(damaged))


@each_payload
def test_payloads_of_other_codecs_are_refused(name: str) -> None:
    codec, number = FUZZED[name]
    others = [payload for other, payload in PAYLOADS.items() if FUZZED[other][1] != number]
    for foreign in [*others, b"", b"RPRO", b"\x89PNG\r\n\x1a\n" + bytes(40), b"PK" + bytes(60)]:
        with pytest.raises(ReproError) as error:
            codec.decode(foreign)
        says(error)


def mutated(content: bytes, random: np.random.Generator, donors: list[bytes]) -> bytes:
    """``content`` after one to three accidents."""
    out = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        kind = random.integers(8)
        at = int(random.integers(len(out))) if out else 0
        near = int(random.integers(min(len(out), 60))) if out else 0
        if kind == 0 and out:
            out[at] ^= 1 << int(random.integers(8))
        elif kind == 1 and out:
            out[near] = int(random.integers(256))
        elif kind == 2 and out:
            out[near] = (0, 1, 127, 128, 254, 255)[int(random.integers(6))]
        elif kind == 3:
            out[near : near + 4] = struct.pack("<I", (0, 1, 2**16, 2**28, 2**31, 2**32 - 1)[int(random.integers(6))])
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            out[at:at] = random.bytes(int(random.integers(1, 9)))
        elif kind == 6:
            donor = donors[int(random.integers(len(donors)))]
            start = int(random.integers(len(donor)))
            part = donor[start : start + int(random.integers(1, 40))]
            out[at : at + len(part)] = part
        else:
            at, to = sorted(int(x) for x in random.integers(len(out) + 1, size=2))
            del out[at:to]
    return bytes(out)


def decoded(codec, payload: bytes) -> tuple[list[torch.Tensor] | None, str]:
    try:
        return codec.decode(payload), ""
    except ReproError as error:
        return None, str(error)


def announced(content: bytes, number: int) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Types and shapes in the heads of a message, read from the format's description and not by our code."""
    (count,), at, found = struct.unpack_from("<I", content), 4, []
    for _ in range(count):
        form, dimensions = content[at : at + 2] if number == 1 else content[at + 1 : at + 3]
        at += 2 if number == 1 else 3
        found.append((torch.float64 if form & 1 else torch.float32, struct.unpack_from(f"<{dimensions}I", content, at)))
        at += 4 * dimensions
    return found


def test_no_mutated_payload_gets_past_the_one_error() -> None:
    """108 000 payloads, three quarters of them with a right checksum around the damage, so that parsers meet it.

    Each is refused with one line, or is a payload in its own right: then it decodes to tensors of the types and shapes
    that its heads announce, and every value is finite (looked at in tensors of up to a million).
    """
    random, tried, refused = np.random.default_rng(3), 0, 0
    contents = [payload[18:] for payload in PAYLOADS.values()]
    for name, (codec, number) in FUZZED.items():
        payload = PAYLOADS[name]
        for k in range(9000):
            if k % 4 == 0:
                damaged = mutated(payload, random, contents)
                if damaged == payload:
                    continue
            elif name.startswith("zip") and k % 4 == 1:  # damage inside the zip, and seals around everything
                inner = mutated(zlib.decompress(payload[26:])[18:], random, contents)
                inner = resealed(inner, codec.inner.number)
                damaged = resealed(struct.pack("<Q", len(inner)) + zlib.compress(inner, 1), number)
            else:
                damaged = resealed(mutated(payload[18:], random, contents), number)
            tried += 1
            tensors, line = decoded(codec, damaged)
            if tensors is None:
                refused += 1
                assert line.count("\n") == 0 < len(line)
                continue
            assert k % 4, "a damaged payload with its old checksum was accepted"
            content = zlib.decompress(damaged[26:])[18:] if number == 3 else damaged[18:]
            inner_number = codec.inner.number if number == 3 else number
            assert [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors] == announced(content, inner_number), name
            assert all(torch.isfinite(tensor).all() for tensor in tensors if tensor.numel() <= 10**6), name
    assert tried > 100_000
    assert 0.6 * tried < refused < 0.95 * tried


def bombs() -> dict[str, tuple]:
    """By name, a codec and content for it."""

    def head(coding: int, *shape: int, form: int = 0) -> bytes:
        return struct.pack(f"<BBB{len(shape)}I", coding, form, len(shape), *shape)

    one, top = struct.pack("<I", 1), TopK()
    most = 2**32 - 1
    inner = PAYLOADS["int8"]
    long = zlib.compress(bytes(20_000_000), 1)
    return {
        "tensors": (top, struct.pack("<I", most)),
        "sparse": (top, one + head(3, most, most) + struct.pack("<If", 0, 0)),
        "just-too-many": (top, one + head(3, 2**28 + 1) + struct.pack("<I", 0)),
        "together": (top, struct.pack("<I", 3) + head(3, 2**27) * 3 + struct.pack("<I", 0) * 3),
        "overflow": (top, one + head(3, *[2**16] * 4) + struct.pack("<I", 0)),
        "hidden-by-a-zero": (top, one + head(3, most, most, most, 0, form=2) + struct.pack("<I", 0)),
        "more-values-than-fit": (top, one + head(3, 5) + struct.pack("<I", most)),
        "no-gaps": (top, one + head(3, 5) + struct.pack("<If", 1, 1.0)),
        "a-gap-too-few": (top, one + head(3, 5) + struct.pack("<Iff", 2, 1.0, 1.0) + b"\x01"),
        "a-gap-too-many": (top, one + head(3, 5) + struct.pack("<If", 1, 1.0) + b"\x01\x01"),
        "a-gap-of-nothing": (top, one + head(3, 5) + struct.pack("<I", 0) + b"\x01"),
        "a-place-outside": (top, one + head(3, 5) + struct.pack("<If", 1, 1.0) + b"\x05"),
        "a-gap-too-long": (top, one + head(3, 2**20) + struct.pack("<If", 1, 1.0) + b"\x80\x80\x80\x80\x00"),
        "a-first-gap-too-long": (
            top, one + head(3, 2**20) + struct.pack("<Iff", 2, 1.0, 1.0) + b"\x80\x80\x80\x80\x01\x00"
        ),
        "a-gap-with-a-zero-group": (top, one + head(3, 2**20) + struct.pack("<If", 1, 1.0) + b"\x80\x00"),
        "a-gap-that-does-not-end": (top, one + head(3, 2**20) + struct.pack("<If", 1, 1.0) + b"\x80"),
        "gaps-of-the-first-version": (top, one + head(2, 5) + struct.pack("<IfI", 1, 1.0, 1) + b"\x00"),
        "a-bitmap-of-too-many": (top, one + head(1, 8) + struct.pack("<If", 1, 1.0) + b"\xc0"),
        "a-bitmap-beyond-the-end": (top, one + head(1, 4) + struct.pack("<If", 1, 1.0) + b"\x08"),
        "nan": (top, one + head(3, 5) + struct.pack("<If", 1, math.nan) + b"\x00"),
        "no-such-coding": (top, one + head(4, 5) + struct.pack("<I", 0)),
        "no-such-form": (top, one + head(3, 5, form=4) + struct.pack("<I", 0)),
        "channels-last-vector": (top, one + head(3, 5, form=2) + struct.pack("<I", 0)),
        "dimensions": (top, one + head(3, *[1] * 33) + struct.pack("<I", 0)),
        "raw": (top, one + head(0, 2**27) + bytes(8)),
        "int8": (Int8(), one + head(1, 2**27) + bytes(8)),
        "int8-scale-zero": (Int8(), one + head(1, 1) + struct.pack("<fb", 0.0, 1)),
        "int8-scale-negative": (Int8(), one + head(1, 1) + struct.pack("<fb", -1.0, 1)),
        "int8-scale-infinite": (Int8(), one + head(1, 1) + struct.pack("<fb", math.inf, 1)),
        "int8-level": (Int8(), one + head(1, 1) + struct.pack("<fb", 1.0, -128)),
        "terngrad": (TernGrad(), one + head(1, 2**28) + struct.pack("<f", 1.0)),
        "terngrad-code": (TernGrad(), one + head(1, 1) + struct.pack("<fB", 1.0, 3)),
        "terngrad-padding": (TernGrad(), one + head(1, 1) + struct.pack("<fB", 1.0, 4)),
        "qsgd-no-bucket": (QSGD(), one + head(1, 4) + struct.pack("<IB", 0, 7)),
        "qsgd-bucket": (QSGD(), one + head(1, 1) + struct.pack("<IBfB", most, 7, 1.0, 7)),
        "qsgd-no-levels": (QSGD(), one + head(1, 4) + struct.pack("<IB", 4, 0)),
        "qsgd-code": (QSGD(), one + head(1, 1) + struct.pack("<IBfB", 1, 7, 1.0, 15)),
        "1-bit-padding": (OneBit(), one + head(1, 1) + struct.pack("<IffB", 1, 0.0, 1.0, 1)),
        "1-bit-columns": (OneBit(), one + head(1, 4) + struct.pack("<I", 3)),
        "1-bit-no-columns": (OneBit(), one + head(1, 4) + struct.pack("<IB", 0, 0)),
        "1-bit-columns-of-nothing": (OneBit(), one + head(1, 0) + struct.pack("<I", most)),
        "dense-nan": (codecs.Dense(), one + struct.pack("<BBIf", 0, 1, 1, math.nan)),
        "dense-infinity": (codecs.Dense(), one + struct.pack("<BBId", 1, 1, 1, -math.inf)),
        "dense-type": (codecs.Dense(), one + struct.pack("<BBIf", 2, 1, 1, 0.0)),
        "dense-hidden-by-a-zero": (codecs.Dense(), one + struct.pack("<BB3I", 0, 3, most, most, 0)),
        "dense-dimensions": (codecs.Dense(), one + struct.pack("<BB33If", 0, 33, *[1] * 33, 0.0)),
        "dense-is-cut": (codecs.Dense(), one + struct.pack("<BBIf", 0, 1, 2, 0.0)),
        "zip-claims": (Zipped(Int8()), struct.pack("<Q", 2**62) + zlib.compress(inner)),
        "zip-expands": (Zipped(Int8()), struct.pack("<Q", len(inner)) + long),
        "zip-claims-nothing": (Zipped(Int8()), struct.pack("<Q", 0) + long),
        "zip-claims-too-little": (Zipped(Int8()), struct.pack("<Q", len(inner) - 1) + zlib.compress(inner)),
        "zip-has-a-tail": (Zipped(Int8()), struct.pack("<Q", len(inner)) + zlib.compress(inner) + b"\0"),
        "zip-is-cut": (Zipped(Int8()), struct.pack("<Q", len(inner)) + zlib.compress(inner)[:-1]),
        "zip-is-empty": (Zipped(Int8()), b""),
    }  # fmt: skip


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_content_that_is_intact_but_makes_no_sense_is_refused_without_making_room_for_it(name: str) -> None:
    codec, content = BOMBS[name]
    payload = resealed(content, codec.number)
    tracemalloc.start()
    try:
        with pytest.raises(ReproError, match="inconsistent") as error:
            codec.decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 300_000 + 2 * len(payload)
    finally:
        tracemalloc.stop()
    says(error)
