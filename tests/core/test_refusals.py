"""What every refusal says, word for word: what blocked, the numbers, and the way out.

The tables of the verbs prove when a refusal is given; here is the sentence that people read.
"""

from dataclasses import dataclass, field

import pytest

from bursar.core.outcomes import Refused
from bursar.vocabulary import AMOUNT_MAX, ErrorCode
from core import script
from core.table import Stage, read_row

USD = "USD_MICROCENTS"
RESERVED = ["given budget acme allocated=1000", "reserve a 300 overage=REJECT"]


@dataclass(frozen=True)
class Case:
    """A world, a request, and the refusal in full."""

    rows: list[str]
    request: str
    code: ErrorCode
    message: str
    fix: str | None = None
    scope: str | None = None
    remaining: int | None = None
    reason: str | None = None
    details: dict[str, object] = field(default_factory=dict)
    in_conflict: bool = False
    retry_after_ms: int | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.request}"


TENANTS = [
    Case(
        ["given tenant acme status=unreadable"],
        "reserve a 1",
        ErrorCode.INTERNAL_ERROR,
        "Malformed tenant record: tenant:acme; an operator must repair it",
    ),
    Case(
        ["given tenant acme status=CLOSED"],
        "reserve a 1",
        ErrorCode.TENANT_CLOSED,
        "Tenant acme is closed; nothing it owns can change any more",
        "None: closing a tenant is final. Use another tenant.",
        "tenant:acme",
    ),
    Case(
        ["given tenant acme status=SUSPENDED"],
        "debit e 1",
        ErrorCode.FORBIDDEN,
        "Tenant acme is suspended: existing reservations may settle, new work may not start",
        "Reactivate tenant acme.",
        "tenant:acme",
        reason="TENANT_SUSPENDED",
    ),
    Case([], "close_tenant acme", ErrorCode.TENANT_NOT_FOUND, "Tenant not found: acme"),
    Case(
        ["given tenant acme name=Acme"],
        "create_tenant acme name=Emca",
        ErrorCode.DUPLICATE_RESOURCE,
        "Tenant acme already exists under the name 'Acme'",
    ),
]

BUDGETS = [
    Case(
        ["given budget acme allocated=1000 status=FROZEN"],
        "reserve a 1",
        ErrorCode.BUDGET_FROZEN,
        "Budget tenant:acme (USD_MICROCENTS) is frozen",
        "Unfreeze tenant:acme (USD_MICROCENTS).",
        "tenant:acme",
        1000,
    ),
    Case(
        ["given budget acme allocated=1000 status=CLOSED"],
        "debit a 1",
        ErrorCode.BUDGET_CLOSED,
        "Budget tenant:acme (USD_MICROCENTS) is closed",
        "None: closing a budget is final. Use another scope.",
        "tenant:acme",
        1000,
    ),
    Case(
        ["given budget acme allocated=100 spent=100 debt=30 limit=20 over=yes"],
        "reserve a 5",
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
        "Budget tenant:acme (USD_MICROCENTS) is over its limit: debt 30, overdraft limit 20, "
        "remaining -30",
        "REPAY_DEBT 35 USD_MICROCENTS at tenant:acme.",
        "tenant:acme",
        -30,
    ),
    Case(
        ["given budget acme allocated=100 debt=30"],
        "reserve a 5",
        ErrorCode.DEBT_OUTSTANDING,
        "Budget tenant:acme (USD_MICROCENTS) owes 30 and allows no overdraft",
        "REPAY_DEBT 30 USD_MICROCENTS at tenant:acme.",
        "tenant:acme",
        70,
    ),
    Case(
        ["given budget acme allocated=100", "given budget acme/agent:bot allocated=40"],
        "reserve a 150 at=acme/agent:bot",
        ErrorCode.BUDGET_EXCEEDED,
        "Insufficient remaining budget for scope tenant:acme: 100 USD_MICROCENTS remaining, 150 "
        "requested",
        "Lower the estimate to at most 40, or credit 50 USD_MICROCENTS to tenant:acme and 110 "
        "USD_MICROCENTS to tenant:acme/agent:bot.",
        "tenant:acme",
        100,
    ),
    Case(
        ["given budget acme allocated=0"],
        "reserve a 150",
        ErrorCode.BUDGET_EXCEEDED,
        "Insufficient remaining budget for scope tenant:acme: 0 USD_MICROCENTS remaining, 150 "
        "requested",
        "Credit 150 USD_MICROCENTS to tenant:acme.",
        "tenant:acme",
        0,
    ),
    Case(
        ["given budget acme allocated=9 unit=TOKENS", "given budget acme allocated=9 unit=CREDITS"],
        "reserve a 1 at=acme/agent:bot",
        ErrorCode.UNIT_MISMATCH,
        "No budget along tenant:acme/agent:bot counts in USD_MICROCENTS; tenant:acme counts in "
        "TOKENS, CREDITS",
        "Ask in TOKENS, CREDITS, or create a USD_MICROCENTS budget at tenant:acme.",
        "tenant:acme",
        details={
            "scope": "tenant:acme",
            "requested_unit": USD,
            "expected_units": ["TOKENS", "CREDITS"],
        },
    ),
    Case(
        [],
        "reserve a 1 at=acme/app:chat/agent:bot",
        ErrorCode.NOT_FOUND,
        "Budget not found for provided scope: tenant:acme/app:chat/agent:bot",
        "Create a USD_MICROCENTS budget at tenant:acme, or at any scope from there to "
        "tenant:acme/app:chat/agent:bot.",
        "tenant:acme/app:chat/agent:bot",
        reason="BUDGET_NOT_FOUND",
    ),
    Case(
        [],
        "reserve a 1 at=acme/agent:bot",
        ErrorCode.NOT_FOUND,
        "Budget not found for provided scope: tenant:acme/agent:bot",
        "Create a USD_MICROCENTS budget at tenant:acme, or at any scope from there to "
        "tenant:acme/agent:bot.",
        "tenant:acme/agent:bot",
        reason="BUDGET_NOT_FOUND",
    ),
    Case(
        [],
        "debit a 1",
        ErrorCode.NOT_FOUND,
        "Budget not found for provided scope: tenant:acme",
        "Create a USD_MICROCENTS budget at tenant:acme.",
        "tenant:acme",
        reason="BUDGET_NOT_FOUND",
    ),
]

