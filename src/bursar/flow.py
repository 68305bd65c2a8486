"""Driving a coroutine that never suspends, from synchronous code.

The rule that lives here: an operation is written once, as `async def`; whoever calls it
synchronously hands it things that block instead of suspending, so one step finishes it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_sync(flow: Coroutine[Any, Any, T]) -> T:
    """Run `flow` to its end in one step and return its result.

    Raises:
        RuntimeError: the flow suspended, so something in it needs an event loop.
    """
    try:
        flow.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    else:
        raise RuntimeError("flow suspended under the sync shell")
    finally:
        flow.close()
