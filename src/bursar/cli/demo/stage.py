"""A scene and what it plays on.

The rule that lives here: a scene acts and measures, and returns what it saw with its
checks. It prints nothing itself and decides no exit code.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType

from bursar import money
from bursar.cli.demo.api import Api, Json, expect
from bursar.cli.demo.balances import amounts_of
from bursar.cli.demo.journal import Journal, Log
from bursar.cli.demo.server import Server
from bursar.cli.demo.show import Show
from bursar.cli.replay.pricing import ModelTariff, Request
from bursar.storage.sqlite.reader import SqliteReader
from bursar.vocabulary import Unit

TENANT = "acme"
MODEL = "gpt-4o"
MAX_OUTPUT_TOKENS = 1_000
"""The output limit that every model call of the demo sets; it makes the estimate."""


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, in words that hold the figures, and whether it held."""

    says: str
    held: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scene saw: for the screen, for `--json`, and for the exit code."""

    tables: Sequence[RenderableType]
    checks: Sequence[Check]
    figures: Json

    @property
    def held(self) -> bool:
        """Whether every check held."""
        return all(check.held for check in self.checks)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scenes share."""

    server: Server
    api: Api
    journal: Journal
    show: Show
    tariff: ModelTariff
    traffic: Sequence[Request]
    seed: int
    keep: bool

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """Return the list price of a model call, in microcents."""
        return self.tariff.amount(input_tokens, output_tokens, 0)

    def rng(self, purpose: str) -> random.Random:
        """Return a source of choices that depends on the seed and the purpose alone."""
        return random.Random(f"{self.seed}/{purpose}")

    async def balance(self, *names: str) -> dict[str, int]:
        """Ask for the amounts of a budget as they are now; see `scope` for the names."""
        kinds = ("workspace", "agent")
        query = "".join(f"&{kind}={name}" for kind, name in zip(kinds, names, strict=False))
        answer = expect(await self.api.get(f"/v1/balances?tenant={TENANT}{query}"), 200)
        return next(
            amounts_of(balance)
            for balance in answer.said["balances"]
            if balance["scope_path"] == scope(*names)
        )

    def log(self) -> Log:
        """Read the tenant's log from the ledger file, past the server."""
        return log_of(self.server.store)


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing to see: its name for `--json`, its title, one sentence, and its play."""

    name: str
    title: str
    shows: str
    play: Callable[[Stage], Awaitable[Outcome]]


def log_of(store: Path) -> Log:
    """Read the tenant's log from a ledger file."""
    reader = SqliteReader(store)
    try:
        return Log(reader.entries(TENANT))
    finally:
        reader.close()


def usd(amount_microcents: int) -> str:
    """Write an amount for people, exactly."""
    return money.show(amount_microcents, Unit.USD_MICROCENTS)


def quantile_ms(took_s: Sequence[float], rank: float) -> float:
    """Return the time within which a share of the requests was answered, in milliseconds."""
    ordered = sorted(took_s)
    return 1_000 * ordered[min(len(ordered) - 1, int(rank * len(ordered)))] if ordered else 0.0


def subject(workspace: str, agent: str) -> dict[str, str]:
    """Return the subject of an agent of the demo's tenant."""
    return {"tenant": TENANT, "workspace": workspace, "agent": agent}


def scope(*names: str) -> str:
    """Return the scope of the tenant, a workspace, or an agent: `scope("travel", "courier")`."""
    kinds = ("workspace", "agent")
    below = [f"{kind}:{name}" for kind, name in zip(kinds, names, strict=False)]
    return "/".join([f"tenant:{TENANT}", *below])
