"""Asking before acting: what is sent, what comes back, and when the work may begin."""

from typing import Any

import pytest

from bursar import (
    BudgetExceededError,
    CyclesProtocolError,
    CyclesTransportError,
    ReservationFinalizedError,
    TenantClosedError,
)
from bursar.client.calls import Call
from bursar.client.opening import Opened, Plan, open_reservation
from bursar.client.response import CyclesResponse
from bursar.flow import run_sync

PLAN = Plan({"tenant": "acme"}, {"kind": "k", "name": "n"}, "TOKENS", 10, "c", "m", "r")
DRY = Plan(
    {"tenant": "acme"}, {"kind": "k", "name": "n"}, "TOKENS", 10, "c", "m", "r", dry_run=True
)
ALLOWED = {
    "decision": "ALLOW",
    "affected_scopes": ["tenant:acme"],
    "reservation_id": "rsv_1",
    "expires_at_ms": 1_790_000_060_000,
    "remaining_ttl_ms": 60_000,
}
EVALUATED = {"decision": "ALLOW", "affected_scopes": ["tenant:acme"]}


def ok(body: dict[str, Any], status: int = 200) -> CyclesResponse:
    return CyclesResponse.success(status, body)


def denied(reason: str, **more: Any) -> CyclesResponse:
    return ok({"decision": "DENY", "affected_scopes": [], "reason_code": reason, **more})


def refused(status: int, code: str | None = None) -> CyclesResponse:
    body = None if code is None else {"error": code, "message": "m", "request_id": "q"}
    return CyclesResponse.http_error(status, "m", body, {"x-request-id": "q"})


def lost() -> CyclesResponse:
    return CyclesResponse.transport_error(ConnectionError("reset"))


class World:
    """Answers in order; time moves by one millisecond with each look at the clock."""

    def __init__(self, *answers: CyclesResponse) -> None:
        self.answers = list(answers)
        self.calls: list[Call] = []
        self.now_ms = 0.0

    async def send(self, call: Call) -> CyclesResponse:
        """Give the next answer."""
        self.calls.append(call)
        return self.answers.pop(0)

    def monotonic_ms(self) -> float:
        """Move on."""
        self.now_ms += 1
        return self.now_ms


def asked(*answers: CyclesResponse, plan: Plan = PLAN) -> tuple[Opened, World]:
    world = World(*answers)
    return run_sync(open_reservation(world, plan)), world  # type: ignore[arg-type]  # the part used


def test_the_body_says_what_was_planned_and_nothing_more() -> None:
    """What is not set is absent; a dry run says so."""
    expected = {
        "idempotency_key": "c",
        "subject": {"tenant": "acme"},
        "action": {"kind": "k", "name": "n"},
        "estimate": {"unit": "TOKENS", "amount": 10},
        "ttl_ms": 60_000,
        "overage_policy": "ALLOW_IF_AVAILABLE",
    }
    assert PLAN.body() == expected
    assert DRY.body() == {**expected, "dry_run": True}


@pytest.mark.parametrize(
    ("body", "decision"),
    [
        (ALLOWED, "ALLOW"),
        (ALLOWED | {"decision": "ALLOW_WITH_CAPS", "caps": {"max_tokens": 5}}, "ALLOW_WITH_CAPS"),
        (ALLOWED | {"later_field": {"a": 1}}, "ALLOW"),
        ({k: v for k, v in ALLOWED.items() if k != "remaining_ttl_ms"}, "ALLOW"),
        (ALLOWED | {"remaining_ttl_ms": 1}, "ALLOW"),
    ],
)
def test_what_is_granted_is_told_with_its_times(body: dict[str, Any], decision: str) -> None:
    """One request; when it left and came back is what the heartbeat counts from."""
    opened, world = asked(ok(body))
    assert (opened.answer.decision, opened.reservation_id, opened.over) == (
        decision,
        "rsv_1",
        False,
    )
    assert (opened.sent_ms, opened.received_ms) == (1, 2)
    assert [call.operation for call in world.calls] == ["createReservation"]


UNKNOWN = [
    lost(),
    refused(500),
    refused(503, "INTERNAL_ERROR"),
    ok(ALLOWED, 202),
    ok({}),
    ok(ALLOWED | {"affected_scopes": None}),
    ok(ALLOWED | {"remaining_ttl_ms": "60000"}),
]


@pytest.mark.parametrize("first", UNKNOWN)
def test_an_unknown_answer_is_asked_again_once(first: CyclesResponse) -> None:
    """The very same call; the times are those of the answer that counts."""
    opened, world = asked(first, ok(ALLOWED))
    assert opened.reservation_id == "rsv_1"
    assert (opened.sent_ms, opened.received_ms) in ((2, 3), (3, 4))
    assert world.calls[0] == world.calls[1]
    assert world.calls[0].content == world.calls[1].content


