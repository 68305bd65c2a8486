"""Every field of every request body: what is accepted at its limits, and refused beyond them.

The table below says what each field is. From it come the bad values: missing, null, every other
type, one below and one above each limit. All of them are 400 and name the field.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from server.world import ACTION, Json, Response, Server, Tenant, amount, error, fresh

INT64 = 2**63 - 1
DAY_MS = 86_400_000
UNITS = ("USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS")
POLICIES = ("REJECT", "ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT")
ABSENT = object()


@dataclass(frozen=True)
class Kind:
    """What one field may be."""

    good: tuple[Any, ...]
    bad: tuple[Any, ...]
    required: bool = False
    tried: bool = True  # whether the good values can be sent in every operation as they are


def wrong(*types: str) -> tuple[Any, ...]:
    """Return a value of every JSON type but these, and null."""
    others = {"text": "text", "number": 1, "bool": True, "list": [1], "object": {"a": 1}}
    return (None, *(value for name, value in others.items() if name not in types))


def text(
    least: int, most: int | None, *, required: bool = False, bad: tuple[str, ...] = ()
) -> Kind:
    short = ("",) if least else ()
    long = () if most is None else ("x" * (most + 1),)
    good = ("x" * max(least, 1), *(() if most is None else ("x" * most,)))
    return Kind(good, (*wrong("text"), *short, *long, "a\0b", *bad), required)


def integer(least: int, most: int, *, required: bool = False) -> Kind:
    numbers = (1.5, 1.0, "10", least - 1, most + 1)
    return Kind((least, most), (*wrong("number"), *numbers), required)


def choice(*names: str, required: bool = False) -> Kind:
    return Kind(names, (*wrong("text"), "NOPE", "", names[0].lower()), required)


def level() -> Kind:
    bad = ("", " ", "a b", "a/b", "a:b", "ä", "a\n", "*", "x" * 129)
    return Kind(("x" * 128, "A.b_c-1"), (*wrong("text"), *bad))


def blankless(most: int, *, required: bool = True) -> Kind:
    return text(1, most, required=required, bad=(" ", "\t\n"))


DEEP: Any = {"a": 1}
for _ in range(32):
    DEEP = {"a": DEEP}
FREE = Kind(
    ({}, {"a": None, "b": [1.5, "x", {"c": True}], "ключ": -(2**63), "d": 2**64 - 1}),
    (*wrong("object"), {"a": 2**64}, {"a": "\0"}, {"\0": 1}, DEEP),
)
FLAG = Kind((True, False), wrong("bool"))
OBJECT = Kind((), wrong("object"), required=True, tried=False)
MAP = Kind((), wrong("object"), tried=False)
TIME = Kind(
    ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.123456+14:00"),
    (*wrong("text"), "", "now", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T00:00:00Z"),
)
KEY = text(1, 256, required=True)
LEASE = integer(1_000, DAY_MS)
UNIT = Kind(UNITS, (*wrong("text"), "EUR", "", "tokens"), required=True, tried=False)


def money(name: str, *, required: bool = True) -> dict[str, Kind]:
    whole = OBJECT if required else MAP
    value = Kind((0,), (*wrong("number"), -1, INT64 + 1, 1.5, "1", 10**40), required=True)
    return {name: whole, f"{name}.unit": UNIT, f"{name}.amount": value}


SUBJECT = {
    "subject": OBJECT,
    **{f"subject.{kind}": level() for kind in ("workspace", "app", "workflow", "agent", "toolset")},
    "subject.tenant": Kind((), level().bad, tried=False),
    "subject.dimensions": Kind(
        ({f"d{n}": "x" for n in range(16)}, {}),
        (*wrong("object"), {f"d{n}": "x" for n in range(17)}, {"d": 1}, {"d": "x" * 257}),
    ),
}
DOING = {
    "action": OBJECT,
    "action.kind": blankless(64),
    "action.name": blankless(256),
    "action.tags": Kind(
        ([], ["x" * 64] * 10), (*wrong("list"), [1], ["x"] * 11, ["x" * 65], [None])
    ),
}
METRICS = {
    "metrics": MAP,
    **{
        f"metrics.{name}": integer(0, INT64)
        for name in ("tokens_input", "tokens_output", "latency_ms")
    },
    "metrics.model_version": text(0, 128),
    "metrics.custom": FREE,
}
ASK = {"idempotency_key": KEY, **SUBJECT, **DOING, "metadata": FREE}


@dataclass(frozen=True)
class Operation:
    """A request with its fields, and a body that is accepted."""

    fields: dict[str, Kind]
    send: Callable[[Tenant, Json], Response]
    body: Callable[[Tenant], Json]
    open_maps: tuple[str, ...] = field(default=("metadata", "custom", "dimensions"))


def post(path: str) -> Callable[[Tenant, Json], Response]:
    return lambda tenant, body: tenant.call("POST", path, body)


def on_held(verb: str) -> Callable[[Tenant, Json], Response]:
    def send(tenant: Tenant, body: Json) -> Response:
        return tenant.call("POST", f"/v1/reservations/{tenant.hold(0)}/{verb}", body)

    return send


def admin(path: str) -> Callable[[Tenant, Json], Response]:
    return lambda tenant, body: tenant.server.admin("POST", path, body)


def on_budget(verb: str) -> Callable[[Tenant, Json], Response]:
    def send(tenant: Tenant, body: Json) -> Response:
        query = {"scope": tenant.scope, "unit": "TOKENS", "tenant_id": tenant.id}
        return tenant.server.admin("POST", f"/v1/admin/budgets/{verb}", body, params=query)

    return send


def subject(tenant: Tenant) -> Json:
    # Two levels, so that one of them can be spoiled alone.
    levels = {"tenant": tenant.id, "agent": "a"}
    return {"idempotency_key": fresh("k"), "subject": levels, "action": dict(ACTION)}


def new_budget(tenant: Tenant) -> Json:
    scope = tenant.path(f"agent:{fresh('a')}")
    return {"tenant_id": tenant.id, "scope": scope, "unit": "TOKENS", "allocated": amount(1)}


OPERATIONS: dict[str, Operation] = {
    "reserve": Operation(
        {
            **ASK,
            **money("estimate"),
            "ttl_ms": LEASE,
            "grace_period_ms": integer(0, 60_000),
            "overage_policy": choice(*POLICIES),
            "dry_run": FLAG,
        },
        post("/v1/reservations"),
        lambda tenant: subject(tenant) | {"estimate": amount(0)},
    ),
    "decide": Operation(
        {**ASK, **money("estimate")},
        post("/v1/decide"),
        lambda tenant: subject(tenant) | {"estimate": amount(0)},
    ),
    "event": Operation(
        {
            **ASK,
            **money("actual"),
            **METRICS,
            "overage_policy": choice(*POLICIES),
            "client_time_ms": integer(0, INT64),
        },
        post("/v1/events"),
        lambda tenant: subject(tenant) | {"actual": amount(0)},
    ),
    "commit": Operation(
        {"idempotency_key": KEY, **money("actual"), **METRICS, "metadata": FREE},
        on_held("commit"),
        lambda tenant: {"idempotency_key": fresh("k"), "actual": amount(0)},
    ),
    "release": Operation(
        {"idempotency_key": KEY, "reason": text(0, 256)},
        on_held("release"),
        lambda tenant: {"idempotency_key": fresh("k")},
    ),
    "extend": Operation(
        {
            "idempotency_key": KEY,
            "extend_by_ms": integer(1, DAY_MS, required=True),
            "metadata": FREE,
        },
        on_held("extend"),
        lambda tenant: {"idempotency_key": fresh("k"), "extend_by_ms": 1},
    ),
    "create tenant": Operation(
        {
            "tenant_id": Kind(
                (),
                (*wrong("text"), "ab", "x" * 65, "Acme", "a_b", "a b", "", "ä-ä", "a\0b"),
                required=True,
            ),
            "name": blankless(256),
            "parent_tenant_id": Kind(("abc", "x" * 64), (*wrong("text"), "ab", "A-B-C", "x" * 65)),
            "metadata": Kind(
                ({f"k{n}": "v" for n in range(32)}, {}),
                (*wrong("object"), {"a": "\0"}, {f"k{n}": "v" for n in range(33)}, {"a": None}),
            ),
            "default_commit_overage_policy": choice(*POLICIES),
            "default_reservation_ttl_ms": LEASE,
            "max_reservation_ttl_ms": LEASE,
            "max_reservation_extensions": integer(0, INT64),
            "reservation_expiry_policy": choice("AUTO_RELEASE", "MANUAL_CLEANUP", "GRACE_ONLY"),
        },
        admin("/v1/admin/tenants"),
        lambda tenant: {"tenant_id": fresh("t"), "name": "n"},
    ),
    "create key": Operation(
        {
            "tenant_id": Kind((), (*wrong("text"), "a\0b"), required=True),
            "name": blankless(256),
            "description": text(0, 1_024),
            "permissions": Kind(
                ([], ["balances:read"] * 2), (*wrong("list"), ["nope"], [""], [None])
            ),
            "scope_filter": Kind(([], ["agent:*"]), (*wrong("list"), ["\0"], [1])),
            "expires_at": Kind(("2100-01-01T00:00:00Z",), TIME.bad),
            "metadata": FREE,
        },
        admin("/v1/admin/api-keys"),
        lambda tenant: {"tenant_id": tenant.id, "name": "n"},
    ),
    "create budget": Operation(
        {
            "scope": Kind((), (*wrong("text"), "", "a\0b", "agent:x"), required=True),
            "unit": UNIT,
            "tenant_id": Kind((), (*wrong("text"), "a\0b"), tried=False),
            **money("allocated"),
            **money("overdraft_limit", required=False),
            "commit_overage_policy": choice(*POLICIES),
            "rollover_policy": choice("NONE", "CARRY_FORWARD", "CAP_AT_ALLOCATED"),
            "period_start": TIME,
            "period_end": TIME,
            "metadata": FREE,
        },
        admin("/v1/admin/budgets"),
        new_budget,
    ),
    "fund": Operation(
        {
            "operation": choice(
                *("CREDIT", "DEBIT", "RESET", "REPAY_DEBT", "RESET_SPENT"), required=True
            ),
            **money("amount"),
            **money("spent", required=False),
            "reason": text(0, 512),
            "idempotency_key": text(1, 256),
            "metadata": FREE,
        },
        on_budget("fund"),
        lambda tenant: {"operation": "CREDIT", "amount": amount(0)},
    ),
    "freeze": Operation(
        {"reason": text(0, 512), "metadata": FREE}, on_budget("freeze"), lambda tenant: {}
    ),
    "unfreeze": Operation(
        {"reason": text(0, 512), "metadata": FREE}, on_budget("unfreeze"), lambda tenant: {}
    ),
}


def changed(body: Json, path: str, value: Any) -> Json:
    """Return a body with one field set, or left out."""
    body = copy.deepcopy(body)
    *parents, last = path.split(".")
    place = body
    for step in parents:
        place = place.setdefault(
            step, {"unit": "TOKENS", "amount": 0} if last in ("unit", "amount") else {}
        )
    if value is ABSENT:
        place.pop(last, None)
    else:
        place[last] = value
    return body


def bad_values(kind: Kind) -> Iterator[Any]:
    yield from kind.bad
    if kind.required:
        yield ABSENT


FIELDS = [(name, path) for name, operation in OPERATIONS.items() for path in operation.fields]


@pytest.fixture(scope="module")
def asker(server: Server) -> Tenant:
    return server.tenant(max_reservation_extensions=1_000).budget(1_000)


@pytest.mark.parametrize(("name", "path"), FIELDS, ids=lambda part: part)
def test_what_a_field_may_not_be(asker: Tenant, name: str, path: str) -> None:
    """Case 20: 400 INVALID_REQUEST, the message names the field, and nothing is changed."""
    operation = OPERATIONS[name]
    before = asker.state(), len(asker.get("/v1/admin/budgets").json()["ledgers"])
    for value in bad_values(operation.fields[path]):
        body = changed(operation.body(asker), path, value)
        refused = operation.send(asker, body)
        assert error(refused) == (400, "INVALID_REQUEST"), value
        message = refused.json()["message"]
        assert path in message, (value, message)
        assert len(message) < 1_000
    assert (asker.state(), len(asker.get("/v1/admin/budgets").json()["ledgers"])) == before


@pytest.mark.parametrize(("name", "path"), FIELDS, ids=lambda part: part)
def test_what_a_field_may_be(server: Server, name: str, path: str) -> None:
    """Case 20: each value at its limits is accepted."""
    operation = OPERATIONS[name]
    kind = operation.fields[path]
    if not kind.tried or not kind.good:
        return
    for value in kind.good:
        tenant = server.tenant().budget(1_000)
        if name == "unfreeze":
            assert tenant.turn("freeze").status_code == 200
        answer = operation.send(tenant, changed(operation.body(tenant), path, value))
        assert answer.status_code in (200, 201), (value, answer.text)


@pytest.mark.parametrize("name", OPERATIONS)
def test_unknown_fields(asker: Tenant, name: str) -> None:
    """Case 43: an unknown field at any level is refused by name, with the one perhaps meant."""
    operation = OPERATIONS[name]
    levels = {"", *(path.rpartition(".")[0] for path in operation.fields)}
    for place in levels:
        path = f"{place}.surprise" if place else "surprise"
        refused = operation.send(asker, changed(operation.body(asker), path, 1))
        assert error(refused) == (400, "INVALID_REQUEST"), path
        assert f"{path}: unknown field" in refused.json()["message"]
    refused = operation.send(asker, operation.body(asker) | {"metadatas": {}, "reasson": "x"})
    meant = {"metadata", "reason"} & operation.fields.keys()
    assert all(f"did you mean {name}?" in refused.json()["message"] for name in meant)


@pytest.mark.parametrize("name", OPERATIONS)
def test_several_at_once(asker: Tenant, name: str) -> None:
    """One answer names all that is wrong, up to ten fields, and counts the rest."""
    operation = OPERATIONS[name]
    body = operation.body(asker) | {f"wrong{number}": 1 for number in range(15)}
    message = operation.send(asker, body).json()["message"]
    assert message.count("unknown field") == 10
    assert message.endswith("; and 5 more")


@pytest.mark.parametrize(
    "nobody", [{}, {"dimensions": {"a": "b"}}], ids=["empty", "dimensions only"]
)
def test_a_subject_names_somebody(asker: Tenant, nobody: Json) -> None:
    """Case 21: an empty subject and one with dimensions alone are 400."""
    for name in ("reserve", "decide", "event"):
        operation = OPERATIONS[name]
        refused = operation.send(asker, operation.body(asker) | {"subject": nobody})
        assert error(refused) == (400, "INVALID_REQUEST")
        assert refused.json()["message"].startswith("subject: must have at least one of tenant")


def test_the_table_is_complete() -> None:
    """Every request of the published schemas is here with every one of its fields."""
    import schemas

    if schemas.ABSENT is not None:
        pytest.skip(schemas.ABSENT)
    requests = {
        "reserve": ("runtime", "ReservationCreateRequest"),
        "decide": ("runtime", "DecisionRequest"),
        "event": ("runtime", "EventCreateRequest"),
        "commit": ("runtime", "CommitRequest"),
        "release": ("runtime", "ReleaseRequest"),
        "extend": ("runtime", "ReservationExtendRequest"),
        "create tenant": ("admin", "TenantCreateRequest"),
        "create key": ("admin", "ApiKeyCreateRequest"),
        "create budget": ("admin", "BudgetCreateRequest"),
        "fund": ("admin", "BudgetFundingRequest"),
    }
    for name, (plane, schema) in requests.items():
        published = schemas.documents()[plane]["components"]["schemas"][schema]["properties"]
        here = {path for path in OPERATIONS[name].fields if "." not in path}
        assert here == set(published) - {"observe_mode"}, name
