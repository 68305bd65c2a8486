"""What a guard adds to a function that does nothing, beside HTTP, next to the official client.

The rule that lives here: the two SDKs take turns in the same run, on the same HTTP library
from memory (`memory`), with the journal off and with it on. Everything that an SDK does to a
call is in the figure; the quickest round is shown as well as the one in the middle, because
what another process takes away says nothing about a guard.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import runcycles
from memory import AsyncHttp, Http, Server

import bursar
from bursar.client.transport import AsyncHttpTransport, HttpTransport

URL, KEY = "http://localhost:7878", "cyc_live_bench"
SDKS = ("bursar", "runcycles")
NOOP_COST = 100
LEASE_MS = 60_000
Round = Callable[[], float]


def measure(folder: Path, calls: int, rounds: int) -> dict[str, Any]:
    """Measure a guard of each SDK, sync and async, without a journal and with one."""
    found: dict[str, Any] = {}
    for name, journal, share in (("off", None, 1), ("on", folder / "journals", 10)):
        each = max(1, calls // share)
        found[f"journal_{name}"] = {
            "sync": _turns([_sync(sdk, journal, each) for sdk in SDKS], rounds),
            "async": asyncio.run(_async_turns(journal, each, rounds)),
        }
    return found


def _sync(sdk: str, journal: Path | None, calls: int) -> Round:
    """Return how to measure one round of a synchronous guard, in microseconds per call."""
    http: Any = Http(Server(LEASE_MS, 0))
    if sdk == "bursar":
        config = bursar.CyclesConfig(**_settings(sdk, journal))
        client: Any = bursar.CyclesClient(config, transport=HttpTransport(config, http))
        guard: Any = bursar.cycles
    else:
        client = runcycles.CyclesClient(runcycles.CyclesConfig(**_settings(sdk, journal)))
        client._http.close()
        client._http, guard = http, runcycles.cycles

    def bare() -> None:
        return None

    guarded = guard(NOOP_COST, client=client, action_kind="llm.completion", action_name="bench")(
        bare
    )

    def round_us() -> float:
        return _each_us(guarded, calls) - _each_us(bare, calls)

    return round_us


def _each_us(function: Callable[[], object], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) / calls * 1e6


def _turns(sides: list[Round], rounds: int) -> dict[str, Any]:
    """Let both SDKs take turns; the first round, which imports and opens, is not counted."""
    took = [[side() for side in sides] for _ in range(rounds + 1)][1:]
    return _figures(took)


async def _async_turns(journal: Path | None, calls: int, rounds: int) -> dict[str, Any]:
    """Do the same with coroutine functions, on one event loop."""
    sides = [_async(sdk, journal, calls) for sdk in SDKS]
    took = [[await side() for side in sides] for _ in range(rounds + 1)][1:]
    return _figures(took)


def _async(sdk: str, journal: Path | None, calls: int) -> Callable[[], Any]:
    """Return how to measure one round of an asynchronous guard."""
    http: Any = AsyncHttp(Server(LEASE_MS, 0))
    if sdk == "bursar":
        config = bursar.CyclesConfig(**_settings(sdk, journal))
        client: Any = bursar.AsyncCyclesClient(config, transport=AsyncHttpTransport(config, http))
        guard: Any = bursar.cycles
    else:
        client = runcycles.AsyncCyclesClient(runcycles.CyclesConfig(**_settings(sdk, journal)))
        client._http, guard = http, runcycles.cycles

    async def bare() -> None:
        return None

    guarded = guard(NOOP_COST, client=client, action_kind="llm.completion", action_name="bench")(
        bare
    )

    async def each_us(function: Callable[[], Any]) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            await function()
        return (time.perf_counter() - began) / calls * 1e6

    async def round_us() -> float:
        return await each_us(guarded) - await each_us(bare)

    return round_us


def _settings(sdk: str, journal: Path | None) -> dict[str, Any]:
    return {
        "base_url": URL,
        "api_key": KEY,
        "tenant": "bench",
        "agent": "bot",
        "journal_enabled": journal is not None,
        "journal_dir": str(journal / sdk) if journal is not None else None,
    }


def _figures(took: list[list[float]]) -> dict[str, Any]:
    """Return of each SDK the quickest round and the one in the middle, and their ratio."""
    columns = dict(zip(SDKS, zip(*took, strict=True), strict=True))
    found: dict[str, Any] = {
        sdk: {"min_us": round(min(rounds), 1), "median_us": round(median(rounds), 1)}
        for sdk, rounds in columns.items()
    }
    found["ratio"] = round(median(ours / theirs for ours, theirs in took), 3)
    return found
