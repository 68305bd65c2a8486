"""Every mutation and every failure is in the audit log exactly once, and nothing else is.

Several clients send a random mix: what succeeds, what is denied, what is repeated, what makes no
sense, and what carries no good credential. The server is killed under them and started again.
Every answer that anybody got is then looked for in the log, by its request id.
"""

import random
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from e2e.accounts import Account, open_account
from e2e.connections import Connection, Reply, Torn, Unanswered
from e2e.servers import Server, Servers

BUDGETS = {"": 10**6, "/agent:poor": 40}
CLIENTS = 6
KILLS = 3
LOAD_S = 0.7
LOGS = "/v1/admin/audit/logs"
STRANGERS_WITHIN_S = 60
UNLIMITED = {"BURSAR_AUTH_FAILURES_PER_MINUTE": "0"}

LINE, SILENT, STRANGE = "a line", "no line", "a stranger's line"


@dataclass(slots=True)
class Mixer:
    """One client and everything it was told."""

    name: str
    account: Account
    chance: random.Random
    told: dict[str, str] = field(default_factory=dict)  # request id -> what the log must hold
    statuses: Counter[int] = field(default_factory=Counter)
    done: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    count: int = 0

    def work(self, server: Server, stop: threading.Event) -> None:
        """Send requests until told to stop, or the server is gone."""
        steps = [self.reserve, self.reserve, self.settle, self.repeat, self.poor]
        steps += [self.nonsense, self.missing, self.stranger, self.look]
        try:
            with self.account.connect(server) as known, server.connect() as unknown:
                while not stop.is_set():
                    self.count += 1
                    self.chance.choice(steps)(known, unknown)
        except (Unanswered, Torn):
            return  # killed: what was asked last has no answer

    def ask(self, amount: int, **subject: str) -> dict[str, Any]:
        return {
            "idempotency_key": f"{self.name}-{self.count}",
            "subject": {"tenant": self.account.tenant} | subject,
            "action": {"kind": "llm.completion", "name": "m"},
            "estimate": {"unit": "TOKENS", "amount": amount},
        }

    def take(self, reply: Reply, expected: str) -> Reply:
        self.told[reply.headers["x-request-id"]] = expected
        self.statuses[reply.status] += 1
        return reply

    def reserve(self, known: Connection, unknown: Connection) -> None:
        body = self.ask(self.chance.randrange(5))
        reply = self.take(known.post("/v1/reservations", body), LINE)
        if reply.status == 200:
            self.done.append(("/v1/reservations", body))
            self.held.append(reply.json()["reservation_id"])

    def settle(self, known: Connection, unknown: Connection) -> None:
        if not self.held:
            return
        path = f"/v1/reservations/{self.held.pop()}/commit"
        body = {"idempotency_key": "c", "actual": {"unit": "TOKENS", "amount": 1}}
        if self.take(known.post(path, body), LINE).status == 200:
            self.done.append((path, body))

    def repeat(self, known: Connection, unknown: Connection) -> None:
        if self.done:
            path, body = self.chance.choice(self.done)
            assert self.take(known.post(path, body), SILENT).status == 200

    def poor(self, known: Connection, unknown: Connection) -> None:
        self.take(known.post("/v1/reservations", self.ask(30, agent="poor")), LINE)

    def nonsense(self, known: Connection, unknown: Connection) -> None:
        body = self.ask(1) | {"estimate": self.chance.choice([None, 1, {}, "x"])}
        assert self.take(known.post("/v1/reservations", body), LINE).status == 400

    def missing(self, known: Connection, unknown: Connection) -> None:
        assert self.take(known.get("/v1/reservations/nothing"), LINE).status == 404

    def stranger(self, known: Connection, unknown: Connection) -> None:
        path = self.chance.choice(["/v1/balances?tenant=a", "/v1/nothing", LOGS])
        assert self.take(unknown.get(path), STRANGE).status in (401, 404)

    def look(self, known: Connection, unknown: Connection) -> None:
        path = self.chance.choice(
            [f"/v1/balances?tenant={self.account.tenant}", "/v1/reservations"]
        )
        assert self.take(known.get(path), SILENT).status == 200


def run(server: Server, mixers: list[Mixer]) -> tuple[threading.Event, list[threading.Thread]]:
    stop = threading.Event()
    threads = [threading.Thread(target=mixer.work, args=(server, stop)) for mixer in mixers]
    for thread in threads:
        thread.start()
    time.sleep(LOAD_S)
    return stop, threads


def lines(server: Server) -> Counter[str]:
    """Return how many lines each request has, over all pages of the log."""
    found: Counter[str] = Counter()
    cursor = ""
    with server.operator() as operator:
        while True:
            page = operator.get(f"{LOGS}?limit=100&sort_dir=asc{cursor}").json()
            found.update(line["request_id"] for line in page["logs"] if "request_id" in line)
            if not page["has_more"]:
                return found
            cursor = f"&cursor={page['next_cursor']}"


def test_every_answer_is_in_the_log_exactly_once(servers: Servers) -> None:
    """Over kills and restarts; what a stranger was told just before a kill may be missing."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    server = servers.start(environment=UNLIMITED)
    account = open_account(server, BUDGETS)
    mixers = [Mixer(f"m{n}", account, random.Random(f"{seed}-{n}")) for n in range(CLIENTS)]
    for _ in range(KILLS):
        _, threads = run(server, mixers)
        server.kill()
        for thread in threads:
            thread.join()
        server = servers.start(environment=UNLIMITED)
    before_last = {request for mixer in mixers for request in mixer.told}
    stop, threads = run(server, mixers)
    stop.set()
    for thread in threads:
        thread.join()

    told = {request: kind for mixer in mixers for request, kind in mixer.told.items()}
    strangers = {request for request, kind in told.items() if kind == STRANGE}
    deadline = time.monotonic() + STRANGERS_WITHIN_S
    while (strangers - before_last) - (found := lines(server)).keys():
        assert time.monotonic() < deadline, "a stranger's line never came"
    assert not [request for request, count in found.items() if count > 1]
    assert not [request for request, kind in told.items() if kind == LINE if request not in found]
    assert not [request for request, kind in told.items() if kind == SILENT if request in found]
    statuses = sum((mixer.statuses for mixer in mixers), Counter[int]())
    lost = (strangers & before_last) - found.keys()
    print(dict(statuses), f"{len(found)} lines, {len(lost)} strangers lost with a kill")
    assert all(statuses[status] for status in (200, 400, 401, 404, 409)), statuses
    assert len(lost) <= KILLS * CLIENTS
    assert server.stop() == 0, server.logged()
