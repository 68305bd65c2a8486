"""Accounting after acting: the flow that commits what is known, for as long as it takes.

The rule that lives here: known spend is in the journal before the first attempt leaves, it
is sent under one key for ever, and it is forgotten only when an answer proves that asking
again can change nothing. Nothing here ever releases.

| outcome of an attempt | the record | next |
|---|---|---|
| settled, final | discarded | nothing |
| rejected | set aside as `*.rejected`: somebody has to look | nothing |
| expired, was a commit | rewritten as an event, same key | the event, at once |
| expired, no event can be made, or was an event | kept | the long interval |
| limited, with a time | rewritten with the time before which nothing is sent | then |
| the client was closed, so nothing was sent | kept | a client with the same journal |
| limited, no answer, 5xx, bad 2xx, 3xx | kept | backoff, then the long interval |
| unauthorized, unclassified | kept | the long interval: somebody has to act |

The long interval is `retry_sweep_interval`; without one, the next process asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass, replace

from bursar.client import calls
from bursar.client.config import CyclesConfig
from bursar.client.exceptions import (
    ClientClosed,
    CyclesProtocolError,
    CyclesTransportError,
    error_from_response,
)
from bursar.client.io import Io
from bursar.client.journal import JournalError, Record, default_directory
from bursar.client.outcome import Expected, Outcome, Verdict, classify

RETRY_AFTER_MS_MAX = 3_600_000
RECOVERED = "commit_after_reservation_expired"
log = logging.getLogger("bursar.client")


@dataclass(frozen=True, slots=True)
class Step:
    """One attempt to settle a record, and what follows from it.

    `record` is what the journal holds now, unless the outcome is final. `delay_s` is when it
    is to be asked again; None means not by this process. `attempts` counts the failures of
    its present mode. `journaled` is whether the journal has the record.
    """

    outcome: Outcome
    record: Record
    delay_s: float | None
    attempts: int = 0
    journaled: bool = False

    @property
    def unsent(self) -> bool:
        """Whether nothing was sent because the client was closed before."""
        return isinstance(self.outcome.response.transport_exception, ClientClosed)


def event_body(
    subject: dict[str, object], action: dict[str, object], commit: dict[str, object], rid: str
) -> dict[str, object]:
    """Return the event that accounts for a commit whose reservation has expired.

    It carries the commit's own key and says what it recovers. No overage policy: the money
    is spent, so the server's default, which always accepts, is the right one.
    """
    metadata = commit.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    body: dict[str, object] = {
        "idempotency_key": commit["idempotency_key"],
        "subject": subject,
        "action": action,
        "actual": commit["actual"],
        "metadata": {
            **known,
            "recovered_reservation_id": rid,
            "recovery_reason": RECOVERED,
        },
    }
    if "metrics" in commit:
        body["metrics"] = commit["metrics"]
    return body


async def remember(io: Io, record: Record) -> bool:
    """Put a record into the journal; if that fails, say so and go on. Return whether it is in.

    The spend is known and the server can still be told; refusing to send it because a disk
    is full would lose it for certain.
    """
    return await remembered(io.write(record), record)


async def remembered(writing: Awaitable[None], record: Record) -> bool:
    """Wait until a record is in the journal; return whether it is."""
    try:
        await writing
    except JournalError as error:
        log.error(
            "known spend of reservation %s is not in the journal (%s); it is sent all the same, "
            "and is lost if this process ends before the server has answered",
            record.reservation_id,
            error,
        )
        return False
    return True


async def attempt(io: Io, config: CyclesConfig, record: Record, attempts: int = 0) -> Step:
    """Try once to settle a record, and keep the journal in step with what came back.

    A commit that has expired becomes an event here: first on disk, then at the server.
    """
    step = await _send(io, config, record, attempts)
    if step.record.mode != record.mode:
        step = await _send(io, config, step.record, 0)
    return step


async def _send(io: Io, config: CyclesConfig, record: Record, attempts: int) -> Step:
    if record.mode == "event":
        body = record.event_fallback_body or {}
        outcome = classify(await io.send(calls.create_event(body)), Expected.EVENT)
    else:
        call = calls.commit_reservation(record.reservation_id, record.commit_body)
        outcome = classify(await io.send(call), Expected.COMMIT)
    step = follow(config, record, outcome, attempts, io.now_ms())
    if outcome.final:
        await _conclude(io, step)
    elif step.record != record:
        await remember(io, step.record)
    _report(step, config)
    return step


async def _conclude(io: Io, step: Step) -> None:
    """Take a record that is done with out of the journal; if that fails, say so and go on.

    It will be sent again, under its own key, and the server will say what it said now.
    """
    try:
        if step.outcome.verdict is Verdict.REJECTED:
            await io.set_aside(step.record)
        else:
            await io.discard(step.record)
    except JournalError as error:
        log.error("a record that is done with stays in the journal: %s", error)


def follow(
    config: CyclesConfig, record: Record, outcome: Outcome, attempts: int, now_ms: int
) -> Step:
    """Return what follows from an outcome (the module's table), as data."""
    parked = config.retry_sweep_interval or None
    match outcome.verdict:
        case Verdict.SETTLED | Verdict.FINAL | Verdict.REJECTED:
            return Step(outcome, record, None)
        case _ if isinstance(outcome.response.transport_exception, ClientClosed):
            return Step(outcome, record, None, attempts)
        case Verdict.EXPIRED if record.mode == "commit" and record.event_fallback_body:
            return Step(outcome, replace(record, mode="event", not_before_ms=None), 0.0)
        case Verdict.LIMITED if outcome.retry_after_ms is not None:
            floor_ms = min(outcome.retry_after_ms, RETRY_AFTER_MS_MAX)
            later = replace(record, not_before_ms=now_ms + floor_ms)
            delay_s = max(floor_ms / 1_000, backoff_s(config, attempts))
            return Step(outcome, later, delay_s, attempts + 1)
        case Verdict.AMBIGUOUS | Verdict.LIMITED if attempts < config.retry_max_attempts:
            return Step(outcome, record, backoff_s(config, attempts), attempts + 1)
        case _:
            return Step(outcome, record, parked, attempts + 1)


def backoff_s(config: CyclesConfig, attempts: int) -> float:
    """Return the wait after `attempts` failures, in seconds."""
    return float(
        min(config.retry_initial_delay * config.retry_multiplier**attempts, config.retry_max_delay)
    )


def _report(step: Step, config: CyclesConfig) -> None:
    verdict, record = step.outcome.verdict, step.record
    if verdict is Verdict.SETTLED:
        return
    response = step.outcome.response
    said = response.error_code or response.error_message or f"status {response.status}"
    if verdict is Verdict.REJECTED:
        log.error(
            "the server rejected the known spend of reservation %s (%s); it is not accounted for%s",
            record.reservation_id,
            said,
            ", and its record is set aside in the journal" if config.journal_enabled else "",
        )
    elif verdict is Verdict.FINAL:
        log.warning("reservation %s was settled before: %s", record.reservation_id, said)
    else:
        log.warning(
            "settlement of reservation %s is %s (%s); it is %s",
            record.reservation_id,
            verdict.value,
            said,
            _what_next(step, config),
        )


def _what_next(step: Step, config: CyclesConfig) -> str:
    if config.retry_enabled and step.delay_s is not None:
        return "kept and asked again"
    if config.journal_enabled:
        return "kept in the journal"
    return "not asked again: there is neither a retry nor a journal"


def unsettled(step: Step, prefix: str, config: CyclesConfig) -> CyclesProtocolError | None:
    """Return the error of a settlement whose first attempt settled nothing, or None.

    Where nothing was sent, it says where the record is and who will send it.
    """
    if step.outcome.settled:
        return None
    if not step.unsent:
        return error_from_response(prefix, step.outcome.response)
    said = step.outcome.response.error_message
    cause = step.outcome.response.transport_exception
    return CyclesTransportError(f"{prefix}: {said}. {_whereabouts(step, config)}", cause=cause)


def _whereabouts(step: Step, config: CyclesConfig) -> str:
    if not step.journaled:
        return "The record of this spend is in no journal: account for it with create_event"
    folder = config.journal_dir or default_directory()
    return (
        f"The record of this spend is in the journal {folder}; a client with the same settings "
        "sends it, with its next reservation or flush()"
    )
