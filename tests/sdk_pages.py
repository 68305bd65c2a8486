"""The reference of the SDK, made from signatures and docstrings.

The rule that lives here: what is written about a name is written once, at the name. This file
only decides the order, and turns Google's sections into lists.
"""

import enum
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

WIDTH = 88
AP2 = "bursar.ap2"


def _from(module: str, names: str) -> list[str]:
    return [f"{module}.{name}" for name in names.split()]


Groups = dict[str, tuple[str, list[str]]]

# Heading -> (what stands under it, the names); a name without a module is one of `bursar`.
GROUPS: Groups = {
    "Clients": (
        "What speaks to a ledger. `CyclesClient.embedded` returns an `EmbeddedClient`.",
        [
            *("CyclesClient", "AsyncCyclesClient", "bursar.client.local.EmbeddedClient"),
            *("bursar.client.typed.TypedCalls", "CyclesConfig", "CyclesResponse"),
            *("set_default_client", "set_default_config", "flush_pending_commits"),
        ],
    ),
    "Guarding actions": (
        "[Which one do I use?](../howto/which_pattern.md) tells them apart.",
        [
            *("cycles", "with_cycles", "reserve_for_stream"),
            *("StreamReservation", "AsyncStreamReservation", "StreamUsage"),
            *("ReservationGuard", "AsyncReservationGuard", "StreamHandle", "AsyncStreamHandle"),
            *("CyclesContext", "get_cycles_context", "HeartbeatFailure"),
        ],
    ),
    "Exceptions": (
        "`CyclesError` is the base of all of them.",
        [
            *("CyclesError", "CyclesProtocolError", "CyclesTransportError", "HeartbeatLost"),
            *("BudgetExceededError", "OverdraftLimitExceededError", "DebtOutstandingError"),
            *("TenantClosedError", "ReservationExpiredError", "ReservationFinalizedError"),
        ],
    ),
    "Words": (
        'Enumerations of text: `Unit.TOKENS == "TOKENS"`.',
        [
            *("Unit", "Decision", "CommitOveragePolicy", "ReservationStatus", "CommitStatus"),
            *("ReleaseStatus", "ExtendStatus", "EventStatus", "ErrorCode"),
        ],
    ),
    "Models": (
        "What travels, as pydantic models. Answers keep fields that they do not know.",
        [
            *("Subject", "Action", "Amount", "SignedAmount", "Caps", "CyclesMetrics", "Balance"),
            *("CyclesEvidenceRef", "ReservationCreateRequest", "ReservationCreateResponse"),
            *("CommitRequest", "CommitResponse", "ReleaseRequest", "ReleaseResponse"),
            *("ReservationExtendRequest", "ReservationExtendResponse", "DecisionRequest"),
            *("DecisionResponse", "DryRunResult", "EventCreateRequest", "EventCreateResponse"),
            *("ReservationDetail", "ReservationEvidence", "ReservationSummary"),
            *("ReservationListResponse", "BalanceResponse", "ErrorResponse"),
        ],
    ),
    "Helpers": (
        "Questions about answers, for code that has models or dicts in its hands.",
        [
            *("is_allowed", "is_denied", "is_tool_allowed", "is_metrics_empty"),
            *("is_retryable_error_code", "error_code_from_string"),
        ],
    ),
    "Mappers": (
        "Between models and what travels.",
        [
            *("reservation_create_request_to_wire", "commit_request_to_wire"),
            *("release_request_to_wire", "reservation_extend_request_to_wire"),
            *("decision_request_to_wire", "event_create_request_to_wire", "metrics_to_wire"),
            *("reservation_create_response_from_wire", "commit_response_from_wire"),
            *("release_response_from_wire", "reservation_extend_response_from_wire"),
            *("decision_response_from_wire", "event_create_response_from_wire"),
            *("reservation_detail_from_wire", "reservation_summary_from_wire"),
            *("reservation_list_response_from_wire", "balance_response_from_wire"),
            *("error_response_from_wire", "caps_from_wire"),
        ],
    ),
    "Prices": (
        "With the extra `prices`.",
        ["bursar.integrations.genai_prices.cost_fn"],
    ),
    "Mandates of AP2 v0.2": (
        "With the extra `ap2`; [how to](../howto/ap2_mandates.md).",
        [
            *(f"{AP2}.{name}" for name in ("OpenPaymentMandate", "PaymentMandate", "Checkout")),
            *(f"{AP2}.{name}" for name in ("OpenCheckoutMandate", "CheckoutMandate")),
            *(f"{AP2}.{name}" for name in ("open_mandate_hash", "check_payment", "check_pair")),
            *(f"{AP2}.{name}" for name in ("check_checkout", "Finding", "FindingCode", "Usage")),
            *(f"{AP2}.{name}" for name in ("Consumption", "Presented", "Claim", "ClaimState")),
            *(f"{AP2}.{name}" for name in ("ExchangeRate",)),
        ],
    ),
    "Payments under AP2": (
        "[How to](../howto/pay_with_ap2.md).",
        [
            *(f"{AP2}.{name}" for name in ("AP2Mandate", "cycles_guard_payment")),
            *(f"{AP2}.{name}" for name in ("cycles_guard_payment_async", "GuardedPayment")),
            *(f"{AP2}.{name}" for name in ("AsyncGuardedPayment", "cycles_guard_refund")),
            *(f"{AP2}.{name}" for name in ("cycles_guard_refund_async", "EarlierPayment")),
            *(f"{AP2}.{name}" for name in ("RuntimeAuthorityReceipt", "AP2GuardError")),
            *(f"{AP2}.{name}" for name in ("AP2GuardDenied", "AP2DryRunResult")),
            *(f"{AP2}.{name}" for name in ("AP2GuardCommitUncertain", "AP2GuardCommitFailed")),
            *(f"{AP2}.{name}" for name in ("AP2PaymentUnknown", "AP2MandateError")),
            f"{AP2}.AP2CurrencyError",
        ],
    ),
    "Signed receipts": (
        "With the extra `ap2`; [how to](../howto/sign_receipts.md).",
        [
            *(f"{AP2}.{name}" for name in ("sign_receipt", "verify_receipt", "ReceiptVerdict")),
            *(f"{AP2}.{name}" for name in ("ReceiptStatus", "SigningKey", "PublicKey")),
            *(f"{AP2}.{name}" for name in ("SigningError", "CanonicalError")),
        ],
    ),
    "Turn loop": (
        "An agent's turns, in `bursar.agent`: [how to run them](../howto/run_turns.md), and "
        "[what they promise](../design/turn_loop.md).",
        [
            f"bursar.agent.{name}"
            for name in (
                *("QueryEngine", "QueryEngineConfig", "run_turn_loop", "arun_turn_loop"),
                *("TurnResult", "LoopResult", "StopReason", "Overrun", "Dimension"),
                *("UsageSummary", "PermissionDenial", "TranscriptStore", "CancelScope"),
                *("load_session", "list_sessions", "delete_session", "StoredSession"),
                *("TurnInProgressError", "TurnMismatchError", "ScopeFired"),
                *("SessionIdError", "SessionNotFoundError"),
                *("SessionFormatError", "SessionConflictError", "SessionSaveError"),
                *("SessionDeleteError", "SubAgent", "SubAgentStopped"),
            )
        ],
    ),
    "Models and tools under a budget": (
        "In `bursar.agent`: [how to](../howto/run_an_agent.md).",
        _from(
            "bursar.agent",
            "model GuardedModel tool Toolbox Permissions GuardedTools Purse FixedPrice",
        ),
    ),
    "Testing": (
        "A ledger of one's own and faults by script: [how to](../howto/test_your_agent.md). What "
        "agents talk to, on a port of this machine, and models in this process. With Node.js, a "
        "real chain on this machine.",
        [
            *_from("bursar.testing", "ScriptedLedger Charge MemoryStore FakeClock Faults"),
            *_from("bursar.testing", "FaultyTransport AsyncFaultyTransport assert_spent"),
            *_from("bursar.testing", "assert_settled_once assert_nothing_held"),
            *_from("bursar.testing", "ScriptedProvider Reply ToolUse ScriptedModel"),
            *_from("bursar.testing", "ScriptedSyncModel PaymentService Mishap MemoryPayments"),
            *_from("bursar.testing", "LocalChain Dollar ScriptedFacilitator Fault"),
            *_from("bursar.testing", "WebhookReceiver Received"),
        ],
    ),
}
PAYMENTS: Groups = {
    "Sell routes": (
        "[How to](../howto/accept_x402.md).",
        [
            *_from("bursar.x402", "X402 Price Offer TokenDomain Paid Results MemoryResults"),
            *_from("bursar.x402", "FileResults StoredAnswer"),
        ],
    ),
    "Facilitators": (
        "Who submits a payer's authorization. Nothing that they answer settles a payment.",
        _from("bursar.x402", "Facilitator DIALECTS Dialect SettleAnswer VerifyAnswer StatusAnswer"),
    ),
    "Ask the chain": (
        "The chain decides: settled, never, or unknown.",
        _from("bursar.x402", "ChainProver Rpc RpcError"),
    ),
    "Find what got lost": (
        "Payments whose answer was lost, once or as a loop. `PAYMENT_ORPHANED` is the status of "
        "money that moved while nothing was delivered for it.",
        [
            *_from("bursar.x402", "reconcile_failed_payments run_x402_reconciliation_loop"),
            *_from("bursar.x402", "PAYMENT_ORPHANED"),
            *_from("bursar.payments", "PaymentWorker WorkerSettings WorkerMetrics Pace"),
        ],
    ),
    "Fund budgets": (
        "[How to](../howto/accept_x402.md#let-a-payment-fund-a-budget).",
        _from("bursar.x402", "Funder LedgerFunding TokenRate dollar_rate FundingError"),
    ),
    "Pay": (
        "[How to](../howto/pay_x402.md).",
        [
            *_from("bursar.x402", "X402Payer AsyncX402Payer Terms Signer Purse Bought"),
            *_from("bursar.x402", "PaymentError PaymentRefused PaymentUnknown AlreadyBought"),
            *_from("bursar.x402", "NotPayable Authorization intent_nonce"),
        ],
    ),
    "Headers": (
        "What travels in the headers of version 2 is JSON in base64.",
        [
            *_from("bursar.x402", "challenge encode decode"),
            *_from("bursar.x402", "REQUIRED_HEADER PAYMENT_HEADER RESPONSE_HEADER"),
        ],
    ),
    "Keep payments": (
        "The records of whoever sends or receives money, in a ledger's own file.",
        [
            *_from("bursar.payments", "open_payments Book Limits NoSuchPayment"),
            *_from("bursar.payments", "PaymentStore PaymentQuery NoticeQuery Tally Posted Saved"),
            *_from("bursar.payments", "Result PaymentConflict PaymentStoreError"),
            *_from("bursar.payments", "Sealer sealer_from SealError"),
        ],
    ),
    "Tell others": (
        "Alerts on their way to a webhook: [how to](../howto/operate_payments.md#be-told).",
        [
            *_from("bursar.payments", "AlertSender SenderSettings SenderMetrics Webhook"),
            *_from("bursar.payments", "WebhookError is_signed"),
        ],
    ),
    "States": (
        "[The design](../design/payments.md) says how they change. `NEVER` are the final states of "
        "money that did not reach its payee, `TERMINAL` all final ones, `UNRESOLVED` the others "
        "that are looked at.",
        [
            *_from("bursar.payments", "Money Work Remedy Disposition BudgetState Trigger"),
            *_from("bursar.payments", "Duty Kind Topic AlertKind WireStatus WireOutcome"),
            *_from("bursar.payments", "NEVER TERMINAL UNRESOLVED advance disposition duty"),
            *_from("bursar.payments", "wire_status wire_outcome IllegalTransition"),
        ],
    ),
    "Records": (
        "A record changes only together with the evidence for the change.",
        [
            *_from("bursar.payments", "PaymentRecord PaymentEvent Evidence Finding Prover"),
            *_from("bursar.payments", "Notice Change event_of move move_work move_budget"),
            *_from("bursar.payments", "move_remedy Transfer"),
        ],
    ),
    "Operate": (
        "What `bursar payments` does, for programs: [how to](../howto/operate_payments.md).",
        _from(
            "bursar.payments", "recheck mark_refunded write_off Refund RefundChecker OperatorError"
        ),
    ),
}
PAGES: dict[str, Groups] = {"sdk.md": GROUPS, "payments.md": PAYMENTS}
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")
ENTRY = re.compile(r"^ {4}(\w[\w.]*): (.*)$")
LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
    "pattern": "`{}`",
}


