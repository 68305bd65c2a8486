"""The report for people: a table, the chart, and the closing check.

The rule that lives here: everything shown comes from the report's document, and reads the
same without colours, in a log or through a pipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bursar import money
from bursar.cli.replay.chart import busiest, chart
from bursar.cli.replay.tally import Minute
from bursar.vocabulary import Unit

Json = dict[str, Any]


class _Facts:
    """The document, with its amounts as people write them."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self.unit = Unit(document["unit"])
        self._suffix = "_microcents" if self.unit is Unit.USD_MICROCENTS else ""

    def amount(self, name: str, of: Json | None = None) -> str:
        value = (self.document if of is None else of)[name + self._suffix]
        return money.show(value, self.unit)

    def count(self, name: str) -> int:
        value: int = self.document[name]
        return value


def show(document: Json, minutes: Mapping[int, Minute], console: Console) -> None:
    """Print the report."""
    facts = _Facts(document)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _rows(facts):
        table.add_row(name, Text(text))
    console.print(table)
    if "policies" in document:
        console.print(_policies(facts))
    _print_chart(facts, minutes, console)
    _print_closing(facts, console)


def _policies(facts: _Facts) -> Table:
    """Return what each policy did, and the same trace without any."""
    doc = facts.document
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for one in doc["policies"]:
        over = f", {one['over_cap']:,} of them above its token cap" if one["over_cap"] else ""
        said = (
            f"{one['scope_pattern']}: governed {one['governed']:,}, throttled "
            f"{one['throttled']:,}, denied {one['denied']:,}, capped {one['capped']:,}{over}; "
            f"commits throttled {one['commits_throttled']:,}"
        )
        table.add_row("policy", Text(f"{one['name']}, {said}"))
    if doc["ungoverned"]:
        table.add_row("no policy", Text(f"{doc['ungoverned']:,} requests; see --subject"))
    if doc["commits_refused"]:
        lost = facts.amount("unaccounted")
        table.add_row("not settled", Text(f"{lost}{_reasons(doc['commits_refused'])}"))
    free = doc["without_policies"]
    table.add_row(
        "without them",
        Text(
            f"{free['allowed']:,} allowed, {free['denied']:,} denied"
            f"{_reasons(free['denied_by_reason'])}, {facts.amount('spent', free)} spent, at most "
            f"{facts.amount('held_peak', free)} held"
        ),
    )
    return table


def _rows(facts: _Facts) -> Iterator[tuple[str, str]]:
    doc = facts.document
    yield "trace", _trace(doc["trace"])
    if doc["trace"]["bad_rows"]:
        yield "left out", _left_out(doc["trace"])
    if doc["model"]:
        model = doc["model"]
        yield (
            "priced as",
            f"{model['name']} of {model['provider']}, {model['price']} ({model['source']}, prices "
            f"of {model['prices_on']}); rounded {model['rounding']}",
        )
    assumed = doc["assumptions"]
    yield (
        "assumed",
        f"at most {assumed['max_output_tokens']:,} output tokens; a request runs "
        f"{assumed['first_token_ms']} ms and {assumed['ms_per_token']:g} ms per generated token",
    )
    stopped = f"; interrupted, {facts.count('in_flight'):,} in flight" if doc["interrupted"] else ""
    yield (
        "requests",
        f"{facts.count('requests'):,}: {facts.count('allowed'):,} allowed, "
        f"{facts.count('denied'):,} denied{_reasons(doc['denied_by_reason'])}{stopped}",
    )
    yield "spent", f"{facts.amount('spent')} of {facts.amount('budget')}"
    yield "without limit", f"{facts.amount('unlimited')}, had nothing been denied"
    if doc["held_peak_at"]:
        at = doc["held_peak_at"]
        yield "held at peak", f"{facts.amount('held_peak')} at {at}"
        yield "at once", f"{_many(facts.count('running_peak'), 'request')} at peak"
    if doc["over_estimate"]:
        yield (
            "over estimate",
            f"{_many(facts.count('over_estimate'), 'request')} cost more than estimated; "
            f"{facts.amount('uncharged')} of that was not charged",
        )
    yield "first denial", _denial(facts)


def _trace(trace: Json) -> str:
    minutes, seconds = divmod(trace["span_s"], 60)
    text = f"{trace['file']}: {_many(trace['rows'], 'row')}, {minutes:,} min {seconds} s "
    text += f"from {trace['first']}"
    if trace["out_of_order"]:
        text += f"; {_many(trace['out_of_order'], 'row')} out of order, sorted in"
    return text


def _left_out(trace: Json) -> str:
    shown, bad = trace["problems"], trace["bad_rows"]
    more = [f"and {bad - len(shown):,} more"] if bad > len(shown) else []
    return "\n".join([_many(bad, "bad row"), *shown, *more])


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _reasons(by_reason: Json) -> str:
    if not by_reason:
        return ""
    return f" ({', '.join(f'{reason} {count:,}' for reason, count in by_reason.items())})"


def _denial(facts: _Facts) -> str:
    denial = facts.document["first_denial"]
    if denial is None:
        return "none"
    return (
        f"row {denial['row']:,} (line {denial['line']:,}) at {denial['at']}, {denial['reason']}: "
        f"{facts.amount('estimate', denial)} asked, {facts.amount('spent', denial)} spent and "
        f"{facts.amount('held', denial)} held by then"
    )


def _print_chart(facts: _Facts, minutes: Mapping[int, Minute], console: Console) -> None:
    drawn = chart(minutes, console.width - 2, ascii_only=console.options.ascii_only)
    most = busiest(minutes)
    if drawn is None or most is None:
        return
    when, amount = most
    title = f"{drawn.title}; most in {when}: {money.show(amount, facts.unit)}"
    console.print()
    console.print(Text(title, style="bold"))
    for line in drawn.bars:
        console.print(Text(f"  {line}", style="cyan"), no_wrap=True, overflow="crop")
    console.print(Text(f"  {drawn.axis}", style="dim"), no_wrap=True, overflow="crop")
    if drawn.denied:
        console.print(Text(f"  {drawn.denied}", style="red"), no_wrap=True, overflow="crop")
        console.print(Text("  (marked: requests were denied)", style="dim"))


def _print_closing(facts: _Facts, console: Console) -> None:
    audit, timing = facts.document["audit"], facts.document["timing"]
    console.print()
    if audit["ok"]:
        held = f"{facts.amount('held')} held" if facts.document["in_flight"] else "nothing held"
        text = f"balanced: allocated = remaining + spent + reserved + debt, {held}, "
        text += f"{audit['entries']:,} log entries verified"
        console.print(Text(text, style="green"))
    else:
        console.print(Text("the ledger failed its audit:", style="bold red"))
        for finding in audit["findings"]:
            console.print(Text(f"  {finding}", style="red"))
    console.print(
        f"replayed in {timing['replay_s']:.2f} s ({timing['requests_per_s']:,.0f} requests/s, each "
        f"reserved and settled), {timing['total_s']:.2f} s in all",
        style="dim",
        highlight=False,
    )
