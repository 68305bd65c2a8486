"""The same ledger in this process: no server, no port, the same answers.

The rule that lives here: an embedded client differs from a remote one in its transport and
in nothing else. A call becomes the operation that a server would perform, in the same
transaction, with the same refusals; several processes may embed the same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

from bursar import ids
from bursar.authority import budgets, listing, refusals, runtime, tenants
from bursar.authority.authority import Authority
from bursar.authority.call import Answer
from bursar.authority.call import Call as Asked
from bursar.authority.principal import OPERATOR, Principal
from bursar.authority.render import render
from bursar.authority.unforeseen import refused_of
from bursar.client import timers, validation
from bursar.client.calls import Call
from bursar.client.exceptions import ClientClosed, error_from_response
from bursar.client.io import Handle
from bursar.client.provisioning import BudgetFields, amount_of, fields_of
from bursar.client.response import CyclesResponse
from bursar.clock import SystemClock
from bursar.flow import run_sync
from bursar.ledger import sweep
from bursar.ledger.batcher import Batcher, Closed, Overloaded
from bursar.ledger.ports import Reader, StoreError, StoreUnusable
from bursar.ledger.service import Ledger, Outcome
from bursar.storage.sqlite.store import SqliteStore
from bursar.vocabulary import ErrorCode, FundOperation, Permission, Unit

MEMORY = ":memory:"
SWEEP_S = 5.0
Operation = Callable[[Authority, Asked], Awaitable[Answer]]

OPERATIONS: Mapping[str, Operation] = {
    "createReservation": runtime.reserve,
    "commitReservation": runtime.commit,
    "releaseReservation": runtime.release,
    "extendReservation": runtime.extend,
    "decide": runtime.decide,
    "createEvent": runtime.debit,
    "listReservations": listing.list_reservations,
    "getReservation": listing.get_reservation,
    "getBalances": listing.get_balances,
}


class _Waiting:
    """A batcher whose callers block: what operations await is there when it returns."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def execute(self, command: Any) -> Outcome:
        """Execute a command and return its outcome once durable."""
        return self._batcher.perform(command)

    def submit(self, command: Any) -> Future[Outcome]:
        """Queue a command; the future holds its outcome once durable."""
        return self._batcher.submit(command)


class LedgerClosed(ClientClosed):
    """A call came after the client was closed, or in a forked child; it was not sent."""


