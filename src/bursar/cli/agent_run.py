"""The run of an agent: its ledger, its model, its tools, what is shown, and how it ended.

The rule that lives here: the answer goes to standard output and everything about it to
standard error; however the run ends, what is known to be spent is with the ledger before the
process ends, unless it is abandoned by a second signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bursar import money
from bursar.agent import (
    LoopResult,
    PermissionDenial,
    QueryEngine,
    QueryEngineConfig,
    StopReason,
    StoredSession,
    TurnResult,
    arun_turn_loop,
)
from bursar.agent.calls import Calls
from bursar.agent.guarded import GuardedModel, GuardedTools
from bursar.agent.models import PROVIDERS
from bursar.agent.models import model as model_of
from bursar.agent.money import Purse
from bursar.agent.plan import Plan
from bursar.agent.ports import Model, ModelEvent, ModelRequest, TextDelta, ToolCall
from bursar.agent.pricing import ListPriced
from bursar.agent.tools import Toolbox
from bursar.cli import agent_files
from bursar.cli.agent_process import Watch
from bursar.cli.agent_tools import toolbox
from bursar.cli.exits import (
    EXIT_BUDGET,
    EXIT_CANCELLED,
    EXIT_CREDENTIAL,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TIMEOUT,
    EXIT_TURNS,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    CommandError,
)
from bursar.client.aio import AsyncCyclesClient
from bursar.client.config import CyclesConfig
from bursar.client.exceptions import CyclesProtocolError, CyclesTransportError

SETTLING_S = 2.0
"""How long a run waits at its end for what was cancelled to account for itself."""
CODES = {
    StopReason.COMPLETED: EXIT_OK,
    StopReason.MAX_BUDGET_REACHED: EXIT_BUDGET,
    StopReason.MAX_TURNS_REACHED: EXIT_TURNS,
    StopReason.CANCELLED: EXIT_CANCELLED,
    StopReason.TIMEOUT: EXIT_TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was typed, understood."""

    prompt: str
    model: str
    budget_microcents: int | None
    max_turns: int
    timeout_s: float | None
    continue_with: str | None
    tools: str | None
    allow: frozenset[str] | None
    deny: frozenset[str]
    system: str
    max_tokens: int
    session: Path | None
    as_json: bool


@dataclass(slots=True)
class Shown:
    """What a run tells while it runs, and remembers for its end."""

    wanted: Wanted
    purse: Purse
    out: TextIO
    watch: Watch
    turns: list[dict[str, Any]] = field(default_factory=list)
    said: bool = False
    gone: OSError | None = None

    def text(self, piece: str) -> None:
        """Show a piece of the answer."""
        if not self.wanted.as_json:
            self.said = True
            self.write(piece)

    def write(self, text: str) -> None:
        """Write to the output; without a reader there is no point in going on."""
        if self.gone is not None:
            return
        try:
            print(text, end="", file=self.out, flush=True)
        except OSError as error:
            self.gone = error
            self.watch.scope.cancel()

    def tool(self, call: ToolCall) -> None:
        """Say that the model wants a tool."""
        if not self.wanted.as_json:
            print(f"[tool] {call.name} {call.arguments}", file=sys.stderr, flush=True)

    def turn(self, number: int, result: TurnResult, tokens: tuple[int, int], since: int) -> None:
        """Say what a turn has used; `since` is how many charges there were before it."""
        charges = self.purse.charges[since:]
        spent = money.total(one.amount for one in charges)
        self.turns.append(
            {
                "prompt": result.prompt,
                "output": result.output,
                "stop_reason": str(result.stop_reason),
                "detail": result.detail,
                "input_tokens": tokens[0],
                "output_tokens": tokens[1],
                "spent_microcents": spent if isinstance(spent, int) else None,
                "bound": any(one.bound for one in charges),
                "denials": [[one.tool_name, one.reason] for one in result.permission_denials],
            }
        )
        if self.wanted.as_json:
            return
        most = "at most " if self.turns[-1]["bound"] else ""
        if self.said:
            self.write("\n")
        self.said = False
        print(
            f"[turn {number}] {result.stop_reason}: {tokens[0]} tokens in, {tokens[1]} out, "
            f"{most}{_usd(spent)}",
            file=sys.stderr,
            flush=True,
        )


