"""A clock that jumps back: the ledger's time does not, so leases neither revive nor vanish."""

import json
import os
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.core.commands import AnyCommand
from bursar.core.outcomes import Refused
from bursar.ledger import sweep
from bursar.ledger.audit import audit
from bursar.ledger.service import Accepted, Ledger
from bursar.storage.sqlite.reader import SqliteReader
from bursar.testing import FakeClock
from bursar.vocabulary import ErrorCode, ReservationStatus
from e2e.accounts import Account, open_account
from e2e.ledgers import (
    TENANT,
    attempt,
    commit,
    debit,
    expire,
    extend,
    found,
    opened,
    release,
    reserve,
    run,
    write_ledger,
)
from e2e.servers import Server, Servers

HOUR_MS = 3_600_000
STEPS = 300
LEASE_MS = 1_000
EXPIRED_WITHIN_S = 60
BEHIND = "the wall clock is behind the ledger's time"
LIBRARY = "faketime/libfaketimeMT.so.1"
FAKETIME = (
    [Path(os.environ["LIBFAKETIME"])]
    if "LIBFAKETIME" in os.environ
    else [
        path
        for place in (Path("/usr/lib"), Path("/usr/local/lib"))
        for path in (*place.glob(LIBRARY), *place.glob(f"*/{LIBRARY}"))
    ]
)


# --- the ledger over a clock that is told the time ---------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock) -> Iterator[Ledger]:
    with opened(tmp_path / "ledger.db", clock) as made:
        found(made)
        yield made


def held(ledger: Ledger, *, ttl_ms: int, grace_ms: int = 0) -> str:
    """Reserve and return the reservation's id."""
    command = reserve(100, ttl_ms=ttl_ms, grace_ms=grace_ms)
    reservation_id = run(ledger, command).reply.reservation_id
    assert reservation_id is not None
    return reservation_id


def refused(ledger: Ledger, command: AnyCommand) -> ErrorCode:
    outcome = attempt(ledger, command)
    assert isinstance(outcome, Refused), outcome
    return outcome.code


def test_the_log_never_goes_back(ledger: Ledger, clock: FakeClock) -> None:
    """After a jump back an entry gets the time of the newest one, until the clock catches up."""
    newest_ms = run(ledger, debit(1)).at_ms
    clock.set_ms(newest_ms - HOUR_MS)
    assert run(ledger, debit(1)).at_ms == newest_ms
    clock.set_ms(newest_ms + 5)
    assert run(ledger, debit(1)).at_ms == newest_ms + 5
    assert audit(ledger.store.reader).findings == ()


def test_a_live_lease_does_not_vanish(ledger: Ledger, clock: FakeClock) -> None:
    """A jump back ends nothing: the lease is not due, can be extended, and settles."""
    first, second = held(ledger, ttl_ms=60_000), held(ledger, ttl_ms=60_000)
    clock.set_ms(clock.now_ms() - HOUR_MS)
    assert sweep.plan(ledger.store.reader, clock.now_ms(), "") == []
    assert refused(ledger, expire(first)) is ErrorCode.INVALID_REQUEST
    assert run(ledger, extend(first, 1_000)).remaining_ttl_ms == 61_000
    run(ledger, commit(first, 90))
    run(ledger, release(second))


def test_a_new_lease_has_its_whole_length(ledger: Ledger, clock: FakeClock) -> None:
    """A reservation made after a jump back counts from the ledger's time, not from the clock's."""
    newest_ms = run(ledger, debit(1)).at_ms
    clock.set_ms(newest_ms - HOUR_MS)
    outcome = run(ledger, reserve(100, ttl_ms=60_000))
    assert outcome.reply.lease_expires_at_ms == newest_ms + 60_000
    assert outcome.remaining_ttl_ms == 60_000


def test_a_lapsed_lease_does_not_revive(ledger: Ledger, clock: FakeClock) -> None:
    """Neither one that was swept nor one that had lapsed by the time of the newest entry."""
    swept, unswept = held(ledger, ttl_ms=1_000), held(ledger, ttl_ms=1_000)
    clock.advance_ms(1_001)
    run(ledger, expire(swept))
    clock.set_ms(clock.now_ms() - HOUR_MS)
    for reservation_id in (swept, unswept):
        assert refused(ledger, commit(reservation_id, 90)) is ErrorCode.RESERVATION_EXPIRED
        assert refused(ledger, extend(reservation_id, 1_000)) is ErrorCode.RESERVATION_EXPIRED
    run(ledger, expire(unswept))
    assert audit(ledger.store.reader).findings == ()


