"""The policy `cancel`: an action whose lease is lost does not run on.

The rule that lives here: only a cancellation that we asked for is turned into
`HeartbeatLost`; anybody else's goes on as it is, also when both arrive together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from bursar.client.action import GuardedAction
from bursar.client.held import HeartbeatLost
from bursar.client.shell import Supervisor

T = TypeVar("T")


class TaskWatch:
    """Cancels the task that runs an action when its lease is lost, and says why afterwards."""

    def __init__(self, action: GuardedAction, supervisor: Supervisor) -> None:
        """Watch over no task yet."""
        self._action = action
        self._supervisor = supervisor
        self._strict = action.engine.config.heartbeat_policy == "cancel"
        self._task: asyncio.Task[Any] | None = None
        self._before = 0
        self._asked = False

    def attend(self) -> None:
        """Watch over the task that is running; it runs the action now."""
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0

    async def rest(self) -> None:
        """Stop watching; a cancellation from here arrives here, not in somebody else's code."""
        if self._asked:
            await asyncio.sleep(0)
        self._task = None

    def lost(self) -> None:
        """Cancel the task, if that is the policy; called in its loop."""
        if self._strict and self._task is not None and not self._asked and not self._task.done():
            self._asked = True
            self._task.cancel()

    def overdue(self) -> bool:
        """Return, once, whether the lease was lost while no task ran the action."""
        late = self._strict and not self._asked and self._action.held.lost is not None
        self._asked = self._asked or late
        return late

    def explain(self, error: BaseException | None) -> None:
        """Raise `HeartbeatLost` instead of a cancellation that came from here."""
        failure, ours = self._action.held.lost, self._withdraw()
        if isinstance(error, asyncio.CancelledError) and failure is not None and ours:
            raise HeartbeatLost(failure) from error

    async def finish(self, flow: Coroutine[Any, Any, T]) -> T:
        """Run a settlement to its end; a cancellation that came from here does not end it."""
        if not self._strict:
            return await self._supervisor.finish(flow)
        settling = self._supervisor.start(flow)
        try:
            return await asyncio.shield(settling)
        except asyncio.CancelledError:
            if not self._withdraw():
                raise
            return await asyncio.shield(settling)
        finally:
            self._withdraw()  # the action may have swallowed it

    def _withdraw(self) -> bool:
        """Take our cancellation back; return whether it was the only one."""
        if not self._asked:
            return False
        self._asked = False
        return self._task is None or self._task.uncancel() <= self._before
