"""`runcycles`, its synchronous and asynchronous clients: every operation, and every kind of no.

Its models forbid unknown members and check types, so parsing an answer with them is a test.
"""

from collections.abc import Callable
from typing import Any

import pytest
from runcycles import (
    Action,
    Amount,
    AsyncCyclesClient,
    BalanceResponse,
    CommitRequest,
    CommitResponse,
    CyclesClient,
    CyclesMetrics,
    CyclesResponse,
    Decision,
    DecisionRequest,
    DecisionResponse,
    EventCreateRequest,
    EventCreateResponse,
    ReleaseRequest,
    ReleaseResponse,
    ReservationCreateRequest,
    ReservationCreateResponse,
    ReservationDetail,
    ReservationExtendRequest,
    ReservationExtendResponse,
    ReservationListResponse,
    Subject,
    Unit,
)

from e2e.accounts import open_account
from e2e.servers import Server
from peers.desk import ALLOCATED, Desk

ACTION = Action(kind="llm.completion", name="m1", tags=["prod"])
LARGE = 2**53 + 1  # not a float


def usd(amount: int) -> Amount:
    return Amount(unit=Unit.USD_MICROCENTS, amount=amount)


def subject(desk: Desk, **more: Any) -> Subject:
    return Subject(tenant=desk.tenant, agent="bot", **more)


def reserving(desk: Desk, key: str, estimate: int = 100, **more: Any) -> ReservationCreateRequest:
    return ReservationCreateRequest(
        idempotency_key=key, subject=subject(desk), action=ACTION, estimate=usd(estimate), **more
    )


def made(response: CyclesResponse) -> ReservationCreateResponse:
    assert response.status == 200, response
    return ReservationCreateResponse.model_validate(response.body)


def refusal(response: CyclesResponse) -> tuple[int, str]:
    """Return status and code of a refusal; its message is for people and must be there."""
    assert not response.is_success
    assert response.error_message
    assert response.request_id
    return response.status, str(response.body["error"])


# --- every operation -----------------------------------------------------------------------


def test_decide(desk: Desk, client: CyclesClient) -> None:
    """ALLOW, and DENY with a reason code; neither holds anything."""

    def decide(key: str, estimate: int) -> DecisionResponse:
        request = DecisionRequest(
            idempotency_key=key, subject=subject(desk), action=ACTION, estimate=usd(estimate)
        )
        return DecisionResponse.model_validate(client.decide(request).body)

    allowed = decide("d-1", 100)
    assert allowed.is_allowed()
    assert allowed.caps is None
    denied = decide("d-2", ALLOCATED + 1)
    assert denied.is_denied()
    assert denied.reason_code == "BUDGET_EXCEEDED"
    assert desk.spent() == 0


def test_reserve_extend_commit(desk: Desk, client: CyclesClient) -> None:
    """A reservation's whole life, with everything that the models can carry."""
    answer = made(client.create_reservation(reserving(desk, "r-1", metadata={"run": 7})))
    assert answer.decision is Decision.ALLOW
    assert answer.reserved == usd(100)
    assert answer.remaining_ttl_ms == 60_000
    assert answer.affected_scopes == [f"tenant:{desk.tenant}", f"tenant:{desk.tenant}/agent:bot"]
    assert answer.reservation_id is not None
    extension = ReservationExtendRequest(idempotency_key="x-1", extend_by_ms=5_000)
    extended = ReservationExtendResponse.model_validate(
        client.extend_reservation(answer.reservation_id, extension).body
    )
    assert answer.expires_at_ms is not None
    assert extended.expires_at_ms == answer.expires_at_ms + 5_000
    metrics = CyclesMetrics(tokens_input=10, tokens_output=20, latency_ms=3, model_version="m1")
    settled = CommitResponse.model_validate(
        client.commit_reservation(
            answer.reservation_id,
            CommitRequest(idempotency_key="c-1", actual=usd(60), metrics=metrics),
        ).body
    )
    assert (settled.charged, settled.released) == (usd(60), usd(40))
    detail = ReservationDetail.model_validate(client.get_reservation(answer.reservation_id).body)
    assert detail.is_committed()
    assert detail.committed == usd(60)
    assert detail.metadata == {"run": 7}
    assert desk.spent() == 60


def test_release(desk: Desk, client: CyclesClient) -> None:
    answer = made(client.create_reservation(reserving(desk, "r-1")))
    assert answer.reservation_id is not None
    body = ReleaseRequest(idempotency_key="f-1", reason="not needed")
    released = ReleaseResponse.model_validate(
        client.release_reservation(answer.reservation_id, body).body
    )
    assert released.released == usd(100)
    assert desk.spent() == 0


