"""One model call under a hard limit: reserved before it, accounted for after it.

Needs CYCLES_BASE_URL, CYCLES_API_KEY, CYCLES_TENANT and OPENAI_API_KEY, and a USD budget.
Install with: pip install 'bursar[openai,prices]'
"""

import os
import sys

from openai import OpenAI
from openai.types.chat import ChatCompletion

from bursar import BudgetExceededError, CyclesClient, CyclesConfig, StreamUsage, cycles
from bursar.integrations.genai_prices import cost_fn

NEEDED = ("CYCLES_BASE_URL", "CYCLES_API_KEY", "CYCLES_TENANT", "OPENAI_API_KEY")
if missing := [name for name in NEEDED if not os.environ.get(name)]:
    print("not set:", ", ".join(missing), "- see the top of this file", file=sys.stderr)
    sys.exit(2)
MODEL, TOKENS_MAX = "gpt-4o-mini", 200
client = CyclesClient(CyclesConfig.from_env())
openai = OpenAI()
price = cost_fn(MODEL)  # microcents, from a list of prices


def at_most(prompt: str) -> int:
    """No token is shorter than a byte, and no answer longer than we allow."""
    return price(StreamUsage(len(prompt.encode()) + 20, TOKENS_MAX))


def really(reply: ChatCompletion) -> int:
    return price(StreamUsage(reply.usage.prompt_tokens, reply.usage.completion_tokens))


@cycles(at_most, actual=really, action_kind="llm.completion", action_name=MODEL, client=client)
def ask(prompt: str) -> ChatCompletion:
    messages = [{"role": "user", "content": prompt}]
    return openai.chat.completions.create(
        model=MODEL, messages=messages, max_completion_tokens=TOKENS_MAX
    )


def main() -> None:
    try:
        reply = ask("What is a ledger?")
    except BudgetExceededError as denied:
        raise SystemExit(f"denied: {denied.details['deny_detail']['suggested_fix']}") from denied
    print(reply.choices[0].message.content)
    for balance in client.typed.iter_balances(tenant=client.config.tenant):
        spent, allocated = balance.spent.amount / 1e8, balance.allocated.amount / 1e8
        print(f"{balance.scope} has spent ${spent:.8f} of ${allocated:.2f}")


if __name__ == "__main__":
    main()
