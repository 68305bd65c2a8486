"""A world and the auditor beside it: both play the same rows, and are compared after each batch.

The core plays them in batches, through the real write path. A failure shows all the rows, which
can be played as a scenario of `table`.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from bursar.core.commands import Idempotency
from bursar.core.entry import Reply
from bursar.core.outcomes import Answer, BudgetAnswer, Committed, Debited, Funded
from bursar.ledger.service import Accepted, Failed
from bursar.vocabulary import FundOperation
from core import facts, script
from core.auditor import Auditor, Said, remaining
from core.table import Row, give, read_row
from core.values import scope_path, short, span_ms
from core.workload import Workload
from core.world import START_MS, World

BATCH_MAX = 4
Place = tuple[str, str]


@dataclass
class Audit:
    """A world, the auditor beside it, and everything both were told."""

    random: Random
    world: World = field(default_factory=World)
    auditor: Auditor = field(default_factory=lambda: Auditor(START_MS))
    told: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    replies: dict[tuple[str, str], Reply] = field(default_factory=dict)
    charged: Counter[Place] = field(default_factory=Counter)
    lowered: set[Place] = field(default_factory=set)
    cut: set[Place] = field(default_factory=set)

    def play(self, batches: int) -> None:
        workload = Workload(self.random, self.auditor)
        for line in workload.first_rows():
            self.prepare(line)
        for place, books in self.auditor.budgets.items():
            self.charged[place] = books["spent"] + books["debt"]
        for _ in range(batches):
            line = workload.between()
            if line is not None:
                self.prepare(line)
            self.batch(workload)
        self.compare_reservations()
        self.world.verify_chains()

    def prepare(self, line: str) -> None:
        self.told.append(line)
        row = read_row(line)
        if row.verb == "tick":
            self.world.clock.now += span_ms(row.words[0])
        elif self.auditor.tenant is None or self.auditor.tenant["status"] != "CLOSED":
            give(self.world, row)
            self.auditor.given(*row.words, row.options)

    def batch(self, workload: Workload) -> None:
        """Let both play a few rows at one moment, the core in one transaction."""
        expected: list[tuple[Row, Said]] = []
        for _ in range(self.random.randrange(1, BATCH_MAX + 1)):
            line = workload.row()
            self.told.append(line)
            row = read_row(line)
            now = self.world.clock.now
            expected.append((row, self.auditor.play(row.verb, row.words, row.options, now)))
        commands = [
            script.command(
                row.verb, row.words, row.options | {"key": row.options.get("key", "-")}, ""
            )
            for row, _ in expected
        ]
        one = len(commands) == 1
        outcomes = [self.world.run(commands[0])] if one else self.world.run_batch(commands)
        for (row, said), command, outcome in zip(expected, commands, outcomes, strict=True):
            if isinstance(outcome, Failed):
                raise outcome.error
            self.compare(row, said, facts.of_outcome(outcome))
            if isinstance(outcome, Accepted):
                self.remember(command.idempotency, outcome)
                self.account(row, outcome.answer)
        self.compare_budgets()

    def compare(self, row: Row, said: Said, found: Said) -> None:
        word, expected = said
        self.seen[f"{row.verb} {word}"] += 1
        actual = {name: found[1].get(name) for name in expected}
        assert (word, expected) == (found[0], actual), row.text

    def remember(self, identity: Idempotency | None, outcome: Accepted) -> None:
        """Keep each key's reply; a replay must be the very same one."""
        if identity is None:
            return
        where = (identity.endpoint, identity.key)
        if outcome.replayed:
            assert self.replies[where] == outcome.reply
        self.replies[where] = outcome.reply

    def compare_budgets(self) -> None:
        for (scope, unit), books in self.auditor.budgets.items():
            budget = self.world.tables.budgets["acme", scope_path(scope), script.unit(unit)]
            status, found = facts.of_budget(budget)
            assert books["status"] == status
            assert remaining(books) == found["remaining"]
            for name in ("allocated", "reserved", "spent", "debt", "limit", "over", "overage"):
                assert books[name] == found[name], f"{name} of {scope} in {unit}"
            self.believe(scope, unit)

    def compare_reservations(self) -> None:
        assert len(self.auditor.rows) == len(self.world.tables.reservations)
        for name, books in self.auditor.rows.items():
            row = self.world.tables.reservations["acme", name]
            status, found = facts.of_reservation(row)
            assert (books["status"], books["charged"]) == (status, found["charged"])
            assert books["expires"] == row.expires_at_ms
            assert (books["overage"], ",".join(books["scopes"])) == (
                found["overage"],
                found["budgeted"],
            )

    def believe(self, scope: str, unit: str) -> None:
        """Check what holds for a budget whatever happened (case 80)."""
        books, place = self.auditor.budgets[scope, unit], (scope, unit)
        if books["debt"] <= books["limit"]:
            self.cut.discard(place)
        if books["limit"] and place not in self.cut:
            assert books["debt"] <= books["limit"]
        assert self.charged[place] == books["spent"] + books["debt"]
        if place not in self.lowered:
            assert books["spent"] + books["reserved"] <= books["allocated"]
            assert self.charged[place] <= books["allocated"] + max(books["limit"], books["debt"])

    def account(self, row: Row, answer: Answer | None) -> None:
        """Add up what was charged, and what operators forgave or set anew."""
        match answer:
            case Committed() | Debited():
                all_of_it = answer.charged_amount is None
                amount = int(row.words[1]) if all_of_it else answer.charged_amount
                for budget in answer.balances:
                    self.charged[short(budget.scope), budget.unit] += amount
            case BudgetAnswer(budget) if row.verb == "update_budget":
                if budget.debt > budget.overdraft_limit:  # an operator cut the limit
                    self.cut.add((short(budget.scope), budget.unit))
            case Funded(_, before, after):
                place = (short(after.scope), after.unit)
                self.charged[place] += after.spent + after.debt - before.spent - before.debt
                if answer.operation in (FundOperation.RESET, FundOperation.RESET_SPENT):
                    self.lowered.add(place)


def audited(random: Random, batches: int) -> Audit:
    """Play random rows; a failure shows them all."""
    audit = Audit(random)
    try:
        audit.play(batches)
    except Exception as error:
        error.add_note("after these rows:\n" + "\n".join(audit.told))
        raise
    return audit