def test_dry_run(desk: Desk, client: CyclesClient) -> None:
    """It answers what a reserve would, and makes no reservation."""
    allowed = made(client.create_reservation(reserving(desk, "r-1", dry_run=True)))
    assert (allowed.decision, allowed.reservation_id) == (Decision.ALLOW, None)
    denied = made(client.create_reservation(reserving(desk, "r-2", ALLOCATED + 1, dry_run=True)))
    assert (denied.decision, denied.reason_code) == (Decision.DENY, "BUDGET_EXCEEDED")
    assert desk.rows() == []


def test_event(desk: Desk, client: CyclesClient) -> None:
    """A cost that already happened; `charged` appears only where it was capped."""

    def event(key: str, actual: int) -> EventCreateResponse:
        request = EventCreateRequest(
            idempotency_key=key,
            subject=subject(desk),
            action=ACTION,
            actual=usd(actual),
            client_time_ms=1,
        )
        response = client.create_event(request)
        assert response.status == 201
        return EventCreateResponse.model_validate(response.body)

    assert event("e-1", 70).charged is None
    assert event("e-2", ALLOCATED).charged == usd(ALLOCATED - 70)
    assert desk.spent() == ALLOCATED


def test_balances_and_lists(desk: Desk, client: CyclesClient) -> None:
    """The models of lists fit, and a cursor leads from page to page."""
    for number in range(5):
        made(client.create_reservation(reserving(desk, f"r-{number}")))
    found = BalanceResponse.model_validate(client.get_balances(tenant=desk.tenant).body)
    [balance] = found.balances
    assert balance.reserved == usd(500)
    assert balance.remaining.amount == ALLOCATED - 500
    seen: list[str] = []
    query = {"tenant": desk.tenant, "status": "ACTIVE", "limit": "2"}
    while True:
        page = ReservationListResponse.model_validate(client.list_reservations(**query).body)
        seen += [row.idempotency_key or "" for row in page.reservations]
        if not page.has_more:
            break
        assert page.next_cursor is not None
        query["cursor"] = page.next_cursor
    assert sorted(seen) == [f"r-{number}" for number in range(5)]
    window = {"from": "2000-01-01T00:00:00Z", "to": "2000-01-02T00:00:00Z"}
    old = ReservationListResponse.model_validate(client.list_reservations(**window).body)
    assert old.reservations == []


def test_members_that_the_client_has_no_model_for(desk: Desk, client: CyclesClient) -> None:
    """The schema has more members of settled reservations than the models of this version.

    They travel all the same: the client's methods return the whole body, and its models of a
    reservation are only for those who ask for them.
    """
    answer = made(client.create_reservation(reserving(desk, "r-1")))
    body = CommitRequest(idempotency_key="c-1", actual=usd(60), metadata={"ok": True})
    assert client.commit_reservation(answer.reservation_id or "", body).is_success
    detail = client.get_reservation(answer.reservation_id or "").body
    assert detail is not None
    assert detail["committed_metadata"] == {"ok": True}
    listed = client.list_reservations(include="committed_metadata").body
    assert listed is not None
    [row] = listed["reservations"]
    assert row["committed"] == {"unit": "USD_MICROCENTS", "amount": 60}
    assert row["committed_metadata"] == {"ok": True}
    assert row["finalized_at_ms"] >= row["created_at_ms"]


def test_amounts_above_what_a_float_holds(server: Server, desk: Desk, client: CyclesClient) -> None:
    """Nothing on the way of an amount rounds it."""
    rich = open_account(server, {"": 2**63 - 1}, unit="USD_MICROCENTS")
    with CyclesClient(desk.config(api_key=rich.secret, tenant=rich.tenant)) as other:
        desk.watch(other)
        request = reserving(desk, "r-1", LARGE)
        request.subject = Subject(tenant=rich.tenant)
        answer = made(other.create_reservation(request))
    assert answer.reserved == usd(LARGE)
    assert answer.balances is not None
    assert answer.balances[0].remaining.amount == 2**63 - 1 - LARGE


def test_a_retry_gets_the_recorded_answer(desk: Desk, client: CyclesClient) -> None:
    """The client sends the key in body and header; the same request is answered the same."""
    first = client.create_reservation(reserving(desk, "r-1"))
    again = client.create_reservation(reserving(desk, "r-1"))
    volatile = {"remaining_ttl_ms"}
    assert made(first).model_dump(exclude=volatile) == made(again).model_dump(exclude=volatile)
    assert first.request_id != again.request_id
    assert first.cycles_tenant == desk.tenant
    assert len(desk.rows()) == 1


# --- every kind of no ------------------------------------------------------------------------


