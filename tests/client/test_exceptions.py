"""Which answer becomes which exception, and what can be asked of it."""

import pickle
from typing import Any

import pytest
import runcycles
from runcycles.lifecycle import _build_protocol_exception as official_error

from bursar.client import exceptions
from bursar.client.enums import ErrorCode
from bursar.client.exceptions import CyclesProtocolError, CyclesTransportError, error_from_response
from bursar.client.response import CyclesResponse

PREFIX = "Failed to create reservation"
CLASSES = {
    "BUDGET_EXCEEDED": "BudgetExceededError",
    "OVERDRAFT_LIMIT_EXCEEDED": "OverdraftLimitExceededError",
    "DEBT_OUTSTANDING": "DebtOutstandingError",
    "TENANT_CLOSED": "TenantClosedError",
    "RESERVATION_EXPIRED": "ReservationExpiredError",
    "RESERVATION_FINALIZED": "ReservationFinalizedError",
}
HELPERS = {
    "is_budget_exceeded": "BUDGET_EXCEEDED",
    "is_overdraft_limit_exceeded": "OVERDRAFT_LIMIT_EXCEEDED",
    "is_debt_outstanding": "DEBT_OUTSTANDING",
    "is_tenant_closed": "TENANT_CLOSED",
    "is_reservation_expired": "RESERVATION_EXPIRED",
    "is_reservation_finalized": "RESERVATION_FINALIZED",
    "is_idempotency_mismatch": "IDEMPOTENCY_MISMATCH",
    "is_unit_mismatch": "UNIT_MISMATCH",
}
CODES = [code.value for code in ErrorCode]


def refused(code: str, status: int = 409, **more: object) -> tuple[int, str, dict[str, Any]]:
    return status, "no", {"error": code, "message": "why", "request_id": "r", **more}


def answers(answer: tuple[int, str, dict[str, Any] | None]) -> tuple[Exception, Exception]:
    official = official_error(PREFIX, runcycles.CyclesResponse.http_error(*answer))
    return official, error_from_response(PREFIX, CyclesResponse.http_error(*answer))


@pytest.mark.parametrize("code", CODES)
def test_a_known_code_gives_the_same_exception(code: str) -> None:
    """Class, message, fields and helpers agree with the official client for every code."""
    official, ours = answers(refused(code, details={"a": 1}))
    assert (type(official).__name__, str(official)) == (type(ours).__name__, str(ours))
    assert CLASSES.get(code, "CyclesProtocolError") == type(ours).__name__
    assert vars(official) == {name: getattr(ours, name) for name in vars(official)}
    for helper, expected in HELPERS.items():
        assert (code == expected) == getattr(ours, helper)() == getattr(official, helper)()
    assert official.is_retryable() == ours.is_retryable()


@pytest.mark.parametrize(
    "answer",
    [
        (502, "Bad Gateway", None),
        (400, "Bad Request", {}),
        (409, "no", {"error": "BUDGET_EXCEEDED"}),
        (409, "no", {"error": "BUDGET_EXCEEDED", "reason_code": "LOW", "retry_after_ms": 5}),
        (302, "Found", None),
    ],
)
def test_a_poor_body_gives_what_it_has(answer: tuple[int, str, dict[str, Any] | None]) -> None:
    """Without an envelope the code and the message still come through, as they do officially."""
    official, ours = answers(answer)
    assert (type(official).__name__, str(official)) == (type(ours).__name__, str(ours))
    assert vars(official) == {name: getattr(ours, name) for name in vars(official)}


def test_a_future_code_is_kept_with_everything_around_it() -> None:
    """The code stays as spelled; request id, details and trace are not lost with it."""
    body = refused("QUOTA_PAUSED", details={"a": 1}, trace_id="f" * 32, novel=True)
    error = error_from_response(PREFIX, CyclesResponse.http_error(*body))
    assert type(error) is CyclesProtocolError
    kept = (error.error_code, error.reason_code, error.request_id, error.details, error.trace_id)
    assert kept == ("QUOTA_PAUSED", "QUOTA_PAUSED", "r", {"a": 1}, "f" * 32)
    assert not error.is_retryable()
    assert str(error) == f"{PREFIX}: why"


@pytest.mark.parametrize("code", [*CLASSES, "TOOL_BLOCKED"])
def test_a_denial_has_the_class_of_its_reason(code: str) -> None:
    """A denial answered with 200 is the same exception as a refusal, without an error code."""
    denied = CyclesResponse.success(200, {"decision": "DENY", "reason_code": code})
    error = error_from_response("Reservation denied", denied)
    assert CLASSES.get(code, "CyclesProtocolError") == type(error).__name__
    assert (None, code, 200) == (error.error_code, error.reason_code, error.status)
    assert str(error) == f"Reservation denied: {code}"
    assert error.is_budget_exceeded() == (code == "BUDGET_EXCEEDED")
    assert error.outcome_known
    bare = error_from_response("Reservation denied", CyclesResponse.success(200, {}))
    assert str(bare) == "Reservation denied"


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        ({"retry_after_ms": 7}, "3", 7),
        ({"retry_after_ms": 0}, "3", 0),
        ({}, "3", 3000),
        ({"retry_after_ms": True}, "3", 3000),
        ({"retry_after_ms": -1}, "3", 3000),
        ({"retry_after_ms": "soon"}, "3", 3000),
        ({}, "soon", None),
    ],
)
def test_the_body_knows_better_than_the_header(
    body: dict[str, Any], header: str, expected: int | None
) -> None:
    """`retry_after_ms` wins over `Retry-After`, unless it is no duration."""
    response = CyclesResponse.http_error(429, "slow", body, {"retry-after": header})
    assert expected == error_from_response("x", response).retry_after_ms


@pytest.mark.parametrize(
    ("status", "retryable", "known"),
    [
        (-1, True, False),
        (0, False, False),
        (200, False, True),
        (202, False, False),
        (302, False, False),
        (400, False, True),
        (429, True, True),
        (500, True, False),
        (503, True, False),
    ],
)
def test_two_questions(status: int, retryable: bool, known: bool) -> None:
    """May it be tried again, and did it happen: status alone answers both where it must."""
    error = CyclesProtocolError("m", status=status)
    assert (retryable, known) == (error.is_retryable(), error.outcome_known)
    assert CyclesProtocolError("m", status=200, outcome_known=False).outcome_known is False


def test_no_answer_is_a_transport_error_that_old_handlers_catch() -> None:
    """It is a protocol error too, keeps its cause, and may be tried again."""
    cause = OSError("boom")
    error = error_from_response(
        "Failed", CyclesResponse.transport_error(cause), idempotency_key="k"
    )
    assert isinstance(error, CyclesTransportError)
    assert isinstance(error, CyclesProtocolError)
    assert (cause, cause, "Failed: boom", -1, "k") == (
        error.cause,
        error.__cause__,
        str(error),
        error.status,
        error.idempotency_key,
    )
    assert error.is_retryable()
    assert not error.outcome_known


@pytest.mark.parametrize(
    "error",
    [
        CyclesProtocolError("m", status=409, error_code="X", details={"a": 1}, trace_id="t"),
        CyclesTransportError("m", idempotency_key="k"),
        exceptions.BudgetExceededError("m", status=409),
    ],
)
def test_exceptions_survive_a_process_boundary(error: CyclesProtocolError) -> None:
    """Worker pools pickle what is raised in them."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
