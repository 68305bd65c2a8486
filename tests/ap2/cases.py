"""Every way in and out of a guarded payment, as one table.

The rule that lives here: a case says what the ledger answers and how the body ends, and then
what the guard sent and raised. It holds for both shells, and for the official guard too unless
`differs` names the row of `differences.py` that says why not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ap2.scripted import (
    ALLOW,
    COMMIT,
    CREATE,
    DENY,
    EXTEND,
    GET,
    LIST,
    LOST,
    RELEASE,
    Answer,
    refusal,
)

Body = Callable[[Any], None]


def ends(guard: Any) -> None:
    """Pay and say so."""
    guard.attach_receipt_fields(psp_ref="ch_1", order=7)


def raises(error: BaseException) -> Body:
    """Raise in the body."""

    def body(guard: Any) -> None:
        raise error

    return body


def aborts(guard: Any) -> None:
    """Find out late that nothing was paid."""
    guard.abort("psp_declined")


@dataclass(frozen=True, slots=True)
class Case:
    """What happens, and what must come of it.

    `raised` is the name of the class, `fields` what it carries, `said` a part of its message.
    """

    name: str
    calls: list[str]
    script: Mapping[str, list[Answer]] = field(default_factory=dict)
    body: Body = ends
    options: Mapping[str, Any] = field(default_factory=dict)
    mandate: Mapping[str, Any] = field(default_factory=dict)
    ran: bool = True
    raised: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""
    committed: bool = False
    release: tuple[str, str] | None = None  # reason, end of the key
    differs: str | None = None


def refused(name: str, answer: Answer, code: str | None, **more: Any) -> Case:
    """Return a case in which the reservation is refused."""
    fields = {"reason_code": code, **more.pop("fields", {})}
    plain: dict[str, Any] = {"calls": [CREATE], "said": "AP2 reservation failed"}
    return Case(
        name, script={CREATE: [answer]}, ran=False, raised="AP2GuardDenied", fields=fields,
        **{**plain, **more},
    )  # fmt: skip


def uncertain(name: str, answer: Answer, code: str, **more: Any) -> Case:
    """Return a case in which nobody knows whether the commit arrived."""
    fields = {"error_code": code, "reservation_id": "rsv_1", **more.pop("fields", {})}
    return Case(
        name, [CREATE, COMMIT], {COMMIT: [answer]}, raised="AP2GuardCommitUncertain",
        fields=fields, **{"said": "o release was attempted", **more},
    )  # fmt: skip


def rejected(name: str, answer: Answer, code: str, *release: Answer, **more: Any) -> Case:
    """Return a case in which the ledger refuses the commit itself."""
    fields = {"error_code": code, "reservation_id": "rsv_1", **more.pop("fields", {})}
    return Case(
        name, [CREATE, COMMIT, RELEASE], {COMMIT: [answer], RELEASE: list(release)},
        raised="AP2GuardCommitFailed", fields=fields,
        release=(f"ap2_commit_rejected:{code}", "CommitRejected"), **{"said": code, **more},
    )  # fmt: skip


TRACED = {"trace_id": "0" * 32}
EARLIER = {
    "reservation_id": "rsv_0", "status": "COMMITTED",
    "subject": {"tenant": "acme", "dimensions": {
        "run_id": "run_a", "ap2_transaction_id": "ap2-tx-001", "payee_website": "merchant.example",
        "payment_currency": "USD", "payment_protocol": "ap2",
    }},
    "action": {"kind": "payment.charge", "name": "ap2.payment_mandate.present"},
    "reserved": {"unit": "USD_MICROCENTS", "amount": 19_900_000_000},
    "committed": {"unit": "USD_MICROCENTS", "amount": 19_900_000_000},
    "expires_at_ms": 4_000,
}  # fmt: skip


def listed(**changes: Any) -> list[Answer]:
    """Return the answer that lists one earlier reservation."""
    return [(200, {"reservations": [{**EARLIER, **changes}]})]


def allowed(**changes: Any) -> Answer:
    """Return a granted reservation, changed; None takes a field away."""
    body = {**ALLOW[1], **changes}  # type: ignore[index]  # it is a status and a body
    return 200, {name: value for name, value in body.items() if value is not None}


MISMATCH = refusal(409, "IDEMPOTENCY_MISMATCH")
RELEASED_BY = {"error": "ValueError", "said": "card declined"}

ENTER = [
    Case("allow, body ends", [CREATE, COMMIT], committed=True),
    Case(
        "allow with caps", [CREATE, COMMIT], committed=True,
        script={CREATE: [allowed(decision="ALLOW_WITH_CAPS", caps={"max_tokens": 5})]},
    ),
    refused("deny", DENY, "BUDGET_EXCEEDED", said="denied for transaction ap2-tx-001: BUDGET"),
    refused(
        "deny without a reason", (200, {"decision": "DENY", "affected_scopes": []}), None,
        said="no reason",
    ),
    refused(
        "deny of a dry run", DENY, "BUDGET_EXCEEDED", options={"dry_run": True}, said="denied",
        differs="the key of a dry run",
    ),
    Case(
        "dry run", [CREATE], {CREATE: [allowed(reservation_id=None, remaining_ttl_ms=None)]},
        options={"dry_run": True}, ran=False, raised="AP2DryRunResult",
        fields={"decision": "ALLOW", "affected_scopes": ["tenant:acme"]},
        said="AP2 dry-run decision=ALLOW for transaction ap2-tx-001",
        differs="the key of a dry run",
    ),
    refused("refused", refusal(400, "INVALID_REQUEST"), "INVALID_REQUEST",
            fields={"request_id": "req_1"}),
    refused("refused with a trace", refusal(409, "BUDGET_EXCEEDED", **TRACED), "BUDGET_EXCEEDED",
            fields={"request_id": "req_1"}, differs="refusals with `trace_id`"),
    refused("rate limited, bare", (429, None), None),
    refused("server error", (500, None), None),
    refused("no answer", LOST, None),
    Case("client raises", [CREATE], {CREATE: [ValueError("broken client")]}, ran=False,
         raised="ValueError", said="broken client"),
    refused("allowed, no id", allowed(reservation_id=None), None,
            said="server returned no reservation_id"),
    refused(
        "an answer that is none", (200, {"reservation_id": "rsv_1", "decision": 7}),
        "INVALID_RESPONSE", calls=[CREATE, RELEASE],
        release=("ap2_guard_failed:InvalidResponse", "InvalidResponse"),
        differs="answers to a reservation that cannot be read",
    ),
    refused("a page", (200, None), "INVALID_RESPONSE",
            differs="answers to a reservation that cannot be read"),
    refused(
        "a decision that nobody knows", allowed(decision="MAYBE"), "INVALID_RESPONSE",
        calls=[CREATE, RELEASE],
        release=("ap2_guard_failed:InvalidResponse", "InvalidResponse"),
        differs="answers to a reservation that cannot be read",
    ),
    Case("fields that nobody knows yet", [CREATE, COMMIT], {CREATE: [allowed(later={"x": 1})]},
         committed=True, differs="answers to a reservation that cannot be read"),
    *(
        Case(
            f"{changes}", [], mandate=changes, ran=False, raised=kind, said=said,
        )
        for changes, kind, said in [
            ({"amount_value": "NaN"}, "AP2MandateError", "finite"),
            ({"amount_value": "-Infinity"}, "AP2MandateError", "finite"),
            ({"amount_value": "-1"}, "AP2MandateError", "non-negative"),
            ({"amount_value": "0.000000001"}, "AP2MandateError", "8 decimal places"),
            ({"amount_value": "92233720368.54775808"}, "AP2MandateError", "int64"),
            ({"amount_value": "1E+999999999"}, "AP2MandateError", "int64"),
        ]
    ),
    Case("euros", [], mandate={"currency": "EUR"}, ran=False, raised="AP2CurrencyError",
         said="supports USD only; got 'EUR'", differs="the text of `AP2CurrencyError`"),
    Case("a run id that no ledger takes", [], options={"run_id": "r" * 257}, ran=False,
         raised="AP2MandateError", said="run_id", differs="dimensions that no ledger takes"),
]  # fmt: skip

REPLAYS = [
    refused(
        "replay of an attempt that is over", allowed(remaining_ttl_ms=0), "REPLAYED_SETTLED",
        calls=[CREATE, LIST], said="not made again",
        differs="the replay of a reservation that is over",
    ),
    Case(
        "replay of an attempt that is over, with its outcome", [CREATE, LIST],
        {CREATE: [allowed(remaining_ttl_ms=0)], LIST: listed()}, ran=False,
        raised="AP2GuardDenied", fields={"reason_code": "REPLAYED_SETTLED"},
        said="rsv_0, and it was paid and committed",
        differs="the replay of a reservation that is over",
    ),
    *(
        Case(
            f"no lease in the answer, and reading it gives {answer!r:.40}",
            [CREATE, GET], {CREATE: [allowed(remaining_ttl_ms=None)], GET: [answer]},
            ran=False, raised="AP2GuardDenied", fields={"reason_code": "REPLAYED_SETTLED"},
            said=said, differs="the replay of a reservation that is over",
        )
        for answer, said in [
            ((200, EARLIER), "paid and committed"),
            ((410, None), "whether it was paid is unknown"),
        ]
    ),
    *(
        Case(
            f"no lease in the answer, and reading it gives {answer!r:.40}",
            [CREATE, GET, COMMIT], {CREATE: [allowed(remaining_ttl_ms=None)], GET: [answer]},
            committed=True, differs="the replay of a reservation that is over",
        )
        for answer in [(404, None), LOST, OSError("x"), (200, {**EARLIER, "status": "ACTIVE"})]
    ),
    Case(
        "presented before, with another run id", [CREATE, LIST],
        {CREATE: [MISMATCH], LIST: listed()}, ran=False, raised="AP2GuardDenied",
        fields={"reason_code": "IDEMPOTENCY_MISMATCH", "request_id": "req_1"},
        options={"run_id": "run_b"}, said="run_id was 'run_a' and is 'run_b'",
        differs="a mandate that was presented before",
    ),
    Case(
        "presented before, nothing is known of it", [CREATE, LIST], {CREATE: [MISMATCH]},
        ran=False, raised="AP2GuardDenied",
        fields={"reason_code": "IDEMPOTENCY_MISMATCH", "request_id": "req_1"},
        said="by another instance or with another request",
        differs="a mandate that was presented before",
    ),
    Case(
        "presented before, listing raises", [CREATE, LIST],
        {CREATE: [MISMATCH], LIST: [OSError("x")]},
        ran=False, raised="AP2GuardDenied", fields={"reason_code": "IDEMPOTENCY_MISMATCH"},
        said="ledger does not tell which", differs="a mandate that was presented before",
    ),
    Case(
        "presented by another instance, which may be paying", [CREATE, LIST],
        {CREATE: [MISMATCH], LIST: listed(status="ACTIVE")}, ran=False, raised="AP2GuardDenied",
        fields={"reason_code": "PRESENTED_ELSEWHERE", "request_id": "req_1"},
        said="may be paying now", differs="a mandate that was presented before",
    ),
    *(
        Case(
            f"presented by another instance, {status}", [CREATE, LIST],
            {CREATE: [MISMATCH], LIST: listed(status=status)}, ran=False, raised="AP2GuardDenied",
            fields={"reason_code": "REPLAYED_SETTLED", "request_id": "req_1"}, said=said,
            differs="a mandate that was presented before",
        )
        for status, said in [
            ("COMMITTED", "it was paid and committed"),
            ("RELEASED", "it was released"),
            ("EXPIRED", "whether it was paid is unknown"),
        ]
    ),
]  # fmt: skip

RESUME = [
    Case("resume", [LIST, EXTEND, COMMIT], {LIST: listed(status="ACTIVE")}, committed=True),
    Case(
        "resume under another run id", [LIST, EXTEND, COMMIT], {LIST: listed(status="ACTIVE")},
        options={"run_id": "run_b"}, committed=True,
    ),
    Case("resume, nothing was paid", [LIST, EXTEND, RELEASE], {LIST: listed(status="ACTIVE")},
         body=aborts, release=("ap2_guard_aborted:psp_declined", "Aborted")),
    *(
        Case(
            name, [LIST], {LIST: answers}, ran=False, raised="AP2GuardDenied",
            fields={"reason_code": code}, said=said,
        )
        for name, answers, code, said in [
            ("resume nothing", [(200, {"reservations": []})], "NOTHING_TO_RESUME", "no open"),
            ("resume, no list", [(501, None)], "NOTHING_TO_RESUME", "does not list"),
            ("resume what is over", listed(), "REPLAYED_SETTLED", "paid and committed"),
            (
                "resume another amount",
                listed(status="ACTIVE", reserved={"unit": "USD_MICROCENTS", "amount": 1}),
                "IDEMPOTENCY_MISMATCH", "amount was 1 and is 19900000000",
            ),
        ]
    ),
    *(
        Case(
            name, [LIST, EXTEND], {LIST: listed(status="ACTIVE"), EXTEND: [answer]}, ran=False,
            raised="AP2GuardDenied", fields={"reason_code": code}, said=said,
        )
        for name, answer, code, said in [
            ("resumed by another", MISMATCH, "PRESENTED_ELSEWHERE", "resumed it first"),
            ("resume, expired", (410, None), "REPLAYED_SETTLED", "its lease ended"),
            ("resume, finalized", refusal(409, "RESERVATION_FINALIZED"), "REPLAYED_SETTLED",
             "no longer active"),
            ("resume, no more extensions", refusal(409, "MAX_EXTENSIONS_EXCEEDED"),
             "MAX_EXTENSIONS_EXCEEDED", "could not be resumed"),
            ("resume, no answer", LOST, None, "could not be resumed"),
        ]
    ),
]  # fmt: skip

BODY = [
    Case("body raises", [CREATE, RELEASE], body=raises(ValueError("card declined")),
         raised="ValueError", said="card declined",
         release=("ap2_guard_failed:ValueError", "ValueError")),
    Case("body is interrupted", [CREATE, RELEASE], body=raises(KeyboardInterrupt()),
         raised="KeyboardInterrupt",
         release=("ap2_guard_failed:KeyboardInterrupt", "KeyboardInterrupt")),
    Case("body raises an exception with a hostile name", [CREATE, RELEASE],
         body=raises(type("É\n/../x" + "y" * 99, (Exception,), {})("odd")),
         raised="É\n/../x" + "y" * 99, said="odd",
         release=("ap2_guard_failed:É\n/../x" + "y" * 99, "_" * 3 + ".._x" + "y" * 57)),
    Case("body raises, release is refused", [CREATE, RELEASE],
         {RELEASE: [refusal(409, "RESERVATION_FINALIZED")]},
         body=raises(ValueError("card declined")), raised="ValueError", said="card declined",
         release=("ap2_guard_failed:ValueError", "ValueError")),
    Case("body raises, release raises", [CREATE, RELEASE], {RELEASE: [OSError("no route")]},
         body=raises(ValueError("card declined")), raised="ValueError", said="card declined",
         release=("ap2_guard_failed:ValueError", "ValueError")),
    Case("abort", [CREATE, RELEASE], body=aborts,
         release=("ap2_guard_aborted:psp_declined", "Aborted")),
    Case("abort, release is lost", [CREATE, RELEASE], {RELEASE: [LOST]}, body=aborts,
         release=("ap2_guard_aborted:psp_declined", "Aborted")),
    Case("abort without a reason", [CREATE, RELEASE], body=lambda guard: guard.abort(""),
         release=("ap2_guard_aborted:", "Aborted")),
    Case("a bad amount in the body", [CREATE, RELEASE],
         body=lambda guard: guard.set_actual_micros(True), raised="AP2MandateError",
         said="must be an int", release=("ap2_guard_failed:AP2MandateError", "AP2MandateError")),
    Case("another amount", [CREATE, COMMIT], body=lambda guard: guard.set_actual_micros(7),
         committed=True),
    Case("without a receipt", [CREATE, COMMIT], options={"emit_receipt": False}, committed=True),
    Case("receipt fields that JSON does not have", [CREATE, COMMIT], committed=True,
         body=lambda guard: guard.attach_receipt_fields(at=frozenset()),
         differs="receipt fields that JSON does not have"),
    Case("under an open mandate", [CREATE, COMMIT], mandate={"open_mandate_hash": "omh"},
         committed=True),
]  # fmt: skip

COMMITS = [
    *(
        uncertain(code, refusal(409, code), code, said="terminal state",
                  fields={"request_id": "req_1"})
        for code in ("RESERVATION_FINALIZED", "RESERVATION_EXPIRED", "IDEMPOTENCY_MISMATCH")
    ),
    *(
        uncertain(f"{code} with a trace", refusal(status, code, **TRACED), code,
                  said="terminal state", fields={"request_id": "req_1"},
                  differs="refusals with `trace_id`")
        for code, status in [
            ("RESERVATION_FINALIZED", 409), ("RESERVATION_EXPIRED", 410),
            ("IDEMPOTENCY_MISMATCH", 409),
        ]
    ),
    uncertain("no answer", LOST, "TRANSPORT_ERROR"),
    uncertain("502 without a body", (502, None), "SERVER_ERROR"),
    uncertain("500 with a body", refusal(500, "INTERNAL_ERROR"), "INTERNAL_ERROR",
              fields={"request_id": "req_1"}),
    uncertain("client raises", ConnectionError("reset"), "COMMIT_RAISED",
              said="ConnectionError: reset. Commit outcome is unknown"),
    Case("interrupted while committing", [CREATE, COMMIT], {COMMIT: [KeyboardInterrupt()]},
         raised="KeyboardInterrupt"),
    *(
        uncertain(name, answer, code, differs="commits that were neither accepted nor refused")
        for name, answer, code in [
            ("401", refusal(401, "UNAUTHORIZED"), "UNAUTHORIZED"),
            ("401, bare", (401, None), "UNAUTHORIZED"),
            ("403, bare", (403, None), "INVALID_RESPONSE"),
            ("429", refusal(429, "LIMIT_EXCEEDED"), "LIMIT_EXCEEDED"),
            ("429, bare", (429, None), "LIMIT_EXCEEDED"),
            ("410, bare", (410, None), "RESERVATION_EXPIRED"),
            ("400, a page", (400, None), "INVALID_RESPONSE"),
            ("403 of a proxy", (403, {"error": "access_denied"}), "INVALID_RESPONSE"),
            ("4xx that says nothing", (418, {"teapot": True}), "INVALID_RESPONSE"),
            ("4xx, INTERNAL_ERROR", refusal(400, "INTERNAL_ERROR"), "INVALID_RESPONSE"),
            ("302", (302, None), "INVALID_RESPONSE"),
            ("a status that is none", (600, None), "INVALID_RESPONSE"),
            ("200, a page", (200, None), "INVALID_RESPONSE"),
            ("200, another answer", (200, {"status": "RELEASED"}), "INVALID_RESPONSE"),
            ("200, nothing charged", (200, {"status": "COMMITTED"}), "INVALID_RESPONSE"),
            ("202", (202, {"status": "COMMITTED", "charged": {"unit": "USD_MICROCENTS",
                                                              "amount": 1}}), "INVALID_RESPONSE"),
        ]
    ),
    *(
        rejected(code, refusal(status, code), code, said="reservation released",
                 fields={"released": True, "release_error": None, "request_id": "req_1"})
        for status, code in [
            (400, "INVALID_REQUEST"), (403, "FORBIDDEN"), (409, "BUDGET_EXCEEDED"),
            (400, "UNIT_MISMATCH"), (404, "NOT_FOUND"),
        ]
    ),
    rejected("rejected with a trace", refusal(400, "INVALID_REQUEST", **TRACED),
             "INVALID_REQUEST", fields={"released": True, "request_id": "req_1"},
             differs="refusals with `trace_id`"),
    rejected("a code of a later revision", refusal(422, "MANDATE_REVOKED"), "MANDATE_REVOKED",
             fields={"released": True}, differs="codes that nobody knows yet"),
    rejected("rejected, release refused", refusal(400, "INVALID_REQUEST"), "INVALID_REQUEST",
             refusal(500, "INTERNAL_ERROR"), said="FAILED (status=500, code=INTERNAL_ERROR)",
             fields={"released": False, "release_error": "status=500, code=INTERNAL_ERROR"}),
    rejected("rejected, release without a code", refusal(400, "INVALID_REQUEST"),
             "INVALID_REQUEST", (502, None), said="stranded until TTL",
             fields={"released": False, "release_error": "status=502"}),
    rejected("rejected, release raises", refusal(400, "INVALID_REQUEST"), "INVALID_REQUEST",
             OSError("no route"), said="OSError: no route",
             fields={"released": False, "release_error": "OSError: no route"}),
    rejected("rejected, release not understood", refusal(400, "INVALID_REQUEST"),
             "INVALID_REQUEST", (200, {}), said="FAILED (status=200)",
             fields={"released": False, "release_error": "status=200"},
             differs="a release that is no answer to a release"),
]  # fmt: skip

CASES = [
    *ENTER,
    *REPLAYS,
    *(
        Case(**{**{f: getattr(c, f) for f in Case.__slots__},
                "options": {**c.options, "resume": True}, "differs": "`resume`"})
        for c in RESUME
    ),
    *BODY,
    *COMMITS,
]  # fmt: skip
