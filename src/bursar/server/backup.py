"""A backup over HTTP: one committed state of the ledger, streamed with its digest.

The rule that lives here: the write path does not wait for a backup. The copy is made on a
worker thread from a state that is held still, beside the ledger, and only then sent, so that
a slow receiver holds nothing up either. One is made at a time. This route is our own; the
published protocol has none.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO

from starlette.types import Receive, Scope, Send

from bursar.server.respond import HttpError
from bursar.storage.sqlite.snapshot import snapshot
from bursar.vocabulary import ErrorCode

PATH = "/v1/admin/backup"
CHUNK_BYTES = 1024 * 1024
SEND_WITHIN_S = 60
SPARE_BYTES = 64 * 1024 * 1024  # what a backup must leave to the ledger itself
RETRY_AFTER_S = 5


class Abandoned(Exception):
    """Nobody waits for this copy any more."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy: an open file that has no name any more, its size and digest."""

    file: BinaryIO
    size: int
    sha256: bytes


class Backup:
    """Makes and sends backups of one ledger file, one at a time."""

    def __init__(self, store: Path) -> None:
        """Back up the file `store`."""
        self._store = store
        self._busy = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the operator's."""
        if self._busy:
            raise HttpError(
                429,
                ErrorCode.LIMIT_EXCEEDED,
                "Another backup is being made; send the same request again when it is done",
                {"retry-after": str(RETRY_AFTER_S)},
            )
        self._busy = True
        try:
            copy = await self._made()
            with closing(copy.file):
                await _send(copy, send)
        finally:
            self._busy = False

    async def _made(self) -> Copy:
        """Make a copy on a thread; when the request is given up, so is the copy."""
        abandoned = Event()
        try:
            return await asyncio.to_thread(self._make, abandoned)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    def _make(self, abandoned: Event) -> Copy:
        self._check_space()

        def advance(done: int, total: int) -> None:
            del done, total
            if abandoned.is_set():
                raise Abandoned

        with self._scratch() as path:
            snapshot(self._store, path, advance)
            file = path.open("rb")  # it goes on to be readable when its name is gone
        try:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            return Copy(file, os.fstat(file.fileno()).st_size, digest)
        except BaseException:
            file.close()
            raise

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Give the name of a new private file beside the ledger, and take it away again.

        What a killed server left of an earlier backup goes first.
        """
        prefix = f"{self._store.name}.backup-"
        for left in self._store.parent.glob(f"{prefix}*"):
            left.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(prefix=prefix, dir=self._store.parent)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    def _check_space(self) -> None:
        needed = self._store.stat().st_size + SPARE_BYTES
        log = self._store.with_name(self._store.name + "-wal")
        if log.exists():
            needed += log.stat().st_size
        free = shutil.disk_usage(self._store.parent).free
        if free < needed:
            raise HttpError(
                507,
                ErrorCode.INTERNAL_ERROR,
                f"A backup needs {needed:,} bytes free beside the ledger, and there are {free:,}; "
                "free space, then send the same request again. Nothing was changed",
            )


async def _send(copy: Copy, send: Send) -> None:
    headers = [
        (b"content-type", b"application/vnd.sqlite3"),
        (b"content-length", b"%d" % copy.size),
        (b"repr-digest", b"sha-256=:%b:" % base64.b64encode(copy.sha256)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while chunk := await asyncio.to_thread(copy.file.read, CHUNK_BYTES):
        async with asyncio.timeout(SEND_WITHIN_S):  # a receiver that takes nothing is gone
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
