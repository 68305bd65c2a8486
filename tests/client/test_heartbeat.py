"""When a lease is extended: the protocol's arithmetic, case by case and against a peer."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import runcycles.lifecycle as official
from hypothesis import example, given, settings
from hypothesis import strategies as st
from runcycles import CyclesConfig as OfficialConfig
from runcycles import CyclesResponse as OfficialResponse

from bursar.client.heartbeat import CLAMPED, Beat, Heartbeat, Stop
from bursar.client.held import _wait_s
from bursar.client.outcome import Expected, classify
from bursar.client.response import CyclesResponse

ATTEMPT_MS = 12_000.0
DAY_MS = 86_400_000
EPOCH_MS = 1_790_000_000_000
BEATS_MAX = 12


@dataclass(frozen=True)
class Answer:
    """What a server says to one extend; `remaining_ms` None leaves the field out."""

    status: int = 200
    gain_ms: int = 60_000
    remaining_ms: int | None = None
    code: str | None = None
    retry_after_s: int | None = None
    rtt_ms: int = 0
    fits: bool = True


@dataclass
class Run:
    """What a heartbeat did: waits in milliseconds, the index of the key of each extend."""

    waits: list[float] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    stop: Stop | None = None
    warnings: list[str] = field(default_factory=list)
    failures: int = 0


def response(answer: Answer, expires_at_ms: int, of: Any = CyclesResponse) -> Any:
    """Return an answer as a client's response object."""
    if answer.status == -1:
        return of.transport_error(OSError("connection reset"))
    if 200 <= answer.status < 300:
        body: dict[str, Any] = {"status": "ACTIVE", "expires_at_ms": expires_at_ms}
        if answer.remaining_ms is not None:
            body["remaining_ttl_ms"] = answer.remaining_ms
        return of.success(answer.status, body if answer.fits else {"status": "ACTIVE"})
    headers = {} if answer.retry_after_s is None else {"retry-after": str(answer.retry_after_s)}
    body = {"error": answer.code, "message": "m", "request_id": "r"} if answer.code else {}
    return of.http_error(answer.status, "m", body, headers)


def good(answer: Answer) -> bool:
    return answer.status == 200 and answer.fits


def _one_by_one(answers: Sequence[Answer]) -> Callable[[float], Answer | None]:
    script = iter(answers)
    return lambda _: next(script, None)


def run(
    ttl_ms: int,
    remaining_ms: int | None,
    answers: Sequence[Answer] | Callable[[float], Answer | None],
    *,
    rtt_ms: int = 0,
    late_ms: int = 0,
    beats: int = BEATS_MAX,
) -> Run:
    """Drive a heartbeat over a script until it stops or the script ends.

    A function gives the answer to a beat that left at a time; `rtt_ms` is how long the
    reservation took, and `late_ms` how much later the heartbeat began.
    """
    heart, seen, now, key = Heartbeat(ttl_ms, ATTEMPT_MS), Run(), float(rtt_ms + late_ms), 0
    expires = EPOCH_MS
    script = answers if callable(answers) else _one_by_one(answers)
    beat = heart.start(remaining_ms, expires, 0.0, float(rtt_ms), now)
    while beat.delay_ms is not None and len(seen.waits) < beats:
        seen.waits.append(beat.delay_ms)
        now += beat.delay_ms
        skipped = heart.skip_ms(now)
        if skipped is not None:
            beat = Beat(skipped, new_key=False)
            continue
        answer = script(now)
        if answer is None:
            break
        seen.keys.append(key)
        sent, now = now, now + answer.rtt_ms
        if good(answer):
            expires += answer.gain_ms
        said = classify(response(answer, expires), Expected.EXTEND)
        beat = heart.after(said, sent, now)
        key += beat.new_key
        seen.failures += beat.failed
        seen.warnings += [beat.warning] if beat.warning else []
    seen.stop = beat.stop
    return seen


LEASE = Answer(remaining_ms=60_000)
DOWN = Answer(503, code="INTERNAL_ERROR")


def test_a_minute_is_extended_every_35_seconds() -> None:
    """60 s less two attempts of 12 s and a margin of 1 s; each success takes a new key."""
    seen = run(60_000, 60_000, [LEASE] * 3)
    assert (seen.waits, seen.keys) == ([35_000] * 4, [0, 1, 2])


def test_time_lost_before_the_beat_is_deducted() -> None:
    """The first wait counts from the receipt of the reservation, and its whole journey."""
    assert run(60_000, 60_000, [], rtt_ms=300, late_ms=400).waits == [60_000 - 300 - 400 - 25_000]


def test_slow_answers_enlarge_the_reserve_from_the_first() -> None:
    """A slow beat before the field appears still counts: 60 000 - 100 - 36 000 (case 17)."""
    answers = [Answer(rtt_ms=6_000), Answer(remaining_ms=60_000, rtt_ms=100)]
    assert run(60_000, None, answers).waits[-1] == 23_900


