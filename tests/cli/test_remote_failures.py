"""What a command says, and ends with, when a server does not do what it should."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from bursar.cli import exits
from bursar.cli.remote.caller import PAUSES_S, As, Caller
from bursar.cli.remote.profile import Profile
from conftest import free_port

BUSY = {"error": "LIMIT_EXCEEDED", "message": "Too many"}
FAILED = {"error": "INTERNAL_ERROR", "message": "It may or may not have happened"}
SECRET = "secret-of-the-operator"


class Scripted:
    """A server that answers from a list, and a sleep that is only counted."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers: Iterator[httpx2.Response | Exception] = iter(answers)
        self.bodies: list[bytes] = []
        self.slept: list[float] = []
        profile = Profile("http://server.example.org", admin_key=SECRET)
        self.caller = Caller(profile, httpx2.MockTransport(self._answer), self.slept.append)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(request.content)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ok() -> httpx2.Response:
    return httpx2.Response(200, json={"done": True})


def problem(status: int, body: object, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, json=body, headers=headers)


def fails(call: Callable[[], object]) -> exits.CommandError:
    with pytest.raises(exits.CommandError) as raised:
        call()
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value.document())
    return raised.value


def test_reading_is_repeated() -> None:
    """A read survives a lost answer, a failure and a busy server."""
    server = Scripted(httpx2.ReadTimeout("slow"), problem(500, FAILED), problem(429, BUSY), ok())
    assert server.caller.get("/v1/x") == {"done": True}
    assert server.slept == list(PAUSES_S)


def test_keyed_change_is_repeated_with_its_key() -> None:
    """Every attempt of a keyed change is the same request."""
    server = Scripted(httpx2.ReadError("cut"), problem(500, FAILED), ok())
    body = {"idempotency_key": "k1"}
    assert server.caller.call("POST", "/v1/x", body=body, key="k1") == {"done": True}
    assert len(set(server.bodies)) == 1
    assert b'"k1"' in server.bodies[0]


def test_keyed_change_that_stays_unknown() -> None:
    """After the last attempt the message says how to ask again, with the same key."""
    server = Scripted(*[httpx2.ReadError("cut")] * 4)
    error = fails(lambda: server.caller.call("POST", "/v1/x", body={}, key="k1"))
    assert error.code == exits.EXIT_UNKNOWN
    assert "may or may not have happened. Run it again with --idempotency-key k1" in str(error)
    assert error.document()["idempotency_key"] == "k1"
    assert len(server.bodies) == len(PAUSES_S) + 1


@pytest.mark.parametrize("lost", [httpx2.ReadError("cut"), problem(500, FAILED), problem(502, [])])
def test_change_without_a_key_is_sent_once(lost: httpx2.Response | Exception) -> None:
    """A change that would happen twice is not repeated; the message says where to look."""
    server = Scripted(lost)

    def call() -> object:
        return server.caller.call("POST", "/v1/x", body={}, look="bursar key list")

    error = fails(call)
    assert error.code == exits.EXIT_UNKNOWN
    assert "Look before you run it again: bursar key list" in str(error)
    assert len(server.bodies) == 1


def test_connection_refused_after_a_loss_is_not_nothing() -> None:
    """A server that dies under a keyed change leaves it unknown, not undone."""
    server = Scripted(httpx2.ReadError("cut"), *[httpx2.ConnectError("refused")] * 3)
    error = fails(lambda: server.caller.call("POST", "/v1/x", body={}, key="k1"))
    assert error.code == exits.EXIT_UNKNOWN


