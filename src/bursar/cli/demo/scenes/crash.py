"""Scene 4: the server is killed while agents work, and started again.

The rule that lives here: an agent that got no answer does not know what happened, so it
asks again with the same key. Whatever was saved is answered as before, whatever was not is
done now; either way it happens once.

The connections break a moment before the server dies, so that both kinds occur: operations
that were saved but never answered, and operations that never arrived.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rich.console import RenderableType

from bursar import money
from bursar.cli.demo.api import Answer, expect, together, until_answered
from bursar.cli.demo.journal import Ack, Log
from bursar.cli.demo.show import crowd, facts
from bursar.cli.demo.stage import MODEL, Check, Outcome, Scene, Stage, log_of, subject, usd

WORKSPACE = "nightly"
BUDGET = 40 * money.USD
AGENTS, CYCLES = 24, 20
OPERATIONS = 2 * AGENTS * CYCLES
KILL_AFTER = OPERATIONS * 2 // 5
ESTIMATE = 6 * money.USD // 100
ACTUAL_MIN = money.USD // 100
LAST_BREATH_S = 0.005

Ask = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class _Crash:
    """What the killed server left behind, and how long it was away."""

    told: list[Ack] = field(default_factory=list)
    log: Log = field(default_factory=lambda: Log(()))
    lost_acks: list[str] = field(default_factory=list)
    away_s: float = 0.0


@dataclass(slots=True)
class _Run:
    """What became of the agents' requests."""

    answered: int = 0
    cost: int = 0
    lost: dict[tuple[str, str], int] = field(default_factory=dict)
    due: asyncio.Event = field(default_factory=asyncio.Event)
    done: list[int] = field(default_factory=lambda: [0] * AGENTS)
    latest: dict[int, Ask] = field(default_factory=dict)  # of each agent, before the kill
    state: str = ""
    crash: _Crash = field(default_factory=_Crash)


async def play(stage: Stage) -> Outcome:
    """Kill and restart the server under agents that carry on."""
    run, before = _Run(), len(stage.journal.acks)

    def picture() -> RenderableType:
        quiet = [False] * AGENTS
        return crowd(run.done, CYCLES, quiet, ascii_only=stage.show.ascii_only)

    with stage.show.watch(f"{AGENTS} agents", OPERATIONS, picture) as advance:

        def tell() -> None:
            lost = f"{run.state}; {len(run.lost)} answers lost"
            advance(run.answered, lost if run.state else "")

        agents = [_agent(stage, run, number, tell) for number in range(AGENTS)]
        await together([*agents, _kill_and_restart(stage, run, before)])
    contradicted = len(stage.journal.contradictions)
    for ask in run.latest.values():
        expect(await ask(), 200)
    contradicted = len(stage.journal.contradictions) - contradicted
    return await _outcome(stage, run, before, contradicted)


async def _agent(stage: Stage, run: _Run, number: int, tell: Callable[[], None]) -> None:
    rng, who = stage.rng(f"crash-{number}"), subject(WORKSPACE, f"clerk-{number + 1:02}")

    async def ask(endpoint: str, key: str, send: Ask) -> Answer:
        """Ask until answered, as if nothing had happened."""

        def lost() -> None:
            run.lost[endpoint, key] = run.lost.get((endpoint, key), 0) + 1
            tell()

        answer = expect(await until_answered(send, lost), 200)
        if not run.state:
            run.latest[number] = send
        run.answered += 1
        if run.answered >= KILL_AFTER:
            run.due.set()
        tell()
        return answer

    for cycle in range(CYCLES):
        key, actual = f"clerk-{number + 1}-{cycle + 1}", rng.randint(ACTUAL_MIN, ESTIMATE)
        await _cycle(stage, who, key, actual, ask)
        run.cost += actual
        run.done[number] += 1


