"""The audit log and the overview's counts, read from SQLite.

The rule that lives here: entries and failures are read apart, each by its own index, and
put into one order afterwards. A list by time walks `(at_ms, tenant)`, whatever else is
asked, so that a page costs the same at ten entries and at a million.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from bursar.core.trail import (
    SILENT,
    VERBS,
    AuditLine,
    AuditQuery,
    AuditSort,
    operation_of,
    resource_type_of,
)
from bursar.ledger.ports import After, Census, Page
from bursar.storage import rows
from bursar.storage.sqlite.where import Where
from bursar.vocabulary import BudgetStatus, TenantStatus, Unit

All = Callable[[str, Sequence[Any]], list[Any]]
Placed = tuple[After, AuditLine]

_ENTRY_ID = "(tenant || '.' || printf('%012d', seq))"
# What an id has and the JSON text of an entry's changes may spell otherwise.
_JOINED = re.compile(r'[/"\\\x00-\x1f]')
_RESOURCE = "coalesce(resource_id(verb, tenant, changes), '')"


def _by_verb(word: Callable[[str], str | None], otherwise: str) -> str:
    """Return SQL for what a verb is called; the words are this program's own."""
    cases = " ".join(f"WHEN '{verb}' THEN '{word(verb)}'" for verb in VERBS)
    return f"(CASE verb {cases} ELSE {otherwise} END)"


_ENTRY_SORT = {
    AuditSort.TIMESTAMP: "at_ms",
    AuditSort.OPERATION: _by_verb(operation_of, "lower(substr(verb, 1, 1)) || substr(verb, 2)"),
    AuditSort.RESOURCE_TYPE: _by_verb(resource_type_of, "''"),
    AuditSort.TENANT_ID: "tenant",
    AuditSort.KEY_ID: "coalesce(key_id, '')",
    AuditSort.STATUS: "status",
}
_FAILURE_SORT = _ENTRY_SORT | {
    AuditSort.OPERATION: "operation",
    AuditSort.RESOURCE_TYPE: "coalesce(resource_type, '')",
}


def page(query: AuditQuery, ask: All) -> Page[AuditLine]:
    """Return a page of both tables in one order."""
    found = [*_failures(query, ask), *([] if query.error_codes else _entries(query, ask))]
    found.sort(key=lambda placed: placed[0][1])
    # Sorting is stable, reversed too: equal values stay in the order of their ids.
    found.sort(key=lambda placed: placed[0][0], reverse=query.descending)
    shown = found[: query.limit]
    more = len(found) > query.limit
    return Page([line for _, line in shown], shown[-1][0] if more else None)


def _entries(query: AuditQuery, ask: All) -> list[Placed]:
    where = Where()
    sort = _ENTRY_SORT[query.sort_by]
    by_time = query.sort_by is AuditSort.TIMESTAMP
    _common(where, query)
    where.add("verb <> ?", SILENT)
    if query.operations:
        where.one_of("verb", [v for v in VERBS if operation_of(v) in query.operations])
    if query.resource_types:
        where.one_of("verb", [v for v in VERBS if resource_type_of(v) in query.resource_types])
    if query.resource_id is not None:
        # Reading the changes is dear; most entries do not even mention the id.
        named = query.resource_id.rpartition("/")[0] or query.resource_id
        where.conditions.append("(tenant = ? OR instr(changes, ?) > 0)")
        where.values += [query.resource_id, named]
        where.add(f"{_RESOURCE} = ?", query.resource_id)
    if query.search:
        part = query.search.casefold()
        called = [verb for verb in VERBS if part in operation_of(verb).casefold()]
        id_has_it = f"instr(fold({_RESOURCE}), ?) > 0"
        values = [part]
        if not _JOINED.search(part):  # reading an id is dear: the text that holds it comes first
            id_has_it = f"(instr(fold(changes), ?) > 0 AND {id_has_it})"
            values = [part, part]
        where.conditions.append(
            f"(verb IN ({', '.join('?' * len(called))}) OR instr(fold({_ENTRY_ID}), ?) > 0 "
            f"OR {id_has_it})"  # a tenant's own id is part of every log id
        )
        where.values += [*called, part, *values]
    table = "entry INDEXED BY entry_by_time" if by_time else "entry"
    # Within one tenant the number orders as the id does, and there is an index for it.
    tie = "seq" if query.sort_by is AuditSort.TENANT_ID else _ENTRY_ID
    sql = _select(rows.ENTRY, table, where, (sort, _ENTRY_ID, tie), query)
    return [((row[-2], row[-1]), rows.entry(row[:-2])) for row in ask(sql, where.values)]


