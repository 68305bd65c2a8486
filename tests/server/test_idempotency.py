"""The same key and the same request get the same answer to the byte; anything else gets none."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.world import Response, Tenant, amount, error, fresh, without_lease

THREADS = 20
MISMATCH = (409, "IDEMPOTENCY_MISMATCH")

Send = Callable[..., Response]


def operations(tenant: Tenant) -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return path, body and a change of the body, for everything that takes a key."""
    held = [tenant.hold(10) for _ in range(3)]
    reserve = tenant.ask(5, grace_period_ms=0, metadata={"b": 1, "a": 2})
    debit = {name: reserve[name] for name in ("idempotency_key", "subject", "action")}
    decide = debit | {"estimate": amount(5)}
    key = {"idempotency_key": fresh("k")}
    fund = f"/v1/admin/budgets/fund?scope={tenant.scope}&unit=TOKENS"
    return {
        "reserve": ("/v1/reservations", reserve, {"estimate": amount(6)}),
        "dry run": (
            "/v1/reservations",
            reserve | key | {"dry_run": True},
            {"estimate": amount(6)},
        ),
        "decide": ("/v1/decide", decide, {"metadata": {}}),
        "event": ("/v1/events", debit | {"actual": amount(5)}, {"client_time_ms": 1}),
        "commit": (
            f"/v1/reservations/{held[0]}/commit",
            key | {"actual": amount(7)},
            {"actual": amount(8)},
        ),
        "release": (f"/v1/reservations/{held[1]}/release", dict(key), {"reason": "another"}),
        "extend": (
            f"/v1/reservations/{held[2]}/extend",
            key | {"extend_by_ms": 1_000},
            {"extend_by_ms": 2_000},
        ),
        "fund": (fund, key | {"operation": "CREDIT", "amount": amount(5)}, {"amount": amount(6)}),
    }


NAMES = ["reserve", "dry run", "decide", "event", "commit", "release", "extend", "fund"]


@pytest.fixture
def funded(tenant: Tenant) -> Tenant:
    return tenant.budget(1_000)


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_is_the_first_answer(funded: Tenant, name: str) -> None:
    """Status and bytes are those of the first time, whatever became of the budget since."""
    path, body, _ = operations(funded)[name]
    first = funded.call("POST", path, body)
    assert first.status_code in (200, 201), first.text
    before = funded.state()
    funded.debit(1)
    funded.fund("CREDIT", 500)
    again = funded.call("POST", path, body)
    assert again.status_code == first.status_code
    assert without_lease(again.content) == without_lease(first.content)
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    after = funded.state()
    assert after == before | {"remaining": before["remaining"] + 499, "spent": before["spent"] + 1}


@pytest.mark.parametrize("name", NAMES)
def test_spelling_does_not_matter(funded: Tenant, name: str) -> None:
    """Order of members, spacing, escapes, and the key repeated in a header are no change."""
    path, body, _ = operations(funded)[name]
    first = funded.call("POST", path, body)
    text = json.dumps(dict(reversed(body.items())), indent=3).replace("TOKENS", "\\u0054OKENS")
    headers = {"X-Cycles-API-Key": funded.secret, "X-Idempotency-Key": body["idempotency_key"]}
    again = funded.server.client.post(path, content=text, headers=headers)
    assert without_lease(again.content) == without_lease(first.content)


@pytest.mark.parametrize("name", NAMES)
def test_another_request_under_the_same_key_is_refused(funded: Tenant, name: str) -> None:
    """409 IDEMPOTENCY_MISMATCH, and nothing changes; the original is still replayed."""
    path, body, change = operations(funded)[name]
    first = funded.call("POST", path, body)
    before = funded.state()
    assert error(funded.call("POST", path, body | change)) == MISMATCH
    assert funded.state() == before
    again = funded.call("POST", path, body)
    assert without_lease(again.content) == without_lease(first.content)


@pytest.mark.parametrize("name", NAMES)
def test_a_different_key_in_the_header_is_a_bad_request(funded: Tenant, name: str) -> None:
    """Case 1: header a and body b are 400, not 409, and nothing is stored."""
    path, body, _ = operations(funded)[name]
    before = funded.state()
    refused = funded.call("POST", path, body, headers={"X-Idempotency-Key": "other"})
    assert error(refused) == (400, "INVALID_REQUEST")
    assert "X-Idempotency-Key" in refused.json()["message"]
    assert funded.state() == before
    assert funded.call("POST", path, body).status_code in (200, 201)


