"""From what a server answers to what a person is told, with an exit code.

The rule that lives here: a refusal is told in the server's words with the fix that it
suggests, and nothing that a server sends can print a key or move the cursor.
"""

from __future__ import annotations

import json
from typing import Any, Final

import httpx2

from bursar.cli.exits import (
    EXIT_CREDENTIAL,
    EXIT_NOT_FOUND,
    EXIT_REFUSED,
    EXIT_SERVER,
    EXIT_USAGE,
    CommandError,
)
from bursar.cli.remote.profile import Profile
from bursar.cli.remote.show import printable
from bursar.vocabulary import ErrorCode
from bursar.wire.problems import PROBLEMS

MESSAGE_LENGTH_MAX: Final = 1_000
_EXITS: Final = {
    400: EXIT_USAGE,
    401: EXIT_CREDENTIAL,
    403: EXIT_CREDENTIAL,
    404: EXIT_NOT_FOUND,
    409: EXIT_REFUSED,
    410: EXIT_REFUSED,
    413: EXIT_USAGE,
}
_SAYS_ENOUGH: Final = (ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND)


def document(response: httpx2.Response) -> dict[str, Any] | None:
    """Return the JSON object that a response holds; None if it holds something else."""
    try:
        said = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def refusal(
    status: int, said: dict[str, Any], profile: Profile, key: str | None = None
) -> CommandError:
    """Return the error for a refusal of the protocol: its message and what to do about it."""
    code = str(said["error"])
    message = clean(str(said.get("message") or "no reason was given"), profile)
    details = said.get("details")
    advice = _advice(code, details if isinstance(details, dict) else {})
    if advice and advice not in message:
        message = f"{message.rstrip('.')}. {clean(advice, profile).rstrip('.')}"
    return CommandError(
        _EXITS.get(status, EXIT_SERVER),
        f"{message} ({status} {clean(code, profile)})",
        error=code,
        status=status,
        request_id=said.get("request_id"),
        details=_without_keys(details, profile),
        idempotency_key=key,
    )


def strange(response: httpx2.Response) -> str:
    """Return what is odd about a response that is not one of the protocol."""
    if response.is_redirect:
        return f"it redirects to {printable(response.headers.get('location', '?'))[:200]}"
    kind = printable(response.headers.get("content-type", "no content type"))[:80]
    return f"it answered {response.status_code} with {kind}"


def clean(text: str, profile: Profile) -> str:
    """Return text of a server as it may be printed: short, one line, without any key."""
    for secret in profile.secrets:
        text = text.replace(secret, "[key]")
    return printable(" ".join(text.split()))[:MESSAGE_LENGTH_MAX]


def _without_keys(details: object, profile: Profile) -> Any:
    text = json.dumps(details)
    for secret in profile.secrets:
        text = text.replace(json.dumps(secret)[1:-1], "[key]")
    return json.loads(text)


def _advice(code: str, details: dict[str, Any]) -> str:
    denial = details.get("deny_detail")
    if isinstance(denial, dict) and isinstance(denial.get("suggested_fix"), str):
        fix: str = denial["suggested_fix"]
        return fix
    if code in _SAYS_ENOUGH:
        return ""
    return next((found.advice for known, found in PROBLEMS.items() if known == code), "")
