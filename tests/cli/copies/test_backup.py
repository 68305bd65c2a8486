"""`bursar backup`: under load, cut off, without space, over what exists."""

import contextlib
import http.server
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.cli.exits import EXIT_CREDENTIAL, EXIT_FAILED, EXIT_SERVER, EXIT_USAGE
from bursar.ledger.audit import audit
from bursar.storage.sqlite.snapshot import read_quiet
from bursar.storage.sqlite.store import RESTART_WAIT_MS, SqliteStore
from cli.copies.running import bursar, document, environment, line, refused
from e2e.accounts import open_account
from e2e.connections import Reply
from e2e.ledgers import write_ledger
from e2e.load import BUDGETS, UNIT, Books, Client, start_all
from e2e.mounts import tmpfs
from e2e.servers import ADMIN_KEY, Server, Servers

CLIENTS = 4


def test_a_backup_under_load_is_a_prefix_of_the_log(servers: Servers, tmp_path: Path) -> None:
    """Clients lose nothing by it, and each backup is one moment: every balance is its log's."""
    server = servers.start()
    account = open_account(server, BUDGETS, unit=UNIT)
    clients = [Client(f"c{number}", account, Books(), str(number)) for number in range(CLIENTS)]
    stop = threading.Event()
    threads = start_all(clients, server, stop)
    entries = []
    for number in range(3):
        time.sleep(0.3)
        ran = bursar("backup", tmp_path / f"{number}.db", "--verify", "--json", server=server)
        assert ran.returncode == 0, ran
        entries.append(document(ran)["entries"])
    stop.set()
    for thread in threads:
        thread.join()
    assert not any(client.failed or client.torn for client in clients)
    assert entries == sorted(set(entries)), "the load went on between the backups"
    assert server.stop() == 0
    whole = read_quiet(server.store)
    for number in range(3):
        part = read_quiet(tmp_path / f"{number}.db")
        assert audit(part).findings == ()
        for tenant, head in part.heads().items():
            mine = list(part.entries(tenant))
            assert mine == list(whole.entries(tenant))[: head.seq]
        part.close()
    whole.close()
    assert list(tmp_path.glob("*.backup-*")) == []


def test_what_exists_is_not_replaced_unasked(servers: Servers, tmp_path: Path) -> None:
    server = servers.start()
    out = tmp_path / "backup.db"
    out.write_text("precious")
    assert "--force" in refused(bursar("backup", out, server=server), EXIT_USAGE)
    assert out.read_text() == "precious"
    assert bursar("backup", out, "--force", server=server).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert "is served" in refused(
        bursar("backup", server.store, "--force", server=server), EXIT_USAGE
    )


def test_only_the_operator_gets_a_backup(servers: Servers, tmp_path: Path) -> None:
    server = servers.start()
    account = open_account(server, {"": 10})
    for headers in ({}, account.headers, {"X-Admin-API-Key": "w" * 20}):
        with server.connect(headers, checked=False) as connection:
            assert connection.get("/v1/admin/backup").status == 401
    extra = {"BURSAR_ADMIN_KEY": "not-this-servers-key"}
    ran = bursar("backup", tmp_path / "b.db", server=server, extra=extra)
    refused(ran, EXIT_CREDENTIAL)
    assert list(tmp_path.glob("b.db*")) == []


def sent(server: Server) -> Reply:
    """Ask for a backup; it is no JSON, as the answers of the protocol are."""
    with server.connect({"X-Admin-API-Key": ADMIN_KEY}, checked=False) as operator:
        return operator.get("/v1/admin/backup")


class Tampering(http.server.BaseHTTPRequestHandler):
    """Passes a backup on with one byte changed, or less of it than was said."""

    body, headers_of, cut = b"", "", 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(self.body)))
        if self.headers_of:
            self.send_header("repr-digest", self.headers_of)
        self.end_headers()
        self.wfile.write(self.body[: len(self.body) - self.cut])

    def log_message(self, *words: object) -> None:
        pass


