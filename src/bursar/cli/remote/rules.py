"""What a policy says: from options and files to the wire, and from the wire to sentences.

The rule that lives here: every field of a policy has one option and one sentence.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from cyclopts import Group, Parameter

from bursar.cli.remote import amounts
from bursar.cli.remote.options import Many
from bursar.cli.remote.show import span
from bursar.vocabulary import OveragePolicy

Json = dict[str, Any]
FILE_BYTES_MAX: Final = 1_048_576
RULES = Group("What it rules", sort_key=50)


@Parameter(name="*", group=RULES)
@dataclass(frozen=True, kw_only=True)
class Rules:
    """The options that say what a policy does."""

    priority: int | None = None
    """Of policies that match equally deep, the highest counts."""
    description: str | None = None
    """What it is for."""
    max_tokens: int | None = None
    """Cap: tokens of one call."""
    max_steps: int | None = None
    """Cap: further steps of the agent."""
    allow_tool: Many = None
    """Cap: only these tools; repeat for more."""
    deny_tool: Many = None
    """Cap: never these tools; repeat for more."""
    cooldown_ms: int | None = None
    """Cap: pause between calls, in milliseconds."""
    overage: OveragePolicy | None = None
    """What happens to a cost above its estimate; beats budget and tenant."""
    ttl_ms: int | None = None
    """Lease of a reservation that asks for none, in milliseconds."""
    ttl_max_ms: int | None = None
    """Longest lease, in milliseconds."""
    extensions: int | None = None
    """How often a lease may be extended."""
    reservations_per_minute: int | None = None
    """Reservations accepted for each scope and minute."""
    commits_per_minute: int | None = None
    """Commits accepted for each scope and minute."""
    effective_from: str | None = None
    """From when it counts, such as 2026-12-01T00:00:00Z."""
    effective_until: str | None = None
    """Until when it counts, inclusive."""

    def body(self) -> Json:
        """Return the fields of the wire that the options give."""
        caps = amounts.present(
            max_tokens=self.max_tokens,
            max_steps_remaining=self.max_steps,
            tool_allowlist=self.allow_tool,
            tool_denylist=self.deny_tool,
            cooldown_ms=self.cooldown_ms,
        )
        lease = amounts.present(
            default_ttl_ms=self.ttl_ms,
            max_ttl_ms=self.ttl_max_ms,
            max_extensions=self.extensions,
        )
        rates = amounts.present(
            max_reservations_per_minute=self.reservations_per_minute,
            max_commits_per_minute=self.commits_per_minute,
        )
        return amounts.present(
            priority=self.priority,
            description=self.description,
            caps=caps or None,
            commit_overage_policy=self.overage,
            reservation_ttl_override=lease or None,
            rate_limits=rates or None,
            effective_from=self.effective_from,
            effective_until=self.effective_until,
        )


UNRULED = Rules()
"""The default of every command: nothing said."""


def read_file(path: Path | None) -> Json:
    """Return a policy's fields from a TOML or JSON file; none without a file.

    Raises:
        CommandError: the file cannot be read, or holds something else.
    """
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        text = raw.decode("utf-8")
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except OSError as error:
        raise amounts.bad(f"--file: cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise amounts.bad(f"--file: {path} is neither TOML nor JSON: {error}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise amounts.bad(f"--file: {path} is above {FILE_BYTES_MAX} bytes; a policy is small")
    # TOML has times of its own; the wire has text.
    return {k: v.isoformat() if isinstance(v, date) else v for k, v in found.items()}


def merged(*bodies: Json) -> Json:
    """Return bodies laid over each other: a later one beats an earlier, also within objects."""
    result: Json = {}
    for body in bodies:
        for name, value in body.items():
            old = result.get(name)
            within = isinstance(old, dict) and isinstance(value, dict)
            result[name] = dict(old or {}, **value) if within else value
    return result


def effect(row: Json) -> list[str]:
    """Return what a policy does, a sentence for each thing."""
    said = [
        *_caps(row.get("caps") or {}),
        *_lease(row.get("reservation_ttl_override") or {}),
        *_rates(row.get("rate_limits") or {}),
    ]
    if overage := row.get("commit_overage_policy"):
        said.append(f"a cost above its estimate: {overage}")
    start, end = row.get("effective_from"), row.get("effective_until")
    if start or end:
        said.append(" ".join(["counts", *_window(start, end)]))
    return said or ["nothing: it only keeps policies above it from counting"]


def _rates(limits: Json) -> Iterator[str]:
    for kind in ("reservations", "commits"):
        if (most := limits.get(f"max_{kind}_per_minute")) is not None:
            yield f"at most {most:,} {kind} a minute for each scope"


def _window(start: str | None, end: str | None) -> Iterator[str]:
    if start:
        yield f"from {start}"
    if end:
        yield f"until {end}"


def _caps(caps: Json) -> Iterator[str]:
    if (tokens := caps.get("max_tokens")) is not None:
        yield f"asks for at most {tokens:,} tokens"
    if (steps := caps.get("max_steps_remaining")) is not None:
        yield f"asks for at most {steps:,} further steps"
    if (tools := caps.get("tool_allowlist")) is not None:
        yield f"asks for no tools but {', '.join(tools) or 'none'}"
    if caps.get("tool_denylist"):
        yield f"asks not to use {', '.join(caps['tool_denylist'])}"
    if (pause := caps.get("cooldown_ms")) is not None:
        yield f"asks for a pause of {span(pause)}"


def _lease(lease: Json) -> Iterator[str]:
    if (ttl := lease.get("default_ttl_ms")) is not None:
        yield f"a lease is {span(ttl)} unless asked for"
    if (most := lease.get("max_ttl_ms")) is not None:
        yield f"a lease is at most {span(most)}"
    if (times := lease.get("max_extensions")) is not None:
        yield f"a lease is extended at most {times:,} times"
