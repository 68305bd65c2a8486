"""A process of a user's: `python child.py SHELL STEP JSON`. It prints one JSON line a fact."""

import asyncio
import json
import logging
import sys
import time
from typing import Any

import bursar
from bursar import AsyncCyclesClient, CyclesClient, CyclesConfig
from bursar.client.heartbeat_failure import HeartbeatFailure


def say(what: str, value: object = None) -> None:
    print(json.dumps({what: value}), flush=True)


class Said(logging.Handler):
    """Prints every record of the SDK."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        say("log", f"{record.levelname} {record.getMessage()}")


def failed(failure: HeartbeatFailure) -> None:
    say("heartbeat", [failure.reservation_id, failure.disposition])


def settings(given: dict[str, Any]) -> CyclesConfig:
    defaults = {"api_key": "key-1", "tenant": "acme", "agent": "bot", "retry_initial_delay": 0.05}
    return CyclesConfig(**(defaults | given), on_heartbeat_failure=failed)


def guarded(client: object, options: dict[str, Any], seconds: float) -> Any:
    """Return a guarded function of the shell that the client belongs to."""
    priced = {"actual": 7, "client": client, **options}
    if isinstance(client, CyclesClient):

        @bursar.cycles(10, **priced)
        def act() -> str:
            time.sleep(seconds)
            return "result"

        return act

    @bursar.cycles(10, **priced)
    async def act_async() -> str:
        await asyncio.sleep(seconds)
        return "result"

    return act_async


def attempt(work: Any) -> None:
    try:
        say("returned", work())
    except Exception as error:  # noqa: BLE001 - the test looks at what a user would see
        say("raised", [type(error).__name__, str(error)])


def main() -> None:
    """Do one step: `act` runs a guarded function, `replay` only settles what was left."""
    shell, step, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    options, seconds = given.pop("options", {}), given.pop("seconds", 0.0)
    flush_s = given.pop("flush_s", 15.0)
    for name in ("bursar.client", "bursar.journal"):
        logging.getLogger(name).addHandler(Said())
    if shell == "sync":
        with CyclesClient(settings(given)) as client:
            if step == "act":
                attempt(guarded(client, options, seconds))
            say("left", client.flush(flush_s))
        return

    async def run() -> None:
        async with AsyncCyclesClient(settings(given)) as client:
            if step == "act":
                try:
                    say("returned", await guarded(client, options, seconds)())
                except Exception as error:  # noqa: BLE001 - as above
                    say("raised", [type(error).__name__, str(error)])
            say("left", await client.flush(flush_s))

    asyncio.run(run())


if __name__ == "__main__":
    main()
