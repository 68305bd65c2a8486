"""A replay comes to the totals that can be computed by hand, every time and at every pace."""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.authority.render import render
from bursar.cli.replay.pricing import ModelTariff, Request, TokenTariff, priced
from bursar.cli.replay.progress import Pacer
from bursar.cli.replay.report import close
from bursar.cli.replay.simulate import (
    BATCH_MAX,
    BATCH_SPAN_MS,
    FIRST_TOKEN_MS,
    MS_PER_TOKEN,
    SCOPE,
    TENANT,
    Replay,
    ServiceTime,
    VirtualClock,
    batches,
    in_order,
)
from bursar.cli.replay.tally import Tally
from bursar.cli.replay.trace import TICKS_PER_MS, Row, Trace, read
from bursar.integrations.genai_prices import ListPrice
from bursar.ledger.audit import audit
from bursar.ledger.ports import Store
from bursar.ledger.service import Ledger
from bursar.storage.sqlite.store import SqliteStore
from bursar.testing.memory import MemoryStore
from bursar.vocabulary import TTL_MS_MAX, ReservationStatus, Unit

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
START = 17_001_586_200_000_000  # 2023-11-16 18:17:00 UTC
SERVICE = ServiceTime(Decimal(str(MS_PER_TOKEN)))


def rows(*seconds: str, context: int = 100, generated: int = 50) -> list[Row]:
    """Return rows that arrive so many seconds after `START`."""
    return [
        Row(at, at + 1, START + int(Decimal(second) * 10_000_000), context, generated)
        for at, second in enumerate(seconds, 1)
    ]


def gpt4(recorded: list[Row], max_output: int) -> list[Request]:
    """Price rows with gpt-4: 3,000 microcents a token in, 6,000 a token out."""
    tariff = ModelTariff(ListPrice("gpt-4", None, date(2026, 1, 1)))
    return priced(Trace("t.csv", recorded), tariff, max_output, lambda done: None)


def tokens(recorded: list[Row], max_output: int) -> list[Request]:
    return priced(Trace("t.csv", recorded), TokenTariff(), max_output, lambda done: None)


def run(
    requests: list[Request],
    budget: int,
    *,
    unit: Unit = Unit.USD_MICROCENTS,
    store: Store | None = None,
    service: ServiceTime = SERVICE,
    due: Callable[[int], bool] = lambda ticks: True,
) -> Tally:
    """Replay into an empty ledger and check that it is sound afterwards."""
    store = store or MemoryStore()
    clock = VirtualClock()
    tally = Replay(Ledger(store, clock, render), clock, unit, budget, "m").run(
        requests, service, due=due
    )
    assert close(store.reader, tally, unit).findings == []
    return tally


# --- by hand --------------------------------------------------------------------------------

# An estimate is 100 * 3,000 + 100 * 6,000 = 900,000 and an actual cost 100 * 3,000 + 50 * 6,000 =
# 600,000; a request runs 200 + 50 * 20 = 1,200 ms. So the first completes at 1.2 s, just before
# the fourth asks, and the second at 1.3 s, just before the fifth asks.
ARRIVALS = ("0", "0.1", "0.2", "1.2", "1.3", "61")


def test_totals_by_hand() -> None:
    """Six requests on 2,100,000 microcents: three fit, and the third row is denied first."""
    tally = run(gpt4(rows(*ARRIVALS), 100), 2_100_000)
    assert (tally.requests, tally.allowed, tally.denied, tally.committed) == (6, 3, 3, 3)
    assert tally.denied_by == {"BUDGET_EXCEEDED": 3}
    assert tally.spent_amount == 1_800_000
    assert tally.unlimited_amount == 3_600_000
    assert (tally.held_amount, tally.running) == (0, 0)
    assert (tally.held_peak_amount, tally.held_peak_ticks) == (1_800_000, START + 1_000_000)
    assert tally.running_peak == 2
    assert (tally.over_estimate, tally.uncharged_amount) == (0, 0)
    denial = tally.first_denial
    assert denial is not None
    assert (denial.row, denial.line, denial.ticks) == (3, 4, START + 2_000_000)
    assert (denial.estimate_amount, denial.spent_amount, denial.held_amount) == (
        900_000,
        0,
        1_800_000,
    )
    assert denial.reason == "BUDGET_EXCEEDED"
    first, second = (tally.minutes[minute] for minute in sorted(tally.minutes))
    assert (first.spent_amount, first.committed, first.denied) == (1_800_000, 3, 2)
    assert (second.spent_amount, second.committed, second.denied) == (0, 0, 1)


