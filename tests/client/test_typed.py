"""Typed answers beside the plain ones: a model, or an exception that says why not."""

from collections.abc import Callable
from typing import Any

import pytest

from bursar import (
    BudgetExceededError,
    CyclesProtocolError,
    CyclesTransportError,
    Decision,
)
from bursar.client import answers, models
from bursar.client.response import CyclesResponse
from client.scripted import Fault, answer, deny, lost, refuse
from client.shells import Shell

AMOUNT = {"unit": "TOKENS", "amount": 7}
SUBJECT = {"tenant": "acme"}
ACTION = {"kind": "k", "name": "n"}
RESERVE = {"idempotency_key": "c", "subject": SUBJECT, "action": ACTION, "estimate": AMOUNT}
EVENT = {"idempotency_key": "e", "subject": SUBJECT, "action": ACTION, "actual": AMOUNT}
COMMIT = {"idempotency_key": "m", "actual": AMOUNT}
RELEASE = {"idempotency_key": "r"}
EXTEND = {"idempotency_key": "x", "extend_by_ms": 5_000}
ROW = {
    "reservation_id": "rsv_1",
    "status": "ACTIVE",
    "subject": SUBJECT,
    "action": ACTION,
    "reserved": AMOUNT,
    "created_at_ms": 1,
    "expires_at_ms": 2,
    "scope_path": "tenant:acme",
    "affected_scopes": ["tenant:acme"],
}
BALANCE = {"scope": "tenant:acme", "scope_path": "tenant:acme", "remaining": AMOUNT}
EVIDENCE = {"evidence_id": "a" * 64, "cycles_evidence_url": "https://h/v1/evidence/" + "a" * 64}

# method, its arguments, operation, status, a body that fits, the model
CALLS: list[tuple[str, tuple[Any, ...], str, int, dict[str, Any], type[Any]]] = [
    (
        "create_reservation",
        (RESERVE,),
        "createReservation",
        200,
        {"decision": "ALLOW", "affected_scopes": [], "reservation_id": "rsv_1"},
        models.ReservationCreateResponse,
    ),
    (
        "commit_reservation",
        ("rsv_1", COMMIT),
        "commitReservation",
        200,
        {"status": "COMMITTED", "charged": AMOUNT},
        models.CommitResponse,
    ),
    (
        "release_reservation",
        ("rsv_1", RELEASE),
        "releaseReservation",
        200,
        {"status": "RELEASED", "released": AMOUNT, "cycles_evidence": EVIDENCE},
        models.ReleaseResponse,
    ),
    (
        "extend_reservation",
        ("rsv_1", EXTEND),
        "extendReservation",
        200,
        {"status": "ACTIVE", "expires_at_ms": 9},
        models.ReservationExtendResponse,
    ),
    (
        "decide",
        (RESERVE,),
        "decide",
        200,
        {"decision": "ALLOW", "cycles_evidence": EVIDENCE},
        models.DecisionResponse,
    ),
    (
        "create_event",
        (EVENT,),
        "createEvent",
        201,
        {"status": "APPLIED", "event_id": "e1"},
        models.EventCreateResponse,
    ),
    ("get_reservation", ("rsv_1",), "getReservation", 200, ROW, models.ReservationDetail),
]
EACH = pytest.mark.parametrize(
    ("method", "arguments", "operation", "status", "body", "model"),
    CALLS,
    ids=[row[0] for row in CALLS],
)
WRITES = {"createReservation", "commitReservation", "releaseReservation", "extendReservation"}
WRITES |= {"createEvent"}


def typed(shell: Shell, method: str, *arguments: Any, **more: Any) -> Any:
    return shell.run(getattr(shell.client.typed, method)(*arguments, **more))


def listed(shell: Shell, method: str, **query: Any) -> list[Any]:
    return shell.drain(getattr(shell.client.typed, method)(**query))


@EACH
def test_a_success_is_a_model_that_keeps_what_it_does_not_know(
    shell: Shell,
    method: str,
    arguments: tuple[Any, ...],
    operation: str,
    status: int,
    body: dict[str, Any],
    model: type[Any],
) -> None:
    """The plain call shows the same answer as it came."""
    said = {**body, "later_field": {"a": [1]}}
    shell.server.on(operation, answer(status, said), answer(status, said))
    found = typed(shell, method, *arguments)
    assert type(found) is model
    assert found.model_extra == {"later_field": {"a": [1]}}
    plain = shell.run(getattr(shell.client, method)(*arguments))
    assert (plain.status, plain.body) == (status, said)
    first, second = shell.server.made(operation)
    assert first == second


