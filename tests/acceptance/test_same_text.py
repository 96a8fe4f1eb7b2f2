"""A request's text depends on nothing but the request: not on its company, its rank, or being preempted."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from support.service import Service

TOKENS = 96
SAMPLED = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "presence_penalty": 0.3, "seed": 7}


def request(number: int, **sampling: Any) -> dict[str, Any]:
    prompt = [(number * 31 + position * 7) % 250 for position in range(90 + number)]
    return {"prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": True, **sampling}


async def answers(service: Service, requests: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    """Send all at once; the tokens of each (half of the random model's are no text)."""
    async with httpx.AsyncClient(base_url=service.address, timeout=120) as client:
        responses = await asyncio.gather(*(client.post("/v1/completions", json=body) for body in requests))
        for response in responses:
            assert response.status_code == 200, response.text
        return [tuple(response.json()["choices"][0]["token_ids"]) for response in responses]


def preemptions(service: Service) -> float:
    found = re.findall(r"^vllm:num_preemptions_total\{.*?\} (\S+)$", httpx.get(f"{service.address}/metrics").text, re.M)
    return sum(map(float, found))


def test_text_is_the_same_alone_in_a_full_batch_after_preemption_and_on_another_rank(
    start_service: Callable[..., Service], checkpoint_folder: Path
) -> None:
    flags = (str(checkpoint_folder), "--load-format", "dummy", "--max-model-len", "256", "--cpu-threads", "1")
    roomy = start_service(*flags)
    cramped = start_service(*flags, "-dp", "2", "--kv-cache-tokens", "512", "--max-num-batched-tokens", "64")
    roomy.wait_ready()
    cramped.wait_ready()

    async def scene() -> None:
        requests = [request(n, **({"temperature": 0} if n % 2 else SAMPLED | {"seed": n})) for n in range(12)]
        alone = [(await answers(roomy, [body]))[0] for body in requests]
        assert all(len(tokens) == TOKENS for tokens in alone)
        assert len(set(alone[::2])) == len(alone[::2])
        assert await answers(roomy, requests) == alone
        # With one API server and no other work, two equal requests at once go to the two ranks.
        pair = await answers(cramped, [requests[0], requests[0]])
        assert pair == [alone[0], alone[0]]
        assert await answers(cramped, requests * 2) == alone * 2
        assert preemptions(cramped) > 0

    asyncio.run(scene())


def test_another_seed_gives_another_text_and_no_seed_a_new_one_each_time(
    start_service: Callable[..., Service], checkpoint_folder: Path
) -> None:
    service = start_service(str(checkpoint_folder), "--load-format", "dummy").wait_ready()
    bodies = [request(0, temperature=1.0, **extra) for extra in ({"seed": 1}, {"seed": 2}, {}, {})]
    found = asyncio.run(answers(service, bodies))
    assert len(set(found)) == 4
