"""The client that guards use when they are given none.

The rule that lives here: a synchronous function gets a synchronous client and an
asynchronous one an asynchronous client; each kind has its own default, so that one never
stands in for the other. A client made from the default configuration is made once.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.client.aio import AsyncCyclesClient
    from bursar.client.config import CyclesConfig
    from bursar.client.sync import CyclesClient

    AnyClient = CyclesClient | AsyncCyclesClient

NO_CLIENT = (
    "No Cycles client available. Either pass client=, call set_default_client(), or call "
    "set_default_config()."
)
WRONG_KIND = {
    False: "Sync function requires a CyclesClient",
    True: "Async function requires an AsyncCyclesClient",
}
_lock = threading.Lock()
_clients: dict[bool, Any] = {}
_config: CyclesConfig | None = None


def set_default_client(client: AnyClient) -> None:
    """Make `client` the one that guards without a client use, for functions of its kind."""
    with _lock:
        _clients[_is_async(client)] = client


def set_default_config(config: CyclesConfig) -> None:
    """Let guards without a client make one from `config`; a client that is set stays."""
    global _config
    with _lock:
        _config = config


def client_for(client: AnyClient | None, *, asynchronous: bool) -> Any:
    """Return the client of a guarded function.

    Raises:
        TypeError: it is of the other kind.
        ValueError: there is none.
    """
    if client is not None:
        if _is_async(client) is not asynchronous:
            raise TypeError(f"{WRONG_KIND[asynchronous]}, got {type(client).__name__}")
        return client
    with _lock:
        if asynchronous not in _clients:
            if _config is None:
                if _clients:
                    raise TypeError(WRONG_KIND[asynchronous])
                raise ValueError(NO_CLIENT)
            _clients[asynchronous] = _make(_config, asynchronous)
        return _clients[asynchronous]


def _make(config: CyclesConfig, asynchronous: bool) -> AnyClient:
    if asynchronous:
        from bursar.client.aio import AsyncCyclesClient

        return AsyncCyclesClient(config)
    from bursar.client.sync import CyclesClient

    return CyclesClient(config)


def _is_async(client: Any) -> bool:
    return hasattr(client, "aclose")
