"""Opening a ledger file: settings of a connection, ownership, schema, first checks.

The rule that lives here: a file is used only after it proved to be a ledger of a schema
this program knows. A new file is created whole or not at all; an old one is migrated only
when told. Every `sqlite3` error leaves this package as a `StoreError`, in one table.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import IO

from bursar import ids
from bursar.ledger.ports import StoreError, StoreFull, StoreUnusable

APPLICATION_ID = 0x42525352  # "BRSR", so that a foreign SQLite file is recognised
MAGIC = b"SQLite format 3\x00"
BUSY_TIMEOUT_S = 10.0
QUICK_CHECK_MAX_BYTES = 64 * 1024 * 1024


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn what the operating system or SQLite says against a file into `StoreUnusable`."""
    try:
        yield
    except OSError as error:
        name = path.name if error.filename is None else os.path.basename(error.filename)
        raise StoreUnusable(
            f"{path} cannot be used: {name}: {error.strerror}; check the path and its permissions, "
            "or name another --store file"
        ) from error
    except sqlite3.Error as error:
        raise StoreUnusable(
            f"{path} cannot be opened as a ledger: {error}; restore it from a backup, or name "
            "another --store file"
        ) from error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn `sqlite3` errors into `StoreError`s that say what was being done."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        if name == "SQLITE_FULL":
            raise StoreFull(f"{doing}: no space left for the ledger file") from error
        raise StoreError(f"{doing}: {error} ({name})") from error


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection in autocommit mode, ready for WAL and full durability."""
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the store checkpoints off the path
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute("PRAGMA temp_store = MEMORY")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def migrations() -> list[tuple[int, str]]:
    """Return `(version, sql)` of every migration, in order."""
    folder = resources.files("bursar.storage.sqlite.migrations")
    files = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name.split("_")[0]), (folder / name).read_text("utf-8")) for name in files]


def claim(path: Path) -> IO[str]:
    """Take the file for one server; the claim ends with the process, however it ends.

    Raises:
        StoreUnusable: another server has it.
    """
    claimed = open(path.with_name(path.name + ".lock"), "a+", encoding="utf-8")  # noqa: SIM115 - held open for as long as the claim lasts
    try:
        fcntl.flock(claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        claimed.seek(0)
        owner = claimed.read().strip() or "unknown"
        claimed.close()
        raise StoreUnusable(
            f"{path} is in use by another server (process {owner}); stop it first, or give this "
            "one a --store of its own"
        ) from error
    claimed.truncate(0)
    claimed.write(f"{os.getpid()}\n")
    claimed.flush()
    return claimed


def prepare(path: Path, *, create: bool, migrate: bool) -> None:
    """Make sure that `path` is a ledger of the current schema, creating it where allowed.

    Raises:
        StoreUnusable: it is not, and the message says what it is and what to do.
    """
    refuse_impossible(path, create=create)
    # Its owner's alone from the first byte on; SQLite gives its own files the same permissions.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    with path.open("rb") as file:
        if file.read(len(MAGIC)) not in (MAGIC, b""):
            raise StoreUnusable(f"{path} is not a SQLite database; name another --store file")
    connection = connect(path)
    try:
        if _is_blank(connection):
            _migrate(connection)
        _verify(connection, path, migrate)
    finally:
        connection.close()


def refuse_impossible(path: Path, *, create: bool) -> None:
    """Refuse what can never become a ledger here, before anything is touched."""
    if path.is_dir():
        raise StoreUnusable(f"{path} is a directory; name a file, like {path / 'bursar.db'}")
    if not path.parent.is_dir():
        raise StoreUnusable(f"folder {path.parent} does not exist; create it first")
    if not path.exists() and not create:
        raise StoreUnusable(f"{path} does not exist")
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise StoreUnusable(f"{target} is not writable by this user")


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Return whether nothing was ever saved here.

    That is a new file, or one whose creation was cut off: setting the journal mode writes a
    first page, and the ledger comes in the transaction after it.
    """
    marks = [
        connection.execute(f"PRAGMA {mark}").fetchone()[0]
        for mark in ("application_id", "user_version")
    ]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return not any(marks) and not tables


def _migrate(connection: sqlite3.Connection) -> None:
    """Apply every migration that the file lacks, all of them in one transaction.

    The journal mode cannot change inside a transaction and comes first. The version is read
    inside: of several processes that open a new file at once, one creates it.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for number, sql in migrations():
        if number > version:
            for statement in _statements(sql):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
    connection.execute(
        "INSERT OR IGNORE INTO meta (name, value) VALUES ('pepper', ?)", (ids.new_pepper(),)
    )
    connection.execute("COMMIT")


def _statements(sql: str) -> Iterator[str]:
    """Yield the statements of a script; `executescript` would end the transaction first."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _verify(connection: sqlite3.Connection, path: Path, migrate: bool) -> None:
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise StoreUnusable(
            f"{path} is a SQLite database of another program; name another --store file"
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = migrations()[-1][0]
    if version > newest:
        raise StoreUnusable(
            f"{path} has schema {version}, this program knows up to {newest}; use a newer bursar"
        )
    if path.stat().st_size <= QUICK_CHECK_MAX_BYTES:  # seconds on a large file: an audit's job
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise StoreUnusable(f"{path} is corrupt: {damage}; restore it from a backup")
    if version < newest:
        if not migrate:
            raise StoreUnusable(
                f"{path} has schema {version}, this program needs {newest}; back it up and start "
                "once with --migrate"
            )
        _migrate(connection)
    _verify_tables(connection, path)


def _verify_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the tables are there and that every log ends where its head says."""
    if connection.execute("SELECT value FROM meta WHERE name = 'pepper'").fetchone() is None:
        raise StoreUnusable(f"{path} has lost its pepper; restore it from a backup")
    torn = connection.execute(
        "SELECT h.tenant FROM head h LEFT JOIN entry e ON e.tenant = h.tenant AND e.seq = h.seq "
        "WHERE e.entry_hash IS NOT h.entry_hash LIMIT 1"
    ).fetchone()
    if torn is not None:
        raise StoreUnusable(
            f"{path}: the log of tenant {torn[0]} does not end where its head says; restore it "
            "from a backup"
        )
    broken = connection.execute(
        "SELECT tenant, scope, unit FROM budget "
        "WHERE allocated - spent - reserved - debt <> remaining LIMIT 1"
    ).fetchone()
    if broken is not None:
        raise StoreUnusable(
            f"{path}: budget {broken[1]} ({broken[2]}) of tenant {broken[0]} breaks "
            "allocated = remaining + spent + reserved + debt; restore it from a backup"
        )
