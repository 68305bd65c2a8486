"""What an answer means for money, and what follows from it: the two tables, row by row."""

from dataclasses import replace
from typing import Any

import pytest

from bursar.client.config import CyclesConfig
from bursar.client.journal import Record
from bursar.client.models import Amount, CommitResponse
from bursar.client.models.shared import OpenAmount
from bursar.client.outcome import RECOGNISED, Expected, Outcome, Verdict, classify, read_answer
from bursar.client.response import CyclesResponse
from bursar.client.settling import RETRY_AFTER_MS_MAX, backoff_s, event_body, follow
from bursar.vocabulary import Unit

NOW_MS = 1_790_000_000_000
COMMITTED = {"status": "COMMITTED", "charged": {"unit": "TOKENS", "amount": 7}}
APPLIED = {"status": "APPLIED", "event_id": "evt_1"}
CONFIG = CyclesConfig("http://localhost", "key")
COMMIT: dict[str, Any] = {"idempotency_key": "k", "actual": {"unit": "TOKENS", "amount": 7}}
EVENT = event_body({"tenant": "acme"}, {"kind": "a", "name": "b"}, COMMIT, "rsv_1")
RECORD = Record("rsv_1", "http://localhost", "commit", COMMIT, EVENT, NOW_MS)


def said(status: int, body: Any = None, **headers: str) -> CyclesResponse:
    if status == -1:
        return CyclesResponse.transport_error(OSError("reset"))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if 200 <= status < 300:
        return CyclesResponse.success(status, body if body is not None else {}, named)
    return CyclesResponse.http_error(status, "m", body, named)


def refused(status: int, code: str) -> CyclesResponse:
    return said(status, {"error": code, "message": "m", "request_id": "r", "trace_id": "t"})


VERDICTS = [
    (said(200, COMMITTED), Verdict.SETTLED),
    (said(200, COMMITTED | {"new_field": {"a": 1}}), Verdict.SETTLED),
    (said(200, {}), Verdict.AMBIGUOUS),
    (said(200, COMMITTED | {"charged": None}), Verdict.AMBIGUOUS),
    (said(200, COMMITTED | {"charged": {"unit": "TOKENS", "amount": "7"}}), Verdict.AMBIGUOUS),
    (said(200, COMMITTED | {"charged": {"unit": "TOKENS", "amount": 2**63}}), Verdict.AMBIGUOUS),
    (said(200, COMMITTED | {"status": "RELEASED"}), Verdict.AMBIGUOUS),
    (said(200, COMMITTED | {"balances": None}), Verdict.AMBIGUOUS),
    (said(201, COMMITTED), Verdict.AMBIGUOUS),
    (said(202, COMMITTED), Verdict.AMBIGUOUS),
    (said(-1), Verdict.AMBIGUOUS),
    (said(500), Verdict.AMBIGUOUS),
    (refused(503, "INTERNAL_ERROR"), Verdict.AMBIGUOUS),
    (said(302), Verdict.AMBIGUOUS),
    (said(600), Verdict.AMBIGUOUS),
    (said(429), Verdict.LIMITED),
    (refused(400, "LIMIT_EXCEEDED"), Verdict.LIMITED),
    (said(401), Verdict.UNAUTHORIZED),
    (refused(403, "FORBIDDEN"), Verdict.UNAUTHORIZED),
    (said(410), Verdict.EXPIRED),
    (refused(409, "RESERVATION_EXPIRED"), Verdict.EXPIRED),
    (refused(409, "RESERVATION_FINALIZED"), Verdict.FINAL),
    (refused(409, "IDEMPOTENCY_MISMATCH"), Verdict.FINAL),
    (refused(400, "UNIT_MISMATCH"), Verdict.REJECTED),
    (refused(404, "NOT_FOUND"), Verdict.REJECTED),
    (refused(409, "BUDGET_EXCEEDED"), Verdict.REJECTED),
    (said(400), Verdict.UNCLASSIFIED),
    (refused(400, "A_CODE_OF_TOMORROW"), Verdict.UNCLASSIFIED),
    (refused(400, "INTERNAL_ERROR"), Verdict.UNCLASSIFIED),
    (said(418, {"error": 5}), Verdict.UNCLASSIFIED),
]


@pytest.mark.parametrize(("response", "verdict"), VERDICTS, ids=str)
def test_verdict(response: CyclesResponse, verdict: Verdict) -> None:
    """Only a fitting success is one, only an understood refusal ends the asking."""
    assert classify(response, Expected.COMMIT).verdict is verdict


