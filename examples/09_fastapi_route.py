"""A web service whose route is guarded: who is out of budget gets a 402 that says why.

Needs CYCLES_BASE_URL, CYCLES_API_KEY, CYCLES_TENANT and OPENAI_API_KEY, and a USD budget.
Install with: pip install 'bursar[openai,prices]' fastapi uvicorn
"""

import os
import sys
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from openai import AsyncOpenAI

from bursar import AsyncCyclesClient, CyclesConfig, CyclesProtocolError, StreamUsage, with_cycles
from bursar.integrations.genai_prices import cost_fn

NEEDED = ("CYCLES_BASE_URL", "CYCLES_API_KEY", "CYCLES_TENANT", "OPENAI_API_KEY")
if missing := [name for name in NEEDED if not os.environ.get(name)]:
    print("not set:", ", ".join(missing), "- see the top of this file", file=sys.stderr)
    sys.exit(2)
MODEL, TOKENS_MAX, STATUSES = "gpt-4o-mini", 200, {"BUDGET_EXCEEDED": 402, "LIMIT_EXCEEDED": 429}
client = AsyncCyclesClient(CyclesConfig.from_env())
openai = AsyncOpenAI()
price = cost_fn(MODEL)  # microcents, from a list of prices


async def call_model(prompt: str, user: str):
    messages = [{"role": "user", "content": prompt}]
    return await openai.chat.completions.create(
        model=MODEL, messages=messages, max_completion_tokens=TOKENS_MAX
    )


guarded = with_cycles(
    call_model,
    client=client,
    agent=lambda prompt, user: user,  # each user may have a budget of their own
    action_kind="llm.completion",
    action_name=MODEL,
    estimate=lambda prompt, user: price(StreamUsage(len(prompt.encode()) + 20, TOKENS_MAX)),
    actual=lambda reply: price(
        StreamUsage(reply.usage.prompt_tokens, reply.usage.completion_tokens)
    ),
)


@asynccontextmanager
async def lifespan(app: FastAPI):
    yield
    await client.aclose()  # waits until every known spend is accounted for


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(prompt: str, x_user: Annotated[str, Header()]) -> dict[str, str]:
    reply = await guarded(prompt, x_user)
    return {"answer": reply.choices[0].message.content}


@app.exception_handler(CyclesProtocolError)
async def refuse(request: Request, error: CyclesProtocolError) -> JSONResponse:
    why = {"error": error.code, **(error.details or {}).get("deny_detail", {})}
    wait = {"Retry-After": str(-(-error.retry_after_ms // 1000))} if error.retry_after_ms else {}
    return JSONResponse(why, STATUSES.get(error.code, 503), wait)


@app.get("/spent")
async def spent() -> dict[str, int]:
    found = client.typed.iter_balances(tenant=client.config.tenant)
    return {balance.scope: balance.spent.amount async for balance in found}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
