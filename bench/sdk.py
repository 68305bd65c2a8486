"""What the SDK adds to a call, beside HTTP: a guard's time and memory, imports, the journal.

The rule that lives here: answers come from memory (`memory`), so that a figure is the SDK's own
time. What is compared takes turns in the same run, and a heartbeat is late when it leaves after
the margin that its lease keeps for two whole attempts was used up.
"""

import asyncio
import gc
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from statistics import median
from typing import Any

import guards
from guards import KEY, NOOP_COST, SDKS, URL
from memory import AsyncHttp, Server

from bursar import AsyncCyclesClient, CyclesConfig
from bursar.client.heartbeat import MARGIN_MS_MIN
from bursar.client.journal import Identity, Journal
from bursar.client.journal_format import Record
from bursar.client.transport import AsyncHttpTransport, deadline_s

CALLS, CALLS_QUICK = 300, 50
ROUNDS, ROUNDS_QUICK = 25, 3
IMPORTS, IMPORTS_QUICK = 15, 1
WRITES, WRITES_QUICK = 200, 20
MEASURED_GUARDS = 1_000
BEAT_AFTER_S, BEAT_AFTER_QUICK_S = 6.0, 1.5
_MADE = "; sdk.CyclesClient(sdk.CyclesConfig(base_url='http://localhost:7878', api_key='key'))"
_IMPORT = (
    "import time; began = time.perf_counter(); import {sdk} as sdk; sdk.CyclesClient{made};"
    " print(time.perf_counter() - began)"
)


def measure(folder: Path, live: int, *, quick: bool) -> dict[str, Any]:
    """Measure everything; `live` guards at once on one event loop."""
    imports = IMPORTS_QUICK if quick else IMPORTS
    calls, rounds = (CALLS_QUICK, ROUNDS_QUICK) if quick else (CALLS, ROUNDS)
    beat_after_s = BEAT_AFTER_QUICK_S if quick else BEAT_AFTER_S
    return {
        "guard": guards.measure(folder, calls, rounds),
        "import": _imports(imports, ""),
        "import_and_client": _imports(imports, _MADE),
        "live": asyncio.run(_live(live, beat_after_s)),
        "journal": _journal(folder, WRITES_QUICK if quick else WRITES),
    }


def aims(sdk: dict[str, Any]) -> list[tuple[str, float, str, float]]:
    """Return each aim of the SDK: name, what was measured, sign and limit."""
    return [
        ("guard beside HTTP, in us", _least_us(sdk, "sync"), "<=", 60),
        ("async guard beside HTTP, in us", _least_us(sdk, "async"), "<=", 100),
        ("import, by the official client", sdk["import"]["ratio"], "<=", 0.6),
        ("late heartbeats of live guards", sdk["live"]["late"], "<=", 0),
    ]


def show(sdk: dict[str, Any]) -> None:
    """Print what has no aim as well."""
    for journal, kinds in sdk["guard"].items():
        for kind, took in kinds.items():
            ours, theirs = (took[one] for one in SDKS)
            print(
                f"{kind} guard, {journal.replace('_', ' ')}: {ours['min_us']:.0f} us "
                f"(median {ours['median_us']:.0f}), official client {theirs['min_us']:.0f} us "
                f"(median {theirs['median_us']:.0f}), ratio {took['ratio']:.2f}"
            )
    live, journal, both = sdk["live"], sdk["journal"], sdk["import_and_client"]
    print(
        f"SDK: import "
        f"{sdk['import']['bursar_ms']:.0f} ms (official {sdk['import']['runcycles_ms']:.0f} ms), "
        f"with a client {both['bursar_ms']:.0f} ms ({both['runcycles_ms']:.0f} ms)\n"
        f"{live['guards']:,} live guards: {live['memory_bytes']:,} bytes each, {live['beats']:,} "
        f"heartbeats, {live['late']} late, {live['without_beat']} without one, the latest "
        f"{live['latest_ms']:.0f} ms after its time; journal {journal['writes_per_s']:,.0f} "
        f"writes/s ({journal['write_p50_ms']:.2f} ms, a bare flush {journal['flush_p50_ms']:.2f})\n"
    )