@EACH
def test_a_refusal_is_an_exception_with_all_that_was_said(
    shell: Shell,
    method: str,
    arguments: tuple[Any, ...],
    operation: str,
    status: int,
    body: dict[str, Any],
    model: type[Any],
) -> None:
    """A conformant `trace_id`, evidence, and a code of a later revision hide nothing."""
    envelope = {"trace_id": "0" * 32, "cycles_evidence": EVIDENCE, "details": {"scope": "t"}}
    shell.server.on(operation, refuse(409, "FUTURE_CODE", **envelope))
    with pytest.raises(CyclesProtocolError) as caught:
        typed(shell, method, *arguments)
    error = caught.value
    assert (error.status, error.error_code, error.code) == (409, "FUTURE_CODE", "FUTURE_CODE")
    assert (error.trace_id, error.request_id) == ("0" * 32, "req_scripted")
    assert error.details == {"scope": "t"}
    assert (error.outcome_known, error.is_retryable()) == (True, False)
    assert error.idempotency_key == (arguments[-1]["idempotency_key"] if body is not ROW else None)
    assert str(error).startswith(f"Failed to {method.replace('_', ' ')}: FUTURE_CODE it is")


@EACH
def test_no_answer_is_unknown(
    shell: Shell,
    method: str,
    arguments: tuple[Any, ...],
    operation: str,
    status: int,
    body: dict[str, Any],
    model: type[Any],
) -> None:
    """The exception knows the key to ask again with."""
    fault = Fault(CyclesResponse.transport_error(ConnectionError("reset")))
    shell.server.on(operation, fault)
    with pytest.raises(CyclesTransportError, match="reset") as caught:
        typed(shell, method, *arguments)
    assert not caught.value.outcome_known
    assert isinstance(caught.value.__cause__, ConnectionError)


UNFIT: list[Callable[[int, dict[str, Any]], Fault]] = [
    lambda status, body: answer(202, body),
    lambda status, body: answer(status, {}),
    lambda status, body: answer(status, dict.fromkeys(body)),
]


@EACH
@pytest.mark.parametrize("spoil", UNFIT, ids=["status", "empty", "null"])
def test_what_does_not_fit_is_no_success(
    shell: Shell,
    method: str,
    arguments: tuple[Any, ...],
    operation: str,
    status: int,
    body: dict[str, Any],
    model: type[Any],
    spoil: Callable[[int, dict[str, Any]], Fault],
) -> None:
    """After a write nobody knows what happened; the message names a field and no value."""
    shell.server.on(operation, spoil(status, body))
    with pytest.raises(CyclesProtocolError, match="does not fit its schema: ") as caught:
        typed(shell, method, *arguments)
    assert caught.value.outcome_known is (operation not in WRITES)


def test_a_denial_is_an_answer(shell: Shell) -> None:
    """`create_reservation` returns it; only guards raise. A future decision is neither."""
    shell.server.on("createReservation", deny("BUDGET_EXCEEDED"), deny("FUTURE"))
    denied = typed(shell, "create_reservation", RESERVE)
    assert (denied.is_denied(), denied.reason_code) == (True, "BUDGET_EXCEEDED")
    assert typed(shell, "create_reservation", RESERVE).reason_code == "FUTURE"
    shell.server.on("decide", answer(200, {"decision": "MAYBE"}))
    maybe = typed(shell, "decide", RESERVE)
    assert (maybe.decision, maybe.is_allowed(), maybe.is_denied()) == ("MAYBE", False, False)


def test_a_refusal_has_the_class_of_its_code(shell: Shell) -> None:
    """The same classes as a guard raises."""
    shell.server.on("createReservation", refuse(409, "BUDGET_EXCEEDED", trace_id="1" * 32))
    with pytest.raises(BudgetExceededError):
        typed(shell, "create_reservation", RESERVE)


def test_an_empty_allowlist_restricts_nothing(shell: Shell) -> None:
    """As the protocol says, in a typed answer too."""
    caps = {"tool_allowlist": [], "tool_denylist": ["rm"]}
    body = {"decision": "ALLOW_WITH_CAPS", "affected_scopes": [], "caps": caps}
    shell.server.on("createReservation", answer(200, body))
    found = typed(shell, "create_reservation", RESERVE)
    assert found.decision is Decision.ALLOW_WITH_CAPS
    assert found.caps.is_tool_allowed("anything")
    assert not found.caps.is_tool_allowed("rm")