class EmbeddedLedger:
    """A transport that is the ledger itself, for one tenant; safe to share between threads."""

    def __init__(self, path: str | Path, tenant: str) -> None:
        """Open or create the file, and the tenant in it.

        Args:
            path: the ledger's file; `:memory:` is a new one that vanishes with this object.
            tenant: who spends: 3 to 64 of `a-z`, `0-9` and `-`.

        Raises:
            StoreUnusable: the file is foreign, corrupt, or of another schema.
            CyclesProtocolError: the tenant cannot be created.
        """
        self.tenant = tenant
        self._principal = Principal(tenant, permissions=frozenset(Permission))
        self._opening = threading.Lock()
        self._closed = False
        self._forked = False
        folder = tempfile.mkdtemp(prefix="bursar-") if str(path) == MEMORY else None
        self._file = Path(folder, "ledger.db") if folder else Path(path)
        self._vanish = weakref.finalize(self, _vanish, folder, os.getpid())
        self._open()
        _live.add(self)
        self._named({"tenant_id": tenant, "name": tenant})

    def _open(self) -> None:
        """Open the file and start what works on it."""
        _refuse_inherited(self._file)
        self._store = SqliteStore.open(self._file)
        newest_ms = max((head.at_ms for head in self._store.reader.heads().values()), default=0)
        self._clock = SystemClock(not_before_ms=newest_ms)
        self._batcher = Batcher(Ledger(self._store, self._clock, render))
        self._authority = Authority(
            cast(Batcher, _Waiting(self._batcher)),
            self._store.reader,
            self._clock,
            self._store.reader.pepper(),
        )
        self._sweeping: Handle = timers.shared().start(SWEEP_S, _sweeper(self))

    def forked(self) -> None:
        """Take note that this is a forked child's copy, which must never touch the file.

        SQLite keeps a process's locks in its memory; a child has the memory and not the locks,
        so what it commits could be lost. Closing what the parent opened breaks locks as well.
        """
        self._opening = threading.Lock()
        if not self._closed:
            self._forked = True
            _left[self._file.absolute()] = (self._store, self._batcher, self._authority)

    def _ready(self) -> None:
        """Make sure that the file is open, and was opened by this process.

        Raises:
            LedgerClosed: it is not.
        """
        if self._closed:
            raise LedgerClosed(
                f"the client of tenant {self.tenant} is closed and sent nothing; open another with "
                "CyclesClient.embedded or AsyncCyclesClient.embedded"
            )
        if self._forked:
            raise LedgerClosed(_FORKED.format(file=self._file))

    def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call; never raises `Exception`."""
        body = b"" if call.content is None else call.content
        path = {} if call.reservation_id is None else {"reservation_id": call.reservation_id}
        operation = OPERATIONS[call.operation]
        return self._perform(operation, self._principal, body, query=call.query, path=path)

    def create_budget(
        self,
        allocated: str | int,
        *,
        scope: str | None = None,
        unit: Unit | str | None = None,
        exist_ok: bool = False,
        **more: Unpack[BudgetFields],
    ) -> dict[str, Any]:
        """Create a budget and return it as the admin plane shows it.

        Args:
            allocated: how much, as people write it (`20USD`, `1.5M tokens`), or an int64 of
                `unit`.
            scope: the path it limits; None is the whole tenant.
            unit: the unit of an int; None is USD_MICROCENTS.
            exist_ok: whether a budget that is there already is returned as it is.
            more: what else a budget can have; see `BudgetFields`.

        Raises:
            AmountError: the amount cannot be understood.
            CyclesProtocolError: it exists already (DUPLICATE_RESOURCE), or was refused.
        """
        amount = amount_of(allocated, unit)
        named = self._budget(scope, amount["unit"])
        fields = fields_of(more, amount["unit"])
        body = validation.encode_body({**named, "allocated": amount, **fields})
        response = self._perform(budgets.create_budget, OPERATOR, body)
        if response.error_code == ErrorCode.DUPLICATE_RESOURCE:
            if not exist_ok:
                raise error_from_response("Failed to create budget", _with_fix(response))
            response = self._perform(budgets.lookup_budget, OPERATOR, b"", query=named)
        return _done("create budget", response)

    def credit_budget(
        self, amount: str | int, *, scope: str | None = None, unit: Unit | str | None = None
    ) -> dict[str, Any]:
        """Add to a budget and return what it had and has.

        Args:
            amount: how much, as for `create_budget`.
            scope: the path that the budget limits; None is the whole tenant.
            unit: the unit of an int; None is USD_MICROCENTS.

        Raises:
            AmountError: the amount cannot be understood.
            CyclesProtocolError: there is no such budget, or it was refused.
        """
        credited = amount_of(amount, unit)
        named = self._budget(scope, credited["unit"])
        body = json.dumps({"operation": FundOperation.CREDIT, "amount": credited}).encode()
        response = self._perform(budgets.fund_budget, OPERATOR, body, query=named)
        return _done("credit budget", response)

    @property
    def reader(self) -> Reader:
        """What the ledger says, for a program that audits its own."""
        self._ready()
        return self._store.reader

    def _budget(self, scope: str | None, unit: str) -> dict[str, str]:
        """Return what names a budget of this tenant."""
        return {
            "tenant_id": self.tenant,
            "scope": scope or f"tenant:{self.tenant}",
            "unit": unit,
        }

    def close(self) -> None:
        """Finish what was accepted and let go of the file."""
        with self._opening:
            if self._closed:
                return
            self._closed = True
        if not self._forked:
            self._sweeping.cancel()
            self._batcher.close()
            self._store.close()
        self._vanish()

    def sweep(self) -> None:
        """Expire leases that are over; a server has a job for it, a process has this."""
        with contextlib.suppress(StoreError, Overloaded, Closed):
            now_ms, trace_id = self._clock.now_ms(), ids.new_trace_id()
            for command in sweep.plan(self._store.reader, now_ms, trace_id):
                self._batcher.submit(command)

    def _named(self, tenant: Mapping[str, str]) -> None:
        body = json.dumps(tenant).encode()
        made = self._perform(tenants.create_tenant, OPERATOR, body)
        if made.error_code != ErrorCode.DUPLICATE_RESOURCE:  # it keeps the name that it has
            _done("open the ledger", made)

    def _perform(
        self,
        operation: Operation,
        principal: Principal,
        body: bytes,
        query: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
    ) -> CyclesResponse:
        try:
            self._ready()
        except LedgerClosed as error:
            return CyclesResponse.transport_error(error)
        request_id, trace_id = ids.new_id(self._clock.now_ms()), ids.new_trace_id()
        asked = Asked(principal, request_id, trace_id, body, query=query or {}, path=path or {})
        headers = {"x-request-id": request_id, "x-cycles-trace-id": trace_id}
        try:
            answer: Answer = run_sync(cast(Any, operation(self._authority, asked)))
        except Exception as error:  # noqa: BLE001 - a caller gets an answer, as from a server
            refused = refused_of(error)
            headers |= refusals.headers(refused)
            answer = refusals.answer(refused, request_id, trace_id)
        found = json.loads(answer.body)
        if answer.status < 300:
            return CyclesResponse.success(answer.status, found, headers)
        return CyclesResponse.http_error(answer.status, found["message"], found, headers)


class AsyncEmbeddedLedger:
    """The same transport for event loops: what blocks runs on a thread."""

    def __init__(self, ledger: EmbeddedLedger) -> None:
        """Share an open ledger."""
        self.ledger = ledger

    async def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call; never raises `Exception`."""
        return await asyncio.to_thread(self.ledger.send, call)

    async def aclose(self) -> None:
        """Finish what was accepted and let go of the file."""
        await asyncio.to_thread(self.ledger.close)

    def blocking(self) -> EmbeddedLedger:
        """Return the blocking transport underneath, for the end of the process."""
        return self.ledger


