"""Every response against the published API schemas, and against what holds for all responses.

Any HTTP client of a test can be checked: `CheckedClient` checks by itself, `hook` is a response
event hook of httpx and httpx2, `hook_async` the same for their async clients, and `problems` takes
the bare parts of a response. The schemas are read from where they are published beside the
project. Where they are absent only they are left out (`ABSENT` says so); the rest is still checked.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

SPEC = Path(__file__).resolve().parents[1].parent / "shared" / "spec"
ABSENT = None if SPEC.is_dir() else f"the published API schemas are not at {SPEC}"
PLANES = {
    "runtime": "cycles-openapi-protocol-merged.yaml",
    "admin": "cycles-openapi-admin-merged.yaml",
}
SUBJECT_LEVELS = {"tenant", "workspace", "app", "workflow", "agent", "toolset"}
HEALTH = ("/health/live", "/health/ready")

# What the protocol's error table says (section 9), and its INVALID_REQUEST for what is bad HTTP.
CODES: dict[int, set[str]] = {
    400: {"INVALID_REQUEST", "UNIT_MISMATCH", "LIMIT_EXCEEDED"},  # the last for bulk actions
    401: {"UNAUTHORIZED"},
    403: {"FORBIDDEN", "INSUFFICIENT_PERMISSIONS"},
    404: {"NOT_FOUND", "TENANT_NOT_FOUND", "BUDGET_NOT_FOUND"},
    405: {"INVALID_REQUEST"},
    408: {"INVALID_REQUEST"},
    409: {
        *("BUDGET_EXCEEDED", "BUDGET_FROZEN", "BUDGET_CLOSED", "TENANT_CLOSED"),
        *("OVERDRAFT_LIMIT_EXCEEDED", "DEBT_OUTSTANDING", "MAX_EXTENSIONS_EXCEEDED"),
        *("RESERVATION_FINALIZED", "IDEMPOTENCY_MISMATCH", "DUPLICATE_RESOURCE"),
        *("KEY_REVOKED", "KEY_EXPIRED", "COUNT_MISMATCH"),
        "INVALID_REQUEST",  # freezing what is frozen, unfreezing what is not
    },
    410: {"RESERVATION_EXPIRED"},
    413: {"INVALID_REQUEST"},
    429: {"LIMIT_EXCEEDED"},
    431: {"INVALID_REQUEST"},
    500: {"INTERNAL_ERROR"},
}
DENIALS = {
    *("BUDGET_EXCEEDED", "BUDGET_FROZEN", "BUDGET_CLOSED", "TENANT_CLOSED"),
    *("OVERDRAFT_LIMIT_EXCEEDED", "DEBT_OUTSTANDING"),
}
# Statuses that any operation may give although its specification does not list them.
ALWAYS = {404, 405, 408, 413, 429, 431, 500, 503}
FREE_OBJECTS = {"metadata", "committed_metadata", "custom"}
TRACE_ID = re.compile(r"[0-9a-f]{32}")
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

FORMATS = FormatChecker(formats=())


@FORMATS.checks("date-time")
def is_date_time(value: object) -> bool:
    return not isinstance(value, str) or DATE_TIME.fullmatch(value) is not None


@dataclass(frozen=True)
class Operation:
    """One method and path of a published specification."""

    plane: str
    operation_id: str
    method: str
    path: re.Pattern[str]
    responses: Mapping[str, str]  # status -> URI of its schema, "" for an empty body


OUR_OWN = ("/v1/admin/budgets/period",)


class BrokenResponse(AssertionError):
    """A response that breaks the protocol; the message says where."""


def problems(
    method: str, url: str, status: int, headers: Mapping[str, str], body: bytes
) -> list[str]:
    """Return everything wrong with a response, empty if nothing is."""
    parts = urlsplit(url)
    heads = {name.lower(): value for name, value in headers.items()}
    found = list(_headers(status, heads))
    if method == "HEAD":
        return found + (["a response to HEAD has a body"] if body else [])
    if parts.path in HEALTH and status in (200, 503):
        return found
    if status == 204:
        return found + (["a 204 has a body"] if body else [])
    if heads.get("content-type", "").partition(";")[0] != "application/json":
        found.append(f"content-type is {heads.get('content-type')!r}, not application/json")
    try:
        document = json.loads(body)
    except ValueError as error:
        return [*found, f"the body is not JSON: {error}"]
    found += _nulls(document, "$")
    found += _sums(document, "$")
    found += _page(document)
    if status >= 400:
        found += _error(document, status, heads)
    if parts.path in OUR_OWN and status == 200:
        return found  # no published schema; its own model is checked by its own test
    found += _schema(method, parts.path, set(parse_qs(parts.query)), status, document)
    return found


def check(method: str, url: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise `BrokenResponse` if anything is wrong with a response."""
    found = problems(method, url, status, headers, body)
    if found:
        listed = "\n  ".join(found)
        raise BrokenResponse(f"{method} {url} -> {status}\n  {listed}\n{body[:2000]!r}")


