"""Dashboard, alerts and runbooks speak of metrics that a server really shows."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parsed

from server.world import Server

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "ops/grafana/bursar.json"
RULES = ROOT / "ops/prometheus/bursar.rules.yml"
REFERENCE = ROOT / "docs/reference/metrics.md"
OF_THE_SCRAPE = {"job", "instance"}
WITHIN_S = 20
# What the protocol's reference server shows, so what its dashboards and alerts may ask for.
REFERENCE_NAMES = {
    *(f"cycles_reservations_{verb}_total" for verb in ("reserve", "commit", "release", "extend")),
    "cycles_reservations_expired_total",
    "cycles_reservations_quarantined_total",
    "cycles_events_total",
    "cycles_overdraft_incurred_total",
    "cycles_maintenance_runs_total",
    "cycles_maintenance_duration_seconds",
    "cycles_reservations_created_at_index_reads_total",
    "cycles_admin_events_emitted_total",
    "cycles_admin_events_payload_invalid_total",
    "cycles_admin_webhook_dispatched_total",
    "cycles_admin_audit_writes_total",
    "cycles_admin_tenant_close_reconcile_incomplete_total",
    "cycles_admin_tenant_close_reconcile_errors_total",
    "cycles_admin_tenant_close_outbox_dead_letter_total",
    *(
        f"cycles_webhook_delivery_{what}_total"
        for what in ("attempts", "success", "failed", "retried", "stale")
    ),
    "cycles_webhook_subscription_auto_disabled_total",
    "cycles_webhook_delivery_latency_seconds",
    "cycles_webhook_events_payload_invalid_total",
}


@dataclass(frozen=True)
class Shown:
    """What a scrape shows: sample names with their labels, and the values of each label."""

    labels: dict[str, set[str]]
    values: dict[tuple[str, str], set[str]]


def documented() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*?) ?\| ", REFERENCE.read_text("utf-8"), re.M)
    return {name: {one for one in labels.split(", ") if one} for name, labels in rows}


@pytest.fixture(scope="module")
def shown(server: Server) -> Shown:
    """A scrape after some traffic: what has no sample even so has the reference's labels."""
    tenant = server.tenant().budget(1_000, limit=1_000)
    tenant.commit(tenant.hold(10), 10)
    tenant.release(tenant.hold(10))
    tenant.extend(tenant.hold(10))
    assert tenant.debit(1).status_code == 201
    assert tenant.reserve(50_000).status_code == 409
    assert server.call("GET", "/v1/balances").status_code == 401
    held = tenant.hold(10, overage_policy="ALLOW_WITH_OVERDRAFT")
    assert tenant.commit(held, 1_500).status_code == 200
    lapsing = server.tenant().budget(10)
    lapsing.hold(1, ttl_ms=1_000, grace_period_ms=0)
    deadline = time.monotonic() + WITHIN_S
    while f'cycles_reservations_expired_total{{tenant="{lapsing.id}"' not in (page := read(server)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    labels: dict[str, set[str]] = {}
    values: dict[tuple[str, str], set[str]] = {}
    for name, known in documented().items():
        if f"# TYPE {name} " in page:
            labels[name] = set(known)
    for family in parsed(page):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
            for label, value in sample.labels.items():
                values.setdefault((sample.name, label), set()).add(value)
    return Shown(labels, values)


def read(server: Server) -> str:
    answer = httpx2.get(f"{server.url}/metrics", headers=server.operator, timeout=30)
    assert answer.status_code == 200
    return answer.text


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> dict[str, str]:
    """Return every expression by where it stands, with Grafana's variables filled in."""
    found = {rule["alert"]: rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel.get("targets", []):
            expr = target["expr"].replace("$__rate_interval", "5m")
            found[f"{panel['title']} {target['refId']}"] = re.sub(r"\$(job|instance)", ".*", expr)
    return found


def nodes(expression: Any) -> Iterator[Any]:
    """Yield an expression and all that it is made of."""
    yield expression
    for part in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
        below = getattr(expression, part, None)
        for one in below if isinstance(below, list) else [below]:
            if one is not None:
                yield from nodes(one)


def own(labels: set[str]) -> set[str]:
    """Return labels as a server names them, without those of the scrape."""
    return {label.removeprefix("exported_") for label in labels - OF_THE_SCRAPE}


def check(expr: str, shown: Shown) -> list[str]:
    """Return what an expression asks for that no server has."""
    wrong: list[str] = []
    for node in nodes(promql.parse(expr)):
        if isinstance(node, promql.AggregateExpr):
            inside = [one for one in nodes(node.expr) if isinstance(one, promql.VectorSelector)]
            by = own(set(node.modifier.labels)) if node.modifier else set()
            for one in inside:
                missing = by - shown.labels.get(one.name, set())
                wrong += [f"{one.name} has no label {label}" for label in sorted(missing)]
        if not isinstance(node, promql.VectorSelector) or node.name == "up":
            continue
        if node.name not in shown.labels:
            wrong.append(f"no metric {node.name}")
            continue
        for matcher in node.matchers.matchers:
            label = matcher.name
            if label in OF_THE_SCRAPE:
                continue
            if label.removeprefix("exported_") not in shown.labels[node.name]:
                wrong.append(f"{node.name} has no label {label}")
            elif matcher.op == promql.MatchOp.Equal:
                seen = shown.values.get((node.name, label), set())
                if label == "le" and matcher.value not in seen:
                    wrong.append(f"{node.name} has no bucket {matcher.value}")
    return wrong


def test_every_expression_asks_for_what_a_server_shows(shown: Shown) -> None:
    """Names, labels and bucket bounds of dashboard and alerts are those of a real scrape."""
    found = expressions()
    assert len(found) > 40
    wrong = {where: check(expr, shown) for where, expr in found.items()}
    assert {where: said for where, said in wrong.items() if said} == {}


@pytest.mark.parametrize(
    ("expr", "says"),
    [
        ("sum(rate(bursar_invented_total[5m]))", "no metric bursar_invented_total"),
        ('bursar_health{color="red"}', "bursar_health has no label color"),
        ("sum by (color) (bursar_health)", "bursar_health has no label color"),
        (
            'bursar_http_request_duration_seconds_bucket{le="0.06"}',
            "bursar_http_request_duration_seconds_bucket has no bucket 0.06",
        ),
    ],
)
def test_the_check_finds_mistakes(shown: Shown, expr: str, says: str) -> None:
    assert check(expr, shown) == [says]
    with pytest.raises(ValueError):
        promql.parse(f"sum by ({expr}")


def test_the_dashboard_can_be_imported() -> None:
    """A data source to choose, ids of their own, no panel over another, rows for each subject."""
    board = json.loads(DASHBOARD.read_text("utf-8"))
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert set(variables) == {"datasource", "job", "instance"}
    assert len({panel["id"] for panel in panels()}) == len(panels())
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & mine, panel["title"]
        cells |= mine
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert [each["refId"] for each in panel["targets"]]
    assert len([panel for panel in panels() if panel["type"] == "row"]) == 8


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", one).strip().lower().replace(" ", "-") for one in headings}


def test_every_alert_has_a_runbook() -> None:
    """Ten alerts, each with its own page of the five parts, and no page without an alert."""
    pages: set[Path] = set()
    for rule in rules():
        name, _, anchor = rule["annotations"]["runbook"].partition("#")
        page = ROOT / name
        assert anchor in anchors(page)
        assert anchor == rule["alert"].lower()
        assert {"look", "do", "do-not", "it-is-over"} <= anchors(page)
        assert "**It means:**" in page.read_text("utf-8")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["for"]
        assert rule["annotations"]["summary"]
        pages.add(page)
    assert len(rules()) == 10
    assert pages == set((ROOT / "docs/runbooks").glob("*.md"))


def test_missing_names_of_the_reference_have_a_reason() -> None:
    """A name of the reference server is shown or listed as missing with why, never both."""
    text = REFERENCE.read_text("utf-8")
    _, _, missing = text.partition("## Names of the reference that are missing")
    missing = missing.partition("\n## ")[0]
    listed = set(re.findall(r"`(cycles_\w+)`", missing))
    exposed = set(re.findall(r"^\| `(\w+)` ", text, re.M))
    assert REFERENCE_NAMES - exposed == listed
    assert all(len(line.split(" | ")) == 2 for line in missing.splitlines() if "`cycles_" in line)
