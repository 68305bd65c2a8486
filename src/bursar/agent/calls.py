"""What came of the guarded actions of a turn, kept until the turn is part of its session.

The rule that lives here: an answer is written down before it is paid for, and stays written
down until the ledger has confirmed it. What a process that was killed had written is found by
the next one:

| of an action there is | its turn is repeated | another turn begins |
|---|---|---|
| an answer | nobody is asked again; it is settled under its key | it is settled under its key |
| an answer, and word of its settlement | the same; the ledger replays what it said | forgotten |
| that it broke off | it is begun again; its bound is settled | its bound is settled |
| only that it began | it is begun again under the next number | forgotten |

What was forgotten was spent all the same: its sum stays, for each session, so that turns that did
not commit count against the session's money as well.

What became of an action that only began is not known, and nothing is charged for it: nobody
extends the lease of its reservation any more, so its hold ends with that lease.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bursar.agent.alone import Hold
from bursar.agent.ports import Charge, Finish, ModelEvent, Stop, TextDelta, TokenUsage, ToolCall
from bursar.agent.sessions import sync
from bursar.ids import prefixed_id

SCHEMA = 1

KINDS: Mapping[str, type[Any]] = {
    "text": TextDelta,
    "tool": ToolCall,
    "usage": TokenUsage,
    "stop": Stop,
}
NAMES: Mapping[type[Any], str] = {kind: name for name, kind in KINDS.items()}
Attempt = tuple[str, int]
"""The key of an action, and which attempt at it."""


class CallsFormatError(ValueError):
    """A file that has no calls of an agent, or those of a later version."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One guarded action that was answered.

    Attributes:
        attempt: which attempt was answered.
        reservation_id: under which the ledger allowed it.
        name: of the model or the tool.
        kind: of the action, as the ledger was told.
        asked: a fingerprint of what was asked; another question is another action.
        amount: what it cost, in microcents.
        bound: whether that is only an upper bound.
        answer: JSON values: events of a model, or the text of a tool; None if it broke off.
        metrics: what was measured, as it was committed.
    """

    attempt: int
    reservation_id: str
    name: str
    kind: str
    asked: str
    amount: int
    bound: bool
    answer: Any
    metrics: dict[str, Any] = field(default_factory=dict)


class Calls:
    """The actions of one turn at a time, and what earlier ones owe, in memory."""

    def __init__(self, name: str | None = None) -> None:
        """Know of no action.

        Args:
            name: sets the keys of these records apart from all others, whatever their sessions
                are called; None draws one.
        """
        self.name = prefixed_id("") if name is None else name
        self._turn = ""
        self._begun = 0
        self._done: dict[Attempt, Recorded] = {}
        self._settled: set[Attempt] = set()
        self._forgotten: dict[str, int] = {}
        self._committed: dict[str, int] = {}

    def spent(self, session: str, committed: int) -> int:
        """Return what a session has spent, in turns that committed and in others.

        `committed` is what its turns cost; it is kept from the first time on, for what was paid
        before these records began.
        """
        if session not in self._committed:
            self._committed[session] = committed
            self._append({"session": session, "committed": committed})
        amounts = (one.amount for (key, _), one in self._done.items() if session_of(key) == session)
        return self._committed[session] + self._forgotten.get(session, 0) + sum(amounts)

    def recall(self, key: str, asked: str) -> Recorded | None:
        """Return what came of an action, if the same was asked."""
        found = (
            one
            for (name, _), one in self._done.items()
            if name == key and one.asked == asked and one.answer is not None
        )
        return next(found, None)

    def begin(self, key: str) -> int:
        """Note that an action begins, and return the number of the attempt.

        No number is given out twice, whatever was forgotten since: under a used one the ledger
        would answer with what it said before, and nothing would be reserved.
        """
        turn = turn_of(key)
        if turn != self._turn:
            self._turn = turn
            self._forget()
        self._begun += 1
        self._append({"begin": key, "attempt": self._begun})
        return self._begun

    def record(self, key: str, recorded: Recorded) -> None:
        """Keep what came of an action; it is owed until it is `settled`."""
        self._done[key, recorded.attempt] = recorded
        self._append({"done": key, **asdict(recorded)})

    def settled(self, key: str, attempt: int) -> None:
        """Note that the ledger has confirmed an attempt."""
        if (key, attempt) in self._done:
            self._settled.add((key, attempt))
            self._append({"settled": key, "attempt": attempt}, durably=False)

    def owed(self, key: str) -> list[tuple[str, Recorded]]:
        """Return what is not settled and will not be recalled any more, once `key` begins.

        That is what other turns have left, and what this key was before it is asked anew.
        """
        turn = turn_of(key)
        return [
            (name, one)
            for (name, attempt), one in self._done.items()
            if (name, attempt) not in self._settled and (name == key or turn_of(name) != turn)
        ]

    def _forget(self) -> None:
        """Forget the turn before, but neither what is owed nor what it cost."""
        for (key, attempt), one in self._done.items():
            if (key, attempt) in self._settled:
                before = self._forgotten.get(session_of(key), 0)
                self._forgotten[session_of(key)] = before + one.amount
        self._done = {which: one for which, one in self._done.items() if which not in self._settled}
        self._settled = set()

    def _append(self, line: dict[str, Any], *, durably: bool = True) -> None:
        """Keep one line; memory keeps nothing beyond the process."""


class FileCalls(Calls):
    """The same in a file beside the session's, so that a killed process finds it again.

    It is the file's only user until it is closed, collected, or its process ends.
    """

    def __init__(self, path: str | Path) -> None:
        """Take the file, and read what an earlier process left.

        Raises:
            FileInUseError: another `FileCalls` has it, of this process or of another one.
            CallsFormatError: the file is something else, or damaged; it is as it was.
            OSError: the file system refused.
        """
        super().__init__()
        self._path = Path(path)
        self._hold = Hold(self._path)
        try:
            self._load()
            self._write()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let somebody else have the file; nothing can be kept in it here any more."""
        self._hold.release()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _load(self) -> None:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except IsADirectoryError as wrong:
            raise CallsFormatError(f"{self._path} is a directory; name a file") from wrong
        for number, line in enumerate(lines, 1):
            try:
                self._read(json.loads(line))
            except CallsFormatError:
                raise
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as wrong:
                if number == len(lines) > 1:
                    return  # torn by a crash: it was not promised to anybody
                raise CallsFormatError(
                    f"{self._path}, line {number}: not a line of an agent's calls"
                    f" ({wrong!r}); name another file, or move this one away: what it says is not"
                    " settled then"
                ) from wrong

    def _read(self, line: dict[str, Any]) -> None:
        if "calls" in line:
            if line["schema"] != SCHEMA:
                raise CallsFormatError(
                    f"{self._path} has schema {line['schema']!r}, and this version reads {SCHEMA}:"
                    " use the version of Bursar that wrote it"
                )
            self.name = line["calls"]
            self._turn, self._begun = line.get("turn", ""), line.get("begun", 0)
            self._forgotten = dict(line.get("forgotten", {}))
            self._committed = dict(line.get("committed", {}))
        elif "session" in line:
            self._committed[line["session"]] = line["committed"]
        elif "begin" in line:
            self._turn = turn_of(line["begin"])
            self._begun = max(self._begun, line["attempt"])
        elif "settled" in line:
            self._settled.add((line["settled"], line["attempt"]))
        else:
            key = line.pop("done")
            recorded = Recorded(**line)
            self._done[key, recorded.attempt] = recorded

    def _lines(self) -> list[dict[str, Any]]:
        return [
            {"calls": self.name, "schema": SCHEMA, **self._sums()},
            *({"done": key, **asdict(one)} for (key, _), one in self._done.items()),
            *({"settled": key, "attempt": attempt} for key, attempt in sorted(self._settled)),
        ]

    def _sums(self) -> dict[str, Any]:
        sums = {"forgotten": self._forgotten, "committed": self._committed}
        return {"turn": self._turn, "begun": self._begun, **sums}

    def _forget(self) -> None:
        super()._forget()
        self._write()

    def _write(self) -> None:
        """Replace the file by one step, so that a crash leaves the old or the new one."""
        self._hold.check()
        fresh = self._path.with_name(f"{self._path.name}.new")
        with open(fresh, "w", encoding="utf-8", opener=_private) as file:
            file.writelines(f"{json.dumps(line)}\n" for line in self._lines())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        sync(self._path.parent)  # or what is appended below is lost with the old name

    def _append(self, line: dict[str, Any], *, durably: bool = True) -> None:
        self._hold.check()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
            file.flush()
            if durably:
                os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner can read: it has what the agent said."""
    return os.open(path, flags, 0o600)


def turn_of(key: str) -> str:
    """Return the turn of a key `session/turn/number...`."""
    return "/".join(key.split("/")[:2])


def session_of(key: str) -> str:
    """Return the session of a key."""
    return key.split("/", 1)[0]


def written(events: list[ModelEvent]) -> list[Any]:
    """Return a model's answer as JSON values."""
    return [[NAMES[type(one)], asdict(one)] for one in events if not isinstance(one, Charge)]


def read(answer: list[Any]) -> list[ModelEvent]:
    """Return a model's answer from JSON values."""
    found: list[ModelEvent] = []
    for name, fields in answer:
        if name == "stop":
            found.append(Stop(Finish(fields["finish"])))
        else:
            found.append(KINDS[name](**fields))
    return found