def test_refusals(server: Server, desk: Desk, client: CyclesClient) -> None:
    """What the ledger refuses carries the protocol's status and code."""
    held = made(client.create_reservation(reserving(desk, "r-1", overage_policy="REJECT")))
    reservation_id = held.reservation_id or ""

    def commit(key: str, actual: Amount) -> CyclesResponse:
        body = CommitRequest(idempotency_key=key, actual=actual)
        return client.commit_reservation(reservation_id, body)

    create = client.create_reservation
    assert refusal(create(reserving(desk, "r-2", ALLOCATED))) == (409, "BUDGET_EXCEEDED")
    assert refusal(create(reserving(desk, "r-1", 7))) == (409, "IDEMPOTENCY_MISMATCH")
    assert refusal(create(reserving(desk, "r-3", ttl_ms=1))) == (400, "INVALID_REQUEST")
    tokens = Amount(unit=Unit.TOKENS, amount=1)
    foreign_unit = reserving(desk, "r-4").model_copy(update={"estimate": tokens})
    assert refusal(create(foreign_unit)) == (400, "UNIT_MISMATCH")
    other = open_account(server, {"": 1})
    foreign = reserving(desk, "r-5").model_copy(update={"subject": Subject(tenant=other.tenant)})
    assert refusal(create(foreign)) == (403, "FORBIDDEN")
    assert refusal(commit("c-1", tokens)) == (400, "UNIT_MISMATCH")
    assert refusal(commit("c-2", usd(101))) == (409, "BUDGET_EXCEEDED")
    assert commit("c-3", usd(100)).is_success
    assert refusal(commit("c-4", usd(100))) == (409, "RESERVATION_FINALIZED")
    assert refusal(client.get_reservation("no-such")) == (404, "NOT_FOUND")
    assert refusal(client.list_reservations(limit="0")) == (400, "INVALID_REQUEST")
    assert refusal(client.get_balances(tenant=other.tenant)) == (403, "FORBIDDEN")
    assert desk.spent() == 100


@pytest.mark.parametrize("key", ["", "cyc_live_nobody"])
def test_a_bad_key(desk: Desk, key: str) -> None:
    with CyclesClient(desk.config(api_key=key)) as stranger:
        response = desk.watch(stranger).create_reservation(reserving(desk, "r-1"))
    assert refusal(response) == (401, "UNAUTHORIZED")


def test_extensions_end(server: Server, desk: Desk) -> None:
    """A tenant that allows none: the heartbeat of a client is told to stop."""
    strict = open_account(server, {"": 1_000}, unit="USD_MICROCENTS", max_reservation_extensions=0)
    with CyclesClient(desk.config(api_key=strict.secret, tenant=strict.tenant)) as other:
        desk.watch(other)
        request = reserving(desk, "r-1")
        request.subject = Subject(tenant=strict.tenant)
        held = made(other.create_reservation(request))
        body = ReservationExtendRequest(idempotency_key="x-1", extend_by_ms=1_000)
        response = other.extend_reservation(held.reservation_id or "", body)
    assert refusal(response) == (409, "MAX_EXTENSIONS_EXCEEDED")


# --- asynchronous ----------------------------------------------------------------------------


def test_asynchronous_client(desk: Desk, run_async: Callable[..., Any]) -> None:
    """The same operations through the other client."""

    async def work(client: AsyncCyclesClient) -> None:
        decision = DecisionRequest(
            idempotency_key="d-1", subject=subject(desk), action=ACTION, estimate=usd(1)
        )
        assert DecisionResponse.model_validate((await client.decide(decision)).body).is_allowed()
        first = made(await client.create_reservation(reserving(desk, "r-1")))
        second = made(await client.create_reservation(reserving(desk, "r-2")))
        first_id, second_id = first.reservation_id or "", second.reservation_id or ""
        extension = ReservationExtendRequest(idempotency_key="x-1", extend_by_ms=1_000)
        extended = await client.extend_reservation(first_id, extension)
        ReservationExtendResponse.model_validate(extended.body)
        settled = await client.commit_reservation(
            first_id, CommitRequest(idempotency_key="c-1", actual=usd(60))
        )
        assert CommitResponse.model_validate(settled.body).charged == usd(60)
        released = await client.release_reservation(second_id, ReleaseRequest(idempotency_key="f"))
        assert ReleaseResponse.model_validate(released.body).released == usd(100)
        event = await client.create_event(
            EventCreateRequest(
                idempotency_key="e-1", subject=subject(desk), action=ACTION, actual=usd(5)
            )
        )
        assert EventCreateResponse.model_validate(event.body).status.value == "APPLIED"
        assert ReservationDetail.model_validate(
            (await client.get_reservation(second_id)).body
        ).is_released()
        rows = (await client.list_reservations(sort_by="created_at_ms", sort_dir="asc")).body
        assert rows is not None
        assert [row["status"] for row in rows["reservations"]] == ["COMMITTED", "RELEASED"]
        balance = (await client.get_balances(tenant=desk.tenant)).body
        assert BalanceResponse.model_validate(balance).balances[0].spent == usd(65)
        too_much = await client.create_reservation(reserving(desk, "r-3", ALLOCATED))
        assert refusal(too_much) == (409, "BUDGET_EXCEEDED")

    run_async(work)
    assert desk.spent() == 65
