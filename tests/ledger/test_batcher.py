"""Batching: one transaction for many, and nobody waits for somebody else's trouble."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bursar.authority.render import render
from bursar.core.commands import AnyCommand, CreateTenant
from bursar.core.state import Tenant
from bursar.core.trail import AuditQuery, Failure
from bursar.ledger.batcher import Batcher, Closed, Overloaded, Written
from bursar.ledger.observer import Executed
from bursar.ledger.ports import StoreError, UnreadableRow
from bursar.ledger.service import Accepted, Failed, Ledger, Outcome
from bursar.server import jobs
from bursar.testing import FakeClock, MemoryStore
from bursar.vocabulary import TenantStatus

WITHIN_S = 10


class Gated(Ledger):
    """A ledger whose batches wait for a gate, and are counted."""

    def __init__(self, fails: Callable[[Sequence[AnyCommand]], Exception | None]) -> None:
        super().__init__(MemoryStore(), FakeClock(1_000), render)
        self.gate = threading.Event()
        self.batches: list[int] = []
        self._fails = fails

    def execute(
        self, commands: Sequence[AnyCommand], failures: Sequence[Failure] = ()
    ) -> list[Outcome]:
        self.gate.wait(WITHIN_S)
        self.batches.append(len(commands))
        error = self._fails(commands)
        if error is not None:
            raise error
        return super().execute(commands, failures)


def opening(name: str) -> CreateTenant:
    return CreateTenant(tenant=name, record=Tenant(name, name, TenantStatus.ACTIVE, 0))


def outcomes(batcher: Batcher, ledger: Gated, names: Sequence[str]) -> list[Outcome]:
    """Submit while the gate is shut, so that all but the first go in one batch."""
    futures = [batcher.submit(opening(name)) for name in names]
    ledger.gate.set()
    return [future.result(WITHIN_S) for future in futures]


@pytest.fixture
def started() -> Iterator[Callable[[Gated], Batcher]]:
    made: list[tuple[Gated, Batcher]] = []

    def start(ledger: Gated, **limits: Any) -> Batcher:
        made.append((ledger, Batcher(ledger, **limits)))
        return made[-1][1]

    yield start
    for ledger, batcher in made:
        ledger.gate.set()
        batcher.close(WITHIN_S)


def test_what_waits_goes_in_one_transaction(started: Any) -> None:
    ledger = Gated(lambda commands: None)
    answers = outcomes(started(ledger), ledger, [f"t-{n}" for n in range(20)])
    assert all(isinstance(one, Accepted) for one in answers)
    assert sum(ledger.batches) == 20
    assert len(ledger.batches) <= 2


def test_a_store_that_fails_is_asked_once_for_all(started: Any) -> None:
    """A locked file must not keep each caller waiting for all the others."""
    ledger = Gated(lambda commands: StoreError("database is locked"))
    batcher = started(ledger)
    answers = outcomes(batcher, ledger, [f"t-{n}" for n in range(20)])
    assert all(isinstance(one, Failed) for one in answers)
    assert len(ledger.batches) <= 2
    assert batcher.last_failure is not None


def test_a_row_that_cannot_be_read_spoils_its_own_command_alone(started: Any) -> None:
    def fails(commands: Sequence[AnyCommand]) -> Exception | None:
        spoilt = any(command.tenant == "bad" for command in commands)
        return UnreadableRow("nonsense") if spoilt else None

    ledger = Gated(fails)
    batcher = started(ledger)
    answers = outcomes(batcher, ledger, ["a", "b", "bad", "c"])
    assert [type(one) for one in answers] == [Accepted, Accepted, Failed, Accepted]
    assert batcher.last_failure is None


def test_a_store_that_saves_again_is_well_again(started: Any) -> None:
    errors: list[Exception | None] = [StoreError("full"), None]
    ledger = Gated(lambda commands: errors.pop(0))
    batcher = started(ledger)
    ledger.gate.set()
    assert isinstance(batcher.submit(opening("a")).result(WITHIN_S), Failed)
    assert batcher.last_failure is not None
    assert isinstance(batcher.submit(opening("a")).result(WITHIN_S), Accepted)
    assert batcher.last_failure is None


def test_more_than_the_queue_takes_is_refused(started: Any) -> None:
    ledger = Gated(lambda commands: None)
    batcher = started(ledger, queue_max=3)

    def fill() -> None:
        for number in range(10):
            batcher.submit(opening(f"t-{number}"))

    with pytest.raises(Overloaded):
        fill()


def test_closing_finishes_what_was_accepted_and_takes_no_more(started: Any) -> None:
    ledger = Gated(lambda commands: None)
    batcher = started(ledger)
    futures = [batcher.submit(opening(f"t-{n}")) for n in range(5)]
    assert batcher.close(0.01) is False  # the gate is shut: the store hangs
    with pytest.raises(Closed):
        batcher.submit(opening("late"))
    ledger.gate.set()
    assert batcher.close(WITHIN_S) is True
    assert all(isinstance(future.result(0), Accepted) for future in futures)


def test_the_sweep_survives_whatever_one_round_meets() -> None:
    """Holds go on being returned after an error that nobody foresaw."""
    rounds = 0

    def due(now_ms: int, limit: int) -> Sequence[tuple[str, str]]:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise RuntimeError("can't start new thread")
        return []

    async def sweep() -> None:
        reader = cast(Any, SimpleNamespace(due=due))
        task = asyncio.create_task(
            jobs.expire_forever(cast(Any, None), reader, FakeClock(1_000), interval_ms=1)
        )
        for _ in range(1_000):
            if rounds > 2:
                break
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(sweep())
    assert rounds > 2


def test_an_observer_is_told_before_the_callers_are(started: Any) -> None:
    """It sees each transaction once; that it fails is its own trouble alone."""
    seen: list[tuple[list[str], int, bool]] = []

    class Watching:
        def executed(self, batch: Executed) -> None:
            names = [command.tenant for command in batch.commands]
            seen.append((names, len(batch.outcomes), batch.took_s >= 0))
            if names == ["c"]:
                raise RuntimeError("a bug in a metric")

    ledger = Gated(lambda commands: StoreError("full") if commands[0].tenant == "d" else None)
    batcher = started(ledger, observer=Watching())
    assert batcher.waiting == 0
    ledger.gate.set()
    for name in "abcd":
        batcher.submit(opening(name)).result(WITHIN_S)
        assert seen[-1] == ([name], 1, True)
    assert len(seen) == 4


def refused(request_id: str) -> Failure:
    return Failure(
        tenant="a",
        request_id=request_id,
        at_ms=1,
        operation="decide",
        status=400,
        error_code="INVALID_REQUEST",
    )


def written(batcher: Batcher, ledger: Gated, *, commands: int) -> list[Written]:
    """Hand over a failure before, between and after commands, all in one batch but the first."""

    async def run() -> list[Written]:
        futures = [batcher.note(refused("first"))]
        asked = [asyncio.ensure_future(batcher.execute(opening(f"t-{n}"))) for n in range(commands)]
        await asyncio.sleep(0)
        futures.append(batcher.note(refused("last")))
        ledger.gate.set()
        assert not any(isinstance(one, Failed) for one in await asyncio.gather(*asked))
        return list(await asyncio.gather(*futures))

    return asyncio.run(asyncio.wait_for(run(), WITHIN_S))


def test_failures_are_saved_beside_the_batch(started: Any) -> None:
    """They cost no transaction of their own, and each caller gets its own outcome."""
    ledger = Gated(lambda commands: None)
    assert written(started(ledger), ledger, commands=5) == [Written(), Written()]
    assert len(ledger.batches) <= 2
    noted = ledger.store.reader.audit(AuditQuery(tenant="a")).rows
    assert [line.request_id for line in noted] == ["first", "last"]


def test_a_failure_that_cannot_be_saved_says_so(started: Any) -> None:
    error = StoreError("database is locked")
    ledger = Gated(lambda commands: error)
    batcher = started(ledger)
    assert written(batcher, ledger, commands=0) == [Written(error)] * 2
    assert batcher.last_failure is not None


def test_a_saved_failure_does_not_make_the_store_well(started: Any) -> None:
    """One small row may still fit on a disk that is full for every command."""
    errors: list[Exception | None] = [StoreError("full")]
    ledger = Gated(lambda commands: errors.pop(0) if commands else None)
    batcher = started(ledger)
    ledger.gate.set()
    assert isinstance(batcher.submit(opening("a")).result(WITHIN_S), Failed)
    assert written(batcher, ledger, commands=0) == [Written()] * 2
    assert batcher.last_failure is not None


def test_a_full_queue_still_takes_failures(started: Any) -> None:
    """What was refused because the queue was full can be written down, within a limit too."""
    ledger = Gated(lambda commands: None)
    batcher = started(ledger, queue_max=2)

    def fill(hand_over: Callable[[str], object]) -> None:
        for number in range(9):
            hand_over(f"t-{number}")

    async def run() -> None:
        with pytest.raises(Overloaded):
            fill(lambda name: batcher.submit(opening(name)))
        batcher.note(refused("a"))
        with pytest.raises(Overloaded):
            fill(lambda name: batcher.note(refused(name)))
        ledger.gate.set()

    asyncio.run(asyncio.wait_for(run(), WITHIN_S))


def on_threads(batcher: Batcher, names: Sequence[str]) -> tuple[list[threading.Thread], list[Any]]:
    """Let a thread each perform an opening; the list fills with what became of them."""
    found: list[Any] = []

    def perform(name: str) -> None:
        try:
            found.append(batcher.perform(opening(name)))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            found.append(error)

    threads = [threading.Thread(target=perform, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    return threads, found


def joined(threads: Sequence[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(WITHIN_S)
    return not any(thread.is_alive() for thread in threads)


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    give_up = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def test_who_meets_nobody_executes_alone_and_at_once(started: Any) -> None:
    workers: list[int] = []
    ledger = Gated(lambda commands: workers.append(threading.get_ident()))
    batcher = started(ledger)
    ledger.gate.set()
    assert isinstance(batcher.perform(opening("a")), Accepted)
    assert isinstance(batcher.submit(opening("b")).result(WITHIN_S), Accepted)
    assert workers[0] == threading.get_ident() != workers[1]


def test_whoever_comes_meanwhile_waits_for_one_batch_of_the_writer(started: Any) -> None:
    ledger = Gated(lambda commands: None)
    batcher = started(ledger)
    first, alone = on_threads(batcher, ["first"])
    until(lambda: batcher._at_work is not None)
    rest, others = on_threads(batcher, [f"t-{n}" for n in range(8)])
    until(lambda: batcher.waiting == 8)
    ledger.gate.set()
    assert joined(first + rest)
    assert ledger.batches == [1, 8]
    assert all(isinstance(one, Accepted) for one in alone + others)


def test_nobody_is_passed_over_while_the_writer_has_not_begun(started: Any) -> None:
    """What waits goes first, whether or not the writer is awake yet."""
    ledger = Gated(lambda commands: None)
    batcher = started(ledger)
    future = batcher.submit(opening("first"))
    late, found = on_threads(batcher, ["late"])
    ledger.gate.set()
    assert joined(late)
    assert future.done()
    assert isinstance(found[0], Accepted)


def test_no_answer_is_lost_when_many_threads_and_a_loop_compete(started: Any) -> None:
    ledger = Gated(lambda commands: None)
    batcher = started(ledger, batch_max=3)
    ledger.gate.set()
    answers: list[Outcome] = []

    def perform(worker: int) -> None:
        for number in range(50):
            answers.append(batcher.perform(opening(f"t-{worker}-{number}")))

    async def execute() -> list[Outcome]:
        asked = (batcher.execute(opening(f"loop-{number}")) for number in range(100))
        return list(await asyncio.gather(*asked))

    threads = [threading.Thread(target=perform, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    answers += asyncio.run(asyncio.wait_for(execute(), WITHIN_S))
    assert joined(threads)
    assert len(answers) == sum(ledger.batches) == 400
    assert all(isinstance(one, Accepted) for one in answers)
    assert max(ledger.batches) <= 3


def test_a_failure_of_who_executes_alone_is_its_own_answer(started: Any) -> None:
    errors: list[Exception | None] = [StoreError("full"), RuntimeError("a bug"), None]
    ledger = Gated(lambda commands: errors.pop(0))
    batcher = started(ledger)
    ledger.gate.set()
    assert isinstance(batcher.perform(opening("a")), Failed)
    assert batcher.last_failure is not None
    assert isinstance(batcher.perform(opening("a")), Failed)
    assert isinstance(batcher.perform(opening("a")), Accepted)
    assert batcher.last_failure is None


def test_an_interrupt_ends_one_turn_and_not_the_ledger(started: Any) -> None:
    """Somebody presses Ctrl-C while a main thread writes; others wait behind it."""
    waiting: list[Any] = []

    def interrupted(commands: Sequence[AnyCommand]) -> None:
        if commands[0].tenant == "first":
            waiting.append(batcher.submit(opening("behind")))
            raise KeyboardInterrupt

    ledger = Gated(interrupted)
    batcher = started(ledger)
    ledger.gate.set()
    with pytest.raises(KeyboardInterrupt):
        batcher.perform(opening("first"))
    assert isinstance(waiting[0].result(WITHIN_S), Accepted)
    assert isinstance(batcher.perform(opening("after")), Accepted)


def test_a_signal_handler_does_not_wait_for_the_write_it_interrupts(started: Any) -> None:
    refused: list[Exception] = []

    def handler(commands: Sequence[AnyCommand]) -> None:
        if commands[0].tenant == "first":
            with pytest.raises(Overloaded, match="interrupted") as caught:
                batcher.perform(opening("inside"))
            refused.append(caught.value)

    ledger = Gated(handler)
    batcher = started(ledger)
    ledger.gate.set()
    assert isinstance(batcher.perform(opening("first")), Accepted)
    assert len(refused) == 1


def test_closing_waits_for_who_executes_alone(started: Any) -> None:
    ledger = Gated(lambda commands: None)
    batcher = started(ledger)
    first, found = on_threads(batcher, ["first"])
    until(lambda: batcher._at_work is not None)
    behind, others = on_threads(batcher, ["behind"])
    until(lambda: batcher.waiting == 1)
    assert batcher.close(0.01) is False
    with pytest.raises(Closed):
        batcher.perform(opening("late"))
    ledger.gate.set()
    assert batcher.close(WITHIN_S) is True
    assert joined(first + behind)
    assert all(isinstance(one, Accepted) for one in found + others)
