"""The one write path: load, execute in order, append entries, save, then answer.

The rule that lives here: nothing else changes a ledger, and nobody is answered before the
change is durable. No command sees a period that is over: where a batch has loaded such a
budget, the roll that begins its current period goes first. A command that breaks an
invariant fails alone; the commands before and after it in the batch are not touched by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bursar import ids
from bursar.clock import Clock
from bursar.core import reads, replay
from bursar.core.commands import AnyCommand, Roll
from bursar.core.entry import Entry, Reply, seal
from bursar.core.execute import execute
from bursar.core.outcomes import Answer, Changes, Refused, Replayed
from bursar.core.snapshot import Snapshot
from bursar.core.state import Head, Recorded, check
from bursar.core.trail import Failure
from bursar.ledger import periods
from bursar.ledger.ports import Saves, Store

Render = Callable[[Answer], Reply]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A command that happened: the reply to give, now or again.

    `active` says whether the reservation a reply is about still is; it decides, with
    `at_ms`, what `remaining_ttl_ms` says. `changed` is False where there was nothing to do,
    and so no entry.
    """

    reply: Reply
    at_ms: int
    replayed: bool
    active: bool
    answer: Answer | None
    changed: bool = True

    @property
    def remaining_ttl_ms(self) -> int | None:
        """What is left of the lease that this reply announced; None if it has none."""
        if self.reply.lease_expires_at_ms is None:
            return None
        return max(0, self.reply.lease_expires_at_ms - self.at_ms) if self.active else 0


@dataclass(frozen=True, slots=True)
class Failed:
    """A command that could not be executed; nothing of it was saved."""

    error: Exception


Outcome = Accepted | Refused | Failed


class Ledger:
    """Executes batches of commands against one store."""

    def __init__(self, store: Store, clock: Clock, render: Render) -> None:
        """Tie a store to a source of time and to the writer of replies."""
        self.store = store
        self.clock = clock
        self._render = render

    def execute(
        self, commands: Sequence[AnyCommand], failures: Sequence[Failure] = ()
    ) -> list[Outcome]:
        """Execute `commands` in order in one durable transaction and return their outcomes.

        `failures` are requests that were refused; they are written down on the way.

        Raises:
            StoreError: the transaction failed; no command of the batch may be answered.
        """
        outcomes: list[Outcome] = []

        def work(snapshot: Snapshot) -> Saves:
            outcomes.clear()  # a store may run this again after a serialization failure
            saves = Saves(failures=list(failures))
            now_ms = self.clock.now_ms()
            ended = periods.ended(snapshot, now_ms, ids.new_trace_id())
            for command in commands:
                if ended and not isinstance(command, Roll):
                    for roll in ended:
                        self._one(snapshot, roll, now_ms, saves)
                    ended = ()
                outcomes.append(self._one(snapshot, command, now_ms, saves))
            for budget in saves.budgets.values():
                check(budget)
            return saves

        self.store.transact(reads.plan(commands), work)
        return outcomes

    def _one(self, snapshot: Snapshot, command: AnyCommand, now_ms: int, saves: Saves) -> Outcome:
        head = snapshot.head(command.tenant)
        at_ms = max(now_ms, head.at_ms)  # a log's time never runs backwards, whoever writes
        try:
            result = execute(snapshot, command, at_ms)
            if isinstance(result, Refused):
                return result
            if isinstance(result, Replayed):
                return _again(result, at_ms)
            for budget in result.budgets:
                check(budget)
            reply = self._render(result.answer)
            entry = seal(head, command, result, reply, at_ms) if result.recorded else None
        except Exception as error:  # noqa: BLE001 - one command's bug fails that command alone
            return Failed(error)
        snapshot.merge(result)
        if entry is not None:
            _append(snapshot, entry, command, result, reply, saves)
        return Accepted(
            reply,
            at_ms,
            replayed=False,
            active=True,
            answer=result.answer,
            changed=result.recorded,
        )


def _again(replayed: Replayed, at_ms: int) -> Accepted:
    recorded = replayed.recorded
    reply = Reply(
        recorded.status, recorded.body, recorded.reservation_id, recorded.lease_expires_at_ms
    )
    return Accepted(reply, at_ms, replayed=True, active=replayed.active, answer=None)


def _append(
    snapshot: Snapshot,
    entry: Entry,
    command: AnyCommand,
    changes: Changes,
    reply: Reply,
    saves: Saves,
) -> None:
    """Add the command's entry, recorded answer and changed records to what will be saved."""
    head = Head(entry.seq, entry.entry_hash, entry.at_ms)
    snapshot.heads[command.tenant] = saves.heads[command.tenant] = head
    saves.entries.append(entry)
    if command.idempotency is not None:
        identity = command.idempotency
        recorded = Recorded(
            fingerprint=identity.fingerprint,
            keep_until_ms=replay.keep_until_ms(command, changes, entry.at_ms),
            status=reply.status,
            body=reply.body,
            reservation_id=reply.reservation_id,
            lease_expires_at_ms=reply.lease_expires_at_ms,
        )
        where = (command.tenant, identity.endpoint, identity.key)
        snapshot.recorded[where] = recorded
        saves.recorded[where] = (recorded, entry.seq)
    for tenant in changes.tenants:
        saves.tenants[tenant.tenant_id] = tenant
    for budget in changes.budgets:
        saves.budgets[budget.tenant, budget.scope, budget.unit] = budget
    for row in changes.reservations:
        saves.reservations[row.tenant, row.reservation_id] = row
    for key in changes.keys:
        saves.keys[key.tenant, key.key_id] = key
    for policy in changes.policies:
        saves.policies[policy.tenant, policy.policy_id] = policy
    for meter in changes.meters:
        saves.meters[meter.tenant, meter.scope_path, meter.policy_id, meter.kind] = meter
        if meter.count == 1:  # a window begins; what was counted before it counts no more
            saves.meters_from_ms[meter.tenant] = meter.window_start_ms
