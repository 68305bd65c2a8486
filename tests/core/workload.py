"""Random requests, written as rows of a table, so that a failure can be played as one.

The choices look at the auditor's books to be interesting: amounts near what remains, ids that
exist, keys that were used, times near the end of a lease.
"""

from dataclasses import dataclass, field
from random import Random

from core.auditor import DAY_MS, MAX, UNITS, Auditor, remaining

SCOPES = (
    "acme",
    "acme/workspace:w",
    "acme/workspace:w/agent:a",
    "acme/agent:b",
)
PATTERNS = (
    *("acme", "acme/*", "acme/agent:*", "acme/workspace:w/*", "acme/agent:b"),
    *("agent:*", "*/agent:a"),
)
SOME_UNITS = UNITS[:2]
POLICIES = ("AIA", "AWO", "REJECT")
VERBS = {
    "reserve": 30,
    "commit": 22,
    "debit": 12,
    "release": 7,
    "extend": 6,
    "expire": 7,
    "decide": 5,
    "fund": 9,
    "again": 10,
    "freeze": 1,
    "unfreeze": 1,
    "close_budget": 0.1,
    "update_budget": 2,
    "update_tenant": 0.5,
    "mend": 12,
}
KEYED = ("reserve", "commit", "release", "extend", "debit", "decide", "fund")


