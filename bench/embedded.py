"""The ledger without HTTP: reserve and commit through the batcher, in this process.

The rule that lives here: the same file, the same commands and the same flush to disk as
behind the server, so that the difference to the HTTP figures is the price of HTTP.
"""

import time
from itertools import count
from pathlib import Path

import uvloop
from http_load import Figure, Turn, measured

from bursar import ids
from bursar.authority.render import render
from bursar.clock import SystemClock
from bursar.core import scopes
from bursar.core.commands import Commit, Idempotency, Reserve
from bursar.ledger.batcher import Batcher
from bursar.ledger.service import Accepted, Ledger
from bursar.storage.sqlite.store import SqliteStore
from bursar.vocabulary import Unit


def run(name: str, path: Path, clients: int, seconds: float) -> Figure:
    """Measure `clients` tasks on the ledger file at `path`; its server must be gone."""
    store = SqliteStore.open(path, create=False, exclusive=True)
    batcher = Batcher(Ledger(store, SystemClock(), render))
    took: list[float] = []
    refused = count()
    turns = [_turn(batcher, number, took, refused) for number in range(clients)]
    try:
        result: Figure = uvloop.run(measured(name, turns, seconds, took))
    finally:
        batcher.close()
        store.close()
    return result._replace(errors=next(refused))


def _turn(batcher: Batcher, number: int, took: list[float], refused: "count[int]") -> Turn:
    path = scopes.derive({"tenant": "bench", "workspace": "shared", "agent": f"agent-{number}"})

    async def execute(command: Reserve | Commit) -> None:
        began = time.perf_counter()
        outcome = await batcher.execute(command)
        took.append(time.perf_counter() - began)
        if not isinstance(outcome, Accepted):
            next(refused)

    async def turn() -> None:
        name = ids.new_id(batcher.ledger.clock.now_ms())
        reserve = Reserve(
            tenant="bench",
            idempotency=Idempotency("reserve", name, "0" * 64),
            reservation_id=name,
            unit=Unit.TOKENS,
            estimate_amount=1_000,
            scopes=path,
            subject='{"tenant":"bench"}',
            action='{"kind":"llm.completion","name":"bench"}',
            grace_ms=5_000,
        )
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
