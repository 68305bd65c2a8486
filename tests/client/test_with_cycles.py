"""Guarding a generator: every chunk is counted, and the whole of it is settled once."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import BudgetExceededError, DryRunResult, cycles, get_cycles_context, with_cycles
from bursar.client.usage import StreamUsage
from client.scripted import deny, lost
from client.shells import Shell, until


def count(n: int) -> Iterator[int]:
    """Yield numbers; return their sum."""
    yield from range(1, n + 1)
    return sum(range(1, n + 1))


def fails(after: int) -> Iterator[int]:
    yield from range(1, after + 1)
    raise ValueError("broken")


def add(chunk: int, usage: StreamUsage) -> None:
    """Record a chunk as tokens."""
    usage.add_output_tokens(chunk)


def price(usage: StreamUsage) -> int:
    return usage.tokens_output * 10


def guarded(shell: Shell, work: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a guarded generator function of the shell's kind."""
    found: Callable[..., Any] = with_cycles(
        {"estimate": 500, "client": shell.client, **options}, shell.generator(work)
    )
    return found


# A generator of 1, 2, 3 that is read to its end: (options, amount, metadata).
ENDED: list[tuple[dict[str, Any], int, dict[str, Any] | None]] = [
    ({}, 500, {"actual_source": "estimate"}),
    ({"actual": 420}, 420, None),
    ({"on_chunk": add, "cost_fn": price}, 60, None),
    ({"on_chunk": add}, 500, {"actual_source": "estimate"}),
    ({"on_chunk": lambda _, usage: usage.set_actual_cost(77)}, 77, None),
    ({"on_chunk": add, "cost_fn": lambda _: 1 // 0}, 500, {"actual_source": "estimate"}),
    ({"on_chunk": add, "cost_fn": lambda _: -1}, 500, {"actual_source": "estimate"}),
    ({"on_chunk": add, "cost_fn": price, "actual": 9}, 9, None),
    ({"cost_fn": lambda _: 8, "use_estimate_if_actual_not_provided": False}, 8, None),
]


@pytest.mark.parametrize(("options", "amount", "metadata"), ENDED)
def test_a_generator_is_settled_when_it_ends(
    shell: Shell, options: dict[str, Any], amount: int, metadata: dict[str, Any] | None
) -> None:
    """Not before: its reservation is open while it is read."""
    made = guarded(shell, count, **options)(3)
    assert shell.server.calls == []
    assert shell.next(made) == 1
    assert shell.server.open == ["rsv_1"]
    assert shell.drain(made) == [2, 3]
    assert shell.server.charged == {"rsv_1": amount}
    commit = shell.server.bodies("commitReservation")[0]
    assert commit.get("metadata") == metadata
    assert commit["metrics"].get("tokens_output") == (6 if options.get("on_chunk") is add else None)


# One that was not read to its end: (options, chunks read, amount; None is released, -1 unknown).
CUT: list[tuple[dict[str, Any], int, int | None]] = [
    ({}, 0, None),
    ({}, 1, -1),
    ({"actual": 420}, 1, -1),
    ({"on_chunk": add, "cost_fn": price}, 2, 30),
    ({"on_chunk": add}, 2, -1),
    ({"on_chunk": lambda _, usage: usage.set_actual_cost(77)}, 1, 77),
    ({"on_chunk": add, "cost_fn": lambda _: 1 // 0}, 1, -1),
    ({"on_chunk": add, "cost_fn": price}, 0, None),
]


def outcome(shell: Shell) -> int | None:
    """Return what was charged, None for a release, -1 while it is open."""
    if shell.server.open:
        assert shell.server.made("commitReservation") == []
        return -1
    assert set(shell.server.released.values()) <= {"guarded_method_failed"}
    return shell.server.charged.get("rsv_1")


@pytest.mark.parametrize(("options", "chunks", "amount"), CUT)
@pytest.mark.parametrize("way", ["close", "throw", "raise"])
def test_a_generator_that_is_cut_short(
    shell: Shell,
    options: dict[str, Any],
    chunks: int,
    amount: int | None,
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is known of its cost is committed; unknown spend is said to be, and not released."""
    if way == "raise":
        made = guarded(shell, fails, **options)(chunks)
        with pytest.raises(ValueError, match="broken"):
            shell.drain(made)
    else:
        made = guarded(shell, count, **options)(9)
        for _ in range(chunks):
            shell.next(made)
        if way == "throw":
            with pytest.raises(KeyError):
                shell.throw(made, KeyError("thrown"))
        else:
            shell.close(made)
    if not shell.server.calls:  # closed or thrown into before its first step: nothing was asked
        assert (chunks, way != "raise") == (0, True)
        return
    assert outcome(shell) == amount
    assert ("what it spent is unknown" in caplog.text) is (amount == -1)


def test_values_and_exceptions_go_through(shell: Shell) -> None:
    """`send` and `throw` reach the generator, whose answer comes back."""

    def talks() -> Iterator[Any]:
        said = yield "hello"
        while said != "bye":
            try:
                said = yield f"heard {said}"
            except KeyError as error:
                said = yield f"caught {error.args[0]}"

    made = guarded(shell, talks, actual=5)()
    assert shell.next(made) == "hello"
    assert shell.send(made, "you") == "heard you"
    assert shell.throw(made, KeyError("k")) == "caught k"
    with contextlib.suppress(StopIteration):
        assert shell.send(made, "bye") == "ended"
    assert shell.server.charged == {"rsv_1": 5}


def test_the_value_of_a_generator_prices_it(tmp_path: Path) -> None:
    """What it returns is returned, and given to `actual`."""
    shell = Shell(False, tmp_path)

    def outer() -> Iterator[int]:
        return (yield from guarded(shell, count, actual=lambda total: total * 2)(3))

    made = outer()
    got = [next(made), next(made), next(made)]
    with pytest.raises(StopIteration) as ended:
        next(made)
    assert (got, ended.value.value, shell.server.charged) == ([1, 2, 3], 6, {"rsv_1": 12})
    shell.end()


def test_the_generator_sees_its_reservation_and_its_reader_does_not(shell: Shell) -> None:
    """Also while it cleans up; a reader with a reservation of its own keeps that."""
    seen: list[str | None] = []

    def note() -> None:
        context = get_cycles_context()
        seen.append(context.reservation_id if context else None)

    def looks() -> Iterator[int]:
        try:
            note()
            yield 1
            note()
            yield 2
        finally:
            note()

    made = guarded(shell, looks)()
    shell.next(made)
    note()
    shell.next(made)
    shell.close(made)
    note()
    assert seen == ["rsv_1", None, "rsv_1", "rsv_1", None]


def test_spend_that_the_generator_records_is_known(shell: Shell) -> None:
    """`record_spend` before it is closed is committed."""

    def spends() -> Iterator[int]:
        context = get_cycles_context()
        assert context is not None
        context.record_spend(33)
        yield 1
        yield 2

    made = guarded(shell, spends)()
    shell.next(made)
    shell.close(made)
    assert outcome(shell) == 33


@pytest.mark.parametrize("where", ["on_chunk", "arguments", "close"])
def test_what_else_may_raise(shell: Shell, where: str) -> None:
    """Nothing stays open behind an exception of the user's own code, and it goes on."""
    ended: list[int] = []

    def works(n: int) -> Iterator[int]:
        try:
            yield from range(n)
        finally:
            ended.append(n)
            if where == "close":
                raise KeyError("while closing")

    def records(_: Any, usage: StreamUsage) -> None:
        usage.set_actual_cost(4)
        if where == "on_chunk":
            raise KeyError("while recording")

    made = guarded(shell, works, on_chunk=records)(*([] if where == "arguments" else [3]))
    if where == "close":
        shell.next(made)
    with pytest.raises((KeyError, TypeError)):
        shell.close(made) if where == "close" else shell.next(made)
    assert ended == ([] if where == "arguments" else [3])
    assert outcome(shell) == (None if where == "arguments" else 4)


def test_an_abandoned_generator_is_settled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever leaves a `for` loop has paid for what was said."""
    shell = Shell(False, tmp_path)
    for _ in guarded(shell, count, on_chunk=add, cost_fn=price)(9):
        break
    gc.collect()
    until(lambda: shell.server.charged == {"rsv_1": 10})
    shell.end()


def test_an_abandoned_asynchronous_generator_is_settled(tmp_path: Path) -> None:
    """Its loop closes it."""
    shell = Shell(True, tmp_path)
    generates = guarded(shell, count, on_chunk=add, cost_fn=price)

    async def leaves() -> None:
        async for _ in generates(9):
            break
        gc.collect()
        for _ in range(1_000):
            if shell.server.charged:
                return
            await asyncio.sleep(0.001)

    shell.run(leaves())
    assert shell.server.charged == {"rsv_1": 10}
    shell.end()


def test_a_denied_generator_says_so_at_its_first_step(shell: Shell) -> None:
    """And never runs."""
    shell.server.on("createReservation", deny("BUDGET_EXCEEDED"))
    with pytest.raises(BudgetExceededError):
        shell.next(guarded(shell, fails)(0))


def test_a_dry_run_of_a_generator_is_its_only_chunk(shell: Shell) -> None:
    """The evaluation is what it yields."""
    (only,) = shell.drain(guarded(shell, fails, dry_run=True)(0))
    assert isinstance(only, DryRunResult)
    assert shell.server.open == []


def test_a_generator_whose_commit_is_lost_is_asked_again(shell: Shell) -> None:
    """Its reader has every chunk meanwhile."""
    shell.server.on("commitReservation", lost())
    assert shell.drain(guarded(shell, count, actual=7)(2)) == [1, 2]
    assert shell.flush() == 0
    assert len(shell.server.made("commitReservation")) == 2
    assert shell.server.charged == {"rsv_1": 7}


def test_the_decorator_guards_generators_too(shell: Shell) -> None:
    """To their end, unlike one that settles when the generator is made."""
    made = cycles(500, client=shell.client)(shell.generator(count))(2)
    assert shell.drain(made) == [1, 2]
    assert shell.server.charged == {"rsv_1": 500}


def test_one_generator_in_two_tasks(tmp_path: Path) -> None:
    """Begun in one, ended in another: contexts of tasks do not mix."""
    shell = Shell(True, tmp_path)

    @cycles(5, client=shell.client)
    async def generates() -> AsyncIterator[int]:
        yield 1
        assert get_cycles_context() is not None
        yield 2

    async def both() -> list[int]:
        made = generates()
        first = await asyncio.create_task(anext(made))
        rest = [chunk async for chunk in made]
        assert get_cycles_context() is None
        return [first, *rest]

    assert shell.run(both()) == [1, 2]
    assert shell.server.charged == {"rsv_1": 5}
    shell.end()
