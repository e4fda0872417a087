"""What is decoded is what was encoded, to the bit; what is counted is what is sent; damage never gets through."""

import math
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import codecs, models
from repro.codecs import wire
from repro.errors import NotFinite, ReproError
from repro.training.buffers import shared_state

DENSE = codecs.build("dense")
SUBNORMAL = 1e-45  # the smallest positive float32


def encode(*tensors: torch.Tensor) -> bytes:
    return DENSE.encode(DENSE.new_state(), {f"t{k}": tensor for k, tensor in enumerate(tensors)})


def bits(tensor: torch.Tensor) -> tuple:
    """Type, shape and value bits: unlike ``==``, it tells -0.0 from 0.0."""
    return tensor.dtype, tuple(tensor.shape), tensor.detach().contiguous().numpy().tobytes()


def size(*tensors: torch.Tensor) -> int:
    """The published accounting: an envelope of 18 bytes, a count of 4, shapes, and 4 or 8 bytes a value."""
    return 18 + 4 + sum(2 + 4 * t.dim() + t.numel() * {torch.float32: 4, torch.float64: 8}[t.dtype] for t in tensors)


def resealed(content: bytes, codec: int = 1) -> bytes:
    """A payload that is intact on the outside, written from the format's description and not by our code."""
    head = b"RPRO" + struct.pack("<BBQ", 1, codec, len(content))
    return head + struct.pack("<I", zlib.crc32(head + content)) + content


@st.composite
def tensors(draw) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    kind, width = draw(st.sampled_from([(np.float32, 32), (np.float64, 64)]))
    n = math.prod(shape)
    values = draw(st.lists(st.floats(width=width, allow_nan=False, allow_infinity=False), min_size=n, max_size=n))
    return torch.from_numpy(np.array(values, dtype=kind).reshape(shape))


# Round trips --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.lists(tensors(), max_size=4))
def test_decoding_gives_back_every_bit_and_the_size_is_the_published_one(given_: list[torch.Tensor]) -> None:
    payload = encode(*given_)
    assert [bits(tensor) for tensor in DENSE.decode(payload)] == [bits(tensor) for tensor in given_]
    assert len(payload) == size(*given_)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0),
        torch.zeros(3, 0, 2),
        torch.tensor(1.5),
        torch.full((4, 4), 0.1),
        torch.tensor([0.0, -0.0, SUBNORMAL, -SUBNORMAL, 3.4028234e38, -3.4028234e38]),
        torch.full((2, 2), 3.4028234e38),  # the sum overflows, the values do not
        torch.tensor([5e-324, -0.0, 1.7976931348623157e308], dtype=torch.float64),
        torch.linspace(0, 1, 1_000_000),
        torch.nn.Parameter(torch.ones(3)),
    ],
    ids=["empty", "empty-3d", "scalar", "constant", "edges", "overflowing-sum", "float64", "million", "parameter"],
)
def test_special_values_survive(tensor: torch.Tensor) -> None:
    (decoded,) = DENSE.decode(encode(tensor))
    assert bits(decoded) == bits(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_layout_in_memory_does_not_matter(dtype: torch.dtype) -> None:
    x = torch.arange(120, dtype=dtype).reshape(2, 3, 4, 5)
    views = [x.to(memory_format=torch.channels_last), x.transpose(0, 3), x[:, ::2], x[..., 1], x.expand(2, 3, 4, 5)]
    for view in views:
        (decoded,) = DENSE.decode(encode(view))
        assert bits(decoded) == bits(view)
        assert torch.equal(decoded, view)
    assert encode(views[0]) == encode(x)


def test_what_is_decoded_may_be_changed_without_changing_the_payload() -> None:
    payload = encode(torch.ones(3))
    DENSE.decode(payload)[0].add_(1)
    assert torch.equal(DENSE.decode(payload)[0], torch.ones(3))


def test_a_network_costs_its_parameters_and_statistics() -> None:
    """ResNet18 at width 4: the bytes that one worker of post 1 sends in a round, by hand from the layer list."""
    net = models.build("resnet18", classes=10, width=4)
    state = shared_state(net)
    payload = DENSE.encode(None, state)
    assert len(payload) == size(*state.values())
    channels = [4, *[c for w in (4, 8, 16, 32) for c in (w, w, w, w)], 8, 16, 32]  # every norm layer's channels
    convolutions, linear = 20, 10 * 32 + 10
    weights = sum(p.numel() for name, p in net.named_parameters() if p.dim() == 4) + 2 * sum(channels) + linear
    shapes = convolutions * 18 + 10 + 6 + len(channels) * 4 * 6
    assert len(payload) == 18 + 4 + shapes + 4 * (weights + 2 * sum(channels))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=3), st.integers(0, 2**32 - 1))
def test_the_length_depends_on_shapes_only(shapes: list[list[int]], seed: int) -> None:
    assert DENSE.fixed_size
    random = torch.Generator().manual_seed(seed)
    zeros, noise = [torch.zeros(s) for s in shapes], [1e30 * torch.randn(s, generator=random) for s in shapes]
    assert len(encode(*zeros)) == len(encode(*noise))


def test_names_are_not_sent() -> None:
    assert DENSE.encode(None, {"a": torch.ones(2)}) == DENSE.encode(None, {"a much longer name": torch.ones(2)})


def test_the_wire_format_is_the_documented_one() -> None:
    content = struct.pack("<IBBII", 1, 0, 2, 1, 2) + struct.pack("<ff", 1.5, -2.0)
    assert encode(torch.tensor([[1.5, -2.0]])) == resealed(content)