SETTLING = [
    Case([], "commit a 1", ErrorCode.NOT_FOUND, "Reservation not found: a"),
    Case(
        [*RESERVED, "release a"],
        "commit a 1",
        ErrorCode.RESERVATION_FINALIZED,
        "Reservation a is already released",
    ),
    Case(
        [*RESERVED, "tick 66s"],
        "commit a 1",
        ErrorCode.RESERVATION_EXPIRED,
        "Reservation a has expired: lease and grace ended at 1700000065000. If the action did "
        "happen, account for it with POST /v1/events",
    ),
    Case(
        [*RESERVED, "tick 66s", "expire a"],
        "release a",
        ErrorCode.RESERVATION_EXPIRED,
        "Reservation a has expired: the sweep has returned its hold. If the action did happen, "
        "account for it with POST /v1/events",
    ),
    Case(
        [*RESERVED, "tick 61s"],
        "extend a 1s",
        ErrorCode.RESERVATION_EXPIRED,
        "Reservation a has expired: the lease ended at 1700000060000; grace is for settling. If "
        "the action did happen, account for it with POST /v1/events",
    ),
    Case(
        RESERVED,
        "commit a 1 unit=TOKENS",
        ErrorCode.UNIT_MISMATCH,
        "Reservation a holds USD_MICROCENTS; actual is in TOKENS",
        "Commit in USD_MICROCENTS.",
        details={"scope": "tenant:acme", "requested_unit": "TOKENS", "expected_units": [USD]},
    ),
    Case(
        RESERVED,
        "commit a 301",
        ErrorCode.BUDGET_EXCEEDED,
        "Actual 301 exceeds the 300 held and the overage policy is REJECT; the reservation stays "
        "active",
        "Commit at most 300, or reserve with another overage policy.",
    ),
    Case(
        ["given tenant acme extensions=0", *RESERVED],
        "extend a 1s",
        ErrorCode.MAX_EXTENSIONS_EXCEEDED,
        "Reservation a has used all of its 0 extensions",
        "Commit or release it; the limit was its tenant's or its policy's.",
    ),
    Case(
        RESERVED,
        "expire a",
        ErrorCode.INVALID_REQUEST,
        "Reservation a is not due for expiry",
    ),
    Case(
        ["given budget acme allocated=1000 spent=900"],
        "debit e 101 overage=REJECT",
        ErrorCode.BUDGET_EXCEEDED,
        "Actual 101 exceeds the 100 USD_MICROCENTS remaining in tenant:acme and the overage "
        "policy is REJECT",
        "Credit 1 USD_MICROCENTS to tenant:acme.",
        "tenant:acme",
        100,
    ),
    Case(
        ["given budget acme allocated=1000 spent=900 limit=50"],
        "debit e 151 overage=AWO",
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
        "Charging 151 USD_MICROCENTS beyond the hold would bring the debt of tenant:acme to 51, "
        "above its overdraft limit of 50",
        "Credit 1 USD_MICROCENTS to tenant:acme, or raise its overdraft limit by 1.",
        "tenant:acme",
        100,
    ),
    Case(
        ["given budget acme allocated=MAX spent=MAX-1 limit=50"],
        "debit e 10 overage=AWO",
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
        "Charging 10 USD_MICROCENTS beyond the hold would bring what tenant:acme has spent, holds "
        "and owes above 9223372036854775807",
        "Lower the actual amount by 9.",
        "tenant:acme",
        1,
    ),
    Case(
        [*RESERVED, "commit a 1 key=k"],
        "commit a 2 key=k",
        ErrorCode.IDEMPOTENCY_MISMATCH,
        "idempotency_key 'k' was already used for a different request on this endpoint; send the "
        "original request again, or use a new key",
    ),
]