def test_every_verdict_has_a_row() -> None:
    """And every code that is known and final is one."""
    assert {verdict for _, verdict in VERDICTS} == set(Verdict)
    for code in RECOGNISED:
        verdict = classify(refused(400, code), Expected.COMMIT).verdict
        assert verdict in (Verdict.EXPIRED, Verdict.FINAL, Verdict.REJECTED), code


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        (APPLIED, True),
        (APPLIED | {"event_id": ""}, True),
        (APPLIED | {"charged": {"unit": "TOKENS", "amount": 0}}, True),
        (APPLIED | {"event_id": None}, False),
        (APPLIED | {"charged": None}, False),
        (APPLIED | {"charged": {"unit": "TOKENS", "amount": None}}, False),
        (APPLIED | {"charged": {"unit": "TOKENS", "amount": 0, "of_tomorrow": None}}, False),
        (APPLIED | {"charged": {"unit": "TOKENS", "amount": "0"}}, False),
        (APPLIED | {"charged": {"unit": "COINS_OF_TOMORROW", "amount": 0}}, True),
        (APPLIED | {"of_tomorrow": {"deep": [{"down": 1}]}}, True),
        (APPLIED | {"of_tomorrow": {"deep": [{"down": None}]}}, False),
        ({"status": "APPLIED"}, False),
        (APPLIED | {"status": "COMMITTED"}, False),
        ([], False),
        (None, False),
    ],
)
def test_an_event_is_applied_with_201(body: Any, fits: bool) -> None:
    """200 is not its success, however well the body fits."""
    assert (read_answer(body, Expected.EVENT) is not None) is fits
    assert (classify(said(201, body), Expected.EVENT).verdict is Verdict.SETTLED) is fits
    assert classify(said(200, body), Expected.EVENT).verdict is Verdict.AMBIGUOUS


def test_an_answer_is_read_as_its_lenient_model_reads_it() -> None:
    """Strictness refuses more and changes nothing: members of enums, closed amounts, extras."""
    budget = {"scope": "a", "scope_path": "a", "remaining": {"unit": "TOKENS", "amount": -1}}
    body = COMMITTED | {"balances": [budget | {"spent": {"unit": "SOON", "amount": 1}}], "x": [1]}
    answer = read_answer(body, Expected.COMMIT)
    assert answer == CommitResponse.model_validate(body)
    assert answer.charged.unit is Unit.TOKENS
    assert (type(answer.charged), type(answer.balances[0].spent)) == (Amount, OpenAmount)
    assert answer.model_dump(mode="json", exclude_unset=True) == body


def test_an_event_carries_the_key_and_the_facts_of_the_commit() -> None:
    """No overage policy, its own reason, and the commit's metadata and metrics."""
    commit = COMMIT | {"metrics": {"latency_ms": 5}, "metadata": {"actual_source": "estimate"}}
    assert event_body({"agent": "a"}, {"kind": "k", "name": "n"}, commit, "rsv_1") == {
        "idempotency_key": "k",
        "subject": {"agent": "a"},
        "action": {"kind": "k", "name": "n"},
        "actual": {"unit": "TOKENS", "amount": 7},
        "metrics": {"latency_ms": 5},
        "metadata": {
            "actual_source": "estimate",
            "recovered_reservation_id": "rsv_1",
            "recovery_reason": "commit_after_reservation_expired",
        },
    }


# What follows: (verdict, mode, failures before) -> (delay in seconds, mode then, failures then).

PARKED = 60.0
COMMIT_ONLY = replace(RECORD, event_fallback_body=None)
AS_EVENT = replace(RECORD, mode="event")
ANSWER = {
    Verdict.SETTLED: said(200, COMMITTED),
    Verdict.AMBIGUOUS: said(503),
    Verdict.LIMITED: said(429),
    Verdict.UNAUTHORIZED: said(401),
    Verdict.EXPIRED: said(410),
    Verdict.FINAL: refused(409, "RESERVATION_FINALIZED"),
    Verdict.REJECTED: refused(400, "UNIT_MISMATCH"),
    Verdict.UNCLASSIFIED: said(400),
}
FOLLOWS: list[tuple[Verdict, Record, int, float | None, str, int]] = [
    *[
        (verdict, record, 0, delay, record.mode, 1)
        for record in (RECORD, AS_EVENT)
        for verdict, delay in [
            (Verdict.AMBIGUOUS, 0.5),
            (Verdict.LIMITED, 0.5),
            (Verdict.UNAUTHORIZED, PARKED),
            (Verdict.UNCLASSIFIED, PARKED),
        ]
    ],
    *[
        (Verdict.AMBIGUOUS, RECORD, attempts, delay, "commit", attempts + 1)
        for attempts, delay in enumerate([0.5, 1.0, 2.0, 4.0, 8.0, PARKED, PARKED])
    ],
    (Verdict.LIMITED, AS_EVENT, 5, PARKED, "event", 6),
    (Verdict.EXPIRED, RECORD, 3, 0.0, "event", 0),
    (Verdict.EXPIRED, COMMIT_ONLY, 0, PARKED, "commit", 1),
    (Verdict.EXPIRED, AS_EVENT, 0, PARKED, "event", 1),
]


