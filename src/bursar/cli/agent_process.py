"""The process of `bursar agent run`: the agent works on a thread, this one watches over it.

The rule that lives here: the process ends when its time is over or when it is told to, whatever
the agent's tools, its provider or the reader of its output do. What ends it:

| what happens | the process |
|---|---|
| the agent ends | has its exit code; threads that it left are not waited for |
| the first signal, or the deadline | cancels, and waits for the agent to account for itself |
| the second signal | leaves at once |
| the agent does not end within `LEAVING_S` of that | leaves |
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from bursar.agent import CancelScope, StopReason
from bursar.cli.exits import EXIT_CANCELLED, EXIT_INTERRUPTED, EXIT_TIMEOUT, CommandError

LEAVING_S: Final = 12.0
"""How long an agent may take to account for itself; a ledger that hangs takes nine seconds."""
FLUSH_S: Final = 0.5
"""How long the reader of the output may take, where the process leaves by force."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


Flow = Callable[["Watch"], Coroutine[Any, Any, int]]


def drive(
    flow: Flow,
    timeout_s: float | None,
    *,
    as_json: bool = False,
) -> int:
    """Run an agent on an event loop of its own, and return its exit code.

    Args:
        flow: the agent, which is told who watches over it.
        timeout_s: the agent's own deadline, from now; None is none.
        as_json: whether a process that leaves says why as JSON.

    Raises:
        Exception: what `flow` raised.
    """
    agent = Watch(flow)
    kept = {number: signal.signal(number, agent.signalled) for number in _SIGNALS}
    try:
        ended = agent.wait(timeout_s)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if ended is not None:
        _leave(ended, as_json=as_json)
    if agent.error is not None:
        raise agent.error
    if agent.left_something():
        _leave(CommandError(agent.code, ""), as_json=as_json)
    return agent.code


class Watch:
    """The agent on its thread, and what is heard of it and of the world.

    Attributes:
        scope: fires with the first signal.
        code: with what the agent ended.
        error: what it raised.
    """

    def __init__(self, flow: Flow) -> None:
        """Start the agent."""
        self.scope = CancelScope()
        self.code = 0
        self.error: BaseException | None = None
        self._flow = flow
        self._signal: int | None = None
        # A signal handler may put into this queue whatever the thread it interrupts was doing.
        self._heard: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="bursar-agent", daemon=True)
        self._thread.start()

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C that cancelled the agent."""
        return self._signal == signal.SIGINT

    def signalled(self, number: int, _: object) -> None:
        """Hear of a signal."""
        self._heard.put(number)

    def wait(self, timeout_s: float | None) -> CommandError | None:
        """Wait for the agent to end; return why the process leaves without it, if it does."""
        last = None if timeout_s is None else time.monotonic() + timeout_s + LEAVING_S
        while True:
            left = None if last is None else max(0.0, last - time.monotonic())
            try:
                number = self._heard.get(timeout=left and min(left, threading.TIMEOUT_MAX))
            except queue.Empty:
                return self._stuck()
            if number is None:
                return None
            if self._signal is not None:
                return CommandError(EXIT_INTERRUPTED, "abandoned: a second signal came")
            self._signal = number
            last = time.monotonic() + LEAVING_S
            # On a thread: this one must hear the next signal even if a turn is being saved.
            threading.Thread(target=self.scope.cancel, daemon=True).start()
            print("bursar: cancelling; once more abandons the turn", file=sys.stderr, flush=True)

    def left_something(self) -> bool:
        """Say whether the interpreter would wait for what the agent left."""
        self._thread.join(1.0)
        others = (one for one in threading.enumerate() if one is not threading.main_thread())
        return self._thread.is_alive() or any(not one.daemon for one in others)

    def _stuck(self) -> CommandError:
        said = f"what the agent runs did not stop within {LEAVING_S:g} s, and was left"
        if self._signal is None:
            return CommandError(EXIT_TIMEOUT, f"{StopReason.TIMEOUT}: {said}")
        code = EXIT_INTERRUPTED if self.interrupted else EXIT_CANCELLED
        return CommandError(code, f"{StopReason.CANCELLED}: {said}")

    def _work(self) -> None:
        try:
            asyncio.run(self._told())
        except BaseException as error:  # noqa: BLE001 - raised where the agent is waited for
            if self.error is None:
                self.error = error
        finally:
            self._heard.put(None)

    async def _told(self) -> None:
        """Tell of the agent's end before the loop waits for what does not listen to it."""
        try:
            self.code = await self._flow(self)
        except BaseException as error:  # noqa: BLE001 - raised where the agent is waited for
            self.error = error
        finally:
            self._heard.put(None)


def _leave(error: CommandError, *, as_json: bool) -> NoReturn:
    """End the process now: nobody waits for threads, tasks, answers or readers any more."""

    def say() -> None:
        if str(error):
            said = json.dumps(error.document()) if as_json else f"bursar: {error}"
            print(said, file=sys.stderr, flush=True)
        sys.stdout.flush()

    last = threading.Thread(target=say, daemon=True)
    last.start()
    last.join(FLUSH_S)
    os._exit(error.code)
