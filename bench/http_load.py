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

WARM_UP = 0.2  # of the measured time; it comes before it and is not counted
ESTIMATE, ACTUAL = ({"unit": "TOKENS", "amount": amount} for amount in (1_000, 700))

Turn = Callable[[], Awaitable[None]]


class Figure(NamedTuple):
    """One row: `client_cpu` near 1 means that the generator, not the server, was the limit."""

    name: str
    clients: int
    requests: int
    errors: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    client_cpu: float


class Load(NamedTuple):
    """One measurement: a reserve and its commit in turn, or a fixed answer for `fixed`."""

    name: str
    port: int
    key: str
    clients: int
    seconds: float
    fixed: bool = False


def run(load: Load) -> Figure:
    """Run a load in a process of its own and return what came of it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_generate, load).result()


async def measured(name: str, turns: Sequence[Turn], seconds: float, took: list[float]) -> Figure:
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
    figures = (round(value, 4) for value in (len(took) / wall, p50, p99, cpu / wall))
    return Figure(name, len(turns), len(took), 0, *figures)


def _generate(load: Load) -> Figure:
    return uvloop.run(_measure(load))


async def _measure(load: Load) -> Figure:
    took: list[float] = []
    clients = [_Client(load.key, number, took) for number in range(load.clients)]
    for client in clients:
        client.stream = await asyncio.open_connection("127.0.0.1", load.port)
    turns = [client.fixed if load.fixed else client.reserve_commit for client in clients]
    result = await measured(load.name, turns, load.seconds, took)
    return result._replace(errors=sum(client.errors for client in clients))


class _Client:
    """One connection, which waits for each answer before it asks again."""

    stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]

    def __init__(self, key: str, number: int, took: list[float]) -> None:
        self.took, self.errors, self.turns = took, 0, 0
        self.name = f"{time.time_ns()}-{number}"
        self.head = f" HTTP/1.1\r\nhost: bench\r\nx-cycles-api-key: {key}\r\ncontent-length: "
        subject = {"tenant": "bench", "workspace": "shared", "agent": f"agent-{number}"}
        action = {"kind": "llm.completion", "name": "bench"}
        self.asked = {"subject": subject, "action": action, "estimate": ESTIMATE}

    async def fixed(self) -> None:
        await self.send(b"GET /health/live HTTP/1.1\r\nhost: bench\r\n\r\n")

    async def reserve_commit(self) -> None:
        self.turns += 1
        key = {"idempotency_key": f"{self.name}-{self.turns}"}
        answer = await self.post("/v1/reservations", key | self.asked)
        name = answer.partition(b'"reservation_id":"')[2][:36].decode()
        await self.post(f"/v1/reservations/{name}/commit", key | {"actual": ACTUAL})

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
