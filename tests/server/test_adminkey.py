"""The operator's key: generated once, readable by its owner alone, and needed beyond loopback."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bursar.cli.exits import EXIT_ADMIN_KEY, EXIT_USAGE
from bursar.server.adminkey import AdminKey, AdminKeyError, is_loopback, obtain
from bursar.server.settings import Settings, load

GIVEN = "a-secret-of-my-own"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({}, {"store": f"sqlite:///{tmp_path}/ledger.db"})


def key_file(settings: Settings) -> Path:
    return settings.store_path.with_name("ledger.db.admin-key")


def on(settings: Settings, host: str, admin_key: str = "") -> Settings:
    return load({}, {"store": settings.store, "host": host, "admin_key": admin_key})


def test_a_given_key_is_used_as_it_is(settings: Settings) -> None:
    """Nothing is written beside the store."""
    assert obtain(on(settings, "127.0.0.1", GIVEN)) == AdminKey(GIVEN, None)
    assert not key_file(settings).exists()


def test_a_key_is_generated_once(settings: Settings) -> None:
    """The second start reads what the first has written; owner-only even with an open umask."""
    before = os.umask(0)
    try:
        first = obtain(settings)
    finally:
        os.umask(before)
    assert first.file == key_file(settings)
    assert stat.S_IMODE(key_file(settings).stat().st_mode) == 0o600
    assert key_file(settings).read_text("utf-8") == first.key + "\n"
    assert len(first.key) >= 43
    assert obtain(settings) == first


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777, 0o610])
def test_a_key_open_to_others_is_refused(settings: Settings, mode: int) -> None:
    """The message has the command that closes it."""
    obtain(settings)
    key_file(settings).chmod(mode)
    with pytest.raises(AdminKeyError) as caught:
        obtain(settings)
    assert str(caught.value).endswith(f"is open to others; run: chmod 600 {key_file(settings)}")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short\n", b"\xff" * 40, b"\x00" * 40, "é".encode() * 40, b"a b\nc" * 9],
)
def test_a_file_without_a_key(settings: Settings, content: bytes) -> None:
    """It says what to do, whatever the file holds."""
    key_file(settings).write_bytes(content)
    key_file(settings).chmod(0o600)
    with pytest.raises(AdminKeyError, match="holds no usable key; delete it"):
        obtain(settings)


def test_a_file_that_is_none(settings: Settings, tmp_path: Path) -> None:
    """A folder in the place of the file, or no place at all, is told as it is."""
    key_file(settings).mkdir(mode=0o700)
    with pytest.raises(AdminKeyError, match=r"admin key file .*: Is a directory"):
        obtain(settings)
    nowhere = load({}, {"store": f"sqlite:///{tmp_path}/none/ledger.db"})
    with pytest.raises(AdminKeyError, match=r"admin key file .*: No such file or directory"):
        obtain(nowhere)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "10.0.0.1"])
def test_beyond_loopback(settings: Settings, host: str) -> None:
    """A generated key is not good enough for a server that others can reach."""
    with pytest.raises(AdminKeyError) as caught:
        obtain(replace(settings, host=host))
    assert str(caught.value).startswith(f"refusing to listen on {host} without an explicit admin")
    assert not key_file(settings).exists()
    if host:
        assert obtain(on(settings, host, GIVEN)) == AdminKey(GIVEN, None)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:10.0.0.1", False),
        ("localhost.example.org", False),
        ("127.1", False),
        ("0", False),
    ],
)
def test_what_is_loopback(host: str, loopback: bool) -> None:
    """Only addresses that surely stay on this machine."""
    assert is_loopback(host) is loopback


def serve(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bursar.cli", "serve", "--store", "sqlite:///l.db", *arguments]
    return subprocess.run(
        command,
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_command_refuses_to_listen_beyond_loopback(tmp_path: Path) -> None:
    """Exit code 4, one line on standard error, nothing on standard output, and no key written."""
    ran = serve(tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert ran.returncode == EXIT_ADMIN_KEY == 4
    assert ran.stdout == ""
    [line] = ran.stderr.splitlines()
    assert line == (
        "bursar: refusing to listen on 0.0.0.0 without an explicit admin key: set BURSAR_ADMIN_KEY "
        "to a secret of your own, or listen on 127.0.0.1"
    )
    assert list(tmp_path.iterdir()) == [], "a refused start leaves nothing behind, no ledger either"


def test_the_command_refuses_an_open_key_and_a_bad_one(tmp_path: Path) -> None:
    """An open file is exit code 4; a key that cannot travel in a header is a wrong setting."""
    file = tmp_path / "l.db.admin-key"
    file.write_text(GIVEN, encoding="utf-8")
    file.chmod(0o644)
    ran = serve(tmp_path, "--port", "0")
    assert (ran.returncode, ran.stdout) == (EXIT_ADMIN_KEY, "")
    assert ran.stderr.splitlines()[-1].endswith(f"run: chmod 600 {file}")
    assert GIVEN not in ran.stderr
    assert list(tmp_path.iterdir()) == [file]
    ran = serve(tmp_path, "--port", "0", BURSAR_ADMIN_KEY=GIVEN + "\n")
    assert (ran.returncode, ran.stdout) == (EXIT_USAGE, "")
    assert ran.stderr.startswith("bursar: admin_key: must be printable ASCII")