def test_one_microcent_decides() -> None:
    """The fifth request needs exactly what is left; with one microcent less it is denied."""
    requests = gpt4(rows(*ARRIVALS), 100)
    assert run(requests, 2_100_000).spent_amount == 1_800_000
    assert run(requests, 2_099_999).spent_amount == 1_200_000


@pytest.mark.parametrize(("budget", "denied_row"), [(899_999, 1), (1_799_999, 2), (2_699_999, 3)])
def test_denial_is_at_the_exact_row(budget: int, denied_row: int) -> None:
    """The first row that does not fit is the one reported."""
    denial = run(gpt4(rows(*ARRIVALS), 100), budget).first_denial
    assert denial is not None
    assert denial.row == denied_row


def test_enough_budget_denies_nothing() -> None:
    """With the budget of all estimates at once, what is spent is what it would have cost."""
    tally = run(gpt4(rows(*ARRIVALS), 100), 6 * 900_000)
    assert tally.first_denial is None
    assert tally.spent_amount == tally.unlimited_amount == 3_600_000
    assert tally.running_peak == 3


def test_cost_above_the_estimate_is_capped_by_what_is_left() -> None:
    """Estimated at 360,000, costing 600,000, with 500,000 there: the rest cannot be charged."""
    tally = run(gpt4(rows("0", "10"), 10), 500_000)
    assert (tally.allowed, tally.over_estimate) == (1, 1)
    assert (tally.spent_amount, tally.uncharged_amount) == (500_000, 100_000)
    assert tally.denied_by == {"OVERDRAFT_LIMIT_EXCEEDED": 1}


def test_tokens_by_hand() -> None:
    """In tokens an estimate is 200 and an actual cost 150."""
    tally = run(tokens(rows("0", "0.1", "5"), 100), 399, unit=Unit.TOKENS)
    assert tally.denied_by == {"BUDGET_EXCEEDED": 1}
    assert (tally.spent_amount, tally.held_peak_amount) == (300, 200)


def test_ledger_lives_in_trace_time() -> None:
    """Leases start when the trace says so, and end after the request has run."""
    store = MemoryStore()
    run(gpt4(rows("0"), 100), 10**9, store=store)
    row = store.reader.reservation(TENANT, "row-1")
    assert row is not None
    start_ms = START // TICKS_PER_MS
    assert (row.created_at_ms, row.finalized_at_ms) == (start_ms, start_ms + 1_200)
    assert row.expires_at_ms == start_ms + 1_200 + BATCH_SPAN_MS
    assert row.metrics == '{"tokens_input":100,"tokens_output":50}'


def test_endless_request_is_settled_within_the_longest_lease() -> None:
    """A request that would run for months holds for a day, and its commit still counts."""
    recorded = rows("0", "90000", generated=10**12)
    store = MemoryStore()
    tally = run(tokens(recorded, 10**12), 10**13, unit=Unit.TOKENS, store=store)
    assert (tally.allowed, tally.committed) == (2, 2)
    row = store.reader.reservation(TENANT, "row-1")
    assert row is not None
    assert row.status is ReservationStatus.COMMITTED
    assert row.expires_at_ms - row.created_at_ms == TTL_MS_MAX


def test_service_time_is_rounded_up() -> None:
    """A fraction of a millisecond counts as one, so a lease is never too short."""
    assert ServiceTime(Decimal("0.1")).ms(1) == FIRST_TOKEN_MS + 1
    assert ServiceTime(Decimal("0.1")).ms(10) == FIRST_TOKEN_MS + 1
    assert ServiceTime(Decimal("0")).ms(10**18) == FIRST_TOKEN_MS
    assert ServiceTime(Decimal("33.3")).ms(10) == FIRST_TOKEN_MS + 333


# --- against a second, naive model ----------------------------------------------------------


