"""A ledger file, the configuration and the installation on this machine.

The rule that lives here: a ledger that is being served is looked at as a reader does; no lock
is taken for longer than it takes to see whether somebody holds it.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bursar.cli.doctor.line import Line, fail, ok, warn
from bursar.clock import SystemClock
from bursar.ledger.ports import StoreError
from bursar.payments.outcome import UNRESOLVED, Disposition, Money
from bursar.payments.schedule import Pace
from bursar.storage.sqlite import outbox_figures, payment_figures
from bursar.storage.sqlite import snapshot as sqlite

FREE_FAIL_BYTES = 64 * 1024 * 1024
LOG_WARN_BYTES = 256 * 1024 * 1024
LAG_WARN_S = 300
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"}
EXTRAS = {
    "server": "starlette",
    "postgres": "psycopg",
    "x402": "x402",
    "otel": "opentelemetry.sdk",
    "openai": "openai",
    "anthropic": "anthropic",
    "langchain": "langchain",
    "mcp": "mcp",
}


def ledger(path: Path) -> Iterator[Line]:
    """Look at a ledger file and what lies beside it."""
    path = path.absolute()
    if not path.is_file():
        yield fail("ledger", f"{path} is no file", "name the file that `bursar serve` has")
        return
    yield _schema(path)
    yield _payments(path)
    yield from (_private(path, name) for name in (path.name, f"{path.name}.admin-key"))
    yield _space(path)
    yield _file_system(path)
    yield _log(path)
    yield _holder(path)


def config(path: Path) -> Iterator[Line]:
    """Look at the configuration file, if there is one."""
    if path.is_file():
        yield _private(path, path.name, check="config file")


def installation() -> Line:
    """Say which optional parts are installed."""
    found, missing = list[str](), list[str]()
    for extra, module in EXTRAS.items():
        spec = None
        with suppress(ModuleNotFoundError):
            spec = importlib.util.find_spec(module)
        (missing if spec is None else found).append(extra)
    without = f"; without: {', '.join(missing)}" if missing else ""
    return ok("extras", f"installed: {', '.join(found) or 'none'}{without}")


def _schema(path: Path) -> Line:
    try:
        about = sqlite.examine(path, quiet=not sqlite.in_use(path))
    except StoreError as error:
        return fail("ledger", str(error), "restore a backup with `bursar restore`")
    if about.damage:
        return fail("ledger", about.damage[0], "restore a backup with `bursar restore`")
    if about.schema < about.schema_newest:
        return warn(
            "ledger",
            f"schema {about.schema}, this program needs {about.schema_newest}",
            "back it up and start once with `bursar serve --migrate`",
        )
    return ok("ledger", f"sound, schema {about.schema}, {about.entries:,} entries")


def _payments(path: Path) -> Line:
    """Say whether a payment needs somebody, or the worker that should look at it."""
    try:
        now_ms = SystemClock().now_ms()
        found = payment_figures.gather(path, now_ms, Pace())
        waiting = outbox_figures.gather(path, now_ms)
    except StoreError as error:
        return fail("payments", str(error), "restore a backup with `bursar restore`")
    if not found.tallies:
        return ok("payments", "none")
    counts = {
        "orphaned": found.count(Disposition.ORPHANED),
        "owed": found.count(Disposition.REFUND_DUE),
        "unpaid": found.count(Disposition.UNPAID_DELIVERY),
        "parked": found.count(Money.PARKED),
        "late": found.late,
        "untold": sum(n for (_, parked), n in waiting.counts.items() if parked),
    }
    said = [f"{count:,} {name}" for name, count in counts.items() if count]
    said.append(
        f"{found.count(*UNRESOLVED):,} unresolved of {sum(t.count for t in found.tallies):,}"
    )
    if found.lag_s > LAG_WARN_S:
        behind = f"{found.due:,} due, the first {round(found.lag_s):,} s ago"
        fix = "set payments_rpc, or start what runs the worker"
        return warn("payments", ", ".join([*said, behind]), fix)
    if counts["untold"]:
        return warn("payments", ", ".join(said), "bursar payments outbox list --parked")
    if len(said) > 1:
        return warn("payments", ", ".join(said), "bursar payments list --disposition ORPHANED")
    return ok("payments", said[0])


def _private(path: Path, name: str, check: str = "permissions") -> Line:
    file = path.with_name(name)
    if not file.exists():
        return ok(check, f"no {name}")
    if file.stat().st_mode & 0o077:
        return warn(check, f"others may read {file}", f"chmod 600 {file}")
    return ok(check, f"{name} is its owner's alone")


def _space(path: Path) -> Line:
    free, size = shutil.disk_usage(path.parent).free, path.stat().st_size
    found = f"{free:,} bytes free, the ledger has {size:,}"
    fix = "free space, or move the ledger to a larger disk"
    if free < FREE_FAIL_BYTES:
        return fail("disk", found, fix)
    if free < size + FREE_FAIL_BYTES:
        return warn("disk", f"{found}: not enough for a backup over HTTP", fix)
    return ok("disk", found)


def _file_system(path: Path) -> Line:
    kind = _kind(path)
    if kind in NETWORK:
        return fail(
            "file system",
            f"{kind}: locks and syncs do not hold over a network, and the ledger needs both",
            "move the ledger to a local disk",
        )
    return ok("file system", kind or "local")


def _kind(path: Path) -> str:
    """Return the type of the mount that a path lies on, where the system tells."""
    best, kind = "", ""
    with suppress(OSError):
        for mount in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
            fields = mount.split(" ")
            where = fields[1].replace("\\040", " ")
            within = path.is_relative_to(where)
            if within and len(where) >= len(best):
                best, kind = where, fields[2]
    return kind


def _log(path: Path) -> Line:
    log = path.with_name(path.name + "-wal")
    size = log.stat().st_size if log.exists() else 0
    if size > LOG_WARN_BYTES:
        return warn(
            "write-ahead log",
            f"{size:,} bytes: a reader keeps it from shrinking, or the server was killed",
            "end readers that are open for long, or restart the server",
        )
    return ok("write-ahead log", f"{size:,} bytes")


def _holder(path: Path) -> Line:
    """Say which server has the file, without keeping one from taking it."""
    try:
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY)
    except FileNotFoundError:
        return ok("lock", "never served from here")
    except OSError as error:
        return warn("lock", f"cannot be read: {error.strerror}", "run this as the ledger's owner")
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        noted = {}
        with suppress(ValueError):
            noted = json.loads(os.pread(handle, 4_096, 0))
        return ok("lock", f"served by process {noted.get('process', 'unknown')}")
    finally:
        os.close(handle)
    return ok("lock", "free: no server has it")
