"""The published recovery scenarios: real processes, real sockets, both shells, real kills.

Each test is named after the scenario that it plays; `adapter.py` runs them by that name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bursar.client.journal_format import Identity, file_name
from scenarios.faulty import WITHIN_S, Answer, Faulty, Request, refusal, serving

CHILD = Path(__file__).with_name("child.py")
OLD_KEY, NEW_KEY = "cyc_test_old_secret", "cyc_test_new_secret"


class Process:
    """A child that runs one step, and what it said."""

    def __init__(self, shell: str, step: str, settings: dict[str, Any]) -> None:
        command = [sys.executable, "-W", "error", str(CHILD), shell, step, json.dumps(settings)]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.said: list[tuple[str, Any]] = []

    def kill(self) -> None:
        """End it without any chance to tidy up."""
        self._child.kill()
        self._read()

    def finish(self) -> Process:
        """Wait for its proper end."""
        error = self._read()
        assert (self._child.returncode, error) == (0, b"")
        return self

    def _read(self) -> bytes:
        out, error = self._child.communicate(timeout=WITHIN_S)
        self.said = [next(iter(json.loads(line).items())) for line in out.splitlines()]
        return error

    def all(self, what: str) -> list[Any]:
        return [value for name, value in self.said if name == what]

    def stop(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.communicate()


class World:
    """One scenario: its server, its journal, its processes."""

    def __init__(self, shell: str, folder: Path) -> None:
        self.shell = shell
        self.folder = folder
        self.server = Faulty()
        self._started: list[Process] = []

    def start(self, step: str, **settings: Any) -> Process:
        common = {"base_url": self.server.url, "journal_dir": str(self.folder)}
        process = Process(self.shell, step, common | settings)
        self._started.append(process)
        return process

    def run(self, step: str, **settings: Any) -> Process:
        return self.start(step, **settings).finish()

    def act_and_be_killed(self, **settings: Any) -> Request:
        """Leave a record behind: the first commit is in flight when the process dies."""
        self.server._faults.setdefault("commit", []).insert(0, self.server.hang)
        process = self.start("act", **settings)
        request = self.server.wait_for("commit")
        process.kill()
        return request

    @property
    def identity(self) -> Path:
        return self.folder / Identity.of(self.server.url, OLD_KEY, "acme").fingerprint

    def records(self) -> list[dict[str, Any]]:
        """Return what the journal holds now."""
        return [json.loads(path.read_bytes()) for path in sorted(self.identity.glob("*.json"))]

    def plant(self, name: str, rid: str, **values: Any) -> None:
        """Write a record as an earlier process would have."""
        self.identity.mkdir(parents=True, exist_ok=True)
        commit = {"idempotency_key": f"key of {rid}", "actual": {"unit": "TOKENS", "amount": 7}}
        record = {
            "version": 1,
            "reservation_id": rid,
            "base_url": self.server.url,
            "mode": "commit",
            "commit_body": commit,
            "event_fallback_body": None,
            "recorded_at_ms": 5,
            "not_before_ms": None,
        }
        (self.identity / name).write_text(json.dumps(record | values))

    def stop(self) -> None:
        for process in self._started:
            process.stop()


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path)
    with serving(made.server):
        yield made
        made.stop()


def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process or thread does."""
    give_up = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.005)


def one_key(requests: list[Request]) -> str:
    """Return the only idempotency key of some requests."""
    (key,) = {request.key for request in requests}
    return key


def settled_once(world: World) -> None:
    """One settlement at the server, nothing left in the journal, nothing given back."""
    assert world.server.settlements == 1
    assert world.records() == []
    assert world.server.of("release") == []


def test_cr_core_001(world: World) -> None:
    """A lost commit response reuses the same key."""
    world.server._faults["commit"] = [Answer(lost=True)]
    process = world.run("act")
    assert world.server.story() == ["commit", "commit"]
    one_key(world.server.of("commit"))
    assert (process.all("returned"), process.all("left")) == (["result"], [0])
    settled_once(world)


