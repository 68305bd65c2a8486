"""The throttle of failed authentication: counting by the clock, then over HTTP."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bursar.core.trail import Failure
from bursar.server.attempts import WINDOW_MS, Attempts, Verdict, source_of
from server.world import Json, Response, Server, error, started

LIMIT = 3
NOW_MS = 1_750_000_000_000
HOST, OTHER = "192.0.2.1", "192.0.2.2"
WITHIN_S = 10


def row(request_id: str = "q-1") -> Failure:
    return Failure(
        tenant="__unauth__",
        request_id=request_id,
        at_ms=NOW_MS,
        operation="decide",
        status=429,
        error_code="LIMIT_EXCEEDED",
    )


def exhausted(attempts: Attempts, now_ms: int = NOW_MS, host: str = HOST) -> Attempts:
    for _ in range(LIMIT):
        assert attempts.count(host, now_ms) == Verdict()
    return attempts


def test_failures_are_counted_by_source() -> None:
    """Up to the limit an attempt is answered; after it the source waits, and no other."""
    attempts = exhausted(Attempts(LIMIT))
    assert attempts.wait_ms(HOST, NOW_MS + 1) == WINDOW_MS - 1
    assert attempts.count(HOST, NOW_MS + 1) == Verdict(WINDOW_MS - 1)
    assert attempts.wait_ms(OTHER, NOW_MS + 1) is None
    assert attempts.count(OTHER, NOW_MS + 1) == Verdict()


def test_a_source_below_its_limit_does_not_wait() -> None:
    attempts = Attempts(LIMIT)
    for _ in range(LIMIT - 1):
        attempts.count(HOST, NOW_MS)
    assert attempts.wait_ms(HOST, NOW_MS) is None


def test_after_a_minute_it_starts_again() -> None:
    attempts = exhausted(Attempts(LIMIT))
    assert attempts.wait_ms(HOST, NOW_MS + WINDOW_MS - 1) == 1
    assert attempts.wait_ms(HOST, NOW_MS + WINDOW_MS) is None
    exhausted(attempts, NOW_MS + WINDOW_MS)


def test_one_line_stands_for_all_that_follow() -> None:
    """The first attempt past the limit is written; the others are counted in its line."""
    attempts = exhausted(Attempts(LIMIT))
    assert attempts.count(HOST, NOW_MS).is_written
    attempts.stand_for(HOST, row())
    for _ in range(5):
        assert not attempts.count(HOST, NOW_MS + 7).is_written
    assert attempts.finished(NOW_MS + WINDOW_MS - 1) == []
    [line] = attempts.finished(NOW_MS + WINDOW_MS)
    assert (line.request_id, line.repeated) == ("q-1", 5)
    assert attempts.finished(NOW_MS + WINDOW_MS) == []


def test_a_line_that_stands_for_nothing_is_not_written_again() -> None:
    attempts = exhausted(Attempts(LIMIT))
    attempts.count(HOST, NOW_MS)
    attempts.stand_for(HOST, row())
    assert attempts.finished(NOW_MS + WINDOW_MS) == []


def test_sources_beyond_the_bound_share_one_count() -> None:
    """Memory is bounded, and who has a count of its own keeps it."""
    attempts = Attempts(LIMIT, sources_max=2)
    exhausted(attempts, host=HOST)
    attempts.count(OTHER, NOW_MS)
    for number in range(LIMIT):
        assert attempts.count(f"192.0.2.{number + 10}", NOW_MS) == Verdict()
    assert attempts.count("192.0.2.99", NOW_MS) == Verdict(WINDOW_MS)
    assert attempts.wait_ms("192.0.2.100", NOW_MS) == WINDOW_MS
    assert attempts.wait_ms(OTHER, NOW_MS) is None
    assert attempts.wait_ms("192.0.2.100", NOW_MS + WINDOW_MS) is None


def test_zero_sets_no_limit() -> None:
    attempts = Attempts(0)
    assert {attempts.count(HOST, NOW_MS) for _ in range(1_000)} == {Verdict()}
    assert attempts.wait_ms(HOST, NOW_MS) is None


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_what_is_one_source(address: str, source: str) -> None:
    """A subscriber has a whole network of IPv6 addresses; it is counted once."""
    assert source == source_of(address)


# Over HTTP.


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that allows five failing requests a minute."""
    directory = tmp_path_factory.mktemp("limited")
    with started(directory, BURSAR_AUTH_FAILURES_PER_MINUTE="5") as server:
        yield server


def guess(server: Server) -> Response:
    headers = {"X-Cycles-API-Key": "cyc_live_" + secrets.token_urlsafe(32)}
    return server.call("GET", "/v1/auth/introspect", headers=headers)


def strangers(server: Server) -> list[Json]:
    query = {"tenant_id": "__unauth__", "sort_dir": "asc"}
    rows: list[Json] = server.admin("GET", "/v1/admin/audit/logs", params=query).json()["logs"]
    return rows


def test_a_guesser_is_told_to_wait_and_a_known_key_is_served(limited: Server) -> None:
    """Past the limit every unknown credential is 429, a right one too; used ones go on."""
    tenant = limited.tenant()
    unused = limited.key(tenant.id)
    who = "/v1/auth/introspect"
    assert tenant.get(who).status_code == 200
    answers = [guess(limited) for _ in range(20)]
    assert [error(answer) for answer in answers[:5]] == [(401, "UNAUTHORIZED")] * 5
    assert {error(answer) for answer in answers[5:]} == {(429, "LIMIT_EXCEEDED")}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in answers[5:])

    assert error(tenant.with_key(unused).get(who)) == (429, "LIMIT_EXCEEDED")
    assert error(limited.call("GET", "/v1/nothing")) == (429, "LIMIT_EXCEEDED")
    assert tenant.get(who).status_code == 200
    assert limited.admin("GET", "/v1/admin/tenants").status_code == 200
    # A refusal of somebody who is known does not count, and is not throttled.
    assert error(tenant.get("/v1/reservations/nope")) == (404, "NOT_FOUND")

    deadline = time.monotonic() + WITHIN_S
    while len(lines := strangers(limited)) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [line["status"] for line in lines] == [401] * 5 + [429]
    assert lines[-1]["request_id"] == answers[5].headers["x-request-id"]


def test_what_a_line_stands_for_is_written_when_the_server_stops(tmp_path: Path) -> None:
    """The attempts without a line of their own are counted, even if the minute is not over."""
    with started(tmp_path, BURSAR_AUTH_FAILURES_PER_MINUTE="1") as server:
        assert [guess(server).status_code for _ in range(10)] == [401] + [429] * 9
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        rows = connection.execute("SELECT status, repeated FROM failure ORDER BY at_ms, request_id")
        assert rows.fetchall() == [(401, 0), (429, 8)]