@pytest.mark.parametrize("failed", [Answer(-1, rtt_ms=12_000), Answer(503, rtt_ms=12_000)])
def test_a_timeout_does_not_enlarge_the_reserve(failed: Answer) -> None:
    """Only a good answer tells how long answers take; else one timeout would end the lease."""
    seen = run(60_000, 60_000, [failed, LEASE, LEASE])
    assert (seen.waits, seen.keys) == ([35_000, 0, 35_000, 35_000], [0, 0, 1])
    assert seen.stop is None


def test_a_lease_without_room_gets_one_more_chance() -> None:
    """One second left of a day: one immediate extend, then a permanent stop (case 18)."""
    seen = run(DAY_MS, 1_000, [Answer(remaining_ms=1_000)] * 3)
    assert (seen.waits, seen.stop) == ([0.0], Stop.NO_ROOM)
    assert "retry-safety budget" in Stop.NO_ROOM.value


def test_room_that_comes_back_is_used() -> None:
    """A good lease after one without room starts the count anew."""
    answers = [LEASE, Answer(remaining_ms=1_000), LEASE, Answer(remaining_ms=1_000), LEASE]
    seen = run(60_000, 1_000, answers)
    assert (seen.waits, seen.stop) == ([0, 35_000, 0, 35_000, 0, 35_000], None)
    assert seen.keys == [0, 1, 2, 3, 4]


def test_repeated_failures_use_the_whole_lease_and_one_key() -> None:
    """Five attempts, one key, waits 35, 6.25, 4.6875, 1.0625 and 0 seconds (case 19)."""
    seen = run(60_000, 60_000, [DOWN] * 9)
    assert seen.waits == [35_000, 6_250, 4_687.5, 1_062.5, 0]
    assert (seen.keys, seen.failures, seen.stop) == ([0] * 5, 5, Stop.NO_WINDOW)


def test_a_success_after_failures_starts_anew() -> None:
    """The window of an old failure is forgotten with the next good answer."""
    seen = run(60_000, 60_000, [DOWN, DOWN, LEASE, DOWN])
    assert seen.waits == [35_000, 6_250, 4_687.5, 35_000, 6_250]
    assert seen.keys == [0, 0, 0, 1]


def test_a_long_lease_is_asked_again_within_30_seconds() -> None:
    """A quarter of an hour-long lead would be too patient."""
    assert run(3_600_000, 3_600_000, [DOWN] * 1).waits[1] == 6_250
    assert run(3_600_000, 3_600_000, [Answer(remaining_ms=None)] * 0).waits == [3_575_000]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (3, [35_000, 3_000]),
        (12, [35_000, 12_000]),
        (13, [35_000]),
        (20, [35_000]),
        (None, [35_000]),
    ],
)
def test_rate_limits_are_kept_to_the_letter(seconds: int | None, expected: list[float]) -> None:
    """Retry-After inside the 12 s window is waited for exactly; else there is no safe time."""
    seen = run(60_000, 60_000, [Answer(429, retry_after_s=seconds)])
    assert (seen.waits, seen.keys) == (expected, [0])
    assert seen.stop is (None if len(expected) == 2 else Stop.NO_WINDOW)


@pytest.mark.parametrize("answer", [Answer(202, remaining_ms=60_000), Answer(200, fits=False)])
def test_an_ambiguous_success_keeps_the_key(answer: Answer) -> None:
    """Only a 200 that fits is a success: anything else of 2xx is asked again (case 21)."""
    assert run(60_000, 60_000, [answer, LEASE]).keys == [0, 0]
    assert run(60_000, None, [answer, LEASE]).keys == [0, 0]


def test_without_the_field_the_first_beat_is_at_once() -> None:
    """Even for a day's lease; a failure there waits 30 s, not 0 (case 22)."""
    seen = run(DAY_MS, None, [DOWN, DOWN])
    assert (seen.waits, seen.keys) == ([0, 30_000, 30_000], [0, 0])


def test_a_failure_never_waits_longer_than_30_seconds() -> None:
    """With a cadence of hours, the lease would be over at the second attempt."""
    seen = run(DAY_MS, None, [Answer(gain_ms=DAY_MS), DOWN, DOWN])
    assert seen.waits == [0, DAY_MS / 2, 30_000, 30_000]


def test_a_clamping_server_is_held_at_30_seconds() -> None:
    """Gains that mirror the time that passed say nothing; one warning (case 23)."""
    last = [0.0]

    def clamped(now: float) -> Answer:
        gain, last[0] = int(now - last[0]), now
        return Answer(gain_ms=gain)

    seen = run(60_000, None, clamped, beats=4)
    assert (seen.waits, seen.warnings) == ([0, 30_000, 30_000, 30_000], [CLAMPED])
    assert "clamp lease lead" in CLAMPED