def test_any_jumps_leave_a_sound_ledger(ledger: Ledger, clock: FakeClock) -> None:
    """Whatever the clock does: entries in order, every lease ends once, the audit is clean."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance, open_leases, accepted = random.Random(seed), list[str](), 0
    for _ in range(STEPS):
        clock.set_ms(clock.now_ms() + chance.choice((0, 1, 700, 5_000, -1, -3_000, -HOUR_MS)))
        if not open_leases or chance.random() < 0.5:
            open_leases.append(held(ledger, ttl_ms=2_000, grace_ms=500))
            continue
        reservation_id = chance.choice(open_leases)
        verb = chance.choice((expire(reservation_id), commit(reservation_id, 50)))
        if isinstance(attempt(ledger, verb), Accepted):
            open_leases.remove(reservation_id)
            accepted += 1
    assert accepted > 0, "nothing was settled, so nothing was tested"
    reader = ledger.store.reader
    assert audit(reader).findings == ()
    times = [entry.at_ms for entry in reader.entries(TENANT)]
    assert times == sorted(times)
    for reservation_id in open_leases:
        row = reader.reservation(TENANT, reservation_id)
        assert row is not None
        assert row.status is ReservationStatus.ACTIVE


# --- a real server -----------------------------------------------------------------------


def leased(server: Server, account: Account) -> tuple[str, int]:
    """Reserve for the shortest lease and return its id and its end."""
    body = {
        "idempotency_key": secrets.token_hex(8),
        "subject": {"tenant": account.tenant},
        "action": {"kind": "llm", "name": "m"},
        "estimate": {"unit": "TOKENS", "amount": 5},
        "ttl_ms": LEASE_MS,
        "grace_period_ms": 0,
    }
    with account.connect(server) as connection:
        reply = connection.post("/v1/reservations", body).json()
    assert reply["remaining_ttl_ms"] == LEASE_MS
    return reply["reservation_id"], reply["expires_at_ms"]


def expired_after_s(server: Server, account: Account, reservation_id: str) -> float:
    """Wait until the sweep has ended a lease and return how long that took."""
    began = time.monotonic()
    with account.connect(server) as connection:
        while connection.get(f"/v1/reservations/{reservation_id}").status != 410:
            assert time.monotonic() - began < EXPIRED_WITHIN_S, "the lease does not end"
            time.sleep(0.05)
    return time.monotonic() - began


def warnings(server: Server) -> list[int]:
    """Return how far behind the server said that the wall clock is, each time."""
    lines = [json.loads(line) for line in server.logged().splitlines()]
    return [line["behind_ms"] for line in lines if line["event"].startswith(BEHIND)]


def times_of(server: Server, tenant: str) -> list[int]:
    reader = SqliteReader(server.store)
    try:
        return [entry.at_ms for entry in reader.entries(tenant)]
    finally:
        reader.close()


def test_a_server_whose_clock_is_an_hour_behind_its_ledger(servers: Servers) -> None:
    """It starts, warns, and goes on from the newest entry; leases end by the steady clock."""
    ahead_ms = time.time_ns() // 1_000_000 + HOUR_MS
    write_ledger(servers.directory / "ledger.db", FakeClock(ahead_ms))
    server = servers.start()
    account = open_account(server, {"": 1_000})
    reservation_id, expires_at_ms = leased(server, account)
    assert ahead_ms <= expires_at_ms - LEASE_MS < ahead_ms + 60_000
    assert expired_after_s(server, account, reservation_id) >= LEASE_MS / 1_000 * 0.5
    assert min(times_of(server, account.tenant)) >= ahead_ms
    assert warnings(server), server.logged()
    assert all(HOUR_MS - 60_000 < behind_ms <= HOUR_MS for behind_ms in warnings(server))
    assert server.stop() == 0


@pytest.mark.skipif(
    not FAKETIME,
    reason="libfaketime is not installed (Debian: libfaketime), and LIBFAKETIME names no other",
)
def test_a_clock_that_jumps_back_under_a_running_server(servers: Servers) -> None:
    """A lease from before the jump ends when it would have ended; later times go on from there."""
    told = servers.directory / "faketime"
    told.write_text("+0\n")
    server = servers.start(
        environment={
            "LD_PRELOAD": str(FAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(told),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    )
    account = open_account(server, {"": 1_000})
    before, before_ends_ms = leased(server, account)
    told.write_text("-3600\n")
    after, after_ends_ms = leased(server, account)
    assert 0 <= after_ends_ms - before_ends_ms < 60_000
    expired_after_s(server, account, before)
    expired_after_s(server, account, after)
    times = times_of(server, account.tenant)
    assert times == sorted(times)
    assert warnings(server), server.logged()
    assert server.stop() == 0
