"""Runtime models built in Python, their defaults, and responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from bursar.vocabulary import OveragePolicy, ReservationStatus, Unit
from bursar.wire import runtime
from bursar.wire.codec import decode
from bursar.wire.explain import explain

AMOUNT = {"unit": "TOKENS", "amount": 1}
WHO = {"subject": {"tenant": "acme"}, "action": {"kind": "llm.completion", "name": "m1"}}
RESERVE: dict[str, Any] = {"idempotency_key": "k", **WHO, "estimate": AMOUNT}
COMMIT: dict[str, Any] = {"idempotency_key": "k", "actual": AMOUNT}
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"a": (1,)}, "metadata.a: must be a JSON value, got a Python tuple"),
        ({"a": {1: 2}}, "metadata.a: must have strings as keys, got a Python int"),
        ({"a": "\ud800"}, "metadata.a: must not contain a lone surrogate"),
        ({"\udfff": 1}, "metadata: must not contain a lone surrogate"),
        ({1: 2}, "metadata[1]: must be a string, got 1"),
        (
            {"a": ENDLESS},
            f"metadata.a{'[0]' * 32}"[:80] + "…: must not be nested more than 32 levels deep",
        ),
    ],
)
def test_python_values_that_are_not_json_are_refused(metadata: Any, said: str) -> None:
    """A model built in Python is held to the same rules as one from the wire."""
    with pytest.raises(ValidationError) as caught:
        runtime.CommitRequest(**{**COMMIT, "metadata": metadata})
    assert [str(found) for found in explain(caught.value, runtime.CommitRequest)] == [said]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (10**5_000, "must be between 1 and 86400000, got a Python int"),
        (ENDLESS, "must be an integer, got a Python list"),
        ({(1, 2): 3}, "must be an integer, got a Python dict"),
        (b"5", "must be an integer, got \"b'5'\""),
    ],
    ids=["long", "endless", "keys", "bytes"],
)
def test_a_value_that_cannot_be_shown_is_still_refused_in_words(value: Any, said: str) -> None:
    """The message never fails on what only Python can hold."""
    with pytest.raises(ValidationError) as caught:
        runtime.ReservationExtendRequest(idempotency_key="k", extend_by_ms=value)
    found = explain(caught.value, runtime.ReservationExtendRequest)
    assert [str(problem) for problem in found] == [f"extend_by_ms: {said}"]


def test_enums_may_be_members_or_their_wire_spelling() -> None:
    """Constructor, model_validate and JSON agree, whichever spelling is used."""
    member = {**RESERVE, "overage_policy": OveragePolicy.REJECT}
    text = {**member, "overage_policy": "REJECT"}
    model = runtime.ReservationCreateRequest
    assert model(**member) == model.model_validate(text) == decode(model, json.dumps(text).encode())
    spelled: dict[str, Any] = {"unit": "TOKENS", "amount": 1}
    assert runtime.Amount(**spelled) == runtime.Amount(unit=Unit.TOKENS, amount=1)
    assert runtime.Amount.model_validate(spelled).unit is Unit.TOKENS


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 2**63, -1])
def test_python_amounts_are_as_strict_as_wire_amounts(value: Any) -> None:
    """Constructing in Python coerces nothing either."""
    with pytest.raises(ValidationError):
        runtime.Amount(unit=Unit.TOKENS, amount=value)


def test_requests_do_not_change_after_validation() -> None:
    """A validated request cannot be edited into an invalid one."""
    request = runtime.ReleaseRequest(idempotency_key="k")
    with pytest.raises(ValidationError, match="frozen"):
        request.idempotency_key = ""  # type: ignore[misc] # that it is refused is the claim


def test_defaults_of_a_reserve_request() -> None:
    """What a tenant may change stays absent; what is the same for all is filled in."""
    model = runtime.ReservationCreateRequest
    request = model(**RESERVE)
    assert (request.ttl_ms, request.overage_policy) == (None, None)
    assert (request.grace_period_ms, request.dry_run) == (5000, False)


def test_signed_amounts_may_be_negative_within_int64() -> None:
    """Only what remains of a budget is signed."""
    for value in (-(2**63), -1, 0, 2**63 - 1):
        assert runtime.SignedAmount(unit=Unit.TOKENS, amount=value).amount == value
    for value in (-(2**63) - 1, 2**63):
        with pytest.raises(ValidationError):
            runtime.SignedAmount(unit=Unit.TOKENS, amount=value)


RESPONSES: list[tuple[type[Any], dict[str, Any]]] = [
    (
        runtime.ReservationCreateResponse,
        {
            "decision": "ALLOW_WITH_CAPS",
            "reservation_id": "r",
            "affected_scopes": ["tenant:acme"],
            "reserved": AMOUNT,
            "expires_at_ms": 1,
            "remaining_ttl_ms": 0,
            "caps": {"max_tokens": 5, "tool_allowlist": ["search"]},
            "balances": [{"scope": "s", "scope_path": "s", "remaining": {**AMOUNT, "amount": -5}}],
        },
    ),
    (
        runtime.DecisionResponse,
        {"decision": "DENY", "reason_code": "A_CODE_OF_TOMORROW", "affected_scopes": []},
    ),
    (runtime.CommitResponse, {"status": "COMMITTED", "charged": AMOUNT}),
    (runtime.ReleaseResponse, {"status": "RELEASED", "released": AMOUNT}),
    (runtime.ReservationExtendResponse, {"status": "ACTIVE", "expires_at_ms": 5}),
    (runtime.EventCreateResponse, {"status": "APPLIED", "event_id": "e"}),
    (runtime.BalanceResponse, {"balances": [], "has_more": False}),
    (
        runtime.ReservationListResponse,
        {
            "reservations": [
                {
                    "reservation_id": "r",
                    "status": "EXPIRED",
                    **WHO,
                    "reserved": AMOUNT,
                    "created_at_ms": 1,
                    "expires_at_ms": 2,
                    "scope_path": "tenant:acme",
                    "affected_scopes": ["tenant:acme"],
                    "metadata": {"a": 1},
                }
            ],
            "next_cursor": "c",
            "has_more": True,
        },
    ),
    (
        runtime.ErrorResponse,
        {"error": "A_CODE_OF_TOMORROW", "message": "m", "request_id": "r", "trace_id": "a" * 32},
    ),
]


@pytest.mark.parametrize(
    ("model", "body"), RESPONSES, ids=lambda value: getattr(value, "__name__", "")
)
def test_responses_round_trip(model: type[Any], body: dict[str, Any]) -> None:
    """A response parses and prints back as it came, and an unknown field is refused."""
    parsed = model.model_validate_json(json.dumps(body))
    assert json.loads(parsed.model_dump_json(exclude_unset=True)) == body
    with pytest.raises(ValidationError, match="surprise"):
        model.model_validate({**body, "surprise": 1})


def test_a_wrong_status_in_a_response_is_refused() -> None:
    """A commit answer that does not say COMMITTED is no commit answer."""
    charged = runtime.Amount(unit=Unit.TOKENS, amount=1)
    with pytest.raises(ValidationError):
        runtime.CommitResponse.model_validate(
            {"status": ReservationStatus.RELEASED.value, "charged": charged}
        )
