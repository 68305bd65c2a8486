"""What a ledger file is like right now, for those who watch it.

The rule that lives here: asking costs the writer nothing. Sizes come from the file system,
and the count of open reservations from an index that holds nothing else.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bursar.storage.sqlite import connect as opening


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sizes in bytes, times in seconds since the store was opened."""

    reservations_active: int
    file_bytes: int
    wal_bytes: int
    free_bytes: int
    checkpoints: int
    checkpoint_s: float


def gather(path: Path, checkpoints: int, checkpoint_s: float) -> Statistics:
    """Return the statistics of a ledger file.

    Raises:
        StoreError: the file cannot be read.
        OSError: nor can its folder.
    """
    with (
        opening.translated("reading the ledger's statistics"),
        # On its own connection, which cannot create the file if somebody has taken it away.
        closing(opening.connect(path, untouched=True)) as connection,
    ):
        active = _active(connection)
    return Statistics(
        reservations_active=active,
        file_bytes=_size(path),
        wal_bytes=_size(path.with_name(path.name + "-wal")),
        free_bytes=shutil.disk_usage(path.parent).free,
        checkpoints=checkpoints,
        checkpoint_s=checkpoint_s,
    )


def _active(connection: sqlite3.Connection) -> int:
    sql = "SELECT count(*) FROM reservation WHERE status = 'ACTIVE'"
    count: int = connection.execute(sql).fetchone()[0]
    return count


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
