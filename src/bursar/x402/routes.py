"""Which request costs what, by every way in which its path may be read.

The rule that lives here: the table of prices and the application must read a request alike, or
nobody gets anything. Applications differ in what they make of a line end, a slash more or less,
capitals, `;parameters`, dots, a second percent-decoding, an encoded slash, a prefix that the
server names (`root_path`) and a header that overrides the method. So a request is looked up as
it is written, and as the most lenient reader would see it; where the two cost differently it is
refused, which costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote

from bursar.x402.offers import Offer
from bursar.x402.pricing import Price

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
FREE: Final = "free"
Sold = Price | Offer | Sequence[Offer] | Literal["free"]

DECODINGS_MAX: Final = 4
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HOLE: Final = re.compile(r"(\{[^{}/]+\}|\*)")
_OVERRIDES: Final = (b"x-http-method-override", b"x-http-method", b"x-method-override")
_NO_SLASH: Final = "\ufffd"


class AmbiguousRequest(ValueError):
    """A request that costs what it costs only by one of two ways to read it; nobody is paid."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the table; `price` is None where it is free by name."""

    name: str
    method: str | None
    path: str
    exact: re.Pattern[str]
    similar: re.Pattern[str]
    price: Price | None

    @property
    def literal(self) -> bool:
        return _HOLE.search(self.path) is None

    def fits(self, paths: Sequence[str]) -> bool:
        """Say whether it is for a path as it is written."""
        return any(self.exact.fullmatch(path) for path in paths)

    def resembles(self, paths: Sequence[str]) -> bool:
        """Say whether it is for a path that `lenient` made."""
        return any(self.similar.fullmatch(path) for path in paths)

    def takes(self, method: str | None) -> bool:
        """Say whether it is for a method; None stands for any."""
        wanted = "GET" if method == "HEAD" else method
        return None in (self.method, method) or self.method in (wanted, method)


class Routes:
    """Finds the price of a request.

    Args:
        routes: by `"/path"` for every method, or `"GET /path"` for one; `{name}` stands for one
            segment and `*` for anything. The first that fits counts; `"free"` costs nothing.
    """

    def __init__(self, routes: Mapping[str, Sold]) -> None:
        self._rows = [_row(name, sold) for name, sold in routes.items()]
        for place, row in enumerate(self._rows):
            before = next((one for one in self._rows[:place] if _covers(one, row)), None)
            if before is not None:
                raise ValueError(
                    f"route {row.name!r} can never match: {before.name!r} is above it and takes "
                    "the same requests; put the narrower one first"
                )

    def find(self, scope: Mapping[str, Any], app_root: str = "") -> Price | None:
        """Return what a request costs; None if nothing.

        Args:
            scope: of the request.
            app_root: the prefix that the application takes off by itself.

        Raises:
            AmbiguousRequest: the application may read it as something that costs otherwise.
        """
        method, others = scope["method"], _overrides(scope)
        paths, raw = readings(scope, app_root), _raw(scope, app_root)
        rows = self._fitting(method, paths)
        found = _prices(rows)
        if not rows or not rows[0].literal or raw or others or method not in METHODS:
            for asked in {method.upper(), *others}:
                found += [*self._leniently(asked, paths), *self._leniently(asked, raw)]
        if any(price not in _prices(rows[:1]) for price in found):
            raise AmbiguousRequest(
                "nothing is sold under this spelling, and something is under a similar one; "
                "write path and method exactly as they are published. Nothing was charged"
            )
        return rows[0].price if rows else None

    def holds(self, scope: Mapping[str, Any], app_root: str = "") -> bool:
        """Say whether any method of a path costs something, however the path is read."""
        paths, raw = readings(scope, app_root), _raw(scope, app_root)
        exact = (row for row in self._rows if row.price and row.fits(paths))
        return bool(next(exact, None) or self._leniently(None, [*paths, *raw]))

    def unserved(self, app: Any) -> list[str]:
        """Return the names of routes that no route of an application answers, where it shows."""
        table = _table(app)
        if table is None:
            return []
        return [
            row.name
            for row in self._rows
            if row.price is not None and row.literal and not _answers(table, row)
        ]

    def _fitting(self, method: str, paths: Sequence[str]) -> list[_Row]:
        """Return the row that counts first; another that is named to the letter contests it."""
        rows = [row for row in self._rows if row.takes(method) and row.fits(paths)]
        return rows[:1] + [row for row in rows[1:] if row.literal and rows[0].literal]

    def _leniently(self, method: str | None, paths: Sequence[str]) -> list[Price]:
        """Return the prices that the most lenient reader could come to."""
        seen = [lenient(path) for path in paths]
        if method in METHODS:
            fits = (row for row in self._rows if row.takes(method) and row.resembles(seen))
            return _prices([row for row in [next(fits, None)] if row is not None])
        # An application may take a method that it does not know for any other.
        return _prices([row for row in self._rows if row.resembles(seen)])


def readings(scope: Mapping[str, Any], app_root: str = "") -> list[str]:
    """Return the paths that a table may mean: as it came, and without each prefix."""
    path = scope["path"]
    roots = (scope.get("root_path", ""), app_root)
    return list(dict.fromkeys([path, *(_below(path, root) for root in roots)]))


