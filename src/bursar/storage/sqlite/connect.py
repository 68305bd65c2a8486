"""Opening a ledger file: settings of a connection, ownership, schema, first checks.

The rule that lives here: a file is used only after it proved to be a ledger of a schema
this program knows. A new file is created whole or not at all; an old one is migrated only
when told. Every `sqlite3` error leaves this package as a `StoreError`, in one table.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from bursar import ids
from bursar.ledger.ports import StoreError, StoreFull, StoreUnusable
from bursar.storage.sqlite.claim import Claim

APPLICATION_ID = 0x42525352  # "BRSR", so that a foreign SQLite file is recognised
BUSY_TIMEOUT_S = 5.0
PAGE_BYTES_MIN = 512  # of any SQLite database
# The module fails to decode SQLite's own message where that quotes text that a fault has damaged.
DAMAGED = (sqlite3.Error, UnicodeDecodeError)
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
            "or name another file"
        ) from error
    except DAMAGED as error:
        if getattr(error, "sqlite_errorname", None) == "SQLITE_NOTADB":
            raise StoreUnusable(f"{path} is not a SQLite database; name another file") from error
        raise StoreUnusable(
            f"{path} cannot be opened as a ledger: {error}; restore it from a backup, or name "
            "another file"
        ) from error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn `sqlite3` errors into `StoreError`s that say what was being done."""
    try:
        yield
    except DAMAGED as error:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        if name == "SQLITE_FULL":
            raise StoreFull(f"{doing}: no space left for the ledger file") from error
        raise StoreError(f"{doing}: {error} ({name})") from error


def connect(
    path: Path, *, read_only: bool = False, untouched: bool = False, immutable: bool = False
) -> sqlite3.Connection:
    """Return a connection in autocommit mode, ready for WAL and full durability.

    One that leaves everything `untouched` does not even tidy up when it is closed, as others
    do: it keeps a write-ahead log that a crash has left. One of an `immutable` file looks for
    no such log and takes no lock; nobody else may have the file open.
    """
    how = f"mode={'ro' if untouched else 'rwc'}{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{how}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # the store checkpoints off the path
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()  # a damaged file fails at the first of these that looks at it
        raise
    return connection


def migrations() -> list[tuple[int, str]]:
    """Return `(version, sql)` of every migration, in order."""
    folder = resources.files("bursar.storage.sqlite.migrations")
    files = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name.split("_")[0]), (folder / name).read_text("utf-8")) for name in files]


def prepare(path: Path, *, create: bool, migrate: bool, claim: Claim | None) -> None:
    """Make sure that `path` is a whole ledger of the current schema, creating it where allowed.

    Raises:
        StoreUnusable: it is not, and the message says what it is and what to do.
    """
    refuse_impossible(path, create=create)
    # Its owner's alone from the first byte on; SQLite gives its own files the same permissions.
    # An existing file is never opened here: closing it would drop the locks that another
    # connection of this process has on it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if 0 < path.stat().st_size < PAGE_BYTES_MIN:  # SQLite would take one byte for an empty file
        raise StoreUnusable(f"{path} is not a SQLite database; name another file")
    # What a crash has left is evidence until the ledger has proved to be whole.
    with closing(connect(path, untouched=_has_log(path))) as connection:
        due = _is_blank(connection) or _is_due(connection, path, migrate)
        if not due:
            _verify(connection, path, claim)
    if due:
        with closing(connect(path)) as connection:
            _migrate(connection)
            _verify(connection, path, claim)


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


def _has_log(path: Path) -> bool:
    """Return whether there is a write-ahead log: a crash left it, or someone is at work."""
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


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
    _use_wal(connection)
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


def _use_wal(connection: sqlite3.Connection) -> None:
    """Set the journal mode; while another process does the same SQLite does not wait for it."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _statements(sql: str) -> Iterator[str]:
    """Yield the statements of a script; `executescript` would end the transaction first."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def schema_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a ledger's schema.

    Raises:
        StoreUnusable: this is no ledger, or one of a newer program.
    """
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise StoreUnusable(f"{path} is a SQLite database of another program; name another file")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = migrations()[-1][0]
    if version > newest:
        raise StoreUnusable(
            f"{path} has schema {version}, this program knows up to {newest}; use a newer bursar"
        )
    return int(version)


def _is_due(connection: sqlite3.Connection, path: Path, migrate: bool) -> bool:
    """Return whether this ledger is of an older schema and may be migrated."""
    version, newest = schema_of(connection, path), migrations()[-1][0]
    if path.stat().st_size <= QUICK_CHECK_MAX_BYTES:  # seconds on a large file: an audit's job
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            found = " ".join(damage.split())  # on one line
            raise StoreUnusable(f"{path} is corrupt: {found}; restore it from a backup")
    if version < newest and not migrate:
        raise StoreUnusable(
            f"{path} has schema {version}, this program needs {newest}; back it up and start "
            "once with --migrate"
        )
    return version < newest


def extent(connection: sqlite3.Connection) -> tuple[str, int]:
    """Return which ledger this is, and how many entries all its logs have."""
    pepper = connection.execute("SELECT value FROM meta WHERE name = 'pepper'").fetchone()[0]
    entries = connection.execute("SELECT coalesce(sum(seq), 0) FROM head").fetchone()[0]
    return hashlib.sha256(pepper).hexdigest()[:16], entries


def _verify(connection: sqlite3.Connection, path: Path, claim: Claim | None) -> None:
    """Check that every log ends where its head says, budgets add up, and nothing is missing."""
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
    if claim is not None:
        claim.compare(*extent(connection))