@pytest.mark.parametrize("answer", [refusal(410), refusal(409, "RESERVATION_EXPIRED")])
def test_cr_core_002(world: World, answer: Answer) -> None:
    """An expired commit falls back to an event that carries the same facts."""
    world.server._faults["commit"] = [answer]
    world.run("act")
    (create,), (commit,) = world.server.of("create"), world.server.of("commit")
    (event,) = world.server.of("event")
    assert world.server.story() == ["commit", "event"]
    assert event.key == commit.key
    for fact in ("subject", "action"):
        assert event.body[fact] == create.body[fact]
    assert event.body["actual"] == commit.body["actual"] == {"unit": "USD_MICROCENTS", "amount": 7}
    assert event.body["metadata"]["recovered_reservation_id"] == commit.reservation_id
    settled_once(world)


def test_cr_core_003(world: World) -> None:
    """A heartbeat's transport failure is observable, and the action goes on."""
    world.server.remaining_ttl_ms = None
    world.server._faults["extend"] = [Answer(lost=True)]
    process = world.run("act", seconds=0.9, options={"ttl_ms": 1_000})
    extends = world.server.of("extend")
    assert world.server.story()[:2] == ["extend", "extend"]
    assert world.server.story()[-1] == "commit"
    one_key(extends[:2])
    (rid,) = {request.reservation_id for request in extends}
    assert process.all("heartbeat") == [[rid, "retrying"]]
    (logged,) = [line for line in process.all("log") if "retrying" in line]
    assert logged.startswith(f"WARNING heartbeat of reservation {rid} retrying")
    assert process.all("returned") == ["result"]
    settled_once(world)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(202, {"status": "COMMITTED", "charged": {"unit": "USD_MICROCENTS", "amount": 7}}),
        Answer(200, {"status": "COMMITTED"}),
        Answer(200, {"status": "COMMITTED", "charged": None}),
        Answer(200, {"status": "ACTIVE", "charged": {"unit": "USD_MICROCENTS", "amount": 7}}),
        Answer(204),
    ],
)
def test_cr_core_004(world: World, answer: Answer) -> None:
    """A settlement success that does not fit the protocol remains ambiguous."""
    world.server._faults["commit"] = [answer]
    world.run("act")
    assert world.server.story() == ["commit", "commit"]
    one_key(world.server.of("commit"))
    settled_once(world)


def test_cr_durable_001(world: World) -> None:
    """The first commit is in the journal before it leaves the process."""
    seen: list[list[dict[str, Any]]] = []

    def look(request: Request) -> Answer | None:
        seen.append(world.records())
        return world.server.hang(request)

    world.server._faults["commit"] = [look]
    process = world.start("act")
    first = world.server.wait_for("commit")
    until(lambda: bool(seen))
    process.kill()
    ((record,),) = seen
    assert record["commit_body"] == first.body
    assert world.records() == [record]
    world.run("replay")
    assert world.server.story() == ["commit", "commit"]
    one_key(world.server.of("commit"))
    settled_once(world)


def test_cr_durable_002(world: World) -> None:
    """A replayed commit that has expired is an event on disk before it is one at the server."""
    first = world.act_and_be_killed()
    seen: list[str] = []

    def look(request: Request) -> Answer | None:
        seen.extend(record["mode"] for record in world.records())
        return world.server.hang(request)

    world.server._faults |= {"commit": [refusal(410)], "event": [look]}
    process = world.start("replay")
    world.server.wait_for("event")
    until(lambda: bool(seen))
    process.kill()
    assert seen == ["event"]
    assert [record["mode"] for record in world.records()] == ["event"]
    world.run("replay")
    assert world.server.story() == ["commit", "commit", "event", "event"]
    assert one_key(world.server.of("commit", "event")) == first.key
    settled_once(world)


def test_cr_durable_003(world: World) -> None:
    """A rate limit's floor survives a restart."""
    world.server._faults["commit"] = [refusal(429, "LIMIT_EXCEEDED", Retry_After="2")]
    process = world.start("act")
    world.server.wait_for("commit")
    until(lambda: any(record["not_before_ms"] for record in world.records()))
    process.kill()
    not_before_s = world.records()[0]["not_before_ms"] / 1_000
    assert time.time() < not_before_s
    world.run("replay")
    first, second = world.server.of("commit")
    assert 1.9 < not_before_s - first.at < 3.0
    assert second.at >= not_before_s
    assert second.key == first.key
    settled_once(world)