def test_slowing_down_is_bounded() -> None:
    """A wait that the server asks for is kept, unless it is too long to wait for."""
    server = Scripted(problem(429, BUSY, **{"retry-after": "2"}), ok())
    assert server.caller.call("POST", "/v1/x", body={}) == {"done": True}
    assert server.slept == [2.0]
    server = Scripted(problem(429, BUSY, **{"retry-after": "3600"}))
    error = fails(lambda: server.caller.call("POST", "/v1/x", body={}))
    assert error.code == exits.EXIT_SERVER
    assert error.document()["error"] == "LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx2.Response(200, text="<html>"), "answered 200 with text/plain"),
        (httpx2.Response(404, text="no"), "answered 404 with text/plain"),
        (httpx2.Response(200, json=[1]), "answered 200 with application/json"),
        (httpx2.Response(200, content=b"[" * 100_000), "answered 200 with no content type"),
        (httpx2.Response(307, headers={"location": "https://b\x7f"}), "it redirects to https://b"),
    ],
)
def test_not_a_server_of_the_protocol(answer: httpx2.Response, said: str) -> None:
    """Something else at the address is said to be something else."""
    error = fails(lambda: Scripted(answer).caller.get("/v1/x"))
    assert error.code == exits.EXIT_SERVER
    assert said in str(error)
    assert "Check the base URL" in str(error)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, exits.EXIT_USAGE),
        (401, exits.EXIT_CREDENTIAL),
        (403, exits.EXIT_CREDENTIAL),
        (404, exits.EXIT_NOT_FOUND),
        (409, exits.EXIT_REFUSED),
        (410, exits.EXIT_REFUSED),
        (418, exits.EXIT_SERVER),
    ],
)
def test_refusals_have_codes(status: int, code: int) -> None:
    """Each kind of refusal has an exit code of its own and keeps the server's words."""
    body = {"error": "X\x1b[31m", "message": f"No\nway {SECRET}", "details": {"a": SECRET}}
    error = fails(lambda: Scripted(problem(status, body)).caller.get("/v1/x"))
    assert error.code == code
    assert str(error) == f"No way [key] ({status} X\\x1b[31m)"
    assert error.document()["details"] == {"a": "[key]"}


def test_fix_of_a_denial_is_told() -> None:
    """Where the ledger knows what would help, that is the advice."""
    fix = "Repay 5 first."
    details = {"deny_detail": {"suggested_fix": fix}}
    body = {"error": "DEBT_OUTSTANDING", "message": "In debt", "details": details}
    error = fails(lambda: Scripted(problem(409, body)).caller.get("/v1/x"))
    assert str(error) == "In debt. Repay 5 first (409 DEBT_OUTSTANDING)"


@pytest.mark.parametrize(
    "page", [{"rows": 1}, {"rows": [1]}, {}, {"rows": [], "next_cursor": "same"}]
)
def test_list_that_is_none(page: dict[str, Any]) -> None:
    """A list without rows, or without an end, is not followed."""
    server = Scripted(*[httpx2.Response(200, json=page)] * 3)
    error = fails(lambda: server.caller.pages("/v1/x", {}, "rows", at_most=5, page_max=5))
    assert error.code == exits.EXIT_SERVER


def test_which_key_is_used() -> None:
    """The admin key is used where both may act, unless only the API key was an option."""
    both = Profile("http://x", "api", "admin")
    assert Caller(both).is_operator()
    assert not Caller(both).is_operator(As.TENANT)
    assert not Caller(Profile("http://x", "api")).is_operator()
    chosen = Profile("http://x", "api", "admin", from_option=frozenset({"api_key"}))
    assert not Caller(chosen).is_operator()
    assert Caller(chosen).is_operator(As.OPERATOR)


def test_keys_that_stayed_behind_are_explained() -> None:
    """A key that was not sent because the server is another one is said to be so."""
    profile = Profile("http://other.example.org", name="prod", withheld=True)
    error = fails(lambda: Caller(profile).get("/v1/x"))
    assert error.code == exits.EXIT_CREDENTIAL
    assert "the keys of profile prod are for another server" in str(error)


def test_nobody_there(bursar: Any) -> None:
    """A port without a server is said to be so, and what to do."""
    url = f"http://127.0.0.1:{free_port()}"
    ran = bursar("tenant", "list", "--base-url", url, "--admin-key", SECRET, "--json")
    assert (ran.code, ran.out) == (exits.EXIT_UNREACHABLE, "")
    assert "bursar serve" in ran.error["message"]
    assert ran.error["error"] == "UNREACHABLE"
