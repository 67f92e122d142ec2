"""A shelf of code to test with, and things to put on it."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from atlatl.engine.artifacts import ArtifactShelf
from atlatl.engine.sources import Source
from atlatl.model import Artifact
from atlatl.settings import ArtifactSettings, Settings
from atlatl.stores.memory import MemoryStore

T = TypeVar("T")
Work = Callable[[ArtifactShelf, MemoryStore], Awaitable[T]]
CODE = b"def main():\n    return 1\n"


def on_shelf(directory: Path, work: Work[T], **limits: object) -> T:
    async def run() -> T:
        store = MemoryStore()
        await store.open()
        shelf = ArtifactShelf(directory, Settings(artifacts=ArtifactSettings(**limits)), store)
        await shelf.open()
        try:
            return await work(shelf, store)
        finally:
            await shelf.close()

    return asyncio.run(run())


async def shelved(shelf: ArtifactShelf, store: MemoryStore, source: Source) -> Path:
    await store.put_blob(source.content)
    return await shelf.unpack(artifact_of(source))


def artifact_of(source: Source) -> Artifact:
    return Artifact(
        artifact_id="art",
        version="1",
        checksum=source.checksum,
        filename=source.filename,
        size_bytes=len(source.content),
    )


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            # Of no date: the same files are the same bytes whenever they are packed.
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o600 << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
