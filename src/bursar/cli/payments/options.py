"""The options of `bursar payments`, and what a command gets from them.

The rule that lives here: whatever goes wrong with the file, a chain or a payment leaves as one
line and an exit code; what a wrong word was is said before anything is opened or asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from bursar.cli.exits import (
    EXIT_NOT_FOUND,
    EXIT_REFUSED,
    EXIT_STORE,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    CommandError,
)
from bursar.cli.remote.options import Many
from bursar.cli.remote.profile import Options, payments
from bursar.cli.remote.show import Show
from bursar.ledger.ports import StoreUnusable
from bursar.payments.operate import OperatorError
from bursar.payments.ports import PaymentStore, PaymentStoreError
from bursar.payments.records import PaymentRecord
from bursar.payments.store import open_payments

if TYPE_CHECKING:
    from bursar.x402.credentials import Headers
    from bursar.x402.finality import Finality
    from bursar.x402.prover import ChainProver

HEADERS_VARIABLE = "BURSAR_PAYMENTS_FACILITATOR_HEADERS"
STORE_VARIABLE = "BURSAR_STORE"
STORE_DEFAULT = "sqlite:///bursar.db"
FILE = Group("Which file, and how to answer", sort_key=80)
CHAIN = Group("Which chain to ask", sort_key=70)


@Parameter(name="*", group=FILE)
@dataclass(frozen=True, kw_only=True)
class Kept:
    """The ledger's file and the form of the answer."""

    store: str | None = None
    """The ledger's file, sqlite:///FILE or FILE; else BURSAR_STORE or bursar.db. A server may
    be running on it."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Answer with JSON, values as exact text; a failure is JSON on standard error."""

    @property
    def show(self) -> Show:
        """Where the command shows what it found."""
        return Show(as_json=self.as_json)

    @contextlib.contextmanager
    def opened(self) -> Iterator[PaymentStore]:
        """Give the file's payments for as long as the command runs."""
        named = self.store or os.environ.get(STORE_VARIABLE) or STORE_DEFAULT
        path = Path(named.removeprefix("sqlite:///"))
        try:
            store = open_payments(path, create=False)
        except StoreUnusable as error:
            raise CommandError(EXIT_STORE, str(error)) from error
        with contextlib.closing(store):
            try:
                yield store
            except PaymentStoreError as error:
                raise CommandError(EXIT_STORE, str(error)) from error
            except OperatorError as error:
                raise CommandError(EXIT_REFUSED, str(error)) from error


