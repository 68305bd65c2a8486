"""`bursar agent run`: an agent on the command line, within a budget, a time and its turns.

The rule that lives here: what was typed becomes a run, and how the run ended becomes an exit
code. Nothing is asked of a provider before everything that was typed is understood.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Group, Parameter

from bursar import money
from bursar.cli.exits import EXIT_USAGE, CommandError

ABOUT = """Run an agent within a budget, a time and a number of turns.

Each call of the model and each use of a tool is reserved before it happens and accounted for
after it.

Example: bursar agent run "What is a ledger?" --model openai:gpt-4o-mini --budget 0.50USD
"""
MAX_TOKENS_MOST = 100_000_000
Many = Annotated[list[str] | None, Parameter(negative="")]
Amount = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
Json = Annotated[bool, Parameter(name="--json", negative="")]

app = App(name="agent", help=ABOUT)


@Parameter(name="*", group=Group("What the agent does", sort_key=50))
@dataclass(frozen=True, kw_only=True)
class Conduct:
    """What the model is told and may use."""

    continue_with: str | None = None
    """What to ask after each turn that completed; without it there is one turn."""
    tools: str | None = None
    """A module, or a Python file, whose functions and sub-agents the model may use: those in its
    TOOLS, or all public ones that it defines."""
    allow: Many = None
    """A tool that may be used; repeat for more. Without any, all may."""
    deny: Many = None
    """A tool that may not be used; repeat for more."""
    system: str = ""
    """Instructions for the model."""
    max_tokens: int = 1_024
    """How long one answer may be; it bounds what a call is reserved for."""


ANYTHING = Conduct()


@app.command
def run(
    prompt: str,
    /,
    *,
    model: str,
    budget: Amount = None,
    max_turns: int = 3,
    timeout: float | None = None,
    session: Path | None = None,
    conduct: Conduct = ANYTHING,
    as_json: Json = False,
) -> int:
    """Ask a model, let it use tools, and stop when a limit says so.

    With CYCLES_BASE_URL, CYCLES_API_KEY and CYCLES_TENANT the ledger of that server decides, and
    --budget bounds this session besides. Without them the ledger is embedded: in memory, or in a
    file beside the session's.

    The first Ctrl-C cancels the turn, and what it may have cost is accounted for; the second
    abandons it. Exit codes: 0 completed, 1 error, 2 wrong arguments, 20 cancelled by SIGTERM, 21
    the budget, 22 no turn left, 124 the time, 130 Ctrl-C.

    Example: bursar agent run "What is a ledger?" --model openai:gpt-4o-mini --budget 0.50USD

    Parameters
    ----------
    prompt
        What to ask.
    model
        openai:NAME or anthropic:NAME; address and key come from the variables of the provider's
        package, such as OPENAI_API_KEY.
    budget
        The most that the session may cost, such as 0.50USD.
    max_turns
        The most turns of the session, those of earlier runs included.
    timeout
        Seconds for the whole run.
    session
        A file, NAME.json, in which each turn is saved; if it is there, the session goes on.
    as_json
        Answer with JSON at the end, amounts as exact integers.
    """
    _check_said("PROMPT", prompt)
    if conduct.continue_with is not None:
        _check_said("--continue-with", conduct.continue_with)
    _check_utf8("--system", conduct.system)
    limits = _limits(budget, max_turns, timeout, conduct.max_tokens)
    return _carry_out(prompt, model, limits, conduct, _session(session), as_json)


def _check_said(name: str, text: str) -> None:
    if not text.strip():
        raise CommandError(EXIT_USAGE, f"{name} is empty; say what to ask")
    _check_utf8(name, text)


def _check_utf8(name: str, text: str) -> None:
    """Refuse what was typed as bytes that are no text; a model could not be told of them."""
    try:
        text.encode()
    except UnicodeEncodeError as wrong:
        why = f"{name} is not UTF-8 at character {wrong.start}; convert it first, e.g. with iconv"
        raise CommandError(EXIT_USAGE, why) from wrong


def _limits(
    budget: str | None, max_turns: int, timeout_s: float | None, max_tokens: int
) -> tuple[int | None, int, float | None]:
    """Return the limits of a run, checked."""
    if max_turns < 1 or (timeout_s is not None and not timeout_s >= 0):
        why = "--max-turns must be at least 1, --timeout at least 0"
        raise CommandError(EXIT_USAGE, why)
    if not 1 <= max_tokens <= MAX_TOKENS_MOST:
        why = f"--max-tokens must be from 1 to {MAX_TOKENS_MOST}, got {max_tokens}"
        raise CommandError(EXIT_USAGE, why)
    microcents = _microcents(budget)
    if microcents is None and not os.environ.get("CYCLES_BASE_URL"):
        need = "--budget is needed where no server is named (CYCLES_BASE_URL); e.g. 0.50USD"
        raise CommandError(EXIT_USAGE, need)
    return microcents, max_turns, timeout_s


def _carry_out(
    prompt: str,
    model: str,
    limits: tuple[int | None, int, float | None],
    conduct: Conduct,
    session: Path | None,
    as_json: bool,
) -> int:
    from bursar.cli.agent_process import drive
    from bursar.cli.agent_run import Wanted, carry_out

    wanted = Wanted(
        prompt,
        model,
        *limits,
        conduct.continue_with,
        _path(conduct.tools),
        frozenset(conduct.allow) if conduct.allow else None,
        frozenset(conduct.deny or ()),
        conduct.system,
        conduct.max_tokens,
        session,
        as_json,
    )
    return drive(lambda watch: carry_out(wanted, watch), wanted.timeout_s, as_json=as_json)


def _microcents(budget: str | None) -> int | None:
    if budget is None:
        return None
    from bursar.vocabulary import Unit

    try:
        unit, amount = money.parse(budget, Unit.USD_MICROCENTS)
    except money.AmountError as error:
        hint = "; an amount of money ends in USD, e.g. 0.50USD" if _is_bare(budget) else ""
        raise CommandError(EXIT_USAGE, f"--budget: {error}{hint}") from error
    if unit is not Unit.USD_MICROCENTS:
        raise CommandError(EXIT_USAGE, f"--budget: {budget!r} is not money; e.g. 0.50USD")
    return amount


def _is_bare(budget: str) -> bool:
    return not any(one.isalpha() for one in budget)


def _path(tools: str | None) -> str | None:
    if tools is not None and tools.endswith(".py") and not Path(tools).is_file():
        raise CommandError(EXIT_USAGE, f"--tools: there is no file {tools}")
    return tools


def _session(session: Path | None) -> Path | None:
    if session is not None and session.suffix != ".json":
        raise CommandError(EXIT_USAGE, f"--session: {session} must end in .json")
    return session
