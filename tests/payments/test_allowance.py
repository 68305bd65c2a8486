"""What is said to the ledger for a payment, and what each of its answers means, as tables."""

import json
import logging
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import httpx2
import pytest

from bursar import CyclesResponse
from bursar.flow import run_sync
from bursar.payments.book import Book
from bursar.payments.outcome import BudgetState, Money, Trigger
from bursar.payments.ports import NoticeQuery
from bursar.payments.records import Evidence, PaymentRecord, Topic
from bursar.payments.trying import ATTEMPTS_MAX, RETRY_MS_MAX
from bursar.testing import FakeClock
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.allowance import Allowance
from bursar.x402.authorization import TokenDomain
from bursar.x402.buying import PaymentRefused, Request, Terms
from bursar.x402.leases import Leases
from bursar.x402.signing import Purse, Signer
from payments.world import NOW_MS, payment

T = TypeVar("T")
TOKEN = TokenDomain("USDC", "2", 84532, "0x" + "36" * 20)
PURSE = Purse(TOKEN, 10**9, Fraction(100))
SIGNER = Signer(b"\x01" * 32, [PURSE])
TTL_MS = 600_000
NEEDED_MS = 60_000 + 1_500_000 + 60_000  # its window, the chain's finality, and the skew
SAID = Evidence("test")


def answer(http: int, **body: Any) -> CyclesResponse:
    return CyclesResponse(http, body)


def refusal(status: int, code: str) -> CyclesResponse:
    said = {"error": code, "message": "no", "request_id": "r"}
    return CyclesResponse(status, said)


def granted(left_ms: int, name: str = "res-1") -> CyclesResponse:
    return answer(
        200,
        decision="ALLOW",
        reservation_id=name,
        affected_scopes=["tenant:acme"],
        expires_at_ms=NOW_MS + left_ms,
        remaining_ttl_ms=left_ms,
    )


def extended(left_ms: int) -> CyclesResponse:
    return answer(200, status="ACTIVE", expires_at_ms=NOW_MS + left_ms, remaining_ttl_ms=left_ms)


class Ledger:
    """Hands whose ledger says what it is told to, in order, and remembers what was asked."""

    def __init__(self, *says: CyclesResponse) -> None:
        self.says = [*says]
        self.asked: list[tuple[str, str]] = []

    async def ledger(self, method: str, *arguments: Any) -> CyclesResponse:
        body = arguments[-1] if isinstance(arguments[-1], dict) else {}
        key = str(body.get("idempotency_key", "")).partition(":")[2].partition(":")[2]
        self.asked.append((method.partition("_")[0], key))
        return self.says.pop(0)

    async def write(self, step: Callable[[], T]) -> T:
        return step()

    async def send(self, request: Request) -> httpx2.Response:
        raise AssertionError(request)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


class Desk:
    """One payer's allowance and leases, over a scripted ledger and a store in memory."""

    def __init__(self, *says: CyclesResponse) -> None:
        self.clock = FakeClock(NOW_MS)
        self.book = Book(MemoryPayments(), clock=self.clock)
        self.ledger = Ledger(*says)
        terms = Terms("acme", {"tenant": "acme"}, ttl_ms=TTL_MS)
        self.allowance = Allowance(self.ledger, SIGNER, self.book, terms)
        self.leases = Leases(self.ledger, self.book, terms, self.allowance)

    def draft(self) -> PaymentRecord:
        return payment("1", payer=SIGNER.address, asset=TOKEN.asset, nonce="0x" + "0" * 64, value=5)

    def reserve(self) -> PaymentRecord:
        return run_sync(self.allowance.reserve(self.draft(), PURSE, 500))

    def held(self, *triggers: Trigger) -> PaymentRecord:
        """Return a payment that was sent under a reservation, and what was heard of it."""
        held = {"budget_state": BudgetState.RESERVED, "budget_ref": "res-1"}
        draft = payment("1", **held, payer=SIGNER.address, asset=TOKEN.asset, value=5)
        self.book.record(draft, SAID)
        self.book.sending("pay_1", SAID)
        for trigger in triggers:
            self.book.heard("pay_1", trigger, SAID)
        return self.book.get("pay_1")

    def alerts(self) -> list[str]:
        posted = self.book.store.outbox(Topic.ALERT, 2**62, 9)
        return [each.notice.dedupe_key.partition(":")[0] for each in posted]