# Refusals -----------------------------------------------------------------------------------------------------


def says(error: pytest.ExceptionInfo) -> str:
    line = str(error.value)
    assert line
    assert "\n" not in line
    return line


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0, 5])
def test_a_value_that_is_not_finite_is_refused_by_name(bad: float, dtype: torch.dtype, place: int) -> None:
    tensor = torch.ones(6, dtype=dtype)
    tensor[place] = bad
    with pytest.raises(NotFinite, match=r"tensor gradient of stem\.weight holds NaN or infinity") as error:
        DENSE.encode(None, {"fine": torch.ones(2), "gradient of stem.weight": tensor})
    says(error)


def test_infinities_that_cancel_are_refused() -> None:
    with pytest.raises(NotFinite):
        encode(torch.tensor([math.inf, -math.inf]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16, torch.float16, torch.bool, torch.complex64])
def test_a_type_the_codec_does_not_send_is_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(ReproError, match=r"tensor count is torch.* float32 or float64 was expected") as error:
        DENSE.encode(None, {"count": torch.ones(2).to(dtype)})
    says(error)


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ReproError, match="unknown codec 'fax'; dense"):
        codecs.build("fax")


PAYLOAD = encode(
    torch.arange(6.0).reshape(2, 3), torch.tensor(1.5), torch.zeros(0, 4), torch.ones(3, dtype=torch.float64)
)


def test_every_truncation_is_refused() -> None:
    for length in range(len(PAYLOAD)):
        with pytest.raises(ReproError) as error:
            DENSE.decode(PAYLOAD[:length])
        says(error)


def test_every_appended_tail_is_refused() -> None:
    for tail in (b"\x00", b"RPRO", PAYLOAD):
        with pytest.raises(ReproError):
            DENSE.decode(PAYLOAD + tail)


def test_every_flipped_bit_is_refused() -> None:
    for place in range(len(PAYLOAD)):
        for bit in range(8):
            damaged = bytearray(PAYLOAD)
            damaged[place] ^= 1 << bit
            with pytest.raises(ReproError) as error:
                DENSE.decode(bytes(damaged))
            says(error)


def test_every_changed_burst_is_refused() -> None:
    random = np.random.default_rng(1)
    for _ in range(1000):
        damaged, place = bytearray(PAYLOAD), int(random.integers(len(PAYLOAD) - 4))
        damaged[place : place + 4] = random.bytes(4)
        if bytes(damaged) != PAYLOAD:
            with pytest.raises(ReproError):
                DENSE.decode(bytes(damaged))


@pytest.mark.parametrize(
    "payload",
    [b"", b"RPRO", b"\x89PNG\r\n\x1a\n" + bytes(40), bytes(100), b"PK" + bytes(60), resealed(b"\0" * 4, codec=2)],
    ids=["empty", "magic", "png", "zeros", "zip", "other-codec"],
)
def test_a_foreign_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(ReproError) as error:
        DENSE.decode(payload)
    says(error)


def test_another_version_of_the_envelope_is_refused() -> None:
    head = b"RPRO" + struct.pack("<BBQ", 2, 1, 4)
    with pytest.raises(ReproError, match="version 2, codec 1; b'RPRO', version 1, codec 1 were expected"):
        DENSE.decode(head + struct.pack("<I", zlib.crc32(head + bytes(4))) + bytes(4))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<I", 1),
        struct.pack("<I", 2**32 - 1),
        struct.pack("<IBBI", 1, 2, 1, 1) + bytes(4),  # no such type
        struct.pack("<IBBI", 1, 0, 1, 2) + bytes(4),  # fewer values than the shape
        struct.pack("<IBBI", 1, 0, 1, 0) + bytes(4),  # more values than the shape
        struct.pack("<IBBIIII", 1, 0, 4, *[2**32 - 1] * 4),  # a size that overflows 64 bits
        struct.pack("<IBBII", 1, 0, 2, 2**32 - 1, 2**32 - 1) + bytes(64),
        struct.pack("<IBB", 1, 0, 255) + struct.pack("<255I", *[1] * 255) + bytes(4),  # more dimensions than fit
        struct.pack("<IBB", 1, 0, 255),
    ],
)  # fmt: skip
def test_content_that_is_intact_but_makes_no_sense_is_refused(content: bytes) -> None:
    with pytest.raises(ReproError) as error:
        DENSE.decode(resealed(content))
    says(error)


def test_no_content_gets_past_the_one_error() -> None:
    """Mutated content behind a right checksum decodes to something or raises ReproError, and never anything else."""
    random = np.random.default_rng(2)
    refused = 0
    for _ in range(3000):
        content = bytearray(PAYLOAD[wire.OVERHEAD :])
        for _ in range(int(random.integers(1, 4))):
            content[int(random.integers(min(len(content), 34)))] = int(random.integers(256))
        content = content[: int(random.integers(len(content) + 1))] if random.random() < 0.2 else content
        try:
            DENSE.decode(resealed(bytes(content)))
        except ReproError:
            refused += 1
    assert refused > 1000


def test_an_envelope_is_18_bytes_and_gives_back_its_content() -> None:
    assert wire.OVERHEAD == 18
    for content in (b"", b"\x00", b"content"):
        assert wire.seal(7, content) == resealed(content, codec=7)
        assert bytes(wire.unseal(7, wire.seal(7, content))) == content
