"""One request for each operation that a reader can send as it is printed.

The rule that lives here: an example is complete and works; a test sends every one of them, in
this order, to a new server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
USD: Json = {"unit": "USD_MICROCENTS", "amount": 2_000_000_000}
SUBJECT: Json = {"tenant": "acme", "agent": "reader"}
ACTION: Json = {"kind": "llm.completion", "name": "gpt-4o"}
CENT: Json = {"unit": "USD_MICROCENTS", "amount": 1_000_000}
BUDGET = "scope=tenant:acme&unit=USD_MICROCENTS"

BODIES: Mapping[str, Json] = {
    "createTenant": {"tenant_id": "acme", "name": "Acme"},
    "updateTenant": {"name": "Acme Inc."},
    "createBudget": {
        "tenant_id": "acme",
        "scope": "tenant:acme",
        "unit": "USD_MICROCENTS",
        "allocated": USD,
    },
    "updateBudget": {"overdraft_limit": CENT},
    "fundBudget": {"operation": "CREDIT", "amount": USD, "idempotency_key": "top-up-1"},
    "freezeBudget": {"reason": "looking into a loop"},
    "unfreezeBudget": {"reason": "it was none"},
    "bulkActionBudgets": {
        "filter": {"tenant_id": "acme", "unit": "USD_MICROCENTS"},
        "action": "CREDIT",
        "amount": USD,
        "expected_count": 1,
        "idempotency_key": "everybody-1",
    },
    "createApiKey": {"tenant_id": "acme", "name": "reader in production"},
    "updateApiKey": {"name": "reader in staging"},
    "validateApiKey": {"key_secret": "cyc_live_..."},
    "createPolicy": {
        "tenant_id": "acme",
        "name": "short answers",
        "scope_pattern": "tenant:acme/*",
        "caps": {"max_tokens": 1_000},
    },
    "updatePolicy": {"priority": 10},
    "createReservation": {
        "idempotency_key": "answer-1",
        "subject": SUBJECT,
        "action": ACTION,
        "estimate": CENT,
    },
    "extendReservation": {"idempotency_key": "answer-1-longer", "extend_by_ms": 60_000},
    "commitReservation": {"idempotency_key": "answer-1-done", "actual": CENT},
    "releaseReservation": {"idempotency_key": "answer-2-not-done", "reason": "no model answered"},
    "decide": {
        "idempotency_key": "would-it-1",
        "subject": SUBJECT,
        "action": ACTION,
        "estimate": CENT,
    },
    "createEvent": {
        "idempotency_key": "search-1",
        "subject": SUBJECT,
        "action": {"kind": "tool.call", "name": "search"},
        "actual": CENT,
    },
    "bulkActionTenants": {
        "filter": {"search": "acme"},
        "action": "SUSPEND",
        "expected_count": 1,
        "idempotency_key": "holiday-1",
    },
}

QUERIES: Mapping[str, str] = {
    **dict.fromkeys(("lookupBudget", "getBudgetPeriod", "updateBudget"), BUDGET),
    **dict.fromkeys(("freezeBudget", "unfreezeBudget"), BUDGET),
    "fundBudget": f"{BUDGET}&tenant_id=acme",
    "listBudgets": "tenant_id=acme",
    "listPolicies": "tenant_id=acme",
    "listReservations": "status=ACTIVE",
    "listAuditLogs": "status_min=400",
    "getBalances": "tenant=acme",
    "revokeApiKey": "reason=rotated",
}
