"""One exchange with a provider: how long it may take, and what its failures mean.

The rule that lives here: a provider's package never retries by itself. A call that was
answered twice is billed twice, and was reserved for once; whoever wants a retry makes a new
call, with a reservation of its own. Every failure becomes a `ModelError` by this table:

| the package raised | failure | billed? |
|---|---|---|
| anything, when the call's own deadline is there | `deadline` | perhaps |
| its timeout, or `TimeoutError` | `provider_timeout` | perhaps; not if it never connected |
| its connection error | `provider_unreachable` | perhaps, as above |
| its connection error, once the answer had begun | `answer_broken` | perhaps |
| status 429 | `rate_limited` | no |
| status 408, 502, 504 | `provider_failed` | perhaps: somebody in between gave up |
| another status 5xx | `provider_failed` | no |
| another status | `provider_refused` | no |
| an error inside the stream, or what does not fit the dialect | `answer_broken` | perhaps |
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
)
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

import httpx2

from bursar.agent.ports import ModelError, ModelEvent, ModelFailure

MARGIN_S = 0.25
"""How long before the deadline an exchange ends, so that its answer is still accounted for."""
MARGIN_SHARE = 0.1
"""The most of the remaining time that the margin takes."""
NEAR_S = 0.05
CONNECT_S = 5.0
READ_S = 600.0
GATEWAY = frozenset({408, 502, 504})
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Closable(Protocol):
    """A client of a provider's package."""

    async def close(self) -> None:
        """Let go of its connections."""
        ...


class Answer(Protocol):
    """What has come of one answer."""

    def take(self, event: Any, /) -> list[ModelEvent]:
        """Return what an event of the provider's stream says that can be passed on at once."""
        ...

    def end(self, exchange: Exchange, /) -> list[ModelEvent]:
        """Return what is said when the stream is over."""
        ...


T = TypeVar("T")
C = TypeVar("C", bound=Closable)


class Clients(Generic[C]):
    """One client of a provider's package for each event loop: connections belong to a loop.

    Args:
        make: makes one.
        given: the caller's, for every loop; it is never closed here.
    """

    def __init__(self, make: Callable[[], C], given: C | None = None) -> None:
        self._make, self.given = make, given
        self._by_loop: weakref.WeakKeyDictionary[Any, C] = weakref.WeakKeyDictionary()

    def get(self) -> C:
        """Return the client of the running loop."""
        if self.given is not None:
            return self.given
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            found = self._by_loop[loop] = self._make()
        return found

    async def aclose(self) -> None:
        """Close the running loop's client, if there is one, and forget it."""
        found = self._by_loop.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.close()


