"""Scenarios as text: one line is one command and what must come of it.

    == a title that states the claim
    given budget acme allocated=1000
    reserve a 300    -> ALLOW reserved=300
    tick 1s
    commit a 200     -> COMMITTED charged=200 released=100
    budget acme      -> ACTIVE remaining=800 spent=200

The word after the arrow is a decision, a status, a count, `replay` (the very reply that the key
got before) or an error code. Facts that a row does not name are not compared; `says=` and `fix=`
name a part of the text. `given` stores a record past all rules; `budget`, `reservation`, `tenant`,
`key`, `policy` and `log` look something up.
A leading `tenant:` is left out of scopes, amounts are `USD_MICROCENTS`, and times are spans
since the world began.
"""

import shlex
from dataclasses import dataclass, field

from bursar.core.entry import Reply
from core import facts, script
from core.values import same, shown, span_ms
from core.world import World

PARTS = ("says", "fix")


@dataclass(frozen=True)
class Row:
    """One line: what is asked, and what must come of it (None: anything)."""

    text: str
    verb: str
    words: list[str]
    options: dict[str, str]
    expected: list[str] | None


@dataclass
class Scenario:
    """A claim and the rows that prove it."""

    title: str
    rows: list[Row] = field(default_factory=list)

    def __str__(self) -> str:
        return self.title


def scenarios(text: str) -> list[Scenario]:
    """Read every scenario of a table."""
    found: list[Scenario] = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("=="):
            found.append(Scenario(line.removeprefix("==").strip()))
        elif line:
            found[-1].rows.append(read_row(line))
    return found


def read_row(line: str) -> Row:
    """Read one line."""
    asked, arrow, expected = line.partition(" -> ")
    verb, *rest = shlex.split(asked)
    words = [word for word in rest if "=" not in word]
    options = dict(word.split("=", 1) for word in rest if "=" in word)
    return Row(line, verb, words, options, shlex.split(expected) if arrow else None)


def play(scenario: Scenario) -> World:
    """Play a scenario in a new world; the first row that is not so fails it."""
    stage = Stage()
    for row in scenario.rows:
        stage.step(row)
    stage.world.verify_chains()
    return stage.world


def give(world: World, row: Row) -> None:
    """Store the record that a `given` row describes."""
    kind, *words = row.words
    if kind == "tenant":
        world.put(tenants=[script.tenant(words, row.options)])
    elif kind == "policy":
        world.put(policies=[script.rules(words, row.options)])
    else:
        world.put(budgets=[script.budget(words, row.options)])


class Stage:
    """A world in the middle of a scenario."""

    def __init__(self) -> None:
        self.world = World()
        self.replies: dict[tuple[str, str, str], Reply] = {}
        self.steps = 0

    def step(self, row: Row) -> None:
        self.steps += 1
        if row.verb == "given":
            give(self.world, row)
            return
        if row.verb == "tick":
            self.world.clock.now += span_ms(row.words[0])
            return
        if row.verb in facts.LOOKUPS:
            looked = facts.look(self.world, row.verb, row.words[0], row.options)
        else:
            looked = self._run(row)
        if row.expected is None:
            # A row that only prepares must do so; a refusal would make the scenario prove less.
            assert looked[0] not in facts.REFUSALS, (row.text, looked)
            return
        _compare(row, looked)

    def _run(self, row: Row) -> facts.Facts:
        command = script.command(row.verb, row.words, row.options, f"key-{self.steps}")
        outcome = self.world.run(command)
        word, found = facts.of_outcome(outcome)
        identity = command.idempotency
        if word in facts.REFUSALS or identity is None:
            return word, found
        where = (command.tenant, identity.endpoint, identity.key)
        if word == "replay":
            assert self.replies[where] == outcome.reply, f"{row.text}: another reply than before"
        self.replies[where] = outcome.reply
        return word, found


def _compare(row: Row, looked: facts.Facts) -> None:
    word, found = looked
    wrong: list[str] = []
    expected_word, *expected = row.expected or [word]
    if expected_word != word:
        wrong.append(f"{word} instead of {expected_word}")
    for part in expected:
        name, _, value = part.partition("=")
        actual = shown(found[name]) if name in found else f"no fact {name!r}"
        if not (value in actual if name in PARTS else same(value, actual)):
            wrong.append(f"{name} is {actual}, not {value}")
    assert not wrong, f"{row.text}\n  " + "\n  ".join(wrong) + f"\n  {word} {found}"
