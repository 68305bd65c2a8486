"""A server that is told to stop finishes what it accepted, answers it, and exits with 0.

Precisely: every request that reached the server is either answered in full, or was never applied.
A request may find the connection closed before the server has read it; it then has no entry in
the log, and its sender is free to send it again elsewhere.
"""

import json
import signal
import socket
import threading
import time

import pytest

from e2e.accounts import Account, open_account
from e2e.compare import Witness, stored_balances
from e2e.load import BUDGETS, UNIT, Books, Client, start_all
from e2e.servers import STOP_WITHIN_S, Server, Servers

CLIENTS = 16
LOADED_S = 0.3
RESERVED = 5
QUICKLY_S = 3.0  # with nothing to wait for, on a slow machine
RESERVE = {
    "idempotency_key": "slow",
    "action": {"kind": "llm", "name": "m"},
    "estimate": {"unit": UNIT, "amount": RESERVED},
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_everything_accepted_is_answered(servers: Servers, number: signal.Signals) -> None:
    """Under load: no answer is torn, and nothing was applied without an answer."""
    server = servers.start()
    account = open_account(server, BUDGETS, unit=UNIT)
    books = Books()
    clients = [Client(f"c{i}", account, books, f"{number}-{i}") for i in range(CLIENTS)]
    threads = start_all(clients, server, threading.Event())
    time.sleep(LOADED_S)
    began = time.monotonic()
    assert server.stop(number) == 0, server.logged()
    assert time.monotonic() - began < STOP_WITHIN_S
    for thread in threads:
        thread.join()
    assert "Traceback" not in server.logged()
    asked = [asked for client in clients for asked in client.asked]
    answered = [one for one in asked if not one.pending]
    assert len(answered) > CLIENTS, "there was no load to speak of"
    assert [client.torn for client in clients if client.torn] == []
    witness = Witness(server.store, account.tenant)
    assert witness.look() == []
    assert witness.differences(asked) == [], "applied without an answer, or answered otherwise"
    assert stored_balances(server.store, account.tenant) == books.balances()


def test_idle_connections_do_not_delay_it(servers: Servers) -> None:
    """Keep-alive connections with nothing to say, used and unused, are closed at once."""
    server = servers.start()
    idle = [server.connect() for _ in range(20)]
    for connection in idle:
        assert connection.get("/health/live").status == 200
    unused = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < QUICKLY_S
    for connection in idle:
        connection.close()
    for one in unused:
        assert one.recv(1) == b"", "closed, not reset"
        one.close()


class HalfSent:
    """A request whose body has arrived up to the last byte."""

    def __init__(self, server: Server, account: Account) -> None:
        body = json.dumps(RESERVE | {"subject": {"tenant": account.tenant}}).encode()
        head = (
            "POST /v1/reservations HTTP/1.1\r\nHost: ledger\r\n"
            f"X-Cycles-API-Key: {account.secret}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._last = body[-1:]
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self._socket.sendall(head.encode() + body[:-1])
        time.sleep(0.2)  # until the server has read it; there is nothing to look at

    def finish(self) -> bytes:
        """Send the last byte and return the whole answer."""
        self._socket.sendall(self._last)
        return self.rest()

    def rest(self) -> bytes:
        """Return what comes until the connection is closed."""
        parts = []
        while part := self._socket.recv(65_536):
            parts.append(part)
        self._socket.close()
        return b"".join(parts)


def test_a_request_in_flight_is_waited_for(servers: Servers) -> None:
    """A body that arrives after the signal is still served; new connections are not taken."""
    server = servers.start()
    account = open_account(server, BUDGETS, unit=UNIT)
    request = HalfSent(server, account)
    server.process.send_signal(signal.SIGTERM)
    wait_until_closed(server)
    answer = request.finish()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    reservation_id = json.loads(answer.partition(b"\r\n\r\n")[2])["reservation_id"]
    assert reservation_id
    assert server.process.wait(STOP_WITHIN_S) == 0
    assert reserved(server, account) == RESERVED


def wait_until_closed(server: Server) -> None:
    """Wait until nobody listens at the port any more."""
    deadline = time.monotonic() + STOP_WITHIN_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    raise AssertionError("the port is still open")


def test_a_request_that_never_ends_is_given_up(servers: Servers) -> None:
    """One that does not finish in time does not keep the server; it was never applied."""
    server = servers.start(environment={"BURSAR_STOP_TIMEOUT_S": "1"})
    account = open_account(server, BUDGETS, unit=UNIT)
    request = HalfSent(server, account)
    began = time.monotonic()
    assert server.stop() == 0, server.logged()
    assert 0.9 < time.monotonic() - began < 1 + QUICKLY_S
    head, _, body = request.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert json.loads(body)["error"] == "INTERNAL_ERROR"
    assert "may or may not have happened" in json.loads(body)["message"]
    assert "Traceback" not in server.logged()
    assert reserved(server, account) == 0


@pytest.mark.parametrize(
    ("second", "waits"), [(signal.SIGTERM, True), (signal.SIGINT, False)], ids=["TERM", "INT"]
)
def test_a_second_signal(servers: Servers, second: signal.Signals, waits: bool) -> None:
    """A second SIGTERM changes nothing; a second Ctrl-C does not wait for requests in flight.

    In both cases the ledger is closed properly and the exit code is 0.
    """
    server = servers.start(environment={"BURSAR_STOP_TIMEOUT_S": "2"})
    account = open_account(server, BUDGETS, unit=UNIT)
    request = HalfSent(server, account)
    server.process.send_signal(signal.SIGTERM)
    wait_until_closed(server)
    began = time.monotonic()
    assert server.stop(second) == 0, server.logged()
    assert (time.monotonic() - began > 1) is waits
    request.rest()
    assert "Traceback" not in server.logged()
    assert not server.store.with_name(server.store.name + "-wal").exists(), "closed properly"
    assert reserved(server, account) == 0


def reserved(server: Server, account: Account) -> int:
    """Return what the tenant's own budget holds in the file that a server has left."""
    return stored_balances(server.store, account.tenant)[""]["reserved"]
