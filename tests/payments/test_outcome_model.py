"""The machine against every world there is, up to a bound.

A small chain (unused, included, final; by our transfer, a cancellation, or somebody else's) and
its clock take every step they can take; so do the sender, its answers however late, an observer
who sees everything, no logs, or nothing, and an operator's clock. Every reachable combination is
visited. The observer is honest and reads one block, as the prover must.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from bursar.payments.outcome import (
    NEVER,
    TERMINAL,
    TRANSITIONS,
    UNRESOLVED,
    BudgetState,
    Duty,
    Money,
    Trigger,
    advance,
    duty,
    read_evidence,
)


class By(Enum):
    """What used the nonce."""

    US = Trigger.SETTLED
    CANCEL = Trigger.VOIDED
    OTHER = Trigger.MISDIRECTED


class Sight(Enum):
    """What the observer can see at the moment of a check."""

    ALL = "all"
    NO_LOGS = "no logs"
    NOTHING = "nothing"


@dataclass(frozen=True)
class World:
    """What is true, and what the record says."""

    money: Money = Money.RECORDED
    budget: BudgetState = BudgetState.RESERVED
    used_by: By | None = None
    final: bool = False
    closed: bool = False  # the newest block is past the end of the window
    final_closed: bool = False  # so is the final block
    out: bool = False  # the request left: anybody may send the authorization
    answering: bool = False  # an answer may still arrive
    hash_known: bool = False
    reorgs: int = 0


Step = tuple[str, World]


def chain_steps(world: World, *, leaked: bool) -> Iterator[Step]:
    """Yield what the chain may do next."""
    if world.used_by is None:
        if (world.out or leaked) and not world.closed:
            yield "our transfer is mined", replace(world, used_by=By.US)
        yield "the payer cancels", replace(world, used_by=By.CANCEL)
        yield "another authorization is mined", replace(world, used_by=By.OTHER)
    elif not world.final:
        yield "the block is final", replace(world, final=True)
        if world.reorgs == 0:
            gone = replace(world, used_by=None, reorgs=1)
            yield "the block is gone", gone
            yield "the block is gone, and time with it", replace(gone, closed=world.final_closed)
    if not world.closed:
        yield "the window closes", replace(world, closed=True)
    elif not world.final_closed and (world.used_by is not By.US or world.final):
        yield "the end of the window is final", replace(world, final_closed=True)


def sender_steps(world: World) -> Iterator[Step]:
    """Yield what the sender and its answer may do next."""
    money = world.money
    if money is Money.RECORDED:
        yield "sending", replace(world, money=advance(money, Trigger.SENDING), answering=True)
        yield "refused here", replace(world, money=advance(money, Trigger.REFUSED))
    if world.answering and not world.out:
        yield "the request leaves", replace(world, out=True)
    if (money, Trigger.RESENDING) in TRANSITIONS:
        again = replace(world, money=advance(money, Trigger.RESENDING), answering=True)
        yield "presented again", again
        yield "presented again, and it arrives", replace(again, out=True)
        # Whatever became of an earlier call: this one is refused, or cannot connect.
        refused = replace(again, money=advance(again.money, Trigger.REFUSED))
        yield "presented again, and provably not sent", refused
    if not world.answering or money in TERMINAL:
        return
    done = replace(world, answering=False)
    yield "no answer", replace(done, money=advance(money, Trigger.LOST))
    if world.out:
        told = replace(done, money=advance(money, Trigger.ACKNOWLEDGED), hash_known=True)
        yield "an answer names a transaction", told
    else:
        yield "provably not sent", replace(done, money=advance(money, Trigger.REFUSED))
        # Resent or not: only a record that was never sent before is closed by it.


def seen(world: World, sight: Sight) -> Trigger:
    """Return what an honest observer says, from one pinned block."""
    if sight is Sight.NOTHING:
        return Trigger.UNREACHABLE
    logs = sight is Sight.ALL or world.hash_known
    if world.final and world.used_by is not None:
        proof = Trigger(world.used_by.value)
        readable = sight is Sight.ALL or (world.hash_known and world.used_by is By.US)
        return proof if readable else Trigger.UNDECIDED
    if world.final_closed and world.used_by is None:
        return Trigger.EXPIRED
    if world.used_by is By.US:
        return Trigger.INCLUDED if logs else Trigger.UNDECIDED
    if world.money is Money.PROVISIONAL:
        return Trigger.REORGED
    if world.hash_known and world.used_by is not None:
        return Trigger.REVERTED
    return Trigger.UNDECIDED


def worker_steps(world: World) -> Iterator[Step]:
    """Yield what the worker, the operator's clock and the budget may do next."""
    money = world.money
    if money is Money.SUBMITTING:
        yield "the sender is gone", replace(world, money=advance(money, Trigger.LOST))
    if money in (Money.PENDING, Money.UNKNOWN, Money.PROVISIONAL):
        yield "overdue", replace(world, money=advance(money, Trigger.OVERDUE))
    if money not in (Money.RECORDED, Money.SUBMITTING):
        for sight in Sight:
            meant = read_evidence(money, seen(world, sight))
            if meant is not None:
                yield f"checked, seeing {sight.value}", replace(world, money=advance(money, meant))
    match duty(money, world.budget):
        case Duty.COMMIT:
            yield "committed", replace(world, budget=BudgetState.COMMITTED)
        case Duty.RELEASE:
            yield "released", replace(world, budget=BudgetState.RELEASED)
        case _:
            pass