def _least_us(sdk: dict[str, Any], kind: str) -> float:
    """Return the quickest round of a guard without a journal: what the machine took is noise."""
    found: float = sdk["guard"]["journal_off"][kind]["bursar"]["min_us"]
    return found


def _imports(times: int, made: str) -> dict[str, float]:
    """Return the time of an import in fresh interpreters that take turns, in milliseconds."""
    took: dict[str, list[float]] = {sdk: [] for sdk in SDKS}
    for number in range(times + 1):
        for sdk in SDKS:
            code = _IMPORT.format(sdk=sdk, made=made)
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            if number:  # the first one of each fills the disk's cache
                took[sdk].append(float(done.stdout) * 1_000)
    ours, theirs = (median(took[sdk]) for sdk in SDKS)
    return {
        "bursar_ms": round(ours, 1),
        "runcycles_ms": round(theirs, 1),
        "ratio": round(ours / theirs, 3),
    }


async def _live(guards: int, beat_after_s: float) -> dict[str, Any]:
    """Open many guards on this loop, let each beat, and look when the beats came."""
    config = _config()
    margin_ms = MARGIN_MS_MIN
    lease_ms = int(2_000 * deadline_s(config) + margin_ms + 1_000 * beat_after_s)
    server = Server(lease_ms, 1_000 * beat_after_s)
    http: Any = AsyncHttp(server)
    client = AsyncCyclesClient(config, transport=AsyncHttpTransport(config, http))
    measured = min(guards, MEASURED_GUARDS)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    held = [await _open(client, lease_ms) for _ in range(measured)]
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held += [await _open(client, lease_ms) for _ in range(guards - measured)]
    await asyncio.sleep(beat_after_s + margin_ms / 1_000 + 0.5)
    late_ms, beats = list(server.late_ms), dict(server.beats)
    for guard in held:
        await guard.release()
    await client.aclose()
    return {
        "guards": guards,
        "memory_bytes": (after - before) // measured,
        "beats": len(late_ms),
        "without_beat": guards - len(beats),
        "late": sum(late > margin_ms for late in late_ms) + guards - len(beats),
        "latest_ms": round(max(late_ms, default=0.0), 1),
    }


async def _open(client: AsyncCyclesClient, lease_ms: int) -> Any:
    return await client.reserve(estimate=NOOP_COST, ttl_ms=lease_ms)


def _journal(folder: Path, writes: int) -> dict[str, float]:
    """Write records and flush bare files of their size in turns."""
    journal = Journal(folder / "journal", Identity.of(URL, KEY, "bench"))
    record_s: list[float] = []
    flush_s: list[float] = []
    for number in range(writes):
        record = _record(number)
        began = time.perf_counter()
        journal.write(record)
        record_s.append(time.perf_counter() - began)
        flush_s.append(_flush_s(folder / "flushed"))
    return {
        "writes_per_s": round(len(record_s) / sum(record_s), 1),
        "write_p50_ms": round(1_000 * median(record_s), 3),
        "flush_p50_ms": round(1_000 * median(flush_s), 3),
    }


def _flush_s(path: Path) -> float:
    with path.open("wb", buffering=0) as file:
        file.write(bytes(512))
        began = time.perf_counter()
        os.fsync(file.fileno())
        return time.perf_counter() - began


def _record(number: int) -> Record:
    body = {
        "idempotency_key": f"commit-{number}",
        "actual": {"unit": "USD_MICROCENTS", "amount": NOOP_COST},
    }
    event = {
        **body,
        "subject": {"tenant": "bench"},
        "action": {"kind": "llm.completion", "name": "bench"},
    }
    return Record(f"rsv_{number}", URL, "commit", body, event, number)


def _config() -> CyclesConfig:
    """Return a client's settings: no journal, which is measured alone, and short timeouts."""
    short = {"connect_timeout": 0.001, "read_timeout": 0.001}
    return CyclesConfig(URL, KEY, tenant="bench", journal_enabled=False, **short)
