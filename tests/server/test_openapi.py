"""The description of the API is complete, true, valid and readable without the internet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from pydantic import TypeAdapter

import schemas
from bursar.server import apipage, openapi
from bursar.server.contract import Contract
from bursar.server.examples import BODIES, QUERIES
from bursar.server.routes import ROUTES
from server.world import Server, Tenant, started

Json = dict[str, Any]
DOCUMENT = openapi.document("1.2.3")
PAGES = {told[0] for told in openapi.PAGES.values()}
OUR_OWN = {"getBudgetPeriod", *PAGES}
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


@cache
def published() -> dict[str, tuple[str, str, Json]]:
    """Return the published operations by name; parameters are resolved, of both planes."""
    found: dict[str, tuple[str, str, Json]] = {}
    for file in ("cycles-protocol-v0.yaml", "cycles-governance-admin-v0.1.25.yaml"):
        document = yaml.load((schemas.SPEC / file).read_text("utf-8"), Loader=yaml.CSafeLoader)
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if not isinstance(operation, dict) or "operationId" not in operation:
                    continue
                name = operation["operationId"]
                known = found.setdefault(name, (method, path, {**operation, "parameters": []}))
                known[2]["parameters"] += [
                    resolved(document, one) for one in operation.get("parameters", [])
                ]
    return found


def resolved(document: Json, part: Json) -> Json:
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_route_is_described_and_nothing_else() -> None:
    """Routes and document have the same operations, with the same credentials."""
    assert {(route.method.lower(), route.path, route.operation_id) for route in ROUTES} == {
        (method, path, name) for name, (method, path, _) in OPERATIONS.items() if name not in PAGES
    }
    assert set(openapi.CONTRACTS) | PAGES == set(OPERATIONS)


def test_document_is_valid_openapi() -> None:
    """The document passes a validator of OpenAPI 3.1 that is not ours."""
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_reference_leads_somewhere() -> None:
    """No reference dangles, and every schema is used or says what it is for."""
    known = DOCUMENT["components"]["schemas"]
    for reference in references(DOCUMENT):
        assert reference.removeprefix("#/components/schemas/") in known


@pytest.mark.skipif(schemas.ABSENT is not None, reason=schemas.ABSENT or "")
@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - OUR_OWN))
def test_operation_is_the_published_one(name: str) -> None:
    """Method, path and parameters are those of the published specification."""
    method, path, operation = OPERATIONS[name]
    known_method, known_path, official = published()[name]
    assert (method, path) == (known_method, known_path)
    told = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
    known = {one["name"] for one in official["parameters"] if one["in"] == "query"}
    assert told <= known
    needed = {one["name"] for one in official["parameters"] if one.get("required")}
    assert {one["name"] for one in operation["parameters"] if one["required"]} == needed


@pytest.mark.skipif(schemas.ABSENT is not None, reason=schemas.ABSENT or "")
@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - OUR_OWN))
def test_published_statuses_are_described(name: str) -> None:
    """Every status of the published specification is there, except those we never give."""
    official = {str(status) for status in published()[name][2]["responses"]}
    never = {"403"}  # where only the operator may ask, who is refused nothing
    if name == "getReservation":
        never.add("410")  # what has ended can still be read
    assert official - set(OPERATIONS[name][2]["responses"]) <= never


class Page(HTMLParser):
    """Collects ids, addresses and elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "action", "data", "poster", "srcset", "style"):
                self.addresses.append(value or "")


