"""Guards that nobody ended: left, dropped, held to the end of a process, or copied by a fork."""

import asyncio
import contextlib
import gc
import linecache
import multiprocessing
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bursar import CyclesClient, CyclesConfig, cycles, reserve_for_stream
from bursar.client.exceptions import CyclesError
from bursar.client.models import Action, Amount
from client import shells
from client.scripted import Gate, held, refuse
from client.shells import Shell, until
from scenarios.faulty import Faulty, serving

WITHIN_S = 20.0


def reserved(shell: Shell, **options: Any) -> Any:
    return shell.run(shell.client.reserve(estimate=50, unit="TOKENS", **options))


def handle(shell: Shell, **options: Any) -> Any:
    return shell.run(reserve_for_stream(client=shell.client, estimate=50, unit="TOKENS", **options))


both = pytest.mark.parametrize("make", [reserved, handle])
Maker = Callable[..., Any]


def leave(shell: Shell, guard: Any, error: Exception | None = None) -> None:
    """Enter the block of a guard and leave it."""

    def fails() -> None:
        if error is not None:
            raise error

    async def left() -> None:
        async with guard:
            fails()

    if shell.asynchronous:
        shell.run(left())
        return
    with guard:
        fails()


@contextlib.contextmanager
def warned(*ids: str) -> Iterator[None]:
    """See that each of these reservations, and no other, is warned of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    found = [one for one in seen if one.category is RuntimeWarning]
    assert {one.filename for one in found} <= {__file__, shells.__file__}, "not at the SDK"
    said = [str(one.message) for one in found]
    assert sorted(one.split()[1] for one in said) == sorted(ids)
    assert all("was left without commit or release; releasing it" in one for one in said)


@both
def test_a_guard_that_is_left_is_released(shell: Shell, make: Maker) -> None:
    """Once, before the block is over, and it says so."""
    guard = make(shell)
    with warned("rsv_1"):
        leave(shell, guard)
        assert shell.server.released == {"rsv_1": "guard_dropped"}
    assert guard.finalized
    del guard
    gc.collect()
    assert len(shell.server.made("releaseReservation")) == 1


def test_the_warning_points_at_the_line_that_made_the_guard(shell: Shell) -> None:
    """Its author finds the mistake; a line of the SDK or of the event loop would be no help."""

    async def looping() -> None:
        async with await shell.client.reserve(estimate=50, unit="TOKENS"):
            pass  # where the async guard is left

    def blocking() -> None:
        with shell.client.reserve(estimate=50, unit="TOKENS"):
            pass  # where the guard is left

    with pytest.warns(RuntimeWarning, match="left without commit or release") as seen:
        shell.run(looping()) if shell.asynchronous else blocking()
    (warning,) = seen
    assert warning.filename == __file__
    assert "shell.client.reserve(" in linecache.getline(warning.filename, warning.lineno)


@both
def test_the_error_of_a_block_goes_on(shell: Shell, make: Maker) -> None:
    """The release of what it left behind does not hide it."""
    with warned("rsv_1"), pytest.raises(KeyError, match="mine"):
        leave(shell, make(shell), KeyError("mine"))
    assert shell.server.released == {"rsv_1": "guard_dropped"}


@both
def test_a_guard_that_was_ended_is_left_in_peace(shell: Shell, make: Maker) -> None:
    """No warning, no second call."""
    with warned():
        guard = make(shell)
        shell.run(guard.commit(7))
        leave(shell, guard)
        other = make(shell)
        shell.run(other.release())
        del guard, other
        gc.collect()
    assert (len(shell.server.charged), len(shell.server.released)) == (1, 1)


@both
@pytest.mark.parametrize("cyclic", [False, True])
def test_a_guard_that_is_dropped_is_released(shell: Shell, make: Maker, cyclic: bool) -> None:
    """By a thread of the process: whoever dropped it does not wait for the answer."""
    gate = Gate()
    shell.server.on("releaseReservation", held(gate))
    guard = make(shell)
    began = time.monotonic()
    with warned("rsv_1"):
        if cyclic:
            guard.me = guard
        del guard
        gc.collect()
    assert time.monotonic() - began < 5.0
    assert gate.reached.wait(WITHIN_S)
    gate.open()
    assert shell.server.released == {"rsv_1": "guard_dropped"}


@both
def test_a_dropped_guard_is_released_without_its_loop(tmp_path: Path, make: Maker) -> None:
    """The loop that opened it may be closed."""
    shell = Shell(True, tmp_path / "journal")
    guard = make(shell)
    shell.end()
    with warned("rsv_1"):
        del guard
        gc.collect()
    until(lambda: shell.server.released == {"rsv_1": "guard_dropped"})


def commit(shell: Shell, guard: Any) -> None:
    shell.run(guard.commit(7))


def release(shell: Shell, guard: Any) -> None:
    shell.run(guard.release())


def dispose(shell: Shell, guard: Any) -> None:
    guard.dispose()


def left(shell: Shell, guard: Any) -> None:
    with warned("rsv_1"):
        leave(shell, guard)


@pytest.mark.parametrize("end", [commit, release, dispose, left, None])
def test_every_end_stops_the_heartbeat(shell: Shell, end: Maker | None) -> None:
    """A lease that nobody holds is not extended."""
    shell.server.remaining = False  # then it beats at once, and twice a second
    guard = handle(shell, ttl_ms=1_000)

    async def beats() -> None:
        await asyncio.sleep(0.05)

    if shell.asynchronous:
        shell.run(beats())
    until(lambda: shell.server.made("extendReservation"))
    if end is None:
        with warned("rsv_1"):
            del guard
            gc.collect()
        until(lambda: shell.server.released)
    else:
        end(shell, guard)
    count = len(shell.server.made("extendReservation"))
    shell.run(asyncio.sleep(0.7)) if shell.asynchronous else time.sleep(0.7)
    assert len(shell.server.made("extendReservation")) == count


def test_a_guard_is_beaten_for_while_it_is_held(shell: Shell) -> None:
    """The other half of the claim above."""
    shell.server.remaining = False
    guard = handle(shell, ttl_ms=1_000)
    shell.run(asyncio.sleep(0.7)) if shell.asynchronous else time.sleep(0.7)
    assert len(shell.server.made("extendReservation")) >= 2
    shell.run(guard.release())


# The first terminal call wins, whoever makes it.

TERMINAL = {"commitReservation", "releaseReservation"}
ROUNDS = 25


def settled(shell: Shell) -> dict[str, list[str]]:
    """Return the terminal calls of each reservation."""
    found: dict[str, list[str]] = {}
    for call in shell.server.calls:
        if call.operation in TERMINAL:
            found.setdefault(str(call.reservation_id), []).append(call.operation)
    return found


def test_threads_race_for_the_end_of_a_handle(tmp_path: Path) -> None:
    """One of them ends it; commits that come late raise, releases and disposals do nothing."""
    shell = Shell(False, tmp_path / "journal")
    ends = [lambda one: one.commit(7), lambda one: one.release(), lambda one: one.dispose()] * 3
    with ThreadPoolExecutor(len(ends)) as pool:
        for number in range(ROUNDS):
            guard = handle(shell)
            together = threading.Barrier(len(ends))

            def run(end: Callable[[Any], Any], guard: Any = guard, at: Any = together) -> str:
                at.wait()
                try:
                    return "nothing" if end(guard) is None else "ended"
                except CyclesError as error:
                    return str(error)

            seen = list(pool.map(run, random.Random(number).sample(ends, len(ends))))
            sent = settled(shell).get(guard.reservation_id, [])
            assert len(sent) <= 1  # none, if it was disposed of
            assert seen.count("ended") == len(sent)
            late = seen.count("StreamReservation already finalized")
            assert late == (2 if "commitReservation" in sent else 3)
    assert shell.server.charged or shell.server.released
    shell.end()


def test_tasks_race_for_the_end_of_a_handle(tmp_path: Path) -> None:
    """The same in an event loop, where the answers may come in any order."""
    shell = Shell(True, tmp_path / "journal")

    async def race(number: int) -> None:
        guard = await reserve_for_stream(client=shell.client, estimate=50, unit="TOKENS")
        ends = [lambda: guard.commit(7), lambda: guard.commit(8), lambda: guard.release()] * 3
        random.Random(number).shuffle(ends)
        seen = await asyncio.gather(*(end() for end in ends), return_exceptions=True)
        raised = [one for one in seen if isinstance(one, BaseException)]
        assert all(type(one) is CyclesError for one in raised)
        (sent,) = settled(shell)[guard.reservation_id]
        assert len(raised) == (5 if sent == "commitReservation" else 6)

    async def main() -> None:
        for number in range(ROUNDS):
            await race(number)

    shell.run(main())
    shell.end()


def test_a_guard_is_committed_by_one_thread_only(tmp_path: Path) -> None:
    """The others learn that it is too late."""
    shell = Shell(False, tmp_path / "journal")
    guard = reserved(shell)
    together = threading.Barrier(8)

    def run(amount: int) -> bool:
        together.wait()
        try:
            return guard.commit(amount) is not None
        except CyclesError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(run, range(8))) == 1
    assert len(shell.server.made("commitReservation")) == 1
    shell.end()


# The end of a process.

HELD_TO_THE_END = """
    import asyncio, sys, time
    from bursar import AsyncCyclesClient, CyclesClient, CyclesConfig

    shell, url, folder = sys.argv[1:4]
    config = CyclesConfig(url, "key", tenant="acme", journal_dir=folder, read_timeout=60.0,
                          retry_flush_timeout=1.0)

    async def main():
        return await AsyncCyclesClient(config).reserve(estimate=10)

    if shell == "async":
        guard = asyncio.run(main())
    else:
        guard = CyclesClient(config).reserve(estimate=10)
    print(time.time(), flush=True)
    {how}
