"""The audit: does a stored ledger agree with itself and with its own log?

The rule that lives here: the audit trusts nothing that it can recompute. Balances are added
up again, hashes are computed again, and the log is folded again; whatever differs from what
is stored is a finding. It only reads, and it never repairs.

| check   | what is compared                                                        |
|---------|-------------------------------------------------------------------------|
| budget  | allocated = remaining + spent + reserved + debt                         |
| holds   | reserved = sum of the active reservations, in the tables and in the log |
| chain   | every hash and sequence number, from the first entry to the head        |
| records | last state of each budget, tenant, key and policy = the stored one      |
| periods | a roll keeps holds and debt, clears spend, gives what its rule says    |
| leases  | a reservation ends once, after it was made, as the log says, row by row |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from bursar.core.entry import (
    KEY_STATE_BEFORE,
    TENANT_STATE_BEFORE,
    Entry,
    budget_state,
    digest,
    key_state,
    policy_state,
    reservation_state,
    tenant_state,
)
from bursar.core.state import GENESIS, Budget, Head, Tenant, check
from bursar.core.verbs.roll import allocated
from bursar.invariant import InvariantBroken
from bursar.ledger.ports import (
    BudgetQuery,
    Page,
    PolicyQuery,
    Reader,
    ReservationQuery,
    ReservationSort,
    StoreError,
    TenantQuery,
    TenantSort,
)
from bursar.vocabulary import ReservationStatus, RolloverPolicy, Unit

FINDINGS_MAX = 100
PAGE = 500
TRIES_MAX = 3

Row = TypeVar("Row")
Held = dict[tuple[str, str, Unit], int]


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what is wrong with it."""

    tenants: int
    budgets: int
    entries: int
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def audit(reader: Reader) -> Report:
    """Check a whole ledger and return the findings, at most `FINDINGS_MAX` of them.

    The reads are many, so a ledger that is being written to is read again, up to
    `TRIES_MAX` times; if it never holds still, that is the only finding.
    """
    tries = 0
    while True:
        before = dict(reader.heads())
        report = _Audit(reader, before).run()
        if dict(reader.heads()) == before:
            return report
        tries += 1
        if tries == TRIES_MAX:
            moving = "the ledger kept changing while it was read; audit it when it is quiet"
            return replace(report, findings=(moving,))


@dataclass(slots=True)
class _Folded:
    """What one tenant's log says: the last state of every record in it."""

    budgets: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    tenants: dict[str, list[Any]] = field(default_factory=dict)
    keys: dict[str, list[Any]] = field(default_factory=dict)
    policies: dict[str, list[Any]] = field(default_factory=dict)
    active: dict[str, list[Any]] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)  # hashes: there may be millions


