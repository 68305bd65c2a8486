"""What happened, in the words of a table: one leading word and facts by name."""

import json
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from bursar.core.entry import Entry
from bursar.core.outcomes import (
    Answer,
    BudgetAnswer,
    BulkAnswer,
    BulkPlan,
    Committed,
    Debited,
    Decided,
    Expired,
    Extended,
    Funded,
    KeyAnswer,
    PolicyAnswer,
    Refused,
    Released,
    Reserved,
    TenantAnswer,
)
from bursar.core.state import ApiKey, Budget, Policy, Reservation, Tenant
from bursar.ledger.service import Accepted
from bursar.vocabulary import ErrorCode
from core.values import policy_name, scope_path, short, shown, unit
from core.world import START_MS, World

Facts = tuple[str, dict[str, object]]
REFUSALS = frozenset(code.value for code in ErrorCode)


def of_outcome(outcome: Accepted | Refused) -> Facts:
    if isinstance(outcome, Refused):
        return outcome.code.value, {
            "reason": outcome.reason_code,
            "scope": short(outcome.scope),
            "remaining": outcome.remaining,
            "says": outcome.message,
            "fix": outcome.fix,
            "retry": span(outcome.retry_after_ms),
        } | _units(outcome.details)
    if outcome.answer is None:
        word, facts = "replay", {"id": outcome.reply.reservation_id}
    else:
        word, facts = of_answer(outcome.answer)
    if outcome.remaining_ttl_ms is not None:
        facts["ttl"] = f"{outcome.remaining_ttl_ms}ms"
        facts["expires"] = when(outcome.reply.lease_expires_at_ms)
    return word, facts


def _units(details: Mapping[str, Any]) -> dict[str, object]:
    """Flatten the details of a unit mismatch: where, the unit asked for, the units there."""
    if "requested_unit" not in details:
        return {"policy": details.get("policy_id")}
    return {
        "at": short(str(details["scope"])),
        "asked": details["requested_unit"],
        "units": ",".join(details["expected_units"]),
    }


def of_answer(answer: Answer) -> Facts:
    match answer:
        case Reserved():
            row = answer.reservation
            held = {"id": row.reservation_id, "reserved": row.estimate_amount}
            held |= {"caps": _caps(answer.caps)}
            return answer.decision.value, held | _balances(answer.balances)
        case Decided():
            asked = {"id": None, "expires": None, "reason": answer.reason_code}
            asked |= {"caps": _caps(answer.caps)}
            return answer.decision.value, asked | _balances(answer.balances)
        case Committed():
            facts = {"charged": answer.charged_amount, "released": answer.released_amount}
            return "COMMITTED", facts | _balances(answer.balances)
        case Released():
            facts = {"released": answer.released_amount}
            return "RELEASED", facts | _balances(answer.balances)
        case Extended():
            return "ACTIVE", _balances(answer.balances)
        case Expired():
            return "EXPIRED", {"id": answer.reservation.reservation_id}
        case Debited():
            facts = {"id": answer.event_id, "charged": answer.charged_amount}
            return "APPLIED", facts | _balances(answer.balances)
        case Funded():
            before, after = of_budget(answer.before)[1], of_budget(answer.after)[1]
            return "FUNDED", after | {f"was_{name}": value for name, value in before.items()}
        case BulkPlan():
            rows = ",".join(target.row_id for target in answer.targets)
            return "BEGUN", {"id": answer.bulk_id, "rows": rows, "at": when(answer.begun_at_ms)}
        case BulkAnswer():
            rows = answer.outcomes
            return "FINISHED", {
                "key": answer.key,
                "done": ",".join(row.row_id for row in rows if row.succeeded),
                "failed": ",".join(row.row_id for row in rows if row.error),
                "skipped": ",".join(row.row_id for row in rows if row.skipped),
            }
        case BudgetAnswer():
            word, facts = of_budget(answer.budget)
        case TenantAnswer():
            word, facts = of_tenant(answer.tenant)
        case KeyAnswer():
            word, facts = of_key(answer.key)
        case PolicyAnswer():
            word, facts = of_policy(answer.policy)
        case _:
            assert_never(answer)
    return word, facts | {"created": answer.created}


def _balances(budgets: tuple[Budget, ...]) -> dict[str, object]:
    """Say which scopes an answer has balances of, and what each has left."""
    left = [f"{short(budget.scope)}:{budget.remaining}" for budget in budgets]
    return {"balances": ",".join(left) or None}