MISMATCH, GONE = refusal(409, "IDEMPOTENCY_MISMATCH"), refusal(410, "RESERVATION_EXPIRED")
FINAL, NOT_THERE = refusal(409, "RESERVATION_FINALIZED"), refusal(404, "NOT_FOUND")
SPENT = refusal(409, "MAX_EXTENSIONS_EXCEEDED")
LONG = granted(NEEDED_MS)
UNTAKEN = "COMMIT: the ledger did not take it; see the log of who pays"


@pytest.mark.parametrize(
    ("says", "asked", "reference"),
    [
        ([LONG], ["reserve"], "res-1"),
        # An earlier process reserved at another price.
        ([MISMATCH, granted(NEEDED_MS, "res-2")], ["reserve", "reserve:1"], "res-2"),
        # An earlier one reserved, died before the record, and that lease ended.
        ([granted(0), granted(NEEDED_MS, "res-2")], ["reserve", "reserve:1"], "res-2"),
        # A lease that would end while the payment may be made is lengthened first.
        ([granted(NEEDED_MS - 1), extended(NEEDED_MS)], ["reserve", "extend:0"], "res-1"),
    ],
    ids=["plain", "price", "ended", "short"],
)
def test_a_reservation_that_outlives_its_payment(
    says: list[CyclesResponse], asked: list[str], reference: str
) -> None:
    desk = Desk(*says)
    held = desk.reserve()
    assert (held.budget_ref, held.budget_state) == (reference, BudgetState.RESERVED)
    assert [key for _, key in desk.ledger.asked] == asked


@pytest.mark.parametrize(
    "cut", [extended(NEEDED_MS - 1), SPENT, GONE, CyclesResponse.transport_error(OSError("x"))]
)
def test_a_lease_that_is_too_short_signs_nothing(cut: CyclesResponse) -> None:
    """It is given back, and the message says by how much, and what to do."""
    desk = Desk(granted(60_000), cut, answer(200, status="RELEASED"))
    with pytest.raises(PaymentRefused, match=rf"for 60000 ms.*for {NEEDED_MS} ms; raise ttl_ms"):
        desk.reserve()
    assert [method for method, _ in desk.ledger.asked] == ["create", "extend", "release"]


def test_reservations_that_end_for_ever_end_the_asking() -> None:
    desk = Desk(*[granted(0)] * 20)
    with pytest.raises(PaymentRefused, match="has 20 reservations that ended"):
        desk.reserve()


COMMITTED = answer(200, status="COMMITTED", charged={"unit": "USD_MICROCENTS", "amount": 500})
APPLIED = answer(
    201, status="APPLIED", event_id="e-1", charged={"unit": "USD_MICROCENTS", "amount": 500}
)


@pytest.mark.parametrize(
    ("says", "asked", "state", "alerts"),
    [
        ([COMMITTED], "commit", "COMMITTED", []),
        ([GONE, APPLIED], "commit create", "COMMITTED", []),
        ([GONE, refusal(500, "INTERNAL_ERROR")], "commit create", "EXPIRED_UNSETTLED", []),
        # Its key was used at another rate: it is accounted for.
        ([GONE, MISMATCH], "commit create", "COMMITTED", []),
        ([NOT_THERE, NOT_THERE, APPLIED], "commit get create", "COMMITTED", []),
        ([FINAL, answer(200, status="COMMITTED")], "commit get", "COMMITTED", []),
        (
            [FINAL, answer(200, status="RELEASED"), APPLIED],
            "commit get create",
            "COMMITTED",
            ["payment.budget_disagrees"],
        ),
        ([FINAL, answer(200, status="ACTIVE")], "commit get", "RESERVED", []),
        ([FINAL, answer(200, status="LATER")], "commit get", "RESERVED", []),
        ([FINAL, CyclesResponse(503, {})], "commit get", "RESERVED", []),
        ([refusal(403, "FORBIDDEN")], "commit", "RESERVED", []),
        ([CyclesResponse.transport_error(OSError("x"))], "commit", "RESERVED", []),
    ],
)
def test_what_was_paid_is_accounted_for(
    says: list[CyclesResponse], asked: str, state: str, alerts: list[str]
) -> None:
    desk = Desk(*says)
    record = desk.held(Trigger.LOST, Trigger.SETTLED)
    after = run_sync(desk.allowance.settle(record))
    assert " ".join(method for method, _ in desk.ledger.asked) == asked
    assert (after.budget_state.value, desk.alerts()) == (state, alerts)


