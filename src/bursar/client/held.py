"""A reservation that this process holds: kept alive, settled once, never forgotten.

The rule that lives here: the first terminal call decides. Commit, release and dispose race
for one claim; whoever comes second learns that, and never sends anything. The heartbeat
belongs to the claim: it stops with it, whichever way it went.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bursar.client import calls, ending, settling, validation
from bursar.client import context as contexts
from bursar.client.collecting import collecting
from bursar.client.config import CyclesConfig
from bursar.client.exceptions import CyclesError, error_from_response
from bursar.client.heartbeat import Beat, Heartbeat
from bursar.client.heartbeat_failure import HeartbeatFailure
from bursar.client.io import Handle, Io, Timers
from bursar.client.journal import Record
from bursar.client.opening import Opened, Plan
from bursar.client.outcome import Expected, Outcome, classify
from bursar.client.settler import Intent, Settler
from bursar.client.settling import Step
from bursar.client.transport import deadline_s

EARLY = 0.1
RELEASE_FAILED = "Release failed"
log = logging.getLogger("bursar.client")


@dataclass(frozen=True, slots=True)
class Engine:
    """What every guard of one client shares.

    `at_exit` makes an `Io` that blocks, for what is left when the interpreter ends and no
    event loop runs any more.
    """

    config: CyclesConfig
    io: Io
    timers: Timers
    settler: Settler
    at_exit: Callable[[], Io]


class Held:
    """One reservation, from the moment it was granted."""

    def __init__(
        self, engine: Engine, plan: Plan, opened: Opened, release_failed: str = RELEASE_FAILED
    ) -> None:
        """Hold what was granted; nothing runs until `keep_alive`.

        Args:
            engine: the client's.
            plan: what was asked.
            opened: what was granted.
            release_failed: how the error of a release begins that was not confirmed.
        """
        self.engine = engine
        self.plan = plan
        self.opened = opened
        self.context = contexts.from_answer(opened.answer, plan.estimate)
        self.lost: HeartbeatFailure | None = None
        self.release_error: Exception | None = None
        self._release_failed = release_failed
        self._process = os.getpid()
        self._claimed = False
        self._unconfirmed: Record | None = None
        self._claiming = threading.Lock()
        self._heart = Heartbeat(plan.ttl_ms, deadline_s(engine.config) * 1_000)
        self._beating: Handle | None = None
        self._extend_key: str | None = None
        self._on_lost: Callable[[], None] | None = None

    @property
    def reservation_id(self) -> str:
        """The server's id of the reservation."""
        return self.opened.reservation_id

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one that reserved, which will settle it.

        A child may settle it by hand; that its copy of a block or a function ends says nothing.
        """
        return self._process != os.getpid()

    @property
    def finalized(self) -> bool:
        """Whether a terminal call was made."""
        return self._claimed

    @property
    def unconfirmed(self) -> bool:
        """Whether it was committed and nobody knows: see `hand_over`."""
        return self._unconfirmed is not None

    # Life.

    def keep_alive(self, on_lost: Callable[[], None] | None = None) -> None:
        """Start the heartbeat.

        Args:
            on_lost: called once if the heartbeat has to give up while the guard is open.
        """
        self._on_lost = on_lost
        io = self.engine.io
        answer = self.opened.answer
        beat = self._heart.start(
            answer.remaining_ttl_ms,
            answer.expires_at_ms,
            self.opened.sent_ms,
            self.opened.received_ms,
            io.monotonic_ms(),
        )
        wait_s = _wait_s(beat)
        if wait_s is not None:
            self._beating = self.engine.timers.start(wait_s, self._beat)

    def claim(self) -> bool:
        """Take the right to end this reservation, and stop its heartbeat; once."""
        with self._claiming:
            if self._claimed:
                return False
            self._claimed = True
        if self._beating is not None:
            self._beating.cancel()
        return True

    async def _beat(self) -> float | None:
        if self._claimed:  # a worker may have taken this step up just before the claim
            return None
        skipped_ms = self._heart.skip_ms(self.engine.io.monotonic_ms())
        return await self._extend_lease() if skipped_ms is None else skipped_ms / 1_000

    async def _extend_lease(self) -> float | None:
        io = self.engine.io
        sent_ms = io.monotonic_ms()
        key = self._extend_key = self._extend_key or io.new_key()
        outcome = await self._extend(self.plan.ttl_ms, key)
        beat = self._heart.after(outcome, sent_ms, io.monotonic_ms())
        if self._claimed:
            return None
        if outcome.settled:
            self._extended(outcome)
        if beat.new_key:
            self._extend_key = None
        self._observe(beat, outcome)
        return _wait_s(beat)

    async def _extend(self, extend_by_ms: int, key: str) -> Outcome:
        body = {"idempotency_key": key, "extend_by_ms": extend_by_ms}
        call = calls.extend_reservation(self.reservation_id, body)
        return classify(await self.engine.io.send(call), Expected.EXTEND)

    def _extended(self, outcome: Outcome) -> None:
        self.context.update_expires_at_ms(outcome.answer.expires_at_ms)

    def _observe(self, beat: Beat, outcome: Outcome) -> None:
        """Say what went wrong, once for every failure, to the log and to whoever asked."""
        if beat.warning is not None:
            log.warning("heartbeat of reservation %s: %s", self.reservation_id, beat.warning)
        if not beat.failed and beat.stop is None:
            return
        response = outcome.response
        failure = HeartbeatFailure(
            reservation_id=self.reservation_id,
            disposition="stopped" if beat.stop is not None else "retrying",
            reason=beat.stop.value if beat.stop is not None else outcome.verdict.value,
            status=response.status,
            error_code=response.error_code,
            at_ms=self.engine.io.now_ms(),
        )
        log.warning(
            "heartbeat of reservation %s %s: %s (status %s, %s)%s",
            failure.reservation_id,
            failure.disposition,
            failure.reason,
            failure.status,
            failure.error_code or response.error_message,
            "" if beat.stop is not None else "; asked again with the same idempotency key",
        )
        if beat.stop is not None:
            self.lost = failure
            if self.engine.config.heartbeat_policy == "cancel":
                self.context.cancelled.set()
        _tell(self.engine.config.on_heartbeat_failure, failure)
        if self.lost is not None and self._on_lost is not None:
            self._on_lost()

    # Ends.

    async def extend(self, extend_by_ms: int) -> Outcome:
        """Extend the lease once by hand and return what came of it.

        Raises:
            ValueError: `extend_by_ms` is not between 1 and 86400000.
            CyclesProtocolError: the server refused, or nobody knows.
        """
        validation.validate_extend_by_ms(extend_by_ms)
        outcome = await self._extend(extend_by_ms, self.engine.io.new_key())
        if not outcome.settled:
            raise error_from_response("Failed to extend reservation", outcome.response)
        self._extended(outcome)
        return outcome

    def intend(
        self,
        actual: int,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Intent:
        """Write down that `actual`, in the plan's unit, was spent; the caller holds the claim."""
        commit: dict[str, Any] = {
            "idempotency_key": self.plan.commit_key,
            "actual": {"unit": self.plan.unit, "amount": actual},
        }
        if metrics:
            commit["metrics"] = dict(metrics)
        said = {**self.plan.commit_metadata, **(metadata or {})}
        if said:
            commit["metadata"] = said
        return self.engine.settler.intend(self._record(commit))

    def _record(self, commit: dict[str, Any]) -> Record:
        return Record(
            reservation_id=self.reservation_id,
            base_url=self.engine.config.base_url,
            mode="commit",
            commit_body=commit,
            event_fallback_body=settling.event_body(
                self.plan.subject, self.plan.action, commit, self.reservation_id
            ),
            recorded_at_ms=self.engine.io.now_ms(),
            not_before_ms=None,
        )

    async def settle(self, intent: Intent, *, keep: bool = True) -> Step | None:
        """Commit what was intended, by every means; None if that is left to the background.

        Args:
            intent: what was spent.
            keep: whether a commit that settles nothing is asked again in the background.
                Without, the claim is given back, so that the caller can ask again.
        """
        self._unconfirmed = None
        if collecting() and self.engine.config.retry_enabled:
            self.engine.settler.take_over(intent.begin(), 0.0, intent.writing)
            return None
        step = await self.engine.settler.settle(intent, keep=keep)
        if not keep and not step.outcome.final:
            self._unconfirmed = step.record
            self._claimed = False
        return step

    def hand_over(self) -> bool:
        """Leave a commit that was not confirmed to the background; return whether there is one.

        What may have been spent is never released, also where its owner gives up on it.
        """
        record, self._unconfirmed = self._unconfirmed, None
        if record is None:
            return False
        log.warning(
            "reservation %s is not released: its commit was sent and may have been applied; "
            "it is asked again in the background",
            self.reservation_id,
        )
        self.engine.settler.take_over(record)
        return True

    def part(self, reason: str) -> Parting | None:
        """Claim the end of this reservation for a release; None if it was ended before."""
        return Parting(self, reason) if self.claim() else None

    async def give_back(self, reason: str, io: Io | None = None) -> Outcome | None:
        """Release once, by best effort; the caller holds the claim. Never raises.

        After a commit that was not confirmed nothing is released: see `hand_over`.

        Args:
            reason: why, for the server's record; at most 256 characters of it are sent.
            io: what to send with, if not the engine's own.
        """
        if self.hand_over():
            return None
        if collecting():
            ending.release_soon(self, reason)
            return None
        body = {"idempotency_key": self.plan.release_key, "reason": reason[:256]}
        try:
            call = calls.release_reservation(self.reservation_id, body)
            outcome = classify(await (io or self.engine.io).send(call), Expected.RELEASE)
        except Exception as error:  # noqa: BLE001 - the lease ends by itself; the cause goes on
            self._not_released(error)
            return None
        if not outcome.settled:
            self._not_released(error_from_response(self._release_failed, outcome.response))
        return outcome

    def _not_released(self, error: Exception) -> None:
        self.release_error = error
        log.warning(
            "reservation %s was not released (%s); what it holds comes back when its lease ends",
            self.reservation_id,
            error,
        )

    def raise_if_lost(self) -> None:
        """Raise if the heartbeat gave up and the policy is `fail_on_finalize` or `cancel`."""
        if self.lost is not None and self.engine.config.heartbeat_policy != "warn":
            raise HeartbeatLost(self.lost)


