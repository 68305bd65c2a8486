"""What goes wrong goes wrong as written, and the ledger stays right."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from bursar import (
    BudgetExceededError,
    CyclesClient,
    CyclesProtocolError,
    ReservationGuard,
    TenantClosedError,
)
from bursar.testing import (
    ScriptedLedger,
    assert_nothing_held,
    assert_settled_once,
    assert_spent,
)

WITHIN_S = 10.0


@pytest.fixture
def ledger() -> Iterator[ScriptedLedger]:
    with ScriptedLedger(agent="bot") as opened:
        opened.budget("100 tokens")
        yield opened


def reserve(client: CyclesClient, estimate: int = 10) -> ReservationGuard:
    return client.reserve(estimate=estimate, unit="TOKENS")


def test_one_action_is_settled_once(ledger: ScriptedLedger) -> None:
    """Without faults it is a ledger like any other."""
    assert ledger.spent() == 0
    with reserve(ledger.client) as guard:
        assert [one.status for one in ledger.reservations()] == ["ACTIVE"]
        guard.commit(7)
    assert_settled_once(ledger)
    assert_spent(ledger, "7 tokens")
    assert [one.status for one in ledger.reservations()] == ["COMMITTED"]
    assert [(one.kind, one.reservation_id) for one in ledger.charges()] == [
        ("commit", guard.reservation_id)
    ]


def test_both_clients_share_the_ledger(ledger: ScriptedLedger) -> None:
    """What the async client spends, the other one cannot; closing a client closes no ledger."""

    async def act() -> None:
        async with ledger.async_client as client:
            guard = await client.reserve(estimate=95, unit="TOKENS")
            await guard.commit(95)

    asyncio.run(act())
    with pytest.raises(BudgetExceededError), ledger.client as client:
        reserve(client)
    assert ledger.spent() == 95


def test_denial_comes_at_its_call(ledger: ScriptedLedger) -> None:
    """Only the call that was named is denied, and it reserves nothing."""
    ledger.deny(at=2)
    ledger.deny(at=3, reason="TENANT_CLOSED")
    reserve(ledger.client).commit(1)
    with pytest.raises(BudgetExceededError) as denied:
        reserve(ledger.client)
    assert (denied.value.status, denied.value.code) == (409, "BUDGET_EXCEEDED")
    assert denied.value.details["deny_detail"]["reason_code"] == "BUDGET_EXCEEDED"
    with pytest.raises(TenantClosedError):
        reserve(ledger.client)
    reserve(ledger.client).commit(1)
    assert len(ledger.reservations()) == 2
    assert_nothing_held(ledger)


def test_dry_run_is_denied_as_a_decision(ledger: ScriptedLedger) -> None:
    """A dry run is never refused with an error."""
    ledger.deny()
    answer = ledger.client.create_reservation(
        {
            "idempotency_key": "dry",
            "subject": {"tenant": "default"},
            "action": {"kind": "llm.completion", "name": "m"},
            "estimate": {"unit": "TOKENS", "amount": 1},
            "dry_run": True,
        }
    )
    assert answer.status == 200
    assert answer.body is not None
    assert (answer.body["decision"], answer.body["reason_code"]) == ("DENY", "BUDGET_EXCEEDED")


@pytest.mark.parametrize("status", [None, 429, 500, 503])
def test_unsettled_commit_is_asked_again(ledger: ScriptedLedger, status: int | None) -> None:
    """A lost answer and an outage end in one charge, under one key."""
    if status is None:
        ledger.lose_commit_answer(times=2)
    else:
        ledger.fail("commit_reservation", status, 2, retry_after=0 if status == 429 else None)
    reserve(ledger.client).commit(7)
    if status is not None:
        with pytest.raises(AssertionError, match="charged 0 times"):
            assert_settled_once(ledger)
    assert ledger.client.flush(WITHIN_S) == 0
    assert_settled_once(ledger)
    assert_spent(ledger, "7 tokens")


def test_async_commit_is_asked_again(ledger: ScriptedLedger) -> None:
    """The same through the other shell."""
    ledger.lose_commit_answer()
    ledger.fail("commit_reservation", 502)

    async def act() -> int:
        guard = await ledger.async_client.reserve(estimate=10, unit="TOKENS")
        await guard.commit(7)
        return await ledger.async_client.flush(WITHIN_S)

    assert asyncio.run(act()) == 0
    assert_settled_once(ledger)


def test_rate_limit_says_when_to_come_back(ledger: ScriptedLedger) -> None:
    """A 429 has the protocol's body and `Retry-After`; an outage has no body."""
    ledger.fail("create_reservation", 429, retry_after=7)
    ledger.fail("get_balances", 504)
    with pytest.raises(CyclesProtocolError) as limited:
        reserve(ledger.client)
    assert (limited.value.status, limited.value.code) == (429, "LIMIT_EXCEEDED")
    assert limited.value.retry_after_ms == 7_000
    answer = ledger.client.get_balances(tenant="default")
    assert (answer.status, answer.body) == (504, None)
    assert ledger.client.get_balances(tenant="default").is_success