def lenient(path: str) -> str:
    """Return a path as the most lenient reader would see it."""
    path = _CONTROL.sub("", _decoded(path)).replace("\\", "/")
    kept: list[str] = []
    for segment in map(_segment, path.split("/")):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept)


def _segment(text: str) -> str:
    return text.partition(";")[0].strip().casefold()


def _decoded(text: str) -> str:
    for _ in range(DECODINGS_MAX):
        if (once := unquote(text)) == text:
            break
        text = once
    return text


def _below(path: str, root: str) -> str:
    """Return a path without the prefix of its application, as routers of ASGI take it off."""
    root = root.rstrip("/")
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return rest if rest.startswith("/") else path if rest else "/"


def _raw(scope: Mapping[str, Any], app_root: str) -> list[str]:
    """Return the paths of a reader for whom an encoded slash is none; usually there is none."""
    raw = scope.get("raw_path") or b""
    text = raw.partition(b"?")[0].decode("latin-1")
    if "%" not in text:
        return []
    parts = [_decoded(part) for part in text.split("/")]
    if not any("/" in part or "\\" in part for part in parts):
        return []
    whole = "/".join(part.replace("/", _NO_SLASH).replace("\\", _NO_SLASH) for part in parts)
    return readings({**scope, "path": whole}, app_root)


def _overrides(scope: Mapping[str, Any]) -> set[str]:
    """Return the methods that a request asks to be taken for."""
    said = [
        value.decode("latin-1") for name, value in scope["headers"] if name.lower() in _OVERRIDES
    ]
    query = scope.get("query_string", b"").decode("latin-1")
    if "_method" in query:
        said += parse_qs(query, keep_blank_values=True).get("_method", [])
    return {one.strip().upper() for one in said if one.strip()}


def _prices(rows: Sequence[_Row]) -> list[Price]:
    found: list[Price] = []
    for row in rows:
        if row.price is not None and row.price not in found:
            found.append(row.price)
    return found


def _row(name: str, sold: Sold) -> _Row:
    method, _, path = name.rpartition(" ")
    if method and method not in METHODS:
        raise ValueError(f"route {name!r}: {method!r} is no method; write it as GET /path")
    if not path.startswith("/"):
        raise ValueError(f"route {name!r}: a path begins with /")
    if any(sign in path for sign in "?#") or unquote(path) != path:
        raise ValueError(
            f"route {name!r} can never match: write the path as it is decoded, without a query"
        )
    exact = "".join(_spelled(part) for part in _HOLE.split(path))
    return _Row(
        *(name, method or None, path),
        re.compile(exact, re.DOTALL),
        re.compile("".join(_similar(path)) or "/", re.DOTALL),
        _priced(sold),
    )


def _similar(path: str) -> Iterator[str]:
    """Return the pattern of a path, segment by segment, for paths that `lenient` made."""
    segments = [one for one in path.split("/") if one]
    for place, segment in enumerate(segments):
        if segment == "*" and place == len(segments) - 1:
            yield "/?" if len(segments) == 1 else ""
            yield ".*" if len(segments) == 1 else "(?:/.*)?"
        elif _HOLE.search(segment):
            yield "/" + "".join(_spelled(part.casefold()) for part in _HOLE.split(segment))
        else:
            yield "/" + re.escape(_segment(segment))


def _spelled(part: str) -> str:
    if part == "*":
        return ".*"
    return "[^/]+" if part.startswith("{") and part.endswith("}") else re.escape(part)


def _priced(sold: Sold) -> Price | None:
    if isinstance(sold, str):
        if sold != FREE:
            raise ValueError(f"a route costs a Price or an Offer, or is {FREE!r}; got {sold!r}")
        return None
    if isinstance(sold, Price):
        return sold
    return Price((sold,) if isinstance(sold, Offer) else tuple(sold))


def _covers(above: _Row, row: _Row) -> bool:
    """Say whether every request of a row is taken by one above it."""
    if above.method is not None and above.method != row.method:
        return False
    return all(
        above.exact.fullmatch(_sample(row.path, one))
        for one in (("a", "b/c") if "*" in row.path else ("a",))
    )


def _sample(path: str, anything: str) -> str:
    """Return a path that a pattern takes, with something for each `*`."""
    return _HOLE.sub(lambda hole: anything if hole[0] == "*" else "\x1fa", path)


def _table(app: Any) -> Sequence[Any] | None:
    """Return the routes of a Starlette or FastAPI application, below its middleware."""
    for _ in range(50):
        routes = getattr(app, "routes", None)
        if isinstance(routes, list):
            return routes
        if (app := getattr(app, "app", None)) is None:
            return None
    return None


def _answers(table: Sequence[Any], row: _Row) -> bool:
    scope = {"type": "http", "method": row.method or "GET", "path": row.path, "root_path": ""}
    for route in table:
        try:
            match, _ = route.matches({**scope, "headers": [], "path_params": {}})
            if match.value:
                return True
        except Exception:  # noqa: BLE001  # a route of somebody else's kind: nobody can tell
            return True
    return False
