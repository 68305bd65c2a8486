"""What came of the guarded actions of a turn, kept until the turn is part of its session.

The rule that lives here: an answer is written down before it is paid for. A process that is
killed after that finds the answer again when its turn is repeated; it asks nobody twice, and
it settles under the same key. An action that has begun and has no answer is begun again under
the next number: what became of the first is not known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bursar.agent.ports import Charge, Finish, ModelEvent, Stop, TextDelta, TokenUsage, ToolCall
from bursar.ids import prefixed_id

KINDS: Mapping[str, type[Any]] = {
    "text": TextDelta,
    "tool": ToolCall,
    "usage": TokenUsage,
    "stop": Stop,
}
NAMES: Mapping[type[Any], str] = {kind: name for name, kind in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Recorded:
    """One guarded action that was answered.

    Attributes:
        attempt: which attempt was answered.
        reservation_id: under which the ledger allowed it.
        asked: a fingerprint of what was asked; another question is another action.
        amount: what it cost, in microcents.
        bound: whether that is only an upper bound.
        answer: JSON values: events of a model, or the text of a tool.
        metrics: what was measured, as it was committed.
    """

    attempt: int
    reservation_id: str
    asked: str
    amount: int
    bound: bool
    answer: Any
    metrics: dict[str, Any] = field(default_factory=dict)


class Calls:
    """The actions of one turn at a time, in memory."""

    def __init__(self) -> None:
        """Know of no action."""
        self.name = ""
        """Sets the keys of these records apart from those of others with the same session id."""
        self._turn = ""
        self._attempts: dict[str, int] = {}
        self._recorded: dict[str, Recorded] = {}

    def recall(self, key: str, asked: str) -> Recorded | None:
        """Return what came of an action, if the same was asked."""
        found = self._recorded.get(key)
        return found if found is not None and found.asked == asked else None

    def begin(self, key: str) -> int:
        """Note that an action begins, and return which attempt it is, from 1."""
        turn = turn_of(key)
        if turn != self._turn:
            self._turn, self._attempts, self._recorded = turn, {}, {}
            self._new_turn()
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        self._append({"begin": key, "attempt": attempt})
        return attempt

    def record(self, key: str, recorded: Recorded) -> None:
        """Keep what came of an action."""
        self._recorded[key] = recorded
        self._append({"done": key, **asdict(recorded)})

    def _new_turn(self) -> None:
        """Forget the turn before."""

    def _append(self, line: dict[str, Any]) -> None:
        """Keep one line; memory keeps nothing beyond the process."""


class FileCalls(Calls):
    """The same in a file beside the session's, so that a killed process finds it again."""

    def __init__(self, path: str | Path) -> None:
        """Read what an earlier process left; a last line that was torn is left out."""
        super().__init__()
        self.name = prefixed_id("")
        self._path = Path(path)
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                self._read(json.loads(line))
            except (ValueError, TypeError, KeyError):
                break  # torn by a crash: nothing after it was promised
        self._write("".join(f"{line}\n" for line in self._lines()))

    def _read(self, line: dict[str, Any]) -> None:
        if "calls" in line:
            self.name = line["calls"]
            return
        key = line.pop("begin", None)
        if key is not None:
            self._turn = turn_of(key)
            self._attempts[key] = line["attempt"]
            return
        key = line.pop("done")
        self._recorded[key] = Recorded(**line)

    def _lines(self) -> list[str]:
        begun = [{"begin": key, "attempt": count} for key, count in self._attempts.items()]
        done = [{"done": key, **asdict(one)} for key, one in self._recorded.items()]
        return [json.dumps(line) for line in [{"calls": self.name}, *begun, *done]]

    def _new_turn(self) -> None:
        self._write(f"{self._lines()[0]}\n")

    def _write(self, text: str) -> None:
        """Replace the file by one step, so that a crash leaves the old or the new one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f"{self._path.name}.new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
            file.flush()
            os.fsync(file.fileno())


def turn_of(key: str) -> str:
    """Return the turn of a key `session/turn/number...`."""
    return "/".join(key.split("/")[:2])


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
