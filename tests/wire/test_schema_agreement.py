"""Our models against the published API schemas: same fields, same limits, nothing by accident.

Both sides are brought to one normal form and compared whole. Every place where a model is
deliberately stricter than the schema is listed below with its reason; an unlisted difference,
or a listed one that is gone, fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from bursar.wire import admin, bulk, policies, runtime
from bursar.wire.fields import NOT_BLANK, SUBJECT_NAME, TENANT_ID, TEXT, OpenWire, Request, Wire

SPEC = Path(__file__).resolve().parents[2].parent / "shared" / "spec"
pytestmark = pytest.mark.skipif(
    not SPEC.is_dir(), reason=f"the published API schemas are not at {SPEC}"
)

RUNTIME, ADMIN = "cycles-openapi-protocol-merged.yaml", "cycles-openapi-admin-merged.yaml"
ADMIN_BASE = "cycles-governance-admin-v0.1.25.yaml"
LIMITS = (
    *("type", "enum", "const", "format", "pattern", "minLength", "maxLength"),
    *("minimum", "maximum", "maxItems", "maxProperties"),
)
# An integer without a limit in the schema is an int64 in the ledger.
INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}

Flat = dict[str, dict[str, Any]]

RUNTIME_REQUESTS = [
    runtime.Amount,
    runtime.Subject,
    runtime.Action,
    runtime.StandardMetrics,
    runtime.DecisionRequest,
    runtime.ReservationCreateRequest,
    runtime.CommitRequest,
    runtime.ReleaseRequest,
    runtime.ReservationExtendRequest,
    runtime.EventCreateRequest,
]
ADMIN_REQUESTS = [
    admin.TenantCreateRequest,
    admin.BudgetCreateRequest,
    admin.BudgetFundingRequest,
    admin.BudgetStatusTransitionRequest,
    admin.ApiKeyCreateRequest,
    admin.ApiKeyValidationRequest,
    policies.PolicyCreateRequest,
    bulk.TenantBulkFilter,
    bulk.TenantBulkActionRequest,
    bulk.BudgetBulkFilter,
    bulk.BudgetBulkActionRequest,
]
UPDATES: dict[type[BaseModel], str] = {
    admin.TenantUpdateRequest: "/v1/admin/tenants/{tenant_id}",
    admin.BudgetUpdateRequest: "/v1/admin/budgets",
    admin.ApiKeyUpdateRequest: "/v1/admin/api-keys/{key_id}",
    policies.PolicyUpdateRequest: "/v1/admin/policies/{policy_id}",
}
RESPONSES = [
    (RUNTIME, runtime.SignedAmount),
    (RUNTIME, runtime.Caps),
    (RUNTIME, runtime.Balance),
    (RUNTIME, runtime.CyclesEvidenceRef),
    (RUNTIME, runtime.ReservationEvidence),
    (RUNTIME, runtime.DecisionResponse),
    (RUNTIME, runtime.ReservationCreateResponse),
    (RUNTIME, runtime.CommitResponse),
    (RUNTIME, runtime.ReleaseResponse),
    (RUNTIME, runtime.ReservationExtendResponse),
    (RUNTIME, runtime.EventCreateResponse),
    (RUNTIME, runtime.ReservationSummary),
    (RUNTIME, runtime.ReservationDetail),
    (RUNTIME, runtime.ReservationListResponse),
    (RUNTIME, runtime.BalanceResponse),
    (RUNTIME, runtime.ErrorResponse),
    (ADMIN, admin.Tenant),
    (ADMIN, admin.TenantListResponse),
    (ADMIN, admin.BudgetLedger),
    (ADMIN, admin.BudgetFundingResponse),
    (ADMIN, admin.BudgetListResponse),
    (ADMIN, admin.BalanceListResponse),
    (ADMIN, policies.Policy),
    (ADMIN, policies.RateLimits),
    (ADMIN_BASE, policies.ReservationTtlOverride),
    (ADMIN, policies.PolicyListResponse),
    (ADMIN, admin.ApiKey),
    (ADMIN, admin.ApiKeyCreateResponse),
    (ADMIN, admin.ApiKeyListResponse),
    (ADMIN, admin.ApiKeyValidationResponse),
    (ADMIN, admin.AuthIntrospectResponse),
    (ADMIN, bulk.BulkActionRowOutcome),
    (ADMIN, bulk.TenantBulkActionResponse),
    (ADMIN, bulk.BudgetBulkActionResponse),
]

SUBJECT_FIELDS = ("tenant", "workspace", "app", "workflow", "agent", "toolset")
# The schema says SHOULD for the charset of a subject and nothing of blank kinds; the protocol
# reference refuses both, because they become path segments and quota keys.
SUBJECT: Flat = {name: {"pattern": SUBJECT_NAME} for name in SUBJECT_FIELDS}
ACTION: Flat = {"kind": {"pattern": NOT_BLANK}, "name": {"pattern": NOT_BLANK}}
WHO = {
    **{f"subject.{name}": limit for name, limit in SUBJECT.items()},
    **{f"action.{name}": limit for name, limit in ACTION.items()},
}
# What a tenant or key stores is limited by the schema of the tenant or key.
NAME = {"maxLength": 256, "pattern": NOT_BLANK}
LABELS: Flat = {"metadata": {"maxProperties": 32}}
POLICY: Flat = {"name": NAME, "description": {"maxLength": 1024}}
LEASE = {"minimum": 1_000, "maximum": 86_400_000}
PER_MINUTE = {"type": "integer", "minimum": 1}
LIMITED = {"max_reservations_per_minute", "max_commits_per_minute"}
# The schema of the request leaves these open; that of the policy that it stores does not.
RULES: Flat = {
    "rate_limits": {"closed": True, "members": LIMITED, "required": set[str]()},
    **{f"rate_limits.{name}": PER_MINUTE for name in LIMITED},
    "reservation_ttl_override.default_ttl_ms": LEASE,
    "reservation_ttl_override.max_ttl_ms": LEASE,
    "reservation_ttl_override.max_extensions": {"minimum": 0},
}
STRICTER: dict[type[BaseModel], Flat] = {
    runtime.Subject: SUBJECT,
    runtime.Action: ACTION,
    runtime.DecisionRequest: WHO,
    runtime.ReservationCreateRequest: WHO,
    runtime.EventCreateRequest: WHO,
    admin.TenantCreateRequest: {
        "name": {"pattern": NOT_BLANK},
        "parent_tenant_id": {"minLength": 3, "maxLength": 64, "pattern": TENANT_ID},
        **LABELS,
    },
    admin.TenantUpdateRequest: {"name": NAME, **LABELS, "metadata.*": {"type": "string"}},
    admin.ApiKeyCreateRequest: {"name": NAME, "description": {"maxLength": 1024}},
    admin.ApiKeyUpdateRequest: {"name": {"pattern": NOT_BLANK}},
    # The protocol says that all requests of the admin plane are closed; this schema is not.
    admin.ApiKeyValidationRequest: {"": {"closed": True}},
    policies.PolicyCreateRequest: POLICY | RULES,
    policies.PolicyUpdateRequest: POLICY,
}


# Fields that are our own: how a budget renews itself, which the published schema cannot say.
OUR_OWN: dict[type[BaseModel], set[str]] = {
    admin.BudgetCreateRequest: {"period"},
    admin.BudgetUpdateRequest: {"period", "period_start", "period_end", "rollover_policy"},
}


@cache
def document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((SPEC / name).read_text("utf-8"))
    return loaded


def published(name: str, schema: str) -> Flat:
    root = document(name)
    return flat(root["components"]["schemas"][schema], root)


def ours(model: type[BaseModel]) -> Flat:
    schema = model.model_json_schema()
    found = flat(schema, schema)
    for name, implied in getattr(model, "IMPLIED", {}).items():
        found[name]["default"] = implied
    return found


def flat(schema: dict[str, Any], root: dict[str, Any]) -> Flat:
    return dict(walked(schema, root, ""))


def walked(
    schema: dict[str, Any], root: dict[str, Any], path: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value in a schema with its limits: `a.b` a member, `a[]` an item, `a.*` a map's."""
    default = schema.get("default")
    if "anyOf" in schema and "properties" not in schema:
        schema = next(branch for branch in schema["anyOf"] if branch != {"type": "null"})
    while "$ref" in schema:
        node: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            node = node[step]
        schema = node
    limits = {name: schema[name] for name in LIMITS if name in schema}
    for name, bound in INT64.items():
        if limits.get(name) == bound:
            del limits[name]
    if limits.get("format") != "date-time":
        limits.pop("format", None)
    if limits.get("pattern") == TEXT:  # no NUL: a rule for all text of ours, not for one field
        del limits["pattern"]
    if default is not None:
        limits["default"] = default
    prefix = f"{path}." if path else ""
    if "properties" in schema or schema.get("additionalProperties") is False:
        limits["members"] = set(schema.get("properties", {}))
        limits["required"] = set(schema.get("required", ()))
        limits["closed"] = schema.get("additionalProperties") is False
    yield path, limits
    for name, member in schema.get("properties", {}).items():
        yield from walked(member, root, prefix + name)
    if "items" in schema:
        yield from walked(schema["items"], root, f"{path}[]")
    values = next(iter(schema.get("patternProperties", {}).values()), None)
    values = values or schema.get("additionalProperties")
    if isinstance(values, dict) and values:
        yield from walked(values, root, f"{prefix}*")