OPERATORS = [
    Case(
        ["given budget acme allocated=100"],
        "fund acme DEBIT 101",
        ErrorCode.BUDGET_EXCEEDED,
        "Cannot debit 101 from tenant:acme: 100 USD_MICROCENTS remaining",
        "Debit at most 100.",
        "tenant:acme",
        100,
    ),
    Case(
        ["given budget acme allocated=100 spent=99"],
        "fund acme DEBIT 2",
        ErrorCode.BUDGET_EXCEEDED,
        "Cannot debit 2 from tenant:acme: 1 USD_MICROCENTS remaining",
        "Debit at most 1.",
        "tenant:acme",
        1,
    ),
    Case(
        ["given budget acme allocated=100 spent=100"],
        "fund acme DEBIT 1",
        ErrorCode.BUDGET_EXCEEDED,
        "Cannot debit 1 from tenant:acme: 0 USD_MICROCENTS remaining",
        "RESET the budget to a lower ceiling instead.",
        "tenant:acme",
        0,
    ),
    Case(
        ["given budget acme allocated=100 spent=120"],
        "fund acme DEBIT 1",
        ErrorCode.BUDGET_EXCEEDED,
        "Cannot debit 1 from tenant:acme: -20 USD_MICROCENTS remaining",
        "RESET the budget to a lower ceiling instead.",
        "tenant:acme",
        -20,
    ),
    Case(
        ["given budget acme allocated=100"],
        "fund acme RESET_SPENT 1 spent=1 spent_unit=TOKENS",
        ErrorCode.UNIT_MISMATCH,
        "spent.unit is TOKENS; budget tenant:acme counts in USD_MICROCENTS",
        "Send spent in USD_MICROCENTS.",
        details={"scope": "tenant:acme", "requested_unit": "TOKENS", "expected_units": [USD]},
    ),
    Case(
        ["given budget acme allocated=100"],
        "fund acme CREDIT MAX",
        ErrorCode.INVALID_REQUEST,
        f"amount: the budget would exceed {AMOUNT_MAX} (allocated {AMOUNT_MAX + 100}, spent + "
        "reserved + debt 0); send a smaller amount",
    ),
    Case(
        [],
        "fund acme CREDIT 1",
        ErrorCode.BUDGET_NOT_FOUND,
        "Budget not found: scope tenant:acme, unit USD_MICROCENTS",
    ),
    Case(
        ["given budget acme allocated=100"],
        "unfreeze acme",
        ErrorCode.INVALID_REQUEST,
        "Budget tenant:acme (USD_MICROCENTS) is already active",
        in_conflict=True,
    ),
    Case(
        RESERVED,
        "close_budget acme",
        ErrorCode.INVALID_REQUEST,
        "Budget tenant:acme still holds 300 USD_MICROCENTS for live reservations; freeze it and "
        "close it once they have settled",
        in_conflict=True,
    ),
    Case(
        ["given tenant acme status=SUSPENDED"],
        "create_budget acme 1",
        ErrorCode.INVALID_REQUEST,
        "Tenant acme is SUSPENDED; reactivate it before creating budgets",
    ),
    Case(
        ["given tenant acme", "create_budget acme 1"],
        "create_budget acme 1",
        ErrorCode.DUPLICATE_RESOURCE,
        "Budget already exists: scope tenant:acme, unit USD_MICROCENTS; fund it instead",
    ),
    Case(
        ["given tenant acme"],
        "create_key k expires=0s",
        ErrorCode.INVALID_REQUEST,
        "expires_at: must lie in the future, or be left out",
    ),
    Case(
        ["given tenant acme"],
        "revoke_key k",
        ErrorCode.NOT_FOUND,
        "API key not found: k",
    ),
    Case(
        ["given tenant acme", "create_key k", "revoke_key k"],
        "revoke_key k",
        ErrorCode.KEY_REVOKED,
        "API key k is already revoked",
    ),
    Case(
        ["given tenant acme", "create_key k expires=10s", "tick 10s"],
        "update_key k name=n",
        ErrorCode.KEY_EXPIRED,
        "API key k has expired and cannot be changed; create a new one",
    ),
    Case(
        ["given budget acme allocated=5"],
        "update_budget acme limit=5 limit_unit=TOKENS",
        ErrorCode.UNIT_MISMATCH,
        "overdraft_limit.unit is TOKENS; budget tenant:acme counts in USD_MICROCENTS",
        fix="Send overdraft_limit in USD_MICROCENTS.",
        details={
            "scope": "tenant:acme",
            "requested_unit": "TOKENS",
            "expected_units": ["USD_MICROCENTS"],
        },
    ),
    Case(
        ["given tenant acme", "close_tenant acme"],
        "update_tenant acme status=ACTIVE",
        ErrorCode.INVALID_REQUEST,
        "status: Cannot transition from CLOSED: closing tenant acme was final; leave status out to "
        "change the rest",
    ),
]