"""
ENDS = {"the last line": "pass", "sys.exit": "sys.exit(3)", "an error": "1 / 0"}


def to_the_end(server: Faulty, shell: str, how: str, folder: Path) -> tuple[float, str]:
    """Run a program that never ends its guard; return how long its end took and what it said."""
    program = textwrap.dedent(HELD_TO_THE_END).format(how=how)
    command = [sys.executable, "-c", program, shell, server.url]
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    return time.time() - float(done.stdout), done.stderr


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_the_interpreter_releases(kind: str, how: str, tmp_path: Path) -> None:
    """A guard in a global variable is released with a warning, whatever ended the program."""
    with serving(Faulty()) as server:
        took_s, said = to_the_end(server, kind, ENDS[how], tmp_path)
        (request,) = server.of("release")
        assert request.body["reason"] == "guard_dropped"
        assert took_s < 10.0
    assert "RuntimeWarning: ReservationGuard rsv/1 was left without commit" in said
    assert said.count("Traceback") == (how == "an error")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_that_hangs_does_not_hold_the_end_up(kind: str, tmp_path: Path) -> None:
    """The release gets `retry_flush_timeout`; then its lease gives back what it holds."""
    server = Faulty(release=[lambda asked: server.hang(asked)])
    with serving(server):
        took_s, said = to_the_end(server, kind, "pass", tmp_path)
    assert 1.0 <= took_s < 10.0
    assert "Traceback" not in said


# A fork copies guards; they are its parent's.


@pytest.fixture
def forks() -> Any:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    return multiprocessing.get_context("fork")


def in_a_child(work: Callable[[], object]) -> int:
    """Run `work` in a fork of this process; return its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


