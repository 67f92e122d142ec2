"""What an instance sent, checked before anybody believes it."""

from __future__ import annotations

import pytest

from atlatl.errors import ResultInvalid
from atlatl.model import Result
from atlatl.runtimes import answers
from atlatl_worker import wire


def joined(*items: tuple[str, bytes]) -> Result:
    all_of_them = answers.Joined()
    for kind, body in items:
        all_of_them.add(Result(kind=kind, body=body))
    return all_of_them.result()


@pytest.mark.parametrize(
    ("items", "result"),
    [
        ([], ("json", b"[]")),
        ([("text", b"a"), ("text", b""), ("text", b"b")], ("text", b"ab")),
        ([("text", b"a"), ("bytes", b"\xff")], ("bytes", b"a\xff")),
        ([("json", b"1"), ("text", b'say "x"'), ("text", b"")], ("json", rb'[1,"say \"x\"",""]')),
    ],
)
def test_items_are_joined(items: list[tuple[str, bytes]], result: tuple[str, bytes]) -> None:
    assert joined(*items) == Result(kind=result[0], body=result[1])


def test_bytes_and_json_cannot_be_joined() -> None:
    with pytest.raises(ResultInvalid, match="both bytes and JSON"):
        joined(("bytes", b"a"), ("json", b"1"))


def test_small_items_count_what_is_kept_about_each() -> None:
    items = answers.Joined()
    for body in (b"", b"abc", b"x" * 100):
        items.add(Result(kind="bytes", body=body))
    assert items.n_bytes == 2 * answers.KEPT_BYTES + 100


@pytest.mark.parametrize(
    "meta", [b'{"memory_bytes":-1}', b'{"memory_bytes":1e99}', b'{"memory_bytes":%d}' % 2**60]
)
def test_memory_that_no_machine_has_is_no_answer(meta: bytes) -> None:
    assert answers.told(wire.Frame(wire.REPLY, 1, 0, b'{"memory_bytes":7}', b"")).memory_bytes == 7
    with pytest.raises(wire.WireError, match="metadata"):
        answers.told(wire.Frame(wire.REPLY, 1, 0, meta, b""))


@pytest.mark.parametrize("kind", [wire.CHUNK, wire.REPLY])
def test_text_has_to_be_utf8(kind: int) -> None:
    good = wire.Frame(kind, 1, wire.TEXT, b"", "ü".encode())
    assert answers.item(good) == Result(kind="text", body="ü".encode())
    with pytest.raises(wire.WireError, match="UTF-8"):
        answers.item(good._replace(body=b"\xff"))


@pytest.mark.parametrize("content", [wire.RESPONSE, wire.ERROR])
def test_an_item_is_a_value(content: int) -> None:
    with pytest.raises(wire.WireError, match="no value"):
        answers.item(wire.Frame(wire.CHUNK, 1, content, b"", b"{}"))