@pytest.mark.parametrize(
    ("says", "state", "alerts"),
    [
        (
            [answer(200, status="RELEASED", released={"unit": "USD_MICROCENTS", "amount": 500})],
            "RELEASED",
            [],
        ),
        ([GONE], "RELEASED", []),
        ([FINAL, answer(200, status="RELEASED")], "RELEASED", []),
        ([NOT_THERE, NOT_THERE], "RELEASED", []),
        # Committed by the merchant's word, and the chain says that it was never paid.
        ([FINAL, answer(200, status="COMMITTED")], "COMMITTED", ["payment.budget_disagrees"]),
        ([FINAL, answer(200, status="ACTIVE")], "RESERVED", []),
        ([CyclesResponse(503, {})], "RESERVED", []),
    ],
)
def test_what_was_never_paid_is_given_back(
    says: list[CyclesResponse], state: str, alerts: list[str]
) -> None:
    desk = Desk(*says)
    after = run_sync(desk.allowance.settle(desk.held(Trigger.LOST, Trigger.EXPIRED)))
    assert (after.budget_state.value, desk.alerts()) == (state, alerts)


@pytest.mark.parametrize("heard", [(), (Trigger.LOST,), (Trigger.LOST, Trigger.INCLUDED)])
def test_what_nobody_knows_moves_no_budget(heard: tuple[Trigger, ...]) -> None:
    desk = Desk()
    record = desk.held(*heard)
    assert run_sync(desk.allowance.settle(record)) == record
    assert desk.ledger.asked == []


