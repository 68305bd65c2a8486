"""Requests that nobody would write by hand, made from the published schemas.

Half of them keep to the schema and half break it. Whatever is sent, the server answers in the
protocol's shape (the client checks every response), never with a 5xx, and the books stay balanced.
The time is bounded: on a slow machine fewer requests are made.
"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import schemas
from server.world import Server, Tenant

if schemas.ABSENT is not None:
    pytest.skip(schemas.ABSENT, allow_module_level=True)

import schemathesis
from schemathesis import GenerationMode

EXAMPLES = 40
SECONDS_EACH = 2.0
UNITS = ("USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS")
RUNTIME = [
    ("POST", "/v1/decide"),
    ("POST", "/v1/reservations"),
    ("GET", "/v1/reservations"),
    ("GET", "/v1/reservations/{reservation_id}"),
    ("POST", "/v1/reservations/{reservation_id}/commit"),
    ("POST", "/v1/reservations/{reservation_id}/release"),
    ("POST", "/v1/reservations/{reservation_id}/extend"),
    ("GET", "/v1/balances"),
    ("POST", "/v1/events"),
]
ADMIN = [
    ("POST", "/v1/admin/tenants"),
    ("GET", "/v1/admin/tenants"),
    ("POST", "/v1/admin/api-keys"),
    ("POST", "/v1/admin/budgets"),
    ("GET", "/v1/admin/budgets"),
    ("GET", "/v1/admin/budgets/lookup"),
    ("POST", "/v1/admin/budgets/fund"),
    ("POST", "/v1/admin/budgets/freeze"),
]


@pytest.fixture(scope="module")
def tenant(server: Server) -> Tenant:
    """A tenant that can pay for whatever is asked, in every unit."""
    made = server.tenant(max_reservation_extensions=2**31)
    for unit in UNITS:
        made.budget(2**62, unit=unit, limit=2**61).budget(2**62, "agent:fuzz", unit)
    return made


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return {
        plane: schemathesis.openapi.from_dict(doc) for plane, doc in schemas.documents().items()
    }


LATER = {"observe_mode", "policy_keys"}  # members of the protocol's next revision


def sensible(value: Any, tenant: Tenant) -> Any:
    """Aim a request at the tenant's own budgets, so that more than the front door is reached.

    To a schema 5.0 is an integer, to a ledger it is not; and what a later revision adds is an
    unknown field.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [sensible(each, tenant) for each in value]
    if not isinstance(value, dict):
        return value
    aimed = {name: sensible(each, tenant) for name, each in value.items() if name not in LATER}
    if "subject" in aimed:
        aimed["subject"] = {"tenant": tenant.id, "agent": "fuzz"}
    if "scope" in aimed:
        aimed |= {"scope": tenant.path("agent:fuzz"), "tenant_id": tenant.id}
    if "tenant_id" in aimed and ("permissions" in aimed or "expires_at" in aimed):
        aimed["tenant_id"] = tenant.id
    if "tenant" in aimed:
        aimed["tenant"] = tenant.id
    return aimed


def holding(tenant: Tenant) -> str:
    """Hold something on a budget that earlier requests may have charged beyond its limit."""
    tenant.fund("RESET_SPENT", 2**62)
    return tenant.hold(0)


def send(tenant: Tenant, case: Any, headers: dict[str, str], *, aim: bool) -> int | None:
    """Send one case; the checked client fails on a response that breaks the protocol."""
    path, body, query = case.path, case.body, dict(case.query or {})
    ignored = ["api-key"]  # its own credentials would always be wrong ones
    held = None
    if aim:
        body, query = sensible(body, tenant), sensible(query, tenant)
        held = holding(tenant) if "{reservation_id}" in path else None
        ignored.append("idempotency-key")
    for name, value in (case.path_parameters or {}).items():
        path = path.replace("{" + name + "}", held or quote(str(value), safe="") or "x")
    content: bytes | None = None
    if isinstance(body, bytes):
        content = body
    elif isinstance(body, (dict, list, str, int, float, bool)) or body is None:
        content = json.dumps(body, default=str).encode("utf-8", "surrogatepass")
    sent: dict[str, Any] = {
        name: str(value).encode("latin-1", "replace")
        for name, value in dict(case.headers or {}).items()
        if not name.lower().endswith(tuple(ignored))
    }
    query = {name: str(value) for name, value in query.items()}
    try:
        answer = tenant.server.client.request(
            case.method, path, params=query, headers=sent | headers, content=content
        )
    except httpx2.LocalProtocolError:
        return None  # not even a request
    assert answer.status_code < 500, answer.text
    return answer.status_code


def fuzz(
    published: Any, tenant: Tenant, where: tuple[str, str], mode: GenerationMode, headers: Any
) -> None:
    method, path = where
    began = time.monotonic()
    statuses: list[int | None] = []

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(published[path][method].as_strategy(generation_mode=mode), st.booleans())
    def one(case: Any, aim: bool) -> None:
        if time.monotonic() - began < SECONDS_EACH:
            statuses.append(send(tenant, case, headers, aim=aim))

    one()
    assert set(statuses) - {None}
    for unit in UNITS:
        tenant.ledger(unit=unit)  # its response is checked for the ledger's identity


modes = pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["kept", "broken"]
)


@modes
@pytest.mark.parametrize("where", RUNTIME, ids=" ".join)
def test_runtime(
    published: Any, tenant: Tenant, where: tuple[str, str], mode: GenerationMode
) -> None:
    """Case 43: no request to the runtime plane gets a 5xx or an answer off the schema."""
    fuzz(published["runtime"], tenant, where, mode, {"X-Cycles-API-Key": tenant.secret})


@modes
@pytest.mark.parametrize("where", ADMIN, ids=" ".join)
def test_admin(
    published: Any, tenant: Tenant, where: tuple[str, str], mode: GenerationMode
) -> None:
    """The same for provisioning, as the operator."""
    fuzz(published["admin"], tenant, where, mode, tenant.server.operator)
