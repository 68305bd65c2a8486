"""Cancellation: what was asked is given back, what was spent is accounted for, and it goes on.

| cancelled | what the server ends up with | what the caller sees |
|---|---|---|
| before it asks | nothing was asked | `CancelledError` |
| while it asks | a late grant is released | `CancelledError` |
| in the body, nothing known | released | `CancelledError` |
| in the body, spend recorded | that is committed | `CancelledError` |
| in a stream, usage priced | that is committed | `CancelledError` |
| in a stream, usage not priced | unknown: nothing is sent, and logged | `CancelledError` |
| while it commits | committed, by the attempt under way or from the journal | `CancelledError` |
| while it releases | released | `CancelledError` |
| with its loop, before a line of that ran | the same, by a thread or the next loop | its end |
"""

import asyncio
import contextlib
import inspect
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bursar import CyclesClient, HeartbeatLost, cycles, get_cycles_context
from bursar.client.models import Action, Amount
from bursar.client.usage import StreamUsage
from client.scripted import Gate, held, lost, refuse
from client.shells import Shell, config, until

ACTION = Action(kind="llm", name="m")
FIFTY = Amount(unit="TOKENS", amount=50)


@dataclass
class Scene:
    """A client, and the moment at which a test cancels."""

    shell: Shell
    gate: Gate = field(default_factory=Gate)
    inside: asyncio.Event = field(default_factory=asyncio.Event)
    resumed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def client(self) -> Any:
        return self.shell.client

    def hold(self, operation: str) -> None:
        """Let the next call of an operation stand at the gate."""
        self.shell.server.on(operation, held(self.gate))

    async def forever(self) -> None:
        """Stay in the body until somebody cancels, or lets it go on."""
        self.inside.set()
        await self.resumed.wait()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    shell = Shell(True, tmp_path / "journal")
    yield Scene(shell)
    shell.end()


# Bodies, for every way to guard.


async def decorated(scene: Scene, body: Callable[[], Awaitable[None]]) -> None:
    """Run a body under the decorator."""

    @cycles(50, unit="TOKENS", actual=40, client=scene.client)
    async def work() -> None:
        await body()

    await work()


async def streamed(scene: Scene, body: Callable[[], Awaitable[None]]) -> None:
    """Run a body under a stream."""
    async with scene.client.stream_reservation(action=ACTION, estimate=FIFTY) as stream:
        await body()
        stream.usage.set_actual_cost(40)


async def generated(scene: Scene, body: Callable[[], Awaitable[None]]) -> None:
    """Run a body as a generator."""

    @cycles(50, unit="TOKENS", actual=40, client=scene.client)
    async def work() -> AsyncIterator[int]:
        await body()
        for chunk in ():
            yield chunk

    async for _ in work():
        pass


async def guarded(scene: Scene, body: Callable[[], Awaitable[None]]) -> None:
    """Run a body under a guard."""
    guard = await scene.client.reserve(estimate=50, unit="TOKENS")
    try:
        await body()
    except BaseException:
        await guard.release("cancelled")
        raise
    await guard.commit(40)


WAYS = [decorated, streamed, generated, guarded]
Way = Callable[[Scene, Callable[[], Awaitable[None]]], Awaitable[None]]