@pytest.mark.parametrize("name", NAMES)
def test_at_once_in_twenty_threads(funded: Tenant, name: str) -> None:
    """Case 4: the same key from twenty threads is done once, and all get the same answer."""
    path, body, _ = operations(funded)[name]
    before = funded.state()
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda _: funded.call("POST", path, body), range(THREADS)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({without_lease(answer.content) for answer in answers}) == 1
    change = {name: funded.state()[name] - before[name] for name in ("remaining", "reserved")}
    assert change == {
        "reserve": {"remaining": -5, "reserved": 5},
        "event": {"remaining": -5, "reserved": 0},
        "commit": {"remaining": 3, "reserved": -10},
        "release": {"remaining": 10, "reserved": -10},
        "fund": {"remaining": 5, "reserved": 0},
    }.get(name, {"remaining": 0, "reserved": 0})


def test_a_key_in_other_letters(funded: Tenant) -> None:
    """A header carries the same key as the body in UTF-8; 256 characters fit, 257 do not."""
    body = funded.ask(1) | {"idempotency_key": "schlüssel-键"}
    headers = {"X-Idempotency-Key": "schlüssel-键".encode()}
    assert funded.call("POST", "/v1/reservations", body, headers=headers).status_code == 200
    assert funded.reserve(1, idempotency_key="k" * 256).status_code == 200
    assert error(funded.reserve(1, idempotency_key="k" * 257)) == (400, "INVALID_REQUEST")


def test_dry_run_and_reserve_share_their_keys(funded: Tenant) -> None:
    """Cases 2 and 3: flipping dry_run is another request, either way, and holds nothing."""
    for first, second in (({"dry_run": True}, {}), ({}, {"dry_run": True})):
        body = funded.ask(5)
        assert funded.call("POST", "/v1/reservations", body | first).status_code == 200
        before = funded.state()
        assert error(funded.call("POST", "/v1/reservations", body | second)) == MISMATCH
        assert funded.state() == before


def test_spelling_out_a_default_is_no_change(funded: Tenant) -> None:
    """The comparison is made after defaults (protocol 1.5)."""
    body = funded.ask(5)
    first = funded.call("POST", "/v1/reservations", body)
    spelled = body | {"dry_run": False, "grace_period_ms": 5_000, "ttl_ms": 60_000}
    again = funded.call("POST", "/v1/reservations", spelled)
    assert again.json()["reservation_id"] == first.json()["reservation_id"]


def test_create_replayed_after_its_commit(funded: Tenant) -> None:
    """Case 5: the original body with the original balances, and no lease left."""
    body = funded.ask(10)
    first = funded.call("POST", "/v1/reservations", body).json()
    assert first["remaining_ttl_ms"] == 60_000
    assert funded.commit(first["reservation_id"], 4).status_code == 200
    again = funded.call("POST", "/v1/reservations", body).json()
    assert again == first | {"remaining_ttl_ms": 0}


def test_extend_replayed_after_another_extend(funded: Tenant) -> None:
    """Case 6: the first extension's expiry, and the lease counted from it; no extension is used."""
    held = funded.reserve(1).json()
    identity = held["reservation_id"]
    key = fresh("k")
    first = funded.extend(identity, 10_000, idempotency_key=key).json()
    assert first["expires_at_ms"] == held["expires_at_ms"] + 10_000
    second = funded.extend(identity, 10_000).json()
    again = funded.extend(identity, 10_000, idempotency_key=key).json()
    assert again | {"remaining_ttl_ms": 0} == first | {"remaining_ttl_ms": 0}
    assert again["remaining_ttl_ms"] <= first["remaining_ttl_ms"]
    assert second["expires_at_ms"] == first["expires_at_ms"] + 10_000
    third = funded.extend(identity, 10_000).json()
    assert third["expires_at_ms"] == second["expires_at_ms"] + 10_000


