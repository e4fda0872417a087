"""What tests of codecs have in common: codecs made from the registry, tensors, and payloads written by hand."""

import inspect
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from repro import codecs
from repro.codecs import Zipped
from repro.codecs.base import REGISTERED


def everything(name: str, tensor: torch.Tensor) -> bool:
    return True


OPTIONS = {"threshold": {"threshold": 0.5}, "top-k": {"sparsity": 0.5}, "top-k-residual": {"sparsity": 0.5}}


def of_all_values(name: str, **options: Any) -> Callable[[], Any]:
    """Makes a codec that compresses whatever it is given, where it can choose."""
    takes = inspect.signature(REGISTERED[name].make).parameters
    chosen = {"chosen": everything} if "chosen" in takes else {}
    return lambda: codecs.build(name, **(OPTIONS.get(name, {}) | chosen | options))


MAKERS = {name: of_all_values(name) for name in codecs.NAMES} | {
    "qsgd-1": of_all_values("qsgd", levels=1, bucket=3),
    "qsgd-127": of_all_values("qsgd", levels=127),
    "terngrad-clipped": of_all_values("terngrad", clip=2.5),
}
"""Every registered codec, and some with other options, alone and zipped."""
MAKERS |= {f"{name}+zip": lambda make=make: Zipped(make()) for name, make in list(MAKERS.items())}
each_codec = pytest.mark.parametrize("name", MAKERS)
NAMES = [name + wrapper for name in codecs.NAMES for wrapper in ("", *(n for n in REGISTERED if n.startswith("+")))]
"""Every registered codec, alone and wrapped, by the name that a run gives it."""


def built(name: str) -> Any:
    """The codec of a name, which chooses for itself what it compresses."""
    return codecs.build(name, **OPTIONS.get(name.partition("+")[0], {}))


SUBNORMAL, GREATEST = 1e-45, 3.4028234663852886e38


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def send(codec, tensor: torch.Tensor, state=None) -> torch.Tensor:
    return codec.decode(codec.encode(codec.new_state(1) if state is None else state, {"t": tensor}))[0]


def body(payload: bytes, tensor: torch.Tensor) -> bytes:
    """Of a message of one tensor: what follows envelope, count, and head."""
    return payload[18 + 4 + 3 + 4 * tensor.dim() :]


def heads(*tensors: torch.Tensor) -> int:
    return 18 + 4 + sum(3 + 4 * tensor.dim() for tensor in tensors)


def resealed(content: bytes, codec: int) -> bytes:
    """A payload that is intact on the outside, written from the format's description and not by our code."""
    head = b"RPRO" + struct.pack("<BBQ", 1, codec, len(content))
    return head + struct.pack("<I", zlib.crc32(head + content)) + content


def says(error: pytest.ExceptionInfo) -> str:
    line = str(error.value)
    assert line
    assert "\n" not in line
    return line


def arrays(dtype=np.float32, *, least: int = 0, most: int = 40):
    """Vectors of any finite numbers, subnormal and huge ones among them."""
    width = 8 * np.dtype(dtype).itemsize
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    near = st.floats(-1, 1, width=width)
    return st.one_of(
        st.lists(numbers, min_size=least, max_size=most), st.lists(near, min_size=least, max_size=most)
    ).map(lambda values: torch.from_numpy(np.array(values, dtype)))


def leb128(gap: int) -> bytes:
    """The textbook's variable-length number."""
    out = []
    while gap >= 128:
        out.append(gap % 128 + 128)
        gap //= 128
    return bytes([*out, gap])


def sparse_size(tensor: torch.Tensor, item: int) -> int:
    """Bytes of a sparse body, from what was received."""
    places = np.flatnonzero(tensor.numpy().ravel())
    gaps = sum(len(leb128(int(gap) - 1)) for gap in np.diff(places, prepend=-1))
    return 4 + item * len(places) + min(gaps, -(-tensor.numel() // 8))
