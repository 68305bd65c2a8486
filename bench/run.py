"""`make bench`: how fast the ledger is, as a share of what its HTTP stack can do at all.

One run, with every commit flushed to disk: a fixed answer over HTTP (the ceiling), reserve
alone and with its commit, on one shared budget and on independent ones, the same without
HTTP, and reserve on a store that already holds a million reservations; then what the SDK
adds to a call (`sdk`), what the turn loop adds to a model (`agent`), what closed payments cost
those that are due (`payments`), and, but for a quick run, what became of a thousand payments
with mishaps on a real chain (`payments_e2e`). Measurements that are compared take turns. In the
end the ledger that the load left behind is audited. `--only` measures a part of it alone.
"""

import argparse
import contextlib
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import embedded
import http_load
import payments_due
import payments_e2e
import report
import sdk
from http_load import FIXED, LEAVES, PAIR, RESERVE, SHARED, Figure, Load
from served import Served, provision, serving

import agent
from bursar import __version__
from bursar.ledger.audit import audit
from bursar.storage.sqlite.store import SqliteStore

QUICK = ("ledger", "sdk", "agent", "payments")
PARTS = (*QUICK, "payments_e2e")  # which takes minutes, and a chain that only Node.js brings
CLIENTS = (1, 10, 50, 200)
SECONDS, SECONDS_MAX = 1.0, 5.0
FLUSHES = 50
GUARDS, GUARDS_QUICK = 10_000, 1_000


class Plan(NamedTuple):
    """How much is measured: seconds for each measurement, rounds, what is stored, live guards."""

    seconds: float
    rounds: int
    stored: int
    clients: tuple[int, ...]
    guards: int