class Told:
    """A model whose answers are shown while they come."""

    def __init__(self, model: GuardedModel, shown: Shown) -> None:
        """Show what `model` says."""
        self.name = model.name
        self.purse = model.purse
        self._model, self._shown = model, shown

    async def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        """Pass everything on."""
        async with aclosing(self._model.complete(request, deadline=deadline)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    self._shown.text(event.text)
                elif isinstance(event, ToolCall):
                    self._shown.tool(event)
                yield event


class Engine(QueryEngine):
    """An engine that tells of each turn."""

    shown: Shown

    async def submit(
        self,
        prompt: str,
        matched_commands: tuple[str, ...] = (),
        matched_tools: tuple[str, ...] = (),
        denied_tools: tuple[PermissionDenial, ...] = (),
        cancel_event: threading.Event | None = None,
        *,
        turn_id: str | None = None,
    ) -> TurnResult:
        """Work on a turn and tell of it."""
        number = self.state.turns_committed + 1
        before, since = self.total_usage, len(self.shown.purse.charges)
        what = (prompt, matched_commands, matched_tools, denied_tools, cancel_event)
        try:
            result = await super().submit(*what, turn_id=turn_id)
        except Exception as error:
            plan = Plan(prompt, None, 1, matched_commands, matched_tools, denied_tools)
            self.shown.turn(number, plan.failed(prompt, error), (0, 0), since)
            raise
        after = self.total_usage
        tokens = (
            after.input_tokens - before.input_tokens,
            after.output_tokens - before.output_tokens,
        )
        self.shown.turn(number, result, tokens, since)
        return result


async def carry_out(wanted: Wanted, watch: Watch) -> int:
    """Run the agent, alone on its session, and return the exit code."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")  # a sign that cannot be shown costs no turn
    with contextlib.redirect_stdout(sys.stderr):  # what a tool prints is not the answer
        asked, price = _model(wanted.model)
        box = toolbox(wanted.tools, wanted.allow, wanted.deny)
        with agent_files.calls_of(wanted.session) as calls:
            shown, result, engine = await _carry_out(wanted, asked, price, box, calls, watch, out)
    return _end(result, engine, shown)


async def _carry_out(
    wanted: Wanted,
    asked: Model,
    price: ListPriced,
    box: Toolbox,
    calls: Calls,
    watch: Watch,
    out: TextIO,
) -> tuple[Shown, LoopResult, Engine]:
    stored = agent_files.stored(wanted.session)
    client = _client(wanted)
    try:
        await _fund(client, wanted)
        purse = Purse(client, calls=calls)
        shown = Shown(wanted, purse, out, watch)
        guarded = Told(GuardedModel(purse, asked, price), shown)
        engine = _engine(wanted, guarded, GuardedTools(purse, box) if box.tools else None, stored)
        engine.shown = shown
        result = await arun_turn_loop(
            wanted.prompt,
            engine=engine,
            max_turns=max(1, wanted.max_turns - engine.state.turns_committed),
            timeout_seconds=wanted.timeout_s,
            continuation_prompt=wanted.continue_with,
            scope=watch.scope,
            grace_seconds=SETTLING_S,
        )
        await _settled()
    finally:
        await client.aclose()
        with contextlib.suppress(AttributeError):
            await asked.aclose()  # type: ignore[attr-defined]  # adapters have it
    return shown, result, engine


def _end(result: LoopResult, engine: Engine, shown: Shown) -> int:
    """Say how the run ended and return its exit code."""
    if shown.gone is not None:
        raise shown.gone
    stop = StopReason(result.loop_stop)
    code = CODES[stop] if stop in CODES else _code_of(result.error)
    if code == EXIT_CANCELLED and shown.watch.interrupted:
        code = EXIT_INTERRUPTED
    last = result.turns[-1]
    spent = money.total(one.amount for one in shown.purse.charges)
    if shown.wanted.as_json:
        document = {
            "stop_reason": str(result.loop_stop),
            "exit_code": code,
            "detail": last.detail,
            "session_id": engine.session_id,
            "turns_committed": engine.state.turns_committed,
            "spent_microcents": spent if isinstance(spent, int) else None,
            "turns": shown.turns,
        }
        print(json.dumps(document), flush=True)
    elif code != EXIT_OK:
        why = f": {last.detail}" if last.detail else ""
        print(f"bursar: {result.loop_stop}{why}", file=sys.stderr)
    return code


def _model(spec: str) -> tuple[Model, ListPriced]:
    provider, _, name = spec.partition(":")
    try:
        found = model_of(spec)
        found.prepare()  # type: ignore[attr-defined]  # the adapters of this package have it
        return found, ListPriced(name, provider if provider in PROVIDERS else None)
    except (LookupError, ValueError, ModuleNotFoundError) as error:
        raise CommandError(EXIT_USAGE, f"--model: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in PROVIDERS:
            raise
        raise CommandError(EXIT_USAGE, f"--model: {error}") from error


def _code_of(error: Exception | None) -> int:
    """Return the exit code of a turn that failed: scripts tell the ledger from the rest."""
    if isinstance(error, CyclesTransportError):
        return EXIT_UNREACHABLE
    if isinstance(error, CyclesProtocolError) and error.status in (401, 403):
        return EXIT_CREDENTIAL
    return EXIT_FAILED


def _client(wanted: Wanted) -> AsyncCyclesClient:
    if not os.environ.get("CYCLES_BASE_URL"):
        return agent_files.embedded_client(wanted.session)
    try:
        return AsyncCyclesClient(CyclesConfig.from_env())
    except ValueError as error:
        raise CommandError(EXIT_USAGE, str(error)) from error


async def _fund(client: AsyncCyclesClient, wanted: Wanted) -> None:
    """Give an embedded ledger its budget, or what it has less than that.

    What it has more stays: the session is held to the smaller one besides.
    """
    create = getattr(client, "create_budget", None)
    if create is None or wanted.budget_microcents is None:
        return
    found = await create(wanted.budget_microcents, exist_ok=True)
    missing = wanted.budget_microcents - found["allocated"]["amount"]
    if missing > 0:
        await client.credit_budget(missing)  # type: ignore[attr-defined]  # an embedded one has it


def _engine(
    wanted: Wanted, model: Model, tools: GuardedTools | None, stored: StoredSession | None
) -> Engine:
    config = QueryEngineConfig(
        max_turns=wanted.max_turns,
        max_budget_tokens=None,
        max_money_microcents=wanted.budget_microcents,
    )
    options: dict[str, Any] = {
        "tools": tools,
        "system": wanted.system,
        "max_tokens": wanted.max_tokens,
    }
    file = wanted.session
    if file is None:
        return Engine(config, model, **options)
    if stored is None:
        return Engine(config, model, session_id=file.stem, save_to=file.parent, **options)
    return Engine(config, model, stored=stored, save_to=file.parent, **options)


async def _settled() -> None:
    """Give what was cancelled the time to tell the ledger."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=SETTLING_S)


def _usd(amount: int | money.Unpriced) -> str:
    if isinstance(amount, money.Unpriced):
        return "an unknown amount"
    return f"${amount / money.USD:.8f}"
