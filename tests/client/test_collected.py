"""What a garbage collection finds is settled by the background: a finalizer waits for nothing.

A collection begins wherever memory is asked for, also inside a connection pool that holds a lock.
"""

import contextlib
import gc
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import CyclesClient, StreamUsage, get_cycles_context, with_cycles
from bursar.client.calls import Call
from bursar.client.collecting import after, collecting
from bursar.client.models import Action, Amount
from bursar.client.response import CyclesResponse
from client.scripted import Gate, ScriptedServer, held, unreachable
from client.shells import Shell, config, until

ACTION = Action(kind="llm", name="m")
FIFTY = Amount(unit="TOKENS", amount=50)
AT_ONCE_S = 5.0
"""Far below the time for which a held answer blocks whoever waits for it."""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(False, tmp_path / "journal")
    gc.collect()  # what other tests left is none of ours
    yield made
    made.end()


class Cycle:
    """Something that only a collection can find."""

    def __init__(self, held: object) -> None:
        self.held = held
        self.me = self


def collect() -> float:
    """Run a collection; return how long it took, in seconds."""
    began = time.monotonic()
    gc.collect()
    return time.monotonic() - began


# Suspended code, by name; each is a generator that stands at its first chunk.


def guarded(shell: Shell, **options: Any) -> Any:
    def work() -> Iterator[int]:
        yield 7
        yield 8

    return with_cycles(work, estimate=50, unit="TOKENS", client=shell.client, **options)()


def a_priced_generator(shell: Shell) -> Any:
    return guarded(shell, on_chunk=count, cost_fn=lambda usage: usage.tokens_output)


def count(chunk: int, usage: StreamUsage) -> None:
    usage.add_output_tokens(chunk)


def a_generator_that_recorded_its_spend(shell: Shell) -> Any:
    def work() -> Iterator[int]:
        context = get_cycles_context()
        assert context is not None
        context.record_spend(7)
        yield 1

    return with_cycles(work, estimate=50, unit="TOKENS", client=shell.client)()


def a_stream_with_a_cost(shell: Shell) -> Iterator[int]:
    with shell.client.stream_reservation(action=ACTION, estimate=FIFTY) as stream:
        stream.usage.set_actual_cost(7)
        yield 1


def a_stream_that_ends_well(shell: Shell) -> Iterator[int]:
    with shell.client.stream_reservation(action=ACTION, estimate=FIFTY) as stream:
        stream.usage.set_actual_cost(7)
        with contextlib.suppress(GeneratorExit):
            yield 1


def a_guard_that_is_committed_at_last(shell: Shell) -> Iterator[int]:
    with shell.client.reserve(estimate=50, unit="TOKENS") as guard:
        try:
            yield 1
        finally:
            assert guard.commit(7) is None


def an_unused_stream(shell: Shell) -> Iterator[int]:
    with shell.client.stream_reservation(action=ACTION, estimate=FIFTY):
        yield 1


def a_guard_that_is_released_at_last(shell: Shell) -> Iterator[int]:
    guard = shell.client.reserve(estimate=50, unit="TOKENS")
    try:
        yield 1
    finally:
        assert guard.release("at last") is None


COMMITTED = [
    a_priced_generator,
    a_generator_that_recorded_its_spend,
    a_stream_with_a_cost,
    a_stream_that_ends_well,
    a_guard_that_is_committed_at_last,
]
RELEASED = {an_unused_stream: "stream_failed", a_guard_that_is_released_at_last: "at last"}
Suspended = Callable[[Shell], Any]


def lose(shell: Shell, suspended: Suspended) -> None:
    """Let a generator run to its first chunk, and leave it in a cycle."""
    made = suspended(shell)
    next(made)
    Cycle(made)


@pytest.mark.parametrize("suspended", COMMITTED)
def test_spend_is_written_down_and_sent_by_the_background(
    shell: Shell, suspended: Suspended
) -> None:
    """The record is on disk when the collection is over; the answer may take its time."""
    gate = Gate()
    shell.server.on("commitReservation", held(gate))
    lose(shell, suspended)
    assert collect() < AT_ONCE_S
    assert len(shell.journal()) == 1
    assert gate.reached.wait(AT_ONCE_S)
    gate.open()
    assert shell.flush() == 0
    assert shell.server.charged == {"rsv_1": 7}
    assert shell.server.made("releaseReservation") == []
    assert shell.journal() == []


@pytest.mark.parametrize("suspended", RELEASED)
def test_what_was_not_used_is_released_by_the_background(
    shell: Shell, suspended: Suspended
) -> None:
    """For its own reason, not as a guard that was dropped."""
    gate = Gate()
    shell.server.on("releaseReservation", held(gate))
    lose(shell, suspended)
    assert collect() < AT_ONCE_S
    assert gate.reached.wait(AT_ONCE_S)
    gate.open()
    assert shell.server.released == {"rsv_1": RELEASED[suspended]}


