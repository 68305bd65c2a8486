"""Payments: what a million closed records cost those that are due.

The rule that lives here: every figure with closed records is compared with the same without
them, in the same run and in turns, so that a busy machine slows both. The closed records are
copies of one that the machine closed, made by one statement: a million payments made one by
one would measure the making.
"""

import asyncio
import random
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bursar.clock import SystemClock
from bursar.payments.outcome import Trigger
from bursar.payments.records import (
    Change,
    Evidence,
    Finding,
    Kind,
    PaymentRecord,
    event_of,
    move,
)
from bursar.payments.schedule import Pace
from bursar.payments.store import open_payments
from bursar.payments.worker import PaymentWorker, WorkerSettings
from bursar.storage.sqlite import payment_figures

MIB = 1_024 * 1_024
CLAIMS = 25
CLAIM = 32
VISIT_WITHIN_S = 120
SEEN = Evidence(source="bench", block_number=1)


class Plan(NamedTuple):
    """How many records are open, and how many closed."""

    open: int = 10_000
    closed: int = 1_000_000


QUICK = Plan(500, 5_000)


class Undecided:
    """A prover that answers at once and proves nothing, and counts whom it was asked about."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def endpoint(self, record: PaymentRecord) -> str:
        """Return a name."""
        del record
        return "bench"

    async def prove(self, record: PaymentRecord) -> Finding:
        """Return that nothing is decided."""
        self.asked.add(record.payment_id)
        return Finding(Trigger.UNDECIDED, SEEN)


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Return the figures of a store with closed records and of one without."""
    plan = QUICK if quick else Plan()
    full, bare = folder / "payments.db", folder / "payments-open.db"
    fill_s = fill(full, plan)
    fill(bare, plan._replace(closed=0))
    both = (full, bare)
    rounds = [[_claim_ms(path) for path in both] for _ in range(CLAIMS)]
    opened = [[_open_ms(path) for path in both] for _ in range(CLAIMS)]
    scraped = [[_scrape_ms(path) for path in both] for _ in range(3)]
    visited = [_visit(path, plan.open) for path in both]
    (missed, _), (missed_bare, _) = visited
    return {
        **plan._asdict(),
        "fill_s": round(fill_s, 1),
        "claim": _pair(rounds),
        "start_up": _pair(opened),
        "scrape": _pair(scraped),
        "visited_s": round(visited[0][1], 3),
        "visited_open_only_s": round(visited[1][1], 3),
        "visited_ratio": round(visited[0][1] / visited[1][1], 3),
        "missed": missed + missed_bare,
        "file_bytes": full.stat().st_size,
        "file_open_only_bytes": bare.stat().st_size,
    }


def aims(found: dict[str, Any]) -> list[tuple[str, float, str, float]]:
    """Return what is promised of payments, with what was measured."""
    return [
        ("due payments that were not visited", found["missed"], "<=", 0),
        ("claim, by one without closed payments", found["claim"]["ratio"], "<=", 1.5),
        ("every due payment visited, in s", found["visited_s"], "<=", 60),
        ("scrape, by one without closed payments", found["scrape"]["ratio"], "<=", 1.5),
    ]


def show(found: dict[str, Any]) -> None:
    """Print what a store with closed payments does, and beside it one without."""
    claim, opened, scraped = found["claim"], found["start_up"], found["scrape"]
    print(
        f"{found['open']:,} open and {found['closed']:,} closed payments, made in "
        f"{found['fill_s']:.1f} s: claim of {CLAIM} {claim['ms']:.2f} ms ({claim['ratio']:.0%} of "
        f"one without closed ones, {claim['open_only_ms']:.2f} ms), every due one visited in "
        f"{found['visited_s']:.1f} s ({found['visited_open_only_s']:.1f} s), opened in "
        f"{opened['ms']:.1f} ms ({opened['open_only_ms']:.1f} ms), figures for a scrape "
        f"{scraped['ms']:.0f} ms ({scraped['open_only_ms']:.0f} ms), file "
        f"{found['file_bytes'] / MIB:,.0f} MiB ({found['file_open_only_bytes'] / MIB:,.0f} MiB)\n"
    )


