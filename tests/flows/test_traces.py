"""Both shells do the same things in the same order: one table of scenarios, compared by trace.

A trace is what a flow did to the world (calls with their bodies, journal writes, discards, keys
drawn) and what it said (log records), in order. Not in it: looking at clocks, waiting, and the
look at the journal that a timer makes at a moment of its own.
"""

import contextlib
import copy
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar import Action, Amount, CyclesError, cycles, get_cycles_context
from bursar.client.calls import Call
from bursar.client.held import HeartbeatLost
from bursar.client.journal import Record
from bursar.client.response import CyclesResponse
from client.scripted import Fault, answer, deny, lost, refuse, unreachable
from client.shells import Shell

TEN, COST = 10, 7
Act = Callable[[Shell], Any]


class Traced:
    """An `Io` that notes what it is asked to do, and has it done by another one."""

    def __init__(self, inner: Any, trace: list[tuple[Any, ...]]) -> None:
        self._inner = inner
        self._trace = trace
        self._keys = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, call: Call) -> CyclesResponse:
        """Note the call with its body, but for how long the work took."""
        body = copy.deepcopy(call.body or {})
        body.get("metrics", {}).pop("latency_ms", None)
        self._trace.append(("send", call.operation, call.path, body, call.headers))
        response = await self._inner.send(call)
        self._trace.append(("got", response.status, response.error_code))
        return response

    def write(self, record: Record) -> Awaitable[None]:
        """Note which of the two bodies is next, and whether the server wants to be left alone."""
        waits = record.not_before_ms is not None
        self._trace.append(("write", record.reservation_id, record.mode, record.key, waits))
        return self._inner.write(record)

    async def discard(self, record: Record) -> None:
        """Note it."""
        self._trace.append(("discard", record.reservation_id, record.key))
        await self._inner.discard(record)

    async def set_aside(self, record: Record) -> None:
        """Note it."""
        self._trace.append(("set aside", record.reservation_id, record.key))
        await self._inner.set_aside(record)

    def new_key(self) -> str:
        """Draw keys that are the same in every run."""
        key = f"key-{next(self._keys)}"
        self._trace.append(("key", key))
        return key


class Said(logging.Handler):
    """Puts log records into the trace."""

    def __init__(self, trace: list[tuple[Any, ...]], folder: Path) -> None:
        super().__init__()
        self._trace = trace
        self._folder = str(folder)

    def emit(self, record: logging.LogRecord) -> None:
        """Note level and text."""
        said = record.getMessage().replace(self._folder, "FOLDER")
        self._trace.append(("log", record.name, record.levelname, said))


def decorated(work: Callable[[], Any], actual: Any = COST, **options: Any) -> Act:
    """Guard a function and call it; what it raises is part of the story."""

    def act(shell: Shell) -> Any:
        guard = cycles(TEN, actual=actual, client=shell.client, **options)
        return shell.call(guard, work)

    return act


def nothing() -> None:
    """Work that works."""


def fails() -> None:
    raise LookupError("the user's own")


def fails_having_spent() -> None:
    context = get_cycles_context()
    assert context is not None
    context.record_spend(3)
    raise LookupError("the user's own")


def measures() -> None:
    context = get_cycles_context()
    assert context is not None
    context.commit_metadata = {"run": 42}


def committed(shell: Shell) -> Any:
    guard = shell.run(shell.client.reserve(estimate=TEN, idempotency_key="mine"))
    with contextlib.suppress(CyclesError):
        shell.run(guard.extend(5_000))
    return shell.run(guard.commit(COST, metadata={"a": 1}))


def released(shell: Shell) -> Any:
    return shell.run(shell.run(shell.client.reserve(estimate=TEN)).release("changed my mind"))


def repeated(shell: Shell) -> Any:
    """A key whose reservation is over."""
    committed(shell)
    return shell.run(shell.client.reserve(estimate=TEN, idempotency_key="mine"))


def disposed(shell: Shell) -> Any:
    handle = shell.run(shell.client.reserve_for_stream({"estimate": TEN}))
    shell.run(handle.dispose()) if shell.asynchronous else handle.dispose()


def streamed(raises: bool, chunks: int) -> Act:
    def act(shell: Shell) -> Any:
        made = shell.client.stream_reservation(
            action=Action(kind="k", name="n"),
            estimate=Amount(unit="TOKENS", amount=TEN),
            cost_fn=lambda usage: usage.tokens_output,
            metadata={"b": 2},
        )

        def use(stream: Any) -> None:
            for _ in range(chunks):
                stream.usage.add_output_tokens(1)
            if raises:
                fails()

        async def looping() -> None:
            async with made as stream:
                use(stream)

        def blocking() -> None:
            with made as stream:
                use(stream)

        shell.run(looping() if shell.asynchronous else blocking())

    return act


def left(shell: Shell) -> Any:
    """A guard whose block ends without commit or release."""
    made = shell.client.reserve(estimate=TEN)

    async def looping() -> None:
        async with await made:
            pass

    def blocking() -> None:
        with made:
            pass

    with pytest.warns(RuntimeWarning, match="left without commit or release"):
        shell.run(looping() if shell.asynchronous else blocking())


