"""`bursar replay`: from what was typed to a report and an exit code.

The rule that lives here: everything that can be wrong with the input is found before the
ledger is made, named with its fix, and ends with exit code 2; nothing is replayed then.
"""

from __future__ import annotations

import contextlib
import json as json_module
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from bursar import money
from bursar.authority.render import render
from bursar.cli.exits import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_STORE,
    EXIT_USAGE,
    CommandError,
)
from bursar.cli.replay import report, ruling
from bursar.cli.replay.governed import GovernedReplay
from bursar.cli.replay.pricing import ModelTariff, Request, Tariff, TokenTariff, priced
from bursar.cli.replay.progress import Pacer, progress, stoppable
from bursar.cli.replay.ruling import NOBODY_RULED, Ruled, ruled
from bursar.cli.replay.show import show
from bursar.cli.replay.simulate import MS_PER_TOKEN, ServiceTime, VirtualClock
from bursar.cli.replay.tally import Tally
from bursar.cli.replay.trace import Trace, TraceError, read
from bursar.integrations.genai_prices import ListPrice, UnknownModel
from bursar.invariant import InvariantBroken
from bursar.ledger.ports import Store, StoreError
from bursar.ledger.service import Ledger
from bursar.storage.sqlite.store import SqliteStore
from bursar.testing.memory import MemoryStore
from bursar.vocabulary import AMOUNT_MAX, TTL_MS_MAX, Unit

MAX_OUTPUT_TOKENS = 4_096
_SQLITE = "sqlite:///"

Flag = Annotated[bool, Parameter(negative="")]
# So that `-1USD` is refused as an amount, not missed as an option.
Amount = Annotated[str, Parameter(allow_leading_hyphen=True)]


def replay(
    trace: Path,
    /,
    *,
    budget: Amount,
    model: str | None = None,
    unit: str | None = None,
    max_output: int = MAX_OUTPUT_TOKENS,
    speedup: str = "max",
    json: Flag = False,
    skip_bad: Flag = False,
    provider: str | None = None,
    prices_on: str | None = None,
    ms_per_token: float = MS_PER_TOKEN,
    store: str | None = None,
    policy: list[Path] | None = None,
    subject: str | None = None,
) -> int:
    """Replay recorded traffic against a budget before it goes live.

    Every row reserves an estimate and, once its request would have completed, commits its
    actual cost, in the recorded order and concurrency. The report says what was allowed,
    denied, spent and held, and ends with an audit of the ledger. The exit code is 0, or 1 if
    the audit fails, 2 for bad input, 130 if interrupted.

    Example: bursar replay trace.csv --model gpt-4o --budget 20USD

    Args:
        trace: CSV file with the columns TIMESTAMP,ContextTokens,GeneratedTokens.
        budget: What may be spent, e.g. 20USD, $0.50 or 5Mtokens.
        model: Model whose list price applies; not needed for a budget in tokens.
        unit: USD_MICROCENTS or TOKENS; by default the budget's own.
        max_output: Output limit of every request in tokens, from which its estimate is made.
        speedup: Seconds of the trace per second, or max: as fast as it goes.
        json: Print one JSON object instead of tables.
        skip_bad: Leave bad rows out and count them, instead of refusing the file.
        provider: Whose price, where several sell the model.
        prices_on: Day whose list prices apply, e.g. 2025-06-30; by default today (UTC).
        ms_per_token: How long a request runs per generated token; an assumption, as a trace
            records no durations.
        store: Keep the ledger in this new file, sqlite:///FILE; by default it is deleted.
        policy: Apply this policy, a JSON or TOML file as of `bursar policy create --file`; again
            for more of them. The report compares with the same trace without them.
        subject: Who sends the requests, e.g. tenant:acme/agent:reader, for policies to match.
    """
    with _told():
        asked = _understand(
            budget, unit, model, provider, prices_on, max_output, ms_per_token, speedup
        )
        asked = replace(asked, ruled=ruled(policy or (), subject))
        kept = None if store is None else _new_file(store)
        began = time.perf_counter()
        rows = read(trace, skip_bad=skip_bad)
        with progress("pricing", len(rows.rows), quiet=json) as advance:
            requests = priced(rows, asked.tariff, max_output, advance)
        read_s = time.perf_counter() - began
        with _opened(kept, asked) as opened:
            return _run(asked, rows, requests, opened, read_s, json)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what can go wrong into an exit code."""
    try:
        yield
    except (TraceError, UnknownModel) as error:
        raise CommandError(EXIT_USAGE, str(error)) from error
    except StoreError as error:
        raise CommandError(EXIT_STORE, f"the replay stopped: {error}") from error
    except InvariantBroken as error:
        raise CommandError(EXIT_FAILED, str(error)) from error


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options, understood."""

    tariff: Tariff
    terms: report.Terms
    model: str | None
    ruled: Ruled = NOBODY_RULED


