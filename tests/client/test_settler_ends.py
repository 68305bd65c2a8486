"""Known spend when a process forks, its loop ends, its disk is full, or its nets are down."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import CyclesClient, CyclesConfig, cycles
from bursar.client.journal import Identity, Journal
from bursar.client.settler import Settler
from client.scripted import refuse, unreachable
from client.shells import Shell, shells, until
from e2e.mounts import resize, tmpfs
from scenarios.faulty import WITHIN_S, Faulty, refusal, serving

EITHER = pytest.mark.parametrize("kind", ["sync", "async"])


def journaled(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.json"))


def settings(server: Faulty, folder: Path, **given: Any) -> CyclesConfig:
    fast = {"retry_initial_delay": 0.02, "retry_max_delay": 0.1, "retry_flush_timeout": 10.0}
    return CyclesConfig(server.url, "key", tenant="acme", journal_dir=str(folder), **fast | given)


# A forked child.

FORKS = """
import os, sys, time
from bursar import CyclesClient, CyclesConfig, cycles

config = CyclesConfig(
    sys.argv[1], "key", tenant="acme", journal_dir=sys.argv[2],
    retry_initial_delay=1.0, retry_max_delay=1.0, retry_flush_timeout=5.0,
)
client = CyclesClient(config)
assert client.reserve(estimate=10).commit(7) is None  # answered with 503: asked again in 1 s
child = os.fork()
if child == 0:
    # Its own work settles on its own connections; what is pending is its parent's.
    assert client.reserve(estimate=10).commit(5) is not None
    assert client.flush(0.3) == 0, "the child asks about what its parent asks about"
    print("child", flush=True)
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("parent", flush=True)
assert client.flush(5.0) == 0
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_leaves_its_parents_records_alone(tmp_path: Path) -> None:
    """Pending commits are sent by the parent alone, once each, at the child's end too."""
    with serving(Faulty(commit=[refusal(503, "INTERNAL_ERROR")])) as server:
        command = [sys.executable, "-c", FORKS, server.url, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "child\nparent\n"), done.stderr
        sent = [(one.reservation_id, one.body["actual"]["amount"]) for one in server.of("commit")]
        assert sent == [("rsv/1", 7), ("rsv/2", 5), ("rsv/1", 7)]
        assert server.of("release") == []
        assert server.settlements == 2
    assert journaled(tmp_path) == []


# A loop that ends, and a process that is killed, while a commit is on its way.

LEAVES = """
import asyncio, sys
from bursar import AsyncCyclesClient, CyclesConfig, cycles

config = CyclesConfig(
    sys.argv[1], "key", tenant="acme", journal_dir=sys.argv[2], read_timeout=60.0,
    retry_initial_delay=30.0, retry_flush_timeout=float(sys.argv[3]),
)
client = AsyncCyclesClient(config)

@cycles(10, actual=7, client=client)
async def act():
    return None

async def main():
    task = asyncio.create_task(act())
    await asyncio.to_thread(sys.stdin.readline)  # until the commit is at the server
    # The program ends without a close: asyncio.run cancels the task.

asyncio.run(main())
print("loop ended", flush=True)
"""


