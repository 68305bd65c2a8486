"""Waiting, for those who may be told to stop.

The rule that lives here: nobody sleeps past a stop.
"""

from __future__ import annotations

import asyncio


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait for so long, or until the event is set if that is sooner."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
