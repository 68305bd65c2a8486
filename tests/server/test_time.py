"""Leases over real time: what works before expiry, in grace, past grace, and after the sweep.

Everything that has to lapse is made first; then the module waits once for all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from server.world import Json, Response, Server, Tenant, error, fresh, started

LEASE = {"ttl_ms": 1_000, "grace_period_ms": 0}
SWEPT_WITHIN_S = 5.0
HOUR_MS = 3_600_000


def rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Lapsed:
    """Leases that ended a moment ago, and what was answered before a sweep came by."""

    swept: Tenant
    manual: Tenant
    other: Tenant
    old_key: str
    in_grace: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    unswept: dict[str, Response] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    extended: str = ""
    replayed: Json = field(default_factory=dict)


@pytest.fixture(scope="module")
def rarely_swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    """A tenant on a server that sweeps when it starts, and then not for five seconds."""
    directory = tmp_path_factory.mktemp("rarely")
    with started(directory, BURSAR_SWEEP_INTERVAL_MS="5000") as running:
        yield running.tenant().budget(1_000)


@pytest.fixture(scope="module")
def lapsed(server: Server, rarely_swept: Tenant) -> Lapsed:
    swept = server.tenant().budget(1_000).budget(1_000, "agent:frozen").budget(1_000, "agent:ext")
    manual = server.tenant(reservation_expiry_policy="MANUAL_CLEANUP").budget(1_000)
    old_key = server.key(swept.id, expires_at=rfc3339(time.time() + 1.2))
    made = Lapsed(swept, manual, server.tenant(), old_key)
    assert swept.with_key(old_key).balances() != []
    made.in_grace = [swept.hold(10, ttl_ms=1_000, grace_period_ms=60_000) for _ in range(3)]
    made.replayed = swept.ask(10, **LEASE)
    first = swept.call("POST", "/v1/reservations", made.replayed).json()
    made.expired = [first["reservation_id"], swept.hold(10, **LEASE)]
    made.expired.append(swept.hold(7, "agent:frozen", **LEASE))
    assert swept.turn("freeze", "agent:frozen").status_code == 200
    made.held = [manual.hold(10, **LEASE) for _ in range(2)]
    late = rarely_swept.hold(10, **LEASE)
    made.extended = swept.hold(3, "agent:ext", **LEASE)
    assert swept.extend(made.extended, 60_000).status_code == 200
    time.sleep(1.3)
    made.unswept = {
        "unit": rarely_swept.commit(late, 1, "CREDITS"),
        "commit": rarely_swept.commit(late, 1),
        "release": rarely_swept.release(late),
        "extend": rarely_swept.extend(late),
        "get": rarely_swept.reservation(late),
        "list": rarely_swept.get("/v1/reservations", status="ACTIVE"),
        "balances": rarely_swept.get("/v1/balances", tenant=rarely_swept.id),
    }
    deadline = time.monotonic() + SWEPT_WITHIN_S
    while len(swept.listed(status="EXPIRED")) < len(made.expired):
        assert time.monotonic() < deadline, "the sweep did not come"
        time.sleep(0.02)
    return made


EXPIRED = (410, "RESERVATION_EXPIRED")


def test_commit_and_release_in_grace(lapsed: Lapsed) -> None:
    """Cases 11 and 12: in grace a commit and a release work, and an extend does not."""
    tenant, (first, second, third) = lapsed.swept, lapsed.in_grace
    assert tenant.reservation(first).json()["status"] == "ACTIVE"
    assert error(tenant.extend(first)) == EXPIRED
    assert tenant.commit(first, 4).json()["status"] == "COMMITTED"
    assert tenant.release(second).json()["status"] == "RELEASED"
    assert tenant.admin_release(third).json()["status"] == "RELEASED"


def test_past_grace_before_the_sweep(lapsed: Lapsed) -> None:
    """Case 13: settling is 410, but until the sweep it is shown as active and money is held."""
    for verb in ("commit", "release", "extend"):
        refused = lapsed.unswept[verb]
        assert error(refused) == EXPIRED
        assert "POST /v1/events" in refused.json()["message"]
    assert lapsed.unswept["get"].json()["status"] == "ACTIVE"
    [row] = lapsed.unswept["list"].json()["reservations"]
    assert row["status"] == "ACTIVE"
    assert lapsed.unswept["balances"].json()["balances"][0]["reserved"]["amount"] == 10


def test_manual_cleanup(lapsed: Lapsed) -> None:
    """Where nobody sweeps, the hold stays until a release; a commit is too late all the same."""
    tenant, (first, second) = lapsed.manual, lapsed.held
    assert tenant.state()["reserved"] == 20
    assert error(tenant.commit(first, 1)) == EXPIRED
    assert error(tenant.extend(first)) == EXPIRED
    assert tenant.release(first).status_code == 200
    assert tenant.admin_release(second).status_code == 200
    assert tenant.state()["remaining"] == 1_000


def test_after_the_sweep(lapsed: Lapsed) -> None:
    """Case 14: one is 410, the list still has its row, and the hold went back (case 79 too)."""
    tenant = lapsed.swept
    for held in lapsed.expired:
        assert error(tenant.reservation(held)) == EXPIRED
        for refused in (tenant.commit(held, 1), tenant.release(held), tenant.extend(held)):
            assert error(refused) == EXPIRED
    rows = tenant.get("/v1/reservations", status="EXPIRED").json()["reservations"]
    assert sorted(row["reservation_id"] for row in rows) == sorted(lapsed.expired)
    assert {row["status"] for row in rows} == {"EXPIRED"}
    assert not any("finalized_at_ms" in row or "committed" in row for row in rows)
    assert tenant.state("agent:frozen")["reserved"] == 0


def test_unit_comes_before_time(lapsed: Lapsed) -> None:
    """Case 16: a wrong unit past grace is 400 while the status is still active."""
    refused = lapsed.unswept["unit"]
    assert error(refused) == (400, "UNIT_MISMATCH")
    assert refused.json()["details"]["expected_units"] == ["TOKENS"]
    assert error(lapsed.swept.commit(lapsed.expired[0], 1, "CREDITS")) == EXPIRED


def test_ownership_comes_before_state(lapsed: Lapsed) -> None:
    """Case 17: another tenant gets 403 for an expired reservation, whatever it asks."""
    other, held = lapsed.other, lapsed.expired[0]
    refused: list[Response] = [
        other.commit(held, 1),
        other.release(held),
        other.extend(held),
        other.reservation(held),
    ]
    assert [error(response) for response in refused] == [(403, "FORBIDDEN")] * 4


def test_the_extended_lease_lives_on(lapsed: Lapsed) -> None:
    """What was extended in time is not swept at its first expiry."""
    assert lapsed.swept.reservation(lapsed.extended).json()["status"] == "ACTIVE"
    assert lapsed.swept.commit(lapsed.extended, 3).status_code == 200


def test_a_replay_of_an_expired_reserve(lapsed: Lapsed) -> None:
    """The original answer, with no lease left; the key does not hold anything again."""
    before = lapsed.swept.state()
    again = lapsed.swept.call("POST", "/v1/reservations", lapsed.replayed)
    assert again.status_code == 200
    assert again.json()["reservation_id"] == lapsed.expired[0]
    assert again.json()["remaining_ttl_ms"] == 0
    assert lapsed.swept.state() == before


def test_finalized_windows_exclude_what_never_settled(lapsed: Lapsed) -> None:
    """Case 54: active and expired rows have no finalized_at_ms and are excluded."""
    tenant = lapsed.swept
    settled = set(tenant.listed(finalized_from="2020-01-01T00:00:00Z"))
    assert settled.isdisjoint(lapsed.expired)
    assert settled == set(tenant.listed(status="COMMITTED") + tenant.listed(status="RELEASED"))
    assert not set(tenant.listed(finalized_to="2100-01-01T00:00:00Z")) & set(lapsed.expired)


def test_an_expired_api_key(lapsed: Lapsed) -> None:
    """A key is refused from the moment it expires, although it was remembered as good."""
    refused = lapsed.swept.with_key(lapsed.old_key).get("/v1/balances", tenant=lapsed.swept.id)
    assert error(refused) == (401, "UNAUTHORIZED")
    assert refused.json()["message"] == "This API key is expired"


@pytest.mark.parametrize(
    ("ttl_ms", "granted_ms"),
    [(None, 60_000), (1_000, 1_000), (HOUR_MS, HOUR_MS), (86_400_000, HOUR_MS)],
)
def test_granted_leases(tenant: Tenant, ttl_ms: int | None, granted_ms: int) -> None:
    """Case 19: a lease longer than the tenant allows is shortened silently, not refused."""
    tenant.budget(10)
    asked = {} if ttl_ms is None else {"ttl_ms": ttl_ms}
    before_ms = time.time_ns() // 1_000_000
    answer = tenant.reserve(1, **asked).json()
    assert answer["remaining_ttl_ms"] == granted_ms
    assert 0 <= answer["expires_at_ms"] - granted_ms - before_ms < 5_000


def test_a_tenants_own_leases(new_tenant: Callable[..., Tenant]) -> None:
    """A tenant's default and maximum count; the range of the request is checked first."""
    fields = {"default_reservation_ttl_ms": 5_000, "max_reservation_ttl_ms": 7_000}
    tenant = new_tenant(**fields).budget(10)
    assert tenant.reserve(1).json()["remaining_ttl_ms"] == 5_000
    assert tenant.reserve(1, ttl_ms=6_000).json()["remaining_ttl_ms"] == 6_000
    assert tenant.reserve(1, ttl_ms=8_000).json()["remaining_ttl_ms"] == 7_000
    assert error(tenant.reserve(1, ttl_ms=86_400_001)) == (400, "INVALID_REQUEST")
    held = tenant.hold(1)
    longer = tenant.extend(held, 86_400_000).json()
    assert longer["remaining_ttl_ms"] > 86_400_000


