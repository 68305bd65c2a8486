"""Payments of which nobody knows whether they were made: the budget stays held."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest

from ap2.cases import raises
from ap2.mandates import mandate
from ap2.running import run
from ap2.scripted import CREATE, EXTEND, LOST, RELEASE, Answer, refusal
from bursar import ap2
from bursar.client.context import interruptible

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class _Case:
    """One payment whose body raises."""

    def __init__(self, error: BaseException, answers: list[Answer], **options: Any) -> None:
        self.script = {EXTEND: answers}
        self.body, self.options, self.mandate = raises(error), options, dict[str, Any]()


@BOTH
def test_the_body_says_so(asynchronous: bool) -> None:
    """Nothing is committed or released, the lease is extended, and the exception knows it all."""
    error = ap2.AP2PaymentUnknown("the service timed out")
    found = run(ap2, _Case(error, [], hold_ms=7_000), asynchronous=asynchronous)
    assert found.raised is error
    assert found.client.made == [CREATE, EXTEND]
    assert (error.reservation_id, error.held_until_ms) == ("rsv_1", 5_000)
    assert error.payment_key == found.guard.payment_key
    (body,) = found.client.bodies(EXTEND)
    assert body["extend_by_ms"] == 7_000
    assert body["metadata"]["ap2_outcome"] == "unknown"
    assert "resume=True" in error.__notes__[0]
    assert not found.guard.committed


@BOTH
@pytest.mark.parametrize("error", [TimeoutError("psp"), ConnectionResetError("psp")])
def test_exceptions_of_the_service_that_mean_the_same(error: OSError, asynchronous: bool) -> None:
    """They are named once, go on as they are, and carry a note about what to do."""
    case = _Case(error, [], unknown_on=(TimeoutError, ConnectionError))
    found = run(ap2, case, asynchronous=asynchronous)
    assert found.raised is error
    assert found.client.made == [CREATE, EXTEND]
    assert "stays held until 5000" in error.__notes__[0]


@BOTH
def test_other_exceptions_release(asynchronous: bool) -> None:
    """By default an exception of the body says that nothing was paid."""
    case = _Case(ValueError("declined"), [], unknown_on=(TimeoutError,))
    found = run(ap2, case, asynchronous=asynchronous)
    assert found.client.made == [CREATE, "release_reservation"]


@BOTH
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (LOST, "connection reset"),
        (refusal(409, "MAX_EXTENSIONS_EXCEEDED"), "MAX_EXTENSIONS_EXCEEDED"),
        (OSError("no route"), "OSError: no route"),
        ((200, {}), "200"),
    ],
)
def test_a_lease_that_cannot_be_extended(answer: Answer, why: str, asynchronous: bool) -> None:
    """Nothing is released then either; the note says how long the hold lasts."""
    error = ap2.AP2PaymentUnknown()
    found = run(ap2, _Case(error, [answer]), asynchronous=asynchronous)
    assert found.raised is error
    assert found.client.made == [CREATE, EXTEND]
    assert error.held_until_ms is None
    assert f"until its lease ends ({why})" in error.__notes__[0]


def test_a_cancelled_payment_may_be_unknown() -> None:
    """Who cannot take a payment back when cancelled says so, and the cancellation goes on."""

    async def main() -> list[str]:
        from ap2.scripted import AsyncScriptedClient

        client = AsyncScriptedClient()
        guard = ap2.cycles_guard_payment_async(
            client, mandate=mandate(), run_id="r", unknown_on=(asyncio.CancelledError,)
        )

        async def pay() -> None:
            async with guard:
                await asyncio.sleep(60)

        task = asyncio.create_task(pay())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return client.made

    assert asyncio.run(main()) == [CREATE, EXTEND]


@pytest.mark.parametrize(
    ("inside", "aborts", "calls"),
    [
        (True, False, [CREATE, EXTEND]),
        (True, True, [CREATE, RELEASE]),
        (False, False, [CREATE, RELEASE]),
    ],
)
@pytest.mark.parametrize("how", ["task", "group"])
def test_cancelled_by_a_deadline(inside: bool, aborts: bool, calls: list[str], how: str) -> None:
    """Where a deadline cancels, what is cancelled is unknown; the block may know better."""

    async def main() -> list[str]:
        from ap2.scripted import AsyncScriptedClient

        client = AsyncScriptedClient()
        guard = ap2.cycles_guard_payment_async(client, mandate=mandate(), run_id="r")

        async def wait() -> None:
            if how == "task":
                await asyncio.sleep(60)
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))

        async def pay() -> None:
            with interruptible() if inside else nullcontext():
                async with guard:
                    try:
                        await wait()
                    except asyncio.CancelledError:
                        if aborts:
                            guard.abort("nothing was sent")
                        raise

        task = asyncio.create_task(pay())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return client.made

    assert asyncio.run(main()) == calls


def test_one_key_for_the_payment_service() -> None:
    """The same for every attempt of a mandate and every checkout of an open one, else another."""

    def key(**changes: Any) -> str:
        from ap2.scripted import ScriptedClient

        return ap2.cycles_guard_payment(
            ScriptedClient(), mandate=mandate(**changes), run_id=changes.pop("run", "r")
        ).payment_key

    assert key() == key()
    assert key(open_mandate_hash="o") == key(open_mandate_hash="o", transaction_id="other")
    assert len({key(), key(transaction_id="b"), key(open_mandate_hash="o")}) == 3