@Parameter(name="*", group=CHAIN)
@dataclass(frozen=True, kw_only=True)
class Chains:
    """The RPC endpoints."""

    rpc: Many = None
    """NETWORK=URL, such as eip155:8453=https://rpc.example; twice for a network gives two
    witnesses. Else BURSAR_PAYMENTS_RPC, or payments_rpc of the profile, with blanks between."""
    facilitator: Many = None
    """NAME=URL or NAME:DIALECT=URL, who is asked where to look, never to pay; NAME is the one in
    the records. Else BURSAR_PAYMENTS_FACILITATORS, or payments_facilitators of the profile. What
    its requests carry is in BURSAR_PAYMENTS_FACILITATOR_HEADERS or the file that
    BURSAR_PAYMENTS_FACILITATOR_HEADERS_FILE or the profile names."""
    finality: Many = None
    """Which block counts as final: finalized, safe, or how many blocks must follow; NETWORK=WORD
    says so for one chain. Else BURSAR_PAYMENTS_FINALITY, or payments_finality of the profile."""
    profile: str | None = None
    """Profile of the configuration file; the environment is then not looked at."""
    config: Path | None = None
    """Configuration file; else BURSAR_CONFIG or ~/.config/bursar/config.toml."""

    def asked(self, show: Show) -> Asked:
        """Return whom to ask and how; it is checked, and nobody is asked."""
        from bursar.x402.endpoints import read_facilitators, read_rpc
        from bursar.x402.finality import check_networks, read_finality

        kept = payments(Options(profile=self.profile, config=self.config), os.environ, show.warn)
        said = [
            _read(read, given, f"--{option}", kept, setting)
            for read, given, option, setting in (
                (read_rpc, self.rpc, "rpc", "payments_rpc"),
                (read_facilitators, self.facilitator, "facilitator", "payments_facilitators"),
                (read_finality, self.finality, "finality", "payments_finality"),
            )
        ]
        # What is kept may be for more chains than a command names with --rpc.
        if said[0] and (self.finality or not self.rpc):
            option = "--finality" if self.finality else "payments_finality"
            try:
                check_networks(said[2], said[0])
            except ValueError as error:
                raise CommandError(EXIT_USAGE, f"{option}: {error}") from None
        seen = {} if self.profile else os.environ
        file = kept.get("payments_facilitator_headers_file")
        return Asked(said[0], said[1], said[2], _headers(seen.get(HEADERS_VARIABLE), file, said[1]))


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a command asks about payments.

    Attributes:
        addresses: of RPC endpoints, by network.
        facilitators: address and dialect, by name.
        finality: which block counts as final, by network.
        headers: what requests to facilitators carry.
    """

    addresses: Mapping[str, tuple[str, ...]]
    facilitators: Mapping[str, tuple[str, str]]
    finality: Mapping[str, Finality]
    headers: Headers = field(default_factory=dict, repr=False)


def _read(
    read: Callable[[list[str]], Any],
    given: list[str] | None,
    option: str,
    kept: Mapping[str, str],
    setting: str,
) -> Any:
    try:
        return read(given or kept.get(setting, "").split())
    except ValueError as error:
        raise CommandError(EXIT_USAGE, f"{option if given else setting}: {error}") from None


def _headers(text: str | None, file: str | None, named: Collection[str]) -> Headers:
    """Return what the environment or a file says that requests to facilitators carry.

    A file may be for more facilitators than the command names: of those it takes what it needs.
    """
    from bursar.x402.credentials import HeaderFile, read_headers

    if text and file:
        raise CommandError(
            EXIT_USAGE, f"{HEADERS_VARIABLE} and its _FILE say the same thing; keep one of them"
        )
    try:
        if text:
            return read_headers(text, None)
        return HeaderFile(Path(file), None).read() if file else {}
    except ValueError as error:
        raise CommandError(EXIT_USAGE, f"payments_facilitator_headers: {error}") from None


def existing(store: PaymentStore, payment_id: str) -> PaymentRecord:
    """Return a payment, or say that there is none."""
    record = store.get(payment_id)
    if record is None:
        raise CommandError(
            EXIT_NOT_FOUND,
            f"there is no payment {payment_id} in this file; see: bursar payments list",
            payment_id=payment_id,
        )
    return record


def ask(
    asked: Asked,
    record: PaymentRecord,
    what: Callable[[ChainProver], Coroutine[object, object, PaymentRecord]],
) -> PaymentRecord:
    """Ask a payment's chain, and return the payment afterwards.

    Raises:
        CommandError: nobody was named to ask, an endpoint could not say, or the payment is none
            that a chain knows.
    """
    from bursar.x402.prover import question_of
    from bursar.x402.rpc import RpcError

    addresses = asked.addresses
    if record.network not in addresses:
        named = f" ({', '.join(sorted(addresses))} named)" if addresses else ""
        raise CommandError(
            EXIT_USAGE,
            f"nobody to ask about {record.network}{named}; give --rpc {record.network}=URL, "
            "BURSAR_PAYMENTS_RPC, or payments_rpc in the profile",
        )
    try:
        question_of(record)
    except ValueError as error:
        raise CommandError(EXIT_REFUSED, f"payment {error}") from None

    async def run() -> PaymentRecord:
        async with _prover(asked, record) as prover:
            return await what(prover)

    try:
        return asyncio.run(run())
    except RpcError as error:
        raise CommandError(EXIT_UNREACHABLE, f"{error}; nothing was changed") from error


@contextlib.asynccontextmanager
async def _prover(asked: Asked, record: PaymentRecord) -> AsyncIterator[ChainProver]:
    """Give who asks about one payment, with its own facilitator alone."""
    from bursar.x402.endpoints import open_facilitators, open_rpc
    from bursar.x402.prover import ChainProver

    named = {n: said for n, said in asked.facilitators.items() if n == record.facilitator}
    facilitators = open_facilitators(named, headers=asked.headers)
    endpoints = open_rpc({record.network: asked.addresses[record.network]})
    prover = ChainProver(endpoints, facilitators=facilitators, finality=asked.finality)
    try:
        async with contextlib.aclosing(prover):
            yield prover
    finally:
        for facilitator in facilitators.values():
            await facilitator.aclose()


def login() -> str:
    """Return who is at this machine; empty where nobody can tell."""
    with contextlib.suppress(OSError, KeyError):  # no account has this number
        return getpass.getuser()
    return ""
