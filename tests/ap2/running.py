"""One payment, guarded by either shell of either package."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ap2.mandates import fields
from ap2.scripted import AsyncScriptedClient, ScriptedClient

ACME = {"run_id": "run_a", "tenant": "acme"}


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a guarded payment."""

    guard: Any
    client: ScriptedClient
    raised: BaseException | None
    ran: bool


def run(
    package: Any, case: Any, *, asynchronous: bool, more: Mapping[str, Any] | None = None
) -> Ran:
    """Guard a payment with `package` as the case says."""
    client = (AsyncScriptedClient if asynchronous else ScriptedClient)(case.script)
    if package.__name__ != "bursar.ap2":
        client.official()
    make = package.cycles_guard_payment_async if asynchronous else package.cycles_guard_payment
    given = package.AP2Mandate(**fields(**case.mandate))
    guard = make(client, mandate=given, **{**ACME, **case.options, **(more or {})})
    ran = False

    def body() -> None:
        nonlocal ran
        ran = True
        case.body(guard)

    def blocking() -> None:
        with guard:
            body()

    async def suspending() -> None:
        async with guard:
            await asyncio.sleep(0)
            body()

    raised: BaseException | None = None
    try:
        asyncio.run(suspending()) if asynchronous else blocking()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the case says
        raised = error
    return Ran(guard, client, raised, ran)
