"""The load generator: a process of its own, keep-alive connections, no HTTP library.

The rule that lives here: the generator must cost less than the server. An HTTP client
library spends longer on a request than the server does, and the figures would be the
client's. So a request is bytes, and of an answer only the length, the status and the
reservation id are read.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import uvloop
from served import LEAF_UNIT, SHARED_UNIT

WARM_UP = 0.2  # of the measured time; it comes before it and is not counted
LEASE_MS = 3_600_000  # nothing expires while it is measured

FIXED, RESERVE, PAIR = "http fixed answer", "http reserve", "http reserve+commit"
SHARED, LEAVES = "shared", "leaves"

Turn = Callable[[], Awaitable[None]]


class Figure(NamedTuple):
    """One measurement; `client_cpu` near 1 means that the generator was the limit."""

    name: str
    budget: str
    clients: int
    requests: int
    errors: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    client_cpu: float


class Load(NamedTuple):
    """What to send: fixed answers, reserves, or a reserve and its commit in turn."""

    name: str
    budget: str
    clients: int


def run(load: Load, port: int, key: str, seconds: float) -> Figure:
    """Run a load in a process of its own and return what came of it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_generate, load, port, key, seconds).result()


async def measured(load: Load, turns: Sequence[Turn], seconds: float, took: list[float]) -> Figure:
    """Let every client take turn after turn, first unmeasured; `took` collects the seconds."""

    async def work(turn: Turn, until: float) -> None:
        while time.perf_counter() < until:
            await turn()

    wall = cpu = 0.0
    for length in (WARM_UP * seconds, seconds):
        took.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work(turn, wall + length) for turn in turns))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    p50, p99 = (1_000 * sorted(took)[int(share * (len(took) - 1))] for share in (0.5, 0.99))
    return Figure(*load, len(took), 0, len(took) / wall, p50, p99, cpu / wall)


def _generate(load: Load, port: int, key: str, seconds: float) -> Figure:
    return uvloop.run(_measure(load, port, key, seconds))


async def _measure(load: Load, port: int, key: str, seconds: float) -> Figure:
    took: list[float] = []
    clients = [_Client(key, number, load.budget, took) for number in range(load.clients)]
    for client in clients:
        client.stream = await asyncio.open_connection("127.0.0.1", port)
    kinds = {FIXED: _Client.fixed, RESERVE: _Client.reserve, PAIR: _Client.pair}
    turns = [kinds[load.name].__get__(client) for client in clients]
    result = await measured(load, turns, seconds, took)
    return result._replace(errors=sum(client.errors for client in clients))


class _Client:
    """One connection, which waits for each answer before it asks again."""

    stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]

    def __init__(self, key: str, number: int, budget: str, took: list[float]) -> None:
        self.took, self.errors, self.turns = took, 0, 0
        self.name = f"{time.time_ns()}-{number}"
        self.head = f" HTTP/1.1\r\nhost: bench\r\nx-cycles-api-key: {key}\r\ncontent-length: "
        workspace = "shared" if budget == SHARED else f"leaf-{number}"
        self.unit = SHARED_UNIT if budget == SHARED else LEAF_UNIT
        self.asked: dict[str, object] = {
            "subject": {"tenant": "bench", "workspace": workspace, "agent": f"agent-{number}"},
            "action": {"kind": "llm.completion", "name": "bench"},
            "estimate": {"unit": self.unit, "amount": 1_000},
            "ttl_ms": LEASE_MS,
        }

    async def fixed(self) -> None:
        await self.send(b"GET /health/live HTTP/1.1\r\nhost: bench\r\n\r\n")

    async def reserve(self) -> bytes:
        self.turns += 1
        key: dict[str, object] = {"idempotency_key": f"{self.name}-{self.turns}"}
        return await self.post("/v1/reservations", key | self.asked)

    async def pair(self) -> None:
        answer = await self.reserve()
        name = answer.partition(b'"reservation_id":"')[2][:36].decode()
        key: dict[str, object] = {"idempotency_key": f"{self.name}-{self.turns}"}
        actual: dict[str, object] = {"actual": {"unit": self.unit, "amount": 700}}
        await self.post(f"/v1/reservations/{name}/commit", key | actual)

    async def post(self, path: str, body: dict[str, object]) -> bytes:
        sent = json.dumps(body)
        return await self.send(f"POST {path}{self.head}{len(sent)}\r\n\r\n{sent}".encode())

    async def send(self, request: bytes) -> bytes:
        began = time.perf_counter()
        reader, writer = self.stream
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
        answer = await reader.readexactly(length)
        self.took.append(time.perf_counter() - began)
        self.errors += head[9:12] != b"200"
        return answer
