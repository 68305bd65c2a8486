"""Clients whose ledger is a file in this process, and the budgets in it.

The rule that lives here: a program that embeds its ledger is its own operator, so its client
can also create what it spends from. Everything else is the client as everybody knows it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import quote

from bursar.client.aio import AsyncCyclesClient
from bursar.client.config import CyclesConfig
from bursar.client.embedded import MEMORY, AsyncEmbeddedLedger, EmbeddedLedger
from bursar.client.provisioning import BudgetFields
from bursar.client.sync import CyclesClient

if TYPE_CHECKING:
    from bursar.vocabulary import Unit

PENDING = ".pending"
"""Beside the file: settlements that were journaled and not yet confirmed."""


class EmbeddedClient(CyclesClient):
    """A `CyclesClient` on a ledger file of this process."""

    def __init__(self, path: str | Path, tenant: str, config: dict[str, Any]) -> None:
        """Open or create the file; use `CyclesClient.embedded`."""
        made = embedded_config(path, tenant, config)  # before anything is opened
        self._ledger = EmbeddedLedger(path, tenant)
        super().__init__(made, transport=self._ledger)

    def create_budget(
        self,
        allocated: str | int,
        *,
        scope: str | None = None,
        unit: Unit | str | None = None,
        exist_ok: bool = False,
        **more: Unpack[BudgetFields],
    ) -> dict[str, Any]:
        """Create a budget and return it.

        Args:
            allocated: how much, as people write it (`20USD`, `1.5M tokens`), or an int64 of
                `unit`.
            scope: the path it limits, such as `tenant:acme/agent:bot`; None is the tenant.
            unit: the unit of an int; None is USD_MICROCENTS.
            exist_ok: whether a budget that is there already is returned as it is.
            more: what else a budget can have, by the server's names: `period`,
                `period_start`, `period_end`, `rollover_policy`, `overdraft_limit`,
                `commit_overage_policy`, `metadata`.

        Raises:
            AmountError: the amount cannot be understood.
            TypeError: a further field is unknown.
            CyclesProtocolError: it exists already (DUPLICATE_RESOURCE), or was refused.
        """
        ledger = self._ledger
        return ledger.create_budget(allocated, scope=scope, unit=unit, exist_ok=exist_ok, **more)

    def credit_budget(
        self, amount: str | int, *, scope: str | None = None, unit: Unit | str | None = None
    ) -> dict[str, Any]:
        """Add to a budget and return what it had and has.

        Args:
            amount: how much, as for `create_budget`.
            scope: the path that the budget limits; None is the whole tenant.
            unit: the unit of an int; None is USD_MICROCENTS.

        Raises:
            AmountError: the amount cannot be understood.
            CyclesProtocolError: there is no such budget, or it was refused.
        """
        return self._ledger.credit_budget(amount, scope=scope, unit=unit)


class AsyncEmbeddedClient(AsyncCyclesClient):
    """An `AsyncCyclesClient` on a ledger file of this process."""

    def __init__(self, path: str | Path, tenant: str, config: dict[str, Any]) -> None:
        """Open or create the file; use `AsyncCyclesClient.embedded`."""
        made = embedded_config(path, tenant, config)  # before anything is opened
        self._ledger = EmbeddedLedger(path, tenant)
        super().__init__(made, transport=AsyncEmbeddedLedger(self._ledger))

    async def create_budget(
        self,
        allocated: str | int,
        *,
        scope: str | None = None,
        unit: Unit | str | None = None,
        exist_ok: bool = False,
        **more: Unpack[BudgetFields],
    ) -> dict[str, Any]:
        """Create a budget and return it.

        Args:
            allocated: how much, as people write it (`20USD`, `1.5M tokens`), or an int64 of
                `unit`.
            scope: the path it limits, such as `tenant:acme/agent:bot`; None is the tenant.
            unit: the unit of an int; None is USD_MICROCENTS.
            exist_ok: whether a budget that is there already is returned as it is.
            more: what else a budget can have, by the server's names: `period`,
                `period_start`, `period_end`, `rollover_policy`, `overdraft_limit`,
                `commit_overage_policy`, `metadata`.

        Raises:
            AmountError: the amount cannot be understood.
            TypeError: a further field is unknown.
            CyclesProtocolError: it exists already (DUPLICATE_RESOURCE), or was refused.
        """
        create = self._ledger.create_budget
        return await asyncio.to_thread(
            create, allocated, scope=scope, unit=unit, exist_ok=exist_ok, **more
        )

    async def credit_budget(
        self, amount: str | int, *, scope: str | None = None, unit: Unit | str | None = None
    ) -> dict[str, Any]:
        """Add to a budget and return what it had and has.

        Args:
            amount: how much, as for `create_budget`.
            scope: the path that the budget limits; None is the whole tenant.
            unit: the unit of an int; None is USD_MICROCENTS.

        Raises:
            AmountError: the amount cannot be understood.
            CyclesProtocolError: there is no such budget, or it was refused.
        """
        credit = self._ledger.credit_budget
        return await asyncio.to_thread(credit, amount, scope=scope, unit=unit)


def embedded_config(path: str | Path, tenant: str, more: dict[str, Any]) -> CyclesConfig:
    """Return the configuration of an embedded client; `more` are fields of `CyclesConfig`.

    Raises:
        ValueError: a field is out of its range, or no file can have that path.
        TypeError: a field is unknown.
    """
    memory = str(path) == MEMORY
    place = "memory" if memory else Path(path).absolute().as_posix()
    fields: dict[str, Any] = {
        "base_url": f"embedded://{_quoted(place)}",
        "api_key": "embedded",
        "tenant": tenant,
        "journal_enabled": not memory,
        "journal_dir": None if memory else f"{place}{PENDING}",
    }
    return CyclesConfig(**{**fields, **more})


def _quoted(place: str) -> str:
    """Return a path as part of an address: what an address cannot have is quoted, as little.

    People read it in logs, so a letter stays a letter in every language.
    """
    try:
        os.fsencode(place)
    except UnicodeEncodeError as wrong:
        raise ValueError(f"path {place!r} cannot be a file's name: {wrong.reason}") from wrong
    if "\0" in place:
        raise ValueError(f"path {place!r} cannot be a file's name: it has a NUL; name another file")
    return "".join(
        quote(os.fsencode(one)) if one in "%#?" or one.isspace() or not one.isprintable() else one
        for one in place
    )