class Parting:
    """A claimed reservation on its way to be released, until that begins.

    A task that is cancelled before its first step never runs a line of its coroutine. Whoever
    then loses the parting leaves the release to a thread of the process.
    """

    __slots__ = ("_begun", "_held", "_reason")

    def __init__(self, held: Held, reason: str) -> None:
        """Own the release until `go`."""
        self._begun = False
        self._held = held
        self._reason = reason

    async def go(self) -> Outcome | None:
        """Release it, by best effort."""
        self._begun = True
        return await self._held.give_back(self._reason)

    def __del__(self) -> None:
        """Leave a release that never began to the background."""
        if not self._begun and not self._held.hand_over():
            ending.release_soon(self._held, self._reason)


class HeartbeatLost(CyclesError):
    """The lease of a guarded action could not be kept; what was spent has been committed."""

    def __init__(self, failure: HeartbeatFailure) -> None:
        """Carry the failure that ended the heartbeat."""
        super().__init__(
            f"the heartbeat of reservation {failure.reservation_id} stopped before the action "
            f"ended ({failure.reason}); known spend was committed or is in the journal"
        )
        self.failure = failure


def _wait_s(beat: Beat) -> float | None:
    """Return when to beat, up to a tenth early where that is harmless: fleets fall out of step."""
    if beat.delay_ms is None:
        return None
    early = 1.0 - EARLY * random.random() if beat.early_ok else 1.0
    return beat.delay_ms * early / 1_000


def _tell(callback: Callable[[HeartbeatFailure], None] | None, failure: HeartbeatFailure) -> None:
    if callback is None:
        return
    try:
        callback(failure)
    except Exception:
        log.exception("on_heartbeat_failure raised; the heartbeat goes on")
