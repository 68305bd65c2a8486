"""`bursar restore`: what it refuses, what it says would be lost, what a kill leaves."""

import fcntl
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from bursar.cli.exits import EXIT_DECLINED, EXIT_FAILED, EXIT_STORE, EXIT_USAGE
from bursar.storage.sqlite.connect import migrations
from cli.copies.running import bursar, document, environment, line, refused
from e2e.accounts import balances, open_account
from e2e.mounts import tmpfs
from e2e.servers import Servers


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_restored_ledger_serves_as_the_old_one_did(servers: Servers, tmp_path: Path) -> None:
    """The keys of the old ledger work in the new one, and its balances are there."""
    first = servers.start()
    account = open_account(first, {"": 700})
    assert bursar("backup", tmp_path / "b.db", server=first).returncode == 0
    assert first.stop() == 0
    ran = bursar("restore", tmp_path / "b.db", tmp_path / "new.db", "--json")
    assert document(ran)["lost_entries"] == 0
    assert names(tmp_path) >= {"b.db", "new.db"}
    assert not names(tmp_path) & {"b.db-wal", "b.db-shm", "new.db.partial"}
    second = servers.start(store="new.db")
    with account.connect(second) as connection:
        assert balances(connection, account.tenant)[""]["remaining"] == 700


def test_going_back_must_be_meant_and_counted(servers: Servers, tmp_path: Path) -> None:
    """The lock remembers what was acknowledged; the loss is accepted by its exact number."""
    first = servers.start()
    open_account(first, {"": 700})
    out = tmp_path / "b.db"
    assert bursar("backup", out, server=first).returncode == 0
    open_account(first, {"": 700})
    assert first.stop() == 0
    store = first.store
    assert "exists" in refused(bursar("restore", out, store), EXIT_USAGE)
    store.rename(tmp_path / "old.db")
    said = refused(bursar("restore", out, store), EXIT_DECLINED)
    assert "3 entries that were acknowledged" in said
    assert "--accept-loss 3" in said
    assert not store.exists()
    refused(bursar("restore", out, store, "--accept-loss", "2"), EXIT_DECLINED)
    ran = bursar("restore", out, store, "--accept-loss", "3", "--json")
    assert document(ran)["lost_entries"] == 3
    assert servers.start().ready().status == 200


def test_no_loss_is_not_accepted_where_there_is_none(good: Path, tmp_path: Path) -> None:
    said = bursar("restore", good, tmp_path / "new.db", "--accept-loss", "5")
    assert "nothing would be lost" in refused(said, EXIT_DECLINED)


def test_what_is_in_use_is_refused(servers: Servers, good: Path) -> None:
    server = servers.start()
    said = refused(bursar("restore", good, server.store), EXIT_STORE)
    assert f"in use by another server (process {server.process.pid})" in said
    assert server.ready().status == 200


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_the_rest_of_another_ledger_is_not_mixed_in(
    good: Path, tmp_path: Path, suffix: str
) -> None:
    """A write-ahead log of the old ledger would be played into the new one."""
    (tmp_path / f"new.db{suffix}").write_bytes(b"old")
    said = refused(bursar("restore", good, tmp_path / "new.db"), EXIT_USAGE)
    assert f"new.db{suffix} is left of a ledger" in said
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE entry SET body = replace(body, '7', '8') WHERE seq = 9", "entry 9 was altered"),
        ("UPDATE budget SET spent = spent - 1, remaining = remaining + 1", "log says"),
        ("UPDATE budget SET spent = spent - 1", "allocated"),
    ],
)
def test_an_altered_backup_is_not_restored(
    good: Path, tmp_path: Path, sql: str, expected: str
) -> None:
    out = tmp_path / "b.db"
    shutil.copyfile(good, out)
    database = sqlite3.connect(out)
    assert database.execute(sql).rowcount > 0
    database.commit()
    database.close()
    said = refused(bursar("restore", out, tmp_path / "new.db"), EXIT_FAILED)
    assert expected in said
    assert "Nothing was restored" in said
    assert not (tmp_path / "new.db").exists()


def test_what_is_no_ledger_or_a_newer_one_is_refused(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.db"
    missing = bursar("restore", tmp_path / "no.db", tmp_path / "new.db")
    assert "does not exist" in refused(missing, EXIT_STORE)
    out.write_bytes(b"noise" * 1_000)
    assert "not a SQLite database" in refused(
        bursar("restore", out, tmp_path / "new.db"), EXIT_STORE
    )
    shutil.copyfile(good, out)
    database = sqlite3.connect(out)
    database.execute(f"PRAGMA user_version = {migrations()[-1][0] + 1}")
    database.close()
    assert "newer bursar" in refused(bursar("restore", out, tmp_path / "new.db"), EXIT_STORE)
    assert not (tmp_path / "new.db").exists()


def columns_of(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def make_old(path: Path) -> None:
    """Take away what later migrations added, so that the file is one of the first release."""
    first = sqlite3.connect(":memory:")
    first.executescript(migrations()[0][1])
    known = {row[0] for row in first.execute("SELECT name FROM sqlite_schema")}
    columns = {table: columns_of(first, table) for table in known}
    first.close()
    database = sqlite3.connect(path)
    added = [
        (kind, name)
        for kind, name in database.execute("SELECT type, name FROM sqlite_schema")
        if name not in known and not name.startswith("sqlite_")
    ]
    assert added
    for kind, name in sorted(added):  # indexes before their tables
        database.execute(f"DROP {kind} IF EXISTS {name}")  # a trigger goes with its table
    for table, first_ones in columns.items():
        for column in columns_of(database, table) - first_ones:
            database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()


def test_a_backup_of_an_older_schema_is_judged_and_brought_up_to_date(
    good: Path, tmp_path: Path
) -> None:
    """The backup itself stays as it was; only the new ledger is of this program's schema."""
    out, new = tmp_path / "b.db", tmp_path / "new.db"
    shutil.copyfile(good, out)
    make_old(out)
    before = out.read_bytes()
    said = document(bursar("audit", "verify", out, "--json"))
    assert (said["findings"], said["schema"]) == ([], 1)
    ran = bursar("restore", out, new)
    assert "brought from 1 to" in ran.stdout
    assert out.read_bytes() == before
    newest = migrations()[-1][0]
    assert document(bursar("audit", "verify", new, "--json"))["schema"] == newest
    assert names(tmp_path) == {"b.db", "new.db", "new.db.lock"}


def test_a_full_disk_leaves_nothing(good: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", 65_536) as folder:
        said = bursar("restore", good, folder / "new.db")
        assert "no space left" in refused(said, EXIT_FAILED)
        assert names(folder) <= {"new.db.lock"}


def test_a_kill_leaves_no_half_file_under_the_name(good: Path, tmp_path: Path) -> None:
    """The backup is held locked, so that the command waits in the middle; then it is killed."""
    out, new = tmp_path / "b.db", tmp_path / "new.db"
    shutil.copyfile(good, out)
    database = sqlite3.connect(out, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    running = subprocess.Popen(
        line("restore", out, new), env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "new.db.partial").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    database.execute("ROLLBACK")
    database.close()
    assert not new.exists()
    assert bursar("restore", out, new).returncode == 0
    assert not (tmp_path / "new.db.partial").exists()


def test_two_restores_do_not_meet(good: Path, tmp_path: Path) -> None:
    """The second one is told that the name is taken."""
    new = tmp_path / "new.db"
    with (tmp_path / "new.db.partial").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another command" in refused(bursar("restore", good, new), EXIT_USAGE)