async def nothing() -> None:
    """A body that ends."""


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and see that the cancellation reached its caller."""
    task.cancel()
    assert task.cancelling() == 1
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert task.cancelled()


async def not_one_step(task: asyncio.Task[Any], begin: Callable[[], Any]) -> None:
    """Begin what starts a task, and cancel everything before that has run a line."""
    before = asyncio.all_tasks()
    begin()
    while not (new := asyncio.all_tasks() - before):  # noqa: ASYNC110 - each step counts
        await asyncio.sleep(0)
    assert {inspect.getcoroutinestate(one.get_coro()) for one in new} == {inspect.CORO_CREATED}
    for one in asyncio.all_tasks() - {asyncio.current_task()}:
        one.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("way", WAYS)
def test_before_it_asks(scene: Scene, way: Way) -> None:
    """Nothing is sent."""

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, nothing))
        await cancelled(task)

    scene.shell.run(main())
    assert scene.shell.server.calls == []


@pytest.mark.parametrize("way", WAYS)
def test_while_it_asks(scene: Scene, way: Way) -> None:
    """The caller leaves at once; the grant that comes late is given back."""
    scene.hold("createReservation")

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, nothing))
        await scene.gate.wait_reached()
        await cancelled(task)
        assert scene.shell.server.open == ["rsv_1"]
        scene.gate.open()
        assert await scene.client.flush(5) == 0

    scene.shell.run(main())
    assert scene.shell.server.released == {"rsv_1": "cancelled_before_start"}
    assert scene.shell.server.charged == {}


@pytest.mark.parametrize("way", WAYS)
def test_in_the_body_when_nothing_is_known(scene: Scene, way: Way) -> None:
    """It is released before the caller goes on."""

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, scene.forever))
        await scene.inside.wait()
        await cancelled(task)
        assert list(scene.shell.server.released) == ["rsv_1"]

    scene.shell.run(main())
    assert scene.shell.server.charged == {}


@pytest.mark.parametrize("way", [decorated, streamed, generated])
def test_in_the_body_when_spend_was_recorded(scene: Scene, way: Way) -> None:
    """That much is committed."""

    async def spends() -> None:
        context = get_cycles_context()
        assert context is not None
        context.record_spend(7)
        await scene.forever()

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, spends))
        await scene.inside.wait()
        await cancelled(task)

    scene.shell.run(main())
    assert (scene.shell.server.charged, scene.shell.server.released) == ({"rsv_1": 7}, {})


@pytest.mark.parametrize(
    ("cost_fn", "charged"), [(lambda usage: usage.tokens_output * 2, {"rsv_1": 6}), (None, {})]
)
def test_in_a_stream_that_was_used(
    scene: Scene,
    cost_fn: Callable[[StreamUsage], int] | None,
    charged: dict[str, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Committed if it has a price, otherwise unknown and said to be; never released."""

    async def streams() -> None:
        making = scene.client.stream_reservation(action=ACTION, estimate=FIFTY, cost_fn=cost_fn)
        async with making as stream:
            stream.usage.add_output_tokens(3)
            await scene.forever()

    async def main() -> None:
        task = asyncio.ensure_future(streams())
        await scene.inside.wait()
        await cancelled(task)

    scene.shell.run(main())
    assert (scene.shell.server.charged, scene.shell.server.released) == (charged, {})
    assert ("what it spent is unknown" in caplog.text) is not bool(charged)


@pytest.mark.parametrize("way", WAYS)
def test_while_it_commits(scene: Scene, way: Way) -> None:
    """The caller leaves at once; the commit under way is finished and followed up."""
    scene.hold("commitReservation")

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, nothing))
        await scene.gate.wait_reached()
        assert len(scene.shell.journal()) == 1
        await cancelled(task)
        assert await scene.client.flush(0.01) == 1
        scene.gate.open()
        assert await scene.client.flush(5) == 0

    scene.shell.run(main())
    assert (scene.shell.server.charged, scene.shell.server.released) == ({"rsv_1": 40}, {})
    assert scene.shell.journal() == []


@pytest.mark.parametrize("way", WAYS)
def test_while_it_commits_what_is_lost(scene: Scene, way: Way) -> None:
    """An attempt that outlived its caller and failed is asked again."""
    scene.hold("commitReservation")
    scene.shell.server.on("commitReservation", lost(), refuse(503))

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, nothing))
        await scene.gate.wait_reached()
        await cancelled(task)
        scene.gate.open()
        assert await scene.client.flush(5) == 0

    scene.shell.run(main())
    assert scene.shell.server.charged == {"rsv_1": 40}
    assert (
        len({body["idempotency_key"] for body in scene.shell.server.bodies("commitReservation")})
        == 1
    )


@pytest.mark.parametrize("way", WAYS)
def test_before_the_first_step_of_the_settlement(scene: Scene, way: Way) -> None:
    """A task that never ran a line has still written down what was spent, and it is sent.

    This is what `asyncio.run` does to every task as it ends.
    """

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, scene.forever))
        await scene.inside.wait()
        await not_one_step(task, scene.resumed.set)

    scene.shell.run(main())
    assert (scene.shell.server.charged, scene.shell.server.released) == ({}, {})
    until(scene.shell.journal)  # a thread writes it
    assert scene.shell.flush() == 0
    assert scene.shell.server.charged == {"rsv_1": 40}
    assert scene.shell.journal() == []


async def resumed(scene: Scene, way: Way) -> None:
    """Run a guarded body to its end, and not one step of its settlement."""
    task: Any = asyncio.ensure_future(way(scene, scene.forever))
    await scene.inside.wait()
    before = asyncio.all_tasks()
    scene.resumed.set()
    while not (new := asyncio.all_tasks() - before):  # noqa: ASYNC110 - each step counts
        await asyncio.sleep(0)
    for one in new:  # as the end of the loop does, a step later
        one.cancel()
    assert not task.done()


@pytest.mark.parametrize("way", WAYS)
def test_a_loop_that_ends_before_the_first_step(scene: Scene, way: Way) -> None:
    """The next loop of the process takes the record over."""
    scene.shell.configure(retry_initial_delay=60.0, retry_max_delay=60.0)
    asyncio.run(resumed(scene, way))
    assert (scene.shell.server.charged, scene.shell.server.released) == ({}, {})
    assert len(scene.shell.journal()) == 1
    scene.shell.run(way(scene, nothing))
    assert scene.shell.flush() == 0
    assert scene.shell.server.charged == {"rsv_1": 40, "rsv_2": 40}


