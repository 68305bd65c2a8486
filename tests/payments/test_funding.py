"""An incoming payment funds a budget: once, exactly, and only when it is final."""

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar.payments.book import Book
from bursar.payments.operate import OperatorError
from bursar.payments.outbox import dismiss, numbers, retry
from bursar.payments.outcome import Money, Trigger
from bursar.payments.ports import NoticeQuery
from bursar.payments.records import Evidence, PaymentRecord, Topic
from bursar.payments.trying import ATTEMPTS_MAX
from bursar.testing.clock import FakeClock
from bursar.testing.memory_payments import MemoryPayments
from bursar.vocabulary import AMOUNT_MAX, Unit
from bursar.x402.funding import (
    Credit,
    Funder,
    FundingError,
    LedgerFunding,
    TokenRate,
    dollar_rate,
)
from conftest import Served
from payments.world import NOW_MS, payment

SAID = Evidence(source="test")
NETWORK, ASSET = payment().network, payment().asset
DOLLAR = dollar_rate(NETWORK, ASSET)


class Ledger:
    def __init__(self, *failures: Exception) -> None:
        self.credits = list[Credit]()
        self.failures = list(failures)

    async def __call__(self, credit: Credit) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.credits.append(credit)


def paid(book: Book, name: str = "1", **changes: Any) -> PaymentRecord:
    wanted = {"value": 1_250_000, "budget_ref": "tenant:acme"} | changes
    book.record(payment(name, **wanted), SAID)
    assert book.sending(f"pay_{name}", SAID) is not None
    return book.heard(f"pay_{name}", Trigger.SETTLED, SAID)


@pytest.fixture
def book() -> Book:
    return Book(MemoryPayments(), clock=FakeClock(NOW_MS))


@pytest.mark.parametrize(
    ("rate", "value", "amount"),
    [
        (DOLLAR, 1_250_000, 125_000_000),  # $1.25
        (DOLLAR, 1, 100),
        (dollar_rate(NETWORK, ASSET, decimals=18), 10**18, 10**8),
        (dollar_rate(NETWORK, ASSET, decimals=18), 10**10 * 3 - 1, 2),  # never more than was paid
        (dollar_rate(NETWORK, ASSET, decimals=8), 7, 7),
        (TokenRate(NETWORK, ASSET, 1, 1_000, Unit.TOKENS), 5_000, 5),
    ],
)
def test_a_value_is_converted_exactly(rate: TokenRate, value: int, amount: int) -> None:
    assert rate.amount(value) == amount


@pytest.mark.parametrize("value", [0, 10**9, AMOUNT_MAX * 10**13])
def test_what_no_ledger_counts_is_refused(value: int) -> None:
    with pytest.raises(FundingError, match="a budget is funded with 1 to"):
        dollar_rate(NETWORK, ASSET, decimals=18).amount(value)


@pytest.mark.parametrize("wrong", [{"numerator": 0}, {"numerator": 1, "denominator": 0}])
def test_a_rate_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(FundingError, match="ator must be an int"):
        TokenRate(NETWORK, ASSET, **wrong)


def test_a_final_payment_funds_its_budget_once(book: Book) -> None:
    paid(book)
    paid(book, "2", budget_ref=None)
    ledger = Ledger()
    funder = Funder(book.store, ledger, [DOLLAR], clock=book.clock)
    assert asyncio.run(funder.sweep()) == 1
    assert asyncio.run(funder.sweep()) == 0
    [credit] = ledger.credits
    assert (credit.scope, credit.amount, credit.unit) == (
        "tenant:acme",
        125_000_000,
        Unit.USD_MICROCENTS,
    )
    assert credit.idempotency_key == "pay_1"


def test_what_is_not_final_funds_nothing(book: Book) -> None:
    book.record(payment(budget_ref="tenant:acme"), SAID)
    assert book.sending("pay_1", SAID) is not None
    assert book.heard("pay_1", Trigger.INCLUDED, SAID).money is Money.PROVISIONAL
    assert book.store.outbox(Topic.FUNDING, 2**62, 9) == []


def test_a_payment_that_is_reopened_funds_nothing_twice(book: Book) -> None:
    paid(book)
    book.heard("pay_1", Trigger.EXPIRED, SAID)  # contradicted: it is unknown again
    assert book.heard("pay_1", Trigger.SETTLED, SAID).money is Money.SETTLED
    assert len(book.store.outbox(Topic.FUNDING, 2**62, 9)) == 1


