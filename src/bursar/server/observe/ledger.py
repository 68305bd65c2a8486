"""What the ledger did, counted under the names that dashboards of the protocol know.

The rule that lives here: every answered command counts once, by what its caller was told.
A replay shows as reason IDEMPOTENT_REPLAY; counters of what really changed (expired
leases, debt) leave replays out. Requests that never reached the ledger are not here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from bursar.core import commands as c
from bursar.core import outcomes as o
from bursar.ledger.observer import Executed
from bursar.ledger.service import Accepted, Failed, Outcome
from bursar.server.observe.tally import Counts, Histogram
from bursar.vocabulary import ActorType

UNKNOWN = "UNKNOWN"
OTHER = "OTHER"
"""The tenants beyond the most that are told apart; no tenant's id has capitals."""

OK, REPLAY, DENY = "OK", "IDEMPOTENT_REPLAY", "DENY"
DONE: dict[type, str] = {
    c.Commit: "COMMITTED",
    c.Debit: "APPLIED",
    c.Release: "RELEASED",
    c.Extend: "ACTIVE",
}
"""What is said of a command that did its work; a reservation's reply says it itself."""
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TRANSACTION_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


@dataclass(slots=True)
class LedgerCounts:
    """An observer of the ledger; the writer's thread counts here, but for quarantines.

    Attributes:
        tenants_max: how many tenants are told apart; 0 tells none apart.
    """

    tenants_max: int
    reserve: Counts = field(default_factory=Counts)
    commit: Counts = field(default_factory=Counts)
    release: Counts = field(default_factory=Counts)
    extend: Counts = field(default_factory=Counts)
    debit: Counts = field(default_factory=Counts)
    expired: Counts = field(default_factory=Counts)
    overdraft: Counts = field(default_factory=Counts)
    quarantined: Counts = field(default_factory=Counts)
    failures: Counts = field(default_factory=Counts)
    sizes: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    took: Histogram = field(default_factory=lambda: Histogram(TRANSACTION_BOUNDS_S))
    _tenants: dict[str, str] = field(default_factory=dict)

    def executed(self, batch: Executed) -> None:
        """Count a transaction and each of its commands."""
        self.sizes.observe(len(batch.commands))
        self.took.observe(batch.took_s)
        for command, outcome in zip(batch.commands, batch.outcomes, strict=True):
            if isinstance(outcome, Failed):
                self.failures.add((type(outcome.error).__name__,))
            else:
                self._count(command, outcome)

    def quarantine(self, tenant: str, reason: str) -> None:
        """Count a reservation that cannot be read, told by the sweep on its own thread."""
        self.quarantined.add((self.tenant(tenant), reason))

    def tenant(self, tenant: str) -> str:
        """Return the label of a tenant; the first ones to come have their own."""
        label = self._tenants.get(tenant)
        if label is not None:
            return label
        if len(self._tenants) >= self.tenants_max:
            return OTHER if self.tenants_max else ""
        self._tenants[tenant] = tenant
        return tenant

    def _count(self, command: c.AnyCommand, outcome: Accepted | o.Refused) -> None:
        tenant = self.tenant(command.tenant)
        match command:
            case c.Reserve():
                decision = _reserved(outcome)
                policy = _policy(outcome) or command.overage_policy or UNKNOWN
                self.reserve.add((tenant, decision, _reason(outcome), policy))
            case c.Commit():
                policy = _policy(outcome) or UNKNOWN
                self.commit.add((tenant, _told(outcome, DONE[c.Commit]), _reason(outcome), policy))
                self._overdraft(tenant, outcome)
            case c.Debit():
                policy = _policy(outcome) or command.overage_policy or UNKNOWN
                self.debit.add((tenant, _told(outcome, DONE[c.Debit]), _reason(outcome), policy))
                self._overdraft(tenant, outcome)
            case c.Release():
                told = _told(outcome, DONE[c.Release])
                self.release.add((tenant, _actor(command), told, _reason(outcome)))
            case c.Extend():
                self.extend.add((tenant, _told(outcome, DONE[c.Extend]), _reason(outcome)))
            case c.Expire():
                if isinstance(outcome, Accepted) and not outcome.replayed:
                    self.expired.add((tenant,))
            case _:
                pass  # provisioning shows as requests; the log and the audit tell the rest

    def _overdraft(self, tenant: str, outcome: Outcome) -> None:
        if (
            isinstance(outcome, Accepted)
            and isinstance(outcome.answer, o.Committed | o.Debited)
            and outcome.answer.debt_incurred > 0
        ):
            self.overdraft.add((tenant,))


def told(command: c.AnyCommand, outcome: Outcome) -> tuple[str, str] | None:
    """Return decision and reason of a command that agents send, as the metrics name them."""
    if isinstance(outcome, Failed):
        return None
    match command:
        case c.Reserve():
            decision = _reserved(outcome)
        case c.Commit() | c.Debit() | c.Release() | c.Extend():
            decision = _told(outcome, DONE[type(command)])
        case _:
            return None
    return decision, _reason(outcome)


def _told(outcome: Accepted | o.Refused, done: str) -> str:
    return done if isinstance(outcome, Accepted) else DENY


def _reserved(outcome: Accepted | o.Refused) -> str:
    """Return the decision on a reservation; a replay's is in the stored reply alone."""
    if isinstance(outcome, o.Refused):
        return DENY
    if isinstance(outcome.answer, o.Reserved | o.Decided):
        return outcome.answer.decision
    return str(json.loads(outcome.reply.body).get("decision", UNKNOWN))


def _reason(outcome: Accepted | o.Refused) -> str:
    if isinstance(outcome, o.Refused):
        return outcome.code
    if outcome.replayed:
        return REPLAY
    denied = outcome.answer.reason_code if isinstance(outcome.answer, o.Decided) else None
    return denied or OK


def _policy(outcome: Accepted | o.Refused) -> str | None:
    """Return the overage policy that counted, where the ledger got as far as that."""
    answer = outcome.answer if isinstance(outcome, Accepted) else None
    if isinstance(answer, o.Reserved):
        return answer.reservation.overage_policy
    return answer.overage_policy if isinstance(answer, o.Committed | o.Debited) else None


def _actor(command: c.Release) -> str:
    """Return who released, as the reference names them: a tenant, or an operator for one."""
    on_behalf = command.origin.actor is ActorType.ADMIN_ON_BEHALF_OF
    return ActorType.ADMIN_ON_BEHALF_OF if on_behalf else "tenant"