def _run(
    asked: _Asked,
    trace: Trace,
    requests: list[Request],
    store: Store,
    read_s: float,
    as_json: bool,
) -> int:
    """Replay into an empty store, report, and return the exit code."""
    terms = asked.terms
    clock = VirtualClock()
    ledger = Ledger(store, clock, render)
    run = asked.ruled.replay(ledger, clock, terms.unit, terms.budget_amount, asked.model)
    service = ServiceTime(Decimal(str(terms.ms_per_token)))
    without = _without(asked, requests, service)
    began = time.perf_counter()
    with stoppable() as stop, progress("replaying", len(requests), quiet=as_json) as advance:
        pacer = (
            None
            if terms.speedup is None
            else Pacer(terms.speedup, requests[0].row.ticks, stop.wait)
        )

        def due(ticks: int) -> bool:
            if pacer is not None:
                pacer.until(ticks, stop.is_set)
            return not stop.is_set()

        def tell(tally: Tally) -> None:
            advance(tally.requests)

        tally = run.run(requests, service, due=due, advance=tell)
    replayed = time.perf_counter()
    closing = report.close(store.reader, tally, terms.unit, asked.ruled.tenant)
    timing = report.Timing(read_s, replayed - began, time.perf_counter() - replayed)
    document = report.document(trace, asked.tariff, terms, tally, closing, timing)
    if isinstance(run, GovernedReplay) and without is not None:
        document |= ruling.document(run.effects, tally, without, terms.unit)
    if as_json:
        print(json_module.dumps(document, indent=2))
    else:
        show(document, tally.minutes, Console())
    if closing.findings:
        return EXIT_FAILED
    return EXIT_INTERRUPTED if tally.interrupted else EXIT_OK


def _without(asked: _Asked, requests: list[Request], service: ServiceTime) -> Tally | None:
    """Return the totals of the same trace without policies; None where there are none anyway."""
    if not asked.ruled.policies:
        return None
    clock, terms = VirtualClock(), asked.terms
    ledger = Ledger(MemoryStore(), clock, render)
    free = replace(asked.ruled, policies=())
    run = free.replay(ledger, clock, terms.unit, terms.budget_amount, asked.model)
    return run.run(requests, service)


def _understand(
    budget: str,
    unit: str | None,
    model: str | None,
    provider: str | None,
    prices_on: str | None,
    max_output: int,
    ms_per_token: float,
    speedup: str,
) -> _Asked:
    """Check every option and find the price; nothing has been read or made yet."""
    in_unit, amount = _budget(budget, unit)
    if not 1 <= max_output <= AMOUNT_MAX:
        raise _bad(f"--max-output must be from 1 to {AMOUNT_MAX}, not {max_output}")
    if not 0 <= ms_per_token <= TTL_MS_MAX:
        raise _bad(f"--ms-per-token must be from 0 to {TTL_MS_MAX}, not {ms_per_token:g}")
    terms = report.Terms(in_unit, amount, max_output, ms_per_token, _speedup(speedup))
    if in_unit is Unit.TOKENS:
        return _Asked(TokenTariff(), terms, model)
    if model is None:
        raise _bad(
            "--model is missing: name the model whose price applies, e.g. --model gpt-4o, or give "
            "the budget in tokens, e.g. --budget 5Mtokens"
        )
    price = ListPrice(model, provider, _day(prices_on))
    return _Asked(ModelTariff(price), terms, price.model)


def _budget(budget: str, unit: str | None) -> tuple[Unit, int]:
    """Return the budget's unit and amount; `--unit` must agree with a unit written there."""
    wanted = None if unit is None else _unit(unit)
    try:
        written, amount = money.parse(budget, default=wanted)
    except money.AmountError as error:
        raise _bad(f"--budget: {error}") from None
    if wanted is not None and written is not wanted:
        raise _bad(
            f"--budget {budget!r} is in {written.value}, but --unit is {wanted.value}; leave "
            "--unit out, or write the budget in it"
        )
    if written not in (Unit.USD_MICROCENTS, Unit.TOKENS):
        raise _bad(
            f"--budget {budget!r} is in {written.value}, which a trace does not tell; use US "
            "dollars or tokens"
        )
    return written, amount


def _unit(written: str) -> Unit:
    name = written.strip().upper().replace("-", "_")
    try:
        return Unit.USD_MICROCENTS if name == "USD" else Unit(name)
    except ValueError:
        raise _bad(f"--unit must be USD_MICROCENTS or TOKENS, not {written!r}") from None


def _bad(message: str) -> CommandError:
    return CommandError(EXIT_USAGE, message)


def _speedup(written: str) -> float | None:
    if written == "max":
        return None
    try:
        speedup = float(written)
    except ValueError:
        speedup = math.nan
    if not 0 < speedup < math.inf:
        raise _bad(f"--speedup must be max or a number above 0, not {written!r}")
    return speedup


def _day(written: str | None) -> date:
    if written is None:
        return datetime.now(tz=UTC).date()
    try:
        return date.fromisoformat(written)
    except ValueError:
        raise _bad(f"--prices-on must be a day like 2025-06-30, not {written!r}") from None


def _new_file(written: str) -> Path:
    """Return the file that `--store` names; it must be new, as a replay starts from nothing."""
    if "://" in written and not written.startswith(_SQLITE):
        raise _bad(f"--store must be {_SQLITE}FILE, not {written!r}")
    path = Path(written.removeprefix(_SQLITE))
    if path.exists():
        raise _bad(f"--store: {path} exists; a replay starts from an empty ledger, name a new file")
    if not path.name or not path.parent.is_dir():
        raise _bad(f"--store: {path.parent} is not a directory; create it first")
    return path


@contextlib.contextmanager
def _opened(path: Path | None, asked: _Asked) -> Iterator[Store]:
    """Open a new ledger at `path`, or a temporary one that is deleted in the end.

    Under policies each moment is a transaction of its own; to wait for the disk each time
    would prove nothing about them, so a ledger that nobody keeps stays in memory then.
    """
    if path is None and asked.ruled.policies:
        yield MemoryStore()
        return
    with contextlib.ExitStack() as stack:
        if path is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bursar-replay-"))
            path = Path(name) / "ledger.db"
        store = SqliteStore.open(path)
        stack.callback(store.close)
        yield store
