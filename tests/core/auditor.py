"""A second, naive ledger that foretells what the real one must answer.

It was written from the protocol's text (sections 1.4, 1.5, 3, 4, 5.2 and the settlement in its
appendix B), shares no code with the core, and prefers the plainest way to the quick one: one
tenant, plain dictionaries, integers. Where the two disagree, one of them misreads the protocol.
"""

from dataclasses import dataclass, field
from typing import Any

Said = tuple[str, dict[str, Any]]
MAX = 9223372036854775807
DAY_MS = 24 * 60 * 60 * 1000
SPANS = (("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", DAY_MS))
SETTINGS = {"ttl": "60s", "ttl_max": "1h", "extensions": "10"}
UNITS = ["USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS"]
DENIED = {
    "BUDGET_EXCEEDED",
    "BUDGET_FROZEN",
    "BUDGET_CLOSED",
    "OVERDRAFT_LIMIT_EXCEEDED",
    "DEBT_OUTSTANDING",
    "TENANT_CLOSED",
    "NOT_FOUND",
}


class NoError(Exception):
    """A refusal on its way out: the code and what else must be said."""

    def __init__(self, code: str, **facts: Any) -> None:
        super().__init__(code)
        self.code = code
        self.facts = {"reason": code} | facts


@dataclass
class Auditor:
    """What the ledger of one tenant must hold."""

    began_ms: int
    tenant: dict[str, Any] | None = None
    budgets: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, dict[str, str]] = field(default_factory=dict)
    counts: dict[tuple[str, str, str, int], int] = field(default_factory=dict)
    now: int = 0
    logged_ms: int = 0

    def given(self, kind: str, name: str, options: dict[str, str]) -> None:
        if kind == "tenant":
            self.tenant = {"status": "ACTIVE"} | SETTINGS | options
            return
        if kind == "policy":
            self.policies[name] = options
            return
        numbers = {n: int(options.get(n, "0")) for n in ("allocated", "spent", "debt", "limit")}
        self.budgets[name, options.get("unit", "USD_MICROCENTS")] = numbers | {
            "reserved": 0,
            "over": options.get("over") == "yes",
            "status": options.get("status", "ACTIVE"),
            "overage": options.get("overage"),
        }

    def play(self, verb: str, words: list[str], options: dict[str, str], clock_ms: int) -> Said:
        """Say what the ledger must answer, and remember it as the ledger must."""
        self.now = max(self.logged_ms, clock_ms)  # a log's time never runs backwards
        named = verb in ("commit", "release", "extend")
        where = (f"{verb} {words[0]}" if named else verb, options.get("key", ""))
        asked = (words[1:] if verb in ("reserve", "debit") else words, options)
        known = self.answers.get(where)
        if known is not None and self.now <= known["until"]:
            if known["asked"] != asked:
                return "IDEMPOTENCY_MISMATCH", {}
            return "replay", self._replayed(known)
        try:
            word, facts = getattr(self, f"_{verb}")(*words, **options)
        except NoError as no:
            return no.code, no.facts
        if facts.pop("repeated", False):
            return word, facts  # nothing happened, so nothing is logged or remembered
        self.logged_ms = self.now
        if "key" in options:
            kept = {"asked": asked, "until": self._until(verb, words), "expires": None}
            if "expires" in facts and facts["expires"] is not None:
                kept |= {"expires": facts["expires"], "row": words[0]}
            self.answers[where] = kept
        return word, facts

    def _replayed(self, known: dict[str, Any]) -> dict[str, Any]:
        if known["expires"] is None:
            return {}
        left = self.began_ms + span(known["expires"]) - self.now
        alive = self.rows[known["row"]]["status"] == "ACTIVE"
        return {"id": known["row"], "ttl": f"{max(0, left) if alive else 0}ms"}

    def _until(self, verb: str, words: list[str]) -> int:
        days = {"commit": 30, "release": 30, "debit": 7}.get(verb, 1)
        until = self.now + days * DAY_MS
        if verb in ("reserve", "extend") and words[0] in self.rows:
            row = self.rows[words[0]]
            until = max(until, row["expires"] + row["grace"])
        return until

    # --- guards ----------------------------------------------------------------------

    def _guard(self, *, new_work: bool) -> None:
        status = "ACTIVE" if self.tenant is None else self.tenant["status"]
        if status == "unreadable":
            raise NoError("INTERNAL_ERROR")
        if status == "CLOSED":
            raise NoError("TENANT_CLOSED")
        if status == "SUSPENDED" and new_work:
            raise NoError("FORBIDDEN", reason="TENANT_SUSPENDED")

    def _row(self, name: str) -> dict[str, Any]:
        if name not in self.rows:
            raise NoError("NOT_FOUND")
        return self.rows[name]

    def _alive(self, row: dict[str, Any]) -> None:
        if row["status"] == "EXPIRED":
            raise NoError("RESERVATION_EXPIRED")
        if row["status"] != "ACTIVE":
            raise NoError("RESERVATION_FINALIZED")

    def _open(self, scope: str, budget: dict[str, Any]) -> None:
        if budget["status"] != "ACTIVE":
            code = f"BUDGET_{budget['status']}"
            raise NoError(code, scope=scope, remaining=remaining(budget))

    def _along(self, at: str, unit: str) -> list[str]:
        return [scope for scope in prefixes(at) if (scope, unit) in self.budgets]

    def _somewhere(self, at: str, unit: str) -> None:
        for scope in prefixes(at):
            units = [other for other in UNITS if (scope, other) in self.budgets]
            if units:
                raise NoError("UNIT_MISMATCH", at=scope, asked=unit, units=",".join(units))
        raise NoError("NOT_FOUND", reason="BUDGET_NOT_FOUND")

    def _admit(self, at: str, unit: str, estimate: int, *, live: bool = False) -> list[str]:
        self._guard(new_work=True)
        where = self._spare(at, "reserves") if live else None
        found = self._along(at, unit)
        for scope in found:
            budget = self.budgets[scope, unit]
            self._open(scope, budget)
            left = remaining(budget)
            if budget["over"]:
                raise NoError("OVERDRAFT_LIMIT_EXCEEDED", scope=scope, remaining=left)
            if budget["debt"] > 0 and budget["limit"] == 0:
                raise NoError("DEBT_OUTSTANDING", scope=scope, remaining=left)
            if left < estimate:
                raise NoError("BUDGET_EXCEEDED", scope=scope, remaining=left)
        if not found:
            self._somewhere(at, unit)
        self._count(where)
        return found

    def _rules(self, at: str) -> tuple[str, dict[str, str]]:
        """Return the policy that counts at a path, its name first: "" and none if none does."""
        found = []
        for name, policy in self.policies.items():
            since, until = span(policy.get("from", "-9999d")), span(policy.get("until", "9999d"))
            inside = self.began_ms + since <= self.now <= self.began_ms + until
            if inside and policy["status"] == "ACTIVE" and covers(policy["at"], at):
                # As paths are written here, `acme` stands for `tenant:acme`.
                length = len(policy["at"]) + (7 if policy["at"].startswith("acme") else 0)
                found.append((-int(policy.get("priority", "0")), -length, name))
        return (min(found)[2], self.policies[min(found)[2]]) if found else ("", {})

    def _spare(self, at: str, kind: str) -> tuple[str, str, str, int] | None:
        """Return where a fresh command is counted, None if nowhere; refuse one too many."""
        name, policy = self._rules(at)
        if kind not in policy:
            return None
        where = (name, at, kind, self.now // 60_000)
        if self.counts.get(where, 0) >= int(policy[kind]):
            raise NoError("LIMIT_EXCEEDED", policy=name, retry=f"{60_000 - self.now % 60_000}ms")
        return where

    def _count(self, where: tuple[str, str, str, int] | None) -> None:
        if where is not None:
            self.counts[where] = self.counts.get(where, 0) + 1

    def _allowed(self, at: str) -> Said:
        caps = self._rules(at)[1].get("caps")
        if caps is None:
            return "ALLOW", {"caps": None}
        return "ALLOW_WITH_CAPS", {"caps": int(caps)}

    def _policy(self, asked: str | None, at: str, scopes: list[str], unit: str) -> str:
        asked = asked or self._rules(at)[1].get("overage")
        if asked is not None:
            return asked
        for scope in reversed(scopes):
            if self.budgets[scope, unit]["overage"] is not None:
                return str(self.budgets[scope, unit]["overage"])
        return str((self.tenant or {}).get("overage", "AIA"))

    # --- verbs -----------------------------------------------------------------------

    def _decide(
        self, amount: str, *, at: str, unit: str = UNITS[0], key: str, dry_run: str = "yes"
    ) -> Said:
        try:
            self._admit(at, unit, int(amount))
        except NoError as no:
            if no.code not in DENIED:
                raise
            return "DENY", {"reason": no.facts["reason"], "expires": None, "balances": None}
        word, caps = self._allowed(at)
        return word, caps | {"reason": None, "expires": None}

    def _reserve(
        self,
        name: str,
        amount: str,
        *,
        at: str,
        key: str,
        unit: str = UNITS[0],
        ttl: str | None = None,
        grace: str = "5s",
        overage: str | None = None,
        dry_run: str = "no",
    ) -> Said:
        if dry_run == "yes":
            return self._decide(amount, at=at, unit=unit, key=key)
        estimate = int(amount)
        scopes = self._admit(at, unit, estimate, live=True)
        tenant = (self.tenant or {}) | {
            name: value
            for name, value in self._rules(at)[1].items()
            if name in ("ttl", "ttl_max", "extensions")
        }
        wanted = span(ttl) if ttl is not None else span(tenant.get("ttl", "60s"))
        expires = self.now + min(wanted, span(tenant.get("ttl_max", "1h")))
        for scope in scopes:
            self.budgets[scope, unit]["reserved"] += estimate
        self.rows[name] = {
            "status": "ACTIVE",
            "unit": unit,
            "at": at,
            "estimate": estimate,
            "scopes": scopes,
            "expires": expires,
            "grace": span(grace),
            "overage": self._policy(overage, at, scopes, unit),
            "extensions": 0,
            "extensions_max": int(tenant.get("extensions", "10")),
            "swept": tenant.get("expiry") != "MANUAL_CLEANUP",
            "charged": None,
        }
        word, caps = self._allowed(at)
        return word, caps | self._told(scopes, unit) | {
            "id": name,
            "reserved": estimate,
            "expires": self._when(expires),
            "ttl": f"{expires - self.now}ms",
        }

    def _commit(self, name: str, amount: str, *, key: str, unit: str = UNITS[0]) -> Said:
        row, actual = self._row(name), int(amount)
        self._guard(new_work=False)
        self._alive(row)
        if unit != row["unit"]:
            raise NoError("UNIT_MISMATCH", asked=unit, units=row["unit"])
        if self.now > row["expires"] + row["grace"]:
            raise NoError("RESERVATION_EXPIRED")
        where = None
        try:
            where = self._spare(row["at"], "commits")
        except NoError:
            whole_seconds = -(-(60_000 - self.now % 60_000) // 1_000) * 1_000
            if self.now + whole_seconds <= row["expires"] + row["grace"]:
                raise
            # Too late to wait: it passes, and counts, above what is allowed.
            where = (self._rules(row["at"])[0], row["at"], "commits", self.now // 60_000)
        held = row["estimate"]
        charged = self._settle(row["scopes"], unit, held, actual, row["overage"])
        self._count(where)
        row |= {"status": "COMMITTED", "charged": charged}
        back = held - charged if charged < held else None
        return "COMMITTED", self._told(row["scopes"], unit) | {"charged": charged, "released": back}

    def _release(self, name: str, *, key: str) -> Said:
        row = self._row(name)
        self._guard(new_work=False)
        self._alive(row)
        if self.now > row["expires"] + row["grace"] and row["swept"]:
            raise NoError("RESERVATION_EXPIRED")
        self._give_back(row, "RELEASED")
        told = self._told(row["scopes"], row["unit"])
        return "RELEASED", told | {"released": row["estimate"]}

    def _extend(self, name: str, by: str, *, key: str) -> Said:
        row = self._row(name)
        self._guard(new_work=False)
        self._alive(row)
        if self.now > row["expires"]:
            raise NoError("RESERVATION_EXPIRED")
        if row["extensions"] >= row["extensions_max"]:
            raise NoError("MAX_EXTENSIONS_EXCEEDED")
        row["expires"] += span(by)
        row["extensions"] += 1
        return "ACTIVE", self._told(row["scopes"], row["unit"]) | {
            "expires": self._when(row["expires"]),
            "ttl": f"{row['expires'] - self.now}ms",
        }

    def _expire(self, name: str) -> Said:
        row = self._row(name)
        self._alive(row)
        if self.now <= row["expires"] + row["grace"] or not row["swept"]:
            raise NoError("INVALID_REQUEST")
        self._give_back(row, "EXPIRED")
        return "EXPIRED", {"id": name}

    def _debit(
        self,
        name: str,
        amount: str,
        *,
        at: str,
        key: str,
        unit: str = UNITS[0],
        overage: str | None = None,
    ) -> Said:
        actual = int(amount)
        self._guard(new_work=True)
        scopes = self._along(at, unit)
        policy = self._policy(overage, at, scopes, unit)
        for scope in scopes:
            budget = self.budgets[scope, unit]
            self._open(scope, budget)
            left = remaining(budget)
            if policy == "REJECT" and left < actual:
                raise NoError("BUDGET_EXCEEDED", scope=scope, remaining=left)
        if not scopes:
            self._somewhere(at, unit)
        charged = self._settle(scopes, unit, None, actual, policy)
        facts = {"id": name, "charged": charged if charged < actual else None}
        return "APPLIED", self._told(scopes, unit) | facts

    def _fund(
        self, scope: str, operation: str, amount: str, *, key: str, spent: str = "0", **more: str
    ) -> Said:
        unit, a = more.get("unit", UNITS[0]), int(amount)
        self._guard(new_work=False)
        budget = self._budget(scope, unit)
        self._open(scope, budget)
        new = dict(budget)
        if operation == "CREDIT":
            new["allocated"] += a
        elif operation == "DEBIT":
            if remaining(budget) < a:
                raise NoError("BUDGET_EXCEEDED", scope=scope, remaining=remaining(budget))
            new["allocated"] -= a
        elif operation == "RESET":
            new["allocated"] = a
        elif operation == "RESET_SPENT":
            new |= {"allocated": a, "spent": int(spent)}
        else:
            new["allocated"] += max(0, a - budget["debt"])
            new["debt"] -= min(budget["debt"], a)
        new["over"] = new["debt"] > new["limit"]
        idle = new == budget or (operation == "REPAY_DEBT" and budget["debt"] == 0)
        if more.get("skip_done") == "yes" and idle:
            new = dict(budget)
        else:
            idle = False
            self._fits(new)
        budget |= new
        told = {name: new[name] for name in ("allocated", "spent", "debt", "over")}
        return "FUNDED", told | {"remaining": remaining(new), "repeated": idle}

    def _fits(self, new: dict[str, Any]) -> None:
        if new["allocated"] > MAX or new["spent"] + new["reserved"] + new["debt"] > MAX:
            raise NoError("INVALID_REQUEST")

    def _budget(self, scope: str, unit: str) -> dict[str, Any]:
        if (scope, unit) not in self.budgets:
            raise NoError("BUDGET_NOT_FOUND")
        return self.budgets[scope, unit]

    def _freeze(self, scope: str, *, unit: str = UNITS[0]) -> Said:
        return self._turn(scope, unit, "ACTIVE", "FROZEN")

    def _unfreeze(self, scope: str, *, unit: str = UNITS[0]) -> Said:
        return self._turn(scope, unit, "FROZEN", "ACTIVE")

    def _turn(self, scope: str, unit: str, before: str, after: str) -> Said:
        self._guard(new_work=False)
        budget = self._budget(scope, unit)
        if budget["status"] == "CLOSED":
            raise NoError("BUDGET_CLOSED")
        if budget["status"] != before:
            raise NoError("INVALID_REQUEST")
        budget["status"] = after
        return after, {}

    def _close_budget(self, scope: str, *, unit: str = UNITS[0]) -> Said:
        self._guard(new_work=False)
        budget = self._budget(scope, unit)
        if budget["status"] == "CLOSED":
            raise NoError("BUDGET_CLOSED")
        if budget["reserved"]:
            raise NoError("INVALID_REQUEST")
        budget["status"] = "CLOSED"
        return "CLOSED", {}

    def _update_budget(
        self, scope: str, *, unit: str = UNITS[0], limit: str = "", overage: str = ""
    ) -> Said:
        self._guard(new_work=False)
        budget = self._budget(scope, unit)
        if budget["status"] == "CLOSED":
            raise NoError("BUDGET_CLOSED")
        before = dict(budget)
        budget["limit"] = int(limit or budget["limit"])
        budget["overage"] = overage or budget["overage"]
        budget["over"] = budget["debt"] > budget["limit"]
        facts = {name: budget[name] for name in ("limit", "overage", "over")}
        return budget["status"], facts | ({"repeated": True} if before == budget else {})

    def _update_tenant(self, name: str, **options: str) -> Said:
        if self.tenant is None:
            raise NoError("TENANT_NOT_FOUND")
        before = self.tenant
        if before["status"] == "unreadable":
            raise NoError("INTERNAL_ERROR")
        self.tenant = before | options
        if before["status"] == "CLOSED" and self.tenant["status"] != "CLOSED":
            self.tenant = before
            raise NoError("INVALID_REQUEST")
        facts = {
            "extensions": int(self.tenant["extensions"]),
            "overage": self.tenant.get("overage"),
        }
        return self.tenant["status"], facts | ({"repeated": True} if before == self.tenant else {})

    def _close_tenant(self, name: str) -> Said:
        if self.tenant is None:
            raise NoError("TENANT_NOT_FOUND")
        if self.tenant["status"] == "unreadable":
            raise NoError("INTERNAL_ERROR")
        if self.tenant["status"] == "CLOSED":
            return "CLOSED", {"repeated": True}
        self.tenant["status"] = "CLOSED"
        for row in self.rows.values():
            if row["status"] == "ACTIVE":
                row["status"] = "RELEASED"
        for budget in self.budgets.values():
            budget |= {"status": "CLOSED", "reserved": 0}
        return "CLOSED", {}

    # --- money -----------------------------------------------------------------------

    def _settle(
        self, scopes: list[str], unit: str, held: int | None, actual: int, policy: str
    ) -> int:
        """Charge as the protocol's appendix B does: cap, then limits, then charge, then flags."""
        budgets = [self.budgets[scope, unit] for scope in scopes]
        estimate = held or 0
        delta = actual - estimate
        charged = actual
        spent = min(actual, estimate)
        if delta > 0:
            if policy == "REJECT" and held is not None:
                raise NoError("BUDGET_EXCEEDED")
            before = [remaining(budget) for budget in budgets]
            more = delta
            for budget, left in zip(budgets, before, strict=True):
                if (policy == "AIA" or budget["limit"] == 0) and left < delta:
                    more = min(more, max(left, 0))
            owes = [max(0, more - max(left, 0)) for left in before]
            for scope, budget, left, debt in zip(scopes, budgets, before, owes, strict=True):
                if budget["limit"] == 0 or debt == 0:
                    continue
                fits = budget["spent"] + budget["reserved"] + budget["debt"] + more <= MAX
                if budget["debt"] + debt > budget["limit"] or not fits:
                    raise NoError("OVERDRAFT_LIMIT_EXCEEDED", scope=scope, remaining=left)
            for budget, left, debt in zip(budgets, before, owes, strict=True):
                budget["spent"] += more - debt
                budget["debt"] += debt
                if more < delta and (policy == "AIA" or budget["limit"] == 0) and left < delta:
                    budget["over"] = True
            charged = estimate + more
        for budget in budgets:
            budget["reserved"] -= estimate
            budget["spent"] += spent
        return charged

    def _give_back(self, row: dict[str, Any], status: str) -> None:
        for scope in row["scopes"]:
            self.budgets[scope, row["unit"]]["reserved"] -= row["estimate"]
        row["status"] = status

    def _told(self, scopes: list[str], unit: str) -> dict[str, Any]:
        left = [f"{scope}:{remaining(self.budgets[scope, unit])}" for scope in scopes]
        return {"balances": ",".join(left)}

    def _when(self, at_ms: int) -> str:
        return f"{at_ms - self.began_ms}ms"


def remaining(budget: dict[str, Any]) -> int:
    return int(budget["allocated"] - budget["spent"] - budget["reserved"] - budget["debt"])


def covers(pattern: str, path: str) -> bool:
    """Say whether a pattern covers a path, segment by segment."""
    want, have = pattern.split("/"), path.split("/")
    last = want[-1]
    if want[0] == "*":
        return last in have
    if last == "*":
        return have[: len(want) - 1] == want[:-1] and len(have) >= len(want)
    if last.endswith(":*"):
        below = have[len(want) - 1 :] if have[: len(want) - 1] == want[:-1] else []
        return any(segment.split(":")[0] == last[:-2] for segment in below)
    return want == have


def prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def span(text: str) -> int:
    for suffix, factor in SPANS:
        number = text.removesuffix(suffix)
        if number != text and number.lstrip("-").isdigit():
            return int(number) * factor
    raise ValueError(text)