@pytest.mark.parametrize("failure", [FundingError("no"), httpx2.ConnectError("no")])
def test_a_credit_that_fails_is_tried_again_and_holds_up_nobody(
    failure: Exception, book: Book
) -> None:
    paid(book)
    paid(book, "2")
    ledger = Ledger(failure)
    clock = book.clock
    assert isinstance(clock, FakeClock)
    funder = Funder(book.store, ledger, [DOLLAR], clock=clock)
    assert asyncio.run(funder.sweep()) == 1
    clock.advance_ms(60_000)
    assert asyncio.run(funder.sweep()) == 1
    assert sorted(credit.idempotency_key for credit in ledger.credits) == ["pay_1", "pay_2"]


NOT_FOUND = "tenant:acme: HTTP 404: no such budget"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FundingError(NOT_FOUND), NOT_FOUND),
        (FundingError("x" * 999), "x" * 300),
        (httpx2.ConnectError("https://ledger.example/KEY"), "ConnectError"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("admin key KEY"), "RuntimeError"),
    ],
)
@pytest.mark.parametrize(("attempts_max", "failures"), [(1, 1), (3, 2), (3, 3), (20, 19), (20, 20)])
def test_a_credit_that_fails_too_often_is_parked_and_told(
    failure: Exception, reason: str, attempts_max: int, failures: int, book: Book
) -> None:
    """At the bound and not before; the pauses grow; the others are funded all the while."""
    store, clock = book.store, book.clock
    assert isinstance(clock, FakeClock)
    paid(book)
    ledger = Ledger(*[failure] * failures)
    funder = Funder(
        store, ledger, [DOLLAR], clock=clock, rng=random.Random(3), attempts_max=attempts_max
    )
    pauses = list[int]()
    while ledger.failures:
        assert asyncio.run(funder.sweep()) == 0
        [entry] = store.notices(NoticeQuery(topic=Topic.FUNDING))
        assert entry.reason == reason
        pauses.append(max(0, entry.notice.available_at_ms - clock.now_ms()))
        clock.advance_ms(900_000)
    entries = store.notices(NoticeQuery(topic=Topic.FUNDING, parked=True))
    alerts = store.notices(NoticeQuery(topic=Topic.ALERT))
    gone = failures >= attempts_max
    assert (len(entries), len(alerts)) == (gone, gone)
    growing = pauses[: failures - gone]
    assert all(
        15_000 * 2**n <= pause <= 30_000 * 2**n or 450_000 <= pause <= 900_000
        for n, pause in enumerate(growing)
    )
    if gone:
        facts = json.loads(alerts[0].notice.payload)
        assert (facts["event"], facts["reason"], facts["payment_id"]) == (
            *("payment.funding_failed", reason, "pay_1"),
        )
        assert asyncio.run(funder.sweep()) == 0
        assert ledger.credits == []
    else:
        assert asyncio.run(funder.sweep()) == 1


def test_what_is_doubted_funds_nothing(book: Book) -> None:
    """A payment that was reopened since waits in the outbox, and funds when it is settled again."""
    clock = book.clock
    assert isinstance(clock, FakeClock)
    paid(book)
    assert book.heard("pay_1", Trigger.EXPIRED, SAID).money is Money.UNKNOWN
    ledger = Ledger()
    funder = Funder(book.store, ledger, [DOLLAR], clock=clock)
    assert asyncio.run(funder.sweep()) == 0
    assert ledger.credits == []
    [entry] = book.store.notices(NoticeQuery(topic=Topic.FUNDING))
    assert "pay_1 is UNKNOWN: it was settled and is doubted since" in str(entry.reason)
    assert book.heard("pay_1", Trigger.SETTLED, SAID).money is Money.SETTLED
    clock.advance_ms(60_000)
    assert asyncio.run(funder.sweep()) == 1
    assert [credit.amount for credit in ledger.credits] == [125_000_000]


