"""Alerts on their way to a webhook: at least once, in order, signed, and never past a bound."""

import asyncio
import hashlib
import hmac
import logging
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.clock import Clock, SystemClock
from bursar.payments.alerts import AlertKind, notice_of
from bursar.payments.outcome import Trigger
from bursar.payments.ports import NoticeQuery, PaymentStore, PaymentStoreError
from bursar.payments.sender import AlertSender, SenderMetrics, SenderSettings, delay_ms
from bursar.payments.store import open_payments
from bursar.payments.webhook import Webhook, WebhookError, body_of, event_id
from bursar.testing.clock import FakeClock
from bursar.testing.memory_payments import MemoryPayments
from bursar.testing.receiver import STALL, Received, WebhookReceiver
from bursar.wire.signature import is_signed, sign
from bursar.wire.timestamps import format_timestamp
from payments.world import NOW_MS, moved, payment, recorded

SECRET = "whsec_of-both-sides"
WITHIN_S = 60.0
TELLING = Path(__file__).with_name("telling.py")
ORPHANED, PARKED = AlertKind.ORPHANED, AlertKind.PARKED


def tell_of(store: PaymentStore, name: str, *kinds: AlertKind) -> list[str]:
    """Keep a payment with alerts; return the ids that a receiver shall see."""
    record = payment(name)
    store.add(record, recorded(record))
    notices = tuple(notice_of(kind, record, NOW_MS) for kind in kinds)
    store.save([replace(moved(record, Trigger.SENDING), notices=notices)])
    return [event_id(notice) for notice in notices]


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(SECRET) as listening:
        yield listening


@pytest.fixture
def store() -> Iterator[PaymentStore]:
    with closing(MemoryPayments()) as opened:
        yield opened


def swept(
    store: PaymentStore,
    url: str,
    *,
    clock: Clock | None = None,
    timeout_s: float = 10.0,
    **more: Any,
) -> SenderMetrics:
    """Tell once what is due, and return what was done."""

    async def run() -> SenderMetrics:
        async with aclosing(Webhook(url, SECRET, timeout_s=timeout_s)) as webhook:
            bounds, rng = SenderSettings(**more), random.Random(7)
            at = clock or FakeClock(NOW_MS)
            sender = AlertSender(store, webhook, clock=at, rng=rng, settings=bounds)
            await sender.sweep()
            return sender.metrics

    return asyncio.run(run())


def ticking() -> Clock:
    """Return a clock that runs, from the time of the tests' payments on."""
    return SystemClock(not_before_ms=NOW_MS)


def ids(received: list[Received]) -> list[str]:
    return [one.event_id for one in received]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_alert_arrives_signed_as_the_protocol_says(
    store: PaymentStore, receiver: WebhookReceiver
) -> None:
    """Its headers, its body with both times, and nothing that the sender keeps for itself."""
    [told] = tell_of(store, "1", ORPHANED)
    assert swept(store, receiver.url, clock=FakeClock(NOW_MS + 5_000)).accepted == 1
    [one] = receiver.received
    assert one.is_signed
    by_hand = hmac.new(SECRET.encode(), one.body, hashlib.sha256).hexdigest()
    assert one.headers["X-Cycles-Signature"] == f"sha256={by_hand}"
    assert (one.headers["X-Cycles-Event-Id"], one.headers["X-Cycles-Event-Type"]) == (
        *(told, "payment.orphaned"),
    )
    assert one.headers["Content-Type"] == "application/json"
    assert one.headers["User-Agent"].startswith("bursar/")
    trace_id = one.headers["X-Cycles-Trace-Id"]
    assert one.headers["traceparent"].split("-")[1] == trace_id == one.event["trace_id"]
    assert len(trace_id) == 32
    event = one.event
    assert (event["event_id"], event["event_type"], event["category"], event["tenant_id"]) == (
        *(told, "payment.orphaned", "payment", "acme"),
    )
    assert event["timestamp"] == format_timestamp(NOW_MS)
    assert event["sent_at"] == format_timestamp(NOW_MS + 5_000)
    assert event["data"]["payment_id"] == "pay_1"
    assert event["data"]["value"] == str(10**20)
    assert not {"tenant", "event", "at_ms"} & event["data"].keys()
    assert swept(store, receiver.url).accepted == 0


