"""The audit finds every kind of corruption, and nothing in a ledger that is sound."""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.authority.render import render
from bursar.core.commands import (
    AnyCommand,
    BudgetEdit,
    Commit,
    CreateBudget,
    CreateKey,
    CreatePolicy,
    CreateTenant,
    Debit,
    Expire,
    Extend,
    Freeze,
    Fund,
    Idempotency,
    KeyEdit,
    Release,
    Reserve,
    TenantEdit,
    UpdateBudget,
    UpdateKey,
    UpdatePolicy,
    UpdateTenant,
)
from bursar.core.entry import Entry, digest
from bursar.core.state import ApiKey, Budget, Head, Policy, RateLimits, Reservation, Tenant
from bursar.ledger.audit import FINDINGS_MAX, Report, audit
from bursar.ledger.ports import BudgetQuery, Page, Store, StoreError, TenantQuery
from bursar.ledger.service import Accepted, Ledger
from bursar.storage.sqlite.store import SqliteStore
from bursar.testing.clock import START_MS, FakeClock
from bursar.testing.memory import MemoryStore
from bursar.vocabulary import (
    BudgetStatus,
    FundOperation,
    KeyStatus,
    OveragePolicy,
    PolicyStatus,
    TenantStatus,
    Unit,
)

TOP, BOT = "tenant:acme", "tenant:acme/agent:bot"
USD = Unit.USD_MICROCENTS


def budget(scope: str, unit: Unit = USD) -> Budget:
    return Budget(
        tenant="acme",
        scope=scope,
        unit=unit,
        ledger_id=f"{scope} {unit}",
        allocated=1_000,
        remaining=1_000,
        reserved=0,
        spent=0,
        debt=0,
        overdraft_limit=100,
        is_over_limit=False,
        status=BudgetStatus.ACTIVE,
        created_at_ms=0,
        updated_at_ms=0,
    )


def reserve(name: str, estimate: int, **terms: Any) -> Reserve:
    return Reserve(
        tenant="acme",
        idempotency=Idempotency("reserve", name, name),
        reservation_id=name,
        unit=USD,
        estimate_amount=estimate,
        scopes=(TOP, BOT),
        subject='{"tenant":"acme","agent":"bot"}',
        action='{"kind":"llm.completion","name":"m"}',
        grace_ms=0,
        **terms,
    )


KEY = ApiKey(
    tenant="acme",
    key_id="key_1",
    key_prefix="cyc_live_abcde",
    secret_hash="0" * 64,
    name="bot",
    status=KeyStatus.ACTIVE,
    permissions=("reservations:create",),
    scope_filter=("agent:bot",),
    created_at_ms=0,
    expires_at_ms=START_MS + 10**9,
)

POLICY = Policy(
    tenant="acme",
    policy_id="pol_1",
    name="slow down",
    scope_pattern="agent:*",
    status=PolicyStatus.ACTIVE,
    created_at_ms=0,
    updated_at_ms=0,
    rates=RateLimits(9),
)

