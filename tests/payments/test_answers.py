"""What facilitators answer, and what it proves: one row for each thing they are known to say."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from bursar.payments.outcome import Trigger
from bursar.x402.facilitators import DIALECTS, Facilitator
from bursar.x402.facilitators.answer import (
    DOOR,
    NOTHING_SENT,
    SAID,
    SettleAnswer,
    read_verify,
)
from bursar.x402.reading import Question

HASH = "0x" + "ab" * 32
REFUSED, ACK, LOST = Trigger.REFUSED, Trigger.ACKNOWLEDGED, Trigger.LOST
UUID = "1b2f6c1e-8f4e-4b7e-9a62-0f6a3f1f3c55"
QUESTION = Question(
    31337, "0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20, 5, "0x" + "44" * 32, 9, 0
)


def said(success: bool, reason: str | None = None, transaction: Any = "", **more: Any) -> str:
    body = {"success": success, "transaction": transaction, "network": "eip155:31337", **more}
    return json.dumps(body | ({"errorReason": reason} if reason else {}))


def read(dialect: str, status: int, raw: str, **headers: str) -> SettleAnswer:
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    return DIALECTS[dialect].settle(status, headers, body, raw)


MAY_HAVE_MOVED = (
    *("transaction_failed", "settlement_pending", "invalid_exact_evm_nonce_already_used"),
    *("duplicate_settlement", "transfer_event_mismatch", "unexpected_settle_error"),
    *("internal_error", "smart_wallet_deployment_failed_after_broadcast"),
    *("invalid_exact_evm_transaction_simulation_failed", "DUPLICATE_NONCE"),
    "Failed to settle payment: timed out waiting for receipt",
    "authorization is used or canceled: execution reverted",
)

ROWS = [
    # dialect, HTTP status, body, trigger, names the transaction
    ("reference", 200, said(True, transaction=HASH), ACK, True),
    ("reference", 200, said(True, transaction=HASH.upper().replace("X", "x")), ACK, True),
    ("reference", 200, said(True, transaction=None), LOST, False),
    ("reference", 200, said(True), LOST, False),
    ("reference", 200, '{"success": true}', LOST, False),
    ("reference", 200, said(True, transaction="0x12"), LOST, False),
    ("reference", 200, said(False, "settlement_pending", HASH), ACK, True),
    ("reference", 200, said(False, "settlement_pending"), LOST, False),
    ("reference", 200, said(False, "transaction_failed"), LOST, False),
    ("reference", 200, said(False, "transaction_failed", HASH), ACK, True),
    ("reference", 200, said(False, "unexpected_settle_error"), LOST, False),
    ("reference", 200, said(False, "invalid_exact_evm_transaction_simulation_failed"), LOST, False),
    ("reference", 200, said(False, "invalid_exact_evm_nonce_already_used"), LOST, False),
    (
        *("reference", 200),
        *(said(False, "invalid_exact_evm_payload_authorization_valid_before"), LOST, False),
    ),
    ("reference", 200, said(False, "smart_wallet_deployment_failed"), LOST, False),
    ("reference", 200, said(False, "a_reason_of_next_year"), LOST, False),
    ("reference", 200, said(False), LOST, False),
    ("reference", 200, "[]", LOST, False),
    ("reference", 200, "null", LOST, False),
    ("reference", 200, "<html>", LOST, False),
    ("reference", 200, "", LOST, False),
    *[("reference", 200, said(False, reason), REFUSED, False) for reason in sorted(NOTHING_SENT)],
    *[("reference", 400, said(False, reason), REFUSED, False) for reason in sorted(NOTHING_SENT)],
    *[
        ("reference", status, body, REFUSED, False)
        for status in sorted(DOOR)
        for body in ("", '{"error": "nope"}', '{"message": "no POST /settle here"}')
    ],
    # What a facilitator says once it may have begun to pay, whatever the status.
    *[
        ("reference", status, body, LOST, False)
        for status in sorted(SAID)
        for body in (
            *(said(False, reason) for reason in MAY_HAVE_MOVED),
            *(json.dumps({"error": reason}) for reason in MAY_HAVE_MOVED),
            *(json.dumps({"message": reason}) for reason in MAY_HAVE_MOVED),
        )
    ],
    # One word of that outweighs a refusal beside it.
    ("reference", 400, said(False, "invalid_payload", code="transaction_failed"), LOST, False),
    ("reference", 400, said(False, "it was lost", code="invalid_payload"), LOST, False),
    ("reference", 400, said(False, "invalid_payload", "0x12", paymentId="p-1"), LOST, False),
    ("reference", 400, said(False, "invalid_payload", UUID), LOST, False),
    ("reference", 400, said(True, "invalid_payload"), LOST, False),
    # The application's own statuses: it may have thrown before or after it sent.
    ("reference", 400, '{"error": "nope"}', LOST, False),
    ("reference", 422, '{"detail": []}', LOST, False),
    ("reference", 400, "", LOST, False),
    ("reference", 422, "", LOST, False),
    ("reference", 401, said(False), LOST, False),
    ("reference", 429, said(False, "a_reason_of_next_year"), LOST, False),
    ("reference", 409, said(False, "invalid_payload"), LOST, False),
    ("reference", 404, "", REFUSED, False),
    ("reference", 404, "<html>a proxy</html>", LOST, False),
    ("reference", 408, '{"error": "slow"}', LOST, False),
    ("reference", 409, '{"error": "nonce"}', LOST, False),
    ("reference", 302, "", LOST, False),
    *[("reference", status, "", LOST, False) for status in (500, 502, 503, 504)],
    ("reference", 500, "<html>oops</html>", LOST, False),
    ("reference", 500, said(False, "settlement_pending", HASH), ACK, True),
    ("reference", 400, said(False, "settlement_pending", HASH), ACK, True),
    ("reference", 500, said(False, "invalid_signature"), LOST, False),
    ("cdp", 500, said(False, "settlement_pending", HASH), ACK, True),
    ("cdp", 200, said(False, "insufficient_funds"), LOST, False),
    ("cdp", 200, said(False, "invalid_signature"), REFUSED, False),
    ("cdp", 400, '{"errorType": "invalid_request", "errorMessage": "no"}', LOST, False),
    ("cdp", 401, '{"errorType": "unauthorized", "errorMessage": "no"}', REFUSED, False),
    ("cdp", 400, said(False, "insufficient_funds"), LOST, False),
    ("cdp", 400, said(False, "invalid_signature"), REFUSED, False),
    ("circle", 200, said(False, "settlement_pending", paymentId="p-1"), ACK, False),
    ("circle", 200, said(True, transaction=UUID), ACK, False),
    ("circle", 202, '{"paymentId": "p-1"}', ACK, False),
    ("circle", 202, "{}", LOST, False),
    ("circle", 400, '{"error": "x"}', LOST, False),
    ("circle", 503, "", LOST, False),
    ("circle", 200, said(False, "unsupported_asset"), REFUSED, False),
    ("celo", 200, said(False, "settlement_pending", HASH), ACK, True),
    ("payai", 503, "upstream connect error", REFUSED, False),
    ("payai", 503, said(False, "internal"), LOST, False),
    ("payai", 503, "[]", LOST, False),
    ("payai", 503, "upstream connect error or disconnect/reset before headers", LOST, False),
    ("payai", 500, "oops", LOST, False),
]


@pytest.mark.parametrize(("dialect", "status", "raw", "trigger", "named"), ROWS)
def test_settle_answer(dialect: str, status: int, raw: str, trigger: Trigger, named: bool) -> None:
    answer = read(dialect, status, raw)
    assert answer.trigger is trigger
    assert answer.transaction == (HASH if named else None)
    assert answer.raw == raw


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_nobody_refuses_what_may_have_moved(dialect: str) -> None:
    """Without a reason, only the statuses of a door, and one edge that says so, are refusals."""
    allowed = set(DOOR)
    if dialect == "payai":
        allowed.add(503)
    for status in range(200, 600):
        for raw in ("", "{}", "gateway", said(False)):
            answer = read(dialect, status, raw)
            assert answer.trigger is not Trigger.REFUSED or status in allowed
            assert not answer.success


def test_ids_and_waiting_are_kept() -> None:
    answer = read("circle", 202, '{"paymentId": "p-1"}')
    assert (answer.payment_id, answer.reason) == ("p-1", "settlement_pending")
    assert read("circle", 200, said(True, transaction=UUID)).payment_id == UUID
    assert read("reference", 503, "", **{"retry-after": "7"}).retry_after_s == 7
    assert read("reference", 503, "", **{"retry-after": "99999"}).retry_after_s == 3600
    assert read("reference", 503, "", **{"retry-after": "soon"}).retry_after_s is None
    assert len(read("reference", 500, "x" * 5000).raw) == 1000


def test_free_text_is_no_reason() -> None:
    """What a stranger wrote goes into the raw text alone, not into a field that is shown."""
    answer = read("reference", 200, said(False, "<script>alert(1)</script>"))
    assert answer.reason == "http_200"


@pytest.mark.parametrize(
    ("status", "body", "valid"),
    [
        (200, {"isValid": True, "payer": "0xAB"}, True),
        (200, {"isValid": False, "invalidReason": "insufficient_funds"}, False),
        (400, {"isValid": False, "invalidReason": "invalid_payload"}, False),
        (500, {"isValid": True}, None),
        (200, {"isValid": "true"}, None),
        (200, None, None),
        (503, None, None),
    ],
)
def test_verify_answer(status: int, body: Any, valid: bool | None) -> None:
    answer = read_verify(status, body)
    assert answer.valid is valid
    assert answer.payer in (None, "0xab")


@pytest.mark.parametrize(
    ("dialect", "path", "body", "trigger"),
    [
        ("circle", "/x402/status/p%2F1", {"status": "completed"}, ACK),
        ("circle", "/x402/status/p%2F1", {"status": "outcome_unknown"}, Trigger.UNDECIDED),
        ("celo", "/settle/status?network=eip155%3A31337", {"status": "expired"}, Trigger.UNDECIDED),
        ("celo", "/settle/status?network", {"status": "settled", "transaction": HASH}, ACK),
    ],
)
def test_status_is_a_hint(dialect: str, path: str, body: Any, trigger: Trigger) -> None:
    """No status ends a payment: the chain does."""
    assert (DIALECTS[dialect].status_path(QUESTION, "p/1") or "").startswith(path)
    assert DIALECTS[dialect].status(200, body).trigger is trigger
    assert DIALECTS[dialect].status(404, None).trigger is Trigger.UNDECIDED


def test_no_dialect_asks_by_settling() -> None:
    for dialect in DIALECTS.values():
        path = dialect.status_path(QUESTION, "p")
        assert path is None or path.split("?")[0].rstrip("/") != "/settle"


# Over HTTP: what happens on the way


def settle(error: Exception | None = None, **more: Any) -> tuple[SettleAnswer, int]:
    calls = 0

    def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal calls
        calls += 1
        if error is not None:
            raise error
        return httpx2.Response(**more)

    async def send() -> SettleAnswer:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
            return await Facilitator("http://f.example", http=http).settle({}, {})

    return asyncio.run(send()), calls


@pytest.mark.parametrize(
    ("error", "trigger"),
    [
        (httpx2.ConnectError("refused"), REFUSED),
        (httpx2.ConnectTimeout("slow"), REFUSED),
        (httpx2.ReadTimeout("slow"), LOST),
        (httpx2.WriteTimeout("slow"), LOST),
        (httpx2.ReadError("reset"), LOST),
        (httpx2.WriteError("reset"), LOST),
        (httpx2.RemoteProtocolError("half an answer"), LOST),
    ],
)
def test_what_happened_on_the_way(error: Exception, trigger: Trigger) -> None:
    answer, calls = settle(error)
    assert (answer.trigger, calls) == (trigger, 1)
    assert answer.reason == type(error).__name__


def test_redirect_is_not_followed() -> None:
    answer, calls = settle(status_code=307, headers={"location": "http://elsewhere.example"})
    assert (answer.trigger, calls) == (LOST, 1)


def test_body_that_trickles_ends_in_time() -> None:
    async def never(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(60)
        return httpx2.Response(200)

    async def send() -> SettleAnswer:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(never)) as http:
            facilitator = Facilitator("http://f.example", http=http, settle_timeout_s=0.05)
            return await facilitator.settle({}, {})

    answer = asyncio.run(send())
    assert (answer.trigger, answer.reason) == (LOST, "TimeoutError")


@pytest.mark.parametrize("url", ["", "f.example", "ftp://f.example", "http://"])
def test_address_is_checked(url: str) -> None:
    with pytest.raises(ValueError, match="url begins with"):
        Facilitator(url)


def test_dialect_is_checked() -> None:
    with pytest.raises(ValueError, match="dialect must be one of reference, cdp"):
        Facilitator("http://f.example", dialect="klingon")