def main() -> int:
    """Measure and print; return 1 if a request failed or the ledger does not balance."""
    parser = argparse.ArgumentParser(description="Measure the ledger on this machine.")
    parser.add_argument("--seconds", type=float, help=f"of each measurement ({SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help="one short round, a small store")
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="measure this part alone; repeat for more"
    )
    parser.add_argument("--folder", type=Path, help="where the ledger is made: the disk to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    seconds = options.seconds if options.seconds is not None else 0.3 if options.quick else SECONDS
    if not 0 < seconds <= SECONDS_MAX:
        parser.error(f"--seconds must be above 0 and at most {SECONDS_MAX:g}")
    plan = Plan(seconds, 3, 1_000_000, CLIENTS, GUARDS)
    if options.quick:
        plan = Plan(seconds, 1, 10_000, (1, report.CLIENTS), GUARDS_QUICK)
    with tempfile.TemporaryDirectory(prefix="bursar-bench-", dir=options.folder) as folder:
        document = _measure(Path(folder), plan, options.only or (QUICK if options.quick else PARTS))
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        report.show(document)
    sound = "ledger" not in document or not document["ledger"]["findings"]
    return 0 if sound and not document["errors"] else 1


def _measure(folder: Path, plan: Plan, parts: Collection[str]) -> dict[str, Any]:
    quick = plan.guards < GUARDS
    found: dict[str, Any] = {"machine": _machine(folder), "plan": plan._asdict()}
    aims: list[tuple[str, float, str, float]] = []
    if "ledger" in parts:
        found |= _ledger(folder, plan)
        aims += report.aims(found["figures"], found["stored"])
    if "sdk" in parts:
        _say("sdk", f"{plan.guards:,} live guards")
        found["sdk"] = sdk.measure(folder, plan.guards, quick=quick)
        aims += sdk.aims(found["sdk"])
    if "agent" in parts:
        _say("agent", f"{agent.LOOPS:,} loops at once")
        found["agent"] = agent.measure(quick=quick)
        aims += agent.aims(found["agent"])
    if "payments" in parts:
        _say("payments", "open and closed ones")
        found["payments"] = payments_due.measure(folder, quick=quick)
        aims += payments_due.aims(found["payments"])
    if "payments_e2e" in parts:
        _say("payments on a chain", f"{payments_e2e.PAYMENTS:,} with mishaps")
        found["payments_e2e"] = payments_e2e.measure(folder)
        aims += payments_e2e.aims(found["payments_e2e"])
    return found | {"aims": report.checked(aims), "errors": found.pop("errors", 0)}


def _ledger(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure the ledger, over HTTP and embedded, and audit what the load has left."""
    store = folder / "ledger.db"
    document: dict[str, Any] = {}
    rounds = _over_http(store, plan)
    for figures in rounds:
        for clients in plan.clients:
            _say(embedded.PAIR, f"clients: {clients}")
            figures.append(embedded.run(store, clients, plan.seconds))
    document["figures"] = report.figures(rounds)
    document["stored"] = _large(folder, plan)
    opened = SqliteStore.open(store, create=False)
    found = audit(opened.reader)
    opened.close()
    document["ledger"] = {"entries": found.entries, "findings": list(found.findings)}
    document["errors"] = document["stored"]["errors"]
    document["errors"] += sum(row["errors"] for row in document["figures"])
    return document


def _over_http(store: Path, plan: Plan) -> list[list[Figure]]:
    """Measure every load in every round, against the ceiling at as many clients."""
    kinds = [(FIXED, SHARED), *((name, kind) for name in (RESERVE, PAIR) for kind in _BUDGETS)]
    loads = [Load(*kind, clients) for clients in plan.clients for kind in kinds]
    with serving(store) as server:
        key = provision(server.url, max(plan.clients))
        return [
            [_one(load, server, key, plan.seconds, number) for load in loads]
            for number in range(1, plan.rounds + 1)
        ]


_BUDGETS = (SHARED, LEAVES)


def _large(folder: Path, plan: Plan) -> dict[str, Any]:
    """Measure reserve on a store that holds many, in turns with one that holds none."""
    large, new = folder / "large.db", folder / "new.db"
    with serving(large) as server:
        key = provision(server.url, 0)
    _say("filling a store", f"{plan.stored:,} reservations")
    fill_s = embedded.fill(large, plan.stored)
    load = Load(RESERVE, SHARED, report.CLIENTS)
    pairs: list[tuple[Figure, Figure]] = []
    with contextlib.ExitStack() as stack:
        server, other = (stack.enter_context(serving(path)) for path in (large, new))
        other_key = provision(other.url, 0)
        for number in range(1, plan.rounds + 1):
            many = _one(load, server, key, plan.seconds, number)
            pairs.append((many, _one(load, other, other_key, plan.seconds, number)))
        memory = server.memory_bytes()
    return {
        "reservations": plan.stored,
        "fill_s": round(fill_s, 1),
        "requests_per_s": round(median(many.requests_per_s for many, _ in pairs), 1),
        "ratio": round(median(one.requests_per_s / two.requests_per_s for one, two in pairs), 4),
        "errors": sum(figure.errors for pair in pairs for figure in pair),
        "start_up_ms": round(server.start_up_ms, 1),
        "start_up_new_ms": round(other.start_up_ms, 1),
        "memory_bytes": memory,
        "file_bytes": large.stat().st_size,
    }


def _one(load: Load, server: Served, key: str, seconds: float, number: int) -> Figure:
    _say(load.name, f"{load.budget}, clients: {load.clients}, round {number}")
    return http_load.run(load, server.port, key, seconds)


def _say(what: str, more: str) -> None:
    print(f"{what}, {more}", file=sys.stderr, flush=True)


def _machine(folder: Path) -> dict[str, object]:
    """Return what the figures depend on, a flush of this disk included."""
    took: list[float] = []
    with (folder / "flush").open("wb", buffering=0) as file:
        for _ in range(FLUSHES):
            file.write(bytes(4_096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "bursar": __version__,
        "flush_p50_ms": round(1_000 * median(took), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