POLICIES = [
    Case(
        ["given budget acme allocated=9", "given policy p at=acme reserves=1", "reserve a 1"],
        "reserve b 1",
        ErrorCode.LIMIT_EXCEEDED,
        "Policy p allows 1 reserve requests per minute at tenant:acme; send the same request "
        "again in 40 s",
        details={
            "policy_id": "p",
            "scope": "tenant:acme",
            "limit": 1,
            "window_ms": 60_000,
            "retry_after_ms": 40_000,
        },
        retry_after_ms=40_000,
    ),
    Case(
        ["given tenant acme", "create_policy p name=N"],
        "create_policy q name=N",
        ErrorCode.DUPLICATE_RESOURCE,
        "Policy already exists: name 'N'; change it, or choose another name",
    ),
    Case(
        ["given tenant acme", "create_policy p from=2s"],
        "update_policy p until=1s",
        ErrorCode.INVALID_REQUEST,
        "effective_until: must not be earlier than effective_from",
    ),
    Case(["given tenant acme"], "update_policy p", ErrorCode.NOT_FOUND, "Policy not found: p"),
]


BULK = [
    Case(
        [],
        "begin_bulk k rows=a,b expected=3",
        ErrorCode.COUNT_MISMATCH,
        "expected_count is 3, but the filter matches 2; nothing was changed",
        "List what the filter matches, then send expected_count 2.",
        details={"total_matched": 2},
    ),
    Case(
        [],
        "begin_bulk k rows=a,b matched=501",
        ErrorCode.LIMIT_EXCEEDED,
        "filter: matches 501 rows, and one bulk action changes at most 500; nothing was changed",
        "Narrow the filter and send one request for each part.",
        details={"total_matched": 501},
    ),
]

EVERY = TENANTS + BUDGETS + SETTLING + OPERATORS + POLICIES + BULK


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_what_a_refusal_says(case: Case) -> None:
    """Code, sentence, fix and numbers, and nothing else."""
    stage = Stage()
    for row in case.rows:
        stage.step(read_row(row))
    row = read_row(case.request)
    refused = stage.world.run(script.command(row.verb, row.words, row.options, "fresh"))
    expected = Refused(
        case.code,
        case.message,
        reason=case.reason,
        scope=case.scope,
        remaining=case.remaining,
        fix=case.fix,
        details=case.details,
        in_conflict=case.in_conflict,
        retry_after_ms=case.retry_after_ms,
    )
    assert expected == refused