OVERLOADED = refuse(503, "INTERNAL_ERROR")
COMMITS: dict[str, list[Fault]] = {
    "settles": [],
    "is lost": [lost()],
    "is lost twice": [lost(), unreachable()],
    "meets an error twice": [OVERLOADED, OVERLOADED],
    "has expired": [refuse(410, "RESERVATION_EXPIRED", trace_id="0" * 32)],
    "is settled already": [refuse(409, "RESERVATION_FINALIZED")],
    "has another body": [refuse(409, "IDEMPOTENCY_MISMATCH")],
    "is rejected": [refuse(400, "UNIT_MISMATCH")],
    "is limited": [refuse(429, "LIMIT_EXCEEDED", retry_after_s=2)],
    "is limited without a time": [refuse(429)],
    "is not authorised": [refuse(401, "UNAUTHORIZED")],
    "meets a proxy": [refuse(400)],
    "meets a code nobody knows": [refuse(409, "FUTURE_CODE")],
    "is redirected": [refuse(302)],
    "is accepted only": [answer(202, {})],
    "is answered with half": [answer(200, {"status": "COMMITTED"})],
}
CREATES: dict[str, list[Fault]] = {
    "is lost": [lost()],
    "is lost twice": [lost(), unreachable()],
    "is denied": [deny("BUDGET_EXCEEDED")],
    "is refused": [refuse(409, "BUDGET_EXCEEDED")],
    "is answered with half": [answer(200, {})],
    "is limited": [refuse(429, retry_after_s=1)],
}
Script = dict[str, list[Fault]]
SCENARIOS: dict[str, tuple[Act, Script]] = {
    **{f"commit {k}": (decorated(nothing), {"commitReservation": v}) for k, v in COMMITS.items()},
    **{f"reserve {k}": (decorated(nothing), {"createReservation": v}) for k, v in CREATES.items()},
    "event is lost": (
        decorated(nothing),
        {"commitReservation": [refuse(410)], "createEvent": [lost()]},
    ),
    "event is rejected": (
        decorated(nothing),
        {"commitReservation": [refuse(410)], "createEvent": [refuse(400, "UNIT_MISMATCH")]},
    ),
    "work fails": (decorated(fails), {}),
    "work fails, release is refused": (decorated(fails), {"releaseReservation": [OVERLOADED]}),
    "work fails, release is lost": (decorated(fails), {"releaseReservation": [lost()]}),
    "work fails having spent": (decorated(fails_having_spent), {}),
    "cost cannot be computed": (decorated(nothing, actual=lambda _: 1 // 0), {}),
    "cost is none": (decorated(nothing, actual=lambda _: -1), {}),
    "context speaks": (decorated(measures), {}),
    "dry run": (decorated(nothing, dry_run=True), {}),
    "guard commits": (committed, {}),
    "guard commits, extend is refused": (committed, {"extendReservation": [refuse(404)]}),
    "guard commits, answer is lost": (committed, {"commitReservation": [lost()]}),
    "guard releases": (released, {}),
    "guard releases, answer is lost": (released, {"releaseReservation": [lost()]}),
    "guard is left": (left, {}),
    "key is over": (repeated, {}),
    "handle is disposed": (disposed, {}),
    "stream ends": (streamed(False, 3), {}),
    "stream ends unused": (streamed(False, 0), {}),
    "stream fails": (streamed(True, 3), {}),
    "stream fails unused": (streamed(True, 0), {}),
}


def traced(asynchronous: bool, folder: Path, act: Act, script: Script) -> list[tuple[Any, ...]]:
    """Run a scenario in one shell and return what it did and said."""
    trace: list[tuple[Any, ...]] = []
    # Nothing is asked again but by the two flushes below, so the order is the flows' own.
    never = {"retry_initial_delay": 600.0, "retry_max_delay": 600.0, "retry_sweep_interval": 0}
    shell = Shell(asynchronous, folder, **never)
    engine = shell.client._engine
    io = Traced(engine.io, trace)
    shell.client._engine = replace(engine, io=io)
    engine.settler.io = io
    for operation, faults in script.items():
        shell.server.on(operation, *faults)
    said, log = Said(trace, folder), logging.getLogger("bursar")
    log.addHandler(said)
    try:
        try:
            act(shell)
        except (CyclesError, HeartbeatLost, LookupError) as error:
            trace.append(("raised", type(error).__name__, str(error)))
        for _ in range(2):
            pending = shell.run(shell.client.flush(5.0))  # which itself adds to the trace
            trace.append(("pending", pending))
        trace.append(("left", len(shell.journal())))
    finally:
        log.removeHandler(said)
        with contextlib.suppress(CyclesError):
            shell.end()
    return trace


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_shells_tell_the_same_story(name: str, tmp_path: Path) -> None:
    """Calls, journal, keys, logs, exceptions: in the same order, to the letter."""
    act, script = SCENARIOS[name]
    blocking = traced(False, tmp_path / "sync", act, script)
    looping = traced(True, tmp_path / "async", act, script)
    assert blocking == looping
    assert {entry[0] for entry in blocking} >= {"key", "send", "got", "pending", "left"}


def test_the_traces_tell_scenarios_apart(tmp_path: Path) -> None:
    """Otherwise two shells could agree about nothing; each kind of entry is somewhere."""
    told = {
        name: tuple(map(repr, traced(False, tmp_path / str(number), *SCENARIOS[name])))
        for number, name in enumerate(SCENARIOS)
    }
    assert len(set(told.values())) == len(SCENARIOS)
    kinds = {entry.split("'")[1] for story in told.values() for entry in story}
    expected = {"key", "send", "got", "write", "discard", "set aside", "log", "raised"}
    assert kinds == expected | {"pending", "left"}


def test_drift_is_found(tmp_path: Path) -> None:
    """A shell that logs one line more is another story."""
    act, script = SCENARIOS["guard commits"]

    def drifts(shell: Shell) -> Any:
        if shell.asynchronous:
            logging.getLogger("bursar.client").warning("only here")
        return act(shell)

    stories = [traced(kind, tmp_path / str(kind), drifts, script) for kind in (False, True)]
    assert stories[0] != stories[1]
