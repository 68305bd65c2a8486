"""Damage to a ledger that was whole: what is noticed, when, and what is never noticed.

| damage                                          | noticed by                            |
|-------------------------------------------------|---------------------------------------|
| a page that is no page, a file that is cut      | the server, when it starts            |
| the write-ahead log removed, cut or overwritten | the server, when it starts            |
| an older copy in the place of the ledger        | the server, when it starts            |
| a byte of an entry, a balance, a hold, a hash   | the audit, if not when starting       |
| a byte of what only informs (times, metadata)   | nobody: it has no second record       |

SQLite passes over a write-ahead log that it cannot read, and its own check knows structure, not
content. The server's note of what it acknowledged and the chain of hashes fill these gaps.
"""

import os
import random
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.cli.exits import EXIT_STORE
from bursar.core.entry import budget_state
from bursar.ledger.audit import audit
from bursar.ledger.ports import BudgetQuery, Reader, StoreError
from bursar.storage.sqlite.store import SqliteStore
from e2e.accounts import open_account
from e2e.commands import Refused, digest, said
from e2e.load import BUDGETS, UNIT, Books, Client, start_all
from e2e.servers import Servers

FLIPS = 150
LOADED_MS = 150
CLIENTS = 6


# --- the write-ahead log of a server that was killed -------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a kill leaves: a ledger whose newest entries are in its write-ahead log alone."""
    with Servers(tmp_path_factory.mktemp("killed")) as servers:
        server = servers.start()
        account = open_account(server, BUDGETS, unit=UNIT)
        clients = [Client(f"c{number}", account, Books(), f"{number}") for number in range(CLIENTS)]
        threads = start_all(clients, server, threading.Event())
        time.sleep(LOADED_MS / 1_000)
        server.kill()
        for thread in threads:
            thread.join()
        return server.store


def copied(killed: Path, folder: Path) -> Path:
    """Copy a ledger with all that belongs to it; return its write-ahead log."""
    for suffix in ("", "-wal", ".lock"):
        shutil.copyfile(killed.with_name(killed.name + suffix), folder / f"ledger.db{suffix}")
    return folder / "ledger.db-wal"


def evidence(folder: Path) -> dict[str, str]:
    """What a ledger could be saved from."""
    paths = [folder / name for name in ("ledger.db", "ledger.db-wal")]
    return {path.name: digest(path) for path in paths if path.exists() and path.stat().st_size}


def remove(log: Path) -> None:
    log.unlink()


def empty(log: Path) -> None:
    os.truncate(log, 0)