class _Audit:
    """One pass over a ledger whose logs end at `heads`."""

    def __init__(self, reader: Reader, heads: Mapping[str, Head]) -> None:
        self._reader = reader
        self._heads = heads
        self._findings: list[str] = []
        self._entries = 0
        self._held_by_log: Held = {}

    def run(self) -> Report:
        tenants = {row.tenant_id: row for row in self._all_tenants()}
        budgets = list(self._all_budgets())
        folded = {name: self._fold(name) for name in sorted(self._heads)}
        for budget in budgets:
            self._budget(budget)
        self._holds(budgets)
        self._records(tenants, budgets, folded)
        return Report(len(tenants), len(budgets), self._entries, tuple(self._findings))

    def _find(self, finding: str) -> None:
        if len(self._findings) < FINDINGS_MAX - 1:
            self._findings.append(finding)
        elif len(self._findings) < FINDINGS_MAX:
            self._findings.append("and more; these are the first")

    # --- what is stored -----------------------------------------------------------------

    def _all_tenants(self) -> Iterator[Tenant]:
        query = TenantQuery(sort_by=TenantSort.TENANT_ID, descending=False, limit=PAGE)
        return self._pages("tenants", self._reader.tenants, query)

    def _all_budgets(self) -> Iterator[Budget]:
        query = BudgetQuery(tenant=None, limit=PAGE)
        return self._pages("budgets", self._reader.budgets, query)

    def _pages(
        self,
        what: str,
        page_of: Callable[[Any], Page[Row]],
        query: TenantQuery | BudgetQuery | PolicyQuery | ReservationQuery,
    ) -> Iterator[Row]:
        """Yield every row; rows that the store itself refuses to read are a finding."""
        while True:
            try:
                page = page_of(query)
            except (StoreError, InvariantBroken) as error:
                self._find(f"{what} cannot be read: {error}")
                return
            yield from page.rows
            if page.after is None:
                return
            query = replace(query, after=page.after)

    def _budget(self, budget: Budget) -> None:
        try:
            check(budget)
        except InvariantBroken as error:
            self._find(f"{_named(budget)}: {error}")

    # --- the log ------------------------------------------------------------------------

    def _fold(self, tenant: str) -> _Folded:
        """Walk one tenant's chain and return the last states that it recorded."""
        folded, last = _Folded(), GENESIS
        try:
            for entry in self._reader.entries(tenant):
                self._entries += 1
                self._link(last, entry)
                self._changes(folded, entry)
                last = Head(entry.seq, entry.entry_hash, entry.at_ms)
        except StoreError as error:
            self._find(f"log of tenant {tenant}: cannot be read after entry {last.seq}: {error}")
        head = self._heads[tenant]
        if last != head:
            self._find(
                f"log of tenant {tenant}: ends at entry {last.seq} ({last.entry_hash[:12]}), its "
                f"head says {head.seq} ({head.entry_hash[:12]})"
            )
        return folded

    def _link(self, last: Head, entry: Entry) -> None:
        where = f"log of tenant {entry.tenant}: entry {entry.seq}"
        if entry.seq != last.seq + 1:
            self._find(f"{where} follows entry {last.seq}; entries between them are missing")
        if entry.prev_hash != last.entry_hash:
            self._find(f"{where} does not continue the hash of entry {last.seq}")
        if digest(entry) != entry.entry_hash:
            self._find(f"{where} was altered: its content does not match its hash")
        if entry.at_ms < last.at_ms:
            self._find(f"{where} is older than entry {last.seq}")

    def _changes(self, folded: _Folded, entry: Entry) -> None:
        where = f"log of tenant {entry.tenant}: entry {entry.seq}"
        try:
            changes = json.loads(entry.changes)
            if entry.verb == "Roll":
                self._rolled(folded, where, changes)
            for state in changes.get("budgets", ()):
                folded.budgets[state[0], state[1]] = state
            for state in changes.get("tenants", ()):
                folded.tenants[state[0]] = state
            for state in changes.get("keys", ()):
                folded.keys[state[0]] = state
            for state in changes.get("policies", ()):
                folded.policies[state[0]] = state
            for state in changes.get("reservations", ()):
                self._lease(folded, where, entry.tenant, state)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._find(f"{where} has changes that cannot be read: {error!r}")

    def _rolled(self, folded: _Folded, where: str, changes: dict[str, Any]) -> None:
        """Check one budget's step into a new period against its last state in the log."""
        [state] = changes["budgets"]
        before, periods = folded.budgets.get((state[0], state[1])), changes["asked"]["periods"]
        if before is None or before[9:] == []:
            self._find(f"{where} begins a period of a budget that had none: {state[0]}")
            return
        _, ended_ms, *rules, allocation, policy = before[9]
        unused = max(0, before[3] - before[5])
        given = allocated(RolloverPolicy(policy), allocation, unused=unused, periods=periods)
        over = int(before[6] > before[7])
        expected = [*before[:3], given, before[4], 0, *before[6:8], over]
        began_ms, ends_ms, *after = state[9]
        if state[:9] != expected or after != [*rules, allocation, policy]:
            self._find(f"{where} does not follow from {before}: it is {state}")
        if not ended_ms <= began_ms < ends_ms:
            self._find(f"{where} begins a period at {began_ms}, before the last one's end")

    def _lease(self, folded: _Folded, where: str, tenant: str, state: list[Any]) -> None:
        """Follow one reservation from its making to its one end."""
        name, status = state[0], state[1]
        folded.leases[name] = _hash(state)
        before = folded.active.pop(name, None)
        if before is not None:
            self._hold_by_log(tenant, before, -1)
        if status == ReservationStatus.ACTIVE:
            folded.active[name] = state
            self._hold_by_log(tenant, state, 1)
        elif before is None:
            self._find(f"{where} ends reservation {name}, which was not active")

    def _hold_by_log(self, tenant: str, state: list[Any], sign: int) -> None:
        """Add what a reservation holds in each of its budgets, or take it away again."""
        unit, estimate, scopes = Unit(state[2]), state[3], state[7]
        for scope in scopes:
            key = (tenant, scope, unit)
            self._held_by_log[key] = self._held_by_log.get(key, 0) + sign * estimate

    # --- the two against each other ------------------------------------------------------

    def _holds(self, budgets: Iterable[Budget]) -> None:
        try:
            held = dict(self._reader.held())
        except StoreError as error:
            self._find(f"active reservations cannot be read: {error}")
            return
        for budget in budgets:
            key = (budget.tenant, budget.scope, budget.unit)
            for amount, what in (
                (held.pop(key, 0), "active reservations"),
                (self._held_by_log.pop(key, 0), "open leases in the log"),
            ):
                if amount != budget.reserved:
                    self._find(
                        f"{_named(budget)}: reserved is {budget.reserved}, but the {what} hold "
                        f"{amount}"
                    )
        for (tenant, scope, unit), amount in sorted(held.items()):
            self._find(
                f"tenant {tenant}: active reservations hold {amount} {unit.value} at {scope}, "
                "where there is no budget"
            )

    def _records(
        self,
        tenants: Mapping[str, Tenant],
        budgets: Iterable[Budget],
        folded: Mapping[str, _Folded],
    ) -> None:
        """Compare the stored records with the last states in the log, both ways."""
        stored: dict[str, dict[tuple[str, str], list[Any]]] = {}
        for budget in budgets:
            of_tenant = stored.setdefault(budget.tenant, {})
            of_tenant[budget.scope, budget.unit.value] = budget_state(budget)
        for tenant in sorted(stored.keys() | folded.keys() | tenants.keys()):
            said = folded.get(tenant, _Folded())
            self._same(f"tenant {tenant}: budget", said.budgets, stored.get(tenant, {}))
            states = _tenant_states(tenants.get(tenant))
            self._same("tenant", said.tenants, states, TENANT_STATE_BEFORE)
            keys = self._stored_keys(said.keys)
            self._same(f"tenant {tenant}: API key", said.keys, keys, KEY_STATE_BEFORE)
            self._leases(tenant, said.leases)
            kept = self._stored_policies(tenant)
            self._same(f"tenant {tenant}: policy", said.policies, kept)

    def _stored_keys(self, said: Iterable[str]) -> dict[str, list[Any]]:
        kept: dict[str, list[Any]] = {}
        for key_id in said:
            try:
                key = self._reader.key(key_id)
            except StoreError as error:
                self._find(f"API key {key_id} cannot be read: {error}")
                continue
            if key is not None:
                kept[key_id] = key_state(key)
        return kept

    def _leases(self, tenant: str, said: dict[str, int]) -> None:
        """Compare every reservation, settled or not, with what the log said of it last."""
        query = ReservationQuery(
            tenant=tenant,
            sort_by=ReservationSort.RESERVATION_ID,
            descending=False,
            limit=PAGE,
        )
        missing = set(said)
        what = f"reservations of tenant {tenant}"
        for row in self._pages(what, self._reader.reservations, query):
            name = row.reservation_id
            missing.discard(name)
            if name not in said:
                self._find(
                    f"tenant {tenant}: reservation {name} is stored, but the log never made it"
                )
            elif said[name] != _hash(reservation_state(row)):
                self._find(
                    f"{what}: {name} is {row.status.value} ({row.estimate_amount} estimated, "
                    f"{row.charged_amount} charged), but the log says otherwise"
                )
        for name in sorted(missing):
            self._find(f"{what}: {name} is in the log, but not stored")

    def _stored_policies(self, tenant: str) -> dict[str, list[Any]]:
        query = PolicyQuery(tenant=tenant, limit=PAGE)
        found = self._pages(f"policies of tenant {tenant}", self._reader.policies, query)
        return {row.policy_id: policy_state(row) for row in found}

    def _same(
        self,
        what: str,
        said: Mapping[Any, list[Any]],
        kept: Mapping[Any, list[Any]],
        before: tuple[int, ...] = (),
    ) -> None:
        """Compare states by name; one of an earlier version says less, and that must agree."""
        for name in sorted(said.keys() | kept.keys(), key=str):
            shown = " ".join(name) if isinstance(name, tuple) else name
            if name not in said:
                self._find(f"{what} {shown} is stored, but the log never made it")
            elif name not in kept:
                self._find(f"{what} {shown} is in the log, but not stored")
            elif said[name] not in (kept[name], *(kept[name][:length] for length in before)):
                self._find(f"{what} {shown} is {kept[name]}, but the log says {said[name]}")


def _hash(state: list[Any]) -> int:
    return hash(json.dumps(state))


def _named(budget: Budget) -> str:
    return f"budget {budget.scope} ({budget.unit.value}) of tenant {budget.tenant}"


def _tenant_states(row: Tenant | None) -> dict[str, list[Any]]:
    """Return a stored tenant as the log would say it; nothing for one that is not stored."""
    return {} if row is None else {row.tenant_id: tenant_state(row)}