def hook(response: Any) -> None:
    """Check a response of httpx or httpx2: `Client(event_hooks={"response": [hook]})`."""
    response.read()
    request = response.request
    check(
        request.method, str(request.url), response.status_code, response.headers, response.content
    )


async def hook_async(response: Any) -> None:
    """Check a response of an async client, as `hook` does."""
    await response.aread()
    hook(response)


def document_problems(method: str, path: str, status: int, document: object) -> list[str]:
    """Return what is wrong with the document of a response that was read somewhere else."""
    return [
        *_nulls(document, "$"),
        *_sums(document, "$"),
        *_schema(method, path, set(), status, document),
    ]


class CheckedClient(httpx2.Client):
    """A client that fails the test on the first response that breaks the protocol."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = super().send(request, **options)
        hook(response)
        return response


def _headers(status: int, heads: Mapping[str, str]) -> Iterator[str]:
    if not heads.get("x-request-id"):
        yield "X-Request-Id is missing"
    trace = heads.get("x-cycles-trace-id", "")
    if not TRACE_ID.fullmatch(trace) or not trace.strip("0"):
        yield f"X-Cycles-Trace-Id is {trace!r}"
    if status == 429 and not heads.get("retry-after", "").isdigit():
        yield "a 429 needs Retry-After in whole seconds"
    if status == 405 and not heads.get("allow"):
        yield "a 405 needs Allow"


def _nulls(value: Any, path: str) -> Iterator[str]:
    if value is None:
        yield f"{path} is null; an absent field is left out"
    elif isinstance(value, dict):
        for name, member in value.items():
            if name not in FREE_OBJECTS:
                yield from _nulls(member, f"{path}.{name}")
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _nulls(member, f"{path}[{index}]")


def _sums(value: Any, path: str) -> Iterator[str]:
    """The identity of the ledger holds in every balance and budget shown (protocol 0.2)."""
    if isinstance(value, list):
        for index, member in enumerate(value):
            yield from _sums(member, f"{path}[{index}]")
    elif isinstance(value, dict):
        if value.keys() >= {"scope", "remaining", "allocated", "spent", "reserved"}:
            parts = {
                name: value.get(name, {"amount": 0})["amount"]
                for name in ("allocated", "remaining", "spent", "reserved", "debt")
            }
            if parts["allocated"] != parts["remaining"] + sum(list(parts.values())[2:]):
                yield f"{path}: allocated is not remaining + spent + reserved + debt: {parts}"
        for name, member in value.items():
            if name not in FREE_OBJECTS:
                yield from _sums(member, f"{path}.{name}")


def _page(document: Any) -> Iterator[str]:
    if isinstance(document, dict) and document.get("has_more", False) != (
        "next_cursor" in document
    ):
        yield "has_more must be true exactly when next_cursor is present"


def _error(document: Any, status: int, heads: Mapping[str, str]) -> Iterator[str]:
    if not isinstance(document, dict):
        yield "an error body is an object"
        return
    for field, header in (("request_id", "x-request-id"), ("trace_id", "x-cycles-trace-id")):
        if document.get(field) != heads.get(header):
            yield f"{field} {document.get(field)!r} is not the header's {heads.get(header)!r}"
    code = document.get("error")
    if code not in CODES.get(status, set()):
        yield f"{code} does not go with status {status}"
    if not document.get("message"):
        yield "message is missing or empty"
    detail = document.get("details", {}).get("deny_detail")
    if code in DENIALS and (detail is None or not detail.get("reason_code")):
        yield f"{code} is a denial without details.deny_detail"
    if detail is not None and len(detail.get("suggested_fix", "")) > 512:
        yield "deny_detail.suggested_fix has more than 512 characters"


def _schema(method: str, path: str, query: set[str], status: int, document: Any) -> Iterator[str]:
    if ABSENT is not None:
        return
    uri = _schema_uri(method, path, query, status)
    if uri is None:
        yield f"status {status} is not declared for this operation"
        return
    for error in _validator(uri).iter_errors(document):
        place = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in error.absolute_path)
        yield f"${place}: {error.message[:300]} ({uri})"


def _schema_uri(method: str, path: str, query: set[str], status: int) -> str | None:
    operation = _operation(method, path, admin_form=not query & SUBJECT_LEVELS)
    if operation is None:
        return _error_schema(path) if status >= 400 else None
    declared = operation.responses.get(str(status))
    if declared is None and status in ALWAYS:
        return _uri(operation.plane, "components", "schemas", "ErrorResponse")
    return declared


def _error_schema(path: str) -> str:
    plane = "admin" if path.startswith(("/v1/admin", "/v1/auth")) else "runtime"
    return _uri(plane, "components", "schemas", "ErrorResponse")


def _operation(method: str, path: str, *, admin_form: bool) -> Operation | None:
    """Return the operation; a path of both planes is the runtime's unless the query says else."""
    matching = [
        operation
        for operation in operations()
        if operation.method == method and operation.path.fullmatch(path)
    ]
    # A literal path such as /budgets/lookup wins over one with a parameter.
    matching.sort(key=lambda operation: "[^/]" in operation.path.pattern)
    if path == "/v1/balances" and len(matching) == 2:
        wanted = "admin" if admin_form else "runtime"
        return next(operation for operation in matching if operation.plane == wanted)
    return matching[0] if matching else None


