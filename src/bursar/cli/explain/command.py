"""`bursar explain`: from what was typed to a line for each scope, a verdict and a way through.

The rule that lives here: nothing is held and no limit is used up. The server's own verdict
costs one entry in the tenant's log, as every decision does; `--rules-only` goes without.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Group, Parameter

from bursar import ids
from bursar.cli.exits import EXIT_FAILED, EXIT_OK, EXIT_REFUSED, CommandError
from bursar.cli.explain import facts as facts_of
from bursar.cli.explain.question import Question, asked, recorded
from bursar.cli.explain.telling import tell
from bursar.cli.explain.verdict import Scope, Verdict, judge, without_tenant
from bursar.cli.remote.caller import As, Caller
from bursar.cli.remote.options import HERE, Flag, Remote
from bursar.core.state import Policy
from bursar.core.throttle import WINDOW_MS
from bursar.vocabulary import SCOPE_KINDS, Decision, ErrorCode, Unit
from bursar.wire.timestamps import format_timestamp

Json = dict[str, Any]
SUBJECT = Group("Who asks", sort_key=10)
_DENIED_AS_ERROR = (ErrorCode.UNIT_MISMATCH, ErrorCode.FORBIDDEN, ErrorCode.TENANT_CLOSED)


@Parameter(name="*", group=SUBJECT)
@dataclass(frozen=True, kw_only=True)
class Levels:
    """The subject, level by level."""

    tenant: str | None = None
    """The tenant; or the whole subject as a path with --subject."""
    workspace: str | None = None
    """The workspace."""
    app: str | None = None
    """The app."""
    workflow: str | None = None
    """The workflow."""
    agent: str | None = None
    """The agent."""
    toolset: str | None = None
    """The toolset."""

    def named(self) -> dict[str, str | None]:
        """Return the value of each level."""
        return {kind: getattr(self, kind) for kind in SCOPE_KINDS}


NOBODY = Levels()


def explain(
    amount: str | None = None,
    /,
    *,
    subject: str | None = None,
    levels: Levels = NOBODY,
    action: str = "llm.completion",
    reservation_request: Path | None = None,
    rules_only: Flag = False,
    remote: Remote = HERE,
) -> int:
    """Say why a request would be denied, scope by scope, and the cheapest change that would pass.

    With a tenant's key the server is asked to decide: nothing is held and no rate limit is used
    up, but the question is one entry in the tenant's log. The reasons are worked out from what
    the key may read: with the admin key that is everything. Exit code 1 if it would be denied.

    Example: bursar explain 0.50USD --subject tenant:acme/agent:reader

    Parameters
    ----------
    amount
        What would be reserved, such as 0.50USD or 2000tokens.
    subject
        Who asks, as a path.
    levels
        Who asks, level by level.
    action
        What for: KIND, or KIND/NAME.
    reservation_request
        File with a recorded body of POST /v1/reservations, instead of the rest.
    rules_only
        Do not ask the server to decide; work it out from what can be read.
    """
    if reservation_request is None:
        question = asked(subject, levels.named(), action, amount)
    else:
        question = recorded(reservation_request)
    with remote.connected() as caller:
        server = None if rules_only else _decided(caller, question)
        now_ms = time.time_ns() // 1_000_000
        facts = facts_of.gather(caller, question, now_ms)
    verdict = judge(facts.snapshot, question, now_ms)
    if facts.tenant_is_unknown:
        verdict = without_tenant(verdict, question.tenant)
    document = _document(question, server, verdict, facts.notes)
    tell(document, question, verdict, remote.show)
    return EXIT_FAILED if document["decision"] == Decision.DENY else EXIT_OK


def _decided(caller: Caller, question: Question) -> Json | None:
    """Return the server's decision, a refusal as a denial; None without a tenant's key."""
    if caller.profile.api_key is None:
        return None
    key = f"explain-{ids.new_id(time.time_ns() // 1_000_000)}"
    body: Json = {
        "idempotency_key": key,
        "subject": question.subject,
        "action": question.action,
        "estimate": {"unit": question.unit.value, "amount": question.estimate_amount},
    }
    try:
        return caller.call("POST", "/v1/decide", body=body, who=As.TENANT, key=key)
    except CommandError as error:
        code, details = error.facts.get("error"), error.facts.get("details") or {}
        denied = code in _DENIED_AS_ERROR and (details or error.code == EXIT_REFUSED)
        if not denied:
            raise
        detail = details.get("deny_detail", details)
        reason = detail.get("reason_code", code)
        return {"decision": Decision.DENY.value, "reason_code": reason, "deny_detail": detail}


def _document(question: Question, server: Json | None, verdict: Verdict, notes: list[str]) -> Json:
    """Return everything that is told; `--json` prints it."""
    ours = Decision.DENY if verdict.denial is not None else Decision.ALLOW
    if ours is Decision.ALLOW and verdict.policy is not None and verdict.policy.caps:
        ours = Decision.ALLOW_WITH_CAPS
    decision = server["decision"] if server is not None else ours.value
    if verdict.reason_code == ErrorCode.LIMIT_EXCEEDED and decision != Decision.DENY:
        # The server's decision knows no rate limits; the reservation itself would meet it.
        server, decision = None, ours.value
    if decision != ours:
        notes = [
            *notes,
            f"the server says {decision}, what can be read says {ours.value}: it changed "
            "meanwhile, or this key cannot read all of it; try the admin key",
        ]
    denied = decision == Decision.DENY
    return {
        "tenant": question.tenant,
        "scope_path": question.path[-1],
        "action": question.action,
        "asked": {"unit": question.unit.value, "amount": question.estimate_amount},
        "decision": decision,
        "decided_by": "rules" if server is None else "server",
        "reason_code": (server or {}).get("reason_code")
        or (verdict.reason_code if denied else None),
        "caps": _caps(server, verdict),
        "scopes": [_scope(one, question.unit) for one in verdict.scopes],
        "policy": None if verdict.policy is None else _policy(verdict.policy),
        "rate_limit": _limit(verdict),
        "deny_detail": (server or {}).get("deny_detail") or verdict.denial,
        "message": verdict.message,
        "commands": list(verdict.commands),
        "fits": verdict.fits,
        "notes": notes,
    }


def _limit(verdict: Verdict) -> Json | None:
    limit = verdict.limit
    if limit is None:
        return None
    return {
        "max_reservations_per_minute": limit.per_minute_max,
        "counted": limit.counted,
        "window_ends_at": format_timestamp(limit.window_start_ms + WINDOW_MS),
    }


def _caps(server: Json | None, verdict: Verdict) -> Json | None:
    if server is not None:
        caps: Json | None = server.get("caps")
        return caps
    if verdict.policy is None or not verdict.policy.caps or verdict.denial is not None:
        return None
    read: Json = json.loads(verdict.policy.caps)
    return read


def _scope(one: Scope, unit: Unit) -> Json:
    budget = one.budget
    shown: Json = {"scope": one.scope, "unit": unit.value, "budget": budget is not None}
    if budget is not None:
        shown |= {
            "status": budget.status.value,
            "allocated": budget.allocated,
            "remaining": budget.remaining,
            "reserved": budget.reserved,
            "spent": budget.spent,
            "debt": budget.debt,
            "overdraft_limit": budget.overdraft_limit,
            "is_over_limit": budget.is_over_limit,
        }
    other = [unit.value for unit in one.other_units]
    return shown | {"other_units": other, "verdict": one.verdict}


def _policy(rules: Policy) -> Json:
    return {
        "policy_id": rules.policy_id,
        "name": rules.name,
        "scope_pattern": rules.scope_pattern,
        "priority": rules.priority,
        "caps": None if rules.caps is None else json.loads(rules.caps),
        "commit_overage_policy": rules.overage_policy and rules.overage_policy.value,
        "max_reservations_per_minute": rules.rates.reservations_per_minute_max,
        "max_commits_per_minute": rules.rates.commits_per_minute_max,
    }