def test_a_lost_commit_can_be_asked_again(shell: Shell) -> None:
    """The same request with the same key is how to find out."""
    shell.server.on("commitReservation", lost())
    made = typed(shell, "create_reservation", RESERVE)
    with pytest.raises(CyclesTransportError) as caught:
        typed(shell, "commit_reservation", made.reservation_id, COMMIT)
    assert caught.value.idempotency_key == "m"
    again = typed(shell, "commit_reservation", made.reservation_id, COMMIT)
    assert again.charged.amount == 7
    assert shell.server.charged == {made.reservation_id: 7}


# The listings.

LISTS = [
    ("iter_reservations", "listReservations", "reservations", ROW, {"status": "ACTIVE"}),
    ("iter_balances", "getBalances", "balances", BALANCE, {"tenant": "acme"}),
]
LISTING = pytest.mark.parametrize(
    ("method", "operation", "field", "row", "query"), LISTS, ids=[row[0] for row in LISTS]
)


def page(field: str, rows: list[Any], cursor: str | None = None, **more: Any) -> Fault:
    body: dict[str, Any] = {field: rows, **more}
    return answer(200, body if cursor is None else {**body, "next_cursor": cursor})


@LISTING
def test_a_listing_goes_from_page_to_page(
    shell: Shell,
    method: str,
    operation: str,
    field: str,
    row: dict[str, Any],
    query: dict[str, Any],
) -> None:
    """The filters stay, the cursor moves; an empty page in between ends nothing."""
    marked = [{**row, "scope_path": f"tenant:acme/agent:{n}"} for n in range(3)]
    shell.server.on(
        operation,
        page(field, marked[:2], "p2", has_more=True),
        page(field, [], "p3"),
        page(field, marked[2:], "", has_more=False),
    )
    found = listed(shell, method, **query)
    assert [one.scope_path for one in found] == [one["scope_path"] for one in marked]
    asked = [dict(call.query) for call in shell.server.made(operation)]
    assert asked == [query, {**query, "cursor": "p2"}, {**query, "cursor": "p3"}]


@LISTING
@pytest.mark.parametrize(
    ("last", "said"),
    [
        (lambda field, row: page(field, [row], "p2"), "it does not end: page 2 leads back"),
        (lambda field, row: page(field, [row], has_more=True), "no cursor to ask with"),
        (lambda field, row: refuse(410, "CURSOR_GONE"), "CURSOR_GONE it is"),
        (lambda field, row: answer(200, {}), r"does not fit its schema: \w+: Field required"),
    ],
)
def test_a_listing_never_ends_short_in_silence(
    shell: Shell,
    method: str,
    operation: str,
    field: str,
    row: dict[str, Any],
    query: dict[str, Any],
    last: Callable[[str, dict[str, Any]], Fault],
    said: str,
) -> None:
    """What was yielded before stays yielded; then the exception says what the trouble is."""
    shell.server.on(operation, page(field, [row], "p2"), last(field, row))
    found: list[Any] = []

    async def reads() -> None:
        async for one in getattr(shell.client.typed, method)(**query):
            found.append(one)  # noqa: PERF401 - what came before the error counts

    def read() -> None:
        for one in getattr(shell.client.typed, method)(**query):
            found.append(one)  # noqa: PERF402 - what came before the error counts

    verb = {"listReservations": "list reservations", "getBalances": "get balances"}[operation]
    with pytest.raises(CyclesProtocolError, match=f"^Failed to {verb}: .*{said}"):
        shell.run(reads() if shell.asynchronous else read())
    assert len(found) == 1


@LISTING
def test_a_listing_that_goes_on_for_ever_is_ended_with_an_error(
    shell: Shell,
    method: str,
    operation: str,
    field: str,
    row: dict[str, Any],
    query: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that makes up a new cursor each time."""
    monkeypatch.setattr(answers, "PAGES_MAX", 3)
    shell.server.on(operation, *(page(field, [row], f"p{n}") for n in range(9)))
    with pytest.raises(CyclesProtocolError, match="it does not end: page 3"):
        listed(shell, method, **query)
    assert len(shell.server.made(operation)) == 3


def test_a_listing_that_cannot_be_asked_for_is_refused_at_once(shell: Shell) -> None:
    """Balances need a filter, whatever the shell."""
    with pytest.raises(ValueError, match="get_balances requires at least one subject filter"):
        listed(shell, "iter_balances")
    assert shell.server.calls == []