def _failures(query: AuditQuery, ask: All) -> list[Placed]:
    where = Where()
    sort = _FAILURE_SORT[query.sort_by]
    by_time = query.sort_by is AuditSort.TIMESTAMP
    _common(where, query)
    for column, values in (
        ("operation", query.operations),
        ("resource_type", query.resource_types),
        ("error_code", query.error_codes),
    ):
        if values:
            where.one_of(column, values)
    if query.error_codes_exclude:
        where.one_of("error_code NOT", query.error_codes_exclude)
    where.add("resource_id = ?", query.resource_id)
    if query.search:
        columns = ("coalesce(resource_id, '')", "request_id", "error_code", "operation")
        where.conditions.append(
            "(" + " OR ".join(f"instr(fold({column}), ?) > 0" for column in columns) + ")"
        )
        where.values += [query.search.casefold()] * len(columns)
    table = "failure INDEXED BY failure_by_time" if by_time else "failure"
    sql = _select(rows.FAILURE, table, where, (sort, "request_id", "request_id"), query)
    return [((row[-2], row[-1]), rows.failure(row[:-2])) for row in ask(sql, where.values)]


def _common(where: Where, query: AuditQuery) -> None:
    """Add the filters that both tables have a column for."""
    where.add("tenant = ?", query.tenant)
    where.add("key_id = ?", query.key_id)
    where.add("status >= ?", query.status_min)
    where.add("status <= ?", query.status_max)
    where.add("at_ms >= ?", query.from_ms)
    where.add("at_ms <= ?", query.to_ms)
    where.add("trace_id = ?", query.trace_id)
    where.add("request_id = ?", query.request_id)


def _select(
    columns: str, table: str, where: Where, order: tuple[str, str, str], query: AuditQuery
) -> str:
    """Return the statement for one more than a page, and add the place where it begins."""
    sort, row_id, tie = order
    if query.after is not None:  # says what `after` says once more, in words an index knows
        where.add(f"{sort} {'<=' if query.descending else '>='} ?", query.after[0])
    where.after(sort, row_id, query.descending, query.after)
    direction = "DESC" if query.descending else "ASC"
    return (
        f"SELECT {columns}, {sort}, {row_id} FROM {table} WHERE {where.sql()} "
        f"ORDER BY {sort} {direction}, {tie} ASC LIMIT {int(query.limit) + 1}"
    )


def census(denials: Sequence[str], since_ms: int, ask: All) -> Census:
    """Return the counts of everything, and of refused reserves with these codes."""
    statuses: dict[str, int] = dict(ask("SELECT status, count(*) FROM tenant GROUP BY status", ()))
    budgets = ask(
        "SELECT status, unit, count(*), sum(is_over_limit), sum(debt > 0) FROM budget "
        "GROUP BY status, unit",
        (),
    )
    denied = ask(
        "SELECT error_code, count(*) FROM failure INDEXED BY failure_by_time WHERE at_ms >= ? "
        f"AND operation = 'createReservation' AND error_code IN ({', '.join('?' * len(denials))}) "
        "GROUP BY error_code",
        (since_ms, *denials),
    )
    return Census(
        tenants={status: statuses.get(status, 0) for status in TenantStatus},
        budgets={s: sum(row[2] for row in budgets if row[0] == s) for s in BudgetStatus},
        budgets_by_unit={u: sum(row[2] for row in budgets if row[1] == u) for u in Unit},
        over_limit=sum(row[3] for row in budgets),
        with_debt=sum(row[4] for row in budgets),
        denials=dict(denied),
    )
