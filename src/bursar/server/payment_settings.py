"""The settings about payments, and what is wrong with them.

The rule that lives here: they are refused before anything is opened, and no message shows an
address, a key or a secret.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from bursar.server.setting import Setting, SettingError

if TYPE_CHECKING:
    from bursar.server.settings import Settings
    from bursar.x402.facilitators import Facilitator

FINALITY: Final = "finalized"
SECRET_BYTES_MAX: Final = 65_536
PAYMENT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "payments_rpc",
        "BURSAR_PAYMENTS_RPC",
        str,
        "",
        "Whom the server asks what became of payments: NETWORK=URL with blanks between, such as "
        "`eip155:8453=https://rpc.example`; twice for a network gives two witnesses. Without it "
        "the server looks at no payments.",
    ),
    Setting(
        "payments_facilitators",
        "BURSAR_PAYMENTS_FACILITATORS",
        str,
        "",
        "Facilitators that are asked where to look, never to pay: NAME=URL or NAME:DIALECT=URL "
        "with blanks between; NAME is the one in the records.",
    ),
    Setting(
        "payments_facilitator_headers",
        "BURSAR_PAYMENTS_FACILITATOR_HEADERS",
        str,
        "",
        "What requests to facilitators carry, such as a bearer token, as JSON: "
        '`{"NAME": {"Authorization": "Bearer ..."}}`.',
    ),
    Setting(
        "payments_facilitator_headers_file",
        "BURSAR_PAYMENTS_FACILITATOR_HEADERS_FILE",
        str,
        "",
        "File that holds that JSON, instead of the variable; it is read again when it changes.",
    ),
    Setting(
        "payments_finality",
        "BURSAR_PAYMENTS_FINALITY",
        str,
        FINALITY,
        "Which block counts as final: `finalized`, `safe`, or how many blocks must follow; "
        "NETWORK=WORD says so for one chain, with blanks between.",
    ),
    Setting(
        "payments_webhook",
        "BURSAR_PAYMENTS_WEBHOOK",
        str,
        "",
        "Where alerts about payments are posted, signed: an http or https address. Without it they "
        "are log lines, and wait in the outbox.",
    ),
    Setting(
        "payments_webhook_secret",
        "BURSAR_PAYMENTS_WEBHOOK_SECRET",
        str,
        "",
        "What alerts are signed with, at least 16 characters; the receiver has it too.",
    ),
    Setting(
        "payments_webhook_secret_file",
        "BURSAR_PAYMENTS_WEBHOOK_SECRET_FILE",
        str,
        "",
        "File that holds that secret, instead of the variable.",
    ),
)


def check_payments(settings: Settings) -> None:
    """Refuse settings about payments that cannot be used."""
    _check_asked(settings)
    if settings.payments_webhook:
        from bursar.payments.webhook import WebhookError, name_of

        try:
            name_of(settings.payments_webhook)
        except WebhookError as error:
            raise SettingError(f"payments_webhook: {error}") from None
    webhook_secret(settings)


def _check_asked(settings: Settings) -> None:
    finality = settings.payments_finality != FINALITY
    headers = "payments_facilitator_headers"
    if not (settings.payments_rpc or settings.payments_facilitators or finality):
        if _one_of(settings, headers) is not None:
            raise SettingError(f"{headers}: they are for facilitators; set payments_facilitators")
        return
    if not settings.payments_rpc:
        if finality:
            raise SettingError("payments_finality: it says how chains are read; set payments_rpc")
        raise SettingError(
            "payments_facilitators: a facilitator only knows where to look; set payments_rpc too"
        )
    # Most servers look at no payments, and do not need these.
    from bursar.x402 import endpoints
    from bursar.x402.finality import check_networks, read_finality

    def of_asked(words: list[str]) -> None:
        check_networks(read_finality(words), endpoints.read_rpc(settings.payments_rpc.split()))

    for name, read in (
        ("payments_rpc", endpoints.read_rpc),
        ("payments_facilitators", endpoints.read_facilitators),
        ("payments_finality", of_asked),
    ):
        try:
            read(getattr(settings, name).split())
        except ValueError as error:
            raise SettingError(f"{name}: {error}") from None
    _check_headers(settings)


def _check_headers(settings: Settings) -> None:
    from bursar.x402 import endpoints
    from bursar.x402.credentials import read_headers

    if (given := _one_of(settings, "payments_facilitator_headers")) is None:
        return
    try:
        read_headers(given[1], endpoints.read_facilitators(settings.payments_facilitators.split()))
    except ValueError as error:
        raise SettingError(f"{given[0]}: {error}") from None


def open_facilitators(settings: Settings) -> dict[str, Facilitator]:
    """Return a client for each facilitator, with its headers.

    Raises:
        SettingError: the headers cannot be read or used.
    """
    from bursar.x402 import endpoints
    from bursar.x402.credentials import HeaderFile, read_headers

    name, named = "payments_facilitator_headers", settings.payments_facilitators.split()
    facilitators = endpoints.read_facilitators(named)
    given = _one_of(settings, name)
    if given is None:
        return endpoints.open_facilitators(facilitators)
    try:
        if given[0] != name:
            path = Path(settings.payments_facilitator_headers_file)
            file = HeaderFile(path, facilitators)
            return endpoints.open_facilitators(facilitators, header_file=file)
        headers = read_headers(given[1], facilitators)
        return endpoints.open_facilitators(facilitators, headers=headers)
    except ValueError as error:
        raise SettingError(f"{given[0]}: {error}") from None


def webhook_secret(settings: Settings) -> str:
    """Return what alerts are signed with; empty where none are posted.

    Raises:
        SettingError: there is none, it cannot be read or used, or nobody is told by it.
    """
    given = _one_of(settings, "payments_webhook_secret")
    if given is None:
        if settings.payments_webhook:
            raise SettingError(
                "payments_webhook: alerts are signed; set payments_webhook_secret or "
                "payments_webhook_secret_file, for example to the output of: openssl rand -hex 32"
            )
        return ""
    if not settings.payments_webhook:
        raise SettingError("payments_webhook_secret: it signs alerts; set payments_webhook too")
    from bursar.payments.webhook import WebhookError, check_secret

    name, secret = given
    try:
        check_secret(secret)
    except WebhookError as error:
        raise SettingError(f"{name}: {error}") from None
    return secret


def _one_of(settings: Settings, name: str) -> tuple[str, str] | None:
    """Return a secret from its setting or from its file, and which of them it was."""
    value, named = getattr(settings, name), getattr(settings, f"{name}_file")
    if value and named:
        raise SettingError(f"{name} and {name}_file say the same thing; keep one of them")
    if value:
        return name, value
    if not named:
        return None
    try:
        with Path(named).open("rb") as file:
            text = file.read(SECRET_BYTES_MAX + 1).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise SettingError(f"{name}_file: {named} cannot be read: {why}") from None
    if not text or len(text) > SECRET_BYTES_MAX:
        raise SettingError(f"{name}_file: {named} is empty, or above {SECRET_BYTES_MAX} bytes")
    return f"{name}_file", text
