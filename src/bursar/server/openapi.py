"""The OpenAPI document of this server, made from its routes and its models.

The rule that lives here: nothing is described by hand that the code already says. Paths and
credentials come from `routes`, fields and limits from the models, statuses and advice from
the table of error codes, the rest from `contract`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bursar.server.auth import Access
from bursar.server.contract import ALWAYS, GROUPS, Contract
from bursar.server.routes import ROUTES, ApiRoute
from bursar.vocabulary import ErrorCode
from bursar.wire.problems import PROBLEMS, status_of
from bursar.wire.runtime import ErrorResponse

Json = dict[str, Any]
VERSION = "3.1.0"
REF = "#/components/schemas/{model}"
TITLE = "Bursar"
ABOUT = (
    "A Cycles-protocol server: reserve before an agent spends, account afterwards, and prove "
    "what happened when nobody knows. Every operation that changes something takes an "
    "idempotency key and may be sent again with it."
)
CREDENTIALS: dict[Access, list[Json]] = {
    Access.TENANT: [{"ApiKey": []}],
    Access.OPERATOR: [{"AdminKey": []}],
    Access.EITHER: [{"ApiKey": []}, {"AdminKey": []}],
}
AROUND = "Around the protocol"
PAGES: dict[str, tuple[str, str, str, list[Json]]] = {
    "/v1/admin/backup": (
        *("downloadBackup", "The whole ledger as one SQLite file, while it is in use."),
        *("application/vnd.sqlite3", CREDENTIALS[Access.OPERATOR]),
    ),
    "/metrics": (
        *("scrapeMetrics", "Metrics in the format of Prometheus."),
        *("text/plain", CREDENTIALS[Access.OPERATOR]),
    ),
    "/health/live": ("isAlive", "200 while the process runs.", "application/json", []),
    "/health/ready": (
        *("isReady", "200, or 503 while it cannot read or write its store."),
        *("application/json", []),
    ),
}
"""Path -> operation, sentence, type of the answer, and who may ask; Bursar's own."""

CONTRACTS: dict[str, tuple[str, Contract]] = {
    name: (group, contract) for group, of in GROUPS.items() for name, contract in of.items()
}


def document(version: str) -> Json:
    """Return the document for a server of this version."""
    paths: Json = {}
    for route in sorted(ROUTES, key=lambda one: list(CONTRACTS).index(one.operation_id)):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    paths |= {path: {"get": _page(*told)} for path, told in PAGES.items()}
    return {
        "openapi": VERSION,
        "info": {"title": TITLE, "version": version, "description": ABOUT},
        "tags": [{"name": group} for group in (*GROUPS, AROUND)],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": _schemes()},
    }


def refusals(contract: Contract) -> dict[int, list[ErrorCode]]:
    """Return the codes that an operation can give, by status."""
    found: dict[int, list[ErrorCode]] = {}
    for code in dict.fromkeys((*ALWAYS, *contract.refuses)):
        found.setdefault(status_of(code), []).append(code)
    return dict(sorted(found.items()))


def _operation(route: ApiRoute) -> Json:
    group, contract = CONTRACTS[route.operation_id]
    operation: Json = {
        "operationId": route.operation_id,
        "tags": [group],
        "summary": contract.says,
        "security": CREDENTIALS[route.access],
        "parameters": [*_path_parameters(route.path), *_query_parameters(contract)],
        "responses": _responses(contract),
    }
    if contract.takes is not None:
        operation["requestBody"] = {
            "required": not contract.body_optional,
            "content": _content(contract.takes),
        }
    return operation


def _page(name: str, says: str, kind: str, security: list[Json]) -> Json:
    """Return one of the pages beside the protocol; its body is a file, or free text."""
    found: Json = {"200": {"description": "Done.", "content": {kind: {}}}}
    if security:
        found["401"] = {"description": "UNAUTHORIZED", "content": _content(ErrorResponse)}
    return {
        "operationId": name,
        "tags": [AROUND],
        "summary": says,
        "security": security,
        "parameters": [],
        "responses": found,
    }


def _path_parameters(path: str) -> Iterable[Json]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(contract: Contract) -> Iterable[Json]:
    for name, schema in contract.query.items():
        yield {
            "name": name,
            "in": "query",
            "required": name in contract.required,
            "schema": dict(schema),
        }


def _responses(contract: Contract) -> Json:
    content = _content(contract.gives)
    found: Json = {str(contract.status): {"description": "Done.", "content": content}}
    if contract.again is not None:
        found[str(contract.again)] = {"description": "It was there already.", "content": content}
    for status, codes in refusals(contract).items():
        told = " ".join(f"{code.value}: {PROBLEMS[code].meaning}" for code in codes)
        found[str(status)] = {"description": told, "content": _content(ErrorResponse)}
    return found


def _content(model: type[BaseModel]) -> Json:
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}


def _schemas() -> Json:
    models: dict[str, type[BaseModel]] = {"ErrorResponse": ErrorResponse}
    for _, contract in CONTRACTS.values():
        for model in (contract.takes, contract.gives):
            if model is not None:
                models[model.__name__] = model
    _, found = models_json_schema(
        [(model, "validation") for model in models.values()], ref_template=REF
    )
    definitions: Json = found["$defs"]
    return {name: _absent(definitions[name]) for name in sorted(definitions)}


def _absent(schema: Any) -> Any:
    """Return a schema in which what may be absent is not called null: null is refused."""
    if isinstance(schema, list):
        return [_absent(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        name: _absent(value)
        for name, value in schema.items()
        if not (name == "default" and value is None)
    }
    choices = [one for one in plain.get("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        del plain["anyOf"]
        return choices[0] | plain
    return plain


def _schemes() -> Json:
    return {
        "ApiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Cycles-API-Key",
            "description": "A tenant's key.",
        },
        "AdminKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Admin-API-Key",
            "description": "The operator's key.",
        },
    }
