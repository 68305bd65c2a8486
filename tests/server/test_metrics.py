"""What /metrics says: exact counts under the reference's names, and only to who may read them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from server.world import Server, Tenant, amount, fresh, started

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 20
METRICS_KEY = "a key for the scraper"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def fetch(server: Server, method: str = "GET", **headers: str) -> httpx2.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.request(method, f"{server.url}/metrics", headers=names, timeout=30)


def scrape(server: Server) -> Series:
    """Return every sample by name and labels."""
    page = fetch(server, x_admin_api_key=server.admin_key)
    assert page.status_code == 200, page.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parsed(page.text)
        for sample in family.samples
    }


def of(tenant: Tenant) -> dict[str, float]:
    """Return a tenant's counts, each named by its metric and its other labels in order."""
    order = ("actor_type", "decision", "reason", "overage_policy")
    found: dict[str, float] = {}
    for (name, labels), value in scrape(tenant.server).items():
        known = dict(labels)
        if known.pop("tenant", None) == tenant.id:
            words = [known.pop(label) for label in order if label in known]
            assert known == {}, name
            found[" ".join([name.removeprefix("cycles_"), *words])] = value
    return found


def test_every_answer_counts_once_by_what_was_told(tenant: Tenant) -> None:
    """Decisions, reasons and policies are the reference's; a replay is seen as one."""
    tenant.budget(1_000)
    ask = tenant.ask(100)
    for _ in range(3):
        held = tenant.call("POST", "/v1/reservations", ask).json()["reservation_id"]
    assert tenant.reserve(5_000).status_code == 409
    assert tenant.reserve(5_000, dry_run=True).json()["decision"] == "DENY"
    assert tenant.extend(held).status_code == 200
    body = {"idempotency_key": fresh("k"), "actual": amount(50)}
    for _ in range(2):
        path = f"/v1/reservations/{held}/commit"
        assert tenant.call("POST", path, body).status_code == 200
    assert tenant.commit(held, 50).status_code == 409
    tenant.release(tenant.hold(1))
    tenant.admin_release(tenant.hold(1, overage_policy="REJECT"))
    assert tenant.debit(1, overage_policy="REJECT").status_code == 201
    usual = "ALLOW_IF_AVAILABLE"
    assert of(tenant) == {
        f"reservations_reserve_total ALLOW OK {usual}": 2,
        "reservations_reserve_total ALLOW OK REJECT": 1,
        "reservations_reserve_total ALLOW IDEMPOTENT_REPLAY UNKNOWN": 2,
        "reservations_reserve_total DENY BUDGET_EXCEEDED UNKNOWN": 2,
        "reservations_extend_total ACTIVE OK": 1,
        f"reservations_commit_total COMMITTED OK {usual}": 1,
        "reservations_commit_total COMMITTED IDEMPOTENT_REPLAY UNKNOWN": 1,
        "reservations_commit_total DENY RESERVATION_FINALIZED UNKNOWN": 1,
        "reservations_release_total tenant RELEASED OK": 1,
        "reservations_release_total admin_on_behalf_of RELEASED OK": 1,
        "events_total APPLIED OK REJECT": 1,
    }


def test_debt_and_expiry_count_what_changed(tenant: Tenant) -> None:
    """A replay of a commit into debt owes nothing more, and a lease expires once."""
    tenant.budget(10, limit=100)
    held = tenant.hold(10, overage_policy="ALLOW_WITH_OVERDRAFT")
    body = {"idempotency_key": fresh("k"), "actual": amount(40)}
    for _ in range(3):
        tenant.call("POST", f"/v1/reservations/{held}/commit", body)
    debit = tenant.ask(5) | {"overage_policy": "ALLOW_WITH_OVERDRAFT"}
    debit["actual"] = debit.pop("estimate")
    for _ in range(2):
        assert tenant.call("POST", "/v1/events", debit).status_code == 201
    other = tenant.server.tenant().budget(10)
    lapsing = other.hold(1, ttl_ms=1_000, grace_period_ms=0)
    deadline = time.monotonic() + WITHIN_S
    while "reservations_expired_total" not in of(other):
        assert time.monotonic() < deadline, other.reservation(lapsing).text
    assert of(other)["reservations_expired_total"] == 1
    assert of(tenant)["overdraft_incurred_total"] == 2


def test_requests_are_timed_by_operation(server: Server, tenant: Tenant) -> None:
    """An operation is a label; a path is not, so that nobody makes up a series."""

    def count(operation: str, status: int) -> float:
        labels = {"operation": operation, "status": str(status)}.items()
        return scrape(server).get(("bursar_http_requests_total", frozenset(labels)), 0)

    invented = fresh("/invented")
    before, unknown = count("decide", 200), count("none", 404)
    assert tenant.decide(1).status_code == 200
    assert server.call("GET", invented).status_code == 404
    assert (count("decide", 200), count("none", 404)) == (before + 1, unknown + 1)
    found = scrape(server)
    bounds = {"operation": "decide", "le": "0.05"}.items()
    assert ("bursar_http_request_duration_seconds_bucket", frozenset(bounds)) in found
    assert not [labels for _, labels in found if invented in str(labels)]


