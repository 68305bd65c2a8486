"""A stream under a hard limit: usage is added up chunk by chunk and priced when it ends.

Needs CYCLES_BASE_URL, CYCLES_API_KEY, CYCLES_TENANT and OPENAI_API_KEY, and a USD budget.
Install with: pip install 'bursar[openai,prices]'
"""

import os
import sys

from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from bursar import Action, Amount, CyclesClient, CyclesConfig, StreamUsage, Unit
from bursar.integrations.genai_prices import cost_fn

NEEDED = ("CYCLES_BASE_URL", "CYCLES_API_KEY", "CYCLES_TENANT", "OPENAI_API_KEY")
if missing := [name for name in NEEDED if not os.environ.get(name)]:
    print("not set:", ", ".join(missing), "- see the top of this file", file=sys.stderr)
    sys.exit(2)
MODEL, TOKENS_MAX = "gpt-4o-mini", 500
PROMPT = "Tell me a story about a careful bookkeeper."
price = cost_fn(MODEL)  # microcents, from a list of prices


def count(chunk: ChatCompletionChunk, usage: StreamUsage) -> None:
    """Count a token for each piece; the provider's count, which comes last, replaces ours."""
    if chunk.usage:
        usage.tokens_input = chunk.usage.prompt_tokens
        usage.tokens_output = chunk.usage.completion_tokens
    elif chunk.choices and chunk.choices[0].delta.content:
        usage.add_output_tokens(1)


def main() -> None:
    most = StreamUsage(len(PROMPT.encode()) + 20, TOKENS_MAX)  # no token is shorter than a byte
    with (
        CyclesClient(CyclesConfig.from_env()) as client,
        client.stream_reservation(
            action=Action(kind="llm.completion", name=MODEL),
            estimate=Amount(unit=Unit.USD_MICROCENTS, amount=price(most)),
            cost_fn=price,
        ) as reservation,
    ):
        chunks = OpenAI().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": PROMPT}],
            max_completion_tokens=TOKENS_MAX,
            stream=True,
            stream_options={"include_usage": True},
        )
        reservation.usage.add_input_tokens(len(PROMPT) // 4)  # it is billed from here on
        for chunk in reservation.track(chunks, count):
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
    used = reservation.usage
    print(f"\n{used.tokens_input} tokens in, {used.tokens_output} out: ${price(used) / 1e8:.8f}")


if __name__ == "__main__":
    main()
