"""One way to say what guarded code does, and two shells that run it: blocking and a loop.

The rule that lives here: a test that takes `shell` says it once and it holds for both clients.
"""

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bursar.client.aio import AsyncCyclesClient
from bursar.client.config import CyclesConfig
from bursar.client.sync import CyclesClient
from client.scripted import ScriptedServer

WITHIN_S = 10.0


def until(true: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    """Wait for something that happens on another thread."""
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.001)


def config(folder: Path, **more: Any) -> CyclesConfig:
    """Return settings that retry soon, with a journal of their own."""
    soon: dict[str, Any] = {
        "tenant": "acme",
        "journal_dir": str(folder),
        "retry_initial_delay": 0.01,
        "retry_max_delay": 0.05,
        "retry_flush_timeout": 0.2,
    }
    return CyclesConfig("http://scripted", "key", **{**soon, **more})


class Shell:
    """A scripted server and a client of one kind."""

    def __init__(self, asynchronous: bool, folder: Path, **settings: Any) -> None:
        self.asynchronous = asynchronous
        self.server = ScriptedServer()
        self.folder = folder
        self.client: Any
        self._runner = asyncio.Runner()
        self._clients: list[Any] = []
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        """Use a client with other settings from here on."""
        made = config(self.folder, **settings)
        if self.asynchronous:
            self.client = AsyncCyclesClient(made, transport=self.server.async_transport())
        else:
            self.client = CyclesClient(made, transport=self.server.transport())
        self._clients.append(self.client)

    def run(self, value: Any) -> Any:
        """Return a value, or what an awaitable comes to."""

        async def awaited() -> Any:
            return await value

        return self._runner.run(awaited()) if inspect.isawaitable(value) else value

    def function(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work` as a function of the kind of the shell."""

        async def waits(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return work(*args, **kwargs)

        return waits if self.asynchronous else work

    def call(self, decorate: Callable[..., Any], work: Callable[..., Any], *args: Any) -> Any:
        """Guard `work` with `decorate`, call it and return what it returned."""
        return self.run(decorate(self.function(work))(*args))

    def generator(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a generator function as one of the kind of the shell."""

        async def generates(*args: Any, **kwargs: Any) -> Any:
            inner = work(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, inner)
            while True:
                try:
                    await asyncio.sleep(0)
                    chunk = step()
                except StopIteration:
                    return
                try:
                    step = functools.partial(inner.send, (yield chunk))
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - `work` answers it
                    step = functools.partial(inner.throw, error)

        return generates if self.asynchronous else work

    def next(self, made: Any) -> Any:
        """Return the next chunk of a generator, or raise StopIteration."""
        if not self.asynchronous:
            return next(made)
        return self._stepped(made.__anext__())

    def send(self, made: Any, value: Any) -> Any:
        """Send a value into a generator."""
        return self._stepped(made.asend(value)) if self.asynchronous else made.send(value)

    def throw(self, made: Any, error: BaseException) -> Any:
        """Throw an exception into a generator."""
        return self._stepped(made.athrow(error)) if self.asynchronous else made.throw(error)

    def close(self, made: Any) -> None:
        """Close a generator."""
        self.run(made.aclose() if self.asynchronous else made.close())

    def _stepped(self, step: Any) -> Any:
        try:
            return self.run(step)
        except StopAsyncIteration:
            return "ended"

    def drain(self, made: Any) -> list[Any]:
        """Return every chunk of a generator."""

        async def drained() -> list[Any]:
            return [chunk async for chunk in made]

        return list(self.run(drained())) if self.asynchronous else list(made)

    def flush(self) -> int:
        """Wait until everything is accounted for."""
        return int(self.run(self.client.flush(5.0)))

    def journal(self) -> list[Path]:
        """Return the records that the journal holds."""
        return sorted(self.folder.rglob("*.json"))

    def end(self) -> None:
        """Close every client."""
        for client in self._clients:
            self.run(client.aclose() if self.asynchronous else client.close())
        self._runner.close()


def shells(asynchronous: bool, folder: Path) -> Iterator[Shell]:
    """Yield a shell and end it."""
    made = Shell(asynchronous, folder)
    yield made
    made.end()
