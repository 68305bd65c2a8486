"""Which policies a replay runs under, and what they did, for the report.

The rule that lives here: a policy file says what `bursar policy create --file` would send, and
is checked as the server checks it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bursar.authority.call import Refusal
from bursar.authority.policies import record_of
from bursar.cli.exits import EXIT_USAGE, CommandError
from bursar.cli.remote.rules import read_file
from bursar.cli.replay.governed import Effects, GovernedReplay
from bursar.cli.replay.simulate import TENANT, Replay, VirtualClock
from bursar.cli.replay.tally import Tally
from bursar.core import scopes
from bursar.core.state import Policy
from bursar.ledger.service import Ledger
from bursar.vocabulary import POLICIES_ACTIVE_MAX, SCOPE_KINDS, Unit
from bursar.wire.codec import BadRequest, decode
from bursar.wire.policies import PolicyCreateRequest

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ruled:
    """Who sends the requests, and the policies that they run under."""

    subject: Mapping[str, str]
    policies: Sequence[Policy]

    @property
    def tenant(self) -> str:
        """The tenant that owns budget and policies."""
        return self.subject["tenant"]

    def replay(
        self, ledger: Ledger, clock: VirtualClock, unit: Unit, budget_amount: int, model: str | None
    ) -> Replay:
        """Return a run under these policies, or a plain one if there are none."""
        if not self.policies:
            return Replay(ledger, clock, unit, budget_amount, model, self.subject)
        run = GovernedReplay(ledger, clock, unit, budget_amount, model, self.subject)
        run.govern(self.policies)
        return run


NOBODY_RULED: Final = Ruled({"tenant": TENANT}, ())


def ruled(files: Sequence[Path], subject: str | None) -> Ruled:
    """Read policies, in the order in which they are named, for a subject.

    Raises:
        CommandError: a file is no policy, or the subject no path.
    """
    who = _subject(subject or f"tenant:{TENANT}")
    if len(files) > POLICIES_ACTIVE_MAX:
        raise _bad(f"--policy: at most {POLICIES_ACTIVE_MAX} policies, got {len(files)}")
    policies = [_policy(file, who["tenant"], number) for number, file in enumerate(files, 1)]
    names = [one.name for one in policies]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _bad(f"--policy: two policies have the name {twice!r}; a name belongs to one")
    return Ruled(who, policies)


def _subject(written: str) -> dict[str, str]:
    problem = scopes.problem(written, written.partition("/")[0].removeprefix("tenant:").lower())
    if problem is not None or not written.startswith("tenant:"):
        raise _bad(f"--subject: {problem or 'must begin with tenant:'}")
    pairs = (segment.partition(":") for segment in written.lower().split("/"))
    found = {kind: value for kind, _, value in pairs}
    return {kind: found[kind] for kind in SCOPE_KINDS if kind in found}


def _policy(file: Path, tenant: str, number: int) -> Policy:
    """Return the policy that a file describes; its id shows the order in which it was named."""
    try:
        body = read_file(file)
        body.pop("tenant_id", None)  # here it is the subject's tenant that owns it
        request = decode(PolicyCreateRequest, json.dumps(body).encode())
        policy = record_of(request, tenant, f"pol_{number:03d}")
    except BadRequest as error:
        raise _bad(f"--policy: {file}: {error.message}") from error
    except Refusal as error:
        raise _bad(f"--policy: {file}: {error.refused.message} (see --subject)") from error
    except CommandError as error:
        raise CommandError(error.code, str(error).replace("--file", "--policy", 1)) from error
    first, last = policy.effective_from_ms, policy.effective_until_ms
    if first is not None and last is not None and last < first:
        raise _bad(f"--policy: {file}: effective_until is earlier than effective_from")
    return policy


def document(effects: Effects, tally: Tally, without: Tally, unit: Unit) -> Json:
    """Return what policies did, and what the same trace comes to without them."""
    suffix = "_microcents" if unit is Unit.USD_MICROCENTS else ""
    return {
        "policies": [
            {
                "name": one.policy.name,
                "scope_pattern": one.policy.scope_pattern,
                "priority": one.policy.priority,
                "governed": one.governed,
                "denied": one.denied,
                "throttled": one.throttled,
                "capped": one.capped,
                "over_cap": one.over_cap,
                "commits_throttled": one.commits_throttled,
            }
            for one in effects.by_policy.values()
        ],
        "ungoverned": effects.ungoverned,
        "lapsed": tally.lapsed,
        "commits_refused": dict(sorted(effects.commits_refused.items())),
        f"unaccounted{suffix}": effects.unaccounted_amount,
        "without_policies": {
            "allowed": without.allowed,
            "denied": without.denied,
            "denied_by_reason": dict(sorted(without.denied_by.items())),
            f"spent{suffix}": without.spent_amount,
            f"held_peak{suffix}": without.held_peak_amount,
        },
    }


def _bad(message: str) -> CommandError:
    return CommandError(EXIT_USAGE, message)
