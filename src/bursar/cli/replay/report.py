"""The report: one JSON object, and the same facts for people.

The rule that lives here: both are made from one document, so they cannot disagree. Every
amount is exact; in US dollars its key ends in `_microcents`, in other units it is bare. All
that may differ between two runs stands under `timing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bursar import money
from bursar.cli.replay.chart import shown_minute
from bursar.cli.replay.pricing import ModelTariff, Tariff
from bursar.cli.replay.simulate import FIRST_TOKEN_MS, TENANT
from bursar.cli.replay.tally import Denial, Tally
from bursar.cli.replay.trace import TICKS_PER_MS, Trace, shown_time
from bursar.ledger import audit
from bursar.ledger.ports import Reader
from bursar.vocabulary import OveragePolicy, Unit

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the user asked for, as it was understood."""

    unit: Unit
    budget_amount: int
    max_output_tokens: int
    ms_per_token: float
    speedup: float | None  # None is as fast as it goes


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the parts took, in seconds of the wall clock."""

    read_s: float
    replay_s: float
    audit_s: float


@dataclass(frozen=True, slots=True)
class Closing:
    """The audit of the ledger that the replay left behind."""

    entries: int
    findings: Sequence[str]


def close(reader: Reader, tally: Tally, unit: Unit, tenant: str = TENANT) -> Closing:
    """Audit the ledger, and hold it against what was counted along the way."""
    report = audit.audit(reader)
    findings = list(report.findings)
    scope = f"tenant:{tenant}"
    budget = reader.budget(tenant, scope, unit)
    if budget is None:
        return Closing(report.entries, [*findings, f"the budget at {scope} is gone"])
    counted = sum(minute.spent_amount for minute in tally.minutes.values())
    if budget.spent != counted:
        findings.append(f"the budget says {budget.spent} was spent, the commits add to {counted}")
    held = sum(reader.held().values())
    if held and not tally.interrupted:
        findings.append(f"{held} is still held, though every request has completed")
    return Closing(report.entries, findings)


def document(
    trace: Trace,
    tariff: Tariff,
    terms: Terms,
    tally: Tally,
    closing: Closing,
    timing: Timing,
) -> Json:
    """Return the whole report as JSON values."""
    suffix = "_microcents" if terms.unit is Unit.USD_MICROCENTS else ""

    def amounts(**values: int) -> Json:
        return {name + suffix: value for name, value in values.items()}

    peak_ticks = tally.held_peak_ticks
    return {
        "trace": _trace(trace),
        "unit": terms.unit.value,
        "model": _model(tariff, trace),
        "assumptions": {
            "max_output_tokens": terms.max_output_tokens,
            "first_token_ms": FIRST_TOKEN_MS,
            "ms_per_token": terms.ms_per_token,
            "overage_policy": OveragePolicy.ALLOW_IF_AVAILABLE.value,
        },
        "interrupted": tally.interrupted,
        "requests": tally.requests,
        "allowed": tally.allowed,
        "denied": tally.denied,
        "denied_by_reason": dict(sorted(tally.denied_by.items())),
        "in_flight": tally.running,
        **amounts(
            budget=terms.budget_amount,
            spent=tally.spent_amount,
            held=tally.held_amount,
            unlimited=tally.unlimited_amount,
            uncharged=tally.uncharged_amount,
            held_peak=tally.held_peak_amount,
        ),
        "held_peak_at": None if peak_ticks is None else shown_time(peak_ticks),
        "running_peak": tally.running_peak,
        "over_estimate": tally.over_estimate,
        "first_denial": tally.first_denial and _denial(tally.first_denial, amounts),
        "cost_per_minute": [
            {
                "minute": shown_minute(minute),
                **amounts(spent=what.spent_amount),
                "committed": what.committed,
                "denied": what.denied,
            }
            for minute, what in sorted(tally.minutes.items())
        ],
        "audit": {
            "ok": not closing.findings,
            "entries": closing.entries,
            "findings": list(closing.findings),
        },
        "timing": _timing(terms, tally, timing),
    }


def _trace(trace: Trace) -> Json:
    first, last = trace.rows[0].ticks, trace.rows[-1].ticks
    return {
        "file": trace.file,
        "rows": len(trace.rows),
        "first": shown_time(first),
        "last": shown_time(last),
        "span_s": (last - first) // (1_000 * TICKS_PER_MS),
        "out_of_order": trace.out_of_order,
        "bad_rows": trace.bad,
        "problems": [str(problem) for problem in trace.problems],
    }


def _model(tariff: Tariff, trace: Trace) -> Json | None:
    if not isinstance(tariff, ModelTariff):
        return None
    price = tariff.price
    return {
        "name": price.model,
        "provider": price.provider,
        "price": price.shown(tariff.time_of_day(trace.rows[0].ticks)),
        "source": price.source,
        "prices_on": price.on.isoformat(),
        "rounding": f"{money.Rounding.UP.name}, each amount to a whole microcent",
    }


def _denial(denial: Denial, amounts: Any) -> Json:
    return {
        "row": denial.row,
        "line": denial.line,
        "at": shown_time(denial.ticks),
        "reason": denial.reason,
        "message": denial.message,
        **amounts(
            estimate=denial.estimate_amount,
            spent=denial.spent_amount,
            held=denial.held_amount,
        ),
    }


def _timing(terms: Terms, tally: Tally, timing: Timing) -> Json:
    rate = tally.requests / timing.replay_s if timing.replay_s > 0 else 0.0
    return {
        "speedup": "max" if terms.speedup is None else terms.speedup,
        "read_s": round(timing.read_s, 3),
        "replay_s": round(timing.replay_s, 3),
        "audit_s": round(timing.audit_s, 3),
        "total_s": round(timing.read_s + timing.replay_s + timing.audit_s, 3),
        "requests_per_s": round(rate, 1),
    }
