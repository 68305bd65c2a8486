"""Cancelled at every point of a payment: nothing is lost, nothing is given back that was spent."""

import asyncio
from typing import Any

import pytest

from ap2.mandates import mandate
from ap2.scripted import COMMIT, CREATE, EXTEND, RELEASE, AsyncScriptedClient
from bursar import ap2
from client.scripted import Gate


async def _settle() -> None:
    """Let tasks that outlived their caller come to their end."""
    for _ in range(20):
        await asyncio.sleep(0.001)


class Cancelled:
    """A payment in a task, which is cancelled when `method` is about to be answered."""

    def __init__(self, method: str, **options: Any) -> None:
        self.client, self.gate = AsyncScriptedClient(), Gate()
        self.ran = False
        self.guard = ap2.cycles_guard_payment_async(
            self.client, mandate=mandate(), run_id="run", tenant="acme", **options
        )
        self.method = method
        self.body: Any = asyncio.sleep
        self.client.before[method] = self._stop

    async def _stop(self) -> None:
        self.gate.reached.set()
        while not self.gate.opened.is_set():  # noqa: ASYNC110 - set by the test, on this loop
            await asyncio.sleep(0.001)

    async def _pay(self) -> None:
        async with self.guard:
            self.ran = True
            await self.body(0)

    async def run(self, times: int = 1) -> tuple[asyncio.Task[None], BaseException | None]:
        task = asyncio.create_task(self._pay())
        await self.gate.wait_reached()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.002)
        await asyncio.wait([task])
        self.gate.open()
        await _settle()
        return task, None if task.cancelled() else task.exception()


def test_cancelled_while_reserving() -> None:
    """The cancellation goes on at once; what was granted too late is given back."""

    async def main() -> None:
        cancelled = Cancelled(CREATE)
        task, _ = await cancelled.run()
        assert task.cancelled()
        assert not cancelled.ran
        assert cancelled.client.made == [CREATE, RELEASE]
        (released,) = cancelled.client.bodies(RELEASE)
        assert released["reason"] == "ap2_guard_failed:CancelledError"
        assert cancelled.guard.reservation_id is None

    asyncio.run(main())


def test_cancelled_while_resuming() -> None:
    """What an earlier instance holds is not given back: it may have paid."""

    async def main() -> None:
        cancelled = Cancelled(EXTEND, resume=True)
        from ap2.cases import listed

        cancelled.client.script["list_reservations"] = listed(status="ACTIVE")
        task, _ = await cancelled.run()
        assert task.cancelled()
        assert cancelled.client.made == ["list_reservations", EXTEND]

    asyncio.run(main())


def test_cancelled_while_committing() -> None:
    """COMMIT_CANCELLED from the cancellation, no release, and the commit still arrives."""

    async def main() -> None:
        cancelled = Cancelled(COMMIT)
        task, raised = await cancelled.run()
        assert not task.cancelled()
        assert isinstance(raised, ap2.AP2GuardCommitUncertain)
        assert (raised.error_code, raised.reservation_id) == ("COMMIT_CANCELLED", "rsv_1")
        assert isinstance(raised.__cause__, asyncio.CancelledError)
        assert "no release was attempted" in str(raised)
        assert cancelled.client.made == [CREATE, COMMIT]
        assert cancelled.guard.committed

    asyncio.run(main())


def test_a_client_that_is_cancelled_itself() -> None:
    """A CancelledError out of the client means the same, as with the official guard."""

    async def main() -> None:
        client = AsyncScriptedClient({COMMIT: [asyncio.CancelledError()]})
        with pytest.raises(ap2.AP2GuardCommitUncertain) as raised:
            async with ap2.cycles_guard_payment_async(client, mandate=mandate(), run_id="r"):
                pass
        assert raised.value.error_code == "COMMIT_CANCELLED"
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)
        assert client.made == [CREATE, COMMIT]

    asyncio.run(main())


def test_cancelled_in_the_body() -> None:
    """Released in the name of the cancellation, which goes on."""

    async def main() -> None:
        client = AsyncScriptedClient()
        guard = ap2.cycles_guard_payment_async(client, mandate=mandate(), run_id="r")

        async def pay() -> None:
            async with guard:
                await asyncio.sleep(60)

        task = asyncio.create_task(pay())
        await _settle()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        (released,) = client.bodies(RELEASE)
        assert released["reason"] == "ap2_guard_failed:CancelledError"
        assert released["idempotency_key"].endswith(":release:CancelledError")

    asyncio.run(main())


def test_cancelled_while_releasing() -> None:
    """The cancellation goes on, and the release arrives all the same."""

    async def main() -> None:
        cancelled = Cancelled(RELEASE)

        async def fails(_: float) -> None:
            raise ValueError("card declined")

        cancelled.body = fails
        task, _ = await cancelled.run()
        assert task.cancelled()
        assert cancelled.client.made == [CREATE, RELEASE]

    asyncio.run(main())


def test_cancelled_in_the_body_and_again_while_releasing() -> None:
    """However often it is cancelled, there is one release."""

    async def main() -> None:
        cancelled = Cancelled(RELEASE)

        async def waits(_: float) -> None:
            raise asyncio.CancelledError

        cancelled.body = waits
        task, _ = await cancelled.run(times=3)
        assert task.cancelled()
        assert cancelled.client.made == [CREATE, RELEASE]

    asyncio.run(main())


def test_a_timeout_around_a_payment() -> None:
    """`asyncio.timeout` around the block ends it while it commits, and the commit arrives."""

    async def main() -> None:
        cancelled = Cancelled(COMMIT)
        with pytest.raises(ap2.AP2GuardCommitUncertain, match="cancelled mid-flight"):
            async with asyncio.timeout(0.05):
                await cancelled._pay()
        cancelled.gate.open()
        await _settle()
        assert cancelled.guard.committed

    asyncio.run(main())
