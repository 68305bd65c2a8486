"""Leases that are kept while a payment takes long, and what refusals say."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ap2.mandates import mandate
from ap2.running import ACME
from ap2.scripted import COMMIT, ScriptedClient, refusal
from bursar import CyclesClient, ap2
from client.shells import Shell, shells
from conftest import wait_until


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A client of each kind on a scripted server."""
    yield from shells(request.param == "async", tmp_path / "journal")


def pay(shell: Shell, seconds: float, beats: int, **options: Any) -> Any:
    """Pay, and take until so many beats have come, or so long."""
    make = ap2.cycles_guard_payment_async if shell.asynchronous else ap2.cycles_guard_payment
    guard: Any = make(shell.client, mandate=mandate(), ttl_ms=1_000, **ACME, **options)
    until = time.monotonic() + seconds

    def linger() -> None:
        while len(shell.server.bodies("extendReservation")) < beats and time.monotonic() < until:
            time.sleep(0.01)

    async def suspending() -> None:
        async with guard:
            await asyncio.to_thread(linger)

    def blocking() -> None:
        with guard:
            linger()

    shell.run(suspending()) if shell.asynchronous else blocking()
    return guard


def test_a_payment_that_takes_long_keeps_its_lease(shell: Shell) -> None:
    """Extensions go out while the body runs, and none after it ended."""
    guard = pay(shell, 10.0, 1, heartbeat=True)
    assert guard.committed
    (body, *_) = shell.server.bodies("extendReservation")
    assert body["extend_by_ms"] == 1_000
    assert not body["idempotency_key"].startswith("ap2:")
    beaten = len(shell.server.bodies("extendReservation"))
    time.sleep(0.2)
    assert len(shell.server.bodies("extendReservation")) == beaten


def test_by_default_nothing_beats(shell: Shell) -> None:
    """The requests are those of the official guard."""
    assert pay(shell, 0.2, 1).committed
    assert shell.server.bodies("extendReservation") == []


def test_resumed_payments_keep_their_lease() -> None:
    """Whoever goes on with an earlier attempt may take long, too."""
    with CyclesClient.embedded(":memory:", tenant="acme") as client:
        client.create_budget("500USD")
        terms: dict[str, Any] = {"mandate": mandate(), "ttl_ms": 1_000, **ACME}
        with (
            pytest.raises(ap2.AP2PaymentUnknown),
            ap2.cycles_guard_payment(client, hold_ms=1, **terms),
        ):
            raise ap2.AP2PaymentUnknown

        def expires() -> int:
            (found,) = client.typed.iter_reservations()
            return found.expires_at_ms

        before = expires()
        with ap2.cycles_guard_payment(client, resume=True, heartbeat=True, **terms) as guard:
            wait_until(lambda: expires() > before + 1_000)  # resuming alone gives a second
        assert guard.committed


def test_refusals_say_what_the_ledger_said() -> None:
    """The message is the official one; which field it was, and what to do, is a note."""
    answer = refusal(400, "INVALID_REQUEST", message="ttl_ms: must be at least 1000")
    client = ScriptedClient({"create_reservation": [answer]}), ScriptedClient({COMMIT: [answer]})
    with (
        pytest.raises(ap2.AP2GuardDenied) as denied,
        ap2.cycles_guard_payment(client[0], mandate=mandate(), **ACME),
    ):
        pass
    with (
        pytest.raises(ap2.AP2GuardCommitFailed) as failed,
        ap2.cycles_guard_payment(client[1], mandate=mandate(), **ACME),
    ):
        pass
    for raised in (denied, failed):
        assert raised.value.__notes__ == ["the ledger said: status 400"]


def test_a_denied_resumption_says_which_permission_is_missing() -> None:
    """A key that may not list reservations cannot know of an earlier attempt."""
    client = ScriptedClient({"list_reservations": [refusal(403, "FORBIDDEN")]})
    with (
        pytest.raises(ap2.AP2GuardDenied, match="permission reservations:list") as denied,
        ap2.cycles_guard_payment(client, mandate=mandate(), resume=True, **ACME),
    ):
        pass
    assert denied.value.reason_code == "NOTHING_TO_RESUME"
