"""Models of real providers: `model("openai:gpt-4o")` is all that a program needs to say.

The rule that lives here: a provider's package is imported when a model of it is asked for,
and what is missing is named with the command that installs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bursar.agent.ports import Model

PROVIDERS = {
    "anthropic": ("anthropic_model", "AnthropicModel"),
    "openai": ("openai_model", "OpenAIModel"),
}


def model(spec: str, **options: Any) -> Model:
    """Return a model by provider and name, such as `openai:gpt-4o`.

    The provider's package reads the address and the key from its own environment variables
    (`OPENAI_API_KEY`, `OPENAI_BASE_URL`, `ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL`).

    Args:
        spec: `PROVIDER:NAME`, with a provider of `PROVIDERS` and the name of its API.
        options: fields of the request, sent with every call, such as `temperature=0`.

    Raises:
        ValueError: the provider is unknown, or there is no name.
        ModuleNotFoundError: the provider's package is not installed.
    """
    provider, _, name = spec.partition(":")
    if provider not in PROVIDERS or not name:
        known = " or ".join(f"{one}:NAME" for one in PROVIDERS)
        raise ValueError(f"model must be {known}, got {spec!r}")
    module, kind = PROVIDERS[provider]
    try:
        found = getattr(import_module(f"bursar.agent.models.{module}"), kind)
    except ModuleNotFoundError as missing:
        if missing.name != provider:
            raise
        raise ModuleNotFoundError(
            f"models of {provider} need its package; install it with: "
            f"pip install 'bursar[{provider}]'",
            name=provider,
        ) from None
    made: Model = found(name, **options)
    return made
