"""Progress on standard error, and the pace and the stop of a replay.

The rule that lives here: progress is for people who wait. On a terminal it is a bar; in a
log it is a line a second; beside `--json` in a log it is nothing. Standard output stays the
report's.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from bursar.cli.replay.trace import TICKS_PER_MS

LINE_EVERY_S = 1.0
Advance = Callable[[int], None]


@contextlib.contextmanager
def progress(label: str, total: int, *, quiet: bool, what: str = "requests") -> Iterator[Advance]:
    """Show how far a long step has come.

    Args:
        label: what is done, e.g. `replaying`.
        total: how many of them there are.
        quiet: show nothing where there is no terminal.
        what: is counted.

    Yields:
        A function to call with the number done so far.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.update(task, completed=done)
    elif quiet:
        yield lambda done: None
    else:
        say = functools.partial(print, file=sys.stderr, flush=True)
        yield lines(label, total, say, what=what)


def lines(
    label: str,
    total: int,
    write: Callable[[str], None],
    now: Callable[[], float] = time.monotonic,
    what: str = "requests",
) -> Advance:
    """Return a function that writes a line for every second that has passed."""
    began = last = now()

    def advance(done: int) -> None:
        nonlocal last
        at = now()
        if at - last >= LINE_EVERY_S:
            last = at
            rate = done / (at - began)
            write(f"{label}: {done:,} of {total:,} {what} ({rate:,.0f}/s)")

    return advance


class Pacer:
    """Lets trace time pass at a multiple of real time; it sleeps and decides nothing else."""

    def __init__(
        self,
        speedup: float,
        origin_ticks: int,
        wait: Callable[[float], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start now, at `origin_ticks`.

        Args:
            speedup: seconds of trace time per second.
            origin_ticks: the trace time that passes now.
            wait: sleeps for at most so many seconds; it may return early.
            now: monotonic seconds.
        """
        self._speedup = speedup
        self._origin_ticks = origin_ticks
        self._wait = wait
        self._now = now
        self._began = now()

    def remaining_s(self, ticks: int) -> float:
        """Return how long it is until a trace time comes; not above 0 if it has come."""
        trace_s = (ticks - self._origin_ticks) / (1_000 * TICKS_PER_MS)
        return self._began + trace_s / self._speedup - self._now()

    def until(self, ticks: int, stopped: Callable[[], bool]) -> None:
        """Sleep until a trace time comes or the replay is stopped, a second at a time."""
        while not stopped() and (left := self.remaining_s(ticks)) > 0:
            self._wait(min(left, 1.0))


@contextlib.contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one interrupts as usual.

    A replay that stops between two batches can still say exactly what it did.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(signum: int, frame: object) -> None:
        del signum, frame
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