def test_pages_are_served(server: Server) -> None:
    """Both pages come without a credential, and a second look costs nothing."""
    with httpx2.Client(base_url=server.url) as http:
        for path, kind in (("/openapi.json", "application/json"), ("/docs", "text/html")):
            first = http.get(path)
            assert (first.status_code, first.headers["content-type"].split(";")[0]) == (200, kind)
            again = http.get(path, headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert http.head(path).content == b""
            assert http.post(path).status_code == 405
        served = http.get("/openapi.json").json()
        assert served["paths"] == DOCUMENT["paths"]


def test_page_needs_no_internet_and_misses_nothing(server: Server) -> None:
    """Every operation and object has a place; every address is on the page or on the server."""
    answer = httpx2.get(f"{server.url}/docs")
    page = Page()
    page.feed(answer.text)
    objects = DOCUMENT["components"]["schemas"]
    assert sorted(page.ids) == sorted([*OPERATIONS, *objects])
    anchors = {f"#{one}" for one in page.ids}
    assert set(page.addresses) <= anchors | {"/openapi.json"}
    assert page.elements.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert not re.search(r"url\(|@import|https?://", answer.text.split("</style>")[0])
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_page_escapes_what_it_shows() -> None:
    """A text with markup in it is shown as text."""
    from bursar.server import apipage

    hostile = openapi.document("<script>alert(1)</script>")
    assert b"<script" not in apipage.page(hostile)


def answers(tenant: Tenant) -> Iterator[tuple[str, httpx2.Response]]:
    """Yield real answers of operations that a tenant and the operator can call."""
    tenant.budget(1_000)
    held = tenant.hold(10)
    tenant.reserve(10**9)
    yield "getReservation", tenant.call("GET", f"/v1/reservations/{held}")
    yield "listReservations", tenant.call("GET", "/v1/reservations")
    yield "getBalances", tenant.get("/v1/balances", tenant=tenant.id)
    yield "createReservation", tenant.reserve(5)
    yield "commitReservation", tenant.commit(held, 5)
    yield "introspectAuth", tenant.call("GET", "/v1/auth/introspect")
    for name, path in (
        ("listAuditLogs", "/v1/admin/audit/logs"),
        ("getAdminOverview", "/v1/admin/overview"),
        ("listTenants", "/v1/admin/tenants"),
        ("listBudgets", "/v1/admin/budgets"),
        ("listApiKeys", "/v1/admin/api-keys"),
    ):
        yield name, tenant.server.admin("GET", path)


def test_nothing_that_is_sent_is_called_null() -> None:
    """The server refuses null, so no schema of a request offers it."""
    assert '"null"' not in json.dumps(DOCUMENT["components"]["schemas"])


def test_every_example_works_as_it_is_printed(tmp_path: Path) -> None:
    """The examples of the page, in order, against a new server; the ids are those they made."""
    order = [*BODIES, *(name for name in QUERIES if name not in BODIES)]
    assert set(OPERATIONS) - PAGES - set(order) == {
        *("getReservation", "listTenants", "getTenant", "listApiKeys", "introspectAuth"),
        "getAdminOverview",
    }
    with started(tmp_path) as server, httpx2.Client(base_url=server.url) as http:
        known = {"tenant_id": "acme"}
        for name in order:
            method, path, operation = OPERATIONS[name]
            line = apipage._curl(path, method, operation)
            key = server.admin_key if "BURSAR_ADMIN_KEY" in line else known["secret"]
            header = "X-Admin-API-Key" if "BURSAR_ADMIN_KEY" in line else "X-Cycles-API-Key"
            if name == "releaseReservation":
                again = BODIES["createReservation"] | {"idempotency_key": "answer-2"}
                held = http.post("/v1/reservations", json=again, headers={header: key}).json()
                known["reservation_id"] = held["reservation_id"]
            answer = http.request(
                method,
                f"{path.format(**known)}?{QUERIES.get(name, '')}",
                json=BODIES.get(name),
                headers={header: key},
            )
            assert answer.is_success, f"{line}\n{answer.text}"
            if name.startswith("create"):
                known |= {k: v for k, v in answer.json().items() if k.endswith("_id")}
                known["secret"] = answer.json().get("key_secret", known.get("secret"))


def test_real_answers_fit_their_models(tenant: Tenant) -> None:
    """What the server says is what the document says it says."""
    for name, answer in answers(tenant):
        contract: Contract = openapi.CONTRACTS[name][1]
        assert answer.status_code in (contract.status, contract.again), answer.text
        TypeAdapter(contract.gives).validate_json(answer.content)