# Every verb that changes a record, so that a sound ledger is more than a pair of reservations.
STORY: list[tuple[int, AnyCommand]] = [
    (
        0,
        CreateTenant(tenant="acme", record=Tenant("acme", "Acme", TenantStatus.ACTIVE, 0)),
    ),
    (0, CreateBudget(tenant="acme", budget=budget(TOP))),
    (0, CreateBudget(tenant="acme", budget=budget(BOT))),
    (0, CreateBudget(tenant="acme", budget=budget(TOP, Unit.TOKENS))),
    (0, CreateKey(tenant="acme", record=KEY)),
    (1, reserve("settled", 100)),
    (1, reserve("returned", 50)),
    (1, reserve("lapsed", 30, ttl_ms=1_000)),
    (1, reserve("open", 200)),
    (2, Extend(tenant="acme", reservation_id="open", extend_by_ms=60_000)),
    (3, Commit(tenant="acme", reservation_id="settled", unit=USD, actual_amount=70)),
    (3, Release(tenant="acme", reservation_id="returned")),
    (2_000, Expire(tenant="acme", reservation_id="lapsed")),
    (
        2_000,
        Debit(
            tenant="acme",
            event_id="e",
            unit=USD,
            actual_amount=760,
            scopes=(TOP, BOT),
            subject="{}",
            action="{}",
            overage_policy=OveragePolicy.ALLOW_WITH_OVERDRAFT,
        ),
    ),
    (
        2_001,
        Fund(
            tenant="acme",
            scope=TOP,
            unit=USD,
            operation=FundOperation.CREDIT,
            amount_unit=USD,
            amount=500,
        ),
    ),
    (2_002, Freeze(tenant="acme", scope=TOP, unit=Unit.TOKENS)),
    (2_002, CreatePolicy(tenant="acme", record=POLICY)),
    (2_002, UpdatePolicy(tenant="acme", policy_id="pol_1", priority=3)),
    (
        2_002,
        UpdateBudget(
            tenant="acme", scope=BOT, unit=USD, limit_unit=USD, edit=BudgetEdit(overdraft_limit=900)
        ),
    ),
    (2_002, UpdateKey(tenant="acme", key_id="key_1", edit=KeyEdit(permissions=("balances:read",)))),
    (
        2_002,
        UpdateTenant(tenant="acme", edit=TenantEdit(name="Acme"), status=TenantStatus.SUSPENDED),
    ),
    (
        2_003,
        CreateTenant(tenant="beta", record=Tenant("beta", "Beta", TenantStatus.ACTIVE, 0)),
    ),
]


def told(store: Store) -> None:
    """Execute the story; every command of it is accepted."""
    clock = FakeClock()
    ledger = Ledger(store, clock, render)
    for at_ms, command in STORY:
        clock.set_ms(START_MS + at_ms)
        (outcome,) = ledger.execute([command])
        assert isinstance(outcome, Accepted), (command, outcome)


class Tampered:
    """A reader of a sound ledger whose answers a test may falsify, one method at a time."""

    def __init__(self, store: Store) -> None:
        self.sound = store.reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sound, name)

    def falsify_budget(self, change: Callable[[Budget], Budget | None]) -> None:
        def budgets(query: BudgetQuery) -> Page[Budget]:
            page = self.sound.budgets(query)
            changed = [change(row) for row in page.rows]
            return Page([row for row in changed if row is not None], page.after)

        self.budgets = budgets

    def falsify_log(self, change: Callable[[list[Entry]], list[Entry]]) -> None:
        def entries(tenant: str, after_seq: int = 0) -> Iterator[Entry]:
            log = list(self.sound.entries(tenant, after_seq))
            return iter(change(log) if tenant == "acme" else log)

        self.entries = entries


@pytest.fixture
def reader() -> Iterator[Tampered]:
    store = MemoryStore()
    told(store)
    yield Tampered(store)
    store.close()


def look(reader: Any) -> Report:
    return audit(reader)


def test_sound_ledger_has_no_findings(reader: Tampered) -> None:
    """Every verb leaves a ledger that agrees with its log."""
    report = look(reader)
    assert report.findings == ()
    assert report.ok
    assert (report.tenants, report.budgets, report.entries) == (2, 3, len(STORY))


def test_empty_ledger_has_no_findings() -> None:
    """Nothing is sound, too."""
    assert audit(MemoryStore().reader) == Report(0, 0, 0, ())


def top(row: Budget, **changes: Any) -> Budget:
    return replace(row, **changes) if (row.scope, row.unit) == (TOP, USD) else row


