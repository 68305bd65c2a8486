"""Models: the official client's fields and rules, open where an answer may grow."""

import json
from typing import Any

import pytest
import runcycles
from pydantic import BaseModel, ValidationError

from bursar.client import enums, mappers, models
from bursar.client.models import (
    Amount,
    Caps,
    CommitRequest,
    CommitResponse,
    CyclesMetrics,
    DecisionResponse,
    ErrorResponse,
    ReservationCreateResponse,
    ReservationDetail,
    Subject,
)
from bursar.wire import runtime

AMOUNT = {"unit": "TOKENS", "amount": 5}
SUBJECT = {"tenant": "acme"}
ACTION = {"kind": "llm.completion", "name": "gpt"}
REF = {"evidence_id": "a" * 64, "cycles_evidence_url": "https://host/e/1"}
BALANCE = {"scope": "tenant:acme", "scope_path": "/tenant:acme", "remaining": AMOUNT}
ROW = {
    "reservation_id": "rsv_1",
    "status": "ACTIVE",
    "subject": SUBJECT,
    "action": ACTION,
    "reserved": AMOUNT,
    "created_at_ms": 1,
    "expires_at_ms": 2,
    "scope_path": "/tenant:acme",
    "affected_scopes": ["tenant:acme"],
}
ASKED = {"idempotency_key": "k", "subject": SUBJECT, "action": ACTION}

# Model -> the smallest input it takes.
LEAST: dict[str, dict[str, Any]] = {
    "Amount": AMOUNT,
    "SignedAmount": {"unit": "CREDITS", "amount": -5},
    "Subject": {},
    "Action": ACTION,
    "Caps": {},
    "CyclesMetrics": {},
    "CyclesEvidenceRef": REF,
    "Balance": BALANCE,
    "ErrorResponse": {"error": "X", "message": "m", "request_id": "r"},
    "ReservationCreateRequest": {**ASKED, "estimate": AMOUNT},
    "CommitRequest": {"idempotency_key": "k", "actual": AMOUNT},
    "ReleaseRequest": {"idempotency_key": "k"},
    "ReservationExtendRequest": {"idempotency_key": "k", "extend_by_ms": 1},
    "DecisionRequest": {**ASKED, "estimate": AMOUNT},
    "EventCreateRequest": {**ASKED, "actual": AMOUNT},
    "ReservationCreateResponse": {"decision": "ALLOW", "affected_scopes": []},
    "CommitResponse": {"status": "COMMITTED", "charged": AMOUNT},
    "ReleaseResponse": {"status": "RELEASED", "released": AMOUNT},
    "ReservationExtendResponse": {"status": "ACTIVE", "expires_at_ms": 1},
    "DecisionResponse": {"decision": "DENY"},
    "EventCreateResponse": {"status": "APPLIED", "event_id": ""},
    "DryRunResult": {"decision": "ALLOW"},
    "ReservationDetail": ROW,
    "ReservationSummary": ROW,
    "ReservationListResponse": {"reservations": [ROW]},
    "BalanceResponse": {"balances": [BALANCE]},
}
SENT = {name for name in LEAST if name.endswith("Request")} | {
    "Action",
    "Amount",
    "CyclesMetrics",
    "Subject",
}

