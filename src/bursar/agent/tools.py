"""Tools: typed Python functions that a model may use, and who says whether it may.

The rule that lives here: a model's arguments are checked against the function's signature
before anything runs, and whatever goes wrong is a result that the model can read. Only a
denial of the ledger and a cancellation go further up. Who may use what:

| the tool is | |
|---|---|
| in `deny` | denied |
| in `allow` | runs |
| in neither, and there is `ask` | `ask` decides, each time |
| in neither, and there is no `allow` | runs |
| in neither, and there is an `allow` | denied |
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, cast, get_type_hints

import pydantic
from pydantic_core import to_json

from bursar import money
from bursar.agent.ports import BudgetDenied, ToolCall, ToolResult, ToolSpec
from bursar.agent.threads import carried, in_thread
from bursar.vocabulary import Unit

TEXT_MAX = 100_000
"""How many characters of a result a model is told."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
Ask = Callable[[ToolCall], "bool | Awaitable[bool]"]


@dataclass(frozen=True, slots=True)
class Permissions:
    """Which tools may be used; see the table of this module.

    Attributes:
        allow: names of tools that always run.
        deny: names of tools that never run.
        ask: decides about the others; it may block or be async, and what it raises is a no.
    """

    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()
    ask: Ask | None = None

    async def refusal(self, call: ToolCall) -> str | None:
        """Return why a call is denied, or None."""
        if call.name in self.deny:
            return f"{call.name} is denied"
        if self.allow is not None and call.name in self.allow:
            return None
        if self.ask is not None:
            return await self._asked(self.ask, call)
        return None if self.allow is None else f"{call.name} is not among the allowed tools"

    async def _asked(self, ask: Ask, call: ToolCall) -> str | None:
        try:
            said = await _called(ask, (call,), {})
        except Exception as error:  # noqa: BLE001 - whoever cannot be asked has not agreed
            return f"{call.name} needs a permission, and asking failed: {_shown(error)}"
        return None if said is True else f"{call.name} was asked for and refused"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function as a tool.

    Attributes:
        spec: what the model is told.
        function: what runs, plain or async.
        arguments: checks what the model wrote.
        cost_microcents: what one use costs, as the ledger is told; 0 costs nothing.
    """

    spec: ToolSpec
    function: Callable[..., Any]
    arguments: type[pydantic.BaseModel]
    cost_microcents: int = 0

    async def use(self, written: str) -> str:
        """Run it with a model's arguments and return its result as text."""
        checked = self.arguments.model_validate_json(written)
        given = {name: getattr(checked, name) for name in self.arguments.model_fields}
        return _text(await _called(self.function, (), given))


_call: ContextVar[ToolCall | None] = ContextVar("bursar_tool_call", default=None)


def current_call() -> ToolCall:
    """Return the call that the running tool answers.

    Its `key` names this one use for good: a turn that is repeated after a crash uses the tool
    under the same key. Hand it to a service as idempotency key, and it acts once.

    Raises:
        LookupError: no tool is running here.
    """
    found = _call.get()
    if found is None:
        raise LookupError("no tool is running here: current_call() is for the function of a tool")
    return found


def tool(function: Callable[..., Any], *, name: str | None = None, cost: str | int = 0) -> Tool:
    """Return a function as a tool; its signature and docstring are what the model is told.

    Args:
        function: plain or async, with a type for every parameter.
        name: what the model calls it; None is the function's name.
        cost: what one use costs: `0.01USD`, or microcents.

    Raises:
        ValueError: a parameter has no type or cannot be named, or the name does not fit.
        AmountError: the cost cannot be understood.
    """
    called = name or function.__name__
    if not NAME.fullmatch(called):
        raise ValueError(f"tool name {called!r} must be 1 to 64 letters, digits, _ or -")
    summary, about = _described(function)
    arguments = _arguments(function, called, about)
    schema = arguments.model_json_schema()
    schema.pop("title", None)
    spec = ToolSpec(called, summary, schema)
    return Tool(spec, function, arguments, _microcents(cost))


class OffersTool(Protocol):
    """What can be used as a tool; a `SubAgent` is one."""

    @property
    def as_tool(self) -> Tool:
        """The tool that it is to a model."""
        ...


