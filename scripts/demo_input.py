"""What the demo feeds to the examples: found on the machine, or made here with a stated seed."""

from __future__ import annotations

import pydoc_data.topics
import random
import struct
import zlib

SEED = 20
CITIES = ("Aarhus", "Bergen", "Cork", "Delft", "Evora")
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def long_text() -> str:
    """The language reference that comes with every Python: some hundred kilobytes of English."""
    return "\n".join(pydoc_data.topics.topics.values())


def readings(count: int) -> list[tuple[str, float]]:
    """Cities and temperatures in degrees Celsius."""
    chance = random.Random(SEED)  # nosec: B311 # the same input each time
    return [
        (city, round(chance.gauss(4.0 * len(city), 6.0), 2))
        for city in (chance.choice(CITIES) for _ in range(count))
    ]


def gradient_png(width: int, height: int) -> bytes:
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            rows += bytes((255 * x // width, 255 * y // height, 128))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(rows))), (b"IEND", b""))
    return SIGNATURE + b"".join(png_chunk(kind, data) for kind, data in parts)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels; (0, 0) of anything that is no PNG."""
    if not content.startswith(SIGNATURE):
        return 0, 0
    width, height = struct.unpack(">II", content[16:24])
    return width, height
