"""Ledger time never goes backwards, and no two identifiers are alike."""

import base64
import os
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar import clock, ids
from bursar.clock import SystemClock

START_MS = 1_700_000_000_000
MANY = 2_000


@dataclass
class FakeTime:
    """The two clocks of a machine, in nanoseconds; stands for the `time` module."""

    wall_ns: int = START_MS * 1_000_000
    steady_ns: int = 5_000_000_000

    def time_ns(self) -> int:
        return self.wall_ns

    def monotonic_ns(self) -> int:
        return self.steady_ns

    def passes(self, wall_ns: int, steady_ns: int) -> None:
        self.wall_ns += wall_ns
        self.steady_ns += steady_ns


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clock, "time", fake)
    return fake


def ms(count: int) -> int:
    return count * 1_000_000


def test_clock_follows_the_wall(machine: FakeTime) -> None:
    """While both clocks agree, ledger time is wall time in milliseconds."""
    system = SystemClock()
    assert system.now_ms() == START_MS
    machine.passes(ms(1) - 1, ms(1) - 1)
    assert system.now_ms() == START_MS
    machine.passes(1, 1)
    assert system.now_ms() == START_MS + 1
    assert system.behind_ms() == 0


def test_clock_follows_a_jump_ahead(machine: FakeTime) -> None:
    """A wall clock that is set forward, or that ran while the machine slept, is believed."""
    system = SystemClock()
    machine.passes(ms(3_600_000), ms(10))
    assert system.now_ms() == START_MS + 3_600_000
    machine.passes(ms(5), ms(5))
    assert system.now_ms() == START_MS + 3_600_005


def test_clock_runs_on_through_a_jump_back(machine: FakeTime) -> None:
    """A wall clock that is set back does not stop the time: leases still expire."""
    system = SystemClock()
    machine.passes(-ms(60_000), ms(10))
    assert system.now_ms() == START_MS + 10
    assert system.behind_ms() == 60_010
    machine.passes(ms(60_010), ms(60_010))
    assert system.now_ms() == START_MS + 60_020
    machine.passes(ms(60_011), 0)
    assert system.now_ms() == START_MS + 60_021
    assert system.behind_ms() == 0


def test_clock_starts_no_earlier_than_what_is_stored(machine: FakeTime) -> None:
    """After a restart with a wall clock that was set back, stored time is not undercut."""
    system = SystemClock(not_before_ms=START_MS + 5_000)
    assert system.now_ms() == START_MS + 5_000
    assert system.behind_ms() == 5_000
    machine.passes(ms(7), ms(7))
    assert system.now_ms() == START_MS + 5_007
    assert SystemClock(not_before_ms=START_MS - 1).now_ms() == START_MS + 7


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(-ms(10**7), ms(10**7)), st.integers(-3, 3)),
            st.one_of(st.integers(0, ms(10**6)), st.integers(0, 3)),
        ),
        max_size=30,
    ),
    st.integers(0, START_MS * 2),
)
def test_clock_never_decreases(steps: list[tuple[int, int]], not_before_ms: int) -> None:
    """Whatever happens to the wall clock, time grows, keeps pace and is never behind the wall."""
    fake = FakeTime()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", fake)
        system = SystemClock(not_before_ms)
        before, before_ns = system.now_ms(), fake.steady_ns
        assert before >= not_before_ms
        for wall_ns, steady_ns in steps:
            fake.passes(wall_ns, steady_ns)
            now = system.now_ms()
            # One millisecond is lost at most, to rounding.
            assert now >= before + (fake.steady_ns - before_ns) // 1_000_000 - 1
            assert now >= before
            assert now >= fake.wall_ns // 1_000_000
            assert system.behind_ms() == now - fake.wall_ns // 1_000_000
            before, before_ns = now, fake.steady_ns