class Toolbox:
    """The tools of an agent, with who may use them. It is a `Tools` of the turn loop."""

    def __init__(
        self,
        tools: Iterable[Tool | OffersTool | Callable[..., Any]],
        permissions: Permissions | None = None,
    ) -> None:
        """Gather tools.

        Args:
            tools: functions, what `tool` made of them, and sub-agents.
            permissions: who may use what; None allows all of them.

        Raises:
            ValueError: two tools have one name, or one cannot be a tool.
        """
        self.permissions = permissions or Permissions()
        self.tools: dict[str, Tool] = {}
        for one in tools:
            made = one if isinstance(one, Tool) else _offered(one)
            if made.spec.name in self.tools:
                raise ValueError(f"two tools are called {made.spec.name!r}; rename one of them")
            self.tools[made.spec.name] = made

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told of: all but those that are always denied."""
        return tuple(
            one.spec for name, one in self.tools.items() if name not in self.permissions.deny
        )

    async def refusal(self, call: ToolCall) -> ToolResult | None:
        """Return the result of a call that will not run, or None."""
        if call.name not in self.tools:
            known = ", ".join(self.tools) or "none"
            why = f"there is no tool {call.name!r}; there are: {known}"
            return ToolResult(call.id, call.name, why, is_error=True)
        why_not = await self.permissions.refusal(call)
        return None if why_not is None else denied(call, why_not)

    async def use(self, call: ToolCall) -> ToolResult:
        """Run a call that is allowed."""
        token = _call.set(call)
        try:
            text = await self.tools[call.name].use(call.arguments)
        except BudgetDenied:  # of an agent that the tool itself ran
            raise
        except pydantic.ValidationError as error:
            return ToolResult(call.id, call.name, _wrong(call.name, error), is_error=True)
        except Exception as error:  # noqa: BLE001 - the model is told, and may do better
            return ToolResult(call.id, call.name, _shown(error), is_error=True)
        finally:
            _call.reset(token)
        return ToolResult(call.id, call.name, text)

    async def run(self, call: ToolCall, *, deadline: float | None) -> ToolResult:
        """Run one call, if it is allowed; see `Tools.run`. The turn ends it at the deadline."""
        return await self.refusal(call) or await self.use(call)


def _offered(one: OffersTool | Callable[..., Any]) -> Tool:
    offered = getattr(one, "as_tool", None)
    return offered if isinstance(offered, Tool) else tool(cast("Callable[..., Any]", one))


def denied(call: ToolCall, why: str) -> ToolResult:
    """Return the result of a call that was not allowed."""
    return ToolResult(call.id, call.name, f"not allowed: {why}", is_error=True, denial=why)


def _arguments(
    function: Callable[..., Any], name: str, about: Mapping[str, str]
) -> type[pydantic.BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (
            *(parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY),
        ):
            raise ValueError(f"{name}: parameter {parameter} cannot be named by a model")
        if parameter.name not in hints:
            raise ValueError(f"{name}: parameter {parameter.name} has no type; give it one")
        given = parameter.default
        default = ... if given is parameter.empty else given
        described = pydantic.Field(default, description=about.get(parameter.name))
        fields[parameter.name] = (hints[parameter.name], described)
    closed = pydantic.ConfigDict(extra="forbid")
    found: type[pydantic.BaseModel] = pydantic.create_model(name, __config__=closed, **fields)
    return found


def _described(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return what a docstring says of the function, and of each argument (`Args:`)."""
    text, _, after = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:\n")
    about: dict[str, str] = {}
    last = None
    for line in after.splitlines():
        if line and not line.startswith(" "):
            break
        if found := re.fullmatch(r" {4}(\w+)(?: \(.*?\))?: (.*)", line):
            last = found[1]
            about[last] = found[2]
        elif last and line.strip():
            about[last] += f" {line.strip()}"
    summary = re.split(r"\n(?:Returns|Raises|Yields):\n", text)[0].strip()
    return summary or function.__name__, about


async def _called(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a function without holding up the event loop, and await what it returns."""
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        found = await in_thread(lambda: function(*args, **kwargs))
        return await found if inspect.isawaitable(found) else found
    except SystemExit as error:
        raise carried(error) from None


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else to_json(value, fallback=str).decode()
    if len(text) <= TEXT_MAX:
        return text
    return f"{text[:TEXT_MAX]}\n(cut off: {len(text)} characters, {TEXT_MAX} are shown)"


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:TEXT_MAX]


def _wrong(name: str, error: pydantic.ValidationError) -> str:
    wrong = "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors()
    )
    return f"the arguments of {name} do not fit: {wrong}"


def _microcents(cost: str | int) -> int:
    if isinstance(cost, str):
        return money.parse(cost, Unit.USD_MICROCENTS)[1]
    if isinstance(cost, bool) or cost < 0:
        raise money.AmountError(f"cost must be at least 0 microcents, not {cost!r}")
    return cost