_live: weakref.WeakSet[EmbeddedLedger] = weakref.WeakSet()
_left: dict[Path, object] = {}
"""What a forked child has of its parent's, by file; kept, so that nothing closes it."""

_FORKED = (
    "{file} was open in the parent when this process was forked, and SQLite's locks do not survive "
    "that; nothing was sent. Open the client after the fork only, or start processes with spawn"
)


def _refuse_inherited(file: Path) -> None:
    for left in _left:
        if left == file.absolute() or (left.exists() and file.exists() and left.samefile(file)):
            raise StoreUnusable(_FORKED.format(file=file))


def _after_fork() -> None:
    for ledger in _live:
        ledger.forked()


def _vanish(folder: str | None, owner: int) -> None:
    """Remove the folder of a ledger in memory; a forked child leaves its parent's alone."""
    if folder is not None and os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _sweeper(ledger: EmbeddedLedger) -> Callable[[], Any]:
    """Return a step that sweeps for as long as somebody holds the ledger."""
    held = weakref.ref(ledger)

    async def step() -> float | None:
        found = held()
        if found is None:
            return None
        found.sweep()
        return SWEEP_S

    return step


def _with_fix(duplicate: CyclesResponse) -> CyclesResponse:
    """Return the refusal of a second budget, with what helps in a program."""
    body = duplicate.body or {}
    message = f"{body.get('message')} (credit_budget), or take it as it is with exist_ok=True"
    return replace(duplicate, body={**body, "message": message})


def _done(what: str, response: CyclesResponse) -> dict[str, Any]:
    if not response.is_success:
        raise error_from_response(f"Failed to {what}", response)
    return response.body or {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
