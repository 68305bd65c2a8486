"""The options of `bursar payments`, and what a command gets from them.

The rule that lives here: whatever goes wrong with the file, a chain or a payment leaves as one
line and an exit code; what a wrong word was is said before anything is opened or asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from bursar.cli.remote.profile import Options, payments_rpc
from bursar.cli.remote.show import Show
from bursar.ledger.ports import StoreUnusable
from bursar.payments.operate import OperatorError
from bursar.payments.ports import PaymentStore, PaymentStoreError
from bursar.payments.records import PaymentRecord
from bursar.payments.store import open_payments

if TYPE_CHECKING:
    from bursar.x402.prover import ChainProver

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
    profile: str | None = None
    """Profile of the configuration file; the environment is then not looked at."""
    config: Path | None = None
    """Configuration file; else BURSAR_CONFIG or ~/.config/bursar/config.toml."""

    def addresses(self, show: Show) -> dict[str, tuple[str, ...]]:
        """Return the endpoints' addresses by network; they are checked and not asked."""
        from bursar.x402.endpoints import read_rpc

        options = Options(profile=self.profile, config=self.config)
        words = self.rpc or (payments_rpc(options, os.environ, show.warn) or "").split()
        try:
            return read_rpc(words)
        except ValueError as error:
            where = "--rpc" if self.rpc else "payments_rpc"
            raise CommandError(EXIT_USAGE, f"{where}: {error}") from None


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
    addresses: Mapping[str, tuple[str, ...]],
    record: PaymentRecord,
    what: Callable[[ChainProver], Coroutine[object, object, PaymentRecord]],
) -> PaymentRecord:
    """Ask a payment's chain, and return the payment afterwards.

    Raises:
        CommandError: nobody was named to ask, an endpoint could not say, or the payment is none
            that a chain knows.
    """
    from bursar.x402.endpoints import open_rpc
    from bursar.x402.prover import ChainProver, question_of
    from bursar.x402.rpc import RpcError

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
        prover = ChainProver(open_rpc({record.network: addresses[record.network]}))
        async with contextlib.aclosing(prover):
            return await what(prover)

    try:
        return asyncio.run(run())
    except RpcError as error:
        raise CommandError(EXIT_UNREACHABLE, f"{error}; nothing was changed") from error


def login() -> str:
    """Return who is at this machine; empty where nobody can tell."""
    with contextlib.suppress(OSError, KeyError):  # no account has this number
        return getpass.getuser()
    return ""
