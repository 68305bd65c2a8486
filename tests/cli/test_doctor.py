"""`bursar doctor`: each thing that is commonly wrong is seen, with its fix."""

import contextlib
import http.server
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.doctor import local
from bursar.cli.doctor.line import State, ok
from bursar.cli.doctor.server import _transport
from bursar.cli.exits import EXIT_FAILED, EXIT_OK
from bursar.invariant import InvariantBroken
from bursar.storage.sqlite.store import SqliteStore
from conftest import Served

Run = Callable[..., Any]


def states(ran: Any) -> dict[str, str]:
    """Return the state of each check; a line that is not ok has a fix."""
    assert all(bool(one["fix"]) == (one["state"] != "ok") for one in ran.document["checks"])
    return {one["check"]: one["state"] for one in ran.document["checks"]}


def found(ran: Any, check: str) -> str:
    lines = [one["found"] for one in ran.document["checks"] if one["check"] == check]
    return " | ".join(lines)


def test_a_healthy_server_is_healthy(operator: Run, served: Served) -> None:
    ran = operator("doctor", "--json")
    assert ran.code == EXIT_OK
    assert set(states(ran).values()) == {"ok"}
    assert states(ran).keys() >= {"server", "transport", "tracing", "clock", "admin key", "debt"}
    shown = operator("doctor")
    assert f"server: {served.url} is ready" in shown.out


def test_nobody_answers(bursar: Run) -> None:
    ran = bursar("doctor", "--json", "--base-url", "http://127.0.0.1:9")
    assert ran.code == EXIT_FAILED
    assert states(ran)["server"] == "fail"
    assert "--base-url" in ran.out


def test_wrong_keys_fail_and_none_is_a_warning(bursar: Run, served: Served) -> None:
    ran = bursar("doctor", "--json", CYCLES_BASE_URL=served.url)
    assert (ran.code, states(ran)["keys"]) == (EXIT_OK, "warn")
    wrong = {"BURSAR_ADMIN_KEY": "w" * 20, "CYCLES_API_KEY": "cyc_live_nobody"}
    ran = bursar("doctor", "--json", CYCLES_BASE_URL=served.url, **wrong)
    assert ran.code == EXIT_FAILED
    assert (states(ran)["admin key"], states(ran)["API key"]) == ("fail", "fail")
    assert "cyc_live_nobody" not in ran.out


class Odd(http.server.BaseHTTPRequestHandler):
    """A server behind a proxy that eats headers, with a clock of its own."""

    ahead_s = 0.0
    status = 200

    def do_GET(self) -> None:
        self.send_response_only(self.status)
        self.send_header("date", formatdate(time.time() + self.ahead_s, usegmt=True))
        body = b'{"status": "not_ready", "checks": {"writes": "no space left", "store": "ok"}}'
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@contextlib.contextmanager
def odd(**fields: Any) -> Iterator[str]:
    handler = type("Handler", (Odd,), fields)
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("ahead_s", "state", "said"),
    [(0, "ok", "agree"), (30, "warn", "ahead"), (-30, "warn", "behind"), (600, "fail", "600 s")],
)
def test_clocks_that_differ_are_seen(bursar: Run, ahead_s: float, state: str, said: str) -> None:
    with odd(ahead_s=ahead_s) as url:
        ran = bursar("doctor", "--json", "--base-url", url)
    assert states(ran)["clock"] == state
    assert said in found(ran, "clock").replace("599 s", "600 s")
    assert states(ran)["tracing"] == "warn"


def test_a_server_that_is_not_ready_says_why(bursar: Run) -> None:
    with odd(status=503) as url:
        ran = bursar("doctor", "--json", "--base-url", url)
    assert ran.code == EXIT_FAILED
    assert "writes: no space left" in found(ran, "server")


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("https://bursar.example.org", State.OK),
        ("http://127.0.0.1:7878", State.OK),
        ("http://[::1]:7878", State.OK),
        ("http://10.0.0.7:7878", State.WARN),
        ("http://bursar.example.org", State.WARN),
    ],
)
def test_keys_do_not_travel_in_the_clear(url: str, state: State) -> None:
    assert _transport(url).state is state


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    SqliteStore.open(path).close()
    return path


def looked_at(path: Path) -> dict[str, tuple[str, str]]:
    return {one.check: (one.state.value, one.found) for one in local.ledger(path)}


def test_a_ledger_that_is_served_is_looked_at_and_left_alone(ledger: Path) -> None:
    store = SqliteStore.open(ledger, exclusive=True)
    seen = looked_at(ledger)
    assert {state for state, _ in seen.values()} == {"ok"}
    assert "served by process" in seen["lock"][1]
    store.close()
    seen = looked_at(ledger)
    assert "free" in seen["lock"][1]
    SqliteStore.open(ledger, exclusive=True).close()


def test_open_permissions_an_older_schema_and_damage_are_seen(ledger: Path) -> None:
    ledger.chmod(0o644)
    lines = [one for one in local.ledger(ledger) if one.check == "permissions"]
    assert lines[0].state is State.WARN
    assert lines[0].fix == f"chmod 600 {ledger}"
    database = sqlite3.connect(ledger)
    database.execute("PRAGMA user_version = 1")
    database.close()
    assert "--migrate" in next(one.fix for one in local.ledger(ledger) if one.check == "ledger")
    ledger.write_bytes(b"noise" * 1_000)
    assert looked_at(ledger)["ledger"][0] == "fail"
    ledger.unlink()
    assert looked_at(ledger)["ledger"][0] == "fail"


def test_little_space_and_a_network_disk_are_seen(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(ledger.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    assert looked_at(ledger)["disk"][0] == "fail"
    monkeypatch.setattr(local, "_kind", lambda _: "nfs4")
    assert looked_at(ledger)["file system"][0] == "fail"


def test_a_configuration_that_others_can_read_is_seen(operator: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    config.chmod(0o644)
    ran = operator("doctor", "--json", "--config", str(config))
    assert (ran.code, states(ran)["config file"]) == (EXIT_OK, "warn")


def test_what_is_wrong_has_a_fix() -> None:
    with pytest.raises(InvariantBroken):
        type(ok("x", "y"))("x", State.WARN, "y")
