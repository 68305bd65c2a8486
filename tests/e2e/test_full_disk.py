"""No space for another write: nothing acknowledged is lost, and work goes on once there is space.

Twice, because the system reports it in two ways. On a full file system SQLite can tell that
nothing was written, so clients are told so. At a limit of the process (or a quota) it sees a
write that failed, so clients are told that the outcome is not known, and to ask again.
"""

import shutil
import subprocess
import threading

import pytest

import schemas
from bursar.cli.exits import EXIT_STORE
from e2e.accounts import Account, open_account
from e2e.commands import Refused, said
from e2e.compare import Witness, stored_balances
from e2e.load import BUDGETS, UNIT, Books, Client, start_all
from e2e.mounts import resize, tmpfs
from e2e.servers import Server, Servers

MIB = 1024 * 1024
FULL_BYTES, FREED_BYTES = 2 * MIB, 64 * MIB
CLIENTS = 8
FULL_WITHIN_S = 60
READY_WITHIN_S = 60  # readiness remembers a failed write for ten seconds


class Load:
    """Clients that work until the server cannot go on, and what they were told."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.account: Account = open_account(server, BUDGETS, unit=UNIT)
        self.books = Books()
        self.clients = [
            Client(f"c{number}", self.account, self.books, f"{number}") for number in range(CLIENTS)
        ]

    def fill(self) -> None:
        """Work until every client was told that it cannot be done."""
        threads = start_all(self.clients, self.server, threading.Event())
        for thread in threads:
            thread.join(FULL_WITHIN_S)
            assert not thread.is_alive(), "the disk did not become full"

    def failures(self) -> list[str]:
        """Return what clients were told instead of an answer; each was told once."""
        assert [len(client.failed) for client in self.clients] == [1] * CLIENTS
        told = []
        for client in self.clients:
            reply = client.failed[0].reply
            schemas.check("POST", client.asked[-1].path, 500, reply.headers, reply.body)
            assert reply.json()["error"] == "INTERNAL_ERROR"
            told.append(reply.json()["message"])
        return told

    def differences(self) -> list[str]:
        """Compare the file with everything that was told."""
        witness = Witness(self.server.store, self.account.tenant)
        asked = [asked for client in self.clients for asked in client.asked]
        assert sum(not one.pending for one in asked) > CLIENTS, "there was no load to speak of"
        found = witness.look() + witness.differences(asked)
        if stored_balances(self.server.store, self.account.tenant) != self.books.balances():
            found.append("the balances are not the sum of what was acknowledged")
        return found

    def go_on(self) -> None:
        """Ask again for everything that failed, then work some more."""
        for client in self.clients:
            assert client.recover(self.server) == 1
        stop = threading.Event()
        before = sum(len(client.asked) for client in self.clients)
        threads = start_all(self.clients, self.server, stop)
        while sum(len(client.asked) for client in self.clients) < before + 50:
            assert any(thread.is_alive() for thread in threads)
        stop.set()
        for thread in threads:
            thread.join()
        assert [len(client.failed) for client in self.clients] == [1] * CLIENTS


def test_a_full_disk(servers: Servers) -> None:
    """Clients are told, readiness turns, reads go on; with space again everything goes on."""
    with tmpfs(servers.directory / "disk", FULL_BYTES) as disk:
        load = Load(servers.start(store="disk/ledger.db"))
        load.fill()
        for message in load.failures():
            assert message == (
                "The ledger has no space left; nothing was changed. Free space, then send the "
                "same request again"
            )
        unready = load.server.ready()
        assert unready.status == 503
        assert "no space left" in unready.json()["checks"]["writes"]
        with load.server.connect() as probe:
            assert probe.get("/health/live").status == 200, "a restart would not help"
        assert load.differences() == []
        resize(disk, FREED_BYTES)
        load.go_on()
        assert load.differences() == []
        load.server.wait_until(200, READY_WITHIN_S)
        assert load.server.stop() == 0
        assert load.differences() == []


def test_the_log_of_a_full_disk_is_short(servers: Servers) -> None:
    """Every request fails then; what each of them writes must not fill other disks."""
    with tmpfs(servers.directory / "disk", FULL_BYTES):
        load = Load(servers.start(store="disk/ledger.db"))
        load.fill()
        lines = load.server.logged().splitlines()
    assert len(lines) <= 2 * CLIENTS
    assert load.account.secret not in "".join(lines)
    assert max(map(len, lines)) < 1_000
    assert all("no space left" in line for line in lines)


def test_a_server_on_a_full_disk_stops_and_starts_again(servers: Servers, refused: Refused) -> None:
    """It stops with 0, does not start while there is no space, and then has everything."""
    with tmpfs(servers.directory / "disk", FULL_BYTES) as disk:
        load = Load(servers.start(store="disk/ledger.db"))
        load.fill()
        assert load.server.stop() == 0, load.server.logged()
        kept = {path.name for path in disk.iterdir()}
        assert "ledger.db-wal" in kept, "there was no space to move the log into the file"
        (disk / "ledger.db-shm").unlink(missing_ok=True)
        (disk / "rest").write_bytes(b"x" * shutil.disk_usage(disk).free)
        said(refused(store="disk/ledger.db"), EXIT_STORE)
        resize(disk, FREED_BYTES)
        load.server = servers.start(store="disk/ledger.db")
        assert load.differences() == []
        load.go_on()
        assert load.differences() == []


def limit(server: Server, size: str) -> None:
    """Change how large a file a running server may write."""
    pid = str(server.process.pid)
    subprocess.run(["prlimit", "--pid", pid, f"--fsize={size}"], check=True)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="the machine has no prlimit command")
def test_a_limit_of_the_process(servers: Servers) -> None:
    """Clients are told that the outcome is not known; asking again settles it, once each."""
    load = Load(servers.start(prefix=["prlimit", f"--fsize={FULL_BYTES}:unlimited"]))
    load.fill()
    for message in load.failures():
        assert "may or may not have happened" in message
        assert "same idempotency key" in message
    assert load.server.ready().status == 503
    assert load.differences() == []
    limit(load.server, "unlimited")
    load.go_on()
    assert load.differences() == []
    assert load.server.stop() == 0
    assert load.differences() == []
