"""`make bench`: how fast the ledger is, as a share of what its HTTP stack can do at all.

One ledger file with every commit flushed to disk, one run, at 1, 10 and 50 clients on one
shared budget: a fixed answer over HTTP (the ceiling), reserve and commit over HTTP, and
the same without HTTP. In the end the ledger that the load left behind is audited.
"""

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedded
import http_load
import served
from http_load import Figure, Load

from bursar import __version__
from bursar.ledger.audit import audit
from bursar.storage.sqlite.store import SqliteStore

CEILING, HTTP, EMBEDDED = "http fixed answer", "http reserve+commit", "embedded reserve+commit"
CLIENTS = (1, 10, 50)
SECONDS, SECONDS_MAX = 3.0, 5.0  # nine measurements: a minute at most
FLUSHES = 50


def main() -> int:
    """Measure and print; return 1 if a request failed or the ledger does not balance."""
    parser = argparse.ArgumentParser(description="Measure the ledger on this machine.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--folder", type=Path, help="where the ledger is made: the disk to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not 0 < options.seconds <= SECONDS_MAX:
        parser.error(f"--seconds must be above 0 and at most {SECONDS_MAX:g}")
    with tempfile.TemporaryDirectory(prefix="bursar-bench-", dir=options.folder) as folder:
        store = Path(folder) / "ledger.db"
        document: dict[str, Any] = {"machine": _machine(Path(folder)), "seconds": options.seconds}
        document["figures"] = _against_ceiling(list(_measure(store, options.seconds)))
        opened = SqliteStore.open(store, create=False)
        report = audit(opened.reader)
        opened.close()
    document["ledger"] = {"entries": report.entries, "findings": list(report.findings)}
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        _show(document)
    return 0 if report.ok and not any(row["errors"] for row in document["figures"]) else 1


def _measure(store: Path, seconds: float) -> Iterator[Figure]:
    with served.serving(store) as (port, key):
        for name in (CEILING, HTTP):
            for clients in CLIENTS:
                print(f"measuring {name}, clients: {clients}", file=sys.stderr)
                yield http_load.run(Load(name, port, key, clients, seconds, name == CEILING))
    for clients in CLIENTS:
        print(f"measuring {EMBEDDED}, clients: {clients}", file=sys.stderr)
        yield embedded.run(EMBEDDED, store, clients, seconds)


def _against_ceiling(figures: list[Figure]) -> list[dict[str, Any]]:
    """Return the rows with `ratio`: their rate, by the ceiling's at as many clients."""
    ceiling = {row.clients: row.requests_per_s for row in figures if row.name == CEILING}
    return [
        row._asdict() | {"ratio": round(row.requests_per_s / ceiling[row.clients], 4)}
        for row in figures
    ]


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
        "flush_p50_ms": round(1_000 * sorted(took)[FLUSHES // 2], 3),
    }


def _show(document: dict[str, Any]) -> None:
    print(", ".join(f"{name} {value}" for name, value in document["machine"].items()))
    print(f"{'':24}clients  requests/s   p50 ms   p99 ms  of ceiling  client cpu")
    for row in document["figures"]:
        print(
            f"{row['name']:24}{row['clients']:7}{row['requests_per_s']:12,.0f}{row['p50_ms']:9.2f}"
            f"{row['p99_ms']:9.2f}{row['ratio']:12.0%}{row['client_cpu']:12.0%}"
        )
    errors, ledger = sum(row["errors"] for row in document["figures"]), document["ledger"]
    verdict = "; ".join(ledger["findings"]) or "it balances"
    print(f"{errors} requests failed; the ledger has {ledger['entries']:,} entries: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
