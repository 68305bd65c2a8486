"""Copies of a ledger file, and what is in one, while others may be writing to it.

The rule that lives here: a copy is of one committed state, and the file it is made from is
never changed by it: nothing is checkpointed, created, migrated or tidied up beside it. A
writer does not wait for a copy; it goes on in the write-ahead log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bursar.ledger.ports import StoreUnusable
from bursar.storage.sqlite import connect as opening
from bursar.storage.sqlite.reader import SqliteReader

PAGES_PER_STEP = 1_024  # some four megabytes, after which others get the interpreter
DAMAGE_MAX = 20

Advance = Callable[[int, int], None]
"""Is told pages done and pages in all; what it raises ends the copy."""


@dataclass(frozen=True, slots=True)
class About:
    """What a file says of itself: which ledger, of which schema, with how many entries."""

    ledger: str
    schema: int
    schema_newest: int
    entries: int
    damage: tuple[str, ...]


def snapshot(source: Path, target: Path, advance: Advance = lambda done, total: None) -> None:
    """Copy the newest committed state of a ledger file to `target`, and sync that to disk.

    `target` must not be a file that matters: what is in it is replaced, and it is left half
    done if this fails. It is its owner's alone.

    Raises:
        StoreUnusable: one of the two cannot be used.
        StoreFull: there is no space for the copy.
    """
    with opening.usable(target):
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    opened = _untouched if in_use(source) else _immutable
    with opening.usable(source), closing(opened(source)) as reading:
        # A transaction holds the state still: without it the copy would start over with
        # every commit, and under load it would never end.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        with opening.translated("copying the ledger"), closing(_blank(target)) as writing:
            reading.backup(
                writing,
                pages=PAGES_PER_STEP,
                progress=lambda _, left, total: advance(total - left, total),
                sleep=0,
            )
    with opening.usable(target):
        handle = os.open(target, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def examine(path: Path, *, quiet: bool) -> About:
    """Return what a ledger file says of itself, after SQLite's own check of all its pages.

    Args:
        path: the file.
        quiet: whether nobody has it open; then no lock is taken, and it may lie on a
            medium that cannot be written to.

    Raises:
        StoreUnusable: it is not a ledger, or of a schema that this program does not know.
    """
    with opening.usable(path), closing(_immutable(path) if quiet else _untouched(path)) as reading:
        schema = opening.schema_of(reading, path)
        damage = [
            " ".join(str(row[0]).split())
            for row in reading.execute(f"PRAGMA integrity_check({DAMAGE_MAX})")
            if row[0] != "ok"
        ]
        if reading.execute("SELECT value FROM meta WHERE name = 'pepper'").fetchone() is None:
            raise StoreUnusable(f"{path} has lost its pepper; use another backup")
        ledger, entries = opening.extent(reading)
    return About(ledger, schema, opening.migrations()[-1][0], entries, tuple(damage))


def read_quiet(path: Path) -> SqliteReader:
    """Return a reader of a file that nobody has open, which leaves no trace beside it."""
    return SqliteReader(path, _immutable)


def in_use(path: Path) -> bool:
    """Return whether somebody may have a file open, or a crash has left its newest entries."""
    return any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))


def bring_up_to_date(path: Path) -> None:
    """Migrate a copy to the schema of this program.

    Raises:
        StoreUnusable: it cannot be migrated.
    """
    with opening.usable(path):
        opening.prepare(path, create=False, migrate=True, claim=None)


def _untouched(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise StoreUnusable(f"{path} {what}; name a ledger or a backup of one")
    return opening.connect(path, read_only=True, untouched=True)


def _immutable(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        return _untouched(path)
    return opening.connect(path, read_only=True, untouched=True, immutable=True)


def _blank(path: Path) -> sqlite3.Connection:
    """Return a connection that writes as fast as it can; the file is synced in the end."""
    writing = sqlite3.connect(path, isolation_level=None)
    writing.execute("PRAGMA synchronous = OFF")
    writing.execute("PRAGMA journal_mode = OFF")
    return writing
