"""A server seen through the network: health, transport, clocks, keys, budgets.

The rule that lives here: it is asked as any client would ask it, and only reads are sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from bursar.cli.doctor.line import Line, fail, ok, warn
from bursar.cli.exits import CommandError
from bursar.cli.remote.caller import As, Caller
from bursar.ids import new_trace_id
from bursar.server.adminkey import is_loopback
from bursar.wire.timestamps import parse_timestamp

SKEW_WARN_S, SKEW_FAIL_S = 5, 60
EXPIRES_SOON_MS = 14 * 86_400_000
TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
TRACE = "x-cycles-trace-id"


def lines(caller: Caller) -> Iterator[Line]:
    """Look at a server; without one there is one line."""
    base_url, trace = caller.profile.base_url, new_trace_id()
    began = time.time()
    try:
        reply = httpx2.get(
            f"{base_url}/health/ready", headers={TRACE: trace}, timeout=TIMEOUT, trust_env=False
        )
    except httpx2.TransportError as error:
        yield fail(
            "server",
            f"nobody answers at {base_url}: {str(error) or type(error).__name__}",
            "start one with `bursar serve`, or name another with --base-url or CYCLES_BASE_URL",
        )
        return
    took_ms = (time.time() - began) * 1_000
    yield _health(reply, base_url, took_ms)
    yield _transport(base_url)
    yield _trace(reply, trace)
    yield _clock(reply, began)
    yield from _keys(caller)
    yield from _budgets(caller)


def _health(reply: httpx2.Response, base_url: str, took_ms: float) -> Line:
    if reply.status_code == 200:
        return ok("server", f"{base_url} is ready ({took_ms:.0f} ms)")
    try:
        checks = reply.json()["checks"]
        wrong = "; ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok")
    except (ValueError, LookupError, AttributeError, TypeError):
        return fail(
            "server",
            f"{base_url}/health/ready answers {reply.status_code}, not as a bursar server",
            "check the base URL, and what a proxy in between does with /health",
        )
    return fail("server", f"not ready: {wrong[:300]}", "look at the server's log and its disk")


def _transport(base_url: str) -> Line:
    parts = urlsplit(base_url)
    if parts.scheme == "https":
        return ok("transport", "TLS")
    if is_loopback(parts.hostname or ""):
        return ok("transport", "plain HTTP within this machine")
    return warn(
        "transport",
        f"plain HTTP to {parts.hostname}: keys can be read on the way",
        "put a proxy with TLS in front of the server and use https://",
    )


def _trace(reply: httpx2.Response, sent: str) -> Line:
    if reply.headers.get(TRACE) == sent:
        return ok("tracing", "the trace id comes back")
    return warn(
        "tracing",
        "the trace id that was sent does not come back",
        "let the proxy in between pass X-Cycles-Trace-Id and traceparent on, both ways",
    )


def _clock(reply: httpx2.Response, sent_s: float) -> Line:
    """Compare clocks; the server's Date has whole seconds, and the answer took a while."""
    try:
        theirs = parsedate_to_datetime(reply.headers["date"])
    except (LookupError, ValueError):
        return warn("clock", "the answer has no Date", "let the proxy in between pass Date on")
    early = sent_s - (theirs.timestamp() + 1)
    late = theirs.timestamp() - time.time()
    apart_s = max(early, late, 0.0)
    if apart_s <= SKEW_WARN_S:
        return ok("clock", "the server's clock and this machine's agree")
    found = f"the server's clock is {apart_s:.0f} s {'ahead' if late > 0 else 'behind'}"
    fix = "set both clocks with NTP; leases and expiries follow the server's"
    return (fail if apart_s > SKEW_FAIL_S else warn)("clock", found, fix)


def _keys(caller: Caller) -> Iterator[Line]:
    profile = caller.profile
    if profile.admin_key is None and profile.api_key is None:
        yield warn(
            "keys", "no key is given", "set BURSAR_ADMIN_KEY or CYCLES_API_KEY, or name a --profile"
        )
    for name, key, who in (
        ("admin key", profile.admin_key, As.OPERATOR),
        ("API key", profile.api_key, As.TENANT),
    ):
        if key is None:
            continue
        try:
            said = caller.get("/v1/auth/introspect", who=who)
        except CommandError as error:
            yield fail(name, str(error), "give a key of this server, or create another one")
            continue
        if who is As.OPERATOR:
            yield ok(name, "accepted")
        else:
            yield _expiry(caller, key, said)


def _expiry(caller: Caller, key: str, said: dict[str, Any]) -> Line:
    """Say whose key it is and until when; only the operator can ask for the latter."""
    whose = f"accepted, of tenant {said.get('tenant_id')}"
    if caller.profile.admin_key is None:
        return ok("API key", whose)
    try:
        facts = caller.call(
            "POST",
            "/v1/auth/validate",
            body={"key_secret": key},
            who=As.OPERATOR,
            repeatable=True,
        )
        until_ms = parse_timestamp(facts["expires_at"])
    except (CommandError, LookupError, ValueError):
        return ok("API key", whose)
    until = datetime.fromtimestamp(until_ms / 1_000, tz=UTC)
    found = f"{whose}, until {until:%Y-%m-%d}"
    if until_ms - time.time() * 1_000 < EXPIRES_SOON_MS:
        tenant = said.get("tenant_id")
        return warn("API key", found, f"create another one: bursar key create {tenant}")
    return ok("API key", found)


def _budgets(caller: Caller) -> Iterator[Line]:
    """Look for budgets that are over their limit, or owe something."""
    if caller.profile.admin_key is None:
        return
    for name, found, query in (
        ("over limit", "over their limit", {"over_limit": True}),
        ("debt", "in debt", {"has_debt": True}),
    ):
        try:
            page = caller.get("/v1/admin/budgets", {**query, "limit": 5}, who=As.OPERATOR)
        except CommandError:
            return  # the admin key's own line says why
        rows = page.get("ledgers", [])
        if not rows:
            yield ok(name, f"no budgets are {found}")
            continue
        more = " and more" if page.get("has_more") else ""
        listed = ", ".join(f"{row['scope_path']} ({row['unit']})" for row in rows)
        fix = f"bursar budget repay {rows[0]['scope_path']} AMOUNT"
        yield warn(name, f"{found}: {listed}{more}", fix)
