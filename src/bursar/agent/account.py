"""What a turn and the agents below it have used, and what they hold.

The rule that lives here: what an agent used counts above it at once, whatever becomes of the
agent; what it holds and has not used counts until its turn ends. So those who work at the
same time never share out more than there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from bursar.agent.budget import Limits, Used, exhausted, less, rest
from bursar.agent.ports import Charge
from bursar.agent.results import PermissionDenial, UsageSummary
from bursar.agent.scope import CancelScope
from bursar.agent.step import spent


def nothing() -> UsageSummary:
    """Return the usage of an agent that has not begun."""
    return UsageSummary()


@dataclass(slots=True)
class Account:
    """What one turn has told, with all that is below it.

    Attributes:
        above: the account of the turn whose tool began this one.
        charges: what the ledger was told, in the order in which it was.
        denials: the tools that were not allowed.
        slices: one for each turn of an agent below, open or not.
    """

    above: Account | None = None
    charges: list[Charge] = field(default_factory=list)
    denials: list[PermissionDenial] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    _told: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many agents are above this one."""
        return 0 if self.above is None else self.above.depth + 1

    def heard(self, charge: Charge) -> None:
        """Add a charge that a model or a tool reported, unless its purse has told it."""
        if (charge.key, charge.reservation_id) in self._told:
            self.told(charge)
            return
        self.charges.append(charge)
        if self.above is not None:
            self.above.heard(charge)

    def told(self, charge: Charge) -> None:
        """Add a charge, or put it in the place of what was told of it before."""
        which = (charge.key, charge.reservation_id)
        if which in self._told:
            self.charges[self._told[which]] = charge
        else:
            self._told[which] = len(self.charges)
            self.charges.append(charge)
        if self.above is not None:
            self.above.told(charge)

    def denied(self, denial: PermissionDenial) -> None:
        """Add a tool that was not allowed."""
        self.denials.append(denial)
        if self.above is not None:
            self.above.denied(denial)

    def running(self) -> list[asyncio.Task[Any]]:
        """Return what still runs below."""
        tasks = [one.task for one in self.slices if one.task is not None and not one.task.done()]
        return tasks + [task for one in self.slices for task in one.account.running()]

    def below(self) -> UsageSummary:
        """Return the tokens of all agents below."""
        return sum((one.usage() for one in self.slices), start=UsageSummary())


@dataclass(slots=True, eq=False)
class Slice:
    """What one turn of an agent may use at most, held for it until the turn ends.

    What one use of a tool costs is held in the same way.

    Attributes:
        key: what the keys of the agent's actions begin with.
        offered: how much there was for it; None is no limit.
        granted: how much it took.
        account: what the agent tells.
        scope: ends the agent's turn; it fires with the turn above.
        usage: says how many tokens the agent has used so far.
        task: the agent's work, which may go on after its turn has ended.
        open: whether the turn has not ended.
    """

    key: str
    offered: Limits
    granted: Limits
    account: Account
    scope: CancelScope
    usage: Callable[[], UsageSummary] = nothing
    task: asyncio.Task[Any] | None = None
    open: bool = True
    _used: Used | None = None

    def end(self) -> None:
        """Give back what was not used; what nothing can change any more is added up."""
        self.open = False
        if (self.task is None or self.task.done()) and not self.account.running():
            usage, self._used = self.usage(), self.used()
            self.usage = lambda: usage

    def refusal(self) -> str | None:
        """Return why its turn cannot begin, if nothing was there for it."""
        over = exhausted(self.offered, Used())
        if over is None:
            return None
        return (
            f"nothing is left for a sub-agent: {over.dimension.value}; agents that run at the same"
            " time hold what they may use, so give each of them a smaller limit"
        )

    def used(self) -> Used:
        """Return what the agent has used so far."""
        if self._used is not None:
            return self._used
        usage, money = self.usage(), spent(tuple(self.account.charges))
        return Used(0, usage.input_tokens, usage.output_tokens, money)


def beside(limits: Limits, slices: Iterable[Slice]) -> Limits:
    """Return what is left of limits when the agents that still run use all that they hold."""
    for one in slices:
        if one.open:
            limits = less(limits, rest(one.granted, one.used()))
    return limits


def without(limits: Limits, slices: list[Slice]) -> Limits:
    """Return what is left of limits that agents have used, or still hold."""
    for one in slices:
        limits = rest(limits, one.used())
    return beside(limits, slices)


_account: ContextVar[Account | None] = ContextVar("bursar_account", default=None)


def open_account(account: Account) -> None:
    """Let everything that this task and its children pay be told to an account."""
    _account.set(account)


def tell(charge: Charge) -> None:
    """Tell whoever works here of a charge, before anything can cut its report off."""
    account = _account.get()
    if account is not None:
        account.told(charge)
