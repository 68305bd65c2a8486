"""What is still open when nobody holds it any more: dropped guards, and the process's end.

The rule that lives here: losing a guard costs a warning and one release in the background;
ending the process costs at most `retry_flush_timeout`, shared by everything that is open.
What does not finish by then is safe: a commit is in the journal, a lease ends by itself.
A warning points at the line of the program that made the guard, wherever it was lost.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bursar.client import settler, timers, transport
from bursar.client.collecting import after

if TYPE_CHECKING:
    from bursar.client.held import Held

DROPPED = "guard_dropped"
LOOK_S = 0.01
_NOT_THE_USERS = tuple(
    str(folder) + os.sep
    for folder in (Path(__file__).parents[1], Path(os.__file__).parent / "asyncio")
)
_open: dict[int, tuple[Held, Maker]] = {}
_departing: set[int] = set()
_lock = threading.RLock()  # a finalizer may come in while it is held


class Maker(NamedTuple):
    """What a guard is called, and the line of the program that made it."""

    name: str
    file: str
    line: int
    module: str


def opened(held: Held, name: str) -> Maker:
    """Remember a guard that its owner has to settle, and return who made it."""
    timers.shared().ready()
    maker = _maker(name)
    with _lock:
        _open[id(held)] = (held, maker)
    return maker


def _maker(name: str) -> Maker:
    """Return the innermost line of this thread that is neither ours nor the event loop's."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        if frame.f_back is None:
            return Maker(name, "sys", 1, "sys")  # as `warnings` says it
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "<unknown>")
    return Maker(name, frame.f_code.co_filename, frame.f_lineno, module)


def warn(held: Held, maker: Maker) -> None:
    """Say that a guard was left unsettled; a `ResourceWarning` is not shown by default."""
    warnings.warn_explicit(
        f"{maker.name} {held.reservation_id} was left without commit or release; releasing it",
        RuntimeWarning,
        maker.file,
        maker.line,
        maker.module,
    )


def dropped(held: Held, maker: Maker) -> None:
    """Let go of a guard that was lost: warn and release it in the background if it is open."""
    with _lock:
        _open.pop(id(held), None)
    after(partial(_let_go, held, maker))  # a generator that is lost with it may still commit it


def _let_go(held: Held, maker: Maker) -> None:
    if held.inherited or not held.claim():
        return
    if not held.hand_over():
        release_soon(held, DROPPED)  # before the warning, which a filter may turn into an error
        warn(held, maker)


def release_soon(held: Held, reason: str) -> None:
    """Release on a thread of the process: the loop that opened a guard may be gone."""
    with _lock:
        _departing.add(id(held))

    async def depart() -> None:
        try:
            await held.give_back(reason, held.engine.at_exit())
        finally:
            with _lock:
                _departing.discard(id(held))

    timers.shared().start(0.0, depart)


def finish() -> None:
    """Release what is open, give settlements their last chance, and close connections."""
    try:
        _finish()
    finally:
        transport.close_all()


def _finish() -> None:
    with _lock:
        left = list(_open.values())
    for held, maker in left:
        dropped(held, maker)
    settlers = [one for one in settler.live() if one.pending]
    if not _departing and not settlers:
        return
    bounds = [one.config.retry_flush_timeout for one in settlers]
    bounds += [held.engine.config.retry_flush_timeout for held, _ in left]
    for one in settlers:
        one.hand_over()
    _wait(settlers, max(bounds, default=1.0))


def _wait(settlers: list[settler.Settler], timeout_s: float) -> None:
    """Ask now, and wait for settlements and releases under one deadline."""
    give_up_ms = time.monotonic() * 1_000 + timeout_s * 1_000
    for one in settlers:
        one.hurry()
    while any(one.waits(give_up_ms) for one in settlers) or _departing:
        if time.monotonic() * 1_000 >= give_up_ms:
            return
        time.sleep(LOOK_S)


def flush_pending_commits(timeout: float | None = None) -> int:
    """Wait until the known spend of every synchronous client is accounted for.

    Args:
        timeout: seconds, shared by all of them; None is their longest `retry_flush_timeout`.

    Returns:
        How many settlements are still unknown; the journal keeps them. An asynchronous
        client is flushed by its own `await client.flush()`.
    """
    settlers = [one for one in settler.live() if one.blocking]
    longest = max((one.config.retry_flush_timeout for one in settlers), default=0.0)
    _wait(settlers, longest if timeout is None else timeout)
    return sum(one.pending for one in settlers)


def _forget() -> None:
    """A forked child owns none of its parent's guards."""
    global _lock
    _lock = threading.RLock()  # a finalizer may come in while it is held
    _open.clear()
    _departing.clear()


atexit.register(finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