def test_the_last_extension(new_tenant: Callable[..., Tenant]) -> None:
    """Case 45: after two of two the third is refused, and the second is still replayed."""
    tenant = new_tenant(max_reservation_extensions=2).budget(10)
    held = tenant.hold(1)
    assert tenant.extend(held).status_code == 200
    key = fresh("k")
    second = tenant.extend(held, idempotency_key=key).json()
    assert error(tenant.extend(held)) == (409, "MAX_EXTENSIONS_EXCEEDED")
    assert tenant.reservation(held).json()["expires_at_ms"] == second["expires_at_ms"]
    again = tenant.extend(held, idempotency_key=key).json()
    assert again["expires_at_ms"] == second["expires_at_ms"]
    none = new_tenant(max_reservation_extensions=0).budget(10)
    assert error(none.extend(none.hold(1))) == (409, "MAX_EXTENSIONS_EXCEEDED")


def test_an_extension_counts_from_the_old_end(tenant: Tenant) -> None:
    """The new expiry is the old one and what was asked; balances are as they were."""
    held = tenant.budget(10).reserve(4).json()
    answer = tenant.extend(held["reservation_id"], 30_000).json()
    assert answer["status"] == "ACTIVE"
    assert answer["expires_at_ms"] == held["expires_at_ms"] + 30_000
    assert 85_000 < answer["remaining_ttl_ms"] <= 90_000
    assert answer["balances"] == held["balances"]


def test_client_time_decides_nothing(tenant: Tenant) -> None:
    """`client_time_ms` and the Date header are advice that nobody takes."""
    tenant.budget(10)
    for client_time_ms in (0, 2**63 - 1):
        assert tenant.debit(1, client_time_ms=client_time_ms).status_code == 201
    date = (datetime.now(UTC) + timedelta(days=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    held = tenant.call("POST", "/v1/reservations", tenant.ask(1), headers={"Date": date})
    assert held.json()["remaining_ttl_ms"] == 60_000
