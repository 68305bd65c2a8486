"""Whatever an endpoint or a facilitator answers, nothing is raised by it but its own error."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from bursar.payments.outcome import Trigger
from bursar.payments.records import Finding
from bursar.x402.demand import read_demand, read_told
from bursar.x402.facilitators import DIALECTS, Facilitator
from bursar.x402.facilitators.answer import payment_id_of, read_settle, retry_after
from bursar.x402.offers import RESPONSE_HEADER
from bursar.x402.prover import ChainProver
from bursar.x402.reading import Question, read
from bursar.x402.rpc import INT64_MAX, Rpc
from bursar.x402.strangers import DEPTH_MAX, read_json
from payments.world import payment

DEEP = b"[" * 200_000
HASH = "0x" + "ab" * 32
QUESTION = Question(
    1, "0x" + "03" * 20, "0x" + "01" * 20, "0x" + "5a" * 20, 5, "0x" + "07" * 32, 2**40, 0
)
Answer = Callable[[httpx2.Request], httpx2.Response]


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


NONSENSE = {
    "deep": DEEP,
    "nested": nested(500),
    "inside": b'{"success": ' + DEEP,
    "empty": b"",
    "html": b"<html>",
    "binary": b"\xff\xfe",
    "null": b"null",
    "number": b"1",
}


def test_depth_is_bounded() -> None:
    assert read_json(b'{"a": [1, {"b": 2}]}') == {"a": [1, {"b": 2}]}
    read_json(nested(DEPTH_MAX))
    for text in (nested(DEPTH_MAX + 1), nested(900), nested(100_000), DEEP, b'{"a":' * 100_000):
        with pytest.raises(ValueError, match=r"nested|Expecting"):
            read_json(text)


def http(answer: Answer) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.MockTransport(answer))


def raw(body: bytes) -> Answer:
    return lambda _: httpx2.Response(200, content=body)


# Endpoints


def chain(**changes: Any) -> Answer:
    """Return an endpoint of a chain where the nonce is used, with some answers changed."""
    place = {"blockNumber": "0x64", "blockHash": HASH, "transactionHash": HASH}
    log = place | {"address": QUESTION.asset, "topics": [], "data": "0x", "logIndex": "0x0"}
    answers: dict[str, Any] = {
        "eth_chainId": "0x1",
        "eth_getBlockByNumber": {"number": "0x65", "hash": HASH, "timestamp": "0x10"},
        "eth_call": "0x" + "00" * 31 + "01",
        "eth_getLogs": [log],
        "eth_getTransactionReceipt": place | {"status": "0x1", "logs": [log]},
    }
    for name, change in changes.items():
        many, one = isinstance(answers[name], list), answers[name]
        if isinstance(change, dict):
            answers[name] = [one[0] | change] if many else one | change
        else:
            answers[name] = change

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)
        said = {"jsonrpc": "2.0", "id": asked["id"], "result": answers[asked["method"]]}
        return httpx2.Response(200, json=said)

    return answer


def problem(answer: Answer) -> str:
    async def ask() -> str:
        async with http(answer) as client:
            named = replace(QUESTION, transaction=HASH)
            found = await read(Rpc("https://rpc.example/KEY", http=client), named)
            return found.problem

    return asyncio.run(ask())


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_an_endpoint_that_answers_nonsense_has_a_problem(body: bytes) -> None:
    assert problem(raw(body)) != ""


@pytest.mark.parametrize(
    "number", [INT64_MAX + 1, 2**70, 2**256, 16**5_000], ids=["2^63", "2^70", "2^256", "2^20000"]
)
@pytest.mark.parametrize(
    ("method", "field"),
    [
        *(("eth_getBlockByNumber", "number"), ("eth_getBlockByNumber", "timestamp")),
        *(("eth_getLogs", "blockNumber"), ("eth_getLogs", "logIndex")),
        *(("eth_getTransactionReceipt", "blockNumber"), ("eth_getTransactionReceipt", "status")),
        ("eth_chainId", ""),
    ],
)
def test_nobody_counts_that_far(method: str, field: str, number: int) -> None:
    """Heights and times are stored in 63 bits; a larger one is refused where it is read."""
    assert "no such shape" in problem(
        chain(**{method: {field: hex(number)} if field else hex(number)})
    )


@pytest.mark.parametrize("text", ["0x", "0x-1", "-0x1", "0x1_0", "0x 1", "0x1 ", "1", "", 1, None])
def test_what_is_no_quantity(text: object) -> None:
    assert "no such shape" in problem(chain(eth_getBlockByNumber={"number": text}))


@pytest.mark.parametrize(
    "changes",
    [
        {"eth_call": "0x" + "zz" * 32},
        {"eth_call": "0x" + "0_" * 32},
        {"eth_getLogs": {"data": "0x" + "zz" * 32}},
        {"eth_getLogs": {"data": None}},
        {"eth_getLogs": {"topics": None}},
        {"eth_getLogs": ["log"]},
        {"eth_getTransactionReceipt": {"logs": [{"address": []}]}},
    ],
)
def test_what_is_no_hexadecimal(changes: dict[str, Any]) -> None:
    assert "no such shape" in problem(chain(**changes))


# Facilitators


def ask(answer: Answer, dialect: str = "celo", **more: Any) -> tuple[Any, Any, Any]:
    async def all_three() -> tuple[Any, Any, Any]:
        async with http(answer) as client:
            asked = Facilitator("https://f.example", dialect=dialect, http=client, **more)
            return (
                await asked.settle({}, {}),
                await asked.verify({}, {}),
                await asked.status(QUESTION, "p-1"),
            )

    return asyncio.run(all_three())


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_of_a_facilitator_is_unknown(dialect: str, body: bytes) -> None:
    settled, verified, known = ask(raw(body), dialect)
    assert settled.trigger is Trigger.LOST
    assert verified.valid is None
    assert known is None or known.trigger is Trigger.UNDECIDED


def test_whatever_a_client_raises_is_unknown() -> None:
    def broken(_: httpx2.Request) -> httpx2.Response:
        raise RuntimeError("a hook of somebody")

    settled, verified, known = ask(broken)
    assert (settled.trigger, settled.reason) == (Trigger.LOST, "RuntimeError")
    assert (verified.valid, verified.reason) == (None, "RuntimeError")
    assert (known.trigger, known.reason) == (Trigger.UNDECIDED, "RuntimeError")


def test_without_headers_nothing_is_sent() -> None:
    """A token that cannot be fetched: no request leaves, so nothing can have moved."""
    sent: list[httpx2.Request] = []

    def expired(_: str) -> dict[str, str]:
        raise OSError("secret://token")

    def keep(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200)

    settled, verified, known = ask(keep, headers=expired)
    assert sent == []
    assert (settled.trigger, settled.reason) == (Trigger.REFUSED, "NotAuthenticated: OSError")
    assert verified.valid is None
    assert (known.trigger, known.reason) == (Trigger.UNDECIDED, "NotAuthenticated: OSError")


class Broken(Facilitator):
    """A facilitator of somebody's own, whose books cannot be read."""

    async def status(self, question: Question, payment_id: str | None) -> Any:
        raise RuntimeError("it is broken")