def test_cr_durable_004(world: World) -> None:
    """A tenant's journal survives the rotation of its key, which it never held."""
    first = world.act_and_be_killed(api_key=OLD_KEY)
    stored = [path for path in world.folder.rglob("*") if path.is_file()]
    assert len(stored) == 1
    for path in stored:
        assert OLD_KEY.encode() not in path.read_bytes()
        assert OLD_KEY not in str(path)
    world.run("replay", api_key=NEW_KEY)
    (_, second) = world.server.of("commit")
    assert (first.api_key, second.api_key) == (OLD_KEY, NEW_KEY)
    assert second.key == first.key
    settled_once(world)


def test_cr_durable_005(world: World) -> None:
    """What cannot be read is set aside and reported; the rest is settled."""
    world.plant(file_name("rsv_good"), "rsv_good")
    world.plant(file_name("rsv_future"), "rsv_future", version=2)
    (world.identity / file_name("rsv_torn")).write_bytes(b'{"version": 1, "reserv')
    process = world.run("replay")
    assert [request.reservation_id for request in world.server.requests] == ["rsv_good"]
    aside = sorted(path.name for path in world.identity.iterdir())
    wanted = [file_name(rid).removesuffix(".json") for rid in ("rsv_future", "rsv_torn")]
    assert aside == sorted(f"{name}.corrupt" for name in wanted)
    reported = [line for line in process.all("log") if "Skipping corrupt journal entry" in line]
    assert len(reported) == 2
    settled_once(world)


def test_cr_durable_006(world: World) -> None:
    """Two processes that replay one record settle it once."""
    first = world.act_and_be_killed()

    def together(request: Request) -> Answer | None:
        world.server.wait_for("commit", 3)
        return None

    world.server._faults["commit"] = [together, together]
    workers = [world.start("replay"), world.start("replay")]
    for worker in workers:
        assert worker.finish().all("left") == [0]
    assert one_key(world.server.of("commit")) == first.key
    assert world.server.story() == ["commit"] * 3
    settled_once(world)


def test_cr_durable_007(world: World) -> None:
    """File names keep arbitrary ids apart, and an earlier client's file is taken over."""
    ids = ["a/b", "a?b", "r + \N{ROCKET}"]
    world.plant("a_b.json", "a/b")  # the name that earlier clients gave to all of these
    world.plant(file_name("a?b"), "a?b")
    world.plant("r____.json", "r + \N{ROCKET}")
    world.server._faults["commit"] = [refusal(401, "UNAUTHORIZED")] * 9
    world.run("replay")
    names = sorted(path.name for path in world.identity.iterdir())
    assert names == sorted(f"v2-{sha256(rid.encode()).hexdigest()}.json" for rid in ids)
    assert sorted(record["reservation_id"] for record in world.records()) == sorted(ids)
    world.plant("a_b.json", "a b")  # collides with the names of two others, and is none of them
    world.server._faults.clear()
    world.run("replay")
    assert sorted(world.server.settled) == sorted([*ids, "a b"])
    assert world.server.settlements == 4
    assert list(world.identity.iterdir()) == []


UNKNOWN: dict[str, Callable[[], dict[str, Any]]] = {
    "no actual": lambda: {"actual": None, "use_estimate_if_actual_not_provided": False},
    "negative": lambda: {"actual": -1, "use_estimate_if_actual_not_provided": False},
}


@pytest.mark.parametrize("options", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_cr_boundary_001(world: World, options: Callable[[], dict[str, Any]]) -> None:
    """A missing actual is surfaced, without a settlement."""
    process = world.run("act", options=options())
    assert world.server.of("commit", "event") == []
    ((kind, _),) = process.all("raised")
    assert kind == "ValueError"
    assert world.records() == []
