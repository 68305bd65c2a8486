"""How guards, clients and processes end: nothing that was held or spent is forgotten."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import CyclesClient, CyclesConfig, cycles, get_cycles_context
from bursar.client.held import HeartbeatLost
from bursar.testing.scripted import ScriptedLedger
from scenarios.faulty import WITHIN_S, Faulty, refusal, serving

LEASE_MS = 5_000

ENDS = """
import asyncio, sys, time
from bursar import AsyncCyclesClient, CyclesClient, CyclesConfig

shell, url, folder, flush_s = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
config = CyclesConfig(
    url, "key", tenant="acme", journal_dir=folder, read_timeout=60.0,
    retry_initial_delay=30.0, retry_flush_timeout=flush_s,
)

async def main():
    guard = await AsyncCyclesClient(config).reserve(estimate=10)
    await guard.commit(7)

if shell == "async":
    asyncio.run(main())
else:
    CyclesClient(config).reserve(estimate=10).commit(7)
print(time.time(), flush=True)
"""
"""A program that never closes its client; what it left is the interpreter's last duty."""

shells = pytest.mark.parametrize("shell", ["sync", "async"])


def ended(shell: str, server: Faulty, folder: Path, flush_s: float) -> float:
    """Run the program to its end; return how long it took to end, in seconds."""
    command = [sys.executable, "-c", ENDS, shell, server.url, str(folder), str(flush_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    took_s = time.time() - float(done.stdout)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return took_s


def journaled(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.json")]


@shells
def test_exit_asks_again(shell: str, tmp_path: Path) -> None:
    """A commit that waits for its backoff is sent at the end, also when its loop is gone."""
    with serving(Faulty(commit=[refusal(503, "INTERNAL_ERROR")])) as server:
        assert ended(shell, server, tmp_path, 15.0) < 15.0
        first, second = server.of("commit")
        assert first.body == second.body
        assert server.settlements == 1
    assert journaled(tmp_path) == []


@shells
def test_exit_is_bounded(shell: str, tmp_path: Path) -> None:
    """A server that hangs holds the process up for `retry_flush_timeout`, and loses nothing."""
    server = Faulty(commit=[refusal(503, "INTERNAL_ERROR"), lambda asked: server.hang(asked)])
    with serving(server):
        took_s = ended(shell, server, tmp_path, 1.0)
        assert 1.0 <= took_s < 10.0
        assert len(server.of("commit")) == 2
        assert server.settlements == 0
    assert len(journaled(tmp_path)) == 1


def settings(server: Faulty, folder: Path, **given: Any) -> CyclesConfig:
    fast = {"retry_initial_delay": 0.02, "retry_max_delay": 0.1, "retry_flush_timeout": 10.0}
    return CyclesConfig(server.url, "key", tenant="acme", journal_dir=str(folder), **fast | given)


def test_without_retries_the_journal_keeps(tmp_path: Path) -> None:
    """`retry_enabled=False` asks once and keeps the record."""
    with serving(Faulty(commit=[refusal(503, "INTERNAL_ERROR")])) as server:
        with CyclesClient(settings(server, tmp_path, retry_enabled=False)) as client:
            guard = client.reserve(estimate=10)
            assert guard.commit(7) is None
            assert guard.settlement_error is not None
            assert client.flush() == 0
        assert len(server.of("commit")) == 1
    assert len(journaled(tmp_path)) == 1


def test_without_journal_it_is_asked_again(tmp_path: Path) -> None:
    """`journal_enabled=False` writes nothing, and still asks again while it lives."""
    with serving(Faulty(commit=[refusal(503, "INTERNAL_ERROR")])) as server:
        with CyclesClient(settings(server, tmp_path, journal_enabled=False)) as client:
            assert client.reserve(estimate=10).commit(7) is None
            assert client.flush() == 0
        assert server.settlements == 1
        assert len({one.key for one in server.of("commit")}) == 1
    assert list(tmp_path.iterdir()) == []


def test_unwritable_journal_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no record can be written the commit is sent all the same, and a log says so."""
    blocked = tmp_path / "a file, not a folder"
    blocked.touch()
    with serving(Faulty()) as server, CyclesClient(settings(server, blocked)) as client:
        assert client.reserve(estimate=10).commit(7) is not None
        assert server.settlements == 1
    assert "is not in the journal" in caplog.text
    assert "set journal_dir to one that is" in caplog.text


def test_two_clients_ask_once(tmp_path: Path) -> None:
    """A record that one client asks about is not asked about by its twin on the same journal."""
    faults = [refusal(503, "INTERNAL_ERROR")] * 2
    with serving(Faulty(commit=[*faults])) as server:
        slow = settings(server, tmp_path, retry_initial_delay=30.0, retry_max_delay=30.0)
        with CyclesClient(slow) as one, CyclesClient(slow) as twin:
            assert one.reserve(estimate=10).commit(7) is None
            assert len(journaled(tmp_path)) == 1
            assert twin.flush(1.0) == 0
            assert len(server.of("commit")) == 1
            one.flush(1.0)
            assert len(server.of("commit")) == 2


def test_left_guard_is_released_although_the_warning_is_an_error() -> None:
    """`-W error::RuntimeWarning` must not cost the release."""
    with ScriptedLedger(agent="bot") as ledger:
        ledger.budget("1USD")
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            with (
                pytest.raises(RuntimeWarning, match="left without commit or release"),
                ledger.client.reserve(estimate=7),
            ):
                pass
        assert [str(one.status) for one in ledger.reservations()] == ["RELEASED"]


def test_left_async_guard_is_released_although_the_warning_is_an_error() -> None:
    """The same in an event loop."""

    async def leave(ledger: ScriptedLedger) -> None:
        async with await ledger.async_client.reserve(estimate=7):
            pass

    with ScriptedLedger(agent="bot") as ledger:
        ledger.budget("1USD")
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            with pytest.raises(RuntimeWarning, match="left without commit or release"):
                asyncio.run(leave(ledger))
        assert [str(one.status) for one in ledger.reservations()] == ["RELEASED"]


@contextlib.contextmanager
def losing(policy: str) -> Iterator[tuple[ScriptedLedger, threading.Event]]:
    """Give a ledger whose first heartbeat is refused for good, and the moment it was."""
    lost = threading.Event()
    with ScriptedLedger(
        agent="bot", heartbeat_policy=policy, on_heartbeat_failure=lambda _: lost.set()
    ) as ledger:
        ledger.budget("1USD")
        ledger.fail("extend_reservation", 403)
        yield ledger, lost


@pytest.mark.parametrize("policy", ["warn", "fail_on_finalize", "cancel"])
def test_lost_lease_of_a_function(policy: str) -> None:
    """What was spent is committed first; then every policy but `warn` fails the call."""
    with losing(policy) as (ledger, lost):

        @cycles(10, actual=7, ttl_ms=LEASE_MS, client=ledger.client)
        def act() -> bool:
            assert lost.wait(WITHIN_S)
            return get_cycles_context().cancelled.is_set()

        if policy == "warn":
            assert act() is False
        else:
            with pytest.raises(HeartbeatLost, match="client error"):
                act()
        assert ledger.spent() == 7


@pytest.mark.parametrize("policy", ["warn", "fail_on_finalize"])
def test_lost_lease_of_a_coroutine(policy: str) -> None:
    """The same in an event loop, for the policies that let the body finish."""
    with losing(policy) as (ledger, lost):

        @cycles(10, actual=7, ttl_ms=LEASE_MS, client=ledger.async_client)
        async def act() -> str:
            assert await asyncio.to_thread(lost.wait, WITHIN_S)
            return "done"

        if policy == "warn":
            assert asyncio.run(act()) == "done"
        else:
            with pytest.raises(HeartbeatLost, match="client error"):
                asyncio.run(act())
        assert ledger.spent() == 7


@pytest.mark.parametrize("spent", [None, 5])
def test_lost_lease_cancels_a_coroutine(spent: int | None) -> None:
    """`cancel` ends the body; what it said it spent is committed, otherwise it is released."""
    with losing("cancel") as (ledger, _):

        @cycles(10, actual=7, ttl_ms=LEASE_MS, client=ledger.async_client)
        async def act() -> None:
            get_cycles_context().spent = spent
            await asyncio.sleep(WITHIN_S)

        with pytest.raises(HeartbeatLost, match="client error"):
            asyncio.run(act())
        ended = "RELEASED" if spent is None else "COMMITTED"
        assert [str(one.status) for one in ledger.reservations()] == [ended]
        assert ledger.spent() == (spent or 0)