def test_the_writer_the_jobs_and_the_store_are_seen(server: Server, tenant: Tenant) -> None:
    tenant.budget(10)
    before = scrape(server)
    tenant.hold(1)
    after = scrape(server)

    def one(found: Series, name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    name = "bursar_reservations_active"
    assert one(after, name) >= 1
    assert one(after, "bursar_batch_commands_sum") > one(before, "bursar_batch_commands_sum")
    for name in ("bursar_batch_commands_count", "bursar_transaction_duration_seconds_count"):
        assert one(after, name) > one(before, name)
    assert one(after, "bursar_queue_commands") == 0
    assert one(after, "bursar_store_bytes") + one(after, "bursar_store_wal_bytes") > 0
    assert one(after, "bursar_store_free_bytes") > 0
    assert one(after, "bursar_health", check="writes") == 1
    assert one(after, "cycles_maintenance_runs_total", job="expiry", outcome="ok") >= 1
    assert one(after, "bursar_event_loop_lag_seconds_count") >= 1
    assert one(after, "process_resident_memory_bytes") > 0
    assert [dict(labels)["version"] for name, labels in after if name == "bursar_build_info"]


def test_without_a_key_there_is_nothing_to_see(server: Server, tenant: Tenant) -> None:
    """The admin key opens it, in either header; no other key does."""
    assert fetch(server).status_code == 401
    assert fetch(server, authorization="Bearer wrong").status_code == 401
    assert fetch(server, authorization=f"Basic {server.admin_key}").status_code == 401
    assert fetch(server, x_cycles_api_key=tenant.secret).status_code == 401
    assert fetch(server, authorization=f"Bearer {tenant.secret}").status_code == 401
    assert fetch(server, authorization=f"Bearer {server.admin_key}").status_code == 200
    both = fetch(server, authorization=f"Bearer {server.admin_key}", x_admin_api_key="wrong")
    assert both.status_code == 401


def test_other_methods_and_formats(server: Server) -> None:
    """HEAD has no body, POST is refused, and OpenMetrics is given where asked for."""
    key = server.admin_key
    assert fetch(server, "POST", x_admin_api_key=key).headers["allow"] == "GET, HEAD"
    head = fetch(server, "HEAD", x_admin_api_key=key)
    assert (head.status_code, head.content) == (200, b"")
    asked = "application/openmetrics-text; version=1.0.0"
    modern = fetch(server, x_admin_api_key=key, accept=asked)
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("few")
    with started(
        directory, BURSAR_METRICS_TENANTS_MAX="1", BURSAR_METRICS_KEY=METRICS_KEY
    ) as running:
        yield running


def test_tenants_beyond_the_most_share_a_label(few: Server) -> None:
    """The first to come has its own label, everybody else is OTHER."""
    first, second, third = (few.tenant().budget(10) for _ in range(3))
    for one in (first, second, third, first):
        one.hold(1)
    counted = {
        dict(labels)["tenant"]: value
        for (name, labels), value in scrape(few).items()
        if name == "cycles_reservations_reserve_total"
    }
    assert len(counted) <= 2
    assert sum(counted.values()) == 4
    assert counted["OTHER"] >= 2


def test_a_key_of_the_scraper_opens_nothing_else(few: Server) -> None:
    assert fetch(few, authorization=f"Bearer {METRICS_KEY}").status_code == 200
    assert fetch(few, authorization=f"bearer  {METRICS_KEY}").status_code == 200
    assert fetch(few, x_admin_api_key=METRICS_KEY).status_code == 401
    path = "/v1/admin/tenants"
    assert few.call("GET", path, headers={"X-Admin-API-Key": METRICS_KEY}).status_code == 401


def test_open_metrics_without_tenants(tmp_path: Path) -> None:
    """Both switches: nobody needs a key, and no series names a tenant."""
    with started(tmp_path, BURSAR_METRICS_KEY="open", BURSAR_METRICS_TENANTS_MAX="0") as running:
        for _ in range(2):
            running.tenant().budget(10).hold(1)
        page = fetch(running)
        assert page.status_code == 200
        assert "tenant=" not in page.text
        assert (
            'cycles_reservations_reserve_total{decision="ALLOW",overage_policy='
            '"ALLOW_IF_AVAILABLE",reason="OK"} 2.0'
        ) in page.text


def test_the_reference_lists_what_is_exposed(server: Server) -> None:
    """Every family of a scrape is in docs/reference/metrics.md, and nothing else is."""
    page = fetch(server, x_admin_api_key=server.admin_key).text
    exposed = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    reference = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)` ", reference, re.MULTILINE))
    assert exposed == listed