def test_small_gains_are_followed_and_a_wrong_guess_corrected() -> None:
    """15 s gains on a 60 s lease: a skip, one misjudged hold, six extends (case 24)."""
    seen = run(60_000, None, [Answer(gain_ms=15_000)] * 6, beats=8)
    assert seen.waits == [0, 7_500, 7_500, 7_500, 7_500, 30_000, 7_500, 7_500]
    assert seen.keys == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("ttl_ms", "gain_ms", "wait_ms"),
    [(1_200, 1_200, 600), (1_000, 1_000, 500), (60_000, 60_000, 30_000), (60_000, 90_000, 30_000)],
)
def test_cadence_is_half_the_gain(ttl_ms: int, gain_ms: int, wait_ms: float) -> None:
    """Between 500 ms and half the lease."""
    assert run(ttl_ms, None, [Answer(gain_ms=gain_ms)]).waits == [0, wait_ms]


def test_the_field_may_come_and_go() -> None:
    """Whichever way the last good answer went decides the next wait."""
    answers = [LEASE, Answer(), LEASE, LEASE]
    assert run(60_000, None, answers).waits == [0, 35_000, 30_000, 35_000, 35_000]


OVER = [
    Answer(404),
    Answer(410),
    Answer(409, code="RESERVATION_EXPIRED"),
    Answer(409, code="RESERVATION_FINALIZED"),
    Answer(409, code="MAX_EXTENSIONS_EXCEEDED"),
    Answer(409, code="TENANT_CLOSED"),
    Answer(400, code="NOT_FOUND"),
]


@pytest.mark.parametrize("remaining_ms", [60_000, None])
@pytest.mark.parametrize("answer", OVER, ids=lambda answer: f"{answer.status}-{answer.code}")
def test_a_reservation_that_is_over_stops_the_heart(
    answer: Answer, remaining_ms: int | None
) -> None:
    """With the field or without, nothing can extend it again."""
    seen = run(60_000, remaining_ms, [answer, LEASE])
    assert (len(seen.keys), seen.failures, seen.stop) == (1, 1, Stop.LEASE_OVER)


@pytest.mark.parametrize(
    ("answer", "stop"),
    [
        (Answer(400, code="INVALID_REQUEST"), Stop.CLIENT_ERROR),
        (Answer(401, code="UNAUTHORIZED"), Stop.CLIENT_ERROR),
        (Answer(403), Stop.CLIENT_ERROR),
        (Answer(418), Stop.CLIENT_ERROR),
        (Answer(302), Stop.UNEXPECTED),
        (Answer(600), Stop.UNEXPECTED),
    ],
)
def test_what_asking_again_cannot_change(answer: Answer, stop: Stop) -> None:
    """It stops a lease-driven heart; without the field the cadence goes on, with one key."""
    assert run(60_000, 60_000, [answer, LEASE]).stop is stop
    seen = run(60_000, None, [answer, answer, Answer()])
    assert (seen.waits, seen.keys) == ([0, 30_000, 30_000, 30_000], [0, 0, 0])


def test_a_server_error_that_says_limit_is_a_server_error() -> None:
    """Only 429 has a Retry-After rule; a 503 with that code backs off like any 503."""
    limited = Answer(503, code="LIMIT_EXCEEDED")
    assert run(60_000, 60_000, [limited]).waits == [35_000, 6_250]


# The official client, on a clock of its own.


class _Clock:
    def __init__(self, now: float) -> None:
        self.now = now


def official_run(
    ttl_ms: int, remaining_ms: int | None, answers: Sequence[Answer], monkeypatch: Any, rtt_ms: int
) -> Run:
    """Run the official client's loop over the same script."""
    seen, clock, script = Run(), _Clock(float(rtt_ms)), iter(answers)
    keys: list[str] = []
    state = {"expires": EPOCH_MS}

    class Client:
        _config = OfficialConfig("http://localhost", "key")

        def extend_reservation(self, _: str, body: dict[str, Any]) -> Any:
            answer = next(script, None)
            if answer is None:
                raise SystemExit  # the script is over
            if body["idempotency_key"] not in keys:
                keys.append(body["idempotency_key"])
            seen.keys.append(keys.index(body["idempotency_key"]))
            clock.now += answer.rtt_ms
            if good(answer):
                state["expires"] += answer.gain_ms
            return response(answer, state["expires"], OfficialResponse)

    class Stopped:
        def wait(self, timeout: float) -> bool:
            if len(seen.waits) == BEATS_MAX:
                return True
            seen.waits.append(round(timeout * 1_000, 6))  # seconds of a float lose 1e-11 ms
            clock.now += seen.waits[-1]
            return False

    class Inline:
        def __init__(self, target: Callable[[], None], **_: Any) -> None:
            self.target = target

        def start(self) -> None:
            with contextlib.suppress(SystemExit):
                self.target()

    class Threads:
        Thread = Inline

    class Context:
        expires_at_ms = EPOCH_MS

        def update_expires_at_ms(self, _: int) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(official, "_now_mono_ms", lambda: clock.now)
        patch.setattr(official, "threading", Threads)
        patch.setattr(official, "_run_sync_attempt", lambda call, _: call())
        patch.setattr(official.logger, "disabled", True)
        lifecycle = official.CyclesLifecycle.__new__(official.CyclesLifecycle)
        lifecycle._client = Client()
        received = float(rtt_ms)
        lifecycle._start_heartbeat(
            "rsv_1", ttl_ms, Context(), Stopped(), remaining_ms, float(rtt_ms), received
        )
    return seen