# second answer -> (class, error code, is it known whether something is held)
GIVEN_UP: list[tuple[CyclesResponse, type[CyclesProtocolError], str | None, bool]] = [
    (lost(), CyclesTransportError, None, False),
    (refused(500), CyclesProtocolError, None, False),
    (ok(ALLOWED, 202), CyclesProtocolError, None, False),
    (ok({}), CyclesProtocolError, None, False),
    (refused(429, "LIMIT_EXCEEDED"), CyclesProtocolError, "LIMIT_EXCEEDED", False),
    (refused(401, "UNAUTHORIZED"), CyclesProtocolError, "UNAUTHORIZED", False),
    (refused(409, "BUDGET_EXCEEDED"), BudgetExceededError, "BUDGET_EXCEEDED", True),
    (refused(302), CyclesProtocolError, None, False),
]


@pytest.mark.parametrize(("second", "kind", "code", "known"), GIVEN_UP)
def test_after_two_answers_it_is_given_up(
    second: CyclesResponse, kind: type[CyclesProtocolError], code: str | None, known: bool
) -> None:
    """The first answer was lost, so only a refusal by the ledger itself says nothing is held."""
    with pytest.raises(kind) as caught:
        asked(lost(), second)
    error = caught.value
    assert type(error) is kind
    assert (error.error_code, error.outcome_known, error.idempotency_key) == (code, known, "c")
    assert str(error).startswith("Failed to create reservation: ")


ONCE: list[tuple[CyclesResponse, type[CyclesProtocolError], str]] = [
    (refused(409, "BUDGET_EXCEEDED"), BudgetExceededError, "Failed to create reservation: m"),
    (refused(403, "TENANT_CLOSED"), TenantClosedError, "Failed to create reservation: m"),
    (refused(429), CyclesProtocolError, "Failed to create reservation: m"),
    (refused(401), CyclesProtocolError, "Failed to create reservation: m"),
    (refused(418, "FUTURE_CODE"), CyclesProtocolError, "Failed to create reservation: m"),
    (refused(302), CyclesProtocolError, "Failed to create reservation: m"),
    (denied("BUDGET_EXCEEDED"), BudgetExceededError, "Reservation denied: BUDGET_EXCEEDED"),
    (denied("FUTURE_REASON"), CyclesProtocolError, "Reservation denied: FUTURE_REASON"),
    (ok(ALLOWED | {"decision": "MAYBE"}), CyclesProtocolError, "Reservation denied"),
]


@pytest.mark.parametrize(("only", "kind", "said"), ONCE)
def test_a_clear_answer_is_asked_for_once(
    only: CyclesResponse, kind: type[CyclesProtocolError], said: str
) -> None:
    """A refusal, a denial, a decision of a later revision: none of them is an ALLOW."""
    with pytest.raises(kind) as caught:
        asked(only)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(said)
    assert (caught.value.outcome_known, caught.value.idempotency_key) == (only.status != 302, "c")


def test_a_denial_says_how_long_to_wait() -> None:
    """What the server advises reaches the caller."""
    with pytest.raises(BudgetExceededError) as caught:
        asked(denied("BUDGET_EXCEEDED", retry_after_ms=1_500))
    assert (caught.value.retry_after_ms, caught.value.reason_code) == (1_500, "BUDGET_EXCEEDED")
    assert caught.value.error_code is None


def test_a_dry_run_needs_no_reservation() -> None:
    """Its evaluation is the result, its denial an exception that says what it was."""
    opened, _ = asked(ok(EVALUATED), plan=DRY)
    assert (opened.reservation_id, opened.answer.is_allowed()) == ("", True)
    with pytest.raises(BudgetExceededError, match=r"^Dry-run denied: BUDGET_EXCEEDED$"):
        asked(denied("BUDGET_EXCEEDED"), plan=DRY)


def test_an_allow_without_a_reservation_is_none() -> None:
    """Nobody knows what is held."""
    with pytest.raises(CyclesProtocolError, match="reservation_id missing") as caught:
        asked(ok(EVALUATED))
    assert not caught.value.outcome_known


@pytest.mark.parametrize("answers", [[], [lost()]])
def test_a_reservation_without_time_left_starts_nothing(answers: list[CyclesResponse]) -> None:
    """The key was used, and its reservation is over: work would be done without a hold."""
    with pytest.raises(ReservationFinalizedError) as caught:
        asked(*answers, ok(ALLOWED | {"remaining_ttl_ms": 0}))
    error = caught.value
    assert error.is_reservation_finalized()
    assert (error.outcome_known, error.idempotency_key) == (True, "c")
    assert "rsv_1 of idempotency key 'c' is no longer active" in str(error)
    assert "use another key" in str(error)