def test_slow_extension_waits(ledger: ScriptedLedger) -> None:
    """The ledger sees an extension when the delay is over, in both shells."""
    ledger.slow_extend(0.2, times=2)
    guard = reserve(ledger.client)
    before = time.monotonic()
    guard.extend(60_000)
    assert time.monotonic() - before >= 0.2

    async def extend() -> float:
        began = time.monotonic()
        request = {"idempotency_key": "longer", "extend_by_ms": 1_000}
        answer = await ledger.async_client.extend_reservation(guard.reservation_id, request)
        assert answer.is_success
        return time.monotonic() - began

    assert asyncio.run(extend()) >= 0.2
    guard.release()


def test_clearing_ends_the_script(ledger: ScriptedLedger) -> None:
    """After it nothing goes wrong, whatever was written before."""
    ledger.deny()
    ledger.fail("commit_reservation", times=None)
    ledger.clear()
    reserve(ledger.client).commit(1)
    assert_settled_once(ledger)


def test_assertions_say_what_they_found(ledger: ScriptedLedger) -> None:
    """Whoever reads the message knows what to look at."""
    guard = reserve(ledger.client)
    with pytest.raises(AssertionError) as held:
        assert_nothing_held(ledger)
    assert str(held.value).splitlines() == [
        "1 reservations are still held; commit or release them",
        "  tenant:default has 10 tokens reserved",
        f"  reservation {guard.reservation_id} of 10 tokens is ACTIVE",
    ]
    guard.commit(4)
    reserve(ledger.client).commit(5)
    with pytest.raises(AssertionError, match="charged 2 times, not once\n  commit of"):
        assert_settled_once(ledger)
    with pytest.raises(AssertionError, match="tenant:default has spent 9 tokens, not 8 tokens"):
        assert_spent(ledger, "8 tokens")


def test_spent_names_what_there_is(ledger: ScriptedLedger) -> None:
    """A budget that is not there, or not the only one, is not guessed."""
    with pytest.raises(LookupError, match=r"agent:x has no budget; there are: tenant:default in T"):
        ledger.spent("tenant:default/agent:x")
    ledger.budget("1USD")
    with pytest.raises(LookupError, match="names several budgets; name the unit"):
        ledger.spent()
    assert ledger.spent(unit="USD_MICROCENTS") == 0


def test_script_that_cannot_be_is_refused(ledger: ScriptedLedger) -> None:
    """Mistakes are told where they are made, with what would be right."""
    wrong = {
        "at: 0 is below 1": lambda: ledger.deny(at=0),
        "reason: 'LATE' denies nothing; use one of BUDGET_EXC": lambda: ledger.deny(reason="LATE"),
        "no method of a client; use create_reservation": lambda: ledger.fail("commit"),
        "status: 404 is not": lambda: ledger.fail("decide", 404),
        "goes with status 429 only": lambda: ledger.fail("decide", 500, retry_after=1),
        "times: 0 is below 1": lambda: ledger.lose_commit_answer(0),
        "seconds: -1 is below 0": lambda: ledger.slow_extend(-1),
    }
    for message, mistake in wrong.items():
        with pytest.raises(ValueError, match=message):
            mistake()


def test_closing_does_not_wait_for_what_never_answers() -> None:
    """A test that leaves settlements unknown in a dead loop ends at once."""
    ledger = ScriptedLedger()
    ledger.budget("100 tokens")
    ledger.fail("commit_reservation", times=None)

    async def act() -> None:
        guard = await ledger.async_client.reserve(estimate=10, unit="TOKENS")
        await guard.commit(7)

    asyncio.run(act())
    reserve(ledger.client).commit(7)
    before = time.monotonic()
    ledger.close()
    assert time.monotonic() - before < 5