BUDGETS: dict[str, tuple[Callable[[Budget], Budget | None], str]] = {
    "spent without remaining": (
        lambda row: top(row, spent=row.spent + 1),
        "budget tenant:acme (USD_MICROCENTS) of tenant acme: invariant broken: allocated",
    ),
    "negative debt": (
        lambda row: top(row, debt=-1, remaining=row.remaining + row.debt + 1),
        "never negative",
    ),
    "spent moved to remaining": (
        lambda row: top(row, spent=row.spent - 5, remaining=row.remaining + 5),
        "tenant acme: budget tenant:acme USD_MICROCENTS is [",
    ),
    "reserved without reservation": (
        lambda row: top(row, reserved=row.reserved + 5, remaining=row.remaining - 5),
        "reserved is 205, but the active reservations hold 200",
    ),
    "status": (
        lambda row: top(row, status=BudgetStatus.FROZEN),
        "but the log says",
    ),
    "overdraft limit": (lambda row: top(row, overdraft_limit=10**6), "but the log says"),
    "over-limit flag": (lambda row: top(row, is_over_limit=True), "but the log says"),
    "gone": (
        lambda row: None if (row.scope, row.unit) == (TOP, USD) else row,
        "tenant acme: budget tenant:acme USD_MICROCENTS is in the log, but not stored",
    ),
    "gone, its holds left": (
        lambda row: None if (row.scope, row.unit) == (TOP, USD) else row,
        "active reservations hold 200 USD_MICROCENTS at tenant:acme, where there is no budget",
    ),
    "made by nobody": (
        lambda row: replace(row, scope="tenant:acme/app:x") if row.unit is Unit.TOKENS else row,
        "budget tenant:acme/app:x TOKENS is stored, but the log never made it",
    ),
}


@pytest.mark.parametrize("case", BUDGETS)
def test_falsified_budget_is_found(reader: Tampered, case: str) -> None:
    """A balance that was changed behind the ledger's back is found."""
    change, expected = BUDGETS[case]
    reader.falsify_budget(change)
    report = look(reader)
    assert not report.ok
    assert any(expected in finding for finding in report.findings), report.findings


def resealed(log: list[Entry]) -> list[Entry]:
    """Return the log with every hash computed anew, as a careful forger would leave it."""
    sealed: list[Entry] = []
    previous = "0" * 64
    for seq, entry in enumerate(log, 1):
        entry = replace(entry, seq=seq, prev_hash=previous)
        sealed.append(replace(entry, entry_hash=digest(entry)))
        previous = sealed[-1].entry_hash
    return sealed


def changed(log: list[Entry], position: int, **fields: Any) -> list[Entry]:
    return [*log[:position], replace(log[position], **fields), *log[position + 1 :]]


def states(log: list[Entry], position: int, kind: str, row: int, column: int, value: Any) -> str:
    """Return the changes of one entry with one value of one recorded state replaced."""
    recorded = json.loads(log[position].changes)
    recorded[kind][row][column] = value
    return json.dumps(recorded, separators=(",", ":"))


COMMIT = next(at for at, (_, command) in enumerate(STORY) if isinstance(command, Commit))
OPEN = next(
    at
    for at, (_, command) in enumerate(STORY)
    if isinstance(command, Reserve) and command.reservation_id == "open"
)
RENAME = next(at for at, (_, command) in enumerate(STORY) if isinstance(command, UpdateTenant))
LAST_KEY = next(at for at, (_, command) in enumerate(STORY) if isinstance(command, UpdateKey))