def of_budget(row: Budget) -> Facts:
    return row.status.value, {
        "allocated": row.allocated,
        "remaining": row.remaining,
        "reserved": row.reserved,
        "spent": row.spent,
        "debt": row.debt,
        "limit": row.overdraft_limit,
        "over": row.is_over_limit,
        "made": when(row.created_at_ms),
        "overage": row.overage_policy and policy_name(row.overage_policy),
        "metadata": row.metadata,
        "updated": when(row.updated_at_ms),
        "rollover": row.rollover_policy.value,
        "begins": when(row.period_start_ms),
        "ends": when(row.period_end_ms),
        "allocation": row.renewal and row.renewal.allocation,
    }


def of_reservation(row: Reservation) -> Facts:
    return row.status.value, {
        "reserved": row.estimate_amount,
        "charged": row.charged_amount,
        "expires": when(row.expires_at_ms),
        "finalized": when(row.finalized_at_ms),
        "grace": f"{row.grace_ms}ms",
        "extensions": f"{row.extensions}/{row.extensions_max}",
        "overage": policy_name(row.overage_policy),
        "scopes": ",".join(map(short, row.affected_scopes)),
        "budgeted": ",".join(map(short, row.budgeted_scopes)),
        "reason": row.reason,
    }


def of_tenant(row: Tenant) -> Facts:
    times = {
        "closed": when(row.closed_at_ms),
        "made": when(row.created_at_ms),
        "suspended": when(row.suspended_at_ms),
        "updated": when(row.updated_at_ms),
    }
    return shown(row.status), times | {
        "name": row.name,
        "overage": row.overage_policy and policy_name(row.overage_policy),
        "ttl": f"{row.ttl_default_ms}ms",
        "ttl_max": f"{row.ttl_max_ms}ms",
        "extensions": row.extensions_max,
        "metadata": row.metadata,
    }


def of_key(row: ApiKey) -> Facts:
    return row.status.value, {
        "reason": row.revoked_reason,
        "revoked": when(row.revoked_at_ms),
        "made": when(row.created_at_ms),
        "name": row.name,
        "description": row.description,
        "may": ",".join(row.permissions) or None,
        "reaches": ",".join(row.scope_filter) or None,
        "metadata": row.metadata,
    }


def look(world: World, kind: str, name: str, options: Mapping[str, str]) -> Facts:
    """Look one thing up; a thing that is not there is `none`."""
    if kind == "log":
        return of_log(world.log(name))
    owner, tables = options.get("as", "acme"), world.tables
    found: Any
    match kind:
        case "budget":
            found = tables.budgets.get((owner, scope_path(name), unit(options.get("unit"))))
        case "reservation":
            found = tables.reservations.get((owner, name))
        case "key":
            found = tables.keys.get((owner, name))
        case "policy":
            found = tables.policies.get((owner, name))
        case _:
            found = tables.tenants.get(name)
    return LOOKUPS[kind](found) if found else ("none", {})


def of_policy(row: Policy) -> Facts:
    lease = (row.lease.ttl_default_ms, row.lease.ttl_max_ms)
    rates = (row.rates.reservations_per_minute_max, row.rates.commits_per_minute_max)
    return row.status.value, {
        "name": row.name,
        "description": row.description,
        "at": short(row.scope_pattern),
        "priority": row.priority,
        "caps": _caps(row.caps),
        "overage": row.overage_policy and policy_name(row.overage_policy),
        "ttl": "/".join(shown(span(part)) for part in lease),
        "extensions": row.lease.extensions_max,
        "rates": "/".join(map(shown, rates)),
        "from": when(row.effective_from_ms),
        "until": when(row.effective_until_ms),
        "made": when(row.created_at_ms),
        "updated": when(row.updated_at_ms),
    }


def _caps(text: str | None) -> int | None:
    return None if text is None else json.loads(text)["max_tokens"]


def span(length_ms: int | None) -> str | None:
    return None if length_ms is None else f"{length_ms}ms"


def of_log(entries: list[Entry]) -> Facts:
    if not entries:
        return "0", {}
    last = entries[-1]
    return str(len(entries)), {"last": last.verb, "actor": last.actor, "at": when(last.at_ms)}


def when(at_ms: int | None) -> str | None:
    """Write a time as the span since the world began."""
    return None if at_ms is None else f"{at_ms - START_MS}ms"


LOOKUPS: dict[str, Callable[[Any], Facts]] = {
    "budget": of_budget,
    "reservation": of_reservation,
    "tenant": of_tenant,
    "key": of_key,
    "policy": of_policy,
    "log": of_log,
}
