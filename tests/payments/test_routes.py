"""What a request costs, however it is spelled: by the table, and by real routers over HTTP."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from bursar.payments.book import Book
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.authorization import TokenDomain
from bursar.x402.facilitators import Facilitator
from bursar.x402.merchant import X402
from bursar.x402.offers import Offer
from bursar.x402.pricing import Price
from bursar.x402.prover import ChainProver
from bursar.x402.routes import AmbiguousRequest, Routes

USDC = TokenDomain("USDC", "2", 84532, "0x036cbd53842c5426634e7929541ec2318f3dcf7e")
CHEAP = Price((Offer(USDC, amount=1, pay_to="0x" + "5a" * 20),))
DEAR = Price((Offer(USDC, amount=10_000, pay_to="0x" + "5a" * 20),))
TABLE: dict[str, Any] = {
    "GET /report": DEAR,
    "GET /files/{name}": CHEAP,
    "POST /": DEAR,
    "/shop/help": "free",
    "/shop/*": CHEAP,
}


def scope(path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
    return {"method": method, "path": path, "headers": [], "query_string": b""} | more


@pytest.mark.parametrize(
    ("method", "path", "price"),
    [
        ("GET", "/report", DEAR),
        ("HEAD", "/report", DEAR),
        ("GET", "/files/a", CHEAP),
        ("POST", "/", DEAR),
        ("DELETE", "/shop/x/y", CHEAP),
        ("POST", "/report", None),
        ("GET", "/", None),
        ("GET", "/reports", None),
        ("GET", "/report/1", None),
        ("GET", "/files", None),
        ("GET", "/files/a/preview", None),
        ("GET", "/shop/help", None),
        ("GET", "/100%", None),
    ],
)
def test_a_request_as_it_is_published(method: str, path: str, price: Price | None) -> None:
    assert Routes(TABLE).find(scope(path, method)) == price


@pytest.mark.parametrize(
    "path",
    [
        *("/report\n", "/report/", "//report", "/./report", "/x/../report", "/report;v=1"),
        *("/Report", "/%72eport", "/%2572eport", "/report%0a", "\\report", "/report\x00"),
        *("/report ", "/report//", "/REPORT/", "/x/..;/report", "/report\u2028"),
        *("/files//a", "/files/a/", "/Files/a", "/shop"),
    ],
)
def test_a_spelling_that_others_may_read_as_sold_is_refused(path: str) -> None:
    with pytest.raises(AmbiguousRequest, match="exactly as they are published"):
        Routes(TABLE).find(scope(path))


def test_a_cheap_spelling_of_something_dear_is_refused() -> None:
    """A line end must not turn the dear route into the cheap rest."""
    routes = Routes({"GET /report": DEAR, "/*": CHEAP})
    assert routes.find(scope("/report")) == DEAR
    assert routes.find(scope("/elsewhere/")) == CHEAP
    for path in ("/report\n", "/report/", "/Report"):
        with pytest.raises(AmbiguousRequest):
            routes.find(scope(path))


@pytest.mark.parametrize(
    ("path", "raw"), [("/files/a/b", b"/files/a%2Fb"), ("/files/a/b", b"/files/a%252fb")]
)
def test_an_encoded_slash_is_read_both_ways(path: str, raw: bytes) -> None:
    with pytest.raises(AmbiguousRequest):
        Routes(TABLE).find(scope(path, raw_path=raw))
    assert Routes(TABLE).find(scope(path, raw_path=b"/files/a/b")) is None


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("get", {}),
        ("BREW", {}),
        ("POST", {"headers": [(b"x-http-method-override", b"get")]}),
        ("POST", {"headers": [(b"X-Method-Override", b"GET")]}),
        ("POST", {"query_string": b"a=1&_method=GET"}),
    ],
)
def test_a_method_that_may_be_taken_for_a_sold_one_is_refused(
    method: str, more: dict[str, Any]
) -> None:
    with pytest.raises(AmbiguousRequest):
        Routes(TABLE).find(scope("/report", method, **more))
    assert Routes(TABLE).find(scope("/other", method, **more)) is None


@pytest.mark.parametrize(
    ("path", "more", "app_root"),
    [
        ("/api/report", {"root_path": "/api"}, ""),
        ("/api/report", {"root_path": "/api/"}, ""),
        ("/report", {"root_path": "/api"}, ""),
        ("/api/report", {}, "/api"),
    ],
)
def test_a_root_path_is_taken_off(path: str, more: dict[str, Any], app_root: str) -> None:
    for table in ({"GET /report": DEAR}, {"GET /report": DEAR, "/*": CHEAP}):
        assert Routes(table).find(scope(path, **more), app_root) == DEAR
    with pytest.raises(AmbiguousRequest):
        Routes({"GET /report": DEAR}).find(scope(path + "\n", **more), app_root)


def test_a_table_of_whole_paths_works_below_a_root_path() -> None:
    routes = Routes({"GET /api/report": DEAR, "GET /api/r/{id}": CHEAP, "/*": DEAR})
    assert routes.find(scope("/api/report", root_path="/api")) == DEAR
    assert routes.find(scope("/api/r/1", root_path="/api")) == CHEAP
    apart = Routes({"GET /apix": DEAR})
    assert apart.find(scope("/apix", root_path="/api")) == DEAR
    assert apart.find(scope("/api/x", root_path="/api")) is None


def test_two_prices_for_one_request_by_its_root_path_are_refused() -> None:
    routes = Routes({"GET /report": CHEAP, "GET /api/report": DEAR})
    with pytest.raises(AmbiguousRequest):
        routes.find(scope("/api/report", root_path="/api"))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"/*": CHEAP, "GET /report": DEAR}, r"'/\*' is above it"),
        ({"/report": CHEAP, "GET /report": DEAR}, "can never match"),
        ({"GET /a/{x}": CHEAP, "GET /a/b": DEAR}, "can never match"),
        ({"GET /report?page=1": DEAR}, "without a query"),
        ({"GET /caf%C3%A9": DEAR}, "as it is decoded"),
        ({"GET /report": "gratis"}, "'free'"),
        ({"FETCH /report": DEAR}, "no method"),
        ({"report": DEAR}, "begins with /"),
    ],
)
def test_a_route_that_can_never_match_is_refused(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Routes(table)


def test_routes_that_only_look_alike_are_kept() -> None:
    assert Routes({"GET /a/{x}": CHEAP, "POST /a/b": DEAR, "GET /a/*": DEAR, "GET /a": CHEAP})


async def report(request: Request) -> JSONResponse:
    return JSONResponse({"sold": "goods"})


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> JSONResponse:
        return JSONResponse({"sold": "goods"})


def sold(app: Any, table: dict[str, Any] | None = None) -> X402:
    return X402(app, **selling(table))


def selling(table: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "routes": table or {"GET /report": DEAR},
        "book": Book(MemoryPayments()),
        "facilitator": Facilitator("https://facilitator.example"),
        "prover": ChainProver({}),
    }


def plain(**more: Any) -> FastAPI:
    app = FastAPI(**more)
    app.get("/report")(lambda: {"sold": "goods"})
    return app


def fast(**more: Any) -> FastAPI:
    app = plain(**more)
    app.add_middleware(X402, **selling())
    return app


@contextmanager
def served(app: Any, root_path: str = "") -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", root_path=root_path)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


INNER = Starlette(routes=[Route("/report", report)])
CLASS = Starlette(routes=[Route("/report", Endpoint)])
APPLICATIONS = {
    "starlette": (lambda: sold(INNER), "", "/report"),
    "starlette class": (
        lambda: sold(CLASS),
        "",
        "/report",
    ),
    "starlette --root-path": (lambda: sold(INNER), "/api", "/report"),
    "starlette mounted": (lambda: Starlette(routes=[Mount("/m", sold(INNER))]), "", "/m/report"),
    "starlette mounts": (
        lambda: sold(Starlette(routes=[Mount("/m", INNER)]), {"GET /m/report": DEAR}),
        "",
        "/m/report",
    ),
    "fastapi": (fast, "", "/report"),
    "fastapi --root-path": (fast, "/api", "/report"),
    "fastapi root_path": (lambda: fast(root_path="/api"), "", "/api/report"),
    "around fastapi root_path": (
        lambda: sold(plain(root_path="/api")),
        "",
        "/api/report",
    ),
}


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
@pytest.mark.parametrize("name", APPLICATIONS)
def test_nothing_sold_is_free_however_it_is_asked_for(name: str) -> None:
    make, root_path, path = APPLICATIONS[name]
    with served(make(), root_path) as url, httpx2.Client() as http:
        assert http.get(url + path).status_code == 402
        assert http.head(url + path).status_code == 402
        for spelled in ("%0A", "/", ";a=1", "%20", "%250A", "%00"):
            answer = http.get(url + path + spelled)
            assert "goods" not in answer.text, spelled
            assert (answer.status_code, answer.json()["error"]) == (404, "ambiguous_request")
        for other in ("/" + path, path.upper(), "/x/.." + path):
            assert "goods" not in http.get(url + other).text


def test_a_sold_route_that_the_application_does_not_have_is_noticed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = {"GET /report": DEAR, "GET /m/report": CHEAP, "GET /any/{x}": CHEAP}
    with served(sold(Starlette(routes=[Mount("/m", INNER)]), table)):
        pass
    [said] = [one.getMessage() for one in caplog.records if one.name == "bursar.x402"]
    assert said == "GET /report is sold, and no route of the application answers it"
    caplog.clear()
    with caplog.at_level(logging.WARNING), served(fast()):
        pass
    assert "no route" not in caplog.text