def explore(*, leaked: bool = False) -> dict[World, list[Step]]:
    """Return every reachable world, and the steps out of each."""
    found: dict[World, list[Step]] = {}
    queue = deque([World()])
    while queue:
        world = queue.popleft()
        if world in found:
            continue
        steps = [
            *chain_steps(world, leaked=leaked),
            *sender_steps(world),
            *worker_steps(world),
        ]
        found[world] = steps
        queue.extend(after for _, after in steps)
    return found


def is_wrong(world: World) -> bool:
    """Return whether a final state says what is not so, or may yet turn out not to be so."""
    used = world.used_by if world.final else None
    match world.money:
        case Money.SETTLED:
            return used is not By.US
        case Money.VOIDED:
            return used is not By.CANCEL
        case Money.MISDIRECTED:
            return used is not By.OTHER
        case Money.EXPIRED:
            return not world.final_closed or world.used_by is By.US
        case Money.REJECTED:
            return world.out or world.used_by is By.US
        case _:
            return False


def test_no_world_makes_a_final_state_wrong() -> None:
    """In every reachable world a final state is true, and stays true whatever comes."""
    worlds = explore()
    assert len(worlds) > 1_000
    assert {world.money for world in worlds} == set(Money)
    assert [world for world in worlds if is_wrong(world)] == []


def test_nothing_is_given_back_too_early() -> None:
    """What is released was never paid; what is unresolved is never released."""
    worlds = explore()
    released = [world for world in worlds if world.budget is BudgetState.RELEASED]
    assert released
    for world in released:
        assert world.money in NEVER
        assert world.used_by is not By.US
    assert all(w.money is Money.SETTLED for w in worlds if w.budget is BudgetState.COMMITTED)


def test_a_final_state_is_left_only_by_reopening() -> None:
    """With an honest observer nothing ever leaves a final state, not even by reopening."""
    for world, steps in explore().items():
        if world.money in TERMINAL:
            assert {after.money for _, after in steps} <= {world.money}


def test_nothing_is_stuck() -> None:
    """From every unresolved world, time and one observer who sees lead to a final state.

    And a worker always has a legal step, so a record without a schedule is never excused.
    """
    worlds = explore()
    backwards: dict[World, list[World]] = {}
    for world, steps in worlds.items():
        for _, after in steps:
            backwards.setdefault(after, []).append(world)
    good = deque(world for world in worlds if world.money in TERMINAL)
    reaching = set(good)
    while good:
        for before in backwards.get(good.popleft(), []):
            if before not in reaching:
                reaching.add(before)
                good.append(before)
    assert set(worlds) - reaching == set()
    for state in UNRESOLVED:
        assert (state, Trigger.LOST) in TRANSITIONS
        assert state is Money.SUBMITTING or (state, Trigger.UNREACHABLE) in TRANSITIONS


def test_the_truth_wins_even_when_somebody_else_sends() -> None:
    """If the authorization leaked, only REJECTED can be wrong, and the next look reopens it."""
    worlds = explore(leaked=True)
    wrong = [world for world in worlds if is_wrong(world)]
    assert {world.money for world in wrong} == {Money.REJECTED}
    for world in wrong:
        meant = read_evidence(world.money, seen(world, Sight.ALL))
        assert meant is Trigger.CONTRADICTED
        reopened = advance(world.money, meant)
        assert advance(reopened, seen(world, Sight.ALL)) in (Money.SETTLED, Money.PROVISIONAL)


def test_a_lie_is_found_out() -> None:
    """Whatever final state a lying endpoint led to, honest final evidence reopens and corrects it.

    Only lies about who did not pay us stay: they cost nobody anything.
    """
    for lie in TERMINAL:
        for by in By:
            world = World(money=lie, used_by=by, final=True, out=True)
            meant = read_evidence(lie, seen(world, Sight.ALL))
            if (lie is Money.SETTLED) == (by is By.US):
                assert meant is None
                continue
            assert meant is Trigger.CONTRADICTED
            truth = advance(advance(lie, meant), seen(world, Sight.ALL))
            assert truth.value == by.value.value


def test_the_model_can_fail() -> None:
    """An observer who reads the state at one block and the time at a later one is caught."""
    early = World(money=Money.UNKNOWN, out=True, closed=True, used_by=By.US)
    wrong = replace(early, money=advance(early.money, Trigger.EXPIRED), final_closed=True)
    assert is_wrong(wrong)
    assert is_wrong(World(money=Money.SETTLED, used_by=By.US))  # not final
    assert is_wrong(World(money=Money.REJECTED, out=True))