LOGS: dict[str, tuple[Callable[[list[Entry]], list[Entry]], str]] = {
    "answer altered": (
        lambda log: changed(log, COMMIT, body=b'{"status":"COMMITTED"}'),
        f"entry {COMMIT + 1} was altered: its content does not match its hash",
    ),
    "time altered": (
        lambda log: changed(log, COMMIT, at_ms=log[COMMIT].at_ms - 1),
        f"entry {COMMIT + 1} was altered",
    ),
    "amount altered": (
        lambda log: changed(log, COMMIT, changes=states(log, COMMIT, "budgets", 0, 5, 1)),
        f"entry {COMMIT + 1} was altered",
    ),
    "one resealed, not its followers": (
        lambda log: changed(log, COMMIT, entry_hash="f" * 64),
        f"entry {COMMIT + 2} does not continue the hash of entry {COMMIT + 1}",
    ),
    "dropped": (
        lambda log: log[:COMMIT] + log[COMMIT + 1 :],
        f"entry {COMMIT + 2} follows entry {COMMIT}; entries between them are missing",
    ),
    "dropped and resealed": (
        lambda log: resealed(log[:COMMIT] + log[COMMIT + 1 :]),
        "log of tenant acme: ends at entry",
    ),
    "swapped": (
        lambda log: [*log[:5], log[6], log[5], *log[7:]],
        "entry 7 follows entry 5",
    ),
    "cut off": (lambda log: log[:-1], "its head says"),
    "emptied": (lambda log: [], "ends at entry 0"),
    "older than the one before": (
        lambda log: resealed(changed(log, COMMIT, at_ms=0)),
        f"entry {COMMIT + 1} is older than entry {COMMIT}",
    ),
    "changes cannot be read": (
        lambda log: resealed(changed(log, COMMIT, changes='{"budgets":[[]]}')),
        f"entry {COMMIT + 1} has changes that cannot be read: IndexError",
    ),
    "changes are not JSON": (
        lambda log: resealed(changed(log, COMMIT, changes="{")),
        "cannot be read: JSONDecodeError",
    ),
    "settled twice": (
        lambda log: resealed([*log[: COMMIT + 1], log[COMMIT], *log[COMMIT + 1 :]]),
        f"entry {COMMIT + 2} ends reservation settled, which was not active",
    ),
    "settled before it was made": (
        lambda log: resealed([*log[:5], log[COMMIT], *log[5:COMMIT], *log[COMMIT + 1 :]]),
        "entry 6 ends reservation settled, which was not active",
    ),
    "a larger hold": (
        lambda log: resealed(
            changed(log, OPEN, changes=states(log, OPEN, "reservations", 0, 3, 900))[: OPEN + 1]
        ),
        "but the open leases in the log hold",
    ),
    "another key": (
        lambda log: resealed(
            changed(log, LAST_KEY, changes=states(log, LAST_KEY, "keys", 0, 1, "REVOKED"))
        ),
        "tenant acme: API key key_1 is ['key_1', 'ACTIVE'",
    ),
    "another tenant's name": (
        lambda log: resealed(
            changed(log, RENAME, changes=states(log, RENAME, "tenants", 0, 2, "Evil"))
        ),
        "but the log says ['acme', 'SUSPENDED', 'Evil', None, ",
    ),
}


@pytest.mark.parametrize("case", LOGS)
def test_falsified_log_is_found(reader: Tampered, case: str) -> None:
    """A log that was cut, reordered, rewritten or resealed is found."""
    change, expected = LOGS[case]
    reader.falsify_log(change)
    report = look(reader)
    assert not report.ok
    assert any(expected in finding for finding in report.findings), report.findings


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*args: object) -> Any:
        raise error

    return fail


def cut_log(reader: Tampered) -> Callable[..., Iterator[Entry]]:
    def entries(tenant: str, after_seq: int = 0) -> Iterator[Entry]:
        yield from list(reader.sound.entries(tenant, after_seq))[:2]
        raise StoreError("page 7 is torn")

    return entries


