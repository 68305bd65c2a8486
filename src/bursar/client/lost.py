"""The policy `cancel`: an action whose lease is lost does not run on.

The rule that lives here: only a cancellation that we asked for is turned into
`HeartbeatLost`; anybody else's goes on as it is.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bursar.client.action import GuardedAction
from bursar.client.held import HeartbeatLost


class TaskWatch:
    """Cancels a task when its lease is lost, and says why afterwards."""

    def __init__(self, action: GuardedAction, task: asyncio.Task[Any] | None) -> None:
        """Watch over the task that runs the action."""
        self._action = action
        self._task = task
        self._asked = False

    def lost(self) -> None:
        """Cancel the task, if that is the policy; called in its loop."""
        policy = self._action.engine.config.heartbeat_policy
        if policy == "cancel" and self._task is not None and not self._task.done():
            self._asked = True
            self._task.cancel()

    def explain(self, error: BaseException | None) -> None:
        """Raise `HeartbeatLost` instead of a cancellation that came from here."""
        if self._asked and isinstance(error, asyncio.CancelledError) and self._task is not None:
            self._task.uncancel()
            failure = self._action.held.lost
            if failure is not None:
                raise HeartbeatLost(failure) from error