def test_unknown_spend_is_logged(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """A chunk was seen and nobody knows what it cost: nothing is sent."""
    lose(shell, guarded)
    collect()
    assert "rsv_1: the action ended early" in caplog.text
    assert (shell.server.charged, shell.server.released) == ({}, {})


@pytest.mark.parametrize("end", ["nothing", "guard.release('in the end')", "guard.commit(7)"])
def test_a_guard_in_a_cycle(shell: Shell, end: str) -> None:
    """It warns and is released, unless a finalizer that is lost with it ends it properly."""

    class Owner(Cycle):
        def __del__(self) -> None:
            if end != "nothing":
                eval(end, {"guard": self.held})

    gate = Gate()
    shell.server.on("releaseReservation", held(gate))
    shell.server.on("commitReservation", held(gate))
    Owner(shell.client.reserve(estimate=50, unit="TOKENS"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert collect() < AT_ONCE_S
    said = [str(one.message) for one in seen if one.category is RuntimeWarning]
    assert len(said) == (end == "nothing")
    assert all("rsv_1 was left without commit or release" in one for one in said)
    assert gate.reached.wait(AT_ONCE_S)
    gate.open()
    assert shell.flush() == 0
    released = {"nothing": "guard_dropped", "guard.release('in the end')": "in the end"}
    assert shell.server.released == ({"rsv_1": released[end]} if end in released else {})
    assert shell.server.charged == ({} if end in released else {"rsv_1": 7})


class Locking:
    """A transport that collects while it holds a lock, as any pool may."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._lock = threading.Lock()
        self.twice = 0

    def send(self, call: Call) -> CyclesResponse:
        if not self._lock.acquire(timeout=AT_ONCE_S):
            self.twice += 1
            raise TimeoutError("this thread has the lock")
        try:
            gc.collect()
            return self._server.receive(call)[0]
        finally:
            self._lock.release()

    def close(self) -> None:
        pass


def test_a_collection_inside_a_pool_does_not_wait_for_it(shell: Shell) -> None:
    """What it finds is sent once the lock is free."""
    transport = Locking(shell.server)
    client = CyclesClient(config(shell.folder), transport=transport)
    shell.client = client
    made = a_priced_generator(shell)
    next(made)
    gc.disable()
    try:
        Cycle(made)
        del made
        client.create_event({"idempotency_key": "k", "actual": {"unit": "TOKENS", "amount": 1}})
    finally:
        gc.enable()
    until(lambda: shell.server.charged == {"rsv_1": 7})
    client.close()
    assert transport.twice == 0


def test_whoever_leaves_a_loop_has_paid(shell: Shell) -> None:
    """Outside of a collection the settlement is over when the generator is gone."""
    for _ in a_priced_generator(shell):
        break
    assert shell.server.charged == {"rsv_1": 7}


def test_without_retries_a_finalizer_asks_itself(shell: Shell) -> None:
    """There is no background that would."""
    shell.configure(retry_enabled=False)
    lose(shell, a_priced_generator)
    collect()
    assert shell.server.charged == {"rsv_1": 7}


def test_a_record_that_is_not_sent_is_asked_again(shell: Shell) -> None:
    """As after any other first attempt."""
    shell.server.on("commitReservation", unreachable(), unreachable())
    lose(shell, a_priced_generator)
    collect()
    until(lambda: shell.server.charged == {"rsv_1": 7})
    assert shell.flush() == 0


# The notion itself.


def test_a_collection_is_this_threads(shell: Shell) -> None:
    """Finalizers know that they run in one; other threads go on as always."""
    seen: list[tuple[str, bool]] = []

    class Lost(Cycle):
        def __del__(self) -> None:
            other = threading.Thread(target=lambda: seen.append(("other", collecting())))
            other.start()
            other.join()
            after(lambda: seen.append(("after", collecting())))
            seen.append(("finalizer", collecting()))

    Lost(None)
    gc.collect()
    assert seen == [("other", False), ("finalizer", True), ("after", False)]
    assert not collecting()


def test_afterwards_everything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if one of them raises; with no collection it runs at once."""
    seen: list[int] = []
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)

    def bad() -> None:
        seen.append(0)
        raise ZeroDivisionError

    class Lost(Cycle):
        def __del__(self) -> None:
            for action in (lambda: seen.append(1), bad, lambda: seen.append(2)):
                after(action)

    Lost(None)
    gc.collect()
    assert [one.exc_type for one in raised] == [ZeroDivisionError]
    assert sorted(seen) == [0, 1, 2]
    after(lambda: seen.append(3))
    assert seen[-1] == 3