def halve(log: Path) -> None:
    os.truncate(log, log.stat().st_size // 2)


def overwrite(log: Path) -> None:
    log.write_bytes(random.Random(1).randbytes(log.stat().st_size))


def flip_in_the_middle(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)


def flip_in_the_header(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[20] ^= 1
    log.write_bytes(content)


@pytest.mark.parametrize(
    "harm", [remove, empty, halve, overwrite, flip_in_the_middle, flip_in_the_header]
)
def test_a_lost_write_ahead_log_is_noticed(
    harm: Callable[[Path], None], killed: Path, tmp_path: Path, refused: Refused
) -> None:
    """The server counts what is missing, and keeps what is left for whoever can save it."""
    log = copied(killed, tmp_path)
    harm(log)
    before = evidence(tmp_path)
    message = said(refused(), EXIT_STORE)
    assert "entries that were acknowledged: ledger.db-wal was removed or damaged" in message
    assert evidence(tmp_path) == before


def test_an_older_copy_of_the_ledger_is_noticed(
    good: Path, servers: Servers, refused: Refused
) -> None:
    """A backup in the place of the ledger is served only when somebody says so."""
    store = servers.directory / "ledger.db"
    shutil.copyfile(good, store)
    first = servers.start()
    backup = store.read_bytes()
    open_account(first, {"": 1_000})
    assert first.stop() == 0
    store.write_bytes(backup)
    assert "or an older copy took its place" in said(refused(), EXIT_STORE)
    store.with_name("ledger.db.lock").unlink()
    assert servers.start().ready().status == 200


def test_another_ledger_under_the_same_name_is_none_of_this(servers: Servers) -> None:
    """Who deletes a ledger and starts over is not told of entries that another ledger had."""
    first = servers.start()
    open_account(first, {"": 1_000})
    assert first.stop() == 0
    (servers.directory / "ledger.db").unlink()
    assert servers.start().ready().status == 200


def test_what_a_kill_leaves_is_whole(killed: Path, tmp_path: Path) -> None:
    """The copies that the tests above damage can be opened, and audited without a finding."""
    copied(killed, tmp_path)
    store = SqliteStore.open(tmp_path / "ledger.db", create=False, exclusive=True)
    assert audit(store.reader).findings == ()
    store.close()


# --- single bytes ------------------------------------------------------------------------


def contents(reader: Reader) -> object:
    """Everything that money depends on."""
    heads = dict(reader.heads())
    return (
        heads,
        [list(reader.entries(tenant)) for tenant in sorted(heads)],
        [budget_state(row) for row in reader.budgets(BudgetQuery(tenant=None)).rows],
        dict(reader.held()),
    )


def looked_at(path: Path, whole: object) -> str:
    """Open a ledger that may be damaged, audit it, and say what became of that."""
    try:
        store = SqliteStore.open(path, create=False)
    except StoreError:
        return "refused when opened"
    try:
        if audit(store.reader).findings:
            return "found by the audit"
        return "nothing lost" if contents(store.reader) == whole else "MISSED"
    finally:
        store.close()


def test_a_flipped_byte_is_refused_found_or_harmless(good: Path, tmp_path: Path) -> None:
    """Wherever a byte of the file changes: no balance, hold or entry is wrong without a word."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = tmp_path / "ledger.db"
    store = SqliteStore.open(shutil.copyfile(good, path), create=False)
    whole = contents(store.reader)
    store.close()
    original = good.read_bytes()
    became: dict[str, int] = {}
    for _ in range(FLIPS):
        place, bit = chance.randrange(len(original)), 1 << chance.randrange(8)
        for beside in tmp_path.glob("ledger.db-*"):
            beside.unlink()
        path.write_bytes(original[:place] + bytes([original[place] ^ bit]) + original[place + 1 :])
        result = looked_at(path, whole)
        assert result != "MISSED", f"byte {place}, bit {bit}"
        became[result] = became.get(result, 0) + 1
    print(became)
    assert len(became) == 3, "each kind must have been met, or nothing was tested"


def altered(path: Path, sql: str) -> tuple[str, ...]:
    """Change a closed ledger behind its back and return what the audit finds."""
    database = sqlite3.connect(path)
    assert database.execute(sql).rowcount > 0
    database.commit()
    database.close()
    store = SqliteStore.open(path, create=False)
    try:
        return audit(store.reader).findings
    finally:
        store.close()


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("UPDATE entry SET body = replace(body, '7', '8') WHERE seq = 9", "entry 9 was altered"),
        ("DELETE FROM entry WHERE seq = 9", "entries between them are missing"),
        (
            "UPDATE budget SET spent = spent - 1, remaining = remaining + 1",
            "but the log says",
        ),
        (
            "UPDATE reservation SET estimate_amount = estimate_amount + 1 WHERE status = 'ACTIVE'",
            "but the active reservations hold",
        ),
    ],
)
def test_a_change_behind_the_servers_back_is_found(
    good: Path, tmp_path: Path, sql: str, finding: str
) -> None:
    """A ledger that still adds up, so that it can be served, does not pass its audit."""
    path = tmp_path / "ledger.db"
    shutil.copyfile(good, path)
    assert any(finding in found for found in altered(path, sql))