# (model, what is added to or changed in the smallest input): both clients must do the same.
SAME: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LEAST),
    *(("Amount", {"amount": n}) for n in ("5", 5.0, True, 0, 2**63 - 1, -1, 2**63, 5.5, "x", None)),
    *(("Amount", {"unit": unit}) for unit in ("EUR", "tokens", None, 5, runcycles.Unit.TOKENS)),
    *(("SignedAmount", {"amount": n}) for n in (-(2**63), 2**63 - 1, -(2**63) - 1, 2**63)),
    *(("Subject", {"tenant": name}) for name in ("", "a b", "x" * 128, "x" * 129, 5, None)),
    ("Subject", {"dimensions": {f"k{n}": "v" for n in range(16)}}),
    ("Subject", {"dimensions": {f"k{n}": "v" for n in range(17)}}),
    ("Subject", {"dimensions": {"k": "v" * 256}}),
    ("Subject", {"dimensions": {"k": "v" * 257}}),
    ("Subject", {"dimensions": {"k": 1}}),
    ("Subject", {"tenent": "acme"}),
    *(("Action", {"kind": kind}) for kind in ("", "k" * 64, "k" * 65)),
    *(("Action", {"name": name}) for name in ("", "n" * 256, "n" * 257)),
    *(("Action", {"tags": tags}) for tags in ([], ("a",), ["t"] * 10, ["t"] * 11, ["t" * 65])),
    *(("Caps", {"max_tokens": n}) for n in (0, -1, "3", 2**70)),
    *(("Caps", {"tool_allowlist": tools}) for tools in ([], ["t" * 256], ["t" * 257], ("a",))),
    *(("CyclesMetrics", {"tokens_input": n}) for n in (0, -1, "3", True)),
    *(("CyclesMetrics", {"model_version": text}) for text in ("m" * 128, "m" * 129)),
    ("CyclesMetrics", {"custom": {"a": [1, None, {"b": 2.5}], "t": (1, 2)}}),
    ("CyclesMetrics", {"tokens": 1}),
    *(("CyclesEvidenceRef", {"evidence_id": e}) for e in ("A" * 64, "a" * 63, "a" * 64 + "\n")),
    *(("CyclesEvidenceRef", {"cycles_evidence_url": url}) for url in ("", "/e/1", "urn:x")),
    *(("CommitRequest", {"idempotency_key": key}) for key in ("", "k" * 256, "k" * 257)),
    ("CommitRequest", {"metrics": {"tokens_input": 1}, "metadata": {"a": None}}),
    ("CommitRequest", {"estimate": AMOUNT}),
    ("CommitRequest", {"actual": {**AMOUNT, "amonut": 1}}),
    *(("ReleaseRequest", {"reason": text}) for text in ("", "r" * 256, "r" * 257)),
    *(("ReservationExtendRequest", {"extend_by_ms": n}) for n in (0, 86_400_000, 86_400_001)),
    ("ReservationCreateRequest", {"ttl_ms": -1, "grace_period_ms": 10**9}),
    ("ReservationCreateRequest", {"overage_policy": "REJECT", "dry_run": True}),
    ("ReservationCreateRequest", {"overage_policy": "MAYBE"}),
    ("EventCreateRequest", {"client_time_ms": -1}),
    ("ReservationCreateResponse", {"balances": [BALANCE], "caps": {"max_tokens": 1}}),
    ("ReservationCreateResponse", {"cycles_evidence": REF, "remaining_ttl_ms": 0}),
    ("ReservationCreateResponse", {"cycles_evidence": {**REF, "cycles_evidence_url": "/e"}}),
    ("ReservationCreateResponse", {"expires_at_ms": 2**63}),
    ("ReservationCreateResponse", {"reserved": {"unit": "TOKENS", "amount": -1}}),
    ("ReservationCreateResponse", {"decision": None}),
    ("ErrorResponse", {"details": {"a": 1}}),
    ("ErrorResponse", {"message": 5}),
    ("ReservationDetail", {"finalized_at_ms": 3, "committed": AMOUNT}),
]