def test_a_notice_of_a_purse_that_is_gone_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is said and put off; it is there when the purse is back."""
    desk = Desk()
    other = payment("9", payer=SIGNER.address, budget_state=BudgetState.RESERVED, budget_ref="r9")
    desk.book.record(other, SAID)
    desk.book.sending("pay_9", SAID)
    desk.book.heard("pay_9", Trigger.SETTLED, SAID)
    desk.held(Trigger.LOST, Trigger.SETTLED)
    desk.ledger.says = [COMMITTED]
    with caplog.at_level(logging.ERROR, "bursar.x402"):
        assert run_sync(desk.allowance.settle_up(9)) == 1
    assert "payment pay_9 is not accounted for: no purse holds" in caplog.text
    assert desk.book.get("pay_1").budget_state is BudgetState.COMMITTED
    assert [n.notice.payment_id for n in desk.book.store.outbox(Topic.BUDGET, 2**62, 9)] == [
        "pay_9"
    ]


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (
            [refusal(403, "FORBIDDEN")],
            "COMMIT: the ledger did not take it; see the log of who pays",
        ),
        ([CyclesResponse(503, {})], UNTAKEN),
        ([], "COMMIT: IndexError"),  # a fault of ours: said by its type alone
    ],
)
def test_what_the_ledger_never_takes_is_parked_and_told(
    says: list[CyclesResponse], reason: str
) -> None:
    """At the bound and not before; an operator has it tried again, and it is accounted for."""
    desk = Desk()
    desk.held(Trigger.LOST, Trigger.SETTLED)
    store, pauses = desk.book.store, list[int]()
    for attempts in range(1, ATTEMPTS_MAX + 1):
        assert desk.alerts() == []
        desk.ledger.says = [*says]
        assert run_sync(desk.allowance.settle_up(9)) == 0
        [entry] = store.notices(NoticeQuery(topic=Topic.BUDGET))
        assert (entry.attempts, entry.reason) == (attempts, reason)
        pauses.append(entry.notice.available_at_ms - desk.clock.now_ms())
        desk.clock.advance_ms(RETRY_MS_MAX)
    assert desk.alerts() == ["payment.budget_failed"]
    [alert] = store.notices(NoticeQuery(topic=Topic.ALERT))
    assert json.loads(alert.notice.payload)["reason"] == reason
    assert entry.parked_at_ms is not None
    assert 15_000 <= pauses[0] <= 30_000 < RETRY_MS_MAX // 2 <= pauses[10] <= RETRY_MS_MAX
    assert run_sync(desk.allowance.settle_up(9)) == 0
    assert store.revive(entry.number, desk.clock.now_ms())
    desk.ledger.says = [COMMITTED]
    assert run_sync(desk.allowance.settle_up(9)) == 1
    assert desk.book.get("pay_1").budget_state is BudgetState.COMMITTED


def test_a_notice_of_another_payer_is_left_alone() -> None:
    """Its own payer, with its own ledger, deals with it."""
    desk = Desk()
    for name, more in (("8", {"payer": "0xother"}), ("9", {"tenant": "umbrella"})):
        held = {"budget_state": BudgetState.RESERVED, "budget_ref": "r", "payer": SIGNER.address}
        desk.book.record(payment(name, asset=TOKEN.asset, **(held | more)), SAID)
        desk.book.sending(f"pay_{name}", SAID)
        desk.book.heard(f"pay_{name}", Trigger.SETTLED, SAID)
    assert run_sync(desk.allowance.settle_up(9)) == 0
    assert (desk.ledger.asked, run_sync(desk.leases.renew())) == ([], 0)
    assert [n.attempts for n in desk.book.store.outbox(Topic.BUDGET, 2**62, 9)] == [0, 0]


HALF_MS = NEEDED_MS // 2


@pytest.mark.parametrize(
    ("says", "wait_ms", "then"),
    [
        (extended(TTL_MS), TTL_MS // 2, "extend:2"),
        (extended(10), 1_000, "extend:2"),
        (MISMATCH, 0, "extend:2"),  # by a process whose ttl_ms was another
        (refusal(429, "LIMIT_EXCEEDED"), 30_000, "extend:1"),
        (CyclesResponse(503, {}), 30_000, "extend:1"),
        (CyclesResponse.transport_error(OSError("x")), 30_000, "extend:1"),
        (refusal(401, "UNAUTHORIZED"), 30_000, "extend:1"),
        (SPENT, 30_000, "extend:1"),
    ],
)
def test_when_a_lease_is_extended_next(says: CyclesResponse, wait_ms: int, then: str) -> None:
    """The first time when half of what it was made for is over."""
    desk = Desk(says, extended(TTL_MS))
    desk.held(Trigger.LOST)
    desk.clock.advance_ms(HALF_MS - 1)
    assert run_sync(desk.leases.renew()) == 0
    assert desk.ledger.asked == []
    desk.clock.advance_ms(1)
    run_sync(desk.leases.renew())
    assert desk.ledger.asked == [("extend", "extend:1")]
    if wait_ms:
        desk.clock.advance_ms(wait_ms - 1)
        run_sync(desk.leases.renew())
        assert len(desk.ledger.asked) == 1
        desk.clock.advance_ms(1)
    run_sync(desk.leases.renew())
    assert desk.ledger.asked[1:] == [("extend", then)]


def test_a_clock_that_was_set_back_extends_at_once() -> None:
    desk = Desk(extended(TTL_MS), extended(TTL_MS))
    desk.held(Trigger.LOST)
    desk.clock.advance_ms(HALF_MS)
    run_sync(desk.leases.renew())
    desk.clock.set_ms(desk.clock.now_ms() - 5_000)
    run_sync(desk.leases.renew())
    assert len(desk.ledger.asked) == 2


@pytest.mark.parametrize(
    ("says", "state", "alerts"),
    [
        ([GONE], "EXPIRED_UNSETTLED", []),
        ([NOT_THERE, NOT_THERE], "EXPIRED_UNSETTLED", []),
        (
            [FINAL, answer(200, status="RELEASED")],
            "EXPIRED_UNSETTLED",
            ["payment.budget_disagrees"],
        ),
        ([FINAL, answer(200, status="COMMITTED")], "COMMITTED", []),
    ],
)
def test_a_lease_that_is_over_is_on_record_and_left_alone(
    says: list[CyclesResponse], state: str, alerts: list[str]
) -> None:
    desk = Desk(*says)
    desk.held(Trigger.LOST)
    desk.clock.advance_ms(HALF_MS)
    run_sync(desk.leases.renew())
    assert (desk.book.get("pay_1").budget_state.value, desk.alerts()) == (state, alerts)
    desk.clock.advance_ms(TTL_MS)
    assert run_sync(desk.leases.renew()) == 0
    assert desk.book.get("pay_1").money is Money.UNKNOWN


def test_that_no_more_extensions_are_allowed_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(SPENT, SPENT, SPENT)
    desk.held(Trigger.LOST)
    desk.clock.advance_ms(HALF_MS)
    with caplog.at_level(logging.ERROR, "bursar.x402"):
        for _ in range(3):
            run_sync(desk.leases.renew())
            desk.clock.advance_ms(30_000)
    assert len([line for line in caplog.messages if "may not be extended any more" in line]) == 1


@pytest.mark.parametrize("last", [Trigger.SETTLED, Trigger.EXPIRED])
def test_what_is_final_is_not_extended(last: Trigger) -> None:
    desk = Desk()
    desk.held(Trigger.LOST, last)
    desk.clock.advance_ms(NEEDED_MS)
    assert run_sync(desk.leases.renew()) == 0
