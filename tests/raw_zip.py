"""Archives as no writer makes them: every field says what a test wants it to say."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any


@dataclass
class Entry:
    """A member; what is None is told as it is.

    Attributes:
        at: where the table of contents says that it begins.
        local_name: what its own header calls it.
        written: its packed bytes, when they are others than deflate makes of the content.
    """

    name: bytes
    content: bytes = b""
    method: int = 8
    flags: int = 0
    mode: int = 0
    size: int | None = None
    packed_size: int | None = None
    crc: int | None = None
    at: int | None = None
    extra: bytes = b""
    local_name: bytes | None = None
    written: bytes | None = None

    @property
    def packed(self) -> bytes:
        if self.written is not None:
            return self.written
        if self.method != 8:
            return self.content
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(self.content) + packer.flush()

    def fields(self, name: bytes, extra: bytes) -> tuple[Any, ...]:
        """From the version that is needed to the lengths of name and extra fields."""
        return (
            20,
            self.flags,
            self.method,
            0,
            0x21,
            zlib.crc32(self.content) if self.crc is None else self.crc,
            len(self.packed) if self.packed_size is None else self.packed_size,
            len(self.content) if self.size is None else self.size,
            len(name),
            len(extra),
        )


def raw_zip(*entries: Entry, before: bytes = b"", comment: bytes = b"") -> bytes:
    """The bytes of an archive with these members, in their order."""
    out, table = bytearray(before), bytearray()
    for entry in entries:
        at = len(out) if entry.at is None else entry.at
        name = entry.name if entry.local_name is None else entry.local_name
        if entry.at is None:
            out += struct.pack("<4s5H3L2H", b"PK\x03\x04", *entry.fields(name, b"")) + name
            out += entry.packed
        table += struct.pack(
            "<4sH5H3L2H3H2L",
            b"PK\x01\x02",
            0x0314,
            *entry.fields(entry.name, entry.extra),
            0,
            0,
            0,
            entry.mode << 16,
            at,
        )
        table += entry.name + entry.extra
    n, start = len(entries), len(out)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, n, n, len(table), start, len(comment))
    return bytes(out + table + end + comment)
