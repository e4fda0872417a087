"""The envelope of every payload: what it is, how long, and a checksum. All numbers are little-endian.

======  =====  ==========================================
offset  bytes  content
======  =====  ==========================================
0       4      ``RPRO``
4       1      version of this envelope
5       1      codec number
6       8      length of what follows the envelope
14      4      CRC-32 of bytes 0 to 13 and what follows
======  =====  ==========================================
"""

from __future__ import annotations

import struct
import zlib

from repro.errors import ReproError

VERSION = 1
_HEAD = struct.Struct("<4sBBQ")
_CRC = struct.Struct("<I")
OVERHEAD = _HEAD.size + _CRC.size


def seal(codec: int, *content: bytes | memoryview) -> bytes:
    """Put the parts ``content`` of codec number ``codec``, one after the other, into an envelope."""
    head = _HEAD.pack(b"RPRO", VERSION, codec, sum(memoryview(part).nbytes for part in content))
    crc = zlib.crc32(head)
    for part in content:
        crc = zlib.crc32(part, crc)
    return b"".join([head, _CRC.pack(crc), *content])


def unseal(codec: int, payload: bytes | memoryview) -> memoryview:
    """The content of a payload of codec number ``codec``.

    Raises:
        ReproError: truncated, damaged, foreign, or of another version or codec.
    """
    if len(payload) < OVERHEAD:
        raise ReproError(
            f"payload of {len(payload)} bytes is truncated; at least {OVERHEAD} were expected; send it again"
        )
    magic, version, number, length = _HEAD.unpack_from(payload)
    if magic != b"RPRO" or version != VERSION or number != codec:
        raise ReproError(
            f"payload is foreign: magic {magic!r}, version {version}, codec {number}; "
            f"b'RPRO', version {VERSION}, codec {codec} were expected; decode it with the codec that made it"
        )
    content = memoryview(payload)[OVERHEAD:]
    if length != len(content):
        raise ReproError(f"payload holds {len(content)} bytes of content; {length} were expected; send it again")
    if zlib.crc32(content, zlib.crc32(payload[: _HEAD.size])) != _CRC.unpack_from(payload, _HEAD.size)[0]:
        raise ReproError("payload is damaged: its checksum does not match its content; send it again")
    return content
