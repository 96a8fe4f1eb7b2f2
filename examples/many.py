"""Send many requests at a time, and wait when the service is full: many.py [ADDRESS] [REQUESTS].

Needs `pip install openai`. A full service answers 429 with a Retry-After that it measured; OpenAI's client waits that
long by itself.
"""

import asyncio
import sys
import time

from openai import AsyncOpenAI


async def main(address: str, requests: int) -> None:
    """Ask `requests` sums and print how fast the answers came."""
    client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=10)
    model = (await client.models.list()).data[0].id

    async def ask(number: int) -> int:
        answer = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"What is {number} plus {number}?"}],
            max_tokens=32,
        )
        return answer.usage.completion_tokens if answer.usage else 0

    started = time.monotonic()
    tokens = await asyncio.gather(*(ask(number) for number in range(requests)))
    seconds = time.monotonic() - started
    print(f"{requests} answers, {sum(tokens)} tokens, {sum(tokens) / seconds:.0f} tokens/s")


asyncio.run(
    main(
        sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000",
        int(sys.argv[2]) if len(sys.argv) > 2 else 100,
    )
)
