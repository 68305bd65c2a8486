"""Values that requests and answers share, and how closed each kind of model is.

The rule that lives here: what is sent is closed, so that a typo is an error and not a lost
field; what is answered is open, so that a later revision of the protocol loses nothing.
Limits are the wire's own types. Values are read leniently (`"5"` is 5), and models may be
changed after they were made, because users of this protocol's clients do both. An answer off
the wire is read strictly (`strict=True`): there, a number is a number, a word is spelled as the
protocol spells it, and null is not the same as absent.
"""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetPydanticSchema
from pydantic_core import core_schema

from bursar.client.helpers import is_metrics_empty, is_tool_allowed
from bursar.vocabulary import Unit
from bursar.wire.fields import EVIDENCE_ID, Count, Signed
from bursar.wire.runtime import ToolName

SubjectName = Annotated[str, Field(max_length=128)]
Tag = Annotated[str, Field(max_length=64)]
DimensionValue = Annotated[str, Field(max_length=256)]


T = TypeVar("T")


def _refuse_null(value: Any) -> Any:
    if holds_null(value):
        raise ValueError("null is not a value of this protocol; an absent field is left out")
    return value


def holds_null(value: Any) -> bool:
    """Return whether there is a null anywhere in a JSON value."""
    if isinstance(value, dict):
        return any(holds_null(item) for item in value.values())
    if isinstance(value, list):
        return any(holds_null(item) for item in value)
    return value is None


def _not_null(source: Any, handler: Any) -> core_schema.CoreSchema:
    lax = handler(source)
    return core_schema.lax_or_strict_schema(lax, lax["schema"])


def _nowhere_null(source: Any, handler: Any) -> core_schema.CoreSchema:
    lax = handler(source)
    strict = core_schema.no_info_after_validator_function(_refuse_null, lax)
    return core_schema.lax_or_strict_schema(lax, strict)


def _spelled(source: Any, handler: Any) -> core_schema.CoreSchema:
    spellings = core_schema.literal_schema(list(source))
    return core_schema.lax_or_strict_schema(handler(source), spellings)


OrAbsent = Annotated[T | None, GetPydanticSchema(_not_null)]
"""What an answer may leave out: None in Python, and never null on the wire."""

Free = Annotated[Any, GetPydanticSchema(_nowhere_null)]
"""A field that this version does not know; only nulls are refused on the wire."""

SPELLED = GetPydanticSchema(_spelled)
"""Marks an enum whose member and whose spelling are the same thing, strictly read too."""


class Sent(BaseModel):
    """Base of what is sent: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Answered(BaseModel):
    """Base of what is answered: unknown fields are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    # pydantic's own way to say what an extra field may hold.
    __pydantic_extra__: dict[str, Free]  # pyright: ignore[reportIncompatibleVariableOverride]  # see above


def _or_text(source: Any, handler: Any) -> core_schema.CoreSchema:
    choices: list[Any] = [_spelled(source, handler), core_schema.str_schema()]
    return core_schema.union_schema(choices, mode="left_to_right")


KEEP_UNKNOWN = GetPydanticSchema(_or_text)
"""Marks an enum in an answer: a value of a later revision stays the plain text it is.

The annotation names the enum alone, as every client of this protocol has it; its members
are text too, so code that compares or prints keeps working.
"""


def or_open(opened: type[BaseModel]) -> GetPydanticSchema:
    """Mark a value of an answer: what fits the closed model is one, the rest is `opened`."""

    def schema(source: Any, handler: Any) -> core_schema.CoreSchema:
        choices = [handler(source), handler.generate_schema(opened)]
        return core_schema.union_schema(choices, mode="left_to_right")

    return GetPydanticSchema(schema)


class Amount(Sent):
    """How much of which unit; never negative."""

    unit: Annotated[Unit, SPELLED]
    amount: Count

    @classmethod
    def usd_microcents(cls, amount: int) -> Self:
        """Return an amount of 10**-8 US dollars."""
        return cls(unit=Unit.USD_MICROCENTS, amount=amount)

    @classmethod
    def tokens(cls, amount: int) -> Self:
        """Return an amount of tokens."""
        return cls(unit=Unit.TOKENS, amount=amount)

    @classmethod
    def credits(cls, amount: int) -> Self:
        """Return an amount of credits."""
        return cls(unit=Unit.CREDITS, amount=amount)

    @classmethod
    def risk_points(cls, amount: int) -> Self:
        """Return an amount of risk points."""
        return cls(unit=Unit.RISK_POINTS, amount=amount)


