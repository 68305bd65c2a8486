"""A loop of tools that keeps within the caps of its reservations.

Needs CYCLES_BASE_URL, CYCLES_API_KEY, CYCLES_TENANT and ANTHROPIC_API_KEY, and a USD budget.
Install with: pip install 'bursar[anthropic,prices]'
"""

import os
import sys
import time

from anthropic import Anthropic
from anthropic.types import Message, MessageParam

from bursar import Caps, CyclesClient, CyclesConfig, StreamUsage, cycles, get_cycles_context
from bursar.integrations.genai_prices import cost_fn

NEEDED = ("CYCLES_BASE_URL", "CYCLES_API_KEY", "CYCLES_TENANT", "ANTHROPIC_API_KEY")
if missing := [name for name in NEEDED if not os.environ.get(name)]:
    print("not set:", ", ".join(missing), "- see the top of this file", file=sys.stderr)
    sys.exit(2)
MODEL, TOKENS_MAX, STEPS_MAX = "claude-haiku-4-5", 500, 10
QUERY = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = {
    "search": lambda text: f"42 pages about {text}",  # stand-ins for what tools do
    "shell": lambda text: f"ran {text}",
}
client = CyclesClient(CyclesConfig.from_env())
anthropic = Anthropic()
price = cost_fn(MODEL)  # microcents, from a list of prices


def really(answer: tuple[Message, Caps]) -> int:
    used = answer[0].usage
    return price(StreamUsage(used.input_tokens, used.output_tokens))


@cycles(price(StreamUsage(5_000, TOKENS_MAX)), actual=really, action_name=MODEL, client=client)
def think(messages: list[MessageParam]) -> tuple[Message, Caps]:
    """Ask the model, with the tokens and the tools that this step is allowed."""
    caps = get_cycles_context().caps or Caps()
    allowed = [
        {"name": name, "input_schema": QUERY} for name in TOOLS if caps.is_tool_allowed(name)
    ]
    limit = TOKENS_MAX if caps.max_tokens is None else min(TOKENS_MAX, caps.max_tokens)
    return anthropic.messages.create(
        model=MODEL, max_tokens=limit, tools=allowed, messages=messages
    ), caps


def use(name: str, arguments: dict[str, str], caps: Caps) -> dict[str, object]:
    """Use a tool, unless the model asks for one that it was not offered."""
    if name not in TOOLS or not caps.is_tool_allowed(name):
        return {"content": f"{name} is not allowed", "is_error": True}
    return {"content": TOOLS[name](**arguments)}


def main() -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "What is known about ledgers?"}]
    for _ in range(STEPS_MAX):
        reply, caps = think(messages)
        results = [
            {"type": "tool_result", "tool_use_id": one.id, **use(one.name, one.input, caps)}
            for one in reply.content
            if one.type == "tool_use"
        ]
        if not results or caps.max_steps_remaining == 0:
            break
        messages += [
            {"role": "assistant", "content": reply.content},
            {"role": "user", "content": results},
        ]
        time.sleep((caps.cooldown_ms or 0) / 1000)
    print("".join(one.text for one in reply.content if one.type == "text"))
    for balance in client.typed.iter_balances(tenant=client.config.tenant):
        print(f"{balance.scope} has spent ${balance.spent.amount / 1e8:.8f}")


if __name__ == "__main__":
    main()