def leaves(server: Faulty, folder: Path, flush_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LEAVES, server.url, str(folder), str(flush_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_loop_that_ends_with_a_commit_on_its_way_loses_nothing(tmp_path: Path) -> None:
    """The record stays when nobody answers, and the next process sends it under its key."""
    server = Faulty(commit=[lambda asked: server.hang(asked), lambda asked: server.hang(asked)])
    with serving(server):
        process = leaves(server, tmp_path, 0.3)
        first = server.wait_for("commit")
        began = time.monotonic()
        _, said = process.communicate("go\n", timeout=WITHIN_S)
        assert process.returncode == 0, said
        assert time.monotonic() - began < 10.0
        assert "Traceback" not in said, said
        assert len(journaled(tmp_path)) == 1
        assert server.of("release") == []
    with serving(Faulty()) as server:
        # The identity of a journal is its server's address, so the next one has the same.
        left = next(tmp_path.rglob("*.json"))
        moved = left.read_text("utf-8").replace(first_url(left), server.url)
        config = settings(server, tmp_path / "next")
        target = folder_of(config)
        target.mkdir(parents=True)
        (target / left.name).write_text(moved, "utf-8")
        with CyclesClient(config) as client:
            assert client.flush(5.0) == 0
        (again,) = server.of("commit")
        assert again.body == first.body
    assert journaled(tmp_path / "next") == []


def first_url(record: Path) -> str:
    return str(json.loads(record.read_text("utf-8"))["base_url"])


def folder_of(config: CyclesConfig) -> Path:
    identity = Identity.of(config.base_url, config.api_key, config.tenant)
    return Journal(config.journal_dir, identity).directory


def test_a_loop_that_ends_has_its_commit_finished_by_the_process(tmp_path: Path) -> None:
    """Where the server does answer, the end of the interpreter asks again, same key."""
    server = Faulty(commit=[lambda asked: server.hang(asked)])
    with serving(server):
        process = leaves(server, tmp_path, 10.0)
        server.wait_for("commit")
        _, said = process.communicate("go\n", timeout=WITHIN_S)
        assert process.returncode == 0, said
        first, second = server.of("commit")
        assert first.body == second.body
        assert server.settlements == 1
    assert journaled(tmp_path) == []


@EITHER
def test_a_kill_while_the_commit_is_on_its_way_loses_nothing(kind: str, tmp_path: Path) -> None:
    """The record was on disk before the commit left."""
    server = Faulty(commit=[lambda asked: server.hang(asked)])
    script = LEAVES if kind == "async" else KILLED
    with serving(server):
        command = [sys.executable, "-c", script, server.url, str(tmp_path), "1"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        server.wait_for("commit")
        process.send_signal(signal.SIGKILL)
        process.wait(WITHIN_S)
        assert process.stdin is not None
        process.stdin.close()
        assert len(journaled(tmp_path)) == 1


KILLED = """
import sys
from bursar import CyclesClient, CyclesConfig, cycles

config = CyclesConfig(
    sys.argv[1], "key", tenant="acme", journal_dir=sys.argv[2], read_timeout=60.0
)
CyclesClient(config).reserve(estimate=10).commit(7)
"""


# The safety nets, one by one and together, in both shells.


@pytest.fixture(params=["sync", "async"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    yield from shells(request.param == "async", tmp_path / "journal")


# retries, journal -> commits sent, records left, what the log promises
NETS = [
    (True, True, 2, 0, "it is kept and asked again"),
    (False, True, 1, 1, "it is kept in the journal"),
    (True, False, 2, 0, "it is kept and asked again"),
    (False, False, 1, 0, "it is not asked again: there is neither a retry nor a journal"),
]


@pytest.mark.parametrize(("retries", "journal", "sent", "left", "said"), NETS)
def test_each_safety_net_holds_by_itself(
    either: Shell,
    retries: bool,
    journal: bool,
    sent: int,
    left: int,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is promised in the log is what happens, and never a release."""
    either.configure(retry_enabled=retries, journal_enabled=journal)
    either.server.on("commitReservation", refuse(503, "INTERNAL_ERROR"))
    guard = either.run(either.client.reserve(estimate=10))
    assert either.run(guard.commit(7)) is None
    assert guard.settlement_error is not None
    assert either.flush() == 0
    bodies = either.server.bodies("commitReservation")
    assert len(bodies) == sent
    assert bodies == [bodies[0]] * sent
    assert len(either.journal()) == left
    assert either.server.made("releaseReservation") == []
    assert said in caplog.text


def test_a_full_disk_under_the_journal_is_told_and_costs_nothing(
    either: Shell, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The commit is sent all the same; what was on disk stays; with space it is whole again."""
    with tmpfs(tmp_path / "small", 64 * 1024) as disk:
        either.configure(journal_dir=str(disk / "journal"))
        either.server.on("commitReservation", *[unreachable()] * 9)
        guard = either.run(either.client.reserve(estimate=10))
        assert either.run(guard.commit(1)) is None
        before = [(one.name, one.read_bytes()) for one in disk.rglob("*.json")]
        assert len(before) == 1
        with pytest.raises(OSError, match="No space left"):
            (disk / "filler").write_bytes(b"x" * 1_000_000)
        guard = either.run(either.client.reserve(estimate=10))
        assert either.run(guard.commit(2)) is None
        assert [(one.name, one.read_bytes()) for one in disk.rglob("*.json")] == before
        assert list(disk.rglob("*.tmp")) == []
        assert "is not in the journal (cannot write the journal in " in caplog.text
        assert "No space left on device; make the folder writable, or set journal_dir" in (
            caplog.text
        )
        resize(disk, 4 * 1024 * 1024)
        guard = either.run(either.client.reserve(estimate=10))
        either.run(guard.commit(3))
        assert either.flush() == 0
        assert sorted(either.server.charged.values()) == [1, 2, 3]
        assert list(disk.rglob("*.json")) == []


# The first look at the journal, which is for what others left.


async def nothing(_: Any) -> None:
    """Do not look."""


@EITHER
def test_a_late_look_finds_nothing_of_its_own(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left to the next client is not asked again by this one, whenever it looks."""
    monkeypatch.setattr("bursar.client.settler._Look.__call__", nothing)  # `flush` is the first
    for shell in shells(kind == "async", tmp_path):
        shell.configure(retry_sweep_interval=0.0)
        shell.server.on("commitReservation", refuse(409, "FROM_THE_FUTURE"))
        shell.call(cycles(7, client=shell.client), lambda: 1)
        for _ in range(2):
            assert shell.flush() == 0
        assert (len(shell.server.made("commitReservation")), len(shell.journal())) == (1, 1)
        shell.run(shell.client.aclose() if shell.asynchronous else shell.client.close())
        shell.configure()
        assert shell.flush() == 0
        assert (shell.server.charged, shell.journal()) == ({"rsv_1": 7}, [])


def test_what_is_settled_during_a_look_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read, then settled and given up by its owner, then taken: the journal knows."""
    monkeypatch.setattr(Settler, "watch", lambda _: None)
    for shell in shells(False, tmp_path):
        io = shell.client._engine.settler.io
        load = io.load

        async def slow(load: Any = load, shell: Shell = shell) -> Any:
            found = await load()
            until(lambda: not shell.client._engine.settler.pending)
            return found

        monkeypatch.setattr(io, "load", slow)
        shell.server.on("commitReservation", refuse(503, "INTERNAL_ERROR"))
        shell.call(cycles(7, client=shell.client), lambda: 1)
        assert len(shell.journal()) == 1
        time.sleep(0.002)  # a look takes what is older than itself
        assert shell.flush() == 0
        assert len(shell.server.made("commitReservation")) == 2
        assert shell.server.charged == {"rsv_1": 7}