@pytest.mark.parametrize("way", WAYS)
def test_a_loop_that_settles_in_its_last_turns(
    scene: Scene, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    """While it waits for its threads it gives them no more work; the record is done with."""

    def settled() -> bool:
        return bool(scene.shell.server.charged) and not scene.shell.journal()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, until, settled)
        await resumed(scene, way)

    asyncio.run(main())
    assert (scene.shell.server.charged, scene.shell.journal()) == ({"rsv_1": 40}, [])
    assert "background step" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ends_while_it_asks_again(scene: Scene) -> None:
    """An attempt that the loop began in its last turns and never ended is made again."""
    scene.hold("commitReservation")

    async def main() -> None:
        asking = partial(scene.shell.server.made, "commitReservation")
        asyncio.get_running_loop().run_in_executor(None, until, asking)
        await resumed(scene, decorated)

    asyncio.run(main())
    assert len(scene.shell.journal()) == 1  # the answer was never read
    scene.shell.run(decorated(scene, nothing))
    assert scene.shell.flush() == 0
    assert scene.shell.journal() == []
    assert scene.shell.server.charged == {"rsv_1": 40, "rsv_2": 40}
    assert len(scene.shell.server.made("commitReservation")) == 3


@pytest.mark.parametrize("way", WAYS)
def test_while_it_releases(scene: Scene, way: Way) -> None:
    """A second cancellation does not stop the release."""
    scene.hold("releaseReservation")

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, scene.forever))
        await scene.inside.wait()
        task.cancel()
        await scene.gate.wait_reached()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        scene.gate.open()
        assert await scene.client.flush(5) == 0

    scene.shell.run(main())
    assert list(scene.shell.server.released) == ["rsv_1"]


@pytest.mark.parametrize("way", WAYS)
def test_before_the_first_step_of_the_release(scene: Scene, way: Way) -> None:
    """A thread of the process releases, and nothing keeps the lease alive any more."""

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, scene.forever))
        await scene.inside.wait()
        await not_one_step(task, task.cancel)

    asyncio.run(main())
    until(lambda: scene.shell.server.released)
    assert list(scene.shell.server.released) == ["rsv_1"]
    assert scene.shell.server.charged == {}