@pytest.mark.parametrize("kind", ["deep", "headers", "own"])
def test_the_chain_is_asked_all_the_same(kind: str) -> None:
    def expired(_: str) -> dict[str, str]:
        raise RuntimeError("token refresh failed")

    asked: list[str] = []

    def silent(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content)["method"])
        return httpx2.Response(503)

    async def prove() -> Finding:
        async with http(raw(DEEP)) as books, http(silent) as endpoint:
            made = Broken if kind == "own" else Facilitator
            headers = expired if kind == "headers" else None
            known = made("https://f.example", dialect="celo", headers=headers, http=books)
            rpc = Rpc("https://rpc.example", http=endpoint)
            prover = ChainProver({"eip155:84532": [rpc]}, facilitators={"fac": known})
            return await prover.prove(payment("1", facilitator="fac"))

    found = asyncio.run(prove())
    assert asked == ["eth_chainId"]
    assert found.trigger is Trigger.UNREACHABLE
    assert "HTTP 503" in str(found.evidence.reason)


def test_what_cannot_be_stored_is_not_kept() -> None:
    assert retry_after({"retry-after": "9" * 5_000}) == 3_600
    assert payment_id_of({"paymentId": "p\ud800"}) is None
    assert payment_id_of({"paymentId": "p\n1"}) is None
    assert payment_id_of({"paymentId": "p-1"}) == "p-1"
    answer = read_settle(200, {"retry-after": "9" * 5_000}, {"paymentId": "\ud800"}, "")
    assert (answer.payment_id, answer.retry_after_s) == (None, 3_600)


# Merchants


def test_a_merchant_that_answers_nonsense_is_not_understood() -> None:
    assert read_demand({}, DEEP).offers == ()
    assert read_told({RESPONSE_HEADER: "W1tb" * 10_000}) is None