RTTS = st.sampled_from([0, 1, 250, 900, 6_000, 12_000])
FAILED = st.builds(
    Answer,
    status=st.sampled_from([500, 503, 429, 404, 410, 400, 401, 409, 302]),
    code=st.sampled_from([None, "INTERNAL_ERROR", "RESERVATION_EXPIRED", "UNIT_MISMATCH"]),
    retry_after_s=st.sampled_from([None, 0, 1, 5, 11, 40]),
    rtt_ms=RTTS,
)
AMBIGUOUS = st.builds(Answer, status=st.sampled_from([200, 202]), fits=st.just(False), rtt_ms=RTTS)
LEASED = st.builds(
    Answer, remaining_ms=st.sampled_from([0, 1_000, 26_000, 60_000, 90_000]), rtt_ms=RTTS
)
GAINED = st.builds(Answer, gain_ms=st.sampled_from([0, 500, 15_000, 30_000, 60_000]), rtt_ms=RTTS)


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def same(
    patched: pytest.MonkeyPatch,
    ttl_ms: int,
    remaining_ms: int | None,
    answers: list[Answer],
    rtt_ms: int,
) -> None:
    theirs = official_run(ttl_ms, remaining_ms, answers, patched, rtt_ms)
    ours = run(ttl_ms, remaining_ms, answers, rtt_ms=rtt_ms)
    assert [round(wait, 6) for wait in ours.waits] == theirs.waits
    assert ours.keys == theirs.keys


@settings(max_examples=300)
@given(
    st.sampled_from([1_000, 60_000, DAY_MS]),
    st.sampled_from([0, 1_000, 30_000, 60_000]),
    st.lists(st.one_of(LEASED, FAILED, AMBIGUOUS), max_size=8),
    RTTS,
)
def test_a_lease_driven_heart_beats_like_the_official_one(
    patched: pytest.MonkeyPatch, ttl_ms: int, remaining_ms: int, answers: list[Answer], rtt_ms: int
) -> None:
    """Same waits, same keys, same end, for any answers to a heart that knows its lease."""
    same(patched, ttl_ms, remaining_ms, answers, rtt_ms)


# A gain of exactly 1.25 times what passed is the last that counts as clamped; and the least above.
ON_THE_EDGE = [
    Answer(remaining_ms=90_000, rtt_ms=1),
    Answer(remaining_ms=60_000, rtt_ms=6_000),
]


@example(60_000, None, [*ON_THE_EDGE, Answer(gain_ms=30_000, rtt_ms=6_000)], 0)
@example(60_000, None, [*ON_THE_EDGE, Answer(gain_ms=30_001, rtt_ms=6_000)], 0)
@settings(max_examples=300)
@given(
    st.sampled_from([1_000, 20_000, 60_000]),
    st.sampled_from([None, 30_000, 60_000]),
    st.lists(st.one_of(GAINED, LEASED, FAILED), max_size=8),
    RTTS,
)
def test_a_heart_by_cadence_beats_like_the_official_one(
    patched: pytest.MonkeyPatch,
    ttl_ms: int,
    remaining_ms: int | None,
    answers: list[Answer],
    rtt_ms: int,
) -> None:
    """The same while the field comes and goes.

    Two differences are ours on purpose and left out here: with a lease above a minute a
    failure waits 30 s at most, and an ambiguous 2xx keeps a cadence that is shorter than that.
    """
    same(patched, ttl_ms, remaining_ms, answers, rtt_ms)


# Out of step.


def test_beats_of_a_fleet_fall_out_of_step() -> None:
    """Each comes up to a tenth earlier than it must, never later; a server's time is kept."""
    waits = {_wait_s(Beat(35_000, early_ok=True)) for _ in range(200)}
    assert len(waits) > 100
    assert all(wait is not None and 31.5 <= wait <= 35.0 for wait in waits)
    assert _wait_s(Beat(35_000)) == 35.0
    assert _wait_s(Beat(None)) is None
