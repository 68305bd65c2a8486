"""How a payment is told to people.

The rule that lives here: an amount has a token's name and decimals only where they are known;
otherwise it is the exact number of smallest units, never a guess.
"""

from __future__ import annotations

from typing import Any, Final

from rich.text import Text

from bursar.cli.remote.show import Column, Show, field, moment
from bursar.clock import SystemClock
from bursar.payments import operate
from bursar.payments.outcome import TERMINAL, Disposition, Money
from bursar.payments.ports import PaymentStore
from bursar.payments.records import PaymentRecord

Json = dict[str, Any]

TOKENS: Final = {
    ("eip155:1", "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"): ("USDC", 6),
    ("eip155:137", "0x3c499c542cef5e3811e1192ce70d8cc03d5c3359"): ("USDC", 6),
    ("eip155:8453", "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"): ("USDC", 6),
    ("eip155:42161", "0xaf88d065e77c8cc2239327c5edb3a432268e5831"): ("USDC", 6),
    ("eip155:43114", "0xb97ef9ef8734c71904d8002f8b6bc66dd9c48a6e"): ("USDC", 6),
    ("eip155:84532", "0x036cbd53842c5426634e7929541ec2318f3dcf7e"): ("USDC", 6),
}
"""Name and decimals of tokens, by network and contract."""

WORRYING: Final = {
    *(Disposition.ORPHANED.value, Disposition.UNPAID_DELIVERY.value, Disposition.REFUND_DUE.value),
    *(Money.PARKED.value, Money.MISDIRECTED.value),
}
UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def value_of(record: PaymentRecord) -> str:
    """Return a payment's value as people write it, or exactly where its token is not known."""
    token = TOKENS.get((record.network, record.asset.lower()))
    if token is None:
        return f"{record.value:,} units"
    name, decimals = token
    whole, rest = divmod(record.value, 10**decimals)
    return f"{whole:,}.{rest:0{decimals}d} {name}"


def age(ms: int) -> str:
    """Return a length of time with its two largest units: `3 d 4 h`, `12 min`, `0 s`."""
    seconds, parts = max(0, ms) // 1_000, list[str]()
    for size, name in UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def row(record: PaymentRecord, now_ms: int) -> Json:
    """Return what a table shows of a payment."""
    at_ms = record.next_check_at_ms
    due = "" if at_ms is None else ("now" if at_ms <= now_ms else f"in {age(at_ms - now_ms)}")
    return {
        "payment": record.payment_id,
        "tenant": record.tenant,
        "age": age(now_ms - record.created_at_ms),
        "value": value_of(record),
        "network": record.network,
        "money": record.money.value,
        "work": record.work.value,
        "left": record.disposition.value,
        "check": due,
        "checks": f"{record.checks:,}",
        "transaction": record.tx_hash or "",
    }


def _worry(name: str) -> Any:
    """Return a cell that is red where somebody is needed."""
    return lambda shown: Text(shown[name], style="bold red" if shown[name] in WORRYING else "")


COLUMNS: Final = (
    Column("payment", field("payment")),
    Column("age", field("age"), number=True),
    Column("value", field("value"), number=True),
    Column("money", _worry("money")),
    Column("work", field("work")),
    Column("left to do", _worry("left")),
    Column("next check", field("check"), number=True),
    Column("tenant", field("tenant"), extra=True),
    Column("network", field("network"), extra=True),
    Column("checks", field("checks"), number=True, extra=True),
    Column("transaction", field("transaction"), extra=True),
)
HISTORY: Final = (
    Column("at", lambda line: moment(line["at_ms"])),
    Column("what", field("what")),
    Column("money", field("money")),
    Column("left to do", field("disposition")),
    Column("says", lambda line: line["evidence"].get("source", "")),
    Column("evidence", lambda line: proof(line["evidence"]), fold=True),
)


def proof(evidence: Json) -> str:
    """Return what a line of history rests on, in words."""
    parts = [str(evidence["reason"])] if "reason" in evidence else []
    if "tx_hash" in evidence:
        parts.append(f"transaction {evidence['tx_hash']}")
    if "block_number" in evidence:
        at = evidence.get("block_time_s")
        when = "" if at is None else f" of {moment(at * 1_000)}"
        parts.append(f"block {evidence['block_number']:,}{when} ({evidence.get('block_hash', '')})")
    return "; ".join(parts)


def one(show: Show, store: PaymentStore, record: PaymentRecord, said: str) -> None:
    """Show one payment with its history."""
    document = operate.show(store, record.payment_id)
    show.result(document, said, _facts(record, SystemClock().now_ms()))
    if not show.as_json:
        show.text("")
        show.console.print(show.table(document["history"], HISTORY))


def _facts(record: PaymentRecord, now_ms: int) -> list[tuple[str, str | Text]]:
    shown = row(record, now_ms)
    usable = record.valid_before_s
    until = "" if usable is None else moment(usable * 1_000)
    failures = f", {record.rpc_failures} failed" if record.rpc_failures else ""
    return [
        ("money", _worry("money")(shown)),
        ("work", shown["work"]),
        ("left to do", _worry("left")(shown)),
        ("value", f"{shown['value']} ({record.value} of {record.asset})"),
        ("network", record.network),
        ("from", record.payer),
        ("to", record.pay_to),
        ("tenant", record.tenant),
        ("intent", f"{record.intent_id}, attempt {record.attempt_no}"),
        ("resource", record.resource or ""),
        ("recorded", f"{moment(record.created_at_ms)}, {shown['age']} ago"),
        ("usable until", until),
        ("facilitator", record.facilitator or ""),
        ("transaction", record.tx_hash or ""),
        ("refund", record.refund_tx or ""),
        ("budget", "" if record.budget_ref is None else _budget(record)),
        ("checks", f"{record.checks}{failures}"),
        ("next check", shown["check"] or ("none: it is final" if _is_final(record) else "")),
    ]


def _budget(record: PaymentRecord) -> str:
    return f"{record.budget_state.value} ({record.budget_ref})"


def _is_final(record: PaymentRecord) -> bool:
    return record.money in TERMINAL
