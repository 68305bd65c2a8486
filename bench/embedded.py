"""The ledger without HTTP: its own callers in this process, and a million reservations.

The rule that lives here: the same file, the same commands and the same flush to disk as
behind the server, so that the difference to the HTTP figures is the price of HTTP. A lone
caller blocks, as an embedded client does; more of them wait in one event loop. Also
the reservations that a large store begins with come from the ledger itself, in batches,
so its log is one that an audit accepts.
"""

import sys
import time
from itertools import count
from pathlib import Path

import uvloop
from http_load import LEASE_MS, SHARED, Figure, Load, Turn, measured

from bursar import ids
from bursar.authority.render import render
from bursar.clock import SystemClock
from bursar.core import scopes
from bursar.core.commands import Commit, Idempotency, Reserve
from bursar.ledger.batcher import Batcher
from bursar.ledger.service import Accepted, Ledger
from bursar.storage.sqlite.store import SqliteStore
from bursar.vocabulary import Unit

PAIR = "embedded reserve+commit"
BATCH = 2_000
AGENTS = 1_000


def run(path: Path, clients: int, seconds: float) -> Figure:
    """Measure `clients` tasks on the ledger file at `path`; its server must be gone."""
    store = SqliteStore.open(path, create=False, exclusive=True)
    batcher = Batcher(Ledger(store, SystemClock(), render))
    took: list[float] = []
    refused = count()
    alone = clients == 1
    turns = [_turn(batcher, number, took, refused, alone=alone) for number in range(clients)]
    try:
        load = Load(PAIR, SHARED, clients)
        result: Figure = uvloop.run(measured(load, turns, seconds, took))
    finally:
        batcher.close()
        store.close()
    return result._replace(errors=next(refused))


def fill(path: Path, reservations: int) -> float:
    """Make that many reservations, all of them active; return how many seconds it took."""
    began = time.perf_counter()
    store = SqliteStore.open(path, create=False, exclusive=True)
    ledger = Ledger(store, SystemClock(), render)
    try:
        for first in range(0, reservations, BATCH):
            numbers = range(first, min(first + BATCH, reservations))
            outcomes = ledger.execute([_reserve(ledger, number % AGENTS) for number in numbers])
            if not all(isinstance(one, Accepted) for one in outcomes):
                raise SystemExit(f"the large store could not be made: {outcomes[0]}")
            if sys.stderr.isatty():
                print(f"\r{numbers.stop:,} of {reservations:,}", end="", file=sys.stderr)
    finally:
        store.close()
    return time.perf_counter() - began


def _reserve(ledger: Ledger, number: int) -> Reserve:
    name = ids.new_id(ledger.clock.now_ms())
    agent = f"agent-{number}"
    return Reserve(
        tenant="bench",
        idempotency=Idempotency("reserve", name, "0" * 64),
        reservation_id=name,
        unit=Unit.TOKENS,
        estimate_amount=1_000,
        scopes=scopes.derive({"tenant": "bench", "workspace": "shared", "agent": agent}),
        subject=f'{{"agent":"{agent}","tenant":"bench","workspace":"shared"}}',
        action='{"kind":"llm.completion","name":"bench"}',
        grace_ms=5_000,
        ttl_ms=LEASE_MS,
    )


def _turn(
    batcher: Batcher, number: int, took: list[float], refused: "count[int]", *, alone: bool
) -> Turn:
    async def execute(command: Reserve | Commit) -> None:
        began = time.perf_counter()
        outcome = batcher.perform(command) if alone else await batcher.execute(command)
        took.append(time.perf_counter() - began)
        if not isinstance(outcome, Accepted):
            next(refused)

    async def turn() -> None:
        reserve = _reserve(batcher.ledger, number)
        name = reserve.reservation_id
        commit = Commit(
            tenant="bench",
            idempotency=Idempotency(f"commit:{name}", name, "0" * 64),
            reservation_id=name,
            unit=Unit.TOKENS,
            actual_amount=700,
        )
        await execute(reserve)
        await execute(commit)

    return turn
