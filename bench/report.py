"""What the measurements come to: medians, shares of the ceiling, aims, a table.

The rule that lives here: a share is taken within one round, between two measurements that
followed each other, and the median over the rounds is what counts. A machine that is busy
for a while slows both sides of such a pair.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import embedded
import payments_due
import payments_e2e
import sdk
from http_load import FIXED, LEAVES, RESERVE, SHARED, Figure

import agent

Rounds = Sequence[Sequence[Figure]]
CLIENTS = 50  # what the aims are about
MIB = 1_024 * 1_024


def figures(rounds: Rounds) -> list[dict[str, Any]]:
    """Return a row for each measurement: the medians of its rounds, and its share."""
    return [_row(rounds, index) for index in range(len(rounds[0]))]


def _row(rounds: Rounds, index: int) -> dict[str, Any]:
    taken = [figures[index] for figures in rounds]
    first = taken[0]

    def middle(value: Callable[[Figure], float]) -> float:
        return round(median(map(value, taken)), 4)

    return {
        "name": first.name,
        "budget": first.budget,
        "clients": first.clients,
        "requests": sum(figure.requests for figure in taken),
        "errors": sum(figure.errors for figure in taken),
        "requests_per_s": middle(lambda figure: figure.requests_per_s),
        "p50_ms": middle(lambda figure: figure.p50_ms),
        "p99_ms": middle(lambda figure: figure.p99_ms),
        "client_cpu": middle(lambda figure: figure.client_cpu),
        "ratio": share(rounds, first, Figure(FIXED, SHARED, first.clients, 0, 0, 0, 0, 0, 0)),
    }


def share(rounds: Rounds, one: Figure, other: Figure) -> float:
    """Return the rate of `one` by that of `other`: the median of the rounds."""

    def rate(figures: Sequence[Figure], like: Figure) -> float:
        return next(figure.requests_per_s for figure in figures if figure[:3] == like[:3])

    return round(median(rate(figures, one) / rate(figures, other) for figures in rounds), 4)


def aims(
    rows: Sequence[dict[str, Any]], stored: dict[str, Any]
) -> list[tuple[str, float, str, float]]:
    """Return each aim of the ledger: name, what was measured, sign and limit."""

    def row(name: str, budget: str, clients: int) -> dict[str, Any]:
        wanted = (name, budget, clients)
        return next(one for one in rows if (one["name"], one["budget"], one["clients"]) == wanted)

    shared, leaves = row(RESERVE, SHARED, CLIENTS), row(RESERVE, LEAVES, CLIENTS)
    alone = row(embedded.PAIR, SHARED, 1)
    return [
        ("reserve, share of the ceiling", shared["ratio"], ">=", 0.5),
        ("one shared budget, by independent leaves", shared["ratio"] / leaves["ratio"], ">=", 0.9),
        ("reserve, p99 by p50", shared["p99_ms"] / shared["p50_ms"], "<=", 5),
        ("embedded, one caller, p50 in ms", alone["p50_ms"], "<=", 0.5),
        ("large store, by a new one", stored["ratio"], ">=", 0.85),
        ("large store, start-up in ms", stored["start_up_ms"], "<=", 1_000),
        ("large store, memory in MiB", stored["memory_bytes"] / MIB, "<=", 250),
    ]


def checked(found: Sequence[tuple[str, float, str, float]]) -> list[dict[str, Any]]:
    """Return aims as rows that say whether each is reached."""
    return [
        {
            "aim": name,
            "wanted": f"{sign} {limit:g}",
            "measured": round(value, 4),
            "reached": value >= limit if sign == ">=" else value <= limit,
        }
        for name, value, sign, limit in found
    ]


def show(document: dict[str, Any]) -> None:
    """Print a table for each part that was measured, and the aims."""
    print(", ".join(f"{name} {value}" for name, value in document["machine"].items()))
    if "ledger" in document:
        _show_ledger(document)
    shown = {"sdk": sdk, "agent": agent, "payments": payments_due, "payments_e2e": payments_e2e}
    for name, part in shown.items():
        if name in document:
            part.show(document[name])
    for aim in document["aims"]:
        verdict = "reached" if aim["reached"] else "MISSED"
        print(f"{aim['aim']:42}{aim['wanted']:>9}{aim['measured']:12,.2f}  {verdict}")
    if "ledger" in document:
        ledger, errors = document["ledger"], document["errors"]
        verdict = "; ".join(ledger["findings"]) or "it balances"
        print(
            f"\n{errors} requests failed; the ledger has {ledger['entries']:,} entries: {verdict}"
        )


def _show_ledger(document: dict[str, Any]) -> None:
    """Print the tables of the ledger; a request is one reserve or one commit: a pair is two."""
    print(f"\n{'':24}budgets clients  requests/s   p50 ms   p99 ms  of ceiling  client cpu")
    for row in document["figures"]:
        print(
            f"{row['name']:24}{row['budget']:8}{row['clients']:7}{row['requests_per_s']:12,.0f}"
            f"{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}{row['ratio']:12.0%}{row['client_cpu']:12.0%}"
        )
    large = document["stored"]
    print(
        f"\n{large['reservations']:,} stored reservations, made in {large['fill_s']:.0f} s: "
        f"{large['requests_per_s']:,.0f} reserves/s at {CLIENTS} clients ({large['ratio']:.0%} of "
        f"a new store), start-up {large['start_up_ms']:.0f} ms, memory "
        f"{large['memory_bytes'] / MIB:.0f} MiB, file {large['file_bytes'] / MIB:,.0f} MiB\n"
    )
