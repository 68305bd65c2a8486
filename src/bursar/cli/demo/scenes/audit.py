"""Scene 7: the ledger against itself, and against everything that anybody was told.

The rule that lives here: the audit reads the file, not the server, and adds everything up
again. What the demo remembers is only the answers it was given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import RenderableType

from bursar.cli.demo.journal import EXPIRE, Log
from bursar.cli.demo.show import facts, table
from bursar.cli.demo.stage import TENANT, Check, Outcome, Scene, Stage, usd
from bursar.core.state import Budget
from bursar.ledger import audit
from bursar.ledger.ports import BudgetQuery, BudgetSort, Reader, StoreError
from bursar.storage.sqlite.store import SqliteStore

BUDGETS_MAX = 100
FINDINGS_MAX = 20


async def play(stage: Stage) -> Outcome:
    """Stop the server unless it is kept, and check the file that it leaves."""
    checks: list[Check] = []
    if not stage.keep:
        checks.append(await _stopped(stage))
    try:
        store = SqliteStore.open(stage.server.store, create=False)
    except StoreError as error:
        return Outcome([], [*checks, Check(f"the file opens as a ledger: {error}", False)], {})
    try:
        return _audited(stage, store.reader, checks)
    finally:
        store.close()


async def _stopped(stage: Stage) -> Check:
    began = time.perf_counter()
    code = await stage.server.stop()
    took_s = time.perf_counter() - began
    return Check(f"SIGTERM: the server left with exit code {code} in {took_s:.2f} s", code == 0)


def _audited(stage: Stage, reader: Reader, checks: list[Check]) -> Outcome:
    report = audit.audit(reader)
    query = BudgetQuery(tenant=TENANT, sort_by=BudgetSort.SCOPE, limit=BUDGETS_MAX)
    budgets = reader.budgets(query).rows
    log, journal = Log(reader.entries(TENANT)), stage.journal
    leaks = _leaks(log, stage.api.secret)
    missing, unasked = journal.missing(log), journal.unasked(log)
    unbalanced, verbs = journal.unbalanced(budgets), Counter(entry.verb for entry in log.entries)
    told, balances = len(journal.acks), stage.api.balances
    checks += [
        Check(
            f"identity: allocated = remaining + spent + reserved + debt in {len(budgets)} scopes",
            all(_holds(budget) for budget in budgets),
        ),
        Check(
            f"log: {report.entries:,} entries, the chain of hashes whole, all records as it says",
            report.ok,
        ),
        Check(
            f"answers: {told - len(missing):,} of {told:,} acknowledged operations found, byte for "
            "byte",
            not missing and not journal.contradictions,
        ),
        Check(
            f"nothing else happened, but {verbs[EXPIRE]} expiry by the sweep",
            not unasked,
        ),
        Check("charges: the answers add up to what each scope has spent", not unbalanced),
        Check(
            f"balances: {balances.shown:,} were shown on the way, all sound", not balances.broken
        ),
        Check("secrets: no API key in the log", not leaks),
    ]
    findings = [*report.findings, *journal.contradictions, *missing, *unasked, *unbalanced]
    findings += [*leaks, *balances.broken]
    return Outcome(
        tables=[_table(budgets), *_problems(findings)],
        checks=checks,
        figures={
            "entries": report.entries,
            "entries_by_verb": dict(sorted(verbs.items())),
            "acknowledged": told,
            "found": told - len(missing),
            "balances_checked": balances.shown,
            "findings": findings[:FINDINGS_MAX],
            "scopes": [_figures(budget) for budget in budgets],
        },
    )


def _holds(budget: Budget) -> bool:
    used = budget.spent + budget.reserved + budget.debt
    return budget.allocated == budget.remaining + used


def _leaks(log: Log, secret: str) -> list[str]:
    return [
        f"entry {entry.seq} ({entry.verb}) contains an API secret"
        for entry in log.entries
        if secret.encode() in entry.body or secret in entry.changes
    ]


def _table(budgets: Sequence[Budget]) -> RenderableType:
    """Show the identity of each scope; debt, which the demo never makes, only if there is any."""
    indebted = any(budget.debt for budget in budgets)
    columns = ("scope", ">allocated", ">spent", ">reserved", ">debt", ">remaining")
    shown = table(*(name for name in columns if indebted or name != ">debt"))
    for budget in budgets:
        scope = "  " * budget.scope.count("/") + budget.scope.rpartition("/")[2]
        amounts = [budget.allocated, budget.spent, budget.reserved, budget.remaining]
        if indebted:
            amounts.insert(3, budget.debt)
        shown.add_row(scope, *map(usd, amounts))
    return shown


def _problems(findings: Sequence[str]) -> list[RenderableType]:
    if not findings:
        return []
    return [facts(("finding", finding) for finding in findings)]


def _figures(budget: Budget) -> dict[str, object]:
    return {
        "scope": budget.scope,
        "allocated_microcents": budget.allocated,
        "spent_microcents": budget.spent,
        "reserved_microcents": budget.reserved,
        "debt_microcents": budget.debt,
        "remaining_microcents": budget.remaining,
        "holds": _holds(budget),
    }


SCENE = Scene(
    name="audit",
    title="7  The audit",
    shows="The ledger file is added up again, and held against every answer.",
    play=play,
)
