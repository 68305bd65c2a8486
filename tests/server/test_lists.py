"""Lists of reservations and balances: filters, windows, order, cursors, and what rows show."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from server.world import Json, Server, Tenant, amount, error, fresh

BAD = (400, "INVALID_REQUEST")
RESERVATIONS = "/v1/reservations"
SORT_KEYS = [
    *("reservation_id", "tenant", "scope_path", "status", "reserved"),
    *("created_at_ms", "expires_at_ms"),
]


def moment(epoch_ms: int, offset: timezone = UTC) -> str:
    return datetime.fromtimestamp(epoch_ms / 1_000, offset).isoformat(timespec="milliseconds")


class Shelf:
    """Ten reservations that differ in everything a list filters and sorts by."""

    def __init__(self, server: Server) -> None:
        self.tenant = server.tenant().budget(10_000)
        tenant = self.tenant
        below = ["", "agent:bot", "workspace:w/agent:bot", "app:a", "workspace:w/app:a/toolset:t"]
        amounts = [5, 9_000_000_000_000_000, 70, 8, 5, 600, 40, 1, 2, 300]
        tenant.fund("CREDIT", 2**53 * 2)
        self.keys = [fresh("k") for _ in amounts]
        held: list[str] = []
        for number, value in enumerate(amounts):
            fields: Json = {
                "idempotency_key": self.keys[number],
                "ttl_ms": 100_000 - number * 7_000,
            }
            if number % 3 == 0:
                fields["metadata"] = {"n": number, "nothing": None}
            held.append(tenant.hold(value, below[number % 5], **fields))
            time.sleep(0.002)  # so that rows can be told apart by time
        commit = {"metadata": {"done": True}, "metrics": {"tokens_input": 3, "custom": {"x": 1}}}
        assert tenant.commit(held[0], 3, **commit).status_code == 200
        assert tenant.commit(held[3], 8).status_code == 200
        assert tenant.release(held[4], reason="not needed").status_code == 200
        self.held = held
        answer = tenant.get(RESERVATIONS, include="metadata,committed_metadata", limit=200).json()
        self.rows: list[Json] = answer["reservations"]
        assert len(self.rows) == 10

    def where(self, **wanted: Any) -> set[str]:
        """Return the ids of rows with these members."""
        return {
            row["reservation_id"]
            for row in self.rows
            if all(row.get(name) == value for name, value in wanted.items())
        }

    def ids(self, **query: Any) -> set[str]:
        return set(self.tenant.listed(**({"limit": 200} | query)))


@pytest.fixture(scope="module")
def shelf(server: Server) -> Shelf:
    return Shelf(server)


def test_filters(shelf: Shelf) -> None:
    """Each filter selects its rows, and together they select what all of them do."""
    everything = set(shelf.held)
    assert shelf.ids() == everything
    for status in ("ACTIVE", "COMMITTED", "RELEASED"):
        assert shelf.ids(status=status) == shelf.where(status=status) != set()
    assert shelf.ids(status="EXPIRED") == set()
    for number, key in enumerate(shelf.keys):
        assert shelf.ids(idempotency_key=key) == {shelf.held[number]}
    assert shelf.ids(idempotency_key="nobody's") == set()
    bots = {row["reservation_id"] for row in shelf.rows if "agent:bot" in row["scope_path"]}
    assert shelf.ids(agent="bot") == shelf.ids(agent="BOT") == bots
    assert shelf.ids(agent="bot", workspace="w") < bots
    assert shelf.ids(agent="bo") == shelf.ids(agent="bot2") == shelf.ids(workflow="w") == set()
    assert shelf.ids(agent="%") == shelf.ids(agent="b_t") == set()
    assert shelf.ids(tenant=shelf.tenant.id) == everything
    assert shelf.ids(agent="bot", status="ACTIVE") == bots & shelf.where(status="ACTIVE")
    blank = dict.fromkeys(["status", "agent", "tenant", "idempotency_key", "sort_by", "cursor"], "")
    assert shelf.ids(**blank) == everything
    assert shelf.ids(colour="green", foo="") == everything


@pytest.mark.parametrize(
    ("prefix", "member"),
    [("", "created_at_ms"), ("expires_", "expires_at_ms"), ("finalized_", "finalized_at_ms")],
)
def test_windows(shelf: Shelf, prefix: str, member: str) -> None:
    """Both bounds are inclusive, each alone is fine, and rows without the time are excluded."""
    times = {row["reservation_id"]: row[member] for row in shelf.rows if member in row}
    ordered = sorted(times.values())
    first, last = ordered[0] + 1, ordered[-1] - 1
    middle = ordered[len(ordered) // 2]
    lower, upper = f"{prefix}from", f"{prefix}to"

    def within(least: int, most: int) -> set[str]:
        return {row for row, at_ms in times.items() if least <= at_ms <= most}

    assert shelf.ids(**{lower: moment(middle)}) == within(middle, 2**62)
    assert shelf.ids(**{upper: moment(middle)}) == within(0, middle)
    assert shelf.ids(**{lower: moment(middle), upper: moment(middle)}) == within(middle, middle)
    assert within(middle, middle) != set()
    assert shelf.ids(**{lower: moment(first), upper: moment(last)}) == within(first, last)
    east = timezone(timedelta(hours=5, minutes=30))
    assert shelf.ids(**{lower: moment(middle, east)}) == within(middle, 2**62)
    assert shelf.ids(**{upper: moment(ordered[0] - 1)}) == set()


def test_windows_that_make_no_sense(shelf: Shelf) -> None:
    """Case 53: backwards and malformed bounds are 400 and named; blank ones are left out."""
    for prefix in ("", "expires_", "finalized_"):
        lower, upper = f"{prefix}from", f"{prefix}to"
        for query, said in (
            ({lower: moment(2_000), upper: moment(1_000)}, lower),
            ({lower: "garbage"}, lower),
            ({upper: "2026-01-01"}, upper),
            ({upper: "1700000000000"}, upper),
            ({lower: "2026-01-01T00:00:00"}, lower),
        ):
            refused = shelf.tenant.get(RESERVATIONS, **query)
            assert error(refused) == BAD, query
            assert refused.json()["message"].startswith(f"{said}: "), query
        assert shelf.ids(**{lower: "", upper: " "}) == set(shelf.held)


@pytest.mark.parametrize("sort_by", SORT_KEYS)
def test_order(shelf: Shelf, sort_by: str) -> None:
    """Every key sorts both ways, by number or text, with ties by id ascending, page by page."""

    def value(row: Json) -> Any:
        if sort_by == "reserved":
            return row["reserved"]["amount"]
        return row["subject"]["tenant"] if sort_by == "tenant" else row[sort_by]

    ascending = sorted(shelf.rows, key=lambda row: row["reservation_id"])
    descending = sorted(ascending, key=value, reverse=True)
    ascending.sort(key=value)
    for direction, rows in (("asc", ascending), ("desc", descending), ("DESC", descending)):
        expected = [row["reservation_id"] for row in rows]
        query = {"sort_by": sort_by, "sort_dir": direction}
        assert shelf.tenant.listed(**query) == expected
        assert [row for page in pages(shelf.tenant, limit=3, **query) for row in page] == expected
    assert shelf.tenant.listed(sort_by=sort_by) == [row["reservation_id"] for row in descending]


def pages(asker: Tenant, path: str = RESERVATIONS, **query: Any) -> Iterator[list[str]]:
    """Yield the ids of page after page."""
    while True:
        answer = asker.get(path, **query).json()
        [rows] = [value for value in answer.values() if isinstance(value, list)]
        yield [row.get("reservation_id") or " ".join(place(row)) for row in rows]
        if "next_cursor" not in answer:
            return
        query["cursor"] = answer["next_cursor"]


def test_newest_first_is_the_default(shelf: Shelf) -> None:
    """Without sort_by the order is stable: by creation, newest first."""
    assert shelf.tenant.listed() == shelf.tenant.listed(sort_by="created_at_ms", sort_dir="desc")
    assert shelf.tenant.listed()[0] == shelf.held[-1]


@pytest.mark.parametrize("limit", [1, 3, 5, 10, 200])
def test_pages(shelf: Shelf, limit: int) -> None:
    """Pages of any size show every row once, and the last one says so."""
    cut = list(pages(shelf.tenant, limit=limit))
    assert [len(page) for page in cut] == [min(limit, 10 - start) for start in range(0, 10, limit)]
    assert [row for page in cut for row in page] == shelf.tenant.listed()


def test_a_scope_filter_leaves_pages_full(server: Server) -> None:
    """What a key does not reach takes no place on its pages, in any list."""
    owner = server.tenant().budget(1_000)
    for number in range(6):
        bot = f"agent:{'mine' if number % 2 else 'other'}{number}"
        owner.budget(10, bot).hold(1, bot)
        policy = {"name": f"p{number}", "scope_pattern": owner.path(bot)}
        assert owner.call("POST", "/v1/admin/policies", policy).status_code == 201
    mine = [f"agent:mine{number}" for number in (1, 3, 5)]
    limited = owner.with_key(server.key(owner.id, scope_filter=mine))
    lists = {
        "/v1/reservations": {},
        "/v1/balances": {"tenant": owner.id},
        "/v1/admin/budgets": {},
        "/v1/admin/policies": {},
        "/v1/balances?unit=TOKENS": {"unit": "TOKENS"},
    }
    for path, query in lists.items():
        pages: list[int] = []
        seen: set[str] = set()
        cursor: dict[str, str] = {}
        while len(pages) < 9:
            body = limited.get(path.partition("?")[0], limit="2", **query, **cursor).json()
            [rows] = [value for value in body.values() if isinstance(value, list)]
            pages.append(len(rows))
            seen |= {row.get("scope_path") or row["scope_pattern"] for row in rows}
            if not body["has_more"]:
                break
            cursor = {"cursor": body["next_cursor"]}
        assert pages == [2, 1], path
        assert seen == {owner.path(bot) for bot in mine}, path


def test_rows_that_come_between_pages(server: Server) -> None:
    """What is made after a page was cut neither repeats a row nor hides one."""
    tenant = server.tenant().budget(1_000)
    before = [tenant.hold(1) for _ in range(4)]
    shown: list[str] = []
    for page in pages(tenant, limit=2):
        shown += page
        tenant.hold(1)
    assert shown == list(reversed(before))


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "-1"},
        {"limit": "ten"},
        {"limit": "1.5"},
        {"limit": "99999999999999999999"},
        {"limit": "\u0661"},
        {"status": "active"},
        {"status": "NOPE"},
        {"sort_by": "nope"},
        {"sort_by": "created_at"},
        {"sort_dir": "up"},
        {"cursor": "nonsense"},
        {"cursor": "\u00e9\u00e8"},
        {"cursor": "e30"},
        {"cursor": "bnVsbA"},
        {"cursor": "W10"},
    ],
    ids=str,
)
def test_what_cannot_be_read(shelf: Shelf, query: dict[str, str]) -> None:
    """Case 57: a bad value is 400 and names its parameter."""
    refused = shelf.tenant.get(RESERVATIONS, **query)
    assert error(refused) == BAD
    assert refused.json()["message"].startswith(f"{next(iter(query))}: ")


def test_a_cursor_is_bound(shelf: Shelf) -> None:
    """Case 55: under another order, filter, window or list it is 400; `include` may change."""
    tenant = shelf.tenant
    bound: Json = {"sort_by": "reserved", "status": "ACTIVE", "agent": "bot"}
    bound |= {"from": moment(0), "to": moment(2**42)}
    query = {"limit": 1, **bound}
    cursor = {"cursor": tenant.get(RESERVATIONS, **query).json()["next_cursor"]}
    changes: list[Json] = [
        {"sort_by": "status"},
        {"sort_by": ""},
        {"sort_dir": "asc"},
        {"status": "COMMITTED"},
        {"status": ""},
        {"agent": "other"},
        {"workspace": "w"},
        {"from": moment(1)},
        {"to": ""},
        {"expires_from": moment(0)},
        {"finalized_to": moment(2**42)},
        {"idempotency_key": "x"},
    ]
    for change in changes:
        refused = tenant.get(RESERVATIONS, **(query | cursor | change))
        assert error(refused) == BAD, change
        assert refused.json()["message"].startswith("cursor: was made for other filters")
    for change in ({"include": "metadata"}, {"limit": 200}, {"tenant": tenant.id}, {"x": "y"}):
        assert tenant.get(RESERVATIONS, **(query | cursor | change)).status_code == 200
    plain = tenant.get(RESERVATIONS, limit=1).json()["next_cursor"]
    assert error(tenant.get("/v1/balances", tenant=tenant.id, cursor=plain)) == BAD


def forged(cursor: str, value: Any, row_id: Any) -> str:
    """Return a cursor with a good binding and another place."""
    version, bound, *_ = json.loads(base64.urlsafe_b64decode(cursor + "=="))
    token = json.dumps([version, bound, value, row_id]).encode()
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


@pytest.mark.parametrize(
    ("value", "row_id", "status"),
    [
        (0, "\ud800", 400),
        ("\ud800", "x", 400),
        (float("nan"), "x", 400),
        (float("inf"), "x", 400),
        (2**63, "x", 400),
        (None, "x", 400),
        (True, "x", 400),
        ([], "x", 400),
        (0, 5, 400),
        (0, "x", 200),
        ("text", "x", 200),
        (1.5, "\x00", 200),
    ],
)
def test_a_forged_cursor(shelf: Shelf, value: Any, row_id: Any, status: int) -> None:
    """A cursor is opaque but not secret: whatever is put into it, the server does not fail."""
    cursor = shelf.tenant.get(RESERVATIONS, limit=1).json()["next_cursor"]
    answer = shelf.tenant.get(RESERVATIONS, limit=1, cursor=forged(cursor, value, row_id))
    assert answer.status_code == status


def test_a_cursor_of_another_tenant_shows_nothing_of_it(shelf: Shelf, server: Server) -> None:
    """The binding has the tenant in it."""
    other = server.tenant()
    cursor = shelf.tenant.get(RESERVATIONS, limit=1).json()["next_cursor"]
    assert error(other.get(RESERVATIONS, limit=1, cursor=cursor)) == BAD


def test_include(shelf: Shelf) -> None:
    """Case 56: heavy maps come by include only; unknown and empty names are ignored."""
    tenant, first = shelf.tenant, shelf.held[0]

    def row(**query: str) -> Json:
        found = tenant.get(RESERVATIONS, idempotency_key=shelf.keys[0], **query)
        [only] = found.json()["reservations"]
        return dict(only)

    plain = row()
    assert plain["committed"] == amount(3)
    assert plain["finalized_at_ms"] >= plain["created_at_ms"]
    assert not plain.keys() & {"metadata", "committed_metadata", "evidence"}
    metadata, committed = {"n": 0, "nothing": None}, {"done": True}
    assert row(include="foo,,metadata") == plain | {"metadata": metadata}
    assert row(include="committed_metadata") == plain | {"committed_metadata": committed}
    both = plain | {"metadata": metadata, "committed_metadata": committed}
    assert row(include="metadata, committed_metadata,evidence") == both
    assert tenant.reservation(first).json() == both
    assert row(include="") == row(include=",") == plain


def test_one_reservation_through_its_life(tenant: Tenant) -> None:
    """The row says what was asked, then how it ended; only settled ones have an end."""
    tenant.budget(100)
    body = tenant.ask(10, "agent:bot", ttl_ms=5_000)
    held = tenant.call("POST", RESERVATIONS, body).json()["reservation_id"]
    row = tenant.reservation(held).json()
    created, expires = row.pop("created_at_ms"), row.pop("expires_at_ms")
    assert expires - created == 5_000
    assert row == {
        "reservation_id": held,
        "status": "ACTIVE",
        "idempotency_key": body["idempotency_key"],
        "subject": body["subject"],
        "action": body["action"],
        "reserved": amount(10),
        "scope_path": tenant.path("agent:bot"),
        "affected_scopes": [tenant.scope, tenant.path("agent:bot")],
    }
    assert tenant.release(held).status_code == 200
    released = tenant.reservation(held).json()
    assert released["status"] == "RELEASED"
    assert "committed" not in released
    assert released["finalized_at_ms"] >= created


def test_the_operators_list(shelf: Shelf, server: Server) -> None:
    """The operator names the tenant and sees its rows, with every filter; unknown means none."""
    query = {"tenant": shelf.tenant.id, "status": "ACTIVE", "limit": 200}
    rows = server.admin("GET", RESERVATIONS, params=query).json()["reservations"]
    assert {row["reservation_id"] for row in rows} == shelf.where(status="ACTIVE")
    rows = server.admin("GET", RESERVATIONS, params={"tenant": "nobody"}).json()["reservations"]
    assert rows == []


# Balances.


@pytest.fixture(scope="module")
def estate(server: Server) -> Tenant:
    tenant = server.tenant().budget(100).budget(200, unit="CREDITS")
    for below in ("agent:bot", "workspace:w", "workspace:w/agent:bot", "workspace:w2"):
        tenant.budget(50, below)
    return tenant


def place(row: Json) -> tuple[str, str]:
    return row["scope_path"], row["remaining"]["unit"]


def places(rows: list[Json]) -> list[tuple[str, str]]:
    return [place(row) for row in rows]


def test_balances_by_subject(estate: Tenant) -> None:
    """Every budget of the tenant whose path has all the given segments, in all units."""
    path = estate.path
    everything = [
        (path(), "CREDITS"),
        (path(), "TOKENS"),
        (path("agent:bot"), "TOKENS"),
        (path("workspace:w"), "TOKENS"),
        (path("workspace:w/agent:bot"), "TOKENS"),
        (path("workspace:w2"), "TOKENS"),
    ]
    unpaged = places(estate.balances())
    assert sorted(unpaged) == sorted(everything)
    bots = [path("agent:bot"), path("workspace:w/agent:bot")]
    query: Json
    for query in ({"agent": "bot"}, {"agent": "BOT"}, {"agent": "bot", "include_children": "true"}):
        answer = estate.get("/v1/balances", **query).json()
        assert sorted(row["scope_path"] for row in answer["balances"]) == bots
    [only] = estate.balances(workspace="w", agent="bot")
    assert only["scope"] == "agent:bot"
    assert estate.balances(toolset="none") == []
    cut = list(pages(estate, "/v1/balances", tenant=estate.id, limit=2))
    assert [len(page) for page in cut] == [2, 2, 2]
    assert [row for page in cut for row in page] == [" ".join(row) for row in unpaged]


def test_balances_need_a_filter(estate: Tenant) -> None:
    """Case 49: none at all, or blank ones, are 400; so are bad limits and cursors."""
    for query in ({}, {"tenant": ""}, {"limit": "5"}, {"agent": "", "foo": "bar"}):
        assert error(estate.get("/v1/balances", **query)) == BAD
    for query in ({"limit": "0"}, {"limit": "201"}, {"cursor": "x"}):
        assert error(estate.get("/v1/balances", tenant=estate.id, **query)) == BAD
    assert error(estate.get("/v1/balances", unit="TOKENS", limit="101")) == BAD
    assert error(estate.get("/v1/balances", unit="EUR")) == BAD


def test_balances_in_the_admin_form(estate: Tenant) -> None:
    """Only scope_prefix or unit asks for whole budgets; `tenant_id` is not looked at."""
    rows = estate.get("/v1/balances", unit="CREDITS").json()["balances"]
    assert [row["unit"] for row in rows] == ["CREDITS"]
    assert rows[0]["allocated"] == amount(200, "CREDITS")
    prefix = estate.path("workspace:w")
    rows = estate.get("/v1/balances", scope_prefix=prefix, tenant_id="other").json()["balances"]
    assert sorted(row["scope"] for row in rows) == [prefix, f"{prefix}/agent:bot"]
    rows = estate.get("/v1/balances", tenant_id="other").json()["balances"]
    assert {row["tenant_id"] for row in rows} == {estate.id}


def test_what_a_balance_leaves_out(tenant: Tenant) -> None:
    """Debt and limit are left out at zero and the flag when false (1.2)."""
    tenant.budget(100, limit=50).budget(100, "agent:bot")
    [plain] = tenant.balances(agent="bot")
    assert plain.keys() == {"scope", "scope_path", "remaining", "reserved", "spent", "allocated"}
    assert tenant.debit(130, overage_policy="ALLOW_WITH_OVERDRAFT").status_code == 201
    [row] = [row for row in tenant.balances() if row["scope_path"] == tenant.scope]
    assert (row["debt"], row["overdraft_limit"]) == (amount(30), amount(50))
    assert row["remaining"] == amount(-30)