@pytest.mark.parametrize(
    ("secret", "body", "header", "holds"),
    [
        ("s", b"x", sign("s", b"x"), True),
        ("t", b"x", sign("s", b"x"), False),
        ("s", b"y", sign("s", b"x"), False),
        ("s", b"x", None, False),
        ("s", b"x", "", False),
        ("s", b"x", sign("s", b"x").removeprefix("sha256="), False),
        ("s", b"x", "sha256=é", False),
    ],
)
def test_a_signature_holds_for_its_bytes_and_its_secret(
    secret: str, body: bytes, header: str | None, holds: bool
) -> None:
    assert is_signed(secret, body, header) is holds


def test_an_id_is_the_alert_s_own(store: PaymentStore) -> None:
    """It follows from what is told, so that a restored file repeats it; each alert has its own."""
    record = payment()
    same = [notice_of(ORPHANED, record, at_ms) for at_ms in (NOW_MS, NOW_MS + 9)]
    assert event_id(same[0]) == event_id(same[1])
    others = [notice_of(PARKED, record, NOW_MS), replace(same[0], tenant="umbrella")]
    assert len({event_id(one) for one in (same[0], *others)}) == 3


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (500, "unreachable", "HTTP 500"),
        (503, "unreachable", "HTTP 503"),
        (429, "unreachable", "HTTP 429"),
        (400, "refused", "HTTP 400"),
        (410, "refused", "HTTP 410"),
        (302, "refused", "HTTP 302, redirects are not followed"),
        (307, "refused", "HTTP 307, redirects are not followed"),
    ],
)
def test_only_a_2xx_is_an_acceptance(
    status: int, kind: str, reason: str, store: PaymentStore, receiver: WebhookReceiver
) -> None:
    """Anything else is tried again, under the same id; a redirect goes nowhere."""
    told = tell_of(store, "1", ORPHANED)
    clock = FakeClock(NOW_MS)
    with WebhookReceiver(SECRET) as elsewhere:
        receiver.headers["Location"] = elsewhere.url
        receiver.next(status)
        metrics = swept(store, receiver.url, clock=clock)
        assert (getattr(metrics, kind), metrics.accepted) == (1, 0)
        [waiting] = store.notices(NoticeQuery())
        assert (waiting.attempts, waiting.reason) == (1, reason)
        clock.advance_ms(1_000)
        assert swept(store, receiver.url, clock=clock).accepted == 1
        assert elsewhere.received == []
    assert ids(receiver.received) == told * 2
    assert receiver.received[0].event["sent_at"] != receiver.received[1].event["sent_at"]


def test_a_receiver_that_is_slow_is_waited_for_within_a_bound(
    store: PaymentStore, receiver: WebhookReceiver
) -> None:
    told = tell_of(store, "1", ORPHANED)
    receiver.next(STALL)
    clock = FakeClock(NOW_MS)
    assert swept(store, receiver.url, clock=clock, timeout_s=0.2).unreachable == 1
    [waiting] = store.notices(NoticeQuery())
    assert waiting.reason == "no answer within 0.2 s"
    clock.advance_ms(1_000)
    assert swept(store, receiver.url, clock=clock).accepted == 1
    assert ids(receiver.received) == told * 2


def test_one_payment_is_told_of_in_order(store: PaymentStore, receiver: WebhookReceiver) -> None:
    """A failure holds its payment's later alerts up, and those of no other payment."""
    first, second = tell_of(store, "1", ORPHANED, PARKED)
    [other] = tell_of(store, "2", ORPHANED)
    clock = FakeClock(NOW_MS)
    receiver.next(400)
    swept(store, receiver.url, clock=clock, concurrency=1)
    assert ids(receiver.received) == [first, other]
    clock.advance_ms(1_000)
    swept(store, receiver.url, clock=clock)
    assert ids(receiver.received)[2:] == [first, second]