def test_clock_serves_threads() -> None:
    """Threads that share a clock each see time that does not decrease, near to real time."""
    system = SystemClock()
    seen: list[list[int]] = [[] for _ in range(4)]

    def look(times: list[int]) -> None:
        times.extend(system.now_ms() for _ in range(MANY))

    earliest = time.time_ns() // 1_000_000
    threads = [threading.Thread(target=look, args=(times,)) for times in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for times in seen:
        assert times == sorted(times)
        assert len(times) == MANY
        assert times[0] >= earliest - 1


@given(st.integers(0, 2**48 - 1))
def test_new_id_is_a_uuid_that_carries_its_time(now_ms: int) -> None:
    """Ids are lower-case version 7 UUIDs, and their first 48 bits are the time they were given."""
    made = uuid.UUID(text := ids.new_id(now_ms))
    assert str(made) == text
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == now_ms


@given(st.integers(0, 2**48 - 2))
def test_later_ids_sort_later(now_ms: int) -> None:
    """The text of an id sorts by the time it was given."""
    assert ids.new_id(now_ms) < ids.new_id(now_ms + 1)


def test_ids_of_one_millisecond_differ() -> None:
    """No two ids are alike, also within one millisecond, and every random bit varies."""
    made = [uuid.UUID(ids.new_id(START_MS)).int for _ in range(MANY)]
    assert len(set(made)) == MANY
    varying = 0
    for value in made:
        varying |= value ^ made[0]
    assert varying == (2**12 - 1) << 64 | (2**62 - 1)


def test_prefixed_id_keeps_its_prefix() -> None:
    """A prefixed id is the prefix and 32 hexadecimal digits, and none repeats."""
    made = [ids.prefixed_id("key_") for _ in range(MANY)]
    assert len(set(made)) == MANY
    assert all(re.fullmatch(r"key_[0-9a-f]{32}", text) for text in made)


def test_new_secret_holds_256_bits() -> None:
    """A secret is its prefix and 32 random bytes that survive a header and a shell unquoted."""
    made = [ids.new_secret() for _ in range(MANY)]
    assert len(set(made)) == MANY
    for secret in made:
        assert re.fullmatch(r"cyc_live_[A-Za-z0-9_-]{43}", secret)
        assert len(base64.urlsafe_b64decode(secret.removeprefix(ids.SECRET_PREFIX) + "=")) == 32


def test_new_pepper_holds_256_bits() -> None:
    """A pepper is 32 random bytes, and none repeats."""
    made = [ids.new_pepper() for _ in range(MANY)]
    assert {len(pepper) for pepper in made} == {32}
    assert len(set(made)) == MANY


def test_key_prefix_tells_keys_apart_without_giving_them_away() -> None:
    """The part of a secret that may be shown goes beyond the common prefix, but not far."""
    beyond = ids.KEY_PREFIX_LENGTH - len(ids.SECRET_PREFIX)
    assert 4 <= beyond <= 8
    # 30 bits tell most keys apart; whoever looks one up by them still compares the rest.
    assert len({ids.new_secret()[: ids.KEY_PREFIX_LENGTH] for _ in range(100)}) > 90


def test_a_new_key_is_a_random_uuid() -> None:
    """Idempotency keys are UUIDs of version 4, spelled as everybody spells them."""
    made = [ids.new_key() for _ in range(MANY)]
    assert len(set(made)) == MANY
    for text in made:
        key = uuid.UUID(text)
        assert (key.version, key.variant, str(key)) == (4, uuid.RFC_4122, text)


def test_trace_id_is_a_w3c_trace_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace id is 32 lower-case hexadecimal digits and never all zero, which W3C forbids."""
    made = [ids.new_trace_id() for _ in range(MANY)]
    assert len(set(made)) == MANY
    assert all(re.fullmatch(r"[0-9a-f]{32}", text) for text in made)
    drawn = iter([bytes(16), bytes(15) + b"\x01"])
    monkeypatch.setattr(ids, "_block", SimpleNamespace(take=lambda size: next(drawn)))
    assert ids.new_trace_id() == "0" * 31 + "1"


def test_ids_of_many_threads_differ() -> None:
    """Threads that ask at the same time get different ids."""
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(ids.new_id, [START_MS] * MANY))
    assert len(set(made)) == MANY


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_ids_of_a_forked_process_are_its_own() -> None:
    """What a process has drawn ahead is not given out again by its fork."""
    ids.new_id(START_MS)  # from now on a block is half used
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # the fork: it must not go on as a second test run
        os.write(writing, ids.new_id(START_MS).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 36).decode()
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 36
    assert theirs != ids.new_id(START_MS)