OTHERS: dict[str, tuple[Callable[[Tampered], dict[str, Any]], str]] = {
    "a hold is gone": (
        lambda reader: {"held": dict},
        "reserved is 200, but the active reservations hold 0",
    ),
    "a head was moved": (
        lambda reader: {"heads": lambda: {**reader.sound.heads(), "acme": Head(99, "0" * 64, 0)}},
        "log of tenant acme: ends at entry 21",
    ),
    "a head is gone": (
        lambda reader: {"heads": lambda: {"beta": reader.sound.heads()["beta"]}},
        "tenant acme is stored, but the log never made it",
    ),
    "a tenant is gone": (
        lambda reader: {"tenants": lambda query: Page([], None)},
        "tenant acme is in the log, but not stored",
    ),
    "a tenant was reopened": (
        lambda reader: {
            "tenants": lambda query: Page(
                [
                    replace(row, status=TenantStatus.CLOSED)
                    for row in reader.sound.tenants(TenantQuery()).rows
                ],
                None,
            )
        },
        "tenant beta is ['beta', 'CLOSED', 'Beta', ",
    ),
    "a key is gone": (
        lambda reader: {"key": lambda key_id: None},
        "tenant acme: API key key_1 is in the log, but not stored",
    ),
    "a policy is gone": (
        lambda reader: {"policies": lambda query: Page([], None)},
        "tenant acme: policy pol_1 is in the log, but not stored",
    ),
    "a policy was changed": (
        lambda reader: {
            "policies": lambda query: Page(
                [replace(row, rates=RateLimits(10)) for row in reader.sound.policies(query).rows],
                None,
            )
        },
        "tenant acme: policy pol_1 is ['pol_1', 'ACTIVE', 'slow down', None, 'agent:*', 3",
    ),
    "policies cannot be read": (
        lambda reader: {"policies": raising(StoreError("torn"))},
        "policies of tenant acme cannot be read: torn",
    ),
    "budgets cannot be read": (
        lambda reader: {"budgets": raising(StoreError("budget x: broken"))},
        "budgets cannot be read: budget x: broken",
    ),
    "tenants cannot be read": (
        lambda reader: {"tenants": raising(StoreError("torn"))},
        "tenants cannot be read: torn",
    ),
    "reservations cannot be read": (
        lambda reader: {"held": raising(StoreError("torn"))},
        "active reservations cannot be read: torn",
    ),
    "a key cannot be read": (
        lambda reader: {"key": raising(StoreError("torn"))},
        "API key key_1 cannot be read: torn",
    ),
    "the log cannot be read": (
        lambda reader: {"entries": cut_log(reader)},
        "log of tenant acme: cannot be read after entry 2: page 7 is torn",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_falsifications_are_found(reader: Tampered, case: str) -> None:
    """Lost, changed and unreadable records of every other kind are found."""
    change, expected = OTHERS[case]
    vars(reader).update(change(reader))
    report = look(reader)
    assert not report.ok
    assert any(expected in finding for finding in report.findings), report.findings


@pytest.mark.parametrize("length", [4, 5])
def test_a_log_of_an_earlier_version_is_sound(reader: Tampered, length: int) -> None:
    """States of tenants and keys that end earlier are compared as far as they go."""

    def older(log: list[Entry]) -> list[Entry]:
        for at, entry in enumerate(log):
            recorded = json.loads(entry.changes)
            for kind, values in (("tenants", 3), ("keys", length)):
                if kind in recorded:
                    recorded[kind] = [state[:values] for state in recorded[kind]]
            log[at] = replace(entry, changes=json.dumps(recorded))
        return resealed(log)

    reader.falsify_log(older)
    heads = dict(reader.sound.heads())
    last = older(list(reader.sound.entries("acme")))[-1]
    vars(reader)["heads"] = lambda: heads | {"acme": Head(last.seq, last.entry_hash, last.at_ms)}
    assert look(reader).findings == ()
    vars(reader)["key"] = lambda key_id: replace(KEY, status=KeyStatus.REVOKED)
    assert ["API key key_1" in finding for finding in look(reader).findings] == [True]


def test_findings_are_limited(reader: Tampered) -> None:
    """A ledger that is wrong everywhere gets a list that a person can read."""
    reader.falsify_log(lambda log: [replace(log[0], seq=at) for at in range(1, 500)])
    report = look(reader)
    assert len(report.findings) == FINDINGS_MAX
    assert report.findings[-1] == "and more; these are the first"


def test_long_lists_are_read_to_the_end() -> None:
    """Budgets beyond the first page are audited as well."""
    store = MemoryStore()
    ledger = Ledger(store, FakeClock(), render)
    tenant = CreateTenant(tenant="acme", record=Tenant("acme", "Acme", TenantStatus.ACTIVE, 0))
    scopes = [f"tenant:acme/agent:a{number:04d}" for number in range(1_201)]
    ledger.execute([tenant, *(CreateBudget(tenant="acme", budget=budget(at)) for at in scopes)])
    reader = Tampered(store)
    assert look(reader) == Report(1, 1_201, 1_202, ())
    reader.falsify_budget(
        lambda row: replace(row, overdraft_limit=7) if row.scope == scopes[-1] else row
    )
    assert [scopes[-1] in finding for finding in look(reader).findings] == [True]


def test_moving_ledger_is_read_again(reader: Tampered) -> None:
    """A commit between two reads is not a finding; a ledger that never rests is."""
    real = dict(reader.sound.heads())
    answers: list[Mapping[str, Head]] = [{}, real, real, real]
    vars(reader)["heads"] = lambda: answers.pop(0)
    assert look(reader).ok
    counter = iter(range(100))
    vars(reader)["heads"] = lambda: {**real, "x": Head(next(counter), "", 0)}
    assert look(reader).findings == (
        "the ledger kept changing while it was read; audit it when it is quiet",
    )


ROWS = {
    "balance": "UPDATE budget SET spent = spent + 1, remaining = remaining - 1",
    "identity": "UPDATE budget SET spent = spent + 1 WHERE scope = 'tenant:acme'",
    "reservation settled": "UPDATE reservation SET status = 'COMMITTED' WHERE status = 'ACTIVE'",
    "reservation reopened": "UPDATE reservation SET status = 'ACTIVE' WHERE status = 'RELEASED'",
    "reservation dropped": "DELETE FROM reservation WHERE reservation_id = 'open'",
    "settled charge changed": "UPDATE reservation SET charged_amount = charged_amount + 1 "
    "WHERE status = 'COMMITTED'",
    "settled estimate changed": "UPDATE reservation SET estimate_amount = estimate_amount + 1 "
    "WHERE status <> 'ACTIVE'",
    "settled otherwise": "UPDATE reservation SET status = 'COMMITTED' WHERE status = 'EXPIRED' "
    "OR status = 'RELEASED'",
    "lease lengthened": "UPDATE reservation SET expires_at_ms = expires_at_ms + 1",
    "tenant reopened": "UPDATE tenant SET status = 'SUSPENDED' WHERE tenant = 'beta'",
    "key revoked": "UPDATE api_key SET status = 'REVOKED'",
    "key lives longer": "UPDATE api_key SET expires_at_ms = expires_at_ms + 1",
    "key taken over": "UPDATE api_key SET secret_hash = 'aaaa'",
    "key renamed": "UPDATE api_key SET name = 'other'",
    "key reaches further": "UPDATE api_key SET scope_filter = '[]'",
    "longer leases": "UPDATE tenant SET ttl_max_ms = ttl_max_ms + 1 WHERE tenant = 'acme'",
    "entry altered": "UPDATE entry SET key = 'other' WHERE seq = 8",
    "entry dropped": "DELETE FROM entry WHERE seq = 3",
    "last entry dropped": "DELETE FROM entry WHERE tenant = 'acme' AND seq = 21",
    "head moved": "UPDATE head SET seq = seq - 1",
    "policy changed": "UPDATE policy SET caps = '{\"max_tokens\":9}'",
    "policy dropped": "DELETE FROM policy",
    "budget dropped": "DELETE FROM budget WHERE unit = 'TOKENS'",
}


@pytest.mark.parametrize("case", ROWS)
def test_altered_file_is_found(tmp_path: Path, case: str) -> None:
    """What somebody changes in the file with SQL is found."""
    store = SqliteStore.open(tmp_path / "ledger.db")
    try:
        told(store)
        assert audit(store.reader) == Report(2, 3, len(STORY), ())
        with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as other, other:
            assert other.execute(ROWS[case]).rowcount > 0
        assert not audit(store.reader).ok
    finally:
        store.close()


def test_reservation_type_is_used() -> None:
    """A reservation's recorded state still has the columns that the audit reads."""
    store = MemoryStore()
    told(store)
    row = store.reader.reservation("acme", "open")
    assert isinstance(row, Reservation)
    entry = list(store.reader.entries("acme"))[OPEN]
    state = json.loads(entry.changes)["reservations"][0]
    assert state[:4] == ["open", "ACTIVE", "USD_MICROCENTS", 200]
    assert state[7] == [TOP, BOT]