def fill(path: Path, plan: Plan) -> float:
    """Make a store, and return how many seconds that took."""
    began_s, now_ms = time.perf_counter(), SystemClock().now_ms()
    with closing(open_payments(path)) as store:
        for name, triggers in (
            ("closed", (Trigger.SENDING, Trigger.LOST, Trigger.SETTLED)),
            ("open", (Trigger.SENDING, Trigger.LOST)),
        ):
            record = _record(name, now_ms)
            store.add(record, event_of(record, "RECORDED", SEEN, now_ms))
            due_ms = None if name == "closed" else now_ms
            after, events = replace(record, next_check_at_ms=due_ms), []
            for trigger in triggers:
                after, event = move(after, trigger, SEEN, now_ms)
                events.append(event)
            store.save([Change(after, record.version, events=tuple(events))])
    with closing(sqlite3.connect(path)) as connection:
        _copy(connection, "closed", plan.closed)
        _copy(connection, "open", plan.open - 1)
        connection.execute(
            "DELETE FROM payment WHERE payment_id = 'closed' AND ? = 0", [plan.closed]
        )
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return time.perf_counter() - began_s


def _record(name: str, now_ms: int) -> PaymentRecord:
    return PaymentRecord(
        tenant="acme",
        payment_id=name,
        intent_id=name,
        attempt_no=1,
        kind=Kind.X402,
        network="eip155:8453",
        asset="0x" + "a5" * 20,
        payer="0x" + "d3" * 20,
        pay_to="0x" + "5a" * 20,
        value=1_250_000,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        nonce="0x" + name.encode().hex().rjust(64, "0"),
        resource="https://shop.test/report",
        valid_before_s=now_ms // 1_000 + 3_600,
    )


def _copy(connection: sqlite3.Connection, name: str, count: int) -> None:
    """Copy a payment and its authorization so many times, each under an id of its own."""
    names = [row[1] for row in connection.execute("PRAGMA table_info(payment)")]
    own = {"payment_id", "intent_id"}
    chosen = ", ".join(f"'{name}-' || n" if each in own else each for each in names)
    numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers"
    numbers += " WHERE n < ?)"
    if count:
        connection.execute(
            f"INSERT INTO payment {numbers} SELECT {chosen} FROM numbers, "
            "(SELECT * FROM payment WHERE payment_id = ?)",
            (count, name),
        )
        connection.execute(
            f"INSERT INTO payment_authorization {numbers} SELECT network, asset, payer, "
            "printf('0x%064x', n * 2 + (? = 'open')), ? || '-' || n FROM numbers, "
            "(SELECT * FROM payment WHERE payment_id = ?)",
            (count, name, name, name),
        )


def _claim_ms(path: Path) -> float:
    """Return how long a claim takes; what it took is given back."""
    with closing(open_payments(path, create=False)) as store:
        now_ms, began_s = SystemClock().now_ms(), time.perf_counter()
        claimed = store.claim("bench", now_ms, 60_000, CLAIM)
        took_s = time.perf_counter() - began_s
        store.give_back([(record.payment_id, record.fence) for record in claimed])
    return took_s * 1_000


def _open_ms(path: Path) -> float:
    began_s = time.perf_counter()
    with closing(open_payments(path, create=False)):
        return (time.perf_counter() - began_s) * 1_000


def _scrape_ms(path: Path) -> float:
    began_s = time.perf_counter()
    payment_figures.gather(path, SystemClock().now_ms(), Pace())
    return (time.perf_counter() - began_s) * 1_000


def _visit(path: Path, count: int) -> tuple[int, float]:
    """Return how many of the due were not visited, and the seconds until the last one was."""

    async def run() -> tuple[int, float]:
        prover, clock = Undecided(), SystemClock()
        began_s = time.perf_counter()
        with closing(open_payments(path, create=False)) as store:
            async with PaymentWorker(
                store,
                prover,
                owner="bench",
                clock=clock,
                rng=random.Random(1),
                settings=WorkerSettings(start_s=0),
            ):
                while len(prover.asked) < count:
                    if time.perf_counter() - began_s > VISIT_WITHIN_S:
                        break
                    await asyncio.sleep(0.005)
                took_s = time.perf_counter() - began_s
        return count - len(prover.asked), took_s

    return asyncio.run(run())


def _pair(rounds: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return medians with closed records and without, and the median of the ratios."""
    return {
        "ms": round(median(full for full, _ in rounds), 3),
        "open_only_ms": round(median(bare for _, bare in rounds), 3),
        "ratio": round(median(full / bare for full, bare in rounds), 3),
    }