def _uri(plane: str, *steps: str) -> str:
    pointer = "/".join(step.replace("~", "~0").replace("/", "~1") for step in steps)
    return f"urn:cycles:{plane}#/{pointer}"


@cache
def documents() -> dict[str, Any]:
    """Return the two published API documents by plane."""
    return {
        plane: yaml.load((SPEC / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        for plane, name in PLANES.items()
    }


@cache
def operations() -> tuple[Operation, ...]:
    """Return every operation of both planes."""
    found: list[Operation] = []
    for plane, document in documents().items():
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if "responses" not in operation:
                    continue
                pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
                responses = {
                    status: _response_uri(plane, document, response, path, method, status)
                    for status, response in operation["responses"].items()
                }
                found.append(
                    Operation(
                        plane,
                        operation["operationId"],
                        method.upper(),
                        re.compile(pattern),
                        responses,
                    )
                )
    return tuple(found)


def _response_uri(
    plane: str, document: Any, response: Any, path: str, method: str, status: str
) -> str:
    steps = ["paths", path, method, "responses", status]
    if "$ref" in response:
        steps = response["$ref"].removeprefix("#/").split("/")
        response = document
        for step in steps:
            response = response[step]
    if "application/json" not in response.get("content", {}):
        return ""
    return _uri(plane, *steps, "content", "application/json", "schema")


_compiled: dict[str, Draft202012Validator] = {}
_compiling = threading.Lock()


def _validator(uri: str) -> Draft202012Validator:
    """Return the validator of one schema; clients of several threads share it."""
    with _compiling:
        if uri not in _compiled:
            _compiled[uri] = Draft202012Validator(
                {"$ref": uri}, registry=_registry(), format_checker=FORMATS
            )
        return _compiled[uri]


@cache
def _registry() -> Registry[Any]:
    return Registry().with_resources(
        (f"urn:cycles:{plane}", DRAFT202012.create_resource(document))
        for plane, document in documents().items()
    )