@dataclass
class Workload:
    """A source of rows; all of its randomness comes from `random`."""

    random: Random
    auditor: Auditor
    sent: list[str] = field(default_factory=list)
    keys: int = 0

    def first_rows(self) -> list[str]:
        """Return the records that a world begins with."""
        rows = [self._tenant()] if self._chance(0.7) else []
        places = [(scope, unit) for scope in SCOPES for unit in SOME_UNITS]
        shares = dict(zip(SOME_UNITS, (0.7, 0.3), strict=True))
        rows += [self._rules(f"p{n}") for n in range(4) if self._chance(0.4)]
        return rows + [self._budget(*place) for place in places if self._chance(shares[place[1]])]

    def between(self) -> str | None:
        """Return what happens between two batches: time passes, or a tenant's status turns."""
        status = (self.auditor.tenant or {"status": "ACTIVE"})["status"]
        if self._chance(0.01 if status == "ACTIVE" else 0.3) and self.auditor.tenant is not None:
            return self._tenant()
        if self._chance(0.03):
            return self._rules(f"p{self.random.randrange(4)}")
        if self._chance(0.4):
            spans = ("1ms", "1s", "1s", "1s", "3s", "5001ms", "30s", "-3s")
            return f"tick {self.random.choice(spans)}"
        return f"tick {self.random.randrange(2 * DAY_MS)}ms" if self._chance(0.01) else None

    def row(self) -> str:
        """Return the next request."""
        if self._chance(0.0006):
            return "close_tenant acme"
        verb = self.random.choices(list(VERBS), list(VERBS.values()))[0]
        if verb == "again":
            return self._again()
        if verb == "mend":
            verb, row = self._mend()
            if verb == "fund":
                self.keys += 1
                row += f" key=k{self.keys}"
            return f"{verb} {row}"
        self.keys += 1
        row = f"{verb} {getattr(self, f'_{verb}')()}"
        if verb in KEYED:
            row += f" key=k{self.keys}"
            self.sent.append(row)
        return row

    # --- records ---------------------------------------------------------------------

    def _tenant(self) -> str:
        status = self.random.choices(("ACTIVE", "SUSPENDED", "unreadable"), (40, 2, 2))[0]
        row = f"given tenant acme status={status}"
        if self._chance(0.3):
            row += f" overage={self.random.choice(POLICIES)}"
        if self._chance(0.3):
            row += f" ttl={self.random.choice(('1s', '30s', '2h'))}"
        if self._chance(0.3):
            row += f" ttl_max={self.random.choice(('10s', '2h', '2d'))}"
        if self._chance(0.3):
            row += f" extensions={self.random.randrange(3)}"
        if self._chance(0.1):
            row += " expiry=MANUAL_CLEANUP"
        return row

    def _budget(self, scope: str, unit: str) -> str:
        large = self._chance(0.05)
        allocated = MAX - self.random.randrange(3) if large else self.random.randrange(200)
        row = f"given budget {scope} allocated={allocated}" + self._unit_option(unit)
        if self._chance(0.5):
            limit = MAX if self._chance(0.05) else self.random.randrange(1, 60)
            row += f" limit={limit}"
            if self._chance(0.3) and not large:
                row += f" spent={allocated} debt={self.random.randrange(min(limit, 60) + 1)}"
        elif self._chance(0.1):
            row += " debt=3"
        if self._chance(0.1):
            row += " over=yes"
        if self._chance(0.3):
            row += f" overage={self.random.choice(POLICIES)}"
        return row

    def _rules(self, name: str) -> str:
        status = "ACTIVE" if self._chance(0.8) else "DISABLED"
        row = f"given policy {name} at={self.random.choice(PATTERNS)} status={status}"
        for option, values, share in (
            ("priority", ("0", "1", "2"), 0.5),
            ("caps", ("1", "2"), 0.3),
            ("overage", POLICIES, 0.3),
            ("ttl", ("1s", "30s", "2h"), 0.3),
            ("ttl_max", ("10s", "2h", "2d"), 0.3),
            ("extensions", ("0", "1"), 0.2),
            ("reserves", ("1", "2", "5"), 0.2),
            ("commits", ("1", "2", "5"), 0.2),
            ("from", ("1s", "1m", "1h"), 0.1),
            ("until", ("1m", "1h", "2d"), 0.1),
        ):
            if self._chance(share):
                row += f" {option}={self.random.choice(values)}"
        return row

    # --- requests --------------------------------------------------------------------

    def _reserve(self) -> str:
        scope, unit = self._place()
        row = f"r{self.keys} {self._amount(scope, unit)} at={scope}" + self._unit_option(unit)
        if self._chance(0.5):
            row += f" overage={self.random.choice(POLICIES)}"
        if self._chance(0.3):
            row += f" ttl={self.random.choice(('1s', '10s', '24h'))}"
        if self._chance(0.2):
            row += f" grace={self.random.choice(('0s', '60s'))}"
        return row + " dry_run=yes" if self._chance(0.1) else row

    def _commit(self) -> str:
        name = self._name()
        row = self.auditor.rows.get(name)
        if row is None:
            return f"{name} 1"
        unit = self.random.choice(SOME_UNITS) if self._chance(0.03) else row["unit"]
        most = 3 * row["estimate"] + 20
        usual = self.random.randrange(row["estimate"] + 1)
        actual = self.random.choice((usual, usual, row["estimate"], self.random.randrange(most)))
        if self._chance(0.1):
            scope = self.random.choice(row["scopes"])
            actual = row["estimate"] + self._amount(scope, row["unit"])
        return f"{name} {min(actual, MAX)}" + self._unit_option(unit)

    def _release(self) -> str:
        return self._name()

    def _extend(self) -> str:
        return f"{self._name()} {self.random.choice(('1ms', '10s', '1h', '24h'))}"

    def _expire(self) -> str:
        return self._name()

    def _debit(self) -> str:
        scope, unit = self._place()
        row = f"d{self.keys} {self._amount(scope, unit)} at={scope}" + self._unit_option(unit)
        return row + f" overage={self.random.choice(POLICIES)}" if self._chance(0.6) else row

    def _decide(self) -> str:
        scope, unit = self._place()
        return f"{self._amount(scope, unit)} at={scope}" + self._unit_option(unit)

    def _fund(self) -> str:
        scope, unit = self._place()
        weights = {"CREDIT": 8, "REPAY_DEBT": 4, "DEBIT": 3, "RESET": 2, "RESET_SPENT": 1}
        operation = self.random.choices(list(weights), list(weights.values()))[0]
        row = f"{scope} {operation} {self._amount(scope, unit)}" + self._unit_option(unit)
        if operation == "RESET_SPENT" and self._chance(0.5):
            row += f" spent={self.random.randrange(50)}"
        return row + (" skip_done=yes" if self._chance(0.3) else "")

    def _freeze(self) -> str:
        scope, unit = self._place()
        return scope + self._unit_option(unit)

    def _update_budget(self) -> str:
        """Change a limit, to next to what is owed above all, or a policy."""
        scope, unit = self._place()
        row = scope + self._unit_option(unit)
        debt = self.auditor.budgets.get((scope, unit), {"debt": 0})["debt"]
        if self._chance(0.7):
            limits = (max(0, debt - 1), debt, debt + 1, debt + 100, debt + 100)
            row += f" limit={self.random.choice(limits)}"
        if self._chance(0.3):
            row += f" overage={self.random.choice(POLICIES)}"
        return row

    def _update_tenant(self) -> str:
        row = "acme"
        if self._chance(0.3):
            row += f" status={self.random.choice(('ACTIVE', 'SUSPENDED'))}"
        if self._chance(0.5):
            row += f" overage={self.random.choice(POLICIES)}"
        return row + f" extensions={self.random.randrange(3)}" if self._chance(0.3) else row

    _unfreeze = _freeze
    _close_budget = _freeze

    def _mend(self) -> tuple[str, str]:
        """Help a budget that blocks: unfreeze it, repay its debt, or fund it."""
        places = [
            (place, books)
            for place, books in self.auditor.budgets.items()
            if books["status"] == "FROZEN"
            or (books["status"] == "ACTIVE" and (books["over"] or remaining(books) < 10))
        ]
        if not places:
            return "expire", "nothing"
        (scope, unit), books = self.random.choice(places)
        option = self._unit_option(unit)
        if books["status"] == "FROZEN":
            return "unfreeze", scope + option
        operation = "REPAY_DEBT" if books["debt"] else "CREDIT"
        return "fund", f"{scope} {operation} {self.random.randrange(300)}{option}"

    def _again(self) -> str:
        """Repeat a request, or use its key for another one."""
        if not self.sent:
            return "expire nothing"
        recent = self.sent[-20:] if self._chance(0.7) else self.sent
        verb, *words = self.random.choice(recent).split(" ")
        if self._chance(0.3):
            place = {"decide": 0, "fund": 2, "release": 0}.get(verb, 1)
            words[place] = {"release": "nothing", "extend": "7s"}.get(verb, "7")
        if verb in ("reserve", "debit"):  # the server draws an id before it knows of the replay
            self.keys += 1
            words[0] = f"{verb[0]}{self.keys}"
        return " ".join([verb, *words])

    # --- choices ---------------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _place(self) -> tuple[str, str]:
        places = list(self.auditor.budgets)
        if places and self._chance(0.8):
            return self.random.choice(places)
        return self.random.choice(SCOPES), self.random.choice(SOME_UNITS)

    def _name(self) -> str:
        """Return a reservation: most often an active one, rarely one that is not there."""
        rows = self.auditor.rows
        names = list(rows)
        if self._chance(0.8):
            names = [name for name in names if rows[name]["status"] == "ACTIVE"]
        return self.random.choice(names) if names and self._chance(0.99) else "nothing"

    def _amount(self, scope: str, unit: str) -> int:
        """Return an amount: small, or next to what remains or what may be owed."""
        budget = self.auditor.budgets.get((scope, unit))
        if budget is None or self._chance(0.8):
            return self.random.randrange(40)
        edge = remaining(budget)
        if self._chance(0.3):
            edge += budget["limit"] - budget["debt"]
        return min(max(0, edge + self.random.randrange(-1, 2)), MAX)

    def _unit_option(self, unit: str) -> str:
        return "" if unit == UNITS[0] else f" unit={unit}"
