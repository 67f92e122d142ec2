"""Changes to an input, none of which knows what the input means."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

MAX_BYTES = 32_768
"""Longer inputs only take longer; what has to be long stands in the corpus."""

_NUMBER = re.compile(rb"-?[0-9]+")
_NUMBERS = [
    b"0", b"-0", b"-1", b"1", b"255", b"256", b"65535", b"65536", b"2147483648", b"4294967295",
    b"4294967296", b"9007199254740993", b"9223372036854775807", b"18446744073709551616",
    b"1" + b"0" * 40, b"9" * 5000, b"1e308", b"1e999", b"-1e999", b"1e-999", b"0.1", b"NaN",
]  # fmt: skip
_INTEGERS = [0, 1, 2, 7, 8, 15, 16, 127, 128, 255, 256, 4095, 65_535, 65_536, 2**31 - 1, 2**31]
_INTEGERS += [2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
_PAIRS = [(b"[", b"]"), (b"{", b"}"), (b'{"a":', b"}"), (b"(", b")"), (b'"', b'"'), (b"\0", b"")]

Mutate = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def mutated(
    chance: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    """A few changes to `data`.

    Args:
        chance: seeded.
        data: what is changed.
        others: inputs that pieces are taken from.
        words: what the reader of the input looks for.
    """
    out = bytearray(data)
    for _ in range(1 << chance.randrange(5)):
        kind = chance.randrange(4)
        if kind == 0 and words:
            _put(chance, out, chance.choice(words))
        elif kind == 1 and others:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            _put(chance, out, other[start : start + chance.randrange(1, 200)])
        else:
            chance.choice(_MUTATIONS)(chance, out, words)
    return bytes(out[:MAX_BYTES])


def _at(chance: random.Random, out: bytearray) -> int:
    return chance.randrange(len(out) + 1)


def _put(chance: random.Random, out: bytearray, piece: bytes) -> None:
    """Between what is there, or over it."""
    at = _at(chance, out)
    out[at : at + (len(piece) if chance.randrange(2) else 0)] = piece


def _flip(chance: random.Random, out: bytearray, words: Sequence[bytes]) -> None:
    if out:
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)


def _set(chance: random.Random, out: bytearray, words: Sequence[bytes]) -> None:
    if out:
        out[chance.randrange(len(out))] = chance.randrange(256)


def _cut(chance: random.Random, out: bytearray, words: Sequence[bytes]) -> None:
    at = _at(chance, out)
    del out[at : at + chance.randrange(1, 1 << chance.randrange(1, 12))]


def _double(chance: random.Random, out: bytearray, words: Sequence[bytes]) -> None:
    at = _at(chance, out)
    piece = bytes(out[at : at + chance.randrange(1, 64)])
    out[at:at] = piece * chance.choice([1, 1, 2, 10, 1000])
    del out[MAX_BYTES:]


def _nest(chance: random.Random, out: bytearray, words: Sequence[bytes]) -> None:
    opening, closing = chance.choice(_PAIRS)
    depth = chance.choice([1, 2, 100, 1100, 5000])
    start, end = sorted((_at(chance, out), _at(chance, out)))
    out[end:end] = closing * (depth if chance.randrange(4) else 0)
    out[start:start] = opening * depth
    del out[MAX_BYTES:]


def _renumber(chance: random.Random, out: bytearray, words: Sequence[bytes]) -> None:
    found = list(_NUMBER.finditer(out))[:200]
    if found:
        start, end = chance.choice(found).span()
        out[start:end] = chance.choice(_NUMBERS)


def _integer(chance: random.Random, out: bytearray, words: Sequence[bytes]) -> None:
    form = chance.choice("bBhHiIqQ")
    size = struct.calcsize(form)
    number = chance.choice(_INTEGERS) + chance.randrange(-1, 2)
    packed = (number % 2 ** (8 * size)).to_bytes(size, chance.choice(["little", "big"]))
    at = _at(chance, out)
    out[at : at + size] = packed


def _shuffle(chance: random.Random, out: bytearray, words: Sequence[bytes]) -> None:
    separator = chance.choice([b"\n", b",", b"&", b" ", b"\r\n"])
    parts = bytes(out).split(separator)
    if len(parts) > 1:
        chance.shuffle(parts)
        out[:] = separator.join(parts)


_MUTATIONS: list[Mutate] = [
    _flip, _flip, _set, _set, _cut, _cut, _double, _nest, _renumber, _integer, _shuffle,
]  # fmt: skip
