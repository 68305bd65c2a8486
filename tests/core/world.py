"""A small world to play the ledger in: the real write path on a naive store and a settable clock.

Every single command that a world runs also proves what must hold for all commands: evaluating
twice gives equal results, a refusal or a replay changes nothing, every budget keeps its identity,
and what budgets hold is what active reservations hold. A period that is over is rolled on even
by a command that is then refused, and by nothing else of it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bursar.core import reads
from bursar.core.commands import AnyCommand, Roll
from bursar.core.entry import Entry, Reply, digest
from bursar.core.execute import execute
from bursar.core.outcomes import Answer, BulkPlan, Extended, Refused, Reserved
from bursar.core.reads import Reads
from bursar.core.replay import PLANNED
from bursar.core.snapshot import Snapshot
from bursar.core.state import GENESIS, Budget, Head, Policy, Tenant, check
from bursar.ledger import periods
from bursar.ledger.ports import Saves
from bursar.ledger.service import Accepted, Failed, Ledger, Outcome
from bursar.testing.memory import MemoryStore
from bursar.testing.tables import Tables
from bursar.vocabulary import ReservationStatus, Unit

START_MS = 1_700_000_000_000


@dataclass
class HandClock:
    """Time that moves when it is told to."""

    now: int = START_MS

    def now_ms(self) -> int:
        return self.now


class World:
    """One ledger, its store and its clock."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        # Behind the store's back: a test of what did not change must see everything there is.
        self.tables = self.store._tables
        self.ledger = Ledger(self.store, self.clock, render)

    def put(
        self,
        *,
        tenants: Iterable[Tenant] = (),
        budgets: Iterable[Budget] = (),
        policies: Iterable[Policy] = (),
    ) -> None:
        """Store records as they are, past all rules."""
        saves = Saves(
            tenants={tenant.tenant_id: tenant for tenant in tenants},
            budgets={(row.tenant, row.scope, row.unit): row for row in budgets},
            policies={(row.tenant, row.policy_id): row for row in policies},
        )
        self.store.transact(Reads(), lambda snapshot: saves)

    def run(self, command: AnyCommand) -> Accepted | Refused:
        """Run one command and prove what must hold for all commands."""
        before, logged = self.image(), len(self.log(command.tenant))
        due = self._evaluate_twice(command)
        [outcome] = self.ledger.execute([command])
        if isinstance(outcome, Failed):
            raise outcome.error
        unaccepted = isinstance(outcome, Refused) or outcome.replayed
        if unaccepted and due:
            assert [e.verb for e in self.log(command.tenant)[logged:]] == ["Roll"] * due
        elif unaccepted:
            assert before == self.image(), f"{command} was not accepted but changed something"
            assert logged == len(self.log(command.tenant))
        self.audit()
        return outcome

    def run_batch(self, commands: list[AnyCommand]) -> list[Outcome]:
        """Run commands in one transaction, then audit."""
        outcomes = self.ledger.execute(commands)
        self.audit()
        return outcomes

    def _evaluate_twice(self, command: AnyCommand) -> int:
        """Evaluate without applying; return how many periods must be rolled on first."""
        snapshot = self.tables.load(reads.plan([command]))
        untouched = copied(snapshot)
        at_ms = max(self.clock.now, snapshot.head(command.tenant).at_ms)
        first = execute(snapshot, command, at_ms)
        assert first == execute(snapshot, command, at_ms)
        assert untouched == snapshot, f"evaluating {command} changed its snapshot"
        return 0 if isinstance(command, Roll) else len(periods.ended(snapshot, self.clock.now, ""))

    def image(self) -> Snapshot:
        """Return a copy of every record but the log."""
        return copied(self.tables)

    def log(self, tenant: str) -> list[Entry]:
        """Return a tenant's entries in order."""
        return list(self.store.reader.entries(tenant))

    def audit(self) -> None:
        """Check every budget against itself and against the active reservations."""
        held: Counter[tuple[str, str, Unit]] = Counter()
        for row in self.tables.reservations.values():
            if row.status is ReservationStatus.ACTIVE:
                for scope in row.budgeted_scopes:
                    held[row.tenant, scope, row.unit] += row.estimate_amount
        for where, budget in self.tables.budgets.items():
            check(budget)
            assert held[where] == budget.reserved, f"{where} holds what no reservation holds"

    def verify_chains(self) -> None:
        """Check that each tenant's entries follow one another, unaltered and in time."""
        for tenant, head in self.tables.heads.items():
            end = GENESIS
            for entry in self.log(tenant):
                assert (end.seq + 1, end.entry_hash) == (entry.seq, entry.prev_hash)
                assert end.at_ms <= entry.at_ms
                assert digest(entry) == entry.entry_hash
                end = Head(entry.seq, entry.entry_hash, entry.at_ms)
            assert head == end


def render(answer: Answer) -> Reply:
    """Write an answer as a reply whose body tells all of it."""
    body = repr(answer).encode()
    if isinstance(answer, Reserved | Extended):
        row = answer.reservation
        return Reply(200, body, row.reservation_id, row.expires_at_ms)
    return Reply(PLANNED if isinstance(answer, BulkPlan) else 200, body)


def copied(records: Snapshot | Tables) -> Snapshot:
    """Return the same records in dictionaries of their own."""
    return Snapshot(
        tenants=dict(records.tenants),
        budgets=dict(records.budgets),
        reservations=dict(records.reservations),
        keys=dict(records.keys),
        policies=dict(records.policies),
        meters=dict(records.meters),
        recorded=dict(records.recorded),
        heads=dict(records.heads),
    )
