"""A program that embeds a ledger file which others have open too; the test runs several.

Before each file it asks on standard output and waits for a line on standard input; then it works
there and prints one JSON object with what it was told.
"""

import hashlib
import json
import sys
from pathlib import Path

from bursar.authority.render import render
from bursar.clock import SystemClock
from bursar.core.commands import CreateBudget, CreateTenant
from bursar.ledger.service import Accepted, Ledger
from bursar.storage.sqlite.store import SqliteStore
from e2e.ledgers import (
    BOT,
    TENANT,
    TOP,
    attempt,
    commit,
    debit,
    new_budget,
    new_tenant,
    reserve,
    run,
)

ALLOCATED = 10_000_000
SHARED_COST = 11


def main(name: str, rounds: int, paths: list[Path]) -> None:
    """Open each of the files when all others do, and work in each for a number of rounds."""
    for path in paths:
        print("open?", flush=True)
        sys.stdin.readline()
        store = SqliteStore.open(path)
        ledger = Ledger(store, SystemClock(), render)
        try:
            # Everybody tries; whoever comes second is told that it is there.
            attempt(ledger, CreateTenant(tenant=TENANT, record=new_tenant()))
            for scope in (TOP, BOT):
                attempt(ledger, CreateBudget(tenant=TENANT, budget=new_budget(scope, ALLOCATED)))
            print(json.dumps(work(ledger, name, rounds)), flush=True)
        finally:
            store.close()


def work(ledger: Ledger, name: str, rounds: int) -> dict[str, object]:
    """Return what was charged to this program alone, and what shared keys answered."""
    spent, shared = 0, hashlib.sha256()
    for number in range(rounds):
        run(ledger, debit(3, f"{name}-{number}"))
        held = run(ledger, reserve(10, f"{name}-{number}")).reply.reservation_id
        assert held is not None
        run(ledger, commit(held, 5, f"{name}-{number}"))
        spent += 3 + 5
        outcome: Accepted = run(ledger, debit(SHARED_COST, f"shared-{number}"))
        shared.update(outcome.reply.body)
    return {"spent": spent, "shared": shared.hexdigest()}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]])