@dataclass
class Naive:
    """The same replay without a ledger: one loop, plain integers."""

    spent: int = 0
    held: int = 0
    peak: int = 0
    allowed: int = 0
    uncharged: int = 0
    over_limit: bool = False
    denied: Counter[str] = field(default_factory=Counter)
    first_denied: int | None = None

    def arrive(self, budget: int, row: int, estimate: int) -> bool:
        reason = "BUDGET_EXCEEDED" if estimate > budget - self.spent - self.held else ""
        reason = "OVERDRAFT_LIMIT_EXCEEDED" if self.over_limit else reason
        if reason:
            self.denied[reason] += 1
            self.first_denied = self.first_denied or row
            return False
        self.allowed += 1
        self.held += estimate
        self.peak = max(self.peak, self.held)
        return True

    def complete(self, budget: int, estimate: int, actual: int) -> None:
        left, extra = budget - self.spent - self.held, max(0, actual - estimate)
        self.over_limit = self.over_limit or extra > left
        unfunded = max(0, extra - left)
        self.held -= estimate
        self.spent += actual - unfunded
        self.uncharged += unfunded


def naive(requests: list[Request], budget: int) -> Naive:
    model = Naive()
    events = [(one.row.ticks, 1, one.row.row, one) for one in requests]
    heapq.heapify(events)
    while events:
        ticks, arrives, row, one = heapq.heappop(events)
        if not arrives:
            model.complete(budget, one.estimate_amount, one.actual_amount)
        elif model.arrive(budget, row, one.estimate_amount):
            done = ticks + (200 + 20 * one.row.generated_tokens) * TICKS_PER_MS
            heapq.heappush(events, (done, 0, row, one))
    return model


def same(tally: Tally, model: Naive) -> None:
    assert tally.spent_amount == model.spent
    assert tally.held_peak_amount == model.peak
    assert tally.allowed == tally.committed == model.allowed
    assert tally.denied_by == model.denied
    assert tally.uncharged_amount == model.uncharged
    assert (tally.first_denial.row if tally.first_denial else None) == model.first_denied


traffic = st.lists(
    st.tuples(st.integers(0, 4_000), st.integers(0, 300), st.integers(0, 100)),
    min_size=1,
    max_size=60,
)


def recorded(drawn: list[tuple[int, int, int]]) -> list[Row]:
    return [
        Row(at, at + 1, START + ms * TICKS_PER_MS, read_, written)
        for at, (ms, read_, written) in enumerate(sorted(drawn), 1)
    ]


@settings(max_examples=150)
@given(drawn=traffic, budget=st.integers(0, 12_000), max_output=st.integers(1, 120))
def test_any_traffic_agrees_with_the_naive_model(
    drawn: list[tuple[int, int, int]], budget: int, max_output: int
) -> None:
    """The ledger and a naive loop agree on every total, whatever arrives when."""
    requests = tokens(recorded(drawn), max_output)
    same(run(requests, budget, unit=Unit.TOKENS), naive(requests, budget))


@settings(max_examples=150)
@given(drawn=traffic)
def test_batches_keep_the_order(drawn: list[tuple[int, int, int]]) -> None:
    """Batches are the events in order; none is too long, none holds a request twice."""
    requests = tokens(recorded(drawn), 10)
    events = list(in_order(requests, SERVICE))
    cut = list(batches(events))
    assert [event for batch in cut for event in batch] == events
    assert len(events) == 2 * len(requests)
    places = [(event.ticks, event.arrives, event.request.row.row) for event in events]
    assert places == sorted(places)
    for batch in cut:
        rows_in_batch = [event.request.row.row for event in batch]
        assert len(set(rows_in_batch)) == len(rows_in_batch)
        assert batch[-1].ticks - batch[0].ticks <= BATCH_SPAN_MS * TICKS_PER_MS


def test_batches_are_limited() -> None:
    """A burst becomes several batches, each full before the next begins, or two seconds long."""
    requests = tokens(rows(*["0"] * 600), 10)
    cut = list(batches(in_order(requests, SERVICE)))
    assert [len(batch) for batch in cut] == [BATCH_MAX] * 4 + [2 * 600 - 4 * BATCH_MAX]
    cut = list(batches(in_order(tokens(rows("0", "0.1", "2.1", "9"), 10), ServiceTime(Decimal(0)))))
    assert [[event.request.row.row for event in batch] for batch in cut] == [
        [1, 2],
        [1, 2, 3],
        [3],
        [4],
        [4],
    ]


# --- twice, at every pace, and interrupted ----------------------------------------------------


