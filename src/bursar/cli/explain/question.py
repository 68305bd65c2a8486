"""The request that is asked about: from options, or from a recorded body.

The rule that lives here: it is checked by the wire's own model, so that what can be explained
is what could have been sent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bursar.cli.exits import EXIT_USAGE, CommandError
from bursar.cli.remote import amounts
from bursar.core import scopes
from bursar.vocabulary import SCOPE_KINDS, Unit
from bursar.wire.codec import BadRequest, decode
from bursar.wire.runtime import ReservationCreateRequest

BODY_BYTES_MAX = 1_000_000
PLACEHOLDER = "explain"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: who, what, how much. `path` is the subject's scopes, outermost first."""

    tenant: str
    path: tuple[str, ...]
    subject: dict[str, Any]
    action: dict[str, Any]
    unit: Unit
    estimate_amount: int


def asked(
    subject: str | None,
    levels: dict[str, str | None],
    action: str,
    amount: str | None,
) -> Question:
    """Return the question that options ask.

    Args:
        subject: a path such as `tenant:acme/agent:reader`, or None.
        levels: value by level, such as `{"tenant": "acme"}`; instead of a path.
        action: `KIND` or `KIND/NAME`.
        amount: what is asked for, with its unit.

    Raises:
        CommandError: an option is missing or cannot be used.
    """
    named = {kind: value for kind, value in levels.items() if value is not None}
    if subject is not None:
        if named:
            raise _bad(f"--subject and --{next(iter(named))} say the same thing; keep one of them")
        for segment in subject.split("/"):
            kind, colon, value = segment.partition(":")
            if not colon or kind not in SCOPE_KINDS or kind in named:
                raise _bad(
                    f"--subject is a path like tenant:acme/agent:reader, with each of "
                    f"{', '.join(SCOPE_KINDS)} at most once, not {subject[:200]!r}"
                )
            named[kind] = value
    if amount is None:
        raise _bad("AMOUNT is missing: what would be reserved, e.g. 0.50USD or 2000tokens")
    kind, _, name = action.partition("/")
    body = {
        "idempotency_key": PLACEHOLDER,
        "subject": named,
        "action": {"kind": kind, "name": name or kind},
        "estimate": amounts.read("AMOUNT", amount),
    }
    return _question(json.dumps(body).encode(), "")


def recorded(path: Path) -> Question:
    """Return the question that a recorded body of `POST /v1/reservations` asks.

    Raises:
        CommandError: it cannot be read, or the server would not accept it.
    """
    try:
        with path.open("rb") as file:
            body = file.read(BODY_BYTES_MAX)
    except OSError as error:
        raise _bad(f"--reservation-request: {path}: {error.strerror}") from error
    return _question(body, f"--reservation-request: {path}: ")


def _question(body: bytes, where: str) -> Question:
    try:
        request = decode(ReservationCreateRequest, body)
    except BadRequest as error:
        raise _bad(f"{where}{error.message}") from error
    subject = request.subject.model_dump(exclude_none=True)
    path = scopes.derive({kind: subject[kind] for kind in SCOPE_KINDS if kind in subject})
    if "tenant" not in subject:
        raise _bad(f"{where}subject.tenant is missing; budgets lie under tenant:TENANT_ID")
    return Question(
        subject["tenant"],
        path,
        subject,
        request.action.model_dump(exclude_none=True),
        request.estimate.unit,
        request.estimate.amount,
    )


def _bad(message: str) -> CommandError:
    return CommandError(EXIT_USAGE, message)
