"""`bursar demo`: play the scenes on a throw-away server, and tell whether all of it held.

The rule that lives here: the exit code is 0 only if every check of every scene held, and
whatever happens the server and its directory are gone afterwards, unless they were to stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json as json_module
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, cast

import uvloop
from cyclopts import Parameter
from rich.text import Text

from bursar.cli.demo.api import AnswerLost, Api, Json, Unexpected
from bursar.cli.demo.journal import Journal
from bursar.cli.demo.scenes import SCENES
from bursar.cli.demo.server import Server
from bursar.cli.demo.show import Show, console_for, facts, table
from bursar.cli.demo.stage import MAX_OUTPUT_TOKENS, MODEL, TENANT, Outcome, Scene, Stage
from bursar.cli.demo.traffic import traffic
from bursar.cli.exits import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    CommandError,
)
from bursar.cli.replay.pricing import ModelTariff, priced
from bursar.cli.replay.trace import Trace
from bursar.integrations.genai_prices import ListPrice
from bursar.invariant import require

SEED = 1


def demo(
    story: Annotated[Literal["budgets", "payments"], Parameter(help="What is shown.")] = "budgets",
    /,
    *,
    seed: Annotated[int, Parameter(help="Decides the traffic and every cost.")] = SEED,
    keep: Annotated[
        bool, Parameter(negative="", help="Leave the server and its ledger running.")
    ] = False,
    json: Annotated[
        bool, Parameter(negative="", help="Print one JSON object with every figure.")
    ] = False,
) -> int:
    """Show the whole promise in half a minute, against a real server.

    Starts `bursar serve` on a temporary ledger and a free port, and plays: a tenant with
    three levels of budgets, a runaway agent, fifty agents on one budget, a SIGKILL in the
    middle, an expired lease, ten minutes of production-shaped traffic, and an audit of it
    all. The exit code is 0 only if every check held; 1 if one did not; 130 if interrupted.
    `bursar demo payments` plays another story, on a local chain, for which it needs Node.js:
    a payment whose answer is lost, the orphan, and the proof.

        bursar demo --keep
    """
    if story == "payments":
        return _payments(seed=seed, keep=keep, json=json)
    show = Show(console_for(as_json=json))
    try:
        document = perform(show, SCENES, seed=seed, keep=keep)
    except (Unexpected, AnswerLost) as error:
        raise CommandError(EXIT_FAILED, f"the demo cannot go on: {error}") from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: the server is stopped and its ledger removed", file=sys.stderr)
        return EXIT_INTERRUPTED
    if json:
        print(json_module.dumps(document, indent=2))
    return EXIT_OK if document["ok"] else EXIT_FAILED


def _payments(*, seed: int, keep: bool, json: bool) -> int:
    """Play the other story; its options are its own."""
    if keep or seed != SEED:
        raise CommandError(
            EXIT_USAGE, "--seed and --keep are options of `bursar demo`, not of its payments"
        )
    try:
        import bursar.x402.ethereum  # noqa: F401 - it is asked whether it can be imported
        from bursar.cli.demo.payments import payments
    except ModuleNotFoundError as error:  # it says what to install
        raise CommandError(EXIT_USAGE, str(error)) from error
    return payments(json=json)


def perform(show: Show, scenes: Sequence[Scene], *, seed: int, keep: bool) -> Json:
    """Play `scenes` on a server of their own and return every figure.

    Raises:
        CommandError: the server cannot be started or stopped.
        Unexpected: it answered what no scene foresees.
        AnswerLost: it no longer answers.
        asyncio.CancelledError: a signal ended it.
    """
    directory = Path(tempfile.mkdtemp(prefix="bursar-demo-"))
    server = Server(directory)
    kept = False
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            document = runner.run(_perform(show, scenes, server, seed, keep))
        kept = keep
        return document
    finally:
        if kept:
            server.let_go()
        else:
            server.kill()
            shutil.rmtree(directory, ignore_errors=True)


async def _perform(
    show: Show, scenes: Sequence[Scene], server: Server, seed: int, keep: bool
) -> Json:
    with _signals_cancel():
        began = time.perf_counter()
        await server.start()
        stage = _stage(show, server, seed, keep)
        _headline(stage)
        try:
            played = [await _play(stage, scene) for scene in scenes]
        finally:
            await stage.api.close()
        document = _document(stage, played, time.perf_counter() - began)
        _closing(stage, document)
        return document


@contextlib.contextmanager
def _signals_cancel() -> Iterator[None]:
    """Turn signals that would end this process at once into a cancellation of the demo."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    require(task is not None, "the demo runs in a task")
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, cast("asyncio.Task[Json]", task).cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _stage(show: Show, server: Server, seed: int, keep: bool) -> Stage:
    tariff = ModelTariff(ListPrice(MODEL, None, datetime.now(tz=UTC).date()))
    trace = Trace(f"seed {seed}", traffic(seed))
    journal = Journal()
    return Stage(
        server=server,
        api=Api(server.url, server.admin_key, journal),
        journal=journal,
        show=show,
        tariff=tariff,
        traffic=priced(trace, tariff, MAX_OUTPUT_TOKENS, lambda done: None),
        seed=seed,
        keep=keep,
    )


