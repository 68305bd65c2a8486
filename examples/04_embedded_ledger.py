"""The same ledger inside a Python program: no server, no port, the same file and rules.

Takes the ledger file as its argument (`ledger.db` where there is none) and makes it if it is new.
"""

import sys
import uuid
from pathlib import Path

from bursar.authority.render import render
from bursar.clock import SystemClock
from bursar.core.commands import Commit, CreateBudget, CreateTenant, Idempotency, Reserve
from bursar.core.outcomes import Refused
from bursar.core.state import Budget, Tenant
from bursar.ledger.audit import audit
from bursar.ledger.service import Accepted, Ledger
from bursar.storage.sqlite.store import SqliteStore
from bursar.vocabulary import BudgetStatus, TenantStatus, Unit

SCOPE = "tenant:acme"


def budget(amount: int) -> Budget:
    return Budget("acme", SCOPE, Unit.TOKENS, f"ldg_{uuid.uuid4().hex}", amount, remaining=amount,
                  reserved=0, spent=0, debt=0, overdraft_limit=0, is_over_limit=False,
                  status=BudgetStatus.ACTIVE, created_at_ms=0, updated_at_ms=0)  # fmt: skip


def reserve(name: str, amount: int) -> Reserve:
    return Reserve(tenant="acme", idempotency=Idempotency("reserve", name, name), unit=Unit.TOKENS,
                   reservation_id=name, estimate_amount=amount, scopes=(SCOPE,),
                   subject='{"tenant":"acme"}', action='{}', grace_ms=5_000)  # fmt: skip


def main(path: Path) -> None:
    store = SqliteStore.open(path)
    ledger = Ledger(store, SystemClock(), render)
    tenant = Tenant("acme", "Acme", TenantStatus.ACTIVE, created_at_ms=0)
    ledger.execute([CreateTenant(tenant="acme", record=tenant)])
    ledger.execute([CreateBudget(tenant="acme", budget=budget(1_000))])  # refused if it is there
    name = str(uuid.uuid4())
    commit = Commit(tenant="acme", idempotency=Idempotency(f"commit:{name}", name, name),
                    reservation_id=name, unit=Unit.TOKENS, actual_amount=200)  # fmt: skip
    # One call is one transaction: all of it is on disk before the outcomes come back.
    for outcome in ledger.execute([reserve(name, 300), commit, reserve(name + "-2", 5_000)]):
        if isinstance(outcome, Accepted):
            print("accepted:", outcome.reply.body.decode())
        elif isinstance(outcome, Refused):
            print(f"refused: {outcome.message}. {outcome.fix}")
    print("audit:", audit(store.reader))
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "ledger.db"))