@pytest.mark.parametrize(
    ("rate", "value", "said"),
    [
        ([], 1_250_000, "no rate for"),
        ([TokenRate(NETWORK, ASSET, 1, 100)], 1, "a budget is funded with 1 to"),
    ],
)
def test_what_has_no_worth_is_said_at_once_and_told_in_the_end(
    rate: list[TokenRate], value: int, said: str, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    """One line at the first failure, an alert at the bound, and nothing is funded."""
    clock = book.clock
    assert isinstance(clock, FakeClock)
    paid(book, value=value)
    funder = Funder(book.store, Ledger(), rate, clock=clock)
    for attempts in range(1, ATTEMPTS_MAX + 1):
        assert asyncio.run(funder.sweep()) == 0
        [entry] = book.store.notices(NoticeQuery(topic=Topic.FUNDING))
        assert (entry.attempts, said in str(entry.reason)) == (attempts, True)
        clock.advance_ms(900_000)
    [alert] = book.store.notices(NoticeQuery(topic=Topic.ALERT))
    assert json.loads(alert.notice.payload)["event"] == "payment.funding_failed"
    first, last = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert first.startswith("payment pay_1 does not fund its budget yet: ")
    assert said in first
    assert last.startswith("payment.funding_failed pay_1")


def test_an_operator_has_it_tried_again(book: Book, caplog: pytest.LogCaptureFixture) -> None:
    """After the budget is mended it is funded once; given up again, it is told again."""
    store, clock = book.store, book.clock
    assert isinstance(clock, FakeClock)
    paid(book)
    funder = Funder(
        store, Ledger(FundingError("no"), FundingError("no")), [DOLLAR], clock=clock, attempts_max=1
    )
    for given_up in (1, 2):
        assert asyncio.run(funder.sweep()) == 0
        assert len(store.notices(NoticeQuery(topic=Topic.ALERT))) == given_up
        alerts = [one for one in caplog.records if one.name == "bursar.payments"]
        assert len(alerts) == given_up
        clock.advance_ms(1)
        assert retry(store, list(numbers(store, Topic.FUNDING, parked=True)), clock.now_ms())
    assert asyncio.run(funder.sweep()) == 1
    assert store.notices(NoticeQuery(topic=Topic.FUNDING)) == []


def test_a_funding_made_by_hand_is_closed(book: Book) -> None:
    """Nothing is funded after that, and the payment's history says who closed it, and why."""
    paid(book)
    ledger = Ledger(FundingError("no"))
    funder = Funder(book.store, ledger, [DOLLAR], clock=book.clock, attempts_max=1)
    assert asyncio.run(funder.sweep()) == 0
    [number] = numbers(book.store, parked=True)
    now_ms = book.clock.now_ms()
    dismiss(book.store, number, reason="funded by hand", operator="ann", now_ms=now_ms)
    assert asyncio.run(funder.sweep()) == 0
    assert ledger.credits == []
    last = book.store.events("pay_1")[-1]
    assert (last.what, last.evidence.source) == ("DISMISSED", "operator:ann")
    with pytest.raises(OperatorError, match="no entry"):
        dismiss(book.store, number, reason="again", operator="ann", now_ms=now_ms)


def test_a_token_without_a_rate_is_not_converted(book: Book) -> None:
    funder = Funder(book.store, Ledger(), [])
    with pytest.raises(FundingError, match="give a TokenRate"):
        asyncio.run(funder.on_settled(paid(book)))


def test_a_real_ledger_adds_it_once(
    serve: Callable[[Path], Served], tmp_path: Path, book: Book
) -> None:
    """By a real server, with the payment's id as the idempotency key of both attempts."""
    served = serve(tmp_path)
    admin = {"X-Admin-API-Key": served.admin_key}
    tenant = {"tenant_id": "acme", "name": "Acme"}
    budget = {
        "tenant_id": "acme",
        "scope": "tenant:acme",
        "unit": "USD_MICROCENTS",
        "allocated": {"unit": "USD_MICROCENTS", "amount": 1_000},
    }
    for path, body in (("tenants", tenant), ("budgets", budget)):
        made = httpx2.post(f"{served.url}/v1/admin/{path}", json=body, headers=admin)
        assert made.status_code == 201, made.text
    record = paid(book)

    async def twice() -> None:
        fund = LedgerFunding(served.url, served.admin_key)
        funder = Funder(book.store, fund, [DOLLAR], clock=book.clock)
        await funder.on_settled(record)
        assert await funder.sweep() == 1  # the outbox tells the same payment again
        with pytest.raises(FundingError, match="HTTP 404"):
            await fund(Credit("acme", "tenant:acme/app:none", Unit.TOKENS, 1, "other-key", "no"))
        await fund.aclose()

    asyncio.run(twice())
    found = httpx2.get(
        f"{served.url}/v1/admin/budgets/lookup",
        params={"tenant_id": "acme", "scope": "tenant:acme", "unit": "USD_MICROCENTS"},
        headers=admin,
    ).json()
    assert found["allocated"]["amount"] == 1_000 + 125_000_000