def differences(model: type[BaseModel], theirs: Flat) -> Flat:
    """What our model says and the schema does not; what it lacks shows as None."""
    mine, own = ours(model), OUR_OWN.get(model, set())
    assert own <= mine[""]["members"] - theirs[""]["members"]
    mine[""]["members"] -= own
    mine = {path: limits for path, limits in mine.items() if path.split(".")[0] not in own}
    found: Flat = {}
    for path in mine.keys() | theirs.keys():
        a, b = mine.get(path, {}), theirs.get(path, {})
        changed = {name: a.get(name) for name in a.keys() | b.keys() if a.get(name) != b.get(name)}
        if changed:
            found[path] = changed
    return found


@pytest.mark.parametrize("model", RUNTIME_REQUESTS, ids=lambda model: model.__name__)
def test_runtime_requests_agree_with_the_published_schema(model: type[BaseModel]) -> None:
    """Names, required fields, closedness, defaults, types, enums and every limit."""
    assert differences(model, published(RUNTIME, model.__name__)) == STRICTER.get(model, {})


@pytest.mark.parametrize("model", ADMIN_REQUESTS, ids=lambda model: model.__name__)
def test_admin_requests_agree_with_the_published_schema(model: type[BaseModel]) -> None:
    """The same for the admin plane; permissions of later revisions are not offered yet."""
    theirs = published(ADMIN, model.__name__)
    if "permissions[]" in theirs:
        theirs["permissions[]"]["enum"].remove("action_quotas:read")
    assert differences(model, theirs) == STRICTER.get(model, {})