@pytest.mark.parametrize("way", WAYS)
def test_before_the_first_step_of_the_undoing(scene: Scene, way: Way) -> None:
    """A grant that came too late for its caller is given back, also as the loop ends."""
    scene.hold("createReservation")

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, nothing))
        await scene.gate.wait_reached()
        await cancelled(task)
        await not_one_step(task, scene.gate.open)

    asyncio.run(main())
    until(lambda: scene.shell.server.released)
    assert scene.shell.server.released == {"rsv_1": "cancelled_before_start"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", [None, "createReservation", "commitReservation"])
def test_a_timeout_is_a_timeout(scene: Scene, way: Way, operation: str | None) -> None:
    """`asyncio.timeout` around any phase raises `TimeoutError` and leaves no trace in the task."""
    if operation:
        scene.hold(operation)
    body = nothing if operation else scene.forever

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await way(scene, body)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        scene.gate.open()
        assert await scene.client.flush(5) == 0

    scene.shell.run(main())
    assert scene.shell.server.open == []
    assert bool(scene.shell.server.charged) is (operation == "commitReservation")


@pytest.mark.parametrize("way", WAYS)
def test_a_task_group_takes_its_tasks_down(scene: Scene, way: Way) -> None:
    """A sibling fails: the guarded tasks are released, the group raises what failed."""

    async def breaks() -> None:
        await scene.inside.wait()
        raise ValueError("sibling")

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            guarding: Any = way(scene, scene.forever)
            group.create_task(guarding)
            group.create_task(breaks())

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as raised:
            await together()
        assert raised.group_contains(ValueError, match="sibling")

    scene.shell.run(main())
    assert list(scene.shell.server.released) == ["rsv_1"]


# The policy `cancel`.


def lose_the_lease(scene: Scene) -> None:
    """Let the first beat learn that the reservation is gone."""
    scene.shell.configure(heartbeat_policy="cancel")
    scene.shell.server.remaining = False  # so that the first beat comes at once
    scene.shell.server.on("extendReservation", refuse(409, "RESERVATION_FINALIZED"))


@pytest.mark.parametrize("way", [decorated, streamed, generated])
def test_a_lost_lease_cancels_the_body(scene: Scene, way: Way) -> None:
    """It becomes `HeartbeatLost`, and the task is as if nobody had cancelled it."""
    lose_the_lease(scene)

    async def main() -> None:
        with pytest.raises(HeartbeatLost):
            await asyncio.wait_for(way(scene, scene.forever), 5)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    scene.shell.run(main())
    assert scene.shell.server.made("releaseReservation") != []


@pytest.mark.parametrize("way", [decorated, streamed, generated])
def test_a_lost_lease_does_not_hide_somebody_elses_cancellation(scene: Scene, way: Way) -> None:
    """Cancelled by both: the caller's cancellation goes on."""
    lose_the_lease(scene)
    scene.shell.server.on("releaseReservation", held(scene.gate))

    async def main() -> None:
        task: Any = asyncio.ensure_future(way(scene, scene.forever))
        await scene.gate.wait_reached()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        scene.gate.open()
        await scene.client.flush(5)

    scene.shell.run(main())


@pytest.mark.parametrize("way", [decorated, streamed])
def test_a_lease_that_is_lost_as_the_body_ends(scene: Scene, way: Way) -> None:
    """The spend is committed, then `HeartbeatLost` is raised; no stray cancellation stays."""
    lose_the_lease(scene)

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await scene.forever()

    async def main() -> None:
        with pytest.raises(HeartbeatLost):
            await way(scene, stubborn)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    scene.shell.run(main())
    assert len(scene.shell.server.made("commitReservation")) >= 1


def test_a_lease_that_is_lost_between_chunks_ends_the_generator(scene: Scene) -> None:
    """Whoever listens is not cancelled; the generator is, at its next step."""
    lose_the_lease(scene)
    seen: list[BaseException] = []

    @cycles(50, client=scene.client)
    async def work() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        except BaseException as error:
            seen.append(error)
            raise

    async def main() -> None:
        made = work()
        await anext(made)
        while not scene.shell.server.made("extendReservation"):  # noqa: ASYNC110 - a fake's list
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        with pytest.raises(HeartbeatLost):
            await anext(made)

    scene.shell.run(main())
    assert [type(error) for error in seen] == [asyncio.CancelledError]


# Ctrl-C.


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_synchronous_code(tmp_path: Path, error: type[BaseException]) -> None:
    """In the body it releases, in the price it commits the estimate; and it goes on."""
    shell = Shell(False, tmp_path / "journal")

    def interrupted(*_: Any) -> int:
        raise error

    with pytest.raises(error):
        cycles(50, client=shell.client)(interrupted)()
    with pytest.raises(error):
        cycles(60, actual=interrupted, client=shell.client)(lambda: 1)()
    with pytest.raises(error), shell.client.stream_reservation(action=ACTION, estimate=FIFTY):
        interrupted()
    assert list(shell.server.released) == ["rsv_1", "rsv_3"]
    assert shell.server.charged == {"rsv_2": 60}
    shell.end()


def test_an_interrupt_while_it_commits(tmp_path: Path) -> None:
    """The journal has it, and the next client of any process settles it."""
    shell = Shell(False, tmp_path / "journal")

    class Interrupted:
        def send(self, call: Any) -> Any:
            if call.operation == "commitReservation":
                raise KeyboardInterrupt
            return shell.server.receive(call)[0]

        def close(self) -> None:
            pass

    client = CyclesClient(config(shell.folder, retry_flush_timeout=0.0), transport=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        cycles(50, client=client)(lambda: 1)()
    assert (len(shell.journal()), shell.server.released) == (1, {})
    client.close()
    cycles(1, client=shell.client)(lambda: 1)()
    for _ in range(500):
        if len(shell.server.charged) == 2:
            break
        shell.client.flush(0.01)
        time.sleep(0.01)
    assert shell.server.charged == {"rsv_1": 50, "rsv_2": 1}
    shell.end()


ENDED_BY_CTRL_C = """
    import asyncio, os, signal, sys
    from bursar import AsyncCyclesClient, CyclesConfig, cycles
    from client.scripted import Gate, ScriptedServer, held

    server, gate = ScriptedServer(), Gate()
    server.on("commitReservation", held(gate))
    config = CyclesConfig("http://scripted", "key", tenant="acme", journal_dir=sys.argv[1],
                          retry_flush_timeout=0.1)
    client = AsyncCyclesClient(config, transport=server.async_transport())

    @cycles(50, client=client)
    async def work():
        os.kill(os.getpid(), signal.SIGINT)
        return 1

    async def main():
        await work()

    asyncio.run(main())
"""


def test_ctrl_c_in_a_loop_as_the_work_ends(tmp_path: Path) -> None:
    """The program stops at once, and what was spent is in the journal."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ENDED_BY_CTRL_C), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "KeyboardInterrupt" in ended.stderr
    assert "Traceback" in ended.stderr
    assert len(list(tmp_path.rglob("*.json"))) == 1, ended.stderr
