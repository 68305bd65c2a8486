"""Running the service: open, listen, serve until told to stop, finish, let go.

The rule that lives here is the order. The store is open and checked before the port is,
and on SIGTERM the port closes first: what was accepted is finished and answered, then the
writer drains, then the file is released. A server that stopped so exits with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp

from bursar.authority.authority import Authority
from bursar.authority.render import render
from bursar.clock import Clock, SystemClock
from bursar.core.state import Head
from bursar.ledger.batcher import Batcher
from bursar.ledger.service import Ledger
from bursar.server import app, health, jobs, pages, payments, protocol, retention
from bursar.server.adminkey import AdminKey
from bursar.server.attempts import WINDOW_MS, Attempts
from bursar.server.auth import Authenticator
from bursar.server.failures import Failures
from bursar.server.observe import traces
from bursar.server.observe.ledger import LedgerCounts
from bursar.server.observe.telemetry import Telemetry
from bursar.server.settings import Settings
from bursar.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from bursar.server.observe.spans import Spans  # needs the extra `otel`

BACKLOG = 2_048
DRAIN_TIMEOUT_S = 2.0
AHEAD_MS_MAX = 86_400_000
# The writer thread gives up the interpreter lock at every statement. At Python's default of
# 5 ms a busy event loop would keep it from its next statement for that long, each time; much
# less than this, and both threads spend their time on handing the lock over.
SWITCH_INTERVAL_S = 0.001
# Most of what a request makes is freed by its reference count. At Python's default of 700 new
# objects the collector would look for cycles several times in every batch.
COLLECT_AFTER = 20_000
log = structlog.get_logger("bursar.server")


class CannotListen(Exception):
    """The address or port cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Listening:
    """What a started server tells: its address, its store, where its admin key lies."""

    url: str
    store: str
    admin_key_file: str | None


class _Server(uvicorn.Server):
    """uvicorn's server, stopping on a signal without passing the signal on.

    uvicorn raises the signal again once it has stopped, so the process would end as
    killed; a server that finished its work has nothing to be killed for.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        """Serve `config`; call `started` once requests are taken."""
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to take requests, and say so."""
        await super().startup(sockets)
        self._started()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Turn SIGINT and SIGTERM into a request to stop while serving."""
        former = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def serve(
    settings: Settings,
    store: SqliteStore,
    admin_key: AdminKey,
    started: Callable[[Listening], None],
) -> None:
    """Serve `store` until SIGTERM or SIGINT; call `started` once requests are taken.

    Raises:
        CannotListen: the address is in use or not this machine's.
        SettingError: the settings insist on spans, and they cannot be made.
    """
    spans = traces.obtain(settings.traces, os.environ)
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    file = None if admin_key.file is None else str(admin_key.file)
    listening = Listening(f"http://{shown}:{port}", str(store.path), file)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # modules and models live as long as the process: no need to look at them again
    gc.set_threshold(COLLECT_AFTER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, store, admin_key, listener, spans, lambda: started(listening)))


async def _serve(
    settings: Settings,
    store: SqliteStore,
    admin_key: AdminKey,
    listener: socket.socket,
    spans: Spans | None,
    started: Callable[[], None],
) -> None:
    reader = store.reader
    clock = _clock(reader.heads())
    telemetry = Telemetry(LedgerCounts(settings.metrics_tenants_max), spans=spans)
    batcher = Batcher(
        Ledger(store, clock, render), queue_max=settings.queue_max, observer=telemetry
    )
    authority = Authority(batcher, reader, clock, reader.pepper())
    attempts = Attempts(settings.auth_failures_per_minute)
    authenticator = Authenticator(
        reader, clock, authority.pepper, admin_key.key, settings.key_cache_ms, attempts
    )
    failures = Failures(batcher, clock, attempts)
    state = health.State(batcher, reader, clock)
    reconciliation = payments.Reconciliation(settings, store.path)
    of_payments = (reconciliation.collector(), reconciliation.alerting.collector())
    scrape = telemetry.exposition(state, store.statistics, *of_payments).page
    shown: dict[str, ASGIApp] = {
        "/metrics": pages.MetricsPage(scrape, authenticator, settings.metrics_key),
        **pages.description(),
    }
    observers = telemetry.request_observers
    asgi = app.build(authority, authenticator, settings, state, failures, observers, shown)
    server = _Server(_config(asgi, settings, clock), started)
    work = [
        jobs.expire_forever(batcher, reader, clock, settings.sweep_interval_ms, telemetry),
        jobs.renew_forever(batcher, reader, clock, settings.sweep_interval_ms),
        telemetry.service.watch_loop(),
        retention.finish_forever(failures, clock),
        retention.forget_forever(store, clock, settings.audit_days, settings.audit_stranger_days),
        reconciliation.run_forever(),
    ]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await server.serve(sockets=[listener])
    finally:
        state.stopping = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        failures.finish(clock.now_ms() + WINDOW_MS)  # of windows that are not over too
        if await asyncio.to_thread(batcher.close, DRAIN_TIMEOUT_S):
            log.info("stopped", store=str(store.path))
        else:
            log.error("stopped while the store hung; what it was doing then is unknown")
        await asyncio.to_thread(telemetry.close)


def _config(asgi: ASGIApp, settings: Settings, clock: Clock) -> uvicorn.Config:
    """Return how uvicorn serves the application."""
    return uvicorn.Config(
        asgi,
        http=protocol.protocol_class(clock, settings.header_timeout_s, settings.connections_max),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here trusts, or reads, where a proxy says it was
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.stop_timeout_s,
        backlog=BACKLOG,
    )


def _clock(heads: Mapping[str, Head]) -> SystemClock:
    """Return the ledger's clock, which goes on from the newest time that was stored.

    A ledger that is a little ahead of the wall clock has seen that clock set back. One that
    is days ahead has seen it wrong before; following it would expire everybody's keys, so
    only the tenants that lived through it keep their time.
    """
    newest_ms = max((head.at_ms for head in heads.values()), default=0)
    clock = SystemClock()
    ahead_ms = newest_ms - clock.now_ms()
    if ahead_ms <= AHEAD_MS_MAX:
        return SystemClock(not_before_ms=newest_ms)
    ahead = sorted(name for name, head in heads.items() if head.at_ms > clock.now_ms())
    log.error(
        "these tenants have entries from the future, so their leases stand still until the wall "
        "clock gets there; check the clock",
        tenants=ahead[:20],
        ahead_ms=ahead_ms,
    )
    return clock


def _listen(settings: Settings) -> socket.socket:
    host = settings.host.strip("[]")
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:  # a name that no name server could be asked for
        why = getattr(error, "strerror", None) or error
        raise CannotListen(
            f"cannot listen on {settings.host} port {settings.port}: {why}; "
            "choose another --host or --port (0 takes a free one)"
        ) from error
    return listener
