"""What the suite asks of every front, and the form in which it wants the answers.

A further front is one more subclass of `Front` in `tests.contract.fronts.FRONTS`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx

from atlatl.errors import AtlatlError
from tests.contract.fronts.stand import LONG_S, Stand

TERMINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


@dataclass(frozen=True, kw_only=True)
class How:
    """What a caller may say besides the arguments; a front that cannot say it refuses to."""

    execution_id: str = ""
    timeout_ms: int = 0
    max_retries: int | None = None
    priority: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    function: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False
    """Wants an instance of its own."""
    later: bool = False
    """Wants it done in the background: the answer says that it was taken."""
    patience_s: float = LONG_S
    """The caller's own deadline, after which it goes away."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a call was answered."""

    status: str
    """Of the execution: COMPLETED, FAILED, CANCELLED, TIMEOUT, or PENDING when it was taken."""
    told: str
    """The transport's own word: a status of HTTP, or the name of one of gRPC."""
    code: str = ""
    message: str = ""
    value: bytes = b""
    content_type: str = ""
    execution_id: str = ""
    instance_id: str = ""
    cold: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """An execution, looked up."""

    status: str
    code: str = ""
    value: bytes = b""
    logs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A page of a list."""

    ids: list[str]
    after: str
    """Cursor of the next page; empty when this is the last."""


@dataclass(frozen=True, kw_only=True)
class Health:
    status: str
    running: int
    pending: int
    total: int
    """Executions that ended."""
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Stats:
    total: int
    completed: int
    failed: int
    tasks: int


class GaveUp(Exception):
    """The caller's own deadline passed, and it went away."""


class Reading:
    """A stream as its reader has it: the items, then how it ended."""

    def __init__(self, items: AsyncIterator[bytes | Answer]) -> None:
        self._items = items
        self.end: Answer | None = None
        """How it ended; None until all items have been read."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for item in self._items:
            if isinstance(item, Answer):
                self.end = item
                return
            yield item

    async def first(self, n: int) -> list[bytes]:
        """The next `n` items."""
        found: list[bytes] = []
        async for item in self:
            found.append(item)
            if len(found) == n:
                break
        return found


class Front(ABC):
    """One way to the service, and how a client of it asks and reads.

    Args:
        stand: the service behind it.
    """

    name: ClassVar[str]
    can: ClassVar[frozenset[str]] = frozenset()
    """What not every front has: `stream`, `chunks`, and the members of `How` that are named."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand

    @abstractmethod
    async def open(self) -> None: ...
    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def expected(self, leaf: type[AtlatlError], *, streaming: bool = False) -> tuple[str, str]:
        """`told` and `code` of an answer to a call that ends with this error."""

    # --- calls ---

    async def call(self, name: str, value: Any = None, **how: Any) -> Answer:
        """Calls a task.

        Args:
            name: of the task.
            value: a dict is named arguments, None is none; anything else is the whole event.
            how: members of `How`.

        Raises:
            GaveUp: the caller's patience was too short.
        """
        return await self.ask(name, value, self._how(how))

    def begin(self, name: str, value: Any = None, **how: Any) -> asyncio.Task[Answer]:
        """The same in the background; cancelling the task is hanging up."""
        return asyncio.create_task(self.call(name, value, **how))

    async def submit(self, name: str, value: Any = None, **how: Any) -> Answer:
        """Has a task called in the background."""
        return await self.call(name, value, later=True, **how)

    async def ended(self, execution_id: str) -> Record:
        """The record of an execution, when it has ended."""
        while True:
            record = await self.status(execution_id)
            assert record is not None
            if record.status in TERMINAL:
                return record
            await asyncio.sleep(0.01)

    def stream(
        self, name: str, value: Any = None, **how: Any
    ) -> AbstractAsyncContextManager[Reading]:
        """Calls a generator; leaving the context before the end is going away."""
        return self.read(name, value, self._how(how))

    def _how(self, asked: Mapping[str, Any]) -> How:
        how = How(**asked)
        for what in ("priority", "function", "environment", "fresh"):
            assert what in self.can or what not in asked, f"{self.name} has no {what}"
        return how

    @abstractmethod
    async def ask(self, name: str, value: Any, how: How) -> Answer: ...

    def read(self, name: str, value: Any, how: How) -> AbstractAsyncContextManager[Reading]:
        raise NotImplementedError(f"{self.name} has no streams")

    def chunks(self, name: str) -> AbstractAsyncContextManager[httpx.Response]:
        """The answer of a generator to whoever asks for no events."""
        raise NotImplementedError(f"{self.name} has no chunks")

    # --- executions, tasks, figures ---

    @abstractmethod
    async def status(self, execution_id: str) -> Record | None:
        """None when the service does not know it."""

    @abstractmethod
    async def cancel(self, execution_id: str, *, force: bool = False) -> tuple[bool, str]:
        """Whether this stopped it, and its status then; empty when nobody knows it."""

    @abstractmethod
    async def executions(
        self, task: str, *, limit: int, after: str = "", status: str = ""
    ) -> Listed: ...
    @abstractmethod
    async def tasks(self, prefix: str, *, limit: int, after: str = "") -> Listed: ...

    @abstractmethod
    async def create(self, name: str, code: bytes, *, kind: str = "py", token: bool = True) -> str:
        """Has a task made from code; the code of what refused it, empty when it is made.

        Args:
            name: of the task.
            code: its only file.
            kind: of the artifact, `py` or `wasm`.
            token: without it a stranger asks.
        """

    @abstractmethod
    async def delete(self, name: str, *, force: bool = False) -> bool:
        """Whether a task was removed."""

    @abstractmethod
    async def health(self) -> Health: ...
    @abstractmethod
    async def stats(self) -> Stats: ...
