"""A process that forks workers of one agent's session, so that a test can kill them one by one.

The rule that lives here: a worker goes on from what is on disk and from what the ledger says, as
a process does that was started by somebody who knows nothing. Only the imports are shared.
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from bursar import AsyncCyclesClient, CyclesConfig
from bursar.agent import QueryEngine, QueryEngineConfig, SessionNotFoundError
from bursar.agent.calls import FileCalls
from bursar.agent.guarded import GuardedModel, GuardedTools
from bursar.agent.models import model
from bursar.agent.money import Purse
from bursar.agent.ports import Message, ModelRequest, Role
from bursar.agent.pricing import FixedPrice
from bursar.agent.tools import Toolbox, tool

SESSION = "killed"
TOOL_COST = 30
PRICE = FixedPrice(1_000_000, 2_000_000)  # a microcent for a token in, two for one out


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session is, how many turns it is to have, and whose ledger pays."""

    folder: Path
    turns: int
    url: str
    secret: str
    tenant: str

    def config(self) -> CyclesConfig:
        """The client's, with a journal of this session's own."""
        return CyclesConfig(
            base_url=self.url,
            api_key=self.secret,
            tenant=self.tenant,
            journal_dir=str(self.folder / "journal"),
        )


async def work(place: Place) -> None:
    """Submit the turns that the session does not have yet."""
    used = place.folder / "used"

    def search(text: str) -> str:
        """Search."""
        with used.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
        return f"found {text}"

    async with AsyncCyclesClient(place.config()) as client:
        purse = Purse(client, calls=FileCalls(place.folder / f"{SESSION}.calls"))
        answers = model("openai:gpt-4o-mini")
        config = QueryEngineConfig(max_turns=place.turns, max_budget_tokens=None)
        parts = (config, GuardedModel(purse, answers, PRICE))
        tools = GuardedTools(purse, Toolbox([tool(search, cost=TOOL_COST)]))
        try:
            engine = QueryEngine.from_saved_session(
                SESSION, place.folder, config=parts[0], model=parts[1], tools=tools
            )
        except SessionNotFoundError:
            engine = QueryEngine(*parts, tools=tools, session_id=SESSION, save_to=place.folder)
        while (number := engine.state.turns_committed) < place.turns:
            result = await engine.submit(f"prompt {number}")
            if result.stop_reason != "completed":
                raise RuntimeError(f"turn {number}: {result.stop_reason} {result.detail}")
        await answers.aclose()
        await client.flush()


async def rehearse(place: Place) -> None:
    """Load what is loaded by first use, so that a worker is at work at once."""
    answers = model("openai:gpt-4o-mini")
    async with AsyncCyclesClient(place.config()) as client:
        await client.get_balances(tenant=place.tenant)
        request = ModelRequest((Message(Role.USER, "rehearsal"),))
        _ = [event async for event in answers.complete(request, deadline=None)]
    await answers.aclose()


def serve(place: Place) -> None:
    """Fork a worker for a line of input and say its id; say how it ended for the next line."""
    asyncio.run(rehearse(place))
    print("ready", flush=True)
    while sys.stdin.readline():
        worker = os.fork()
        if worker == 0:
            code = 1
            try:
                asyncio.run(work(place))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(worker, flush=True)
        sys.stdin.readline()  # until it is waited for, its id can mean nobody else
        print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)


if __name__ == "__main__":
    folder, turns, url, secret, tenant = sys.argv[1:]
    serve(Place(Path(folder), int(turns), url, secret, tenant))