@pytest.mark.parametrize("model", UPDATES, ids=lambda model: model.__name__)
def test_updates_agree_with_the_published_schema(model: type[BaseModel]) -> None:
    """The schemas of these requests stand inside their paths."""
    root = document(ADMIN_BASE)
    schema = root["paths"][UPDATES[model]]["patch"]["requestBody"]
    theirs = flat(schema["content"]["application/json"]["schema"], root)
    assert differences(model, theirs) == STRICTER.get(model, {})


@pytest.mark.parametrize(
    ("name", "model"), RESPONSES, ids=[model.__name__ for _, model in RESPONSES]
)
def test_responses_have_the_published_members(name: str, model: type[BaseModel]) -> None:
    """Members, required ones and closedness; limits of answers are the server's business."""
    mine, theirs = ours(model)[""], published(name, model.__name__)[""]
    assert mine["members"] == theirs["members"]
    assert mine["required"] == theirs["required"]
    assert issubclass(model, Wire) is theirs["closed"]
    assert issubclass(model, OpenWire) is not theirs["closed"]


def test_every_model_is_compared() -> None:
    """A new model without a row fails here."""
    compared = {*RUNTIME_REQUESTS, *ADMIN_REQUESTS, *UPDATES}
    compared |= {model for _, model in RESPONSES}
    defined = {
        value
        for module in (runtime, admin, policies, bulk)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel)
    }
    parts = {admin.Capabilities, bulk.BulkResponse}
    parts |= {admin.BudgetPeriod, admin.BudgetPeriodResponse}  # our own
    assert defined - compared == {Wire, OpenWire, Request, *parts}


def test_the_comparison_sees_a_difference() -> None:
    """The normal form keeps what it is meant to compare."""
    theirs = published(RUNTIME, "ReservationCreateRequest")
    assert theirs["ttl_ms"] == {
        "type": "integer",
        "minimum": 1000,
        "maximum": 86_400_000,
        "default": 60_000,
    }
    assert theirs["subject.dimensions.*"] == {"type": "string", "maxLength": 256}
    assert theirs["action.tags"] == {"type": "array", "maxItems": 10}
    assert theirs[""]["required"] == {"idempotency_key", "subject", "action", "estimate"}
    theirs["ttl_ms"]["maximum"] = 5
    theirs["invented"] = {"type": "string"}
    found = differences(runtime.ReservationCreateRequest, theirs)
    assert found["ttl_ms"] == {"maximum": 86_400_000}
    assert found["invented"] == {"type": None}
