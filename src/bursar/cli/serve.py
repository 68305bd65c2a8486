"""`bursar serve`: one process, one file, a working budget authority."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from bursar.cli.exits import EXIT_ADMIN_KEY, EXIT_LISTEN, EXIT_STORE, EXIT_USAGE, CommandError
from bursar.ledger.ports import StoreUnusable
from bursar.server import adminkey, logs, run
from bursar.server.settings import SettingError, load
from bursar.storage.sqlite.store import SqliteStore


def serve(
    *,
    store: str | None = None,
    host: str | None = None,
    port: int | None = None,
    migrate: bool = False,
    log_level: str | None = None,
    payments_rpc: Annotated[list[str] | None, Parameter(negative="")] = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Serve the Cycles protocol from one SQLite file, until SIGTERM or Ctrl-C.

    Every other setting comes from a BURSAR_* environment variable; the reference lists them.

    Example: bursar serve --store sqlite:///bursar.db --port 7878

    Parameters
    ----------
    store
        Where the ledger lives: sqlite:///FILE; created when new. Default sqlite:///bursar.db.
    host
        Address to listen on. Default 127.0.0.1; another one needs BURSAR_ADMIN_KEY.
    port
        Port to listen on; 0 takes a free one. Default 7878.
    migrate
        Bring a store of an older schema up to date before serving. Back it up first.
    log_level
        debug (each request), info, warning or error. Default info.
    payments_rpc
        NETWORK=URL, whom to ask what became of payments, such as eip155:8453=https://rpc.example;
        twice for a network gives two witnesses. Without it no payments are looked at.
    as_json
        Say what is served as one JSON object on standard output.
    """
    given = {"store": store, "host": host, "port": port, "log_level": log_level}
    given["payments_rpc"] = None if payments_rpc is None else " ".join(payments_rpc)
    try:
        settings = load(os.environ, given)
    except SettingError as error:
        raise CommandError(EXIT_USAGE, str(error)) from error
    logs.configure(settings.log_level)
    try:
        adminkey.check(settings)  # before the store: a refused start leaves no new ledger behind
        opened = SqliteStore.open(settings.store_path, migrate=migrate, exclusive=True)
    except adminkey.AdminKeyError as error:
        raise CommandError(EXIT_ADMIN_KEY, str(error)) from error
    except StoreUnusable as error:
        raise CommandError(EXIT_STORE, str(error)) from error
    try:
        key = adminkey.obtain(settings)
        run.serve(settings, opened, key, lambda listening: _announce(listening, as_json))
    except adminkey.AdminKeyError as error:
        raise CommandError(EXIT_ADMIN_KEY, str(error)) from error
    except SettingError as error:  # one that only shows now: what it needs is not installed
        raise CommandError(EXIT_USAGE, str(error)) from error
    except run.CannotListen as error:
        raise CommandError(EXIT_LISTEN, str(error)) from error
    finally:
        opened.close()


def _announce(listening: run.Listening, as_json: bool) -> None:
    """Tell where the server is, on standard output."""
    if as_json:
        facts = {
            "url": listening.url,
            "store": listening.store,
            "admin_key_file": listening.admin_key_file,
            "pid": os.getpid(),
        }
        print(json.dumps(facts), flush=True)
        return
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.print(f"[bold]bursar[/bold] serves {listening.url}")
    console.print(f"  ledger     {listening.store}")
    kept = listening.admin_key_file or "given in BURSAR_ADMIN_KEY"
    console.print(f"  admin key  {kept}")
    console.print("  stop with Ctrl-C or SIGTERM")
    sys.stdout.flush()