async def _cycle(
    stage: Stage,
    who: dict[str, str],
    key: str,
    actual: int,
    ask: Callable[[str, str, Ask], Awaitable[Answer]],
) -> None:
    """Reserve and commit once, whatever it takes."""
    api = stage.api
    held = await ask("reserve", key, lambda: api.reserve(who, MODEL, ESTIMATE, key))
    name = held.said["reservation_id"]
    await ask(f"commit:{name}", key, lambda: api.commit(name, actual, key))


async def _kill_and_restart(stage: Stage, run: _Run, before: int) -> None:
    """Wait for the middle of the work, kill, look at what is on disk, start again."""
    await run.due.wait()
    run.state = "connections cut"
    stage.api.cut()
    # Long enough to save some of what has arrived, too short for all that comes after.
    await asyncio.sleep(LAST_BREATH_S)
    run.state = "killed"
    began = time.perf_counter()
    stage.server.kill()
    told = stage.journal.acks[before:]
    log = _left_behind(stage)
    await stage.server.start()
    run.state = "restarted"
    away_s = time.perf_counter() - began
    run.crash = _Crash(told, log, stage.journal.missing(log, told), away_s)


def _left_behind(stage: Stage) -> Log:
    """Read a copy of what is on disk, so that recovering it is left to the server."""
    store = stage.server.store
    copies = store.parent / "left-behind"
    copies.mkdir()
    for file in (store, store.with_name(f"{store.name}-wal")):
        if file.exists():
            shutil.copy(file, copies)
    return log_of(copies / store.name)


async def _outcome(stage: Stage, run: _Run, before: int, contradicted: int) -> Outcome:
    crash = run.crash
    saved = [operation for operation in run.lost if crash.log.has(*operation)]
    after = stage.log()
    again = stage.journal.missing(after, stage.journal.acks[before:])
    spent = await stage.balance(WORKSPACE)
    found = len(crash.told) - len(crash.lost_acks)
    total = len(stage.journal.acks) - before
    rows = [
        ("acknowledged before the kill", f"{len(crash.told)}, found on disk: {found}"),
        ("answers lost", f"{len(run.lost)}"),
        ("  saved before the kill", f"{len(saved)}: asked again, replayed"),
        ("  never saved", f"{len(run.lost) - len(saved)}: asked again, done once"),
        ("asked in vain", f"{sum(run.lost.values()):,} times"),
        ("server away", f"{crash.away_s:.2f} s, same file, same port"),
        ("acknowledged in the end", f"{total} of {OPERATIONS}, found: {total - len(again)}"),
    ]
    return Outcome(
        tables=[facts(rows)],
        checks=[
            Check(
                f"all {len(crash.told)} operations answered before the kill are in the file it "
                "left",
                not crash.lost_acks and len(crash.told) >= KILL_AFTER,
            ),
            Check(
                f"all {OPERATIONS} operations were answered and are in the ledger",
                not again and total == OPERATIONS,
            ),
            Check(
                f"{len(run.latest)} requests of before, sent again: the same answers, byte for "
                "byte",
                contradicted == 0 and len(run.latest) == AGENTS,
            ),
            Check(
                f"nothing charged twice: {usd(spent['spent'])} spent for calls of {usd(run.cost)}",
                (spent["spent"], spent["reserved"]) == (run.cost, 0),
            ),
        ],
        figures={
            "operations": OPERATIONS,
            "acknowledged_before_kill": len(crash.told),
            "found_on_disk": found,
            "answers_lost": len(run.lost),
            "replayed": len(saved),
            "executed_after_restart": len(run.lost) - len(saved),
            "attempts_in_vain": sum(run.lost.values()),
            "away_s": round(crash.away_s, 3),
            "acknowledged": total,
            "found": total - len(again),
            "asked_again": len(run.latest),
            "answered_differently": contradicted,
            "spent_microcents": spent["spent"],
            "cost_microcents": run.cost,
        },
    )


SCENE = Scene(
    name="crash",
    title="4  SIGKILL in the middle",
    shows="The server dies under load. Agents ask again, with the same keys.",
    play=play,
)