ACTION = Action(kind="llm", name="m")
TEN = Amount(unit="USD_MICROCENTS", amount=10)


class Copied(Exception):
    """Ends a child's copy of a block."""


def test_a_childs_copy_says_nothing(forks: Any, tmp_path: Path) -> None:
    """Neither its end nor its blocks' and functions' ends settle what the parent holds."""
    with serving(Faulty()) as server:
        config = CyclesConfig(server.url, "key", tenant="acme", journal_dir=str(tmp_path))
        with CyclesClient(config) as client:
            guard: Any = client.reserve(estimate=10)
            holder = [guard]
            del guard

            def drops() -> None:
                holder.clear()
                gc.collect()
                time.sleep(0.3)

            assert in_a_child(drops) == 0

            def blocks() -> None:
                with holder[0]:
                    pass

            assert in_a_child(blocks) == 0
            assert server.story() == []

            @cycles(10, actual=7, client=client)
            def work(how: str) -> int:
                def child() -> None:
                    raise Copied

                children.append(os.fork())
                if children[-1] == 0:
                    if how == "raises":
                        child()
                    return 0
                return 1

            children: list[int] = []
            for how in ("raises", "returns"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    try:
                        work(how)
                    except Copied:
                        os._exit(0)
                if children[-1] == 0:
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(children[-1], 0)[1]) == 0
            assert server.story() == ["commit", "commit"]

            with client.stream_reservation(action=ACTION, estimate=TEN) as stream:
                stream.usage.set_actual_cost(5)

                def exits() -> None:
                    stream.__exit__(None, None, None)

                assert in_a_child(exits) == 0
                assert server.story() == ["commit", "commit"]
            holder[0].commit(3)
    assert server.story() == ["commit"] * 4
    assert list(tmp_path.rglob("*.json")) == []


def test_a_child_may_settle_by_hand(forks: Any, tmp_path: Path) -> None:
    """A guard that was handed to a worker on purpose is the worker's."""
    with serving(Faulty()) as server:
        config = CyclesConfig(server.url, "key", tenant="acme", journal_dir=str(tmp_path))
        with CyclesClient(config) as client:
            guard = client.reserve(estimate=10)

            def twice() -> None:
                assert guard.commit(7) is not None
                for end in (guard.release, lambda: guard.commit(7)):
                    with pytest.raises(CyclesError, match="already finalized"):
                        end()

            assert in_a_child(twice) == 0
            assert server.story() == ["commit"]
            guard.commit(7)
    assert server.settlements == 1


def test_a_commit_that_is_refused_is_not_released_when_dropped(shell: Shell) -> None:
    """It was ended: what is spent stays spent."""
    shell.server.on("commitReservation", refuse(409, "BUDGET_EXCEEDED"))
    guard = reserved(shell)
    with pytest.raises(CyclesError):
        shell.run(guard.commit(7))
    with warned():
        del guard
        gc.collect()
    time.sleep(0.05)
    assert shell.server.made("releaseReservation") == []
