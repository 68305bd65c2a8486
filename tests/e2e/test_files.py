"""What a server says to a file, an address or a setting that it cannot use.

It says it in one line and with the exit code of its kind, shows no traceback, and leaves the file
as it was.
"""

import contextlib
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.cli.exits import EXIT_ADMIN_KEY, EXIT_LISTEN, EXIT_STORE, EXIT_USAGE
from bursar.storage.sqlite.connect import APPLICATION_ID
from e2e.commands import Refused, digest, said
from e2e.mounts import make_read_only, tmpfs
from e2e.servers import Servers

NO_KEY = {"BURSAR_ADMIN_KEY": ""}
PAGE = 4096


# --- files that are not, or no longer, a ledger ------------------------------------------


def foreign(path: Path, good: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE customer (name TEXT)")


def noise(path: Path, good: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def noise_with_magic(path: Path, good: Path) -> None:
    path.write_bytes(b"SQLite format 3\x00" + bytes(range(256)) * 40)


def one_byte(path: Path, good: Path) -> None:
    path.write_bytes(b"S")


def cut_in_the_middle(path: Path, good: Path) -> None:
    content = good.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_in_the_header(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:50])


def page_overwritten(path: Path, good: Path) -> None:
    content = bytearray(good.read_bytes())
    content[PAGE * 3 : PAGE * 4] = b"\xff" * PAGE
    path.write_bytes(content)


def newer_schema(path: Path, good: Path) -> None:
    shutil.copyfile(good, path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        database.execute(f"PRAGMA user_version = {version + 1}")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def older_schema(path: Path, good: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("CREATE TABLE meta (name TEXT)")


def changed(path: Path, good: Path, sql: str) -> None:
    shutil.copyfile(good, path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        assert database.execute(sql).rowcount > 0
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def log_without_its_end(path: Path, good: Path) -> None:
    changed(path, good, "DELETE FROM entry WHERE seq = (SELECT max(seq) FROM entry)")


def budget_that_does_not_add_up(path: Path, good: Path) -> None:
    changed(path, good, "UPDATE budget SET spent = spent + 1 WHERE scope = 'tenant:acme'")


def no_pepper(path: Path, good: Path) -> None:
    changed(path, good, "DELETE FROM meta")


UNUSABLE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "foreign": (foreign, "is a SQLite database of another program"),
    "noise": (noise, "is not a SQLite database"),
    "noise with magic": (noise_with_magic, "is not a SQLite database"),
    "one byte": (one_byte, "is not a SQLite database"),
    "cut in the middle": (cut_in_the_middle, "malformed"),
    "cut in the header": (cut_in_the_header, "is not a SQLite database"),
    "page overwritten": (page_overwritten, "is corrupt"),
    "newer schema": (newer_schema, "use a newer bursar"),
    "older schema": (older_schema, "start once with --migrate"),
    "log without its end": (log_without_its_end, "the log of tenant acme does not end where"),
    "budget that does not add up": (budget_that_does_not_add_up, "budget tenant:acme (TOKENS)"),
    "no pepper": (no_pepper, "has lost its pepper"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(
    kind: str, refused: Refused, tmp_path: Path, good: Path
) -> None:
    """The line names the file and what is wrong with it; not one byte of it changes."""
    make, expected = UNUSABLE[kind]
    path = tmp_path / "ledger.db"
    make(path, good)
    before = digest(path)
    message = said(refused(), EXIT_STORE)
    assert message.startswith(str(path))
    assert expected in message
    assert digest(path) == before
    assert {item.name for item in tmp_path.iterdir()} <= {"ledger.db", "ledger.db.lock"}


def test_a_directory_is_no_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    message = said(refused(), EXIT_STORE)
    assert "is a directory; name a file" in message
    assert list((tmp_path / "ledger.db").iterdir()) == []


def test_a_missing_folder_is_not_created(refused: Refused, tmp_path: Path) -> None:
    message = said(refused(store="no/such/ledger.db"), EXIT_STORE)
    assert f"folder {tmp_path / 'no/such'} does not exist" in message
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_file_can_have_is_refused(refused: Refused) -> None:
    message = said(refused(store="x" * 300 + ".db"), EXIT_STORE)
    assert "name too long" in message


@pytest.mark.parametrize("there", [True, False], ids=["existing file", "new file"])
def test_a_read_only_place_is_refused(
    refused: Refused, tmp_path: Path, good: Path, there: bool
) -> None:
    """Neither a ledger there nor a new one can be served."""
    with tmpfs(tmp_path / "mounted", 8 * 1024 * 1024) as folder:
        if there:
            shutil.copyfile(good, folder / "ledger.db")
        make_read_only(folder)
        message = said(refused(store="mounted/ledger.db"), EXIT_STORE)
        assert "not writable" in message


def test_a_creation_that_was_cut_off_is_done_over(servers: Servers) -> None:
    """SQLite writes a first page before the transaction that makes the ledger; a kill in between
    must not leave a file that nobody can use."""
    path = servers.directory / "ledger.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size == PAGE
    assert servers.start().ready().status == 200


def test_an_empty_file_becomes_a_ledger(servers: Servers) -> None:
    """As `mktemp` leaves one."""
    (servers.directory / "ledger.db").touch()
    assert servers.start().ready().status == 200


def test_a_new_ledger_is_its_owners_alone(servers: Servers) -> None:
    """The ledger and the log beside it hold the pepper and every request."""
    server = servers.start()
    for suffix in ("", "-wal", "-shm"):
        path = server.store.with_name(server.store.name + suffix)
        assert path.stat().st_mode & 0o077 == 0, path


# --- the same file twice -----------------------------------------------------------------


def test_a_second_server_on_one_file_is_refused_by_name(servers: Servers, refused: Refused) -> None:
    """The message names the process that has the file; the first server does not notice."""
    first = servers.start()
    message = said(refused(), EXIT_STORE)
    assert f"in use by another server (process {first.process.pid})" in message
    assert first.ready().status == 200
    assert first.stop() == 0
    assert servers.start().ready().status == 200


def test_a_killed_server_leaves_no_claim(servers: Servers) -> None:
    servers.start().kill()
    assert servers.start().ready().status == 200


# --- addresses, keys, settings -----------------------------------------------------------


def test_a_taken_port_is_refused(refused: Refused) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = said(refused("--port", str(port)), EXIT_LISTEN)
    assert f"127.0.0.1 port {port}: Address already in use" in message


@pytest.mark.parametrize("host", ["203.0.113.7", "not..a..host"])
def test_an_address_of_somewhere_else_is_refused(refused: Refused, host: str) -> None:
    assert f"cannot listen on {host}" in said(refused("--host", host), EXIT_LISTEN)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "203.0.113.7", "bursar.example"])
def test_beyond_loopback_an_explicit_admin_key_is_needed(
    refused: Refused, tmp_path: Path, host: str
) -> None:
    message = said(refused("--host", host, environment=NO_KEY), EXIT_ADMIN_KEY)
    assert "BURSAR_ADMIN_KEY" in message
    assert not (tmp_path / "ledger.db.admin-key").exists()


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        ("a" * 40, 0o644, "chmod 600"),
        ("a" * 40, 0o620, "chmod 600"),
        ("\n", 0o600, "no usable key"),
    ],
)
def test_an_admin_key_file_must_be_private_and_hold_a_key(
    refused: Refused, tmp_path: Path, content: str, mode: int, expected: str
) -> None:
    file = tmp_path / "ledger.db.admin-key"
    file.write_text(content)
    file.chmod(mode)
    message = said(refused(environment=NO_KEY), EXIT_ADMIN_KEY)
    assert str(file) in message
    assert expected in message


def test_a_generated_admin_key_is_kept(servers: Servers) -> None:
    """It is written once, readable by its owner alone, and works after a restart."""
    first = servers.start(environment=NO_KEY)
    file = servers.directory / "ledger.db.admin-key"
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text().strip()
    assert first.stop() == 0
    with servers.start(environment=NO_KEY).connect({"X-Admin-API-Key": key}) as operator:
        assert operator.get("/v1/auth/introspect").json()["auth_type"] == "admin"


BAD_SETTINGS: list[tuple[list[str], dict[str, str], str]] = [
    (["--port", "70000"], {}, "port: must be at most 65535"),
    (["--port", "-1"], {}, "port: must be at least 0"),
    (["--port", "http"], {}, "--port"),
    (["--log-level", "loud"], {}, "log_level: must be one of"),
    (["--store", "postgres://x"], {}, "--store"),
    (["--no-such-option"], {}, "--no-such-option"),
    (["surplus"], {}, "surplus"),
    ([], {"BURSAR_QUEUE_MAX": "many"}, "BURSAR_QUEUE_MAX: must be a whole number"),
    ([], {"BURSAR_BODY_BYTES_MAX": "0"}, "BURSAR_BODY_BYTES_MAX: must be at least"),
    ([], {"BURSAR_SWEEP_INTERVAL_MS": "60000"}, "BURSAR_SWEEP_INTERVAL_MS: must be at most"),
    ([], {"BURSAR_ADMIN_KEY": "short"}, "admin_key: must have at least"),
]


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"), BAD_SETTINGS, ids=[row[2] for row in BAD_SETTINGS]
)
def test_a_setting_that_cannot_be_used_is_named(
    refused: Refused,
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    expected: str,
) -> None:
    """Nothing is created before the settings are understood."""
    assert expected in said(refused(*arguments, environment=environment), EXIT_USAGE)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_not_repeated_in_a_refusal(refused: Refused) -> None:
    ran = refused(environment={"BURSAR_ADMIN_KEY": "hunter2"})
    assert "hunter2" not in said(ran, EXIT_USAGE)


def test_these_commands_end_as_the_real_command_does(servers: Servers, refused: Refused) -> None:
    """What this module runs in forks is `python -m bursar.cli`, seen from outside."""
    (servers.directory / "ledger.db").write_bytes(b"noise")
    for arguments in ([], ["--no-such-option"]):
        real, forked = servers.refused(*arguments), refused(*arguments)
        assert (real.returncode, real.stdout, real.stderr) == (
            forked.code,
            forked.stdout,
            forked.stderr,
        )
