"""One server, spoken to over HTTP: credentials, retries, pages.

The rule that lives here: a lost answer is not a failure. A request that may safely be
repeated is repeated, a keyed one under its one idempotency key; where the outcome stays
unknown the error says so, and says how to learn it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlsplit

import httpx2

from bursar import __version__
from bursar.cli.exits import (
    EXIT_CREDENTIAL,
    EXIT_SERVER,
    EXIT_UNKNOWN,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)
from bursar.cli.exits import CommandError as Failed
from bursar.cli.remote import answers
from bursar.cli.remote.profile import Profile

TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
STREAM_TIMEOUT = httpx2.Timeout(600.0, connect=5.0)  # a large body is made before it is sent
PAUSES_S: Final = (0.2, 0.6, 1.5)
"""Pauses before the second and every later attempt; their number bounds the attempts."""
WAIT_MAX_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 64 * 2**20

Json = dict[str, Any]
Query = Mapping[str, str | int | float | bool | None]


class As(Enum):
    """Who may do something: the operator, a tenant, or either of them."""

    OPERATOR = "operator"
    TENANT = "tenant"
    EITHER = "either"


@dataclass(frozen=True, slots=True)
class Listed:
    """The rows of a list, and whether there are more than were asked for."""

    rows: list[Json]
    more: bool


class Caller:
    """Calls one server for one command."""

    def __init__(
        self,
        profile: Profile,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Speak to the profile's server; tests give a transport and a sleep of their own."""
        self.profile = profile
        self._sleep = sleep
        # A proxy of the environment knows nothing of this machine's own addresses.
        self._client = httpx2.Client(
            timeout=TIMEOUT,
            transport=transport,
            trust_env=not _is_here(profile.base_url),
            headers={"user-agent": f"bursar-cli/{__version__}"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def is_operator(self, who: As = As.EITHER) -> bool:
        """Return whether a call is made as the operator: the admin key is used if there is one.

        An API key given as an option beats an admin key that was not.
        """
        if who is not As.EITHER:
            return who is As.OPERATOR
        profile = self.profile
        if profile.api_key and "api_key" in profile.from_option - {"admin_key"}:
            return "admin_key" in profile.from_option
        return profile.admin_key is not None

    def get(self, path: str, query: Query | None = None, *, who: As = As.EITHER) -> Json:
        """Read something.

        Raises:
            CommandError: why there is nothing to show.
        """
        return self.call("GET", path, query, who=who, repeatable=True)

    def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Json | None = None,
        *,
        who: As = As.EITHER,
        repeatable: bool = False,
        key: str | None = None,
        look: str | None = None,
        also: str = "",
    ) -> Json:
        """Send one request until it is answered; return what the server says.

        Args:
            method: of HTTP.
            path: with its ids already escaped; see `part`.
            query: parameters; None leaves one out.
            body: of the request, sent as JSON.
            who: whose key to use.
            repeatable: sending it twice does no more than sending it once.
            key: the idempotency key that the body carries.
            look: the command that shows whether it happened, for the message if that is unknown.
            also: options that the same request needs besides its key, for that message.

        Raises:
            CommandError: why it was not done, or that nobody knows.
        """
        headers = self._credential(who)
        content = None if body is None else json.dumps(body).encode()
        url = self.profile.base_url + path
        parameters = {name: _text(value) for name, value in (query or {}).items() if value != ""}
        sent = {name: value for name, value in parameters.items() if value is not None}
        lost: str | None = None
        then = _next_step(key, look, also, repeatable=repeatable)
        for pause_s in (*PAUSES_S, None):
            wait_s = pause_s
            try:
                response = self._client.request(
                    method, url, params=sent, headers=headers, content=content
                )
                if not _worth_repeating(response, repeatable or key is not None):
                    return self._said(response, method, path, key, then)
                lost, wait_s = _why(response), _wait(response, pause_s)
                if response.status_code == 429 and wait_s is None:
                    return self._said(response, method, path, key, then)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if lost is None or method == "GET":
                    self._nobody(error)
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                lost = str(error) or type(error).__name__
                if not (repeatable or key):
                    break
            if wait_s is not None:
                self._sleep(wait_s)
        self._unknown(method, path, lost or "no answer", key, then)

    def pages(
        self,
        path: str,
        query: Query,
        name: str,
        *,
        at_most: int,
        page_max: int,
        who: As = As.EITHER,
    ) -> Listed:
        """Read a list page by page until it ends or holds `at_most` rows."""
        rows: list[Json] = []
        cursor: str | None = None
        while True:
            limit = min(page_max, max(1, at_most - len(rows)))
            page = self.get(path, {**query, "limit": limit, "cursor": cursor}, who=who)
            found = page.get(name)
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise _foreign(self.profile.base_url, f"{path} answered without a list {name!r}")
            rows += found
            following = page.get("next_cursor")
            if following and following == cursor:
                raise _foreign(self.profile.base_url, f"{path} repeats a page without end")
            cursor = following
            if not cursor or len(rows) >= at_most:
                return Listed(rows[:at_most], bool(cursor) or len(rows) > at_most)

    @contextlib.contextmanager
    def stream(self, path: str, *, who: As = As.EITHER) -> Iterator[httpx2.Response]:
        """Give a response whose body is read as it comes.

        Raises:
            CommandError: the server refuses, or nobody answers.
        """
        url, headers = self.profile.base_url + path, self._credential(who)
        try:
            with self._client.stream(
                "GET", url, headers=headers, timeout=STREAM_TIMEOUT
            ) as response:
                if not response.is_success:
                    response.read()
                    self._said(response, "GET", path, None, "")
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            self._nobody(error)

    def _credential(self, who: As) -> dict[str, str]:
        profile = self.profile
        if self.is_operator(who):
            if profile.admin_key:
                return {"X-Admin-API-Key": profile.admin_key}
            needed = "the admin key: set BURSAR_ADMIN_KEY, give --admin-key"
        else:
            if profile.api_key:
                return {"X-Cycles-API-Key": profile.api_key}
            needed = "a tenant's API key: set CYCLES_API_KEY, give --api-key"
            if who is As.EITHER:
                needed = (
                    "a key: set BURSAR_ADMIN_KEY or CYCLES_API_KEY, give --admin-key or --api-key"
                )
        message = f"this needs {needed}, or name a --profile that has it"
        if profile.withheld:
            message += (
                f" (the keys of profile {profile.name} are for another server than "
                f"{profile.base_url}, so they were not used)"
            )
        raise Failed(EXIT_CREDENTIAL, message)

    def _said(
        self, response: httpx2.Response, method: str, path: str, key: str | None, then: str
    ) -> Json:
        """Return what a response says, or raise what it refuses."""
        said = answers.document(response)
        if response.is_success and said is not None:
            return said
        if method != "GET" and response.status_code >= 500:
            self._unknown(method, path, _why(response), key, then)
        if said is not None and isinstance(said.get("error"), str):
            raise answers.refusal(response.status_code, said, self.profile, key)
        raise _foreign(self.profile.base_url, answers.strange(response))

    def _nobody(self, error: Exception) -> NoReturn:
        raise Failed(
            EXIT_UNREACHABLE,
            f"no server answers at {self.profile.base_url} ({str(error)[:200]}); nothing was "
            "changed. Start one with `bursar serve`, or name another with --base-url or "
            "CYCLES_BASE_URL",
            base_url=self.profile.base_url,
        ) from None

    def _unknown(self, method: str, path: str, why: str, key: str | None, then: str) -> NoReturn:
        facts = {"base_url": self.profile.base_url, "idempotency_key": key}
        why = answers.clean(why, self.profile)
        if method == "GET":
            raise Failed(EXIT_SERVER, f"{self.profile.base_url} does not answer: {why}", **facts)
        raise Failed(
            EXIT_UNKNOWN,
            f"the answer to {method} {path} was lost ({why}); it may or may not have happened. "
            f"{then}",
            **facts,
        ) from None


def part(value: str) -> str:
    """Return an id as one part of a path.

    Raises:
        CommandError: it is empty or has a slash, so that the path would be another one.
    """
    if not value or "/" in value:
        raise Failed(
            EXIT_USAGE, f"{value[:80]!r} is not an id: an id is not empty and has no slash"
        )
    return quote(value, safe="")


def _next_step(key: str | None, look: str | None, also: str, *, repeatable: bool) -> str:
    """Return what to do if nobody knows whether it happened."""
    if key is not None:
        options = f"--idempotency-key {key} {also}".strip()
        return f"Run it again with {options}: then it happens once"
    if repeatable and look is None:
        look = "it is the same done twice, so nothing is lost by running it again"
    return f"Look before you run it again: {look or 'list what there is'}"


def _worth_repeating(response: httpx2.Response, repeatable: bool) -> bool:
    # Being told to slow down means that nothing was done, so that anything may be repeated.
    return response.status_code == 429 or (response.status_code >= 500 and repeatable)


def _wait(response: httpx2.Response, pause_s: float | None) -> float | None:
    """Return how long to wait before the next attempt; None if there should be none."""
    asked = response.headers.get("retry-after", "")
    if pause_s is None or not asked.isascii() or not asked.isdigit():
        return pause_s
    return float(asked) if int(asked[:9]) <= WAIT_MAX_S else None


def _why(response: httpx2.Response) -> str:
    said = answers.document(response) or {}
    return f"{response.status_code} {said.get('message') or response.reason_phrase}"


def _foreign(base_url: str, what: str) -> Failed:
    return Failed(
        EXIT_SERVER,
        f"{base_url} does not speak the Cycles protocol: {what}. Check the base URL",
        base_url=base_url,
    )


def _text(value: str | float | bool | None) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def _is_here(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