# Inputs that only one of the two takes, and why.
MORE_IS_READ = "answers stay readable when a server knows more than the client"
ONLY_OURS: list[tuple[str, dict[str, Any], str]] = [
    *((name, {"novel": 1}, MORE_IS_READ) for name in LEAST if name not in SENT),
    ("ErrorResponse", {"trace_id": "f" * 32, "cycles_evidence": REF}, MORE_IS_READ),
    ("DecisionResponse", {"cycles_evidence": REF}, MORE_IS_READ),
    ("ReleaseResponse", {"cycles_evidence": REF}, MORE_IS_READ),
    ("ReservationSummary", {"committed": AMOUNT, "metadata": {}}, MORE_IS_READ),
    ("DecisionResponse", {"decision": "DEFER"}, MORE_IS_READ),
    ("CommitResponse", {"status": "PENDING"}, MORE_IS_READ),
    ("CommitResponse", {"charged": {"unit": "EUR", "amount": 1}}, MORE_IS_READ),
    ("CommitResponse", {"charged": {**AMOUNT, "display": "5"}}, MORE_IS_READ),
    ("ReservationDetail", {"subject": {"tenant": "a", "team": "b"}}, MORE_IS_READ),
    ("ReservationDetail", {"action": {**ACTION, "risk": 3}}, MORE_IS_READ),
    ("ReservationCreateResponse", {"reason_code": "r" * 129}, "the protocol leaves it open"),
]
ONLY_OFFICIAL: list[tuple[str, dict[str, Any], str]] = [
    ("DecisionResponse", {"retry_after_ms": -1}, "a wait is never negative"),
]


