"""The current reservation: the innermost one, wherever the code runs."""

import asyncio
import contextvars
import threading
from pathlib import Path
from typing import Any

import pytest

from bursar import cycles, get_cycles_context
from bursar.vocabulary import AMOUNT_MAX
from client.shells import Shell


def current() -> str | None:
    """Return the id of the current reservation."""
    context = get_cycles_context()
    return context.reservation_id if context else None


def test_the_outer_reservation_comes_back(tmp_path: Path) -> None:
    """After a nested call ends well, and after one that raises."""
    for asynchronous in (False, True):
        shell = Shell(asynchronous, tmp_path / str(asynchronous))
        seen: list[str | None] = []
        guard = cycles(1, client=shell.client)

        def inner(fail: bool, seen: list[str | None] = seen) -> None:
            seen.append(current())
            if fail:
                raise ValueError("inner")

        if asynchronous:
            nested = guard(shell.function(inner))

            async def outer(seen: list[str | None] = seen, nested: Any = nested) -> None:
                await nested(False)
                seen.append(current())
                with pytest.raises(ValueError, match="inner"):
                    await nested(True)
                seen.append(current())

            shell.run(guard(outer)())
        else:
            plain = guard(inner)

            def outside(seen: list[str | None] = seen, plain: Any = plain) -> None:
                plain(False)
                seen.append(current())
                with pytest.raises(ValueError, match="inner"):
                    plain(True)
                seen.append(current())

            guard(outside)()
        assert seen == ["rsv_2", "rsv_1", "rsv_3", "rsv_1"]
        assert current() is None
        shell.end()


def test_threads_see_it_in_a_copied_context(tmp_path: Path) -> None:
    """A plain thread has none; what threads record together is all there."""
    shell = Shell(False, tmp_path)

    def spend() -> None:
        context = get_cycles_context()
        assert context is not None
        for _ in range(1_000):
            context.record_spend(1)

    def work() -> None:
        seen: list[str | None] = []
        plain = threading.Thread(target=lambda: seen.append(current()))
        copies = [contextvars.copy_context() for _ in range(8)]
        threads = [threading.Thread(target=copy.run, args=(spend,)) for copy in copies]
        for thread in (plain, *threads):
            thread.start()
        for thread in (plain, *threads):
            thread.join()
        assert seen == [None]
        raise ValueError("done")

    with pytest.raises(ValueError, match="done"):
        cycles(9_000, client=shell.client)(work)()
    assert shell.server.charged == {"rsv_1": 8_000}
    shell.end()


def test_tasks_see_their_own(tmp_path: Path) -> None:
    """A task made in the body inherits; siblings do not mix."""
    shell = Shell(True, tmp_path)

    @cycles(1, client=shell.client)
    async def work() -> bool:
        mine = current()
        return await asyncio.create_task(asyncio.to_thread(current)) == mine

    async def together() -> list[bool]:
        return await asyncio.gather(*(work() for _ in range(20)))

    assert shell.run(together()) == [True] * 20
    shell.end()


@pytest.mark.parametrize("amount", [-1, True, 1.5, "1", None, AMOUNT_MAX + 1])
def test_only_amounts_are_recorded(shell: Shell, amount: Any) -> None:
    """The message says which value it was, and what was recorded before stays."""

    def work() -> None:
        context = get_cycles_context()
        assert context is not None
        context.record_spend(3)
        context.record_spend(amount)

    with pytest.raises(ValueError, match="amount must be a non-negative int64"):
        shell.call(cycles(9, client=shell.client), work)
    assert shell.server.charged == {"rsv_1": 3}