@contextlib.contextmanager
def answering(body: bytes, digest: str, cut: int = 0) -> Iterator[str]:
    handler = type("Handler", (Tampering,), {"body": body, "headers_of": digest, "cut": cut})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("harm", "expected"),
    [("byte", "arrived damaged"), ("cut", "cut off"), ("no digest", "sent no digest")],
)
def test_what_arrives_damaged_gets_no_name(
    servers: Servers, tmp_path: Path, harm: str, expected: str
) -> None:
    server = servers.start()
    reply = sent(server)
    body = bytearray(reply.body)
    digest = reply.headers["repr-digest"] if harm != "no digest" else ""
    if harm == "byte":
        body[len(body) // 2] ^= 1
    with answering(bytes(body), digest, cut=100 if harm == "cut" else 0) as url:
        ran = bursar("backup", tmp_path / "b.db", extra={"CYCLES_BASE_URL": url})
    assert expected in refused(ran, EXIT_SERVER)
    assert list(tmp_path.glob("b.db*")) == []


def test_a_kill_leaves_no_half_file_under_the_name(tmp_path: Path) -> None:
    """What is left is `.partial`; the next backup takes it over."""
    with Servers(tmp_path) as servers:
        server = servers.start()
        body = sent(server).body + b"\0" * 8_000_000
        out = tmp_path / "b.db"
        # The last bytes never come, so that the command waits in the middle of its work.
        with stalled(body) as url:
            running = subprocess.Popen(
                line("backup", out), env=environment(CYCLES_BASE_URL=url), stderr=subprocess.DEVNULL
            )
            deadline = time.monotonic() + 30
            while not (tmp_path / "b.db.partial").exists() or not _size(tmp_path / "b.db.partial"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            running.send_signal(signal.SIGKILL)
            running.wait()
        assert not out.exists()
        assert bursar("backup", out, server=server).returncode == 0
        assert not (tmp_path / "b.db.partial").exists()


def _size(path: Path) -> int:
    return path.stat().st_size


@contextlib.contextmanager
def stalled(body: bytes) -> Iterator[str]:
    """Answer with all but the last byte, and then with nothing until it is over."""
    over = threading.Event()

    class Stalling(Tampering):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.send_header("repr-digest", "sha-256=:" + "A" * 43 + "=:")
            self.end_headers()
            self.wfile.write(body[:-1])
            self.wfile.flush()
            over.wait(30)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            over.set()
            server.shutdown()


def test_a_full_disk_here_leaves_nothing(servers: Servers, tmp_path: Path) -> None:
    server = servers.start()
    with tmpfs(tmp_path / "small", 65_536) as folder:
        ran = bursar("backup", folder / "b.db", server=server)
        assert "no space left" in refused(ran, EXIT_FAILED)
        assert list(folder.iterdir()) == []


def test_a_full_disk_there_is_said_and_nothing_is_touched(tmp_path: Path) -> None:
    """The server keeps space for the ledger itself, and goes on serving."""
    with tmpfs(tmp_path / "small", 8_000_000) as folder, Servers(folder) as servers:
        server = servers.start()
        ran = bursar("backup", tmp_path / "b.db", server=server)
        assert "free space" in refused(ran, EXIT_SERVER)
        assert server.ready().status == 200
        assert server.stop() == 0


def test_a_killed_servers_scratch_file_is_cleared(servers: Servers, tmp_path: Path) -> None:
    server = servers.start()
    left = tmp_path / "ledger.db.backup-killed"
    left.write_bytes(b"half")
    assert bursar("backup", tmp_path / "b.db", server=server).returncode == 0
    assert not left.exists()


def test_a_long_reader_does_not_stop_the_writer(tmp_path: Path) -> None:
    """While a backup holds an old state, the log grows and does not start again; writes go on."""
    path = tmp_path / "ledger.db"
    write_ledger(path)
    store = SqliteStore.open(path, create=False)
    writer = sqlite3.connect(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entry").fetchone()
    writer.execute("CREATE TABLE filler (x)")
    writer.execute("INSERT INTO filler VALUES (zeroblob(70000000))")
    writer.commit()
    began = time.monotonic()
    store._grown.set()  # the checkpointer finds a log above its second mark, and a reader
    time.sleep(0.1)
    writer.execute("INSERT INTO filler VALUES (1)")
    writer.commit()
    took_ms = (time.monotonic() - began) * 1_000
    assert took_ms < 1_000 + RESTART_WAIT_MS, "it would wait five seconds for the reader"
    for connection in (reader, writer):
        connection.close()
    store.close()


def test_json_says_what_was_written(servers: Servers, tmp_path: Path) -> None:
    server = servers.start()
    open_account(server, {"": 10})
    said = document(bursar("backup", tmp_path / "b.db", "--json", server=server))
    assert said["bytes"] == os.path.getsize(tmp_path / "b.db")
    assert said["entries"] == 3
    assert json.dumps(said).count("sha256") == 1