def find(name: str) -> tuple[str, Any]:
    """Return where a name is imported from, and what it is."""
    module, _, last = f"bursar.{name}".rpartition(".") if "." not in name else name.rpartition(".")
    return module, getattr(importlib.import_module(module), last)


def prose(docstring: str | None) -> Iterator[str]:
    """Yield a Google docstring as Markdown: its sections become lists."""
    section = ""
    cleaned = inspect.cleandoc(docstring or "")
    shown = re.sub(
        r"(?m)(^>>> (?:.+\n?)+)", lambda one: f"```text\n{one[0].rstrip()}\n```\n", cleaned
    )
    for line in shown.splitlines():
        found, entry = SECTION.match(line), ENTRY.match(line)
        if found:
            section = found[1]
            yield from () if section == "Args" else (f"{section}:", "")
        elif section and entry and section != "Returns":
            yield f"- `{entry[1]}`: {entry[2]}"
        elif section and line.startswith("    "):
            yield f"  {line.strip()}" if section != "Returns" else line.strip()
        else:
            section = section if not line else ""
            yield line


def signature(name: str, value: Any, *, bound: bool = False) -> str:
    """Return how a callable is called, a line if it fits and one for each parameter if not."""
    found = inspect.signature(value)
    shown: list[str] = []
    starred = False
    for number, parameter in enumerate(found.parameters.values()):
        if bound and number == 0:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
        starred |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        shown.append(_parameter(parameter))
    positional = [p for p in found.parameters.values() if p.kind is p.POSITIONAL_ONLY]
    if positional and not (bound and len(positional) == 1):
        shown.insert(len(positional) - bound, "/")
    keyword = "async def " if inspect.iscoroutinefunction(value) else ""
    gives = (
        "" if found.return_annotation is found.empty else f" -> {_type(found.return_annotation)}"
    )
    line = f"{keyword}{name}({', '.join(shown)}){gives}"
    if len(line) <= WIDTH:
        return line
    return f"{keyword}{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){gives}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        text += f": {_type(parameter.annotation)}"
    return text if parameter.default is parameter.empty else f"{text} = {_value(parameter.default)}"