class SignedAmount(Answered):
    """How much of which unit; what remains of a budget may be negative."""

    unit: Annotated[Unit, KEEP_UNKNOWN]
    amount: Signed


class Subject(Sent):
    """Who spends: the six levels, outermost first, and free dimensions."""

    tenant: SubjectName | None = None
    workspace: SubjectName | None = None
    app: SubjectName | None = None
    workflow: SubjectName | None = None
    agent: SubjectName | None = None
    toolset: SubjectName | None = None
    dimensions: Annotated[dict[str, DimensionValue], Field(max_length=16)] | None = None

    def has_at_least_one_standard_field(self) -> bool:
        """Return whether one of the six levels is given and not empty."""
        levels = (self.tenant, self.workspace, self.app, self.workflow, self.agent, self.toolset)
        return any(levels)


class Action(Sent):
    """What is about to be done: a kind such as `llm.completion`, a name, and tags."""

    kind: Annotated[str, Field(max_length=64)]
    name: Annotated[str, Field(max_length=256)]
    tags: Annotated[list[Tag], Field(max_length=10)] | None = None


class CyclesMetrics(Sent):
    """What the action measured; `custom` is the caller's own."""

    tokens_input: Annotated[int, Field(ge=0)] | None = None
    tokens_output: Annotated[int, Field(ge=0)] | None = None
    latency_ms: Annotated[int, Field(ge=0)] | None = None
    model_version: Annotated[str, Field(max_length=128)] | None = None
    custom: dict[str, Any] | None = None

    def put_custom(self, key: str, value: Any) -> None:
        """Set one measurement of the caller's own."""
        self.custom = {**(self.custom or {}), key: value}

    def is_empty(self) -> bool:
        """Return whether nothing was measured; an empty `custom` counts as nothing."""
        return is_metrics_empty(self)


class Caps(Answered):
    """Limits that come with ALLOW_WITH_CAPS; the caller keeps within them."""

    max_tokens: OrAbsent[Annotated[int, Field(ge=0)]] = None
    max_steps_remaining: OrAbsent[Annotated[int, Field(ge=0)]] = None
    tool_allowlist: OrAbsent[list[ToolName]] = None
    tool_denylist: OrAbsent[list[ToolName]] = None
    cooldown_ms: OrAbsent[Annotated[int, Field(ge=0)]] = None

    def is_tool_allowed(self, tool: str) -> bool:
        """Return whether a tool may be used; an empty allowlist restricts nothing."""
        return is_tool_allowed(self, tool)


def _absolute(url: str) -> str:
    if not urlsplit(url).scheme:
        raise ValueError("cycles_evidence_url must be an absolute URI")
    return url


class CyclesEvidenceRef(Answered):
    """Where the signed evidence of an answer can be fetched."""

    evidence_id: Annotated[str, Field(pattern=EVIDENCE_ID)]
    cycles_evidence_url: Annotated[str, Field(min_length=1), AfterValidator(_absolute)]


class OpenAmount(Amount):
    """An answered amount with a unit or with fields that this version does not know."""

    model_config = ConfigDict(extra="allow")
    # pydantic's own way to say what an extra field may hold.
    __pydantic_extra__: dict[str, Free]  # pyright: ignore[reportIncompatibleVariableOverride]  # see above

    unit: Annotated[Unit, KEEP_UNKNOWN]


class OpenSubject(Subject):
    """An answered subject with levels or lengths that this version does not know."""

    model_config = ConfigDict(extra="allow")


class OpenAction(Action):
    """An answered action with fields that this version does not know."""

    model_config = ConfigDict(extra="allow")


AnsweredAmount = Annotated[Amount, or_open(OpenAmount)]
AnsweredSubject = Annotated[Subject, or_open(OpenSubject)]
AnsweredAction = Annotated[Action, or_open(OpenAction)]


class Balance(Answered):
    """State of one budget as the runtime plane shows it."""

    scope: str
    scope_path: str
    remaining: SignedAmount
    reserved: OrAbsent[AnsweredAmount] = None
    spent: OrAbsent[AnsweredAmount] = None
    allocated: OrAbsent[AnsweredAmount] = None
    debt: OrAbsent[AnsweredAmount] = None
    overdraft_limit: OrAbsent[AnsweredAmount] = None
    is_over_limit: OrAbsent[bool] = None
