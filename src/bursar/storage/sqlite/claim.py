"""One server's claim on a ledger file, and a memory of how much was acknowledged from it.

The rule that lives here: SQLite passes over a write-ahead log that is missing or damaged, and
goes back without a word to what it has. So the claim's file notes, beside the ledger, how many
entries the logs had when answers last went out, and a ledger that comes back shorter is
refused. The note follows each transaction and waits for no disk: it may lag, never lead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from bursar.ledger.ports import StoreUnusable

NOTE_BYTES = 128


class Claim:
    """A ledger file held by this process alone; the hold ends with the process, however."""

    def __init__(self, path: Path) -> None:
        """Take the file.

        Raises:
            StoreUnusable: another server has it.
            OSError: the claim's own file cannot be written.
        """
        self._path = path
        self._file = path.with_name(path.name + ".lock")
        self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        self._noted = _read(self._handle)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            owner = self._noted.get("process", "unknown")
            raise StoreUnusable(
                f"{path} is in use by another server (process {owner}); stop it first, or give "
                "this one a --store of its own"
            ) from error
        self._noted["process"] = os.getpid()
        self._note()
        os.ftruncate(self._handle, NOTE_BYTES)

    def compare(self, ledger: str, entries: int) -> None:
        """Check that nothing is missing from the ledger with this identity.

        Raises:
            StoreUnusable: it has fewer entries than were acknowledged from it.
        """
        missing = self.missing(ledger, entries)
        if missing:
            raise StoreUnusable(
                f"{self._path} lacks {missing} of the {entries + missing} entries that were "
                f"acknowledged: {self._path.name}-wal was removed or damaged, or an older copy "
                f"took its place; put the right files back, or delete {self._file.name} to go on "
                "without those entries"
            )
        self.go_on_from(ledger, entries)

    def missing(self, ledger: str, entries: int) -> int:
        """Return how many entries were acknowledged from this ledger beyond the first `entries`."""
        noted = self._noted.get("entries", 0) if self._noted.get("ledger") == ledger else 0
        return max(0, noted - entries)

    def go_on_from(self, ledger: str, entries: int) -> None:
        """Note that this ledger has so many entries now, though it may have had more."""
        self._noted |= {"ledger": ledger, "entries": entries}
        self._note()

    def acknowledged(self, entries: int) -> None:
        """Note that so many more entries are on disk and about to be answered."""
        self._noted["entries"] += entries
        self._note()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)

    def _note(self) -> None:
        # Always as long, so that each note is one write over the last one.
        line = json.dumps(self._noted).encode().ljust(NOTE_BYTES - 1) + b"\n"
        # A disk that is full even for this line costs a later check, never a request.
        with contextlib.suppress(OSError):
            os.pwrite(self._handle, line, 0)


def _read(handle: int) -> dict[str, Any]:
    """Return what the last owner noted; nothing if it cannot be read."""
    try:
        noted = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) and isinstance(noted.get("entries", 0), int) else {}