def read(package: Any, name: str, changed: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a model keeps of an input, as plain data; None if it is refused."""
    try:
        model = getattr(package, name).model_validate({**LEAST[name], **changed})
    except ValidationError:
        return None
    plain: dict[str, Any] = json.loads(model.model_dump_json(exclude_none=True))
    assert plain == json.loads(json.dumps(model.model_dump(exclude_none=True)))
    return plain


def official_models() -> list[str]:
    return [name for name in runcycles.__all__ if hasattr(getattr(runcycles, name), "model_fields")]


def test_every_model_is_here_and_compared() -> None:
    """No official model is missing from the table of inputs."""
    assert set(official_models()) == set(LEAST)
    assert set(models.__all__) - set(LEAST) == {"ReservationEvidence"}


@pytest.mark.parametrize("name", LEAST)
def test_fields_are_the_official_ones(name: str) -> None:
    """Every official field is here, and exactly the same ones are required."""
    official, ours = getattr(runcycles, name).model_fields, getattr(models, name).model_fields
    assert set(official) <= set(ours)
    assert {n for n, f in official.items() if f.is_required()} == {
        n for n, f in ours.items() if f.is_required()
    }


@pytest.mark.parametrize("name", sorted({*LEAST, "ReservationEvidence"} - {"DryRunResult"}))
def test_fields_are_those_of_the_wire(name: str) -> None:
    """Server and SDK know the same fields, so neither can be changed alone."""
    spelled = {"CyclesMetrics": "StandardMetrics"}
    wire = getattr(runtime, spelled.get(name, name)).model_fields
    ours = getattr(models, name).model_fields
    assert set(wire) == set(ours)
    assert {n for n, f in wire.items() if f.is_required()} == {
        n for n, f in ours.items() if f.is_required()
    }


@pytest.mark.parametrize(("name", "changed"), SAME)
def test_same_input_same_outcome(name: str, changed: dict[str, Any]) -> None:
    """Both clients refuse the input, or both keep the same of it."""
    assert read(runcycles, name, changed) == read(models, name, changed)


@pytest.mark.parametrize(("name", "changed", "why"), ONLY_OURS)
def test_what_only_ours_reads(name: str, changed: dict[str, Any], why: str) -> None:
    """The input is kept whole, and the official client refuses it still."""
    assert why
    assert read(runcycles, name, changed) is None
    assert {**LEAST[name], **changed} == read(models, name, changed)


@pytest.mark.parametrize(("name", "changed", "why"), ONLY_OFFICIAL)
def test_what_only_the_official_client_reads(name: str, changed: dict[str, Any], why: str) -> None:
    """The difference is one on purpose."""
    assert why
    assert read(runcycles, name, changed) is not None
    assert read(models, name, changed) is None


@pytest.mark.parametrize("name", LEAST)
def test_models_can_be_changed_and_are_not_hashable(name: str) -> None:
    """Like the official models; two with the same content are equal."""
    model = getattr(models, name)
    one, other = (model.model_validate(LEAST[name]) for _ in range(2))
    assert one == other
    field = next(iter(model.model_fields))
    setattr(one, field, "changed")
    assert (one != other, getattr(one, field)) == (True, "changed")
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_known_answers_hold_the_plain_classes() -> None:
    """An answer without surprises is made of the very classes that users construct."""
    charged = CommitResponse.model_validate(LEAST["CommitResponse"]).charged
    assert type(charged) is Amount
    assert charged == Amount.tokens(5)
    assert CommitResponse(status=enums.CommitStatus.COMMITTED, charged=Amount.tokens(5))
    odd = CommitResponse.model_validate(
        {"status": "COMMITTED", "charged": {"unit": "EUR", "amount": 1, "display": "1"}}
    ).charged
    assert isinstance(odd, Amount)
    assert (odd.unit, odd.model_extra) == ("EUR", {"display": "1"})


def test_an_unknown_decision_is_neither_yes_nor_no() -> None:
    """It stays plain text."""
    for model in (DecisionResponse, ReservationCreateResponse, models.DryRunResult):
        body = {"decision": "DEFER", "affected_scopes": []}
        answer = model.model_validate(body)
        assert (type(answer.decision), answer.decision) == (str, "DEFER")
        assert not answer.is_allowed()
        assert not answer.is_denied()


@pytest.mark.parametrize("decision", list(enums.Decision))
def test_decisions_agree(decision: enums.Decision) -> None:
    """`is_allowed`, `is_denied` and `has_caps` give the official answers."""
    for name in ("DecisionResponse", "ReservationCreateResponse", "DryRunResult"):
        body = {"decision": decision.value, "affected_scopes": [], "caps": {"max_tokens": 1}}
        official = getattr(runcycles, name)(**body)
        ours = getattr(models, name)(**body)
        assert official.is_allowed() == ours.is_allowed()
        assert official.is_denied() == ours.is_denied()
        if name == "DryRunResult":
            assert ours.has_caps()
            assert not models.DryRunResult(decision=decision).has_caps()


@pytest.mark.parametrize("status", list(enums.ReservationStatus))
def test_reservation_states_agree(status: enums.ReservationStatus) -> None:
    """Exactly one of the four questions is answered with yes."""
    detail = ReservationDetail.model_validate({**ROW, "status": status.value})
    official = runcycles.ReservationDetail.model_validate({**ROW, "status": status.value})
    asked = ("is_active", "is_committed", "is_released", "is_expired")
    answers = [getattr(detail, name)() for name in asked]
    assert answers == [getattr(official, name)() for name in asked]
    assert answers.count(True) == 1


@pytest.mark.parametrize(
    ("caps", "allowed"),
    [
        ({}, True),
        ({"tool_allowlist": ["search"]}, True),
        ({"tool_allowlist": ["other"]}, False),
        ({"tool_denylist": ["search"]}, False),
        ({"tool_denylist": ["other"]}, True),
        ({"tool_denylist": []}, True),
        ({"tool_allowlist": ["search"], "tool_denylist": ["search"]}, True),
    ],
)
def test_tools_are_allowed_alike(caps: dict[str, Any], allowed: bool) -> None:
    """An allowlist decides alone, a denylist excludes."""
    assert allowed == Caps(**caps).is_tool_allowed("search")
    assert allowed == runcycles.Caps(**caps).is_tool_allowed("search")


@pytest.mark.parametrize(("denied", "allowed"), [([], True), (["search"], False), (None, True)])
def test_an_empty_allowlist_restricts_nothing(denied: list[str] | None, allowed: bool) -> None:
    """The protocol says so; the official client blocks every tool instead."""
    caps = {"tool_allowlist": [], "tool_denylist": denied}
    assert allowed == Caps(**caps).is_tool_allowed("search")
    assert not runcycles.Caps(**caps).is_tool_allowed("search")


def test_metrics_are_collected_alike() -> None:
    """`put_custom` and `is_empty` agree; what was passed in is not changed."""
    for metrics in (CyclesMetrics(), runcycles.CyclesMetrics()):
        assert metrics.is_empty()
        metrics.put_custom("a", 1)
        metrics.put_custom("b", None)
        assert metrics.custom == {"a": 1, "b": None}
        assert not metrics.is_empty()
    assert CyclesMetrics(custom={}).is_empty()
    assert not CyclesMetrics(latency_ms=0).is_empty()


@pytest.mark.parametrize("unit", list(enums.Unit))
def test_amounts_by_unit(unit: enums.Unit) -> None:
    """Each unit has a constructor of its own name."""
    assert Amount(unit=unit, amount=7) == getattr(Amount, unit.value.lower())(7)


def test_who_spends() -> None:
    """Dimensions alone name nobody, nor does an empty level."""
    for kind in (Subject, runcycles.Subject):
        assert kind(toolset="t").has_at_least_one_standard_field()
        assert not kind(tenant="", dimensions={"a": "b"}).has_at_least_one_standard_field()


def test_error_codes_as_enum() -> None:
    """A code that is not known here is UNKNOWN as an enum and itself as text."""
    error = ErrorResponse(error="NOVEL", message="m", request_id="r")
    assert (error.error, error.error_code) == ("NOVEL", enums.ErrorCode.UNKNOWN)


TO_WIRE = {
    "metrics": "CyclesMetrics",
    "reservation_create_request": "ReservationCreateRequest",
    "commit_request": "CommitRequest",
    "release_request": "ReleaseRequest",
    "reservation_extend_request": "ReservationExtendRequest",
    "decision_request": "DecisionRequest",
    "event_create_request": "EventCreateRequest",
}
FROM_WIRE = {
    "caps": "Caps",
    "reservation_create_response": "ReservationCreateResponse",
    "commit_response": "CommitResponse",
    "release_response": "ReleaseResponse",
    "reservation_extend_response": "ReservationExtendResponse",
    "decision_response": "DecisionResponse",
    "event_create_response": "EventCreateResponse",
    "reservation_detail": "ReservationDetail",
    "reservation_summary": "ReservationSummary",
    "reservation_list_response": "ReservationListResponse",
    "balance_response": "BalanceResponse",
}


@pytest.mark.parametrize("name", TO_WIRE)
def test_models_and_dicts_become_what_is_sent(name: str) -> None:
    """Absent fields are left out; a dict is checked on the way."""
    convert, least = getattr(mappers, f"{name}_to_wire"), LEAST[TO_WIRE[name]]
    assert least == convert(least) == convert(getattr(models, TO_WIRE[name])(**least))
    with pytest.raises(ValidationError, match="novel"):
        convert({**least, "novel": 1})


def test_nothing_inside_metadata_is_left_out() -> None:
    """Only absent fields of the protocol are: a None of the caller's own is data."""
    request = CommitRequest(idempotency_key="k", actual=Amount.tokens(1), metadata={"a": None})
    sent = {"idempotency_key": "k", "actual": {"unit": "TOKENS", "amount": 1}}
    assert mappers.commit_request_to_wire(request) == {**sent, "metadata": {"a": None}}


@pytest.mark.parametrize("name", FROM_WIRE)
def test_what_is_received_becomes_a_model(name: str) -> None:
    """Unknown fields are kept, a body that lacks what is required is refused."""
    convert, least = getattr(mappers, f"{name}_from_wire"), LEAST[FROM_WIRE[name]]
    received: BaseModel = convert({**least, "novel": 1})
    assert type(received) is getattr(models, FROM_WIRE[name])
    assert received.model_dump(exclude_none=True, mode="json") == {**least, "novel": 1}
    if least:
        with pytest.raises(ValidationError):
            convert({})


def test_refusals_become_models_or_none() -> None:
    """As everywhere: code, message and request id make a refusal."""
    error = mappers.error_response_from_wire({**LEAST["ErrorResponse"], "trace_id": 5})
    assert error is not None
    assert (error.error, error.trace_id) == ("X", None)
    assert mappers.error_response_from_wire({"error": "X"}) is None