def test_same_ledger_to_the_last_hash(tmp_path: Path) -> None:
    """Two runs, on different stores, leave the same log: the last hash covers all of it."""
    requests = gpt4(rows(*ARRIVALS), 100)
    heads = []
    stores: list[Store] = [MemoryStore(), MemoryStore(), SqliteStore.open(tmp_path / "l.db")]
    for store in stores:
        run(requests, 2_100_000, store=store)
        heads.append(store.reader.heads()[TENANT])
        store.close()
    assert heads[0] == heads[1] == heads[2]
    assert heads[0].seq == 2 + 3 + 3


class FakeTime:
    """Seconds that pass only by waiting."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("speedup", [1, 60, 1e6])
def test_pace_changes_nothing_but_the_time(speedup: float) -> None:
    """Replayed at any speed, the totals are those of the fastest; only the time differs."""
    requests = gpt4(rows(*ARRIVALS), 100)
    time = FakeTime()
    pacer = Pacer(speedup, START, time.wait, lambda: time.now)

    def due(ticks: int) -> bool:
        pacer.until(ticks, lambda: False)
        return True

    assert run(requests, 2_100_000, due=due) == run(requests, 2_100_000)
    assert sum(time.waits) == pytest.approx(61 / speedup)  # the last arrival, which is denied
    assert max(time.waits) <= 1.0


def test_pacer_stops_waiting_when_stopped() -> None:
    """A stop is seen within a second, however far the next event is."""
    time = FakeTime()
    pacer = Pacer(1.0, START, time.wait, lambda: time.now)
    pacer.until(START + 10**12, lambda: len(time.waits) >= 3)
    assert time.waits == [1.0, 1.0, 1.0]


def test_interrupted_replay_says_what_it_did() -> None:
    """Stopped between two batches, the tally is of what was replayed, and the ledger is sound."""
    requests = gpt4(rows(*ARRIVALS), 100)
    store = MemoryStore()
    tally = run(requests, 2_100_000, store=store, due=lambda ticks: ticks < START + 12_000_000)
    assert tally.interrupted
    assert (tally.requests, tally.allowed, tally.denied) == (3, 2, 1)
    assert (tally.running, tally.held_amount, tally.spent_amount) == (2, 1_800_000, 0)
    assert store.reader.held() == {(TENANT, SCOPE, Unit.USD_MICROCENTS): 1_800_000}


def test_closing_check_sees_a_difference() -> None:
    """What was counted and what the ledger says are compared, not assumed equal."""
    store = MemoryStore()
    tally = run(gpt4(rows(*ARRIVALS), 100), 2_100_000, store=store)
    tally.minutes[0] = type(next(iter(tally.minutes.values())))(spent_amount=1)
    assert close(store.reader, tally, Unit.USD_MICROCENTS).findings == [
        "the budget says 1800000 was spent, the commits add to 1800001"
    ]
    assert close(MemoryStore().reader, tally, Unit.USD_MICROCENTS).findings == [
        "the budget at tenant:replay is gone"
    ]
    half = MemoryStore()
    tally = run(gpt4(rows("0"), 100), 10**9, store=half, due=lambda ticks: ticks == START)
    tally.interrupted = False
    assert close(half.reader, tally, Unit.USD_MICROCENTS).findings == [
        "900000 is still held, though every request has completed"
    ]


# --- real traffic -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["code", "conv"])
@pytest.mark.parametrize("budget_usd", [5, 1_000])
def test_recorded_traffic(name: str, budget_usd: int, tmp_path: Path) -> None:
    """2,000 rows of each published trace: same totals twice, on disk, and as the naive model."""
    path = SHARED / f"AzureLLMInferenceTrace_{name}.csv"
    if not path.exists():
        pytest.skip(f"the published trace is not there: {path.name}")
    trace = read(path)
    tariff = ModelTariff(ListPrice("gpt-4o", None, date(2026, 1, 1)))
    trace.rows = trace.rows[:2_000]
    requests = priced(trace, tariff, 4_096, lambda done: None)
    budget = budget_usd * 10**8
    stores: list[Store] = [MemoryStore(), SqliteStore.open(tmp_path / "ledger.db")]
    first, second = (run(requests, budget, store=store) for store in stores)
    assert first == second
    same(first, naive(requests, budget))
    assert (first.denied > 0) is (budget_usd == 5)
    assert first.running_peak > 10
    reports = [audit(store.reader) for store in stores]
    assert reports[0] == reports[1]
    assert reports[0].entries == 2 + 2 * first.allowed
    for store in stores:
        store.close()