def test_a_refusal_is_not_remembered(tenant: Tenant) -> None:
    """Case 7: after a top-up the same key makes a reservation."""
    tenant.budget(5)
    body = tenant.ask(10)
    assert error(tenant.call("POST", "/v1/reservations", body)) == (409, "BUDGET_EXCEEDED")
    tenant.fund("CREDIT", 5)
    assert tenant.call("POST", "/v1/reservations", body).status_code == 200


@pytest.mark.parametrize("path", ["/v1/decide", "/v1/reservations"])
def test_a_deny_is_remembered(tenant: Tenant, path: str) -> None:
    """Case 8: a DENY is an answer, and is replayed even after a top-up."""
    tenant.budget(5)
    body = tenant.ask(10) | ({"dry_run": True} if path == "/v1/reservations" else {})
    first = tenant.call("POST", path, body)
    assert first.json()["decision"] == "DENY"
    tenant.fund("CREDIT", 5)
    assert tenant.call("POST", path, body).content == first.content
    fresh_key = body | {"idempotency_key": fresh("k")}
    assert tenant.call("POST", path, fresh_key).json()["decision"] == "ALLOW"


def test_settling_twice(funded: Tenant) -> None:
    """Cases 9 and 10: a second key meets a settled reservation; the first is replayed."""
    verbs: dict[str, tuple[Send, Send]] = {
        "commit": (lambda held, **f: funded.commit(held, 4, **f), funded.release),
        "release": (funded.release, lambda held, **f: funded.commit(held, 4, **f)),
    }
    for send, other in verbs.values():
        held = funded.hold(10)
        key = {"idempotency_key": fresh("k")}
        first = send(held, **key)
        before = funded.state()
        assert error(send(held)) == (409, "RESERVATION_FINALIZED")
        assert error(other(held, **key)) == (409, "RESERVATION_FINALIZED")
        assert error(funded.extend(held)) == (409, "RESERVATION_FINALIZED")
        assert send(held, **key).content == first.content
        assert funded.state() == before
    held = funded.hold(10)
    assert funded.commit(held, 4, **key).status_code == 200
    assert error(funded.commit(held, 5, **key)) == MISMATCH


def test_a_key_belongs_to_a_tenant_an_operation_and_a_reservation(
    funded: Tenant, new_tenant: Callable[..., Tenant]
) -> None:
    """One key may serve a reserve, its commit, an event, another reservation, another tenant."""
    key = {"idempotency_key": "one-key-for-all"}
    held = [funded.hold(10, **key), funded.hold(10)]
    assert funded.decide(1, **key).status_code == 200
    assert funded.debit(1, **key).status_code == 201
    for one in held:
        assert funded.extend(one, **key).status_code == 200
        assert funded.commit(one, 10, **key).status_code == 200
    assert new_tenant().budget(10).reserve(10, **key).status_code == 200


def test_a_new_api_key_does_not_matter(funded: Tenant) -> None:
    """Identity is per tenant: a rotated key replays what the old one did."""
    body = funded.ask(10)
    first = funded.call("POST", "/v1/reservations", body)
    rotated = funded.with_key(funded.server.key(funded.id))
    again = rotated.call("POST", "/v1/reservations", body)
    assert without_lease(again.content) == without_lease(first.content)


def test_fund_keys_cover_scope_and_unit(funded: Tenant) -> None:
    """A funding's key under another scope or unit is another request (conflict 9)."""
    funded.budget(10, "agent:bot").budget(10, unit="CREDITS")
    key = {"idempotency_key": fresh("k")}
    assert funded.fund("CREDIT", 5, **key).status_code == 200
    assert error(funded.fund("CREDIT", 5, "agent:bot", **key)) == MISMATCH
    assert error(funded.fund("CREDIT", 5, unit="CREDITS", **key)) == MISMATCH
    assert error(funded.fund("DEBIT", 5, **key)) == MISMATCH
    assert funded.state("agent:bot")["remaining"] == 10


def test_the_operator_and_the_tenant_share_keys_of_a_reservation(funded: Tenant) -> None:
    """A release is replayed whoever asks again, because it is the same tenant's."""
    held, key = funded.hold(10), {"idempotency_key": fresh("k")}
    first = funded.admin_release(held, **key)
    assert first.status_code == 200
    assert funded.release(held, **key).content == first.content
