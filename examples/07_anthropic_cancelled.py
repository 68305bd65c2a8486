"""A stream that is cancelled in the middle: what it used until then is committed.

Needs CYCLES_BASE_URL, CYCLES_API_KEY, CYCLES_TENANT and ANTHROPIC_API_KEY, and a USD budget.
Install with: pip install 'bursar[anthropic,prices]'
"""

import asyncio
import os
import sys

from anthropic import AsyncAnthropic
from anthropic.types import RawMessageStreamEvent

from bursar import Action, Amount, AsyncCyclesClient, CyclesConfig, StreamUsage, Unit
from bursar.integrations.genai_prices import cost_fn

NEEDED = ("CYCLES_BASE_URL", "CYCLES_API_KEY", "CYCLES_TENANT", "ANTHROPIC_API_KEY")
if missing := [name for name in NEEDED if not os.environ.get(name)]:
    print("not set:", ", ".join(missing), "- see the top of this file", file=sys.stderr)
    sys.exit(2)
MODEL, TOKENS_MAX = "claude-haiku-4-5", 1_000
PROMPT = "Tell me a story without an end."
PATIENCE_S = 2.0
price = cost_fn(MODEL)  # microcents, from a list of prices


def count(event: RawMessageStreamEvent, usage: StreamUsage) -> None:
    """Count a token for each piece; the provider's own counts come first and last."""
    if event.type == "message_start":
        usage.tokens_input = event.message.usage.input_tokens
    elif event.type == "content_block_delta":
        usage.add_output_tokens(1)
    elif event.type == "message_delta":
        usage.tokens_output = event.usage.output_tokens


async def main() -> None:
    most = StreamUsage(len(PROMPT.encode()) + 20, TOKENS_MAX)  # no token is shorter than a byte
    async with AsyncCyclesClient(CyclesConfig.from_env()) as client:
        reservation = client.stream_reservation(
            action=Action(kind="llm.completion", name=MODEL),
            estimate=Amount(unit=Unit.USD_MICROCENTS, amount=price(most)),
            cost_fn=price,
        )
        try:
            async with asyncio.timeout(PATIENCE_S), reservation:
                events = await AsyncAnthropic().messages.create(
                    model=MODEL,
                    max_tokens=TOKENS_MAX,
                    messages=[{"role": "user", "content": PROMPT}],
                    stream=True,
                )
                async for event in reservation.track(events, count):
                    if event.type == "content_block_delta":
                        print(event.delta.text, end="", flush=True)
        except TimeoutError:
            print("\ncancelled after", PATIENCE_S, "seconds")
    used = reservation.usage
    print(f"{used.tokens_input} tokens in, {used.tokens_output} out: ${price(used) / 1e8:.8f}")


if __name__ == "__main__":
    asyncio.run(main())