def test_what_is_refused_for_long_is_parked_and_says_so(
    store: PaymentStore, receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """After the cap; the next alert of the payment goes, and a person can have it tried again."""
    first, second = tell_of(store, "1", ORPHANED, PARKED)
    clock = FakeClock(NOW_MS)
    receiver.next(*[400] * 3)
    parked = 0
    for _ in range(3):
        parked += swept(store, receiver.url, clock=clock, attempts_max=3).parked
        clock.advance_ms(10_000)
    assert parked == 1
    assert ids(receiver.received) == [first] * 3 + [second]
    [line] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "was parked: 127.0.0.1" in line.getMessage()
    assert "in 3 attempts: HTTP 400" in line.getMessage()
    assert SECRET not in caplog.text
    [waiting] = store.notices(NoticeQuery(parked=True))
    assert store.revive(waiting.number, clock.now_ms())
    assert swept(store, receiver.url, clock=clock).accepted == 1
    assert ids(receiver.received)[-1] == first


@pytest.mark.parametrize(
    ("attempts", "asked_s", "least", "most"),
    [
        (1, None, 500, 1_000),
        (2, None, 1_000, 2_000),
        (5, None, 8_000, 16_000),
        (11, None, 450_000, 900_000),
        (99, None, 450_000, 900_000),
        (1, 30, 30_000, 30_000),
        (1, 10**9, 3_600_000, 3_600_000),
        (11, 1, 450_000, 900_000),
    ],
)
def test_the_backoff_doubles_within_its_bounds(
    attempts: int, asked_s: int | None, least: int, most: int
) -> None:
    rng, bounds = random.Random(attempts), SenderSettings()
    waits = [delay_ms(attempts, bounds, rng, asked_s) for _ in range(200)]
    assert least <= min(waits) <= max(waits) <= most
    assert asked_s in (30, 10**9) or len(set(waits)) > 100


def test_retry_after_is_waited_for(store: PaymentStore, receiver: WebhookReceiver) -> None:
    tell_of(store, "1", ORPHANED)
    receiver.headers["Retry-After"] = "120"
    receiver.next(503)
    swept(store, receiver.url)
    [waiting] = store.notices(NoticeQuery())
    assert waiting.notice.available_at_ms == NOW_MS + 120_000


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_receiver_that_comes_up_later_gets_everything(tmp_path: Path) -> None:
    """A running sender tries one at a time while nobody listens, and then tells all of it."""
    port = free_port()
    with closing(open_payments(tmp_path / "ledger.db")) as store:
        told = [one for name in "12345" for one in tell_of(store, name, ORPHANED, PARKED)]

        async def run() -> SenderMetrics:
            bounds = SenderSettings(base_ms=1, cap_ms=20, poll_s=0.02, down_pause_s_max=0.05)
            webhook = Webhook(f"http://127.0.0.1:{port}/alerts", SECRET)
            async with (
                aclosing(webhook),
                AlertSender(store, webhook, clock=ticking(), settings=bounds) as sender,
            ):
                while sender.metrics.unreachable < 5:  # noqa: ASYNC110  # it tells nobody
                    await asyncio.sleep(0.01)
                with WebhookReceiver(SECRET, port=port) as receiver:
                    async with asyncio.timeout(WITHIN_S):
                        while sender.metrics.accepted < len(told):  # noqa: ASYNC110  # nor this
                            await asyncio.sleep(0.01)
                    received.extend(receiver.received)
            return sender.metrics

        received = list[Received]()
        metrics = asyncio.run(run())
        assert store.notices(NoticeQuery()) == []
    assert sorted(ids(received)) == sorted(told)
    assert metrics.parked == 0
    for name in "12345":
        mine = [one for one in received if one.event["data"]["payment_id"] == f"pay_{name}"]
        assert [one.event["event_type"] for one in mine] == ["payment.orphaned", "payment.parked"]


def test_two_senders_tell_each_alert_once(tmp_path: Path, receiver: WebhookReceiver) -> None:
    """Their leases keep them from telling the same; what one holds the other leaves alone."""
    file = tmp_path / "ledger.db"
    with closing(open_payments(file)) as store, closing(open_payments(file)) as same:
        told = [one for n in range(40) for one in tell_of(store, str(n), ORPHANED)]

        async def run() -> None:
            async with aclosing(Webhook(receiver.url, SECRET)) as webhook:
                senders = [AlertSender(each, webhook, clock=ticking()) for each in (store, same)]
                await asyncio.gather(*(sender.sweep() for sender in senders))

        asyncio.run(run())
        assert store.notices(NoticeQuery()) == []
    assert sorted(ids(receiver.received)) == sorted(told)


def test_a_sender_that_is_killed_before_its_mark_is_followed_by_a_repetition(
    tmp_path: Path,
) -> None:
    """SIGKILL while the receiver has the request: the next process sends it under the same id."""
    file, processes = tmp_path / "ledger.db", list[subprocess.Popen[bytes]]()
    with closing(open_payments(file)) as store:
        first, second = tell_of(store, "1", ORPHANED, PARKED)

        def kill(_: Received) -> None:
            if len(receiver.received) == 1:
                processes[0].send_signal(signal.SIGKILL)
                processes[0].wait(WITHIN_S)

        with WebhookReceiver(SECRET, on_received=kill) as receiver:
            command = [sys.executable, str(TELLING), str(file), receiver.url, SECRET]

            def begin() -> None:
                processes.append(subprocess.Popen(command))

            begin()
            until(lambda: processes[0].poll() is not None)
            assert processes[0].returncode == -signal.SIGKILL
            assert [one.attempts for one in store.notices(NoticeQuery())] == [0, 0]
            begin()
            try:
                until(lambda: not store.notices(NoticeQuery()))
            finally:
                processes[1].terminate()
                processes[1].wait(WITHIN_S)
            assert ids(receiver.received) == [first, first, second]
            assert all(one.is_signed for one in receiver.received)


def test_a_stop_gives_the_lease_back(store: PaymentStore, receiver: WebhookReceiver) -> None:
    """A request that hangs is given up within the bound, and counts as no attempt."""
    tell_of(store, "1", ORPHANED)
    receiver.next(STALL)

    async def run() -> None:
        webhook = Webhook(receiver.url, SECRET)
        bounds = SenderSettings(stop_s=0.05)
        async with aclosing(webhook), AlertSender(store, webhook, clock=ticking(), settings=bounds):
            while not receiver.received:  # noqa: ASYNC110  # the other side is a thread
                await asyncio.sleep(0.01)

    began = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began < 25  # and the receiver holds on for 30
    [waiting] = store.notices(NoticeQuery())
    assert waiting.attempts == 0
    clock = FakeClock(NOW_MS)
    assert swept(store, receiver.url, clock=clock).accepted == 1


class Forgetful(MemoryPayments):
    """A store whose mark fails once."""

    failures = 1

    def mark_sent(self, number: int, now_ms: int) -> None:
        if self.failures:
            self.failures -= 1
            raise PaymentStoreError("the disk is full")
        super().mark_sent(number, now_ms)


def test_a_mark_that_fails_leads_to_a_repetition(receiver: WebhookReceiver) -> None:
    store = Forgetful()
    told = tell_of(store, "1", ORPHANED)
    assert swept(store, receiver.url).store_failures == 1
    assert swept(store, receiver.url).accepted == 1
    assert ids(receiver.received) == told * 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must begin with http:// or https://"),
        ("ftp://host.example/KEY", "must begin with http:// or https://"),
        ("host.example/KEY", "must begin with http:// or https://"),
        ("https:///KEY", "name a host"),
        ("https://ann:KEY@host.example/", "must not hold a user or a password"),
        ("https://host.example:port/KEY", "is no URL"),
        ("https://host.example/KEY with space", "printable ASCII"),
        ("https://host.example/KEY\n", "printable ASCII"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    """The message says what is wrong, and shows nothing of it."""
    with pytest.raises(WebhookError, match=message) as caught:
        Webhook(url, SECRET)
    assert "KEY" not in str(caught.value)


@pytest.mark.parametrize("secret", ["", "short", " " + SECRET, SECRET + "\n"])
def test_a_secret_that_cannot_be_used_is_refused(secret: str) -> None:
    with pytest.raises(WebhookError, match="at least 16 characters") as caught:
        Webhook("https://host.example", secret)
    assert SECRET not in str(caught.value)


def test_a_lease_is_longer_than_a_request(store: PaymentStore) -> None:
    webhook = Webhook("https://host.example", SECRET, timeout_s=50)
    with pytest.raises(ValueError, match="make the lease longer"):
        AlertSender(store, webhook)


@pytest.mark.parametrize("name", ["concurrency", "attempts_max", "base_ms", "down_failures"])
def test_bounds_that_tell_nobody_are_refused(name: str) -> None:
    wrong: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        SenderSettings(**wrong)


def test_nothing_secret_is_told_or_logged(
    store: PaymentStore, receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the secret, not the address's path, not a payload, at any level."""
    caplog.set_level(logging.DEBUG, logger="bursar")
    record = payment("1", sealed_payload=b"SEALED")
    store.add(record, recorded(record))
    notice = notice_of(ORPHANED, record, NOW_MS)
    assert b"SEALED" not in body_of(notice, NOW_MS)
    store.save([replace(moved(record, Trigger.SENDING), notices=(notice,))])
    receiver.next(500)
    swept(store, receiver.url + "/PATHKEY", attempts_max=1)
    [parked] = store.notices(NoticeQuery())
    assert parked.parked_at_ms is not None
    assert "was parked" in caplog.text
    for word in (SECRET, "PATHKEY", "SEALED"):
        assert word not in caplog.text
        assert word not in str(parked)