@dataclass(slots=True)
class Exchange:
    """One call of a provider.

    Attributes:
        sdk: the provider's package; both of them name their exceptions alike.
        ends: the instant at which the adapter gives up (monotonic seconds), or None.
        began: whether the answer began.
    """

    sdk: ModuleType
    ends: float | None
    began: bool = False

    @classmethod
    def by(cls, sdk: ModuleType, deadline: float | None) -> Exchange:
        """Return an exchange that ends a margin before `deadline`.

        Raises:
            ModelError: nothing is left of it.
        """
        if deadline is None:
            return cls(sdk, None)
        left = deadline - time.monotonic()
        if left <= 0:
            raise ModelError(
                "the deadline had passed before the model was asked",
                ModelFailure.DEADLINE,
                maybe_billed=False,
            )
        return cls(sdk, deadline - min(MARGIN_S, left * MARGIN_SHARE))

    @property
    def timeout(self) -> httpx2.Timeout:
        """What the HTTP client may wait for one read; the whole is bounded by `within`."""
        left = READ_S if self.ends is None else max(0.001, self.ends - time.monotonic())
        return httpx2.Timeout(min(READ_S, left), connect=min(CONNECT_S, left))

    async def within(self, awaited: Awaitable[T]) -> T:
        """Wait for one step of the exchange, until it ends."""
        if self.ends is None:
            return await awaited
        async with asyncio.timeout(self.ends - time.monotonic()):
            return await awaited

    async def next(self, stream: AsyncIterator[Any]) -> Any:
        """Return a stream's next event, or None; only the provider is on this clock."""
        try:
            with self.reading():
                event = await self.within(anext(stream))
        except StopAsyncIteration:
            return None
        self.began = True
        return event

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what does not fit the dialect, such as a null for a list, into a `ModelError`."""
        try:
            yield
        except (TypeError, AttributeError, LookupError) as wrong:
            raise self.broken(
                f"{self.sdk.__name__}: the answer cannot be read: {wrong!r}"
            ) from wrong

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Turn what the provider's package raises into a `ModelError`."""
        try:
            yield
        except (self.sdk.APIError, httpx2.HTTPError, TimeoutError, ValueError) as error:
            raise self._failed(error) from error

    def broken(self, why: str) -> ModelError:
        """Return the failure of an answer that has no proper end."""
        return ModelError(why, ModelFailure.ANSWER_BROKEN, maybe_billed=True)

    def _failed(self, error: Exception) -> ModelError:
        sdk, text = self.sdk, f"{self.sdk.__name__}: {str(error) or type(error).__name__}"
        sent = not isinstance(error.__cause__, NEVER_SENT)
        if isinstance(error, sdk.APIStatusError):
            return _of_status(text, error)
        if self.ends is not None and time.monotonic() >= self.ends - NEAR_S:
            return ModelError(
                "the deadline came before the answer", ModelFailure.DEADLINE, maybe_billed=sent
            )
        if isinstance(error, (sdk.APITimeoutError, TimeoutError, httpx2.TimeoutException)):
            return ModelError(text, ModelFailure.PROVIDER_TIMEOUT, maybe_billed=sent)
        if isinstance(error, sdk.APIConnectionError) and not self.began:
            return ModelError(text, ModelFailure.PROVIDER_UNREACHABLE, maybe_billed=sent)
        return ModelError(text, ModelFailure.ANSWER_BROKEN, maybe_billed=True)


async def answered(
    sdk: ModuleType,
    deadline: float | None,
    ask: Callable[[Exchange], Awaitable[Any]],
    answer: Answer,
) -> AsyncGenerator[ModelEvent, None]:
    """Ask for a stream, and yield what comes of it; the stream is closed in any case.

    Args:
        sdk: the provider's package.
        deadline: after which nobody listens (monotonic seconds), or None.
        ask: asks for the stream.
        answer: reads it.

    Raises:
        ModelError: there is no answer, or no whole one.
    """
    exchange = Exchange.by(sdk, deadline)
    with exchange.failures():
        stream = await exchange.within(ask(exchange))
        try:
            while (found := await exchange.next(stream)) is not None:
                with exchange.reading():
                    events = answer.take(found)
                for event in events:
                    yield event
        finally:
            await stream.close()
    with exchange.reading():
        events = answer.end(exchange)
    for event in events:
        yield event


def text(value: object) -> str:
    """Return a text of an answer.

    Raises:
        TypeError: it is none; see `Exchange.reading`.
    """
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return value


def _of_status(text: str, error: Any) -> ModelError:
    status: int = error.status_code
    if status == 429:
        failure = ModelFailure.RATE_LIMITED
    elif status == 408 or status >= 500:
        failure = ModelFailure.PROVIDER_FAILED
    elif status < 400:  # an error that came inside a stream, under the status of the stream
        return ModelError(text, ModelFailure.ANSWER_BROKEN, maybe_billed=True, status=status)
    else:
        failure = ModelFailure.PROVIDER_REFUSED
    return ModelError(
        text,
        failure,
        maybe_billed=status in GATEWAY,
        status=status,
        retry_after_ms=_retry_after_ms(error.response.headers.get("retry-after")),
    )


def _retry_after_ms(value: str | None) -> int | None:
    return int(value) * 1_000 if value and value.isascii() and value.isdigit() else None
