"""Putting a client together: configuration, transport, journal, timers, settler.

The rule that lives here: the two shells are built from the same parts, and differ in three
of them: the transport, the `Io` around it, and the timers.
"""

from __future__ import annotations

import functools

from bursar.client import timers
from bursar.client.config import CyclesConfig
from bursar.client.held import Engine
from bursar.client.io import Io
from bursar.client.journal import Identity, Journal
from bursar.client.settler import Settler
from bursar.client.shell import AsyncIo, BlockingIo, JournalOf
from bursar.client.timers import LoopTimers
from bursar.client.transport import AsyncTransport, Transport


def blocking_engine(config: CyclesConfig, transport: Transport) -> Engine:
    """Return the engine of a synchronous client."""
    journal = _journal(config)
    io = BlockingIo(transport, journal)

    def at_exit() -> Io:
        return io

    settler = Settler(io, timers.shared(), config, _identity(config, io), at_exit)
    return Engine(config, io, timers.shared(), settler, at_exit)


def loop_engine(config: CyclesConfig, transport: AsyncTransport) -> Engine:
    """Return the engine of an asynchronous client."""
    journal = _journal(config)
    io = AsyncIo(transport, journal)
    wheel = LoopTimers()

    @functools.cache
    def at_exit() -> Io:
        return BlockingIo(transport.blocking(), journal)

    settler = Settler(io, wheel, config, _identity(config, io), at_exit)
    return Engine(config, io, wheel, settler, at_exit)


def _journal(config: CyclesConfig) -> JournalOf | None:
    """Return how to open the client's journal, once; None if it keeps none."""
    if not config.journal_enabled:
        return None

    @functools.cache
    def journal() -> Journal:
        identity = Identity.of(config.base_url, config.api_key, config.tenant)
        return Journal(config.journal_dir, identity)

    return journal


def _identity(config: CyclesConfig, io: Io) -> tuple[object, ...]:
    """Return what two clients of one process share if they share a journal."""
    if not config.journal_enabled:
        return (id(io),)
    return (config.journal_dir, config.base_url, config.tenant or None, config.api_key)