async def _play(stage: Stage, scene: Scene) -> Json:
    """Play one scene, show its outcome, and return its figures."""
    stage.show.title(scene.title, scene.shows)
    began, requests = time.perf_counter(), stage.api.requests
    outcome: Outcome = await scene.play(stage)
    stage.show.tables(outcome.tables)
    for check in outcome.checks:
        stage.show.check(check.says, check.held)
    return {
        "name": scene.name,
        "title": scene.title,
        "held": outcome.held,
        "seconds": round(time.perf_counter() - began, 3),
        "requests": stage.api.requests - requests,
        "checks": [{"says": check.says, "held": check.held} for check in outcome.checks],
        "figures": outcome.figures,
    }


def _document(stage: Stage, played: Sequence[Json], seconds: float) -> Json:
    return {
        "ok": all(scene["held"] for scene in played),
        "seed": stage.seed,
        "seconds": round(seconds, 3),
        "requests": stage.api.requests,
        "checks": sum(len(scene["checks"]) for scene in played),
        "scenes": list(played),
        "kept": _kept(stage) if stage.keep else None,
    }


def _kept(stage: Stage) -> Json:
    server, secret = stage.server, stage.api.secret
    url = f"{server.url}/v1/balances?tenant={TENANT}"
    return {
        "url": server.url,
        "pid": server.pid,
        "store": str(server.store),
        "admin_key_file": str(server.admin_key_file),
        "api_key": secret,
        "try": f"curl -s '{url}' -H 'X-Cycles-API-Key: {secret}'",
        "stop": f"kill {server.pid}",
    }


def _headline(stage: Stage) -> None:
    server = stage.server
    stage.show.text("bursar demo", "bold")
    stage.show.text(
        f"A real server, process {server.pid} at {server.url}. Seed {stage.seed}.", "dim"
    )


def _closing(stage: Stage, document: Json) -> None:
    """Print the summary, the verdict, and what stays."""
    show = stage.show
    show.console.print()
    show.console.rule(Text("In short", style="bold"), align="left", style="dim")
    summary = table("scene", ">requests", ">seconds", "checks")
    for scene in document["scenes"]:
        checks = f"all {len(scene['checks'])} held" if scene["held"] else "DID NOT HOLD"
        style = "" if scene["held"] else "red"
        row = (scene["title"], f"{scene['requests']:,}", f"{scene['seconds']:.1f}", checks)
        summary.add_row(*row, style=style)
    show.tables([summary])
    if document["ok"]:
        verdict, style = "the ledger holds", "bold green"
    else:
        verdict, style = "THE LEDGER DOES NOT HOLD", "bold red"
    told = f"{document['checks']} checks, {document['requests']:,} requests"
    show.text(f"{verdict}: {told}, {document['seconds']:.1f} s", style)
    if document["kept"] is not None:
        _stays(show, document["kept"])


def _stays(show: Show, kept: Json) -> None:
    """Print how to reach and how to stop the server; a command stays on one line, to be copied."""
    show.console.print()
    show.text("The server stays, with its ledger:", "bold")
    names = ("url", "store", "admin_key_file", "api_key", "stop")
    show.tables([facts((name.replace("_", " "), str(kept[name])) for name in names)])
    show.console.print(Text(kept["try"]), soft_wrap=True)