def _value(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if callable(value) or "<factory>" in repr(value):
        return "..."
    return repr(value)


def _type(annotation: Any) -> str:
    """Return a type as people write it, without modules and without what validates it."""
    if isinstance(annotation, str):
        return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", annotation)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type, inner))
    if origin is not None:
        return f"{_type(origin)}[{', '.join(map(_type, inner))}]"
    if annotation is types.NoneType:
        return "None"
    return getattr(annotation, "__name__", None) or str(annotation)


def fields(model: type[BaseModel]) -> Iterator[str]:
    """Yield the table of a model's fields."""
    properties = model.model_json_schema(by_alias=False)["properties"]
    yield from ("| field | type | required | limits |", "|---|---|---|---|")
    for name, field in model.model_fields.items():
        kind = _type(field.annotation).replace("|", "\\|")
        required = "yes" if field.is_required() else ""
        yield f"| `{name}` | {kind} | {required} | {_limits(properties[name])} |"


def _limits(schema: dict[str, Any]) -> str:
    known = dict(schema)
    for option in schema.get("anyOf", []):
        known |= option
    return ", ".join(said.format(known[key]) for key, said in LIMITS.items() if key in known)


def methods(value: type, twin: type | None = None) -> Iterator[str]:
    """Yield what a class offers itself; of a twin, only what the other does not have."""
    base = BaseModel if issubclass(value, BaseModel) else enum.Enum
    known = (
        {*dir(base), *dir(Exception)}
        if issubclass(value, (BaseModel, enum.Enum, Exception))
        else set()
    )
    for name in _own(value):
        if name.startswith("_") or name in known or (twin and hasattr(twin, name)):
            continue
        found = inspect.getattr_static(value, name)
        if isinstance(found, property):
            gives = _type(inspect.signature(typing.cast(Any, found.fget)).return_annotation)
            yield from ("```text", f"{name}: {gives}", "```", "", *prose(found.__doc__), "")
        elif isinstance(found, (staticmethod, classmethod)) or inspect.isfunction(found):
            call = getattr(value, name)
            text = signature(name, call, bound=inspect.isfunction(found))
            yield from ("```text", text, "```", "", *prose(call.__doc__), "")


def _own(value: type) -> list[str]:
    """Return the names of a class and of its bases that have no section of their own."""
    listed = _listed()
    above = {base for one in value.__mro__[1:] if one in listed for base in one.__mro__}
    found: dict[str, None] = {}
    for one in reversed(value.__mro__):
        if one.__module__.startswith("bursar.") and one not in above:
            found |= dict.fromkeys(vars(one))
    return list(found)


def _listed() -> set[type]:
    names = [name for page in PAGES.values() for _, group in page.values() for name in group]
    return {value for name in names if inspect.isclass(value := find(name)[1])}


def _base(value: type) -> type | None:
    """Return the nearest base that has a section of its own."""
    listed = _listed()
    return next((one for one in value.__mro__[1:] if one in listed), None)


def entry(name: str) -> Iterator[str]:
    """Yield the section of one name."""
    module, value = find(name)
    last = name.rpartition(".")[2]
    yield from (f"### `{last}`", "")
    if module != "bursar":
        yield from (f"From `{module}`.", "")
    if not callable(value):
        yield from ("```text", f"{last} = {_constant(value)}", "```", "")
        return
    if not inspect.isclass(value):
        yield from ("```text", signature(last, value), "```", "", *prose(value.__doc__), "")
        return
    yield from (*prose(value.__doc__), "")
    if issubclass(value, BaseModel):
        yield from (*fields(value), "")
    elif issubclass(value, enum.Enum):
        yield from (", ".join(f"`{member.value}`" for member in value), "")
    elif _is_made_by_users(value):
        init = vars(value).get("__init__")
        yield from ("```text", signature(last, value), "```", "")
        written = getattr(init, "__doc__", None) if getattr(init, "__qualname__", "") else None
        yield from (*prose(written), "") if written and "Args:" in written else ()
    whose = "" if module == "bursar" else f"{module}."
    twin = find(f"{whose}{last.removeprefix('Async')}")[1] if last.startswith("Async") else None
    base = _base(value)
    if twin is not None:
        yield from (f"It has what `{twin.__name__}` has, to be awaited.", "")
    elif base is not None:
        yield from (f"It has what `{base.__name__}` has.", "")
    yield from methods(value, twin)


def _constant(value: Any) -> str:
    """Return a constant as its text: a set by the alphabet, of a table the keys."""
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    return ", ".join(value) if isinstance(value, Mapping) else str(value)


def _is_made_by_users(value: type) -> bool:
    """Whether people call the class; guards, contexts and answers of calls are made for them."""
    made = (
        *("Client", "Config", "Usage", "Provider", "Reply", "ToolUse", "Engine", "Scope"),
        *(
            "Model",
            "Toolbox",
            "Permissions",
            "Tools",
            "Purse",
            "Price",
            "Ledger",
            "Faults",
            "Transport",
        ),
        *("Service", "Chain", "Dollar", "Facilitator"),
    )
    if value.__module__.startswith(("bursar.x402.", "bursar.payments.")):
        return not issubclass(value, Exception) and not getattr(value, "_is_protocol", False)
    return value.__name__.endswith(made) and value.__name__ != "EmbeddedClient"


def page(groups: Groups) -> str:
    """Return the whole generated part of a page."""
    lines: list[str] = []
    for heading, (about, names) in groups.items():
        lines += [f"## {heading}", "", about, ""]
        for name in names:
            lines += entry(name)
    text = "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"
