"""What a flow may do to the world: the whole of its input and output.

The rule that lives here: a flow is an `async def` that touches nothing but an `Io`. Under
the async shell its methods suspend; under the synchronous one they block and never
suspend, so that one step finishes the flow (`bursar.flow.run_sync`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from bursar.client.calls import Call
from bursar.client.journal import Record
from bursar.client.response import CyclesResponse

Tick = Callable[[], Coroutine[Any, Any, float | None]]
"""One step of something periodic: seconds until the next one, or None when it is over."""


class Io(Protocol):
    """Sending, remembering, time and randomness."""

    async def send(self, call: Call) -> CyclesResponse:
        """Send a call and return what came back; a failure to reach the server is an answer.

        Never raises `Exception`. The whole attempt, however slowly a body drips in, is
        bounded by the configured timeouts.
        """
        ...

    def write(self, record: Record) -> Awaitable[None]:
        """Begin to put a record into the journal; it is on disk when the answer is awaited.

        It is written even if nobody awaits the answer, or stops to: whoever knows of a spend
        may be cancelled at any moment.

        Raises:
            JournalError: when awaited: it is not on disk.
        """
        ...

    async def discard(self, record: Record) -> None:
        """Take a record out of the journal, if the journal still holds this very one."""
        ...

    async def set_aside(self, record: Record) -> None:
        """Take a record that was rejected out of the journal, and keep it for the operator."""
        ...

    async def load(self) -> list[Record]:
        """Return every record of this identity that the journal holds."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def now_ms(self) -> int:
        """Return epoch milliseconds of the wall clock, for what outlives the process."""
        ...

    def monotonic_ms(self) -> int:
        """Return milliseconds of a clock that only measures how long something took."""
        ...

    def new_key(self) -> str:
        """Return a fresh idempotency key."""
        ...


class Handle(Protocol):
    """Something started that can be stopped."""

    @property
    def alive(self) -> bool:
        """Whether a step may still come: it was not cancelled, and its loop is not closed."""
        ...

    def cancel(self) -> None:
        """Stop it; a step that is running may finish, and no other follows."""
        ...


class Timers(Protocol):
    """Where periodic flows run: one place for all guards of a process or event loop."""

    def start(self, delay_s: float, tick: Tick) -> Handle:
        """Run `tick` after a delay, and again for as long as it names a next delay."""
        ...
