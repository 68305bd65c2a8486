"""What `bursar explain` shows to people: each scope, then the verdict and the way through.

The rule that lives here: the document of `--json` is told whole, and nothing is judged here.
"""

from __future__ import annotations

import json
from typing import Any

from rich.text import Text

from bursar import money
from bursar.cli.explain.question import Question
from bursar.cli.explain.verdict import PASSES, Verdict, written
from bursar.cli.remote.show import Column, Show
from bursar.core.state import Policy
from bursar.vocabulary import Decision, Unit

Json = dict[str, Any]


def tell(document: Json, question: Question, verdict: Verdict, show: Show) -> None:
    """Show it: a line for each scope, the policy, the decision, the way through."""
    if show.as_json:
        show.document(document)
        return
    size = money.show(question.estimate_amount, question.unit)
    show.text(f"{size} for {question.path[-1]}", style="bold")
    show.console.print(show.table(document["scopes"], _columns(question.unit)))
    facts: list[tuple[str, str | Text]] = []
    if verdict.policy is not None:
        facts.append(("policy", _ruled(verdict.policy)))
    if document["rate_limit"]:
        facts.append(("rate limit", _used(document["rate_limit"])))
    denied = document["decision"] == Decision.DENY
    by = "the server" if document["decided_by"] == "server" else "the ledger's rules"
    reason = f": {document['reason_code']}" if denied else ""
    said = Text(f"{document['decision']}{reason}", style="bold red" if denied else "bold green")
    facts.append(("decision", said.append(f" (by {by})", style="dim")))
    if document["caps"]:
        facts.append(("caps", json.dumps(document["caps"])))
    if verdict.message and denied:
        facts.append(("why", verdict.message))
    fix = (document["deny_detail"] or {}).get("suggested_fix")
    if fix:
        facts.append(("fix", fix))
    facts += [("run", command) for command in verdict.commands]
    if verdict.fits is not None:
        facts.append(("or ask for", f"at most {written(verdict.fits, question.unit)}"))
    facts += [("note", note) for note in document["notes"]]
    show.result({}, "", facts)


def _columns(unit: Unit) -> tuple[Column, ...]:
    def amount(name: str, title: str | None = None) -> Column:
        def cell(row: Json) -> str:
            return money.show(row[name], unit) if row["budget"] and row[name] else ""

        return Column(title or name, cell, number=True, extra=name != "remaining")

    def remaining(row: Json) -> str:
        if row["budget"]:
            return money.show(row["remaining"], unit)
        others = ", ".join(row["other_units"])
        return f"none in {unit.value}" + (f"; there is one in {others}" if others else "")

    def verdict(row: Json) -> Text:
        said = row["verdict"]
        style = {PASSES: "green", "no budget": "dim"}.get(said, "bold red")
        return Text(said, style=style)

    return (
        Column("scope", lambda row: row["scope"]),
        Column("status", lambda row: row.get("status", "")),
        Column("remaining", remaining, number=True),
        amount("reserved"),
        amount("debt"),
        Column("verdict", verdict),
    )


def _used(limit: Json) -> str:
    most, counted = limit["max_reservations_per_minute"], limit["counted"]
    until = limit["window_ends_at"]
    return f"{counted:,} of {most:,} reservations of this minute are used; free again at {until}"


def _ruled(rules: Policy) -> str:
    """Return what the policy that counts says, in a line."""
    said = []
    if rules.caps:
        said.append(f"caps {rules.caps}")
    if rules.overage_policy:
        said.append(f"overage {rules.overage_policy.value}")
    if rules.rates.reservations_per_minute_max:
        said.append(f"{rules.rates.reservations_per_minute_max} reservations per minute")
    if rules.rates.commits_per_minute_max:
        said.append(f"{rules.rates.commits_per_minute_max} commits per minute")
    if rules.lease.ttl_max_ms:
        said.append(f"leases of at most {rules.lease.ttl_max_ms} ms")
    what = ", ".join(said) or "nothing about this"
    return f"{rules.name} ({rules.scope_pattern}, priority {rules.priority}): {what}"
