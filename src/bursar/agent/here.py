"""The tool call that runs here, as the place where agents below a turn begin.

The rule that lives here: whatever begins in a tool call ends with it, on the event loop of
its turn, and what it may use is taken from what the turn has left at that moment.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from bursar.agent.account import Account, Slice, without
from bursar.agent.budget import Limits, least, unwanted
from bursar.agent.ports import Charge
from bursar.agent.results import PermissionDenial, UsageSummary
from bursar.agent.scope import CancelScope
from bursar.agent.threads import run_on
from bursar.money import Unpriced
from bursar.vocabulary import Unit

DEPTH_MAX = 8
"""How many agents may be below each other: a tool that calls itself ends there."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """What the agents below a tool call have told, to be told again when it is repeated."""

    usage: UsageSummary
    charges: tuple[Charge, ...]
    denials: tuple[PermissionDenial, ...]


def told_out(told: Told) -> dict[str, Any]:
    """Return what was told as JSON values."""
    return {
        "usage": asdict(told.usage),
        "charges": [asdict(one) for one in told.charges],
        "denials": [asdict(one) for one in told.denials],
    }


def told_in(told: dict[str, Any]) -> Told:
    """Return what was told from JSON values."""
    return Told(
        UsageSummary(**told["usage"]),
        tuple(_charge(one) for one in told["charges"]),
        tuple(PermissionDenial(**one) for one in told["denials"]),
    )


def _charge(told: dict[str, Any]) -> Charge:
    amount = told["amount"]
    amount = Unpriced(**amount) if isinstance(amount, dict) else amount
    return Charge(**{**told, "amount": amount, "unit": Unit(told["unit"])})


class Here:
    """A running tool call.

    Attributes:
        key: names the call for good.
        left: says what the turn has left.
        purse: who pays for the turn of this call, if anybody does.
        scope: fires when the call has ended, and with its turn.
    """

    def __init__(
        self,
        key: str,
        account: Account,
        left: Callable[[], Limits],
        share: Limits,
        scope: CancelScope,
        purse: Any = None,
    ) -> None:
        """Begin on the event loop of the turn.

        Args:
            key: of the call.
            account: of the turn.
            left: says what the turn has left.
            share: of the call, if those beside it take as much.
            scope: of the turn.
            purse: who pays.
        """
        self.key, self.purse = key, purse
        self._account, self.left, self._share = account, left, share
        self.scope = CancelScope(parent=scope, now=scope.now)
        self._loop = asyncio.get_running_loop()
        self._begun: Counter[str] = Counter()
        self._slices: list[Slice] = []

    def begin(self, name: str) -> str:
        """Return what the keys of an agent that begins here begin with.

        Raises:
            RecursionError: too many agents are below each other.
        """
        if self._account.depth >= DEPTH_MAX:
            raise RecursionError(
                f"{name}: {DEPTH_MAX} agents are below each other, and no more may be; let the"
                " tools of a sub-agent begin fewer"
            )
        number = self._begun[name]
        self._begun[name] += 1
        return f"{self.key}/{name}/{number}"

    def take(self, key: str, wanted: Limits, timeout_seconds: float | None) -> Slice:
        """Take what an agent's turn wants of what is left, until the slice ends.

        Where nothing is wanted in particular, it is the rest of the call's share.

        Raises:
            RuntimeError: it is not the event loop of the turn.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                f"{key}: this is another event loop than that of the turn; make the tool an"
                " async function, or call submit_message in a plain one"
            )
        share = unwanted(without(self._share, self._slices), wanted)
        offered = least(self.left(), share)
        scope = CancelScope(timeout_seconds, parent=self.scope, now=self.scope.now)
        found = Slice(key, offered, least(wanted, offered), Account(self._account), scope)
        self._account.slices.append(found)
        self._slices.append(found)
        return found

    def hold(self, cost: int) -> Slice | None:
        """Hold the cost of the call until it has an answer; None if there is not so much."""
        offered = self.left()
        if offered.money_microcents is not None and offered.money_microcents < cost:
            return None
        granted = Limits(money_microcents=cost)
        found = Slice(self.key, offered, granted, Account(), self.scope)
        self._account.slices.append(found)
        return found

    def run(self, flow: Coroutine[Any, Any, T]) -> T:
        """Run a flow on the turn's event loop, for a tool that blocks its own thread.

        Raises:
            RuntimeError: this is the event loop, or it is closed.
        """
        return run_on(self._loop, flow)

    def told(self) -> Told | None:
        """Return what was told by agents below this call, if there are any."""
        if not self._slices:
            return None
        accounts = [one.account for one in self._slices]
        return Told(
            sum((one.usage() for one in self._slices), start=UsageSummary()),
            tuple(charge for one in accounts for charge in one.charges),
            tuple(denial for one in accounts for denial in one.denials),
        )

    def tell_again(self, told: Told) -> None:
        """Tell what was told before the process was killed: the call is not repeated."""
        again = Slice(self.key, Limits(), Limits(), Account(self._account), self.scope)
        again.usage = lambda: told.usage
        again.end()
        self._account.slices.append(again)
        for charge in told.charges:
            again.account.told(charge)
        for denial in told.denials:
            again.account.denied(denial)

    def close(self) -> None:
        """End whatever still runs below."""
        self.scope.cancel()


_here: ContextVar[Here | None] = ContextVar("bursar_here", default=None)


def enter(place: Here) -> None:
    """Let a tool call run here, in this task and on the threads that it starts."""
    _here.set(place)


def here() -> Here | None:
    """Return the tool call that runs here, or None."""
    return _here.get()