@pytest.mark.parametrize(
    ("verdict", "record", "before", "delay_s", "mode", "after"),
    FOLLOWS,
    ids=[f"{row[0]}-{row[1].mode}-{row[2]}" for row in FOLLOWS],
)
def test_what_follows(
    verdict: Verdict, record: Record, before: int, delay_s: float | None, mode: str, after: int
) -> None:
    """An unsettled record is asked again: when, as what, and how often it has failed."""
    step = follow(CONFIG, record, Outcome(verdict, ANSWER[verdict]), before, NOW_MS)
    assert (step.delay_s, step.record.mode, step.attempts) == (delay_s, mode, after)
    assert (step.record.key, step.outcome.final) == ("k", False)


@pytest.mark.parametrize("verdict", [Verdict.SETTLED, Verdict.FINAL, Verdict.REJECTED])
@pytest.mark.parametrize("record", [RECORD, AS_EVENT], ids=["commit", "event"])
def test_what_is_final(verdict: Verdict, record: Record) -> None:
    """Nothing follows, whatever the mode."""
    step = follow(CONFIG, record, Outcome(verdict, ANSWER[verdict]), 2, NOW_MS)
    assert (step.delay_s, step.record, step.outcome.final) == (None, record, True)


@pytest.mark.parametrize(
    ("header", "floor_ms", "delay_s"),
    [("3", 3_000, 3.0), ("0", 0, 0.5), ("3600", 3_600_000, 3_600.0), ("7200", 3_600_000, 3_600.0)],
)
def test_a_floor_is_kept_and_capped(header: str, floor_ms: int, delay_s: float) -> None:
    """Retry-After is written into the record as wall-clock time, an hour at most (case 26)."""
    limited = classify(said(429, None, retry_after=header), Expected.COMMIT)
    step = follow(CONFIG, RECORD, limited, 0, NOW_MS)
    assert (step.record.not_before_ms, step.delay_s) == (NOW_MS + floor_ms, delay_s)
    assert step.record == replace(RECORD, not_before_ms=NOW_MS + floor_ms)
    assert floor_ms <= RETRY_AFTER_MS_MAX


def test_a_floor_never_shortens_the_backoff() -> None:
    """The longer of the two holds, and no number of attempts ends the asking."""
    limited = classify(said(429, None, retry_after="1"), Expected.COMMIT)
    assert follow(CONFIG, RECORD, limited, 4, NOW_MS).delay_s == 8.0
    assert follow(CONFIG, RECORD, limited, 99, NOW_MS).delay_s == 30.0


def test_an_event_starts_without_the_commits_floor() -> None:
    """What was asked of the commit says nothing about another endpoint."""
    limited = replace(RECORD, not_before_ms=NOW_MS + 5)
    step = follow(CONFIG, limited, Outcome(Verdict.EXPIRED, said(410)), 0, NOW_MS)
    assert (step.record.mode, step.record.not_before_ms) == ("event", None)


def test_without_a_long_interval_the_next_process_asks() -> None:
    """`retry_sweep_interval=0` turns the background off; it must never mean at once."""
    off = replace(CONFIG, retry_sweep_interval=0.0, retry_max_attempts=1)
    for verdict in (Verdict.UNAUTHORIZED, Verdict.UNCLASSIFIED):
        assert follow(off, RECORD, Outcome(verdict, ANSWER[verdict]), 0, NOW_MS).delay_s is None
    down = Outcome(Verdict.AMBIGUOUS, said(503))
    assert follow(off, RECORD, down, 0, NOW_MS).delay_s == 0.5
    assert follow(off, RECORD, down, 1, NOW_MS).delay_s is None


def test_backoff_doubles_up_to_its_limit() -> None:
    """0.5, 1, 2, 4, 8 s, and 30 s in the end."""
    assert [backoff_s(CONFIG, n) for n in (0, 1, 2, 3, 4, 6, 50)] == [0.5, 1, 2, 4, 8, 30, 30]
