"""Every limit of the admin requests: at it, below it and above it, with what is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from bursar.vocabulary import Permission, RolloverPolicy, TenantStatus
from bursar.wire import admin
from bursar.wire.codec import BadRequest, decode
from bursar.wire.fields import Request

INT64_MAX = 2**63 - 1
AMOUNT = {"unit": "TOKENS", "amount": 5}
WHEN = "2026-01-15T09:00:00Z"

MINIMAL: dict[type[Request], dict[str, Any]] = {
    admin.TenantCreateRequest: {"tenant_id": "acme", "name": "Acme"},
    admin.TenantUpdateRequest: {},
    admin.BudgetCreateRequest: {"scope": "tenant:acme", "unit": "TOKENS", "allocated": AMOUNT},
    admin.BudgetFundingRequest: {"operation": "CREDIT", "amount": AMOUNT},
    admin.BudgetUpdateRequest: {},
    admin.BudgetStatusTransitionRequest: {},
    admin.ApiKeyCreateRequest: {"tenant_id": "acme", "name": "production"},
    admin.ApiKeyUpdateRequest: {},
    admin.ApiKeyValidationRequest: {"key_secret": "cyc_live_x"},
}

ROLLOVER_CASES: tuple[list[object], list[tuple[object, str]]] = (
    ["NONE", "CARRY_FORWARD", "CAP_AT_ALLOCATED"],
    [("SOME", "must be one of NONE, CARRY_FORWARD, CAP_AT_ALLOCATED, got ")],
)
PERIOD_CASES: tuple[list[object], list[tuple[object, str]]] = (
    [{"every": "MONTH", "time_zone": "Europe/Berlin"}],
    [("DAY", "must be a JSON object, got ")],
)
NAME_CASES: tuple[list[object], list[tuple[object, str]]] = (
    ["n", "x" * 256, "Ácme & Co"],
    [
        ("x" * 257, "must be at most 256 characters long, got 257"),
        ("", "must not be blank or contain the NUL character (U+0000), got "),
        (" ", "must not be blank or contain the NUL character (U+0000), got "),
        (5, "must be a string, got 5"),
    ],
)
ID_CASES: tuple[list[object], list[tuple[object, str]]] = (
    ["abc", "a-1", "x" * 64],
    [
        ("ab", "must be between 3 and 64 characters long, got 2"),
        ("x" * 65, "must be between 3 and 64 characters long, got 65"),
        ("Acme", "must consist of lower-case letters, digits and '-', got "),
        ("a_b", "must consist of lower-case letters, digits and '-', got "),
        ("acme\n", "must consist of lower-case letters, digits and '-', got "),
    ],
)
LEASE_CASES: tuple[list[object], list[tuple[object, str]]] = (
    [1_000, 86_400_000],
    [
        (999, "must be between 1000 and 86400000, got 999"),
        (86_400_001, "must be between 1000 and 86400000, got 86400001"),
        (1.5, "must be an integer, got 1.5"),
    ],
)
COUNT_CASES: tuple[list[object], list[tuple[object, str]]] = (
    [0, INT64_MAX],
    [
        (-1, f"must be between 0 and {INT64_MAX}, got -1"),
        (INT64_MAX + 1, f"must be between 0 and {INT64_MAX}, got "),
        (True, "must be an integer, got true"),
    ],
)
POLICY_CASES: tuple[list[object], list[tuple[object, str]]] = (
    ["REJECT", "ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT"],
    [("ALLOW", "must be one of REJECT, ALLOW_IF_AVAILABLE, ALLOW_WITH_OVERDRAFT, got ")],
)
LABEL_CASES: tuple[list[object], list[tuple[object, str]]] = (
    [{}, {"a": ""}, {f"k{n}": "v" for n in range(32)}],
    [
        ({f"k{n}": "v" for n in range(33)}, "must have at most 32 entries, got 33"),
        ([], "must be a JSON object, got []"),
    ],
)
REASON_CASES: tuple[list[object], list[tuple[object, str]]] = (
    ["", "x" * 512],
    [("x" * 513, "must be at most 512 characters long, got 513")],
)
FREE_CASES: tuple[list[object], list[tuple[object, str]]] = (
    [{}, {"a": [None, 1.5]}],
    [("x", 'must be a JSON object, got "x"')],
)
TIME_CASES: tuple[list[object], list[tuple[object, str]]] = (
    [WHEN, "2026-01-15T09:00:00.123+02:00"],
    [
        ("2026-01-15T09:00:00", "'2026-01-15T09:00:00' has no UTC offset; add Z"),
        ("soon", "'soon' is not a date-time; write it like"),
        (1_768_467_600_000, "must be a string, got 1768467600000"),
    ],
)
AMOUNT_CASES: tuple[list[object], list[tuple[object, str]]] = (
    [{"unit": "TOKENS", "amount": 0}, {"unit": "CREDITS", "amount": INT64_MAX}],
    [(5, "must be a JSON object, got 5")],
)
TENANT_SETTINGS = {
    "name": NAME_CASES,
    "metadata": LABEL_CASES,
    "default_commit_overage_policy": POLICY_CASES,
    "default_reservation_ttl_ms": LEASE_CASES,
    "max_reservation_ttl_ms": LEASE_CASES,
    "max_reservation_extensions": COUNT_CASES,
}
KEY_SETTINGS: dict[str, tuple[list[object], list[tuple[object, str]]]] = {
    "name": NAME_CASES,
    "description": (
        ["", "x" * 1024],
        [("x" * 1025, "must be at most 1024 characters long, got 1025")],
    ),
    "permissions": (
        [[], [permission.value for permission in Permission]],
        [("balances:read", 'must be an array, got "balances:read"')],
    ),
    "scope_filter": ([[], ["workspace:eng", "agent:*"]], [("a", "must be an array, got ")]),
    "metadata": FREE_CASES,
}
CASES: dict[type[Request], dict[str, tuple[list[object], list[tuple[object, str]]]]] = {
    admin.TenantCreateRequest: {
        "tenant_id": ID_CASES,
        "parent_tenant_id": ID_CASES,
        **TENANT_SETTINGS,
        "reservation_expiry_policy": (
            ["AUTO_RELEASE", "MANUAL_CLEANUP", "GRACE_ONLY"],
            [("NEVER", "must be one of AUTO_RELEASE, MANUAL_CLEANUP, GRACE_ONLY, got ")],
        ),
        "status": ([], [("ACTIVE", "unknown field")]),
        "observe_mode": ([], [("OBSERVE", "unknown field")]),
    },
    admin.TenantUpdateRequest: {
        **TENANT_SETTINGS,
        "status": (
            ["ACTIVE", "SUSPENDED", "CLOSED"],
            [("closed", 'must be one of ACTIVE, SUSPENDED, CLOSED, got "closed"')],
        ),
        "tenant_id": ([], [("acme", "unknown field")]),
        "observe_mode": ([], [("OBSERVE", "unknown field")]),
    },
    admin.BudgetCreateRequest: {
        "scope": (["tenant:acme", ""], [("a\x00", "must not contain the NUL character")]),
        "unit": (["TOKENS", "RISK_POINTS"], [("EUR", "must be one of USD_MICROCENTS, ")]),
        "allocated": AMOUNT_CASES,
        "overdraft_limit": AMOUNT_CASES,
        "tenant_id": (["acme"], [(1, "must be a string, got 1")]),
        "commit_overage_policy": POLICY_CASES,
        "rollover_policy": ROLLOVER_CASES,
        "period_start": TIME_CASES,
        "period_end": TIME_CASES,
        "period": PERIOD_CASES,
        "metadata": FREE_CASES,
        "status": ([], [("ACTIVE", "unknown field")]),
    },
    admin.BudgetFundingRequest: {
        "operation": (
            ["CREDIT", "DEBIT", "RESET", "REPAY_DEBT", "RESET_SPENT"],
            [("credit", "must be one of CREDIT, DEBIT, RESET, REPAY_DEBT, RESET_SPENT, got ")],
        ),
        "amount": AMOUNT_CASES,
        "spent": AMOUNT_CASES,
        "reason": REASON_CASES,
        "idempotency_key": (
            ["k", "x" * 256],
            [
                ("", "must be between 1 and 256 characters long, got 0"),
                ("x" * 257, "must be between 1 and 256 characters long, got 257"),
            ],
        ),
        "metadata": FREE_CASES,
        "scope": ([], [("tenant:acme", "unknown field")]),
    },
    admin.BudgetUpdateRequest: {
        "overdraft_limit": AMOUNT_CASES,
        "commit_overage_policy": POLICY_CASES,
        "rollover_policy": ROLLOVER_CASES,
        "period_start": TIME_CASES,
        "period_end": TIME_CASES,
        "period": PERIOD_CASES,
        "metadata": FREE_CASES,
        "allocated": ([], [(AMOUNT, "unknown field")]),
        "status": ([], [("FROZEN", "unknown field")]),
    },
    admin.BudgetStatusTransitionRequest: {
        "reason": REASON_CASES,
        "metadata": FREE_CASES,
        "status": ([], [("FROZEN", "unknown field")]),
    },
    admin.ApiKeyUpdateRequest: {
        **KEY_SETTINGS,
        "expires_at": ([], [(WHEN, "unknown field")]),
        "status": ([], [("ACTIVE", "unknown field")]),
        "tenant_id": ([], [("acme", "unknown field")]),
    },
    admin.ApiKeyValidationRequest: {
        "key_secret": (["", "cyc_live_x"], [(5, "must be a string, got 5")]),
        "tenant_id": ([], [("acme", "unknown field")]),
    },
    admin.ApiKeyCreateRequest: {
        "tenant_id": (["acme"], [(1, "must be a string, got 1")]),
        **KEY_SETTINGS,
        "expires_at": TIME_CASES,
        "key_secret": ([], [("cyc_live_x", "unknown field")]),
    },
}
ACCEPTED = [
    pytest.param(model, name, value, id=f"{model.__name__}-{name}-{str(value)[:20]}")
    for model, fields in CASES.items()
    for name, (accepted, _) in fields.items()
    for value in accepted
]
REFUSED = [
    pytest.param(model, name, value, said, id=f"{model.__name__}-{name}-{str(value)[:20]!r}")
    for model, fields in CASES.items()
    for name, (_, refused) in fields.items()
    for value, said in refused
]


def refusal(model: type[Request], body: dict[str, Any]) -> str:
    with pytest.raises(BadRequest) as caught:
        decode(model, json.dumps(body).encode())
    return caught.value.message


@pytest.mark.parametrize(("model", "name", "value"), ACCEPTED)
def test_a_value_at_its_limit_is_accepted_and_kept(
    model: type[Request], name: str, value: object
) -> None:
    """What is allowed arrives unchanged."""
    request = decode(model, json.dumps({**MINIMAL[model], name: value}).encode())
    assert json.loads(request.model_dump_json(include={name})) == {name: value}


@pytest.mark.parametrize(("model", "name", "value", "said"), REFUSED)
def test_a_value_beyond_its_limit_is_refused_by_name(
    model: type[Request], name: str, value: object, said: str
) -> None:
    """The one message names the field, the limit and what was sent."""
    assert refusal(model, {**MINIMAL[model], name: value}).startswith(f"{name}: {said}")


def test_the_tables_cover_every_field() -> None:
    """A new field without a row fails here."""
    for model, fields in CASES.items():
        assert set(model.model_fields) <= set(fields)


@pytest.mark.parametrize("model", MINIMAL, ids=lambda model: model.__name__)
def test_required_fields_are_required_and_null_is_refused(model: type[Request]) -> None:
    """Required and optional fields alike must have a value when they are sent."""
    for name in MINIMAL[model]:
        body = {key: value for key, value in MINIMAL[model].items() if key != name}
        assert refusal(model, body) == f"{name}: is required"
    for name in model.model_fields:
        assert refusal(model, {**MINIMAL[model], name: None}).startswith(f"{name}: must be ")


def test_members_of_maps_and_arrays_are_named() -> None:
    """The refusal points into the container."""
    tenant = {**MINIMAL[admin.TenantCreateRequest], "metadata": {"team": 5}}
    assert refusal(admin.TenantCreateRequest, tenant) == "metadata.team: must be a string, got 5"
    key = {**MINIMAL[admin.ApiKeyCreateRequest], "permissions": ["balances:read", "all"]}
    said = refusal(admin.ApiKeyCreateRequest, key)
    assert said.startswith("permissions[1]: must be one of reservations:create, ")
    assert said.endswith('admin:audit:read, got "all"')


@pytest.mark.parametrize("end", [WHEN, "2026-01-15T10:00:00+01:00", "2025-01-01T00:00:00Z"])
def test_a_period_runs_forward(end: str) -> None:
    """Instants are compared, not their spelling."""
    body = {**MINIMAL[admin.BudgetCreateRequest], "period_start": WHEN, "period_end": end}
    assert refusal(admin.BudgetCreateRequest, body) == (
        "period_end: must be later than period_start"
    )
    longer = {**body, "period_end": "2026-01-15T09:00:00.001Z"}
    assert decode(admin.BudgetCreateRequest, json.dumps(longer).encode()).period_end is not None


def test_members_are_enums_in_python() -> None:
    """Both spellings give the same request."""
    closed: dict[str, Any] = {"status": "CLOSED"}
    assert admin.TenantUpdateRequest(**closed).status is TenantStatus.CLOSED
    created = admin.BudgetCreateRequest(**MINIMAL[admin.BudgetCreateRequest])
    assert created.rollover_policy is RolloverPolicy.NONE


TENANT = {"tenant_id": "acme", "name": "Acme", "status": "ACTIVE", "created_at": WHEN}
LEDGER = {
    "ledger_id": "l",
    "scope": "tenant:acme",
    "unit": "TOKENS",
    "allocated": AMOUNT,
    "remaining": {"unit": "TOKENS", "amount": -5},
    "status": "FROZEN",
    "created_at": WHEN,
}
KEY = {
    "key_id": "key_1",
    "tenant_id": "acme",
    "key_prefix": "cyc_live_abcde",
    "status": "ACTIVE",
    "created_at": WHEN,
    "expires_at": WHEN,
    "permissions": ["a:permission:of:tomorrow"],
}
FLAGS = dict.fromkeys(
    [
        *("view_overview", "view_budgets", "view_events", "view_webhooks", "view_audit"),
        *("view_tenants", "view_api_keys", "view_policies", "view_reservations"),
        *("manage_budgets", "manage_policies", "manage_webhooks", "manage_tenants"),
        *("manage_api_keys", "manage_reservations"),
    ],
    False,
)
RESPONSES: list[tuple[type[Any], dict[str, Any], bool]] = [
    (admin.Tenant, {**TENANT, "metadata": {"a": "b"}, "closed_at": WHEN}, True),
    (admin.TenantListResponse, {"tenants": [TENANT], "has_more": False}, False),
    (admin.BudgetLedger, {**LEDGER, "is_over_limit": True, "rollover_policy": "NONE"}, True),
    (admin.BudgetListResponse, {"ledgers": [LEDGER], "next_cursor": "c"}, True),
    (admin.BalanceListResponse, {"balances": [LEDGER]}, True),
    (
        admin.BudgetFundingResponse,
        {
            "operation": "CREDIT",
            "previous_allocated": AMOUNT,
            "new_allocated": AMOUNT,
            "previous_remaining": {"unit": "TOKENS", "amount": -1},
            "new_remaining": AMOUNT,
        },
        False,
    ),
    (admin.ApiKey, {**KEY, "name": "n", "metadata": {"a": 1}}, True),
    (admin.ApiKeyListResponse, {"keys": [KEY]}, False),
    (
        admin.ApiKeyValidationResponse,
        {"valid": False, "tenant_id": "", "reason": "KEY_NOT_FOUND"},
        False,
    ),
    (
        admin.ApiKeyCreateResponse,
        {
            **{name: KEY[name] for name in ("key_id", "key_prefix", "tenant_id")},
            "key_secret": "s",
            "created_at": WHEN,
            "expires_at": WHEN,
        },
        False,
    ),
    (
        admin.AuthIntrospectResponse,
        {
            "authenticated": True,
            "auth_type": "tenant",
            "permissions": ["*"],
            "capabilities": FLAGS,
            "tenant_id": "acme",
        },
        False,
    ),
]


@pytest.mark.parametrize(
    ("model", "body", "closed"), RESPONSES, ids=[model.__name__ for model, _, _ in RESPONSES]
)
def test_responses_round_trip(model: type[Any], body: dict[str, Any], closed: bool) -> None:
    """An unknown field is an error where the published schema is closed, and only there."""
    parsed = model.model_validate_json(json.dumps(body))
    assert json.loads(parsed.model_dump_json(exclude_unset=True)) == body
    surprise = {**body, "surprise": 1}
    if closed:
        with pytest.raises(ValidationError, match="surprise"):
            model.model_validate(surprise)
    else:
        assert model.model_validate(surprise) == parsed
